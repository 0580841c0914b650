//! A root filesystem of layers.

use std::fmt::Debug;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use nix::fcntl::Flock;

use super::access::Access;
use super::change::Change;
use super::diff::{self, Found};
use super::directory::Directory;
use super::explain::name;
use super::overlay::{Assembly, Ids, Overlay, Top};
use super::stack::Stack;
use crate::error::{Context, Result};
#[cfg(feature = "container")]
use crate::namespaces::UserNamespace;
use crate::namespaces::{Root, RootMount};

/// A root filesystem made of directories stacked upon one another.
///
/// The kernel's overlay filesystem shows the layers as one tree. What is written goes to a writable layer
/// on top; the layers stay as they are. See
/// <https://docs.kernel.org/filesystems/overlayfs.html>.
///
/// The stack is a *detached* mount: it is in no mount table of the host, and gone when the last handle and
/// the last process that uses it are. There is nothing to unmount, not even after a crash. Clones are handles
/// on the same stack. Any number of processes may run on it, one after another or at once.
///
/// ```no_run
/// use coracle::layers::Rootfs;
/// use coracle::namespaces::Command;
///
/// # fn main() -> coracle::Result<()> {
/// let rootfs = Rootfs::stack(["base/", "app/"]).writable("scratch/")?;
/// Command::new("/bin/sh").arg("-c").arg("date > /stamp").rootfs(&rootfs).status()?;
/// for change in rootfs.changes()? {
///     println!("{change}"); // A /stamp
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Ids
///
/// Root in the stack is not root of the host. By default a stack has a
/// [`UserNamespace::automatic`] of its own, which [`Command`](crate::namespaces::Command) runs its processes
/// in. On disk the files keep plain ids:
///
/// - For a caller with `CAP_SYS_ADMIN` the kernel maps them (Linux 5.19), so user 0 of the stack is user 0 on
///   disk, and layers can be shared by stacks with different ids. The filesystems must be able to: ext4 and
///   xfs are since Linux 5.12, btrfs 5.15, tmpfs 6.3. Where that cannot be had, [`host_ids`](Stack::host_ids)
///   makes a stack without.
/// - For other callers (Linux 5.11) user 0 of the stack is the caller, and further ids are those granted to
///   the caller in /etc/subuid, on disk as well.
///
/// # Rules
///
/// While a stack exists its layers must not change: what it shows would be undefined, but no crash. Device
/// nodes in layers cannot be opened, whatever they are: a container's come with its `/dev`. Whiteouts and
/// opaque directories in layers, as other overlays leave them, count. Filesystems mounted inside a layer do
/// not show.
#[derive(Clone, Debug)]
pub struct Rootfs(pub(super) Arc<dyn Mounted>);

/// What is behind a [`Rootfs`]: an overlay, or a copy of a tree.
pub(super) trait Mounted: RootMount {
    /// The root directory, open with `O_PATH`.
    fn root(&self) -> BorrowedFd<'_>;

    fn ids(&self) -> &Ids;

    /// But for those that are new `mount_points` with nothing in them.
    fn changes(&self, mount_points: &[&str]) -> Result<Found>;

    /// See [`Stack::mount_points`].
    fn mount_points(&self) -> &'static [&'static str] {
        &[]
    }

    /// See [`Rootfs::is_whole_tree`].
    fn is_whole_tree(&self) -> bool;

    /// See [`Rootfs::upper`].
    fn upper(&self) -> Option<BorrowedFd<'_>>;

    /// See [`Rootfs::upper_ids`].
    fn upper_ids(&self) -> &Ids;

    /// See [`Rootfs::layers`].
    fn layers(&self) -> Option<&[String]> {
        None
    }
}

/// An overlay.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) overlay: Overlay,
    pub(super) ids: Ids,
    pub(super) lowers: Vec<PathBuf>,
    pub(super) upper: Option<OwnedFd>,
    /// Of the writable layer.
    pub(super) on_disk: bool,
    pub(super) _lock: Option<Flock<OwnedFd>>,
}

impl Rootfs {
    /// Starts a stack of `layers`, existing directories, the lowest first. There may be 500.
    pub fn stack<P: AsRef<Path>>(layers: impl IntoIterator<Item = P>) -> Stack {
        Stack::of_directories(layers.into_iter().map(|layer| layer.as_ref().to_owned()).collect())
    }

    pub(super) fn new(mounted: Arc<dyn Mounted>) -> Self {
        Self(mounted)
    }

    /// What the writable layer changes about the others, ordered by path, a directory before what is in it.
    ///
    /// As `docker diff` tells it: a directory counts as modified if anything below it does, but not for its
    /// times alone; of what was deleted only the top is listed. A file counts
    /// as modified as soon as the kernel has copied it into the writable layer, which opening it for
    /// writing does. Unlike there, `/` itself is listed, first, if it has got another mode, owner or attribute.
    ///
    /// Only the writable layer is read, and what lies at the same paths below it: the size of the layers
    /// does not matter. A read-only stack has no changes.
    ///
    /// # Errors
    ///
    /// `Busy` if a process moves directories about meanwhile, `PermissionDenied` if the layer holds
    /// directories that the caller may not read, `NotFound` if a layer is no longer there.
    pub fn changes(&self) -> Result<Vec<Change>> {
        self.found().map(|found| found.changes)
    }

