//! Files that are copied into and out of containers.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use coracle::container::{Container, Phase};
use coracle::namespaces::{Command, Stdio};
use coracle::{Error, ErrorKind};
use tar::EntryType;

use crate::common::archive::{Tar, attributes};
use crate::common::{alone, audit, require, root, subordinate_ids};
use crate::{Scene, scene};

/// What a container can be when something is copied.
const STATES: [&str; 4] = ["created", "running", "paused", "exited"];

fn put(scene: &Scene, container: &Container, state: &str) {
    match state {
        "running" => container.start().unwrap(),
        "paused" => {
            container.start().unwrap();
            // Not everyone has a cgroup to do it in.
            if root().is_ok() {
                container.pause().unwrap();
                assert_eq!(container.status().unwrap().phase, Phase::Paused);
            }
        }
        "exited" => {
            container.start().unwrap();
            container.stop(std::time::Duration::ZERO).unwrap();
        }
        _ => assert_eq!(container.status().unwrap().phase, Phase::Created, "{:?}", scene.dir),
    }
}

/// What a script prints in a container that may have to be started or unpaused for it.
fn says(container: &Container, script: &str) -> String {
    match container.status().unwrap().phase {
        Phase::Paused => container.unpause().unwrap(),
        Phase::Running => {}
        _ => container.start().unwrap(),
    }
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = container.exec_command(command).unwrap().wait_with_output().unwrap();
    assert!(output.stderr.is_empty(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// `uid:gid mode content` of what is copied out as an archive, by name.
fn archived(container: &Container, path: &str) -> BTreeMap<String, String> {
    let mut bytes = Vec::new();
    container.copy_out(path).tar(&mut bytes).unwrap();
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(&*bytes).entries().unwrap() {
        let mut entry = entry.unwrap();
        let (header, mut content) = (entry.header().clone(), Vec::new());
        entry.read_to_end(&mut content).unwrap();
        let content = String::from_utf8_lossy(&content).into_owned();
        let link = entry.link_name().unwrap().map(|to| format!("-> {}", to.display()));
        let (uid, gid, mode) =
            (header.uid().unwrap(), header.gid().unwrap(), header.mode().unwrap());
        let text = format!("{uid}:{gid} {mode:o} {}", link.unwrap_or(content));
        found.insert(entry.path().unwrap().display().to_string(), text);
    }
    found
}

fn kind_of<T: std::fmt::Debug>(result: Result<T, Error>, words: &[&str]) -> ErrorKind {
    let err = result.unwrap_err();
    let text = format!("{err:#} {}", err.hint().unwrap_or_default());
    words.iter().for_each(|word| assert!(text.contains(word), "{word}: {text}"));
    err.kind()
}

#[test]
fn files_go_in_and_come_out_whether_it_runs_or_not() {
    let scene = require!(scene("copy-states"));
    let host = scene.dir.join("host");
    fs::create_dir_all(host.join("dir/sub")).unwrap();
    fs::write(host.join("dir/file"), "of the host").unwrap();
    fs::write(host.join("dir/tool"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(host.join("dir/tool"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(host.join("dir/file"), host.join("dir/sub/same")).unwrap();
    symlink("file", host.join("dir/link")).unwrap();
    let mut tar = Tar::new();
    tar.owned("own", 1000, 1000).pax(&[("SCHILY.xattr.user.word", b"value")]).file("marked", "m");
    let archive = tar.end();
    for state in STATES {
        let container = scene.engine.container("box").command(["sleep", "600"]).create().unwrap();
        put(&scene, &container, state);
        let copied = container.copy_in("/data").from(host.join("dir")).unwrap();
        assert_eq!((copied.entries, copied.left_out), (6, 0), "{state}");
        container.copy_in("data/renamed").from(host.join("dir/file")).unwrap();
        container.copy_in("/data").from(host.join("dir/sub/.")).unwrap();
        container.copy_in("/tmp").keep_ids(true).tar(&*archive).unwrap();
        container.copy_in("/etc").tar(&*archive).unwrap();
        // What was there is replaced, not written to.
        container.copy_in("/data/of-the-image").from(host.join("dir/file")).unwrap();
        let found = archived(&container, "/data");
        let names: Vec<_> = found.keys().map(String::as_str).collect();
        let expected = [
            "data/",
            "data/dir/",
            "data/dir/file",
            "data/dir/link",
            "data/dir/sub/",
            "data/dir/sub/same",
            "data/dir/tool",
            "data/of-the-image",
            "data/renamed",
            "data/same",
        ];
        assert_eq!(names, expected, "{state}");
        assert_eq!(found["data/dir/tool"], "0:0 4751 #!/bin/sh\n", "{state}");
        assert_eq!(found["data/dir/link"], "0:0 777 -> file");
        assert_eq!(found["data/dir/sub/same"], "0:0 644 -> data/dir/file");
        assert_eq!(found["data/renamed"], "0:0 644 of the host");
        assert_eq!(archived(&container, "/tmp/own")["own"], "1000:1000 644 ", "{state}");
        let out = scene.dir.join("out");
        container.copy_out("/data/dir").to(&out).unwrap();
        assert_eq!(fs::read_to_string(out.join("link")).unwrap(), "of the host");
        let tool = out.join("tool").metadata().unwrap();
        let me = nix::unistd::geteuid().as_raw();
        assert_eq!((tool.mode() & 0o7777, tool.uid()), (0o751, me), "no set-id bit: {state}");
        assert_eq!(
            out.join("file").metadata().unwrap().ino(),
            out.join("sub/same").metadata().unwrap().ino()
        );
        fs::remove_dir_all(&out).unwrap();
        // As it sees them itself.
        let seen = says(
            &container,
            "stat -c '%u:%g %a %h' /data/dir/tool /data/dir/file /tmp/own /etc/own; cat /data/of-the-image",
        );
        assert_eq!(
            seen, "0:0 4751 1\n0:0 644 2\n1000:1000 644 1\n0:0 644 1\nof the host",
            "{state}"
        );
        container.remove_forced().unwrap();
    }
}

#[test]
fn attributes_and_files_of_other_users_are_kept() {
    let scene = require!(scene("copy-users"));
    require!(subordinate_ids());
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut tar = Tar::new();
    let anna = |header: &mut tar::Header| {
        header.set_mode(0o700);
        header.set_uid(1000);
        header.set_gid(1000);
    };
    tar.entry("home/", EntryType::Directory, anna, b"");
    let records = [
        ("SCHILY.xattr.user.word", &b"value"[..]),
        ("SCHILY.xattr.security.capability", capability),
    ];
    tar.pax(&records).entry("home/tool", EntryType::Regular, anna, b"program");
    let archive = tar.end();
    let from = scene.dir.join("from");
    fs::write(&from, "new").unwrap();
    for state in STATES {
        let container = scene.engine.container("box").command(["sleep", "600"]).create().unwrap();
        put(&scene, &container, state);
        container.copy_in("/").keep_ids(true).tar(&*archive).unwrap();
        // Nobody but anna, and root, may look into it.
        container.copy_in("/home").from(&from).unwrap();
        container.copy_in("/home/deep").from(scene.dir.dir("empty")).unwrap();
        container.copy_in("/home/deep").from(&from).unwrap();
        container.copy_in("/home/from").from(&from).unwrap();
        let found = archived(&container, "/home");
        assert_eq!(found["home/"], "1000:1000 700 ", "{state}");
        assert_eq!(found["home/deep/from"], "0:0 644 new", "{state}");
        assert_eq!(found["home/from"], "0:0 644 new", "{state}");
        let mut bytes = Vec::new();
        container.copy_out("/home/tool").tar(&mut bytes).unwrap();
        let mut all = tar::Archive::new(&*bytes);
        let mut tool = all.entries().unwrap().next().unwrap().unwrap();
        assert_eq!((tool.header().uid().unwrap(), tool.header().mode().unwrap()), (1000, 0o700));
        let extensions = tool.pax_extensions().unwrap().unwrap();
        let kept: Vec<_> = extensions
            .map(|it| it.unwrap())
            .filter(|it| it.key().unwrap().contains("xattr"))
            .map(|it| it.value_bytes().to_vec())
            .collect();
        assert!(
            kept.contains(&b"value".to_vec()) && kept.contains(&capability.to_vec()),
            "{kept:?}"
        );
        let out = scene.dir.join("out");
        container.copy_out("/home/.").to(&out).unwrap();
        assert!(attributes(&out.join("tool")).contains_key("user.word"), "{state}");
        assert!(!attributes(&out.join("tool")).contains_key("security.capability"));
        fs::remove_dir_all(&out).unwrap();
        if root().is_ok() {
            container.copy_out("/home").keep_ids(true).to(&out).unwrap();
            let tool = out.join("tool").metadata().unwrap();
            assert_eq!((tool.uid(), tool.gid()), (1000, 1000));
            fs::remove_dir_all(&out).unwrap();
        } else {
            let refused = container.copy_out("/home").keep_ids(true).to(&out);
            assert_eq!(kind_of(refused, &["only root"]), ErrorKind::PermissionDenied);
            fs::remove_dir_all(&out).unwrap();
        }
        assert_eq!(says(&container, "stat -c '%u %a' /home /home/tool"), "1000 700\n1000 700\n");
        container.remove_forced().unwrap();
    }
}

#[test]
fn a_link_is_copied_or_followed_in_the_container() {
    let scene = require!(scene("copy-links"));
    let container = scene.engine.container("box").command(["sleep", "600"]).start().unwrap();
    says(
        &container,
        "ln -s /etc/passwd /data/link; ln -s ../../../../data /etc/up; ln -s /data/new /data/dangling; ln -s loop /loop",
    );
    let out = scene.dir.join("out");
    container.copy_out("/data/link").to(&out).unwrap();
    assert_eq!(fs::read_link(&out).unwrap(), Path::new("/etc/passwd"));
    fs::remove_file(&out).unwrap();
    container.copy_out("/data/link").follow_link(true).to(&out).unwrap();
    assert!(fs::read_to_string(&out).unwrap().contains("anna"));
    assert_eq!(archived(&container, "/etc/up/of-the-image")["of-the-image"], "0:0 644 kept");
    assert_eq!(archived(&container, "/etc/up/").len(), 4);
    let from = scene.dir.join("from");
    fs::write(&from, "new").unwrap();
    // Through the link, as cp does.
    container.copy_in("/data/dangling").from(&from).unwrap();
    assert_eq!(says(&container, "cat /data/new; test -L /data/dangling && echo link"), "newlink\n");
    let looped = container.copy_in("/loop/x").from(&from);
    assert_eq!(kind_of(looped, &["/loop/x"]), ErrorKind::SafetyViolation);
    symlink("from", scene.dir.join("to-from")).unwrap();
    container.copy_in("/tmp/a").from(scene.dir.join("to-from")).unwrap();
    container.copy_in("/tmp/b").follow_link(true).from(scene.dir.join("to-from")).unwrap();
    assert_eq!(archived(&container, "/tmp/a")["a"], "0:0 777 -> from");
    assert_eq!(archived(&container, "/tmp/b")["b"], "0:0 644 new");
    container.remove_forced().unwrap();
}

#[test]
fn what_is_mounted_is_seen_too() {
    let scene = require!(scene("copy-mounts"));
    let host = scene.dir.join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("file"), "of the host").unwrap();
    let from = scene.dir.join("from");
    fs::write(&from, "new").unwrap();
    for state in STATES {
        let mut builder = scene.engine.container("box").command(["sleep", "600"]);
        builder = builder.volume("store", "/data").volume(&host, "/tmp:ro");
        let container = builder.volume(host.join("file"), "/etc/passwd").create().unwrap();
        put(&scene, &container, state);
        container.copy_in("/data/one").from(&from).unwrap();
        let volume = scene.engine.find_volume("store").unwrap();
        let one = volume.path().join("one").metadata().unwrap();
        assert_eq!(one.uid(), nix::unistd::geteuid().as_raw(), "plain ids on disk: {state}");
        assert_eq!(archived(&container, "data/one")["one"], "0:0 644 new", "{state}");
        assert_eq!(archived(&container, "/tmp/file").len(), 1);
        assert_eq!(archived(&container, "/etc/passwd").len(), 1);
        let refused = container.copy_in("/tmp/x").from(&from);
        assert_eq!(kind_of(refused, &["read-only"]), ErrorKind::PermissionDenied, "{state}");
        if state == "running" {
            let mounted = container.copy_in("/etc/passwd").from(&from);
            assert_eq!(kind_of(mounted, &["mounted", "replaced"]), ErrorKind::Busy);
            assert_eq!(says(&container, "cat /etc/passwd"), "of the host");
        }
        assert!(!host.join("x").exists());
        assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "of the host");
        fs::remove_file(volume.path().join("one")).unwrap();
        container.remove_forced().unwrap();
    }
    let mut builder = scene.engine.container("box").command(["sleep", "600"]);
    let config = builder.config_mut();
    config.read_only = true;
    let mount = r#"{"type":"tmpfs","size":null,"mode":null,"target":"/tmp"}"#;
    config.mounts.push(serde_json::from_str(mount).unwrap());
    let container = builder.create().unwrap();
    for state in ["created", "running"] {
        put(&scene, &container, state);
        let refused = container.copy_in("/data").from(&from);
        assert_eq!(kind_of(refused, &["read-only"]), ErrorKind::PermissionDenied, "{state}");
        let memory = container.copy_in("/tmp/x").from(&from);
        if state == "running" {
            memory.unwrap();
            assert_eq!(says(&container, "cat /tmp/x"), "new");
            let all = archived(&container, "/");
            let below = |top: &str| all.keys().filter(|name| name.starts_with(top)).count();
            assert_eq!((below("./proc/"), below("./sys/")), (1, 1), "but for what is the kernel's");
            assert!(below("./dev/") > 5 && all.contains_key("./tmp/x"));
        } else {
            assert_eq!(kind_of(memory, &["/tmp", "while it runs"]), ErrorKind::InvalidState);
        }
    }
    container.remove_forced().unwrap();
}

#[test]
fn what_cannot_be_is_told() {
    let scene = require!(scene("copy-errors"));
    let from = scene.dir.join("from");
    fs::create_dir(&from).unwrap();
    fs::write(from.join("file"), "").unwrap();
    fs::create_dir(from.join("of-the-image")).unwrap();
    let container = scene.engine.container("box").command(["sleep", "600"]).create().unwrap();
    let out = scene.dir.join("out");
    for state in ["created", "running"] {
        put(&scene, &container, state);
        let into = |path: &str, what: &str| container.copy_in(path).from(from.join(what));
        let nowhere = |path: &str| container.copy_out(path).to(&out);
        for (result, kind, words) in [
            (nowhere("/none"), ErrorKind::NotFound, "/none"),
            (nowhere("/none/x"), ErrorKind::NotFound, "/none/x"),
            (nowhere("/etc/passwd/x"), ErrorKind::InvalidInput, "passwd"),
            (nowhere("/etc/passwd/"), ErrorKind::InvalidInput, "passwd"),
            (
                container.copy_out("/etc").to(from.join("file")),
                ErrorKind::InvalidInput,
                "directory",
            ),
            (container.copy_out("/etc/passwd").to(out.join("x")), ErrorKind::NotFound, "out"),
            (
                container.copy_out("/etc/passwd").to("/dev/null"),
                ErrorKind::InvalidInput,
                "/dev/null",
            ),
            (into("/data", "none"), ErrorKind::NotFound, "none"),
            (into("/none/x", "file"), ErrorKind::NotFound, "/none/x"),
            (into("/none/", "file"), ErrorKind::NotFound, "/none/"),
            (into("/etc/passwd", ""), ErrorKind::InvalidInput, "directory"),
            (into("/data", "."), ErrorKind::AlreadyExists, "of-the-image"),
            (
                container.copy_in("/etc/passwd").tar(&*Tar::new().end()),
                ErrorKind::InvalidInput,
                "passwd",
            ),
            (container.copy_in("/none").tar(&*Tar::new().end()), ErrorKind::NotFound, "/none"),
            (
                container.copy_in("/tmp").tar(&b"no archive at all"[..]),
                ErrorKind::Malformed,
                "cut short",
            ),
            (
                container.copy_in("/tmp").tar(&*Tar::new().file("../x", "").end()),
                ErrorKind::SafetyViolation,
                "../x",
            ),
        ] {
            assert_eq!(kind_of(result, &[words]), kind, "{state} {words}");
        }
        assert!(!out.exists());
    }
    let proc = container.copy_out("/proc/version").to(&out);
    assert_eq!(kind_of(proc, &["of the kernel"]), ErrorKind::Unsupported);
    let sys = container.copy_in("/sys").from(from.join("file"));
    assert_eq!(kind_of(sys, &["of the kernel"]), ErrorKind::Unsupported);
    container.clone().remove_forced().unwrap();
    let gone = container.copy_out("/etc").to(&out);
    assert_eq!(kind_of(gone, &["no such container"]), ErrorKind::NotFound);
    let gone = container.copy_in("/etc").from(&from);
    assert_eq!(kind_of(gone, &["no such container"]), ErrorKind::NotFound);
}

#[test]
fn an_archive_means_the_directory_and_nothing_else() {
    let scene = require!(scene("copy-archives"));
    let mut tar = Tar::new();
    tar.dir("./", 0o700).file("/absolute", "1").file("deep/er/file", "2").file("deep/.wh.x", "3");
    tar.link("out", "/etc").hard_link("twin", "absolute").fifo("fifo").dir("of/", 0o700);
    tar.device("null", EntryType::Char, 1, 3).device("gone", EntryType::Char, 0, 0);
    let archive = tar.end();
    let through = Tar::new().link("out", "/etc").file("out/passwd", "evil").end();
    for state in ["created", "running"] {
        let container = scene.engine.container("box").command(["sleep", "600"]).create().unwrap();
        put(&scene, &container, state);
        let copied = container.copy_in("/data").tar(&*archive).unwrap();
        // Root of the container has no devices to give, unless he is the host's.
        assert!(copied.left_out <= 2, "{copied:?}");
        let found = archived(&container, "/data/.");
        assert_eq!(found["./"], "0:0 755 ", "as it was: {state}");
        assert_eq!((&*found["./absolute"], &*found["./deep/er/file"]), ("0:0 644 1", "0:0 644 2"));
        assert_eq!(found["./deep/.wh.x"], "0:0 644 3", "a name like any other");
        assert_eq!(found["./of-the-image"], "0:0 644 kept");
        assert_eq!(found["./deep/er/"], "0:0 755 ");
        assert!(found.contains_key("./fifo"));
        let refused = container.copy_in("/tmp").tar(&*through);
        assert_eq!(kind_of(refused, &["out/passwd"]), ErrorKind::InvalidInput, "{state}");
        assert!(!archived(&container, "/etc/passwd")["passwd"].contains("evil"));
        // A pipe from itself to itself, more than pipes hold.
        let big = vec![7; 3 << 20];
        let from = scene.dir.join("big");
        fs::write(&from, &big).unwrap();
        container.copy_in("/data/big").from(&from).unwrap();
        std::thread::scope(|scope| {
            let (reader, writer) = std::io::pipe().unwrap();
            let other = container.clone();
            scope.spawn(move || other.copy_out("/data").tar(writer).unwrap());
            container.copy_in("/tmp").tar(reader).unwrap();
        });
        assert_eq!(says(&container, "wc -c < /tmp/data/big"), "3145728\n");
        container.remove_forced().unwrap();
    }
}

#[test]
fn nothing_is_left_behind() {
    alone(|| {
        let scene = require!(scene("copy-leaves"));
        scene.warm_up();
        let from = scene.dir.join("from");
        fs::write(&from, "new").unwrap();
        let before = audit::snapshot();
        let container = scene.engine.container("box").command(["sleep", "600"]).create().unwrap();
        for state in ["created", "running"] {
            put(&scene, &container, state);
            container.copy_in("/tmp").from(&from).unwrap();
            container.copy_in("/none/x").from(&from).unwrap_err();
            container.copy_out("/etc").to(scene.dir.join(state)).unwrap();
            container.copy_out("/none").to(scene.dir.join("none")).unwrap_err();
        }
        container.remove_forced().unwrap();
        drop(scene);
        before.assert_unchanged();
    });
}
