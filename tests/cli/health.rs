//! Whether containers are well, as the command line tells it, and beside docker's.

use crate::common::{require, setup};
use crate::life::Scene;
use crate::{fails, finish, lines, run};

const LOOP: &str = "trap 'exit 7' TERM; while :; do sleep 0.02; done";
const STATE: &str = "{{.State.Health.Status}}";

#[test]
fn it_is_listed_filtered_and_inspected() {
    let scene = require!(Scene::new("cli-health"));
    let store = &scene.store;
    let often = ["--health-interval", "50ms", "--health-retries", "1"];
    let asked = |name: &str, line: &str, more: &[&str]| {
        let options = [&["--name", name, "--health-cmd", line], &often[..], more].concat();
        scene.detached(&options, LOOP);
    };
    asked("well", "echo fine", &["--health-timeout", "10s"]);
    asked("ill", "echo broken; exit 3", &[]);
    asked("early", "exit 1", &["--health-start-period", "1h", "--health-start-interval", "1h"]);
    scene.detached(&["--name", "silent", "--no-healthcheck"], LOOP);
    scene.until("well", STATE, "healthy");
    scene.until("ill", STATE, "unhealthy");
    let status = |filter: &str| {
        let format = "{{.Names}}: {{.Status}}";
        let listed = lines(store, &["ps", "--filter", filter, "--format", format]);
        // But for how long they have been up.
        let ends = |line: &String| {
            let (name, status) = line.split_once(": Up ").unwrap();
            let health = status.split_once('(').map_or("", |(_, health)| health);
            format!("{name} {}", health.trim_end_matches(')'))
        };
        listed.iter().map(ends).collect::<Vec<_>>()
    };
    assert_eq!(status("health=healthy"), ["well healthy"]);
    assert_eq!(status("health=unhealthy"), ["ill unhealthy"]);
    assert_eq!(status("health=starting"), ["early health: starting"]);
    assert_eq!(status("health=none"), ["silent "]);
    fails(store, &["ps", "--filter", "health=good"], 1, &["invalid filter"]);
    let log = scene.picked("ill", "{{json .State.Health.Log}}");
    let log: serde_json::Value = serde_json::from_str(&log).unwrap();
    assert_eq!((&log[0]["ExitCode"], &log[0]["Output"]), (&3.into(), &"broken\n".into()));
    assert_eq!(
        scene.picked("well", "{{json .Config.Healthcheck}}"),
        r#"{"Interval":50000000,"Retries":1,"Test":["CMD-SHELL","echo fine"],"Timeout":10000000000}"#
    );
    let told =
        ["events", "--since", "1h", "--until", "0s", "-f", "event=health_status", "--format"];
    let told = lines(store, &[&told[..], &["{{.Action}} {{.Actor.Attributes.name}}"]].concat());
    assert!(told.contains(&"health_status: healthy well".to_owned()), "{told:?}");
    assert!(told.contains(&"health_status: unhealthy ill".to_owned()), "{told:?}");
    // It takes a freezer.
    if run(store, &["pause", "well"]).status == 0 {
        assert_eq!(status("name=well"), ["well Paused"]);
    }
    for (options, words) in [
        (&["--no-healthcheck", "--health-cmd", "x"][..], "conflicts"),
        (&["--health-interval", "-1s"], "negative"),
        (&["--health-timeout", "1us"], "1ms"),
        (&["--health-start-period", "soon"], "1m30s"),
    ] {
        let arguments = [&["create"], options, &["busybox:1"]].concat();
        fails(store, &arguments, 125, &[words]);
    }
}

#[test]
fn it_is_dockers() {
    let scene = require!(Scene::new("cli-docker-health"));
    let dir = setup("cli-docker-health-daemon");
    let docker = require!(scene.docker(&dir));
    let make = |name: &str, line: &str| {
        let options =
            ["run", "-d", "--network", "none", "--init", "--name", name, "--health-interval", "1s"];
        let more = ["--health-timeout", "20s", "--health-retries", "2", "--health-cmd", line];
        [&options[..], &more, &["busybox:1", "sh", "-c", LOOP]]
            .concat()
            .iter()
            .map(|it| (*it).to_owned())
            .collect::<Vec<_>>()
    };
    let theirs = |arguments: &[&str]| finish(docker.command(arguments).env("TZ", "UTC"));
    let ours = |arguments: &[&str]| run(&scene.store, arguments);
    for (name, line) in [("well", "echo $A"), ("ill", "echo no >&2; exit 3")] {
        let arguments = make(name, line);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        assert_eq!((theirs(&arguments).status, ours(&arguments).status), (0, 0));
    }
    let until = |run: &dyn Fn(&[&str]) -> crate::Ran, name: &str, wanted: &str| {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while run(&["inspect", "-f", STATE, name]).out.trim() != wanted {
            assert!(std::time::Instant::now() < end, "{name} is not {wanted}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    for run in [&theirs as &dyn Fn(&[&str]) -> crate::Ran, &ours] {
        until(run, "well", "healthy");
        until(run, "ill", "unhealthy");
    }
    for arguments in [
        &[
            "inspect",
            "-f",
            "{{json .Config.Healthcheck.Test}} {{json .Config.Healthcheck.Interval}} {{json .Config.Healthcheck.Timeout}} {{json .Config.Healthcheck.Retries}}",
            "well",
        ][..],
        &["ps", "-a", "--filter", "health=unhealthy", "--format", "{{.Names}}"],
        &["ps", "-a", "--filter", "health=healthy", "--format", "{{.Names}}"],
        &["ps", "-a", "--filter", "health=none", "--format", "{{.Names}}"],
        &[
            "events",
            "--since",
            "1h",
            "--until",
            "0s",
            "--filter",
            "event=health_status",
            "--filter",
            "container=well",
            "--format",
            "{{.Action}}",
        ],
        &["create", "--no-healthcheck", "--health-cmd", "x", "busybox:1"],
    ] {
        let (theirs, ours) = (theirs(arguments), ours(arguments));
        assert_eq!(
            (&theirs.out, theirs.status == 0),
            (&ours.out, ours.status == 0),
            "{arguments:?}: {theirs:?} {ours:?}"
        );
    }
    let probe = |run: &dyn Fn(&[&str]) -> crate::Ran| {
        let log = run(&["inspect", "-f", "{{json .State.Health}}", "ill"]).out;
        let health: serde_json::Value = serde_json::from_str(&log).unwrap();
        let mut fields: Vec<_> = health.as_object().unwrap().keys().cloned().collect();
        fields.sort_unstable();
        let first = health["Log"][0].as_object().unwrap().clone();
        (
            fields,
            first.keys().cloned().collect::<Vec<_>>(),
            first["ExitCode"].clone(),
            first["Output"].clone(),
        )
    };
    assert_eq!(probe(&ours), probe(&theirs));
}
