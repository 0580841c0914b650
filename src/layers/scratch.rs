//! The directory that holds a writable layer.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, mkdir, unlinkat};

use super::directory::{Directory, c_string};
use crate::error::{Context, Error, ErrorKind, Result};

/// A directory with `upper`, which receives what is written, and `work`, which the kernel needs beside it.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) directory: Directory,
    /// Open for reading.
    pub(super) upper: OwnedFd,
    /// Keeps other stacks from writing here at the same time.
    pub(super) lock: Flock<OwnedFd>,
    /// Nobody needs it any more when the machine has failed.
    pub(super) volatile: bool,
    /// What was missing.
    made: Vec<PathBuf>,
}

/// What the kernel makes in `work` for a volatile overlay, so that no other follows it: a directory, one in it, and a
/// file in that.
const VOLATILE: [&str; 3] =
    ["work/work/incompat", "work/work/incompat/volatile", "work/work/incompat/volatile/dirty"];

impl Scratch {
    /// Opens `path`; makes it (its parent must exist) and the two directories inside where they are
    /// missing.
    pub(super) fn open(path: &Path, volatile: bool) -> Result<Self> {
        let attempt = || format!("prepare the writable directory {}", path.display());
        let (directory, lock, new) = claim(path)?;
        let made = if new { vec![PathBuf::new()] } else { Vec::new() };
        let upper = lock.try_clone().context(attempt)?;
        let mut scratch = Self { directory, upper, lock, volatile, made };
        let prepared = scratch.prepare().context(attempt);
        if prepared.is_err() {
            scratch.undo();
        }
        prepared.map(|()| scratch)
    }

    fn prepare(&mut self) -> Result<()> {
        self.upper = self.subdirectory("upper", 0o755)?;
        self.subdirectory("work", 0o700)?;
        if self.volatile {
            self.forget_volatile();
        }
        match fstatat(&self.directory.fd, VOLATILE[1], AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(_) => Err(Error::new(ErrorKind::InvalidState, "a volatile stack has written there")
                .with_hint("ask for a volatile one again: what it holds may not be on disk")),
            Err(_) => Ok(()),
        }
    }

    /// The kernel would refuse what a volatile overlay has written, but whoever asks for such a one again knows.
    fn forget_volatile(&self) {
        // Whoever made it may have been killed before he could.
        self.make_removable();
        let [outer, inner, file] = VOLATILE;
        let _ = unlinkat(&self.directory.fd, file, UnlinkatFlags::NoRemoveDir);
        for directory in [inner, outer] {
            let _ = unlinkat(&self.directory.fd, directory, UnlinkatFlags::RemoveDir);
        }
    }

    /// Opens a directory below the scratch directory, made with exactly this mode, whatever the umask, if
    /// it is missing.
    fn subdirectory(&mut self, name: &str, mode: u32) -> Result<OwnedFd> {
        let attempt = || format!("make the directory {name}");
        let made = match mkdirat(&self.directory.fd, name, Mode::S_IRWXU) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(err) => return Err(err).context(attempt),
        };
        let fd = readable(&self.directory.fd, name)?;
        if made {
            self.made.push(name.into());
            fchmod(&fd, Mode::from_bits_truncate(mode)).context(attempt)?;
        }
        Ok(fd)
    }

    /// Whether the writable layer was missing.
    pub(super) fn has_new_upper(&self) -> bool {
        self.made.iter().any(|made| made.ends_with("upper"))
    }

    /// Lets the owner remove the directories that the kernel has made in `work`, which have no mode bits: an
    /// ordinary user's `rm -r` would stop there.
    pub(super) fn make_removable(&self) {
        for directory in ["work/work", VOLATILE[0], VOLATILE[1]] {
            let (mode, flags) = (Mode::S_IRWXU, FchmodatFlags::FollowSymlink);
            let _ = fchmodat(&self.directory.fd, directory, mode, flags);
        }
    }

    /// Removes what was missing when a stack came to nothing.
    pub(super) fn undo(&self) {
        for path in self.made.iter().rev() {
            // The kernel may have begun to use it.
            if path.ends_with("work") {
                self.forget_volatile();
                let _ = unlinkat(&self.directory.fd, "work/work", UnlinkatFlags::RemoveDir);
            }
            let path = self.directory.path.join(path);
            let _ = unlinkat(AT_FDCWD, &path, UnlinkatFlags::RemoveDir);
        }
    }
}

/// Opens and locks the directory at `path`, which is made if it is missing; its parent must exist. Returns also
/// whether it was made.
pub(super) fn claim(path: &Path) -> Result<(Directory, Flock<OwnedFd>, bool)> {
    let attempt = || format!("prepare the writable directory {}", path.display());
    let new = match mkdir(path, Mode::S_IRWXU) {
        Ok(()) => true,
        Err(Errno::EEXIST) => false,
        Err(Errno::EINVAL) => c_string(path).map(|_| false).context(attempt)?,
        Err(err) => return Err(err).context(|| "make the directory").context(attempt),
    };
    let directory = Directory::open(path, "the writable directory")?;
    let lock = lock(readable(&directory.fd, ".").context(attempt)?)
        .context(|| "lock it")
        .map_err(|err| match err.raw_os_error() {
            Some(libc::EWOULDBLOCK) => err.with_kind(ErrorKind::Busy).with_hint(
                "another stack writes there: drop it first, or give each its own directory",
            ),
            _ => err,
        })
        .context(attempt)?;
    Ok((directory, lock, new))
}

/// Until it is executed, a process that another thread is just making has a copy of a lock that was let go of.
fn lock(mut directory: OwnedFd) -> nix::Result<Flock<OwnedFd>> {
    const PATIENCE: Duration = Duration::from_millis(250);
    let until = Instant::now() + PATIENCE;
    loop {
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Err((back, Errno::EWOULDBLOCK)) if Instant::now() < until => {
                directory = back;
                std::thread::sleep(Duration::from_millis(1));
            }
            other => return other.map_err(|(_, errno)| errno),
        }
    }
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
