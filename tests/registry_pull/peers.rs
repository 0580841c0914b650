//! What docker and podman push, we pull and run.

use std::fs;
use std::path::{Path, PathBuf};

use coracle::image::Store;
use coracle::namespaces::Command;

use crate::client;
use crate::common::engines::{Containers, Docker};
use crate::common::images::Skopeo;
use crate::common::registry::Registry as Server;
use crate::common::{self, Missing, Sandbox, require};

/// An archive of a small system, and a file to change in it.
fn system(sandbox: &Sandbox) -> Result<(PathBuf, PathBuf), Missing> {
    let busybox = fs::read("/bin/busybox")
        .map_err(|err| Missing::new("busybox-static", format!("/bin/busybox: {err}")))?;
    let mut tar = tar::Builder::new(Vec::new());
    for (path, mode, content) in
        [("bin/busybox", 0o755, &busybox[..]), ("greeting", 0o644, b"from below\n")]
    {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content).unwrap();
    }
    let archive = sandbox.file("system.tar", tar.into_inner().unwrap());
    Ok((archive, sandbox.file("greeting", "from above\n")))
}

/// Pulls the image, whose registry has it under this digest, and runs it.
fn check(sandbox: &Sandbox, server: &Server, name: &str) {
    let store = Store::open(sandbox.join("store")).unwrap();
    let image = client().pull(server.name(name), &store).blocking().unwrap();
    let seen = Skopeo::new(server).unwrap().inspect(name).unwrap();
    assert_eq!(seen["Digest"], image.digest().to_string());
    assert_eq!(image.manifest().layers().len(), 2);
    assert_eq!(store.layers().unwrap().keys().unwrap().len(), 2);
    assert!(store.verify().unwrap().is_sound());
    let rootfs = image.rootfs().unwrap().ephemeral().unwrap();
    let mut cat = Command::new("/bin/busybox");
    let out = cat.args(["cat", "/greeting"]).rootfs(&rootfs).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "from above\n", "{}", out.status);
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn what_docker_pushes_comes_and_runs() {
    require!(common::root());
    require!(common::containers());
    let sandbox = common::setup("pull-docker");
    let server = require!(Server::start());
    let (archive, greeting) = require!(system(&sandbox));
    let docker = require!(Docker::start(&sandbox, "vfs"));
    docker.run(&["import", text(&archive), "below"]);
    docker.run(&["create", "--name", "changing", "below", "/bin/busybox"]);
    docker.run(&["cp", text(&greeting), "changing:/greeting"]);
    let name = server.name("team/greeting:1");
    docker.run(&["commit", "changing", &name]);
    let pushed = docker.run(&["push", &name]);
    check(&sandbox, &server, "team/greeting:1");
    let store = Store::open(sandbox.join("store")).unwrap();
    let digest = store.image(&name).unwrap().digest();
    assert!(pushed.contains(&format!("digest: {digest}")), "{pushed}");
}

#[test]
fn what_podman_pushes_comes_and_runs() {
    require!(common::root());
    require!(common::containers());
    require!(common::program("podman"));
    let sandbox = common::setup("pull-podman");
    let server = require!(Server::start());
    let (archive, greeting) = require!(system(&sandbox));
    let podman = Containers::new(&sandbox, "vfs");
    let run = |args: &[&str]| podman.run("podman", args);
    run(&["import", text(&archive), "below"]);
    run(&["create", "--name", "changing", "below", "/bin/busybox"]);
    run(&["cp", text(&greeting), "changing:/greeting"]);
    let name = server.name("team/greeting:1");
    run(&["commit", "--quiet", "changing", &name]);
    for (compression, name) in [("gzip", "team/greeting:1"), ("zstd", "team/greeting:2")] {
        let to = format!("docker://{}", server.name(name));
        let local = server.name("team/greeting:1");
        let packing = format!("--compression-format={compression}");
        run(&["push", "--tls-verify=false", "--format=oci", &packing, &local, &to]);
        check(&sandbox, &server, name);
    }
}
