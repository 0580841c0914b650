//! Processes that are killed because memory has run out, and how that is told.

use std::process::Command;
use std::time::{Duration, SystemTime};

use coracle::container::events::EventStream;
use coracle::container::{Container, ContainerBuilder, Phase, Resources};
use coracle::{Engine, MIB};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{Missing, alone, audit, cgroup_controller, require, root, rounds};
use crate::detached::{detach, until};
use crate::{Scene, scene};

const PATIENCE: Duration = Duration::from_secs(60);
/// Takes more than the limit.
const GREEDY: [&str; 4] = ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M"];
/// Its child is killed, the first time that it is started, and it goes on.
const SURVIVES: &str =
    "test -e /again || { : > /again; dd if=/dev/zero of=/dev/null bs=64M; }; sleep 600 & wait";

/// An engine whose containers can be given limits.
fn limited(name: &str) -> Result<Scene, Missing> {
    cgroup_controller("memory")?;
    scene(name)
}

fn small(scene: &Scene) -> ContainerBuilder {
    scene.engine.container("box").name("small").memory(16 * MIB)
}

fn listen(engine: &Engine) -> EventStream {
    engine.events().action("oom").action("die").listen().unwrap()
}

/// The action of the next event, and whose.
fn next(stream: &mut EventStream) -> (String, String) {
    let event = stream.next_timeout(PATIENCE).unwrap().expect("an event within a minute");
    (event.action.clone(), event.attributes["name"].clone())
}

/// What is told of ends and kills so far.
fn told(engine: &Engine, since: SystemTime) -> Vec<String> {
    let events = engine.events().since(since).until(SystemTime::now()).action("oom").action("die");
    events.into_iter().map(|event| event.unwrap().action).collect()
}

fn of(action: &str) -> (String, String) {
    (action.to_owned(), "small".to_owned())
}

/// Runs one more that is killed.
fn exec_greedy(container: &Container) {
    // Whoever comes before the last one's memory is free is killed at once.
    let used = || container.stats().unwrap().memory.current;
    until("memory is free", || used().is_none_or(|bytes| bytes < 8 * MIB));
    let executed = container.exec(GREEDY).unwrap().wait().unwrap();
    assert!(executed.out_of_memory(), "{executed}");
}

fn is_alive_and_told_of(container: &Container) {
    let status = container.status().unwrap();
    assert_eq!((status.phase, status.out_of_memory), (Phase::Running, true));
    assert_eq!(status.exit, None);
}

#[test]
fn one_goes_on_whose_child_is_killed() {
    let scene = require!(limited("memory-child"));
    let start = SystemTime::now();
    let mut stream = listen(&scene.engine);
    let container = small(&scene).command(["sh", "-c", SURVIVES]).start().unwrap();
    assert_eq!(next(&mut stream), of("oom"));
    is_alive_and_told_of(&container);
    // One that was executed is as good, and the next one is told of too.
    exec_greedy(&container);
    assert_eq!(next(&mut stream), of("oom"));
    container.stop(Duration::ZERO).unwrap();
    assert_eq!(next(&mut stream), of("die"));
    let status = container.status().unwrap();
    assert!(status.out_of_memory);
    assert!(!status.exit.unwrap().out_of_memory(), "that did not end it");
    assert_eq!(told(&scene.engine, start), ["oom", "oom", "die"]);
    // It is said of one run only.
    container.start().unwrap();
    assert!(!container.status().unwrap().out_of_memory);
    container.stop(Duration::ZERO).unwrap();
    assert!(!container.status().unwrap().out_of_memory);
    assert_eq!(told(&scene.engine, start), ["oom", "oom", "die", "die"]);
    container.remove().unwrap();
}

#[test]
fn one_whose_first_process_is_killed_is_told_of_once() {
    let scene = require!(limited("memory-first"));
    let start = SystemTime::now();
    let count = rounds(40);
    let container = small(&scene).command(GREEDY).create().unwrap();
    for _ in 0..count {
        container.start().unwrap();
        assert!(container.wait().unwrap().out_of_memory());
        assert!(container.status().unwrap().out_of_memory);
    }
    assert_eq!(told(&scene.engine, start), ["oom", "die"].repeat(count));
    container.remove().unwrap();
    // Nor is one forgotten that goes with its end.
    let start = SystemTime::now();
    small(&scene).command(GREEDY).remove_on_exit().start().unwrap().wait().unwrap();
    assert_eq!(told(&scene.engine, start), ["oom", "die"]);
}

