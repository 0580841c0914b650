//! System calls that touch no libc state: not `errno`, not thread-local storage, no lock.
//!
//! A child that shares the host's memory may run beside a host thread, or on top of its thread-local
//! storage; `libc::syscall` would write the host's `errno` there. These do not.

use std::ffi::c_long;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("coracle has the system calls of x86-64 and aarch64 alone");

/// A Linux error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

/// Performs a system call; the kernel's negative return values become an [`Errno`].
///
/// # Safety
/// The arguments must be what the system call `nr` expects: pointers valid for what it reads and
/// writes, for as long as it does.
#[inline(always)]
pub(crate) unsafe fn syscall(nr: c_long, args: [usize; 6]) -> Result<usize, Errno> {
    // SAFETY: the caller vouches for number and arguments.
    let ret = unsafe { raw_syscall(nr, args) };
    if (-4095..0).contains(&ret) { Err(Errno(-ret as i32)) } else { Ok(ret as usize) }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn raw_syscall(nr: c_long, [a, b, c, d, e, f]: [usize; 6]) -> isize {
    let ret: isize;
    // SAFETY: the x86-64 system call convention: rcx and r11 are lost, everything else kept; the caller
    // vouches for what the kernel does with the arguments.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") nr as isize => ret,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    ret
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
unsafe fn raw_syscall(nr: c_long, [a, b, c, d, e, f]: [usize; 6]) -> isize {
    let ret: isize;
    // SAFETY: the AArch64 system call convention: x0 returns, everything else is kept; the caller vouches
    // for what the kernel does with the arguments.
    unsafe {
        std::arch::asm!(
            "svc 0",
            in("x8") nr, inlateout("x0") a => ret,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack),
        );
    }
    ret
}

/// Calls `syscall(libc::SYS_x, [..])` with up to six arguments, each converted to a machine word.
macro_rules! sys {
    ($nr:ident $(, $arg:expr)* $(,)?) => {{
        $crate::sys::raw::syscall(::libc::$nr, $crate::sys::raw::pad([$( $crate::sys::raw::Word::word($arg) ),*]))
    }};
}
pub(crate) use sys;

/// Up to six arguments as six.
#[inline(always)]
pub(crate) fn pad<const N: usize>(args: [usize; N]) -> [usize; 6] {
    let mut six = [0; 6];
    for (to, from) in six.iter_mut().zip(args) {
        *to = from;
    }
    six
}

/// What may be passed to a system call.
pub(crate) trait Word {
    fn word(self) -> usize;
}

macro_rules! words {
    ($($t:ty),*) => { $( impl Word for $t {
        #[inline(always)]
        // Sign extension is what the kernel expects of negative ints such as AT_FDCWD.
        fn word(self) -> usize { self as usize }
    } )* };
}
words!(i32, u32, i64, u64, usize, isize);

impl<T> Word for *const T {
    #[inline(always)]
    fn word(self) -> usize {
        self as usize
    }
}

impl<T> Word for *mut T {
    #[inline(always)]
    fn word(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_errors_come_back() {
        // SAFETY: neither call takes a pointer.
        let (pid, bad) = unsafe { (sys!(SYS_getpid), sys!(SYS_close, -1)) };
        assert_eq!(pid, Ok(std::process::id() as usize));
        assert_eq!(bad, Err(Errno(libc::EBADF)));
    }
}
