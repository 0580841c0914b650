//! Events, one after the other.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use super::super::logs::{Source, Watch};
use super::event::{Entry, Event};
use super::events::{Events, Filter};
use super::journal;
use crate::error::{Error, ErrorKind, Result};

/// Tells events as they happen; made by [`Events::listen`]. As an iterator it waits for them.
///
/// In an event loop, call [`try_next`](Self::try_next) until it returns `None`, and again when the descriptor is readable, until
/// [`is_finished`](Self::is_finished); with [`Events::until`] at that time, too.
///
/// Who listens slows nobody down. If so much happens meanwhile that files are removed before they are read, an error of the kind
/// `ResourceExhausted` says how many events are lost, and the next ones come after it.
#[derive(Debug)]
pub struct EventStream {
    dir: PathBuf,
    filter: Filter,
    watch: Watch,
    /// The file that is read, by its number.
    file: Option<(u64, Source)>,
    /// The number of the line that comes next.
    next: u64,
    finished: bool,
}

impl EventStream {
    pub(super) fn open(events: Events) -> Result<Self> {
        let Events { dir, filter } = events;
        let watch = Watch::new(&dir)?;
        let mut stream = Self { dir, filter, watch, file: None, next: 0, finished: false };
        let past = stream.filter.since.is_some();
        loop {
            let files = journal::firsts(&stream.dir)?;
            let Some(first) = (if past { files.first() } else { files.last() }) else { break };
            if stream.enter(*first)? {
                break;
            }
        }
        if let Some((_, source)) = stream.file.as_mut().filter(|_| !past) {
            // A line that has just been begun is of the future.
            while source.next_line()?.is_some() {
                stream.next += 1;
            }
        }
        Ok(stream)
    }

    /// The next event, if it has happened already.
    ///
    /// # Errors
    ///
    /// If events are lost, as the next call goes on after them; and those of the file system.
    pub fn try_next(&mut self) -> Result<Option<Event>> {
        match self.advance() {
            Ok(event) => event.transpose(),
            Err(err) => {
                self.finished = true;
                Err(err)
            }
        }
    }

    /// The next wanted event, or what is to be said instead of some that are lost.
    fn advance(&mut self) -> Result<Option<Result<Event>>> {
        if let Some(event) = self.read()? {
            return Ok(Some(event));
        }
        while !self.finished {
            // What comes after this makes the descriptor readable again.
            self.watch.look()?;
            let over = self.is_over()?;
            // Before the rest is read: a file that has a successor does not grow.
            let successor = self.successor()?;
            if let Some(event) = self.read()? {
                return Ok(Some(event));
            }
            match successor {
                Some(first) => {
                    if self.enter(first)? {
                        let expected = std::mem::replace(&mut self.next, first);
                        if first > expected {
                            return Ok(Some(Err(lost(first - expected))));
                        }
                    }
                }
                None if over => self.finished = true,
                None => break,
            }
        }
        Ok(None)
    }

    /// The next event, waiting for it; `None` if `timeout` passes first, or at the end.
    ///
    /// # Errors
    ///
    /// As [`try_next`](Self::try_next).
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Event>> {
        self.wait_until(Instant::now().checked_add(timeout))
    }

    /// Whether nothing comes any more.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    fn wait_until(&mut self, end: Option<Instant>) -> Result<Option<Event>> {
        loop {
            let event = self.try_next()?;
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if event.is_some() || self.finished || left == Some(Duration::ZERO) {
                return Ok(event);
            }
            let until = self.filter.until;
            let passes = until.map(|it| it.duration_since(SystemTime::now()).unwrap_or_default());
            self.watch.wait([left, passes].into_iter().flatten().min())?;
        }
    }

    /// The next wanted event of the file.
    fn read(&mut self) -> Result<Option<Result<Event>>> {
        let Some((_, source)) = &mut self.file else { return Ok(None) };
        while let Some(line) = source.next_line()? {
            self.next += 1;
            match Entry::parse(line) {
                Some(Entry::Event(event)) if self.filter.wants(&event) => {
                    return Ok(Some(Ok(event)));
                }
                Some(Entry::Lost(count)) => return Ok(Some(Err(lost(count)))),
                // Not wanted, or its writer was killed.
                _ => {}
            }
        }
        Ok(None)
    }

    /// Whether all that was asked for has happened, and is written.
    fn is_over(&self) -> Result<bool> {
        if self.watch.removed {
            return Ok(true);
        }
        let passed = self.filter.until.is_some_and(|until| until < SystemTime::now());
        if passed {
            // Somebody may be writing what has happened before.
            drop(journal::lock(&self.dir)?);
        }
        Ok(passed)
    }

    /// The next file.
    fn successor(&self) -> Result<Option<u64>> {
        let current = self.file.as_ref().map(|(first, _)| *first);
        match journal::firsts(&self.dir) {
            Err(err) if err.kind() == ErrorKind::NotFound => Ok(None),
            files => Ok(files?.into_iter().find(|first| Some(*first) > current)),
        }
    }

    /// Opens a file to go on with. False: it is gone already.
    fn enter(&mut self, first: u64) -> Result<bool> {
        let Some(source) = Source::open(journal::path(&self.dir, first))? else { return Ok(false) };
        if self.file.is_none() {
            self.next = first;
        }
        self.file.insert((first, source)).1.end = None;
        Ok(true)
    }
}

fn lost(count: u64) -> Error {
    let message = format!("{count} events are lost here");
    Error::new(ErrorKind::ResourceExhausted, message)
        .with_hint("they were not read in time, or could not be written: the disk may be full")
}

impl Iterator for EventStream {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Result<Event>> {
        self.wait_until(None).transpose()
    }
}

/// Readable when something may have happened.
impl AsFd for EventStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}
