//! The life of a container, from beginning to end.

use std::time::{Duration, Instant};

use coracle::ErrorKind;
use coracle::container::{Container, Output, Phase, Restart};
use coracle::image::ConfigChanges;
use coracle::namespaces::{Signal, TerminalSize};

use crate::common::{alone, audit, require};
use crate::scene;
use crate::waiting::block_on;

const GRACE: Duration = Duration::from_secs(5);

#[test]
fn it_is_made_started_stopped_started_again_and_removed() {
    alone(|| {
        let scene = require!(scene("container-life"));
        scene.warm_up();
        let before = audit::snapshot();
        let container =
            scene.engine.container("box").name("web").command(["sleep", "600"]).create().unwrap();
        let status = container.status().unwrap();
        assert_eq!((status.phase, status.pid, status.started), (Phase::Created, None, None));
        assert_eq!(container.wait().unwrap_err().kind(), ErrorKind::InvalidState);
        for _ in 0..2 {
            container.start().unwrap();
            let status = container.status().unwrap();
            assert_eq!((status.phase, status.exit.is_none()), (Phase::Running, true));
            assert!(status.pid.is_some() && status.started.is_some());
            let err = container.start().unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidState, "{err:#}");
            assert!(format!("{err:#}").contains("running already"), "{err:#}");
            assert_eq!(container.clone().remove().unwrap_err().kind(), ErrorKind::InvalidState);
            assert_eq!(container.wait_timeout(Duration::from_millis(10)).unwrap(), None);
            // sleep is pid 1 and has no handler for SIGTERM.
            container.stop(Duration::from_millis(100)).unwrap();
            let status = container.status().unwrap();
            assert_eq!((status.phase, status.pid), (Phase::Exited, None));
            assert_eq!(status.exit.unwrap().signal(), Some(Signal::KILL));
            container.stop(None).unwrap();
            assert_eq!(container.kill(Signal::TERM).unwrap_err().kind(), ErrorKind::InvalidState);
        }
        let id = container.id().clone();
        for name in ["web", id.as_str(), id.short(), &id.as_str()[..3]] {
            assert_eq!(scene.engine.find(name).unwrap().id(), &id, "{name}");
        }
        container.clone().remove().unwrap();
        assert_eq!(container.status().unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(scene.engine.find("web").unwrap_err().kind(), ErrorKind::NotFound);
        assert!(scene.engine.containers().unwrap().is_empty());
        assert!(scene.engine.store().pins().unwrap().is_empty());
        drop((container, scene));
        before.assert_unchanged();
    });
}

#[test]
fn how_it_ends_is_kept() {
    let scene = require!(scene("container-ends"));
    for (script, code) in
        [("exit 0", Some(0)), ("exit 7", Some(7)), ("kill -9 $$; exit 3", Some(3))]
    {
        // Nothing inside can kill pid 1 of its namespace.
        let container =
            scene.engine.container("box").command(["sh", "-c", script]).start().unwrap();
        assert_eq!(container.wait().unwrap().code(), code, "{script}");
        assert_eq!(container.status().unwrap().exit.unwrap().code(), code);
        container.remove().unwrap();
    }
    let container = scene.engine.container("box").command(["sleep", "60"]).start().unwrap();
    container.kill(Signal::KILL).unwrap();
    assert_eq!(container.wait().unwrap().signal(), Some(Signal::KILL));
    container.remove().unwrap();
}

#[test]
fn what_it_writes_stays_until_it_is_removed() {
    let scene = require!(scene("container-writes"));
    let script = "test -e /new && exit 5; echo x > /new; rm /data/of-the-image";
    let container = scene.engine.container("box").command(["sh", "-c", script]).start().unwrap();
    assert_eq!(container.wait().unwrap().code(), Some(0));
    let changes: Vec<_> = container.changes().unwrap().iter().map(ToString::to_string).collect();
    assert!(
        changes.contains(&"A /new".into()) && changes.contains(&"D /data/of-the-image".into()),
        "{changes:?}"
    );
    container.start().unwrap();
    assert_eq!(container.wait().unwrap().code(), Some(5));
    container.remove().unwrap();
}

