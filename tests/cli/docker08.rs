//! The command list of docker 0.8, commands and options: here as today's docker has them, or refused with what to say today.
//! (Those of networks and of build come with these; what `cp` and registries do has tests of its own.)

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::common::{require, root};
use crate::life::Scene;
use crate::{command, fails, finish, lines, run};

/// Each command, with its options as --help shows them. A `?` marks what docker has dropped since.
const COMMANDS: &[(&str, &[&str])] = &[
    ("attach", &["--no-stdin", "--sig-proxy"]),
    ("commit", &["-m,", "-a,", "?--run"]),
    ("cp", &[]),
    ("diff", &[]),
    ("events", &["--since"]),
    ("export", &[]),
    ("history", &["-q,", "--no-trunc"]),
    ("images", &["-q,", "-a,", "--no-trunc", "?--viz", "--tree"]),
    ("import", &[]),
    ("info", &[]),
    ("inspect", &["-f,"]),
    ("kill", &["-s,"]),
    ("load", &[]),
    ("login", &["-u,", "-p,", "?-e"]),
    ("logs", &["-f,"]),
    ("port", &[]),
    ("ps", &["-a,", "-q,", "-s,", "-l,", "-n,", "--no-trunc", "?--since-id", "?--before-id"]),
    ("pull", &["?-t"]),
    ("push", &[]),
    ("restart", &["-t,"]),
    ("rm", &["-v,", "?-l"]),
    ("rmi", &[]),
    (
        "run",
        &[
            "-a,",
            "-c,",
            "--cidfile",
            "-d,",
            "--dns",
            "-e,",
            "--entrypoint",
            "-h,",
            "-i,",
            "--link",
            "?--lxc-conf",
            "-m,",
            "?-n",
            "--name",
            "--privileged",
            "--rm",
            "--sig-proxy",
            "-t,",
            "-u,",
            "-v,",
            "--volumes-from",
            "-w,",
        ],
    ),
    ("save", &[]),
    ("search", &["?-t", "?-s", "--no-trunc"]),
    ("start", &["-a,", "-i,"]),
    ("stop", &["-t,"]),
    ("tag", &["?-f"]),
    ("top", &[]),
    ("version", &[]),
    ("wait", &[]),
];

#[test]
fn every_command_and_option_is_there_or_has_left_word() {
    for (name, options) in COMMANDS {
        let help = finish(&mut command(&[name, "--help"]));
        assert_eq!(help.status, 0, "{name}: {help:?}");
        for option in *options {
            match option.strip_prefix('?') {
                Some(gone) => {
                    let words = help.out.split_whitespace();
                    assert_eq!(
                        words.filter(|it| it.trim_matches(',') == gone).count(),
                        0,
                        "{name} {gone}"
                    );
                    let ran = finish(&mut command(&[name, &format!("{gone}=1"), "a", "b"]));
                    assert!(ran.status == 125 || *name == "rm", "{name} {gone}: {ran:?}");
                }
                None => assert!(help.out.contains(&format!(" {option}")), "{name} {option}"),
            }
        }
    }
}

#[test]
fn who_uses_what_docker_has_dropped_is_told_what_to_say_today() {
    for (arguments, status, word) in [
        (&["-d"][..], 125, "there is no daemon"),
        (&["insert", "busybox:1", "http://192.0.2.1/x", "/x"], 1, "coracle cp"),
        (&["run", "--lxc-conf", "lxc.cgroup.x=1", "busybox:1"], 125, "no lxc"),
        (&["run", "-n", "false", "busybox:1"], 125, "--network none"),
        (&["run", "--networking=false", "busybox:1"], 125, "--network none"),
        (&["commit", "--run", "{\"Cmd\": []}", "one"], 125, "--change"),
        (&["images", "--viz"], 125, "--tree"),
        (&["login", "-e", "a@example", "registry.example"], 125, "by their names"),
        (&["ps", "--since-id", "one"], 125, "--filter since="),
        (&["ps", "--before-id", "one"], 125, "--filter before="),
        (&["pull", "-t", "1", "busybox"], 125, "NAME:TAG"),
        (&["search", "-t", "busybox"], 125, "is-automated"),
        (&["search", "--trusted", "busybox"], 125, "is-automated"),
        (&["search", "-s", "3", "busybox"], 125, "stars=N"),
        (&["tag", "-f", "busybox:1", "other"], 125, "anyway"),
        // One dash before a long name was out of use then already.
        (&["run", "-entrypoint=sh", "busybox:1"], 125, "-e"),
        (&["run", "-volumes-from=one", "busybox:1"], 125, ""),
    ] {
        let ran = finish(&mut command(arguments));
        assert_eq!(ran.status, status, "{arguments:?}: {ran:?}");
        assert!(ran.err.starts_with("Error: ") && ran.err.contains(word), "{arguments:?}: {ran:?}");
    }
}

