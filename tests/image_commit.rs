//! Images that are made of root filesystems, and root filesystems that are made of images.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use coracle::ErrorKind;
use coracle::image::{ConfigChanges, Image, Store};
use coracle::layers::{Compression, Rootfs};
use coracle::namespaces::Command;

use common::stack::{inside, root};
use common::{Sandbox, require, setup};

/// A tree with busybox as its shell.
fn base(dir: &Sandbox) -> Rootfs {
    for name in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        dir.dir(Path::new("base").join(name));
    }
    let busybox = dir.join("base/bin/busybox");
    fs::copy(common::program("busybox").unwrap(), &busybox).unwrap();
    fs::set_permissions(&busybox, fs::Permissions::from_mode(0o755)).unwrap();
    symlink("busybox", dir.join("base/bin/sh")).unwrap();
    dir.file("base/etc/old", "old");
    dir.file("base/etc/kept", "kept");
    Rootfs::stack([dir.join("base")]).writable(dir.join("base-scratch")).unwrap()
}

fn base_image(store: &Store, dir: &Sandbox) -> Image {
    store.commit(&base(dir), "base").message("the base").cmd(["/bin/sh"]).run().unwrap()
}

fn sh(rootfs: &Rootfs, script: &str) -> String {
    let out = Command::new("/bin/sh").args(["-ec", script]).rootfs(rootfs).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
    assert!(out.status.success(), "{}: {}", out.status, text(out.stderr));
    text(out.stdout)
}

#[test]
fn what_a_process_changed_is_an_image_that_runs() {
    require!(common::stacks());
    require!(common::containers());
    require!(common::program("busybox"));
    let dir = setup("commit-run");
    let store = Store::open(dir.join("images")).unwrap();
    let base = base_image(&store, &dir);
    let rootfs = base.rootfs().unwrap().writable(dir.join("scratch")).unwrap();
    sh(
        &rootfs,
        "echo new > /etc/new; busybox rm /etc/old; busybox mkdir -p /srv/deep; echo x > /srv/deep/x",
    );
    let image = store
        .commit(&rootfs, "app:1")
        .parent(&base)
        .message("add app")
        .author("me")
        .created_by("sh -c ...")
        .entrypoint(["/bin/sh", "-c"])
        .env("MODE", "test")
        .run()
        .unwrap();
    drop(rootfs);
    assert_eq!(image.references()[0].familiar(), "app:1");
    assert_eq!(image.diff_ids().len(), 2);
    assert!(image.diff_ids().starts_with(base.diff_ids()));
    let config = &image.config().raw()["config"];
    assert_eq!(config["Entrypoint"], serde_json::json!(["/bin/sh", "-c"]));
    assert!(config.get("Cmd").is_none(), "that of the base was for another entrypoint");
    let history = image.history().unwrap();
    assert_eq!((history[0].comment.as_str(), history[0].author.as_str()), ("add app", "me"));
    assert_eq!(history[1].comment, "the base");

    let rootfs = image.rootfs().unwrap().read_only().unwrap();
    assert_eq!(
        sh(&rootfs, "cat /etc/new /etc/kept /srv/deep/x; echo /etc/*"),
        "new\nkeptx\n/etc/kept /etc/new"
    );
    let mode = |rootfs: &Rootfs| fs::metadata(root(rootfs)).unwrap().mode() & 0o7777;
    assert_eq!(mode(&rootfs), mode(&base.rootfs().unwrap().read_only().unwrap()));
    assert!(store.verify().unwrap().is_sound());
}

