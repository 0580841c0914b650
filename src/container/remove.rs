//! Taking containers away, step by step, so that whoever comes after a crash can go on.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::config::MountSource;
use super::files::{self, gone};
use super::home::Home;
use super::id::ContainerId;
use super::locked::Locked;
use super::volume;
use crate::error::{Context, Result};

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
