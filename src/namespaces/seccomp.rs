//! Seccomp filters: which system calls a process can make.
//!
//! [`Seccomp`] describes a filter; it is compiled to classic BPF, with a balanced search over the call's number,
//! before the process is made.

mod action;
mod arch;
mod arg;
mod bpf;
mod listener;
mod profile;
mod syscalls;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use libc::sock_filter;

pub use action::Action;
pub use arch::Arch;
pub use arg::{Arg, Op};
pub use listener::{Listener, Notification, Response};

#[cfg(feature = "container")]
use super::capabilities::Capabilities;
use super::nearest::nearest;
use crate::error::{Error, Result};
use bpf::{Assembler, Label};

/// `BPF_MAXINSNS`: the kernel takes no longer program.
const MAX_INSTRUCTIONS: usize = 4096;

/// What calls of an interface the filter does not cover get.
const NOT_THERE: Action = Action::Errno(libc::ENOSYS);

/// x32 calls come as x86-64 ones with this bit set in the number.
const X32_BIT: u32 = 0x4000_0000;

/// A filter for system calls.
///
/// [`default_profile`](Self::default_profile) is what a container gets. Rules can be put in front of it, or
/// a filter built from nothing with [`allow_all`](Self::allow_all) or [`deny_all`](Self::deny_all):
///
/// ```
/// use coracle::namespaces::seccomp::{Action, Arg, Op, Seccomp};
///
/// // The default, and performance counters too.
/// Seccomp::default_profile().allow("perf_event_open");
///
/// // Everything but tracing and Bluetooth sockets (address family 31).
/// Seccomp::allow_all()
///     .deny("ptrace", 1)
///     .rule("socket", Action::Errno(97), &[Arg::int(0, Op::Eq, 31)]);
/// ```
///
/// **Which rule wins.** The first, in the order they were added, that names the call and whose conditions all
/// hold. If there is none, the profile's rules, where it started from that. Then the default action.
///
/// **Which calls.** Names are those of the manual pages. The filter covers the machine's own interface
/// and, on x86-64, the 32-bit one, with the numbers each has; a name that one of them lacks is left out there.
/// [`architectures`](Self::architectures) limits that. Calls through any other interface (x32, 32-bit ARM)
/// fail with `ENOSYS`, for without that they would be a way around the rules. The 32-bit `socketcall` and `ipc` are
/// many calls in one: a rule for `connect` also covers `socketcall(SYS_CONNECT)`. Their arguments lie behind a pointer
/// that no filter can follow, so there a rule with conditions holds without them if it refuses, and not at all if it allows.
///
/// Mistakes, such as an unknown name, are reported when the process is spawned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seccomp {
    base: Base,
    unknown: Option<Action>,
    rules: Vec<Rule>,
    architectures: Option<Vec<Arch>>,
    log: bool,
    wait_killable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    Unconfined,
    Profile,
    Action(Action),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    name: Cow<'static, str>,
    action: Action,
    args: Vec<Arg>,
}

impl Default for Seccomp {
    fn default() -> Self {
        Self::default_profile()
    }
}

impl Seccomp {
    const fn new(base: Base) -> Self {
        Self {
            base,
            unknown: None,
            rules: Vec::new(),
            architectures: None,
            log: false,
            wait_killable: false,
        }
    }

    /// The filter a container gets: a list of what may be called, in the spirit of Docker's.
    ///
    /// - Calls it does not list fail with `EPERM`; calls that are newer than this crate with `ENOSYS`, so that
    ///   programs fall back to older ones.
    /// - What one of the granted capabilities is for is let through with that capability: `mount`, `setns`
    ///   and the like with `CAP_SYS_ADMIN`, `open_by_handle_at` with `CAP_DAC_READ_SEARCH`, `chroot` with
    ///   `CAP_SYS_CHROOT`, `bpf` with `CAP_BPF`, ...
    /// - Without `CAP_SYS_ADMIN`, `clone` and `unshare` make no namespaces, and `clone3`, whose flags lie behind a
    ///   pointer, fails with `ENOSYS`: C libraries then use `clone`.
    /// - Sockets are of the families UNIX, IPv4, IPv6, netlink and packet; others, `AF_ALG` (CVE-2026-31431) and
    ///   `AF_VSOCK` among them, fail with `EAFNOSUPPORT`. The 32-bit `socketcall` cannot be examined, so it makes no
    ///   sockets: 32-bit programs of a C library that uses it (Debian's) have no network unless
    ///   `.allow("socketcall")` says that they may open a socket of any family.
    /// - `ioctl` cannot push input into a terminal (`TIOCSTI`, `TIOCLINUX`), `personality` cannot switch address
    ///   randomisation off.
    /// - Kernel keyrings, io_uring, userfaultfd, kernel modules, clocks, swap and kexec are refused. `ptrace` is allowed:
    ///   since Linux 4.8 a tracer cannot get around the filter.
    pub const fn default_profile() -> Self {
        Self::new(Base::Profile)
    }