#[test]
fn one_that_goes_when_it_ends_leaves_nothing() {
    let scene = require!(scene("container-gone"));
    let builder = scene.engine.container("box").command(["sh", "-c", "exit 3"]).remove_on_exit();
    for _ in 0..20 {
        let container = builder.clone().start().unwrap();
        assert_eq!(container.wait().unwrap().code(), Some(3));
        assert_eq!(container.status().unwrap_err().kind(), ErrorKind::NotFound);
    }
    assert!(scene.engine.containers().unwrap().is_empty());
    nothing_is_left(&scene);
}

#[test]
fn one_that_goes_when_it_ends_has_gone_when_that_is_told() {
    let scene = require!(scene("container-gone-with-much"));
    // Which takes a while to remove.
    let script = "mkdir /many; cd /many; mkdir $(seq 3000); exec sleep $0";
    let builder = scene.engine.container("box").remove_on_exit();
    let start = |then| builder.clone().command(["sh", "-c", script, then]).start().unwrap();
    assert!(start("0").wait().unwrap().success());
    nothing_is_left(&scene);
    assert!(block_on(start("0").exited()).unwrap().success());
    nothing_is_left(&scene);
    let container = start("600");
    let until = Instant::now() + Duration::from_secs(60);
    while container.exec(["test", "-d", "/many/3000"]).unwrap().wait().unwrap().code() != Some(0) {
        assert!(Instant::now() < until, "it does not come to it");
    }
    container.kill(Signal::KILL).unwrap();
    // By somebody else.
    while container.status().is_ok() {
        std::thread::yield_now();
    }
    container.stop(None).unwrap();
    nothing_is_left(&scene);
}

fn nothing_is_left(scene: &crate::Scene) {
    for left in ["by-id", "names", "staging", "trash"] {
        let dir = scene.dir.join("root/containers").join(left);
        assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0, "{left}");
    }
}

#[test]
fn it_is_started_anew_as_its_policy_says() {
    let scene = require!(scene("container-restart"));
    let script = "echo x >> /count; exit 3";
    let builder = scene.engine.container("box").command(["sh", "-c", script]);
    let container = builder.clone().restart(Restart::OnFailure(2)).start().unwrap();
    assert_eq!(container.wait().unwrap().code(), Some(3));
    let status = container.status().unwrap();
    assert_eq!((status.phase, status.restarts), (Phase::Exited, 2));
    container.remove().unwrap();

    let container = builder.restart(Restart::Always).start().unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while container.status().unwrap().restarts < 2 {
        assert!(Instant::now() < until, "{:?}", container.status());
        std::thread::sleep(Duration::from_millis(10));
    }
    container.stop(GRACE).unwrap();
    assert_eq!(container.status().unwrap().phase, Phase::Exited);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(container.status().unwrap().phase, Phase::Exited);
    container.remove().unwrap();
}

#[test]
fn names_are_unique_and_can_be_changed() {
    let scene = require!(scene("container-names"));
    let builder = scene.engine.container("box").command(["true"]);
    let one = builder.clone().name("one").create().unwrap();
    let err = builder.clone().name("one").create().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::AlreadyExists);
    assert!(format!("{err:#}").contains(one.id().short()), "{err:#}");
    assert_eq!(scene.engine.containers().unwrap().len(), 1);
    assert_eq!(
        scene.engine.store().pins().unwrap().len(),
        1,
        "the pin of the one that failed is gone"
    );
    for wrong in ["", "-x", "a/b", "../x"] {
        assert_eq!(
            builder.clone().name(wrong).create().unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
    }
    one.rename("two").unwrap();
    assert_eq!(one.name().unwrap(), "two");
    assert_eq!(scene.engine.find("one").unwrap_err().kind(), ErrorKind::NotFound);
    let other = builder.name("one").create().unwrap();
    assert_eq!(other.rename("two").unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(scene.engine.find("one").unwrap().id(), other.id());
    other.rename("one").unwrap();
    let err = scene.engine.find("").unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound);
    one.remove().unwrap();
    other.remove().unwrap();
}

