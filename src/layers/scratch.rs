//! The directory that holds a writable layer.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, openat};
use nix::sys::stat::{Mode, fchmod, mkdirat};

use super::directory::Directory;
use crate::error::{Context, ErrorKind, Result};

/// A directory with `upper`, which receives what is written, and `work`, which the kernel needs beside it.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) directory: Directory,
    /// Open for reading.
    pub(super) upper: OwnedFd,
    /// Keeps other stacks from writing here at the same time.
    pub(super) lock: Flock<OwnedFd>,
}

impl Scratch {
    /// Opens `path`; makes it (its parent must exist) and the two directories inside where they are
    /// missing.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let attempt = || format!("prepare the writable directory {}", path.display());
        match nix::unistd::mkdir(path, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST | Errno::EINVAL) => {}
            Err(err) => return Err(err).context(|| "mkdir").context(attempt),
        }
        let directory = Directory::open(path, "the writable directory")?;
        let lock = readable(&directory.fd, ".").context(attempt)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| errno)
            .context(|| "lock it")
            .map_err(|err| match err.raw_os_error() {
                Some(libc::EWOULDBLOCK) => err.with_kind(ErrorKind::Busy).with_hint(
                    "another stack writes there: drop it first, or give each its own directory",
                ),
                _ => err,
            })
            .context(attempt)?;
        let upper = subdirectory(&directory.fd, "upper", 0o755).context(attempt)?;
        subdirectory(&directory.fd, "work", 0o700).context(attempt)?;
        Ok(Self { directory, upper, lock })
    }
}

/// Opens a directory below `parent`, made with exactly this mode, whatever the umask, if it is missing.
fn subdirectory(parent: &OwnedFd, name: &str, mode: u32) -> Result<OwnedFd> {
    let made = match mkdirat(parent, name, Mode::S_IRWXU) {
        Ok(()) => true,
        Err(Errno::EEXIST) => false,
        Err(err) => return Err(err).context(|| format!("make the directory {name}")),
    };
    let fd = readable(parent, name)?;
    if made {
        fchmod(&fd, Mode::from_bits_truncate(mode))
            .context(|| format!("set the mode of the directory {name}"))?;
    }
    Ok(fd)
}

fn readable(parent: &OwnedFd, name: &str) -> Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty()).context(|| format!("open {name}")).map_err(|err| {
        match err.raw_os_error() {
            // O_NOFOLLOW on a symbolic link.
            Some(libc::ELOOP | libc::ENOTDIR) => err
                .with_kind(ErrorKind::InvalidInput)
                .with_hint(format!("{name} must be a directory, not a link or file")),
            _ => err,
        }
    })
}