    /// No filter at all. Rules added to it have no effect; see [`allow_all`](Self::allow_all).
    pub const fn unconfined() -> Self {
        Self::new(Base::Unconfined)
    }

    /// A filter that lets through what no rule refuses.
    pub const fn allow_all() -> Self {
        Self::new(Base::Action(Action::Allow))
    }

    /// A filter that answers `action` to everything no rule allows. The process is started by an `execve` under
    /// the filter, so that has to be allowed, and what the program's loader calls.
    pub const fn deny_all(action: Action) -> Self {
        Self::new(Base::Action(action))
    }

    /// Lets a call through.
    #[must_use]
    pub fn allow(self, name: impl Into<String>) -> Self {
        self.rule(name, Action::Allow, &[])
    }

    /// Lets a call fail with this error number, such as `libc::EPERM`.
    #[must_use]
    pub fn deny(self, name: impl Into<String>, errno: i32) -> Self {
        self.rule(name, Action::Errno(errno), &[])
    }

    /// Answers `action` to a call for which all of `args` hold; several rules for one call are alternatives.
    #[must_use]
    pub fn rule(mut self, name: impl Into<String>, action: Action, args: &[Arg]) -> Self {
        self.rules.push(Rule { name: name.into().into(), action, args: args.to_vec() });
        self
    }

    /// [`rule`](Self::rule) for several calls.
    #[must_use]
    pub fn rules<N: Into<String>>(
        self,
        names: impl IntoIterator<Item = N>,
        action: Action,
        args: &[Arg],
    ) -> Self {
        names.into_iter().fold(self, |filter, name| filter.rule(name, action, args))
    }

    /// What calls that are newer than this crate get. If this is not set, the default action, but `ENOSYS`
    /// where that is another error number: C libraries try new calls first, and only `ENOSYS` makes them fall back.
    #[must_use]
    pub fn unknown(mut self, action: Action) -> Self {
        self.unknown = Some(action);
        self
    }

    /// Covers only these interfaces, and the machine's own in any case.
    #[must_use]
    pub fn architectures(mut self, architectures: impl IntoIterator<Item = Arch>) -> Self {
        self.architectures = Some(architectures.into_iter().collect());
        self
    }

    /// Notes every answer but [`Allow`](Action::Allow) in the audit log, as the kernel's
    /// `seccomp.actions_logged` permits (Linux 4.14).
    #[must_use]
    pub fn log(mut self, yes: bool) -> Self {
        self.log = yes;
        self
    }

    /// Once a [`Notify`](Action::Notify) was received, only a fatal signal interrupts the caller's wait
    /// (Linux 5.19).
    #[must_use]
    pub fn wait_killable(mut self, yes: bool) -> Self {
        self.wait_killable = yes;
        self
    }

    pub(crate) fn is_unconfined(&self) -> bool {
        self.base == Base::Unconfined
    }

    /// Whether loading the filter yields a notify descriptor.
    pub(crate) fn notifies(&self) -> bool {
        !self.is_unconfined() && self.rules.iter().any(|rule| rule.action == Action::Notify)
    }

    /// Whether the call `name` of this machine's own interface is made, whatever its arguments.
    pub(crate) fn permits(&self, name: &str, granted_caps: u64) -> bool {
        let Some(native) = Arch::native() else { return false };
        let (profile, default, unknown) = self.base(granted_caps);
        let Some(number) = native.number(name) else { return false };
        let ranges = resolve(native, &self.rules, &profile, default, unknown);
        ranges.iter().rev().find(|(start, _)| *start <= number).is_some_and(|(_, decision)| {
            let actions = decision.alternatives.iter().map(|(_, action)| *action);
            actions.chain([decision.otherwise]).all(Action::permits)
        })
    }

    /// The flags for `seccomp(SECCOMP_SET_MODE_FILTER)`.
    pub(crate) fn flags(&self) -> u64 {
        const LOG: u64 = 1 << 1;
        const NEW_LISTENER: u64 = 1 << 3;
        const WAIT_KILLABLE_RECV: u64 = 1 << 5;
        let mut flags = if self.log { LOG } else { 0 };
        if self.notifies() {
            flags |= NEW_LISTENER | if self.wait_killable { WAIT_KILLABLE_RECV } else { 0 };
        }
        flags
    }

