//! Pseudo terminals, and fds that a child sends.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Sets the size of a terminal.
pub(crate) fn set_size(terminal: impl AsFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel reads one winsize.
    let result =
        unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Rows and columns of a terminal.
pub(crate) fn size(terminal: impl AsFd) -> io::Result<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes one winsize.
    let result =
        unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    if result == 0 { Ok((size.ws_row, size.ws_col)) } else { Err(io::Error::last_os_error()) }
}

/// A terminal pair of the host's devpts: the host's side and the process's.
pub(crate) fn open_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: a C string.
    let master = owned(unsafe { libc::open(c"/dev/ptmx".as_ptr(), flags) })?;
    let unlock: i32 = 0;
    // SAFETY: the kernel reads one int.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: takes no pointer.
    let peer = owned(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) })?;
    Ok((master, peer))
}

/// Receives one fd from a socket, without waiting.
pub(crate) fn receive_fd(socket: impl AsFd) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Control {
        header: libc::cmsghdr,
        fd: i32,
        padding: i32,
    }
    let mut byte = 0u8;
    let mut data = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // SAFETY: all-zero is valid for these plain C structs.
    let (mut control, mut message): (Control, libc::msghdr) = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: the message points at the locals above.
    let received = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) };
    if received < 0 {
        return Err(io::Error::last_os_error());
    }
    if received == 0 || control.header.cmsg_type != libc::SCM_RIGHTS {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    owned(control.fd)
}

fn owned(fd: i32) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the callers got this fd from the kernel just now.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
