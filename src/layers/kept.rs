//! What a root filesystem keeps beside its mount.

use std::fmt::Debug;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::diff::Found;
use super::overlay::Ids;
use super::rootfs::Mounted;
use crate::error::Result;
use crate::namespaces::RootMount;

/// A root filesystem, what it was made of, and what must last as long as it does.
#[derive(Debug)]
pub(super) struct Kept {
    mounted: Arc<dyn Mounted>,
    layers: Option<Vec<String>>,
    mount_points: &'static [&'static str],
    _owner: Option<Arc<dyn Owner>>,
}

/// Whatever it is.
pub(crate) trait Owner: Debug + Send + Sync {}

impl Kept {
    pub(super) fn new(
        mounted: Arc<dyn Mounted>,
        layers: Option<Vec<String>>,
        owner: Option<Arc<dyn Owner>>,
        mount_points: &'static [&'static str],
    ) -> Self {
        Self { mounted, layers, mount_points, _owner: owner }
    }
}

impl RootMount for Kept {
    fn detached(&self) -> Result<OwnedFd> {
        self.mounted.detached()
    }

    fn scaffolding(&self) -> Vec<OwnedFd> {
        self.mounted.scaffolding()
    }

    fn name(&self) -> String {
        self.mounted.name()
    }
}

impl Mounted for Kept {
    fn root(&self) -> BorrowedFd<'_> {
        self.mounted.root()
    }

    fn ids(&self) -> &Ids {
        self.mounted.ids()
    }

    fn changes(&self, mount_points: &[&str]) -> Result<Found> {
        self.mounted.changes(mount_points)
    }

    fn mount_points(&self) -> &'static [&'static str] {
        self.mount_points
    }

    fn is_whole_tree(&self) -> bool {
        self.mounted.is_whole_tree()
    }

    fn upper(&self) -> Option<BorrowedFd<'_>> {
        self.mounted.upper()
    }

    fn upper_ids(&self) -> &Ids {
        self.mounted.upper_ids()
    }

    fn layers(&self) -> Option<&[String]> {
        self.layers.as_deref()
    }
}
