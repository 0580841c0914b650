//! A group of processes and its limits.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::fd::AsFd;

use super::controller::Controllers;
use super::dir::Dir;
use super::layout::{Hierarchy, Layout};
use super::limits::Limits;
use super::name::{absolute, relative};
use super::node::{Node, enable, parent_v2};
use super::plan::Plan;
use super::settings;
use crate::error::{Context, Error, ErrorKind, Result, SyscallError};

/// How long processes that were sent SIGKILL may take to be gone.
const DYING: Duration = Duration::from_secs(5);

/// A group of processes with [`Limits`] that they share, their usage, and the power to freeze and to kill them all.
///
/// A cgroup that was made here ends with its value: **dropping it kills every process in it and removes it**.
/// [`keep`](Self::keep) leaves it in place. One that was [opened](Self::open) is left alone.
///
/// ```no_run
/// use coracle::{MIB, cgroups::{Cgroup, Limits}};
///
/// let jobs = Cgroup::create("jobs", &Limits::new().memory(512 * MIB).pids(100))?;
/// let child = std::process::Command::new("make").spawn()?;
/// jobs.add(child.id())?;
/// println!("{:?}", jobs.stats()?.memory.current);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Where it is
/// The own cgroup of the caller is looked up once, and again after [`add`](Self::add) has moved the caller.
///
/// On v1 and in the hybrid layout it is below the own cgroup of the caller, in those hierarchies only that the limits need,
/// and in the v2 one beside them.
///
/// v2 has no limits below a cgroup that holds processes, and the own cgroup holds at least the caller. So the new one goes into
/// a cgroup `coracle` in the nearest cgroup above that holds no process and that the user may change. For a
/// systemd service or session run by root that is its slice (and limits on the service itself do not bind the new
/// cgroup); for a user's scope made with `systemd-run --user --scope`, `app.slice`. Where there is none, as in most containers,
/// the error says so, and [`make_room`](Self::make_room) clears the own cgroup. `coracle` is removed with the last
/// cgroup in it.
#[derive(Debug)]
pub struct Cgroup {
    name: String,
    unified: Option<Node>,
    legacy: Vec<Node>,
    owned: bool,
}

/// What a new process needs to be born in a cgroup.
#[derive(Debug)]
pub(crate) struct Attach {
    /// The v2 directory, for `CLONE_INTO_CGROUP`.
    pub(crate) into_cgroup: Option<OwnedFd>,
    /// `tasks` of each v1 directory, open for writing: the new process, which has one thread, writes `0`.
    pub(crate) tasks: Vec<OwnedFd>,
    /// Joining moves the memory policy of the process's address space, which a `CLONE_VM` child shares with the host.
    pub(crate) rebinds_memory: bool,
}

impl Cgroup {
    /// Makes a cgroup `name`, which may be a relative path such as `jobs/7`: parents that are missing are made and removed
    /// with it.
    ///
    /// # Errors
    /// `InvalidInput` for limits or names that cannot be meant, `AlreadyExists`, `Unsupported` if the machine lacks a
    /// controller, `PermissionDenied` and `Busy` with a [hint](crate::Error::hint) that says what to do.
    pub fn create(name: impl AsRef<Path>, limits: &Limits) -> Result<Self> {
        let name = relative(name.as_ref())?;
        limits.check()?;
        let what = || format!("create cgroup {name}");
        let mut attempts = 0;
        loop {
            match Self::build(&name, limits, false) {
                // This process was moved to another cgroup, or `coracle` removed by another process just now.
                Err(err) if err.kind() == ErrorKind::NotFound && attempts < 10 => Layout::forget(),
                other => return other.context(what),
            }
            attempts += 1;
        }
    }

