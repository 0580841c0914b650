//! The directory that layers are kept in.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg};
use nix::sys::stat::{Mode, fstatat, mkdirat};

use super::btrfs::Btrfs;
use super::copy::open_directory;
use super::name::Driver;
use super::overlay::{MERGED, Overlay};
use super::remove::remove;
use super::staging::Staging;
use super::usage::{Usage, measure};
use super::vfs::Vfs;
use super::{Storage, TREE};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layers::access::Access;
use crate::layers::directory::Directory;
use crate::layers::overlay::Ids;
use crate::layers::rootfs::Rootfs;
use crate::layers::scratch::claim;
use crate::layers::stack::{Stack, privileged};
use crate::namespaces::UserNamespace;

/// Begins the name of a layer that is being made.
pub(super) const NEW: &str = ".new-";
/// The layer that stands for none.
const EMPTY: &str = ".empty";

/// Unpacked layers below one directory, each under a key, and root filesystems made of them.
///
/// A key stands for a layer with all that lies below it, as the chain id of an image does; to this type it is a
/// name without meaning. A layer never changes. It is made aside, as a [`Staging`] directory, and put under
/// its key in one step: any number of processes and threads may use the same directory, and one that dies leaves
/// nothing but a directory that [`collect`](Self::collect) removes.
///
/// ```no_run
/// use coracle::layers::LayerStore;
/// use coracle::namespaces::Command;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let layers = LayerStore::open("layers/")?;
/// let staging = layers.prepare(&[])?;
/// std::fs::write(staging.tree().join("hello"), "world")?;
/// staging.commit("base")?;
/// let rootfs = layers.stack(&["base"])?.writable("scratch/")?;
/// # let _ = rootfs;
/// # Ok(())
/// # }
/// ```
///
/// Values are handles on the same directory, cheap to clone.
///
/// # On disk
///
/// The layers lie in `DRIVER/KEY/tree`, of the caller's only. Owners are as in the layer where the caller is root.
/// For other callers root is the caller, and further ids are those that
/// [`UserNamespace::automatic`] maps. The caller may keep files of his own in `DRIVER/KEY`: their names must not be
/// `tree`, nor begin with `merged-` or a dot.
#[derive(Clone, Debug)]
pub struct LayerStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Of the driver's.
    directory: Directory,
    storage: Box<dyn Storage>,
    /// Made when it is first needed, where it is needed at all.
    namespace: Mutex<Option<UserNamespace>>,
}

