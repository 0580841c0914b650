//! Images squashed and compared: whatever their layers do to each other, the files stay the same.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "image_archives/drivers.rs"]
mod drivers;
#[path = "image_archives/fixture.rs"]
#[allow(dead_code, reason = "each suite uses another part")]
mod fixture;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, UNIX_EPOCH};

use coracle::ErrorKind;
use coracle::image::{ConfigChanges, Digest, Image};
use coracle::layers::Compression;
use nix::unistd::geteuid;
use tar::EntryType;

use common::stack::root;
use common::{require, setup};
use drivers::{add, each};
use fixture::{Entry, inventory, sound};

fn files(image: &Image) -> BTreeMap<PathBuf, String> {
    let stack = image.rootfs().unwrap();
    let stack = if geteuid().is_root() { stack.host_ids() } else { stack };
    common::tree::describe(&root(&stack.read_only().unwrap()))
}

fn assert_same(expected: &BTreeMap<PathBuf, String>, found: &BTreeMap<PathBuf, String>, of: &str) {
    for path in expected.keys().chain(found.keys()) {
        assert_eq!(expected.get(path), found.get(path), "{} of {of}", path.display());
    }
}

fn changes(old: &Image, new: &Image) -> Vec<String> {
    new.changes_since(old).unwrap().iter().map(ToString::to_string).collect()
}

fn file(path: &str, content: &str) -> Entry {
    Entry::file(path, content)
}

fn dir(path: &str) -> Entry {
    Entry::directory(path)
}

fn link(path: &str, target: &str) -> Entry {
    Entry::link(path, EntryType::Link, target)
}

/// Deletes what the layers below have there.
fn gone(path: &str) -> Entry {
    let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
    let slash = if above.is_empty() { "" } else { "/" };
    file(&format!("{above}{slash}.wh.{name}"), "")
}

/// Hides all that the layers below have in the directory.
fn emptied(path: &str) -> Entry {
    file(&format!("{path}/.wh..wh..opq"), "")
}

fn symlink(path: &str, target: &str) -> Entry {
    Entry::link(path, EntryType::Symlink, target)
}

/// Layers that do to each other whatever layers can.
fn hostile() -> Vec<Vec<Entry>> {
    let at = |time: u64, entry: Entry| entry.mtime(time);
    vec![
        vec![
            dir("./").mode(0o711).mtime(5),
            gone("nothing"),
            dir("etc").mtime(7),
            file("etc/kept", "kept").owner(1000, 1001),
            file("etc/gone", "gone"),
            file("etc/back", "the same"),
            file("turns", "file"),
            dir("turns-dir"),
            file("turns-dir/inner", "x"),
            dir("hidden"),
            file("hidden/old", "old"),
            dir("hidden/deep"),
            file("hidden/deep/older", "older"),
            dir("lost"),
            dir("lost/far"),
            file("lost/far/file", "x"),
            dir("remade"),
            dir("remade/far"),
            file("remade/far/file", "x"),
            file("one", "several names"),
            link("two", "one"),
            link("etc/three", "one"),
            file("alone", "linked later"),
            symlink("leads", "led"),
            dir("led"),
            file("led/x", "x"),
            file("pair", "linked later still"),
            Entry::new("pipe", EntryType::Fifo).mode(0o640),
            dir("timed").mtime(100),
            file("noted", "x").xattr("user.note", b"one"),
            file("set", "uid").mode(0o4755),
        ],
        vec![
            gone("nothing-either"),
            gone("etc/gone"),
            gone("etc/back"),
            gone("turns"),
            dir("turns"),
            file("turns/inner", "now a directory"),
            at(9, file("turns-dir", "now a file")),
            emptied("hidden"),
            file("hidden/new", "new"),
            gone("lost"),
            gone("remade"),
            link("copied", "alone"),
            file("two", "no name of one any more"),
            dir("timed").mtime(200),
            file("noted", "x").xattr("user.note", b"two").xattr("user.more", b""),
        ],
        vec![
            dir("./").mode(0o751).mtime(6),
            file("etc/back", "the same"),
            gone("turns"),
            file("turns", "file"),
            gone("turns-dir"),
            dir("turns-dir"),
            file("turns-dir/other", "y"),
            gone("hidden/new"),
            dir("hidden/deep"),
            file("hidden/deep/again", "again"),
            dir("lost"),
            file("lost/found", "found"),
            dir("remade"),
            dir("remade/far"),
            file("remade/far/other", "y"),
            emptied("leads"),
            file("leads/through", "a link"),
            link("pair-2", "pair"),
            file("set", "uid").mode(0o755).owner(3, 4),
        ],
        vec![
            emptied("hidden"),
            emptied("lost"),
            dir("lost/far"),
            file("lost/far/other", "y"),
            gone("pipe"),
            symlink("pipe", "lost"),
            file("brief", "gone soon"),
            dir("brief-dir"),
            file("brief-dir/x", "x"),
            file("copied", "anew"),
            link("again", "copied"),
        ],
        vec![
            gone("brief"),
            gone("brief-dir"),
            gone("leads"),
            dir("leads"),
            file("leads/kept", "another"),
            gone("one"),
            dir("timed").mtime(100),
        ],
        vec![gone("nothing-again"), gone("etc/no-such/deeper")],
    ]
}

