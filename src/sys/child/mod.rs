//! What runs in a new process between clone and exec.
//!
//! The child shares the host's memory while host threads run on, so everything below keeps to system calls
//! through [`super::raw`]: no allocation, no lock, no libc state, no panic. Tests run it under an
//! allocator that aborts in the child.

mod credentials;
mod descriptors;
mod exec;
mod mounts;
mod terminal;

use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use super::clone::{self, CLONE_INTO_CGROUP, CloneArgs, Stack};
use super::plan::{Plan, Step};
use super::raw::{Errno, sys};

/// Why a step failed: the system call and its error number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    pub(super) call: &'static str,
    pub(super) errno: i32,
}

pub(super) type Done<T = ()> = Result<T, Failure>;

/// Names the system call of a failure.
pub(super) trait Named<T> {
    fn named(self, call: &'static str) -> Done<T>;
}

impl<T> Named<T> for Result<T, Errno> {
    #[inline]
    fn named(self, call: &'static str) -> Done<T> {
        self.map_err(|Errno(errno)| Failure { call, errno })
    }
}

pub(super) fn fail<T>(call: &'static str, errno: i32) -> Done<T> {
    Err(Failure { call, errno })
}

/// Where in the plan a failure happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Phase {
    Running = 0,
    Join = 1,
    Clone = 2,
    Steps = 3,
    Exec = 4,
}

impl Phase {
    pub(super) fn from_u32(value: u32) -> Self {
        match value {
            1 => Self::Join,
            2 => Self::Clone,
            3 => Self::Steps,
            4 => Self::Exec,
            _ => Self::Running,
        }
    }
}

/// What the children leave for the parent, in memory that both see.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) phase: AtomicU32,
    /// How far it came, should it be killed.
    pub(super) reached: AtomicU32,
    pub(super) index: AtomicU32,
    pub(super) errno: AtomicI32,
    call: AtomicPtr<u8>,
    call_len: AtomicUsize,
    /// The process that executes the program, if an intermediate child made it.
    pub(super) pid: AtomicI32,
    pub(super) pidfd: AtomicI32,
    /// The number of the seccomp notification fd in the child's table, plus one.
    pub(super) listener: AtomicI32,
    /// Not 0: the parent has it.
    pub(super) listener_taken: AtomicI32,
}

impl Report {
    fn fail(&self, phase: Phase, index: usize, failure: Failure) {
        self.call.store(failure.call.as_ptr().cast_mut(), Ordering::Relaxed);
        self.call_len.store(failure.call.len(), Ordering::Relaxed);
        self.errno.store(failure.errno, Ordering::Relaxed);
        self.index.store(index as u32, Ordering::Relaxed);
        self.phase.store(phase as u32, Ordering::Release);
    }

    /// The system call that failed.
    pub(super) fn call(&self) -> &'static str {
        let (ptr, len) = (self.call.load(Ordering::Acquire), self.call_len.load(Ordering::Relaxed));
        if ptr.is_null() {
            return "";
        }
        // SAFETY: `fail` stored pointer and length of a `&'static str` of this program; a copy-on-write
        // child has it at the same address.
        unsafe { std::str::from_utf8_unchecked(std::slice::from_raw_parts(ptr, len)) }
    }
}

/// What the entry functions find behind their argument.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) plan: &'a Plan,
    pub(super) report: &'a Report,
    /// The stack of the second child, where there are two.
    pub(super) inner_stack: &'a Stack,
}

