//! `clone3` onto a stack of its own.
//!
//! glibc has no wrapper, and a child that shares the parent's memory (`CLONE_VM`) cannot return on the
//! parent's stack. Kernels before 5.3 and seccomp filters that answer ENOSYS get `clone` instead, which
//! cannot place the child into a cgroup (see [`CloneArgs::cgroup`]).

use std::ffi::{c_int, c_void};
use std::io;
use std::ptr;
use std::sync::Mutex;

use super::raw::Errno;

/// The kernel's `struct clone_args` of Linux 5.7 (`CLONE_ARGS_SIZE_VER2`); see clone(2).
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CloneArgs {
    /// `CLONE_*`.
    pub(crate) flags: u64,
    /// Where the kernel stores the pidfd (`CLONE_PIDFD`).
    pub(crate) pidfd: u64,
    pub(crate) child_tid: u64,
    pub(crate) parent_tid: u64,
    /// The signal the parent gets at exit; 0 hides the child from the host's `waitpid(-1)`.
    pub(crate) exit_signal: u64,
    pub(crate) stack: u64,
    pub(crate) stack_size: u64,
    pub(crate) tls: u64,
    pub(crate) set_tid: u64,
    pub(crate) set_tid_size: u64,
    /// A cgroup v2 directory (`CLONE_INTO_CGROUP`, Linux 5.7).
    pub(crate) cgroup: u64,
}

/// Not in the libc crate for every target.
pub(crate) const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// Shares its bit with `CSIGNAL`, so only `clone3` and `unshare` take it.
pub(crate) const CLONE_NEWTIME: u64 = 0x80;

/// Memory for the child's stack, with a guard page below it. A few of them are kept for the next spawn: giving one
/// back to the kernel interrupts every core that runs a thread of the host.
#[derive(Debug)]
pub(crate) struct Stack {
    base: *mut c_void,
}

static SPARE: Mutex<Vec<Stack>> = Mutex::new(Vec::new());
/// What two spawns at the same time need.
const SPARES: usize = 4;

// SAFETY: the mapping belongs to this value alone; nothing in it is tied to a thread.
unsafe impl Send for Stack {}
// SAFETY: as above; shared references give no access to the memory.
unsafe impl Sync for Stack {}

impl Stack {
    const SIZE: usize = 128 << 10;
    const GUARD: usize = 16 << 10;

    pub(crate) fn new() -> io::Result<Self> {
        // Never waits: after the host's own fork the lock may be held by a thread that is not there any more.
        let spare = SPARE.try_lock().ok().and_then(|mut spare| spare.pop());
        spare.map_or_else(Self::map, Ok)
    }

