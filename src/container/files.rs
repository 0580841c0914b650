//! The small files of containers: written whole or not at all, locked by those who change them.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, Flock, FlockArg, RenameFlags, renameat2};
use nix::sys::stat::{FileStat, fstat};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::{read_file, sync_dir};

/// The longest of these files that is read.
const LONGEST: u64 = 4 << 20;

/// What is to be left of a file if the machine fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durable {
    /// All of it, from when the call returns.
    Yes,
    /// What it was before, perhaps.
    No,
    /// Nothing of use.
    Never,
}

/// A lock that is held: an flock(2) on an open file of its own, so threads exclude one another as processes do, and the
/// kernel frees it when its holder dies.
#[derive(Debug)]
pub(super) struct Held {
    file: Flock<OwnedFd>,
}

impl Held {
    /// Whether the file still has this path: it may have been removed before it was locked.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        let same = |file: FileStat, there: fs::Metadata| {
            (file.st_dev, file.st_ino) == (there.dev(), there.ino())
        };
        let there = fs::symlink_metadata(path);
        fstat(&*self.file).is_ok_and(|file| there.is_ok_and(|there| same(file, there)))
    }
}

/// Waits for the lock of a file, which is made if it is missing.
pub(super) fn lock(path: &Path) -> Result<Held> {
    wait(open_lock(path)?, path)
}

/// Waits for the lock of a directory.
pub(super) fn lock_directory(path: &Path) -> Result<Held> {
    wait(open_directory(path)?, path)
}

fn wait(mut file: OwnedFd, path: &Path) -> Result<Held> {
    loop {
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(file) => return Ok(Held { file }),
            Err((back, Errno::EINTR)) => file = back,
            Err((_, errno)) => return Err(errno).context(|| format!("lock {}", path.display())),
        }
    }
}

/// The lock of a file, if nobody else has it.
pub(super) fn try_lock(path: &Path) -> Result<Option<Held>> {
    attempt(open_lock(path)?, path)
}

/// The lock of a directory, if nobody else has it.
pub(super) fn try_lock_directory(path: &Path) -> Result<Option<Held>> {
    attempt(open_directory(path)?, path)
}

fn attempt(file: OwnedFd, path: &Path) -> Result<Option<Held>> {
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => Ok(Some(Held { file })),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno).context(|| format!("lock {}", path.display())),
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_DIRECTORY);
    Ok(options.open(path).context(|| format!("open {}", path.display()))?.into())
}

fn open_lock(path: &Path) -> Result<OwnedFd> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    Ok(options.open(path).context(|| format!("open {}", path.display()))?.into())
}

/// Reads a value that [`write_json`] has written.
///
/// # Errors
///
/// `NotFound`; `Malformed` for anything that it cannot have written, `Unsupported` for a version of another time.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path, version: u32) -> Result<T> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    let attempt = || format!("read {}", path.display());
    let bytes = read_file(path, LONGEST).context(attempt)?;
    let malformed = |err: serde_json::Error| Error::new(ErrorKind::Malformed, err.to_string());
    let found = serde_json::from_slice::<Versioned>(&bytes).map_err(malformed).context(attempt)?;
    if found.version != version {
        let message = format!("it has the version {}, and this one reads {version}", found.version);
        return Err(Error::unsupported(message)
            .with_hint("a newer version of this program may have written it: use that")
            .context(attempt()));
    }
    serde_json::from_slice(&bytes).map_err(malformed).context(attempt)
}

/// `None` for what is gone, or can be read by nobody here: it is damaged, or a newer version's. What fails for another
/// reason, for want of descriptors say, tells nothing of the file.
pub(super) fn if_readable<T>(read: Result<T>) -> Result<Option<T>> {
    use ErrorKind::{Malformed, NotFound, Unsupported};
    match read {
        Err(err) if matches!(err.kind(), NotFound | Malformed | Unsupported) => Ok(None),
        read => read.map(Some),
    }
}

/// Replaces a file: the old content or the new is there, whole, whatever happens to the process.
pub(super) fn write_json(path: &Path, value: &impl Serialize, durable: Durable) -> Result<()> {
    let mut bytes = serde_json::to_vec(value)
        .map_err(|err| Error::new(ErrorKind::InvalidInput, err.to_string()))
        .context(|| format!("write {}", path.display()))?;
    bytes.push(b'\n');
    write(path, &bytes, durable)
}

/// See [`write_json`]. The writer must hold the lock of the directory.
pub(super) fn write(path: &Path, bytes: &[u8], durable: Durable) -> Result<()> {
    let aside = path.with_extension("new");
    let attempt = || format!("write {}", path.display());
    // What a process left that was killed here.
    let _ = fs::remove_file(&aside);
    let written = (|| {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o644).custom_flags(libc::O_NOFOLLOW);
        let mut file = options.open(&aside)?;
        file.write_all(bytes)?;
        if durable == Durable::Yes {
            file.sync_all()?;
        }
        replace(&aside, path, durable)
    })();
    if let Err(err) = written {
        let _ = fs::remove_file(&aside);
        let full = matches!(err.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT));
        let err = Err::<(), _>(err).context(attempt);
        return match full {
            true => {
                err.map_err(|err| err.with_hint("the disk is full: remove containers or images"))
            }
            false => err,
        };
    }
    match durable {
        Durable::Yes => path.parent().map_or(Ok(()), sync_dir).context(attempt),
        Durable::No | Durable::Never => Ok(()),
    }
}

/// File systems begin to write to disk at once what takes the place of a file by rename(2), lest a failure of the machine
/// leave neither. What changes places with it they do not.
fn replace(aside: &Path, path: &Path, durable: Durable) -> io::Result<()> {
    let exchange = || renameat2(AT_FDCWD, aside, AT_FDCWD, path, RenameFlags::RENAME_EXCHANGE);
    if durable == Durable::Never && exchange().is_ok() {
        return fs::remove_file(aside);
    }
    fs::rename(aside, path)
}

/// Fine if it is gone already.
pub(super) fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
