//! Containers from start to end, by other command lines than the one that made them.

use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use coracle::image::Store;

use crate::common::engines::Docker;
use crate::common::{self, Sandbox, require, setup};
use crate::containers::runnable;
use crate::{command, fails, finish, lines, run};

/// A store, whose containers are removed in the end.
pub struct Scene {
    pub store: Store,
    pub dir: Sandbox,
}

impl Scene {
    pub fn new(name: &str) -> Result<Self, common::Missing> {
        let dir = setup(name);
        Ok(Self { store: runnable(&dir)?, dir })
    }

    /// Docker, with the same image. Its directory is not to lie in what the scene removes.
    pub fn docker(&self, dir: &Sandbox) -> Result<Docker, common::Missing> {
        let docker = Docker::start(dir, "overlay2")?;
        let archive = dir.join("image.tar");
        lines(&self.store, &["save", "-o", archive.to_str().unwrap(), "busybox:1"]);
        docker.load(&archive);
        Ok(docker)
    }

    /// Runs `sh -c script` in the background, with these options.
    pub fn detached(&self, options: &[&str], script: &str) -> String {
        let arguments = [&["run", "-d", "--init"], options, &["busybox:1", "sh", "-c", script]];
        let said = lines(&self.store, &arguments.concat());
        assert!(said.len() == 1 && said[0].len() == 64, "{said:?}");
        said[0].clone()
    }

    /// What a template picks of a container.
    pub fn picked(&self, name: &str, template: &str) -> String {
        lines(&self.store, &["container", "inspect", "-f", template, name]).join("\n")
    }

