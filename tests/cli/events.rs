//! What happens, as the command line tells it, and beside docker's.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::common::archive::Tar;
use crate::common::{cgroup_controller, require, setup};
use crate::life::Scene;
use crate::{command, fails, finish, lines, run};

const LOOP: &str = "trap 'exit 7' TERM; while :; do sleep 0.02; done";

#[test]
fn they_are_told_as_they_happen_and_afterwards() {
    let scene = require!(Scene::new("cli-events"));
    let store = &scene.store;
    let mut follower = command(&["events", "--filter", "container=work"]);
    follower.env("CORACLE_ROOT", store.path()).stdout(Stdio::piped());
    let mut follower = follower.spawn().unwrap();
    let mut told = BufReader::new(follower.stdout.take().unwrap()).lines().map(Result::unwrap);
    // When it has begun to listen it tells the next of these.
    let probe = |name: &str| {
        lines(store, &["create", "--name", name, "busybox:1"]);
        lines(store, &["rm", name]);
    };
    let begun = thread::scope(|scope| {
        let first = scope.spawn(|| told.next().unwrap());
        while !first.is_finished() {
            probe("work");
        }
        first.join().unwrap()
    });
    assert!(begun.contains(" container ") && begun.contains("name=work)"), "{begun}");
    let id = scene.detached(&["--name", "work", "-l", "tier=low"], LOOP);
    lines(store, &["stop", "work"]);
    let expected = format!("Z container start {id} (image=busybox:1, name=work, tier=low)");
    let line = told.find(|line| line.contains(" start ")).unwrap();
    assert!(line.ends_with(&expected), "{line}");
    let rest: Vec<_> = told.by_ref().take(3).collect();
    assert!(rest[0].contains(" kill ") && rest[0].contains("signal=15"), "{rest:?}");
    assert!(rest[1].contains(" die ") && rest[1].contains("exitCode=7"), "{rest:?}");
    assert!(rest[2].contains(" stop "), "{rest:?}");
    follower.kill().unwrap();
    follower.wait().unwrap();

    let only = |more: &[&str]| {
        let base = ["events", "--since", "1h", "--until", "0s", "--filter", "label=tier=low"];
        lines(store, &[&base, more].concat())
    };
    let of = "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}";
    let [create, start, kill, die, stop] =
        ["create", "start", "kill", "die", "stop"].map(|action| format!("container {action} work"));
    assert_eq!(only(&["--format", of]), [create, start, kill, die.clone(), stop]);
    assert_eq!(only(&["--format", of, "--filter", "event=die"]), [die]);
    assert_eq!(only(&["--filter", "type=volume"]), [""; 0]);
    let json = only(&["--format", "json", "--filter", "event=start"]);
    let json: serde_json::Value = serde_json::from_str(&json[0]).unwrap();
    assert_eq!((&json["Actor"]["ID"], &json["status"]), (&id.into(), &"start".into()));
    assert_eq!(json["timeNano"].as_i64().unwrap() / 1_000_000_000, json["time"].as_i64().unwrap());
    let same =
        lines(store, &["system", "events", "--since", "1h", "--until", "0s", "-f", "event=stop"]);
    assert_eq!(
        same,
        lines(store, &["events", "--since", "1h", "--until", "0s", "-f", "event=stop"])
    );
    fails(store, &["events", "--filter", "bogus=1"], 1, &["invalid filter 'bogus'"]);
    fails(store, &["events", "--filter", "type=bogus"], 1, &["invalid filter"]);
    fails(store, &["events", "--since", "once"], 1, &["once"]);
    fails(store, &["events", "--format", "{{.Nonsense"], 1, &["template"]);
}

/// What was told since, without what is another's each time.
fn told(run: &dyn Fn(&[&str]) -> Vec<String>, ids: &[String]) -> Vec<String> {
    // Networks are told of by docker alone.
    let filters = ["-f", "type=container", "-f", "type=image", "-f", "type=volume"];
    // Docker leaves out what has happened in the same second.
    let until = SystemTime::now() + Duration::from_secs(2);
    let until = until.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().to_string();
    let mut lines = run(&[&["events", "--since", "1h", "--until", &until], &filters[..]].concat());
    // Before, docker was given the image.
    lines.drain(..lines.iter().position(|line| line.contains("volume create")).unwrap());
    // It tells of each use of a volume as if that made it.
    let mut made = false;
    lines.retain(|line| !line.contains("volume create") || !std::mem::replace(&mut made, true));
    let plain = |line: String| {
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.len() == "2024-01-02T03:04:05.000000000Z".len(), "{line}");
        let mut rest = rest.to_owned();
        for (number, id) in ids.iter().enumerate() {
            rest = rest.replace(id, &format!("ID{number}"));
        }
        // What is another's each time.
        match (rest.split_once("execID="), rest.split_once("reclaimed=")) {
            (Some((before, after)), _) => format!("{before}execID={}", &after[64..]),
            (_, Some((before, _))) => format!("{before}reclaimed="),
            _ => rest,
        }
    };
    lines.into_iter().map(plain).collect()
}

