//! The raw part of user namespaces: a process that holds a new one open until it is mapped.

use std::ffi::c_void;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use super::clone::{CloneArgs, Stack, clone};
use super::raw::{Errno, sys};
use super::signals::SignalsBlocked;
use crate::error::SyscallError;

/// A process in a new, unmapped user namespace, which sleeps until this value is dropped.
///
/// It shares the host's memory and descriptors (so the size of the host does not matter) and runs beside
/// the host's threads: it has a stack of its own, keeps all signals blocked, and performs raw system calls
/// only. It dies with the thread that made it.
#[derive(Debug)]
pub(crate) struct Holder {
    pid: i32,
    pidfd: OwnedFd,
    /// Freed once the process is gone.
    stack: ManuallyDrop<Stack>,
}

impl Holder {
    pub(crate) fn spawn() -> Result<Self, SyscallError> {
        let failed = |errno| {
            SyscallError::new("clone(CLONE_NEWUSER|CLONE_VM|CLONE_FILES|CLONE_PIDFD)", errno)
        };
        let stack = Stack::new()
            .map_err(|err| SyscallError::new("mmap(stack)", err.raw_os_error().unwrap_or(0)))?;
        let mut pidfd = -1;
        let flags = libc::CLONE_NEWUSER | libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_PIDFD;
        let args = CloneArgs {
            flags: flags as u64,
            pidfd: &raw mut pidfd as u64,
            // No SIGCHLD: the host's handlers and `wait` calls must not see it.
            exit_signal: 0,
            ..CloneArgs::default()
        };
        let parent = std::process::id() as usize;
        let blocked = SignalsBlocked::new();
        // SAFETY: `pidfd` is writable until the call returns. The stack lives in the value returned, whose
        // drop frees it only after the process is gone. `sleep` uses no memory but its stack and makes raw
        // system calls only; its argument is a number.
        let pid = unsafe { clone(args, &stack, sleep, ptr::without_provenance_mut(parent)) };
        drop(blocked);
        let pid = pid.map_err(|Errno(errno)| failed(errno))?;
        // SAFETY: the kernel has just stored a new descriptor there.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Self { pid, pidfd, stack: ManuallyDrop::new(stack) })
    }

    /// Cannot be reused by another process while this value exists.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let pidfd = self.pidfd.as_raw_fd();
        let gone = loop {
            // SAFETY: the kernel ignores a null siginfo in both calls.
            let waited = unsafe {
                sys!(SYS_pidfd_send_signal, pidfd, libc::SIGKILL, 0usize, 0usize).and_then(|_| {
                    sys!(
                        SYS_waitid,
                        libc::P_PIDFD,
                        pidfd,
                        0usize,
                        libc::WEXITED | libc::__WALL,
                        0usize,
                    )
                })
            };
            match waited {
                Err(Errno(libc::EINTR)) => {}
                // ESRCH and ECHILD: another `wait` of the host has reaped it.
                Ok(_) | Err(Errno(libc::ESRCH | libc::ECHILD)) => break true,
                // Only a filter on the host's system calls does this. Better lose the stack than free it
                // under a process that may be running on it.
                Err(_) => break false,
            }
        };
        if gone {
            // SAFETY: dropped nowhere else, and the only process that ran on it is gone.
            unsafe { ManuallyDrop::drop(&mut self.stack) };
        }
    }
}

/// Runs in the child.
extern "C" fn sleep(parent: *mut c_void) -> ! {
    // SAFETY: none of the calls is given a pointer other than null.
    unsafe {
        let _ = sys!(SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        // In time only if the parent was still there when it was asked for.
        if sys!(SYS_getppid) == Ok(parent.addr()) {
            loop {
                let _ = sys!(SYS_ppoll, 0usize, 0, 0usize, 0usize, 0usize);
            }
        }
        loop {
            let _ = sys!(SYS_exit_group, 0);
        }
    }
}

/// The effective capabilities of the calling thread, a bit each; see capget(2).
pub(crate) fn effective_capabilities() -> u64 {
    /// `_LINUX_CAPABILITY_VERSION_3`.
    const VERSION: u32 = 0x2008_0522;
    let mut header = [VERSION, 0];
    // Effective, permitted, inheritable; low halves, then high halves.
    let mut sets = [0u32; 6];
    // SAFETY: the two structures of version 3, as arrays of their 32-bit fields.
    let got = unsafe { sys!(SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) };
    if got.is_err() {
        return 0;
    }
    u64::from(sets[0]) | u64::from(sets[3]) << 32
}

/// Whether `fd` is a file of a user namespace.
pub(crate) fn is_user_namespace(fd: &impl AsRawFd) -> io::Result<bool> {
    /// `_IO(0xb7, 3)`, Linux 4.11; see ioctl_nsfs(2).
    const NS_GET_NSTYPE: usize = 0xb703;
    // SAFETY: the request takes no argument.
    match unsafe { sys!(SYS_ioctl, fd.as_raw_fd(), NS_GET_NSTYPE, 0usize) } {
        Ok(kind) => Ok(kind == libc::CLONE_NEWUSER as usize),
        // What a file that is no namespace answers.
        Err(Errno(libc::ENOTTY | libc::EBADF)) => Ok(false),
        Err(Errno(errno)) => Err(io::Error::from_raw_os_error(errno)),
    }
}