impl LayerStore {
    /// Opens `directory`, with the driver that it was used with before, or else the first of overlay, btrfs
    /// and vfs that its file system, the kernel and the caller's rights allow. It is made, open to the caller only,
    /// if it is missing; its parent must exist.
    ///
    /// # Errors
    ///
    /// `NotFound` if the parent is missing, `PermissionDenied` if the caller may not write there.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self> {
        let directory = directory.as_ref();
        let drivers = [Driver::Overlay, Driver::Btrfs, Driver::Vfs];
        let used = drivers.into_iter().find(|driver| directory.join(driver.as_str()).is_dir());
        if let Some(driver) = used {
            return Self::open_with(directory, driver);
        }
        let mut refused = None;
        for driver in drivers {
            match Self::open_with(directory, driver) {
                Err(err) if err.kind() == ErrorKind::Unsupported => refused = Some(err),
                opened => return opened,
            }
        }
        Err(refused.unwrap_or_else(|| Error::unsupported("there is no storage driver")))
    }

    /// Opens `directory` with this driver. Layers of another driver there are not seen, and stay.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); `Unsupported` if the driver cannot be used there, with a hint that says why.
    pub fn open_with(directory: impl AsRef<Path>, driver: Driver) -> Result<Self> {
        let directory = directory.as_ref();
        let attempt = || format!("keep layers in {} with {driver}", directory.display());
        make_directory(directory).context(attempt)?;
        let path = directory.join(driver.as_str());
        let new = make_directory(&path).context(attempt)?;
        let opened = Directory::open(&path, "the directory of the driver").context(attempt)?;
        let storage: Box<dyn Storage> = match driver {
            Driver::Overlay => Box::new(Overlay),
            Driver::Btrfs => Box::new(Btrfs),
            Driver::Vfs => Box::new(Vfs),
        };
        let inner = Inner { directory: opened, storage, namespace: Mutex::new(None) };
        let store = Self(Arc::new(inner));
        // What has been used before is known to work.
        if new && let Err(err) = store.0.storage.check(&store) {
            let _ = fs::remove_dir(&path);
            return Err(err.context(attempt()));
        }
        Ok(store)
    }

    /// Which driver it is.
    pub fn driver(&self) -> Driver {
        self.0.storage.driver()
    }

    /// Whether there is a layer of this key.
    pub fn contains(&self, key: &str) -> bool {
        check_key(key).is_ok() && self.tree(key).is_ok()
    }

    /// [`contains`](Self::contains), which fails where that cannot be told.
    #[cfg_attr(not(feature = "image"), allow(dead_code, reason = "for images"))]
    pub(crate) fn has(&self, key: &str) -> Result<bool> {
        match self.tree(key) {
            Ok(_) => Ok(true),
            Err(err) if err.says_missing() => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// The keys of all layers, in byte order.
    ///
    /// # Errors
    ///
    /// Those of reading the directory.
    pub fn keys(&self) -> Result<Vec<String>> {
        let mut keys = self.names()?;
        keys.retain(|name| check_key(name).is_ok());
        keys.sort();
        Ok(keys)
    }

    /// The directory `DRIVER/KEY`, whether or not there is one.
    pub fn path(&self, key: &str) -> PathBuf {
        self.0.directory.path.join(key)
    }

    /// Begins a layer on top of those with the keys `parents`, the lowest first. Whoever fills the staging
    /// directory finds in it a copy of the topmost parent, or nothing if the driver
    /// [keeps differences](Staging::keeps_differences).
    ///
    /// # Errors
    ///
    /// `NotFound` if the topmost parent is missing where a copy of it is needed; `ResourceExhausted` if the disk is
    /// full.
    pub fn prepare(&self, parents: &[&str]) -> Result<Staging> {
        self.prepare_upon(check_keys(parents)?)
    }

    /// [`prepare`](Self::prepare), also upon layers that are being made, by their [names](Staging::name).
    pub(crate) fn prepare_upon(&self, parents: &[&str]) -> Result<Staging> {
        Staging::new(self, parents, |storage| match parents.last() {
            Some(parent) if !storage.keeps_differences() => self.tree(parent).map(Some),
            _ => Ok(None),
        })
        .context(|| "prepare a layer")
    }

    /// Begins a layer of what the writable layer of `rootfs` holds now. `parents` are those that the root file system was
    /// made of.
    ///
    /// The processes on it should be stopped or frozen meanwhile.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if it has no writable layer, is not of this driver, or is one of overlay with its changes in
    /// memory and mapped ids; others as [`prepare`](Self::prepare).
    pub fn capture(&self, rootfs: &Rootfs, parents: &[&str]) -> Result<Staging> {
        let parents = check_keys(parents)?;
        let attempt = || "make a layer of a root file system";
        let invalid = |message: &str| Error::invalid(message.to_owned()).context(attempt());
        let upper = rootfs.upper().ok_or_else(|| invalid("it is read-only"))?;
        if rootfs.is_whole_tree() == self.0.storage.keeps_differences() {
            return Err(invalid("it was made by another driver"));
        }
        if matches!(rootfs.upper_ids(), Ids::Mapped(_)) {
            return Err(invalid("its changes are in memory").with_hint(
                "an archive can be made of them, with `Pack`, and a layer of that, with `Unpack`",
            ));
        }
        Staging::new(self, parents, |_| {
            upper.try_clone_to_owned().map(Some).context(|| "duplicate a descriptor")
        })
        .context(attempt)
    }

    /// Starts a root filesystem of the layers with these keys, the lowest first: say whether it is to be
    /// writable. Without keys it is an empty one.
    ///
    /// With overlay the changes of a [`writable`](Stack::writable) one are those of a stack. With btrfs and vfs its
    /// directory is given a whole tree, a snapshot or copy of the topmost layer, and an [`ephemeral`](Stack::ephemeral)
    /// one lies with the layers until the last handle is gone.
    ///
    /// Of overlay the kernel could stack 500 layers, at a cost for each. From 17 on, this merges the lower ones: the
    /// directories anew, the files as hard links, once for all images that begin with them.
    ///
    /// # Errors
    ///
    /// `NotFound` if a layer is missing.
    pub fn stack(&self, keys: &[&str]) -> Result<Stack> {
        self.stack_of(check_keys(keys)?)
    }

    /// [`stack`](Self::stack), also of layers that are being made, by their names.
    pub(super) fn stack_of(&self, keys: &[&str]) -> Result<Stack> {
        if keys.is_empty() {
            if self.tree(EMPTY).is_err() {
                self.prepare(&[])?.commit_as(EMPTY)?;
            }
            return Ok(self.0.storage.stack(self, &[EMPTY])?.of_layers(keys));
        }
        Ok(self.0.storage.stack(self, keys)?.of_layers(keys))
    }

    /// Removes the directory of a [writable](Stack::writable) root filesystem, with the changes in it. Returns
    /// whether there was one.
    ///
    /// What a container of a caller without privilege has made may belong to ids that are not the caller's, and on
    /// btrfs it is a subvolume: this removes them where rm(1) cannot.
    ///
    /// # Errors
    ///
    /// `Busy` if a root filesystem still uses it.
    pub fn remove_writable(&self, directory: impl AsRef<Path>) -> Result<bool> {
        let path = directory.as_ref();
        if fs::symlink_metadata(path).is_err_and(|err| err.kind() == io::ErrorKind::NotFound) {
            return Ok(false);
        }
        let attempt = || format!("remove the writable directory {}", path.display());
        let (directory, lock, _) = claim(path).context(attempt)?;
        let parent = directory.path.parent().zip(directory.path.file_name());
        let (parent, name) =
            parent.ok_or_else(|| Error::invalid("it has no name").context(attempt()))?;
        let parent = Directory::open(parent, "the directory above").context(attempt)?;
        let namespace = self.user_namespace().context(attempt)?;
        let access = Access(namespace.as_ref());
        self.0.storage.remove(&lock, OsStr::new(TREE), access).context(attempt)?;
        remove(&parent.fd, name, access).context(attempt)?;
        Ok(true)
    }

    /// What the layer occupies, or, given its parent, what it does in addition to that. What was merged for stacks that
    /// end with it is part of it.
    ///
    /// # Errors
    ///
    /// `NotFound` if one of the layers is missing.
    pub fn usage(&self, key: &str, parent: Option<&str>) -> Result<Usage> {
        check_key(key)?;
        let attempt = || format!("measure the layer {key}");
        let access = self.user_namespace().context(attempt)?;
        let access = Access(access.as_ref());
        let parent = match parent {
            // Only snapshots share inodes, and so can be told from what is new.
            Some(parent) if self.driver() == Driver::Btrfs => Some(self.tree(parent)?),
            _ => None,
        };
        measure(self.tree(key)?, parent, self.merged(key).context(attempt)?, access)
            .context(attempt)
    }

    /// The directories that were merged for this layer.
    fn merged(&self, key: &str) -> Result<Vec<OwnedFd>> {
        let dir = open_directory(&self.0.directory.fd, key)?;
        let merged = names(&dir)?.into_iter().filter(|name| name.starts_with(MERGED));
        // One that is outdated may go away meanwhile.
        Ok(merged.filter_map(|name| open_directory(&dir, &name).ok()).collect())
    }

    /// The user namespace that gives the caller his rights over layers, if he has not all.
    pub(super) fn user_namespace(&self) -> Result<Option<UserNamespace>> {
        if privileged() {
            return Ok(None);
        }
        let mut namespace = self.0.namespace.lock().unwrap_or_else(PoisonError::into_inner);
        if namespace.is_none() {
            *namespace = Some(UserNamespace::automatic()?);
        }
        Ok(namespace.clone())
    }

    pub(super) fn storage(&self) -> &dyn Storage {
        &*self.0.storage
    }

    pub(super) fn directory(&self) -> &Directory {
        &self.0.directory
    }

    /// Holds off who would collect (`LockShared`), or everybody else (`LockExclusive`).
    pub(super) fn lock(&self, kind: FlockArg) -> Result<Flock<OwnedFd>> {
        // A lock belongs to an open file: each needs its own.
        let mut fd = open_directory(&self.0.directory.fd, ".")?;
        loop {
            match Flock::lock(fd, kind) {
                Ok(lock) => return Ok(lock),
                Err((again, Errno::EINTR)) => fd = again,
                Err((_, errno)) => return Err(errno).context(|| "lock the directory of layers"),
            }
        }
    }

    /// The layer itself, open for reading.
    pub(super) fn tree(&self, key: &str) -> Result<OwnedFd> {
        open_directory(&self.0.directory.fd, key)
            .and_then(|dir| self.open_tree(&dir))
            .context(|| format!("find the layer {key}"))
    }

    /// Opens the tree in this directory for reading, even if it is another user's, and closed.
    pub(super) fn open_tree(&self, dir: &OwnedFd) -> Result<OwnedFd> {
        match open_directory(dir, TREE) {
            Err(err) if err.raw_os_error() == Some(libc::EACCES) => {
                let namespace = self.user_namespace()?;
                let opened = Access(namespace.as_ref()).open_directory(dir, OsStr::new(TREE));
                opened.context(|| format!("open {TREE}"))
            }
            opened => opened,
        }
    }

    pub(super) fn names(&self) -> Result<Vec<String>> {
        names(&self.0.directory.fd)
    }
}

pub(super) fn names(dir: &OwnedFd) -> Result<Vec<String>> {
    let own = open_directory(dir, ".")?;
    let mut dir = nix::dir::Dir::from_fd(own).context(|| "read a directory")?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        let entry = entry.context(|| "read a directory")?;
        if let Ok(name) = entry.file_name().to_str()
            && !matches!(name, "." | "..")
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Returns whether it was missing.
fn make_directory(path: &Path) -> Result<bool> {
    let here = nix::fcntl::AT_FDCWD;
    match mkdirat(here, path, Mode::S_IRWXU) {
        Ok(()) => Ok(true),
        Err(Errno::EEXIST) => Ok(false),
        // So is a directory on a file system that is read-only.
        Err(errno) if fstatat(here, path, AtFlags::empty()).is_err() => {
            Err(errno).context(|| format!("make the directory {}", path.display()))
        }
        Err(_) => Ok(false),
    }
}

/// A key is the name of a directory.
pub(super) fn check_key(key: &str) -> Result<()> {
    const LONGEST: usize = 200;
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:+".contains(byte);
    let bytes = OsStr::new(key).as_bytes();
    if bytes.is_empty() || bytes.len() > LONGEST || bytes[0] == b'.' || !bytes.iter().all(allowed) {
        return Err(Error::invalid(format!("{key:?} cannot be the key of a layer")).with_hint(
            "a key is up to 200 letters, digits and -_.:+ and does not begin with a dot",
        ));
    }
    Ok(())
}

pub(super) fn check_keys<'a, 'b>(keys: &'a [&'b str]) -> Result<&'a [&'b str]> {
    keys.iter().try_for_each(|key| check_key(key)).map(|()| keys)
}
