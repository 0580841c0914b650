//! A layer in the making.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, renameat};
use nix::sys::stat::{Mode, mkdirat};

use super::copy::open_directory;
use super::store::{LayerStore, NEW, check_key};
use super::{Storage, TREE};
use crate::error::{Context, Error, Result};
use crate::layers::access::Access;
use crate::layers::rootfs::Rootfs;
use crate::sys::xattr;

/// A directory for a new layer, private until [`commit`](Self::commit) puts it under its key; made by
/// [`LayerStore::prepare`]. Dropped without that, it is removed.
#[derive(Debug)]
pub struct Staging {
    store: LayerStore,
    parents: Vec<String>,
    /// In the store's directory.
    name: String,
    path: PathBuf,
    /// Until the end, which leaves nothing to remove. Tells others that somebody works here.
    lock: Option<Flock<OwnedFd>>,
}

impl Staging {
    pub(super) fn new(
        store: &LayerStore,
        parents: &[&str],
        content: impl FnOnce(&dyn Storage) -> Result<Option<OwnedFd>>,
    ) -> Result<Self> {
        let directory = store.directory();
        let (name, lock) = {
            let _present = store.lock(FlockArg::LockShared)?;
            let name = new_directory(&directory.fd, NEW)?;
            let fd = open_directory(&directory.fd, &name)?;
            let lock = Flock::lock(fd, FlockArg::LockExclusiveNonblock)
                .map_err(|(_, errno)| errno)
                .context(|| "lock the new directory")?;
            (name, lock)
        };
        // What lies around the store is not to leave marks in layers. It has none, most likely.
        let _ = xattr::remove(std::os::fd::AsFd::as_fd(&*lock), c"system.posix_acl_default");
        let staging = Self {
            store: store.clone(),
            parents: parents.iter().map(ToString::to_string).collect(),
            path: directory.path.join(&name),
            name,
            lock: Some(lock),
        };
        let namespace = store.user_namespace()?;
        let content = content(store.storage())?;
        if let Some(lock) = &staging.lock {
            let access = Access(namespace.as_ref());
            store.storage().create(content, lock, OsStr::new(TREE), access)?;
        }
        Ok(staging)
    }

    /// The directory `DRIVER/KEY` to be: the caller may put files of his own there, see
    /// [`LayerStore`](LayerStore#on-disk).
    pub fn directory(&self) -> &Path {
        &self.path
    }

    /// The directory to fill.
    pub fn tree(&self) -> PathBuf {
        self.path.join(TREE)
    }

    /// Puts a layer that does not depend on it upon these.
    #[cfg_attr(not(feature = "image"), allow(dead_code, reason = "for images"))]
    pub(crate) fn set_parents(&mut self, parents: &[&str]) {
        self.parents = parents.iter().map(ToString::to_string).collect();
    }

    /// Whether the layer is to be only what it changes: whiteouts are then to be written as the overlay file
    /// system's marks, and [`lower`](Self::lower) is what they hide. Otherwise what the layer deletes is to
    /// be removed from the [`tree`](Self::tree).
    pub fn keeps_differences(&self) -> bool {
        self.store.storage().keeps_differences()
    }

    /// What the layers below show, with owners as on disk, if the driver keeps differences and there are any.
    ///
    /// # Errors
    ///
    /// `NotFound` if one of them is missing; others as [`Stack::read_only`](crate::layers::Stack::read_only).
    pub fn lower(&self) -> Result<Option<Rootfs>> {
        if !self.keeps_differences() || self.parents.is_empty() {
            return Ok(None);
        }
        let parents: Vec<_> = self.parents.iter().map(String::as_str).collect();
        self.store.view(&parents).map(Some)
    }

    /// Puts the layer under `key`. Returns `false` if there was one already, which then stays as it is: somebody
    /// was first.
    ///
    /// Nothing is written to the disk for this, so after a power failure the layer may be there and
    /// incomplete. Who would keep it calls syncfs(2) first, or makes it anew after a restart.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a key that cannot be one.
    pub fn commit(self, key: &str) -> Result<bool> {
        check_key(key)?;
        self.commit_as(key)
    }

    pub(super) fn commit_as(self, key: &str) -> Result<bool> {
        let directory =
            self.store.directory().fd.try_clone().context(|| "duplicate a descriptor")?;
        self.finish(OsStr::new(""), &directory, OsStr::new(key))
    }

    /// Renames the directory, or what it contains under `name`.
    pub(super) fn finish(mut self, name: &OsStr, dir: &OwnedFd, key: &OsStr) -> Result<bool> {
        let whole = name.is_empty();
        let old = if whole { PathBuf::from(&self.name) } else { Path::new(&self.name).join(name) };
        match renameat(&self.store.directory().fd, &old, dir, key) {
            Ok(()) if whole => {
                self.lock = None;
                Ok(true)
            }
            Ok(()) => Ok(true),
            // A layer is never empty: it holds its tree.
            Err(Errno::EEXIST | Errno::ENOTEMPTY) => Ok(false),
            Err(errno) => Err(errno).context(|| format!("put the layer under {}", key.display())),
        }
    }

    /// The [`tree`](Self::tree), open for reading even if it is another user's, and closed.
    #[cfg_attr(not(feature = "image"), allow(dead_code, reason = "for images"))]
    pub(crate) fn open_tree(&self) -> Result<OwnedFd> {
        match &self.lock {
            Some(lock) => self.store.open_tree(lock),
            None => Err(Error::invalid("it has been removed")),
        }
    }

    /// What it is called until then, which is no key.
    #[cfg_attr(not(feature = "image"), allow(dead_code, reason = "for who checks layers"))]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn fd(&self) -> Option<&OwnedFd> {
        self.lock.as_deref()
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Some(lock) = self.lock.take() {
            // What cannot be removed now is collected later.
            let _ = self.store.discard(&self.name, lock);
        }
    }
}

/// Makes a directory that only the caller can use, with a name of its own that begins with `prefix`.
pub(super) fn new_directory(dir: &OwnedFd, prefix: &str) -> Result<String> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        // Another pid namespace has the same pids, and an earlier process may have had this one.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{prefix}{}-{number}", std::process::id());
        match mkdirat(dir, name.as_str(), Mode::S_IRWXU) {
            Ok(()) => return Ok(name),
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno).context(|| format!("make the directory {name}")),
        }
    }
}
