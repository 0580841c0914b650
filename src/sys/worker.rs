//! System calls made by a throw-away process with other namespaces or credentials, which leaves the
//! descriptors that it opens in the host's table.
//!
//! Namespaces and credentials belong to a task, and the host's threads must keep theirs. The worker is a
//! `CLONE_VM | CLONE_VFORK | CLONE_FILES` child: it costs the same in a host of any size, has a working
//! directory of its own, and is gone when [`Worker::run`] returns. Calls that change nothing of a task need no
//! such child, nor do file-system ids: those the calling thread changes and takes back.

mod files;

use std::cell::Cell;
use std::ffi::{CStr, CString, c_long, c_void};
use std::fmt::Write;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use super::clone::{CloneArgs, Stack, clone};
use super::dumpable::Dumpable;
use super::mount::{Fd, MountAttr, OpenTree};
use super::raw::{Errno, sys, syscall};
use super::signals::SignalsBlocked;
use crate::error::SyscallError;

/// A descriptor that the worker opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(usize);

/// The kernel's `XATTR_SIZE_MAX`.
const VALUE_SIZE: usize = 64 << 10;

/// `MOUNT_ATTR_SIZE_VER0`.
const MOUNT_ATTR_SIZE: usize = 32;

/// Bytes that the worker reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Value(usize);

/// A descriptor that a call of the worker uses.
#[derive(Clone, Copy, Debug)]
pub(crate) enum At<'a> {
    /// The worker's working directory, at first the host's.
    Cwd,
    Fd(BorrowedFd<'a>),
    Slot(Slot),
}

impl From<Slot> for At<'_> {
    fn from(slot: Slot) -> Self {
        Self::Slot(slot)
    }
}

impl<'a> From<BorrowedFd<'a>> for At<'a> {
    fn from(fd: BorrowedFd<'a>) -> Self {
        Self::Fd(fd)
    }
}

#[derive(Debug)]
enum Arg<'a> {
    Number(i64),
    /// A flag, and its name for messages.
    Flag(u64, &'static str),
    Text(CString),
    At(At<'a>),
    Value(Value),
    Bytes(Vec<u8>),
    /// Two `struct timespec`, each of seconds and nanoseconds.
    Times([i64; 4]),
    Null,
}

/// What a call returns.
#[derive(Clone, Copy, Debug)]
enum Out {
    Nothing,
    Descriptor(Slot),
    Length(Value),
}

#[derive(Debug)]
struct Call<'a> {
    name: &'static str,
    nr: c_long,
    args: Vec<Arg<'a>>,
    out: Out,
    /// Whether the worker goes on if it fails.
    optional: bool,
}

#[derive(Debug)]
enum Step<'a> {
    Call(Call<'a>),
    /// File-system ids, with the effective capabilities kept, which the kernel takes from who is not 0.
    FsIds {
        uid: u32,
        gid: u32,
    },
    LeaveRoot,
}

/// The calls that a worker is to make, in order; see the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Worker<'a> {
    steps: Vec<Step<'a>>,
    slots: usize,
    values: usize,
    changes_credentials: bool,
    /// Whether a call changes what belongs to a task; else the calling thread makes them all itself, which
    /// saves a process.
    needs_process: bool,
}

/// What a worker has opened and read.
#[derive(Debug)]
pub(crate) struct Opened {
    slots: Vec<Option<OwnedFd>>,
    values: Vec<Vec<u8>>,
}

impl Opened {
    pub(crate) fn take(&mut self, slot: Slot) -> Option<OwnedFd> {
        self.slots.get_mut(slot.0).and_then(Option::take)
    }

    pub(crate) fn value(&self, value: Value) -> Option<&[u8]> {
        self.values.get(value.0).map(Vec::as_slice)
    }
}

impl<'a> Worker<'a> {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Joins the namespace `fd`, of type `CLONE_NEW*`. See setns(2).
    pub(crate) fn set_ns(&mut self, fd: BorrowedFd<'a>, kind: i32) {
        // The kernel takes a new set of capabilities in a user namespace for a change of credentials.
        self.changes_credentials |= kind & libc::CLONE_NEWUSER != 0;
        self.needs_process = true;
        self.call("setns", libc::SYS_setns, [Arg::At(fd.into()), Arg::Number(kind.into())]);
    }