#[test]
fn what_cannot_be_started_is_an_error_and_leaves_nothing() {
    alone(|| {
        let scene = require!(scene("container-unstarted"));
        scene.warm_up();
        let before = audit::snapshot();
        let engine = &scene.engine;
        assert_eq!(engine.container("nothing").create().unwrap_err().kind(), ErrorKind::NotFound);
        let err = engine.container("box").create().unwrap_err();
        assert!(err.hint().is_some_and(|hint| hint.contains("name the program")), "{err:?}");
        let err = engine.container("box").command(["/no/such"]).start().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::NotFound, "{err:#}");
        let err = engine.container("box").command(["/etc/passwd"]).start().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::PermissionDenied, "{err:#}");
        assert!(engine.containers().unwrap().is_empty());
        // One that was made first stays, and tells.
        let container = engine.container("box").command(["/no/such"]).create().unwrap();
        container.start().unwrap_err();
        let status = container.status().unwrap();
        assert_eq!(status.phase, Phase::Created);
        assert!(status.error.unwrap().contains("/no/such"));
        container.remove().unwrap();
        drop(scene);
        before.assert_unchanged();
    });
}

#[test]
fn a_paused_one_stands_still() {
    let scene = require!(scene("container-pause"));
    let script = "while :; do echo x >> /ticks; sleep 0.01; done";
    let container = scene.engine.container("box").command(["sh", "-c", script]).start().unwrap();
    if container.stats().is_err_and(|err| err.kind() == ErrorKind::Unsupported) {
        crate::common::Missing::new("a cgroup of one's own", "this user may make none").skip();
        return container.remove_forced().unwrap();
    }
    assert_eq!(container.unpause().unwrap_err().kind(), ErrorKind::InvalidState);
    container.pause().unwrap();
    assert_eq!(container.status().unwrap().phase, Phase::Paused);
    let err = container.exec(["true"]).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidState, "{err:#}");
    assert_eq!(container.pause().unwrap_err().kind(), ErrorKind::InvalidState);
    container.unpause().unwrap();
    assert!(container.exec(["true"]).unwrap().wait().unwrap().success());
    container.pause().unwrap();
    container.stop(GRACE).unwrap();
    assert_eq!(container.status().unwrap().phase, Phase::Exited);
    container.start().unwrap();
    container.pause().unwrap();
    container.remove_forced().unwrap();
}

#[test]
fn what_it_has_written_becomes_an_image_whoever_runs_it() {
    let scene = require!(scene("container-commit"));
    let script = "echo x > /new; rm /data/of-the-image; mkdir /d; chown 1000:1000 /d; sleep 600";
    let container = scene.engine.container("box").command(["sh", "-c", script]).create().unwrap();
    assert!(container.changes().unwrap().is_empty());
    let listed = |container: &Container| -> Vec<String> {
        container.changes().unwrap().iter().map(ToString::to_string).collect()
    };
    container.start().unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while !listed(&container).contains(&"A /d".to_owned()) {
        assert!(Instant::now() < until);
    }
    std::thread::sleep(Duration::from_millis(100));
    let other = coracle::Engine::open(scene.dir.join("root")).unwrap();
    let theirs = other.find(container.id().as_str()).unwrap();
    assert_eq!(listed(&theirs), listed(&container));
    let mut archives = Vec::new();
    for (container, name) in [(&container, "one"), (&theirs, "two")] {
        let changes = ConfigChanges::new().cmd(["cat", "/new"]);
        let image = container.commit(name).changes(changes).run().unwrap();
        assert_eq!(image.diff_ids().len(), 2);
        assert_eq!(container.status().unwrap().phase, Phase::Running);
        let run = scene.engine.container(name).start().unwrap();
        assert!(run.wait().unwrap().success());
        let line = run.logs().unwrap().into_iter().next().unwrap().unwrap();
        assert_eq!(line.to_string(), "x");
        run.remove().unwrap();
        let mut archive = Vec::new();
        container.export(&mut archive).unwrap();
        archives.push(archive);
    }
    assert!(archives[0] == archives[1], "{} and {} bytes", archives[0].len(), archives[1].len());
    let stack = scene.engine.store().image("two").unwrap().rootfs().unwrap().read_only().unwrap();
    crate::common::stack::inside(&stack, |root| {
        assert!(root.join("d").is_dir() && !root.join("data/of-the-image").exists());
    });
    container.remove_forced().unwrap();
}

