//! How a process ended.

use std::fmt;
use std::time::Duration;

use super::Signal;
use crate::{GIB, KIB, MIB};

/// How a process ended, why, and what it used.
///
/// ```no_run
/// # use coracle::namespaces::Command;
/// # use coracle::cgroups::Limits;
/// let status = Command::new("memory-hog").limits(Limits::new().memory(256 * coracle::MIB)).status()?;
/// assert_eq!(status.to_string(), "killed: out of memory (limit 256 MiB)");
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ExitStatus {
    raw: i32,
    cause: Option<Cause>,
    usage: Option<ResourceUsage>,
}

/// Why a process was killed, where this crate knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    OutOfMemory { limit: Option<u64> },
    TimedOut { limit: Duration },
}

/// What a process and the children it waited for used, see getrusage(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResourceUsage {
    /// Processor time in user space.
    pub user_time: Duration,
    /// Processor time in the kernel.
    pub system_time: Duration,
    /// The largest resident set, in bytes.
    pub max_rss: u64,
    /// Page faults served without a read.
    pub minor_faults: u64,
    /// Page faults that had to read.
    pub major_faults: u64,
    /// Reads from file systems, in blocks of 512 bytes.
    pub blocks_read: u64,
    /// Writes to file systems, in blocks of 512 bytes.
    pub blocks_written: u64,
    /// Times it gave up the processor to wait.
    pub voluntary_switches: u64,
    /// Times the processor was taken from it.
    pub involuntary_switches: u64,
}

impl ExitStatus {
    pub(crate) fn new(raw: i32, cause: Option<Cause>, usage: Option<ResourceUsage>) -> Self {
        Self { raw, cause, usage }
    }

    /// As it was written down: with the memory limit, if the container had one, if memory ran out.
    #[cfg(feature = "container")]
    pub(crate) fn recorded(raw: i32, out_of_memory: Option<Option<u64>>) -> Self {
        Self::new(raw, out_of_memory.map(|limit| Cause::OutOfMemory { limit }), None)
    }

    /// Whether it exited with code 0.
    pub fn success(&self) -> bool {
        self.code() == Some(0)
    }

    /// The exit code; `None` if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        libc::WIFEXITED(self.raw).then(|| libc::WEXITSTATUS(self.raw))
    }

    /// The signal that ended it.
    pub fn signal(&self) -> Option<Signal> {
        libc::WIFSIGNALED(self.raw)
            .then(|| libc::WTERMSIG(self.raw))
            .and_then(|n| Signal::from_number(n).ok())
    }

    /// Whether it left a core dump.
    pub fn core_dumped(&self) -> bool {
        libc::WIFSIGNALED(self.raw) && libc::WCOREDUMP(self.raw)
    }

    /// Whether the kernel killed it because its cgroup ran out of memory.
    pub fn out_of_memory(&self) -> bool {
        matches!(self.cause, Some(Cause::OutOfMemory { .. }))
    }

    /// Whether it was killed because its time was up, see [`Command::timeout`](super::Command::timeout).
    pub fn timed_out(&self) -> bool {
        matches!(self.cause, Some(Cause::TimedOut { .. }))
    }

    /// What it used. `None` where the kernel had reaped it already, because the host ignores SIGCHLD.
    pub fn usage(&self) -> Option<&ResourceUsage> {
        self.usage.as_ref()
    }

    /// The code a shell reports: the exit code, or 128 and the number of the signal.
    pub fn shell_code(&self) -> i32 {
        self.code().unwrap_or_else(|| 128 + libc::WTERMSIG(self.raw))
    }

    /// The status as wait(2) returns it.
    pub fn into_raw(&self) -> i32 {
        self.raw
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause {
            Some(Cause::OutOfMemory { limit: Some(limit) }) => {
                return write!(f, "killed: out of memory (limit {})", bytes(limit));
            }
            Some(Cause::OutOfMemory { limit: None }) => {
                return f.write_str("killed: out of memory");
            }
            Some(Cause::TimedOut { limit }) => {
                return write!(f, "killed: ran longer than {limit:?}");
            }
            None => {}
        }
        match (self.code(), self.signal()) {
            (Some(code), _) => write!(f, "exit status: {code}"),
            (None, Some(signal)) => {
                let core = if self.core_dumped() { " (core dumped)" } else { "" };
                write!(f, "killed by signal {signal}{core}")
            }
            (None, None) => write!(f, "wait status: {:#x}", self.raw),
        }
    }
}

/// `256 MiB`, `1000 bytes`.
fn bytes(amount: u64) -> String {
    for (unit, name) in [(GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")] {
        if amount >= unit && amount.is_multiple_of(unit) {
            return format!("{} {name}", amount / unit);
        }
    }
    format!("{amount} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_says_why() {
        let text = |raw, cause| ExitStatus::new(raw, cause, None).to_string();
        assert_eq!(text(0, None), "exit status: 0");
        assert_eq!(text(3 << 8, None), "exit status: 3");
        assert_eq!(text(15, None), "killed by signal SIGTERM");
        assert_eq!(text(11 | 0x80, None), "killed by signal SIGSEGV (core dumped)");
        let limit = Some(256 * MIB);
        assert_eq!(
            text(9, Some(Cause::OutOfMemory { limit })),
            "killed: out of memory (limit 256 MiB)"
        );
        let limit = Duration::from_millis(1500);
        assert_eq!(text(9, Some(Cause::TimedOut { limit })), "killed: ran longer than 1.5s");
    }

    #[test]
    fn codes_and_signals_are_told_apart() {
        let exited = ExitStatus::new(7 << 8, None, None);
        assert_eq!((exited.code(), exited.signal(), exited.shell_code()), (Some(7), None, 7));
        let killed = ExitStatus::new(9, None, None);
        assert_eq!((killed.code(), killed.success(), killed.shell_code()), (None, false, 137));
        assert_eq!(killed.signal(), Some(Signal::KILL));
    }
}
