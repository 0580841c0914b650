//! Reading what a container has written, with the container's rights where the caller's do not suffice.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use nix::unistd::{geteuid, linkat};

use super::directory::HANDLE;
use super::overlay::join;
use crate::error::{Context, Result};
use crate::namespaces::UserNamespace;
use crate::sys::worker::Worker;
use crate::sys::xattr;

/// A user without privilege owns, through a user namespace, files of ids that are not his own, and may not
/// look into them himself: root of the namespace may.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access<'a>(pub(super) Option<&'a UserNamespace>);

impl Access<'_> {
    pub(super) fn open(self, dir: &OwnedFd, name: &OsStr, flags: OFlag) -> nix::Result<OwnedFd> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(dir, name, flags, Mode::empty()) {
            Err(Errno::EACCES) => self.open_as_root(dir, name, flags),
            other => other,
        }
    }

    pub(super) fn open_directory(self, dir: &OwnedFd, name: &OsStr) -> nix::Result<OwnedFd> {
        self.open(dir, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
    }

    /// Opens a directory below `dir` that is on the same mount (which needs openat2, Linux 5.6).
    pub(super) fn enter(self, dir: &OwnedFd, name: &OsStr) -> nix::Result<OwnedFd> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_NO_XDEV);
        match openat2(dir, name, how) {
            Err(Errno::ENOSYS | Errno::EACCES) => self.open_directory(dir, name),
            other => other,
        }
    }

    /// Whether what has this name in `dir` is mounted there from elsewhere (which needs openat2, Linux 5.6).
    #[cfg(feature = "container")]
    pub(super) fn is_mounted(self, dir: &OwnedFd, name: &OsStr) -> bool {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_NO_XDEV);
        openat2(dir, name, how).is_err_and(|errno| errno == Errno::EXDEV)
    }

    /// Makes a directory that this user holds through the namespace his own, and open to himself alone.
    pub(super) fn take_over(self, dir: &OwnedFd) -> Result<()> {
        let Some(namespace) = self.0 else { return Ok(()) };
        let stat = fstat(dir).context(|| "stat the directory")?;
        let usable = Mode::S_IRWXU.bits();
        if stat.st_uid == geteuid().as_raw() && stat.st_mode & usable == usable {
            return Ok(());
        }
        let mut worker = Worker::new();
        join(&mut worker, namespace)?;
        worker.set_owner(dir.as_fd(), 0, 0);
        worker.set_mode(dir.as_fd(), usable);
        worker.run().map(drop).context(|| "take over the directory")
    }

    /// Gives a file another name. With fs.protected_hardlinks (see proc_sys_fs(5)) a file of others cannot have one;
    /// within the namespace it is none of others.
    pub(super) fn link(
        self,
        dir: &OwnedFd,
        name: &OsStr,
        new_dir: &OwnedFd,
        new_name: &OsStr,
    ) -> nix::Result<()> {
        match (linkat(dir, name, new_dir, new_name, AtFlags::empty()), self.0) {
            (Err(Errno::EPERM | Errno::EACCES), Some(namespace)) => {
                let text = |name: &OsStr| CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL);
                let mut worker = Worker::new();
                join(&mut worker, namespace).map_err(|_| Errno::EPERM)?;
                worker.link(dir.as_fd(), text(name)?, new_dir.as_fd(), text(new_name)?);
                worker.run().map(drop).map_err(|err| Errno::from_raw(err.errno))
            }
            (linked, _) => linked,
        }
    }

    pub(super) fn stat(self, dir: &OwnedFd, name: &OsStr) -> nix::Result<FileStat> {
        match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::EACCES) => {
                fstat(self.open_as_root(dir, name, HANDLE - OFlag::O_DIRECTORY)?)
            }
            other => other,
        }
    }

    /// The first of the attributes that there is.
    pub(super) fn attribute(self, file: &OwnedFd, names: &[&CStr]) -> Result<Option<Vec<u8>>> {
        let what = || "read an attribute of it";
        for name in names {
            let value = match (xattr::get(file.as_fd(), name), self.0) {
                (Err(err), Some(namespace)) if err.errno == libc::EACCES => {
                    attribute_as_root(namespace, file, name)?
                }
                (value, _) => value.context(what)?,
            };
            if value.is_some() {
                return Ok(value);
            }
        }
        Ok(None)
    }

    fn open_as_root(self, dir: &OwnedFd, name: &OsStr, flags: OFlag) -> nix::Result<OwnedFd> {
        let Some(namespace) = self.0 else { return Err(Errno::EACCES) };
        let name = CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL)?;
        let mut worker = Worker::new();
        join(&mut worker, namespace).map_err(|_| Errno::EACCES)?;
        let slot = worker.open(dir.as_fd(), name, flags.bits());
        let mut opened = worker.run().map_err(|err| Errno::from_raw(err.errno))?;
        opened.take(slot).ok_or(Errno::EBADF)
    }
}

fn attribute_as_root(
    namespace: &UserNamespace,
    file: &OwnedFd,
    name: &CStr,
) -> Result<Option<Vec<u8>>> {
    let attempt = || "read an attribute of it";
    let mut worker = Worker::new();
    join(&mut worker, namespace)?;
    let value = worker.get_attribute(file.as_fd(), name);
    match worker.run() {
        Ok(opened) => Ok(opened.value(value).map(<[u8]>::to_vec)),
        Err(err) if matches!(err.errno, libc::ENODATA | libc::EOPNOTSUPP) => Ok(None),
        Err(err) => Err(err).context(attempt),
    }
}