#[test]
fn the_same_files_give_the_same_image() {
    require!(common::stacks());
    require!(common::program("busybox"));
    let dir = setup("commit-same");
    let store = Store::open(dir.join("images")).unwrap();
    let base = base_image(&store, &dir);
    let at = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let make = |scratch: &str, compression, by_changes: bool| {
        let rootfs = base.rootfs().unwrap().writable(dir.join(scratch)).unwrap();
        inside(&rootfs, |root| {
            for n in 0..50 {
                fs::write(root.join(format!("file{n}")), format!("{n}")).unwrap();
            }
        });
        let commit = store.commit(&rootfs, "same").parent(&base).compression(compression);
        let commit = match by_changes {
            true => commit.changes(ConfigChanges::new().created(at)),
            false => commit.timestamp(at),
        };
        commit.run().unwrap()
    };
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let one = make("a", compression, false);
        let two = make("b", compression, true);
        assert_eq!((one.id(), one.digest()), (two.id(), two.digest()), "{compression:?}");
        assert_eq!(one.created(), Some(at));
        fs::remove_dir_all(dir.join("a/upper")).unwrap();
        let shown = one.rootfs().unwrap().read_only().unwrap();
        assert_eq!(fs::metadata(root(&shown).join("file7")).unwrap().mtime(), 1_000_000_000);
    }
}

#[test]
fn nothing_changed_is_no_layer() {
    require!(common::stacks());
    require!(common::program("busybox"));
    let dir = setup("commit-nothing");
    let store = Store::open(dir.join("images")).unwrap();
    let base = base_image(&store, &dir);
    let rootfs = base.rootfs().unwrap().writable(dir.join("scratch")).unwrap();
    let image = store.commit(&rootfs, "labelled").parent(&base).label("a", "b").run().unwrap();
    assert_eq!(image.diff_ids(), base.diff_ids());
    assert_eq!(image.history().unwrap()[0].layer, None);
    assert_eq!(image.config().label("a"), Some("b"));
}

#[test]
fn layers_are_unpacked_once_and_live_as_long_as_what_stands_on_them() {
    require!(common::stacks());
    require!(common::program("busybox"));
    let dir = setup("commit-shared");
    let store = Store::open(dir.join("images")).unwrap();
    let base = base_image(&store, &dir);
    let rootfs = base.rootfs().unwrap().read_only().unwrap();
    let inode = |rootfs: &Rootfs| fs::metadata(root(rootfs).join("etc/kept")).unwrap().ino();
    let again = base.rootfs().unwrap().read_only().unwrap();
    assert_eq!(inode(&rootfs), inode(&again));
    drop(again);

    store.remove("base").unwrap();
    assert_eq!(store.collect_garbage().unwrap().layers, 0);
    assert_eq!(fs::read_to_string(root(&rootfs).join("etc/kept")).unwrap(), "kept");
    drop(rootfs);
    let collected = store.collect_garbage().unwrap();
    assert_eq!(collected.layers, 1);
    assert!(store.layers().unwrap().keys().unwrap().is_empty());
    assert_eq!(base.rootfs().unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn layers_of_another_boot_are_unpacked_anew_unless_they_were_synced() {
    require!(common::stacks());
    require!(common::program("busybox"));
    let dir = setup("commit-boot");
    let store = Store::open(dir.join("images")).unwrap();
    let base = base_image(&store, &dir);
    drop(base.rootfs().unwrap());
    let layers = store.layers().unwrap();
    let key = layers.keys().unwrap().remove(0);
    let record = layers.path(&key).join("layer.json");
    let inode = || fs::metadata(layers.path(&key).join("tree/etc/kept")).unwrap().ino();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let restart = || {
        let text = fs::read_to_string(&record).unwrap();
        fs::write(&record, text.replace(boot.trim(), "earlier")).unwrap();
    };
    let before = inode();
    store.sync_layers().unwrap();
    restart();
    drop(base.rootfs().unwrap());
    assert_eq!(inode(), before);

    fs::write(&record, fs::read_to_string(&record).unwrap().replace("null", "\"earlier\""))
        .unwrap();
    // What a power failure may leave.
    let victim = layers.path(&key).join("tree/etc/kept");
    fs::remove_file(victim).unwrap();
    let rootfs = base.rootfs().unwrap().read_only().unwrap();
    assert_eq!(fs::read_to_string(root(&rootfs).join("etc/kept")).unwrap(), "kept");
}

#[test]
fn a_bad_commit_leaves_the_store_as_it_was() {
    require!(common::stacks());
    require!(common::program("busybox"));
    let dir = setup("commit-bad");
    let store = Store::open(dir.join("images")).unwrap();
    let base = base_image(&store, &dir);
    let rootfs = base.rootfs().unwrap().writable(dir.join("scratch")).unwrap();
    let before = store.usage().unwrap().total.blobs;
    let commit = || store.commit(&rootfs, "bad").parent(&base);
    for (commit, why) in [
        (store.commit(&rootfs, "Bad Name").parent(&base), "Bad Name"),
        (commit().env("A=B", "x"), "no name of a variable"),
        (commit().cmd(["a\0b"]), "NUL"),
    ] {
        let err = commit.run().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidInput, "{err:#}");
        assert!(format!("{err:#}").contains(why), "{err:#}");
    }
    store.collect_garbage().unwrap();
    assert_eq!(store.usage().unwrap().total.blobs, before);
    assert!(store.image("bad").is_err());
}

#[test]
fn a_damaged_layer_is_named_and_nothing_of_it_is_used() {
    require!(common::stacks());
    require!(common::program("busybox"));
    let dir = setup("commit-damaged");
    let store = Store::open(dir.join("images")).unwrap();
    let base = base_image(&store, &dir);
    let blob = base.manifest().layers()[0];
    let path = store.path().join("blobs/sha256").join(blob.digest.hex());
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let err = base.rootfs().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Malformed, "{err:#}");
    assert!(format!("{err:#}").contains(&blob.digest.to_string()), "{err:#}");
    assert!(store.layers().unwrap().keys().unwrap().is_empty());
}

