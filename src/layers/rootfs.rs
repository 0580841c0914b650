//! A root filesystem of layers.

use std::fmt::Debug;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use nix::fcntl::{Flock, OFlag, open};
use nix::sys::stat::{Mode, fstat};

use super::access::Access;
use super::change::Change;
use super::diff::{self, Found};
use super::directory::Directory;
use super::driver::{TreeStack, copy_attributes};
use super::explain::{check_overlap, explain, name};
use super::kept::{Kept, Owner};
use super::overlay::{Assembly, Ids, Overlay, Top, has_owner, root_ids};
use super::scratch::Scratch;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::namespaces::{Root, RootMount, UserNamespace};
use crate::sys::user_namespace::{effective_capabilities, in_initial_user_namespace};

/// The kernel's `OVL_MAX_STACK`.
const MAX_LAYERS: usize = 500;

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
pub struct Rootfs(Arc<dyn Mounted>);

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
struct Inner {
    overlay: Overlay,
    ids: Ids,
    lowers: Vec<PathBuf>,
    upper: Option<OwnedFd>,
    /// Of the writable layer.
    on_disk: bool,
    _lock: Option<Flock<OwnedFd>>,
}

/// A stack being put together; made by [`Rootfs::stack`].
#[derive(Clone, Debug)]
#[must_use = "say whether it is `writable`, `read_only` or `ephemeral`"]
pub struct Stack {
    source: Source,
    choice: Choice,
    layers: Option<Vec<String>>,
    owner: Option<Arc<dyn Owner>>,
    mount_points: &'static [&'static str],
    volatile: bool,
}

#[derive(Clone, Debug)]
enum Source {
    /// The lowest first.
    Overlay(Vec<PathBuf>),
    Tree(TreeStack),
}

#[derive(Clone, Debug)]
enum Choice {
    Automatic,
    Namespace(UserNamespace),
    Host,
}