#[test]
fn a_monitor_tells_too() {
    let scene = require!(limited("memory-detached"));
    let start = SystemTime::now();
    let mut stream = listen(&scene.engine);
    let container = small(&scene).command(["sh", "-c", SURVIVES]).create().unwrap();
    assert!(detach(&scene, "small").status().unwrap().success());
    assert_eq!(next(&mut stream), of("oom"));
    is_alive_and_told_of(&container);
    // The process that has started it is gone; another one sees and hears the same.
    let other = Engine::open(scene.dir.join("root")).unwrap();
    let mut stream = listen(&other);
    let found = other.find("small").unwrap();
    is_alive_and_told_of(&found);
    exec_greedy(&found);
    assert_eq!(next(&mut stream), of("oom"));
    found.stop(Duration::ZERO).unwrap();
    assert_eq!(told(&scene.engine, start), ["oom", "oom", "die"]);
    container.remove().unwrap();
}

#[test]
fn a_limit_that_comes_later_is_watched_too() {
    let scene = require!(limited("memory-later"));
    // What an ordinary user's containers are not limited in, they have no controller for.
    require!(root());
    let mut limit = Resources::default();
    limit.memory = Some(16 * MIB);
    for detached in [false, true] {
        let builder = scene.engine.container("box").name("small").command(["sleep", "600"]);
        let container = builder.create().unwrap();
        match detached {
            true => assert!(detach(&scene, "small").status().unwrap().success()),
            false => container.start().unwrap(),
        }
        let mut stream = listen(&scene.engine);
        container.update(&limit).unwrap();
        exec_greedy(&container);
        assert_eq!(next(&mut stream), of("oom"), "detached: {detached}");
        is_alive_and_told_of(&container);
        container.remove_forced().unwrap();
    }
}

#[test]
fn what_a_dead_host_could_not_tell_is_told_by_the_next() {
    const ROOT: &str = "CORACLE_TEST_MEMORY_ROOT";
    if let Some(root) = std::env::var_os(ROOT) {
        let engine = Engine::open(root).unwrap();
        let builder = engine.container("box").name("small").memory(16 * MIB);
        let _container = builder.command(["sleep", "600"]).start().unwrap();
        std::fs::write(engine.store().path().join("ready"), "").unwrap();
        std::thread::sleep(Duration::from_secs(600));
        return;
    }
    let scene = require!(limited("memory-killed"));
    let start = SystemTime::now();
    let name = std::thread::current().name().unwrap().to_owned();
    let mut host = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture"])
        .env(ROOT, scene.dir.join("root"))
        .spawn()
        .unwrap();
    until("it runs", || scene.dir.join("root/ready").exists());
    let container = scene.engine.find("small").unwrap();
    let id = Pid::from_raw(host.id().cast_signed());
    kill(id, Signal::SIGSTOP).unwrap();
    exec_greedy(&container);
    assert_eq!(told(&scene.engine, start), [""; 0]);
    host.kill().unwrap();
    host.wait().unwrap();
    let status = container.status().unwrap();
    assert_eq!((status.phase, status.out_of_memory), (Phase::Exited, true));
    assert_eq!(told(&scene.engine, start), ["oom", "die"]);
    container.remove().unwrap();
}

/// How many descriptors there are, and how many of them can tell that memory has run out.
fn descriptors() -> (usize, usize) {
    let all = audit::fds();
    let tells = |fd: &&String| fd.ends_with("[eventfd]") || fd.ends_with("memory.events");
    (all.len(), all.iter().filter(tells).count())
}

#[test]
fn it_takes_one_descriptor_where_memory_is_limited_and_leaves_none() {
    alone(|| {
        let scene = require!(limited("memory-descriptors"));
        scene.warm_up_with(|builder| builder.memory(16 * MIB));
        let before = audit::snapshot();
        let held = |builder: ContainerBuilder| {
            let container = builder.command(["sleep", "600"]).start().unwrap();
            let held = descriptors();
            container.remove_forced().unwrap();
            held
        };
        // The first one starts the engine's thread.
        held(small(&scene));
        let without = held(scene.engine.container("box").pids(20));
        let with = held(small(&scene));
        assert_eq!(with, (without.0 + 1, without.1 + 1));
        for _ in 0..rounds(20) {
            let mut stream = listen(&scene.engine);
            let container = small(&scene).command(["sh", "-c", SURVIVES]).start().unwrap();
            assert_eq!(next(&mut stream), of("oom"));
            container.remove_forced().unwrap();
            small(&scene).command(GREEDY).remove_on_exit().start().unwrap().wait().unwrap();
        }
        drop(scene);
        before.assert_unchanged();
    });
}
