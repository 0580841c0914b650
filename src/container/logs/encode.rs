//! Lines in the words of a format.

use std::time::SystemTime;

use super::format::{Format, Stream};
use super::line::timestamp;

/// Writes the lines of a chunk: what they have in common, prepared.
pub(super) trait Encode {
    /// The most that a text of this length can become.
    fn bound(&self, length: usize) -> usize;

    /// Writes a record to the beginning of `out`, which has room for it, and returns its length.
    fn encode(&self, out: &mut [u8], text: &[u8], partial: bool) -> usize;
}

/// `2026-01-01T00:00:00.000000000Z stdout F text`.
pub(super) struct Cri {
    full: [u8; Self::HEAD],
    partial: [u8; Self::HEAD],
}

impl Cri {
    const HEAD: usize = 40;

    pub(super) fn new(stream: Stream, time: SystemTime) -> Self {
        let head = |flag| {
            let text = format!("{:.9} {stream} {flag} ", timestamp(time));
            let mut head = [b' '; Self::HEAD];
            head.copy_from_slice(text.as_bytes());
            head
        };
        Self { full: head('F'), partial: head('P') }
    }
}

impl Encode for Cri {
    fn bound(&self, length: usize) -> usize {
        Self::HEAD + length + 1
    }

    #[inline]
    fn encode(&self, out: &mut [u8], text: &[u8], partial: bool) -> usize {
        let head = if partial { &self.partial } else { &self.full };
        let end = Self::HEAD + text.len();
        out[..Self::HEAD].copy_from_slice(head);
        out[Self::HEAD..end].copy_from_slice(text);
        out[end] = b'\n';
        end + 1
    }
}

/// `{"log":"text\n","stream":"stdout","time":"2026-01-01T00:00:00Z"}`, byte by byte as docker writes it.
pub(super) struct JsonFile {
    full: Tail,
    partial: Tail,
}

/// The end of a record, in an array: a copy of a constant length needs no call.
struct Tail {
    bytes: [u8; Self::LONGEST],
    length: usize,
}

impl Tail {
    const LONGEST: usize = 64;

    fn new(text: &str) -> Self {
        let mut bytes = [0; Self::LONGEST];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Self { bytes, length: text.len() }
    }
}

impl JsonFile {
    const BEGIN: &'static [u8] = br#"{"log":""#;
    /// A byte becomes `\u0000` at worst.
    const WIDEST: usize = 6;

    pub(super) fn new(stream: Stream, time: SystemTime) -> Self {
        let partial = format!("\",\"stream\":\"{stream}\",\"time\":\"{}\"}}\n", timestamp(time));
        Self { full: Tail::new(&format!("\\n{partial}")), partial: Tail::new(&partial) }
    }
}

impl Encode for JsonFile {
    fn bound(&self, length: usize) -> usize {
        Self::BEGIN.len() + Self::WIDEST * length + Tail::LONGEST
    }

    fn encode(&self, out: &mut [u8], text: &[u8], partial: bool) -> usize {
        let mut at = put(out, Self::BEGIN);
        if is_plain(text) {
            // Nearly always, and soon seen.
            at += put(&mut out[at..], text);
        } else {
            for chunk in text.utf8_chunks() {
                at += escape(&mut out[at..], chunk.valid().as_bytes());
                for _ in chunk.invalid() {
                    at += put(&mut out[at..], br"\ufffd");
                }
            }
        }
        let end = if partial { &self.partial } else { &self.full };
        put(&mut out[at..], &end.bytes);
        at + end.length
    }
}

/// As many bytes as are looked at together.
const BLOCK: usize = 32;

#[inline]
fn put(out: &mut [u8], bytes: &[u8]) -> usize {
    out[..bytes.len()].copy_from_slice(bytes);
    bytes.len()
}

/// Writes UTF-8 as Go's encoder does it, which also makes the text harmless in HTML and JavaScript.
fn escape(out: &mut [u8], text: &[u8]) -> usize {
    let mut at = 0;
    let mut rest = text;
    loop {
        let plain = plain_length(rest);
        at += put(&mut out[at..], &rest[..plain]);
        rest = &rest[plain..];
        let Some(byte) = rest.first() else { return at };
        let mut length = 1;
        at += match byte {
            b'"' => put(&mut out[at..], br#"\""#),
            b'\\' => put(&mut out[at..], br"\\"),
            b'\n' => put(&mut out[at..], br"\n"),
            b'\r' => put(&mut out[at..], br"\r"),
            0xe2 if rest.starts_with("\u{2028}".as_bytes()) => {
                length = 3;
                put(&mut out[at..], br"\u2028")
            }
            0xe2 if rest.starts_with("\u{2029}".as_bytes()) => {
                length = 3;
                put(&mut out[at..], br"\u2029")
            }
            0xe2 => put(&mut out[at..], &[0xe2]),
            byte => {
                let digit = |half: u8| b"0123456789abcdef"[usize::from(half)];
                put(&mut out[at..], &[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)])
            }
        };
        rest = &rest[length..];
    }
}

