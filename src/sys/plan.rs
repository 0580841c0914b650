//! What a new process does between clone and exec: a flat array of steps, thought out and allocated by the
//! parent, of which the child only makes system calls.

use std::ffi::{CStr, CString, c_char};
use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use super::landlock::RulesetAttr;

/// A file descriptor that a step uses or makes: an index into [`Plan::fds`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(u16);

/// The file descriptors of a plan. Those that the parent opened are closed with the plan.
#[derive(Debug, Default)]
pub(crate) struct Fds {
    // Atomics because the child fills them in through a shared reference.
    slots: Vec<AtomicI32>,
    owned: Vec<OwnedFd>,
}

impl Fds {
    /// A slot that holds `fd`, which the plan keeps open.
    pub(crate) fn own(&mut self, fd: OwnedFd) -> Slot {
        let slot = self.borrow(fd.as_raw_fd());
        self.owned.push(fd);
        slot
    }

    /// A slot that holds an fd somebody else keeps open until the spawn is over.
    pub(crate) fn borrow(&mut self, fd: RawFd) -> Slot {
        self.slots.push(AtomicI32::new(fd));
        Slot(u16::try_from(self.slots.len() - 1).unwrap_or(u16::MAX))
    }

    /// A slot that a step fills in.
    pub(crate) fn empty(&mut self) -> Slot {
        self.borrow(-1)
    }

    /// Whether the plan fits the index type; asked once before it runs.
    pub(crate) fn overflowed(&self) -> bool {
        self.slots.len() > usize::from(u16::MAX)
    }

    pub(crate) fn get(&self, slot: Slot) -> RawFd {
        self.slots.get(usize::from(slot.0)).map_or(-1, |fd| fd.load(Ordering::Relaxed))
    }

    pub(crate) fn set(&self, slot: Slot, fd: RawFd) {
        if let Some(entry) = self.slots.get(usize::from(slot.0)) {
            entry.store(fd, Ordering::Relaxed);
        }
    }
}

/// What a mount point must be, and what is made where nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
}

/// A path inside the new root.
#[derive(Debug)]
pub(crate) struct Target {
    /// Absolute, `/a/b`.
    pub(crate) path: CString,
    /// Each ancestor and the path itself, from the top: (`/a`, `a`), (`/a/b`, `b`).
    pub(crate) components: Vec<(CString, CString)>,
    pub(crate) kind: Kind,
    /// Make what is missing on the way.
    pub(crate) create: bool,
    /// Refuse a symbolic link in any component; otherwise only in the last.
    pub(crate) strict: bool,
}

/// A file system to mount, in the words of both mount APIs.
#[derive(Debug)]
pub(crate) struct Filesystem {
    pub(crate) fstype: CString,
    pub(crate) options: Vec<(CString, Option<CString>)>,
    /// `MOUNT_ATTR_*`.
    pub(crate) attributes: u64,
    /// For mount(2), where fsopen(2) is missing: flags and option string.
    pub(crate) flags: u64,
    pub(crate) data: CString,
    /// Where the kernel refuses a fresh mount, bind this path below the old root instead (sysfs without
    /// a network namespace of one's own).
    pub(crate) or_bind: Option<(Slot, CString)>,
}

