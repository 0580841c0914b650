//! A terminal of the container's own devpts.

use super::{Done, Named, close, fail, mounts, open as open_file};
use crate::sys::plan::{Fds, Slot};
use crate::sys::raw::sys;

const TIOCGPTPEER: u64 = 0x5441;

/// Opens a terminal pair through the devpts mount itself, never by a path an image could have replaced
/// (CVE-2025-52565).
pub(super) fn open(
    fds: &Fds,
    pts: Option<Slot>,
    peer: Slot,
    socket: Slot,
    rows: u16,
    columns: u16,
) -> Done {
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let (dir, opened) = match pts {
        Some(pts) => (fds.get(pts), false),
        None => (existing_devpts()?, true),
    };
    let master = open_file(dir, c"ptmx", flags).named("openat(devpts, \"ptmx\")");
    if opened {
        close(dir);
    }
    let master = master?;
    let unlock: i32 = 0;
    // SAFETY: the kernel reads one int.
    unsafe { sys!(SYS_ioctl, master, libc::TIOCSPTLCK, &raw const unlock) }
        .named("ioctl(TIOCSPTLCK)")?;
    let size = [rows, columns, 0, 0];
    // SAFETY: the kernel reads one struct winsize, four u16.
    unsafe { sys!(SYS_ioctl, master, libc::TIOCSWINSZ, size.as_ptr()) }
        .named("ioctl(TIOCSWINSZ)")?;
    // SAFETY: takes no pointer.
    let slave = unsafe { sys!(SYS_ioctl, master, TIOCGPTPEER, flags | libc::O_CLOEXEC) }
        .named("ioctl(TIOCGPTPEER)")?;
    fds.set(peer, slave as i32);
    send_fd(fds.get(socket), master)?;
    close(master);
    Ok(())
}

/// The devpts of a container that is there already, if it is one and no link leads to it.
fn existing_devpts() -> Done<i32> {
    const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;
    let dir = mounts::open_no_links(c"/dev/pts").named("openat2(\"/dev/pts\")")?;
    // The kernel's struct statfs: words, of which the first is f_type.
    let mut found = [0u64; 16];
    // SAFETY: the kernel fills one struct statfs, 15 words.
    let asked = unsafe { sys!(SYS_fstatfs, dir, found.as_mut_ptr()) };
    if asked.is_ok() && found[0] == DEVPTS_SUPER_MAGIC {
        return Ok(dir);
    }
    close(dir);
    fail("fstatfs(\"/dev/pts\")", libc::ENODEV)
}

/// `peer` becomes the controlling terminal of the session that the process leads.
pub(super) fn make_controlling(peer: i32) -> Done {
    // SAFETY: takes no pointer.
    unsafe { sys!(SYS_ioctl, peer, libc::TIOCSCTTY, 0) }.named("ioctl(TIOCSCTTY)").map(drop)
}

pub(super) fn send_fd(socket: i32, fd: i32) -> Done {
    #[repr(C)]
    struct Control {
        header: libc::cmsghdr,
        fd: i32,
        padding: i32,
    }
    let byte = 0u8;
    let mut data = libc::iovec { iov_base: (&raw const byte).cast_mut().cast(), iov_len: 1 };
    // SAFETY: all-zero is valid for these plain C structs.
    let (mut control, mut message): (Control, libc::msghdr) = unsafe { std::mem::zeroed() };
    control.header.cmsg_len = (size_of::<libc::cmsghdr>() + size_of::<i32>()) as _;
    control.header.cmsg_level = libc::SOL_SOCKET;
    control.header.cmsg_type = libc::SCM_RIGHTS;
    control.fd = fd;
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    // SAFETY: the message points at the locals above.
    unsafe { sys!(SYS_sendmsg, socket, &raw const message, libc::MSG_NOSIGNAL) }
        .named("sendmsg(SCM_RIGHTS)")
        .map(drop)
}
