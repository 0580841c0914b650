//! The lock of a store, which its processes and threads take for moments.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::{Context, Error, Result};

/// Held: shared to add what a lease protects, exclusive to change the index or to collect garbage.
///
/// It is an flock(2) on an open file of its own, so threads exclude one another as processes do, and the
/// kernel frees it when its holder dies.
#[derive(Debug)]
pub(super) struct Lock {
    _held: Flock<OwnedFd>,
}

impl Lock {
    pub(super) fn shared(store: &Path) -> Result<Self> {
        Self::take(store, FlockArg::LockShared)
    }

    pub(super) fn exclusive(store: &Path) -> Result<Self> {
        Self::take(store, FlockArg::LockExclusive)
    }

    fn take(store: &Path, how: FlockArg) -> Result<Self> {
        let path = store.join("lock");
        let attempt = || format!("lock {}", path.display());
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o644).custom_flags(libc::O_NOFOLLOW);
        let mut file = OwnedFd::from(options.open(&path).context(attempt)?);
        loop {
            match Flock::lock(file, how) {
                Ok(held) => return Ok(Self { _held: held }),
                Err((back, Errno::EINTR)) => file = back,
                Err((_, errno)) => return Err(unlockable(errno)).context(attempt),
            }
        }
    }
}

/// Takes the lock of a file, if nobody else has it.
pub(super) fn try_lock(file: OwnedFd) -> Result<Option<Flock<OwnedFd>>> {
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(held) => Ok(Some(held)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(unlockable(errno)),
    }
}

fn unlockable(errno: Errno) -> Error {
    let failed = Err::<(), _>(errno).context(|| "flock").expect_err("it is an error");
    match errno {
        Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::ENOSYS => {
            failed.with_hint("the file system of the store must support flock(2)")
        }
        _ => failed,
    }
}
