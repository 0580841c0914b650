//! Blobs that are read while they are written.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::blobs::{BlobWriter, StagedBlob};
use super::early::{Unpacker, lock};
use super::lease::Work;
use super::manifest::Blob;
use crate::error::{Context, ErrorKind, Result};

/// How far a file has been written.
#[derive(Debug, Default)]
struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    written: u64,
    /// It is complete, or nothing more comes because writing failed.
    ended: Option<bool>,
    /// Who unpacks it early should stop.
    given_up: bool,
}

/// The writer's side: tells a [`Follower`] how far the file has come.
#[derive(Debug, Default)]
pub(super) struct Growth(Arc<Progress>);

impl Growth {
    /// There are `written` bytes now.
    pub(super) fn reached(&self, written: u64) {
        lock(&self.0.state).written = written;
        self.0.changed.notify_all();
    }

    /// The file is complete.
    pub(super) fn complete(&self) {
        lock(&self.0.state).ended = Some(true);
        self.0.changed.notify_all();
    }

    /// Reads the file while it grows.
    pub(super) fn follow(&self, file: File) -> Follower {
        Follower { file, at: 0, early: false, progress: Arc::clone(&self.0) }
    }

    /// [`follow`](Self::follow), until it is [given up](Self::give_up).
    pub(super) fn follow_early(&self, file: File) -> Follower {
        Follower { early: true, ..self.follow(file) }
    }

    fn give_up(&self) {
        lock(&self.0.state).given_up = true;
        self.0.changed.notify_all();
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        lock(&self.0.state).ended.get_or_insert(false);
        self.0.changed.notify_all();
    }
}

/// Reads a file while it is written, and waits at its end until that is the end.
#[derive(Debug)]
pub(super) struct Follower {
    file: File,
    at: u64,
    early: bool,
    progress: Arc<Progress>,
}

impl Read for Follower {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = lock(&self.progress.state);
        while state.written <= self.at {
            match state.ended {
                Some(true) => return Ok(0),
                Some(false) => return Err(io::Error::other("nobody writes the file any more")),
                None if self.early && state.given_up => {
                    return Err(io::Error::other("its space is needed"));
                }
                None => {
                    let waited = self.progress.changed.wait(state);
                    state = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        let ready = usize::try_from(state.written - self.at).unwrap_or(usize::MAX);
        drop(state);
        let wanted = buffer.len().min(ready);
        let read = self.file.read_at(&mut buffer[..wanted], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// A blob that others follow.
#[derive(Debug)]
pub(super) struct GrowingBlob {
    writer: BlobWriter,
    growth: Growth,
    written: u64,
}

impl GrowingBlob {
    pub(super) fn new(work: &Work, expected: Option<Blob>) -> Result<Self> {
        Ok(Self { writer: work.writer(expected)?, growth: Growth::default(), written: 0 })
    }

    pub(super) fn growth(&self) -> &Growth {
        &self.growth
    }

    pub(super) fn file(&self) -> Result<File> {
        self.writer.written_part()
    }

    /// Writes all of `bytes`. Where the disk is full, layers that have been unpacked early make room.
    pub(super) fn write(&mut self, mut bytes: &[u8], early: Option<&Unpacker>) -> Result<()> {
        self.written += bytes.len() as u64;
        loop {
            let written = match bytes {
                [] => self.writer.flush().map(|()| None),
                _ => self.writer.write(bytes).map(Some),
            };
            match written {
                Ok(Some(written)) => bytes = &bytes[written..],
                Ok(None) => break,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => {
                    let failed = Err::<(), _>(err).context(|| "write it aside");
                    let full =
                        failed.as_ref().is_err_and(|it| it.kind() == ErrorKind::ResourceExhausted);
                    let Some(early) = early.filter(|_| full) else { return failed };
                    self.growth.give_up();
                    if !early.give_up() {
                        return failed;
                    }
                }
            }
        }
        self.growth.reached(self.written);
        Ok(())
    }

    /// Nothing more comes.
    pub(super) fn complete(&self) {
        self.growth.complete();
    }

    /// As [`BlobWriter::stage`].
    pub(super) fn stage(self) -> Result<StagedBlob> {
        self.complete();
        self.writer.stage()
    }
}
