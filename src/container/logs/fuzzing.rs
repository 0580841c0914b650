//! What [`crate::fuzzing`] needs of this module.

use std::fs;
use std::time::{Duration, SystemTime};

use super::encode;
use super::record::{self, Record};
use super::{Batch, Line, LogWriter, Logs, Rotation, Stream};

/// A line of a log that is understood is written and understood again as the same.
pub(crate) fn line(data: &[u8]) {
    let Some(line) = Record::parse(data).map(Record::into_line) else { return };
    let format = record::format(data);
    let in_range =
        SystemTime::UNIX_EPOCH..SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_207_200);
    if line.partial || !in_range.contains(&line.time) {
        return;
    }
    let written = encode::record(format, line.stream, line.time, &line.bytes);
    let again = written.strip_suffix(b"\n").and_then(Record::parse).map(Record::into_line);
    assert_eq!(again.as_ref(), Some(&line), "written as {:?}", String::from_utf8_lossy(&written));
}

/// A file with whatever in it: the last lines are the end of all, and a writer goes on after it.
pub(crate) fn file(dir: &std::path::Path, data: &[u8]) {
    fs::write(dir.join("container.log"), data).expect("write a log");
    let all: Vec<Line> = read(Logs::open(dir));
    for count in [0, 1, 3] {
        let last = read(Logs::open(dir).stderr_only().tail(count));
        let ended = |line: &&Line| !line.partial;
        assert!(last.iter().filter(ended).count() <= count);
        let of_stderr: Vec<_> =
            all.iter().filter(|line| line.stream == Stream::Stderr).cloned().collect();
        assert!(of_stderr.ends_with(&last), "{last:?} of {of_stderr:?}");
    }
    if let Some(middle) = all.get(all.len() / 2) {
        let since = read(Logs::open(dir).since(middle.time));
        assert!(since.contains(middle));
    }
    let mut writer =
        LogWriter::open(dir, record::format(data), Rotation::new()).expect("open a log");
    writer
        .write(&mut Batch::new(), Stream::Stdout, SystemTime::now(), b"more\n")
        .expect("write a line");
    let last = read(Logs::open(dir).tail(1));
    assert_eq!(last.last().map(|line| &line.bytes[..]), Some(&b"more"[..]));
}

fn read(logs: Logs) -> Vec<Line> {
    logs.lines().and_then(Iterator::collect).expect("read a log")
}
