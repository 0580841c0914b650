//! Layers that are unpacked while their blob comes in, before it is known which image they are of.

use std::io::BufRead;

use super::store::Store;
use super::unpacked::fill;
use crate::error::{Error, Result};
use crate::layers::{ArchiveLimits, LayerStore, Staging};

/// Unpacks layers early, as if each were the lowest of its image.
#[derive(Clone, Debug)]
pub(super) struct Unpacker {
    layers: LayerStore,
    limits: ArchiveLimits,
}

/// Such a layer.
#[derive(Debug)]
pub(super) struct Early {
    staging: Staging,
    stands_alone: bool,
    has_top: bool,
}

impl Unpacker {
    pub(super) fn new(store: &Store) -> Result<Self> {
        Ok(Self { layers: store.layers()?, limits: store.limits() })
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
        let staging = self.layers.prepare(&[])?;
        let unpacked = fill(&staging, from, self.limits)?;
        if unpacked.entries == 0 {
            return Err(Error::invalid("it may be no layer at all"));
        }
        Ok(Early { staging, stands_alone: unpacked.stands_alone, has_top: unpacked.has_top })
    }
}

impl Early {
    /// The layer upon these others. `None` if they change what it looks like.
    pub(super) fn upon(
        mut self,
        parents: &[&str],
        limits: ArchiveLimits,
    ) -> Result<Option<Staging>> {
        if parents.is_empty() {
            return Ok(Some(self.staging));
        }
        if !self.stands_alone || !self.staging.keeps_differences() {
            return Ok(None);
        }
        self.staging.set_parents(parents);
        if !self.has_top {
            // An empty archive leaves nothing to do but that.
            fill(&self.staging, &[0; 1024][..], limits)?;
        }
        Ok(Some(self.staging))
    }
}
