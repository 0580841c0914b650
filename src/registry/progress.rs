//! What is told of a transfer while it goes on.

use std::fmt;
use std::sync::Arc;

use crate::image::Digest;

/// How far a blob has come. Sent when it begins, changes its phase, and every so often as bytes move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The blob: a layer, or the configuration.
    pub digest: Digest,
    /// What is being done with it.
    pub phase: Phase,
    /// The bytes that have been transferred.
    pub bytes: u64,
    /// The bytes that there are.
    pub size: u64,
}

/// What is being done with a blob, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Others come first, or another pull is fetching it.
    Waiting,
    /// It is transferred; layers are unpacked meanwhile.
    Transferring,
    /// The connection broke, and is made anew.
    Retrying,
    /// It is here and checked; the last of it is being unpacked.
    Unpacking,
    /// It had been there.
    Present,
    /// The registry has taken it from another repository of its own.
    Mounted,
    /// All is done.
    Complete,
}

type Listener = dyn Fn(&Progress) + Send + Sync;

/// Whom to tell.
#[derive(Clone, Default)]
pub(super) struct Reporter(Option<Arc<Listener>>);

impl Reporter {
    pub(super) fn new(to: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(to)))
    }

    pub(super) fn tell(&self, digest: Digest, phase: Phase, bytes: u64, size: u64) {
        if let Some(to) = &self.0 {
            to(&Progress { digest, phase, bytes, size });
        }
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reporter").field(&self.0.is_some()).finish()
    }
}