    fn map() -> io::Result<Self> {
        // SAFETY: a fresh anonymous mapping, chosen by the kernel.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                Self::SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Self { base };
        // SAFETY: the lowest pages of the mapping just made; nothing uses them yet.
        if unsafe { libc::mprotect(base, Self::GUARD, libc::PROT_NONE) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(stack)
    }

    fn usable(&self) -> (*mut c_void, usize) {
        (self.base.wrapping_byte_add(Self::GUARD), Self::SIZE - Self::GUARD)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if let Ok(mut spare) = SPARE.try_lock()
            && spare.len() < SPARES
        {
            spare.push(Self { base: self.base });
            return;
        }
        // SAFETY: the mapping made in `map`, unmapped once.
        unsafe { libc::munmap(self.base, Self::SIZE) };
    }
}

/// What runs in the child. It must not return, unwind, allocate or touch libc state.
pub(crate) type Entry = extern "C" fn(*mut c_void) -> !;

/// Clones the caller; the child runs `entry(arg)` on `stack`. Returns the child's pid.
///
/// # Safety
/// - `args.pidfd`, if `CLONE_PIDFD` is set, points to a writable `c_int`.
/// - With `CLONE_VM`, `stack` and whatever `arg` leads to stay valid and unmoved until the child has
///   executed a program or exited: either `CLONE_VFORK` is set too, or the caller waits for it.
/// - `entry` keeps to what may run between clone and exec in a threaded process.
pub(crate) unsafe fn clone(
    mut args: CloneArgs,
    stack: &Stack,
    entry: Entry,
    arg: *mut c_void,
) -> Result<i32, Errno> {
    let (base, size) = stack.usable();
    args.stack = base as u64;
    args.stack_size = size as u64;
    // SAFETY: `args` is a whole clone_args with a stack that belongs to the child; the caller vouches
    // for the rest.
    let ret = unsafe { coracle_clone3(&args, size_of::<CloneArgs>(), entry, arg) };
    match i32::try_from(ret) {
        Ok(errno) if errno == -libc::ENOSYS => {}
        Ok(errno) if errno < 0 => return Err(Errno(-errno)),
        Ok(pid) => return Ok(pid),
        Err(_) => return Err(Errno(libc::EOVERFLOW)),
    }
    // SAFETY: the caller's promises, handed on.
    unsafe { old_clone(args, entry, arg) }
}

/// Whether [`clone`] lacks `clone3`, so that `CLONE_INTO_CGROUP` has to be done by the child itself.
pub(crate) fn clone3_missing() -> bool {
    // SAFETY: a zero size makes clone3 fail with EINVAL before it reads anything.
    unsafe { super::raw::sys!(SYS_clone3, 0usize, 0usize) == Err(Errno(libc::ENOSYS)) }
}

unsafe fn old_clone(args: CloneArgs, entry: Entry, arg: *mut c_void) -> Result<i32, Errno> {
    if args.flags & (CLONE_INTO_CGROUP | CLONE_NEWTIME) != 0 {
        return Err(Errno(libc::ENOSYS));
    }
    let top = (args.stack + args.stack_size) as *mut c_void;
    // Takes no second pointer beside that of CLONE_PIDFD.
    let flags = (args.flags & !(libc::CLONE_PARENT_SETTID as u64) | args.exit_signal) as c_int;
    // SAFETY: C and Rust agree on the representation of `fn(*mut c_void) -> !` and `-> c_int`, as one
    // never returns; stack and pidfd pointer are the caller's.
    unsafe {
        let entry: extern "C" fn(*mut c_void) -> c_int = std::mem::transmute(entry);
        let pid = libc::clone(entry, top, flags, arg, args.pidfd as *mut c_int);
        if pid < 0 { Err(Errno(*libc::__errno_location())) } else { Ok(pid) }
    }
}

unsafe extern "C" {
    fn coracle_clone3(args: *const CloneArgs, size: usize, entry: Entry, arg: *mut c_void)
    -> isize;
}

// rdx (entry) and rcx (arg) do not survive the system call or mean something to it; r8 and r9 do. The child
// starts on the new stack with the registers of the parent.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .text.coracle_clone3,\"ax\",@progbits",
    ".hidden coracle_clone3",
    ".globl coracle_clone3",
    ".type coracle_clone3, @function",
    "coracle_clone3:",
    "mov r8, rdx",
    "mov r9, rcx",
    "mov eax, 435",
    "syscall",
    "test rax, rax",
    "jz 2f",
    "ret",
    "2:",
    "xor ebp, ebp",
    "and rsp, -16",
    "mov rdi, r9",
    "call r8",
    "ud2",
    ".size coracle_clone3, . - coracle_clone3",
    ".popsection",
);

// x2 (entry) and x3 (arg) mean nothing to the system call, which keeps all registers but x0.
#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".pushsection .text.coracle_clone3,\"ax\",@progbits",
    ".balign 4",
    ".hidden coracle_clone3",
    ".globl coracle_clone3",
    ".type coracle_clone3, @function",
    "coracle_clone3:",
    "mov x8, #435",
    "svc #0",
    "cbz x0, 2f",
    "ret",
    "2:",
    "mov x29, xzr",
    "mov x30, xzr",
    "mov x0, x3",
    "blr x2",
    "brk #1",
    ".size coracle_clone3, . - coracle_clone3",
    ".popsection",
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::raw::sys;

    extern "C" fn exit_with(arg: *mut c_void) -> ! {
        loop {
            // SAFETY: takes no pointer, does not return.
            let _ = unsafe { sys!(SYS_exit_group, *(arg as *const i32)) };
        }
    }

    #[test]
    fn a_vfork_child_runs_on_its_own_stack_and_its_exit_status_comes_back() {
        let stack = Stack::new().unwrap();
        let mut code = 42;
        let args = CloneArgs {
            flags: (libc::CLONE_VM | libc::CLONE_VFORK) as u64,
            ..CloneArgs::default()
        };
        for old in [false, true] {
            // SAFETY: VFORK: stack and code outlive the child's use of them.
            let pid = unsafe {
                if old {
                    let (base, size) = stack.usable();
                    let args = CloneArgs { stack: base as u64, stack_size: size as u64, ..args };
                    old_clone(args, exit_with, (&raw mut code).cast())
                } else {
                    clone(args, &stack, exit_with, (&raw mut code).cast())
                }
            };
            let mut status = 0;
            // SAFETY: waits for the child just made.
            let waited = unsafe { libc::waitpid(pid.unwrap(), &mut status, libc::__WALL) };
            assert_eq!((Ok(waited), libc::WEXITSTATUS(status)), (pid, 42));
        }
    }
}
