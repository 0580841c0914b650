//! What a program does that was started to serve its starter.

use std::io;
use std::ops::Range;
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

/// What is far below this frame is nobody's until something is called again.
fn give_stack_back() {
    const MARGIN: usize = 16 << 10;
    let mut mark = 0_u8;
    let here = std::hint::black_box(&raw mut mark).addr();
    // SAFETY: takes no pointer.
    let Ok(page) = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) else { return };
    // The kernel rounds lengths up, to pages that may have 64 KiB.
    let end = (here - MARGIN) / page * page;
    // Other threads have theirs elsewhere.
    let Some(stack) = first_stack().filter(|stack| stack.contains(&here) && stack.start < end)
    else {
        return;
    };
    // SAFETY: the range lies in the stack of this thread, which grows down, and all frames, this one's and that of the
    // call included, end less than `MARGIN` below `here`: what is in the range is dead.
    unsafe {
        libc::madvise(
            std::ptr::without_provenance_mut(stack.start),
            end - stack.start,
            libc::MADV_DONTNEED,
        );
    }
}

/// Gives the kernel the whole pages of a buffer, whose content nobody needs any more. The allocator would keep them.
pub(crate) fn give_pages_back(buffer: &mut [u8]) {
    // SAFETY: takes no pointer.
    let Ok(page) = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) else { return };
    let Range { start, end } = buffer.as_mut_ptr_range();
    let (first, end) = (start.addr().next_multiple_of(page), end.addr() / page * page);
    if first < end {
        // SAFETY: the range lies in the buffer, which nobody else uses meanwhile, and holds bytes before and after: any
        // are fine, mostly zeros.
        unsafe { libc::madvise(start.with_addr(first).cast(), end - first, libc::MADV_DONTNEED) };
    }
}

/// Where the stack of the first thread is.
fn first_stack() -> Option<Range<usize>> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("[stack]"))?;
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some(number(start)?..number(end)?)
}

/// Gives the kernel what the allocator keeps for later, where it is glibc's, and what deeper calls have left of the first
/// thread's stack.
pub(crate) fn give_memory_back() {
    give_stack_back();
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer, and is safe among threads that allocate.
    unsafe {
        libc::malloc_trim(0);
    }
}