    /// Makes a cgroup at `path` counted from the top of each hierarchy, whatever cgroup the caller is in:
    /// `/coracle/web` is `/sys/fs/cgroup/coracle/web` on v2 and `/sys/fs/cgroup/memory/coracle/web` and so on, on v1.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_at(path: impl AsRef<Path>, limits: &Limits) -> Result<Self> {
        let name = absolute(path.as_ref())?;
        limits.check()?;
        let mut attempts = 0;
        loop {
            match Self::build(&name, limits, true) {
                // The one above, which was empty, was removed by another process just now.
                Err(err) if err.kind() == ErrorKind::NotFound && attempts < 10 => {}
                other => return other.context(|| format!("create cgroup /{name}")),
            }
            attempts += 1;
        }
    }

    /// The directories that [`create`](Self::create) or [`create_at`](Self::create_at) would make at most.
    #[cfg(feature = "container")]
    pub(crate) fn places(name: &Path, at_root: bool) -> Result<Vec<PathBuf>> {
        let name = if at_root { absolute(name)? } else { relative(name)? };
        let layout = Layout::current()?;
        let place = |h: &Hierarchy| if at_root { h.root.join(&name) } else { h.own.join(&name) };
        let mut places: Vec<_> = layout.legacy.iter().map(place).collect();
        if let Some(unified) = &layout.unified {
            match at_root {
                true => places.push(place(unified)),
                false => places.extend(
                    parent_v2(&layout, unified, Controllers::empty()).map(|dir| dir.join(&name)),
                ),
            }
        }
        Ok(places)
    }

    /// A cgroup with a name of its own, for one command.
    pub(crate) fn create_unique(limits: &Limits) -> Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        limits.check()?;
        let mut attempts = 0;
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let name = format!("coracle-{}-{number}", std::process::id());
            match Self::build(&name, limits, false) {
                // Left behind by a crashed process that had our number.
                Err(err) if err.kind() == ErrorKind::AlreadyExists && attempts < 1000 => {}
                Err(err) if err.kind() == ErrorKind::NotFound && attempts < 10 => Layout::forget(),
                other => return other.context(|| "create a cgroup for the limits"),
            }
            attempts += 1;
        }
    }

    fn build(name: &str, limits: &Limits, at_root: bool) -> Result<Self> {
        let layout = Layout::current()?;
        let plan = Plan::new(&layout, limits)?;
        let mut cgroup =
            Self { name: name.to_owned(), unified: None, legacy: Vec::new(), owned: true };
        let base = |h: &Hierarchy| if at_root { h.root.clone() } else { h.own.clone() };
        for hierarchy in plan.legacy {
            // Dropped on failure, `cgroup` removes what it has made so far.
            cgroup.legacy.push(Node::create_v1(hierarchy, &base(hierarchy), name)?);
        }
        if let Some(unified) = &layout.unified {
            let made = (|| {
                let parent = if at_root {
                    enable(&unified.root, "", plan.unified)?;
                    unified.root.clone()
                } else {
                    parent_v2(&layout, unified, plan.unified)?
                };
                Node::create_v2(&parent, name, plan.unified)
            })();
            match made {
                Ok(node) => cgroup.unified = Some(node),
                // It only adds convenience where v1 has all that was asked for.
                Err(err)
                    if err.kind() == ErrorKind::PermissionDenied
                        && plan.unified.is_empty()
                        && !plan.devices_v2
                        && !cgroup.legacy.is_empty() => {}
                Err(err) => return Err(err),
            }
        }
        cgroup.apply(limits, true)?;
        Ok(cgroup)
    }

    /// The cgroup at `path`, which someone else has made: counted from the top of each hierarchy if it begins with
    /// `/`, from the caller's own cgroup otherwise. It is left alone when the value is dropped.
    ///
    /// # Errors
    /// `NotFound` if no hierarchy has it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let at_root = path.is_absolute();
        let name = if at_root { absolute(path)? } else { relative(path)? };
        let layout = Layout::current()?;
        let open = |hierarchy: &Hierarchy, v2| {
            let base: &Arc<Dir> = if at_root { &hierarchy.root } else { &hierarchy.own };
            Node::open(hierarchy, v2, base, &name)
        };
        let cgroup = Self {
            unified: layout.unified.as_ref().and_then(|h| open(h, true)),
            legacy: layout.legacy.iter().filter_map(|h| open(h, false)).collect(),
            owned: false,
            name,
        };
        if cgroup.nodes().next().is_none() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("open cgroup {}: no hierarchy has it", path.display()),
            ));
        }
        Ok(cgroup)
    }

    /// The cgroup with these [`paths`](Self::paths), as far as they are there. It is left alone when the value is dropped.
    #[cfg(feature = "container")]
    pub(crate) fn at_paths(paths: &[PathBuf]) -> Result<Self> {
        let layout = Layout::current()?;
        let open = |hierarchy: &Hierarchy, v2| {
            let top = hierarchy.root.join("");
            let below = paths.iter().find_map(|path| path.strip_prefix(&top).ok()?.to_str());
            Node::open(hierarchy, v2, &hierarchy.root, below.filter(|below| !below.is_empty())?)
        };
        let cgroup = Self {
            unified: layout.unified.as_ref().and_then(|h| open(h, true)),
            legacy: layout.legacy.iter().filter_map(|h| open(h, false)).collect(),
            owned: false,
            name: paths.first().map(|path| path.display().to_string()).unwrap_or_default(),
        };
        if cgroup.nodes().next().is_none() {
            let message = format!("there is no cgroup {}", cgroup.name);
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        Ok(cgroup)
    }

    /// Moves every process of the caller's own v2 cgroup, the caller among them, into a child of it, so that cgroups with
    /// limits can be made below. Returns the new place. Call it only in a cgroup that is yours: a container's, or a
    /// delegated systemd unit (systemd's manual calls this the way to use `Delegate=yes`).
    ///
    /// # Errors
    /// `Unsupported` without v2, `PermissionDenied` if the cgroup is not delegated.
    pub fn make_room() -> Result<PathBuf> {
        // It must be the own cgroup of now that is cleared, and no other.
        Layout::forget();
        let layout = Layout::current()?;
        let Some(unified) = &layout.unified else {
            return Err(Error::unsupported("make room in the own cgroup: there is no cgroup v2")
                .with_hint("v1 has limits below a cgroup with processes; there is nothing to do"));
        };
        let leaf = "coracle-host";
        let path = unified.own.join(leaf);
        let attempt = || -> Result<(), SyscallError> {
            match unified.own.mkdir(leaf) {
                Err(err) if err.errno != libc::EEXIST => return Err(err),
                _ => {}
            }
            // Until no process is left: one may fork meanwhile.
            loop {
                let procs = unified.own.read("cgroup.procs")?;
                if procs.trim().is_empty() {
                    return Ok(());
                }
                for pid in procs.lines() {
                    match unified.own.write("coracle-host/cgroup.procs", pid) {
                        Err(err) if err.errno != libc::ESRCH => return Err(err),
                        _ => {}
                    }
                }
            }
        };
        let moved = attempt().context(|| format!("move the own processes to {}", path.display()));
        Layout::forget();
        moved.map_err(|err| {
            err.with_hint(
                "have the cgroup delegated: systemd-run --user --scope -p Delegate=yes, or Delegate=yes in the unit",
            )
        })?;
        Ok(path)
    }

    /// The name or path it was made or opened with, without a leading `/`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its directories, one for each hierarchy it is in.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.nodes().map(Node::path).collect()
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.unified.iter().chain(&self.legacy)
    }

    /// The v2 directory.
    pub(super) fn unified(&self) -> Option<&Node> {
        self.unified.as_ref()
    }

    /// The v1 directory for `controller`.
    pub(super) fn legacy(&self, controller: Controllers) -> Option<&Node> {
        self.legacy.iter().find(|node| node.controllers.contains(controller))
    }

    /// The directory in which `controller` counts.
    pub(super) fn node(&self, controller: Controllers) -> Option<&Node> {
        self.legacy(controller)
            .or_else(|| self.unified().filter(|node| node.controllers.contains(controller)))
    }

    /// Changes limits while the processes run. Only those that `limits` sets are touched.
    ///
    /// # Errors
    /// `Unsupported` for a controller that was not asked for when the cgroup was made
    /// (see [`Limits::accounting`]); `Busy` on v1 if the processes use more memory than that.
    pub fn set(&self, limits: &Limits) -> Result<()> {
        limits.check()?;
        self.apply(limits, false).context(|| format!("change the limits of cgroup {}", self.name))
    }

    fn apply(&self, limits: &Limits, fresh: bool) -> Result<()> {
        if !fresh {
            self.check_reach(limits)?;
        }
        if let Some(unified) = &self.unified
            && (!unified.controllers.is_empty() || !limits.unified.is_empty())
        {
            unified.apply(&settings::v2(limits, fresh))?;
        }
        let v1_limits = || {
            let swap_now = if fresh { None } else { self.swap_now_v1() };
            settings::v1(limits, fresh, swap_now)
        };
        let legacy_controllers: Controllers =
            self.legacy.iter().map(|node| node.controllers).collect();
        if legacy_controllers.intersects(limits.controllers()) {
            let settings = v1_limits()?;
            for node in &self.legacy {
                node.apply(&settings)?;
            }
        }
        if let Some(rules) = &limits.devices {
            match (self.legacy(Controllers::DEVICES), &self.unified) {
                (Some(node), _) => node.devices_v1(rules)?,
                (None, Some(node)) => node.devices_v2(rules, fresh)?,
                (None, None) => {}
            }
        }
        Ok(())
    }

    fn check_reach(&self, limits: &Limits) -> Result<()> {
        let mut wanted = limits.controllers();
        if self.unified.is_some() && self.legacy(Controllers::DEVICES).is_none() {
            wanted -= Controllers::DEVICES;
        }
        for controller in wanted.iter() {
            if self.node(controller).is_none() {
                return Err(Error::unsupported(format!(
                    "limit {} in a cgroup made without it",
                    controller.list()
                ))
                .with_hint("ask for it when the cgroup is made, or use Limits::accounting there"));
            }
        }
        Ok(())
    }

    /// The swap space that v1 has on top of the memory limit.
    fn swap_now_v1(&self) -> Option<u64> {
        let node = self.legacy(Controllers::MEMORY)?;
        let number = |file| node.read(file).ok()?.trim().parse::<u64>().ok();
        let sum = number("memory.memsw.limit_in_bytes")?;
        // Without a limit the kernel reports the largest multiple of a page.
        let unlimited = |bytes: u64| bytes >= i64::MAX as u64 - (1 << 16);
        let memory = number("memory.limit_in_bytes")?;
        match (unlimited(sum), unlimited(memory)) {
            (true, false) => Some(u64::MAX),
            (true, true) => Some(0),
            _ => Some(sum.saturating_sub(memory)),
        }
    }

    /// Moves the process `pid`, with all its threads, into the cgroup. What it forks from then on is born
    /// there; memory it has already stays charged where it was.
    ///
    /// # Errors
    /// `NotFound` if there is no such process; `PermissionDenied` if the user may not move it.
    pub fn add(&self, pid: u32) -> Result<()> {
        if pid == std::process::id() {
            Layout::forget();
        }
        let pid = pid.to_string();
        for node in self.nodes() {
            node.write("cgroup.procs", &pid)
                .context(|| format!("move process {pid} into cgroup {}", self.name))
                .map_err(|err| match err.raw_os_error() {
                    Some(libc::EACCES | libc::EPERM) => err.with_hint(
                        "moving takes write access to cgroup.procs of the nearest cgroup above both places",
                    ),
                    Some(libc::ENOSPC) => err.with_hint("its cpuset has no cpus or no memory nodes"),
                    _ => err,
                })?;
        }
        Ok(())
    }

    /// The ids of the processes in it and in cgroups below it, as this pid namespace numbers them, the lowest first.
    ///
    /// # Errors
    /// `NotFound` once it has been removed.
    pub fn processes(&self) -> Result<Vec<u32>> {
        let mut found = Vec::new();
        // v1 hierarchies may differ if someone moved a process by hand.
        for node in self.nodes() {
            node.processes(&mut found)
                .context(|| format!("list the processes of cgroup {}", self.name))?;
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Stops every process in it until [`thaw`](Self::thaw); returns when they all stand still. They do not notice.
    /// (`cgroup.freeze` of Linux 5.2, or the v1 freezer).
    ///
    /// # Errors
    /// `Unsupported` without either; `TimedOut` if a process is stuck in the kernel.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen(true).context(|| format!("freeze cgroup {}", self.name))
    }

    /// Lets the processes go on.
    ///
    /// # Errors
    /// As [`freeze`](Self::freeze).
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(false).context(|| format!("thaw cgroup {}", self.name))
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        let until = Instant::now() + DYING;
        let stuck = || Error::new(ErrorKind::TimedOut, "wait for every process to stop");
        if let Some(node) = self.unified().filter(|node| node.has("cgroup.freeze")) {
            node.write("cgroup.freeze", if frozen { "1" } else { "0" })
                .context(|| format!("write in {}", node.path().display()))?;
            // A thaw takes effect at once; only a freeze has to reach every process.
            let wanted = if frozen { "frozen 1" } else { "" };
            return if wait_event(node, wanted, until)? { Ok(()) } else { Err(stuck()) };
        }
        let Some(node) = self.legacy(Controllers::FREEZER) else {
            return Err(Error::unsupported("find a freezer for this cgroup").with_hint(
                "cgroup v2 has one since Linux 5.2; on v1: mount -t cgroup -o freezer none /sys/fs/cgroup/freezer",
            ));
        };
        let state = if frozen { "FROZEN" } else { "THAWED" };
        let in_state = || format!("write {state} in {}", node.path().display());
        loop {
            // Written again and again, as processes that fork while being frozen may slip through.
            node.write("freezer.state", state).context(in_state)?;
            if node.read("freezer.state").context(in_state)?.trim() == state {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(stuck());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends SIGKILL to every process in it and below it, so that none can slip away by forking
    /// (`cgroup.kill` of Linux 5.14; before that by freezing first, or by repeating). Returns when they are gone,
    /// apart from their exit status, which their parents still have to collect.
    ///
    /// # Errors
    /// `TimedOut` if a process does not die within five seconds, being stuck in the kernel.
    pub fn kill(&self) -> Result<()> {
        self.kill_until(Instant::now() + DYING).context(|| format!("kill cgroup {}", self.name))
    }

    fn kill_until(&self, until: Instant) -> Result<()> {
        if let Some(node) = self.unified() {
            match node.write("cgroup.kill", "1") {
                Ok(()) => _ = wait_event(node, "populated 0", until)?,
                Err(err) if err.errno == libc::ENOENT && !node.has("cgroup.procs") => {}
                Err(err) if err.errno == libc::ENOENT => {}
                Err(err) => return Err(err).context(|| "write to cgroup.kill"),
            }
        }
        // Those that are in a v1 directory only, or on a kernel without cgroup.kill.
        let mut pause = Duration::from_micros(100);
        loop {
            let processes = match self.processes() {
                Err(err) if err.kind() == ErrorKind::NotFound => return Ok(()),
                other => other?,
            };
            if processes.is_empty() {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    format!("wait for {} processes to die", processes.len()),
                ));
            }
            self.signal_all();
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// One round of SIGKILL, with the freezer's help where there is one.
    fn signal_all(&self) {
        let freezer = self.legacy(Controllers::FREEZER);
        if let Some(node) = freezer {
            _ = node.write("freezer.state", "FROZEN");
        }
        // Read again: only now can no process fork. One that is gone by now is fine.
        for pid in self.processes().unwrap_or_default() {
            if let Ok(pid) = i32::try_from(pid)
                && pid > 0
            {
                _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        if let Some(node) = freezer {
            _ = node.write("freezer.state", "THAWED");
        }
        if let Some(node) = self.unified() {
            _ = node.write("cgroup.freeze", "0");
        }
    }

    /// A second value for the same cgroup, which leaves it in place when dropped.
    pub(crate) fn handle(&self) -> Self {
        Self {
            name: self.name.clone(),
            unified: self.unified.clone(),
            legacy: self.legacy.clone(),
            owned: false,
        }
    }

    /// Leaves the cgroup and its processes in place when the value is dropped.
    #[must_use = "without the returned value it is gone"]
    pub fn keep(mut self) -> Self {
        self.owned = false;
        self
    }

    /// Kills every process in it and removes it, also one that was only opened.
    ///
    /// # Errors
    /// `TimedOut` or `Busy` if a process does not die.
    pub fn delete(mut self) -> Result<()> {
        self.owned = false;
        self.unified.iter_mut().chain(&mut self.legacy).for_each(Node::claim);
        self.end().context(|| format!("delete cgroup {}", self.name))
    }

    fn end(&mut self) -> Result<()> {
        // Nearly always the processes have ended, and this is all there is to do.
        let mut clean = true;
        for node in self.unified.iter_mut().chain(&mut self.legacy) {
            clean &= node.remove().is_ok();
        }
        if clean {
            return Ok(());
        }
        let until = Instant::now() + DYING;
        let killed = self.kill_until(until);
        let mut removed = Ok(());
        for node in self.unified.iter_mut().chain(&mut self.legacy) {
            removed = removed.and(
                node.remove_tree(until).context(|| format!("remove {}", node.path().display())),
            );
        }
        // A process that would not die is the reason why its cgroup could not be removed.
        killed.and(removed)
    }

    /// Whether it, or one above it, stands still or is about to.
    fn is_frozen(&self) -> bool {
        let says = |node: &Node, file, line: &str| {
            node.read(file).is_ok_and(|text| text.lines().any(|other| other == line))
        };
        self.unified().is_some_and(|node| {
            says(node, "cgroup.events", "frozen 1") || says(node, "cgroup.freeze", "1")
        }) || self
            .legacy(Controllers::FREEZER)
            .is_some_and(|node| node.has("freezer.state") && !says(node, "freezer.state", "THAWED"))
    }

    /// The descriptors with which a new process joins.
    ///
    /// # Errors
    /// `InvalidState` if it is frozen: the process would stand still, and with it the thread that waits for it to start.
    pub(crate) fn attach(&self) -> Result<Attach> {
        if self.is_frozen() {
            return Err(Error::new(
                ErrorKind::InvalidState,
                format!("cgroup {} is frozen", self.name),
            )
            .with_hint("a process would not start in it: thaw it first (Cgroup::thaw)"));
        }
        self.attach_new()
    }

    /// [`attach`](Self::attach), to a cgroup that nobody else knows yet.
    pub(crate) fn attach_new(&self) -> Result<Attach> {
        let joining = || format!("prepare to join cgroup {}", self.name);
        let into_cgroup = match &self.unified {
            Some(node) => Some(node.open_dir().context(joining)?),
            None => None,
        };
        // Not `cgroup.procs`: for a whole process the kernel stops every fork on the machine, which takes
        // an RCU grace period, up to 20 ms. For the calling thread alone it need not (since Linux 5.6).
        let open = |node: &Node| node.open_file("tasks", OFlag::O_WRONLY).context(joining);
        Ok(Attach {
            into_cgroup,
            tasks: self.legacy.iter().map(open).collect::<Result<_>>()?,
            rebinds_memory: self.legacy(Controllers::CPUSET).is_some(),
        })
    }

    /// The memory limit in bytes, if there is one.
    pub(crate) fn memory_limit(&self) -> Option<u64> {
        let node = self.node(Controllers::MEMORY)?;
        let file = if node.v2 { "memory.max" } else { "memory.limit_in_bytes" };
        super::stats::limit(&node.read(file).ok()?)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if self.owned {
            // Nobody is left to tell; what stays is an empty directory, or a process that cannot be killed.
            _ = self.end();
        }
    }
}

/// Waits until a line of `cgroup.events` reads `wanted`; the empty string needs no waiting.
fn wait_event(node: &Node, wanted: &str, until: Instant) -> Result<bool> {
    use std::os::unix::fs::FileExt;
    if wanted.is_empty() {
        return Ok(true);
    }
    let what = || format!("watch cgroup.events in {}", node.path().display());
    let file = std::fs::File::from(node.open_file("cgroup.events", OFlag::O_RDONLY).context(what)?);
    let mut text = [0; 256];
    loop {
        let length = match file.read_at(&mut text, 0) {
            // Removed by someone else.
            Err(err) if err.raw_os_error() == Some(libc::ENODEV) => return Ok(true),
            other => other.context(what)?,
        };
        let text = std::str::from_utf8(&text[..length]).unwrap_or_default();
        if text.lines().any(|line| line == wanted) {
            return Ok(true);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLPRI)], timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno).context(what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Missing;

    #[test]
    fn a_command_gets_a_cgroup_and_leaves_none() {
        let limits = Limits::new().memory(64 << 20).pids(10).cpus(0.5);
        let cgroup = match Cgroup::create_unique(&limits) {
            Err(err) if matches!(err.kind(), ErrorKind::PermissionDenied | ErrorKind::Busy) => {
                Missing::new("a cgroup of its own", format!("{err:#}")).skip();
                return;
            }
            other => other.unwrap(),
        };
        let paths = cgroup.paths();
        assert!(!paths.is_empty() && paths.iter().all(|path| path.is_dir()), "{paths:?}");
        let attach = cgroup.attach().unwrap();
        assert!(attach.into_cgroup.is_some() || !attach.tasks.is_empty());
        assert!(!attach.rebinds_memory);
        assert_eq!(cgroup.oom_kills().unwrap(), 0);
        assert_eq!(cgroup.memory_limit(), Some(64 << 20));
        drop(cgroup);
        assert!(paths.iter().all(|path| !path.exists()), "{paths:?}");
    }
}
