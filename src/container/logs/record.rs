//! Lines of a file back into what they say.

use std::borrow::Cow;
use std::time::SystemTime;

use jiff::Timestamp;
use serde::Deserialize;

use super::format::{Format, Stream};
use super::line::Line;

/// A line of a file, understood.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) time: SystemTime,
    pub(super) stream: Stream,
    pub(super) partial: bool,
    text: Cow<'a, [u8]>,
}

/// The format of a file or line that begins so.
pub(super) fn format(line: &[u8]) -> Format {
    if line.starts_with(b"{") { Format::JsonFile } else { Format::Cri }
}

impl<'a> Record<'a> {
    /// Understands a line without its newline, or does not.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        match format(line) {
            Format::Cri => Self::parse_cri(line),
            Format::JsonFile => Self::parse_json(line),
        }
    }

    fn parse_cri(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let time = time(std::str::from_utf8(fields.next()?).ok()?)?;
        let stream = Stream::from_name(fields.next()?)?;
        // Tags that nobody has defined yet may follow after a colon.
        let partial = match fields.next()?.split(|byte| *byte == b':').next()? {
            b"F" => false,
            b"P" => true,
            _ => return None,
        };
        Some(Self { time, stream, partial, text: fields.next()?.into() })
    }

    fn parse_json(line: &'a [u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Entry<'a> {
            #[serde(borrow, default)]
            log: Cow<'a, str>,
            #[serde(borrow)]
            stream: Cow<'a, str>,
            #[serde(borrow)]
            time: Cow<'a, str>,
        }
        let entry: Entry<'a> = serde_json::from_slice(line).ok()?;
        let (partial, text) = match entry.log {
            Cow::Borrowed(log) => match log.strip_suffix('\n') {
                Some(text) => (false, Cow::Borrowed(text.as_bytes())),
                None => (true, Cow::Borrowed(log.as_bytes())),
            },
            Cow::Owned(mut log) => {
                let partial = !log.ends_with('\n');
                if !partial {
                    log.pop();
                }
                (partial, Cow::Owned(log.into_bytes()))
            }
        };
        let stream = Stream::from_name(entry.stream.as_bytes())?;
        Some(Self { time: time(&entry.time)?, stream, partial, text })
    }

    pub(super) fn into_line(self) -> Line {
        let Self { time, stream, partial, text } = self;
        Line { time, stream, partial, bytes: text.into_owned() }
    }
}

/// RFC 3339; other programs write it with the offset of their zone.
fn time(text: &str) -> Option<SystemTime> {
    text.parse::<Timestamp>().ok().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Option<Line> {
        Record::parse(text.as_bytes()).map(Record::into_line)
    }

    #[test]
    fn both_formats_are_told_apart() {
        let cri = line("2026-01-01T00:00:00.000000001Z stdout F a b ").unwrap();
        assert_eq!(
            (cri.stream, cri.partial, &cri.bytes[..]),
            (Stream::Stdout, false, &b"a b "[..])
        );
        assert_eq!(cri.timestamp(), "2026-01-01T00:00:00.000000001Z");
        let json = r#"{"log":"a\tb\n","stream":"stderr","attrs":{"x":"y"},"time":"2026-01-01T00:00:00.000000001Z"}"#;
        let json = line(json).unwrap();
        assert_eq!(
            (json.stream, json.partial, &json.bytes[..]),
            (Stream::Stderr, false, &b"a\tb"[..])
        );
        assert_eq!(json.time, cri.time);
    }

    #[test]
    fn what_others_write_is_read() {
        for (text, partial, bytes) in [
            ("2026-01-01T02:00:00.5+02:00 stdout P x", true, "x"),
            ("2026-01-01T00:00:00Z stderr F ", false, ""),
            ("2026-01-01T00:00:00Z stderr P:new x", true, "x"),
            (r#"{"log":"x","stream":"stdout","time":"2026-01-01T00:00:00Z"}"#, true, "x"),
            (r#"{"log":"\n","stream":"stdout","time":"2026-01-01T00:00:00Z"}"#, false, ""),
            (r#"{"stream":"stdout","time":"2026-01-01T00:00:00Z"}"#, true, ""),
        ] {
            let line = line(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((line.partial, &*line.text()), (partial, bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_record_is_not_understood() {
        for text in [
            "",
            "text",
            "\0\0\0\0",
            "2026-01-01T00:00:00Z stdout F",
            "2026-01-01T00:00:00Z stdin F x",
            "2026-01-01T00:00:00Z stdout X x",
            "2026-13-01T00:00:00Z stdout F x",
            "999999999-01-01T00:00:00Z stdout F x",
            "{",
            r#"{"log":"x\n","stream":"stdout","time":"now"}"#,
            r#"{"log":"x\n","stream":"stdin","time":"2026-01-01T00:00:00Z"}"#,
            r#"{"log":"\ud800\n","stream":"stdout","time":"2026-01-01T00:00:00Z"}"#,
            r#"{"log":"x\n","stream":"stdout","time":"2026-01-01T00:00:00Z"} more"#,
        ] {
            assert_eq!(line(text), None, "{text}");
        }
    }
}
