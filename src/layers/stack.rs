//! A root filesystem being put together.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat};

use super::access::Access;
use super::directory::Directory;
use super::driver::{TreeStack, copy_attributes};
use super::explain::{check_overlap, explain, name};
use super::kept::{Kept, Owner};
use super::overlay::{Assembly, Ids, Overlay, Top, has_owner, root_ids};
use super::rootfs::{Inner, Rootfs, open_layers};
use super::scratch::Scratch;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::namespaces::UserNamespace;
use crate::sys::user_namespace::{Holder, effective_capabilities, in_initial_user_namespace};

/// The kernel's `OVL_MAX_STACK`.
const MAX_LAYERS: usize = 500;

/// A stack being put together; made by [`Rootfs::stack`].
#[derive(Clone, Debug)]
#[must_use = "say whether it is `writable`, `read_only` or `ephemeral`"]
pub struct Stack {
    source: Source,
    choice: Choice,
    layers: Option<Vec<String>>,
    owner: Option<Arc<dyn Owner>>,
    mount_points: &'static [&'static str],
    /// See [`mount_points`](Self::mount_points).
    floor: Option<PathBuf>,
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

    /// A stack of existing directories, the lowest first.
    pub(super) fn of_directories(lowers: Vec<PathBuf>) -> Self {
        Self::of(Source::Overlay(lowers))
    }

    fn of(source: Source) -> Self {
        Self {
            source,
            choice: Choice::Automatic,
            layers: None,
            owner: None,
            mount_points: &[],
            floor: None,
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
    ///
    /// The directory `floor` has all of them, and goes below the layers if they are directories: what is seen of it is
    /// there already, and cheaper than to be made each time.
    #[cfg(feature = "container")]
    pub(crate) fn mount_points(mut self, paths: &'static [&'static str], floor: PathBuf) -> Self {
        self.mount_points = paths;
        self.floor = Some(floor);
        self
    }

    fn build(self, kind: Kind<'_>) -> Result<Rootfs> {
        // Who made its namespace is waited for when there is nothing else to do.
        let made = self.choice.ids().and_then(|(ids, _maker)| match &self.source {
            Source::Overlay(lowers) => stack_overlay(lowers, self.floor.as_ref(), ids, kind),
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

fn stack_overlay(
    paths: &[PathBuf],
    floor: Option<&PathBuf>,
    ids: Ids,
    kind: Kind<'_>,
) -> Result<Rootfs> {
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
    // What is peeked at counts as a layer, too.
    let floor = floor.filter(|_| lowers.len() + 1 < MAX_LAYERS);
    if let Some(floor) = floor {
        lowers.insert(0, Directory::open(floor, "the directory of mount points")?);
    }
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
    let layers = lowers.into_iter().skip(usize::from(floor.is_some()));
    let lowers = layers.map(|layer| layer.path).collect();
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
    /// With what made the namespace, if it is new.
    fn ids(&self) -> Result<(Ids, Option<Holder>)> {
        let (namespace, maker) = match self {
            Self::Host => return Ok((Ids::Host, None)),
            Self::Namespace(namespace) => (namespace.clone(), None),
            Self::Automatic => {
                let (namespace, maker) = UserNamespace::automatic_ahead()?;
                (namespace, Some(maker))
            }
        };
        let ids = if privileged() { Ids::Mapped(namespace) } else { Ids::Joined(namespace) };
        Ok((ids, maker))
    }
}

/// Whether the caller may mount in the initial user namespace, and so need not enter another.
pub(super) fn privileged() -> bool {
    const CAP_SYS_ADMIN: u32 = 21;
    in_initial_user_namespace() && effective_capabilities() >> CAP_SYS_ADMIN & 1 == 1
}
