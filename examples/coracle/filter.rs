//! Conditions on images, as `--filter` takes them.

use std::time::{Duration, SystemTime};

use coracle::image::{Filter, Store};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::failure::{Failure, Result};

pub const HELP: &str = "\
Filters (several of them must all be met):
  reference=PATTERN      a name like this: app, app:1.*, team/*
  dangling=true|false    without a name, or with one
  label=KEY[=VALUE]      with this label
  label!=KEY[=VALUE]     without it
  before=IMAGE           made before that image
  since=IMAGE            made after that image
  until=TIME             made before a time: 2026-01-31, 2026-01-31T12:00:00, or 24h ago";

/// One condition, for clap to read.
#[derive(Clone)]
pub struct Condition {
    name: String,
    value: String,
}

impl Condition {
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, value) =
            text.split_once('=').ok_or("bad format of filter (expected name=value)")?;
        let (name, value) = (name.trim().to_lowercase(), value.trim().to_owned());
        Ok(Self { name, value })
    }

    pub fn is(&self, name: &str) -> bool {
        self.name == name
    }

    pub fn parts(&self) -> (&str, &str) {
        (&self.name, &self.value)
    }

    /// The filter with this condition too.
    pub fn add_to(&self, filter: Filter, store: &Store) -> Result<Filter> {
        let Self { name, value } = self;
        Ok(match name.as_str() {
            "reference" => filter.reference(value),
            "dangling" => match value.as_str() {
                "true" | "1" => filter.dangling(true),
                "false" | "0" => filter.dangling(false),
                _ => return Err(self.invalid()),
            },
            "label" | "label!" => {
                let (label, value) = match value.split_once('=') {
                    Some((label, value)) => (label, Some(value)),
                    None => (value.as_str(), None),
                };
                match name.as_str() {
                    "label" => filter.label(label, value),
                    _ => filter.without_label(label, value),
                }
            }
            "before" => filter.created_before(made(store, value)?),
            "since" => filter.created_after(made(store, value)?),
            "until" => filter.created_before(moment(value).ok_or_else(|| self.invalid())?),
            _ => return Err(Failure::new(format!("invalid filter '{name}'"))),
        })
    }

    fn invalid(&self) -> Failure {
        Failure::new(format!("invalid filter '{}={}'", self.name, self.value))
    }
}

fn made(store: &Store, name: &str) -> Result<SystemTime> {
    let image = store.image(name)?;
    image
        .created()
        .ok_or_else(|| Failure::new(format!("the image {name} does not say when it was made")))
}

/// A point in time, a date, seconds since 1970 (`date +%s.%N`), or how long ago.
pub fn moment(text: &str) -> Option<SystemTime> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time.into());
    }
    if let Ok(time) = text.parse::<DateTime>() {
        return Some(time.to_zoned(TimeZone::system()).ok()?.into());
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if let (Ok(seconds), Ok(part)) = (seconds.parse::<u64>(), fraction.parse::<u32>())
        && let Some(unit) = 9_usize.checked_sub(fraction.len())
    {
        let nanos = part * 10_u32.pow(u32::try_from(unit).ok()?);
        return SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos));
    }
    let ago: Duration = text.parse::<SignedDuration>().ok()?.try_into().ok()?;
    SystemTime::now().checked_sub(ago)
}
