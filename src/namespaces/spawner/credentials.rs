//! The steps that take rights away, and the order they need.

use std::ffi::CStr;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};
use nix::unistd::{getegid, geteuid};

use super::Builder;
use super::environment::c_string;
use crate::error::{Context, Error, Result};
use crate::namespaces::{Capabilities, Namespaces, Resource, Seccomp};
use crate::sys::plan::{CapabilitySets, Filter, LandlockPath, LandlockRules, SchedAttr, Step};

impl Builder<'_> {
    /// Limits and priorities, which may need rights that the next steps drop.
    pub(super) fn process_attributes(&mut self) -> Result<()> {
        for (resource, limit) in &self.command.rlimits {
            limit.validate(*resource)?;
            if *resource == Resource::Nofile {
                self.raise_descriptor_limit(*limit)?;
                continue;
            }
            self.steps.push(Step::Rlimit {
                resource: resource.raw(),
                soft: limit.soft,
                hard: limit.hard,
                name: resource.to_string(),
            });
        }
        if let Some(nice) = self.command.nice {
            crate::namespaces::scheduler::validate_nice(nice)?;
            self.steps.push(Step::Nice { value: nice });
        }
        if let Some(scheduler) = &self.command.scheduler {
            let raw = scheduler.attr()?;
            let attr = SchedAttr {
                size: raw.size,
                policy: raw.sched_policy,
                flags: raw.sched_flags,
                nice: raw.sched_nice,
                priority: raw.sched_priority,
                runtime: raw.sched_runtime,
                deadline: raw.sched_deadline,
                period: raw.sched_period,
            };
            self.steps.push(Step::Scheduler { attr });
        }
        if let Some(priority) = self.command.io_priority {
            self.steps.push(Step::IoPriority { value: priority.raw()? });
        }
        Ok(())
    }

    /// The value is checked here; the kernel takes it before the process leaves the host's /proc.
    pub(super) fn oom_score(&self) -> Result<Option<Step>> {
        let Some(value) = self.command.oom_score_adj else { return Ok(None) };
        if !(-1000..=1000).contains(&value) {
            return Err(Error::invalid(format!(
                "an oom_score_adj of {value}: it goes from -1000 to 1000"
            )));
        }
        Ok(Some(Step::WriteFile {
            dir: None,
            path: c"/proc/self/oom_score_adj".into(),
            data: value.to_string().into_bytes(),
            what: format!("set oom_score_adj to {value}"),
        }))
    }

    /// From the security label to the system call filter.
    pub(super) fn credentials(&mut self) -> Result<()> {
        let command = self.command;
        let container = self.contained();
        let capabilities = match (&command.capabilities, container) {
            (Some(capabilities), _) => Some(*capabilities),
            (None, true) => Some(Capabilities::default()),
            (None, false) => None,
        };
        let last = last_capability();
        let masks = match &capabilities {
            Some(capabilities) => Some(capabilities.masks(self.available_capabilities(last))?),
            None => None,
        };
        let no_new_privileges = command.no_new_privileges.unwrap_or(container);
        let seccomp = match (&command.seccomp, container) {
            (Some(filter), _) => Some(filter.clone()),
            (None, true) => Some(Seccomp::default_profile()),
            (None, false) => None,
        };
        let granted = capabilities.as_ref().map_or(u64::MAX, Capabilities::granted);
        let filter = match &seccomp {
            Some(seccomp) if !seccomp.is_unconfined() => Some(Filter {
                instructions: seccomp.compile(granted)?.into(),
                flags: seccomp.flags(),
            }),
            _ => None,
        };
        if let Some(seccomp) = seccomp.as_ref().filter(|seccomp| seccomp.notifies()) {
            self.copy = true;
            self.way_of_the_listener(seccomp, granted)?;
        }
        if let Some(mask) = command.umask.or(container.then_some(0o022)) {
            if mask > 0o777 {
                return Err(Error::invalid(format!("a umask of {mask:#o}: it goes up to 0o777")));
            }
            self.steps.push(Step::Umask { mask });
        }
        if no_new_privileges {
            self.prctl("prctl(PR_SET_NO_NEW_PRIVS)", [libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0]);
        } else if let Some(filter) = filter.clone() {
            // Without no_new_privs a filter takes CAP_SYS_ADMIN, which the next steps may drop.
            self.filter_stops_close_range =
                seccomp.is_some_and(|seccomp| !seccomp.permits("close_range", granted));
            self.load_filter(filter);
        }
        if let Some(masks) = &masks {
            self.steps.push(Step::Bounding { keep: masks.bounding, last });
            self.prctl("prctl(PR_SET_KEEPCAPS)", [libc::PR_SET_KEEPCAPS, 1, 0, 0, 0]);
        }
        self.change_user()?;
        if let Some(masks) = &masks {
            let sets = CapabilitySets {
                permitted: masks.permitted,
                effective: masks.effective,
                inheritable: masks.inheritable,
                ambient: masks.ambient,
                last,
            };
            self.steps.push(Step::Capabilities { sets });
        }
        self.working_directory_step()?;
        if let Some(signal) = command.parent_death_signal {
            // After the ids: a change of them clears it.
            self.prctl(
                "prctl(PR_SET_PDEATHSIG)",
                [libc::PR_SET_PDEATHSIG, signal.number(), 0, 0, 0],
            );
            // If the host is dead by then nobody would send it. A sandbox that forbids pidfd_open leaves the gap.
            if let Ok(host) = crate::sys::wait::open(std::process::id().cast_signed()) {
                let host = self.fds.own(host);
                self.steps.push(Step::HostAlive { host });
            }
        }
        if container {
            self.steps.push(super::host_program_refusal()?);
        }
        if let Some(plan) = command.landlock.as_ref().map(|l| l.compile()).transpose()?.flatten() {
            let path = |p: crate::namespaces::landlock::LandlockPath| LandlockPath {
                path: p.path,
                access: p.access,
                file_access: p.file_access,
            };
            let rules = LandlockRules {
                ruleset: plan.ruleset,
                paths: plan.paths.into_iter().map(path).collect(),
                ports: plan.ports,
            };
            self.steps.push(Step::Landlock { rules });
        }
        if no_new_privileges && let Some(filter) = filter {
            self.late_filter = Some(filter);
        }
        Ok(())
    }

    pub(super) fn load_filter(&mut self, filter: Filter) {
        let step = Step::Seccomp { filter, sender: self.listener_sender };
        if step.makes_listener() && self.listener_sender.is_none() && !may_trace() {
            // For the host to fetch the notification fd. The memory is a copy with a flag of its own, and nobody else is
            // in the pid namespace.
            self.prctl("prctl(PR_SET_DUMPABLE)", [libc::PR_SET_DUMPABLE, 1, 0, 0, 0]);
        }
        self.steps.push(step);
    }

    /// How the host gets the notification fd of a filter that is loaded where others could trace the child, were it
    /// dumpable. Without the right to trace whom it likes the host cannot fetch it, so it is sent.
    fn way_of_the_listener(&mut self, seccomp: &Seccomp, granted: u64) -> Result<()> {
        let joins = self.command.join.iter().any(|(kinds, _)| kinds.contains(Namespaces::PID));
        if may_trace() || self.inside.is_none() && !joins {
            return Ok(());
        }
        if !seccomp.permits("sendmsg", granted) {
            return Err(Error::unsupported(
                "notify the host of system calls by a filter that does not let sendmsg pass",
            )
            .with_hint(
                "in an existing pid namespace a host without CAP_SYS_PTRACE is sent the listener by the process \
                 itself",
            ));
        }
        let (receiver, sender) = UnixStream::pair().context(|| "make a pair of sockets")?;
        self.listener_sender = Some(self.fds.own(sender.into()));
        self.listener_receiver = Some(receiver);
        Ok(())
    }

    fn prctl(&mut self, what: &'static str, args: [i32; 5]) {
        // Options and values are small positive numbers.
        let args = args.map(|arg| usize::try_from(arg).unwrap_or(0));
        self.steps.push(Step::Prctl { what, args });
    }

    /// The capabilities the process can have at all: what its creator has, or all in a user namespace of its own.
    fn available_capabilities(&self, last: u32) -> u64 {
        let all = u64::MAX >> (63 - last.min(63));
        if self.users.is_some() || self.joins_user_namespace {
            all
        } else {
            all & crate::sys::user_namespace::effective_capabilities()
        }
    }

    pub(super) fn labels(&self) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        for (kind, label) in
            [("apparmor", &self.command.apparmor), ("selinux", &self.command.selinux)]
        {
            let Some(label) = label else { continue };
            c_string("security label", label)?;
            let what = format!("change to the {kind} label {label} at exec");
            let path = label_file(kind).context(|| what.clone())?;
            let data = if kind == "apparmor" { format!("exec {label}") } else { label.clone() };
            steps.push(Step::WriteFile {
                dir: None,
                path: path.into(),
                data: data.into_bytes(),
                what,
            });
        }
        Ok(steps)
    }

    fn change_user(&mut self) -> Result<()> {
        let identity = self.identity.clone();
        if let Some(users) = &self.users
            && let Some(map) = users.map()
        {
            map.check_uid(identity.uid)?;
            map.check_gid(identity.gid)?;
            for group in &identity.groups {
                map.check_gid(*group)?;
            }
        }
        if self.changes_user {
            self.steps.push(Step::SetIds {
                uid: identity.uid,
                gid: identity.gid,
                groups: self.sets_groups(&identity.groups).then_some(identity.groups),
            });
        }
        Ok(())
    }

    /// Where setgroups is denied, an empty list is all there can be, and nothing to ask for.
    fn sets_groups(&self, groups: &[u32]) -> bool {
        !groups.is_empty() || !self.users.as_ref().is_some_and(|u| u.denies_setgroups())
    }

    /// Becomes root of the user namespace, before anything is made in it.
    pub(super) fn become_root_inside(&mut self) -> Result<()> {
        if self.users.is_none() && !self.joins_user_namespace {
            return Ok(());
        }
        let own = (geteuid().as_raw(), getegid().as_raw());
        let (uid, gid) = match self.users.as_ref().and_then(|u| u.map()) {
            Some(map) if map.host_uid(0).is_none() || map.host_gid(0).is_none() => {
                // Only the caller's own ids are in the map: go on as he.
                let inside = (map.inside_uid(own.0), map.inside_gid(own.1));
                match inside {
                    (Some(uid), Some(gid)) => (uid, gid),
                    _ => {
                        return Err(Error::invalid(format!(
                            "the user namespace with {map} has neither a root nor the caller"
                        )));
                    }
                }
            }
            _ => (0, 0),
        };
        let groups = self.sets_groups(&[]).then(Vec::new);
        self.steps.push(Step::SetIds { uid, gid, groups });
        Ok(())
    }

    /// Whether a set of rights over the UTS namespace is there.
    pub(super) fn host_names(&mut self) -> Result<()> {
        let default = self.command.is_container().then(|| "container".into());
        let own = self.unshared.contains(Namespaces::UTS);
        let hostname = self.command.hostname.clone().or(default.filter(|_| own));
        for (name, what, host) in
            [(hostname, "host", true), (self.command.domainname.clone(), "domain", false)]
        {
            let Some(name) = name else { continue };
            if !own {
                return Err(Error::invalid(format!(
                    "a {what} name needs a UTS namespace of its own"
                ))
                .with_hint("add .unshare(Namespaces::UTS)"));
            }
            if name.is_empty() || name.len() > 64 {
                return Err(Error::invalid(format!(
                    "{what} name {:?} is not of 1 to 64 bytes",
                    name.display().to_string().chars().take(80).collect::<String>()
                )));
            }
            let name = c_string(&format!("{what} name"), &name)?.into_bytes();
            self.steps.push(if host { Step::HostName { name } } else { Step::DomainName { name } });
        }
        Ok(())
    }
}

