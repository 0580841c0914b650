//! Sizes and times in docker's words.

use std::time::{Duration, SystemTime};

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];

const BINARY: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Bytes in decimal units and with so many digits at the most: `12.5kB`.
pub fn size(bytes: u64, digits: usize) -> String {
    scaled(bytes, digits, 1000.0, UNITS)
}

/// Bytes of memory: `12.5MiB`.
pub fn memory(bytes: u64) -> String {
    scaled(bytes, 4, 1024.0, BINARY)
}

#[allow(clippy::cast_precision_loss, reason = "four digits of it are shown")]
fn scaled(bytes: u64, digits: usize, base: f64, units: [&str; 7]) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    loop {
        let whole = format!("{value:.0}").len();
        let text = format!("{value:.*}", digits.saturating_sub(whole));
        let rounded = text.parse::<f64>().unwrap_or(value);
        if rounded < base || unit + 1 == units.len() {
            let text = match text.contains('.') {
                true => text.trim_end_matches('0').trim_end_matches('.'),
                false => &text,
            };
            return format!("{text}{}", units[unit]);
        }
        value /= base;
        unit += 1;
    }
}

/// How long ago, roughly: `2 days ago`.
pub fn since(time: Option<SystemTime>) -> String {
    match time {
        Some(time) => format!("{} ago", span(time.elapsed().unwrap_or_default())),
        None => "N/A".to_owned(),
    }
}

/// How long, roughly: `2 days`.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    let days = hours / 24;
    let many = |count: u64, unit: &str| format!("{count} {unit}");
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => many(seconds, "seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => many(minutes, "minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => many(hours, "hours"),
        () if days < 14 => many(days, "days"),
        () if days < 60 => many(days / 7, "weeks"),
        () if days < 730 => many(days / 30, "months"),
        () => many(days / 365, "years"),
    }
}

fn local(time: SystemTime) -> Option<Zoned> {
    Some(Timestamp::try_from(time).ok()?.to_zoned(TimeZone::system()))
}

/// `2026-01-31 12:00:00 +0100 CET`; empty if unknown.
pub fn time(time: Option<SystemTime>) -> String {
    let zoned = time.and_then(local);
    zoned.map_or(String::new(), |zoned| zoned.strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string())
}

/// `2026-01-31T12:00:00+01:00`, with a `Z` for no offset; empty if unknown.
pub fn rfc3339(time: Option<SystemTime>) -> String {
    written(time, "%Y-%m-%dT%H:%M:%S")
}

/// `2026-01-31T12:00:00.123456789+01:00`.
pub fn rfc3339_nanos(time: SystemTime) -> String {
    written(Some(time), "%Y-%m-%dT%H:%M:%S.%9f")
}

fn written(time: Option<SystemTime>, form: &str) -> String {
    let zoned = time.and_then(local);
    zoned.map_or(String::new(), |zoned| {
        let offset = if zoned.offset().is_zero() { "Z" } else { "%:z" };
        zoned.strftime(&format!("{form}{offset}")).to_string()
    })
}
