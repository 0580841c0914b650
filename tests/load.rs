//! Many at once and many in turn, and nothing left of them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
mod matrix;

use std::fs;
use std::thread;
use std::time::Duration;

use common::{audit, require};
use coracle::namespaces::{Command, Namespaces, Stdio};

/// Resident memory of this process in KiB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim_end_matches("kB").trim().parse().unwrap()
}

/// How many memory mappings this process has.
fn mappings() -> usize {
    fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

/// The locks of id ranges that this process holds.
fn range_locks() -> usize {
    let own = format!(" {} ", std::process::id());
    let locks = fs::read_to_string("/proc/locks").unwrap();
    locks.lines().filter(|lock| lock.contains(&own)).count()
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

/// One that was joined may stay for a moment.
fn wait_for_threads(expected: usize) {
    for _ in 0..500 {
        if threads() <= expected {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs `body` twice, the second time under the eyes of the auditor: the first one fills caches.
fn leaves_nothing(mut body: impl FnMut()) {
    common::alone(|| {
        let threads = threads();
        body();
        wait_for_threads(threads);
        let before = audit::snapshot();
        let (memory, maps, locks) = (resident(), mappings(), range_locks());
        body();
        wait_for_threads(threads);
        before.assert_unchanged();
        assert_eq!(range_locks(), locks);
        assert!(mappings() < maps + 50, "{} mappings, before {maps}", mappings());
        assert!(resident() < memory + (8 << 10), "{} KiB resident, before {memory}", resident());
    });
}

#[test]
fn eight_threads_spawn_at_once() {
    leaves_nothing(|| {
        thread::scope(|scope| {
            for _ in 0..if common::emulated() { 3 } else { 8 } {
                scope.spawn(|| {
                    let sandbox = common::setup("load");
                    for _ in 0..common::rounds(5) {
                        for mut kind in matrix::kinds(&sandbox, &["true"]) {
                            kind.run();
                        }
                    }
                });
            }
        });
    });
}

#[test]
fn ten_thousand_run_in_turn() {
    leaves_nothing(|| {
        for round in 0..common::rounds(5000) {
            let mut command = Command::new("/bin/true");
            // Every tenth fails.
            let failing = round % 10 == 0;
            if failing {
                command = Command::new("/no/such/program");
            }
            match command.status() {
                Ok(status) => assert!(status.success() && !failing, "{status}"),
                Err(err) => assert!(failing, "{err:#}"),
            }
        }
    });
}

fn alive_at_once(count: usize, change: impl Fn(&mut Command)) {
    leaves_nothing(|| {
        let mut children = Vec::with_capacity(count);
        for _ in 0..count {
            let mut command = Command::new("sleep");
            command.arg("1000").stdin(Stdio::null());
            change(&mut command);
            children.push(command.spawn().unwrap_or_else(|err| panic!("{err:?}")));
        }
        assert_eq!(audit::children().len(), count);
        for child in &mut children {
            assert_eq!(child.try_wait().unwrap(), None);
        }
        // Half of them all at once, from the other end.
        for mut child in children.drain(count / 2..).rev() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(audit::children().len(), count / 2);
    });
}

#[test]
fn a_thousand_are_alive_at_once() {
    alive_at_once(common::rounds(1000), |_| {});
}

#[test]
fn many_containers_are_alive_at_once() {
    require!(common::user_namespaces());
    alive_at_once(common::rounds(200), |command| {
        // Network namespaces take the kernel long to remove.
        command.isolated().share(Namespaces::NETWORK);
    });
}

#[test]
fn many_limited_ones_are_alive_at_once() {
    require!(common::cgroup_controller("pids"));
    alive_at_once(common::rounds(200), |command| {
        command.limits(coracle::cgroups::Limits::new().pids(8));
    });
}
