//! Taking containers away, step by step, so that whoever comes after a crash can go on.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::config::MountSource;
use super::container::Container;
use super::files::{self, gone};
use super::home::Home;
use super::id::ContainerId;
use super::locked::Locked;
use super::state::Phase;
use super::volume;
use crate::error::{Context, Error, ErrorKind, Result};

impl Container {
    /// Removes it, with all that it has written, and volumes that have no name.
    ///
    /// # Errors
    ///
    /// `InvalidState` if it runs.
    pub fn remove(self) -> Result<()> {
        self.try_remove(false).context(|| self.says("remove"))
    }

    /// [`remove`](Self::remove), killing it first if it runs.
    ///
    /// # Errors
    ///
    /// `TimedOut` if not even SIGKILL ends it.
    pub fn remove_forced(self) -> Result<()> {
        self.try_remove(true).context(|| self.says("remove"))
    }

    fn try_remove(&self, force: bool) -> Result<()> {
        loop {
            let mut locked = match self.locked_when_recorded() {
                Err(err)
                    if force
                        && matches!(err.kind(), ErrorKind::Malformed | ErrorKind::Unsupported) =>
                {
                    return damaged(&self.home, &self.id);
                }
                other => other?,
            };
            if !locked.record.phase.is_alive() {
                locked.record.phase = Phase::Removing;
                locked.record.supervisor = None;
                locked.save()?;
                return finish(&mut locked);
            }
            if !force {
                let message = format!("it is {}", locked.record.phase);
                return Err(Error::new(ErrorKind::InvalidState, message)
                    .with_hint("stop it first, or remove it by force"));
            }
            drop(locked);
            match self.try_stop(Some(Duration::ZERO)) {
                Err(err) if err.kind() == ErrorKind::NotFound => return Ok(()),
                other => other?,
            }
            if !self.home.directory(&self.id).exists() {
                return Ok(());
            }
        }
    }
}

/// Removes a container whose phase says so: its name, then its directory, then its image's pin.
pub(super) fn finish(locked: &mut Locked<'_>) -> Result<()> {
    let (home, id) = (locked.home(), locked.id);
    {
        let _names = home.lock_names()?;
        home.release_name(&locked.identity.name, id)?;
        let trash = home.path("trash").join(id.as_str());
        let directory = locked.directory();
        gone(fs::rename(&directory, &trash))
            .context(|| format!("move {} away", directory.display()))?;
    }
    for mount in &locked.identity.config.mounts {
        if let MountSource::Volume { name, anonymous: true } = &mount.source {
            volume::remove_anonymous(home, name)?;
        }
    }
    empty(home, &home.path("trash").join(id.as_str()))
}

/// Removes a container by force whose files cannot be read: nobody knows its name or its process any more.
pub(super) fn damaged(home: &Arc<Home>, id: &ContainerId) -> Result<()> {
    let directory = home.directory(id);
    let _lock = files::lock(&directory.join("lock"))?;
    let trash = home.path("trash").join(id.as_str());
    {
        let _names = home.lock_names()?;
        gone(fs::rename(&directory, &trash))
            .context(|| format!("move {} away", directory.display()))?;
    }
    empty(home, &trash)
}

/// Removes what is left of a container in the trash.
pub(super) fn empty(home: &Arc<Home>, path: &Path) -> Result<()> {
    let attempt = || format!("remove {}", path.display());
    home.store().layers().context(attempt)?.remove_writable(path.join("files")).context(attempt)?;
    let name = path.file_name().and_then(|name| name.to_str());
    if let Some(id) = name.and_then(|name| name.parse::<ContainerId>().ok()) {
        home.store().unpin(id.as_str()).context(attempt)?;
    }
    gone(fs::remove_dir_all(path)).context(attempt)
}
