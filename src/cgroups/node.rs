//! One directory of a cgroup: its place in one hierarchy.

use std::fmt::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;

use super::controller::Controllers;
use super::devices::DeviceRules;
use super::dir::Dir;
use super::layout::{Hierarchy, Layout};
use super::settings::Setting;
use crate::error::{Context, Error, ErrorKind, Result, SyscallError};
use crate::sys::bpf;

/// Named relative to a directory that is open once for the whole process, so that a cgroup holds no
/// descriptor of its own.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) v2: bool,
    /// What can be limited here.
    pub(super) controllers: Controllers,
    dir: Arc<Dir>,
    rel: String,
    /// How many of the last parts of `rel` were made for this cgroup, to be removed with it.
    made: usize,
}

impl Node {
    /// Makes `rel` in a v1 hierarchy.
    pub(super) fn create_v1(hierarchy: &Hierarchy, base: &Arc<Dir>, rel: &str) -> Result<Self> {
        let mut node = Self {
            v2: false,
            controllers: hierarchy.controllers,
            dir: base.clone(),
            rel: rel.to_owned(),
            made: 0,
        };
        let cpuset = hierarchy.controllers.contains(Controllers::CPUSET);
        node.make(|dir, made| if cpuset { inherit_cpuset(dir, made) } else { Ok(()) })?;
        Ok(node)
    }

    /// Makes `rel` in the v2 hierarchy, handing `needed` down from `base`.
    pub(super) fn create_v2(base: &Arc<Dir>, rel: &str, needed: Controllers) -> Result<Self> {
        let mut node =
            Self { v2: true, controllers: needed, dir: base.clone(), rel: rel.to_owned(), made: 0 };
        node.make(
            |dir, made| {
                if made.len() == rel.len() { Ok(()) } else { enable(dir, made, needed) }
            },
        )?;
        Ok(node)
    }

    /// A directory that is there already.
    pub(super) fn open(
        hierarchy: &Hierarchy,
        v2: bool,
        base: &Arc<Dir>,
        rel: &str,
    ) -> Option<Self> {
        if !base.exists(rel) {
            return None;
        }
        let mut node = Self {
            v2,
            controllers: hierarchy.controllers,
            dir: base.clone(),
            rel: rel.to_owned(),
            made: 0,
        };
        if v2 {
            let names = node.read("cgroup.controllers").unwrap_or_default();
            node.controllers = Controllers::from_names(names.split_whitespace());
        }
        Some(node)
    }

    /// Makes the parts of `rel` that are missing, of which the last one must be; calls `prepare` with each.
    fn make(&mut self, prepare: impl Fn(&Dir, &str) -> Result<()>) -> Result<()> {
        let rel = std::mem::take(&mut self.rel);
        let ends = rel.match_indices('/').map(|(at, _)| at).chain([rel.len()]);
        for end in ends {
            let part = &rel[..end];
            self.rel.clear();
            self.rel.push_str(part);
            let result = match self.dir.mkdir(part) {
                Err(err) if err.errno == libc::EEXIST && end < rel.len() => {
                    prepare(&self.dir, part)
                }
                Err(err) => {
                    self.rel.truncate(part.rfind('/').unwrap_or(0));
                    Err(self.explain(err))
                }
                Ok(()) => {
                    self.made += 1;
                    prepare(&self.dir, part)
                }
            };
            if let Err(err) = result {
                _ = self.remove();
                return Err(err);
            }
        }
        Ok(())
    }

    fn name(&self, file: &str) -> String {
        if self.rel.is_empty() { file.to_owned() } else { format!("{}/{file}", self.rel) }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.join(&self.rel)
    }

    pub(super) fn read(&self, file: &str) -> Result<String, SyscallError> {
        self.dir.read(&self.name(file))
    }

    pub(super) fn write(&self, file: &str, value: &str) -> Result<(), SyscallError> {
        self.dir.write(&self.name(file), value)
    }

    pub(super) fn open_file(&self, file: &str, flags: OFlag) -> Result<OwnedFd, SyscallError> {
        self.dir.open_fd(&self.name(file), flags)
    }