    /// A mount namespace of its own, in which nothing done is seen by the host; what the host unmounts
    /// goes away here too.
    pub(crate) fn unshare_mounts(&mut self) {
        self.needs_process = true;
        let flag = Arg::Flag(libc::CLONE_NEWNS as u64, "CLONE_NEWNS");
        self.call("unshare", libc::SYS_unshare, [flag]);
        let flag = Arg::Flag(libc::MS_REC | libc::MS_SLAVE, "MS_REC|MS_SLAVE");
        self.call(
            "mount",
            libc::SYS_mount,
            [Arg::Null, Arg::Text(c"/".into()), Arg::Null, flag, Arg::Null],
        );
    }

    /// The ids that new files get. Capabilities stay.
    pub(crate) fn fs_ids(&mut self, uid: u32, gid: u32) {
        self.changes_credentials = true;
        self.steps.push(Step::FsIds { uid, gid });
    }

    /// All user and group ids, without supplementary groups (if it may drop them).
    pub(crate) fn set_ids(&mut self, uid: u32, gid: u32) {
        self.changes_credentials = true;
        self.needs_process = true;
        self.optional("setgroups", libc::SYS_setgroups, [Arg::Number(0), Arg::Null]);
        let ids = |id: u32| [0; 3].map(|_| Arg::Number(id.into()));
        self.call("setresgid", libc::SYS_setresgid, ids(gid));
        self.call("setresuid", libc::SYS_setresuid, ids(uid));
    }

    /// The mode bits that new files do not get.
    pub(crate) fn umask(&mut self, mask: u32) {
        self.needs_process = true;
        self.call("umask", libc::SYS_umask, [Arg::Number(mask.into())]);
    }

    /// Opens a file as openat(2) does, close-on-exec.
    pub(crate) fn open(&mut self, dir: impl Into<At<'a>>, path: CString, flags: i32) -> Slot {
        let flags = Arg::Flag((flags | libc::O_CLOEXEC) as u64, "");
        self.open_call("openat", libc::SYS_openat, [Arg::At(dir.into()), Arg::Text(path), flags])
    }

    /// Opens a file as openat2(2) does, with `dir` as the root that nothing leads out of (Linux 5.6).
    pub(crate) fn open_in_root(
        &mut self,
        dir: impl Into<At<'a>>,
        path: CString,
        flags: i32,
    ) -> Slot {
        let resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
        let flags = i64::from(flags | libc::O_CLOEXEC).cast_unsigned();
        // `struct open_how`: flags, mode, resolve.
        let how = [flags, 0, resolve].map(u64::to_ne_bytes).concat();
        let size = how.len() as i64;
        let args = [Arg::At(dir.into()), Arg::Text(path), Arg::Bytes(how), Arg::Number(size)];
        self.open_call("openat2", libc::SYS_openat2, args)
    }

    /// See [`mount::open_tree`](super::mount::open_tree).
    pub(crate) fn open_tree(
        &mut self,
        dir: impl Into<At<'a>>,
        path: CString,
        flags: OpenTree,
    ) -> Slot {
        let bits = Arg::Flag(u64::from(flags.bits()) | libc::O_CLOEXEC as u64, "");
        let args = [Arg::At(dir.into()), Arg::Text(path), bits];
        self.open_call("open_tree", libc::SYS_open_tree, args)
    }

    /// See [`mount::mount_setattr`](super::mount::mount_setattr), for the mount that `mount` is the root of.
    pub(crate) fn mount_setattr(&mut self, mount: impl Into<At<'a>>, set: MountAttr) {
        // The kernel's struct mount_attr, of which only the first field, attr_set, is not zero.
        let mut attr = set.bits().to_ne_bytes().to_vec();
        attr.resize(MOUNT_ATTR_SIZE, 0);
        let args = [
            Arg::At(mount.into()),
            Arg::Text(CString::default()),
            Arg::Flag(libc::AT_EMPTY_PATH as u64, "AT_EMPTY_PATH"),
            Arg::Bytes(attr),
            Arg::Number(MOUNT_ATTR_SIZE as i64),
        ];
        self.call("mount_setattr", libc::SYS_mount_setattr, args);
    }

