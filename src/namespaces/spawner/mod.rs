//! From a [`Command`] to a running [`Child`]: all thinking, allocating and opening happens here, in the
//! parent, and ends in a plan that the child only executes.

mod credentials;
mod descriptors;
mod device_nodes;
mod environment;
mod explain;
mod filesystem;
mod host_programs;

use std::ffi::CString;
use std::fs;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

pub(super) use self::environment::PATH_MAX;
use self::environment::{c_environment, c_path, c_string, candidates, environment};
use self::filesystem::Places;
use super::child::{OwnCgroup, Process};
use super::command::{Clock, Users};
use super::root::Source;
use super::seccomp::Listener;
use super::users::Identity;
use super::{Child, Command, Namespaces, Stdio, Terminal, UserNamespace};
use crate::cgroups::Cgroup;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys;
use crate::sys::dumpable::Dumpable;
use crate::sys::plan::{CStringArray, Exec, Fds, Filter, Plan, Slot, Step};
use crate::sys::root_dir::RootDir;
use crate::sys::spawn::{At, Failed, Spawned};
use crate::sys::user_namespace::Holder;

/// What a container unshares: time only on request, as it isolates nothing without offsets.
const CONTAINER_NAMESPACES: Namespaces = Namespaces::all().difference(Namespaces::TIME);

/// Starts `command`, in the namespaces of `inside` if given; streams that it does not set are `defaults`.
pub(super) fn spawn(
    command: &Command,
    inside: Option<&Process>,
    defaults: [Stdio; 3],
) -> Result<Child> {
    let attempt = || match inside {
        Some(process) => {
            format!("exec {} in {}", command.program.display(), process.program)
        }
        None if command.is_container() => {
            format!("spawn {} in rootfs {}", command.program.display(), command.root.name())
        }
        None => format!("spawn {}", command.program.display()),
    };
    try_spawn(command, inside, defaults).map_err(|err| {
        let err = err.context(attempt());
        if inside.is_some_and(|process| ended_meanwhile(process, &err)) {
            return err.with_kind(ErrorKind::InvalidState).with_hint("the process has ended");
        }
        err
    })
}

/// Whether a process could not be joined because it has ended, or is about to.
fn ended_meanwhile(process: &Process, err: &Error) -> bool {
    // Without namespaces and memory, it kills all in its pid namespace.
    let by_its_end =
        matches!(err.kind(), ErrorKind::ResourceExhausted | ErrorKind::PermissionDenied)
            || err.raw_os_error() == Some(libc::ESRCH);
    process.has_ended() || by_its_end && process.is_ending()
}

/// A plan in the making.
struct Builder<'a> {
    command: &'a Command,
    inside: Option<&'a Process>,
    /// The namespaces that are made anew.
    unshared: Namespaces,
    users: Option<UserNamespace>,
    /// The process that served to make it, on its way out.
    users_maker: Option<Holder>,
    joins_user_namespace: bool,
    /// The host may mount and open what it likes.
    privileged: bool,
    may_make_nodes: bool,
    identity: Identity,
    changes_user: bool,
    fds: Fds,
    join: Vec<Step>,
    steps: Vec<Step>,
    places: Places,
    image_root: Option<Arc<OwnedFd>>,
    /// The process's side of its terminal.
    peer: Option<Slot>,
    /// Where the child sends the host's side.
    terminal_receiver: Option<UnixStream>,
    into_cgroup: Option<Slot>,
    /// Of those unshared, the ones that a step makes instead of the clone.
    late_namespaces: Namespaces,
    late_filter: Option<Filter>,
    /// Loaded before descriptors are arranged.
    filter_stops_close_range: bool,
    /// The way of a seccomp notification fd that the child has to send.
    listener_sender: Option<Slot>,
    listener_receiver: Option<UnixStream>,
    init: Option<Slot>,
    copy: bool,
    join_copy: bool,
}

