//! Taking layers away, and what is left of them.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, renameat};
use nix::sys::stat::fstatat;

use super::TREE;
use super::copy::open_directory;
use super::overlay::{MERGED, merged_name};
use super::remove::remove;
use super::staging::new_directory;
use super::store::{LayerStore, NEW, check_key, names};
use crate::error::{Context, Result};
use crate::layers::access::Access;

/// Begins the name of what is being removed.
const OLD: &str = ".old-";

impl LayerStore {
    /// Removes the layer of this key. Root filesystems made of it lose its files. Returns whether there was one.
    ///
    /// # Errors
    ///
    /// Those of the file system. The layer is gone for all others even then, and what is left of it is
    /// [collected](Self::collect) later.
    pub fn remove(&self, key: &str) -> Result<bool> {
        check_key(key)?;
        let present = self.lock(FlockArg::LockShared);
        let removed = present.and_then(|present| self.try_remove(key, present));
        removed.context(|| format!("remove the layer {key}"))
    }

    /// [`remove`](Self::remove), if the layer that is there now is `spoiled`.
    ///
    /// Nobody takes it away, so that another may come in its place, between the look at it and its removal.
    #[cfg_attr(not(feature = "image"), allow(dead_code, reason = "for images"))]
    pub(crate) fn remove_if(
        &self,
        key: &str,
        spoiled: impl FnOnce() -> Result<bool>,
    ) -> Result<bool> {
        check_key(key)?;
        if !self.holds(key) {
            return Ok(false);
        }
        let attempt = || format!("remove the layer {key} if it is spoiled");
        let alone = self.lock(FlockArg::LockExclusive).context(attempt)?;
        match self.holds(key) && spoiled().context(attempt)? {
            true => self.try_remove(key, alone).context(attempt),
            false => Ok(false),
        }
    }

    /// Whether there is anything under the key, whole or not.
    fn holds(&self, key: &str) -> bool {
        fstatat(&self.directory().fd, key, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
    }

    fn try_remove(&self, key: &str, present: Flock<OwnedFd>) -> Result<bool> {
        let moved = self.set_aside(&self.directory().fd, key, &present)?;
        drop(present);
        let Some((name, lock)) = moved else { return Ok(false) };
        self.discard(&name, lock).map(|()| true)
    }

    /// Removes what processes have left that died while they made or removed layers. Returns how many directories
    /// that were.
    ///
    /// # Errors
    ///
    /// The first failure; the others are still collected.
    pub fn collect(&self) -> Result<usize> {
        let attempt =
            || format!("collect what is left over in {}", self.directory().path.display());
        let mut found = Vec::new();
        {
            // Nobody makes a directory, or has made but not locked one, meanwhile.
            let _alone = self.lock(FlockArg::LockExclusive).context(attempt)?;
            for name in self.names().context(attempt)? {
                if !name.starts_with(NEW) && !name.starts_with(OLD) {
                    continue;
                }
                let Ok(fd) = open_directory(&self.directory().fd, &name) else { continue };
                if let Ok(lock) = Flock::lock(fd, FlockArg::LockExclusiveNonblock) {
                    found.push((name, lock));
                }
            }
        }
        for key in self.keys().context(attempt)? {
            found.append(&mut self.outdated(&key).context(attempt)?);
        }
        let mut result = Ok(found.len());
        for (name, lock) in found {
            if let Err(err) = self.discard(&name, lock)
                && result.is_ok()
            {
                result = Err(err).context(attempt);
            }
        }
        result
    }

    /// What was merged before the machine was last started may be incomplete.
    fn outdated(&self, key: &str) -> Result<Vec<(String, Flock<OwnedFd>)>> {
        let mut found = Vec::new();
        let Ok(dir) = open_directory(&self.directory().fd, key) else { return Ok(found) };
        let current = merged_name()?;
        for name in names(&dir)? {
            if name.starts_with(MERGED) && name != current {
                found.extend(self.set_aside(&dir, &name, &self.lock(FlockArg::LockShared)?)?);
            }
        }
        Ok(found)
    }

    /// Takes the layer of this key away at once; [`collect`](Self::collect) removes it. Returns whether there was one.
    #[cfg_attr(not(feature = "image"), allow(dead_code, reason = "for collectors of garbage"))]
    pub(crate) fn retire(&self, key: &str) -> Result<bool> {
        check_key(key)?;
        let present = self.lock(FlockArg::LockShared);
        let moved = present.and_then(|present| self.set_aside(&self.directory().fd, key, &present));
        moved.map(|moved| moved.is_some()).context(|| format!("retire the layer {key}"))
    }

    /// Renames a directory so that nobody finds it any more. The [lock](Self::lock) that is held is of either kind.
    fn set_aside(
        &self,
        dir: &OwnedFd,
        name: &str,
        _held: &Flock<OwnedFd>,
    ) -> Result<Option<(String, Flock<OwnedFd>)>> {
        let (parent, outer) = (&self.directory().fd, new_directory(&self.directory().fd, OLD)?);
        let new_dir = open_directory(parent, &outer)?;
        let lock = Flock::lock(new_dir, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| errno)
            .context(|| "lock a directory")?;
        match renameat(dir, name, &*lock, "content") {
            Ok(()) => Ok(Some((outer, lock))),
            Err(errno) => {
                let _ = fs::remove_dir(self.path(&outer));
                match errno {
                    Errno::ENOENT => Ok(None),
                    _ => Err(errno).context(|| format!("move {name} away")),
                }
            }
        }
    }

    /// Removes a directory that the caller has locked.
    pub(super) fn discard(&self, name: &str, lock: Flock<OwnedFd>) -> Result<()> {
        let namespace = self.user_namespace()?;
        let access = Access(namespace.as_ref());
        let storage = self.storage();
        storage.remove(&lock, OsStr::new(TREE), access)?;
        if let Ok(content) = open_directory(&lock, "content") {
            storage.remove(&content, OsStr::new(TREE), access)?;
        }
        remove(&self.directory().fd, OsStr::new(name), access)
    }
}