    /// The program for a process that can come to hold these capabilities; empty if unconfined.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a rule that cannot be meant, `Unsupported` on a machine without a table of calls.
    pub(crate) fn compile(&self, granted_caps: u64) -> Result<Vec<sock_filter>> {
        match self.base {
            Base::Unconfined => Ok(Vec::new()),
            Base::Profile
                if self.rules.is_empty()
                    && self.unknown.is_none()
                    && self.architectures.is_none() =>
            {
                profile::cached(granted_caps, || self.assemble(granted_caps))
            }
            _ => self.assemble(granted_caps),
        }
    }

    /// Compiles what a process gets that asks for nothing else, for when the first one is started. Takes a quarter of a
    /// millisecond, once in a process.
    #[cfg(feature = "container")]
    pub(crate) fn warm_up() {
        let _ = Self::default_profile().compile(Capabilities::default().granted());
    }

    fn assemble(&self, granted_caps: u64) -> Result<Vec<sock_filter>> {
        let Some(native) = Arch::native() else {
            return Err(Error::unsupported("seccomp filter for this machine's architecture")
                .with_hint("Seccomp::unconfined() goes without"));
        };
        self.validate()?;
        let (profile, default, unknown) = self.base(granted_caps);
        // Answers that all interfaces share are written only once; the native one comes last, so that it
        // stands right behind the program's head.
        let mut compiler = Compiler::default();
        let mut others = compiler.answer(NOT_THERE);
        let mut arches = self.foreign(native);
        arches.push(native);
        for arch in arches {
            let table = resolve(arch, &self.rules, &profile, default, unknown);
            let entry = compiler.table(table);
            others = compiler.assembler.if_arch(arch.audit(), entry, others);
        }
        compiler.assembler.load_arch();
        let program = compiler.assembler.finish();
        if program.len() > MAX_INSTRUCTIONS {
            return Err(Error::invalid(format!(
                "seccomp filter of {} instructions, the kernel takes {MAX_INSTRUCTIONS}",
                program.len()
            )));
        }
        Ok(program)
    }

    /// The rules behind one's own, what happens to calls without a rule, and to those that nobody knows.
    fn base(&self, granted_caps: u64) -> (Vec<Rule>, Action, Action) {
        let (profile, default) = match self.base {
            Base::Profile => (profile::rules(granted_caps), Action::Errno(libc::EPERM)),
            Base::Action(action) => (Vec::new(), action),
            Base::Unconfined => (Vec::new(), Action::Allow),
        };
        let unknown = self.unknown.unwrap_or(match default {
            Action::Errno(_) => NOT_THERE,
            other => other,
        });
        (profile, default, unknown)
    }

    /// The interfaces to cover beside the native one.
    fn foreign(&self, native: Arch) -> Vec<Arch> {
        let compat: &[Arch] = if native == Arch::X86_64 { &[Arch::X86] } else { &[] };
        let wanted = |arch: &&Arch| self.architectures.as_ref().is_none_or(|a| a.contains(arch));
        compat.iter().filter(wanted).copied().collect()
    }

    fn validate(&self) -> Result<()> {
        let default = match self.base {
            Base::Action(action) => Some(action),
            Base::Profile | Base::Unconfined => None,
        };
        for action in default.into_iter().chain(self.unknown) {
            action.validate()?;
            if action == Action::Notify {
                return Err(Error::invalid("seccomp filter that notifies by default")
                    .with_hint("the new process could not even be started: name the calls"));
            }
        }
        for rule in &self.rules {
            let name = rule.name.as_ref();
            if syscalls::find(name).is_none() && multiplexed(name).is_none() {
                let err = Error::invalid(format!("unknown system call {name:?} in seccomp filter"));
                return Err(match nearest(name, syscalls::names()) {
                    Some(near) => err.with_hint(format!("did you mean {near}?")),
                    None => err,
                });
            }
            // Who would answer is only handed the descriptor once the program has started.
            if rule.action == Action::Notify
                && ["execve", "execveat", "exit", "exit_group"].contains(&name)
            {
                return Err(Error::invalid(format!("seccomp filter that notifies of {name}"))
                    .with_hint("the new process makes this call before anyone can answer"));
            }
            rule.action.validate()?;
            rule.args.iter().try_for_each(Arg::validate)?;
        }
        Ok(())
    }
}

/// What happens to one call: the first alternative that holds, or else the last word.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Decision {
    alternatives: Vec<(Vec<Arg>, Action)>,
    otherwise: Action,
}

impl From<Action> for Decision {
    fn from(otherwise: Action) -> Self {
        Self { alternatives: Vec::new(), otherwise }
    }
}