fn try_spawn(command: &Command, inside: Option<&Process>, defaults: [Stdio; 3]) -> Result<Child> {
    if inside.is_some_and(Process::has_ended) {
        return Err(Error::new(ErrorKind::InvalidState, "the process has ended"));
    }
    let mut builder = Builder::new(command, inside)?;
    let cgroup = builder.cgroup()?;
    builder.enter_namespaces()?;
    builder.filesystem()?;
    if inside.is_some_and(|process| process.namespaces.contains(Namespaces::MOUNT)) {
        builder.terminal()?;
    }
    builder.look_up_user()?;
    builder.host_names()?;
    builder.process_attributes()?;
    let mut streams = builder.streams(defaults)?;
    builder.init(&mut streams)?;
    builder.credentials()?;
    builder.finish(cgroup, streams)
}

/// The host's ends of a process's streams.
struct Streams {
    parents: [Option<OwnedFd>; 3],
    terminal: Option<OwnedFd>,
    /// Where the child sends the host's side of a terminal that it opens itself.
    receiver: Option<UnixStream>,
    init_report: Option<PipeReader>,
    map: Vec<(Slot, i32)>,
}

impl<'a> Builder<'a> {
    fn new(command: &'a Command, inside: Option<&'a Process>) -> Result<Self> {
        let capabilities = sys::user_namespace::effective_capabilities();
        let has = |number: u32| capabilities >> number & 1 == 1;
        const CAP_SYS_ADMIN: u32 = 21;
        const CAP_MKNOD: u32 = 27;
        let default =
            if command.is_container() { CONTAINER_NAMESPACES } else { Namespaces::empty() };
        let mut unshared = command.unshare.unwrap_or(default) - command.share;
        if !command.time_offsets.is_empty() {
            unshared |= Namespaces::TIME;
        }
        if let Some(process) = inside {
            if command.is_container() || command.unshare.is_some() || !command.mounts.is_empty() {
                return Err(Error::invalid(
                    "a process in an existing container can have no root, namespace or mount of its own",
                ));
            }
            unshared = Namespaces::empty();
            if process.user_namespace.is_none() && process.namespaces.contains(Namespaces::USER) {
                return Err(Error::invalid("the container's user namespace is unknown"));
            }
        }
        let mut users_maker = None;
        let users = match (&command.users, &command.root.0) {
            _ if inside.is_some() => inside.and_then(|process| process.user_namespace.clone()),
            (Users::Namespace(users), _) => Some(users.clone()),
            (Users::Host, _) => None,
            (Users::Privileged, _) if has(CAP_SYS_ADMIN) => None,
            (Users::Default | Users::Privileged, Source::Mounted { user_namespace, .. }) => {
                user_namespace.clone()
            }
            (Users::Default | Users::Privileged, _) if unshared.contains(Namespaces::USER) => {
                let (users, maker) = UserNamespace::automatic_ahead()?;
                users_maker = Some(maker);
                Some(users)
            }
            (Users::Default | Users::Privileged, _) => None,
        };
        Ok(Self {
            command,
            inside,
            unshared: unshared - Namespaces::USER,
            users_maker,
            joins_user_namespace: command.join.iter().any(|(k, _)| k.contains(Namespaces::USER)),
            users,
            privileged: sys::user_namespace::may_mount(),
            may_make_nodes: has(CAP_MKNOD),
            identity: Identity::root(),
            changes_user: false,
            fds: Fds::default(),
            join: Vec::new(),
            steps: Vec::new(),
            places: Places::default(),
            image_root: inside.and_then(|process| process.root.clone()),
            peer: None,
            terminal_receiver: None,
            into_cgroup: None,
            late_namespaces: Namespaces::empty(),
            late_filter: None,
            filter_stops_close_range: false,
            listener_sender: None,
            listener_receiver: None,
            init: None,
            copy: command.copy,
            join_copy: false,
        })
    }

