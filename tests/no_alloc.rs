//! No memory is allocated or freed between clone and exec: the child shares the host's heap, whose locks
//! another thread may hold for ever.
//!
//! This suite's allocator looks at who calls it. In a child that shares the memory it leaves a mark that
//! the host sees; in a copy it kills the process, which the host sees as well.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
mod matrix;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use coracle::namespaces::{Command, Namespaces, Stdio};

/// The process that may allocate; 0 before it is known.
static HOST: AtomicI32 = AtomicI32::new(0);
/// How often somebody else did.
static STRAY: AtomicUsize = AtomicUsize::new(0);

struct Watched;

impl Watched {
    fn check() {
        let host = HOST.load(Ordering::Relaxed);
        // A system call that libc does not cache.
        if host != 0 && nix::unistd::getpid().as_raw() != host {
            STRAY.fetch_add(1, Ordering::SeqCst);
            std::process::abort();
        }
    }
}

// SAFETY: hands everything on to the system's allocator.
#[allow(unsafe_code, reason = "an allocator cannot be safe")]
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::check();
        // SAFETY: the caller's promises, handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        Self::check();
        // SAFETY: the caller's promises, handed on.
        unsafe { System.dealloc(ptr, layout) };
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::check();
        // SAFETY: the caller's promises, handed on.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

#[test]
#[allow(unsafe_code, reason = "to fork is unsafe")]
fn an_allocation_in_a_child_would_be_noticed() {
    common::alone(|| {
        HOST.store(nix::unistd::getpid().as_raw(), Ordering::Relaxed);
        // SAFETY: the child does nothing but run into the check.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => {
                std::hint::black_box(Box::new(1));
            }
            nix::unistd::ForkResult::Parent { child } => {
                let status = nix::sys::wait::waitpid(child, None).unwrap();
                let nix::sys::wait::WaitStatus::Signaled(_, signal, _) = status else {
                    panic!("{status:?}");
                };
                assert_eq!(signal, nix::sys::signal::SIGABRT);
            }
        }
    });
}

#[test]
fn nothing_is_allocated_between_clone_and_exec() {
    common::alone(|| {
        let sandbox = common::setup("no-alloc");
        let mut kinds = matrix::kinds(&sandbox, &["true"]);
        HOST.store(nix::unistd::getpid().as_raw(), Ordering::Relaxed);
        for kind in &mut kinds {
            kind.run();
            assert_eq!(STRAY.load(Ordering::SeqCst), 0, "{}", kind.name);
        }
        if common::user_namespaces().is_ok() {
            let mut command = Command::new("sleep");
            command.arg("1000").isolated().stdin(Stdio::null());
            let child = command.spawn().unwrap();
            let exec = |command: &mut Command| child.exec(command.stdin(Stdio::null()));
            assert!(exec(&mut Command::new("true")).unwrap().wait().unwrap().success());
            exec(&mut Command::new("/no/such/program")).unwrap_err();
            exec(Command::new("true").user("no-such-user")).unwrap_err();
            let mut joined = Command::new("true");
            let network = std::fs::File::open(format!("/proc/{}/ns/net", child.id())).unwrap();
            joined.user_namespace(child.user_namespace().unwrap());
            joined.join(Namespaces::NETWORK, network);
            assert!(joined.status().unwrap().success());
        }
        assert_eq!(STRAY.load(Ordering::SeqCst), 0);
    });
}
