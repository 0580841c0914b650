//! A scope delegated by the real systemd: the system's, asked by root, or a user's own, asked by that user.
//! tests/vm boots one.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command as Program, Stdio as ProgramStdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{Missing, audit, require};
use coracle::cgroups::{Bus, Cgroup, Limits, delegate_by_systemd};
use coracle::namespaces::{Command, Signal, Stdio};
use coracle::{ErrorKind, MIB};

/// How long systemd may take on the slowest machine before something counts as not happening.
const PATIENCE: Duration = Duration::from_secs(60);

/// Names the unit to a process that plays the host of containers.
const UNIT: &str = "CORACLE_TEST_UNIT";

/// The manager that this user may ask, if it runs.
fn systemd() -> Result<Bus, Missing> {
    let need = "systemd";
    if !Path::new("/run/systemd/system").is_dir() {
        return Err(Missing::new(need, "another program is process 1"));
    }
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Err(Missing::new(need, "it delegates nothing on cgroup version 1"));
    }
    if common::root().is_ok() {
        return Ok(Bus::System);
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).unwrap_or_default();
    if runtime.join("systemd/private").exists() {
        return Ok(Bus::User);
    }
    Err(Missing::new(need, "no manager runs for this user"))
}

fn no_systemd() -> Result<(), Missing> {
    if Path::new("/run/systemd/system").exists() {
        return Err(Missing::new("a machine without systemd", "it is process 1"));
    }
    Ok(())
}

fn systemctl(bus: Bus, args: &[&str]) -> String {
    let mut systemctl = Program::new("systemctl");
    if bus == Bus::User {
        systemctl.arg("--user");
    }
    let output = systemctl.args(args).output().unwrap();
    assert!(output.status.success(), "systemctl {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A property of the scope `unit`, as systemctl prints it.
fn property(bus: Bus, unit: &str, name: &str) -> String {
    let scope = format!("{unit}.scope");
    systemctl(bus, &["show", "--value", "--property", name, &scope]).trim().to_owned()
}

/// Waits for something that systemd or the kernel is about to do.
#[track_caller]
fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed() < PATIENCE, "waited in vain: {what}");
        sleep(Duration::from_millis(50));
    }
}

/// The v2 cgroup of this process, as a directory.
fn own_cgroup() -> PathBuf {
    let membership = fs::read_to_string("/proc/self/cgroup").unwrap();
    let path = membership.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    Path::new("/sys/fs/cgroup").join(path)
}

