//! A child shares the host's memory until it executes its program. The traps in that, each shown harmless.
//! Those of hostile containers are in `attacks`, and that nothing is allocated in `no_alloc`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::{audit, require};
use coracle::cgroups::Limits;
use coracle::namespaces::seccomp::Action;
use coracle::namespaces::{Child, Command, Resource, Rlimit, Seccomp, Signal, Stdio};
use coracle::{ErrorKind, MIB};
use nix::sys::prctl;
use nix::sys::resource::Resource::RLIMIT_CORE;
use nix::sys::resource::{getrlimit, setrlimit};
use nix::unistd::Pid;

/// Tells other threads to stop, also when the test panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn sh(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::null());
    command
}

/// A command that takes other ids and rights than the host's, as far as this user may.
fn other_rights(mut command: Command) -> Command {
    if common::user_namespaces().is_ok() {
        command.isolated();
    } else {
        command.no_new_privileges(true).seccomp(Seccomp::default_profile());
    }
    command
}

#[test]
fn the_dumpable_flag_is_as_before() {
    common::alone(|| {
        for flag in [true, false] {
            prctl::set_dumpable(flag).unwrap();
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        for _ in 0..common::rounds(20) {
                            let mut command = other_rights(Command::new("true"));
                            match command.status() {
                                Ok(status) => assert!(status.success(), "{status}"),
                                // Whoever is not root cannot write an id map without the flag.
                                Err(err) => assert!(!flag && common::root().is_err(), "{err:#}"),
                            }
                            other_rights(Command::new("/no/such/program")).spawn().unwrap_err();
                        }
                    });
                }
            });
            assert_eq!(prctl::get_dumpable(), Ok(flag));
        }
    });
}

/// Runs `body` in a host of some size, and checks that nobody dumped its memory.
fn without_core_dump(body: impl FnOnce()) {
    common::alone(|| {
        let sandbox = common::setup("core");
        let held = hold(64 * MIB);
        nix::unistd::chdir(sandbox.path()).unwrap();
        let (_, hard) = getrlimit(RLIMIT_CORE).unwrap();
        setrlimit(RLIMIT_CORE, hard, hard).unwrap();
        body();
        // A program that was killed after its start may have dumped its own.
        for core in fs::read_dir(sandbox.path()).unwrap().map(Result::unwrap) {
            assert!(core.metadata().unwrap().len() < 32 * MIB, "a core dump of the host");
        }
        nix::unistd::chdir("/").unwrap();
        assert!(intact(&held));
    });
}

#[test]
fn a_filter_that_kills_on_the_way_to_the_program_is_an_error() {
    without_core_dump(|| {
        let before = audit::snapshot();
        for action in [Action::KillProcess, Action::KillThread, Action::Trap] {
            let filters =
                [Seccomp::allow_all().rule("execve", action, &[]), Seccomp::deny_all(action)];
            for filter in filters {
                for (container, copy) in
                    [(false, false), (false, true), (true, false), (true, true)]
                {
                    let mut command = Command::new("true");
                    command.no_new_privileges(true).seccomp(filter.clone());
                    if copy {
                        command.copy_memory();
                    }
                    if container {
                        command = other_rights(command);
                        command.seccomp(filter.clone());
                    }
                    let err = command.spawn().expect_err("execve was not allowed");
                    let text = format!("{err:#}");
                    assert!(text.contains("execute true") && text.contains("SIGSYS"), "{text}");
                    assert_eq!(err.kind(), ErrorKind::PermissionDenied, "{text}");
                    assert!(err.hint().unwrap().contains("execve"), "{err:?}");
                }
            }
        }
        let refused = Seccomp::allow_all().deny("execve", libc::EPERM);
        let err =
            Command::new("true").no_new_privileges(true).seccomp(refused).spawn().unwrap_err();
        assert_eq!(err.raw_os_error(), Some(libc::EPERM), "{err:#}");
        before.assert_unchanged();
    });
}

#[test]
fn a_child_killed_at_any_moment_takes_nothing_along() {
    without_core_dump(|| {
        let done = AtomicBool::new(false);
        let before = audit::snapshot();
        thread::scope(|scope| {
            for signal in [nix::sys::signal::SIGKILL, nix::sys::signal::SIGSEGV] {
                let done = &done;
                scope.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        for pid in audit::children() {
                            let pid = Pid::from_raw(pid.cast_signed());
                            let _ = nix::sys::signal::kill(pid, signal);
                        }
                    }
                });
            }
            let _stop = Stop(&done);
            let (mut errors, mut kills, mut successes) = (0, 0, 0);
            for round in 0..common::rounds(400) {
                let mut command = Command::new("true");
                if round % 2 == 0 {
                    command = other_rights(command);
                }
                match command.status() {
                    Ok(status) if status.success() => successes += 1,
                    Ok(status) => {
                        assert!(
                            matches!(status.signal(), Some(Signal::KILL | Signal::SEGV)),
                            "{status}"
                        );
                        kills += 1;
                    }
                    Err(_) => errors += 1,
                }
            }
            assert_ne!(errors + kills, 0, "{successes} successes: the killers were too slow");
        });
        before.assert_unchanged();
    });
}