    /// A descriptor of the directory, as `CLONE_INTO_CGROUP` takes it.
    pub(super) fn open_dir(&self) -> Result<OwnedFd, SyscallError> {
        self.dir.open_fd(&self.rel, OFlag::O_PATH | OFlag::O_DIRECTORY)
    }

    pub(super) fn has(&self, file: &str) -> bool {
        self.dir.exists(&self.name(file))
    }

    /// Writes those of `settings` that belong here.
    pub(super) fn apply(&self, settings: &[Setting]) -> Result<()> {
        for setting in settings {
            if setting.controller.is_empty() || self.controllers.contains(setting.controller) {
                self.apply_one(setting, settings)?;
            }
        }
        Ok(())
    }

    fn apply_one(&self, setting: &Setting, all: &[Setting]) -> Result<()> {
        let Err(err) = self.write(&setting.file, &setting.value) else { return Ok(()) };
        match err.errno {
            libc::ENOENT if setting.optional => return Ok(()),
            libc::ENOENT => {
                if let Some((file, value)) = &setting.otherwise {
                    let again = Setting {
                        file: (*file).into(),
                        value: value.clone(),
                        otherwise: None,
                        ..setting.clone()
                    };
                    return self.apply_one(&again, all);
                }
            }
            // The sum with swap may never be below memory alone: raising them, the sum goes first.
            libc::EINVAL if setting.file == "memory.limit_in_bytes" => {
                let sum = all.iter().find(|s| s.file == "memory.memsw.limit_in_bytes");
                if let Some(sum) = sum
                    && self.write(&sum.file, &sum.value).is_ok()
                    && self.write(&setting.file, &setting.value).is_ok()
                {
                    return Ok(());
                }
            }
            _ => {}
        }
        let hint = self.why_refused(setting, err.errno);
        let what =
            format!("set {} to {:?} in {}", setting.file, setting.value, self.path().display());
        let result = Err(err).context(|| what);
        match hint {
            Some(hint) => result.map_err(|err| {
                let missing = err.raw_os_error() == Some(libc::ENOENT);
                let err = if missing { err.with_kind(ErrorKind::Unsupported) } else { err };
                err.with_hint(hint)
            }),
            None => result,
        }
    }

    fn why_refused(&self, setting: &Setting, errno: i32) -> Option<String> {
        let file = &*setting.file;
        Some(match errno {
            libc::ENOENT if file.contains("memsw") || file.contains("swap") => {
                "this kernel does not count swap: boot with swapaccount=1".to_owned()
            }
            libc::ENOENT if file.contains("bfq") || file == "blkio.weight" => {
                "no disk scheduler of this kernel knows weights: use BFQ, or io.cost on v2"
                    .to_owned()
            }
            libc::ENOENT if file.contains("hugetlb") => {
                "this kernel has no huge pages of that size: see /sys/kernel/mm/hugepages"
                    .to_owned()
            }
            libc::ENOENT if file.contains("burst") => "the kernel has it since 5.14".to_owned(),
            libc::ENOENT => format!("this kernel has no {file} here"),
            libc::EBUSY if file.contains("memory") => {
                "the processes use more than that and it cannot be reclaimed".to_owned()
            }
            libc::EINVAL if file.contains("cfs") => {
                "on v1 a cgroup may have no larger share of cpu than the one above it".to_owned()
            }
            libc::EINVAL | libc::EACCES | libc::ERANGE | libc::ENOSPC
                if file.contains("cpuset") =>
            {
                "only cpus and memory nodes of the cgroup above can be given; see cpuset.cpus and \
                 cpuset.mems there"
                    .to_owned()
            }
            libc::ENODEV if setting.controller == Controllers::IO => {
                "no such disk; a partition cannot be limited, only the whole disk".to_owned()
            }
            libc::EACCES | libc::EPERM | libc::EROFS => no_permission(self.v2),
            _ => return None,
        })
    }

