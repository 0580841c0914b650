//! A root filesystem that is a whole tree: a copy or snapshot of a layer.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::Flock;
use nix::sys::time::TimeSpec;

use super::staging::Staging;
use super::store::LayerStore;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layers::access::Access;
use crate::layers::diff::{Found, changes_of_copy};
use crate::layers::directory::{Directory, HANDLE, c_string};
use crate::layers::id_mapping::detached_copy;
use crate::layers::overlay::{Ids, join};
use crate::layers::rootfs::Mounted;
use crate::namespaces::RootMount;
use crate::sys::mount::{MountAttr, OpenTree, SetAttr};
use crate::sys::worker::{At, Worker};

/// What a tree is a copy of.
#[derive(Debug)]
pub(super) struct Original {
    pub(super) store: LayerStore,
    pub(super) key: String,
    /// When it was complete.
    pub(super) made: TimeSpec,
}

#[derive(Debug)]
pub(super) struct TreeRoot {
    name: String,
    /// Open for reading.
    tree: Directory,
    ids: Ids,
    /// None: the layer itself, which nobody may change.
    original: Option<Original>,
    mount: OwnedFd,
    /// Keeps others from writing here at the same time.
    pub(super) lock: Option<Flock<OwnedFd>>,
    /// Removed with this value.
    pub(super) temporary: Option<Staging>,
}

impl TreeRoot {
    pub(super) fn new(
        name: String,
        tree: Directory,
        ids: Ids,
        original: Option<Original>,
    ) -> Result<Self> {
        let mount = mount(&tree, &ids, original.is_none())?;
        Ok(Self { name, tree, ids, original, mount, lock: None, temporary: None })
    }
}

impl RootMount for TreeRoot {
    fn detached(&self) -> Result<OwnedFd> {
        mount(&self.tree, &self.ids, self.original.is_none())
    }

    fn scaffolding(&self) -> Vec<OwnedFd> {
        Vec::new()
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

impl Mounted for TreeRoot {
    fn root(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }

    fn ids(&self) -> &Ids {
        &self.ids
    }

    fn is_whole_tree(&self) -> bool {
        true
    }

    fn upper(&self) -> Option<BorrowedFd<'_>> {
        self.original.as_ref().map(|_| self.tree.fd.as_fd())
    }

    fn upper_ids(&self) -> &Ids {
        match &self.ids {
            Ids::Mapped(_) => &Ids::Host,
            ids => ids,
        }
    }

    fn changes(&self, mount_points: &[&str]) -> Result<Found> {
        let Some(Original { store, key, made }) = &self.original else {
            return Ok(Found::default());
        };
        let namespace = store.user_namespace()?;
        let old = store.tree(key)?;
        let access = Access(namespace.as_ref());
        let new =
            access.open_directory(&self.tree.fd, OsStr::new(".")).context(|| "open the tree")?;
        changes_of_copy(new, old, *made, mount_points, access)
    }
}

/// A detached mount of the tree. Device nodes in it cannot be opened.
fn mount(tree: &Directory, ids: &Ids, read_only: bool) -> Result<OwnedFd> {
    let mut set = MountAttr::NO_DEV;
    set.set(MountAttr::READ_ONLY, read_only);
    let user_namespace = match ids {
        Ids::Host => None,
        Ids::Mapped(namespace) => Some(namespace.as_fd()),
        Ids::Joined(namespace) => {
            let mut worker = Worker::new();
            join(&mut worker, namespace)?;
            worker.unshare_mounts();
            // The descriptor belongs to the mounts that the worker has left.
            let path = c_string(&tree.path)?;
            let there = worker.open(At::Cwd, path, HANDLE.bits());
            let flags = OpenTree::CLONE | OpenTree::EMPTY_PATH;
            let copy = worker.open_tree(there, c"".into(), flags);
            worker.mount_setattr(copy, set);
            let attempt = || format!("copy the mount of {}", tree.path.display());
            let mut opened = worker.run().context(attempt).map_err(explain)?;
            return opened.take(copy).ok_or_else(|| Error::unsupported("the kernel gave no mount"));
        }
    };
    let attr = SetAttr { set, user_namespace, ..SetAttr::default() };
    detached_copy(&tree.fd, &tree.path, &attr).map_err(explain)
}

fn explain(err: Error) -> Error {
    match err.raw_os_error() {
        Some(libc::ENOSYS) if err.hint().is_none() => err
            .with_kind(ErrorKind::Unsupported)
            .with_hint("trees as root file systems need mount_setattr, of Linux 5.12"),
        _ => err,
    }
}
