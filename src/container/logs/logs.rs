//! What of a log is to be read.

use std::fmt;
use std::iter;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::format::Stream;
use super::line::Line;
use super::lines::Lines;
use super::record::Record;
use crate::error::Result;

/// The log of a container, to be read; made by [`Logs::open`].
///
/// ```no_run
/// # use std::time::{Duration, SystemTime};
/// # use coracle::container::logs::Logs;
/// # let ten_minutes_ago = SystemTime::now() - Duration::from_secs(600);
/// for line in Logs::open("/var/log/web").follow().since(ten_minutes_ago) {
///     println!("{}", line?);
/// }
/// # Ok::<(), coracle::Error>(())
/// ```
///
/// Iterating opens the files; an error in doing so is the only item. [`lines`](Self::lines) tells it at once.
pub struct Logs {
    pub(super) dir: PathBuf,
    pub(super) filter: Filter,
    pub(super) tail: Option<usize>,
    pub(super) follow: bool,
    pub(super) finished: Option<Finished>,
}

pub(super) type Finished = Box<dyn Fn() -> bool + Send>;

/// Which lines are wanted.
#[derive(Debug, Default)]
pub(super) struct Filter {
    pub(super) since: Option<SystemTime>,
    pub(super) until: Option<SystemTime>,
    stream: Option<Stream>,
}

impl Filter {
    pub(super) fn wants(&self, record: &Record<'_>) -> bool {
        self.stream.is_none_or(|stream| stream == record.stream)
            && self.since.is_none_or(|since| record.time >= since)
            && self.until.is_none_or(|until| record.time <= until)
    }
}

impl Logs {
    /// The log in the directory `dir`, which a [`LogWriter`](super::LogWriter) writes or will write, here or in another process.
    pub fn open(dir: impl AsRef<Path>) -> Self {
        let dir = dir.as_ref().to_owned();
        Self { dir, filter: Filter::default(), tail: None, follow: false, finished: None }
    }

    /// Goes on with the lines that come, until the log is removed or one of [`until`](Self::until) and
    /// [`until_finished`](Self::until_finished) ends it. Otherwise the lines end with those that are there when the reading begins.
    pub fn follow(mut self) -> Self {
        self.follow = true;
        self
    }

    /// Ends [`follow`](Self::follow) after the last line once `finished` says that nobody writes any more. It is asked, ten
    /// times a second, when there is nothing to read.
    pub fn until_finished(mut self, finished: impl Fn() -> bool + Send + 'static) -> Self {
        self.finished = Some(Box::new(finished));
        self
    }

    /// Only lines of this time or later.
    pub fn since(mut self, time: SystemTime) -> Self {
        self.filter.since = Some(time);
        self
    }

    /// Only lines of this time or earlier. Following ends when it has passed.
    pub fn until(mut self, time: SystemTime) -> Self {
        self.filter.until = Some(time);
        self
    }

    /// Only the last `count` of the lines that are there and that the other conditions let through, and with
    /// [`follow`](Self::follow) those that come. What was before them is not read.
    pub fn tail(mut self, count: usize) -> Self {
        self.tail = Some(count);
        self
    }

    /// Only standard output.
    pub fn stdout_only(mut self) -> Self {
        self.filter.stream = Some(Stream::Stdout);
        self
    }

    /// Only standard error.
    pub fn stderr_only(mut self) -> Self {
        self.filter.stream = Some(Stream::Stderr);
        self
    }

    /// Opens the files and begins to read.
    ///
    /// # Errors
    /// `NotFound` without the directory, `SafetyViolation` where something else than a file has the name of a log;
    /// `ResourceExhausted` without a descriptor left: each file takes one, and following another.
    pub fn lines(self) -> Result<Lines> {
        Lines::open(self)
    }
}

impl IntoIterator for Logs {
    type Item = Result<Line>;
    type IntoIter = Box<dyn Iterator<Item = Result<Line>> + Send>;

    fn into_iter(self) -> Self::IntoIter {
        items(self.lines())
    }
}

/// What is to be read; an error in opening it is the only item.
pub(in crate::container) fn items<T, I>(
    opened: Result<I>,
) -> Box<dyn Iterator<Item = Result<T>> + Send>
where
    T: Send + 'static,
    I: Iterator<Item = Result<T>> + Send + 'static,
{
    match opened {
        Ok(items) => Box::new(items),
        Err(err) => Box::new(iter::once(Err(err))),
    }
}

impl fmt::Debug for Logs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dir, filter, tail, follow, finished: _ } = self;
        f.debug_struct("Logs")
            .field("dir", dir)
            .field("filter", filter)
            .field("tail", tail)
            .field("follow", follow)
            .finish_non_exhaustive()
    }
}
