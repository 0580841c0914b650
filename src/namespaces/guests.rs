//! Processes that were executed in the namespaces of another.
//!
//! The first process of a pid namespace ends, as the kernel sees it, only once all others of the namespace are reaped. Those
//! that `Child::exec` started are children of the host: who waits for the first has to reap them meanwhile, or
//! he waits for himself.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};

use crate::sys::wait::{self, Ended};

/// How long one that came in meanwhile may go unseen.
const REFRESH: Duration = Duration::from_millis(100);

/// All that were executed in one process's namespaces and may have to be reaped.
#[derive(Debug, Default)]
pub(super) struct Guests(Mutex<Vec<Arc<Guest>>>);

/// One of them. Whoever reaps it leaves here how it ended.
#[derive(Debug)]
pub(super) struct Guest {
    pidfd: OwnedFd,
    ended: Mutex<Option<Ended>>,
}

impl Guests {
    pub(super) fn add(&self, pidfd: BorrowedFd<'_>) -> io::Result<Arc<Guest>> {
        let pidfd = pidfd.try_clone_to_owned()?;
        let guest = Arc::new(Guest { pidfd, ended: Mutex::new(None) });
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|guest| guest.may_live());
        all.push(guest.clone());
        Ok(guest)
    }

    /// Reaps those that have ended, and returns the others.
    pub(super) fn reap(&self) -> Vec<Arc<Guest>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|guest| matches!(guest.look(), Ok(None)));
        all.clone()
    }

    /// Waits until `pidfd`, of the first process, is readable or the time is up.
    pub(super) fn wait_for(&self, pidfd: &OwnedFd, until: Option<Instant>) -> io::Result<()> {
        loop {
            let alive = self.reap();
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if alive.is_empty() {
                return wait::poll(pidfd, left).map(drop);
            }
            let timeout = left.unwrap_or(REFRESH).min(REFRESH);
            let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::ZERO);
            let fds =
                [pidfd.as_fd()].into_iter().chain(alive.iter().map(|guest| guest.pidfd.as_fd()));
            let mut polled: Vec<PollFd<'_>> =
                fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            match nix::poll::poll(&mut polled, timeout) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            let ready = |polled: &PollFd<'_>| polled.any().unwrap_or(false);
            if polled.first().is_some_and(ready) || left == Some(Duration::ZERO) {
                return Ok(());
            }
        }
    }
}

impl Guest {
    /// As [`wait::wait`], but knows when another has reaped it.
    pub(super) fn wait(&self, block: bool) -> io::Result<Option<Ended>> {
        if !block {
            return self.look();
        }
        if self.ended().is_some() {
            return Ok(*self.ended());
        }
        // Not under the lock, for whoever waits for the first process must come through.
        let waited = wait::wait(&self.pidfd, true);
        let mut ended = self.ended();
        if ended.is_none() {
            *ended = waited?;
        }
        Ok(*ended)
    }

    fn look(&self) -> io::Result<Option<Ended>> {
        let mut ended = self.ended();
        if ended.is_none() {
            *ended = wait::wait(&self.pidfd, false)?;
        }
        Ok(*ended)
    }

    fn may_live(&self) -> bool {
        self.ended().is_none()
    }

    fn ended(&self) -> std::sync::MutexGuard<'_, Option<Ended>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