/// Whether it is ASCII that stands for itself.
fn is_plain(text: &[u8]) -> bool {
    let plain = |block: &[u8; BLOCK]| !any(block, |byte| !byte.is_ascii() | is_special(byte));
    match text.last_chunk() {
        // It overlaps the block before.
        Some(last) => text.as_chunks().0.iter().all(plain) && plain(last),
        None => text.iter().all(|byte| byte.is_ascii() && !is_special(*byte)),
    }
}

/// How many bytes from the beginning stand for themselves.
fn plain_length(text: &[u8]) -> usize {
    let blocks = text.as_chunks::<BLOCK>().0.iter();
    let skipped = BLOCK * blocks.take_while(|block| !any(block, is_special)).count();
    let rest = &text[skipped..];
    skipped + rest.iter().position(|byte| is_special(*byte)).unwrap_or(rest.len())
}

/// Without a branch for each byte, which becomes vector instructions.
fn any(block: &[u8; BLOCK], wanted: impl Fn(u8) -> bool) -> bool {
    block.iter().fold(false, |found, byte| found | wanted(*byte))
}

/// Whether it does not stand for itself. 0xe2 may begin a separator that does not.
fn is_special(byte: u8) -> bool {
    // Two comparisons in one each: with 4, `"` is `&`, and with 2, `<` is `>`.
    (byte < 0x20) | (byte | 4 == b'&') | (byte | 2 == b'>') | (byte == b'\\') | (byte == 0xe2)
}

/// A single record, where speed does not matter.
pub(super) fn record(format: Format, stream: Stream, time: SystemTime, text: &[u8]) -> Vec<u8> {
    fn one(encode: &impl Encode, text: &[u8]) -> Vec<u8> {
        let mut out = vec![0; encode.bound(text.len())];
        let length = encode.encode(&mut out, text, false);
        out.truncate(length);
        out
    }
    match format {
        Format::Cri => one(&Cri::new(stream, time), text),
        Format::JsonFile => one(&JsonFile::new(stream, time), text),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn encoded(encode: &impl Encode, text: &[u8], partial: bool) -> String {
        let mut out = vec![0; encode.bound(text.len())];
        let length = encode.encode(&mut out, text, partial);
        String::from_utf8(out[..length].to_vec()).unwrap()
    }

    fn time(nanoseconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH
            + Duration::from_secs(1_767_225_600)
            + Duration::from_nanos(nanoseconds)
    }

    #[test]
    fn cri_is_as_kubernetes_defines_it() {
        let cri = Cri::new(Stream::Stdout, time(50));
        assert_eq!(encoded(&cri, b"text", false), "2026-01-01T00:00:00.000000050Z stdout F text\n");
        assert_eq!(encoded(&cri, b"", true), "2026-01-01T00:00:00.000000050Z stdout P \n");
    }

    #[test]
    fn json_is_escaped_as_by_docker() {
        let json = JsonFile::new(Stream::Stderr, time(500_000_000));
        let end = r#"","stream":"stderr","time":"2026-01-01T00:00:00.5Z"}"#;
        for (text, log) in [
            ("plain", "plain"),
            ("a\tb\u{8}\u{7f}", "a\\u0009b\\u0008\u{7f}"),
            ("\"\\<&>\r", r#"\"\\\u003c\u0026\u003e\r"#),
            ("\u{2028}\u{2029}\u{2027}ä\u{1f600}", "\\u2028\\u2029\u{2027}ä\u{1f600}"),
            (&"x".repeat(100), &"x".repeat(100)),
            (
                "0123456789abcdef0123456789abcdef0123\0",
                "0123456789abcdef0123456789abcdef0123\\u0000",
            ),
        ] {
            let full = encoded(&json, text.as_bytes(), false);
            assert_eq!(full, format!("{{\"log\":\"{log}\\n{end}\n"));
            assert_eq!(encoded(&json, text.as_bytes(), true), format!("{{\"log\":\"{log}{end}\n"));
            let value: serde_json::Value = serde_json::from_str(&full).unwrap();
            assert_eq!(value["log"], format!("{text}\n"));
        }
    }

    #[test]
    fn each_byte_that_is_not_utf8_is_replaced() {
        let json = JsonFile::new(Stream::Stdout, time(0));
        let text = encoded(&json, b"a\xffb\xe2\x82c\xf0\x9f\x98", true);
        assert!(text.starts_with(r#"{"log":"a\ufffdb\ufffd\ufffdc\ufffd\ufffd\ufffd","#), "{text}");
    }

    #[test]
    fn times_out_of_range_have_the_same_width() {
        for time in [
            SystemTime::UNIX_EPOCH - Duration::from_secs(10),
            SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 50),
        ] {
            assert_eq!(encoded(&Cri::new(Stream::Stdout, time), b"x", false).len(), 42);
        }
    }
}