/// One thing that the child does.
#[derive(Debug)]
pub(crate) enum Step {
    /// Writes itself, its only thread, into a cgroup v1 hierarchy through its open `tasks`.
    JoinCgroup {
        tasks: Slot,
    },
    /// The same through a cgroup v2 directory, where clone3 is missing.
    JoinCgroupDir {
        dir: Slot,
    },
    SetNs {
        fd: Slot,
        flags: i32,
        what: String,
    },
    Unshare {
        flags: i32,
        what: &'static str,
    },
    WriteFile {
        dir: Option<Slot>,
        path: CString,
        data: Vec<u8>,
        what: String,
    },
    NewSession,
    Prctl {
        what: &'static str,
        args: [usize; 5],
    },
    /// Goes no further if the process with this pidfd has ended.
    HostAlive {
        host: Slot,
    },
    SetIds {
        uid: u32,
        gid: u32,
        groups: Option<Vec<u32>>,
    },
    Propagation {
        flags: u64,
    },
    OpenTree {
        source: CString,
        recursive: bool,
        out: Slot,
    },
    /// Stacks `root` on `/` and moves in; the old one stays open in `old`.
    EnterNewRoot {
        root: Slot,
        old: Slot,
    },
    /// Makes `root` the root of the namespace too. `leftovers`: what is mounted below an initramfs, which can
    /// only be covered, never detached. `scaffolding`: detached mounts that go with the old root.
    DetachOldRoot {
        root: Slot,
        old: Slot,
        leftovers: Vec<CString>,
        scaffolding: Vec<Slot>,
    },
    /// Brings up the loopback device of a new network namespace.
    Loopback,
    Mount {
        fs: Filesystem,
        target: Option<Target>,
        out: Slot,
    },
    /// Attaches a detached mount.
    Attach {
        mount: Slot,
        target: Target,
    },
    /// Makes a directory with all above it, where they are missing.
    MakeDirectory {
        target: Target,
    },
    /// Binds what `from` refers to, a mount of this namespace.
    Bind {
        from: Slot,
        target: Target,
    },
    /// `set`: `MOUNT_ATTR_*`; `propagation`: `MS_PRIVATE` and its kin.
    Attributes {
        mount: Slot,
        set: u64,
        propagation: u64,
        recursive: bool,
        what: String,
    },
    /// Opens a file without following a link.
    Open {
        dir: Slot,
        name: CString,
        out: Slot,
    },
    Node {
        dir: Slot,
        name: CString,
        mode: u32,
        device: u64,
    },
    Directory {
        dir: Slot,
        name: CString,
        mode: u32,
    },
    Symlink {
        dir: Slot,
        name: CString,
        target: CString,
    },
    /// Covers a path: a directory by an empty read-only tmpfs, which the first such step leaves in `empty`
    /// for the others, anything else by `null`.
    Mask {
        target: Target,
        /// The mount that it lies in and its path there, where that is known: it cannot be swapped for another.
        within: Option<(Slot, CString)>,
        null: Slot,
        empty: Slot,
    },
    ReadOnlyPath {
        target: Target,
        within: Option<(Slot, CString)>,
    },
    HostName {
        name: Vec<u8>,
    },
    DomainName {
        name: Vec<u8>,
    },
    Rlimit {
        resource: u32,
        soft: u64,
        hard: u64,
        name: String,
    },
    Nice {
        value: i32,
    },
    Scheduler {
        attr: SchedAttr,
    },
    IoPriority {
        value: i32,
    },
    Umask {
        mask: u32,
    },
    /// Opens a terminal in the devpts `pts`, or in the one at `/dev/pts`, leaves the process's side in `peer`, sends the other to the
    /// parent through `socket`.
    OpenTerminal {
        pts: Option<Slot>,
        peer: Slot,
        socket: Slot,
        rows: u16,
        columns: u16,
    },
    /// Makes it the controlling terminal, whether or not a standard stream is that.
    ControllingTerminal {
        peer: Slot,
    },
    /// Everything but `map`'s targets (and 0, 1, 2) is closed at exec.
    /// `keep` are descriptors that later steps still use, under whatever number.
    Descriptors {
        map: Vec<(Slot, i32)>,
        keep: Vec<Slot>,
        /// From [`ListDescriptors`](Self::ListDescriptors), where the kernel has no close_range.
        list: Option<Slot>,
    },
    /// Opens the list of its own descriptors in the host's `/proc`.
    ListDescriptors {
        proc: Slot,
        list: Slot,
    },
    Chdir {
        path: CString,
        rooted: bool,
        /// Enter `/` instead if it may not be entered.
        or_root: bool,
    },
    /// Drops everything else from the bounding set, which takes CAP_SETPCAP.
    Bounding {
        keep: u64,
        last: u32,
    },
    Capabilities {
        sets: CapabilitySets,
    },
    Landlock {
        rules: LandlockRules,
    },
    Seccomp {
        filter: Filter,
        /// A socket to send the notification fd through, where the parent has no right to fetch it.
        sender: Option<Slot>,
    },
    /// Refuses a program, script interpreter or ELF interpreter that is the host's executable.
    RefuseProgram {
        device: u64,
        inode: u64,
    },
}

