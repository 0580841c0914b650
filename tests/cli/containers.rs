//! Commands that run on an image, and what becomes of what they wrote.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use coracle::image::Store;

use crate::common::{self, Sandbox, require, setup};
use crate::fixture::{self, sound, store};
use crate::{command, fails, finish, lines, run};

/// A store with `busybox:1`, a small image that runs.
pub fn runnable(dir: &Sandbox) -> Result<Store, common::Missing> {
    common::stacks_in_memory()?;
    common::containers()?;
    let busybox = common::program("busybox")?;
    for name in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
        dir.dir(Path::new("tree").join(name));
    }
    let own = dir.join("tree/bin/busybox");
    fs::copy(busybox, &own).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
    for applet in ["sh", "cat", "env", "id", "ps", "sleep", "stty", "true"] {
        std::os::unix::fs::symlink("busybox", dir.join("tree/bin").join(applet)).unwrap();
    }
    dir.file("tree/etc/passwd", "root:x:0:0::/root:/bin/sh\nanna:x:1000:1000::/:/bin/sh\n");
    dir.file("tree/etc/group", "root:x:0:\nanna:x:1000:\nstaff:x:50:\n");
    dir.file("tree/etc/old", "old");
    // As most images have them: nobody has to make them to mount something there.
    for name in ["hostname", "hosts", "resolv.conf"] {
        dir.file(Path::new("tree/etc").join(name), "");
    }
    let mut tar = Command::new("tar");
    tar.args(["--owner=0", "--group=0", "-cf"]).arg(dir.join("tree.tar")).arg("-C");
    assert!(tar.arg(dir.join("tree")).arg(".").status().unwrap().success());
    let store = store(dir);
    let archive = dir.join("tree.tar");
    let changes = ["-c", "ENV A=image", "-c", "CMD [\"sh\", \"-c\", \"echo $A $HOME\"]"];
    let import = [&["import"][..], &changes, &[archive.to_str().unwrap(), "busybox:1"]].concat();
    assert!(lines(&store, &import)[0].starts_with("sha256:"));
    Ok(store)
}

