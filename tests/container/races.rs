//! Several who do things with the same containers at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use coracle::container::{Container, Phase};
use coracle::namespaces::Signal;
use coracle::{Engine, ErrorKind};

use crate::common::require;
use crate::scene;

const WHILE: Duration = Duration::from_secs(1);

#[test]
fn engines_open_while_others_fail_to_make_containers() {
    let scene = require!(scene("container-open-races"));
    let root = scene.dir.join("root");
    let first = scene.engine.container("box").name("taken").command(["true"]).create().unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let builder = scene.engine.container("box").name("taken").command(["true"]);
                while !over.load(Ordering::Relaxed) {
                    let err = builder.clone().create().unwrap_err();
                    assert_eq!(err.kind(), ErrorKind::AlreadyExists, "{err:#}");
                }
            });
        }
        let openers = [(); 3].map(|()| {
            scope.spawn(|| {
                let until = Instant::now() + WHILE;
                while Instant::now() < until {
                    if let Err(err) = Engine::open(&root) {
                        return Err(format!("{err:#}"));
                    }
                }
                Ok(())
            })
        });
        let opened = openers.map(|opener| opener.join().unwrap());
        over.store(true, Ordering::Relaxed);
        assert_eq!(opened, [const { Ok(()) }; 3]);
    });
    first.remove().unwrap();
    for left in ["staging", "trash", "names", "by-id"] {
        let left = std::fs::read_dir(root.join("containers").join(left)).unwrap();
        assert_eq!(left.count(), 0);
    }
    assert!(scene.engine.store().pins().unwrap().is_empty());
}

#[test]
fn engines_open_while_others_begin_to_look_after_containers() {
    let scene = require!(scene("container-open-and-start-races"));
    let root = scene.dir.join("root");
    let until = Instant::now() + 2 * WHILE;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while Instant::now() < until {
                    Engine::open(&root).unwrap();
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                while Instant::now() < until {
                    let engine = Engine::open(&root).unwrap();
                    let builder = engine.container("box").command(["true"]).remove_on_exit();
                    let container = builder.start().unwrap();
                    let marks = std::fs::read_dir(root.join("containers/supervisors")).unwrap();
                    assert!(marks.count() > 0);
                    assert!(container.wait().unwrap().success());
                }
            });
        }
    });
    assert!(scene.engine.containers().unwrap().is_empty());
}

#[test]
fn several_restart_one_at_once() {
    let scene = require!(scene("container-restarts-at-once"));
    let container = scene.engine.container("box").command(["sleep", "600"]).start().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..5).for_each(|_| container.restart(Duration::ZERO).unwrap()));
        }
    });
    assert_eq!(container.status().unwrap().phase, Phase::Running);
    container.remove_forced().unwrap();
}

#[test]
fn executing_in_one_that_ends_is_no_lack_of_a_program() {
    let scene = require!(scene("container-exec-races"));
    let builder = scene.engine.container("box").command(["sleep", "600"]);
    for round in 0..20 {
        let container = builder.clone().start().unwrap();
        // As another process would, which is no parent of it.
        let engine = Engine::open(scene.dir.join("root")).unwrap();
        let seen = engine.find(container.id().as_str()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_micros(100 * round));
                container.stop(Duration::ZERO).unwrap();
            });
            while let Err(err) = execute(&seen) {
                assert_eq!(err.kind(), ErrorKind::InvalidState, "{err:#}");
                if seen.status().unwrap().phase == Phase::Exited {
                    break;
                }
            }
        });
        container.remove().unwrap();
    }
}

#[test]
fn executing_in_one_whose_end_waits_for_others_is_no_lack_of_a_right() {
    let scene = require!(scene("container-exec-in-dying"));
    let container = scene.engine.container("box").command(["sleep", "600"]).start().unwrap();
    let engine = Engine::open(scene.dir.join("root")).unwrap();
    let seen = engine.find(container.id().as_str()).unwrap();
    // Its first process has neither namespaces nor memory from now on, and ends when this one is reaped.
    let guest = seen.exec(["sleep", "600"]).unwrap();
    container.kill(Signal::KILL).unwrap();
    for container in [&seen, &container] {
        let Err(err) = execute(container) else { unreachable!("it executes until it cannot") };
        assert_eq!(err.kind(), ErrorKind::InvalidState, "{err:#}");
    }
    drop(guest);
    container.wait().unwrap();
    container.remove().unwrap();
}

fn execute(container: &Container) -> coracle::Result<()> {
    loop {
        container.exec(["true"])?.wait()?;
    }
}
