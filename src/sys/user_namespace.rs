//! The raw part of user namespaces: a process that holds a new one open until it is mapped.

use std::ffi::c_void;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::ptr;

use super::clone::{CloneArgs, Stack, clone};
use super::mount::OpenTree;
use super::raw::{Errno, sys};
use super::signals::SignalsBlocked;
use crate::error::SyscallError;

/// A process in a new, unmapped user namespace, which sleeps until this value is dropped.
///
/// It shares the host's memory and descriptors (so the size of the host does not matter) and runs beside
/// the host's threads: it has a stack of its own, keeps all signals blocked, and performs raw system calls
/// only. It dies with the thread that made it, so a host that is killed leaves none.
#[derive(Debug)]
pub(crate) struct Holder {
    pid: i32,
    pidfd: OwnedFd,
    killed: bool,
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
        Ok(Self { pid, pidfd, killed: false, stack: ManuallyDrop::new(stack) })
    }

    /// Cannot be reused by another process while this value exists.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// The namespace, if the kernel gives it by the pidfd (Linux 6.11): without way through `/proc`.
    pub(crate) fn namespace(&self) -> Option<OwnedFd> {
        /// `_IO(0xFF, 9)`, see ioctl_pidfd(2).
        const PIDFD_GET_USER_NAMESPACE: usize = 0xff09;
        let pidfd = self.pidfd.as_raw_fd();
        // SAFETY: the request takes no argument.
        let fd = unsafe { sys!(SYS_ioctl, pidfd, PIDFD_GET_USER_NAMESPACE, 0usize) }.ok()?;
        // SAFETY: the kernel has just made this descriptor, close-on-exec, for the caller.
        Some(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }

    /// Ends the process without waiting for it; the drop does. On a busy machine most of the time goes
    /// into waiting until the process is scheduled once more, which other work can hide.
    pub(crate) fn kill(&mut self) {
        let pidfd = self.pidfd.as_raw_fd();
        // SAFETY: the kernel takes a null siginfo.
        let killed = unsafe { sys!(SYS_pidfd_send_signal, pidfd, libc::SIGKILL, 0usize, 0usize) };
        // ESRCH: another `wait` of the host has reaped it.
        self.killed |= matches!(killed, Ok(_) | Err(Errno(libc::ESRCH)));
    }

    fn wait(&self) -> Result<(), Errno> {
        let (kind, pidfd) = (libc::P_PIDFD, self.pidfd.as_raw_fd());
        let options = libc::WEXITED | libc::__WALL;
        // SAFETY: the kernel takes a null siginfo and a null rusage.
        unsafe { sys!(SYS_waitid, kind, pidfd, 0usize, options, 0usize) }?;
        Ok(())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if !self.killed {
            self.kill();
        }
        // Only a filter on the host's system calls makes one of the two fail. Better lose the stack then than free
        // it under a process that may be running on it.
        let gone = self.killed
            && loop {
                match self.wait() {
                    Err(Errno(libc::EINTR)) => {}
                    // ECHILD: another `wait` of the host has reaped it.
                    Ok(()) | Err(Errno(libc::ECHILD)) => break true,
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

/// Whether this process's user namespace is the one that every other is below.
pub(crate) fn in_initial_user_namespace() -> bool {
    /// `PROC_USER_INIT_INO`.
    const INITIAL: u64 = 0xEFFF_FFFD;
    std::fs::metadata("/proc/self/ns/user").is_ok_and(|namespace| namespace.ino() == INITIAL)
}

/// Whether this process may copy and attach mounts itself. In a user namespace of its own it may only if its mount
/// namespace belongs to that too, which only a try tells.
pub(crate) fn may_mount() -> bool {
    const CAP_SYS_ADMIN: u32 = 21;
    effective_capabilities() >> CAP_SYS_ADMIN & 1 == 1
        && (in_initial_user_namespace()
            || super::mount::open_tree(nix::fcntl::AT_FDCWD, c"/", OpenTree::CLONE).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pid: i32) -> String {
        std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default()
    }

    #[test]
    fn the_holder_blocks_all_signals_and_is_gone_after_its_drop() {
        let mask = || {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            status.lines().find(|line| line.starts_with("SigBlk")).unwrap().to_owned()
        };
        let before = mask();
        let holder = Holder::spawn().unwrap();
        assert_eq!(mask(), before);
        // All but SIGKILL and SIGSTOP.
        assert!(status(holder.pid()).contains("SigBlk:\tfffffffffffbfeff"));
        let pid = holder.pid();
        drop(holder);
        assert_eq!(status(pid), "");
    }

    #[test]
    fn the_holder_dies_with_the_thread_that_made_it() {
        let make = || {
            let holder = ManuallyDrop::new(Holder::spawn().unwrap());
            // Once it sleeps it has asked for the signal.
            while !status(holder.pid()).contains("State:\tS") {
                std::thread::yield_now();
            }
            holder
        };
        let holder = std::thread::spawn(make).join().unwrap();
        assert_eq!(holder.wait(), Ok(()));
        drop(ManuallyDrop::into_inner(holder));
    }
}
