//! The file that grows.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::SystemTime;

use super::encode;
use super::files::{self, missing_is_fine};
use super::format::{Format, Stream};
use super::record;
use super::rotation::Rotation;
use crate::error::{Context, Error, Result};

/// Appends whole records to `container.log`, and makes it `container.log.1` in time.
#[derive(Debug)]
pub(super) struct Sink {
    dir: PathBuf,
    format: Format,
    rotation: Rotation,
    /// Made, with the directory, when there is something to write: many containers never say anything.
    file: Option<File>,
    size: u64,
    /// What must come before the next record: the end of one that was written in part.
    owed: Vec<u8>,
    lost: Option<Lost>,
}

/// What could not be written.
#[derive(Debug)]
struct Lost {
    records: usize,
    bytes: usize,
    why: String,
}

impl Sink {
    pub(super) fn open(dir: PathBuf, format: Format, rotation: Rotation) -> Result<Self> {
        let path = files::path(&dir, 0);
        let mut sink =
            Self { dir, format, rotation, file: None, size: 0, owed: Vec::new(), lost: None };
        let file = match files::open(OpenOptions::new().read(true).append(true), &path) {
            Err(err) if err.raw_os_error() == Some(libc::ENOENT) => return Ok(sink),
            file => file?,
        };
        let attempt = || format!("read the log {}", path.display());
        sink.size = file.metadata().context(attempt)?.len();
        let file = sink.file.insert(file);
        if sink.size == 0 {
            return Ok(sink);
        }
        let mut ends = [0; 2];
        file.read_exact_at(&mut ends[..1], 0).context(attempt)?;
        file.read_exact_at(&mut ends[1..], sink.size - 1).context(attempt)?;
        if ends[1] != b'\n' {
            // A crash has torn it.
            sink.owed.push(b'\n');
        }
        if record::format(&ends[..1]) != format {
            sink.pay().context(attempt)?;
            sink.rotate()?;
        }
        Ok(sink)
    }

    /// When the file was last written.
    pub(super) fn changed(&self) -> SystemTime {
        let written = self.file.as_ref().filter(|_| self.size > 0);
        let changed = written.and_then(|file| file.metadata().and_then(|it| it.modified()).ok());
        changed.unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// How many bytes the file may still grow.
    pub(super) fn room(&self) -> usize {
        let room = self.rotation.max_size.map_or(u64::MAX, |max| max.saturating_sub(self.size));
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Appends whole records. What cannot be written is counted as lost, and a record written in part is completed
    /// by the next call.
    pub(super) fn append(&mut self, records: &[u8]) -> Result<()> {
        if let Err(err) = self.make() {
            self.lose(records, &err);
            return Err(err);
        }
        self.settle(records)
            .context(|| format!("write the log {}", files::path(&self.dir, 0).display()))
    }

    /// Says what has been lost, if nobody has been told yet.
    pub(super) fn finish(&mut self) -> Result<()> {
        if self.lost.is_some() { self.append(b"") } else { Ok(()) }
    }

    fn make(&mut self) -> Result<()> {
        if self.file.is_some() {
            return Ok(());
        }
        files::make_directory(&self.dir)?;
        let path = files::path(&self.dir, 0);
        let file = files::open(OpenOptions::new().read(true).append(true).create(true), &path)?;
        self.file = Some(file);
        Ok(())
    }

    fn settle(&mut self, records: &[u8]) -> io::Result<()> {
        if let Err(err) = self.pay() {
            self.lose(records, &err);
            return Err(err);
        }
        if let Some(Lost { records: count, bytes, why }) = &self.lost {
            let note = format!("coracle: lines lost here: {count} ({bytes} bytes of log): {why}");
            let note =
                encode::record(self.format, Stream::Stderr, SystemTime::now(), note.as_bytes());
            let (written, result) = self.write(&note);
            if written > 0 {
                self.lost = None;
                self.owed.extend_from_slice(&note[written..]);
            }
            if let Err(err) = result {
                self.lose(records, &err);
                return Err(err);
            }
        }
        let (written, result) = self.write(records);
        if let Err(err) = result {
            let mut rest = &records[written..];
            if written > 0 && records[written - 1] != b'\n' {
                let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
                self.owed.extend_from_slice(&rest[..end]);
                rest = &rest[end..];
            }
            self.lose(rest, &err);
            return Err(err);
        }
        Ok(())
    }

    fn pay(&mut self) -> io::Result<()> {
        if self.owed.is_empty() {
            return Ok(());
        }
        let owed = std::mem::take(&mut self.owed);
        let (written, result) = self.write(&owed);
        self.owed.extend_from_slice(&owed[written..]);
        result
    }

    fn lose(&mut self, records: &[u8], why: &impl Display) {
        let lost =
            self.lost.get_or_insert_with(|| Lost { records: 0, bytes: 0, why: why.to_string() });
        lost.records += memchr::memchr_iter(b'\n', records).count();
        lost.bytes += records.len();
    }

    fn write(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let mut written = 0;
        let Some(file) = &mut self.file else {
            return (0, Err(io::ErrorKind::NotFound.into()));
        };
        while written < bytes.len() {
            match file.write(&bytes[written..]) {
                Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    written += count;
                    self.size += count as u64;
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return (written, Err(err)),
            }
        }
        (written, Ok(()))
    }

    /// Begins a new file. If that fails, the old one is in its place and goes on, but the oldest may be gone.
    pub(super) fn rotate(&mut self) -> Result<()> {
        self.turn().context(|| format!("rotate the logs in {}", self.dir.display()))
    }

    fn turn(&mut self) -> Result<()> {
        // The new file must not begin with the end of a record.
        self.pay().context(|| "end the last line")?;
        let kept = self.rotation.max_files.unwrap_or(u32::MAX).max(1);
        let mut ages = files::ages(&self.dir)?;
        // First, since there may be no room for a new one. With a single file the new one replaces it below.
        while let Some(oldest) = ages.pop_if(|age| *age >= (kept - 1).max(1)) {
            let path = files::path(&self.dir, oldest);
            files::remove(&path).context(|| format!("remove {}", path.display()))?;
        }
        let new = self.dir.join(files::NEW);
        missing_is_fine(fs::remove_file(&new)).context(|| format!("remove {}", new.display()))?;
        let file = files::open(OpenOptions::new().read(true).append(true).create_new(true), &new)?;
        if kept > 1 {
            // Up to the first gap, which a crash may have left.
            let moved = (0u32..).zip(&ages).take_while(|(expected, age)| expected == *age).count();
            for age in (0..u32::try_from(moved).unwrap_or(u32::MAX)).rev() {
                let from = files::path(&self.dir, age);
                missing_is_fine(fs::rename(&from, files::path(&self.dir, age + 1)))
                    .context(|| format!("rename {}", from.display()))?;
            }
        }
        let path = files::path(&self.dir, 0);
        fs::rename(&new, &path)
            .context(|| format!("rename {} to {}", new.display(), path.display()))?;
        if let Some(old) = self.file.replace(file) {
            files::let_go(old);
        }
        self.size = 0;
        Ok(())
    }
}

/// The first of several failures.
#[derive(Debug, Default)]
pub(super) struct First(Option<Error>);

impl First {
    pub(super) fn note(&mut self, result: Result<()>) {
        if let Err(err) = result {
            self.0.get_or_insert(err);
        }
    }

    pub(super) fn result(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}
