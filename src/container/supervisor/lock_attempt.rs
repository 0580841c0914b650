//! The lock of a container, for a thread that must not wait for it.

use std::time::Duration;

use super::super::container::Container;
use super::super::locked::Locked;
use crate::error::{ErrorKind, Result};

/// How soon a lock that another process holds is tried again.
pub(super) const RETRY: Duration = Duration::from_millis(2);
/// How soon it is tried again what failed for want of descriptors or memory.
pub(super) const RETRY_SHORT: Duration = Duration::from_millis(100);
/// The same, where it may be room on the disk, which seldom comes soon.
pub(super) const RETRY_FULL: Duration = Duration::from_secs(1);

pub(super) enum LockAttempt<'a> {
    Locked(Box<Locked<'a>>),
    /// It is to be tried again after this time.
    Later(Duration),
    /// Its directory was taken away from under it, or is damaged.
    Gone,
}

impl<'a> LockAttempt<'a> {
    pub(super) fn lock(container: &'a Container) -> Self {
        match Locked::try_of(container.home(), container.id()) {
            Ok(Some(locked)) => Self::Locked(Box::new(locked)),
            Ok(None) => Self::Later(RETRY),
            Err(err) if err.kind() == ErrorKind::ResourceExhausted => Self::Later(RETRY_SHORT),
            Err(_) => Self::Gone,
        }
    }
}

/// Whether it is to be tried again, as something was short.
pub(super) fn is_short(result: &Result<()>) -> bool {
    result.as_ref().is_err_and(|err| err.kind() == ErrorKind::ResourceExhausted)
}
