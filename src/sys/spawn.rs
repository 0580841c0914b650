//! Runs a [`Plan`]: clones, waits until the program runs or a step failed, and says which.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::ptr;
use std::sync::atomic::Ordering;

use super::child::{Context, Phase, Report, clone_args, inner, outer, sharing};
use super::clone::{self, CloneArgs, Stack};
use super::plan::{Plan, Step};
use super::raw::{Errno, sys};
use super::signals::SignalsBlocked;

/// A process that executes its program.
#[derive(Debug)]
pub(crate) struct Spawned {
    /// As the host sees it.
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    /// The seccomp notification fd, where the plan's filter asks for one.
    pub(crate) listener: Option<OwnedFd>,
}

/// A plan that came to nothing; no process is left of it.
#[derive(Debug)]
pub(crate) struct Failed<'a> {
    pub(crate) at: At<'a>,
    /// The system call.
    pub(crate) call: &'static str,
    pub(crate) errno: i32,
    /// The signal that killed the process before it could execute its program; `SIGSTOP` if it had to be killed
    /// because somebody had stopped it.
    pub(crate) killed: Option<i32>,
}

/// Where a plan failed.
#[derive(Debug)]
pub(crate) enum At<'a> {
    /// Before there was a child.
    Start,
    Clone,
    Step(&'a Step),
    Exec,
}

fn before(call: &'static str, err: &io::Error) -> Failed<'static> {
    Failed { at: At::Start, call, errno: err.raw_os_error().unwrap_or(libc::EIO), killed: None }
}

/// Memory that a copy-on-write child shares with the parent all the same.
struct SharedReport(*mut Report);

impl SharedReport {
    fn new() -> io::Result<Self> {
        // SAFETY: a fresh anonymous mapping, chosen by the kernel, large enough for a Report.
        let page = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size_of::<Report>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let page = page.cast::<Report>();
        // SAFETY: page-aligned, writable, and nobody else has it yet.
        unsafe { page.write(Report::default()) };
        Ok(Self(page))
    }
}

impl std::ops::Deref for SharedReport {
    type Target = Report;

    fn deref(&self) -> &Report {
        // SAFETY: initialised in `new`, valid until drop, all fields atomic.
        unsafe { &*self.0 }
    }
}

impl Drop for SharedReport {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, unmapped once.
        unsafe { libc::munmap(self.0.cast(), size_of::<Report>()) };
    }
}

