//! A handle on one container.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock};

use super::builder;
use super::config::{Config, Resources, Restart};
use super::home::Home;
use super::id::{ContainerId, check_name};
use super::launch;
use super::locked::Locked;
use super::state::{Exit, Record, Status};
use crate::cgroups::Cgroup;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::Image;

/// A container: made of an image, with a name, settings, and what it has written; running or not.
///
/// It lasts until it is [removed](Self::remove), beyond the life of the process that made it. Clones are handles on the
/// same container; other processes may have handles on it too, and all see the same.
///
/// # Supervision
///
/// The process that starts a container looks after it, in one thread for all of them: reads what it writes, notes how it
/// ends, starts it anew where its [restart policy](super::Restart) says so. When that process ends, in whatever way, so
/// do the containers that it has started; dropping a handle, or the engine, does not end them. One that is started
/// [detached](Self::start_detached) has a process for itself that does this, and goes on.
#[derive(Clone, Debug)]
pub struct Container {
    pub(super) home: Arc<Home>,
    pub(super) id: ContainerId,
    /// How it ends that was started through this handle: there even if the container is gone by then.
    pub(super) started: Arc<Mutex<Option<Arc<OnceLock<Exit>>>>>,
}

impl Container {
    pub(crate) fn new(home: Arc<Home>, id: ContainerId) -> Self {
        Self { home, id, started: Arc::default() }
    }

    pub(super) fn home(&self) -> &Arc<Home> {
        &self.home
    }

    /// What tells it from all others, now and later.
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// Its name.
    ///
    /// # Errors
    ///
    /// `NotFound` if it has been removed.
    pub fn name(&self) -> Result<String> {
        Ok(self.home.identity(&self.id)?.name)
    }

    /// What it was asked to be.
    ///
    /// # Errors
    ///
    /// `NotFound` if it has been removed.
    pub fn config(&self) -> Result<Config> {
        Ok(self.home.identity(&self.id)?.config)
    }

    /// The image it is made of.
    ///
    /// # Errors
    ///
    /// `NotFound` if it has been removed.
    pub fn image(&self) -> Result<Image> {
        let name = self.name()?;
        let image = self.home.store().pinned_image(self.id.as_str());
        image.context(|| format!("look up the image of the container {name}"))
    }

    /// The program that it runs and its arguments: its own, or the image's.
    ///
    /// # Errors
    ///
    /// `NotFound` if it has been removed.
    pub fn command_line(&self) -> Result<Vec<String>> {
        let locked = self.locked()?;
        launch::words(&locked.identity.config, &launch::image_of(&locked)?)
    }

    /// How it is now.
    ///
    /// # Errors
    ///
    /// `NotFound` if it has been removed.
    pub fn status(&self) -> Result<Status> {
        let record = self.home.record(&self.id)?;
        // What a dead supervisor has left must be put in order first.
        let alive = record.supervisor.map_or(Ok(true), |it| self.home.is_alive(it))?;
        let (record, identity) = match !alive || record.boot != self.home.boot() {
            true => {
                let Locked { record, identity, .. } = self.locked()?;
                (record, identity)
            }
            false => (record, self.home.identity(&self.id)?),
        };
        let health = identity.health.as_ref().map(|_| self.home.health(&self.id));
        Ok(Status { health, ..record.status(&identity) })
    }

    pub(super) fn locked(&self) -> Result<Locked<'_>> {
        Locked::of(&self.home, &self.id)
    }

    pub(super) fn says(&self, what: &str) -> String {
        format!(
            "{what} the container {}",
            self.name().unwrap_or_else(|_| self.id.short().to_owned())
        )
    }

    /// Changes what it may use, running or not. What `resources` leaves open stays as it is.
    ///
    /// # Errors
    ///
    /// As [`Cgroup::set`]; nothing is changed then.
    pub fn update(&self, resources: &Resources) -> Result<()> {
        let attempt = || self.says("update");
        let mut locked = self.locked().context(attempt)?;
        if locked.record.phase.is_alive() {
            cgroup(&locked.record).and_then(|it| it.set(&resources.limits())).context(attempt)?;
            if resources.limits_memory() {
                self.announce_limits(&locked.record);
            }
        }
        locked.identity.config.resources = resources.over(&locked.identity.config.resources);
        locked.save_identity().context(attempt)?;
        locked.tell("update", &[]);
        Ok(())
    }

    /// Changes what is done when it ends.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a policy other than [`No`](Restart::No) if it is removed when it ends.
    pub fn set_restart(&self, policy: Restart) -> Result<()> {
        let set = || -> Result<()> {
            let mut locked = self.locked()?;
            locked.identity.config.restart = policy;
            builder::check_restart(&locked.identity.config)?;
            locked.save_identity()?;
            locked.tell("update", &[]);
            Ok(())
        };
        set().context(|| self.says("change the restart policy of"))
    }

    /// Gives it another name.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` if another container has the name; `InvalidInput` for one that is not allowed.
    pub fn rename(&self, name: &str) -> Result<()> {
        self.try_rename(name).context(|| format!("{} to {name}", self.says("rename")))
    }

    fn try_rename(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let mut locked = self.locked()?;
        let _names = self.home.lock_names()?;
        self.home.claim_name(name, &self.id)?;
        let old = std::mem::replace(&mut locked.identity.name, name.to_owned());
        if let Err(err) = locked.save_identity() {
            self.home.release_name(name, &self.id)?;
            return Err(err);
        }
        if old != name {
            self.home.release_name(&old, &self.id)?;
        }
        locked.tell("rename", &[("oldName", &format!("/{old}"))]);
        Ok(())
    }
}

/// The pidfd of its first process.
pub(super) fn open(record: &Record) -> Result<OwnedFd> {
    let pidfd = record.open_process()?;
    pidfd.ok_or_else(|| Error::new(ErrorKind::InvalidState, "it has ended"))
}

pub(super) fn cgroup(record: &Record) -> Result<Cgroup> {
    if record.cgroup.is_empty() {
        return Err(Error::unsupported("it has no cgroup").with_hint(
            "whoever started it could make none: run it as root, or in a delegated cgroup (systemd-run --user --scope)",
        ));
    }
    Cgroup::at_paths(&record.cgroup)
}
