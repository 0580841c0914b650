//! Memory that all containers of a thread share.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use super::super::logs::Batch;
use crate::sys::process::give_pages_back;

#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) buffer: Buffer,
    pub(super) batch: Batch,
    /// Much of it has been used.
    grown: bool,
}

impl Scratch {
    /// What may stay.
    const LITTLE: usize = 64 << 10;

    pub(super) fn new() -> Self {
        Self { buffer: Buffer::new(), batch: Batch::new(), grown: false }
    }

    /// Notes that so much was read at once.
    pub(super) fn note(&mut self, length: usize) {
        self.grown |= length > Self::LITTLE;
    }

    /// How long nothing may happen before it [gives back](Self::give_back) what it takes.
    pub(super) fn patience(&self) -> Option<Duration> {
        const QUIET: Duration = Duration::from_secs(1);
        self.grown.then_some(QUIET)
    }

    /// Gives its memory back, if it is much.
    pub(super) fn give_back(&mut self) {
        if std::mem::take(&mut self.grown) {
            give_pages_back(&mut self.buffer);
            self.batch.give_back();
        }
    }
}

/// To read into: the most that is read at once of what a container writes.
#[derive(Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// All of the largest pipe.
    const SIZE: usize = 1 << 20;
    /// The kernel takes twice as long to copy a pipe's pages to where no cache line begins.
    const CACHE_LINE: usize = 64;

    fn new() -> Self {
        let bytes = vec![0; Self::SIZE + Self::CACHE_LINE];
        let start = bytes.as_ptr().align_offset(Self::CACHE_LINE);
        Self { bytes, start: start.min(Self::CACHE_LINE) }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("size", &self.len()).finish()
    }
}