    /// Replaces the device rules of this v1 directory.
    pub(super) fn devices_v1(&self, rules: &DeviceRules) -> Result<()> {
        let write = |file: &str, value: &str| {
            self.write(file, value)
                .context(|| format!("set the device rules of {}", self.path().display()))
                .map_err(|err| {
                    err.with_hint(
                        "needs CAP_SYS_ADMIN, and allows only what the cgroup above allows",
                    )
                })
        };
        if *rules == DeviceRules::all() {
            return write("devices.allow", "a");
        }
        write("devices.deny", "a")?;
        let mut line = String::new();
        for rule in &rules.allowed {
            line.clear();
            _ = write!(line, "{rule}");
            write("devices.allow", &line)?;
        }
        Ok(())
    }

    /// Replaces the device rules of this v2 directory.
    pub(super) fn devices_v2(&self, rules: &DeviceRules, fresh: bool) -> Result<()> {
        self.attach_program(rules, fresh)
            .context(|| format!("set the device rules of {}", self.path().display()))
            .map_err(|err| {
                err.with_hint(
                    "on cgroup v2 this is an eBPF program: it needs CAP_BPF and CAP_NET_ADMIN (or root) in the \
                     initial user namespace and a kernel with CONFIG_CGROUP_BPF",
                )
            })
    }