/// The first child of a plan that joins namespaces: enters them and clones the real one as its sibling.
pub(super) extern "C" fn outer(arg: *mut c_void) -> ! {
    // SAFETY: `spawn` passes a Context that it keeps alive until this child is gone.
    let cx = unsafe { &*arg.cast::<Context<'_>>() };
    if run_steps(cx, &cx.plan.join, Phase::Join) {
        let args = clone_args(cx.plan, cx.report, libc::CLONE_PARENT as u64 | sharing(cx.plan));
        // SAFETY: the report outlives both children, as does the inner stack; `inner` is written for it.
        match unsafe { clone::clone(args, cx.inner_stack, inner, arg) } {
            Ok(pid) => cx.report.pid.store(pid, Ordering::Release),
            Err(Errno(errno)) => {
                cx.report.fail(Phase::Clone, 0, Failure { call: "clone3", errno });
            }
        }
    }
    exit()
}

/// The child that becomes the program.
pub(super) extern "C" fn inner(arg: *mut c_void) -> ! {
    // SAFETY: `spawn` passes a Context that it keeps alive until this child has executed or is gone.
    let cx = unsafe { &*arg.cast::<Context<'_>>() };
    reset_signal_handlers();
    if run_steps(cx, &cx.plan.steps, Phase::Steps) {
        cx.report.reached.store(Phase::Exec as u32, Ordering::Release);
        let failure = exec::execute(&cx.plan.exec, &cx.plan.fds);
        cx.report.fail(Phase::Exec, 0, failure);
    }
    exit()
}

/// `CLONE_*` for how the child that runs the steps shares memory.
pub(super) fn sharing(plan: &Plan) -> u64 {
    if plan.copy { 0 } else { (libc::CLONE_VM | libc::CLONE_VFORK) as u64 }
}

pub(super) fn clone_args(plan: &Plan, report: &Report, flags: u64) -> CloneArgs {
    let mut args = CloneArgs {
        // The kernel itself stores the pid, so that the host learns of a process whose maker was killed meanwhile.
        flags: plan.namespaces | (libc::CLONE_PIDFD | libc::CLONE_PARENT_SETTID) as u64 | flags,
        pidfd: report.pidfd.as_ptr() as u64,
        parent_tid: report.pid.as_ptr() as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = plan.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = plan.fds.get(cgroup) as u64;
    }
    args
}

fn exit() -> ! {
    loop {
        // SAFETY: takes no pointer and does not return.
        let _ = unsafe { sys!(SYS_exit_group, 127) };
    }
}

fn run_steps(cx: &Context<'_>, steps: &[Step], phase: Phase) -> bool {
    cx.report.reached.store(phase as u32, Ordering::Relaxed);
    for (index, step) in steps.iter().enumerate() {
        cx.report.index.store(index as u32, Ordering::Relaxed);
        if let Err(failure) = run(step, cx) {
            cx.report.fail(phase, index, failure);
            return false;
        }
    }
    true
}

fn run(step: &Step, cx: &Context<'_>) -> Done {
    let fds = &cx.plan.fds;
    match step {
        Step::JoinCgroup { tasks } => write(fds.get(*tasks), b"0").named("write(tasks, \"0\")"),
        Step::JoinCgroupDir { dir } => {
            write_file(fds.get(*dir), c"cgroup.procs", b"0", "write(cgroup.procs, \"0\")")
        }
        Step::SetNs { fd, flags, .. } => {
            // SAFETY: takes no pointer.
            unsafe { sys!(SYS_setns, fds.get(*fd), *flags) }.named("setns").map(drop)
        }
        Step::Unshare { flags, .. } => {
            // SAFETY: takes no pointer.
            unsafe { sys!(SYS_unshare, *flags) }.named("unshare").map(drop)
        }
        Step::WriteFile { dir, path, data, .. } => match dir {
            Some(dir) => write_beneath(fds.get(*dir), path, data),
            None => write_file(libc::AT_FDCWD, path, data, "write"),
        },
        // SAFETY: takes no pointer.
        Step::NewSession => match unsafe { sys!(SYS_setsid) } {
            // Already a leader: pid 1 of a session that the kernel made with it.
            Err(Errno(libc::EPERM)) => Ok(()),
            other => other.named("setsid").map(drop),
        },
        Step::HostAlive { host } => host_alive(fds.get(*host)),
        Step::Prctl { what, args: [op, a, b, c, d] } => {
            // SAFETY: only options whose arguments are integers are put into plans.
            unsafe { sys!(SYS_prctl, *op, *a, *b, *c, *d) }.named(what).map(drop)
        }
        Step::SetIds { uid, gid, groups } => credentials::set_ids(*uid, *gid, groups.as_deref()),
        Step::Propagation { flags } => mounts::propagation(*flags),
        Step::OpenTree { source, recursive, out } => {
            mounts::open_tree(libc::AT_FDCWD, source, *recursive).map(|fd| fds.set(*out, fd))
        }
        Step::EnterNewRoot { root, old } => mounts::enter_new_root(fds, *root, *old),
        Step::DetachOldRoot { root, old, leftovers, scaffolding } => {
            mounts::detach_old_root(fds, *root, *old, leftovers, scaffolding)
        }
        Step::Loopback => loopback(),
        Step::Mount { fs, target, out } => mounts::mount(fds, fs, target.as_ref(), *out),
        Step::MakeDirectory { target } => mounts::make_directory(target),
        Step::Attach { mount, target } => mounts::attach(fds.get(*mount), target),
        Step::Bind { from, target } => mounts::bind(fds.get(*from), target),
        Step::Attributes { mount, set, propagation, recursive, .. } => {
            mounts::set_attributes(fds.get(*mount), *set, *propagation, *recursive)
        }
        Step::Open { dir, name, out } => open(fds.get(*dir), name, libc::O_PATH | libc::O_NOFOLLOW)
            .named("openat(O_PATH|O_NOFOLLOW)")
            .map(|fd| fds.set(*out, fd)),
        Step::Node { dir, name, mode, device } => mounts::node(fds.get(*dir), name, *mode, *device),
        Step::Directory { dir, name, mode } => mounts::directory(fds.get(*dir), name, *mode),
        Step::Symlink { dir, name, target } => mounts::symlink(fds.get(*dir), name, target),
        Step::Mask { target, within, null, empty } => {
            let within = within.as_ref().map(|(mount, path)| (fds.get(*mount), path.as_c_str()));
            mounts::mask(fds, target, within, fds.get(*null), *empty)
        }
        Step::ReadOnlyPath { target, within } => {
            let within = within.as_ref().map(|(mount, path)| (fds.get(*mount), path.as_c_str()));
            mounts::read_only_path(target, within)
        }
        Step::HostName { name } => {
            // SAFETY: the kernel reads `len` bytes of the name.
            unsafe { sys!(SYS_sethostname, name.as_ptr(), name.len()) }
                .named("sethostname")
                .map(drop)
        }
        Step::DomainName { name } => {
            // SAFETY: the kernel reads `len` bytes of the name.
            unsafe { sys!(SYS_setdomainname, name.as_ptr(), name.len()) }
                .named("setdomainname")
                .map(drop)
        }
        Step::Rlimit { resource, soft, hard, .. } => {
            let limit = [*soft, *hard];
            // SAFETY: the kernel reads one struct rlimit64, two u64.
            unsafe { sys!(SYS_prlimit64, 0, *resource, limit.as_ptr(), 0usize) }
                .named("prlimit64")
                .map(drop)
        }
        Step::Nice { value } => {
            // SAFETY: takes no pointer.
            unsafe { sys!(SYS_setpriority, libc::PRIO_PROCESS, 0, *value) }
                .named("setpriority")
                .map(drop)
        }
        Step::Scheduler { attr } => {
            // SAFETY: the kernel reads one struct sched_attr whose size field says how long it is.
            unsafe { sys!(SYS_sched_setattr, 0, &raw const *attr, 0) }
                .named("sched_setattr")
                .map(drop)
        }
        Step::IoPriority { value } => {
            // SAFETY: takes no pointer. 1 is IOPRIO_WHO_PROCESS.
            unsafe { sys!(SYS_ioprio_set, 1, 0, *value) }.named("ioprio_set").map(drop)
        }
        Step::Umask { mask } => {
            // SAFETY: takes no pointer, cannot fail.
            unsafe { sys!(SYS_umask, *mask) }.named("umask").map(drop)
        }
        Step::OpenTerminal { pts, peer, socket, rows, columns } => {
            terminal::open(fds, *pts, *peer, *socket, *rows, *columns)
        }
        Step::ControllingTerminal { peer } => terminal::make_controlling(fds.get(*peer)),
        Step::Descriptors { map, keep, list } => {
            descriptors::arrange(fds, map, keep, list.map(|list| fds.get(list)))
        }
        Step::ListDescriptors { proc, list } => {
            open(fds.get(*proc), c"self/fd", libc::O_RDONLY | libc::O_DIRECTORY)
                .named("openat(/proc, \"self/fd\")")
                .map(|fd| fds.set(*list, fd))
        }
        Step::Chdir { path, rooted, or_root } => match mounts::chdir(path, *rooted) {
            Err(Failure { errno: libc::EACCES, .. }) if *or_root => mounts::chdir(c"/", *rooted),
            done => done,
        },
        Step::Capabilities { sets } => credentials::set_capabilities(sets),
        Step::Bounding { keep, last } => credentials::drop_bounding(*keep, *last),
        Step::Landlock { rules } => credentials::landlock(rules),
        Step::Seccomp { filter, sender } => {
            credentials::seccomp(filter, sender.map(|sender| fds.get(sender)), cx.report)
        }
        Step::RefuseProgram { device, inode } => {
            exec::refuse_host_program(&cx.plan.exec, *device, *inode)
        }
    }
}

fn loopback() -> Done {
    // SAFETY: takes no pointer.
    let socket =
        unsafe { sys!(SYS_socket, libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }
            .named("socket(AF_INET)")? as i32;
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as _;
    request.ifr_name[1] = b'o' as _;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
    // SAFETY: the kernel reads one ifreq.
    let result = unsafe { sys!(SYS_ioctl, socket, libc::SIOCSIFFLAGS, &raw const request) };
    close(socket);
    result.named("ioctl(SIOCSIFFLAGS, lo)").map(drop)
}

/// Handlers are addresses in the host's program; ignored signals would stay ignored in the new one.
fn reset_signal_handlers() {
    // The kernel's struct sigaction, all zero: SIG_DFL, no flags, empty mask.
    let default = [0u64; 4];
    for signal in 1..=64 {
        if signal != libc::SIGKILL && signal != libc::SIGSTOP {
            // SAFETY: the kernel reads one sigaction; the child has its own table (no CLONE_SIGHAND).
            let _ = unsafe { sys!(SYS_rt_sigaction, signal, default.as_ptr(), 0usize, 8usize) };
        }
    }
}

fn write(fd: i32, data: &[u8]) -> Result<(), Errno> {
    let mut rest = data;
    loop {
        // SAFETY: the kernel reads `rest.len()` bytes.
        match unsafe { sys!(SYS_write, fd, rest.as_ptr(), rest.len()) } {
            Err(Errno(libc::EINTR)) => {}
            Err(errno) => return Err(errno),
            Ok(n) if n >= rest.len() => return Ok(()),
            Ok(n) => rest = rest.get(n..).unwrap_or_default(),
        }
    }
}

/// Kernel files take their value in one write.
fn write_file(dir: i32, path: &CStr, data: &[u8], call: &'static str) -> Done {
    let fd = open(dir, path, libc::O_WRONLY).named("openat")?;
    let written = write(fd, data).named(call);
    close(fd);
    written
}

/// The same to a file of the file system `dir` itself: nothing mounted over it, no link.
fn write_beneath(dir: i32, path: &CStr, data: &[u8]) -> Done {
    match mounts::open_beneath(dir, path) {
        Err(Errno(libc::ENOSYS)) => write_file(dir, path, data, "write"),
        opened => {
            let fd = opened.named("openat2(RESOLVE_BENEATH|RESOLVE_NO_XDEV)")?;
            let written = write(fd, data).named("write");
            close(fd);
            written
        }
    }
}

fn open(dir: i32, path: &CStr, flags: i32) -> Result<i32, Errno> {
    // SAFETY: the path is a C string.
    unsafe { sys!(SYS_openat, dir, path.as_ptr(), flags | libc::O_CLOEXEC, 0) }.map(|fd| fd as i32)
}

fn close(fd: i32) {
    // SAFETY: takes no pointer; the callers own the fd.
    let _ = unsafe { sys!(SYS_close, fd) };
}

/// What statx(2) knows of an open file.
fn stat(fd: i32, path: &CStr) -> Result<libc::statx, Errno> {
    // SAFETY: all-zero is a valid statx.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string, the kernel fills the one statx.
    unsafe {
        sys!(
            SYS_statx,
            fd,
            path.as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW,
            libc::STATX_TYPE | libc::STATX_MODE | libc::STATX_INO,
            &raw mut stat
        )
    }?;
    Ok(stat)
}

fn host_alive(host: i32) -> Done {
    let mut poll = libc::pollfd { fd: host, events: libc::POLLIN, revents: 0 };
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: one pollfd, and a timespec, both on the stack; no signal mask.
    let ended =
        unsafe { sys!(SYS_ppoll, &raw mut poll, 1usize, &raw const at_once, 0usize, 8usize) };
    if ended.named("ppoll")? > 0 { fail("ppoll", libc::ESRCH) } else { Ok(()) }
}
