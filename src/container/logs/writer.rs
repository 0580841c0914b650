//! Streams into lines.

use std::path::Path;
use std::time::SystemTime;

use super::batch::Batch;
use super::encode::{Cri, Encode, JsonFile};
use super::format::{Format, Stream};
use super::rotation::Rotation;
use super::sink::{First, Sink};
use super::{LONGEST_PIECE, MOST_DISORDER};
use crate::error::Result;

/// Writes what a container prints to its log.
///
/// Lines longer than 16 KiB are written in pieces. A line that is not ended yet is kept until it is, until it is that
/// long, or until [`flush`](Self::flush); dropping the writer flushes.
#[derive(Debug)]
pub struct LogWriter {
    sink: Sink,
    format: Format,
    /// The latest time in the file.
    latest: SystemTime,
    /// The lines that are not ended, by stream.
    open: [Vec<u8>; 2],
}

impl LogWriter {
    /// Opens the log in the directory `dir`, to append to it. There must be one writer at a time. The log is made with its
    /// first line, and so is the directory, open to the caller only, in one that exists.
    ///
    /// # Errors
    /// `SafetyViolation` where something else than a file has the name of the log.
    pub fn open(dir: impl AsRef<Path>, format: Format, rotation: Rotation) -> Result<Self> {
        let sink = Sink::open(dir.as_ref().to_owned(), format, rotation)?;
        let latest = sink.changed();
        Ok(Self { sink, format, latest, open: Default::default() })
    }

    /// Takes the next bytes of a stream, read at `time`, and writes the lines that end in them.
    ///
    /// They are taken in any case: what could not be written is lost, and once there is room again the log says how
    /// much it was.
    ///
    /// # Errors
    /// `ResourceExhausted` on a full disk, `NotFound` where the log cannot be made, and whatever else a write and a rotation
    /// may fail with.
    pub fn write(
        &mut self,
        batch: &mut Batch,
        stream: Stream,
        time: SystemTime,
        chunk: &[u8],
    ) -> Result<()> {
        self.take(batch, stream, time, chunk, false)
    }

    /// Writes the lines that are not ended, as partial ones: when a stream ends, or to show a prompt.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn flush(&mut self, batch: &mut Batch, time: SystemTime) -> Result<()> {
        let mut failed = First::default();
        for stream in [Stream::Stdout, Stream::Stderr] {
            if !self.open[stream as usize].is_empty() {
                failed.note(self.take(batch, stream, time, b"", true));
            }
        }
        failed.result()
    }

    fn take(
        &mut self,
        batch: &mut Batch,
        stream: Stream,
        time: SystemTime,
        chunk: &[u8],
        flush: bool,
    ) -> Result<()> {
        let mut failed = First::default();
        if time.checked_add(MOST_DISORDER).is_some_and(|time| time < self.latest)
            && !self.sink.is_empty()
        {
            failed.note(self.sink.rotate());
            self.latest = time;
        }
        self.latest = self.latest.max(time);
        batch.prepare();
        let run = Run { sink: &mut self.sink, batch, failed, limit: 0, may_rotate: true };
        let open = &mut self.open[stream as usize];
        match self.format {
            Format::Cri => run.split(&Cri::new(stream, time), open, chunk, flush),
            Format::JsonFile => run.split(&JsonFile::new(stream, time), open, chunk, flush),
        }
    }

    /// Writes what is still to be written, and what has been lost.
    pub(in crate::container) fn finish(&mut self) -> Result<()> {
        let flushed = self.flush(&mut Batch::new(), SystemTime::now());
        self.sink.finish().and(flushed)
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        // Nobody is left to be told of a failure.
        let _ = self.finish();
    }
}

/// One chunk on its way to the file.
struct Run<'a> {
    sink: &'a mut Sink,
    batch: &'a mut Batch,
    failed: First,
    /// How far the batch may be filled before something is to be done.
    limit: usize,
    may_rotate: bool,
}

impl Run<'_> {
    fn split(
        mut self,
        encode: &impl Encode,
        open: &mut Vec<u8>,
        chunk: &[u8],
        flush: bool,
    ) -> Result<()> {
        self.limit = self.next_limit();
        let mut rest = chunk;
        if !open.is_empty() {
            rest = self.complete(encode, open, chunk);
        }
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let mut line = &rest[..end];
            rest = &rest[end + 1..];
            self.pieces(encode, &mut line);
            self.record(encode, line, false);
        }
        self.pieces(encode, &mut rest);
        if !rest.is_empty() {
            open.extend_from_slice(rest);
        }
        if flush && !open.is_empty() {
            self.record(encode, &std::mem::take(open), true);
        }
        self.send(self.batch.filled);
        self.failed.result()
    }

    /// Ends the line that earlier chunks have begun, and returns the rest of this one: nothing if it goes on.
    fn complete<'a>(
        &mut self,
        encode: &impl Encode,
        open: &mut Vec<u8>,
        chunk: &'a [u8],
    ) -> &'a [u8] {
        let end = memchr::memchr(b'\n', chunk);
        open.extend_from_slice(&chunk[..end.unwrap_or(chunk.len())]);
        let mut line = &open[..];
        self.pieces(encode, &mut line);
        match end {
            Some(end) => {
                self.record(encode, line, false);
                // A quiet container holds no memory.
                *open = Vec::new();
                &chunk[end + 1..]
            }
            None => {
                *open = line.to_vec();
                &[]
            }
        }
    }

    /// Cuts off pieces until what is left is no longer than one.
    fn pieces(&mut self, encode: &impl Encode, line: &mut &[u8]) {
        while line.len() > LONGEST_PIECE {
            let (piece, rest) = line.split_at(piece_length(line));
            self.record(encode, piece, true);
            *line = rest;
        }
    }

    #[inline]
    fn record(&mut self, encode: &impl Encode, text: &[u8], partial: bool) {
        let start = self.batch.filled;
        self.batch.filled += encode.encode(&mut self.batch.bytes[start..], text, partial);
        if self.batch.filled > self.limit {
            self.make_room(start);
        }
    }

    /// Writes the batch, or what of it the file may still take, if the record at `start` is too much.
    #[cold]
    fn make_room(&mut self, start: usize) {
        if self.may_rotate && self.batch.filled > self.sink.room() {
            self.send(start);
            if !self.sink.is_empty() {
                let turned = self.sink.rotate();
                // Not again for each line of a chunk.
                self.may_rotate = turned.is_ok();
                self.failed.note(turned);
            }
        }
        if self.batch.filled >= Batch::ENOUGH {
            self.send(self.batch.filled);
        }
        self.limit = self.next_limit();
    }

    fn next_limit(&self) -> usize {
        if self.may_rotate { self.sink.room().min(Batch::ENOUGH) } else { Batch::ENOUGH }
    }

    /// Writes the beginning of the batch.
    fn send(&mut self, end: usize) {
        if end > 0 {
            self.failed.note(self.sink.append(&self.batch.bytes[..end]));
            self.batch.bytes.copy_within(end..self.batch.filled, 0);
            self.batch.filled -= end;
        }
    }
}

/// The length of the first piece of a line that is longer than one: not between the bytes of a character.
fn piece_length(line: &[u8]) -> usize {
    let continues = |at: &usize| line[*at] & 0xc0 == 0x80;
    (LONGEST_PIECE - 3..=LONGEST_PIECE).rev().find(|at| !continues(at)).unwrap_or(LONGEST_PIECE)
}