    /// Attaches the detached mount `from` to `path` below `to`.
    pub(crate) fn move_mount(
        &mut self,
        from: impl Into<At<'a>>,
        to: impl Into<At<'a>>,
        path: CString,
    ) {
        let from_empty_path = Arg::Flag(4, "MOVE_MOUNT_F_EMPTY_PATH");
        let args = [
            Arg::At(from.into()),
            Arg::Text(CString::default()),
            Arg::At(to.into()),
            Arg::Text(path),
            from_empty_path,
        ];
        self.call("move_mount", libc::SYS_move_mount, args);
    }

    pub(crate) fn fsopen(&mut self, name: &CStr) -> Slot {
        let args = [Arg::Text(name.into()), Arg::Flag(1, "FSOPEN_CLOEXEC")];
        self.open_call("fsopen", libc::SYS_fsopen, args)
    }

    pub(crate) fn fs_flag(&mut self, context: impl Into<At<'a>>, key: &CStr) {
        self.fsconfig(
            context.into(),
            0,
            "FSCONFIG_SET_FLAG",
            Arg::Text(key.into()),
            [Arg::Null, Arg::Number(0)],
        );
    }

    pub(crate) fn fs_string(&mut self, context: impl Into<At<'a>>, key: &CStr, value: CString) {
        self.fsconfig(
            context.into(),
            1,
            "FSCONFIG_SET_STRING",
            Arg::Text(key.into()),
            [Arg::Text(value), Arg::Number(0)],
        );
    }

    pub(crate) fn fs_fd(
        &mut self,
        context: impl Into<At<'a>>,
        key: &CStr,
        value: impl Into<At<'a>>,
    ) {
        self.fsconfig(
            context.into(),
            5,
            "FSCONFIG_SET_FD",
            Arg::Text(key.into()),
            [Arg::Null, Arg::At(value.into())],
        );
    }

    pub(crate) fn fs_create(&mut self, context: impl Into<At<'a>>) {
        self.fsconfig(
            context.into(),
            6,
            "FSCONFIG_CMD_CREATE",
            Arg::Null,
            [Arg::Null, Arg::Number(0)],
        );
    }

    pub(crate) fn fsmount(&mut self, context: impl Into<At<'a>>, attr: MountAttr) -> Slot {
        let args =
            [Arg::At(context.into()), Arg::Flag(1, "FSMOUNT_CLOEXEC"), Arg::Flag(attr.bits(), "")];
        self.open_call("fsmount", libc::SYS_fsmount, args)
    }

    /// The classic mount(2), for kernels whose fsconfig(2) cannot say it.
    pub(crate) fn mount(&mut self, fstype: &CStr, target: CString, flags: u64, data: CString) {
        let args = [
            Arg::Text(fstype.into()),
            Arg::Text(target),
            Arg::Text(fstype.into()),
            Arg::Flag(flags, ""),
            Arg::Text(data),
        ];
        self.call("mount", libc::SYS_mount, args);
    }

    pub(crate) fn fchdir(&mut self, dir: impl Into<At<'a>>) {
        self.needs_process = true;
        self.call("fchdir", libc::SYS_fchdir, [Arg::At(dir.into())]);
    }

    /// Makes the working directory, a mount point, the root of its mount namespace and lets go of all
    /// other mounts, so that the namespace keeps no file system of the host busy. Where the root is an
    /// initramfs, which cannot be left, everything stays as it is.
    pub(crate) fn leave_root(&mut self) {
        self.needs_process = true;
        self.steps.push(Step::LeaveRoot);
    }

