//! `events`: what happens to containers, images and volumes.

use coracle::ErrorKind;
use coracle::container::events::{Event, EventKind, Events};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::failure::{Failure, Result};
use crate::filter::{Condition, moment};
use crate::human;
use crate::output::{Output, note};
use crate::root::Root;
use crate::template::{self, Template};

/// Tell what happens to containers, images and volumes, as it happens, whoever does it
#[derive(clap::Args)]
#[command(after_help = format!("{HELP}\n\n{}\n  The fields: .Type .Action .Status .ID .From .Actor.ID .Actor.Attributes .Scope .Time .TimeNano\n\n\
     Examples:\n  coracle events --since 1h --until 0s --filter event=die\n  \
     coracle events --filter container=web --format '{{{{.Action}}}} {{{{.Actor.Attributes.name}}}}'", template::HELP))]
pub struct Args {
    /// Also what has happened since then, as far back as it is kept
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only what happens until then
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only what meets this condition, see below
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = Condition::parse)]
    filter: Vec<Condition>,
    /// How to print it, see below; `table` is not for events
    #[arg(long)]
    format: Option<String>,
}

const HELP: &str = "\
Times are 2026-01-31, 2026-01-31T12:00:00Z, seconds since 1970, or how long ago: 10m.

Filters (of one name any must be met, of several names all; labels all):
  container=NAME|ID  event=ACTION  image=IMAGE  label=KEY[=VALUE]  type=container|image|volume  volume=NAME";

impl Args {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        let form = Form::of(self.format.as_deref())?;
        let mut events = root.engine()?.events();
        let time = |text: &String| {
            moment(text).ok_or_else(|| Failure::new(format!("{text:?} is no time, see --help")))
        };
        if let Some(since) = &self.since {
            events = events.since(time(since)?);
        }
        if let Some(until) = &self.until {
            events = events.until(time(until)?);
        }
        for condition in &self.filter {
            events = add(events, condition)?;
        }
        for event in events.listen()? {
            match event {
                Ok(event) => out.line(&form.line(&event)?)?,
                Err(err) if err.kind() == ErrorKind::ResourceExhausted => {
                    out.flush()?;
                    note(&format!("Warning: {err}"));
                }
                Err(err) => return Err(err.into()),
            }
            out.flush()?;
        }
        Ok(())
    }
}

fn add(events: Events, condition: &Condition) -> Result<Events> {
    Ok(match condition.parts() {
        ("container", value) => events.container(value),
        ("event", value) => events.action(value),
        ("image", value) => events.image(value),
        ("volume", value) => events.volume(value),
        ("label", value) => match value.split_once('=') {
            Some((name, value)) => events.label(name, value),
            None => events.label(value, None),
        },
        ("type", "container") => events.kind(EventKind::Container),
        ("type", "image") => events.kind(EventKind::Image),
        ("type", "volume") => events.kind(EventKind::Volume),
        (name @ "type", value) => {
            return Err(Failure::new(format!("invalid filter '{name}={value}'")));
        }
        (name, _) => return Err(Failure::new(format!("invalid filter '{name}'"))),
    })
}

/// How an event is printed.
enum Form {
    Line,
    Json,
    Template(Template),
}

impl Form {
    fn of(format: Option<&str>) -> Result<Self> {
        Ok(match format.map(str::trim) {
            None | Some("") => Self::Line,
            Some("json" | "{{json .}}") => Self::Json,
            Some(template) => Self::Template(Template::parse(template).map_err(Failure::new)?),
        })
    }

    fn line(&self, event: &Event) -> Result<String> {
        match self {
            Self::Line => Ok(line(event)),
            Self::Json => Ok(json(event).to_string()),
            Self::Template(template) => template
                .render(&fields(event))
                .map_err(|why| Failure::new(format!("template: {why}"))),
        }
    }
}

/// As docker's, in the time of here.
fn line(event: &Event) -> String {
    let text = event.to_string();
    // The library writes it in the time of Greenwich.
    let rest = text.split_once(' ').map_or("", |(_, rest)| rest);
    format!("{} {rest}", human::rfc3339_nanos(event.time))
}

/// Seconds and nanoseconds since 1970.
fn times(event: &Event) -> (i64, i64) {
    let time = Timestamp::try_from(event.time).unwrap_or_default();
    (time.as_second(), i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX))
}

/// What docker's API says; containers and images have more.
fn json(event: &Event) -> Value {
    let (seconds, nanoseconds) = times(event);
    let mut told = json!({
        "Type": event.kind.to_string(),
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": event.attributes},
        "scope": "local",
        "time": seconds,
        "timeNano": nanoseconds,
    });
    let (status, id, from) = older(event);
    for (name, value) in [("status", status), ("id", id), ("from", from)] {
        if !value.is_empty() {
            told[name] = value.into();
        }
    }
    told
}

/// Status, id and image, from before events had actors: only containers and images have them.
fn older(event: &Event) -> (&str, &str, &str) {
    match event.kind {
        EventKind::Container => {
            let image = event.attributes.get("image");
            (&event.action, &event.id, image.map_or("", String::as_str))
        }
        EventKind::Image => (&event.action, &event.id, ""),
        _ => ("", "", ""),
    }
}

/// For templates.
fn fields(event: &Event) -> Value {
    let (seconds, nanoseconds) = times(event);
    let (status, id, from) = older(event);
    json!({
        "Type": event.kind.to_string(),
        "Action": event.action,
        "Status": status,
        "ID": id,
        "From": from,
        "Actor": {"ID": event.id, "Attributes": event.attributes},
        "Scope": "local",
        "Time": seconds,
        "TimeNano": nanoseconds,
    })
}