    fn attach_program(&self, rules: &DeviceRules, fresh: bool) -> Result<(), SyscallError> {
        let dir = self.dir.open_fd(&self.rel, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let old = if fresh { Vec::new() } else { bpf::device_programs(dir.as_fd())? };
        let program = bpf::load_device_program(&super::device_program::assemble(rules))?;
        bpf::attach_device_program(dir.as_fd(), program.as_fd())?;
        // All programs must agree, so in between the stricter of old and new holds.
        for program in old {
            bpf::detach_device_program(dir.as_fd(), program.as_fd())?;
        }
        Ok(())
    }

    /// The processes here and in all directories below.
    pub(super) fn processes(&self, found: &mut Vec<u32>) -> Result<(), SyscallError> {
        self.each_below(&mut |dir, rel| {
            let file =
                if rel.is_empty() { "cgroup.procs".into() } else { format!("{rel}/cgroup.procs") };
            // 0 is a process that this pid namespace has no number for.
            let text = dir.read(&file)?;
            found
                .extend(text.lines().filter_map(|l| l.parse::<u32>().ok()).filter(|pid| *pid != 0));
            Ok(())
        })
    }

    /// Calls `visit` with every directory below and then this one, children first.
    fn each_below(
        &self,
        visit: &mut dyn FnMut(&Dir, &str) -> Result<(), SyscallError>,
    ) -> Result<(), SyscallError> {
        fn walk(
            dir: &Dir,
            rel: &str,
            visit: &mut dyn FnMut(&Dir, &str) -> Result<(), SyscallError>,
        ) -> Result<(), SyscallError> {
            for child in dir.children(rel)? {
                let child = if rel.is_empty() { child } else { format!("{rel}/{child}") };
                match walk(dir, &child, visit) {
                    // Removed under our feet: it has nothing left to visit.
                    Err(err) if matches!(err.errno, libc::ENOENT | libc::ENODEV) => {}
                    other => other?,
                }
            }
            visit(dir, rel)
        }
        walk(&self.dir, &self.rel, visit)
    }

    /// Lets [`remove`](Self::remove) have a directory that was only opened.
    pub(super) fn claim(&mut self) {
        self.made = self.made.max(1);
    }

    /// Removes the directory if it is empty, with those above that were made for it.
    pub(super) fn remove(&mut self) -> Result<(), SyscallError> {
        if self.made == 0 {
            return Ok(());
        }
        match self.dir.rmdir(&self.rel) {
            Err(err) if err.errno == libc::ENOENT => {}
            other => other?,
        }
        while self.made > 1 {
            let Some(at) = self.rel.rfind('/') else { break };
            self.rel.truncate(at);
            self.made -= 1;
            if self.dir.rmdir(&self.rel).is_err() {
                break;
            }
        }
        self.made = 0;
        Ok(())
    }

    /// [`remove`](Self::remove) for a cgroup in which others have made further ones, and from which the kernel
    /// may still be taking dead processes out.
    pub(super) fn remove_tree(&mut self, until: Instant) -> Result<(), SyscallError> {
        let mut pause = Duration::from_micros(50);
        loop {
            let err = match self.remove() {
                Err(err) if matches!(err.errno, libc::EBUSY | libc::ENOTEMPTY) => err,
                other => return other,
            };
            let top = self.rel.clone();
            // Failures show in the next round.
            _ = self.each_below(&mut |dir, rel| if rel == top { Ok(()) } else { dir.rmdir(rel) });
            if Instant::now() >= until {
                return Err(err);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Dresses a failed `mkdir` with what the user can do.
    fn explain(&self, err: SyscallError) -> Error {
        let errno = err.errno;
        let what = if self.controllers.is_empty() {
            format!("make a cgroup in {}", self.path().display())
        } else {
            format!("make a cgroup for {} in {}", self.controllers.list(), self.path().display())
        };
        let err = match Err::<(), _>(err).context(|| what) {
            Err(err) => err,
            Ok(()) => return Error::unsupported("make a cgroup"),
        };
        match errno {
            libc::EACCES | libc::EPERM | libc::EROFS => err.with_hint(no_permission(self.v2)),
            libc::EAGAIN => {
                err.with_hint("see cgroup.max.descendants and cgroup.max.depth above it")
            }
            libc::EEXIST => err.with_hint("open it with Cgroup::open, or choose another name"),
            _ => err,
        }
    }
}

fn no_permission(v2: bool) -> String {
    if v2 {
        "this user may not change that cgroup: have it delegated, for example by starting the program with \
         systemd-run --user --scope -p Delegate=yes"
            .to_owned()
    } else {
        "cgroup v1 belongs to root: run as root, or boot with systemd.unified_cgroup_hierarchy=1 for v2, \
         which can be delegated to users (a container may have it mounted read-only: remount it)"
            .to_owned()
    }
}

/// v1 lets nobody into a cpuset that has no cpus or no memory nodes, and a new one has neither.
fn inherit_cpuset(dir: &Dir, made: &str) -> Result<()> {
    let parent = made.rsplit_once('/').map_or(String::new(), |(parent, _)| format!("{parent}/"));
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let copied = dir
            .read(&format!("{made}/{file}"))
            .and_then(|own| {
                if own.trim().is_empty() {
                    dir.read(&format!("{parent}{file}"))
                } else {
                    Ok(String::new())
                }
            })
            .and_then(|value| match value.trim() {
                "" => Ok(()),
                value => dir.write(&format!("{made}/{file}"), value),
            });
        copied.context(|| {
            format!("take over {file} of the cgroup above {}", dir.join(made).display())
        })?;
    }
    Ok(())
}

/// Lets the children of the v2 cgroup `rel` have the controllers `needed`.
pub(super) fn enable(dir: &Dir, rel: &str, needed: Controllers) -> Result<()> {
    if needed.is_empty() {
        return Ok(());
    }
    let file = |name: &str| if rel.is_empty() { name.to_owned() } else { format!("{rel}/{name}") };
    let control = file("cgroup.subtree_control");
    let names = dir.read(&control).unwrap_or_default();
    let missing = needed - Controllers::from_names(names.split_whitespace());
    if missing.is_empty() {
        return Ok(());
    }
    let Err(err) = dir.write(&control, &missing.to_enable()) else { return Ok(()) };
    let path = dir.join(rel);
    // ENOENT is a controller that is not on offer there, or a cgroup that is gone.
    let offered = dir.read(&below(rel, "cgroup.controllers"));
    let lacks = err.errno == libc::ENOENT && offered.is_ok();
    let hint = match err.errno {
        libc::EBUSY => format!(
            "v2 allows limits below {0} only while no process is in {0} itself: move them to a child of it \
             first (Cgroup::make_room does it for the own cgroup)",
            path.display()
        ),
        libc::ENOENT => format!(
            "cgroup.controllers in {} has only: {}",
            path.display(),
            offered.as_deref().unwrap_or_default().trim()
        ),
        _ => no_permission(true),
    };
    let result =
        Err(err).context(|| format!("hand {} down from {}", missing.list(), path.display()));
    result.map_err(|err: Error| {
        let err = if lacks { err.with_kind(ErrorKind::Unsupported) } else { err };
        err.with_hint(hint)
    })
}

/// The v2 cgroup below which one with the controllers `needed` can be made. v2 has no limits below a cgroup
/// that holds processes, unless it is the root. So it is the nearest cgroup, from the own one upwards, that
/// holds none and that this user may change; in it, a cgroup `coracle` keeps our children together and its
/// `cgroup.subtree_control` from being reset by a service manager.
pub(super) fn parent_v2(
    layout: &Layout,
    unified: &Hierarchy,
    needed: Controllers,
) -> Result<Arc<Dir>> {
    if needed.is_empty() {
        return Ok(unified.own.clone());
    }
    let mut parent = layout.parent.lock().unwrap_or_else(PoisonError::into_inner);
    let mut handed_down = needed;
    if let Some((controllers, dir)) = &parent.alive
        && let Some(dir) = dir.upgrade()
    {
        if controllers.contains(needed) {
            return Ok(dir);
        }
        // Who is in it already keeps what it has.
        handed_down |= *controllers;
    }
    let above = match &parent.above {
        Some((controllers, above)) if controllers.contains(handed_down) => above.clone(),
        _ => find_above(unified, handed_down)?,
    };
    let dir = Arc::new(make_parent(&unified.root, &above, handed_down)?);
    parent.alive = Some((handed_down, Arc::downgrade(&dir)));
    parent.above = Some((handed_down, above));
    Ok(dir)
}

fn find_above(unified: &Hierarchy, needed: Controllers) -> Result<String> {
    let mut way = Some(unified.own_path.as_str());
    let mut refusal = None;
    while let Some(rel) = way {
        match check_above(&unified.root, rel, needed) {
            Ok(()) => return Ok(rel.to_owned()),
            // Another process has just removed what we were about to use: from the beginning, then.
            Err(err) if err.kind() == ErrorKind::NotFound => return Err(err),
            // The nearest obstacle is the one that can be removed.
            Err(err) => refusal = refusal.or(Some(err)),
        }
        way = match rel {
            "" => None,
            _ => Some(rel.rfind('/').map_or("", |at| &rel[..at])),
        };
    }
    Err(refusal.unwrap_or_else(|| Error::unsupported("find a parent cgroup")))
}

fn below(rel: &str, name: &str) -> String {
    if rel.is_empty() { name.to_owned() } else { format!("{rel}/{name}") }
}

/// Whether `rel` can hand the controllers down, and we may make a cgroup in it.
fn check_above(root: &Arc<Dir>, rel: &str, needed: Controllers) -> Result<()> {
    let path = root.join(rel);
    // Only the root of the hierarchy has no type. The check matters: with controllers that can be split by
    // thread, enabling them beside processes succeeds and turns the children into something else.
    let is_root = !root.exists(&below(rel, "cgroup.type"));
    if !is_root {
        let procs = root.read(&below(rel, "cgroup.procs"));
        let procs = procs.context(|| format!("look for processes in {}", path.display()))?;
        if !procs.trim().is_empty() {
            let own = format!("make a cgroup for {} below {}", needed.list(), path.display());
            return Err(Error::new(ErrorKind::Busy, own).with_hint(format!(
                "v2 allows limits only below a cgroup that holds no processes itself, and this user may not \
                 change one above: start the program with systemd-run --user --scope -p Delegate=yes, or, if {} \
                 is all yours, call Cgroup::make_room first",
                path.display()
            )));
        }
    }
    enable(root, rel, needed)?;
    make_parent(root, rel, needed).map(drop)
}

fn make_parent(root: &Arc<Dir>, above: &str, needed: Controllers) -> Result<Dir> {
    let parent = below(above, "coracle");
    let making = || format!("make the cgroup {}", root.join(&parent).display());
    match root.mkdir(&parent) {
        Err(err) if err.errno != libc::EEXIST => {
            return Err(err).context(making).map_err(|err| err.with_hint(no_permission(true)));
        }
        _ => {}
    }
    let dir = root.open_temporary(&parent).context(making)?;
    enable(&dir, "", needed)?;
    Ok(dir)
}
