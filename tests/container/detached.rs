//! Containers that outlive the process that starts them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use coracle::container::{Output, Phase, Restart};
use coracle::namespaces::Signal;

use crate::common::{alone, audit, require};
use crate::{Scene, example, scene};

/// The example `detach`, on a container of this engine.
pub fn detach(scene: &Scene, name: &str) -> Command {
    let mut command = Command::new(example("detach"));
    command.arg(scene.dir.join("root")).arg(name);
    command
}

/// Waits until it is true.
pub fn until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The process that looks after a container.
fn monitor(root: &Path, id: &str) -> i32 {
    let state = fs::read(root.join("containers/by-id").join(id).join("state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    i32::try_from(state["supervisor"]["pid"].as_i64().unwrap()).unwrap()
}

#[test]
fn it_goes_on_without_its_starter() {
    alone(|| {
        let scene = require!(scene("container-detached"));
        let root = scene.dir.join("root");
        scene.warm_up();
        let before = audit::snapshot();
        let builder = scene.engine.container("box").command(["sleep", "600"]);
        let container = builder.create().unwrap();
        assert!(detach(&scene, container.id().as_str()).status().unwrap().success());
        let status = container.status().unwrap();
        assert_eq!(status.phase, Phase::Running);
        let pid = monitor(&root, container.id().as_str());
        let (name, session) =
            (Path::new("/proc").join(pid.to_string()), nix::unistd::Pid::from_raw(pid));
        assert!(fs::read(name.join("cmdline")).unwrap().starts_with(b"coracle-monitor\0"));
        assert_eq!(fs::read_link(name.join("cwd")).unwrap(), Path::new("/"));
        assert_eq!(nix::unistd::getsid(Some(session)).unwrap(), session);
        assert!(container.exec(["true"]).unwrap().wait().unwrap().success());
        let attachment = container.attach().unwrap();
        container.kill(Signal::KILL).unwrap();
        assert_eq!(attachment.read().unwrap(), Output::Ended);
        assert_eq!(container.wait().unwrap().signal(), Some(Signal::KILL));
        until("the monitor ends", || !name.exists() || reap());
        container.remove().unwrap();
        drop((attachment, scene));
        reap();
        before.assert_unchanged();
    });
}

/// Orphans are this process's children here.
fn reap() -> bool {
    let flags = Some(nix::sys::wait::WaitPidFlag::WNOHANG);
    while nix::sys::wait::waitpid(None, flags).is_ok_and(|it| it.pid().is_some()) {}
    false
}

#[test]
fn its_monitor_starts_it_anew_and_dies_with_it() {
    let scene = require!(scene("container-detached-again"));
    let root = scene.dir.join("root");
    let script = "echo x >> /count; test $(wc -l < /count) = 3 && sleep 600";
    let builder =
        scene.engine.container("box").command(["sh", "-c", script]).restart(Restart::Always);
    let container = builder.create().unwrap();
    assert!(detach(&scene, container.id().as_str()).status().unwrap().success());
    until("it is started twice anew", || container.status().unwrap().restarts == 2);
    until("it runs", || container.status().unwrap().phase == Phase::Running);
    let pid = monitor(&root, container.id().as_str());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    until("it dies", || container.status().unwrap().phase == Phase::Exited);
    let status = container.status().unwrap();
    assert!(status.error.unwrap().contains("was killed"));
    container.remove().unwrap();
}

#[test]
fn what_its_policy_wants_to_run_is_due_when_its_supervisor_has_died() {
    let scene = require!(scene("container-due"));
    let root = scene.dir.join("root");
    let policies = [
        ("no", Restart::No),
        ("on-failure", Restart::OnFailure(3)),
        ("unless-stopped", Restart::UnlessStopped),
        ("always", Restart::Always),
    ];
    let due = || {
        let mut names: Vec<_> =
            scene.engine.due().unwrap().iter().map(|it| it.name().unwrap()).collect();
        names.sort_unstable();
        names
    };
    let all = policies.map(|(name, policy)| {
        let builder = scene.engine.container("box").name(name).command(["sleep", "600"]);
        builder.restart(policy).create().unwrap()
    });
    assert!(due().is_empty(), "none has ever run");
    for container in &all {
        assert!(detach(&scene, container.id().as_str()).status().unwrap().success());
    }
    assert!(due().is_empty(), "all run");
    for container in &all {
        let pid = nix::unistd::Pid::from_raw(monitor(&root, container.id().as_str()));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        until("it dies", || container.status().unwrap().phase == Phase::Exited);
    }
    assert_eq!(due(), ["always", "on-failure", "unless-stopped"]);
    // By hand, which this process does for those it has started too.
    for container in &all {
        container.start().unwrap();
        container.stop(Duration::ZERO).unwrap();
    }
    assert_eq!(due(), ["always"]);
    all.into_iter().for_each(|container| container.remove().unwrap());
}

#[test]
fn how_the_start_went_is_told() {
    let scene = require!(scene("container-detached-told"));
    let container =
        scene.engine.container("box").name("it").command(["/no/such"]).create().unwrap();
    let output = detach(&scene, "it").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.starts_with("Error: start the container it") && told.contains("/no/such"),
        "{told}"
    );
    assert_eq!(container.status().unwrap().phase, Phase::Created);
    container.remove().unwrap();

    let mut builder =
        scene.engine.container("box").name("it").command(["sh", "-c", "echo first; cat"]);
    builder.config_mut().stdin = true;
    builder.remove_on_exit().create().unwrap();
    let input = scene.dir.file("input", "second\n");
    let mut command = detach(&scene, "it");
    let output = command.arg("--attach").stdin(fs::File::open(input).unwrap()).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "first\nsecond\n");
    assert!(output.status.success());
    until("it is gone", || scene.engine.containers().unwrap().is_empty());

    // The tests' own program is none that could be a monitor.
    let container = scene.engine.container("box").command(["true"]).create().unwrap();
    let err = container.start_detached().unwrap_err();
    assert!(err.hint().is_some_and(|hint| hint.contains("run_if_requested")), "{err:?}");
    container.remove().unwrap();
}

#[test]
fn who_calls_a_monitor_by_hand_breaks_nothing() {
    use std::os::unix::process::CommandExt;
    for args in [&[][..], &["/"], &["/", "x", "1", "1", "0"], &["/nonexistent", "x", "y", "z", "1"]]
    {
        let mut command = Command::new(example("detach"));
        let output = command.arg0("coracle-monitor").args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    }
}