    /// The cgroup to run in, and the steps to get there.
    fn cgroup(&mut self) -> Result<Option<OwnCgroup>> {
        let own = match (&self.command.limits, &self.command.cgroup, self.inside) {
            (Some(_), Some(_), _) => {
                return Err(Error::invalid("both limits and a cgroup are given")
                    .with_hint("set the limits on the cgroup: Cgroup::set"));
            }
            (Some(limits), None, _) => Some((Cgroup::create_unique(limits)?, true)),
            (None, Some(cgroup), _) => Some((cgroup.handle(), false)),
            (None, None, Some(process)) => {
                process.cgroup.as_ref().map(|own| (own.cgroup.handle(), false))
            }
            (None, None, None) => None,
        };
        let Some((cgroup, owned)) = own else { return Ok(None) };
        let attach = if owned { cgroup.attach_new()? } else { cgroup.attach()? };
        self.copy |= attach.rebinds_memory;
        for tasks in attach.tasks {
            let tasks = self.fds.own(tasks);
            self.steps.push(Step::JoinCgroup { tasks });
        }
        if let Some(dir) = attach.into_cgroup {
            let dir = self.fds.own(dir);
            if sys::clone::clone3_missing() {
                self.steps.push(Step::JoinCgroupDir { dir });
            } else {
                self.into_cgroup = Some(dir);
            }
        }
        // One made just now has none yet.
        let oom_kills = if owned { 0 } else { cgroup.oom_kills()? };
        Ok(Some(OwnCgroup { cgroup, owned, oom_kills }))
    }

    /// Namespaces that exist already, and the first things to do in new ones.
    fn enter_namespaces(&mut self) -> Result<()> {
        if let Some(users) = &self.users {
            let fd = self.fds.own(clone_fd(users)?);
            let what = "join the user namespace".into();
            self.join.push(Step::SetNs { fd, flags: libc::CLONE_NEWUSER, what });
        }
        for (kinds, _) in &self.command.join {
            self.unshared -= *kinds;
        }
        self.own_proc_files()?;
        for (kinds, fd) in &self.command.join {
            let slot = self.fds.own(clone_fd(fd)?);
            let what = format!("join the {kinds} namespace");
            self.join.push(Step::SetNs { fd: slot, flags: kinds.flags(), what });
            self.join_copy |= kinds.contains(Namespaces::TIME);
        }
        if let Some(process) = self.inside {
            let fd = self.fds.own(clone_fd(process.pidfd())?);
            let kinds = process.namespaces - Namespaces::USER;
            self.join_copy |= kinds.contains(Namespaces::TIME);
            // Last, by the process itself: a cgroup namespace forbids to enter its cgroups from outside
            // (the mount option nsdelegate).
            let cgroup = kinds & Namespaces::CGROUP;
            for (kinds, steps) in [(kinds - cgroup, &mut self.join), (cgroup, &mut self.steps)] {
                if !kinds.is_empty() {
                    let what = format!("join the namespaces {kinds} of {}", process.program);
                    steps.push(Step::SetNs { fd, flags: kinds.flags(), what });
                }
            }
        }
        self.become_root_inside()?;
        if self.unshared.contains(Namespaces::NETWORK) {
            self.steps.push(Step::Loopback);
        }
        // The root of a cgroup namespace is where its maker is, which on v1 is decided by a step.
        let joins_cgroup = self
            .steps
            .iter()
            .rposition(|s| matches!(s, Step::JoinCgroup { .. } | Step::JoinCgroupDir { .. }));
        if let Some(at) = joins_cgroup
            && self.unshared.contains(Namespaces::CGROUP)
        {
            let what = "unshare(CLONE_NEWCGROUP)";
            self.steps.insert(at + 1, Step::Unshare { flags: libc::CLONE_NEWCGROUP, what });
            self.late_namespaces |= Namespaces::CGROUP;
        }
        if self.contained() || self.command.terminal.is_some() {
            // Without a session of its own it could push input into the host's terminal (TIOCSTI), and signal the
            // host's process group.
            self.steps.push(Step::NewSession);
        }
        Ok(())
    }