/// Runs the plan. The caller holds the host's dumpable flag at zero around it.
pub(crate) fn spawn(plan: &mut Plan) -> Result<Spawned, Failed<'_>> {
    let (reader, writer) = pipe(highest_target(plan)).map_err(|e| before("pipe2", &e))?;
    if plan.fds.overflowed() {
        return Err(Failed { at: At::Start, call: "plan", errno: libc::E2BIG, killed: None });
    }
    let plan = &*plan;
    let new_stack = || Stack::new().map_err(|e| before("mmap(stack)", &e));
    let stack = new_stack()?;
    let inner_stack = if plan.join.is_empty() { None } else { Some(new_stack()?) };
    let (own, shared);
    let report: &Report = if plan.copy || plan.join_copy {
        shared = SharedReport::new().map_err(|e| before("mmap(report)", &e))?;
        &shared
    } else {
        own = Report::default();
        &own
    };
    report.pidfd.store(-1, Ordering::Relaxed);
    let cx = Context { plan, report, inner_stack: inner_stack.as_ref().unwrap_or(&stack) };
    let arg = (&raw const cx).cast_mut().cast();

    let mut stopped = false;
    let signals = SignalsBlocked::new();
    if plan.join.is_empty() {
        let args = clone_args(plan, report, sharing(plan));
        // SAFETY: the context, the report and the stack outlive the child's use of them: it shares memory
        // only until VFORK returns, or has a copy of its own. `inner` is written for it.
        match unsafe { clone::clone(args, &stack, inner, arg) } {
            Ok(pid) => report.pid.store(pid, Ordering::Relaxed),
            Err(Errno(errno)) => {
                return Err(Failed { at: At::Clone, call: "clone3", errno, killed: None });
            }
        }
    } else {
        let shared = match (plan.join_copy, plan.watched) {
            (true, _) => 0,
            (false, true) => libc::CLONE_VM,
            (false, false) => libc::CLONE_VM | libc::CLONE_VFORK,
        };
        let mut outer_pidfd = -1;
        let args = CloneArgs {
            // The pidfd of the second child is to appear in the host's table.
            flags: (shared | libc::CLONE_FILES | libc::CLONE_PIDFD) as u64,
            pidfd: &raw mut outer_pidfd as u64,
            ..CloneArgs::default()
        };
        // SAFETY: as above; `outer` ends before `reap` returns.
        match unsafe { clone::clone(args, &stack, outer, arg) } {
            Ok(pid) => {
                // SAFETY: the kernel made this fd for us; nobody else knows it.
                let outer_pidfd = unsafe { OwnedFd::from_raw_fd(outer_pidfd) };
                if plan.watched {
                    stopped = watch(&outer_pidfd, report);
                }
                reap(pid);
            }
            Err(Errno(errno)) => {
                return Err(Failed { at: At::Clone, call: "clone3", errno, killed: None });
            }
        }
    }
    drop(signals);
    drop(writer);

    let pidfd = report.pidfd.load(Ordering::Acquire);
    if report.pid.load(Ordering::Acquire) == 0 && pidfd >= 0 && clone::clone3_missing() {
        report.pid.store(pid_of_child(pidfd).unwrap_or(0), Ordering::Release);
    }
    let pid = report.pid.load(Ordering::Acquire);
    // SAFETY: the kernel made this fd for us; nobody else knows it. A clone that fails late, as it does in an
    // intermediate child that is being killed, leaves the number of an fd that it has given back: there is
    // one only if there is a process.
    let pidfd = (pid > 0 && pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
    let listener = match &pidfd {
        Some(pidfd) => wait_for_exec(report, &reader, pidfd, plan),
        None => Ok(None),
    };
    let phase = Phase::from_u32(report.phase.load(Ordering::Acquire));
    let mut killed = None;
    if let (Phase::Running, Some(pidfd)) = (phase, pidfd) {
        match listener {
            Ok(None) if has_not_executed(&pidfd) => {
                killed =
                    signal_of(&pidfd).map(|signal| if stopped { libc::SIGSTOP } else { signal });
            }
            Ok(listener) => return Ok(Spawned { pid, pidfd, listener }),
            Err(err) => {
                kill_and_reap(pid, &pidfd);
                return Err(before("fetch the seccomp listener", &err));
            }
        }
    } else if pid > 0 {
        reap(pid);
    }
    let index = report.index.load(Ordering::Relaxed) as usize;
    let reached = match phase {
        Phase::Running => Phase::from_u32(report.reached.load(Ordering::Acquire)),
        failed => failed,
    };
    let at = match reached {
        Phase::Join => plan.join.get(index).map_or(At::Start, At::Step),
        Phase::Steps => plan.steps.get(index).map_or(At::Start, At::Step),
        Phase::Exec => At::Exec,
        Phase::Running | Phase::Clone => At::Clone,
    };
    let errno = report.errno.load(Ordering::Relaxed);
    Err(Failed {
        at,
        call: report.call(),
        errno: if errno == 0 { libc::ESRCH } else { errno },
        killed,
    })
}

/// The process of a pidfd, if it is a child of this one. For when the intermediate child has not stored the pid yet,
/// or was killed before it could, and the kernel has not either: the old clone takes one pointer only.
fn pid_of_child(pidfd: i32) -> Option<i32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{pidfd}")).ok()?;
    let pid: i32 = info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()?;
    let parent = stat(pid).ok()?.split(' ').nth(1)?.parse::<u32>().ok()?;
    (parent == std::process::id()).then_some(pid)
}