    /// Waits until a template picks this.
    pub fn until(&self, name: &str, template: &str, wanted: &str) {
        let end = Instant::now() + Duration::from_secs(60);
        while self.picked(name, template) != wanted {
            assert!(Instant::now() < end, "{name}: {}", self.picked(name, "{{json .State}}"));
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let all = run(&self.store, &["ps", "-aq"]).out;
        for id in all.lines() {
            run(&self.store, &["rm", "-f", id]);
        }
    }
}

#[test]
fn a_container_runs_in_the_background_and_obeys_others() {
    let scene = require!(Scene::new("cli-life"));
    let store = &scene.store;
    let script = "trap 'exit 7' TERM; trap 'echo usr1' USR1; while :; do sleep 0.02; done";
    let id = scene.detached(&["--name", "work", "-e", "B=c"], script);
    let format = "{{.ID}} {{.Image}} {{.Command}} {{.State}} {{.Names}}";
    let listed = format!("{} busybox:1 \"sh -c 'trap 'exit 7…\" running work", &id[..12]);
    assert_eq!(lines(store, &["ps", "--format", format]), [listed]);
    assert_eq!(lines(store, &["ps", "-q", "--no-trunc"]), [id.as_str()]);
    assert_eq!(
        lines(store, &["exec", "-e", "D=e", &id[..6], "sh", "-c", "echo $A $B $D"]),
        ["image c e"]
    );
    fails(store, &["start", "-a", "work"], 1, &["running already"]);
    assert_eq!(lines(store, &["start", "work"]), ["work"], "as docker has it");
    fails(store, &["rm", "work"], 1, &["it is running", "Hint: "]);
    assert_eq!(lines(store, &["rename", "work", "job"]), [""; 0]);
    fails(store, &["rename", "work", "x"], 1, &["no such container: work"]);
    fails(store, &["kill", "-s", "NONE", "job"], 1, &["NONE"]);
    assert_eq!(lines(store, &["kill", "--signal", "USR1", "job"]), ["job"]);
    assert_eq!(lines(store, &["stop", "job"]), ["job"]);
    assert_eq!(lines(store, &["wait", "job"]), ["7"]);
    assert_eq!(
        scene.picked("job", "{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}}"),
        "exited 7 0"
    );
    assert_eq!(lines(store, &["ps", "-q"]), [""; 0]);
    assert!(lines(store, &["ps", "-a"])[1].contains("Exited (7) "));
    fails(store, &["kill", "job"], 1, &["the container is exited"]);
    fails(store, &["exec", "job", "true"], 1, &["the container is exited"]);
    assert_eq!(lines(store, &["stop", "job"]), ["job"], "it is fine to stop it again");
    assert_eq!(lines(store, &["restart", "-t", "5", "job"]), ["job"]);
    scene.until("job", "{{.State.Running}}", "true");
    assert_eq!(lines(store, &["rm", "-f", "job"]), ["job"]);
    fails(store, &["inspect", "job"], 1, &["no such image: job"]);
    let ran = run(store, &["rm", "-f", "job"]);
    assert!(ran.status == 0 && ran.err.contains("no such container: job"), "{ran:?}");
    for verb in [
        "start", "stop", "restart", "kill", "wait", "pause", "unpause", "attach", "top", "port",
        "rm", "diff", "stats",
    ] {
        fails(store, &[verb, "nobody"], 1, &["no such container: nobody"]);
    }
}

#[test]
fn another_signal_can_ask_for_the_end() {
    let scene = require!(Scene::new("cli-stop-signal"));
    let store = &scene.store;
    let script = "trap 'echo asked; exit 9' USR2; echo ready; while :; do sleep 0.02; done";
    scene.detached(&["--name", "work"], script);
    let until_said = |said: &[&str]| {
        let end = Instant::now() + Duration::from_secs(60);
        while lines(store, &["logs", "work"]) != said {
            assert!(Instant::now() < end, "{:?}", run(store, &["logs", "work"]));
            thread::sleep(Duration::from_millis(20));
        }
    };
    until_said(&["ready"]);
    fails(store, &["stop", "-s", "NONE", "work"], 1, &["NONE"]);
    assert_eq!(lines(store, &["restart", "-s", "USR2", "-t", "60", "work"]), ["work"]);
    until_said(&["ready", "asked", "ready"]);
    assert_eq!(lines(store, &["stop", "--signal", "12", "-t", "60", "work"]), ["work"]);
    assert_eq!(scene.picked("work", "{{.State.ExitCode}}"), "9");
}

#[test]
fn wait_and_rm_do_with_several_what_they_can() {
    let scene = require!(Scene::new("cli-several"));
    let store = &scene.store;
    scene.detached(&["--name", "one"], "exit 1");
    scene.detached(&["--name", "two"], "kill -KILL $$");
    let ran = run(store, &["wait", "one", "nobody", "two"]);
    assert_eq!((ran.out.as_str(), ran.status), ("1\n137\n", 1), "{ran:?}");
    let ran = run(store, &["rm", "one", "nobody", "two"]);
    assert_eq!((ran.out.as_str(), ran.status), ("one\ntwo\n", 1), "{ran:?}");
    // One that was made only is waited for until somebody starts it.
    assert_eq!(
        lines(store, &["create", "--name", "three", "busybox:1", "sh", "-c", "exit 3"]).len(),
        1
    );
    assert_eq!(
        scene.picked("three", "{{.State.Status}} {{.State.StartedAt}}"),
        "created 0001-01-01T00:00:00Z"
    );
    let mut wait = command(&["wait", "three"]);
    let wait = wait.env("CORACLE_ROOT", store.path()).stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(run(store, &["start", "-a", "three"]).status, 3);
    assert_eq!(wait.wait_with_output().unwrap().stdout, b"3\n");
}

#[test]
fn streams_go_through_a_container_that_is_attached_to() {
    let scene = require!(Scene::new("cli-streams"));
    let store = &scene.store;
    let script = "echo out; echo err >&2; read line; echo got $line; exit 4";
    let with_input = |arguments: &[&str]| {
        let mut command = command(arguments);
        let input = scene.dir.file("input", "some words\n");
        finish(command.env("CORACLE_ROOT", store.path()).stdin(std::fs::File::open(input).unwrap()))
    };
    let run_it = ["run", "-i", "--name", "work", "busybox:1", "sh", "-c", script];
    let ran = with_input(&run_it);
    assert_eq!((&*ran.out, &*ran.err, ran.status), ("out\ngot some words\n", "err\n", 4));
    let ran = with_input(&["start", "-ai", "work"]);
    assert_eq!((&*ran.out, &*ran.err, ran.status), ("out\ngot some words\n", "err\n", 4));
    let only = ["run", "--rm", "-a", "stdout", "busybox:1", "sh", "-c", "echo out; echo err >&2"];
    let ran = run(store, &only);
    assert_eq!((&*ran.out, &*ran.err, ran.status), ("out\n", "", 0));
    // A megabyte there and back.
    let large = scene.dir.file("large", "0123456789abcdef".repeat(1 << 16));
    let mut cat = command(&["run", "--rm", "-i", "busybox:1", "cat"]);
    let cat = cat.env("CORACLE_ROOT", store.path()).stdin(std::fs::File::open(&large).unwrap());
    assert!(finish(cat).out == std::fs::read_to_string(large).unwrap());
    // By another process than the one that runs it.
    scene.detached(&["-i", "--name", "echo"], "while read line; do echo got $line; done; exit 5");
    let ran = with_input(&["attach", "echo"]);
    assert_eq!((&*ran.out, ran.status), ("got some words\n", 5), "{ran:?}");
    fails(store, &["attach", "echo"], 1, &["stopped container"]);
    // Signals, from here to there.
    let script = "trap 'echo term; exit 9' TERM; echo ready; while :; do sleep 0.02; done";
    let mut command = command(&["run", "--rm", "busybox:1", "sh", "-c", script]);
    let mut child =
        command.env("CORACLE_ROOT", store.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        line
    };
    assert_eq!(line(), "ready\n");
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(line(), "term\n");
    assert_eq!(child.wait().unwrap().code(), Some(9));
    assert_eq!(lines(store, &["ps", "-aq", "--filter", "status=exited"]).len(), 2);
}

#[test]
fn logs_tell_what_was_written_where_and_when() {
    let scene = require!(Scene::new("cli-logs"));
    let store = &scene.store;
    let script =
        "echo one; echo two >&2; echo three; until [ -e /go ]; do sleep 0.02; done; echo -n last";
    scene.detached(&["--name", "work", "--log-driver", "json-file"], script);
    let mut follow = command(&["logs", "-f", "work"]);
    follow.env("CORACLE_ROOT", store.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let follow = follow.spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while run(store, &["logs", "work"]).out != "one\nthree\n" {
        assert!(Instant::now() < end, "{:?}", run(store, &["logs", "work"]));
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(run(store, &["logs", "work"]).err, "two\n");
    assert_eq!(run(store, &["exec", "work", "sh", "-c", ": > /go"]).status, 0);
    let followed = follow.wait_with_output().unwrap();
    assert_eq!(
        (&followed.stdout[..], &followed.stderr[..]),
        (&b"one\nthree\nlast"[..], &b"two\n"[..])
    );
    let logs = |options: &[&str]| {
        let ran = run(store, &[&["logs"], options, &["work"]].concat());
        (ran.out, ran.err)
    };
    assert_eq!(logs(&["-n", "1"]), ("last".into(), String::new()));
    assert_eq!(logs(&["--tail=0", "--since", "1h"]), (String::new(), String::new()));
    assert_eq!(logs(&["--since", "1h", "--until", "2h"]), (String::new(), String::new()));
    assert_eq!(logs(&["--tail=all", "--since", "1h"]), ("one\nthree\nlast".into(), "two\n".into()));
    let timed = logs(&["-t"]).1;
    let (time, rest) = timed.split_once(' ').unwrap();
    assert!(time.starts_with("20") && time.ends_with('Z') && rest == "two\n", "{timed}");
    fails(store, &["logs", "nobody"], 1, &["no such container: nobody"]);
    fails(store, &["logs", "--since", "soon", "work"], 1, &["is no time"]);
    fails(store, &["logs", "--tail", "few", "work"], 125, &["number of lines"]);
    assert_eq!(
        run(store, &["run", "--name", "mute", "--log-driver", "none", "busybox:1", "true"]).status,
        0
    );
    fails(store, &["logs", "mute"], 1, &["log"]);
}

#[test]
fn containers_are_picked_by_filters_and_counts() {
    let scene = require!(Scene::new("cli-ps"));
    let store = &scene.store;
    let made = |name: &str, options: &[&str]| {
        lines(store, &[&["create", "--name", name], options, &["busybox:1"]].concat())[0].clone()
    };
    let one = made("one", &["-l", "tier=low", "-v", "data:/data"]);
    let two = made("two", &["-l", "tier=high", "--network", "host"]);
    assert_eq!(
        run(store, &["run", "--name", "three", "busybox:1", "sh", "-c", "exit 3"]).status,
        3
    );
    let names = |arguments: &[&str]| {
        lines(store, &[&["ps", "-a", "--format", "{{.Names}}"], arguments].concat()).join(" ")
    };
    assert_eq!(names(&[]), "three two one");
    for (filter, expected) in [
        ("id=", "three two one"),
        (&*format!("id={}", &one[..8]), "one"),
        ("name=o", "two one"),
        ("label=tier", "two one"),
        ("label=tier=low", "one"),
        ("status=exited", "three"),
        ("status=created", "two one"),
        ("exited=3", "three"),
        ("exited=0", ""),
        ("ancestor=busybox:1", "three two one"),
        ("before=two", "one"),
        ("since=two", "three"),
        ("volume=data", "one"),
        ("volume=/data", "one"),
        ("network=host", "two"),
    ] {
        assert_eq!(names(&["--filter", filter]), expected, "{filter}");
    }
    assert_eq!(
        names(&["-f", "status=exited", "-f", "status=created", "-f", "name=t"]),
        "three two"
    );
    assert_eq!(names(&["-n", "2"]), "three two");
    assert_eq!(names(&["--latest"]), "three");
    assert_eq!(lines(store, &["ps", "-aq", "--no-trunc"])[1], two);
    for wrong in ["colour=red", "status=asleep", "exited=x", "before=nobody", "network=bridge"] {
        fails(store, &["ps", "--filter", wrong], 1, &[]);
    }
    fails(store, &["ps", "--filter", "status"], 125, &["bad format of filter"]);
    let wide = lines(store, &["ps", "-a", "--no-trunc"]);
    assert!(wide[2].contains(&two) && wide[2].contains("echo $A $HOME"), "{wide:#?}");
    // What does not run goes, and what is left is told.
    fails(store, &["container", "prune", "--filter", "colour=red", "-f"], 1, &["colour"]);
    let gone = lines(store, &["container", "prune", "-f", "--filter", "label=tier=low"]);
    assert_eq!(gone[..3], ["Deleted Containers:", &one, ""]);
    assert!(gone.len() == 4 && gone[3].starts_with("Total reclaimed space: "), "{gone:?}");
    assert_eq!(lines(store, &["system", "prune", "-af"])[1..3].len(), 2);
    assert_eq!(names(&[]), "");
    assert!(store.images().unwrap().is_empty(), "nothing uses it any more");
}

#[test]
fn limits_freeze_and_use_are_those_of_the_cgroup() {
    let scene = require!(Scene::new("cli-cgroup"));
    require!(common::root());
    let store = &scene.store;
    let limits = ["--name", "work", "-m", "32m", "--cpus", "0.5", "--pids-limit", "50"];
    // Two processes at any moment.
    scene.detached(&limits, "sleep 1000 & while :; do sleep 0.02; done");
    let picked = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}";
    assert_eq!(scene.picked("work", picked), "33554432 500000000 50");
    let format = "{{.Name}}|{{.MemUsage}}|{{.NetIO}}";
    let stats = &lines(store, &["stats", "--no-stream", "--format", format])[0];
    assert!(stats.starts_with("work|") && stats.contains(" / 32MiB|"), "{stats}");
    assert_eq!(
        lines(store, &["update", "-m", "64m", "--restart", "on-failure:2", "work"]),
        ["work"]
    );
    let picked = "{{.HostConfig.Memory}} {{.HostConfig.RestartPolicy.MaximumRetryCount}}";
    assert_eq!(scene.picked("work", picked), "67108864 2");
    let stats = &lines(store, &["stats", "--no-stream", "--format", format, "work"])[0];
    assert!(stats.contains(" / 64MiB|"), "{stats}");
    fails(store, &["update", "work"], 1, &["one or more flags"]);
    fails(store, &["update", "-m", "x", "work"], 125, &["is no size"]);
    let top = lines(store, &["top", "work"]);
    // By their ids, which may begin anew between two.
    assert!(top[0].starts_with("UID") && top[1..].iter().any(|it| it.contains("sh")), "{top:#?}");
    let top = lines(store, &["top", "work", "-eo", "pid,comm"]);
    assert!(top[0].starts_with("PID ") && top.len() >= 3, "{top:#?}");
    fails(store, &["top", "work", "-eo", "comm"], 1, &["no column PID"]);
    assert_eq!(lines(store, &["pause", "work"]), ["work"]);
    assert!(lines(store, &["ps"])[1].contains("(Paused)"));
    for verb in [&["pause", "work"][..], &["exec", "work", "true"], &["attach", "work"]] {
        fails(store, verb, 1, &["paused"]);
    }
    assert_eq!(lines(store, &["unpause", "work"]), ["work"]);
    fails(store, &["unpause", "work"], 1, &["it is running"]);
    assert_eq!(lines(store, &["port", "work"]), [""; 0]);
    fails(store, &["port", "work", "80/tcp"], 1, &["no public port '80/tcp'"]);
}

/// What survives a client that is killed, which is told in the help of `run`.
#[test]
fn who_is_to_be_removed_does_not_outlive_its_client() {
    let scene = require!(Scene::new("cli-clients"));
    let store = &scene.store;
    let begin = |options: &[&str], name: &str| {
        let named = [&["run", "--name", name], options, &["busybox:1", "sleep", "1000"]].concat();
        let mut client = command(&named);
        client.env("CORACLE_ROOT", store.path()).stdin(Stdio::null());
        let client = client.stdout(Stdio::null()).spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        while run(store, &["ps", "-q", "-f", &format!("name={name}")]).out.is_empty() {
            assert!(Instant::now() < end, "{name} does not come up");
            thread::sleep(Duration::from_millis(20));
        }
        client
    };
    let mut clients = [begin(&[], "stays"), begin(&["--rm"], "goes")];
    // Others see no difference.
    assert_eq!(lines(store, &["exec", "goes", "sh", "-c", "echo in"]), ["in"]);
    for client in &mut clients {
        client.kill().unwrap();
        client.wait().unwrap();
    }
    let end = Instant::now() + Duration::from_secs(60);
    while !run(store, &["ps", "-aq", "-f", "name=goes"]).out.is_empty() {
        assert!(Instant::now() < end, "{:?}", run(store, &["ps", "-a"]));
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(scene.picked("stays", "{{.State.Running}}"), "true");
}
