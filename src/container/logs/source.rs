//! A file that is read.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use super::files;
use crate::error::{Context, Result};

/// A longer line is nobody's: the longest piece in JSON takes a tenth of it.
pub(super) const LONGEST_LINE: usize = 1 << 20;
const BLOCK: usize = 64 << 10;

/// One file of a log, read line by line.
#[derive(Debug)]
pub(in crate::container) struct Source {
    pub(super) file: File,
    path: PathBuf,
    id: (u64, u64),
    /// Where the reader stops, if the file is not followed.
    pub(in crate::container) end: Option<u64>,
    /// Where the next block is read from.
    offset: u64,
    buffer: Vec<u8>,
    /// What of the buffer has been handed out.
    used: usize,
    /// What of the buffer is known to hold no newline.
    searched: usize,
    /// In the middle of a line that is too long.
    skipping: bool,
}

impl Source {
    /// Opens a file of the log; `None` if it is gone.
    pub(in crate::container) fn open(path: PathBuf) -> Result<Option<Self>> {
        let file = match files::open(OpenOptions::new().read(true), &path) {
            Err(err) if err.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            result => result?,
        };
        let metadata = file.metadata().context(|| format!("open the log {}", path.display()))?;
        Ok(Some(Self {
            file,
            path,
            id: (metadata.dev(), metadata.ino()),
            end: Some(metadata.len()),
            offset: 0,
            buffer: Vec::new(),
            used: 0,
            searched: 0,
            skipping: false,
        }))
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        self.id == other.id
    }

    /// Goes to the beginning of a line.
    pub(super) fn seek(&mut self, offset: u64) {
        self.offset = offset;
        self.buffer.clear();
        (self.used, self.searched, self.skipping) = (0, 0, false);
    }

    /// The next whole line without its newline; `None` at the end, where more may come later. An empty one that is told
    /// to be damaged stands for a line that is too long.
    pub(in crate::container) fn next_line(&mut self) -> Result<Option<&[u8]>> {
        self.look().context(|| format!("read the log {}", self.path.display())).map(|found| {
            let (start, end) = found?;
            Some(&self.buffer[start..end])
        })
    }

    fn look(&mut self) -> io::Result<Option<(usize, usize)>> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[self.searched..]) {
                let (start, end) = (self.used, self.searched + at);
                (self.used, self.searched) = (end + 1, end + 1);
                let skipped = std::mem::take(&mut self.skipping);
                return Ok(Some(if skipped { (end, end) } else { (start, end) }));
            }
            self.searched = self.buffer.len();
            if self.skipping || self.buffer.len() - self.used > LONGEST_LINE {
                self.skipping = true;
                self.used = self.buffer.len();
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// Reads another block; `false` if there is none.
    fn fill(&mut self) -> io::Result<bool> {
        self.buffer.drain(..self.used);
        self.searched -= self.used;
        self.used = 0;
        let left = self.end.map_or(BLOCK as u64, |end| end.saturating_sub(self.offset));
        let wanted = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
        let kept = self.buffer.len();
        self.buffer.resize(kept + wanted, 0);
        let read = read_at(&self.file, &mut self.buffer[kept..], self.offset);
        self.buffer.truncate(kept + *read.as_ref().unwrap_or(&0));
        let read = read?;
        self.offset += read as u64;
        if read == 0 && self.file.metadata()?.len() < self.offset {
            // Somebody has emptied it.
            self.seek(0);
            return Ok(self.end.is_none() && self.file.metadata()?.len() > 0);
        }
        Ok(read > 0)
    }
}

pub(super) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, offset) {
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