#[test]
fn who_publishes_a_port_is_told_that_only_the_hosts_can_be_used() {
    for option in ["-p=80:80", "--publish=80", "-P", "--publish-all"] {
        for verb in ["run", "create"] {
            let ran = finish(&mut command(&[verb, option, "busybox:1"]));
            assert_eq!(ran.status, 125, "{verb} {option}: {ran:?}");
            assert!(ran.err.contains("--network host"), "{verb} {option}: {ran:?}");
        }
    }
}

#[test]
fn containers_are_made_with_the_options_of_then() {
    let scene = require!(Scene::new("cli-docker08-run"));
    let store = &scene.store;
    let file = scene.dir.join("cid");
    let cid = file.to_str().unwrap();
    let script = "echo $X $(busybox hostname) $(id -u) $PWD $(busybox head -n 1 /etc/resolv.conf); echo lost >&2";
    let options = [
        "-a",
        "stdout",
        "--cidfile",
        cid,
        "--dns",
        "192.0.2.1",
        "-e",
        "X=y",
        "--entrypoint",
        "sh",
        "-h",
        "box",
        "-i",
        "--name",
        "one",
        "--sig-proxy=false",
        "-u",
        "anna",
        "-v",
        "data:/v",
        "-v",
        "/nameless",
        "-w",
        "/tmp",
        "busybox:1",
        "-c",
        script,
    ];
    let one = lines(store, &[&["run"][..], &options].concat());
    assert_eq!(one, ["y box 1000 /tmp nameserver 192.0.2.1"]);
    let cid = std::fs::read_to_string(file).unwrap();
    assert_eq!(scene.picked("one", "{{.Id}}"), cid);

    // A link is told of in the environment, what is mounted there is mounted here.
    let script = "echo $DB_NAME $DB_ENV_A $DB_ENV_X $DB_ENV_PATH; test -d /v && test -d /nameless && echo both";
    let linked = ["--volumes-from", "one", "--link", "one:db", "--name", "two", "busybox:1"];
    let two = lines(store, &[&["run"][..], &linked, &["sh", "-c", script]].concat());
    assert_eq!(two, ["/two/db image y", "both"]);
    assert_eq!(scene.picked("two", "{{json .HostConfig.Links}}"), r#"["one:db"]"#);
    fails(store, &["run", "--link", "nobody:db", "busybox:1"], 125, &["no such container: nobody"]);
    fails(store, &["run", "--link", ":db", "busybox:1"], 125, &["CONTAINER[:ALIAS]"]);
    fails(store, &["rm", "-l", "two/db"], 1, &["links"]);

    let terminal =
        run(store, &["run", "--rm", "-t", "busybox:1", "sh", "-c", "test -t 1 && echo yes"]);
    assert_eq!(terminal.out, "yes\r\n");
    let mount = "busybox mount -t tmpfs none /tmp && echo mounted";
    let privileged = lines(store, &["run", "--rm", "--privileged", "busybox:1", "sh", "-c", mount]);
    assert_eq!(privileged, ["mounted"]);
    if root().is_ok() {
        let limited =
            ["run", "-d", "-c", "512", "-m", "64m", "--name", "small", "busybox:1", "true"];
        assert_eq!(lines(store, &limited).len(), 1);
        assert_eq!(scene.picked("small", "{{.HostConfig.Memory}}"), "67108864");
    }
}

#[test]
fn containers_live_by_the_commands_of_then() {
    let scene = require!(Scene::new("cli-docker08-life"));
    let store = &scene.store;
    let script = "trap 'exit 7' TERM; trap 'echo usr1' USR1; echo out; : > /new; \
                  until test -e /go; do echo tick; sleep 0.02; done; exit 5";
    let id = scene.detached(&["--name", "one"], script);
    // Attached, once something comes.
    let mut attached = command(&["attach", "--no-stdin", "--sig-proxy=false", "one"])
        .env("CORACLE_ROOT", store.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(attached.stdout.take().unwrap()).lines();
    assert!(said.next().is_some());
    assert_eq!(lines(store, &["kill", "-s", "USR1", "one"]), ["one"]);
    assert!(said.by_ref().any(|line| line.unwrap() == "usr1"));
    // It may be killed with the container that it lets end.
    let went = run(store, &["exec", "one", "sh", "-c", ": > /go"]);
    assert!(matches!(went.status, 0 | 137), "{went:?}");
    assert!(said.all(|line| line.unwrap() == "tick"));
    assert_eq!(attached.wait().unwrap().code(), Some(5));
    assert_eq!(lines(store, &["wait", "one"]), ["5"]);
    assert_eq!(lines(store, &["diff", "one"]), ["A /go", "A /new"]);
    assert_eq!(lines(store, &["logs", "-f", "one"])[0], "out");

    assert_eq!(lines(store, &["ps", "-q"]), [""; 0]);
    assert_eq!(lines(store, &["ps", "-a", "-q", "--no-trunc"]), [id.as_str()]);
    assert_eq!(lines(store, &["ps", "-l", "-q"]), lines(store, &["ps", "-n", "1", "-q"]));
    let sizes = lines(store, &["ps", "-a", "-s"]);
    assert!(sizes[0].ends_with("SIZE") && sizes[1].contains("0B (virtual "), "{sizes:?}");
    assert!(!lines(store, &["ps", "-a"])[0].contains("SIZE"));

    let made = ["-m", "the message", "-a", "the author", "one", "made:1"];
    assert!(lines(store, &[&["commit"][..], &made].concat())[0].starts_with("sha256:"));
    assert_eq!(
        lines(store, &["inspect", "-f", "{{.Author}} {{.Comment}}", "made:1"]),
        ["the author the message"]
    );
    assert_eq!(lines(store, &["history", "-q", "--no-trunc", "made:1"]).len(), 2);
    assert_eq!(lines(store, &["images", "-a", "-q", "--no-trunc"]).len(), 2);
    assert!(lines(store, &["images", "--tree"]).join("\n").contains("made:1"));
    assert_eq!(lines(store, &["tag", "made:1", "made:2"]), [""; 0]);
    let archive = scene.dir.join("archive.tar");
    let path = archive.to_str().unwrap();
    assert_eq!(run(store, &["save", "-o", path, "made:2"]).status, 0);
    assert_eq!(lines(store, &["rmi", "made:2"]), ["Untagged: made:2"]);
    assert_eq!(lines(store, &["load", "-i", path]), ["Loaded image: made:2"]);
    let exported = command(&["export", "one"]).env("CORACLE_ROOT", store.path()).output().unwrap();
    std::fs::write(&archive, exported.stdout).unwrap();
    assert!(lines(store, &["import", path, "flat:1"])[0].starts_with("sha256:"));
    assert_eq!(
        lines(store, &["run", "--rm", "flat:1", "sh", "-c", "test -e /new && echo there"]),
        ["there"]
    );

    // What it has written is there again, so that it ends at once.
    let again = run(store, &["start", "-a", "-i", "one"]);
    assert!(again.status == 5 && again.out == "out\n", "{again:?}");
    let id = scene.detached(&["--name", "two"], "trap 'exit 7' TERM; while :; do sleep 0.02; done");
    if root().is_ok() {
        assert!(lines(store, &["top", "two", "-eo", "pid,args"]).len() > 1);
    }
    assert_eq!(lines(store, &["port", "two"]), [""; 0]);
    assert_eq!(lines(store, &["restart", "-t", "30", "two"]), ["two"]);
    assert_eq!(lines(store, &["stop", "-t", "30", &id[..12]]), [&id[..12]]);
    assert_eq!(scene.picked("two", "{{.State.ExitCode}}"), "7");
    let events = lines(store, &["events", "--since", "1", "--until", "0s"]).join("\n");
    assert!(events.contains("container die ") && events.contains("name=one"), "{events}");
    assert_eq!(lines(store, &["rm", "-v", "one", "two"]), ["one", "two"]);
    assert!(lines(store, &["version"]).join("\n").contains("ersion"));
    assert!(!lines(store, &["info"]).is_empty());
}
