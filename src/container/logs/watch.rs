//! What happens in the directory of a log, or of events.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::files;
use crate::error::{Context, Result};

/// Tells when there may be more to read, and counts the files that are begun.
#[derive(Debug)]
pub(in crate::container) struct Watch {
    inotify: Inotify,
    /// How many files were begun since.
    pub(super) begun: u64,
    /// The file that grows is gone, and none has taken its place; or the directory is.
    pub(in crate::container) removed: bool,
}

impl Watch {
    pub(in crate::container) fn new(dir: &Path) -> Result<Self> {
        let attempt = || format!("watch {}", dir.display());
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .context(attempt)
            .map_err(|err| match err.raw_os_error() {
                Some(libc::EMFILE) => err.with_hint(
                    "each follower is an inotify instance, of which fs.inotify.max_user_instances limits the number",
                ),
                _ => err,
            })?;
        let what = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            // The writer has ended.
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(dir, what).context(attempt).map_err(|err| match err.raw_os_error() {
            Some(libc::ENOSPC) => {
                err.with_hint("fs.inotify.max_user_watches limits how many directories are watched")
            }
            _ => err,
        })?;
        Ok(Self { inotify, begun: 0, removed: false })
    }

    /// Takes note of what has happened.
    pub(in crate::container) fn look(&mut self) -> Result<()> {
        loop {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno).context(|| "read what happened to a log"),
            };
            for event in events {
                // As many events were dropped as there were: one of them may have been a new file.
                let dropped = event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
                let began = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
                let named = event.name.as_deref().is_some_and(|name| name == files::NAME);
                if dropped || (named && event.mask.intersects(began)) {
                    self.begun += 1;
                    self.removed = false;
                }
                // A rotation only renames. Of the directory itself nothing is told while a file in it is open.
                self.removed |= named && event.mask.contains(AddWatchFlags::IN_DELETE)
                    || event.mask.contains(AddWatchFlags::IN_IGNORED);
            }
        }
    }

    /// Waits until something happens, if not longer than `timeout`.
    pub(in crate::container) fn wait(&self, timeout: Option<Duration>) -> Result<()> {
        let timeout = timeout.map_or(PollTimeout::NONE, |timeout| {
            PollTimeout::try_from(timeout.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno).context(|| "wait for a file to grow"),
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