impl Rootfs {
    /// Starts a stack of `layers`, existing directories, the lowest first. There may be 500.
    pub fn stack<P: AsRef<Path>>(layers: impl IntoIterator<Item = P>) -> Stack {
        let lowers = layers.into_iter().map(|layer| layer.as_ref().to_owned()).collect();
        Stack::of(Source::Overlay(lowers))
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

fn open_layers(paths: &[PathBuf]) -> Result<Vec<Directory>> {
    paths.iter().map(|path| Directory::open(path, "the layer")).collect()
}

impl Stack {
    /// Uses this user namespace instead of one of the stack's own. Its map must be
    /// [known](UserNamespace::map) and have a root.
    pub fn user_namespace(mut self, namespace: &UserNamespace) -> Self {
        self.choice = Choice::Namespace(namespace.clone());
        self
    }

    /// Leaves the ids as they are on disk: root in the stack is root of the host. Needs `CAP_SYS_ADMIN`.
    ///
    /// For kernels and filesystems that cannot map ids, and for processes that are meant to be the
    /// host's.
    pub fn host_ids(mut self) -> Self {
        self.choice = Choice::Host;
        self
    }

    /// Spares the disk: what is [written](Self::writable) counts for nothing any more when the machine has failed.
    ///
    /// fsync(2) does nothing then, and the kernel writes nothing to the disk when the stack goes, which else takes the
    /// longer the more others have written. The directory serves volatile stacks alone from then on. Linux 5.10; an
    /// older one does as without it. See the chapter on volatile mounts of
    /// <https://docs.kernel.org/filesystems/overlayfs.html>.
    pub fn volatile(mut self) -> Self {
        self.volatile = true;
        self
    }

    /// Makes the stack, with its changes in `directory`.
    ///
    /// The directory is made, open to the caller only, if it is missing; its parent must exist. In it are
    /// `upper`, the writable layer, which may serve as a layer of another stack later, and `work`, which belongs
    /// to the kernel. What `upper` holds from an earlier stack is there again. The filesystem must
    /// support extended attributes: ext4, xfs, btrfs and tmpfs (Linux 6.6 for callers without privilege) do;
    /// an overlay, and so a container's root filesystem, does not.
    ///
    /// When the stack goes, the kernel writes what is not yet written of the directory's whole filesystem to
    /// the disk. [`volatile`](Self::volatile), a directory on a tmpfs, or [`ephemeral`](Self::ephemeral) saves the time.
    ///
    /// # Errors
    ///
    /// `NotFound` or `InvalidInput` for a layer that is missing or no directory, is there twice, or lies in
    /// another layer or in `upper`; `Busy` if another stack uses the directory; `InvalidState` if it has served a
    /// [volatile](Self::volatile) one and this is none; `Unsupported` where this
    /// kernel or filesystem cannot do it. The hint says what can be done. What was made is removed again.
    pub fn writable(self, directory: impl AsRef<Path>) -> Result<Rootfs> {
        let (directory, volatile) = (directory.as_ref(), self.volatile);
        self.build(Kind::Writable { directory, volatile })
    }

    /// Makes the stack without a writable layer: every attempt to write gives EROFS.
    ///
    /// # Errors
    ///
    /// As [`writable`](Self::writable).
    pub fn read_only(self) -> Result<Rootfs> {
        self.build(Kind::ReadOnly)
    }

    /// Makes the stack with its changes in memory, gone with it.
    ///
    /// The memory counts as that of the processes that write, so a memory limit of theirs holds for it; at most
    /// it is half of the machine's. For callers without privilege needs Linux 6.6.
    ///
    /// # Errors
    ///
    /// As [`writable`](Self::writable).
    pub fn ephemeral(self) -> Result<Rootfs> {
        self.build(Kind::Ephemeral)
    }

    /// What a stack writes to `directory`, or has written, without a claim to it: another process may be at it.
    ///
    /// Nothing can be written. [`Rootfs::changes`] and packing see what is there at the moment.
    ///
    /// # Errors
    ///
    /// As [`writable`](Self::writable); `NotFound` if nothing was ever written to the directory.
    #[cfg(feature = "container")]
    pub(crate) fn peek(self, directory: &Path) -> Result<Rootfs> {
        self.build(Kind::Peek(directory))
    }

    fn of(source: Source) -> Self {
        Self {
            source,
            choice: Choice::Automatic,
            layers: None,
            owner: None,
            mount_points: &[],
            volatile: false,
        }
    }

    pub(super) fn of_tree(tree: TreeStack) -> Self {
        Self::of(Source::Tree(tree))
    }

    /// Remembers which layers of a store it is made of.
    pub(super) fn of_layers(self, keys: &[&str]) -> Self {
        let keys = keys.iter().map(ToString::to_string).collect();
        Self { layers: Some(keys), ..self }
    }

    /// Keeps `owner` alive as long as the root filesystem and what runs on it.
    #[cfg(feature = "image")]
    pub(crate) fn owned_by(mut self, owner: Arc<dyn Owner>) -> Self {
        self.owner = Some(owner);
        self
    }

    /// At these paths something is mounted whenever a process runs on it. What had to be made for that, empty files and
    /// directories, is none of its [changes](Rootfs::changes), nor packed with them.
    #[cfg(feature = "container")]
    pub(crate) fn mount_points(mut self, paths: &'static [&'static str]) -> Self {
        self.mount_points = paths;
        self
    }

    fn build(self, kind: Kind<'_>) -> Result<Rootfs> {
        let made = self.choice.ids().and_then(|ids| match &self.source {
            Source::Overlay(lowers) => stack_overlay(lowers, ids, kind),
            Source::Tree(tree) => tree.build(ids, kind),
        });
        let made = made.context(|| match &self.source {
            Source::Overlay(lowers) => format!("stack {}", name(lowers)),
            Source::Tree(tree) => format!("make a root file system of {}", tree.name()),
        })?;
        let Self { layers, owner, mount_points, .. } = self;
        if layers.is_none() && owner.is_none() && mount_points.is_empty() {
            return Ok(made);
        }
        Ok(Rootfs::new(Arc::new(Kept::new(made.0, layers, owner, mount_points))))
    }
}

/// Where the changes go.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind<'a> {
    ReadOnly,
    Ephemeral,
    Writable {
        directory: &'a Path,
        /// See [`Stack::volatile`].
        volatile: bool,
    },
    /// See `Stack::peek`.
    #[cfg_attr(
        not(feature = "container"),
        allow(dead_code, reason = "containers are looked at so")
    )]
    Peek(&'a Path),
}

