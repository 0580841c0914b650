//! What containers have changed, and what became of it as images.

use std::fs;

use coracle::image::spec::Descriptor;
use coracle::image::{Filter, Import};
use coracle::{Engine, ErrorKind};

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

#[test]
fn nothing_has_to_be_made_in_what_it_writes_to_mount_something() {
    let scene = require!(scene("container-mount-points"));
    let mut tar = Tar::new();
    let executable = |header: &mut tar::Header| header.set_mode(0o755);
    tar.dir("bin/", 0o755);
    let busybox = fs::read(require!(program("busybox"))).unwrap();
    tar.entry("bin/busybox", tar::EntryType::Regular, executable, &busybox);
    Import::new(scene.engine.store()).name("bare").read(&tar.end()[..]).unwrap();
    let script = "set -e; cd /etc; for it in hosts hostname resolv.conf; do test -s $it; done; stat -c %a:%u:%g /etc";
    let command = ["/bin/busybox", "sh", "-c", script];
    let container = scene.engine.container("bare").command(command).start().unwrap();
    assert!(container.wait().unwrap().success());
    let lines = container.logs().unwrap().lines().unwrap();
    let lines: Vec<_> = lines.map(|line| line.unwrap().text().into_owned()).collect();
    assert_eq!(lines, ["755:0:0"]);
    let written = scene.dir.join("root/containers/by-id").join(container.id().as_str());
    assert_eq!(fs::read_dir(written.join("files/upper")).unwrap().count(), 0);
    container.remove().unwrap();
}

#[test]
fn an_image_stays_while_there_are_containers_of_it() {
    let scene = require!(scene("container-images"));
    let (store, builder) = (scene.engine.store(), scene.engine.container("box"));
    for builder in [builder.clone().remove_on_exit(), builder] {
        let container = builder.command(["sleep", "600"]).create().unwrap();
        let image = container.image().unwrap();
        for _ in 0..2 {
            let err = store.remove("box").unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Busy);
            assert!(format!("{err:#}").contains(container.id().as_str()), "{err:#}");
            assert!(store.prune(&Filter::new()).unwrap().images.is_empty());
            let _ = container.start();
        }
        store.remove_forced("box").unwrap();
        store.collect_garbage().unwrap();
        assert!(container.exec(["true"]).unwrap().wait().unwrap().success());
        let made = container.commit("box").run().unwrap();
        assert_eq!(made.diff_ids(), image.diff_ids());
        assert_eq!(container.image().unwrap(), image);
        container.remove_forced().unwrap();
        assert!(store.pins().unwrap().is_empty());
    }
}

#[test]
fn what_was_handed_out_of_a_container_outlasts_it() {
    let scene = require!(scene("container-handed-out"));
    let store = scene.engine.store();
    let leases = || fs::read_dir(scene.dir.join("root/leases")).unwrap().count();
    let layers = || store.layers().unwrap().keys().unwrap().len();
    let container = scene.engine.container("box").command(["sleep", "600"]).start().unwrap();
    // Its pin is all that it needs.
    assert_eq!(leases(), 1);
    let (id, rootfs) = (container.id().clone(), container.rootfs().unwrap());
    let err = container.remove_forced().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Busy, "{err:#}");
    assert_eq!(scene.engine.find(id.as_str()).unwrap_err().kind(), ErrorKind::NotFound);
    store.remove_forced("box").unwrap();
    store.collect_garbage().unwrap();
    assert_eq!((leases(), layers()), (1, 1));
    let kept = crate::common::stack::root(&rootfs).join("data/of-the-image");
    assert_eq!(fs::read(kept).unwrap(), b"kept");
    drop(rootfs);
    Engine::open(scene.dir.join("root")).unwrap();
    store.collect_garbage().unwrap();
    assert_eq!((leases(), layers()), (0, 0));
}

#[test]
fn who_finds_no_container_to_a_pin_ends_it() {
    let scene = require!(scene("container-lost-pins"));
    let store = scene.engine.store();
    let container = scene.engine.container("box").command(["true"]).create().unwrap();
    let image = container.image().unwrap();
    // The machine has failed, and of a container only this was on the disk.
    let lost = "0".repeat(64);
    for name in [lost.as_str(), "of-somebody-else"] {
        store.pin(name, &image).unwrap();
    }
    let root = scene.dir.join("root");
    Engine::open(&root).unwrap();
    assert_eq!(store.pins().unwrap().len(), 3);
    fs::write(root.join("containers/supervisors/1-1-0"), "").unwrap();
    Engine::open(&root).unwrap();
    let mut left: Vec<_> = store.pins().unwrap().into_iter().map(|(name, _)| name).collect();
    left.retain(|name| name != "of-somebody-else");
    assert_eq!(left, [container.id().as_str()]);
    container.remove().unwrap();
    store.unpin("of-somebody-else").unwrap();
}

#[test]
fn one_that_goes_when_it_ends_is_of_the_platform_that_was_asked_for() {
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    let scene = require!(scene("container-platforms"));
    let store = scene.engine.store();
    let host = store.image("box").unwrap();
    let changer = scene.engine.container("box").command(["touch", "/other"]).start().unwrap();
    changer.wait().unwrap();
    let other = changer.commit("").run().unwrap();
    changer.remove().unwrap();
    let work = store.work().unwrap();
    let ingest = |value: serde_json::Value, media_type: &str| -> Descriptor {
        let blob = work.ingest(value.to_string().as_bytes(), None).unwrap();
        blob.descriptor(media_type.into())
    };
    let mut config = serde_json::Value::Object(other.config().raw().clone());
    config["architecture"] = "riscv64".into();
    let mut manifest = serde_json::to_value(other.manifest().spec()).unwrap();
    let config = ingest(config, "application/vnd.oci.image.config.v1+json");
    manifest["config"] = serde_json::to_value(&config).unwrap();
    let mut entries = Vec::new();
    for (descriptor, architecture) in [
        (host.descriptor().clone(), host.platform().architecture()),
        (ingest(manifest, "application/vnd.oci.image.manifest.v1+json"), "riscv64"),
    ] {
        let mut entry = serde_json::to_value(&descriptor).unwrap();
        entry["annotations"] = serde_json::json!({});
        entry["platform"] = serde_json::json!({"os": "linux", "architecture": architecture});
        entries.push(entry);
    }
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    let index = ingest(index, INDEX);
    work.set_image(Some(&"both".parse().unwrap()), &index).unwrap();
    drop(work);
    for (platform, code) in [(None, 6), (Some("linux/riscv64"), 7)] {
        let command = ["sh", "-c", "test -e /other && exit 7; exit 6"];
        let mut builder = scene.engine.container("both").command(command).remove_on_exit();
        builder.config_mut().platform = platform.map(str::to_owned);
        let container = builder.start().unwrap();
        assert_eq!(container.wait().unwrap().code(), Some(code), "{platform:?}");
    }
}
