//! What was asked of a container.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::health::HealthCheck;
use crate::cgroups::{IoLimit, Limits};

/// What a container is made of and how it is to run: as it was asked for, and as it is kept on disk.
///
/// What is not said here the image says, and what that leaves open too has the defaults of
/// [`Command`](crate::namespaces::Command).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// The image as it was named.
    pub image: String,
    /// Of an image for several platforms, this one's (`linux/arm64`) and not the host's.
    pub platform: Option<String>,
    /// The program, instead of the image's. An empty list takes that away.
    pub entrypoint: Option<Vec<String>>,
    /// Arguments of the entrypoint, or the whole command line, instead of the image's.
    pub command: Vec<String>,
    /// Variables, `NAME=VALUE`, on top of the image's. A bare `NAME` takes one away.
    pub env: Vec<String>,
    /// The working directory, which is made if it is missing.
    pub working_dir: Option<String>,
    /// `USER[:GROUP]`, by name or number.
    pub user: Option<String>,
    /// Further groups, by number, or by name as the container's /etc/group has them.
    pub groups: Vec<String>,
    /// By default the first twelve digits of the id.
    pub hostname: Option<String>,
    /// The NIS domain name.
    pub domainname: Option<String>,
    /// Runs on a terminal of its own.
    pub terminal: bool,
    /// Standard input stays open for whoever attaches; else it is empty.
    pub stdin: bool,
    /// The first to attach to standard input closes it when he goes.
    pub stdin_once: bool,
    /// Words of the user's, to find it by.
    pub labels: BTreeMap<String, String>,
    /// Instead of the image's, or SIGTERM.
    pub stop_signal: Option<String>,
    /// Seconds between that and SIGKILL; 10 by default.
    pub stop_timeout: Option<u64>,
    /// What is done when it ends.
    pub restart: Restart,
    /// Goes when it has ended, with all that it has written.
    pub remove: bool,
    /// A small init in front, as pid 1.
    pub init: bool,
    /// Its root file system cannot be written.
    pub read_only: bool,
    /// Isolated by namespaces only: see [`Command::privileged`](crate::namespaces::Command::privileged).
    pub privileged: bool,
    /// Capabilities beyond the default ones; `ALL` for all.
    pub cap_add: Vec<String>,
    /// Capabilities less; `ALL` for all.
    pub cap_drop: Vec<String>,
    /// May gain privileges by set-user-id programs.
    pub new_privileges: bool,
    /// No system call is refused.
    pub seccomp_unconfined: bool,
    /// A [`SeccompProfile`](super::SeccompProfile), as JSON, instead of the default one.
    pub seccomp: Option<String>,
    /// The AppArmor profile.
    pub apparmor: Option<String>,
    /// The SELinux label.
    pub selinux: Option<String>,
    /// No path of /proc and /sys is covered or read-only.
    pub unmask_paths: bool,
    /// Volumes, directories of the host, and file systems in memory.
    pub mounts: Vec<MountConfig>,
    /// `/dev/x[:/dev/y[:rwm]]` of the host.
    pub devices: Vec<String>,
    /// `NAME=VALUE`, of namespaces of its own. In a network of its own, unless it has the host's processes,
    /// `net.ipv4.ip_unprivileged_port_start` is 0 and `net.ipv4.ping_group_range` has all of its groups if nothing else is said:
    /// every user may serve on any port, and ping.
    pub sysctls: Vec<String>,
    /// `NAME=SOFT[:HARD]`, see getrlimit(2).
    pub ulimits: Vec<String>,
    /// What it may use.
    pub resources: Resources,
    /// The namespaces that it shares with the host.
    pub share: Share,
    /// How likely the kernel picks it when memory runs out, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// The size of /dev/shm in bytes.
    pub shm_size: Option<u64>,
    /// How names are found.
    pub names: Names,
    /// Containers that its environment tells of.
    pub links: Vec<Link>,
    /// What becomes of its output.
    pub log: LogConfig,
    /// How it is asked whether it is well, instead of the image's way.
    pub health: Option<HealthCheck>,
}

/// What is done when a container ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Restart {
    /// Nothing.
    #[default]
    No,
    /// It is started anew unless it ended with 0, so often at most.
    OnFailure(u32),
    /// It is started anew, and is [due](crate::Engine::due) when its supervisor or the machine has ended, even if it was
    /// stopped by hand.
    Always,
    /// As `Always`, but not if it was stopped by hand.
    UnlessStopped,
}

/// Something mounted in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MountConfig {
    /// What.
    #[serde(flatten)]
    pub source: MountSource,
    /// Where, as the container sees it.
    pub target: PathBuf,
    /// Nothing can be written.
    #[serde(default)]
    pub read_only: bool,
}

/// Where the files of a mount come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
#[non_exhaustive]
pub enum MountSource {
    /// A directory or file of the host.
    Bind {
        /// Its absolute path.
        path: PathBuf,
    },
    /// A [volume](super::Volume), which is made if it is missing. One that is empty, and that no running container
    /// mounts, is given what the image has at its place when the container is made: files, owners, modes and all.
    Volume {
        /// Its name.
        name: String,
        /// It has no name of the user's: see [`Removal::volumes`](super::Removal::volumes).
        #[serde(default)]
        anonymous: bool,
        /// It stays empty.
        #[serde(default)]
        no_copy: bool,
    },
    /// Memory, empty at each start.
    Tmpfs {
        /// The most it may hold, in bytes.
        size: Option<u64>,
        /// The mode of its root directory.
        mode: Option<u32>,
    },
}

