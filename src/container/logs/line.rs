//! A line as it is read.

use std::borrow::Cow;
use std::fmt;
use std::time::SystemTime;

use jiff::Timestamp;

use super::format::Stream;

/// A line of a log, or a piece of a long one. Displays as its text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Line {
    /// When it was read from the container.
    pub time: SystemTime,
    /// Where the container wrote it to.
    pub stream: Stream,
    /// Whether the next line of this stream continues it: it was longer than 16 KiB, or was not ended yet.
    pub partial: bool,
    /// What was printed, without the newline.
    pub bytes: Vec<u8>,
}

impl Line {
    /// What was printed, with U+FFFD for what is not UTF-8.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }

    /// The time as docker and Kubernetes show it: UTC, with nanoseconds, as `2026-01-01T00:00:00.000000000Z`.
    pub fn timestamp(&self) -> String {
        format!("{:.9}", timestamp(self.time))
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

/// `time`, if the year has four digits; else the nearest that has.
pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    let beyond = if time < SystemTime::UNIX_EPOCH { Timestamp::UNIX_EPOCH } else { Timestamp::MAX };
    Timestamp::try_from(time).unwrap_or(beyond).max(Timestamp::UNIX_EPOCH)
}
