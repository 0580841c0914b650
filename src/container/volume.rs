//! Volumes: directories that outlive containers, and that several share.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::config::MountSource;
use super::files::gone;
use super::home::{Home, entries};
use super::id::check_name;
use crate::error::{Context, Error, ErrorKind, Result};

/// A directory that containers mount by its name.
#[derive(Clone, Debug)]
pub struct Volume {
    home: Arc<Home>,
    name: String,
}

/// Where its files are. What else may have to be kept of it lies beside.
const DATA: &str = "data";

impl Volume {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory with its files.
    pub fn path(&self) -> PathBuf {
        directory(&self.home, &self.name).join(DATA)
    }

    /// The short ids of the containers that mount it.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn users(&self) -> Result<Vec<String>> {
        let mut users = Vec::new();
        for id in self.home.ids()? {
            let Ok(identity) = self.home.identity(&id) else { continue };
            let named = |source: &MountSource| matches!(source, MountSource::Volume { name, .. } if *name == self.name);
            if identity.config.mounts.iter().any(|mount| named(&mount.source)) {
                users.push(id.short().to_owned());
            }
        }
        Ok(users)
    }

    /// Removes it with all that is in it.
    ///
    /// # Errors
    ///
    /// `Busy` if a container mounts it, running or not.
    pub fn remove(self) -> Result<()> {
        let attempt = || format!("remove the volume {}", self.name);
        let _names = self.home.lock_names().context(attempt)?;
        let users = self.users().context(attempt)?;
        if !users.is_empty() {
            let message = format!("it is in use by {}", users.join(", "));
            return Err(Error::new(ErrorKind::Busy, message)
                .with_hint("remove those containers first")
                .context(attempt()));
        }
        discard(&self.home, &self.name).context(attempt)
    }
}

impl Home {
    /// Makes a volume, if there is none of this name.
    pub(crate) fn make_volume(self: &Arc<Self>, name: &str) -> Result<(Volume, bool)> {
        check_name(name)?;
        let path = directory(self, name);
        let attempt = || format!("make the volume {name}");
        let mut new = false;
        let all = path.parent().unwrap_or(&path);
        for (dir, mode) in [(all, 0o711), (&path, 0o711), (&path.join(DATA), 0o755)] {
            match DirBuilder::new().mode(mode).create(dir) {
                Ok(()) => new = true,
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => new = false,
                Err(err) => return Err(err).context(attempt),
            }
        }
        Ok((Volume { home: self.clone(), name: name.to_owned() }, new))
    }

    pub(crate) fn find_volume(self: &Arc<Self>, name: &str) -> Result<Volume> {
        check_name(name)?;
        match directory(self, name).join(DATA).is_dir() {
            true => Ok(Volume { home: self.clone(), name: name.to_owned() }),
            false => Err(Error::new(ErrorKind::NotFound, format!("no such volume: {name}"))),
        }
    }

    pub(crate) fn all_volumes(self: &Arc<Self>) -> Result<Vec<Volume>> {
        let dir = self.store().path().join("volumes");
        if !dir.exists() {
            return Ok(Vec::new());
        }
        let name = |path: PathBuf| path.file_name()?.to_str().map(str::to_owned);
        let mut names: Vec<_> = entries(&dir)?.into_iter().filter_map(name).collect();
        names.sort_unstable();
        Ok(names.into_iter().filter_map(|name| self.find_volume(&name).ok()).collect())
    }
}

/// Removes a volume that has no name of the user's, with its container.
pub(super) fn remove_anonymous(home: &Arc<Home>, name: &str) -> Result<()> {
    let Ok(volume) = home.find_volume(name) else { return Ok(()) };
    match volume.users()?.is_empty() {
        true => discard(home, name),
        // Another container has taken it over.
        false => Ok(()),
    }
}

fn discard(home: &Home, name: &str) -> Result<()> {
    let path = directory(home, name);
    let layers = home.store().layers()?;
    // Files of subordinate ids are not the caller's to remove with rm(1).
    layers.remove_writable(path.join(DATA))?;
    gone(fs::remove_dir(&path)).context(|| format!("remove {}", path.display()))
}

fn directory(home: &Home, name: &str) -> PathBuf {
    home.store().path().join("volumes").join(name)
}
