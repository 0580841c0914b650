//! Engines that are killed, and what the next one finds.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use coracle::Engine;
use coracle::ErrorKind;
use coracle::container::{Phase, Restart};

use crate::common::{alone, audit, require};
use crate::scene;

#[test]
fn damaged_and_future_files_are_told_and_can_be_removed() {
    let scene = require!(scene("container-damaged"));
    for (file, content, kind) in [
        ("state.json", "{", ErrorKind::Malformed),
        ("state.json", "", ErrorKind::Malformed),
        ("config.json", "[]", ErrorKind::Malformed),
        ("state.json", r#"{"version":99}"#, ErrorKind::Unsupported),
        ("config.json", r#"{"version":99}"#, ErrorKind::Unsupported),
        ("state.json", "missing", ErrorKind::Malformed),
        ("config.json", "missing", ErrorKind::Malformed),
    ] {
        let container =
            scene.engine.container("box").name("it").command(["true"]).create().unwrap();
        let directory = scene.dir.join("root/containers/by-id").join(container.id().as_str());
        match content {
            "missing" => std::fs::remove_file(directory.join(file)).unwrap(),
            _ => std::fs::write(directory.join(file), content).unwrap(),
        }
        // Others go on as ever.
        let engine = Engine::open(scene.dir.join("root")).unwrap();
        assert_eq!(engine.containers().unwrap().len(), 1);
        for err in [container.status().unwrap_err(), container.start().unwrap_err()] {
            assert_eq!(err.kind(), kind, "{err:#}");
            assert!(format!("{err:#}").contains(file), "{err:#}");
        }
        assert_eq!(container.clone().remove().unwrap_err().kind(), kind);
        // It is found by its name, which nobody else is given.
        assert_eq!(engine.find("it").unwrap().id(), container.id());
        let other = engine.container("box").name("it").command(["true"]).create();
        let other = other.unwrap_err();
        assert_eq!(other.kind(), ErrorKind::AlreadyExists, "{other:#}");
        container.remove_forced().unwrap();
        assert!(engine.containers().unwrap().is_empty());
        assert!(engine.store().pins().unwrap().is_empty());
    }
    let again = scene.engine.container("box").name("it").command(["true"]).create().unwrap();
    again.remove().unwrap();
}

/// The files of those that go when they end are not waited for: a machine that fails may leave them empty.
#[test]
fn what_goes_with_its_end_is_removed_when_the_machine_has_lost_its_files() {
    let scene = require!(scene("container-lost"));
    let containers = scene.dir.join("root/containers");
    for file in ["config.json", "state.json"] {
        let builder = scene.engine.container("box").command(["true"]);
        let gone = builder.clone().name("gone").remove_on_exit().create().unwrap();
        let kept = builder.name("kept").create().unwrap();
        for container in [&gone, &kept] {
            let directory = containers.join("by-id").join(container.id().as_str());
            std::fs::write(directory.join("state.json"), "").unwrap();
            if container.id() == gone.id() {
                std::fs::write(directory.join(file), "").unwrap();
            }
        }
        // Of processes that are dead, the second since it had begun to put things in order itself.
        for left in ["supervisors/1-1-0", "sockets/1-1-0", "sockets/1-1-1"] {
            std::fs::write(containers.join(left), "").unwrap();
        }
        let engine = Engine::open(scene.dir.join("root")).unwrap();
        let left: Vec<_> = engine.containers().unwrap().iter().map(|it| it.id().clone()).collect();
        assert_eq!(left, [kept.id().clone()], "{file}");
        for name in ["trash", "supervisors", "sockets"] {
            let mut left = std::fs::read_dir(containers.join(name)).unwrap();
            assert!(left.next().is_none(), "{name}");
        }
        // The name is free.
        engine.container("box").name("gone").command(["true"]).create().unwrap().remove().unwrap();
        kept.remove_forced().unwrap();
    }
}

#[test]
fn the_containers_of_a_killed_process_are_found_dead() {
    alone(|| {
        const ROOT: &str = "CORACLE_TEST_KILLED_ROOT";
        if let Some(root) = std::env::var_os(ROOT) {
            let engine = Engine::open(root).unwrap();
            let builder = engine.container("box").command(["sleep", "600"]);
            builder.clone().name("plain").start().unwrap();
            builder.clone().name("again").restart(Restart::Always).start().unwrap();
            builder.clone().name("gone").remove_on_exit().start().unwrap();
            builder.name("created").create().unwrap();
            std::fs::write(engine.store().path().join("ready"), "").unwrap();
            std::thread::sleep(Duration::from_secs(600));
        }
        let scene = require!(scene("container-killed"));
        scene.warm_up();
        let before = audit::snapshot();
        let root = scene.dir.join("root");
        let name = std::thread::current().name().unwrap().to_owned();
        let mut host = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &name, "--nocapture"])
            .env(ROOT, &root)
            .spawn()
            .unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while !root.join("ready").exists() {
            assert!(Instant::now() < until && host.try_wait().unwrap().is_none());
            std::thread::sleep(Duration::from_millis(10));
        }
        // What runs is seen from here.
        let plain = scene.engine.find("plain").unwrap();
        assert_eq!(plain.status().unwrap().phase, Phase::Running);
        assert!(plain.exec(["true"]).unwrap().wait().unwrap().success());
        assert_eq!(plain.wait_timeout(Duration::from_millis(20)).unwrap(), None);
        host.kill().unwrap();
        host.wait().unwrap();
        let engine = Engine::open(&root).unwrap();
        assert_eq!(engine.find("gone").unwrap_err().kind(), ErrorKind::NotFound);
        for name in ["plain", "again"] {
            let status = engine.find(name).unwrap().status().unwrap();
            assert_eq!((status.phase, status.pid), (Phase::Exited, None), "{name}");
            assert!(
                status.error.as_deref().is_some_and(|it| it.contains("was killed")),
                "{status:?}"
            );
        }
        assert_eq!(plain.wait().unwrap().signal(), Some(coracle::namespaces::Signal::KILL));
        assert_eq!(engine.find("created").unwrap().status().unwrap().phase, Phase::Created);
        plain.start().unwrap();
        plain.stop(Duration::ZERO).unwrap();
        for container in engine.containers().unwrap() {
            container.remove().unwrap();
        }
        for left in ["by-id", "names", "staging", "trash", "sockets"] {
            let dir = root.join("containers").join(left);
            let left: Vec<_> =
                std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert!(
                left.len() <= usize::from(left.iter().all(|it| it.to_string_lossy().contains('-'))),
                "{left:?}"
            );
        }
        drop((engine, plain, scene));
        // As their parent is dead, they have become this process's children.
        while nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG))
            .is_ok_and(|it| it.pid().is_some())
        {}
        before.assert_unchanged();
    });
}