const LATER: Duration = Duration::from_secs(2_000_000_000);

#[test]
fn squashed_to_any_depth_the_files_are_the_same() {
    let ids: Mutex<Vec<Vec<Digest>>> = Mutex::default();
    each("squash-hostile", |store| {
        let layers = hostile();
        let image = add(store, "app", &layers);
        let expected = files(&image);
        for (path, first) in [("/copied", "again"), ("/pair-2", "pair")] {
            assert!(
                expected[Path::new(path)].contains(&format!("same as {first}")),
                "{expected:#?}"
            );
        }
        assert!(!expected.contains_key(Path::new("/remade/far/file")));
        for path in ["/etc/kept", "/led/through", "/hidden", "/lost/far/other"] {
            assert!(expected.contains_key(Path::new(path)), "{expected:#?}");
        }
        assert!(!expected.contains_key(Path::new("/nothing")));
        let mut made = Vec::new();
        for kept in 0..layers.len() {
            let squash = || {
                image.squash().top(layers.len() - kept).timestamp(UNIX_EPOCH + LATER).run().unwrap()
            };
            let squashed = squash();
            assert_eq!(squash().id(), squashed.id());
            // The last layer comes to nothing.
            let own = usize::from(kept < layers.len() - 1);
            assert_eq!(squashed.diff_ids().len(), kept + own);
            assert_eq!(squashed.diff_ids()[..kept], image.diff_ids()[..kept]);
            let driver = store.layers().unwrap().driver();
            assert_same(&expected, &files(&squashed), &format!("{kept} + {own} layers, {driver}"));
            assert_eq!(changes(&image, &squashed), [""; 0]);
            assert_eq!(changes(&squashed, &image), [""; 0]);
            made.push(squashed.id());
        }
        ids.lock().unwrap().push(made);
    });
    // Whatever the driver.
    ids.into_inner().unwrap().windows(2).for_each(|pair| assert_eq!(pair[0], pair[1]));
}

#[test]
fn devices_and_capabilities_come_through() {
    require!(common::root());
    each("squash-devices", |store| {
        // VFS_CAP_REVISION_2 with cap_net_raw.
        let capable = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let layers = [
            vec![file("base", ""), dir("dev"), Entry::new("dev/x", EntryType::Char)],
            vec![Entry::new("dev/x", EntryType::Block)],
            vec![file("ping", "").xattr("security.capability", &capable)],
            vec![Entry::new("disk", EntryType::Block).mode(0o660).owner(0, 6)],
        ];
        let image = add(store, "app", &layers);
        let expected = files(&image);
        assert!(expected[Path::new("/ping")].contains("security.capability"), "{expected:#?}");
        assert!(expected[Path::new("/disk")].contains(" device 763 "), "{expected:#?}");
        for squash in [image.squash(), image.squash().top(3)] {
            let squashed = squash.run().unwrap();
            assert_same(&expected, &files(&squashed), "the image");
            assert_eq!(changes(&image, &squashed), [""; 0]);
        }
    });
}