#[test]
fn they_are_dockers() {
    let scene = require!(Scene::new("cli-docker-events"));
    let dir = setup("cli-docker-events-daemon");
    let docker = require!(scene.docker(&dir));
    let store = &scene.store;
    let archive = dir.join("saved.tar");
    let archive = archive.to_str().unwrap();
    let tree = Tar::new().file("of", "the tree").end();
    let tree = dir.file("tree.tar", &tree);
    let tree = tree.to_str().unwrap();
    let theirs = |arguments: &[&str]| finish(docker.command(arguments).env("TZ", "UTC"));
    let ours = |arguments: &[&str]| run(store, arguments);
    let (mut their_ids, mut our_ids) = (Vec::new(), Vec::new());
    for arguments in [
        &["volume", "create", "data"][..],
        &[
            "create",
            "--network",
            "none",
            "--name",
            "one",
            "-l",
            "tier=low",
            "busybox:1",
            "sh",
            "-c",
            "exit 3",
        ],
        &["start", "one"],
        &["wait", "one"],
        &["rename", "one", "uno"],
        &["update", "--restart", "no", "uno"],
        &[
            "run",
            "-d",
            "--network",
            "none",
            "--init",
            "--name",
            "two",
            "-v",
            "data:/srv",
            "busybox:1",
            "sh",
            "-c",
            LOOP,
        ],
        &["exec", "two", "sh", "-c", "exit 4"],
        &["pause", "two"],
        &["unpause", "two"],
        &["commit", "-m", "news", "-a", "me", "two", "snap"],
        &["commit", "--pause=false", "two", "snap:2"],
        &["commit", "uno"],
        &["kill", "-s", "USR2", "uno"],
        &["restart", "two"],
        &["stop", "two"],
        // Of several, docker prunes now one first and now another.
        &["rm", "uno"],
        &["container", "prune", "-f"],
        &["rm", "two"],
        &["volume", "rm", "data"],
        &["volume", "prune", "-f"],
        &["tag", "busybox:1", "registry.example/team/app"],
        &["tag", "nobody", "app"],
        &["save", "-o", archive, "busybox:1", "registry.example/team/app"],
        &["rmi", "registry.example/team/app"],
        &["rmi", "snap:2"],
        &["load", "-i", archive],
        &["rmi", "-f", "nobody"],
        &["import", "-c", "LABEL a=b", tree, "flat:1"],
        &["rmi", "flat:1"],
        &["image", "prune", "-f"],
        &["import", tree],
    ] {
        let (theirs, ours) = (theirs(arguments), ours(arguments));
        assert_eq!(theirs.status, ours.status, "{arguments:?}: {theirs:?} {ours:?}");
        for (out, ids) in [(theirs.out, &mut their_ids), (ours.out, &mut our_ids)] {
            let id = out.trim().trim_start_matches("sha256:");
            ids.extend(Some(id.to_owned()).filter(|id| id.len() == 64));
        }
    }
    let output = |ran: crate::Ran| ran.out.lines().map(str::to_owned).collect::<Vec<_>>();
    let theirs = told(&|arguments| output(theirs(arguments)), &their_ids);
    let ours = told(&|arguments| output(ours(arguments)), &our_ids);
    assert_eq!(ours, theirs);
}

#[test]
fn one_that_runs_out_of_memory_is_told_of_as_dockers() {
    // Only when told to: docker's shim begins to watch the memory after the start, and before that sees nothing.
    const GREEDY: &str = "until [ -e /go ]; do busybox sleep 0.02; done; \
        busybox dd if=/dev/zero of=/dev/null bs=64M; sleep 600 & wait";
    const STATE: &str = "{{.State.OOMKilled}} {{.State.Running}} {{.State.ExitCode}}";
    require!(cgroup_controller("memory"));
    let scene = require!(Scene::new("cli-docker-memory"));
    let dir = setup("cli-docker-memory-daemon");
    let docker = require!(scene.docker(&dir));
    let theirs = |arguments: &[&str]| finish(docker.command(arguments).env("TZ", "UTC")).out;
    let ours = |arguments: &[&str]| lines(&scene.store, arguments).join("\n");
    let life = |run: &dyn Fn(&[&str]) -> String| {
        let limits = ["-m", "16m", "--memory-swap", "16m", "--network", "none", "--name", "it"];
        let made = [&["run", "-d"], &limits[..], &["busybox:1", "sh", "-c", GREEDY]].concat();
        let id = run(&made).trim().to_owned();
        run(&["exec", "it", "busybox", "touch", "/go"]);
        let end = Instant::now() + Duration::from_secs(60);
        let told = loop {
            let told = run(&["events", "--since", "1h", "--until", "0s", "-f", "event=oom"]);
            if let Some((_, told)) = told.trim().split_once(' ') {
                break told.replace(&id, "ID");
            }
            assert!(Instant::now() < end, "{}", run(&["inspect", "it"]));
            thread::sleep(Duration::from_millis(20));
        };
        let state = || run(&["inspect", "-f", STATE, "it"]).trim().to_owned();
        let meanwhile = state();
        run(&["kill", "it"]);
        run(&["wait", "it"]);
        (told, state(), meanwhile)
    };
    let (ours, theirs) = (life(&ours), life(&theirs));
    assert_eq!(ours.0, "container oom ID (image=busybox:1, name=it)");
    assert_eq!((&ours.0, &ours.1), (&theirs.0, &theirs.1));
    // Debian's docker says so only when it has ended, younger ones at once.
    assert_eq!(ours.2, "true true 0");
}
