//! What a program does that was started to serve its starter.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// The descriptor with this number that the process was given when it was started, from now on closed when another
/// program is executed. `None` if there is none.
///
/// To be called once for a number, before anything else is opened.
pub(crate) fn inherited(number: i32) -> Option<OwnedFd> {
    // SAFETY: takes no pointer; fails with EBADF for a number that is not open.
    let set = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    if set < 0 {
        return None;
    }
    // SAFETY: it is open, and the callers' contract makes it nobody else's.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Goes on in a child of a session of its own, whose parent becomes whoever takes care of orphans. False in the calling
/// process, which is to end.
///
/// To be called while there is one thread.
pub(crate) fn leave_parent() -> io::Result<bool> {
    // SAFETY: with one thread, the child may do whatever its parent may.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: takes no pointer. A process that was just forked leads no group.
            unsafe { libc::setsid() };
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Gives the kernel what the allocator keeps for later, where it is glibc's.
pub(crate) fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer, and is safe among threads that allocate.
    unsafe {
        libc::malloc_trim(0);
    }
}
