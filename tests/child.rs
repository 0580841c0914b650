//! What can be asked of a running process, and of one that has ended.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use common::{audit, require};
use coracle::ErrorKind;
use coracle::namespaces::{Command, Signal, Stdio};
use nix::poll::{PollFd, PollFlags, PollTimeout};

const LONG: Duration = Duration::from_secs(60);

fn sh(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

fn sleeper() -> Command {
    let mut command = Command::new("sleep");
    command.arg("1000").stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Whether the pidfd says that it has ended.
fn readable(fd: impl AsFd, timeout: PollTimeout) -> bool {
    let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    nix::poll::poll(&mut polled, timeout).unwrap() == 1
}

#[test]
fn large_output_on_both_streams_is_complete() {
    let mut command =
        sh("head -c 10485760 /dev/zero >&2 & head -c 10485760 /dev/zero | tr '\\0' x; wait");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    assert_eq!((output.stdout.len(), output.stderr.len()), (10 << 20, 10 << 20));
    assert!(output.stdout == vec![b'x'; 10 << 20] && output.stderr == vec![0; 10 << 20]);
}

#[test]
fn input_goes_in_and_output_comes_out() {
    let mut child = sh("tr a-z A-Z").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = thread::spawn(move || stdin.write_all(&b"hello ".repeat(100_000)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(output.stdout, b"HELLO ".repeat(100_000));
}

#[test]
fn wait_closes_the_input_first() {
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    assert!(child.wait().unwrap().success());
    let output = Command::new("cat").stdin(Stdio::piped()).output().unwrap();
    assert_eq!(output.stdout, b"");
}

#[test]
fn a_reader_that_goes_away_is_a_broken_pipe_in_the_child_not_here() {
    let mut child = Command::new("yes").stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().signal(), Some(Signal::PIPE));
    // And the other way round: the host gets an error, no signal.
    let mut child = Command::new("true").stdin(Stdio::piped()).spawn().unwrap();
    assert!(readable(&child, PollTimeout::NONE));
    // A process that another test spawns just now has copies of all descriptors until it executes: the
    // pipe's last reader is gone a moment after the child. (64 KiB fill the pipe, so this ends.)
    let stdin = child.stdin.as_mut().unwrap();
    let failed = std::iter::repeat_with(|| {
        thread::sleep(Duration::from_millis(1));
        stdin.write_all(b"x")
    })
    .take(60_000)
    .find_map(Result::err);
    assert_eq!(failed.unwrap().kind(), std::io::ErrorKind::BrokenPipe);
    assert!(child.wait().unwrap().success());
}

#[test]
fn an_ended_process_says_the_same_every_time() {
    let mut child = sh("exit 9").spawn().unwrap();
    assert!(readable(&child, PollTimeout::NONE));
    for _ in 0..3 {
        assert_eq!(child.try_wait().unwrap().unwrap().code(), Some(9));
        assert_eq!(child.wait_timeout(Duration::ZERO).unwrap().unwrap().code(), Some(9));
        assert_eq!(child.wait().unwrap().code(), Some(9));
    }
    child.kill().unwrap();
    for _ in 0..2 {
        let err = child.signal(Signal::TERM).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidState, "{err:#}");
        let err = child.exec(&mut Command::new("true")).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidState, "{err:#}");
    }
}

#[test]
fn a_process_that_ended_unseen_is_in_the_wrong_state_too() {
    let ended = |mut command: Command| {
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        assert!(readable(&child, PollTimeout::NONE));
        let err = child.signal(Signal::TERM).map(|()| "signalled a zombie");
        // A zombie takes signals without effect; one that was reaped does not.
        assert!(err.is_ok() || err.is_err_and(|err| err.kind() == ErrorKind::InvalidState));
        let err = child.exec(&mut Command::new("true")).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidState, "{err:#}");
    };
    ended(sh("exit 0"));
    require!(common::user_namespaces());
    let mut command = sh("exit 0");
    command.isolated();
    ended(command);
}

#[test]
fn waiting_has_a_limit() {
    let mut child = sleeper().spawn().unwrap();
    assert_eq!(child.try_wait().unwrap(), None);
    assert_eq!(child.wait_timeout(Duration::ZERO).unwrap(), None);
    assert_eq!(child.wait_timeout(Duration::from_millis(30)).unwrap(), None);
    assert!(!readable(&child, PollTimeout::ZERO));
    child.signal(Signal::TERM).unwrap();
    assert_eq!(child.wait_timeout(LONG).unwrap().unwrap().signal(), Some(Signal::TERM));
    assert!(readable(&child, PollTimeout::ZERO));
    // A time beyond what the clock can count is no limit.
    let mut child = sh("exit 4").spawn().unwrap();
    assert_eq!(child.wait_timeout(Duration::MAX).unwrap().unwrap().code(), Some(4));
    let status = sh("exit 5").timeout(Duration::MAX).status().unwrap();
    assert_eq!(status.code(), Some(5));
}

