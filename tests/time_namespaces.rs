//! Clocks of a process's own.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::time::Duration;

use common::require;
use coracle::ErrorKind;
use coracle::namespaces::{Clock, Command, Namespaces, Stdio};

const DAY: u64 = 86_400;

/// A time namespace is the caller's to make.
fn time_namespaces() -> Result<(), common::Missing> {
    common::kernel(5, 6)?;
    if !fs::exists("/proc/self/ns/time").unwrap_or(false) {
        return Err(common::Missing::new("time namespaces", "this kernel has none"));
    }
    common::containers()
}

fn uptime(text: &str) -> u64 {
    text.split('.').next().and_then(|seconds| seconds.parse().ok()).expect("a number of seconds")
}

fn host_uptime() -> u64 {
    uptime(&fs::read_to_string("/proc/uptime").unwrap())
}

fn uptime_in(command: &mut Command) -> u64 {
    let output = command.output().unwrap_or_else(|err| panic!("{err:?}"));
    uptime(&String::from_utf8(output.stdout).unwrap())
}

/// Further than the host has been up, which it may well be for more than a day.
fn assert_set_off(inside: u64, days: u64) {
    let expected = host_uptime() + days * DAY;
    assert!(expected.abs_diff(inside) < DAY / 2, "{inside} s, expected about {expected} s");
}

#[test]
fn boottime_is_set_forward() {
    require!(time_namespaces());
    let mut command = Command::new("cat");
    command.arg("/proc/uptime").isolated().time_offset(Clock::Boottime, Duration::from_secs(DAY));
    assert_set_off(uptime_in(&mut command), 1);
    // The host's own clock, and that of others, stay.
    assert_set_off(uptime_in(Command::new("cat").arg("/proc/uptime").isolated()), 0);
    command.copy_memory();
    assert_set_off(uptime_in(&mut command), 1);
}

#[test]
fn monotonic_time_is_set_forward() {
    require!(time_namespaces());
    require!(common::program("python3"));
    let mut command = Command::new("python3");
    command.args(["-c", "import time; print(time.clock_gettime(time.CLOCK_MONOTONIC))"]);
    command.isolated().time_offset(Clock::Monotonic, Duration::from_secs(2 * DAY));
    assert_set_off(uptime_in(&mut command), 2);
}

#[test]
fn clocks_go_without_another_root() {
    require!(time_namespaces());
    let mut command = Command::new("cat");
    command.arg("/proc/uptime").time_offset(Clock::Boottime, Duration::from_secs(DAY));
    if common::root().is_err() {
        command.unshare(Namespaces::USER);
    }
    assert_set_off(uptime_in(&mut command), 1);
}

#[test]
fn exec_and_join_enter_the_same_time() {
    require!(time_namespaces());
    let mut command = Command::new("sleep");
    command.arg("1000").isolated().time_offset(Clock::Boottime, Duration::from_secs(3 * DAY));
    let child = command.spawn().unwrap();
    let mut cat = Command::new("cat");
    let cat = child.exec(cat.arg("/proc/uptime").stdout(Stdio::piped())).unwrap();
    let output = cat.wait_with_output().unwrap();
    assert_set_off(uptime(&String::from_utf8(output.stdout).unwrap()), 3);

    let time = fs::File::open(format!("/proc/{}/ns/time", child.id())).unwrap();
    let mut command = Command::new("cat");
    command.arg("/proc/uptime").user_namespace(child.user_namespace().unwrap());
    command.join(Namespaces::TIME, time);
    assert_set_off(uptime_in(&mut command), 3);
}

#[test]
fn an_offset_that_the_kernel_would_misread_is_an_error() {
    require!(time_namespaces());
    for offset in [Duration::MAX, Duration::from_secs(u64::MAX >> 1), Duration::from_secs(1 << 33)]
    {
        let mut command = Command::new("true");
        let err = command.isolated().time_offset(Clock::Boottime, offset).spawn().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidInput, "{err:#}");
        assert!(format!("{err:#}").contains("clock"), "{err:#}");
    }
}
