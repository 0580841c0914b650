//! What is told of containers and volumes, and to whom.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, SystemTime};

use coracle::container::events::{Event, EventKind, EventStream};
use coracle::container::{Container, Phase};
use coracle::image::{ConfigChanges, Filter, Import, Store};
use coracle::namespaces::{Command, Signal};
use coracle::{Engine, ErrorKind};
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::common::{require, root};
use crate::{Scene, scene};

const PATIENCE: Duration = Duration::from_secs(60);

/// All that has happened since.
fn told(engine: &Engine, since: SystemTime) -> Vec<Event> {
    let events = engine.events().since(since).until(SystemTime::now());
    events.into_iter().map(Result::unwrap).collect()
}

fn actions(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.action.as_str()).collect()
}

fn next(stream: &mut EventStream) -> Event {
    stream.next_timeout(PATIENCE).unwrap().unwrap()
}

#[test]
fn a_life_is_told_from_beginning_to_end() {
    let scene = require!(scene("events-life"));
    let start = SystemTime::now();
    let builder = scene.engine.container("box").name("web").label("tier", "a=b, \"c\"\n\u{1}");
    let script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.02; done";
    let container = builder.command(["sh", "-c", script]).volume("data", "/srv").create().unwrap();
    container.start().unwrap();
    let mut command = Command::new("sh");
    command.arg("-c").arg("exit 3");
    assert_eq!(container.exec_command(command).unwrap().wait().unwrap().code(), Some(3));
    container.kill(Signal::KILL).unwrap();
    container.wait().unwrap();
    let lines = || container.logs().unwrap().lines().unwrap().count();
    let before = lines();
    container.start().unwrap();
    // Nothing asks a first process to end that has no handler yet.
    while lines() == before {
        std::thread::sleep(Duration::from_millis(1));
    }
    container.rename("job").unwrap();
    drop(container.attach().unwrap());
    container.stop(PATIENCE).unwrap();
    container.commit("snapshot").run().unwrap();
    container.export(std::io::sink()).unwrap();
    let id = container.id().to_string();
    container.remove().unwrap();
    scene.engine.find_volume("data").unwrap().remove().unwrap();

    let mut events = told(&scene.engine, start);
    // When he is noticed to have left is another thread's business.
    let detached = events.iter().position(|event| event.action == "detach");
    detached.map(|at| events.remove(at));
    let expected = [
        "create",
        "create",
        "mount",
        "start",
        "exec_create: sh -c exit 3",
        "exec_start: sh -c exit 3",
        "exec_die",
        "kill",
        "die",
        "unmount",
        "mount",
        "start",
        "rename",
        "attach",
        "kill",
        "die",
        "unmount",
        "stop",
        "tag",
        "commit",
        "export",
        "destroy",
        "destroy",
    ];
    assert_eq!(actions(&events), expected);
    let of = |kind| events.iter().filter(move |event| event.kind == kind).collect::<Vec<_>>();
    let (containers, volumes) = (of(EventKind::Container), of(EventKind::Volume));
    assert!(containers.iter().all(|event| event.id == id && event.attributes["image"] == "box"));
    assert!(containers.iter().all(|event| event.attributes["tier"] == "a=b, \"c\"\n\u{1}"));
    assert!(volumes.iter().all(|event| event.id == "data"), "{volumes:?}");
    assert!(events.is_sorted_by_key(|event| event.time));
    assert!(events[0].time >= start && events[22].time <= SystemTime::now());
    let codes: Vec<_> = events.iter().filter_map(Event::exit_code).collect();
    assert_eq!(codes, [3, 128 + 9, 7]);
    let named = |at: usize, name: &str| events[at].attributes[name].clone();
    assert_eq!((named(1, "name"), named(21, "name")), ("web".to_owned(), "job".to_owned()));
    assert_eq!(named(12, "oldName"), "/web");
    assert_eq!((named(7, "signal"), named(14, "signal")), ("9".to_owned(), "15".to_owned()));
    assert_eq!((named(2, "container"), named(2, "destination")), (id, "/srv".to_owned()));
    assert_eq!(named(4, "execID"), named(6, "execID"));
}