#[test]
fn a_container_that_stops_who_comes_in_does_not_stop_the_host() {
    require!(common::user_namespaces());
    require!(common::program("perl"));
    common::alone(|| {
        let mut stopper = Command::new("perl");
        stopper.args(["-e", "while (1) { kill 'STOP', -1 }"]).isolated();
        // It must not outlive a test that is itself killed.
        stopper.parent_death_signal(Signal::KILL);
        let container = stopper.stdin(Stdio::null()).spawn().unwrap();
        let before = audit::state();
        let mut stopped = 0;
        for _ in 0..common::rounds(100) {
            match container.exec(&mut sh("exit 0")) {
                // Stopped after its start, it is the caller's to deal with.
                Ok(mut child) => {
                    let _ = child.wait_timeout(Duration::from_millis(5));
                }
                Err(err) => {
                    assert!(format!("{err:#}").contains("stopped by somebody"), "{err:#}");
                    stopped += 1;
                }
            }
        }
        assert!(stopped > 0 || common::emulated(), "nobody was stopped on the way");
        // The score is written by a process that shares no memory here.
        let child = container.exec(Command::new("sleep").arg("1000").oom_score_adj(700));
        drop((child, container));
        assert_eq!(audit::state(), before);
        assert_eq!(audit::children(), BTreeSet::new());
    });
}

/// Memory that is really there.
fn hold(bytes: u64) -> Vec<u8> {
    vec![1; usize::try_from(bytes).unwrap()]
}

#[test]
fn a_large_host_survives_children_that_run_out_of_memory() {
    require!(common::cgroup_controller("memory"));
    common::alone(|| {
        let held = hold(if common::emulated() { 200 * MIB } else { 1024 * MIB });
        let before = audit::children();
        for round in 0..if common::emulated() { 12 } else { 50 } {
            let mut command = sh("exec tail /dev/zero");
            command.limits(Limits::new().memory(if round % 2 == 0 { 512 << 10 } else { 4 * MIB }));
            if round % 3 == 0 {
                command = other_rights(command);
            }
            match command.stderr(Stdio::null()).status() {
                Ok(status) => assert!(status.out_of_memory(), "{status}"),
                Err(err) => assert_eq!(err.kind(), ErrorKind::ResourceExhausted, "{err:?}"),
            }
        }
        assert!(intact(&held));
        assert_eq!(audit::children(), before);
    });
}

/// Looks at a byte of every page.
fn intact(held: &[u8]) -> bool {
    held.iter().step_by(4096).all(|byte| *byte == 1)
}

/// Waits on its input, so that it can be looked at.
fn waiting(limits: Limits) -> Child {
    sh("read line || true")
        .stdin(Stdio::piped())
        .limits(limits)
        .spawn()
        .unwrap_or_else(|err| panic!("{err:?}"))
}

fn status_line(pid: &str, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned()
}

#[test]
fn the_hosts_memory_is_not_charged_to_a_childs_cgroup() {
    require!(common::cgroup_controller("memory"));
    common::alone(|| {
        let held = hold(128 * MIB);
        for _ in 0..if common::emulated() { 5 } else { 20 } {
            let child = waiting(Limits::new().memory(512 * MIB));
            let memory = child.cgroup().unwrap().stats().unwrap().memory;
            assert!(memory.current.unwrap() < 32 * MIB, "{memory:?}");
        }
        assert_eq!(held.len() as u64, 128 * MIB);
    });
}

#[test]
fn the_hosts_processors_and_memory_nodes_stay() {
    require!(common::cgroup_controller("cpuset"));
    common::alone(|| {
        let names = ["Cpus_allowed_list:", "Mems_allowed_list:"];
        let state = || names.map(|name| status_line("self", name));
        let policy = || {
            fs::read_to_string("/proc/self/numa_maps")
                .unwrap_or_default()
                .lines()
                .map(|line| line.split(' ').nth(1).unwrap_or_default().to_owned())
                .collect::<BTreeSet<_>>()
        };
        let before = (state(), policy());
        for _ in 0..10 {
            let child = waiting(Limits::new().cpuset_cpus("0").cpuset_mems("0"));
            let its = status_line(&child.id().to_string(), "Cpus_allowed_list:");
            assert_eq!(its, "Cpus_allowed_list:\t0");
            assert_eq!((state(), policy()), before);
        }
        assert_eq!((state(), policy()), before);
    });
}

#[test]
fn scores_and_priorities_are_the_childs_alone() {
    common::alone(|| {
        let of = |pid: &str| {
            let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            let nice = stat.rsplit(") ").next().unwrap().split(' ').nth(16).unwrap().to_owned();
            (score.trim().to_owned(), nice)
        };
        let before = (of("self"), audit::state());
        for container in [false, true] {
            let mut command = sh("read line || true");
            command.stdin(Stdio::piped()).oom_score_adj(777).nice(7).umask(0o077);
            command.rlimit(Resource::Nofile, Rlimit::both(40));
            if container && common::user_namespaces().is_ok() {
                command.isolated();
            }
            let child = command.spawn().unwrap_or_else(|err| panic!("{err:?}"));
            assert_eq!(of(&child.id().to_string()), ("777".into(), "7".into()));
            assert_eq!((of("self"), audit::state()), before);
        }
    });
}

#[test]
fn absurd_limits_on_the_child_do_not_reach_the_host() {
    common::alone(|| {
        let held = hold(64 * MIB);
        let before = audit::snapshot();
        for resource in [
            Resource::As,
            Resource::Core,
            Resource::Cpu,
            Resource::Data,
            Resource::Fsize,
            Resource::Memlock,
            Resource::Nofile,
            Resource::Nproc,
            Resource::Sigpending,
            Resource::Stack,
        ] {
            for limit in [0, 1, 4096] {
                let mut command = Command::new("true");
                command.rlimit(resource, Rlimit::both(limit));
                for mut command in [command.clone(), other_rights(command)] {
                    // Success, failure or death: but it ends.
                    let _ = command.output();
                }
            }
        }
        before.assert_unchanged();
        assert!(intact(&held));
    });
}