    /// [`changes`](Self::changes), and what was only made to mount something there.
    pub(super) fn found(&self) -> Result<Found> {
        let found = self.0.changes(self.0.mount_points());
        found.context(|| format!("list the changes of {}", self.name()))
    }

    /// The bytes in the files that are new or [changed](Self::changes), by their lengths; each name of one counts.
    ///
    /// # Errors
    ///
    /// As [`changes`](Self::changes).
    pub fn changed_bytes(&self) -> Result<u64> {
        self.found().map(|found| found.bytes)
    }

    /// Whether there may be mount points that were made.
    pub(super) fn has_mount_points(&self) -> bool {
        !self.0.mount_points().is_empty()
    }

    /// `base+app`.
    pub(super) fn name(&self) -> String {
        self.0.name()
    }

    /// What holds the changes, open for reading, if there can be some: a layer, or the whole tree.
    pub(super) fn upper(&self) -> Option<BorrowedFd<'_>> {
        self.0.upper()
    }

    /// Whether [`upper`](Self::upper) is the whole tree.
    pub(super) fn is_whole_tree(&self) -> bool {
        self.0.is_whole_tree()
    }

    /// Whose ids the files of [`upper`](Self::upper) have.
    pub(super) fn upper_ids(&self) -> &Ids {
        self.0.upper_ids()
    }

    /// The keys of the layers below the writable one, the lowest first, if a [`LayerStore`](super::LayerStore) has
    /// made it.
    #[cfg_attr(not(feature = "image"), allow(dead_code, reason = "for commits"))]
    pub(crate) fn layers(&self) -> Option<&[String]> {
        self.0.layers()
    }

    /// The user namespace whose ids the files of the stack have, if they are not the host's.
    #[cfg(feature = "container")]
    pub(crate) fn user_namespace(&self) -> Option<&UserNamespace> {
        self.0.ids().namespace()
    }

    /// Whose ids the files of the stack have.
    pub(super) fn ids(&self) -> &Ids {
        self.0.ids()
    }
}

/// To run a process on the stack: [`Command::rootfs`](crate::namespaces::Command::rootfs). The command, and
/// the [`Child`](crate::namespaces::Child) it spawns, are handles on the stack as well.
impl From<&Rootfs> for Root {
    fn from(rootfs: &Rootfs) -> Self {
        let user_namespace = rootfs.0.ids().namespace().cloned();
        Self::mounted(rootfs.0.clone(), user_namespace)
    }
}

impl RootMount for Inner {
    fn detached(&self) -> Result<OwnedFd> {
        self.overlay.copy(&self.ids)
    }

    fn scaffolding(&self) -> Vec<OwnedFd> {
        let mut mounts = self.overlay.scaffolding.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut mounts)
    }

    fn name(&self) -> String {
        name(&self.lowers)
    }
}

/// The root directory, an `O_PATH` descriptor for openat(2) and the like. What is found there has the ids
/// that the container's files have outside of it.
impl AsFd for Rootfs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.root()
    }
}

impl Mounted for Inner {
    fn root(&self) -> BorrowedFd<'_> {
        self.overlay.mount.as_fd()
    }

    fn ids(&self) -> &Ids {
        &self.ids
    }

    fn is_whole_tree(&self) -> bool {
        false
    }

    fn upper(&self) -> Option<BorrowedFd<'_>> {
        self.upper.as_ref().map(AsFd::as_fd)
    }

    /// In memory they are the container's, on disk plain ones.
    fn upper_ids(&self) -> &Ids {
        match &self.ids {
            Ids::Mapped(_) if self.on_disk => &Ids::Host,
            ids => ids,
        }
    }

    fn changes(&self, mount_points: &[&str]) -> Result<Found> {
        let Some(upper) = &self.upper else { return Ok(Found::default()) };
        let upper = upper.try_clone().context(|| "duplicate a descriptor")?;
        let ids = self.upper_ids();
        let mut lowers = open_layers(&self.lowers)?;
        let lower = match lowers.as_slice() {
            [_] if matches!(ids, Ids::Host) => lowers.remove(0).fd,
            _ => Assembly::new(&mut lowers, &mut Top::Nothing, ids)?.build()?.mount,
        };
        let access = match ids {
            Ids::Joined(namespace) => Access(Some(namespace)),
            Ids::Host | Ids::Mapped(_) => Access(None),
        };
        diff::changes(upper, lower, mount_points, access)
    }
}

pub(super) fn open_layers(paths: &[PathBuf]) -> Result<Vec<Directory>> {
    paths.iter().map(|path| Directory::open(path, "the layer")).collect()
}
