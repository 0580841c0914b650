//! The process's *dumpable* flag, held at 0 while a child with other credentials shares its memory.
//!
//! The flag belongs to the memory, not to a task: at 0 nobody inside a container can attach to such a
//! child and reach the host through it. But at 0 the host's files in /proc belong to root, so an
//! unprivileged host cannot write the id map of a child of its own. The two kinds of window exclude each
//! other. See `PR_SET_DUMPABLE` in prctl(2), ptrace(2) and proc(5).

use std::collections::VecDeque;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// `SUID_DUMP_USER`: same-user processes may attach. The only value from which there is something to hide.
const DUMPABLE: i32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Window {
    Zero,
    Excluded,
}

/// Who is inside, and who waits in order of arrival.
///
/// Windows of one kind overlap freely. A new one waits behind an earlier one of the other kind, so a
/// steady stream of spawns cannot keep a map from being written, nor the reverse.
struct Gate {
    open: Option<Window>,
    holders: usize,
    queue: VecDeque<(u64, Window)>,
    next_ticket: u64,
    /// The flag before the first window at 0.
    saved: i32,
}

static GATE: Mutex<Gate> = Mutex::new(Gate {
    open: None,
    holders: 0,
    queue: VecDeque::new(),
    next_ticket: 0,
    saved: DUMPABLE,
});
static CHANGED: Condvar = Condvar::new();

impl Gate {
    fn may_enter(&self, ticket: u64, window: Window) -> bool {
        self.open.is_none_or(|open| open == window)
            && self.queue.iter().take_while(|(other, _)| *other < ticket).all(|(_, w)| *w == window)
    }
}

fn gate() -> MutexGuard<'static, Gate> {
    // Every change of the state is complete before anything could panic.
    GATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Access to the flag. A thread holds at most one guard at a time; a second one may wait for ever.
#[derive(Debug)]
pub(crate) struct Dumpable;

impl Dumpable {
    /// Holds the flag at 0, together with all others that do.
    ///
    /// The last guard restores what the first one found, even if the kernel has changed the flag in
    /// between, as it does when a child that shares the memory changes its credentials.
    pub(crate) fn hold_zero() -> io::Result<DumpableGuard> {
        enter(Window::Zero)
    }

    /// Waits until nobody holds the flag at 0, and keeps it from being done.
    pub(crate) fn exclude() -> io::Result<DumpableGuard> {
        enter(Window::Excluded)
    }

    /// The flag now: 0, 1, or 2 (as 0, but root may read core dumps).
    pub(crate) fn get() -> i32 {
        // SAFETY: takes no further argument.
        unsafe { libc::prctl(libc::PR_GET_DUMPABLE) }
    }
}

fn enter(window: Window) -> io::Result<DumpableGuard> {
    let mut gate = gate();
    let ticket = gate.next_ticket;
    gate.next_ticket += 1;
    gate.queue.push_back((ticket, window));
    gate = CHANGED
        .wait_while(gate, |gate| !gate.may_enter(ticket, window))
        .unwrap_or_else(PoisonError::into_inner);
    gate.queue.retain(|(other, _)| *other != ticket);
    if window == Window::Zero && gate.holders == 0 {
        gate.saved = Dumpable::get();
        if gate.saved == DUMPABLE {
            // SAFETY: an integer argument only.
            if unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) } != 0 {
                let err = io::Error::last_os_error();
                CHANGED.notify_all();
                return Err(err);
            }
        }
    }
    gate.open = Some(window);
    gate.holders += 1;
    Ok(DumpableGuard { window })
}

/// An open window, closed on drop.
#[derive(Debug)]
#[must_use = "the window closes when the guard is dropped"]
pub(crate) struct DumpableGuard {
    window: Window,
}

impl Drop for DumpableGuard {
    fn drop(&mut self) {
        let mut gate = gate();
        gate.holders -= 1;
        if gate.holders > 0 {
            return;
        }
        if self.window == Window::Zero && gate.saved == DUMPABLE {
            // SAFETY: an integer argument only. It cannot fail after PR_SET_DUMPABLE worked on entry.
            unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1) };
        }
        gate.open = None;
        CHANGED.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn windows_exclude_each_other_and_the_flag_is_as_before() {
        let (zero, excluded) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let guard = Dumpable::hold_zero().unwrap();
                        zero.fetch_add(1, Ordering::SeqCst);
                        assert_eq!((Dumpable::get(), excluded.load(Ordering::SeqCst)), (0, 0));
                        zero.fetch_sub(1, Ordering::SeqCst);
                        drop(guard);
                    }
                });
                scope.spawn(|| {
                    for _ in 0..200 {
                        let guard = Dumpable::exclude().unwrap();
                        excluded.fetch_add(1, Ordering::SeqCst);
                        assert_eq!((Dumpable::get(), zero.load(Ordering::SeqCst)), (1, 0));
                        excluded.fetch_sub(1, Ordering::SeqCst);
                        drop(guard);
                    }
                });
            }
        });
        let _open = Dumpable::exclude().unwrap();
        assert_eq!(Dumpable::get(), 1);
    }

    #[test]
    fn an_early_waiter_is_not_overtaken_by_the_other_kind() {
        let gate = |open, queue: &[(u64, Window)]| Gate {
            open,
            holders: 1,
            queue: queue.iter().copied().collect(),
            next_ticket: 9,
            saved: DUMPABLE,
        };
        use Window::{Excluded, Zero};
        let busy = gate(Some(Zero), &[(3, Excluded), (4, Zero), (5, Excluded)]);
        assert!(!busy.may_enter(3, Excluded), "the other kind is inside");
        assert!(!busy.may_enter(4, Zero), "an earlier one of the other kind waits");
        let free = gate(None, &[(3, Excluded), (4, Zero), (5, Excluded)]);
        assert!(free.may_enter(3, Excluded));
        assert!(!free.may_enter(4, Zero));
        assert!(!free.may_enter(5, Excluded));
        assert!(gate(Some(Zero), &[(4, Zero)]).may_enter(4, Zero));
    }
}
