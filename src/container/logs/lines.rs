//! The lines of a log, one after the other.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::MOST_DISORDER;
use super::files;
use super::line::Line;
use super::logs::{Filter, Finished, Logs};
use super::record::Record;
use super::seek;
use super::source::Source;
use super::watch::Watch;
use crate::error::{Context, Error, ErrorKind, Result};

/// How long a follower sleeps at most before it asks whether the writer has finished.
const ASK: Duration = Duration::from_millis(100);

/// Reads a log; made by [`Logs::lines`]. As an iterator it waits for what is followed.
///
/// In an event loop, call [`try_next`](Self::try_next) until it returns `None`, and again when the descriptor is readable, until
/// [`is_finished`](Self::is_finished); with [`Logs::until`] and [`Logs::until_finished`] now and then, too.
///
/// Lines that are damaged, as by a crash of the machine, are left out and [counted](Self::damaged). If a follower is so slow that
/// files are removed before it has read them, an error of the kind `ResourceExhausted` takes the place of the lines, and
/// those that are still there come after it.
pub struct Lines {
    filter: Filter,
    /// Files to read, the oldest first; the last is the one that grows.
    files: VecDeque<Source>,
    mode: Mode,
    /// What to say after the first file: that lines are gone.
    lost: Option<Error>,
    damaged: u64,
    state: State,
}

enum Mode {
    /// With a descriptor that is always readable.
    Once(EventFd),
    Follow(Follow),
}

struct Follow {
    dir: PathBuf,
    watch: Watch,
    /// Of [`Watch::begun`], how many files this reader knows of.
    known: u64,
    finished: Option<Finished>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Reading,
    /// The writer has finished: what is there now is the rest.
    Last,
    Finished,
}

impl Lines {
    pub(super) fn open(logs: Logs) -> Result<Self> {
        let Logs { dir, filter, tail, follow, finished } = logs;
        let (mut files, mode) = if follow {
            let watch = Watch::new(&dir)?;
            let mut follow = Follow { watch, dir: dir.clone(), known: 0, finished };
            (follow.files(None)?.0, Mode::Follow(follow))
        } else {
            let ready = EventFd::from_value_and_flags(1, EfdFlags::EFD_CLOEXEC);
            (younger(&dir, None)?.0, Mode::Once(ready.context(|| "make an eventfd")?))
        };
        let attempt = || format!("search the logs in {}", dir.display());
        if let Some(count) = tail {
            seek::tail(&mut files, count, &filter).context(attempt)?;
        } else if let Some(since) = filter.since {
            for file in &mut files {
                file.seek(seek::since(file, since).context(attempt)?);
            }
        }
        Ok(Self { filter, files, mode, lost: None, damaged: 0, state: State::Reading })
    }

    /// The next line, if there is one already.
    ///
    /// # Errors
    /// If lines are gone that this reader was too slow for; the next call goes on after them. If a file cannot be read; then
    /// nothing comes any more.
    pub fn try_next(&mut self) -> Result<Option<Line>> {
        match self.advance() {
            Ok(line) => line.transpose(),
            Err(err) => {
                self.state = State::Finished;
                Err(err)
            }
        }
    }

    /// The next line, waiting for it; `None` if `timeout` passes first, or at the end.
    ///
    /// # Errors
    /// As [`try_next`](Self::try_next).
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Line>> {
        self.wait_until(Instant::now().checked_add(timeout))
    }

    /// Whether nothing comes any more.
    pub fn is_finished(&self) -> bool {
        self.state == State::Finished
    }