/// Waits until the intermediate child, and so the real one, no longer needs the host's memory. Whether the
/// latter was killed because somebody stopped it: in a container that it has come into, any process with
/// the right to signal it could hold up the host that way.
fn watch(outer: &OwnedFd, report: &Report) -> bool {
    let mut stopped = false;
    while let Ok(false) = poll(outer, 50) {
        let pid = match report.pid.load(Ordering::Acquire) {
            0 => pid_of_child(report.pidfd.load(Ordering::Acquire)).unwrap_or(0),
            pid => pid,
        };
        if pid > 0 && stat(pid).is_ok_and(|stat| stat.starts_with(['T', 't'])) {
            stopped = true;
            // SAFETY: takes no other pointer than null. The kernel stored both numbers, and the process
            // has not been reaped.
            let _ = unsafe {
                let pidfd = report.pidfd.load(Ordering::Acquire);
                sys!(SYS_pidfd_send_signal, pidfd, libc::SIGKILL, 0usize, 0)
            };
        }
    }
    stopped
}

/// `/proc/PID/stat` from its third field, the state, on: see proc_pid_stat(5).
pub(crate) fn stat(pid: i32) -> io::Result<String> {
    // More than there is: files of proc say nothing of their length.
    let mut stat = String::with_capacity(1 << 10);
    File::open(format!("/proc/{pid}/stat"))?.read_to_string(&mut stat)?;
    // The second field, the name in parentheses, may hold anything.
    let rest = stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned());
    rest.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Whether a process that no longer holds the host's memory, or its end of a pipe, did so by its death.
///
/// Its exit signal is 0 until execve makes that SIGCHLD, and `__WCLONE` waits for no other than the former. A
/// dying process may still be on its way to where it can be waited for.
fn has_not_executed(pidfd: &OwnedFd) -> bool {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WCLONE;
    let fd = pidfd.as_raw_fd();
    // SAFETY: null pointers for what is not asked.
    unsafe { sys!(SYS_waitid, libc::P_PIDFD, fd, 0usize, options, 0usize) }.is_ok()
}

/// Reaps a process that died, and says of what.
fn signal_of(pidfd: &OwnedFd) -> Option<i32> {
    let ended = super::wait::wait(pidfd, true).ok().flatten();
    Some(ended.map_or(libc::SIGKILL, |ended| libc::WTERMSIG(ended.status)))
}

/// The highest number under which the child puts a descriptor.
fn highest_target(plan: &Plan) -> i32 {
    let targets = plan.steps.iter().flat_map(|step| match step {
        Step::Descriptors { map, .. } => map.as_slice(),
        _ => &[],
    });
    targets.map(|(_, target)| *target).max().unwrap_or(2).max(2)
}

/// A pipe whose writing end has a number above `below`, so that the child does not close it by putting another
/// descriptor there.
fn pipe(below: i32) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: the kernel writes two ints.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: two fresh fds that nobody else owns.
    let (reader, writer) = unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) };
    if writer.as_raw_fd() > below {
        return Ok((reader, writer));
    }
    // SAFETY: takes no pointer.
    let lifted = unsafe { libc::fcntl(fds[1], libc::F_DUPFD_CLOEXEC, below + 1) };
    if lifted < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh fd of ours.
    Ok((reader, unsafe { OwnedFd::from_raw_fd(lifted) }))
}

