//! `cp`, by other command lines than the one that runs the container, and beside docker's.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::common::archive::{Tar, tree};
use crate::common::engines::Docker;
use crate::common::{require, root, setup, subordinate_ids};
use crate::life::Scene;
use crate::{command, fails, finish, lines, run};

/// Files to copy.
fn host(dir: &Path) -> PathBuf {
    let host = dir.join("host");
    fs::create_dir_all(host.join("dir/sub")).unwrap();
    for (name, content) in [("file", "one"), ("dir/two", "two"), ("dir/sub/three", "three")] {
        fs::write(host.join(name), content).unwrap();
    }
    symlink("two", host.join("dir/link")).unwrap();
    symlink("dir", host.join("to-dir")).unwrap();
    symlink("file", host.join("to-file")).unwrap();
    fs::hard_link(host.join("dir/two"), host.join("dir/twin")).unwrap();
    host
}

#[test]
fn files_go_in_and_out_of_a_container_that_another_process_runs() {
    let scene = require!(Scene::new("cli-copy"));
    let (store, host) = (&scene.store, host(&scene.dir));
    let path = |name: &str| host.join(name).to_str().unwrap().to_owned();
    scene.detached(&["--name", "web", "-v", "data:/data"], "busybox sleep 600");
    let silent: [&str; 0] = [];
    assert_eq!(lines(store, &["cp", &path("dir"), "web:/tmp"]), silent, "not on a terminal");
    assert_eq!(lines(store, &["container", "cp", &path("file"), "web:data/new"]), silent);
    let script = "cat /tmp/dir/two /tmp/dir/sub/three /data/new; busybox stat -c %u /data/new";
    assert_eq!(lines(store, &["exec", "web", "sh", "-c", script]), ["twothreeone0"]);
    assert_eq!(lines(store, &["cp", "-q", "web:/tmp/dir/.", &path("out")]), silent);
    assert_eq!(fs::read_to_string(host.join("out/sub/three")).unwrap(), "three");
    let text = run(store, &["cp", "web:/data/new", "-"]).out;
    assert!(text.contains("new\0") && text.contains("one\0"));
    let archive = Tar::new().owned("theirs", 7, 8).file("more", "more").end();
    for (options, ids) in [(&["-a"][..], "7:8"), (&[], "0:0")] {
        if !options.is_empty() && subordinate_ids().is_err() {
            continue;
        }
        let mut cp = command(&[&["cp"], options, &["-", "web:/data"]].concat());
        let mut cp = cp.env("CORACLE_ROOT", store.path()).stdin(Stdio::piped()).spawn().unwrap();
        cp.stdin.take().unwrap().write_all(&archive).unwrap();
        assert!(cp.wait().unwrap().success());
        let stat = ["exec", "web", "busybox", "stat", "-c", "%u:%g", "/data/theirs"];
        assert_eq!(lines(store, &stat), [ids], "{options:?}");
    }
    // On a terminal it tells.
    require!(crate::common::program("script"));
    let line = format!("{} cp {} web:/tmp/told", crate::program().display(), path("file"));
    let mut told = std::process::Command::new("script");
    told.args(["-qec", &line, "/dev/null"]).env("CORACLE_ROOT", store.path()).stdin(Stdio::null());
    let told = finish(&mut told);
    let line = told.out.trim();
    assert!(line.starts_with("Successfully copied "), "{told:?}");
    assert!(line.ends_with("kB to web:/tmp/told"), "{told:?}");
    fails(store, &["cp", "web:/none", &path("out")], 1, &["web", "/none"]);
    fails(store, &["cp", "nobody:/x", "."], 1, &["no such container: nobody"]);
    fails(store, &["cp", "web:/etc", "web:/x"], 1, &["between containers", "Hint: "]);
    fails(store, &["cp", &path("file"), &path("x")], 1, &["at least one container"]);
    fails(store, &["cp", "", "web:/x"], 1, &["empty"]);
    if root().is_ok() {
        lines(store, &["pause", "web"]);
    }
    assert_eq!(lines(store, &["cp", "web:/data/more", &path("more")]), silent);
    run(store, &["unpause", "web"]);
    lines(store, &["stop", "-t", "0", "web"]);
    assert_eq!(lines(store, &["cp", &path("more"), "web:/data/again"]), silent);
    lines(store, &["start", "web"]);
    assert_eq!(lines(store, &["exec", "web", "cat", "/data/again"]), ["more"]);
}