#[test]
fn a_root_filesystem_of_other_layers_is_no_change_of_the_parent() {
    require!(common::stacks());
    require!(common::program("busybox"));
    let dir = setup("commit-parent");
    let store = Store::open(dir.join("images")).unwrap();
    let base = base_image(&store, &dir);
    let rootfs = base.rootfs().unwrap().writable(dir.join("scratch")).unwrap();
    inside(&rootfs, |root| fs::write(root.join("new"), "").unwrap());
    let app = store.commit(&rootfs, "app").parent(&base).run().unwrap();
    let upon_app = app.rootfs().unwrap().writable(dir.join("other")).unwrap();
    let by_hand = Rootfs::stack([dir.join("base")]).read_only().unwrap();
    let before = store.usage().unwrap().total.blobs;
    for (rootfs, parent) in [(&rootfs, &app), (&upon_app, &base), (&by_hand, &base)] {
        let err = store.commit(rootfs, "bad").parent(parent).run().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidInput, "{err:#}");
        assert!(format!("{err:#}").contains(&parent.id().short()), "{err:#}");
        assert!(err.hint().is_some_and(|hint| hint.contains("`rootfs` of that image")), "{err:#}");
    }
    store.collect_garbage().unwrap();
    assert_eq!(store.usage().unwrap().total.blobs, before);
}