    /// How many lines were left out so far because they could not be understood.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    fn wait_until(&mut self, end: Option<Instant>) -> Result<Option<Line>> {
        loop {
            if let Some(line) = self.try_next()? {
                return Ok(Some(line));
            }
            let Mode::Follow(follow) = &self.mode else { return Ok(None) };
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if self.state == State::Finished || left == Some(Duration::ZERO) {
                return Ok(None);
            }
            let ask = follow.finished.is_some().then_some(ASK);
            let passes = self
                .filter
                .until
                .map(|until| until.duration_since(SystemTime::now()).unwrap_or_default());
            follow.watch.wait([left, ask, passes].into_iter().flatten().min())?;
        }
    }

    /// The next wanted line, or what is to be said instead of lines that are gone.
    fn advance(&mut self) -> Result<Option<Result<Line>>> {
        while self.state != State::Finished {
            if let Some(line) = self.read()? {
                return Ok(Some(line));
            }
            if !self.go_on()? {
                break;
            }
        }
        Ok(None)
    }

    /// The same of the files that are known.
    fn read(&mut self) -> Result<Option<Result<Line>>> {
        let until = self.filter.until;
        while let Some(file) = self.files.front_mut() {
            while let Some(line) = file.next_line()? {
                let Some(record) = Record::parse(line) else {
                    self.damaged += 1;
                    continue;
                };
                if self.filter.wants(&record) {
                    return Ok(Some(Ok(record.into_line())));
                }
                let late = until.and_then(|until| until.checked_add(2 * MOST_DISORDER));
                if late.is_some_and(|late| record.time > late) && file.end.is_some() {
                    // Whatever comes in this file is too late.
                    break;
                }
            }
            if let Some(lost) = self.lost.take() {
                return Ok(Some(Err(lost)));
            }
            if self.files.len() == 1 && matches!(self.mode, Mode::Follow(_)) {
                break;
            }
            self.files.pop_front();
        }
        Ok(None)
    }

    /// At the end of what is known: whether there may be more at once.
    fn go_on(&mut self) -> Result<bool> {
        let Mode::Follow(follow) = &mut self.mode else {
            self.state = State::Finished;
            return Ok(false);
        };
        if self.state == State::Last {
            self.state = State::Finished;
            return Ok(false);
        }
        let passed = self.filter.until.is_some_and(|until| until < SystemTime::now());
        let finished = passed || follow.finished.as_ref().is_some_and(|finished| finished());
        follow.watch.look()?;
        let ends = finished || follow.watch.removed;
        if ends {
            self.state = State::Last;
        }
        if follow.watch.begun == follow.known {
            return Ok(ends);
        }
        let (files, lost) = follow.files(self.files.back())?;
        // The last one does not grow any more; what was written to it since it was read comes first.
        self.files.extend(files);
        if lost > 0 {
            let what = format!(
                "follow the logs in {}: {lost} files were removed before they were read",
                follow.dir.display()
            );
            let err = Error::new(ErrorKind::ResourceExhausted, what);
            self.lost = Some(err.with_hint("read faster, or keep more or larger files"));
        }
        Ok(true)
    }
}

impl Follow {
    /// The files that are younger than the one that was the youngest, and how many of them are gone.
    fn files(&mut self, last: Option<&Source>) -> Result<(VecDeque<Source>, u64)> {
        loop {
            self.watch.look()?;
            let begun = self.watch.begun;
            let (mut files, complete) = younger(&self.dir, last)?;
            self.watch.look()?;
            if self.watch.begun != begun {
                continue;
            }
            let new = begun - self.known;
            self.known = begun;
            if let Some(youngest) = files.back_mut() {
                youngest.end = None;
            }
            let lost = if complete { 0 } else { new.saturating_sub(files.len() as u64) };
            return Ok((files, lost));
        }
    }
}

/// Opens the files that are younger than `last`, the oldest first, and tells whether that one was found; without
/// it, all. From the youngest on, since files only grow older: none is overlooked while they are rotated.
fn younger(dir: &Path, last: Option<&Source>) -> Result<(VecDeque<Source>, bool)> {
    let ages = match files::ages(dir) {
        Err(err) if last.is_some() && err.raw_os_error() == Some(libc::ENOENT) => Vec::new(),
        result => result?,
    };
    let mut found: VecDeque<Source> = VecDeque::new();
    let mut next = 0;
    for age in ages {
        // And what has just become one older.
        for age in age.max(next)..=age.saturating_add(1) {
            next = age + 1;
            let Some(file) = Source::open(files::path(dir, age))? else { continue };
            if last.is_some_and(|last| last.is(&file)) {
                return Ok((found, true));
            }
            if !found.iter().any(|other| other.is(&file)) {
                found.push_front(file);
            }
        }
    }
    Ok((found, last.is_none()))
}

impl Iterator for Lines {
    type Item = Result<Line>;

    fn next(&mut self) -> Option<Result<Line>> {
        self.wait_until(None).transpose()
    }
}

impl AsFd for Lines {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.mode {
            Mode::Once(ready) => ready.as_fd(),
            Mode::Follow(follow) => follow.watch.as_fd(),
        }
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines")
            .field("filter", &self.filter)
            .field("files", &self.files)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