    /// The steps that set the clocks of a time namespace of its own.
    fn clocks(&mut self) -> Result<Vec<Step>> {
        /// `KTIME_SEC_MAX / 2`: beyond it the kernel's nanoseconds could overflow, or it reads a minus.
        const LONGEST: Duration = Duration::from_secs(i64::MAX.unsigned_abs() / 1_000_000_000 / 2);
        if !self.unshared.contains(Namespaces::TIME) {
            return Ok(Vec::new());
        }
        self.late_namespaces |= Namespaces::TIME;
        let what = "unshare(CLONE_NEWTIME)";
        let mut steps = vec![Step::Unshare { flags: Namespaces::TIME.flags(), what }];
        for (clock, offset) in &self.command.time_offsets {
            if *offset >= LONGEST {
                return Err(Error::invalid(format!(
                    "a clock set forward by {} s: the kernel takes less than {} s",
                    offset.as_secs(),
                    LONGEST.as_secs()
                )));
            }
            let clock = match clock {
                Clock::Monotonic => libc::CLOCK_MONOTONIC,
                Clock::Boottime => libc::CLOCK_BOOTTIME,
            };
            steps.push(Step::WriteFile {
                dir: None,
                path: c"/proc/self/timens_offsets".into(),
                data: format!("{clock} {} {}", offset.as_secs(), offset.subsec_nanos()).into(),
                what: "set the clocks of the time namespace".into(),
            });
        }
        Ok(steps)
    }

    /// Whether it is a container, or comes into one. A process that shares every namespace with the host is none.
    fn contained(&self) -> bool {
        self.command.is_container()
            || self.inside.is_some_and(|process| !process.namespaces.is_empty())
    }

    /// Whether it comes into namespaces of processes that may signal it.
    fn meets_others(&self) -> bool {
        let joins = |kinds| self.command.join.iter().any(|(joined, _)| joined.contains(kinds));
        let given_users =
            matches!(self.command.users, Users::Namespace(_)) || joins(Namespaces::USER);
        self.inside.is_some()
            || joins(Namespaces::PID)
            || given_users && !self.unshared.contains(Namespaces::PID)
    }

    /// What is written to files of /proc/self, which belong to root while the dumpable flag is 0.
    ///
    /// Root writes them before it gives up its uid. Whoever is not root has the intermediate child do it,
    /// on a copy of the host's memory that nobody else can see yet, with a flag of its own. Kernels
    /// older than 6.3 take such a copy too, for there only a clone enters a time namespace.
    fn own_proc_files(&mut self) -> Result<()> {
        let (oom_score, labels, clocks) = (self.oom_score()?, self.labels()?, self.clocks()?);
        let root = nix::unistd::geteuid().is_root();
        let clone_enters = !clocks.is_empty() && !exec_enters_time_namespace();
        if !clone_enters && (root || oom_score.is_none() && clocks.len() < 2) {
            // Lowering the score takes a capability that is lost in a user namespace, and another mount
            // namespace may have another /proc: who joins either does this before. The real child inherits it.
            // Set in a process that shares memory, but not as after vfork, the score would be the host's too.
            self.join_copy |= oom_score.is_some() && self.meets_others();
            let early = if self.join.is_empty() { &mut self.steps } else { &mut self.join };
            early.splice(0..0, oom_score.into_iter().chain(labels));
            self.steps.extend(clocks);
            return Ok(());
        }
        self.copy |= clone_enters;
        self.join_copy = true;
        let dumpable = |on| Step::Prctl {
            what: "prctl(PR_SET_DUMPABLE)",
            args: [libc::PR_SET_DUMPABLE.unsigned_abs() as usize, on, 0, 0, 0],
        };
        self.join.push(dumpable(1));
        self.join.extend(oom_score.into_iter().chain(labels).chain(clocks));
        self.join.push(dumpable(0));
        Ok(())
    }

