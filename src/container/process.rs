//! Processes that are told apart from others that get their ids later.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Context, Result};
use crate::sys;

/// A process by its id and the time it was started, in ticks since boot: together they come once in a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessId {
    pub(super) pid: i32,
    start: u64,
}

impl ProcessId {
    /// The process that has this id now; it must not be reaped meanwhile.
    pub(super) fn of(pid: i32) -> Result<Self> {
        Ok(Self { pid, start: start_time(pid).context(|| format!("look at process {pid}"))? })
    }

    /// From a name that begins as it is displayed: `PID-START`, and perhaps `-` and more.
    pub(super) fn named(name: &str) -> Option<Self> {
        let mut numbers = name.splitn(3, '-');
        Some(Self { pid: numbers.next()?.parse().ok()?, start: numbers.next()?.parse().ok()? })
    }

    pub(super) fn myself() -> Result<Self> {
        Self::of(std::process::id().cast_signed())
    }

    /// Its pidfd, if it is still there.
    ///
    /// # Errors
    ///
    /// `ResourceExhausted` and others that tell nothing of the process: it must not be taken for dead.
    pub(super) fn open(self) -> Result<Option<OwnedFd>> {
        self.try_open().context(|| format!("look at process {}", self.pid))
    }

    fn try_open(self) -> io::Result<Option<OwnedFd>> {
        let gone = |err: io::Error| match err.raw_os_error() {
            // A thread has the id now, or nobody.
            Some(libc::ESRCH | libc::ENOENT | libc::EINVAL) => Ok(None),
            _ => Err(err),
        };
        let pidfd = match sys::wait::open(self.pid) {
            Err(err) => return gone(err),
            Ok(pidfd) => pidfd,
        };
        // The id cannot have changed hands since: the descriptor is of this process, or of one that is gone.
        let same = match start_time(self.pid) {
            Err(err) => return gone(err),
            Ok(start) => start == self.start,
        };
        let alive = same && !sys::wait::poll(&pidfd, Some(Duration::ZERO))?;
        Ok(alive.then_some(pidfd))
    }

    /// Whether it is still there.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub(super) fn is_alive(self) -> Result<bool> {
        self.open().map(|pidfd| pidfd.is_some())
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.pid, self.start)
    }
}

/// The 22nd field of `/proc/PID/stat`.
fn start_time(pid: i32) -> io::Result<u64> {
    let stat = sys::spawn::stat(pid)?;
    let start = stat.split_ascii_whitespace().nth(19).and_then(|start| start.parse().ok());
    start.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is test code")]
mod tests {
    use super::*;
    use crate::machine::{require, system_calls};

    #[test]
    fn a_process_is_known_until_it_ends() {
        require!(system_calls(&["pidfd_open"]));
        let myself = ProcessId::myself().unwrap();
        assert!(myself.is_alive().unwrap());
        assert!(!ProcessId { start: myself.start + 1, ..myself }.is_alive().unwrap());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let it = ProcessId::of(child.id().cast_signed()).unwrap();
        assert!(it.is_alive().unwrap());
        child.kill().unwrap();
        let pidfd = sys::wait::open(it.pid).unwrap();
        assert!(sys::wait::poll(pidfd, Some(Duration::from_secs(60))).unwrap());
        // Not even as a zombie.
        assert!(!it.is_alive().unwrap());
        child.wait().unwrap();
        assert!(!it.is_alive().unwrap());
    }
}