#[test]
fn more_layers_than_the_kernel_stacks_become_one() {
    const DEPTH: usize = 510;
    require!(common::stacks());
    require!(common::program("getfattr"));
    let dir = setup("squash-deep");
    let store = fixture::open(&dir, "images");
    let layer = |n: usize| {
        let mut entries = vec![file("top", &n.to_string()), file(&format!("etc/{n}"), "x")];
        if n % 3 == 2 {
            entries.push(gone(&format!("etc/{}", n - 2)));
        }
        entries
    };
    let layers: Vec<_> = (0..DEPTH).map(layer).collect();
    let image = add(&store, "deep", &layers);
    let expected = files(&image);
    assert_eq!(expected[Path::new("/top")].split(' ').nth(3), Some("3"), "bytes of the number");
    let base = add(&store, "base", &layers[..3]);
    for squashed in [image.squash().run(), image.squash().above(&base).run()] {
        let squashed = squashed.unwrap();
        assert!(squashed.diff_ids().len() <= 4);
        assert_same(&expected, &files(&squashed), "the deep image");
    }
    assert_eq!(changes(&image, &image.squash().top(200).run().unwrap()), [""; 0]);
}

#[test]
fn what_is_squashed_keeps_its_configuration_and_tells_its_history() {
    require!(common::stacks());
    let dir = setup("squash-history");
    let store = fixture::open(&dir, "images");
    let layers = [vec![file("a", "")], vec![file("b", "")], vec![file("c", "")]];
    let image = add(&store, "app", &layers);
    let base = add(&store, "base", &layers[..1]);
    let history = |image: &Image| -> Vec<(String, bool)> {
        let steps = image.history().unwrap().into_iter().rev();
        steps.map(|it| (format!("{}{}", it.created_by, it.comment), it.layer.is_some())).collect()
    };
    let told = |count: &str| format!("squash {count} of {}", image.id());
    let squashed = image.squash().above(&base).name("small").run().unwrap();
    assert_eq!(history(&squashed), [("step 1".to_owned(), true), (told("2 layers"), true)]);
    assert_eq!(squashed.config().raw()["config"], image.config().raw()["config"]);
    assert_eq!(squashed.references()[0].familiar(), "small:latest");
    assert!(squashed.created().unwrap() > image.created().unwrap());
    let squashed = image.squash().above_chain(image.chain_ids()[1]).run().unwrap();
    let expected = [("step 1", true), ("step 2", true), (&*told("1 layer"), true)];
    assert_eq!(history(&squashed), expected.map(|(text, layer)| (text.to_owned(), layer)));
    assert!(squashed.references().is_empty());
    // Steps without a layer stay where they are below, and go with those above.
    let changed = |image: &Image, text: &str| {
        let rootfs = image.rootfs().unwrap().read_only().unwrap();
        store.commit(&rootfs, "").parent(image).message(text).env("A", text).run().unwrap()
    };
    let flat = changed(&changed(&image, "one").squash().run().unwrap(), "two");
    let texts: Vec<_> = history(&flat).into_iter().map(|(text, _)| text).collect();
    assert!(texts[0].starts_with("squash 3 layers of sha256:"), "{texts:?}");
    assert_eq!(texts[1..], ["two"]);
    assert_eq!(flat.config().raw()["config"]["Env"], serde_json::json!(["A=two"]));
    // Files are no younger than is said.
    let at = UNIX_EPOCH + Duration::from_secs(999);
    let old = image.squash().timestamp(at).compression(Compression::Zstd).run().unwrap();
    assert_eq!(old.created(), Some(at));
    assert!(files(&old)[Path::new("/a")].contains(" 999.000000000 "));
    let changes = ConfigChanges::new().created(at);
    let same = image.squash().changes(changes).compression(Compression::Zstd).run().unwrap();
    assert_eq!(same.digest(), old.digest());
}

