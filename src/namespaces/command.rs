//! What is to run, and in what isolation.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{
    Capabilities, Child, Device, ExitStatus, IoPriority, Landlock, Mount, Namespaces, Output,
    Resource, Rlimit, Root, Scheduler, Seccomp, Signal, Stdio, Sysctl, TerminalSize, UserNamespace,
};
use crate::cgroups::{Cgroup, Limits};
use crate::error::Result;
use crate::namespaces::root::Source;

/// A process to be, in the manner of [`std::process::Command`].
///
/// As it is made, it runs like std's: in the host's namespaces, with the host's environment and rights.
/// [`rootfs`](Command::rootfs) or [`isolated`](Command::isolated) make it a *container*:
///
/// - it gets new namespaces of every kind but time (which only matters with
///   [`time_offset`](Command::time_offset)), is pid 1, and sees no network but its own loopback;
/// - its root user is not the host's: [`UserNamespace::automatic`];
/// - `/proc`, `/sys`, `/dev` with the [default devices](Device), `/dev/shm`, `/dev/pts` and `/dev/mqueue` are
///   its own, with the dangerous parts [masked](super::masked_paths) and
///   [read-only](super::read_only_paths);
/// - it has few [capabilities](Capabilities), can gain none ([no new
///   privileges](Command::no_new_privileges)), and runs under the default [`Seccomp`] profile;
/// - its environment is `PATH`, `HOME` and what [`env`](Command::env) adds;
/// - no file descriptor of the host's is open in it but its standard streams and what
///   [`fd`](Command::fd) adds.
///
/// Every default has a method that changes it; [`privileged`](Command::privileged) undoes all.
///
/// A `Command` can be spawned any number of times.
///
/// ```
/// use coracle::namespaces::Command;
/// let output = Command::new("echo").arg("hello").isolated().output()?;
/// assert_eq!(output.stdout, b"hello\n");
/// # Ok::<(), coracle::Error>(())
/// ```
///
/// # Embedding
///
/// Spawning changes nothing in the host: no working directory, umask, environment, signal handler, limit or
/// thread. It costs the same from a host of any size, since the child borrows the host's memory until it
/// executes its program (`vfork`). Two things can be noticed:
///
/// - For about a millisecond the calling thread is stopped and the host cannot be traced: its *dumpable* flag is
///   off. Meanwhile its own files in `/proc` belong to root, so that in a host that is not root another thread that
///   reads `/proc/self/environ` or writes `/proc/self/oom_score_adj` gets EACCES; what all may read, it still can.
/// - The first [`limits`](Command::limits), or any other use of [`cgroups`](crate::cgroups), leaves a descriptor open
///   of each cgroup hierarchy's top directory and of the host's place in it, close-on-exec: two where there is only
///   version 2, about ten in the hybrid layout.
#[derive(Clone, Debug)]
pub struct Command {
    pub(super) program: OsString,
    pub(super) arg0: Option<OsString>,
    pub(super) args: Vec<OsString>,
    pub(super) env_clear: bool,
    pub(super) env: BTreeMap<OsString, Option<OsString>>,
    pub(super) current_dir: Option<PathBuf>,
    pub(super) make_current_dir: bool,
    pub(super) streams: [Option<Stdio>; 3],
    pub(super) fds: Vec<(i32, Arc<OwnedFd>)>,
    pub(super) terminal: Option<TerminalSize>,
    pub(super) root: Root,
    pub(super) unshare: Option<Namespaces>,
    pub(super) share: Namespaces,
    pub(super) join: Vec<(Namespaces, Arc<OwnedFd>)>,
    pub(super) time_offsets: Vec<(Clock, Duration)>,
    pub(super) users: Users,
    pub(super) user: Option<String>,
    pub(super) groups: Option<Vec<u32>>,
    pub(super) added_groups: Vec<String>,
    pub(super) umask: Option<u32>,
    pub(super) hostname: Option<OsString>,
    pub(super) domainname: Option<OsString>,
    pub(super) mounts: Vec<Mount>,
    pub(super) default_mounts: bool,
    pub(super) read_only_root: bool,
    pub(super) devices: Vec<Device>,
    pub(super) masked: Option<Vec<PathBuf>>,
    pub(super) read_only: Option<Vec<PathBuf>>,
    pub(super) sysctls: Vec<Sysctl>,
    pub(super) rlimits: BTreeMap<Resource, Rlimit>,
    pub(super) capabilities: Option<Capabilities>,
    pub(super) no_new_privileges: Option<bool>,
    pub(super) seccomp: Option<Seccomp>,
    pub(super) landlock: Option<Landlock>,
    pub(super) apparmor: Option<String>,
    pub(super) selinux: Option<String>,
    pub(super) init: bool,
    pub(super) parent_death_signal: Option<Signal>,
    pub(super) oom_score_adj: Option<i32>,
    pub(super) nice: Option<i32>,
    pub(super) scheduler: Option<Scheduler>,
    pub(super) io_priority: Option<IoPriority>,
    pub(super) limits: Option<Limits>,
    pub(super) cgroup: Option<Arc<Cgroup>>,
    pub(super) timeout: Option<Duration>,
    pub(super) copy: bool,
}