#[test]
fn a_commit_is_told_with_what_it_has_made() {
    let scene = require!(scene("events-commit"));
    // To pause takes a cgroup, and an ordinary user may have none.
    require!(root());
    let builder = scene.engine.container("box").name("work").command(["sleep", "600"]);
    let container = builder.start().unwrap();
    let start = SystemTime::now();
    let changes = ConfigChanges::new().message("add \"app\"").author("me");
    let named = container.commit("snap").changes(changes.clone()).run().unwrap();
    let plain = container.commit("").pause(false).run().unwrap();
    let refused = container.commit("Bad Name").run().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    container.pause().unwrap();
    let paused = container.commit("snap:2").changes(changes).run().unwrap();
    assert_eq!(container.status().unwrap().phase, Phase::Paused, "it stays so");
    container.remove_forced().unwrap();

    let events: Vec<_> = told(&scene.engine, start)
        .into_iter()
        .filter(|event| event.kind == EventKind::Container)
        .collect();
    let expected = ["pause", "commit", "unpause", "commit", "pause", "unpause", "pause", "commit"];
    assert_eq!(actions(&events)[..8], expected);
    for (at, image, name, comment) in [
        (1, named, "snap:latest", "add \"app\""),
        (3, plain, "", ""),
        (7, paused, "snap:2", "add \"app\""),
    ] {
        let attributes = &events[at].attributes;
        let said = ["comment", "imageID", "imageRef", "name", "image"].map(|it| &attributes[it]);
        assert_eq!(said, [comment, &image.id().to_string(), name, "work", "box"]);
        assert_eq!(image.history().unwrap()[0].comment, comment);
    }
}

#[test]
fn one_that_ends_while_it_stands_still_for_a_commit_is_committed() {
    let scene = require!(scene("events-commit-killed"));
    require!(root());
    let script = "echo kept > /file; sleep 600";
    let container = scene.engine.container("box").command(["sh", "-c", script]).start().unwrap();
    while !container.exec(["test", "-s", "/file"]).unwrap().wait().unwrap().success() {}
    let start = SystemTime::now();
    let mut stream = scene.engine.events().listen().unwrap();
    // The commit waits for the store, with the container held, until that has ended.
    let lock = File::open(scene.dir.join("root/lock")).unwrap();
    let lock = Flock::lock(lock, FlockArg::LockExclusive).unwrap();
    let image = thread::scope(|scope| {
        let commit = scope.spawn(|| container.commit("snap").run());
        assert_eq!(next(&mut stream).action, "pause");
        container.kill(Signal::KILL).unwrap();
        assert_eq!(container.wait().unwrap().code(), None);
        drop(lock);
        commit.join().unwrap().unwrap()
    });
    assert_eq!(actions(&told(&scene.engine, start)), ["pause", "kill", "die", "tag", "commit"]);
    let mut files = Vec::new();
    image.export(&mut files).unwrap();
    let mut archive = tar::Archive::new(&files[..]);
    let mut entries = archive.entries().unwrap().map(Result::unwrap);
    assert!(entries.any(|entry| entry.path().unwrap().ends_with("file")));
    assert_eq!(container.status().unwrap().phase, Phase::Exited);
}

#[test]
fn what_is_done_to_images_is_told() {
    let scene = require!(scene("events-images"));
    let (engine, store) = (&scene.engine, scene.engine.store());
    let start = SystemTime::now();
    let tagged = store.tag("box", "registry.example/team/other:2").unwrap();
    let (mut archive, mut files) = (Vec::new(), Vec::new());
    store.save(["box", "registry.example/team/other:2"], &mut archive).unwrap();
    store.load(&archive[..]).unwrap();
    store.remove("registry.example/team/other:2").unwrap();
    store.image("box").unwrap().export(&mut files).unwrap();
    let changes = ConfigChanges::new().label("tier", "low").label("name", "of a label");
    let import = || Import::new(store).changes(changes.clone()).unpack(false);
    let flat = import().name("flat").read(&files[..]).unwrap();
    let rootfs = flat.rootfs().unwrap().read_only().unwrap();
    let child = store.commit(&rootfs, "flat").parent(&flat).message("child").run().unwrap();
    store.remove_forced(&child.id().to_string()).unwrap();
    let other = import().read(&files[..]).unwrap();
    let pruned = store.prune(&Filter::new().dangling(true)).unwrap();
    assert_eq!(pruned.images.len(), 2);
    // What fails, and what is done through a handle that is none of the engine's.
    store.tag("nobody", "x").unwrap_err();
    store.remove("nobody").unwrap_err();
    store.save(["nobody"], &mut Vec::new()).unwrap_err();
    store.load(&files[..]).unwrap_err();
    Store::open(scene.dir.join("root")).unwrap().tag("box", "silent").unwrap();

    let ids = [&tagged, &flat, &child, &other].map(|image| image.id().to_string());
    let [base, flat, child, other] = ids.each_ref().map(String::as_str);
    let events = told(engine, start);
    assert!(events.iter().all(|event| event.kind == EventKind::Image), "{events:?}");
    let line = |event: &Event| {
        let attribute = |name: &str| event.attributes.get(name).cloned().unwrap_or_default();
        [event.action.clone(), event.id.clone(), attribute("name"), attribute("tier")].join(" ")
    };
    let lines: Vec<_> = events.iter().map(line).collect();
    let mut expected = vec![
        format!("tag {base} registry.example/team/other:2 "),
        format!("save {base} {base} "),
        format!("load {base} {base} "),
        format!("untag {base} {base} "),
        format!("tag {flat} flat:latest low"),
        format!("import {flat} {flat} low"),
        format!("tag {child} flat:latest low"),
        format!("untag {child} {child} low"),
        format!("delete {child} {child} "),
        format!("import {other} {other} low"),
        format!("delete {other} {other} "),
        format!("delete {flat} {flat} "),
        "prune   ".to_owned(),
    ];
    assert_eq!(lines, expected);
    assert_ne!(events[12].attributes["reclaimed"], "0");

    let of = |wanted: &str| {
        let events = engine.events().since(start).until(SystemTime::now()).image(wanted);
        events.into_iter().map(|event| line(&event.unwrap())).collect::<Vec<_>>()
    };
    let by_name = [expected[4].clone(), expected[6].clone()];
    assert_eq!((of("flat"), of("flat:latest")), (by_name.to_vec(), by_name.to_vec()));
    assert_eq!(of("registry.example/team/other"), expected[..1]);
    assert_eq!(of(base), expected.drain(..4).collect::<Vec<_>>());
}