#[test]
fn of_layers_that_the_history_does_not_tell_none_is_taken_for_another() {
    require!(common::stacks());
    let dir = setup("squash-untold");
    let store = fixture::open(&dir, "images");
    let image =
        add(&store, "app", &[vec![file("a", "")], vec![file("b", "")], vec![file("c", "")]]);
    let mut config = image.config().raw().clone();
    config.remove("history");
    let work = store.work().unwrap();
    let bytes = serde_json::to_vec(&config).unwrap();
    let config = work.ingest(&bytes[..], None).unwrap();
    let mut manifest = image.manifest().spec().clone();
    manifest.set_config(config.descriptor(manifest.config().media_type().clone()));
    let manifest = work.add_manifest(&manifest).unwrap();
    let untold = work.set_image(Some(&fixture::name("untold")), &manifest).unwrap();
    let squashed = untold.squash().top(2).run().unwrap();
    let history = squashed.history().unwrap();
    assert_eq!(history.len(), 2);
    assert!(history[0].comment.starts_with("squash 2 layers"), "{history:?}");
    assert_eq!(history[0].layer, Some(squashed.diff_ids()[1]));
    assert_eq!(history[1].comment, "");
    let rootfs = untold.rootfs().unwrap().read_only().unwrap();
    let labelled = store.commit(&rootfs, "").parent(&untold).message("m").run().unwrap();
    let layers: Vec<_> = labelled.history().unwrap().iter().map(|it| it.layer.is_some()).collect();
    assert_eq!(layers, [false, true, true, true]);
}

#[test]
fn what_cannot_be_squashed_is_refused_and_leaves_nothing() {
    require!(common::stacks());
    let dir = setup("squash-refused");
    let store = fixture::open(&dir, "images");
    let image = add(&store, "app", &[vec![file("a", "")], vec![file("b", "")]]);
    let other = add(&store, "other", &[vec![file("c", "")]]);
    let none = add(&store, "none", &[]);
    store.collect_garbage().unwrap();
    let before = inventory(&store);
    for (squash, why) in [
        (image.squash().top(0), "no layers to squash"),
        (image.squash().top(3), "it has 2 layers, not 3"),
        (image.squash().above(&image), "no layers to squash"),
        (image.squash().above(&other), &*other.id().short()),
        (image.squash().above_chain(other.chain_ids()[0]), "no layer with the chain id"),
        (none.squash(), "no layers to squash"),
        (image.squash().name("Bad Name"), "Bad Name"),
        (image.squash().timestamp(UNIX_EPOCH + Duration::from_secs(1 << 40)), "year 9999"),
    ] {
        let err = squash.run().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidInput, "{err:#}");
        assert!(format!("{err:#}").contains(why), "{err:#}");
    }
    store.collect_garbage().unwrap();
    assert_eq!(inventory(&store), before);
    store.remove("app").unwrap();
    store.collect_garbage().unwrap();
    assert_eq!(image.squash().run().unwrap_err().kind(), ErrorKind::NotFound);
    sound(&store);
}