/// Whether the host may fetch descriptors of a process that is not dumpable.
fn may_trace() -> bool {
    const CAP_SYS_PTRACE: u32 = 19;
    crate::sys::user_namespace::effective_capabilities() >> CAP_SYS_PTRACE & 1 == 1
}

/// The file that takes the label of a security module. What is no proc file system would take it and do nothing.
fn label_file(kind: &str) -> Result<&'static CStr> {
    let there = |path: &str| Path::new(path).exists();
    if !there("/sys/module") {
        return Err(Error::unsupported("/sys, which tells of security modules, is not mounted")
            .with_hint("mount a sysfs file system at /sys"));
    }
    let (name, active) = if kind == "apparmor" {
        let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
        ("AppArmor", enabled.is_ok_and(|value| value.starts_with('Y')))
    } else {
        ("SELinux", there("/sys/fs/selinux"))
    };
    if !active {
        return Err(Error::unsupported(format!("{name} is not active on this kernel"))
            .with_hint("the kernel's lsm= list in /sys/kernel/security/lsm says what is"));
    }
    let proc = statfs("/proc/self/attr").map(|found| found.filesystem_type() == PROC_SUPER_MAGIC);
    if proc != Ok(true) {
        let err = Error::unsupported("/proc/self/attr is not of a proc file system");
        return Err(err.with_hint("mount a proc file system at /proc"));
    }
    // Since Linux 5.1 security modules share the kernel, and the plain file belongs to the first of them.
    let own = kind == "apparmor" && there("/proc/self/attr/apparmor");
    Ok(if own { c"/proc/self/attr/apparmor/exec" } else { c"/proc/self/attr/exec" })
}

/// `/proc/sys/kernel/cap_last_cap`, asked once; 40 is CAP_CHECKPOINT_RESTORE of Linux 5.9.
fn last_capability() -> u32 {
    use std::sync::OnceLock;
    static LAST: OnceLock<u32> = OnceLock::new();
    *LAST.get_or_init(|| {
        std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(40)
    })
}
