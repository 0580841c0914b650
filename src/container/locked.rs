//! A container whose state is being changed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::config::{MountConfig, MountSource, Restart};
use super::files::{self, Durable, Held};
use super::home::Home;
use super::id::ContainerId;
use super::launch::{self, Launch};
use super::new_container::Made;
use super::process::ProcessId;
use super::remove;
use super::state::{Exit, Identity, Phase, Record};
use super::supervisor::Supervisor;
use crate::cgroups::Cgroup;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::Image;
use crate::namespaces::TerminalSize;
use crate::sys;

/// Held for moments: whoever has it is the only one to change the files of the container. Its state is true: what a
/// dead supervisor has left is put in order first.
#[derive(Debug)]
pub(super) struct Locked<'a> {
    home: &'a Arc<Home>,
    pub(super) id: &'a ContainerId,
    pub(super) identity: Identity,
    pub(super) record: Record,
    /// If it is known already.
    pub(super) image: Option<Image>,
    _lock: Held,
}

/// How long a process that was sent SIGKILL may take to be gone.
const DYING: Duration = Duration::from_secs(5);

impl<'a> Locked<'a> {
    /// Waits for the lock.
    pub(super) fn of(home: &'a Arc<Home>, id: &'a ContainerId) -> Result<Self> {
        let lock = files::lock_directory(&home.directory(id)).map_err(|err| missing(err, id))?;
        Self::with(home, id, lock)
    }

    /// `None` if somebody else has the lock.
    pub(super) fn try_of(home: &'a Arc<Home>, id: &'a ContainerId) -> Result<Option<Self>> {
        let lock = files::try_lock_directory(&home.directory(id));
        let lock = lock.map_err(|err| missing(err, id))?;
        lock.map(|lock| Self::with(home, id, lock)).transpose()
    }

    fn with(home: &'a Arc<Home>, id: &'a ContainerId, lock: Held) -> Result<Self> {
        // Moved away, perhaps, while this waited.
        let identity = home.identity(id)?;
        let record = home.record(id)?;
        let mut locked = Self { home, id, identity, record, image: None, _lock: lock };
        locked.settle()?;
        Ok(locked)
    }

    /// Of one that nobody else knows of yet.
    pub(super) fn of_new(home: &'a Arc<Home>, id: &'a ContainerId, made: Made) -> Self {
        let Made { lock, identity, record, image } = made;
        Self { home, id, identity, record, image: Some(image), _lock: lock }
    }

