//! How a container is at the moment, and how that is kept on disk.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::SystemTime;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::config::Config;
use super::health::{Health, HealthCheck};
use super::id::ContainerId;
use super::launch;
use super::process::ProcessId;
use crate::error::Result;
use crate::namespaces::ExitStatus;

/// What a container does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Phase {
    /// It has not been started yet.
    Created,
    /// Its first process runs.
    Running,
    /// All of its processes stand still.
    Paused,
    /// It has ended, and will be started anew in a moment.
    Restarting,
    /// It has ended.
    Exited,
    /// It is being removed.
    Removing,
}

impl Phase {
    /// Whether there is a process of it.
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
            Self::Removing => "removing",
        })
    }
}

/// A container as it was at one moment.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Status {
    /// What it does.
    pub phase: Phase,
    /// The id of its first process as the host sees it, while there is one.
    pub pid: Option<u32>,
    /// How it ended the last time.
    pub exit: Option<ExitStatus>,
    /// Why it could not be started, or has ended otherwise than by itself.
    pub error: Option<String>,
    /// When it was made.
    pub created: SystemTime,
    /// When it was started the last time.
    pub started: Option<SystemTime>,
    /// When it ended the last time.
    pub finished: Option<SystemTime>,
    /// How often its [restart policy](super::Restart) has started it anew.
    pub restarts: u32,
    /// Whether a process of it has been killed because memory ran out, since it was started the last time: not only the first one,
    /// of which [`exit`](Self::exit) tells.
    pub out_of_memory: bool,
    /// Whether it is well, if it has a [health check](super::HealthCheck).
    pub health: Option<Health>,
}

/// The file `config.json` of a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Identity {
    pub(super) version: u32,
    pub(super) name: String,
    pub(super) created: Timestamp,
    /// The digest of the manifest.
    pub(super) image: String,
    #[serde(default)]
    pub(super) image_labels: BTreeMap<String, String>,
    /// How it is asked whether it is well.
    #[serde(default)]
    pub(super) health: Option<HealthCheck>,
    pub(super) config: Config,
}

/// The file `state.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) version: u32,
    pub(super) phase: Phase,
    /// The start of the machine in which all of this is true.
    pub(super) boot: String,
    /// Who starts it or has started it, and will write down how it ends.
    #[serde(default)]
    pub(super) supervisor: Option<ProcessId>,
    #[serde(default)]
    pub(super) process: Option<ProcessId>,
    /// The directories of its cgroup.
    #[serde(default)]
    pub(super) cgroup: Vec<PathBuf>,
    #[serde(default)]
    pub(super) started: Option<Timestamp>,
    #[serde(default)]
    pub(super) finished: Option<Timestamp>,
    #[serde(default)]
    pub(super) exit: Option<Exit>,
    #[serde(default)]
    pub(super) error: Option<String>,
    #[serde(default)]
    pub(super) restarts: u32,
    /// A process of it was killed because memory ran out.
    #[serde(default)]
    pub(super) out_of_memory: bool,
    /// Somebody wants it to end, so that it is not started anew.
    #[serde(default)]
    pub(super) stopping: bool,
    /// It is removed with the volumes that have no name.
    #[serde(default)]
    pub(super) with_volumes: bool,
}

/// How a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Exit {
    /// The status of wait(2).
    pub(super) status: i32,
    /// It was ended by that.
    #[serde(default)]
    pub(super) out_of_memory: bool,
}

impl Exit {
    pub(super) fn of(status: &ExitStatus) -> Self {
        Self { status: status.into_raw(), out_of_memory: status.out_of_memory() }
    }

    /// As by SIGKILL.
    pub(super) const fn killed() -> Self {
        Self { status: libc::SIGKILL, out_of_memory: false }
    }

    pub(super) fn status(self, config: &Config) -> ExitStatus {
        ExitStatus::recorded(self.status, self.out_of_memory.then_some(config.resources.memory))
    }
}

/// The version of both files that is written, and the only one that is read.
pub(super) const VERSION: u32 = 1;

impl Record {
    /// Of a container that was just made.
    pub(super) fn new(boot: &str) -> Self {
        Self {
            version: VERSION,
            phase: Phase::Created,
            boot: boot.to_owned(),
            supervisor: None,
            process: None,
            cgroup: Vec::new(),
            started: None,
            finished: None,
            exit: None,
            error: None,
            restarts: 0,
            out_of_memory: false,
            stopping: false,
            with_volumes: false,
        }
    }

    /// The pidfd of its process, if that is still there: see [`ProcessId::open`].
    pub(super) fn open_process(&self) -> Result<Option<OwnedFd>> {
        self.process.map_or(Ok(None), ProcessId::open)
    }

    pub(super) fn status(&self, identity: &Identity) -> Status {
        let alive = self.process.filter(|_| self.phase.is_alive());
        Status {
            phase: self.phase,
            pid: alive.map(|process| process.pid.unsigned_abs()),
            exit: self.exit.map(|exit| exit.status(&identity.config)),
            error: self.error.clone(),
            created: identity.created.into(),
            started: self.started.map(SystemTime::from),
            finished: self.finished.map(SystemTime::from),
            restarts: self.restarts,
            out_of_memory: self.out_of_memory,
            health: None,
        }
    }

    /// Notes who is to start it, and where its processes will be.
    pub(super) fn set_starter(&mut self, supervisor: ProcessId, id: &ContainerId) {
        self.supervisor = Some(supervisor);
        self.cgroup = launch::cgroup_places(id);
    }

    /// Whether [that](Self::set_starter) is noted, and it has not been started yet.
    pub(super) fn is_to_be_started_by(&self, supervisor: ProcessId) -> bool {
        self.phase == Phase::Created && self.supervisor == Some(supervisor)
    }

    /// Notes that it runs.
    pub(super) fn started(&mut self, process: ProcessId, supervisor: ProcessId) {
        self.phase = Phase::Running;
        self.process = Some(process);
        self.supervisor = Some(supervisor);
        self.started = Some(Timestamp::now());
        self.finished = None;
        self.exit = None;
        self.error = None;
        self.out_of_memory = false;
        self.stopping = false;
    }

    /// Notes that it has ended.
    pub(super) fn ended(&mut self, exit: Option<Exit>, error: Option<String>) {
        self.phase = Phase::Exited;
        self.exit = exit;
        self.error = error;
        self.finished = Some(Timestamp::now());
        self.process = None;
        self.supervisor = None;
        self.cgroup = Vec::new();
    }
}