#[test]
fn one_that_was_just_made_is_its_makers_until_it_is_started() {
    let scene = require!(scene("container-made"));
    let builder = scene.engine.container("box").command(["sleep", "600"]);
    let made = builder.clone().make().unwrap();
    let container = made.container().clone();
    assert_eq!(container.status().unwrap().phase, Phase::Created);
    std::thread::scope(|scope| {
        let other = container.clone();
        let removed = scope.spawn(move || other.remove());
        std::thread::sleep(Duration::from_millis(20));
        assert!(!removed.is_finished());
        let (started, attachment) = made.start_attached(TerminalSize::default()).unwrap();
        assert_eq!(removed.join().unwrap().unwrap_err().kind(), ErrorKind::InvalidState);
        started.kill(Signal::KILL).unwrap();
        while attachment.read().unwrap() != Output::Ended {}
    });
    container.remove().unwrap();

    // Whoever does not start it lets others do so.
    let made = builder.clone().make().unwrap();
    let container = made.container().clone();
    let state = scene.dir.join("root/containers/by-id").join(container.id().as_str());
    let state = || std::fs::read_to_string(state.join("state.json")).unwrap();
    assert!(!state().contains("\"supervisor\":null"), "{}", state());
    drop(made);
    assert!(state().contains("\"supervisor\":null"), "{}", state());
    container.start().unwrap();
    container.remove_forced().unwrap();

    let made = builder.command(["nothing"]).make().unwrap();
    let container = made.container().clone();
    assert_eq!(made.start().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(container.status().unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn the_end_of_a_container_that_is_gone_is_known_to_who_started_it() {
    let scene = require!(scene("container-gone"));
    for code in 0..20_i32 {
        let script = format!("exit {code}");
        let builder = scene.engine.container("box").command(["sh", "-c", &script]).remove_on_exit();
        let container = builder.start().unwrap();
        assert_eq!(container.wait().unwrap().code(), Some(code));
        container.stop(Duration::ZERO).unwrap();
        let another = scene.engine.find(container.id().as_str());
        assert_eq!(another.unwrap_err().kind(), ErrorKind::NotFound);
    }
    for _ in 0..20 {
        // Whether it has ended yet, and gone, nobody knows.
        let builder = scene.engine.container("box").command(["true"]).remove_on_exit();
        builder.start().unwrap().stop(Duration::ZERO).unwrap();
    }
    let container = scene.engine.container("box").command(["false"]).remove_on_exit();
    let container = container.create().unwrap();
    assert_eq!(container.command_line().unwrap(), ["false"]);
    let refused = container.set_restart(Restart::Always).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    let attachment = container.start_attached(TerminalSize::default()).unwrap();
    assert_eq!(attachment.exit_status(), None);
    while attachment.read().unwrap() != Output::Ended {}
    assert_eq!(attachment.exit_status().unwrap().code(), Some(1));
}