    pub(super) fn home(&self) -> &'a Arc<Home> {
        self.home
    }

    pub(super) fn directory(&self) -> PathBuf {
        self.home.directory(self.id)
    }

    pub(super) fn save(&self) -> Result<()> {
        // After a failure of the machine no container runs, whatever is written there.
        let durable = if self.identity.config.remove { Durable::Never } else { Durable::No };
        files::write_json(&self.directory().join("state.json"), &self.record, durable)
    }

    pub(super) fn save_identity(&self) -> Result<()> {
        let durable = if self.identity.config.remove { Durable::Never } else { Durable::Yes };
        files::write_json(&self.directory().join("config.json"), &self.identity, durable)
    }

    /// Starts it by `spawn`, for this supervisor, and writes down how that went.
    pub(super) fn start(
        &mut self,
        supervisor: ProcessId,
        terminal: TerminalSize,
        helper: Option<&Supervisor>,
        spawn: impl FnOnce(Launch) -> Result<ProcessId>,
    ) -> Result<()> {
        let again = self.record.phase != Phase::Created;
        // Before there is anything: whoever finds this process dead looks there for what is left.
        let noted = match self.record.is_to_be_started_by(supervisor) {
            true => Ok(()),
            false => {
                self.record.set_starter(supervisor, self.id);
                self.save()
            }
        };
        let prepared = noted.and_then(|()| Launch::prepare(self, terminal, helper));
        let started = prepared.and_then(|launch| {
            self.record.cgroup = launch.cgroup_paths();
            spawn(launch)
        });
        match started {
            Ok(process) => {
                self.record.started(process, supervisor);
                self.save()?;
                self.tell_start();
                Ok(())
            }
            Err(err) => {
                self.record.ended(None, Some(format!("{err:#}")));
                if !again {
                    self.record.phase = Phase::Created;
                    self.record.finished = None;
                }
                let _ = self.save();
                Err(err)
            }
        }
    }

    /// Finishes what a dead supervisor has begun.
    fn settle(&mut self) -> Result<()> {
        if self.record.phase == Phase::Removing {
            return self.finish_removal();
        }
        let same_boot = self.record.boot == self.home.boot();
        let Some(supervisor) = self.record.supervisor else { return Ok(()) };
        if same_boot && self.home.is_alive(supervisor)? {
            return Ok(());
        }
        let oom_kills = if same_boot { self.kill_orphan()? } else { 0 };
        if matches!(self.record.phase, Phase::Running | Phase::Paused | Phase::Restarting) {
            let why = match same_boot {
                true => format!("its supervisor, process {}, was killed", supervisor.pid),
                false => "the machine was restarted".to_owned(),
            };
            if oom_kills > 0 && !self.record.out_of_memory {
                self.ran_out_of_memory();
            }
            self.ended(Exit::killed(), Some(why));
            if self.identity.config.remove {
                self.record.phase = Phase::Removing;
                self.save()?;
                return self.finish_removal();
            }
        }
        self.record.supervisor = None;
        self.record.process = None;
        self.record.cgroup = Vec::new();
        self.record.boot = self.home.boot().to_owned();
        self.save()
    }

    /// Whether the restart policy has it started anew when it has ended so.
    pub(super) fn is_to_be_restarted(&self, exit: Exit) -> bool {
        if self.record.stopping {
            return false;
        }
        match self.identity.config.restart {
            Restart::No => false,
            Restart::OnFailure(most) => exit.status != 0 && self.record.restarts < most,
            Restart::Always | Restart::UnlessStopped => true,
        }
    }

    /// Notes that it has ended, and tells that first: whoever sees its end can read of it.
    pub(super) fn ended(&mut self, exit: Exit, error: Option<String>) {
        self.tell_end(exit);
        self.record.ended(Some(exit), error);
    }

    pub(super) fn tell_end(&self, exit: Exit) {
        // One that was to be started anew has ended before.
        if self.record.phase.is_alive() {
            let code = exit.status(&self.identity.config).shell_code().to_string();
            self.tell("die", &[("exitCode", &code)]);
            self.tell_volumes("unmount", |_| Vec::new());
        }
    }

    /// Notes that a process of it was killed because memory ran out, and tells that: whoever hears it can read of it.
    pub(super) fn ran_out_of_memory(&mut self) {
        if !std::mem::replace(&mut self.record.out_of_memory, true) {
            // A full disk, perhaps: its end is written down later.
            let _ = self.save();
        }
        self.tell("oom", &[]);
    }

    /// Tells of it, see [`events`](super::events).
    pub(super) fn tell(&self, action: &str, more: &[(&str, &str)]) {
        self.home.tell(self.id, &self.identity, action, more);
    }

    fn tell_start(&self) {
        self.tell_volumes("mount", |mount| {
            let writable = if mount.read_only { "false" } else { "true" };
            let target = mount.target.to_string_lossy().into_owned();
            vec![
                ("destination", target),
                ("propagation", String::new()),
                ("read/write", writable.to_owned()),
            ]
        });
        self.tell("start", &[]);
    }

    fn tell_volumes(
        &self,
        action: &str,
        more: impl Fn(&MountConfig) -> Vec<(&'static str, String)>,
    ) {
        for mount in &self.identity.config.mounts {
            if let MountSource::Volume { name, .. } = &mount.source {
                let more = more(mount);
                let mut attributes: Vec<_> =
                    more.iter().map(|(name, it)| (*name, it.as_str())).collect();
                attributes.push(("container", self.id.as_str()));
                self.home.tell_volume(name, action, &attributes);
            }
        }
    }

    fn finish_removal(&mut self) -> Result<()> {
        remove::finish(self)?;
        Err(Error::new(ErrorKind::NotFound, format!("no such container: {}", self.id.short())))
    }

    /// Kills what a dead supervisor ran. The kernel should have done so: it sends SIGKILL to the first process when the
    /// supervisor dies. Returns how many of its processes were killed because memory ran out.
    fn kill_orphan(&self) -> Result<u64> {
        let attempt =
            || format!("kill the container {}, whose supervisor is dead", self.id.short());
        if let Some(pidfd) = self.record.open_process().context(attempt)? {
            let _ = sys::spawn::send_signal(&pidfd, libc::SIGKILL);
            if !sys::wait::poll(&pidfd, Some(DYING)).context(attempt)? {
                return Err(
                    Error::new(ErrorKind::TimedOut, "wait for it to die").context(attempt())
                );
            }
        }
        let cgroup = match Cgroup::at_paths(&self.record.cgroup) {
            Err(err) if err.kind() == ErrorKind::NotFound => None,
            other => Some(other?),
        };
        let oom_kills = cgroup.as_ref().map_or(Ok(0), Cgroup::oom_kills).unwrap_or_default();
        cgroup.map_or(Ok(()), Cgroup::delete)?;
        launch::remove_cgroups_above(&self.record.cgroup);
        Ok(oom_kills)
    }

    /// Fails unless it has a process.
    pub(super) fn must_be_alive(&self, what: &str) -> Result<()> {
        if self.record.phase.is_alive() {
            return Ok(());
        }
        let message = format!("cannot {what}: the container is {}", self.record.phase);
        Err(Error::new(ErrorKind::InvalidState, message))
    }
}

/// Says what it means that files of a container are missing.
pub(super) fn missing(err: Error, id: &ContainerId) -> Error {
    match err.kind() {
        ErrorKind::NotFound => {
            Error::new(ErrorKind::NotFound, format!("no such container: {}", id.short()))
        }
        _ => err,
    }
}
