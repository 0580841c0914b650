//! Extended headers: records of `LENGTH KEY=VALUE\n`, whose values may hold any byte.
//!
//! See "pax Extended Header" in
//! <https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html>.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// Seconds since 1970, possibly before, and nanoseconds after that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Time {
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
}

/// The records that hold for an entry.
#[derive(Clone, Debug, Default)]
pub(super) struct Records(Vec<(Vec<u8>, Vec<u8>)>);

impl Records {
    /// Adds those of an extended header. Later ones win.
    pub(super) fn parse(&mut self, mut data: &[u8]) -> Result<()> {
        // Some writers pad with zeros.
        while !data.is_empty() && data[0] != 0 {
            let record =
                split(data).ok_or_else(|| malformed("an extended header is no list of records"))?;
            self.0.push((record.key.to_vec(), record.value.to_vec()));
            data = record.rest;
        }
        Ok(())
    }

    /// How much memory it takes, about.
    pub(super) fn len(&self) -> u64 {
        self.0.iter().map(|(key, value)| (key.len() + value.len() + 48) as u64).sum()
    }

    /// An empty value takes an earlier one back.
    pub(super) fn get(&self, key: &str) -> Option<&[u8]> {
        let found = self.0.iter().rev().find(|(name, _)| name == key.as_bytes());
        found.map(|(_, value)| value.as_slice()).filter(|value| !value.is_empty())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(key, value)| (key.as_slice(), value.as_slice()))
    }

    /// A path, which cannot hold a NUL.
    pub(super) fn path(&self, key: &str) -> Result<Option<&[u8]>> {
        match self.get(key) {
            Some(path) if path.contains(&0) => {
                Err(malformed(format!("its {key} contains a NUL byte")))
            }
            path => Ok(path),
        }
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<u64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        number.map(Some).ok_or_else(|| malformed(format!("its {key} is not a number")))
    }

    pub(super) fn time(&self, key: &str) -> Result<Option<Time>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        parse_time(value).map(Some).ok_or_else(|| malformed(format!("its {key} is not a time")))
    }
}

pub(super) fn malformed(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Malformed, message)
}

struct Record<'a> {
    key: &'a [u8],
    value: &'a [u8],
    rest: &'a [u8],
}

fn split(data: &[u8]) -> Option<Record<'_>> {
    let space = data.iter().take(20).position(|&byte| byte == b' ')?;
    let len: usize = std::str::from_utf8(&data[..space]).ok()?.parse().ok()?;
    let (record, rest) = data.split_at_checked(len)?;
    let text = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = text.iter().position(|&byte| byte == b'=')?;
    Some(Record { key: &text[..equals], value: &text[equals + 1..], rest })
}

/// `-12.5`: as many digits as there are, of which nine count.
fn parse_time(value: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanoseconds: u32 = format!("{fraction:0<9.9}").parse().ok()?;
    if whole.starts_with('-') && nanoseconds > 0 {
        let nanoseconds = 1_000_000_000 - nanoseconds;
        return Some(Time { seconds: seconds.checked_sub(1)?, nanoseconds });
    }
    Some(Time { seconds, nanoseconds })
}

impl Time {
    /// Since 1970.
    pub(super) fn after(since: Duration) -> Self {
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        Self { seconds, nanoseconds: since.subsec_nanos() }
    }

    /// As a record's value.
    pub(super) fn to_text(self) -> String {
        let Self { seconds, nanoseconds } = self;
        if nanoseconds == 0 {
            return seconds.to_string();
        }
        let text = if seconds < 0 {
            let whole = (seconds + 1).unsigned_abs();
            format!("-{whole}.{:09}", 1_000_000_000 - nanoseconds)
        } else {
            format!("{seconds}.{nanoseconds:09}")
        };
        text.trim_end_matches('0').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_hold_any_byte_and_the_last_of_a_key_counts() {
        let mut records = Records::default();
        records.parse(b"9 a=\n=\0\n\n8 path=x\n11 path=y\nz\n").unwrap_err();
        let mut records = Records::default();
        records.parse(b"9 a=\n=\0\n\n9 path=x\n12 path=y\nz\n\0\0").unwrap();
        assert_eq!(records.get("a"), Some(&b"\n=\0\n"[..]));
        assert_eq!(records.get("path"), Some(&b"y\nz"[..]));
        records.parse(b"8 path=\n").unwrap();
        assert_eq!(records.get("path"), None);
        for bad in [
            &b"x"[..],
            b"5 a=b",
            b"99 a=b\n",
            b"6 a=bc",
            b" a=b\n",
            b"-6 a=b\n",
            b"5 abc\n",
            b"2 \n",
        ] {
            assert!(Records::default().parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_go_back_and_forth() {
        for (text, seconds, nanoseconds) in [
            ("0", 0, 0),
            ("1.5", 1, 500_000_000),
            ("1700000000.123456789", 1_700_000_000, 123_456_789),
            ("-1", -1, 0),
            ("-1.25", -2, 750_000_000),
            ("-0.5", -1, 500_000_000),
            ("99999999999", 99_999_999_999, 0),
        ] {
            let time = Time { seconds, nanoseconds };
            assert_eq!(parse_time(text.as_bytes()), Some(time), "{text}");
            assert_eq!(time.to_text(), text);
        }
        assert_eq!(parse_time(b"3.1234567899").unwrap().nanoseconds, 123_456_789);
        for bad in [&b"x"[..], b"1.x", b"", b".", b"1.-5", b"99999999999999999999", b"1e5"] {
            assert_eq!(parse_time(bad), None, "{bad:?}");
        }
    }
}
