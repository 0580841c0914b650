//! A root filesystem of whole trees being put together.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{Flock, OFlag, openat, renameat};
use nix::sys::stat::{Mode, fstat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::TREE;
use super::staging::Staging;
use super::store::LayerStore;
use super::tree_root::{Original, TreeRoot};
use crate::error::{Context, Error, Result};
use crate::layers::access::Access;
use crate::layers::directory::Directory;
use crate::layers::explain::name;
use crate::layers::overlay::Ids;
use crate::layers::rootfs::Rootfs;
use crate::layers::scratch::claim;
use crate::layers::stack::{Kind, Stack};

/// A tree until it is complete.
const PART: &str = "tree.part";
/// The file whose time tells when it was.
const MADE: &str = "made";

/// The topmost layer, which is the whole tree.
#[derive(Clone, Debug)]
pub(in crate::layers) struct TreeStack {
    store: LayerStore,
    key: String,
}

impl TreeStack {
    pub(super) fn stack(store: &LayerStore, keys: &[&str]) -> Result<Stack> {
        let Some(key) = keys.last() else { return Err(Error::invalid("no layers")) };
        store.tree(key)?;
        Ok(Stack::of_tree(Self { store: store.clone(), key: (*key).to_owned() }))
    }

    /// For messages.
    pub(in crate::layers) fn name(&self) -> String {
        name(&[PathBuf::from(&self.key)])
    }

    pub(in crate::layers) fn build(&self, ids: Ids, kind: Kind<'_>) -> Result<Rootfs> {
        let root = match kind {
            Kind::ReadOnly => {
                let tree = Directory::from_fd(self.store.tree(&self.key)?)?;
                TreeRoot::new(self.name(), tree, ids, None)?
            }
            Kind::Ephemeral => self.ephemeral(ids)?,
            Kind::Writable { directory, .. } => self.writable(directory, ids)?,
            Kind::Peek(path) => {
                let directory = Directory::open(path, "the writable directory")?;
                self.written(&directory.fd, ids)?
            }
        };
        Ok(Rootfs::new(Arc::new(root)))
    }

    fn ephemeral(&self, ids: Ids) -> Result<TreeRoot> {
        let staging = Staging::new(&self.store, &[], |_| self.store.tree(&self.key).map(Some))?;
        let Some(dir) = staging.fd() else { return Err(Error::invalid("no staging directory")) };
        let made = note_time(dir)?;
        let tree = Directory::from_fd(self.store.open_tree(dir)?)?;
        let original = self.original(made);
        let mut root = TreeRoot::new(self.name(), tree, ids, Some(original))?;
        root.temporary = Some(staging);
        Ok(root)
    }

    fn writable(&self, path: &Path, ids: Ids) -> Result<TreeRoot> {
        let (directory, lock, new) = claim(path)?;
        let made = self.fill(&lock, ids);
        match made {
            Ok(mut root) => {
                root.lock = Some(lock);
                Ok(root)
            }
            Err(err) => {
                if new {
                    // Only what is of no use: a failure to remove it says nothing new.
                    let _ = unlinkat(&lock as &OwnedFd, MADE, UnlinkatFlags::NoRemoveDir);
                    let _ = std::fs::remove_dir(&directory.path);
                }
                Err(err)
            }
        }
    }

    fn fill(&self, dir: &Flock<OwnedFd>, ids: Ids) -> Result<TreeRoot> {
        let namespace = self.store.user_namespace()?;
        let access = Access(namespace.as_ref());
        let storage = self.store.storage();
        let new = match self.store.open_tree(dir) {
            Ok(_) => false,
            Err(err) if err.raw_os_error() == Some(libc::ENOENT) => {
                let part = OsStr::new(PART);
                storage.remove(dir, part, access)?;
                let filled = storage
                    .create(Some(self.store.tree(&self.key)?), dir, part, access)
                    .and_then(|()| note_time(dir));
                let renamed = filled.and_then(|_| {
                    renameat(&**dir, part, &**dir, TREE).context(|| "rename the tree")
                });
                if renamed.is_err() {
                    let _ = storage.remove(dir, part, access);
                    let _ = storage.remove(dir, OsStr::new(super::LINKS), access);
                }
                renamed.map(|()| true)?
            }
            Err(err) => return Err(err),
        };
        let root = self.written(dir, ids);
        if new && root.is_err() {
            let _ = storage.remove(dir, OsStr::new(TREE), access);
        }
        root
    }

    /// A tree that is complete.
    fn written(&self, dir: &OwnedFd, ids: Ids) -> Result<TreeRoot> {
        let made = fstat(openat(dir, MADE, READ, Mode::empty()).context(|| "open its date")?)
            .map(|stat| TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec))
            .context(|| "read its date")?;
        let tree = Directory::from_fd(self.store.open_tree(dir)?)?;
        TreeRoot::new(self.name(), tree, ids, Some(self.original(made)))
    }

    fn original(&self, made: TimeSpec) -> Original {
        Original { store: self.store.clone(), key: self.key.clone(), made }
    }
}

const READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_CLOEXEC).union(OFlag::O_NOFOLLOW);

/// Makes a file whose time of change is now, by the clock of the file system.
fn note_time(dir: &OwnedFd) -> Result<TimeSpec> {
    match unlinkat(dir, MADE, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno).context(|| "remove an old date"),
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let file = openat(dir, MADE, flags, Mode::S_IRUSR).context(|| "note the date")?;
    let stat = fstat(file).context(|| "read the date")?;
    Ok(TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec))
}
