//! Taking containers away, step by step, so that whoever comes after a crash can go on.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::config::Config;
use super::container::Container;
use super::events::EventKind;
use super::files::{self, gone};
use super::home::Home;
use super::id::ContainerId;
use super::locked::Locked;
use super::state::{Identity, Phase, Record, VERSION};
use super::volume;
use crate::error::{Context, Error, ErrorKind, Result};

/// How a container is removed; made by [`Container::removal`].
#[derive(Clone, Debug)]
#[must_use = "`run` removes it"]
pub struct Removal {
    container: Container,
    force: bool,
    volumes: bool,
}

impl Container {
    /// Removes it, with all that it has written. Its volumes stay: [`removal`](Self::removal) has a choice.
    ///
    /// # Errors
    ///
    /// `InvalidState` if it runs.
    pub fn remove(self) -> Result<()> {
        self.removal().run()
    }

    /// [`remove`](Self::remove), killing it first if it runs.
    ///
    /// # Errors
    ///
    /// `TimedOut` if not even SIGKILL ends it.
    pub fn remove_forced(self) -> Result<()> {
        self.removal().force().run()
    }

    /// Begins its removal: `web.removal().force().volumes().run()?`.
    pub fn removal(self) -> Removal {
        Removal { container: self, force: false, volumes: false }
    }
}

impl Removal {
    /// Kills it first, if it runs.
    pub fn force(mut self) -> Self {
        self.force = true;
        self
    }

    /// Removes its volumes that have no name, too, unless another container mounts them. Of a container that is
    /// [removed when it ends](super::Config::remove) they go in any case.
    pub fn volumes(mut self) -> Self {
        self.volumes = true;
        self
    }

    /// Removes it, with all that it has written.
    ///
    /// # Errors
    ///
    /// `InvalidState` if it runs and is not to be killed; `TimedOut` if not even SIGKILL ends it.
    pub fn run(self) -> Result<()> {
        self.try_run().context(|| self.container.says("remove"))
    }

    fn try_run(&self) -> Result<()> {
        let container = &self.container;
        loop {
            let mut locked = match container.locked_when_recorded() {
                Err(err)
                    if self.force
                        && matches!(err.kind(), ErrorKind::Malformed | ErrorKind::Unsupported) =>
                {
                    return damaged(container.home(), container.id());
                }
                other => other?,
            };
            if !locked.record.phase.is_alive() {
                locked.record.phase = Phase::Removing;
                locked.record.supervisor = None;
                locked.record.with_volumes = self.volumes;
                locked.save()?;
                return finish(&mut locked);
            }
            if !self.force {
                let message = format!("it is {}", locked.record.phase);
                return Err(Error::new(ErrorKind::InvalidState, message)
                    .with_hint("stop it first, or remove it by force"));
            }
            drop(locked);
            match container.try_stop(None, Some(Duration::ZERO)) {
                Err(err) if err.kind() == ErrorKind::NotFound => {}
                other => other?,
            }
            if !container.home().directory(container.id()).exists() {
                // Whoever looks after it removes it, and has perhaps only begun.
                container.home().wait_for_removal(container.id());
                return Ok(());
            }
        }
    }
}

/// Removes a container whose phase says so: its name, then its directory, then what that has claims on.
pub(super) fn finish(locked: &mut Locked<'_>) -> Result<()> {
    let (home, id) = (locked.home(), locked.id);
    let trash = {
        let _names = home.lock_names()?;
        home.release_name(&locked.identity.name, id)?;
        home.move_away(&locked.directory())?
    };
    locked.tell("destroy", &[]);
    empty(home, &trash)
}

/// Removes a container by force whose files cannot be read: nobody knows its name or its process any more.
pub(super) fn damaged(home: &Arc<Home>, id: &ContainerId) -> Result<()> {
    let directory = home.directory(id);
    let _lock = files::lock_directory(&directory)?;
    let trash = {
        let _names = home.lock_names()?;
        home.move_away(&directory)?
    };
    let (kind, id) = (EventKind::Container, id.to_string());
    home.journal().note(kind, "destroy".to_owned(), id, BTreeMap::new());
    empty(home, &trash)
}

/// Removes what is left of a container, in the trash, with its claims on volumes and on an image.
pub(super) fn empty(home: &Arc<Home>, path: &Path) -> Result<()> {
    let attempt = || format!("remove {}", path.display());
    // Of one that is damaged nobody knows it.
    let identity = files::read_json::<Identity>(&path.join("config.json"), VERSION);
    let identity = files::if_readable(identity).context(attempt)?;
    let config = identity.as_ref().map(|identity| &identity.config);
    if let Some(config) = config {
        remove_volumes(home, config, path).context(attempt)?;
    }
    match home.store().layers().context(attempt)?.remove_writable(path.join("files")) {
        // Another process may be at it, too.
        Err(err) if err.kind() != ErrorKind::NotFound => return Err(err.context(attempt())),
        _ => {}
    }
    let name = path.file_name().and_then(|name| name.to_str());
    if let Some(id) = name.and_then(|name| name.parse::<ContainerId>().ok()) {
        match config.is_some_and(|config| config.remove) {
            true => home.store().unpin_briefly(id.as_str()),
            false => home.store().unpin(id.as_str()),
        }
        .context(attempt)?;
    }
    gone(fs::remove_dir_all(path)).context(attempt)
}

fn remove_volumes(home: &Arc<Home>, config: &Config, path: &Path) -> Result<()> {
    let record = files::read_json::<Record>(&path.join("state.json"), VERSION);
    // In its first phase it has not come into being.
    let go = config.remove
        || files::if_readable(record)?
            .is_some_and(|record| record.with_volumes || record.phase == Phase::Created);
    if go { volume::remove_anonymous(home, config, path) } else { Ok(()) }
}
