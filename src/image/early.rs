//! Layers that are unpacked while their blob comes in, before it is known which image they are of.

use std::io::{self, BufRead, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::store::Store;
use super::unpacked::{fill, settle};
use crate::error::{Error, Result};
use crate::layers::{ArchiveLimits, Implied, LayerStore, Staging, read_buffered};

/// Unpacks layers early, as if each were the lowest of its image. Their space is there for who needs it more.
#[derive(Debug)]
pub(super) struct Unpacker {
    layers: LayerStore,
    limits: ArchiveLimits,
    given_up: AtomicBool,
    progress: Mutex<Progress>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    running: usize,
    made: Vec<Early>,
}

/// Such a layer, as long as nobody has given it up.
#[derive(Clone, Debug)]
pub(super) struct Early(Arc<Mutex<Option<Made>>>);

#[derive(Debug)]
struct Made {
    staging: Staging,
    /// `None` if it must be unpacked anew upon others.
    implied: Option<Implied>,
    /// Devices that it lacks.
    left_out: u64,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Unpacker {
    pub(super) fn new(store: &Store) -> Result<Self> {
        Ok(Self {
            layers: store.layers()?,
            limits: store.limits(),
            given_up: AtomicBool::new(false),
            progress: Mutex::default(),
            ended: Condvar::new(),
        })
    }

    /// Keeps to these limits too.
    pub(super) fn limits(mut self, limits: ArchiveLimits) -> Self {
        self.limits = self.limits.and(limits);
        self
    }

    pub(super) fn layers(&self) -> &LayerStore {
        &self.layers
    }

    /// Unpacks the tar stream `from`.
    pub(super) fn unpack(&self, from: impl BufRead) -> Result<Early> {
        let _running = Running::begin(self);
        let from = UntilGivenUp { from, given_up: &self.given_up };
        let staging = self.layers.prepare(&[])?;
        let (unpacked, implied) = fill(&staging, from, self.limits)?;
        if unpacked.entries == 0 {
            return Err(Error::invalid("it may be no layer at all"));
        }
        let made = Made { staging, implied, left_out: unpacked.left_out };
        let early = Early(Arc::new(Mutex::new(Some(made))));
        lock(&self.progress).made.push(early.clone());
        Ok(early)
    }

    /// Removes all that has been unpacked, and unpacks no more. Returns whether this is the first time. Streams that
    /// are being unpacked must go on or end.
    pub(super) fn give_up(&self) -> bool {
        let first = !self.given_up.swap(true, Ordering::Relaxed);
        let mut progress = lock(&self.progress);
        while progress.running > 0 {
            progress = self.ended.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        progress.made.drain(..).for_each(|early| drop(lock(&early.0).take()));
        first
    }

    pub(super) fn has_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }
}

/// Whoever gives up waits until it ends.
struct Running<'a>(&'a Unpacker);

impl<'a> Running<'a> {
    fn begin(unpacker: &'a Unpacker) -> Self {
        lock(&unpacker.progress).running += 1;
        Self(unpacker)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        lock(&self.0.progress).running -= 1;
        self.0.ended.notify_all();
    }
}

impl Early {
    /// The layer upon these others, and how many devices it lacks. `None` if it must be unpacked anew, for what they
    /// have in it.
    pub(super) fn upon(&self, parents: &[&str]) -> Option<(Staging, u64)> {
        let Made { mut staging, implied, left_out } = lock(&self.0).take()?;
        if parents.is_empty() {
            return Some((staging, left_out));
        }
        let implied = implied.filter(|_| staging.keeps_differences())?;
        staging.set_parents(parents);
        // Whoever unpacks it anew is told what does not work.
        settle(&staging, &implied).is_ok_and(|settled| settled).then_some((staging, left_out))
    }
}

/// Fails where the space is needed for something else.
struct UntilGivenUp<'a, R> {
    from: R,
    given_up: &'a AtomicBool,
}

impl<R: BufRead> BufRead for UntilGivenUp<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self.given_up.load(Ordering::Relaxed) {
            true => Err(io::Error::other("its space is needed")),
            false => self.from.fill_buf(),
        }
    }

    fn consume(&mut self, len: usize) {
        self.from.consume(len);
    }
}

impl<R: BufRead> Read for UntilGivenUp<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, buffer)
    }
}