/// The multi-call of 32-bit x86 that `name` is reachable through, and the condition that picks it there.
fn multiplexed(name: &str) -> Option<(&'static str, Arg)> {
    const SOCKETCALL: [&str; 20] = [
        "socket",
        "bind",
        "connect",
        "listen",
        "accept",
        "getsockname",
        "getpeername",
        "socketpair",
        "send",
        "recv",
        "sendto",
        "recvfrom",
        "shutdown",
        "setsockopt",
        "getsockopt",
        "sendmsg",
        "recvmsg",
        "accept4",
        "recvmmsg",
        "sendmmsg",
    ];
    const IPC: [(&str, u64); 12] = [
        ("semop", 1),
        ("semget", 2),
        ("semctl", 3),
        ("semtimedop", 4),
        ("msgsnd", 11),
        ("msgrcv", 12),
        ("msgget", 13),
        ("msgctl", 14),
        ("shmat", 21),
        ("shmdt", 22),
        ("shmget", 23),
        ("shmctl", 24),
    ];
    if let Some(at) = SOCKETCALL.iter().position(|call| *call == name) {
        let number = i32::try_from(at + 1).ok()?;
        return Some(("socketcall", Arg::int(0, Op::Eq, number)));
    }
    let (_, number) = IPC.iter().find(|(call, _)| *call == name)?;
    // The kernel keeps a version in the upper half of the number.
    Some(("ipc", Arg::new(0, Op::MaskedEq(0xffff), *number)))
}

/// The decision for every number, as the ranges `start..next start` from 0 on.
fn resolve(
    arch: Arch,
    rules: &[Rule],
    profile: &[Rule],
    default: Action,
    unknown: Action,
) -> Vec<(u32, Decision)> {
    let mut calls: BTreeMap<u32, Vec<(Vec<Arg>, Action)>> =
        arch.numbers().map(|number| (number, Vec::new())).collect();
    let mut add = |name: &str, args: Vec<Arg>, action| {
        if let Some(call) = arch.number(name).and_then(|number| calls.get_mut(&number)) {
            call.push((args, action));
        }
    };
    for rule in rules {
        add(&rule.name, rule.args.clone(), rule.action);
        if arch == Arch::X86
            && let Some((multi, condition)) = multiplexed(&rule.name)
            && (rule.args.is_empty() || !rule.action.permits())
        {
            add(multi, vec![condition], rule.action);
        }
    }
    // The profile has its own rules for the multi-calls.
    for rule in profile {
        add(&rule.name, rule.args.clone(), rule.action);
    }

    let mut ranges: Vec<(u32, Decision)> = Vec::new();
    let mut push = |start, decision: Decision| {
        if ranges.last().is_none_or(|(_, last)| *last != decision) {
            ranges.push((start, decision));
        }
    };
    let mut next = 0;
    for (number, alternatives) in calls {
        if number > next {
            push(next, unknown.into());
        }
        push(number, decide(alternatives, default));
        next = number + 1;
    }
    push(next, unknown.into());
    if arch == Arch::X86_64 {
        push(X32_BIT, NOT_THERE.into());
    }
    ranges
}

/// Drops what an alternative without conditions leaves no room for.
fn decide(mut alternatives: Vec<(Vec<Arg>, Action)>, default: Action) -> Decision {
    let last = alternatives.iter().position(|(args, _)| args.is_empty());
    let otherwise = last.map_or(default, |at| alternatives[at].1);
    alternatives.truncate(last.unwrap_or(alternatives.len()));
    while alternatives.last().is_some_and(|(_, action)| *action == otherwise) {
        alternatives.pop();
    }
    Decision { alternatives, otherwise }
}

#[derive(Debug, Default)]
struct Compiler {
    assembler: Assembler,
    answers: HashMap<u32, Label>,
    decisions: HashMap<Decision, Label>,
}

impl Compiler {
    fn answer(&mut self, action: Action) -> Label {
        let value = action.value();
        *self.answers.entry(value).or_insert_with(|| self.assembler.ret(value))
    }

    fn decision(&mut self, decision: Decision) -> Label {
        if let Some(label) = self.decisions.get(&decision) {
            return *label;
        }
        let mut next = self.answer(decision.otherwise);
        for (args, action) in decision.alternatives.iter().rev() {
            let refused = next;
            next = self.answer(*action);
            for arg in args.iter().rev() {
                next = self.assembler.if_arg(arg, next, refused);
            }
        }
        self.decisions.insert(decision, next);
        next
    }

    fn table(&mut self, ranges: Vec<(u32, Decision)>) -> Label {
        let starts: Vec<(u32, Label)> =
            ranges.into_iter().map(|(start, decision)| (start, self.decision(decision))).collect();
        self.assembler.dispatch(&starts)
    }
}