/// Whose ids the process has.
#[derive(Clone, Debug)]
pub(super) enum Users {
    Default,
    Host,
    /// The host's where the host is privileged.
    Privileged,
    Namespace(UserNamespace),
}

/// A clock that a time namespace can set off, see time_namespaces(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Time since an unspecified start, without time asleep.
    Monotonic,
    /// Time since boot, with time asleep.
    Boottime,
}

impl Command {
    /// The program `program`: a path if there is a slash in it, else looked for in the `PATH` that
    /// the process will have.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().into(),
            arg0: None,
            args: Vec::new(),
            env_clear: false,
            env: BTreeMap::new(),
            current_dir: None,
            make_current_dir: false,
            streams: [None, None, None],
            fds: Vec::new(),
            terminal: None,
            root: Root(Source::Host),
            unshare: None,
            share: Namespaces::empty(),
            join: Vec::new(),
            time_offsets: Vec::new(),
            users: Users::Default,
            user: None,
            groups: None,
            added_groups: Vec::new(),
            umask: None,
            hostname: None,
            domainname: None,
            mounts: Vec::new(),
            default_mounts: true,
            read_only_root: false,
            devices: Vec::new(),
            masked: None,
            read_only: None,
            sysctls: Vec::new(),
            rlimits: BTreeMap::new(),
            capabilities: None,
            no_new_privileges: None,
            seccomp: None,
            landlock: None,
            apparmor: None,
            selinux: None,
            init: false,
            parent_death_signal: None,
            oom_score_adj: None,
            nice: None,
            scheduler: None,
            io_priority: None,
            limits: None,
            cgroup: None,
            timeout: None,
            copy: false,
        }
    }

    /// Adds an argument.
    pub fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        self.args.push(arg.as_ref().into());
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(&mut self, args: impl IntoIterator<Item = S>) -> &mut Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().into()));
        self
    }

    /// The program.
    pub fn get_program(&self) -> &OsStr {
        &self.program
    }

    /// Its arguments, without the program.
    pub fn get_args(&self) -> impl Iterator<Item = &OsStr> {
        self.args.iter().map(OsString::as_os_str)
    }

    /// What the program sees as its own name, if not `program`.
    pub fn arg0(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        self.arg0 = Some(name.as_ref().into());
        self
    }

    /// Sets an environment variable.
    pub fn env(&mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.env.insert(key.as_ref().into(), Some(value.as_ref().into()));
        self
    }

    /// Sets environment variables.
    pub fn envs<K: AsRef<OsStr>, V: AsRef<OsStr>>(
        &mut self,
        vars: impl IntoIterator<Item = (K, V)>,
    ) -> &mut Self {
        for (key, value) in vars {
            self.env(key, value);
        }
        self
    }

    /// Leaves out a variable that would be inherited or set by default.
    pub fn env_remove(&mut self, key: impl AsRef<OsStr>) -> &mut Self {
        self.env.insert(key.as_ref().into(), None);
        self
    }

    /// Starts from an empty environment.
    pub fn env_clear(&mut self) -> &mut Self {
        self.env_clear = true;
        self.env.clear();
        self
    }

    /// The working directory, as the process sees it; in a container `/` by default. It must exist.
    pub fn current_dir(&mut self, path: impl AsRef<Path>) -> &mut Self {
        self.current_dir = Some(path.as_ref().into());
        self
    }

    /// Makes the working directory of a container if it is missing, for its root and open to all, and what is missing
    /// above it.
    pub fn make_current_dir(&mut self) -> &mut Self {
        self.make_current_dir = true;
        self
    }

    /// Standard input. Inherited by default with [`spawn`](Command::spawn) and
    /// [`status`](Command::status), null with [`output`](Command::output).
    pub fn stdin(&mut self, stream: impl Into<Stdio>) -> &mut Self {
        self.streams[0] = Some(stream.into());
        self
    }

    /// Standard output. Inherited by default, captured with [`output`](Command::output).
    pub fn stdout(&mut self, stream: impl Into<Stdio>) -> &mut Self {
        self.streams[1] = Some(stream.into());
        self
    }

    /// Standard error. Inherited by default, captured with [`output`](Command::output).
    pub fn stderr(&mut self, stream: impl Into<Stdio>) -> &mut Self {
        self.streams[2] = Some(stream.into());
        self
    }

    /// Gives the process an open file under the number `number`, 3 or above.
    pub fn fd(&mut self, number: i32, fd: impl Into<OwnedFd>) -> &mut Self {
        self.fds.push((number, Arc::new(fd.into())));
        self
    }

    /// Runs it on a terminal of its own, of the given size: its standard streams and controlling terminal. The
    /// other side is [`Child::terminal`].
    pub fn terminal(&mut self, size: TerminalSize) -> &mut Self {
        self.terminal = Some(size);
        self
    }

    /// Makes it a container whose `/` is `root`: a directory, or a prepared stack of layers.
    ///
    /// With a directory, a privileged host attaches it through an idmapped mount, so that the files' ids
    /// inside are those on disk (Linux 5.12).
    pub fn rootfs(&mut self, root: impl Into<Root>) -> &mut Self {
        self.root = root.into();
        self
    }

    /// Makes it a container that sees the host's programs and little else: `/usr` and the linker's and
    /// alternatives' files of `/etc`, read-only; the working directory (the host's, or
    /// [`current_dir`](Command::current_dir)), read-only, unless that is `/` or `/tmp`; an empty writable `/tmp`.
    ///
    /// All of it with the host's ids: what is closed to other users of the host is closed to the process. Where that
    /// is the host's working directory itself, as it is with root in a directory of mode 0700, the process
    /// starts in `/`; a directory that `current_dir` names is an error then. To open one to the process,
    /// mount it: `Mount::bind(dir, dir).read_only()`.
    pub fn isolated(&mut self) -> &mut Self {
        self.root = Root(Source::HostPrograms);
        self
    }

    /// The namespaces to make anew, instead of the default: all but time for a container, else none.
    pub fn unshare(&mut self, kinds: Namespaces) -> &mut Self {
        self.unshare = Some(kinds);
        self
    }

    /// Leaves the process in the host's namespaces of these kinds, in spite of the default.
    ///
    /// `share(Namespaces::NETWORK)` is what other tools call the host network. Sharing the user
    /// namespace is [`host_users`](Command::host_users).
    pub fn share(&mut self, kinds: Namespaces) -> &mut Self {
        self.share |= kinds;
        if kinds.contains(Namespaces::USER) {
            self.users = Users::Host;
        }
        self
    }

    /// Joins an existing namespace, given by an open `/proc/PID/ns/*` file, or those of a process, given by its
    /// pidfd (Linux 5.8).
    pub fn join(&mut self, kinds: Namespaces, fd: impl Into<OwnedFd>) -> &mut Self {
        self.join.push((kinds, Arc::new(fd.into())));
        self
    }

    /// Sets a clock forward in a time namespace of the process's own (Linux 5.6).
    pub fn time_offset(&mut self, clock: Clock, offset: Duration) -> &mut Self {
        self.time_offsets.push((clock, offset));
        self
    }

    /// The user namespace to run in. A container gets a new one by default.
    pub fn user_namespace(&mut self, namespace: &UserNamespace) -> &mut Self {
        self.users = Users::Namespace(namespace.clone());
        self
    }

    /// Runs it with the host's ids: its root is the host's root.
    pub fn host_users(&mut self) -> &mut Self {
        self.users = Users::Host;
        self
    }

    /// The user, as `name`, `uid`, `name:group` or `uid:gid`; names are looked up in the container's
    /// `/etc/passwd` and `/etc/group`, numbers never are. Root by default in a container.
    ///
    /// The supplementary groups are exactly those that `/etc/group` lists for the user, unless
    /// [`groups`](Command::groups) says otherwise.
    pub fn user(&mut self, user: impl Into<String>) -> &mut Self {
        self.user = Some(user.into());
        self
    }

    /// The exact supplementary groups.
    pub fn groups(&mut self, groups: impl IntoIterator<Item = u32>) -> &mut Self {
        self.groups = Some(groups.into_iter().collect());
        self
    }

    /// Supplementary groups beside those, by number or by name; names are looked up in the container's `/etc/group`.
    pub fn add_groups<S: Into<String>>(
        &mut self,
        groups: impl IntoIterator<Item = S>,
    ) -> &mut Self {
        self.added_groups.extend(groups.into_iter().map(Into::into));
        self
    }

    /// The file mode creation mask; in a container 0o022 by default.
    pub fn umask(&mut self, mask: u32) -> &mut Self {
        self.umask = Some(mask);
        self
    }

    /// The host name, in a UTS namespace of its own; at most 64 bytes. `container` by default in a container.
    pub fn hostname(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        self.hostname = Some(name.as_ref().into());
        self
    }

    /// The NIS domain name, in a UTS namespace of its own; at most 64 bytes.
    pub fn domainname(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        self.domainname = Some(name.as_ref().into());
        self
    }

    /// Adds a mount.
    pub fn mount(&mut self, mount: Mount) -> &mut Self {
        self.mounts.push(mount);
        self
    }

    /// Leaves out the mounts and devices that a container has by default.
    pub fn no_default_mounts(&mut self) -> &mut Self {
        self.default_mounts = false;
        self
    }

    /// Makes the root file system read-only; mounts on it stay as they are.
    pub fn read_only_root(&mut self) -> &mut Self {
        self.read_only_root = true;
        self
    }

    /// Adds a device. The device cgroup, where [`Limits`] restrict it, must allow it too.
    pub fn device(&mut self, device: Device) -> &mut Self {
        self.devices.push(device);
        self
    }

    /// The paths that are covered, instead of [`masked_paths`](super::masked_paths).
    pub fn masked_paths<P: AsRef<Path>>(
        &mut self,
        paths: impl IntoIterator<Item = P>,
    ) -> &mut Self {
        self.masked = Some(paths.into_iter().map(|p| p.as_ref().into()).collect());
        self
    }

    /// The paths that cannot be written, instead of [`read_only_paths`](super::read_only_paths).
    pub fn read_only_paths<P: AsRef<Path>>(
        &mut self,
        paths: impl IntoIterator<Item = P>,
    ) -> &mut Self {
        self.read_only = Some(paths.into_iter().map(|p| p.as_ref().into()).collect());
        self
    }

    /// Sets a kernel parameter of a namespace of the container's.
    pub fn sysctl(&mut self, sysctl: Sysctl) -> &mut Self {
        self.sysctls.push(sysctl);
        self
    }

    /// A resource limit of the process, see getrlimit(2).
    pub fn rlimit(&mut self, resource: Resource, limit: Rlimit) -> &mut Self {
        self.rlimits.insert(resource, limit);
        self
    }

    /// The capability sets.
    pub fn capabilities(&mut self, capabilities: Capabilities) -> &mut Self {
        self.capabilities = Some(capabilities);
        self
    }

    /// Whether set-user-id programs and file capabilities are without effect; on by default in a container.
    pub fn no_new_privileges(&mut self, on: bool) -> &mut Self {
        self.no_new_privileges = Some(on);
        self
    }

    /// The system call filter; in a container [`Seccomp::default_profile`] by default.
    pub fn seccomp(&mut self, filter: Seccomp) -> &mut Self {
        self.seccomp = Some(filter);
        self
    }

    /// Landlock rules on top of all else; paths are the container's.
    pub fn landlock(&mut self, rules: Landlock) -> &mut Self {
        self.landlock = Some(rules);
        self
    }

    /// The AppArmor profile to change to at exec. It must be loaded, and whoever is confined himself needs the leave of
    /// his own profile (`change_profile`); no privilege is needed.
    pub fn apparmor(&mut self, profile: impl Into<String>) -> &mut Self {
        self.apparmor = Some(profile.into());
        self
    }

    /// The SELinux label to change to at exec.
    pub fn selinux(&mut self, label: impl Into<String>) -> &mut Self {
        self.selinux = Some(label.into());
        self
    }

    /// Puts a minimal built-in init in front as pid 1, which passes signals on to the program and reaps orphans
    /// (x86-64 and aarch64). It is a few hundred bytes of code that no file holds.
    pub fn init(&mut self) -> &mut Self {
        self.init = true;
        self
    }

    /// The signal that the process gets when the *thread* that spawned it ends, see
    /// `PR_SET_PDEATHSIG` in prctl(2). Mind thread pools that end idle threads.
    pub fn parent_death_signal(&mut self, signal: Signal) -> &mut Self {
        self.parent_death_signal = Some(signal);
        self
    }

    /// How likely the kernel picks it when memory runs out, -1000 to 1000.
    pub fn oom_score_adj(&mut self, value: i32) -> &mut Self {
        self.oom_score_adj = Some(value);
        self
    }

    /// The nice value, -20 to 19.
    pub fn nice(&mut self, value: i32) -> &mut Self {
        self.nice = Some(value);
        self
    }

    /// The scheduling policy.
    pub fn scheduler(&mut self, scheduler: Scheduler) -> &mut Self {
        self.scheduler = Some(scheduler);
        self
    }

    /// The I/O priority.
    pub fn io_priority(&mut self, priority: IoPriority) -> &mut Self {
        self.io_priority = Some(priority);
        self
    }

    /// Runs it in a cgroup of its own with these limits; the cgroup goes when the [`Child`] does.
    pub fn limits(&mut self, limits: Limits) -> &mut Self {
        self.limits = Some(limits);
        self
    }

    /// Takes the limits back.
    pub fn no_limits(&mut self) -> &mut Self {
        self.limits = None;
        self
    }

    /// Runs it in an existing cgroup.
    pub fn cgroup(&mut self, cgroup: &Cgroup) -> &mut Self {
        self.cgroup = Some(Arc::new(cgroup.handle()));
        self
    }

    /// Kills it, and all in its pid namespace or cgroup, once it has run this long.
    ///
    /// The time is watched by whoever waits: [`status`](Command::status), [`output`](Command::output),
    /// [`Child::wait`] and its kin. There is no hidden thread; an async host that waits on the pidfd
    /// itself sets its own timer and calls [`Child::kill`].
    pub fn timeout(&mut self, limit: Duration) -> &mut Self {
        self.timeout = Some(limit);
        self
    }

    /// Starts the process on a copy of the host's memory map, as fork(2) does, instead of borrowing
    /// the memory until exec. Slower, the more so the larger the host. Some requests imply it: a
    /// seccomp filter that notifies, cpuset memory nodes on cgroup v1.
    pub fn copy_memory(&mut self) -> &mut Self {
        self.copy = true;
        self
    }

    /// Undoes the isolation but for the namespaces: the host's ids, all capabilities, no system call filter,
    /// nothing masked or read-only, new privileges allowed.
    ///
    /// A hostile process can then take over the host. A host that lacks CAP_SYS_ADMIN itself cannot give it
    /// away: its containers stay in a user namespace.
    pub fn privileged(&mut self) -> &mut Self {
        self.users = Users::Privileged;
        self.capabilities = Some(Capabilities::all());
        self.seccomp = Some(Seccomp::unconfined());
        self.no_new_privileges = Some(false);
        self.masked = Some(Vec::new());
        self.read_only = Some(Vec::new());
        self
    }

    /// Starts the process.
    ///
    /// # Errors
    ///
    /// Everything up to the start of the program itself: a failed step of the set-up is an error that
    /// names it, as is a program that is missing or cannot be executed. No process is left of it.
    pub fn spawn(&mut self) -> Result<Child> {
        super::spawner::spawn(self, None, [Stdio::inherit(), Stdio::inherit(), Stdio::inherit()])
    }

    /// Runs it to its end.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Command::spawn).
    pub fn status(&mut self) -> Result<ExitStatus> {
        self.spawn()?.wait()
    }

    /// Runs it to its end and collects what it writes.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Command::spawn).
    pub fn output(&mut self) -> Result<Output> {
        let streams = [Stdio::null(), Stdio::piped(), Stdio::piped()];
        super::spawner::spawn(self, None, streams)?.wait_with_output()
    }

    /// Takes from `base` what is not said here of what holds for every process of a container.
    #[cfg(feature = "container")]
    pub(crate) fn fill_from(&mut self, base: Self) {
        let mut env = base.env;
        env.append(&mut self.env);
        self.env = env;
        let mut rlimits = base.rlimits;
        rlimits.append(&mut self.rlimits);
        self.rlimits = rlimits;
        if self.user.is_none() {
            self.groups = self.groups.take().or(base.groups);
            self.added_groups.extend(base.added_groups);
        }
        self.user = self.user.take().or(base.user);
        self.current_dir = self.current_dir.take().or(base.current_dir);
        self.capabilities = self.capabilities.take().or(base.capabilities);
        self.no_new_privileges = self.no_new_privileges.or(base.no_new_privileges);
        self.seccomp = self.seccomp.take().or(base.seccomp);
        self.apparmor = self.apparmor.take().or(base.apparmor);
        self.selinux = self.selinux.take().or(base.selinux);
    }

    /// Whether it has a root of its own.
    pub(super) fn is_container(&self) -> bool {
        !self.root.is_host()
    }
}
