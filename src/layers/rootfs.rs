//! A root filesystem of layers.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::Flock;
use nix::sys::statvfs::{FsFlags, fstatvfs};

use super::change::Change;
use super::diff;
use super::directory::Directory;
use super::explain::{check_overlap, explain, name};
use super::overlay::{Assembly, Ids, Overlay, Top, in_initial_user_namespace};
use super::scratch::Scratch;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::namespaces::UserNamespace;
use crate::sys::user_namespace::effective_capabilities;

/// The kernel's `OVL_MAX_STACK`.
const MAX_LAYERS: usize = 500;

/// A stack of directories, seen as one.
#[derive(Clone, Debug)]
pub struct Rootfs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    overlay: Overlay,
    ids: Ids,
    lowers: Vec<PathBuf>,
    upper: Option<OwnedFd>,
    lock: Option<Flock<OwnedFd>>,
}

/// A stack being put together; see [`Rootfs::stack`].
#[derive(Clone, Debug)]
#[must_use = "say whether it is writable, read-only or ephemeral"]
pub struct Stack {
    lowers: Vec<PathBuf>,
    choice: Choice,
}

#[derive(Clone, Debug)]
enum Choice {
    Automatic,
    Namespace(UserNamespace),
    Host,
}

impl Rootfs {
    /// Starts a stack of `layers`, lowest first.
    pub fn stack<P: AsRef<Path>>(layers: impl IntoIterator<Item = P>) -> Stack {
        let lowers = layers.into_iter().map(|layer| layer.as_ref().to_owned()).collect();
        Stack { lowers, choice: Choice::Automatic }
    }

    /// What has changed in the layer on top.
    pub fn changes(&self) -> Result<Vec<Change>> {
        self.0.changes().context(|| format!("list the changes of {}", name(&self.0.lowers)))
    }

    /// A detached mount of the stack, for one process to attach.
    #[allow(dead_code, reason = "Command attaches it")]
    pub(crate) fn detached(&self) -> Result<OwnedFd> {
        self.0.overlay.copy(&self.0.ids)
    }

    /// The user namespace whose ids the files have.
    #[allow(dead_code, reason = "Command enters it")]
    pub(crate) fn user_namespace(&self) -> Option<&UserNamespace> {
        match &self.0.ids {
            Ids::Host => None,
            Ids::Mapped(namespace) | Ids::Joined(namespace) => Some(namespace),
        }
    }
}

/// The root directory, an `O_PATH` descriptor for openat(2) and the like. What is found there has the ids
/// that the container's files have outside of it.
impl AsFd for Rootfs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.overlay.mount.as_fd()
    }
}

impl Inner {
    fn changes(&self) -> Result<Vec<Change>> {
        let Some(upper) = &self.upper else { return Ok(Vec::new()) };
        let upper = upper.try_clone().context(|| "duplicate a descriptor")?;
        // A layer in memory has the container's ids, one on disk plain ones.
        let ids = match &self.ids {
            Ids::Mapped(_) if self.lock.is_some() => &Ids::Host,
            ids => ids,
        };
        let mut lowers = open_layers(&self.lowers)?;
        let lower = match lowers.as_slice() {
            [_] if matches!(ids, Ids::Host) => lowers.remove(0).fd,
            _ => Assembly::new(&mut lowers, &mut Top::Nothing, ids)?.build()?.mount,
        };
        diff::changes(upper, lower)
    }
}

fn open_layers(paths: &[PathBuf]) -> Result<Vec<Directory>> {
    paths.iter().map(|path| Directory::open(path, "the layer")).collect()
}

impl Stack {
    /// The user namespace.
    pub fn user_namespace(mut self, namespace: &UserNamespace) -> Self {
        self.choice = Choice::Namespace(namespace.clone());
        self
    }

    /// The host's ids.
    pub fn host_ids(mut self) -> Self {
        self.choice = Choice::Host;
        self
    }

    /// Written in `directory`.
    pub fn writable(self, directory: impl AsRef<Path>) -> Result<Rootfs> {
        self.build(|| Scratch::open(directory.as_ref()).map(Top::Scratch))
    }

    /// Read-only.
    pub fn read_only(self) -> Result<Rootfs> {
        self.build(|| Ok(Top::Nothing))
    }

    /// Written in memory.
    pub fn ephemeral(self) -> Result<Rootfs> {
        self.build(|| Ok(Top::Memory))
    }

    fn build(self, top: impl FnOnce() -> Result<Top>) -> Result<Rootfs> {
        self.try_build(top).context(|| format!("stack {}", name(&self.lowers)))
    }

    fn try_build(&self, top: impl FnOnce() -> Result<Top>) -> Result<Rootfs> {
        if self.lowers.is_empty() {
            return Err(Error::invalid("a stack needs at least one layer"));
        }
        if self.lowers.len() > MAX_LAYERS {
            return Err(Error::new(
                ErrorKind::ResourceExhausted,
                format!("{} layers; the kernel stacks at most {MAX_LAYERS}", self.lowers.len()),
            ));
        }
        let mut lowers = open_layers(&self.lowers)?;
        let ids = self.choice.ids()?;
        let mut top = top()?;
        let overlay = check_overlap(&lowers, &top)
            .and_then(|()| Assembly::new(&mut lowers, &mut top, &ids)?.build())
            .and_then(|overlay| check_writable(overlay, &top));
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
        let lowers = lowers.into_iter().map(|lower| lower.path).collect();
        let (upper, lock) = match top {
            Top::Scratch(scratch) => {
                scratch.make_removable();
                (Some(scratch.upper), Some(scratch.lock))
            }
            Top::Nothing | Top::Memory => (overlay.memory.take(), None),
        };
        Ok(Rootfs(Arc::new(Inner { overlay, ids, lowers, upper, lock })))
    }
}

impl Choice {
    fn ids(&self) -> Result<Ids> {
        const CAP_SYS_ADMIN: u32 = 21;
        let privileged =
            in_initial_user_namespace() && effective_capabilities() >> CAP_SYS_ADMIN & 1 == 1;
        let namespace = match self {
            Self::Host => return Ok(Ids::Host),
            Self::Namespace(namespace) => namespace.clone(),
            Self::Automatic => UserNamespace::automatic()?,
        };
        Ok(if privileged { Ids::Mapped(namespace) } else { Ids::Joined(namespace) })
    }
}

/// If the kernel cannot make its work directory, it mounts read-only and says so only in its log.
fn check_writable(overlay: Overlay, top: &Top) -> Result<Overlay> {
    let flags = fstatvfs(&overlay.mount).context(|| "ask for the state of the mount")?.flags();
    if !matches!(top, Top::Nothing) && flags.contains(FsFlags::ST_RDONLY) {
        return Err(Error::unsupported("the kernel could only make the stack read-only").with_hint(
            "it has no use of the writable directory: is its disk full, or are `upper` and `work` in it another \
             user's? The kernel's log may tell (`dmesg | grep overlayfs`)",
        ));
    }
    Ok(overlay)
}
