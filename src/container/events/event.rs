//! One thing that has happened.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Something that has happened to a container, an image or a volume.
///
/// Actions and attributes are docker's. Of containers: `create`, `start`, `restart`, `stop`, `pause`, `unpause`, `update`, `attach`, `detach`, `commit`,
/// `export`, `archive-path` and `extract-to-dir` for files copied out and in, `destroy`; `kill` with the number of the `signal`; `die` with the `exitCode`; `oom` when the kernel has killed a process of
/// it because memory ran out;
/// `rename` with the `oldName`; `resize` with `width` and `height`; `exec_create: COMMAND` and `exec_start: COMMAND`, and `exec_die` with the `exitCode` once the process that
/// has executed it knows of its end, all with an `execID`; `health_status: healthy` or `unhealthy`. Of volumes: `create`, `mount`, `unmount`, `destroy`.
/// Of images: `tag` with the new name as `name`; `untag` for each name that goes, and `delete`; `import`, `load` and `save`; `pull` and `push`, whose
/// `id` is the whole name, one for each tag. Of any of them together: `prune` with the bytes that were `reclaimed`, and no `id`.
///
/// A container's event has as attributes its `name`, its `image` and its labels, and its image's; an image's its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// When, to the nanosecond.
    pub time: SystemTime,
    /// What kind of thing it has happened to.
    pub kind: EventKind,
    /// What has happened; of some, with details after a colon.
    pub action: String,
    /// The id of the container or the image, or the name of the volume.
    pub id: String,
    /// More about it, by name.
    pub attributes: BTreeMap<String, String>,
}

/// What events happen to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum EventKind {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A volume.
    Volume,
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Volume => "volume",
        })
    }
}

impl Event {
    /// The action without its details: `exec_start` of `exec_start: ls -l`.
    pub fn verb(&self) -> &str {
        self.action.split(':').next().unwrap_or_default()
    }

    /// Of the end of a process, its exit status as a shell tells it: 128 and more for a signal.
    pub fn exit_code(&self) -> Option<i32> {
        self.attributes.get("exitCode")?.parse().ok()
    }

    pub(super) fn to_line(&self) -> serde_json::Result<Vec<u8>> {
        let since = self.time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut line = serde_json::to_vec(&Record {
            time: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
            kind: self.kind,
            action: &self.action,
            id: &self.id,
            attributes: &self.attributes,
        })?;
        line.push(b'\n');
        Ok(line)
    }
}

/// `2026-01-01T00:00:00.000000000Z container start ID (image=..., name=...)`, in one line: control characters of labels and commands are
/// escaped.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = Timestamp::try_from(self.time).unwrap_or_default();
        write!(f, "{time:.9} {} {} {}", self.kind, OneLine(&self.action), self.id)?;
        let mut between = " (";
        for (name, value) in &self.attributes {
            write!(f, "{between}{}={}", OneLine(name), OneLine(value))?;
            between = ", ";
        }
        if self.attributes.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}

struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c.is_control() {
            true => write!(f, "{}", c.escape_default()),
            false => f.write_char(c),
        })
    }
}

/// An event as a line of a file.
#[derive(Serialize, Deserialize)]
struct Record<S, A> {
    /// Nanoseconds since 1970.
    time: u64,
    #[serde(rename = "type")]
    kind: EventKind,
    action: S,
    id: S,
    attributes: A,
}

/// In place of events that could not be written: how many.
#[derive(Debug, Serialize, Deserialize)]
struct Gap {
    lost: u64,
}

/// A line of a file, understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Event(Event),
    Lost(u64),
}

impl Entry {
    /// Without its newline. `None` for what a writer left that was killed.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        if let Ok(record) = serde_json::from_slice::<Record<String, BTreeMap<String, String>>>(line)
        {
            let Record { time, kind, action, id, attributes } = record;
            let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(time);
            return Some(Self::Event(Event { time, kind, action, id, attributes }));
        }
        serde_json::from_slice::<Gap>(line).ok().map(|gap| Self::Lost(gap.lost))
    }

    pub(super) fn gap(lost: u64) -> serde_json::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(&Gap { lost })?;
        line.push(b'\n');
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_labels_hold_comes_back() {
        let attributes =
            [("name", "web"), ("a\"\n\\b", "\u{0}\u{2028}\n{\"lost\":3}"), ("", "é😀")];
        let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let event = Event {
            time: SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789),
            kind: EventKind::Container,
            action: "exec_start: sh -c 'echo \"a: b\"'\n".to_owned(),
            id: "0123".to_owned(),
            attributes: attributes.into(),
        };
        let line = event.to_line().unwrap();
        let (last, text) = line.split_last().unwrap();
        assert!(*last == b'\n' && !text.contains(&b'\n'), "it is one line");
        assert_eq!(Entry::parse(text), Some(Entry::Event(event.clone())));
        assert_eq!(event.verb(), "exec_start");
        for end in 0..text.len() {
            assert_eq!(Entry::parse(&text[..end]), None, "torn at {end}");
        }
    }

    #[test]
    fn gaps_are_told_from_events() {
        let line = Entry::gap(7).unwrap();
        assert_eq!(Entry::parse(&line[..line.len() - 1]), Some(Entry::Lost(7)));
    }

    #[test]
    fn one_is_printed_as_docker_prints_it() {
        let mut event = Event {
            time: SystemTime::UNIX_EPOCH,
            kind: EventKind::Volume,
            action: "create".to_owned(),
            id: "data".to_owned(),
            attributes: BTreeMap::new(),
        };
        assert_eq!(event.to_string(), "1970-01-01T00:00:00.000000000Z volume create data");
        for (name, value) in [("driver", "local"), ("a", "b\n\u{1b}")] {
            event.attributes.insert(name.to_owned(), value.to_owned());
        }
        let text = event.to_string();
        assert!(text.ends_with("Z volume create data (a=b\\n\\u{1b}, driver=local)"), "{text}");
    }
}