#[test]
fn kill_works_once_and_again() {
    let mut child = sleeper().spawn().unwrap();
    child.kill().unwrap();
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(Signal::KILL));
    child.kill().unwrap();
}

#[test]
fn a_stopped_process_goes_on_and_is_killed_stopped() {
    let mut child = sh("kill -STOP $$; exit 3").spawn().unwrap();
    while !fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap().contains(") T ") {
        thread::yield_now();
    }
    assert_eq!(child.try_wait().unwrap(), None);
    child.signal(Signal::CONT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    let mut child = sh("kill -STOP $$; exit 3").spawn().unwrap();
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(Signal::KILL));
}

#[test]
fn drop_kills_and_reaps() {
    common::alone(|| {
        let child = sleeper().spawn().unwrap();
        let pidfd = child.as_fd().try_clone_to_owned().unwrap();
        assert!(!readable(&pidfd, PollTimeout::ZERO));
        drop(child);
        assert!(readable(&pidfd, PollTimeout::ZERO));
        assert_eq!(audit::children(), BTreeSet::new());
    });
}

#[test]
fn drop_kills_the_whole_container() {
    require!(common::user_namespaces());
    common::alone(|| {
        // A grandchild that left the session and holds the pipe.
        let mut command = sh("setsid sleep 1000 & echo started; wait");
        let mut child = command.isolated().stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut [0; 8]).unwrap();
        drop(child);
        // Ends only when the last writer is gone.
        assert_eq!(stdout.read(&mut [0]).unwrap(), 0);
        assert_eq!(audit::children(), BTreeSet::new());
    });
}

#[test]
fn a_detached_process_lives_on() {
    common::alone(|| {
        let child = sleeper().spawn().unwrap();
        let id = child.id();
        let pidfd = child.detach().unwrap();
        assert!(!readable(&pidfd, PollTimeout::ZERO));
        assert_eq!(audit::children(), BTreeSet::from([id]));
        let pid = nix::unistd::Pid::from_raw(id.cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
        assert!(readable(&pidfd, PollTimeout::NONE));
        nix::sys::wait::waitpid(pid, None).unwrap();
    });
}

#[test]
fn a_timeout_ends_a_wait_for_output_that_a_grandchild_holds_up() {
    common::alone(|| {
        // The shell ends well before the time; what it started keeps both pipes open. Plain: no namespace kills it.
        let start = Instant::now();
        let limit = common::time_limit(Duration::from_millis(500));
        let output = sh("sleep 1000 & echo $!").timeout(limit).output().unwrap();
        assert!(start.elapsed() < LONG);
        let grandchild = String::from_utf8(output.stdout).unwrap();
        // It ended by itself, before its time was up.
        assert!(output.status.success() && !output.status.timed_out(), "{}", output.status);
        let pid = nix::unistd::Pid::from_raw(grandchild.trim().parse().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
        nix::sys::wait::waitpid(pid, None).unwrap();
    });
}

#[test]
fn a_timeout_ends_everything_in_a_container() {
    require!(common::user_namespaces());
    common::alone(|| {
        let mut command =
            sh("trap '' TERM; setsid sh -c 'echo grandchild; exec sleep 1000' & wait");
        let command = command.isolated().timeout(Duration::from_secs(2));
        let output = command.output().unwrap();
        assert!(output.status.timed_out(), "{}", output.status);
        assert_eq!(output.stdout, b"grandchild\n");
        assert_eq!(output.status.to_string(), "killed: ran longer than 2s");
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        assert!(child.wait_timeout(LONG).unwrap().unwrap().timed_out());
        assert_eq!(audit::children(), BTreeSet::new());
    });
}

#[test]
fn exec_into_a_plain_process_is_as_plain() {
    let child = sleeper().env("A", "b").spawn().unwrap();
    let mut command = sh("echo $HOME; pwd; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status");
    let plain = command.output().unwrap();
    let inside = child.exec(command.stdout(Stdio::piped())).unwrap().wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&inside.stdout), String::from_utf8_lossy(&plain.stdout));
}

#[test]
fn exec_into_what_is_ending_is_an_error_or_a_short_life() {
    require!(common::user_namespaces());
    for _ in 0..common::rounds(100) {
        let mut child = Command::new("true").isolated().stdin(Stdio::null()).spawn().unwrap();
        match child.exec(&mut Command::new("true")) {
            // In time, or killed with the rest of its pid namespace.
            Ok(mut inside) => _ = inside.wait().unwrap(),
            Err(err) => assert_eq!(err.kind(), ErrorKind::InvalidState, "{err:#}"),
        }
        child.wait().unwrap();
    }
}

#[test]
fn usage_is_the_childs() {
    let count = if common::emulated() { 10_000 } else { 100_000 };
    let status =
        sh(&format!("i=0; while [ $i -lt {count} ]; do i=$((i+1)); done")).status().unwrap();
    let usage = status.usage().unwrap();
    assert!(usage.user_time > Duration::ZERO && usage.max_rss > 100 << 10, "{usage:?}");
}