    fn look_up_user(&mut self) -> Result<()> {
        let command = self.command;
        let root = || match &self.image_root {
            Some(root) => clone_fd(root).map(RootDir::new),
            None => RootDir::open_host(Path::new("/")).context(|| "open the host's root"),
        };
        let user = command.user.as_ref().map(|user| Identity::find(user, &root()?)).transpose()?;
        let added = (!command.added_groups.is_empty()).then(root).transpose()?;
        if let Some(identity) = user {
            self.identity = identity;
            self.changes_user = true;
        }
        if let Some(groups) = &command.groups {
            self.identity.groups = groups.clone();
            if !self.changes_user && self.users.is_none() && !command.is_container() {
                self.identity.uid = nix::unistd::geteuid().as_raw();
                self.identity.gid = nix::unistd::getegid().as_raw();
            }
            self.changes_user = true;
        }
        if let Some(root) = added {
            self.identity.join(&command.added_groups, &root)?;
            self.changes_user = true;
        }
        // A container of the host's users starts as root with no groups of the host's.
        if self.contained() && self.users.is_none() {
            self.changes_user = true;
        }
        Ok(())
    }

    fn streams(&mut self, defaults: [Stdio; 3]) -> Result<Streams> {
        let mut streams = Streams {
            parents: [None, None, None],
            terminal: None,
            receiver: None,
            init_report: None,
            map: Vec::new(),
        };
        if let Some(size) = self.command.terminal {
            let peer = match self.peer {
                Some(peer) => peer,
                None => {
                    let (host, peer) = sys::terminal::open_pair().context(|| "open a terminal")?;
                    sys::terminal::set_size(&host, size.rows, size.columns)
                        .context(|| "set the size of a terminal")?;
                    streams.terminal = Some(host);
                    self.fds.own(peer)
                }
            };
            self.peer = Some(peer);
            streams.receiver = self.terminal_receiver.take();
            streams.map.extend((0..3).map(|number| (peer, number)));
        }
        for (number, default) in (0..3).zip(defaults) {
            let index = usize::try_from(number).unwrap_or(0);
            let chosen = self.command.streams[index].clone();
            let stream = match chosen {
                Some(stream) => stream,
                None if self.command.terminal.is_some() => continue,
                None => default,
            };
            let prepared = stream.prepare(number)?;
            streams.map.retain(|(_, target)| *target != number);
            if let Some(fd) = prepared.child {
                streams.map.push((self.fds.own(clone_fd(&fd)?), number));
            }
            streams.parents[index] = prepared.parent;
        }
        for (number, fd) in &self.command.fds {
            if *number < 3 || *number > 1 << 20 {
                return Err(Error::invalid(format!(
                    "file descriptor number {number}: use stdin, stdout and stderr for 0 to 2, and at most 1048576"
                )));
            }
            if streams.map.iter().any(|(_, target)| target == number) {
                return Err(Error::invalid(format!(
                    "file descriptor number {number} is given twice"
                )));
            }
            streams.map.push((self.fds.own(clone_fd(fd)?), *number));
        }
        Ok(streams)
    }

    /// The built-in pid 1, and the pipe on which it says whether the program could be executed.
    fn init(&mut self, streams: &mut Streams) -> Result<()> {
        if !self.command.init {
            return Ok(());
        }
        if !self.unshared.contains(Namespaces::PID) {
            return Err(Error::invalid("an init needs a pid namespace of its own")
                .with_hint("add .unshare(Namespaces::PID)"));
        }
        let number = streams.map.iter().map(|(_, number)| *number).max().unwrap_or(2).max(2) + 1;
        let (reader, writer) = io::pipe().context(|| "make a pipe")?;
        let program = sys::init::program(number).context(|| "make the init program")?;
        self.init = Some(self.fds.own(program));
        streams.map.push((self.fds.own(writer.into()), number));
        streams.init_report = Some(reader);
        Ok(())
    }