#[test]
fn two_images_differ_by_what_is_seen_in_them() {
    let base = vec![
        dir("./"),
        dir("etc"),
        file("etc/same", "same"),
        file("content", "old"),
        file("mode", "x"),
        file("owner", "x"),
        file("time", "x"),
        file("noted", "x").xattr("user.note", b"1"),
        symlink("link", "a"),
        dir("dir"),
        dir("dir/sub"),
        file("dir/sub/file", "x"),
        dir("touched-dir"),
        file("one", "x"),
        file("two", "x"),
        file("turns", "x"),
        dir("turns-dir"),
        file("turns-dir/x", "x"),
    ];
    let upper = vec![
        dir("./").mode(0o700),
        file("etc/added", ""),
        // As long, and of the same time.
        file("content", "new"),
        file("mode", "x").mode(0o600),
        file("owner", "x").owner(0, 7),
        file("time", "x").mtime(1_000_000_001),
        file("noted", "x").xattr("user.note", b"2"),
        symlink("link", "b"),
        gone("dir/sub"),
        dir("touched-dir").mtime(9),
        file("one", "x"),
        link("two", "one"),
        dir("turns"),
        file("turns/inner", ""),
        file("turns-dir", ""),
        file("etc/same", "same"),
    ];
    const EXPECTED: &[&str] = &[
        "C /",
        "C /content",
        "C /dir",
        "D /dir/sub",
        "C /etc",
        "A /etc/added",
        "C /link",
        "C /mode",
        "C /noted",
        "C /one",
        "C /owner",
        "C /time",
        "C /turns",
        "A /turns/inner",
        "C /turns-dir",
        "C /two",
    ];
    const BACK: &[&str] = &[
        "C /",
        "C /content",
        "C /dir",
        "A /dir/sub",
        "A /dir/sub/file",
        "C /etc",
        "D /etc/added",
        "C /link",
        "C /mode",
        "C /noted",
        "C /owner",
        "C /time",
        "C /turns",
        "C /turns-dir",
        "A /turns-dir/x",
    ];
    each("diff-images", |store| {
        let old = add(store, "old", std::slice::from_ref(&base));
        let new = add(store, "new", &[base.clone(), upper.clone()]);
        let same = add(store, "same", &[base.clone(), vec![gone("no"), file("etc/same", "same")]]);
        let flat = new.squash().run().unwrap();
        let none = add(store, "none", &[]);
        let driver = store.layers().unwrap().driver();
        for new in [&new, &flat] {
            assert_eq!(changes(&old, new), EXPECTED, "{driver}");
            // One that shares nothing, and one that shares the base and has layers of its own.
            assert_eq!(changes(&same, new), EXPECTED, "{driver}");
            let back = changes(new, &old);
            assert_eq!(back, BACK, "{driver}");
        }
        for (a, b) in [(&old, &old), (&old, &same), (&new, &flat), (&flat, &new), (&none, &none)] {
            assert_eq!(changes(a, b), [""; 0], "{driver}");
        }
        let all = changes(&none, &old);
        assert_eq!(all.len(), base.len() - 1, "{all:?}");
        assert!(all.iter().all(|line| line.starts_with("A /")), "{all:?}");
        let nothing = changes(&old, &none);
        assert!(nothing.contains(&"D /dir".to_owned()), "{nothing:?}");
        assert!(nothing.iter().all(|line| line.starts_with("D /")), "{nothing:?}");
        let sibling = add(
            store,
            "sibling",
            &[base.clone(), vec![gone("dir"), gone("etc"), dir("etc"), file("etc/own", "")]],
        );
        // What one has deleted and the other has not touched.
        assert_eq!(
            changes(&sibling, &same),
            ["A /dir", "A /dir/sub", "A /dir/sub/file", "C /etc", "D /etc/own", "A /etc/same"]
        );
    });
}

#[test]
fn images_of_two_stores_are_not_compared() {
    let dir = setup("diff-stores");
    let (one, two) = (fixture::open(&dir, "one"), fixture::open(&dir, "two"));
    let (one, two) = (add(&one, "a", &[]), add(&two, "a", &[]));
    let err = one.changes_since(&two).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidInput);
    assert!(format!("{err:#}").contains(&dir.join("two").display().to_string()), "{err:#}");
}
