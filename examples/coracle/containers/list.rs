//! `ps`: which containers there are, and what they do.

use std::cmp::Reverse;

use coracle::Engine;
use coracle::container::{HealthStatus, MountSource, Phase, Status};

use super::ended;
use super::filter::{self, Seen};
use crate::failure::{Failure, Result};
use crate::filter::Condition;
use crate::format::{Row, View};
use crate::human;
use crate::output::Output;
use crate::retired::{Retired, retired};
use crate::root::Root;
use crate::template;

/// List containers: those that run
#[derive(clap::Args)]
#[command(after_help = format!(
    "{}\n\n{}\n  The fields: .ID .Image .Command .CreatedAt .RunningFor .Ports .State .Status .Names .Labels .Mounts .Networks .Size\n\n\
     Example:\n  coracle ps -a --filter status=exited --format '{{{{.Names}}}}: {{{{.Status}}}}'",
    filter::HELP, template::HELP
))]
pub struct Args {
    /// Those that do not run, too
    #[arg(short, long)]
    all: bool,
    /// Only containers that meet this condition, see below
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = Condition::parse)]
    filter: Vec<Condition>,
    /// How to print it, see below
    #[arg(long)]
    format: Option<String>,
    /// The so many newest, running or not
    #[arg(short = 'n', long, value_name = "NUMBER", allow_hyphen_values = true)]
    last: Option<i64>,
    /// The newest, running or not
    #[arg(short, long)]
    latest: bool,
    /// Print ids and commands in full
    #[arg(long)]
    no_trunc: bool,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Print how much each has written, and with its image
    #[arg(short, long)]
    size: bool,
    #[arg(long, alias = "since", hide = true, value_parser = retired("say --filter since=CONTAINER"))]
    since_id: Option<Retired>,
    #[arg(long, alias = "before", hide = true, value_parser = retired("say --filter before=CONTAINER"))]
    before_id: Option<Retired>,
}

const VIEW: View = View {
    fields: &[
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("CreatedAt", "CREATED AT"),
        ("RunningFor", "CREATED"),
        ("Ports", "PORTS"),
        ("State", "STATE"),
        ("Status", "STATUS"),
        ("Names", "NAMES"),
        ("Labels", "LABELS"),
        ("Mounts", "MOUNTS"),
        ("Networks", "NETWORKS"),
        ("Size", "SIZE"),
    ],
    default: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}",
};

const WITH_SIZES: View = View {
    default: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}\t{{.Size}}",
    ..VIEW
};

impl Args {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        let engine = root.engine()?;
        let (mut seen, damaged) = all(&engine)?;
        filter::apply(&engine, &self.filter, &mut seen)?;
        let last =
            if self.latest { Some(1) } else { self.last.and_then(|n| usize::try_from(n).ok()) };
        match last {
            Some(last) => seen.truncate(last),
            // Who asks for a state means all that are in it.
            None if self.filter.iter().any(|it| it.is("status") || it.is("exited")) => {}
            None => seen.retain(|it| {
                let phase = it.status.phase;
                self.all || phase.is_alive() || phase == Phase::Restarting
            }),
        }
        let format = if self.quiet { Some("{{.ID}}") } else { self.format.as_deref() };
        // To measure takes a while.
        let sizes = !self.quiet && (self.size || format.is_some_and(|it| it.contains(".Size")));
        let row = |it| Ok(row(it, self.no_trunc, if sizes { size(it)? } else { String::new() }));
        let rows = seen.iter().map(row).collect::<Result<_>>()?;
        let view = if self.size { WITH_SIZES } else { VIEW };
        view.print(format, rows, out)?;
        if damaged.is_empty() {
            return Ok(());
        }
        out.flush()?;
        damaged.into_iter().for_each(|err| Failure::from(err).print());
        Err(Failure::new("the list is not complete"))
    }
}

/// All containers, the newest first, and why some could not be looked at.
pub fn all(engine: &Engine) -> Result<(Vec<Seen>, Vec<coracle::Error>)> {
    let (mut seen, mut damaged) = (Vec::new(), Vec::new());
    for container in engine.containers()? {
        match Seen::of(container) {
            Ok(one) => seen.push(one),
            // Removed meanwhile.
            Err(err) if err.kind() == coracle::ErrorKind::NotFound => {}
            Err(err) => damaged.push(err),
        }
    }
    seen.sort_by_key(|it| Reverse(it.status.created));
    Ok((seen, damaged))
}

/// `12B (virtual 117MB)`.
fn size(it: &Seen) -> Result<String> {
    let size = match it.container.size() {
        // Removed meanwhile.
        Err(err) if err.kind() == coracle::ErrorKind::NotFound => return Ok(String::new()),
        size => size?,
    };
    let all = size.written + size.image;
    Ok(format!("{} (virtual {})", human::size(size.written, 3), human::size(all, 3)))
}

fn row(it: &Seen, whole: bool, size: String) -> Row {
    let id = it.container.id();
    let labels = it.config.labels.iter().map(|(name, value)| format!("{name}={value}"));
    let mounts = it.config.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Bind { path } => Some(path.display().to_string()),
        MountSource::Volume { name, .. } => {
            Some(if whole { name.clone() } else { shortened(name, 15) })
        }
        _ => None,
    });
    vec![
        if whole { id.as_str() } else { id.short() }.to_owned(),
        it.config.image.clone(),
        command(&it.container.command_line().unwrap_or_default(), whole),
        human::time(Some(it.status.created)),
        human::since(Some(it.status.created)),
        String::new(),
        phase(it.status.phase).to_owned(),
        says(&it.status),
        it.name.clone(),
        labels.collect::<Vec<_>>().join(","),
        mounts.collect::<Vec<_>>().join(","),
        if it.config.share.network { "host" } else { "none" }.to_owned(),
        size,
    ]
}

/// The command line in quotes, its beginning if not `whole`.
fn command(words: &[String], whole: bool) -> String {
    let quoted = words.iter().map(|word| match word.contains(' ') {
        true => format!("'{word}'"),
        false => word.clone(),
    });
    let line = quoted.collect::<Vec<_>>().join(" ");
    let line = if whole { line } else { shortened(&line, 20) };
    format!(
        "\"{}\"",
        line.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\t', "\\t")
    )
}

fn shortened(text: &str, most: usize) -> String {
    match text.chars().count() > most {
        true => text.chars().take(most - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

/// Docker's words for what it does.
pub fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Created => "created",
        Phase::Running => "running",
        Phase::Paused => "paused",
        Phase::Restarting => "restarting",
        Phase::Exited => "exited",
        Phase::Removing => "removing",
        _ => "unknown",
    }
}

/// What it does, and since when.
pub fn says(status: &Status) -> String {
    let up = || human::span(status.started.and_then(|it| it.elapsed().ok()).unwrap_or_default());
    let code = status.exit.as_ref().map_or(crate::failure::USAGE, ended);
    match status.phase {
        Phase::Running => match status.health.as_ref().map(|it| it.status) {
            None => format!("Up {}", up()),
            Some(HealthStatus::Starting) => format!("Up {} (health: starting)", up()),
            Some(health) => format!("Up {} ({health})", up()),
        },
        Phase::Paused => format!("Up {} (Paused)", up()),
        Phase::Restarting => format!("Restarting ({code}) {}", human::since(status.finished)),
        Phase::Exited => format!("Exited ({code}) {}", human::since(status.finished)),
        Phase::Removing => "Removal In Progress".to_owned(),
        _ => "Created".to_owned(),
    }
}
