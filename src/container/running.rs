//! A container as the process sees it that has started it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::launch;
use super::state::Exit;
use crate::cgroups::{Cgroup, OomWatch};
use crate::error::{Error, ErrorKind, Result};
use crate::layers::Rootfs;
use crate::namespaces::{Child, Command, ExitStatus};

/// Shared by the supervisor and by whoever waits for the container or runs something in it.
#[derive(Debug)]
pub(super) struct Running {
    /// Gone when it has ended, with what it held.
    child: Mutex<Option<Child>>,
    pidfd: OwnedFd,
    cgroup: Option<Cgroup>,
    rootfs: Mutex<Option<Rootfs>>,
    /// How it ended: there for those who wait, even when the container is gone.
    pub(super) exit: Arc<OnceLock<Exit>>,
    /// The supervisor waits for the lock of the container, which whoever has started it still holds.
    wanted: AtomicBool,
    /// Its end has been written down, and who waits is told.
    recorded: (Mutex<bool>, Condvar),
}

impl Running {
    pub(super) fn new(
        child: Child,
        pidfd: OwnedFd,
        cgroup: Option<Cgroup>,
        rootfs: Rootfs,
    ) -> Self {
        let (child, rootfs) = (Mutex::new(Some(child)), Mutex::new(Some(rootfs)));
        Self {
            child,
            pidfd,
            cgroup,
            rootfs,
            exit: Arc::default(),
            wanted: AtomicBool::new(false),
            recorded: Default::default(),
        }
    }

    /// Waits until its end has been written down, or so long.
    pub(super) fn wait_until_recorded(&self, patience: Duration) {
        let (recorded, told) = &self.recorded;
        let recorded = recorded.lock().unwrap_or_else(PoisonError::into_inner);
        drop(told.wait_timeout_while(recorded, patience, |recorded| !*recorded));
    }

    /// Tells those who wait for that.
    pub(super) fn tell_recorded(&self) {
        *self.recorded.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.recorded.1.notify_all();
    }

    /// For the supervisor, when the lock is not free: it has to try once more then.
    pub(super) fn want_lock(&self) {
        self.wanted.store(true, Ordering::SeqCst);
    }

    /// For others, when they have let go of the lock.
    pub(super) fn is_lock_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
    }

    pub(super) fn try_wait(&self) -> Result<Option<ExitStatus>> {
        self.with(Child::try_wait)
    }

    /// Begins to watch for memory that runs out.
    pub(super) fn watch_oom(&self) -> Result<Option<OomWatch>> {
        self.cgroup.as_ref().map_or(Ok(None), Cgroup::watch_oom)
    }

    /// How many of its processes were killed because memory ran out; 0 if that is not known.
    pub(super) fn oom_kills(&self) -> u64 {
        self.cgroup.as_ref().and_then(|cgroup| cgroup.oom_kills().ok()).unwrap_or_default()
    }

    pub(super) fn exec(&self, command: &mut Command) -> Result<Child> {
        self.with(|child| child.exec(command))
    }

    pub(super) fn rootfs(&self) -> Result<Rootfs> {
        let rootfs = self.rootfs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        rootfs.ok_or_else(|| Error::new(ErrorKind::InvalidState, "the container has ended"))
    }

    fn with<T>(&self, call: impl FnOnce(&mut Child) -> Result<T>) -> Result<T> {
        match &mut *self.child.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(child) => call(child),
            None => Err(Error::new(ErrorKind::InvalidState, "the container has ended")),
        }
    }

    /// Lets go of what its process held, and of its cgroup, with whatever is still in there.
    pub(super) fn end(&self) {
        drop(self.child.lock().unwrap_or_else(PoisonError::into_inner).take());
        drop(self.rootfs.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(cgroup) = &self.cgroup {
            let paths = cgroup.paths();
            let _ = cgroup.handle().delete();
            launch::remove_cgroups_above(&paths);
        }
    }
}

impl AsFd for Running {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}