/// The namespaces that a container shares with the host, and so what it is not isolated from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Share {
    /// Network devices, addresses and ports.
    pub network: bool,
    /// Processes.
    pub pid: bool,
    /// Shared memory, semaphores and queues.
    pub ipc: bool,
    /// The host name.
    pub uts: bool,
    /// Users: root is the host's root.
    pub users: bool,
    /// The cgroup root.
    pub cgroup: bool,
}

/// How a container finds names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Names {
    /// Addresses of name servers, instead of the host's.
    pub dns: Vec<String>,
    /// Domains to look in.
    pub search: Vec<String>,
    /// Of resolv.conf(5).
    pub options: Vec<String>,
    /// Lines of /etc/hosts: name and address.
    pub hosts: Vec<(String, String)>,
}

/// Another container that one is told of when it is made: `ALIAS_NAME` and, for each variable there, `ALIAS_ENV_VARIABLE`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The other one, which must exist, by name or id.
    pub container: String,
    /// What it is called here.
    pub alias: String,
}

/// What becomes of the output of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[non_exhaustive]
pub struct LogConfig {
    /// How it is written.
    pub driver: LogDriver,
    /// The size of a file, in bytes, at which another is begun.
    pub max_size: Option<u64>,
    /// How many files are kept.
    pub max_files: u32,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { driver: LogDriver::default(), max_size: None, max_files: 1 }
    }
}

impl LogConfig {
    /// As Docker writes it, in so many files of this size, in bytes.
    pub fn json_file(max_size: u64, max_files: u32) -> Self {
        Self { driver: LogDriver::JsonFile, max_size: Some(max_size), max_files }
    }
}

/// How output is written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LogDriver {
    /// A line of text each, as Kubernetes' runtimes do.
    #[default]
    Cri,
    /// An object of JSON each, as Docker does.
    JsonFile,
    /// Not at all: who is attached sees it.
    None,
}

/// [`Limits`] as they are kept on disk. What is not set is not limited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Resources {
    /// See [`Limits::memory`].
    pub memory: Option<u64>,
    /// See [`Limits::memory_high`].
    pub memory_high: Option<u64>,
    /// See [`Limits::memory_low`].
    pub memory_low: Option<u64>,
    /// See [`Limits::swap`].
    pub swap: Option<u64>,
    /// See [`Limits::cpus`].
    pub cpus: Option<f64>,
    /// See [`Limits::cpu_weight`].
    pub cpu_weight: Option<u64>,
    /// See [`Limits::cpu_period`], in microseconds.
    pub cpu_period: Option<u64>,
    /// See [`Limits::cpuset_cpus`].
    pub cpuset_cpus: Option<String>,
    /// See [`Limits::cpuset_mems`].
    pub cpuset_mems: Option<String>,
    /// See [`Limits::pids`].
    pub pids: Option<u64>,
    /// See [`Limits::io_weight`].
    pub io_weight: Option<u64>,
    /// See [`Limits::io_limit`]: one for each disk.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_limits: Vec<IoLimit>,
}

impl Resources {
    /// Limits a disk: what is set here takes the place of what was set for it before.
    pub fn limit_io(&mut self, limit: IoLimit) {
        match self.io_limits.iter_mut().find(|it| it.numbers() == limit.numbers()) {
            Some(older) => *older = limit.over(*older),
            None => self.io_limits.push(limit),
        }
    }

    pub(super) fn limits(&self) -> Limits {
        fn set<T: Clone>(
            limits: Limits,
            value: &Option<T>,
            apply: impl FnOnce(Limits, T) -> Limits,
        ) -> Limits {
            match value {
                Some(value) => apply(limits, value.clone()),
                None => limits,
            }
        }
        let mut limits = set(Limits::new(), &self.memory, Limits::memory);
        limits = set(limits, &self.memory_high, Limits::memory_high);
        limits = set(limits, &self.memory_low, Limits::memory_low);
        limits = set(limits, &self.swap, Limits::swap);
        limits = set(limits, &self.cpus, Limits::cpus);
        limits = set(limits, &self.cpu_weight, Limits::cpu_weight);
        let period = self.cpu_period.map(Duration::from_micros);
        limits = set(limits, &period, Limits::cpu_period);
        limits = set(limits, &self.cpuset_cpus, Limits::cpuset_cpus);
        limits = set(limits, &self.cpuset_mems, Limits::cpuset_mems);
        limits = set(limits, &self.pids, Limits::pids);
        limits = set(limits, &self.io_weight, Limits::io_weight);
        self.io_limits.iter().copied().fold(limits, Limits::io_limit)
    }

    /// Whether it can run out of memory before the machine does.
    pub(super) fn limits_memory(&self) -> bool {
        self.memory.is_some_and(|bytes| bytes < u64::MAX)
    }

    /// These, where they are set, in place of `older`.
    pub(super) fn over(&self, older: &Self) -> Self {
        let mut limits = older.clone();
        self.io_limits.iter().for_each(|limit| limits.limit_io(*limit));
        Self {
            memory: self.memory.or(older.memory),
            memory_high: self.memory_high.or(older.memory_high),
            memory_low: self.memory_low.or(older.memory_low),
            swap: self.swap.or(older.swap),
            cpus: self.cpus.or(older.cpus),
            cpu_weight: self.cpu_weight.or(older.cpu_weight),
            cpu_period: self.cpu_period.or(older.cpu_period),
            cpuset_cpus: self.cpuset_cpus.clone().or_else(|| older.cpuset_cpus.clone()),
            cpuset_mems: self.cpuset_mems.clone().or_else(|| older.cpuset_mems.clone()),
            pids: self.pids.or(older.pids),
            io_weight: self.io_weight.or(older.io_weight),
            io_limits: limits.io_limits,
        }
    }
}