#[test]
fn a_command_runs_on_an_image_and_its_end_is_told() {
    let dir = setup("cli-run");
    let store = require!(runnable(&dir));
    let sh =
        |script: &str| run(&store, &["run", "--rm", "--init", "busybox:1", "sh", "-c", script]);
    assert_eq!(lines(&store, &["run", "--rm", "busybox:1"]), ["image /root"]);
    let arguments =
        ["run", "--rm", "-e", "A=own", "-w", "/tmp", "--hostname", "box", "--entrypoint", "sh"];
    let script = "echo $A $(busybox hostname) $PWD; exit 3";
    let ran = run(&store, &[&arguments[..], &["busybox:1", "-c", script]].concat());
    assert_eq!((ran.out.as_str(), ran.status), ("own box /tmp\n", 3), "{ran:?}");
    assert_eq!(sh("kill -TERM $$").status, 128 + 15);
    let ran = sh("echo out; echo err >&2; busybox cat; : > /stamp");
    assert_eq!((&*ran.out, &*ran.err, ran.status), ("out\n", "err\n", 0), "nothing on stdin");
    assert_eq!(sh("test -e /stamp").status, 1, "what was written is gone");
    let mut command = command(&["run", "--rm", "-i", "busybox:1", "busybox", "cat"]);
    command.stdin(fs::File::open(dir.join("tree/etc/old")).unwrap());
    assert_eq!(finish(command.env("CORACLE_ROOT", store.path())).out, "old");
    assert_eq!(
        run(&store, &["run", "--rm", "--read-only", "busybox:1", "busybox", "touch", "/x"]).status,
        1
    );
    fails(&store, &["run", "--rm", "busybox:1", "nonesuch"], 127, &["nonesuch"]);
    fails(&store, &["run", "--rm", "busybox:1", "/etc/old"], 126, &["/etc/old"]);
    let never = ["run", "--rm", "--pull", "never", "nobody", "sh"];
    fails(&store, &never, 125, &["no such image: nobody"]);
    fails(&store, &["run", "--rm", "--entrypoint", "", "busybox:1"], 125, &["no command is given"]);
    fails(&store, &["run", "--rm", "--colour", "busybox:1"], 125, &["--colour"]);
    assert_eq!(lines(&store, &["ps", "-aq"]), [""; 0]);
    for name in ["supervisors", "sockets"] {
        let left: Vec<_> =
            fs::read_dir(store.path().join("containers").join(name)).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
    sound(&store);
    fixture::tidy(&store);
}

#[test]
fn what_a_container_changed_is_listed_committed_and_removed() {
    let dir = setup("cli-containers");
    let store = require!(runnable(&dir));
    let script = "echo new > /etc/new; busybox rm /etc/old; exit 5";
    let work = ["run", "--name", "work", "busybox:1", "sh", "-c", script];
    assert_eq!(run(&store, &work).status, 5);
    fails(&store, &work, 125, &["the name work is taken", "Hint: "]);
    fails(&store, &["rmi", "busybox:1"], 1, &["in use by"]);
    assert_eq!(lines(&store, &["diff", "work"]), ["C /etc", "A /etc/new", "D /etc/old"]);
    let commit = [
        "commit",
        "-m",
        "news",
        "-a",
        "me",
        "-c",
        "CMD [\"busybox\", \"cat\", \"/etc/new\"]",
        "work",
        "app",
    ];
    let id = lines(&store, &commit)[0].clone();
    assert_eq!(lines(&store, &["run", "--rm", "app"]), ["new"]);
    let format = "{{.Id}} {{.Comment}} {{.Author}} {{.Config.Env}} {{len .RootFS.Layers}}";
    let said = lines(&store, &["inspect", "-f", format, "app"]);
    assert!(
        said[0].starts_with(&format!("{id} news me [")) && said[0].ends_with("A=image] 2"),
        "{said:?}"
    );
    assert!(lines(&store, &["images", "--tree"])[1].contains("Tags: app:latest"));
    assert_eq!(lines(&store, &["history", "-q", "app"]).len(), 2);
    let both = ["C /etc", "A /etc/new", "D /etc/old"];
    assert_eq!(lines(&store, &["diff", "busybox:1", "app"]), both);
    fails(&store, &["diff", "busybox:1", "nobody"], 1, &["no such image: nobody"]);
    let flat = &lines(&store, &["squash", "-t", "flat", "app"])[0];
    assert_eq!(lines(&store, &["diff", flat, "app"]), [""; 0]);
    assert_eq!(lines(&store, &["run", "--rm", "flat"]), ["new"]);
    assert_eq!(lines(&store, &["history", "-q", "flat"]).len(), 1);
    let top = &lines(&store, &["squash", "--from", "busybox:1", "app"])[0];
    assert_eq!(lines(&store, &["history", "-q", top]).len(), 2);
    fails(&store, &["squash", "--layers", "3", "app"], 1, &["it has 2 layers, not 3"]);
    fails(&store, &["squash", "--layers", "1", "--from", "busybox:1", "app"], 125, &["--from"]);
    let exported = |name: &str| {
        let path = dir.join(format!("{name}.tar"));
        assert!(lines(&store, &["export", "-o", path.to_str().unwrap(), name]).is_empty());
        fs::read(path).unwrap()
    };
    assert_eq!(exported("app"), exported("flat"));
    let listed = Command::new("tar").arg("-tf").arg(dir.join("app.tar")).output().unwrap();
    assert!(String::from_utf8(listed.stdout).unwrap().lines().any(|it| it == "etc/new"));
    assert_eq!(exported("work"), exported("app"), "a container as it is");
    fails(&store, &["export", "nobody"], 1, &["no such image: nobody"]);
    // A container outlives the name of its image.
    assert_eq!(run(&store, &["rmi", "-f", "busybox:1"]).status, 0);
    assert_eq!(lines(&store, &["diff", "work"]), both);
    let ran = fails(&store, &["rm", "nobody", "work"], 1, &["no such container: nobody"]);
    assert_eq!(ran.out, "work\n");
    assert_eq!(lines(&store, &["ps", "-aq"]), [""; 0]);
    assert!(store.pins().unwrap().is_empty());
    fails(&store, &["diff", "work"], 1, &["no such container: work"]);
    fails(&store, &["commit", "work", "app"], 1, &["no such container: work"]);
    // A name that leads elsewhere, and a command that never ran.
    for name in ["..", "../x", "-x", ""] {
        let name = format!("--name={name}");
        fails(&store, &["run", &name, "app", "sh"], 125, &["is not allowed"]);
    }
    fails(&store, &["run", "--name", "none", "app", "nonesuch"], 127, &["nonesuch"]);
    assert_eq!(
        lines(&store, &["ps", "-a", "--format", "{{.Names}} {{.Status}}"]),
        ["none Created"]
    );
    assert_eq!(lines(&store, &["rm", "none"]), ["none"]);
    fails(&store, &["run", "--rm", "--name", "none", "app", "nonesuch"], 127, &["nonesuch"]);
    assert!(store.pins().unwrap().is_empty(), "its name is free");
    sound(&store);
}