    /// The directory to start in, as it will be called inside.
    fn working_directory(&self) -> Result<Option<PathBuf>> {
        match &self.command.current_dir {
            Some(dir) => Ok(Some(dir.clone())),
            None if matches!(self.command.root.0, Source::HostPrograms) => {
                // One that was removed, or is another user's in FUSE, cannot be shown.
                let shown = std::env::current_dir().ok().filter(|dir| dir.metadata().is_ok());
                Ok(Some(shown.unwrap_or_else(|| "/".into())))
            }
            None if self.contained() => Ok(Some("/".into())),
            None => Ok(None),
        }
    }

    fn working_directory_step(&mut self) -> Result<()> {
        let rooted = self.contained();
        if let Some(dir) = self.working_directory()? {
            if dir.as_os_str().is_empty() {
                return Err(Error::invalid("the path of the working directory is empty"));
            }
            if rooted && !dir.is_absolute() {
                return Err(Error::invalid(format!(
                    "working directory {} is not absolute",
                    dir.display()
                )));
            }
            let path = c_path("working directory", &dir)?;
            let or_root = self.command.current_dir.is_none() && self.command.is_container();
            self.steps.push(Step::Chdir { path, rooted, or_root });
        }
        Ok(())
    }

    fn exec(&mut self) -> Result<Exec> {
        let command = self.command;
        let home = match (&self.identity.home, &command.root.0) {
            (Some(home), _) => home.clone(),
            (None, Source::HostPrograms) => "/tmp".into(),
            (None, _) if self.identity.uid == 0 => "/root".into(),
            (None, _) => "/".into(),
        };
        let env = environment(command, self.contained(), &home);
        let mut argv: Vec<CString> = Vec::with_capacity(command.args.len() + 2);
        if self.init.is_some() {
            // The child puts the path that it found here.
            argv.push(CString::default());
        }
        argv.push(c_string("program", command.arg0.as_ref().unwrap_or(&command.program))?);
        for arg in &command.args {
            argv.push(c_string("argument", arg)?);
        }
        Ok(Exec {
            candidates: candidates(&command.program, &env)?,
            argv: CStringArray::new(argv),
            envp: CStringArray::new(c_environment(&env)?),
            init: self.init,
        })
    }

    fn finish(mut self, cgroup: Option<OwnCgroup>, streams: Streams) -> Result<Child> {
        let exec = self.exec()?;
        let contained = self.contained();
        self.descriptors(streams.map)?;
        if let Some(peer) = self.peer {
            self.steps.push(Step::ControllingTerminal { peer });
        }
        if let Some(filter) = self.late_filter.take() {
            self.load_filter(filter);
        }
        let mut plan = Plan {
            namespaces: (self.unshared - self.late_namespaces).bits(),
            cgroup: self.into_cgroup,
            join: std::mem::take(&mut self.join),
            steps: std::mem::take(&mut self.steps),
            exec,
            fds: std::mem::take(&mut self.fds),
            copy: self.copy,
            join_copy: self.join_copy,
            watched: self.meets_others(),
            listener_receiver: self.listener_receiver.take(),
        };
        let spawned = {
            // Changed credentials of a child that shares the host's memory clear the flag anyway.
            let _window = plan
                .changes_credentials()
                .then(Dumpable::hold_zero)
                .transpose()
                .context(|| "switch off the host's dumpable flag")?;
            sys::spawn::spawn(&mut plan)
                .map_err(|failed| explain::explain(self.command, &self, &failed))?
        };
        drop(plan);
        drop(self.users_maker.take());
        if let Some(report) = streams.init_report {
            self.started_by_init(report, &spawned)?;
        }
        let [stdin, stdout, stderr] = streams.parents;
        let terminal = match (streams.terminal, streams.receiver) {
            (Some(terminal), _) => Some(terminal),
            (None, Some(socket)) => {
                Some(sys::terminal::receive_fd(socket).context(|| "receive the terminal")?)
            }
            (None, None) => None,
        };
        let mut namespaces = self.unshared;
        if self.users.is_some() {
            namespaces |= Namespaces::USER;
        }
        for (kinds, _) in &self.command.join {
            namespaces |= *kinds;
        }
        if let Some(process) = self.inside {
            namespaces |= process.namespaces;
        }
        let deadline = self
            .command
            .timeout
            .and_then(|limit| Instant::now().checked_add(limit).map(|at| (at, limit)));
        let mut child = Child {
            stdin: stdin.map(Into::into),
            stdout: stdout.map(Into::into),
            stderr: stderr.map(Into::into),
            terminal: terminal.map(Terminal::new),
            seccomp_listener: spawned.listener.map(Listener::new),
            process: Process {
                pid: spawned.pid,
                pidfd: spawned.pidfd,
                program: self.command.program.display().to_string(),
                status: None,
                deadline,
                timed_out: false,
                cgroup,
                user_namespace: self.users,
                namespaces,
                root: self.image_root,
                _made_of: self.command.root.clone(),
                kill_on_drop: true,
                guests: self.inside.map(|host| host.guests.clone()).unwrap_or_default(),
                guest: None,
                on_end: None,
            },
        };
        if self.inside.is_some() {
            let process = &child.process;
            let guest = process.guests.add(process.pidfd()).context(|| "duplicate a pidfd")?;
            child.process.guest = Some(guest);
        }
        if contained {
            refuse_running_host_program(&child)?;
        }
        Ok(child)
    }
}

