//! What `run`, `create` and `exec` can be told of a container.

use std::fs;

use crate::common::{self, require};
use crate::life::Scene;
use crate::{fails, lines, run};

#[test]
fn what_a_container_finds_is_what_was_asked_for() {
    let scene = require!(Scene::new("cli-options"));
    let store = &scene.store;
    let sh = |options: &[&str], script: &str| {
        let arguments = [&["run", "--rm"], options, &["busybox:1", "sh", "-c", script]];
        lines(store, &arguments.concat()).join(" ")
    };
    let vars = scene.dir.file("vars", "# some\nX=1 2\nY=from the file\n");
    let vars = ["--env-file", vars.to_str().unwrap(), "-e", "Y=y"];
    assert_eq!(sh(&vars, "echo $X, $Y, $A"), "1 2, y, image");
    assert_eq!(sh(&["-e", "A"], "echo ${A-unset}"), "unset", "a bare name that is not set here");
    assert_eq!(sh(&["-eX=1", "-e=Y=2", "-iw/etc"], "echo $X $Y; pwd"), "1 2 /etc");
    let behind =
        ["run", "--rm", "busybox:1", "sh", "-c", "echo \"$@\"", "sh", "-e=X", "--rm", "--"];
    assert_eq!(lines(store, &behind), ["-e=X --rm --"]);
    for unknown in ["-Z", "--nonesuch"] {
        fails(store, &["run", "--rm", unknown, "busybox:1", "true"], 125, &[unknown]);
    }
    assert_eq!(sh(&["-u", "anna"], "id -u; id -g"), "1000 1000");
    assert_eq!(sh(&["-u", "7:8", "--group-add", "9"], "id -u; id -G"), "7 8 9");
    assert_eq!(sh(&["-u", "7:8", "--group-add", "staff"], "id -G"), "8 50");
    for (group, word) in [("nobody", "no group nobody"), ("7x", "digit")] {
        let arguments = ["run", "--rm", "--group-add", group, "busybox:1", "true"];
        fails(store, &arguments, 125, &[word]);
    }
    assert_eq!(sh(&["-w", "/new/dir"], "pwd"), "/new/dir");
    let names =
        ["-h", "box", "--domainname", "test", "--add-host", "db:192.0.2.7", "--dns", "192.0.2.1"];
    let script =
        "busybox hostname; busybox tail -n 1 /etc/hosts; busybox head -n 1 /etc/resolv.conf";
    assert_eq!(sh(&names, script), "box 192.0.2.7\tdb nameserver 192.0.2.1");
    assert_eq!(
        sh(
            &["--dns-search", "x.test", "--dns-opt", "ndots:2"],
            "busybox grep -c -e x.test -e ndots /etc/resolv.conf"
        ),
        "2"
    );
    assert_eq!(sh(&["--ulimit", "nofile=100:200"], "ulimit -Sn; ulimit -Hn"), "100 200");
    assert_eq!(
        sh(&["--sysctl", "net.ipv4.ip_forward=1"], "cat /proc/sys/net/ipv4/ip_forward"),
        "1"
    );
    assert_eq!(
        sh(
            &["--shm-size", "1m"],
            "busybox df -k /dev/shm | busybox tail -n 1 | busybox awk '{print $2}'"
        ),
        "1024"
    );
    let capabilities = "busybox grep CapEff /proc/self/status";
    assert_eq!(sh(&["--cap-drop", "ALL"], capabilities), "CapEff:\t0000000000000000");
    assert_eq!(
        sh(&["--cap-drop", "all", "--cap-add", "CHOWN"], capabilities),
        "CapEff:\t0000000000000001"
    );
    let new_privileges = "busybox grep NoNewPrivs /proc/self/status";
    assert_eq!(sh(&[], new_privileges), "NoNewPrivs:\t1");
    assert_eq!(
        sh(&["--security-opt", "no-new-privileges:false"], new_privileges),
        "NoNewPrivs:\t0"
    );
    let seccomp = "busybox grep Seccomp: /proc/self/status";
    assert_eq!(sh(&["--security-opt", "seccomp=unconfined"], seccomp), "Seccomp:\t0");
    let profile = scene.dir.join("profile.json");
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}"#;
    std::fs::write(&profile, text).unwrap();
    let profile = format!("seccomp={}", profile.display());
    let made = "busybox mkdir /new 2>&1 | busybox grep -c 'No space left'; busybox grep -c Seccomp:.2 /proc/self/status";
    assert_eq!(sh(&["--security-opt", &profile], made), "1 1");
    assert_eq!(sh(&["--security-opt", "seccomp=builtin"], seccomp), "Seccomp:\t2");
    for option in ["apparmor=unconfined", "label=disable"] {
        assert_eq!(sh(&["--security-opt", option], "echo fine"), "fine");
    }
    assert_eq!(sh(&["--init"], "echo $$"), "2");
    assert_eq!(sh(&["--oom-score-adj", "500"], "cat /proc/self/oom_score_adj"), "500");
    assert_eq!(sh(&["--tmpfs", "/mem:size=1m"], "busybox grep -c ' /mem tmpfs' /proc/mounts"), "1");
    assert_eq!(
        run(store, &["run", "--rm", "--read-only", "busybox:1", "sh", "-c", ": > /x"]).status,
        1
    );
    let host = fs::read_link("/proc/self/ns/net").unwrap();
    let inside = sh(&["--network", "host"], "busybox readlink /proc/self/ns/net");
    assert_eq!(inside, host.to_str().unwrap());
    assert_ne!(sh(&[], "busybox readlink /proc/self/ns/net"), host.to_str().unwrap());
}

