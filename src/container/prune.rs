//! Making room: containers and volumes go that nobody uses.

use std::sync::Arc;

use super::container::Container;
use super::events::EventKind;
use super::home::Home;
use super::state::Phase;
use super::volume::Volume;
use crate::error::{Error, ErrorKind, Result};

/// What [`Engine::prune_containers`](crate::Engine::prune_containers) or [`prune_volumes`](crate::Engine::prune_volumes) has
/// removed.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Pruned {
    /// The ids of the containers, or the names of the volumes.
    pub removed: Vec<String>,
    /// Bytes of disk that they took.
    pub reclaimed: u64,
    /// Why others stay that nothing uses.
    pub failed: Vec<Error>,
}

impl Pruned {
    /// Adds one that took so many bytes, unless somebody else has removed it, or uses it, which is this failure.
    fn add(&mut self, name: &str, removed: Result<u64>, used: ErrorKind) {
        match removed {
            Ok(bytes) => {
                self.removed.push(name.to_owned());
                self.reclaimed += bytes;
            }
            Err(err) if err.kind() == ErrorKind::NotFound || err.kind() == used => {}
            Err(err) => self.failed.push(err),
        }
    }
}

impl Home {
    pub(crate) fn prune_containers(
        self: &Arc<Self>,
        wanted: impl Fn(&Container) -> bool,
    ) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        for id in self.ids()? {
            let container = Container::new(self.clone(), id.clone());
            let phase = container.status().map(|status| status.phase);
            if matches!(phase, Ok(Phase::Created | Phase::Exited)) && wanted(&container) {
                let written = container.rootfs().and_then(|rootfs| rootfs.changed_bytes());
                // What cannot be measured goes all the same.
                let removed = container.remove().map(|()| written.unwrap_or(0));
                pruned.add(id.as_str(), removed, ErrorKind::InvalidState);
            }
        }
        self.tell_prune(EventKind::Container, pruned.reclaimed);
        Ok(pruned)
    }

    pub(crate) fn prune_volumes(
        self: &Arc<Self>,
        wanted: impl Fn(&Volume) -> bool,
    ) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        for volume in self.all_volumes()? {
            if volume.users()?.is_empty() && wanted(&volume) {
                let (name, size) = (volume.name().to_owned(), volume.size());
                let removed = volume.remove().map(|()| size.unwrap_or(0));
                pruned.add(&name, removed, ErrorKind::Busy);
            }
        }
        self.tell_prune(EventKind::Volume, pruned.reclaimed);
        Ok(pruned)
    }
}
