//! Containers by the same command lines as docker's, side by side with Debian's. (Of exec's file that is no program docker tells on
//! standard output.)

use crate::common::{require, setup};
use crate::life::Scene;
use crate::{finish, run};

#[test]
fn containers_live_and_are_told_of_as_dockers() {
    let scene = require!(Scene::new("cli-docker-containers"));
    let dir = setup("cli-docker-daemon");
    let docker = require!(scene.docker(&dir));
    let store = &scene.store;
    let mut different = Vec::new();
    let mut same = |arguments: &[&str]| {
        let theirs = finish(docker.command(arguments).env("TZ", "UTC"));
        let ours = run(store, arguments);
        let made = arguments[0] == "create" || arguments.contains(&"-d");
        let alike = ours.status == theirs.status
            && if made { ours.out.len() == theirs.out.len() } else { ours.out == theirs.out }
            && ours.err.is_empty() == theirs.err.is_empty();
        if !alike {
            different.push((format!("{arguments:?}"), theirs, ours));
        }
    };
    const LIST: &str =
        "{{.Image}}|{{.Command}}|{{.State}}|{{.Names}}|{{.Labels}}|{{.Networks}}|{{.Ports}}";
    const DETAILS: &str = "{{.Name}} {{.Path}} {{json .Args}} {{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}} \
        {{.Config.Tty}} {{.Config.OpenStdin}} {{.Config.User}} {{.Config.WorkingDir}} {{.Config.Image}} {{.RestartCount}} \
        {{json .Config.Cmd}} {{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.AutoRemove}} \
        {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.NetworkMode}} {{.HostConfig.ReadonlyRootfs}}";
    let trap = "trap 'exit 7' TERM; while :; do sleep 0.02; done";
    for arguments in [
        &["run", "--rm", "--network", "none", "busybox:1"][..],
        &[
            "run",
            "--rm",
            "--network",
            "none",
            "busybox:1",
            "sh",
            "-c",
            "echo out; echo err >&2; exit 3",
        ],
        &["run", "--rm", "--network", "none", "--init", "busybox:1", "sh", "-c", "kill -KILL $$"],
        &["run", "--rm", "--network", "none", "busybox:1", "nonesuch"],
        &["run", "--rm", "--network", "none", "busybox:1", "/etc/old"],
        &[
            "run",
            "--rm",
            "--network",
            "none",
            "-e",
            "B=c",
            "-u",
            "anna",
            "-w",
            "/tmp",
            "busybox:1",
            "sh",
            "-c",
            "echo $A $B; id -u; pwd",
        ],
        &[
            "run",
            "--rm",
            "--network",
            "none",
            "-h",
            "box",
            "--add-host",
            "db:192.0.2.7",
            "busybox:1",
            "sh",
            "-c",
            "busybox hostname; busybox grep db /etc/hosts",
        ],
        &[
            "run",
            "--rm",
            "--network",
            "none",
            "--read-only",
            "busybox:1",
            "sh",
            "-c",
            ": > /x 2> /dev/null; echo $?",
        ],
        &[
            "run",
            "--rm",
            "--network",
            "none",
            "--ulimit",
            "nofile=100:200",
            "busybox:1",
            "sh",
            "-c",
            "ulimit -n",
        ],
        &["run", "--rm", "--network", "none", "--bogus", "busybox:1"],
        &["run", "--rm", "--network", "none", "-m", "12x", "busybox:1"],
        &["run"],
        &[
            "create",
            "--network",
            "none",
            "--name",
            "one",
            "-l",
            "tier=low",
            "--restart",
            "on-failure:2",
            "busybox:1",
            "sh",
            "-c",
            "exit 3",
        ],
        &["create", "--network", "none", "--name", "one", "busybox:1"],
        &["ps"],
        &["ps", "-a", "--format", LIST],
        &["ps", "-a", "--format", "table {{.Names}}\t{{.Status}}"],
        &["inspect", "-f", DETAILS, "one"],
        &["rename", "one", "uno"],
        &["rename", "one", "due"],
        &["update", "--restart", "no", "uno"],
        &["start", "-a", "uno"],
        &["wait", "uno"],
        &["ps", "-a", "--format", LIST],
        &["ps", "-aq", "--filter", "status=running"],
        &[
            "run",
            "-d",
            "--network",
            "none",
            "--init",
            "--name",
            "two",
            "-m",
            "64m",
            "--cpus",
            "0.5",
            "busybox:1",
            "sh",
            "-c",
            trap,
        ],
        &["ps", "--format", LIST],
        &["inspect", "-f", DETAILS, "two"],
        &["exec", "-e", "X=y", "two", "sh", "-c", "echo $A $X; exit 4"],
        &["exec", "nobody", "true"],
        &["exec", "two"],
        &["pause", "two"],
        &["exec", "two", "true"],
        &["ps", "--format", LIST],
        &["unpause", "two"],
        &["unpause", "two"],
        &["rm", "two"],
        &["port", "two"],
        &["start", "two"],
        &["stop", "-t", "30", "two"],
        &["stop", "two"],
        &["kill", "two"],
        &["inspect", "-f", DETAILS, "two"],
        &["attach", "two"],
        &["wait", "two", "nobody"],
        &["rm", "two", "nobody"],
        &["rm", "uno"],
        &["ps", "-a", "--format", LIST],
        &["start", "nobody"],
        &["logs", "nobody"],
        &["volume", "create", "data"],
        &["volume", "ls"],
        &["run", "--rm", "--network", "none", "-v", "data:/etc", "busybox:1", "cat", "/etc/old"],
        &["run", "--rm", "--network", "none", "-v", "/etc", "busybox:1", "cat", "/etc/old"],
        &[
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            "bare:/etc:nocopy",
            "busybox:1",
            "cat",
            "/etc/old",
        ],
        &["create", "--network", "none", "--name", "vols", "-v", "/a", "-v", "why:/b", "busybox:1"],
        &["rm", "-v", "vols"],
        &["volume", "ls"],
        &["volume", "rm", "bare", "why"],
        &["volume", "ls", "-q", "--filter", "name=data"],
        &["volume", "rm", "data", "nobody"],
        &["volume", "inspect", "nobody"],
        &["container", "prune", "-f", "--filter", "bogus=1"],
    ] {
        same(arguments);
    }
    let profile = dir.join("profile.json");
    let rules = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}"#;
    std::fs::write(&profile, rules).unwrap();
    let seccomp = format!("seccomp={}", profile.display());
    let binds = dir.join("binds");
    let missing = format!("{}/missing:/mnt", binds.display());
    let mount = format!("type=bind,source={}/other,target=/mnt", binds.display());
    let bare = ["run", "--rm", "--network", "none"];
    for (options, script) in [
        (&["-u", "7:8", "--group-add", "staff", "--group-add", "9"][..], "id -G"),
        (&["--group-add", "nobody"], "id -G"),
        (&["--security-opt", &seccomp], "busybox mkdir /new; busybox mkdir -p /tmp"),
        (&["--security-opt", "seccomp=/no/such"], "true"),
        (&["--security-opt", "no-new-privileges"], "busybox grep NoNewPrivs /proc/self/status"),
        (&["-v", &missing], "busybox stat -c '%u %a' /mnt"),
        (&["--mount", &mount], "true"),
    ] {
        same(&[&bare, options, &["busybox:1", "sh", "-c", script]].concat());
    }
    assert!(binds.join("missing").is_dir() && !binds.join("other").exists());
    assert!(different.is_empty(), "{different:#?}");
}
