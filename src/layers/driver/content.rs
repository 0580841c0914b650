//! The content of a file into another: shared where the file system can, else copied, holes as holes.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::copy_file_range;
use nix::sys::stat::FileStat;
use nix::unistd::{Whence, ftruncate, lseek};

use crate::error::{Context, Result};
use crate::sys::reflink::clone_content;

/// Bytes that the kernel is asked to copy at once.
const CHUNK: usize = 1 << 30;
const BUFFER: usize = 128 << 10;

/// Copies contents, and remembers what the file systems cannot do.
#[derive(Debug)]
pub(super) struct Contents {
    reflink: bool,
    in_kernel: bool,
    buffer: Vec<u8>,
}

impl Contents {
    pub(super) fn new() -> Self {
        Self { reflink: true, in_kernel: true, buffer: Vec::new() }
    }

    /// Fills the empty file `to`.
    pub(super) fn copy(&mut self, from: &File, stat: &FileStat, to: &File) -> Result<()> {
        if stat.st_size == 0 {
            return Ok(());
        }
        if self.reflink {
            match clone_content(from, to) {
                Ok(()) => return Ok(()),
                Err(err) if matches!(err.errno, libc::ENOSPC | libc::EDQUOT | libc::EIO) => {
                    return Err(err).context(|| "share its content");
                }
                // The file systems are two, or cannot.
                Err(_) => self.reflink = false,
            }
        }
        let size = stat.st_size;
        if stat.st_blocks.saturating_mul(512) >= size {
            self.copy_range(from, to, 0, size)?;
        } else {
            self.copy_data(from, to, size)?;
        }
        ftruncate(to, size).context(|| "set its size")
    }

    /// All but the holes.
    fn copy_data(&mut self, from: &File, to: &File, size: i64) -> Result<()> {
        let mut end = 0;
        while end < size {
            let start = match lseek(from, end, Whence::SeekData) {
                Err(Errno::ENXIO) => break,
                // A file system that does not tell.
                Err(Errno::EINVAL) => end,
                start => start.context(|| "look for data in it")?,
            };
            end = match lseek(from, start, Whence::SeekHole) {
                Err(Errno::EINVAL) => size,
                end => end.context(|| "look for a hole in it")?,
            };
            self.copy_range(from, to, start, end)?;
        }
        Ok(())
    }

    fn copy_range(&mut self, from: &File, to: &File, start: i64, end: i64) -> Result<()> {
        let (mut read_at, mut write_at) = (start, start);
        while self.in_kernel && read_at < end {
            let left = usize::try_from(end - read_at).unwrap_or(CHUNK).min(CHUNK);
            match copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), left) {
                // It has become shorter.
                Ok(0) => return Ok(()),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EXDEV | Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
                    self.in_kernel = false;
                }
                Err(errno) => return Err(errno).context(|| "copy its content"),
            }
        }
        self.copy_by_hand(from, to, read_at, end).context(|| "copy its content")
    }

    fn copy_by_hand(&mut self, from: &File, to: &File, mut at: i64, end: i64) -> io::Result<()> {
        self.buffer.resize(BUFFER, 0);
        while at < end {
            let left = usize::try_from(end - at).unwrap_or(BUFFER).min(BUFFER);
            let offset = u64::try_from(at).unwrap_or_default();
            let read = match from.read_at(&mut self.buffer[..left], offset) {
                Ok(0) => return Ok(()),
                Err(err) if err.kind() == ErrorKind::Interrupted => continue,
                read => read?,
            };
            to.write_all_at(&self.buffer[..read], offset)?;
            at += i64::try_from(read).unwrap_or(i64::MAX);
        }
        Ok(())
    }
}