    /// Runs the calls. At the first that fails the rest is not made and every descriptor is closed.
    pub(crate) fn run(self) -> Result<Opened, SyscallError> {
        let _zero = if self.changes_credentials {
            let guard = Dumpable::hold_zero()
                .map_err(|err| SyscallError::new("prctl(PR_SET_DUMPABLE, 0)", errno_of(&err)))?;
            Some(guard)
        } else {
            None
        };
        let job = Job {
            steps: &self.steps,
            slots: (0..self.slots).map(|_| AtomicI32::new(-1)).collect(),
            values: (0..self.values).map(|_| vec![Cell::new(0); VALUE_SIZE]).collect(),
            lengths: (0..self.values).map(|_| AtomicUsize::new(0)).collect(),
            next: AtomicUsize::new(0),
            errno: AtomicI32::new(0),
        };
        if self.needs_process {
            job.perform_elsewhere()?;
        } else {
            // No handler of the host's is to run with other ids.
            let _signals = SignalsBlocked::new();
            let _ids = self.changes_credentials.then(FsIds::save);
            job.perform();
        }
        let opened = job.collect();
        let next = job.next.load(Ordering::Relaxed);
        match self.steps.get(next) {
            None => Ok(opened),
            Some(step) => {
                Err(SyscallError::new(step.describe(&job), job.errno.load(Ordering::Relaxed)))
            }
        }
    }

    fn call<const N: usize>(&mut self, name: &'static str, nr: c_long, args: [Arg<'a>; N]) {
        self.push(name, nr, args, Out::Nothing, false);
    }

    fn optional<const N: usize>(&mut self, name: &'static str, nr: c_long, args: [Arg<'a>; N]) {
        self.push(name, nr, args, Out::Nothing, true);
    }

    fn open_call<const N: usize>(
        &mut self,
        name: &'static str,
        nr: c_long,
        args: [Arg<'a>; N],
    ) -> Slot {
        let slot = Slot(self.slots);
        self.slots += 1;
        self.push(name, nr, args, Out::Descriptor(slot), false);
        slot
    }

    fn push<const N: usize>(
        &mut self,
        name: &'static str,
        nr: c_long,
        args: [Arg<'a>; N],
        out: Out,
        optional: bool,
    ) {
        self.steps.push(Step::Call(Call { name, nr, args: args.into(), out, optional }));
    }

    fn fsconfig(
        &mut self,
        context: At<'a>,
        command: u64,
        name: &'static str,
        key: Arg<'a>,
        [value, aux]: [Arg<'a>; 2],
    ) {
        let args = [Arg::At(context), Arg::Flag(command, name), key, value, aux];
        self.call("fsconfig", libc::SYS_fsconfig, args);
    }
}

/// What parent and child share.
struct Job<'a> {
    steps: &'a [Step<'a>],
    slots: Vec<AtomicI32>,
    values: Vec<Vec<Cell<u8>>>,
    lengths: Vec<AtomicUsize>,
    /// The step in progress; all are done when it is past the last.
    next: AtomicUsize,
    errno: AtomicI32,
}