#[test]
fn what_was_asked_for_is_told_again() {
    let scene = require!(Scene::new("cli-inspect-container"));
    let store = &scene.store;
    let labels = scene.dir.file("labels", "tier=low\nbare\n");
    let cidfile = scene.dir.join("cid");
    let create = [
        "create",
        "--name",
        "work",
        "-it",
        "-e",
        "A=own",
        "-e",
        "B=c",
        "--label-file",
        labels.to_str().unwrap(),
        "-l",
        "x=y",
        "--stop-signal",
        "INT",
        "--stop-timeout",
        "3",
        "--restart",
        "on-failure:4",
        "-w",
        "/tmp",
        "--memory-reservation",
        "16m",
        "-c",
        "512",
        "--log-driver",
        "json-file",
        "--log-opt",
        "max-size=1m",
        "--log-opt",
        "max-file=3",
        "--cidfile",
        cidfile.to_str().unwrap(),
        "--pid",
        "host",
        "--device",
        "/dev/null:/dev/none:r",
        "busybox:1",
        "sleep",
        "1",
    ];
    let id = &lines(store, &create)[0];
    assert_eq!(fs::read_to_string(&cidfile).unwrap(), *id);
    let picked = |template| scene.picked("work", template);
    assert_eq!(
        picked("{{.Id}} {{.Name}} {{.Path}} {{json .Args}}"),
        format!("{id} /work sleep [\"1\"]")
    );
    assert_eq!(picked("{{json .Config.Labels}}"), r#"{"bare":"","tier":"low","x":"y"}"#);
    let env = picked("{{json .Config.Env}}");
    assert!(env.ends_with(r#""A=own","B=c"]"#) && env.matches("A=").count() == 1, "{env}");
    let template = "{{.Config.StopSignal}} {{.Config.StopTimeout}} {{.Config.Tty}} {{.Config.OpenStdin}} \
        {{.Config.WorkingDir}} {{.Config.Image}} {{json .Config.Cmd}}";
    assert_eq!(picked(template), r#"INT 3 true true /tmp busybox:1 ["sleep","1"]"#);
    let template = "{{.HostConfig.RestartPolicy.Name}}:{{.HostConfig.RestartPolicy.MaximumRetryCount}} \
        {{.HostConfig.MemoryReservation}} {{.HostConfig.CpuWeight}} {{.HostConfig.PidMode}} {{.HostConfig.NetworkMode}}";
    assert_eq!(picked(template), "on-failure:4 16777216 50 host none");
    let image = lines(store, &["inspect", "--type", "image", "-f", "{{.Id}}", "busybox:1"]);
    assert_eq!(picked("{{.Image}}"), image[0]);
    assert_eq!(
        lines(store, &["inspect", "-f", "{{.Id}}", "work", "busybox:1"]),
        [id.clone(), image[0].clone()]
    );
    fails(store, &["inspect", "--type", "image", "work"], 1, &["no such image: work"]);
    fails(
        store,
        &["inspect", "--type", "container", "busybox:1"],
        1,
        &["no such container: busybox:1"],
    );
    let whole = lines(store, &["inspect", "work"]).join("\n");
    assert!(
        whole.starts_with("[\n    {\n") && whole.contains("\"Status\": \"created\""),
        "{whole}"
    );
    fails(store, &create, 1, &["write the id to", "Hint: "]);
}

#[test]
fn executed_programs_have_settings_of_their_own() {
    let scene = require!(Scene::new("cli-exec"));
    let store = &scene.store;
    scene.detached(&["--name", "work", "-e", "B=b"], "while :; do sleep 0.02; done");
    let exec = |options: &[&str], script: &str| {
        let ran = run(store, &[&["exec"], options, &["work", "sh", "-c", script]].concat());
        assert!(ran.err.is_empty(), "{ran:?}");
        (ran.out.trim().to_owned(), ran.status)
    };
    let vars = scene.dir.file("vars", "X=1\n");
    let options = ["--env-file", vars.to_str().unwrap(), "-e", "B=c", "-w", "/tmp"];
    assert_eq!(exec(&options, "echo $X $B $PWD"), ("1 c /tmp".into(), 0));
    assert_eq!(exec(&["-u", "anna"], "id -u; exit 3"), ("1000".into(), 3));
    assert_eq!(exec(&[], "kill -KILL $$").1, 137);
    let status = "busybox grep -e NoNewPrivs -e Seccomp: /proc/self/status";
    assert_eq!(exec(&["--privileged"], status).0, "NoNewPrivs:\t0\nSeccomp:\t0");
    assert_eq!(exec(&[], status).0, "NoNewPrivs:\t1\nSeccomp:\t2");
    assert_eq!(exec(&["-d"], ": > /tmp/stamp"), (String::new(), 0));
    assert_eq!(exec(&[], "while ! [ -e /tmp/stamp ]; do sleep 0.02; done").1, 0);
    fails(store, &["exec", "work", "nonesuch"], 127, &["nonesuch"]);
    fails(store, &["exec", "work", "/etc/old"], 126, &["/etc/old"]);
    fails(store, &["exec", "-u", "nobody-knows", "work", "true"], 1, &["nobody-knows"]);
    fails(store, &["exec", "work"], 1, &["COMMAND"]);
    fails(store, &["exec", "--colour", "work", "true"], 125, &["--colour"]);
    fails(store, &["exec", "-it", "work", "true"], 1, &["not a TTY"]);
    fails(store, &["exec", "nobody", "true"], 1, &["no such container: nobody"]);
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_is_made() {
    let scene = require!(Scene::new("cli-refused"));
    let store = &scene.store;
    for (options, word) in [
        (&["-m", "12x"][..], "is no size"),
        (&["-m", "2m", "--memory-swap", "1m"], "--memory-swap"),
        (&["--memory-swap", "1m"], "--memory"),
        (&["--cpu-shares", "1"], "share of cpu time"),
        (&["--device-read-bps", "/dev/null:1m"], "no block device"),
        (&["--device-write-bps", "/no/such:1m"], "/no/such"),
        (&["--device-read-iops", "/dev/null:1m"], "is no number"),
        (&["--device-write-iops", "200"], "/dev/sda:10"),
        (&["--network", "bridge"], "bridge"),
        (&["--restart", "sometimes"], "policies"),
        (&["--restart", "always", "--rm"], "cannot be started anew"),
        (&["--security-opt", "colour=red"], "--security-opt"),
        (&["--log-driver", "syslog"], "json-file"),
        (&["--log-opt", "max-file=0"], "max-file=0"),
        (&["--ulimit", "nofile"], "ulimit"),
        (&["--cap-add", "FLY"], "FLY"),
        (&["--sysctl", "kernel.hostname=x"], "kernel.hostname"),
        (&["--stop-signal", "LOUD"], "LOUD"),
        (&["--add-host", "db"], "add-host"),
        (&["--add-host", "db:somewhere"], "no IP address"),
        (&["--env-file", "/no/such"], "/no/such"),
        (&["-v", "relative:x"], "not absolute"),
        (&["--mount", "type=bind,source=/no/such,target=/x"], "/no/such"),
        (&["--security-opt", "seccomp=/no/such"], "/no/such"),
        (&["--security-opt", "seccomp=/dev/null"], "seccomp profile"),
        (&["--mount", "type=odd,target=/x"], "odd"),
        (&["--tmpfs", "x"], "not absolute"),
        (&["--volumes-from", "nobody"], "no such container: nobody"),
        (&["--device", "null"], "null"),
        (&["--detach-keys", "ctrl-"], "is no key"),
        (&["--platform", "linux/mips"], "linux/mips"),
        (&["--pull", "never", "--name", "a b"], "not allowed"),
        (&["-t", "-i"], "not a TTY"),
    ] {
        let arguments = [&["run", "--pull", "never"], options, &["busybox:1", "true"]].concat();
        let arguments = match options[0] {
            "--pull" => [&["run"], options, &["busybox:1", "true"]].concat(),
            _ => arguments,
        };
        fails(store, &arguments, 125, &[word]);
    }
    assert_eq!(lines(store, &["ps", "-aq"]), [""; 0]);
    fails(store, &["create"], 1, &["IMAGE"]);
    fails(store, &["create", "--pull", "never", "nobody"], 1, &["no such image: nobody"]);
    fails(store, &["run"], 1, &["IMAGE"]);
    for (command, words) in [
        ("run", &["Exit status:", "Examples:", "ctrl-p ctrl-q", "--cap-add"][..]),
        ("create", &["Example:", "--volumes-from"]),
        ("exec", &["Examples:"]),
        ("ps", &["Filters", ".RunningFor", "ancestor=IMAGE"]),
        ("stats", &[".CPUPerc"]),
    ] {
        let help = lines(store, &[command, "--help"]).join("\n");
        words.iter().for_each(|word| assert!(help.contains(word), "{word}: {help}"));
    }
}

#[test]
fn what_is_there_is_told_and_completed() {
    let scene = require!(Scene::new("cli-info"));
    let store = &scene.store;
    scene.detached(&["--name", "work"], "while :; do sleep 0.02; done");
    let counts = "{{.Containers}} {{.ContainersRunning}} {{.ContainersPaused}} {{.ContainersStopped}} {{.Images}}";
    assert_eq!(lines(store, &["info", "-f", counts]), ["1 1 0 0 1"]);
    let info = lines(store, &["system", "info"]);
    assert!(
        info[0] == "Containers: 1"
            && info.contains(&format!("Root Dir: {}", store.path().display())),
        "{info:#?}"
    );
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(lines(store, &["version", "--format", "{{.Client.Version}}"]), [version]);
    assert!(lines(store, &["version"])[1].ends_with(version));
    fails(store, &["info", "-f", "{{.Colour}}"], 1, &["Colour"]);
    for (shell, word) in
        [("bash", "complete -F"), ("zsh", "#compdef coracle"), ("fish", "complete -c coracle")]
    {
        let script = lines(store, &["completion", shell]).join("\n");
        assert!(script.contains(word) && script.contains("unpause"), "{shell}");
    }
    require!(common::program("bash"));
    let script = scene.dir.file("complete", &run(store, &["completion", "bash"]).out);
    let mut bash = std::process::Command::new("bash");
    let ask = "source \"$0\"; COMP_WORDS=(coracle unp); COMP_CWORD=1; _coracle coracle unp coracle; echo ${COMPREPLY[@]}";
    let said = crate::finish(bash.args(["-c", ask]).arg(script));
    assert_eq!(said.out, "unpause\n", "{said:?}");
    fails(store, &["completion", "tcsh"], 125, &["tcsh"]);
}