fn stack_overlay(paths: &[PathBuf], ids: Ids, kind: Kind<'_>) -> Result<Rootfs> {
    if paths.is_empty() {
        return Err(Error::invalid("a stack needs at least one layer"));
    }
    if paths.len() > MAX_LAYERS {
        return Err(Error::new(
            ErrorKind::ResourceExhausted,
            format!("{} layers; the kernel stacks at most {MAX_LAYERS}", paths.len()),
        ));
    }
    let mut lowers = open_layers(paths)?;
    let mut top = match kind {
        Kind::ReadOnly => Top::Nothing,
        Kind::Ephemeral => Top::Memory,
        Kind::Writable { directory, volatile } => Top::Scratch(Scratch::open(directory, volatile)?),
        Kind::Peek(directory) => {
            lowers.push(Directory::open(&directory.join("upper"), "the writable layer")?);
            Top::Nothing
        }
    };
    let overlay = check_overlap(&lowers, &top)
        .and_then(|()| Assembly::new(&mut lowers, &mut top, &ids)?.build());
    let mut overlay = match overlay {
        Ok(overlay) => overlay,
        Err(err) => {
            let err = explain(err, &lowers, &top, &ids);
            if let Top::Scratch(scratch) = &top {
                scratch.undo();
            }
            return Err(err);
        }
    };
    if let Err(err) = dress(&overlay, lowers.last(), &top, &ids) {
        if let Top::Scratch(scratch) = &top {
            drop(overlay);
            scratch.undo();
        }
        return Err(err.context("make the root directory what it is in the layers"));
    }
    // Opened once more: the other descriptor may show other ids by now.
    let seen = match kind {
        Kind::Peek(_) => lowers.pop().map(|seen| readable(&seen.path)).transpose()?,
        _ => None,
    };
    let lowers = lowers.into_iter().map(|lower| lower.path).collect();
    let on_disk = seen.is_some() || matches!(top, Top::Scratch(_));
    let (upper, lock) = match (top, seen) {
        (Top::Scratch(scratch), _) => (Some(scratch.upper), Some(scratch.lock)),
        (_, Some(seen)) => (Some(seen), None),
        (Top::Nothing | Top::Memory, None) => (overlay.memory.take(), None),
    };
    Ok(Rootfs::new(Arc::new(Inner { overlay, ids, lowers, upper, on_disk, _lock: lock })))
}

/// The directory, open for reading.
fn readable(path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).context(|| format!("open {}", path.display()))
}

/// Makes the root directory of a new writable layer what it is below.
fn dress(overlay: &Overlay, lower: Option<&Directory>, top: &Top, ids: &Ids) -> Result<()> {
    let new = match top {
        Top::Nothing => false,
        Top::Memory => true,
        Top::Scratch(scratch) => scratch.has_new_upper(),
    };
    let Some(lower) = lower.filter(|_| new) else { return Ok(()) };
    let to = overlay.mount.try_clone().context(|| "duplicate a descriptor")?;
    let mut stat = fstat(&lower.fd).context(|| "stat that of the top layer")?;
    if let Ids::Mapped(namespace) | Ids::Joined(namespace) = ids
        && !has_owner(namespace, &stat)
    {
        (stat.st_uid, stat.st_gid) = root_ids(namespace)?;
    }
    let access = match ids {
        Ids::Joined(namespace) => Access(Some(namespace)),
        Ids::Host | Ids::Mapped(_) => Access(None),
    };
    copy_attributes(&lower.fd, &stat, to, access)
}

impl Choice {
    fn ids(&self) -> Result<Ids> {
        let namespace = match self {
            Self::Host => return Ok(Ids::Host),
            Self::Namespace(namespace) => namespace.clone(),
            Self::Automatic => UserNamespace::automatic()?,
        };
        Ok(if privileged() { Ids::Mapped(namespace) } else { Ids::Joined(namespace) })
    }
}

/// Whether the caller may mount in the initial user namespace, and so need not enter another.
pub(super) fn privileged() -> bool {
    const CAP_SYS_ADMIN: u32 = 21;
    in_initial_user_namespace() && effective_capabilities() >> CAP_SYS_ADMIN & 1 == 1
}
