//! Memory that all containers of a thread share.

use std::fmt;
use std::ops::{Deref, DerefMut};

use super::super::logs::Batch;

#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) buffer: Buffer,
    pub(super) batch: Batch,
}

impl Scratch {
    pub(super) fn new() -> Self {
        Self { buffer: Buffer::new(), batch: Batch::new() }
    }
}

/// To read into: the most that is read at once of what a container writes.
#[derive(Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// All of a pipe that has been full once.
    const SIZE: usize = 256 << 10;
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
