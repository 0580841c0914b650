//! A directory that takes part in a stack.

use std::ffi::CString;
use std::fs::read_link;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat, lstat};

use crate::error::{Context, Error, ErrorKind, Result};

/// How directories are held: enough to hand them to the kernel, and no more.
pub(super) const HANDLE: OFlag =
    OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC).union(OFlag::O_NOFOLLOW);

/// Device and inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl Identity {
    pub(super) fn of(fd: &OwnedFd) -> nix::Result<Self> {
        let stat = fstat(fd)?;
        Ok(Self { device: stat.st_dev, inode: stat.st_ino })
    }
}

/// An existing directory, open with `O_PATH`.
#[derive(Debug)]
pub(super) struct Directory {
    /// Absolute, without symbolic links.
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    pub(super) fd: OwnedFd,
}

impl Directory {
    /// `role` says in messages what the directory is for.
    pub(super) fn open(path: &Path, role: &str) -> Result<Self> {
        let attempt = || format!("open {role} {}", path.display());
        c_string(path).context(attempt)?;
        let flags = HANDLE - OFlag::O_NOFOLLOW;
        let fd = open(path, flags, Mode::empty()).context(attempt).map_err(|err| {
            match err.raw_os_error() {
                Some(libc::ENOTDIR) => err.with_hint("it must be a directory"),
                _ => err,
            }
        })?;
        Self::from_fd(fd).context(attempt)
    }

    pub(super) fn from_fd(fd: OwnedFd) -> Result<Self> {
        let stat = fstat(&fd).context(|| "read the attributes of the directory")?;
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let path = read_link(&link).context(|| format!("read the link {link}")).map_err(|err| {
            err.with_hint("the host must see its own processes: mount a proc file system on /proc")
        })?;
        // Its path would read `/a/b (deleted)`.
        if stat.st_nlink == 0 {
            return Err(Error::new(ErrorKind::NotFound, "the directory has been removed"));
        }
        let identity = Identity { device: stat.st_dev, inode: stat.st_ino };
        // A descriptor of another mount namespace or of a detached mount has a path that means something
        // else here.
        let there = lstat(&path).map(|stat| Identity { device: stat.st_dev, inode: stat.st_ino });
        if there != Ok(identity) {
            return Err(Error::invalid(format!("{} is another directory here", path.display()))
                .with_hint("the directory must be reachable by a path in this mount namespace"));
        }
        Ok(Self { path, identity, fd })
    }
}

pub(super) fn c_string(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::invalid(format!("the path {path:?} contains a NUL byte")))
}
