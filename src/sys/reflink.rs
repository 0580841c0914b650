//! Content shared between files; see ioctl_ficlonerange(2).

use std::os::fd::{AsFd, AsRawFd};

use super::mount::Fd;
use super::raw::{Errno, sys};
use crate::error::SyscallError;

/// `_IOW(0x94, 9, int)`.
const FICLONE: usize = 0x4004_9409;

/// Gives `to` the content of `from` without copying it (btrfs, and xfs made with `reflink=1`: Linux 4.5).
pub(crate) fn clone_content(from: impl AsFd, to: impl AsFd) -> Result<(), SyscallError> {
    let (from, to) = (from.as_fd(), to.as_fd());
    // SAFETY: the argument is a descriptor, not a pointer.
    let cloned = unsafe { sys!(SYS_ioctl, to.as_raw_fd(), FICLONE, from.as_raw_fd()) };
    cloned.map(drop).map_err(|Errno(errno)| {
        SyscallError::new(format!("ioctl({}, FICLONE, {})", Fd(to), Fd(from)), errno)
    })
}
