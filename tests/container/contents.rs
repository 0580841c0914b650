//! What containers have changed, and what became of it as images.

use std::fs;

use coracle::Engine;
use coracle::image::Import;

use crate::common::archive::Tar;
use crate::common::{program, require};
use crate::scene;

/// What a script changes in a container of an image, and what is different then in the image that is made of it.
fn changes(engine: &Engine, image: &str, script: &str) -> (Vec<String>, Vec<String>) {
    let container = engine.container(image).command(["/bin/busybox", "sh", "-c", script]);
    let container = container.start().unwrap();
    let running: Vec<_> = container.changes().unwrap().iter().map(ToString::to_string).collect();
    assert!(running.iter().all(|it| !it.starts_with("A /etc/h")), "{running:?}");
    container.wait().unwrap();
    let changes = container.changes().unwrap().iter().map(ToString::to_string).collect();
    let made = container.commit("").run().unwrap();
    let since = made.changes_since(&container.image().unwrap()).unwrap();
    assert_eq!(since.is_empty(), made.diff_ids() == container.image().unwrap().diff_ids());
    container.remove().unwrap();
    (changes, since.iter().map(ToString::to_string).collect())
}

#[test]
fn what_had_to_be_made_to_mount_something_is_no_change() {
    let scene = require!(scene("container-contents"));
    let busybox = fs::read(require!(program("busybox"))).unwrap();
    let mut tar = Tar::new();
    let executable = |header: &mut tar::Header| header.set_mode(0o755);
    tar.dir("bin/", 0o755);
    tar.entry("bin/busybox", tar::EntryType::Regular, executable, &busybox);
    let archive = tar.end();
    let whole_trees = scene.dir.join("vfs");
    fs::create_dir_all(whole_trees.join("layers/vfs")).unwrap();
    let mut exported = Vec::new();
    scene.engine.store().image("box").unwrap().export(&mut exported).unwrap();
    let vfs = Engine::open(&whole_trees).unwrap();
    assert_eq!(vfs.store().layers().unwrap().driver().as_str(), "vfs");
    Import::new(vfs.store()).name("box").read(&exported[..]).unwrap();
    for engine in [&scene.engine, &vfs] {
        Import::new(engine.store()).name("bare").read(&archive[..]).unwrap();
        for (image, script, expected) in [
            ("box", "true", &[][..]),
            ("bare", "true", &[]),
            ("box", "busybox echo > /etc/new", &["C /etc", "A /etc/new"]),
            ("bare", "busybox echo > /etc/new", &["A /etc", "A /etc/new"]),
            ("bare", "busybox chmod 700 /etc", &["A /etc"]),
            ("box", "echo > /data/hosts", &["C /data", "A /data/hosts"]),
        ] {
            let (changes, committed) = changes(engine, image, &format!("PATH=/bin; {script}"));
            assert_eq!(changes, expected, "{image}: {script}");
            assert_eq!(committed, expected, "{image}: {script}");
        }
    }
}
