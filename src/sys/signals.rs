//! Keeping the host's signal handlers out of children that share its memory.

use super::raw::sys;

/// Every signal blocked on this thread while it lives, those of the C library included.
#[derive(Debug)]
pub(crate) struct SignalsBlocked(u64);

impl SignalsBlocked {
    pub(crate) fn new() -> Self {
        let (all, mut old) = (u64::MAX, 0u64);
        // SAFETY: the kernel reads and writes one 8-byte signal set each.
        let _ = unsafe {
            sys!(SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const all, &raw mut old, 8usize)
        };
        Self(old)
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the kernel reads one 8-byte signal set.
        let _ = unsafe {
            sys!(SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const self.0, 0usize, 8usize)
        };
    }
}