#[test]
fn a_prune_removes_what_nobody_uses_and_tells_what_that_took() {
    let scene = require!(scene("events-prune"));
    let engine = &scene.engine;
    let make = |name: &str, script: &str| {
        let builder = engine.container("box").name(name).command(["sh", "-c", script]);
        builder.volume(format!("of-{name}"), "/srv").create().unwrap()
    };
    let done = make("done", "dd if=/dev/zero of=/large bs=100k count=1");
    let fill = "dd if=/dev/zero of=/srv/large bs=200k count=1; chmod 700 /srv";
    let busy = make("busy", &format!("{fill}; while :; do sleep 1; done"));
    let (idle, spared) = (make("idle", "true"), make("spared", &format!("{fill}; chmod 0 /srv")));
    for container in [&done, &spared] {
        container.start().unwrap();
        assert!(container.wait().unwrap().success());
    }
    busy.start().unwrap();

    let start = SystemTime::now();
    let pruned = engine.prune_containers(|it| it.name().unwrap() != "spared").unwrap();
    let mut ids = [done.id().to_string(), idle.id().to_string()];
    ids.sort_unstable();
    let mut removed = pruned.removed.clone();
    removed.sort_unstable();
    assert_eq!((removed, pruned.failed.len()), (ids.to_vec(), 0));
    assert!((100 << 10..1 << 20).contains(&pruned.reclaimed), "{pruned:?}");
    let none = engine.prune_volumes(|it| it.name() == "of-busy").unwrap();
    assert_eq!((none.removed.len(), none.failed.len(), none.reclaimed), (0, 0, 0), "it is mounted");
    spared.remove().unwrap();
    let volumes = engine.prune_volumes(|it| it.name() != "of-idle").unwrap();
    assert_eq!(
        (&volumes.removed[..], volumes.failed.len()),
        (&["of-done", "of-spared"].map(String::from)[..], 0)
    );
    assert!((200 << 10..1 << 20).contains(&volumes.reclaimed), "{volumes:?}");
    assert!(busy.status().unwrap().phase.is_alive());
    assert!(engine.find_volume("of-idle").is_ok(), "it was not wanted");

    let events = told(engine, start);
    let prunes: Vec<_> = events.iter().filter(|event| event.action == "prune").collect();
    let (container, volume) = (EventKind::Container, EventKind::Volume);
    for (event, (kind, reclaimed)) in
        prunes.iter().zip([(container, pruned.reclaimed), (volume, 0), (volume, volumes.reclaimed)])
    {
        let attributes = [("reclaimed".to_owned(), reclaimed.to_string())].into();
        assert_eq!((event.kind, &event.id[..], &event.attributes), (kind, "", &attributes));
    }
    let expected =
        ["destroy", "destroy", "prune", "prune", "destroy", "destroy", "destroy", "prune"];
    assert_eq!(actions(&events), expected);
    busy.remove_forced().unwrap();
}