impl Step {
    /// Whether it leaves a seccomp notification fd for the parent.
    pub(crate) fn makes_listener(&self) -> bool {
        matches!(self, Self::Seccomp { filter, .. }
            if filter.flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0)
    }
}

/// Four capability sets as bit masks, and the highest capability of the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CapabilitySets {
    pub(crate) permitted: u64,
    pub(crate) effective: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
    pub(crate) last: u32,
}

/// A compiled seccomp filter.
#[derive(Clone)]
pub(crate) struct Filter {
    pub(crate) instructions: Arc<[libc::sock_filter]>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub(crate) flags: u64,
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({} instructions, flags {:#x})", self.instructions.len(), self.flags)
    }
}

/// A Landlock ruleset in the kernel's terms, see landlock(7).
#[derive(Clone, Debug)]
pub(crate) struct LandlockRules {
    pub(crate) ruleset: RulesetAttr,
    pub(crate) paths: Vec<LandlockPath>,
    /// Port and access.
    pub(crate) ports: Vec<(u16, u64)>,
}

/// Access to what is beneath a path.
#[derive(Clone, Debug)]
pub(crate) struct LandlockPath {
    pub(crate) path: CString,
    pub(crate) access: u64,
    /// If the path is not a directory.
    pub(crate) file_access: u64,
}

/// The kernel's `struct sched_attr`, see sched_setattr(2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SchedAttr {
    pub(crate) size: u32,
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
}

/// A null-terminated array of C strings, as execve(2) takes.
#[derive(Debug)]
pub(crate) struct CStringArray {
    strings: Vec<CString>,
    // Atomics because the child fills in the first one for a built-in init.
    pointers: Vec<AtomicPtr<c_char>>,
}

impl CStringArray {
    pub(crate) fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|s| s.as_ptr().cast_mut()).chain([ptr::null_mut()]);
        let pointers = pointers.map(AtomicPtr::new).collect();
        Self { strings, pointers }
    }

    pub(crate) fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr().cast()
    }

    /// Replaces the first string by one that outlives the use of the array.
    pub(crate) fn set_first(&self, string: &CStr) {
        if let (Some(first), true) = (self.pointers.first(), !self.strings.is_empty()) {
            first.store(string.as_ptr().cast_mut(), Ordering::Relaxed);
        }
    }
}

/// The program at the end of a plan.
#[derive(Debug)]
pub(crate) struct Exec {
    /// Tried in turn, as execvp(3) does with `PATH`.
    pub(crate) candidates: Vec<CString>,
    pub(crate) argv: CStringArray,
    pub(crate) envp: CStringArray,
    /// A built-in pid 1 that is executed instead and starts the program itself; the first of `argv` is then
    /// the candidate, the others are the program's.
    pub(crate) init: Option<Slot>,
}

impl Plan {
    /// Whether a child that shares the host's memory runs with other rights than the host's.
    pub(crate) fn changes_credentials(&self) -> bool {
        !self.join.is_empty()
            || self.steps.iter().any(|step| {
                matches!(
                    step,
                    Step::SetIds { .. }
                        | Step::Bounding { .. }
                        | Step::Capabilities { .. }
                        | Step::Seccomp { .. }
                )
            })
    }
}

/// Everything a spawn does, in order.
#[derive(Debug)]
pub(crate) struct Plan {
    /// `CLONE_NEW*` of the new process.
    pub(crate) namespaces: u64,
    /// A cgroup v2 directory to start in.
    pub(crate) cgroup: Option<Slot>,
    /// Steps of an intermediate child that enters namespaces which only take effect on its children.
    pub(crate) join: Vec<Step>,
    pub(crate) steps: Vec<Step>,
    pub(crate) exec: Exec,
    pub(crate) fds: Fds,
    /// Take the ordinary copy-on-write clone instead of sharing memory with the host.
    pub(crate) copy: bool,
    /// The intermediate child enters a time namespace, which the kernel refuses to who shares memory.
    pub(crate) join_copy: bool,
    /// Processes that are there already can signal the new one before it executes its program: see that it is
    /// not stopped, which would stop the host.
    pub(crate) watched: bool,
    /// Where a seccomp notification fd arrives that the child sends.
    pub(crate) listener_receiver: Option<UnixStream>,
}