impl Builder<'_> {
    /// Waits until the init has executed the program.
    fn started_by_init(&self, mut report: PipeReader, spawned: &Spawned) -> Result<()> {
        let mut errno = Vec::new();
        report.read_to_end(&mut errno).context(|| "hear from the init")?;
        let Some(errno) = errno.first_chunk() else { return Ok(()) };
        let _ = sys::wait::wait(&spawned.pidfd, true);
        let errno = i32::from_ne_bytes(*errno);
        let failed = Failed { at: At::Exec, call: "execve", errno, killed: None };
        Err(explain::explain(self.command, self, &failed))
    }
}

fn clone_fd(fd: impl AsFd) -> Result<OwnedFd> {
    fd.as_fd().try_clone_to_owned().context(|| "duplicate a file descriptor")
}

/// Whether execve(2) enters the time namespace that unshare(2) has made, as since Linux 6.3.
fn exec_enters_time_namespace() -> bool {
    static ENTERS: OnceLock<bool> = OnceLock::new();
    *ENTERS.get_or_init(|| {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 3)
    })
}

/// Device and inode of the host's own executable.
fn host_program() -> Option<(u64, u64)> {
    static PROGRAM: OnceLock<Option<(u64, u64)>> = OnceLock::new();
    *PROGRAM.get_or_init(|| {
        let found = fs::metadata("/proc/self/exe").ok()?;
        Some((found.dev(), found.ino()))
    })
}

fn host_program_refusal() -> Result<Step> {
    let (device, inode) = host_program()
        .ok_or_else(|| Error::unsupported("find the host's executable: /proc is not mounted"))?;
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    Ok(Step::RefuseProgram { device: major << 32 | minor, inode })
}

/// The check in the child goes by path; this one sees what was executed in the end.
fn refuse_running_host_program(child: &Child) -> Result<()> {
    let pid = child.process.pid;
    let runs_it = || {
        // Otherwise gone already, or not ours to look at.
        let found = fs::metadata(format!("/proc/{pid}/exe")).ok()?;
        Some(Some((found.dev(), found.ino())) == host_program())
    };
    // A seccomp filter may hold it up before it has executed anything, or it executed just after the first look.
    if runs_it() == Some(true) && sys::spawn::executed(pid) == Some(true) && runs_it() == Some(true)
    {
        return Err(Error::new(
            ErrorKind::SafetyViolation,
            "the program is the host's own executable",
        ));
    }
    Ok(())
}