/// Waits until a child has executed its program or is gone: either closes its end of the pipe.
///
/// vfork alone is not enough, nor is the pipe: the kernel wakes the parent, and Debian's 6.1 closes what is close-on-exec,
/// just *before* the child gets its new memory. A host that switched its dumpable flag on again in that
/// moment would lay its memory open to who can trace the child, and `/proc/PID/exe` is still the host's. So with
/// `thorough` it waits for the last step, which a child that is `sharing` the host's memory takes when it leaves it.
/// A seccomp listener is fetched or received as soon as it is there, since a filter may stop the very execve.
fn wait_for_exec(
    report: &Report,
    pipe: &OwnedFd,
    pidfd: &OwnedFd,
    plan: &Plan,
) -> io::Result<Option<OwnedFd>> {
    let listens = plan.steps.iter().any(Step::makes_listener);
    let thorough = plan.changes_credentials();
    let sharing = sharing(plan) != 0;
    let mut listener = None;
    loop {
        let closed = poll(pipe, if listens { 1 } else { 20 })?;
        let pid = report.pid.load(Ordering::Acquire);
        let ended = closed && !thorough
            || match if sharing { left_memory(pid) } else { None }.or_else(|| executed(pid)) {
                // Another thread of the host may have forked meanwhile and keep the pipe open.
                Some(executed) => executed,
                // The host has no /proc, or sees only its own processes there.
                None => closed,
            }
            || poll(pidfd, 0)?;
        let number = report.listener.load(Ordering::Acquire);
        match &plan.listener_receiver {
            _ if listener.is_some() => {}
            Some(receiver) => listener = receive(receiver)?,
            None if number > 0 => {
                listener = Some(get_fd(pidfd, number - 1)?);
                report.listener_taken.store(1, Ordering::Release);
            }
            None => {}
        }
        if ended {
            return Ok(listener);
        }
        if let Some(fd) = &listener {
            // A call of the child's waits for an answer that only the caller can give.
            if poll(fd, 0)? {
                return Ok(listener);
            }
        }
        if closed {
            std::thread::yield_now();
        }
    }
}

/// Whether a process no longer runs in the host's memory; `None` if the kernel does not tell (it is built without
/// kcmp(2), or the host may not trace the process).
fn left_memory(pid: i32) -> Option<bool> {
    const KCMP_VM: i32 = 1;
    // SAFETY: takes no pointer.
    let order = unsafe { sys!(SYS_kcmp, std::process::id(), pid, KCMP_VM, 0, 0) };
    order.ok().map(|order| order != 0)
}

/// Whether a process has executed a program since it was forked; `None` if that cannot be read.
pub(crate) fn executed(pid: i32) -> Option<bool> {
    const FORKED_NOT_EXECUTED: u64 = 0x40;
    Some(flags(pid)? & FORKED_NOT_EXECUTED == 0)
}

/// Whether a process is on its way out; `None` if that cannot be read.
pub(crate) fn exiting(pid: i32) -> Option<bool> {
    const EXITING: u64 = 4;
    Some(flags(pid)? & EXITING != 0)
}

/// The kernel's `PF_*`, the ninth field of `/proc/PID/stat`.
fn flags(pid: i32) -> Option<u64> {
    stat(pid).ok()?.split(' ').nth(6)?.parse().ok()
}

fn poll(fd: &OwnedFd, milliseconds: i32) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd.
    let ready = unsafe { libc::poll(&raw mut poll, 1, milliseconds) };
    match ready {
        -1 => match io::Error::last_os_error() {
            err if err.kind() == io::ErrorKind::Interrupted => Ok(false),
            err => Err(err),
        },
        ready => Ok(ready > 0),
    }
}

/// The fd that the child has sent, if it has.
fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    match super::terminal::receive_fd(socket) {
        Err(err) if err.kind() == io::ErrorKind::WouldBlock => Ok(None),
        received => received.map(Some),
    }
}

fn get_fd(pidfd: &OwnedFd, number: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh fd of ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Collects a child that has failed or is about to exit; its exit signal is 0, so `__WALL`.
fn reap(pid: i32) {
    loop {
        // SAFETY: no status is asked for.
        let result = unsafe { sys!(SYS_wait4, pid, 0usize, libc::__WALL, 0usize) };
        if result != Err(Errno(libc::EINTR)) {
            return;
        }
    }
}

fn kill_and_reap(pid: i32, pidfd: &OwnedFd) {
    let _ = send_signal(pidfd, libc::SIGKILL);
    reap(pid);
}

/// Whether descriptors cannot be marked close-on-exec all at once (before Linux 5.11, or where a filter forbids it).
pub(crate) fn close_range_missing() -> bool {
    // SAFETY: takes no pointer. No descriptor has this number.
    unsafe { sys!(SYS_close_range, u32::MAX, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) }.is_err()
}

/// `pidfd_send_signal(pidfd, signal)`, Linux 5.1.
pub(crate) fn send_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: a null siginfo means the same as kill(2).
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, 0usize, 0) };
    if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