#[test]
fn listeners_are_woken_and_hear_only_what_comes() {
    let scene = require!(scene("events-listen"));
    let before = scene.engine.container("box").name("before").command(["true"]).create().unwrap();
    // Another handle, as another process has it.
    let other = Engine::open(scene.dir.join("root")).unwrap();
    let mut stream = other.events().action("create").kind(EventKind::Container).listen().unwrap();
    assert_eq!(stream.try_next().unwrap(), None);
    assert_eq!(stream.next_timeout(Duration::from_millis(1)).unwrap(), None);
    let mut all = other.events().listen().unwrap();
    let waiting = thread::spawn(move || (next(&mut stream), stream));
    let container = scene.engine.container("box").name("after").command(["true"]).create().unwrap();
    let (event, stream) = waiting.join().unwrap();
    assert_eq!((event.attributes["name"].as_str(), event.action.as_str()), ("after", "create"));
    assert!(!stream.is_finished());

    // Until it is empty, then when it is readable.
    assert_eq!(next(&mut all), event);
    assert_eq!(all.try_next().unwrap(), None);
    let readable = |timeout: u16| {
        let mut fds = [PollFd::new(all.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(timeout)).unwrap() == 1
    };
    assert!(!readable(0));
    container.remove().unwrap();
    assert!(readable(60_000));
    assert_eq!(next(&mut all).action, "destroy");
    before.remove().unwrap();
    assert_eq!(next(&mut all).attributes["name"], "before");
}

#[test]
fn conditions_choose() {
    let scene = require!(scene("events-filters"));
    let start = SystemTime::now();
    let make = |name: &str, labels: &[(&str, &str)]| {
        let builder = scene.engine.container("box").name(name).command(["true"]);
        let builder =
            labels.iter().fold(builder, |builder, (name, value)| builder.label(*name, *value));
        let container = builder.start().unwrap();
        container.wait().unwrap();
        container
    };
    let one = make("one", &[("tier", "low")]);
    let middle = SystemTime::now();
    let two = make("two", &[("tier", "high"), ("x", "")]);
    scene.engine.volume("data").unwrap();
    let all = || scene.engine.events().since(start).until(SystemTime::now());
    let names = |events: coracle::container::events::Events| {
        let line = |event: Event| {
            let name = event.attributes.get("name").cloned().unwrap_or_default();
            format!("{} {name}", event.action)
        };
        events.into_iter().map(|event| line(event.unwrap())).collect::<Vec<_>>()
    };
    let of = |name: &str| ["create", "start", "die"].map(|action| format!("{action} {name}"));
    let both = [of("one"), of("two")].concat();
    assert_eq!(names(all().kind(EventKind::Container)), both);
    assert_eq!(names(all().kind(EventKind::Volume)), ["create "]);
    assert_eq!(names(all().image("box")), both);
    assert_eq!(names(all().image("bo")), [""; 0]);
    assert_eq!(names(all().container("one")), of("one"));
    assert_eq!(names(all().container(two.id().short())), of("two"));
    assert_eq!(names(all().container("one").container("two")), both);
    assert_eq!(names(all().label("tier", None)), both);
    assert_eq!(names(all().label("tier", "low")), of("one"));
    assert_eq!(names(all().label("tier", "high").label("x", "")), of("two"));
    assert_eq!(names(all().label("tier", "low").label("x", None)), [""; 0]);
    assert_eq!(names(all().action("die").action("start").container("one")), of("one")[1..]);
    assert_eq!(names(all().volume("data")), ["create "]);
    assert_eq!(names(all().volume("date")), [""; 0]);
    assert_eq!(names(all().since(middle).kind(EventKind::Container)), of("two"));
    assert_eq!(names(all().until(middle)), of("one"));
    // One that lies ahead ends them too.
    let soon = SystemTime::now() + Duration::from_millis(200);
    let until = scene.engine.events().until(soon).into_iter();
    scene.engine.volume("late").unwrap();
    assert_eq!(until.map(|event| event.unwrap().id).collect::<Vec<_>>(), ["late"]);
    one.remove().unwrap();
    two.remove().unwrap();
}

/// A container whose events take 100 kB each.
fn bulky(scene: &Scene) -> Container {
    let builder = scene.engine.container("box").label("large", "x".repeat(100_000));
    builder.name("r").command(["true"]).create().unwrap()
}

/// Gives it the names from `prefix0` on, and so many.
fn rename(container: &Container, prefix: &str, count: usize) {
    (0..count).for_each(|number| container.rename(&format!("{prefix}{number}")).unwrap());
}

fn files(scene: &Scene) -> Vec<u64> {
    let files = fs::read_dir(scene.dir.join("root/containers/events")).unwrap();
    let name = |file: fs::DirEntry| file.file_name().into_string().unwrap().parse().unwrap();
    let mut files: Vec<_> = files.map(|file| name(file.unwrap())).collect();
    files.sort_unstable();
    files
}

#[test]
fn files_are_rotated_and_those_who_follow_miss_nothing() {
    let scene = require!(scene("events-rotated"));
    let container = bulky(&scene);
    let mut stream = scene.engine.events().listen().unwrap();
    let count = 70;
    let reader = thread::spawn(move || {
        let names = (0..count).map(|_| next(&mut stream).attributes["name"].clone());
        (names.collect::<Vec<_>>(), stream)
    });
    rename(&container, "r", count);
    let (names, mut stream) = reader.join().unwrap();
    assert_eq!(names, (0..count).map(|number| format!("r{number}")).collect::<Vec<_>>());
    assert_eq!(stream.try_next().unwrap(), None);
    let files = files(&scene);
    assert!(files.len() == 4 && files[0] > 20, "{files:?}");
}

#[test]
fn whoever_is_overtaken_is_told_of_how_many() {
    let scene = require!(scene("events-overtaken"));
    let container = bulky(&scene);
    let mut stream = scene.engine.events().listen().unwrap();
    rename(&container, "r", 100);
    let (mut seen, mut lost) = (Vec::new(), Vec::new());
    loop {
        match stream.try_next() {
            Ok(None) => break,
            Ok(Some(event)) => seen.push(event.attributes["name"].clone()),
            Err(err) => {
                assert_eq!(err.kind(), ErrorKind::ResourceExhausted, "{err:#}");
                let count: usize = err.to_string().split(' ').next().unwrap().parse().unwrap();
                lost.push((seen.len(), count));
            }
        }
    }
    let [(before, count)] = lost[..] else { panic!("{lost:?}") };
    assert_eq!(seen.len() + count, 100, "{seen:?}");
    assert_eq!(seen[before], format!("r{}", before + count));
    assert_eq!(seen.last().unwrap(), "r99");
    // And goes on.
    container.rename("last").unwrap();
    assert_eq!(next(&mut stream).attributes["name"], "last");
}

#[test]
fn several_write_at_once() {
    let scene = require!(scene("events-writers"));
    let mut stream = scene.engine.events().action("rename").listen().unwrap();
    let (writers, count) = (4, 40);
    let containers: Vec<_> = (0..writers)
        .map(|number| {
            let label = "x".repeat(40_000);
            // Each as another process.
            let engine = Engine::open(scene.dir.join("root")).unwrap();
            let builder = engine.container("box").name(format!("w{number}")).label("l", label);
            builder.command(["true"]).create().unwrap()
        })
        .collect();
    thread::scope(|scope| {
        for (number, container) in containers.iter().enumerate() {
            scope.spawn(move || rename(container, &format!("w{number}-"), count));
        }
        let mut expected = vec![0; writers];
        for _ in 0..writers * count {
            let name = next(&mut stream).attributes["name"].clone();
            let (writer, number) = name[1..].split_once('-').unwrap();
            let expected = &mut expected[writer.parse::<usize>().unwrap()];
            assert_eq!(number.parse(), Ok(*expected), "{name}");
            *expected += 1;
        }
    });
    assert_eq!(stream.try_next().unwrap(), None);
}

#[test]
fn what_a_killed_writer_has_left_is_no_event() {
    let scene = require!(scene("events-torn"));
    let start = SystemTime::now();
    let mut stream = scene.engine.events().listen().unwrap();
    scene.engine.volume("one").unwrap();
    let path = scene.dir.join("root/containers/events/0");
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"{\"time\":1,\"type\":\"volume\",\"action\":\"cre").unwrap();
    assert_eq!(next(&mut stream).id, "one");
    assert_eq!(stream.try_next().unwrap(), None);
    scene.engine.volume("two").unwrap();
    assert_eq!(next(&mut stream).id, "two");
    let ids: Vec<_> = told(&scene.engine, start).into_iter().map(|event| event.id).collect();
    assert_eq!(ids, ["one", "two"]);
    // Nor does anybody mind that all are taken away.
    fs::remove_file(&path).unwrap();
    scene.engine.volume("three").unwrap();
    let ids: Vec<_> = told(&scene.engine, start).into_iter().map(|event| event.id).collect();
    assert_eq!(ids, ["three"]);
}
