//! Waiting for a process through its pidfd.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// How a process ended: the status of wait(2), and its use of resources where the kernel still had it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) status: i32,
    pub(crate) usage: Option<libc::rusage>,
}

/// Waits for the process, or with `block` false looks whether it has ended.
///
/// A host that ignores SIGCHLD, or reaps everything with waitpid(-1), has the kernel forget the exit status; since
/// Linux 6.15 the pidfd still knows it (`PIDFD_GET_INFO`). Before, that is ECHILD.
pub(crate) fn wait(pidfd: impl AsFd, block: bool) -> io::Result<Option<Ended>> {
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: all-zero is valid for both.
    let (mut info, mut usage): (libc::siginfo_t, libc::rusage) = unsafe { std::mem::zeroed() };
    // SAFETY: __WALL, as the exit signal of a process that has not executed yet is 0.
    let options = libc::WEXITED | libc::__WALL | if block { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: the kernel fills the siginfo and the rusage.
        let result = unsafe {
            libc::syscall(
                libc::SYS_waitid,
                libc::P_PIDFD,
                fd,
                &raw mut info,
                options,
                &raw mut usage,
            )
        };
        if result == 0 {
            break;
        }
        match io::Error::last_os_error() {
            err if err.raw_os_error() == Some(libc::EINTR) => {}
            err if err.raw_os_error() == Some(libc::ECHILD) => {
                // Not ended, and yet not to be waited for: a child of somebody else.
                if !poll(&pidfd, Some(Duration::ZERO))? {
                    return if block { Err(err) } else { Ok(None) };
                }
                return match exit_info(fd) {
                    Some(status) => Ok(Some(Ended { status, usage: None })),
                    None => Err(err),
                };
            }
            err => return Err(err),
        }
    }
    // SAFETY: waitid filled the fields of a SIGCHLD siginfo, or left the pid zero.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let status = match info.si_code {
        libc::CLD_EXITED => (status & 0xff) << 8,
        libc::CLD_DUMPED => status | 0x80,
        _ => status,
    };
    Ok(Some(Ended { status, usage: Some(usage) }))
}

/// `pidfd_open(pid)`, Linux 5.3: of the process that has this id now.
pub(crate) fn open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// `struct pidfd_info` in its first size.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// The exit status of a process that has ended and that somebody else reaps.
///
/// waitid(2) forgets a process a moment before its pidfd learns the status, so this looks again until
/// the kernel knows nothing of the process any more, for a second at most.
fn exit_info(pidfd: i32) -> Option<i32> {
    const PIDFD_GET_INFO: libc::c_ulong = 0xC040_FF0B;
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    let deadline = Instant::now() + Duration::from_secs(1);
    loop {
        let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
        // SAFETY: the kernel fills one pidfd_info, whose size is part of the request's number.
        let result = unsafe { libc::ioctl(pidfd, PIDFD_GET_INFO, &raw mut info) };
        if result == 0 && info.mask & PIDFD_INFO_EXIT != 0 {
            return Some(info.exit_code);
        }
        if result != 0 || Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// Waits until the fd is readable, which a pidfd is once its process has ended. False: the time is up.
pub(crate) fn poll(fd: impl AsFd, timeout: Option<Duration>) -> io::Result<bool> {
    let deadline = timeout.map(|t| Instant::now().checked_add(t));
    let mut poll = libc::pollfd { fd: fd.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    loop {
        let milliseconds = match deadline {
            Some(Some(deadline)) => milliseconds_until(deadline),
            _ => -1,
        };
        // SAFETY: one pollfd.
        match unsafe { libc::poll(&raw mut poll, 1, milliseconds) } {
            -1 => match io::Error::last_os_error() {
                err if err.kind() == io::ErrorKind::Interrupted => {}
                err => return Err(err),
            },
            0 if matches!(deadline, Some(Some(deadline)) if Instant::now() < deadline) => {}
            ready => return Ok(ready > 0),
        }
    }
}

/// For poll(2), rounded up.
pub(crate) fn milliseconds_until(deadline: Instant) -> i32 {
    let left = deadline.saturating_duration_since(Instant::now());
    i32::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
}
