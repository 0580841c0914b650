//! What a filter answers to a system call.

use crate::error::{Error, Result};

/// What happens to a system call, see `seccomp(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Action {
    /// The call is made.
    Allow,
    /// The call fails with this error number (`libc::EPERM`, ...), at most 4095; 0 pretends success.
    Errno(i32),
    /// The process is killed with `SIGSYS` (Linux 4.14).
    KillProcess,
    /// The thread is killed with `SIGSYS`.
    KillThread,
    /// The thread gets a `SIGSYS` that it can handle.
    Trap,
    /// The call is made, and noted in the audit log (Linux 4.14).
    Log,
    /// The call waits for the answer of whoever holds the filter's notify descriptor (Linux 5.0).
    Notify,
    /// A tracer decides and is given this number; without a tracer the call fails with `ENOSYS`.
    Trace(u16),
}

impl Action {
    /// The filter's return value.
    pub(super) fn value(self) -> u32 {
        match self {
            Self::Allow => libc::SECCOMP_RET_ALLOW,
            Self::Errno(errno) => libc::SECCOMP_RET_ERRNO | (errno.cast_unsigned() & 0xffff),
            Self::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
            Self::KillThread => libc::SECCOMP_RET_KILL_THREAD,
            Self::Trap => libc::SECCOMP_RET_TRAP,
            Self::Log => libc::SECCOMP_RET_LOG,
            Self::Notify => 0x7fc0_0000, // SECCOMP_RET_USER_NOTIF
            Self::Trace(data) => libc::SECCOMP_RET_TRACE | u32::from(data),
        }
    }

    /// Whether the call is made without anyone asked.
    pub(super) fn permits(self) -> bool {
        matches!(self, Self::Allow | Self::Log)
    }

    /// # Errors
    ///
    /// `InvalidInput` for a number that no system call can fail with.
    pub(super) fn validate(self) -> Result<()> {
        match self {
            Self::Errno(errno) if !(0..=4095).contains(&errno) => {
                Err(Error::invalid(format!("seccomp action with error number {errno}"))
                    .with_hint("the kernel takes 0 to 4095"))
            }
            _ => Ok(()),
        }
    }
}