#[test]
fn the_root_directory_is_what_it_is_in_the_image_and_its_changes_arrive() {
    require!(common::stacks());
    require!(common::stacks_in_memory());
    require!(common::program("busybox"));
    let dir = setup("commit-root");
    let store = Store::open(dir.join("images")).unwrap();
    let tree = base(&dir);
    let root_mode = |rootfs: &Rootfs| fs::metadata(root(rootfs)).unwrap().mode() & 0o7777;
    let set_mode = |rootfs: &Rootfs, mode| {
        inside(rootfs, |root| {
            fs::set_permissions(root, fs::Permissions::from_mode(mode)).unwrap();
        });
    };
    set_mode(&tree, 0o1711);
    let base = store.commit(&tree, "base").run().unwrap();
    for made in [
        base.rootfs().unwrap().read_only(),
        base.rootfs().unwrap().ephemeral(),
        base.rootfs().unwrap().writable(dir.join("scratch")),
    ] {
        let rootfs = made.unwrap();
        assert_eq!(root_mode(&rootfs), 0o1711);
        assert_eq!(rootfs.changes().unwrap(), []);
    }
    let rootfs = base.rootfs().unwrap().writable(dir.join("scratch")).unwrap();
    let list = |rootfs: &Rootfs| -> Vec<String> {
        rootfs.changes().unwrap().iter().map(ToString::to_string).collect()
    };
    // A file made and removed leaves another time, which is no change.
    inside(&rootfs, |root| {
        fs::write(root.join("brief"), "").unwrap();
        fs::remove_file(root.join("brief")).unwrap();
    });
    assert_eq!(list(&rootfs), [""; 0]);
    set_mode(&rootfs, 0o700);
    assert_eq!(list(&rootfs), ["C /"]);
    let image = store.commit(&rootfs, "closed").parent(&base).run().unwrap();
    assert_eq!(image.diff_ids().len(), base.diff_ids().len() + 1);
    assert_eq!(root_mode(&image.rootfs().unwrap().read_only().unwrap()), 0o700);
    assert_eq!(image.changes_since(&base).unwrap().len(), 1);
    inside(&rootfs, |root| fs::write(root.join("new"), "").unwrap());
    assert_eq!(list(&rootfs), ["C /", "A /new"]);
    // The directory is there to go on with, as it was left.
    drop(rootfs);
    let rootfs = base.rootfs().unwrap().writable(dir.join("scratch")).unwrap();
    assert_eq!(list(&rootfs), ["C /", "A /new"]);
    drop(rootfs);
    let rootfs = image.rootfs().unwrap().writable(dir.join("owned")).unwrap();
    if common::subordinate_ids().is_ok() && common::containers().is_ok() {
        sh(&rootfs, "busybox chmod 755 /; busybox chown 12:13 /");
        assert_eq!(list(&rootfs), ["C /"]);
        let image = store.commit(&rootfs, "owned").parent(&image).run().unwrap();
        let rootfs = image.rootfs().unwrap().read_only().unwrap();
        assert_eq!(sh(&rootfs, "busybox stat -c '%a %u:%g' /"), "755 12:13");
        let rootfs = image.rootfs().unwrap().ephemeral().unwrap();
        assert_eq!(sh(&rootfs, "busybox stat -c '%a %u:%g' /"), "755 12:13");
        assert_eq!(list(&rootfs), [""; 0]);
    }
}

#[test]
fn whiteouts_in_the_lowest_layer_leave_no_marks() {
    require!(common::stacks());
    let dir = setup("commit-lowest");
    let store = Store::open(dir.join("images")).unwrap();
    let mut tar = common::archive::Tar::new();
    tar.file(".wh.nothing", "").dir("a", 0o755).file("a/.wh..wh..opq", "").file("a/.wh.b", "");
    tar.file("a/c", "c").file(".wh..wh..opq", "").file(".wh.a", "");
    let image = coracle::image::Import::new(&store).read(&tar.end()[..]).unwrap();
    let rootfs = image.rootfs().unwrap().read_only().unwrap();
    assert_eq!(fs::read_to_string(root(&rootfs).join("a/c")).unwrap(), "c");
    let layers = store.layers().unwrap();
    let tree = layers.path(&layers.keys().unwrap()[0]).join("tree");
    let names = |path: &str| -> Vec<_> {
        let entries = fs::read_dir(tree.join(path)).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };
    assert_eq!((names(""), names("a")), (vec!["a".into()], vec!["c".into()]));
    let marks = common::archive::attributes(&tree.join("a"));
    assert!(!marks.keys().any(|name| name.contains("overlay")), "{marks:?}");
}
