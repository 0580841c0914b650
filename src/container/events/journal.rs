//! The files that events are written to.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::super::files;
use super::super::logs;
use super::event::{Entry, Event, EventKind};
use crate::error::{Context, Error, Result};

/// The size at which a file gets a successor. It is not written any more then: who finds it smaller knows that it is the last.
const LARGEST: u64 = 1 << 20;
/// How many files are kept.
const KEPT: usize = 4;
/// A longer line goes without labels: readers take no line for one that is longer than they can hold.
const LONGEST: usize = 512 << 10;

/// Writes events, as other threads and processes do, each a line and all in order.
#[derive(Debug)]
pub(in crate::container) struct Journal {
    dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The file that is written, by its number.
    file: Option<(u64, File)>,
    /// Events that could not be written and have not been told of yet.
    lost: u64,
}

impl Journal {
    /// In the directory `dir`, which is made if it is missing.
    pub(in crate::container) fn open(dir: PathBuf) -> Result<Self> {
        match DirBuilder::new().mode(0o700).create(&dir) {
            Err(err) if err.kind() != io::ErrorKind::AlreadyExists => {
                return Err(err).context(|| format!("make {}", dir.display()));
            }
            _ => {}
        }
        let journal = Self { dir, state: Mutex::new(State { file: None, lost: 0 }) };
        {
            let _lock = lock(&journal.dir)?;
            let mut state = journal.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.current(&journal.dir)?;
        }
        Ok(journal)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes an event of now. Where that fails, as on a full disk, the next that can be written is preceded by how many were
    /// lost: what happens does not wait for its being told.
    pub(in crate::container) fn note(
        &self,
        kind: EventKind,
        action: String,
        id: String,
        attributes: BTreeMap<String, String>,
    ) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let noted = lock(&self.dir).and_then(|_lock| {
            // Under the lock, so that times are in order too.
            let event = Event { time: SystemTime::now(), kind, action, id, attributes };
            state.append(&self.dir, &line(event)?)
        });
        match noted {
            Ok(()) => state.lost = 0,
            Err(_) => state.lost += 1,
        }
    }
}

fn line(mut event: Event) -> Result<Vec<u8>> {
    let encoded = |event: &Event| event.to_line().map_err(|err| Error::invalid(err.to_string()));
    let line = encoded(&event)?;
    if line.len() <= LONGEST {
        return Ok(line);
    }
    event
        .attributes
        .retain(|name, _| ["name", "image", "exitCode", "signal"].contains(&name.as_str()));
    event.action.truncate(event.verb().len());
    encoded(&event)
}

/// Held by whoever writes.
pub(super) fn lock(dir: &Path) -> Result<files::Held> {
    files::lock(&dir.with_extension("lock"))
}

/// The file whose first event has this number.
pub(super) fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(first.to_string())
}

/// The numbers of the files that there are, the oldest first.
pub(super) fn firsts(dir: &Path) -> Result<Vec<u64>> {
    let attempt = || format!("list {}", dir.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).context(attempt)? {
        let name = entry.context(attempt)?.file_name();
        let number = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        found.extend(number.and_then(|name| name.parse::<u64>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

impl State {
    fn append(&mut self, dir: &Path, line: &[u8]) -> Result<()> {
        let lost = self.lost;
        let file = self.current(dir)?;
        let attempt = || format!("write to {}", dir.display());
        let mut bytes = Vec::with_capacity(line.len() + 1);
        let size = file.metadata().context(attempt)?.len();
        let mut last = [b'\n'];
        if size > 0 {
            file.read_exact_at(&mut last, size - 1).context(attempt)?;
        }
        if last != [b'\n'] {
            // The rest of a line whose writer was killed.
            bytes.push(b'\n');
        }
        if lost > 0 {
            bytes.extend(Entry::gap(lost).map_err(|err| Error::invalid(err.to_string()))?);
        }
        bytes.extend_from_slice(line);
        // One call, so that a reader or the death of this process finds all of it or none, but for a full disk.
        file.write_all(&bytes).context(attempt)
    }

    /// The file to write to, under the lock.
    fn current(&mut self, dir: &Path) -> Result<&mut File> {
        loop {
            if let Some((_, file)) = &self.file {
                let metadata = file.metadata().context(|| "look at the file of events")?;
                if metadata.nlink() > 0 && metadata.len() < LARGEST {
                    break;
                }
            }
            let all = firsts(dir)?;
            let known = self.file.as_ref().map(|(first, _)| *first);
            let first = match all.last() {
                // Another process has begun it.
                Some(last) if Some(*last) != known => *last,
                None => 0,
                Some(last) => {
                    let next = last + lines(&path(dir, *last))?;
                    for first in &all[..(all.len() + 1).saturating_sub(KEPT)] {
                        let old = path(dir, *first);
                        logs::missing_is_fine(fs::remove_file(&old))
                            .context(|| format!("remove {}", old.display()))?;
                    }
                    next
                }
            };
            let mut options = OpenOptions::new();
            options.read(true).append(true).create(true);
            self.file = Some((first, logs::open_file(&mut options, &path(dir, first))?));
        }
        let file = self.file.as_mut().map(|(_, file)| file);
        file.ok_or_else(|| Error::invalid("there is no file of events"))
    }
}

/// How many lines a file has that is not written any more, with one that is torn.
fn lines(path: &Path) -> Result<u64> {
    let attempt = || format!("read {}", path.display());
    let mut file = logs::open_file(OpenOptions::new().read(true), path)?;
    // Not all at once: the allocator would keep a megabyte in each host.
    let mut buffer = vec![0; 32 << 10];
    let (mut count, mut last) = (0, b'\n');
    loop {
        let bytes = match file.read(&mut buffer) {
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            length => &buffer[..length.context(attempt)?],
        };
        let Some(end) = bytes.last() else { break };
        last = *end;
        count += memchr::memchr_iter(b'\n', bytes).count() as u64;
    }
    // A name of its own in any case, whatever somebody has made of the file.
    Ok((count + u64::from(last != b'\n')).max(1))
}