impl Job<'_> {
    fn collect(&self) -> Opened {
        let own = |slot: &AtomicI32| {
            let fd = slot.load(Ordering::Relaxed);
            // SAFETY: the worker has just opened it; nobody else has it.
            (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
        };
        let read = |(value, length): (&Vec<Cell<u8>>, &AtomicUsize)| {
            value.iter().take(length.load(Ordering::Relaxed)).map(Cell::get).collect()
        };
        Opened {
            slots: self.slots.iter().map(own).collect(),
            values: self.values.iter().zip(&self.lengths).map(read).collect(),
        }
    }

    fn fd(&self, at: At<'_>) -> RawFd {
        match at {
            At::Cwd => libc::AT_FDCWD,
            At::Fd(fd) => fd.as_raw_fd(),
            At::Slot(Slot(i)) => self.slots.get(i).map_or(-1, |fd| fd.load(Ordering::Relaxed)),
        }
    }

    /// In a process made for it.
    fn perform_elsewhere(&self) -> Result<(), SyscallError> {
        let stack =
            Stack::new().map_err(|err| SyscallError::new("mmap(worker stack)", errno_of(&err)))?;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES;
        let args = CloneArgs { flags: flags as u64, ..CloneArgs::default() };
        let signals = SignalsBlocked::new();
        // SAFETY: VFORK: stack and job outlive the child's use of them. `work` makes raw system calls only
        // and touches the job's memory, which no other thread has.
        let pid = unsafe { clone(args, &stack, work, (&raw const *self).cast_mut().cast()) };
        let status = pid.map(wait);
        drop(signals);
        let failed = |call: &str, Errno(errno)| Err(SyscallError::new(call.to_owned(), errno));
        match status {
            Err(errno) => failed("clone3(CLONE_VM|CLONE_VFORK|CLONE_FILES)", errno),
            Ok(status) if libc::WIFSIGNALED(status) => {
                self.collect();
                let call = format!("worker, killed by signal {}", libc::WTERMSIG(status));
                failed(&call, Errno(libc::EINTR))
            }
            Ok(_) => Ok(()),
        }
    }

    /// In the child: no allocation, no panic.
    fn perform(&self) {
        for (i, step) in self.steps.iter().enumerate() {
            self.next.store(i, Ordering::Relaxed);
            let done = match step {
                Step::Call(call) => self.call(call),
                Step::FsIds { uid, gid } => set_fs_ids(*uid, *gid),
                Step::LeaveRoot => {
                    leave_root();
                    Ok(())
                }
            };
            if let Err(Errno(errno)) = done {
                self.errno.store(errno, Ordering::Relaxed);
                return;
            }
        }
        self.next.store(self.steps.len(), Ordering::Relaxed);
    }

    fn call(&self, call: &Call<'_>) -> Result<(), Errno> {
        let mut words = [0; 6];
        for (word, arg) in words.iter_mut().zip(&call.args) {
            *word = match arg {
                Arg::Number(n) => *n as usize,
                Arg::Flag(flag, _) => *flag as usize,
                Arg::Text(text) => text.as_ptr() as usize,
                Arg::At(at) => self.fd(*at) as usize,
                Arg::Value(Value(i)) => {
                    self.values.get(*i).map_or(0, |value| value.as_ptr() as usize)
                }
                Arg::Bytes(bytes) => bytes.as_ptr() as usize,
                Arg::Times(times) => times.as_ptr() as usize,
                Arg::Null => 0,
            };
        }
        // SAFETY: the methods of `Worker` build calls whose pointers are null, NUL-terminated strings, times or
        // bytes (with their length) in `steps` that the kernel reads only, or a value of VALUE_SIZE bytes,
        // as long as they say, that the kernel may write to.
        match unsafe { syscall(call.nr, words) } {
            Ok(result) => {
                match call.out {
                    Out::Nothing => {}
                    Out::Descriptor(Slot(i)) => {
                        if let Some(slot) = self.slots.get(i) {
                            slot.store(result as i32, Ordering::Relaxed);
                        }
                    }
                    Out::Length(Value(i)) => {
                        if let Some(length) = self.lengths.get(i) {
                            length.store(result, Ordering::Relaxed);
                        }
                    }
                }
                Ok(())
            }
            Err(_) if call.optional => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

impl Step<'_> {
    /// As strace would print it.
    fn describe(&self, job: &Job<'_>) -> String {
        let call = match self {
            Self::Call(call) => call,
            Self::FsIds { uid, gid } => return format!("setfsuid({uid}), setfsgid({gid})"),
            Self::LeaveRoot => return "pivot_root(\".\", \".\")".into(),
        };
        let mut text = format!("{}(", call.name);
        for (i, arg) in call.args.iter().enumerate() {
            text += if i > 0 { ", " } else { "" };
            // Writing to a string cannot fail.
            let _ = match arg {
                Arg::Number(n) => write!(text, "{n}"),
                Arg::Flag(flag, "") => write!(text, "{flag:#x}"),
                Arg::Flag(_, name) => write!(text, "{name}"),
                Arg::Text(value) => write!(text, "{value:?}"),
                Arg::At(At::Cwd) => write!(text, "AT_FDCWD"),
                Arg::At(At::Fd(fd)) => write!(text, "{}", Fd(*fd)),
                // Closed by now.
                Arg::At(at @ At::Slot(_)) => write!(text, "{}", job.fd(*at)),
                Arg::Value(_) => write!(text, "[]"),
                Arg::Bytes(bytes) => write!(text, "[{} bytes]", bytes.len()),
                Arg::Times([seconds, nanoseconds, ..]) => {
                    write!(text, "{seconds}.{nanoseconds:09}")
                }
                Arg::Null => write!(text, "NULL"),
            };
        }
        text + ")"
    }
}

extern "C" fn work(job: *mut c_void) -> ! {
    // SAFETY: `run` passes its job, which outlives the child.
    let job = unsafe { &*job.cast::<Job<'_>>() };
    job.perform();
    loop {
        // SAFETY: takes no pointer, does not return.
        let _ = unsafe { sys!(SYS_exit_group, 0) };
    }
}

/// Reaps the worker, which has ended, and returns its wait status.
fn wait(pid: i32) -> i32 {
    let mut status = 0;
    loop {
        // SAFETY: the kernel writes one int.
        let reaped =
            unsafe { sys!(SYS_wait4, pid, &raw mut status, libc::__WALL, ptr::null::<()>()) };
        // ECHILD: another `wait` of the host has taken it, which changes nothing.
        if reaped != Err(Errno(libc::EINTR)) {
            return status;
        }
    }
}

/// The kernel takes the capabilities over files from an effective set when the file-system uid leaves 0;
/// `capset` gives them back without needing CAP_SETPCAP, as securebits would.
fn set_fs_ids(uid: u32, gid: u32) -> Result<(), Errno> {
    /// `_LINUX_CAPABILITY_VERSION_3`.
    const VERSION: u32 = 0x2008_0522;
    let mut header = [VERSION, 0];
    // Effective, permitted, inheritable; low halves, then high halves.
    let mut sets = [0u32; 6];
    // SAFETY: the kernel reads and writes the two structures of version 3, here as arrays of their fields.
    unsafe { sys!(SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) }?;
    // SAFETY: no pointers. Neither call reports failure, hence the comparison.
    unsafe {
        let _ = (sys!(SYS_setfsgid, gid), sys!(SYS_setfsuid, uid));
    }
    if fs_ids() != (uid, gid) {
        return Err(Errno(libc::EPERM));
    }
    // SAFETY: as for capget.
    unsafe { sys!(SYS_capset, header.as_mut_ptr(), sets.as_mut_ptr()) }.map(drop)
}

/// The file-system user and group of the calling thread.
fn fs_ids() -> (u32, u32) {
    // SAFETY: no pointers. -1 is no id: the calls change nothing and return what is.
    let (uid, gid) = unsafe { (sys!(SYS_setfsuid, -1), sys!(SYS_setfsgid, -1)) };
    // Neither call can fail.
    (uid.unwrap_or_default() as u32, gid.unwrap_or_default() as u32)
}

/// Gives the calling thread its file-system ids back when dropped.
struct FsIds {
    uid: u32,
    gid: u32,
}

impl FsIds {
    fn save() -> Self {
        let (uid, gid) = fs_ids();
        Self { uid, gid }
    }
}

impl Drop for FsIds {
    fn drop(&mut self) {
        // A thread may always go back to its effective ids, and keeps its permitted capabilities.
        let _ = set_fs_ids(self.uid, self.gid);
    }
}

/// See pivot_root(2), "pivot_root(".", ".")".
fn leave_root() {
    let dot = c".".as_ptr();
    // SAFETY: NUL-terminated strings, which the kernel only reads.
    unsafe {
        if sys!(SYS_pivot_root, dot, dot).is_ok() {
            let _ = sys!(SYS_umount2, dot, libc::MNT_DETACH);
        }
    }
}

fn errno_of(err: &std::io::Error) -> i32 {
    err.raw_os_error().unwrap_or(libc::EIO)
}

#[cfg(test)]
mod tests;