/// A process of its own that runs the calling test again, as the host of containers in the scope `unit`,
/// and is told and tells by lines.
struct Host {
    process: std::process::Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Host {
    /// Started with SIGTERM ignored, which stopping the scope sends to the host as well.
    fn start(unit: &str) -> Self {
        let thread = std::thread::current();
        let mut process = Program::new("env")
            .arg("--ignore-signal=TERM")
            .arg(format!("{UNIT}={unit}"))
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", thread.name().unwrap(), "--test-threads=1", "--nocapture"])
            .stdin(ProgramStdio::piped())
            .stdout(ProgramStdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    /// Waits for a line of the host that ends with `what`: libtest has printed the begin of the first.
    #[track_caller]
    fn says(&mut self, what: &str) {
        let mut said = Vec::new();
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            if line.ends_with(what) {
                return;
            }
            said.push(line);
        }
        panic!("the host did not say {what:?}, but {said:#?}");
    }

    #[track_caller]
    fn ends_well(mut self) {
        drop(self.process.stdin.take());
        let rest: Vec<_> = self.lines.by_ref().map(Result::unwrap).collect();
        let status = self.process.wait().unwrap();
        assert!(status.success(), "{status}: {rest:#?}");
    }
}

/// Waits, as the host, until the test wants it to end.
fn until_told() {
    std::io::stdin().lines().for_each(drop);
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// A name that no other test, process or earlier run uses.
fn unit(what: &str) -> String {
    format!("coracle-test-{what}-{}", std::process::id())
}

#[test]
fn a_scope_is_delegated_and_limits_in_it_hold() {
    let bus = require!(systemd());
    common::alone(|| {
        let unit = unit("limits");
        let leaf = delegate_by_systemd(bus, &unit).unwrap();
        assert_eq!(leaf, own_cgroup());
        let scope = leaf.parent().unwrap();
        assert_eq!(scope.file_name().unwrap().to_str().unwrap(), format!("{unit}.scope"));
        assert_eq!(property(bus, &unit, "Delegate"), "yes");
        assert_eq!(property(bus, &unit, "ActiveState"), "active");
        let group = property(bus, &unit, "ControlGroup");
        assert_eq!(Path::new("/sys/fs/cgroup").join(&group[1..]), scope);

        // The memory limit kills, inside of the scope.
        let cgroup = Cgroup::create("memory", &Limits::new().memory(24 * MIB)).unwrap();
        for path in cgroup.paths() {
            assert!(path.starts_with(scope), "{} is not in {}", path.display(), scope.display());
        }
        let mut hog = Command::new("/usr/bin/tail");
        let status = hog.arg("/dev/zero").isolated().cgroup(&cgroup).status().unwrap();
        assert_eq!(status.signal(), Some(Signal::KILL), "{status}");
        assert!(cgroup.stats().unwrap().memory.oom_kills.unwrap() >= 1);
        cgroup.delete().unwrap();

        // The limit on processes refuses.
        let cgroup = Cgroup::create("pids", &Limits::new().pids(2)).unwrap();
        let mut many = Command::new("/bin/sh");
        many.arg("-c").arg("sleep 60 & sleep 60 & sleep 60 & :").stderr(Stdio::null());
        many.isolated().cgroup(&cgroup).status().unwrap();
        assert!(cgroup.stats().unwrap().pids.refused.unwrap() >= 1);
        cgroup.delete().unwrap();

        // The limit on time holds back, where systemd hands the controller down.
        let controllers = fs::read_to_string(scope.join("cgroup.controllers")).unwrap();
        let limits = Limits::new().cpus(0.1);
        if controllers.split_whitespace().any(|name| name == "cpu") {
            let cgroup = Cgroup::create("cpu", &limits).unwrap();
            let mut busy = Command::new("/bin/sh");
            let mut busy = busy
                .arg("-c")
                .arg("while :; do :; done")
                .isolated()
                .cgroup(&cgroup)
                .spawn()
                .unwrap();
            eventually("a period to be cut short", || {
                cgroup.stats().unwrap().cpu.throttled_periods.unwrap() > 0
            });
            busy.kill().unwrap();
            busy.wait().unwrap();
        } else {
            let err = Cgroup::create("cpu", &limits).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Unsupported, "{err:?}");
        }
    });
}

#[test]
fn the_scope_goes_with_its_last_process() {
    let bus = require!(systemd());
    if let Ok(unit) = std::env::var(UNIT) {
        delegate_by_systemd(bus, &unit).unwrap();
        let mut command = Command::new("/bin/cat");
        let mut cat = command.isolated().stdin(Stdio::piped()).spawn().unwrap();
        say("delegated");
        until_told();
        drop(cat.stdin.take());
        assert!(cat.wait().unwrap().success());
        return;
    }
    let unit = unit("last");
    let mut host = Host::start(&unit);
    host.says("delegated");
    assert_eq!(property(bus, &unit, "ActiveState"), "active");
    let group = property(bus, &unit, "ControlGroup");
    host.ends_well();
    let directory = Path::new("/sys/fs/cgroup").join(&group[1..]);
    eventually("the scope to go", || {
        property(bus, &unit, "LoadState") == "not-found" && !directory.exists()
    });
}

#[test]
fn stopping_the_scope_ends_its_containers() {
    let bus = require!(systemd());
    if let Ok(unit) = std::env::var(UNIT) {
        delegate_by_systemd(bus, &unit).unwrap();
        // A program that is process 1 of its namespace and does not handle SIGTERM never sees it: that
        // takes an init.
        let mut command = Command::new("/bin/sleep");
        let mut sleeper = command.arg("1000").isolated().init().spawn().unwrap();
        say("delegated");
        let status = sleeper.wait().unwrap();
        assert_eq!(status.shell_code(), 128 + 15, "{status}");
        say("learned");
        until_told();
        return;
    }
    let unit = unit("stop");
    let mut host = Host::start(&unit);
    host.says("delegated");
    systemctl(bus, &["stop", "--no-block", &format!("{unit}.scope")]);
    host.says("learned");
    host.ends_well();
    eventually("the scope to go", || property(bus, &unit, "LoadState") == "not-found");
}

#[test]
fn a_name_in_use_and_a_manager_of_others_are_refused() {
    let bus = require!(systemd());
    if let Ok(unit) = std::env::var(UNIT) {
        delegate_by_systemd(bus, &unit).unwrap();
        say("delegated");
        return until_told();
    }
    let unit = unit("taken");
    let mut host = Host::start(&unit);
    host.says("delegated");
    let before = own_cgroup();
    let err = delegate_by_systemd(bus, &unit).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::AlreadyExists, "{err:?}");
    assert!(format!("{err:#}").contains(&format!("{unit}.scope")), "{err:#}");
    if bus == Bus::User {
        let err = delegate_by_systemd(Bus::System, &format!("{unit}-2")).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::PermissionDenied, "{err:?}");
    }
    assert_eq!(own_cgroup(), before);
    host.ends_well();
}

#[test]
fn nothing_but_the_scope_stays_in_the_host() {
    let bus = require!(systemd());
    common::alone(|| {
        let threads = || -> BTreeSet<_> {
            fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().file_name()).collect()
        };
        let (fds, threads_before) = (audit::fds(), threads());
        delegate_by_systemd(bus, &unit("leak")).unwrap();
        audit::assert_no_more("threads", &threads_before, threads);
        audit::assert_no_more("descriptors", &fds, audit::fds);
    });
}

#[test]
fn a_bus_that_is_not_there_is_told() {
    let bus = match require!(systemd()) {
        bus if std::env::var_os(UNIT).is_some() => bus,
        _ => {
            let mut env = Program::new("env");
            env.arg(format!("{UNIT}=none"))
                .arg("DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nonexistent")
                .arg("DBUS_SESSION_BUS_ADDRESS=unix:path=/nonexistent");
            return common::rerun(env);
        }
    };
    let err = delegate_by_systemd(bus, "coracle-test-nobody").unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unsupported, "{err:?}");
    assert!(format!("{err:#}").contains("/nonexistent"), "{err:#}");
    assert!(err.hint().is_some());
}

#[test]
fn without_systemd_it_is_unsupported() {
    require!(no_systemd());
    let err = delegate_by_systemd(Bus::System, "coracle-test-nobody").unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unsupported, "{err:?}");
    assert!(err.hint().is_some());
}
