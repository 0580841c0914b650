//! Volumes and mounts on the command line.

use std::fs;

use crate::common::require;
use crate::life::Scene;
use crate::{fails, lines, run};

#[test]
fn volumes_outlive_containers_and_are_removed_when_nobody_has_them() {
    let scene = require!(Scene::new("cli-volumes"));
    let store = &scene.store;
    assert_eq!(lines(store, &["volume", "ls"]), ["DRIVER    VOLUME NAME"]);
    assert_eq!(lines(store, &["volume", "create", "data"]), ["data"]);
    assert_eq!(lines(store, &["volume", "create", "data"]), ["data"], "it is there");
    let nameless = lines(store, &["volume", "create"])[0].clone();
    assert_eq!(nameless.len(), 64);
    let script = "echo kept > /data/file; echo lost > /mine/file";
    let options = [
        "run",
        "--name",
        "one",
        "-v",
        "data:/data",
        "-v",
        "/mine",
        "busybox:1",
        "sh",
        "-c",
        script,
    ];
    assert!(lines(store, &options).is_empty());
    assert_eq!(lines(store, &["volume", "ls", "-q"]).len(), 3);
    let data = lines(store, &["volume", "inspect", "-f", "{{.Mountpoint}}", "data"]);
    let found = scene.picked("one", "{{json .Mounts}}");
    assert!(found.contains(&format!("\"Source\":\"{}\"", data[0])), "{found}");
    let dangling =
        |yes: &str| lines(store, &["volume", "ls", "-q", "-f", &format!("dangling={yes}")]);
    assert_eq!(dangling("true"), [nameless.as_str()]);
    assert_eq!(dangling("false").len(), 2);
    assert_eq!(
        lines(store, &["volume", "ls", "-f", "name=dat", "--format", "{{.Driver}} {{.Name}}"]),
        ["local data"]
    );
    let from = [
        "run",
        "--rm",
        "--volumes-from",
        "one:ro",
        "busybox:1",
        "sh",
        "-c",
        "cat /data/file /mine/file; : > /data/x",
    ];
    let ran = run(store, &from);
    assert!(ran.out == "kept\nlost\n" && ran.status == 1, "{ran:?}");
    fails(store, &["volume", "rm", "data"], 1, &["in use by", "Hint: "]);
    assert_eq!(lines(store, &["create", "--name", "two", "-v", "/mine", "busybox:1"]).len(), 1);
    assert_eq!(lines(store, &["rm", "two"]), ["two"]);
    assert_eq!(lines(store, &["volume", "ls", "-q"]).len(), 4, "docker leaves them, too");
    assert_eq!(lines(store, &["rm", "-v", "one"]), ["one"]);
    assert_eq!(lines(store, &["volume", "ls", "-q"]).len(), 3, "what had no name went with it");
    let mount = [
        "run",
        "--rm",
        "--mount",
        "type=volume,src=data,dst=/d,readonly",
        "busybox:1",
        "cat",
        "/d/file",
    ];
    assert_eq!(lines(store, &mount), ["kept"]);
    let place =
        &lines(store, &["volume", "inspect", "-f", "{{.Mountpoint}} {{.Scope}}", "data"])[0];
    assert!(place.ends_with("/volumes/data/data local"), "{place}");
    fails(store, &["volume", "inspect", "data", "nobody"], 1, &["no such volume: nobody"]);
    fails(store, &["volume", "create", "a b"], 1, &["not allowed"]);
    let pruned = lines(store, &["volume", "prune", "-f"]);
    assert!(pruned.len() == 5 && pruned[0] == "Deleted Volumes:", "{pruned:?}");
    assert!(pruned.contains(&nameless), "{pruned:?}");
    assert!(pruned[4].starts_with("Total reclaimed space: "), "{pruned:?}");
    fails(store, &["volume", "rm", "nobody"], 1, &["no such volume: nobody"]);
    assert_eq!(lines(store, &["volume", "rm", "-f", "nobody", "data"]), ["data"]);
    assert_eq!(lines(store, &["volume", "ls", "-q"]), [""; 0]);
}

#[test]
fn new_volumes_have_what_the_image_has() {
    let scene = require!(Scene::new("cli-volumes-filled"));
    let store = &scene.store;
    let old = |volume: &[&str]| {
        let options = [&["run", "--rm"], volume, &["busybox:1", "cat", "/etc/old"]].concat();
        run(store, &options)
    };
    for volume in [&["-v", "/etc"][..], &["-v", "data:/etc"], &["--mount", "src=more,dst=/etc"]] {
        assert_eq!(old(volume).out, "old", "{volume:?}");
    }
    for volume in
        [&["-v", "none:/etc:nocopy"][..], &["--mount", "src=other,dst=/etc,volume-nocopy"]]
    {
        assert_eq!(old(volume).status, 1, "{volume:?}");
    }
    assert_eq!(lines(store, &["volume", "ls", "-q"]), ["data", "more", "none", "other"]);
}

#[test]
fn directories_of_the_host_are_mounted_where_they_were_asked_for() {
    let scene = require!(Scene::new("cli-binds"));
    let store = &scene.store;
    let shared = scene.dir.dir("shared");
    fs::write(shared.join("file"), "of the host\n").unwrap();
    // The root of the container is not the host's: others must be let in.
    let path = shared.to_str().unwrap();
    let cat = |options: &[&str], script: &str| {
        run(store, &[&["run", "--rm"], options, &["busybox:1", "sh", "-c", script]].concat())
    };
    let volume = format!("{path}:/mnt:ro");
    let ran = cat(&["-v", &volume], "cat /mnt/file; : > /mnt/new");
    assert!(ran.out == "of the host\n" && ran.status == 1, "{ran:?}");
    let mount = format!("type=bind,source={path},target=/mnt");
    let ran = cat(&["--mount", &mount], "echo changed > /mnt/file");
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(fs::read_to_string(shared.join("file")).unwrap(), "changed\n");
    let missing = shared.join("not/yet");
    let mount = format!("type=bind,source={},target=/mnt", missing.display());
    let ran = cat(&["--mount", &mount], "true");
    assert!(ran.status == 125 && ran.err.contains("there is no "), "{ran:?}");
    assert!(!missing.exists());
    let volume = format!("{}:/mnt", missing.display());
    let ran = cat(&["-v", &volume], "echo new > /mnt/file");
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(fs::read_to_string(missing.join("file")).unwrap(), "new\n");
    let volume = format!("{}/file/below:/mnt", missing.display());
    let ran = cat(&["-v", &volume], "true");
    assert!(ran.status == 125 && ran.err.contains("make the directory"), "{ran:?}");
}
