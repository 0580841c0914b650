//! A directory of a cgroup hierarchy, and the short files below it.

use std::fmt;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::dir::Dir as Entries;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::error::SyscallError;

type Call<T> = std::result::Result<T, SyscallError>;

/// An open directory. Everything is named relative to it, so nothing that happens to the mount table
/// later can redirect a write.
pub(super) struct Dir {
    fd: OwnedFd,
    /// For messages only.
    path: PathBuf,
    /// Where to remove it when the last one who uses it is gone.
    remove: Option<(Arc<Dir>, String)>,
}

impl Drop for Dir {
    fn drop(&mut self) {
        if let Some((above, rel)) = &self.remove {
            // Not while another process has something in it.
            _ = above.rmdir(rel);
        }
    }
}

impl fmt::Debug for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

const DIRECTORY: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

impl Dir {
    pub(super) fn open(path: &Path) -> Call<Self> {
        let fd = open(path, OFlag::O_PATH | DIRECTORY, Mode::empty())
            .map_err(|errno| failed("open", path, "O_PATH|O_DIRECTORY", errno))?;
        Ok(Self { fd, path: path.into(), remove: None })
    }

    pub(super) fn open_dir(&self, rel: &str) -> Call<Self> {
        let fd = self.open_fd(rel, OFlag::O_PATH | DIRECTORY)?;
        Ok(Self { fd, path: self.join(rel), remove: None })
    }

    /// Opens a directory that is removed, if it is empty, with the last reference to it.
    pub(super) fn open_temporary(self: &Arc<Self>, rel: &str) -> Call<Self> {
        let mut dir = self.open_dir(rel)?;
        dir.remove = Some((self.clone(), rel.to_owned()));
        Ok(dir)
    }

    /// The descriptor of a directory or file below this one, close-on-exec.
    pub(super) fn open_fd(&self, rel: &str, flags: OFlag) -> Call<OwnedFd> {
        let name = if rel.is_empty() { "." } else { rel };
        openat(&self.fd, name, flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty())
            .map_err(|errno| failed("open", &self.join(rel), flag_name(flags), errno))
    }

    pub(super) fn read(&self, rel: &str) -> Call<String> {
        let mut file = std::fs::File::from(self.open_fd(rel, OFlag::O_RDONLY)?);
        let mut text = Vec::with_capacity(4096);
        let mut chunk = [0; 4096];
        loop {
            match file.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => text.extend_from_slice(&chunk[..n]),
                Err(err) if err.kind() == std::io::ErrorKind::Interrupted => {}
                Err(err) => {
                    return Err(failed("read", &self.join(rel), "", io_errno(&err)));
                }
            }
        }
        Ok(String::from_utf8(text).unwrap_or_default())
    }

    /// One `write`, which is what the kernel takes as one setting.
    pub(super) fn write(&self, rel: &str, value: &str) -> Call<()> {
        let mut file = std::fs::File::from(self.open_fd(rel, OFlag::O_WRONLY)?);
        loop {
            match file.write(value.as_bytes()) {
                Ok(_) => return Ok(()),
                Err(err) if err.kind() == std::io::ErrorKind::Interrupted => {}
                Err(err) => {
                    return Err(failed("write", &self.join(rel), value, io_errno(&err)));
                }
            }
        }
    }

    pub(super) fn mkdir(&self, rel: &str) -> Call<()> {
        let mode = Mode::from_bits_truncate(0o755);
        mkdirat(&self.fd, rel, mode)
            // The host's umask would keep a container's users out of their own /sys/fs/cgroup.
            .and_then(|()| fchmodat(&self.fd, rel, mode, FchmodatFlags::FollowSymlink))
            .map_err(|errno| failed("mkdir", &self.join(rel), "", errno))
    }

    pub(super) fn rmdir(&self, rel: &str) -> Call<()> {
        unlinkat(&self.fd, rel, UnlinkatFlags::RemoveDir)
            .map_err(|errno| failed("rmdir", &self.join(rel), "", errno))
    }

    pub(super) fn exists(&self, rel: &str) -> bool {
        let name = if rel.is_empty() { "." } else { rel };
        fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
    }

    /// The names of the directories directly below `rel`.
    pub(super) fn children(&self, rel: &str) -> Call<Vec<String>> {
        let listing = |errno| failed("getdents", &self.join(rel), "", errno);
        let fd = self.open_fd(rel, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let mut entries = Entries::from_fd(fd).map_err(listing)?;
        let mut names = Vec::new();
        for entry in entries.iter() {
            let entry = entry.map_err(listing)?;
            if entry.file_type() == Some(nix::dir::Type::Directory)
                && let Ok(name) = entry.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(super) fn join(&self, rel: &str) -> PathBuf {
        if rel.is_empty() { self.path.clone() } else { self.path.join(rel) }
    }
}

/// `write("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "4096"): EINVAL`.
fn failed(call: &str, path: &Path, argument: &str, errno: Errno) -> SyscallError {
    let text = match (call, argument) {
        (_, "") => format!("{call}({path:?})"),
        ("write", value) => format!("write({path:?}, {value:?})"),
        (_, flags) => format!("{call}({path:?}, {flags})"),
    };
    SyscallError::new(text, errno as i32)
}

fn flag_name(flags: OFlag) -> &'static str {
    if flags.contains(OFlag::O_DIRECTORY) {
        "O_DIRECTORY"
    } else if flags.contains(OFlag::O_WRONLY) {
        "O_WRONLY"
    } else if flags.contains(OFlag::O_RDWR) {
        "O_RDWR"
    } else {
        "O_RDONLY"
    }
}

fn io_errno(err: &std::io::Error) -> Errno {
    Errno::from_raw(err.raw_os_error().unwrap_or(0))
}