/// A host that makes, starts, uses, stops and removes containers as fast as it can, until it is killed.
fn restless(root: &std::path::Path) {
    let engine = Engine::open(root).unwrap();
    std::fs::write(root.join("ready"), "").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let engine = &engine;
            scope.spawn(move || {
                for round in 0_u32.. {
                    let builder =
                        engine.container("box").command(["sleep", "600"]).volume("shared", "/v");
                    let name = format!("it-{thread}");
                    match round % 4 {
                        0 => {
                            let container = builder.name(name).start().unwrap();
                            let _ = container.exec(["true"]).unwrap().wait();
                            container.stop(Duration::ZERO).unwrap();
                            container.remove().unwrap();
                        }
                        1 => builder.name(name).start().unwrap().remove_forced().unwrap(),
                        2 => {
                            let builder =
                                engine.container("box").command(["true"]).remove_on_exit();
                            builder.name(name).start().unwrap().wait().unwrap();
                        }
                        _ => {
                            let container = builder.name(name).create().unwrap();
                            container.rename(&format!("that-{thread}")).unwrap();
                            container.start().unwrap();
                            container.restart(Duration::ZERO).unwrap();
                            container.remove_forced().unwrap();
                        }
                    }
                }
            });
        }
    });
}

/// `CORACLE_TEST_KILLS` says how often.
#[test]
fn whenever_the_host_is_killed_the_next_finds_everything_in_order() {
    const ROOT: &str = "CORACLE_TEST_RESTLESS_ROOT";
    if let Some(root) = std::env::var_os(ROOT) {
        return restless(root.as_ref());
    }
    let scene = require!(scene("container-kills"));
    let root = scene.dir.join("root");
    drop(scene.engine);
    let name = std::thread::current().name().unwrap().to_owned();
    let kills = std::env::var("CORACLE_TEST_KILLS").ok().and_then(|text| text.parse().ok());
    let kills = kills.unwrap_or_else(|| crate::common::rounds(40));
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let mut random = u64::from(seed.subsec_nanos());
    for kill in 0..kills {
        let _ = std::fs::remove_file(root.join("ready"));
        let mut host = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &name, "--nocapture"])
            .env(ROOT, &root)
            .stdout(std::process::Stdio::null())
            .stderr(std::fs::File::create(root.join("said")).unwrap())
            .spawn()
            .unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while !root.join("ready").exists() {
            let ended = host.try_wait().unwrap();
            let said = || std::fs::read_to_string(root.join("said")).unwrap();
            assert!(Instant::now() < until && ended.is_none(), "kill {kill}: {}", said());
            std::thread::sleep(Duration::from_millis(1));
        }
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_micros(random >> 33 & 0xffff));
        assert_eq!(
            host.try_wait().unwrap(),
            None,
            "{}",
            std::fs::read_to_string(root.join("said")).unwrap()
        );
        host.kill().unwrap();
        host.wait().unwrap();

        let ids: Vec<_> = ["by-id", "staging", "trash"]
            .iter()
            .flat_map(|name| std::fs::read_dir(root.join("containers").join(name)).unwrap())
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let engine = Engine::open(&root).unwrap();
        let all = engine.containers().unwrap();
        assert!(all.len() <= 2, "kill {kill}: {all:?}");
        for container in all {
            let status = container.status().unwrap();
            assert!(
                matches!(status.phase, Phase::Created | Phase::Exited),
                "kill {kill}: {status:?}"
            );
            let name = container.name().unwrap();
            assert_eq!(engine.find(&name).unwrap().id(), container.id(), "kill {kill}");
            let goes = container.config().unwrap().remove;
            if kill % 2 == 0 {
                container.start().unwrap();
                container.stop(Duration::ZERO).unwrap();
            }
            if kill % 2 == 0 && goes {
                // With its end, which is past; how soon is up to who looks after it.
                let until = Instant::now() + Duration::from_secs(60);
                let there = |name: &str| {
                    root.join("containers").join(name).join(container.id().as_str()).exists()
                };
                while there("by-id") || there("trash") {
                    assert!(Instant::now() < until, "kill {kill}: {:?}", container.status());
                    std::thread::sleep(Duration::from_millis(1));
                }
            } else {
                container.remove().unwrap();
            }
        }
        for left in ["by-id", "staging", "trash"] {
            let dir = root.join("containers").join(left);
            let left: Vec<_> =
                std::fs::read_dir(&dir).unwrap().map(|it| it.unwrap().path()).collect();
            assert!(left.is_empty(), "kill {kill}: {left:?}");
        }
        let pins = engine.store().pins().unwrap();
        assert!(pins.is_empty(), "kill {kill}: {pins:?}");
        drop(engine);
        let until = Instant::now() + Duration::from_secs(60);
        // The thread of the engine may be the last to have had a handle of it.
        while let Some(left) = ["supervisors", "sockets"]
            .iter()
            .find_map(|name| std::fs::read_dir(root.join("containers").join(name)).unwrap().next())
        {
            assert!(Instant::now() < until, "kill {kill}: {left:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        let named = |path: &PathBuf| {
            path.file_name()
                .is_some_and(|name| ids.iter().any(|id| name.to_string_lossy().ends_with(id)))
        };
        let left: Vec<_> = audit::cgroups().into_iter().filter(named).collect();
        assert!(left.is_empty(), "kill {kill}: {left:?}");
    }
    assert!(Engine::open(&root).unwrap().store().verify().unwrap().is_sound());
}