#[test]
fn copies_are_dockers() {
    let scene = require!(Scene::new("cli-docker-copy"));
    // The daemon's own directory: it is not to lie in what the scene removes.
    let dir = setup("cli-docker-copy-daemon");
    let docker = require!(Docker::start(&dir, "overlay2"));
    let (store, host) = (&scene.store, host(&scene.dir));
    let archive = dir.join("image.tar");
    assert_eq!(run(store, &["save", "-o", archive.to_str().unwrap(), "busybox:1"]).status, 0);
    docker.load(&archive);
    let mut different = Vec::new();
    for state in ["created", "running"] {
        let create = ["create", "--network", "none", "--name", state, "-v", "store:/root"];
        let create = [&create[..], &["busybox:1", "busybox", "sleep", "600"]].concat();
        docker.run(&create);
        lines(store, &create);
        if state == "running" {
            docker.run(&["start", state]);
            lines(store, &["start", state]);
        }
        let out = scene.dir.join("out");
        fs::create_dir_all(out.join("there")).unwrap();
        let theirs = scene.dir.join("theirs");
        let inside = |path: &str| format!("{state}:{path}");
        let of_host = |name: &str| host.join(name).to_str().unwrap().to_owned();
        let to_host = |name: &str| out.join(name).to_str().unwrap().to_owned();
        let copies: &[(&[&str], String, String)] = &[
            (&[], of_host("file"), inside("/tmp/new")),
            (&[], of_host("file"), inside("/tmp/")),
            (&[], of_host("file"), inside("tmp")),
            (&[], of_host("file"), inside("/none/")),
            (&[], of_host("file"), inside("/none/x")),
            (&[], of_host("dir"), inside("/tmp/dir")),
            (&[], of_host("dir"), inside("/tmp/dir")),
            (&[], of_host("dir/."), inside("/tmp/contents")),
            (&[], of_host("dir/."), inside("/tmp/contents")),
            (&[], of_host("dir/"), inside("/tmp/slash/")),
            (&[], of_host("dir"), inside("/tmp/new")),
            (&[], of_host("none"), inside("/tmp")),
            (&[], of_host("to-file"), inside("/tmp")),
            (&["-L"], of_host("to-file"), inside("/tmp/followed")),
            (&[], of_host("to-dir"), inside("/tmp")),
            (&["-L"], of_host("to-dir"), inside("/tmp/followed-dir")),
            (&["-a"], of_host("dir"), inside("/tmp/archive")),
            (&[], of_host("file"), inside("/root/in-volume")),
            (&[], of_host("file"), inside("/tmp/to-dir/through")),
            (&["-L"], inside("/tmp/to-file"), to_host("followed")),
            (&[], inside("/tmp/to-file"), to_host("link")),
            (&[], inside("/tmp/to-dir/two"), to_host("")),
            (&[], inside("/tmp"), to_host("new")),
            (&[], inside("/tmp"), to_host("there")),
            (&[], inside("/tmp/."), to_host("there")),
            (&[], inside("/root/in-volume"), to_host("there/")),
            (&[], inside("/tmp"), to_host("there/new")),
            (&[], inside("/tmp/new"), to_host("none/")),
            (&[], inside("/tmp/new"), to_host("none/x")),
            (&[], inside("/tmp/new"), "/dev/null".to_owned()),
            (&[], inside("/tmp/none"), to_host("there")),
            (&[], inside("/tmp/new/x"), to_host("there")),
            (&[], "nobody:/tmp".to_owned(), to_host("there")),
            (&[], inside("/tmp"), inside("/etc")),
            (&[], of_host("file"), to_host("there")),
        ];
        let copy = |run: &mut dyn FnMut(&[&str]) -> crate::Ran| -> Vec<(i32, String, bool)> {
            let copies = copies.iter().map(|(options, from, to)| {
                let ran = run(&[&["cp"], *options, &[from, to]].concat());
                (ran.status, ran.out, ran.err.is_empty())
            });
            copies.collect()
        };
        let by_docker = copy(&mut |arguments| finish(&mut docker.command(arguments)));
        fs::rename(&out, &theirs).unwrap();
        fs::create_dir_all(out.join("there")).unwrap();
        let by_us = copy(&mut |arguments| run(store, arguments));
        for ((copy, theirs), ours) in copies.iter().zip(by_docker).zip(by_us) {
            if theirs != ours {
                different.push(format!("{state} {copy:?}: docker {theirs:?}, this {ours:?}"));
            }
        }
        let untimed = |dir: &Path| -> Vec<String> {
            let line = |line: String| {
                let mut words: Vec<_> = line.split(' ').map(str::to_owned).collect();
                // Of what docker makes on the way the time is its own.
                words.remove(3);
                words.join(" ")
            };
            tree(dir).into_iter().map(line).collect()
        };
        for (theirs, ours) in untimed(&theirs).into_iter().zip(untimed(&out)) {
            if theirs != ours {
                different.push(format!("{state}: docker {theirs:?}, this {ours:?}"));
            }
        }
        assert_eq!(untimed(&theirs).len(), untimed(&out).len());
        let names = |run: &mut dyn FnMut(&[&str]) -> std::process::Output, path: &str| {
            let path = inside(path);
            let bytes = run(&["cp", &path, "-"]).stdout;
            let mut archive = tar::Archive::new(&*bytes);
            let entries = archive.entries().unwrap();
            let name = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
                entry.unwrap().path().unwrap().display().to_string()
            };
            let mut names: Vec<_> = entries.map(name).collect();
            names.sort();
            names
        };
        for path in ["/tmp/dir", "/tmp/dir/.", "/tmp/dir/", "/tmp/new", "/tmp/to-file"] {
            let theirs = names(&mut |arguments| docker.command(arguments).output().unwrap(), path);
            let ours = names(
                &mut |arguments| {
                    command(arguments).env("CORACLE_ROOT", store.path()).output().unwrap()
                },
                path,
            );
            if theirs != ours {
                different.push(format!("{path}: docker {theirs:?}, this {ours:?}"));
            }
        }
        fs::remove_dir_all(&theirs).unwrap();
        fs::remove_dir_all(&out).unwrap();
        docker.run(&["rm", "-f", state]);
    }
    assert!(different.is_empty(), "{different:#?}");
}
