//! The ioctls of a seccomp notification fd (`linux/seccomp.h`), see `seccomp_unotify(2)`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const RECV: u64 = 0xc050_2100;
const SEND: u64 = 0xc018_2101;
const ID_VALID: u64 = 0x4008_2102;
const ADDFD: u64 = 0x4018_2103;

/// `struct seccomp_notif`, whose size is part of the request's number.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Notif {
    pub(crate) id: u64,
    pub(crate) pid: u32,
    flags: u32,
    pub(crate) number: i32,
    pub(crate) arch: u32,
    pub(crate) instruction_pointer: u64,
    pub(crate) args: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Response {
    pub(crate) id: u64,
    pub(crate) value: i64,
    pub(crate) error: i32,
    pub(crate) flags: u32,
}

/// `struct seccomp_notif_addfd`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct AddFd {
    id: u64,
    flags: u32,
    source: u32,
    number: u32,
    number_flags: u32,
}

pub(crate) fn receive(fd: BorrowedFd<'_>) -> io::Result<Notif> {
    // The kernel insists on zeroes.
    let mut notif = Notif::default();
    // SAFETY: the kernel fills one seccomp_notif.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), RECV as _, &raw mut notif) })?;
    Ok(notif)
}

pub(crate) fn send(fd: BorrowedFd<'_>, response: &Response) -> io::Result<()> {
    // SAFETY: the kernel reads one seccomp_notif_resp.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), SEND as _, &raw const *response) }).map(drop)
}

pub(crate) fn is_valid(fd: BorrowedFd<'_>, id: u64) -> io::Result<()> {
    // SAFETY: the kernel reads one u64.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), ID_VALID as _, &raw const id) }).map(drop)
}

/// Opens a copy of `source` in the process that waits; its number there.
pub(crate) fn add_fd(
    fd: BorrowedFd<'_>,
    id: u64,
    source: BorrowedFd<'_>,
    close_on_exec: bool,
) -> io::Result<i32> {
    let add = AddFd {
        id,
        flags: 0,
        source: source.as_raw_fd() as u32,
        number: 0,
        number_flags: if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
    };
    // SAFETY: the kernel reads one seccomp_notif_addfd.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), ADDFD as _, &raw const add) })
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_as_long_as_the_requests_say() {
        let size = |request: u64| (request >> 16 & 0x3fff) as usize;
        assert_eq!(size(RECV), size_of::<Notif>());
        assert_eq!(size(SEND), size_of::<Response>());
        assert_eq!(size(ID_VALID), size_of::<u64>());
        assert_eq!(size(ADDFD), size_of::<AddFd>());
    }
}
