//! Archives that are not what they claim to be: an error that names the place, and the store as it was.

use coracle::ErrorKind;
use coracle::image::{Digest, Load, Store};
use coracle::layers::Compression::{Gzip, None as Plain, Zstd};
use tar::EntryType;

use crate::common::setup;
use crate::fixture::{Entry, add, blob, compress, config, inventory, open, save, sound, tar};

/// The parts of a good archive, to be spoiled.
struct Parts {
    layer: Vec<u8>,
    config: String,
    list: String,
    more: Vec<Entry>,
}

impl Parts {
    fn new() -> Self {
        // Longer than what is kept in memory.
        let layer = tar(&[Entry::file("file", vec![7; 100_000])]);
        let config = config(&[&layer], &[]);
        let list =
            r#"[{"Config":"config.json","RepoTags":["app:1"],"Layers":["layer.tar"]}]"#.to_owned();
        Self { layer, config, list, more: Vec::new() }
    }

    fn archive(&self) -> Vec<u8> {
        let mut entries = vec![
            Entry::file("config.json", self.config.clone()),
            Entry::file("layer.tar", self.layer.clone()),
            Entry::file("manifest.json", self.list.clone()),
        ];
        entries.extend(self.more.iter().cloned());
        tar(&entries)
    }

    fn with(change: impl FnOnce(&mut Self)) -> Vec<u8> {
        let mut parts = Self::new();
        change(&mut parts);
        parts.archive()
    }
}

/// Loads what must be refused into a store that has an image, and which must stay as it is.
fn refused(store: &Store, archive: &[u8], kind: ErrorKind, why: &str) {
    let before = inventory(store);
    let err = store.load(archive).unwrap_err();
    assert_eq!(err.kind(), kind, "{err:#}");
    assert!(format!("{err:#}").contains(why), "{err:#} does not say {why:?}");
    assert_eq!(inventory(store), before, "after {err:#}");
}

fn store_with_an_image(dir: &crate::common::Sandbox) -> Store {
    let store = open(dir, "store");
    add(&store, "app:1", &[(tar(&[Entry::file("old", "old")]), Plain)], &[]);
    store
}

#[test]
fn lists_and_configurations_that_lie_are_refused() {
    let dir = setup("archives-lies");
    let store = store_with_an_image(&dir);
    let malformed = |archive: &[u8], why: &str| refused(&store, archive, ErrorKind::Malformed, why);
    malformed(&Parts::with(|it| it.layer[600] ^= 1), "the layer layer.tar has the content");
    malformed(
        &Parts::with(|it| {
            it.list = it.list.replace(r#"["layer.tar"]"#, r#"["layer.tar","layer.tar"]"#);
        }),
        "2 layers, but its configuration config.json names 1",
    );
    malformed(&Parts::with(|it| it.list = it.list.replace(r#"["layer.tar"]"#, "null")), "0 layers");
    malformed(
        &Parts::with(|it| it.list = it.list.replace("layer.tar", "gone.tar")),
        "gone.tar is not in",
    );
    malformed(
        &Parts::with(|it| it.list = it.list.replace("config", "gone")),
        "gone.json is not in",
    );
    malformed(
        &Parts::with(|it| it.list = it.list.replace("layer.tar", "../layer.tar")),
        "leads out",
    );
    malformed(&Parts::with(|it| it.list = it.list.replace("layer.tar", "/etc/shadow")), "absolute");
    malformed(&Parts::with(|it| it.list = "{}".to_owned()), "no list of images");
    malformed(&Parts::with(|it| it.list = "[".repeat(100_000)), "no list of images");
    malformed(&Parts::with(|it| it.list += &" ".repeat(4 << 20)), "no document has over");
    malformed(&Parts::with(|it| it.config = "{".to_owned()), "no JSON");
    malformed(&Parts::with(|it| it.config += &" ".repeat(4 << 20)), "no document has over");
    malformed(
        &Parts::with(|it| it.list = it.list.replace("layer.tar", "config.json")),
        "config.json has the content",
    );
    let wrong_name = format!("{}.json", Digest::of("other").hex());
    malformed(
        &Parts::with(|it| {
            it.list = it.list.replace("config.json", &wrong_name);
            it.more.push(Entry::file(&wrong_name, it.config.clone()));
        }),
        &format!("{wrong_name} is damaged"),
    );
    malformed(
        &Parts::with(|it| {
            let other = it.config.replace("step", "leap");
            it.more.push(Entry::file("other.json", other));
            let image = &it.list[1..it.list.len() - 1];
            it.list = format!("[{image},{}]", image.replace("config", "other"));
        }),
        "several images have the name",
    );
    let invalid =
        |archive: &[u8], why: &str| refused(&store, archive, ErrorKind::InvalidInput, why);
    invalid(&Parts::with(|it| it.list = it.list.replace("app:1", "../App")), "../App");
    invalid(&Parts::with(|it| it.list = it.list.replace("app:1", "")), "image name");
    // And the good one is good.
    assert_eq!(store.load(&Parts::new().archive()[..]).unwrap().len(), 1);
    sound(&store);
}

#[test]
fn names_and_links_that_lead_out_or_collide_are_refused() {
    let dir = setup("archives-names");
    let store = store_with_an_image(&dir);
    let with = |entries: &[Entry]| Parts::with(|it| it.more = entries.to_vec());
    let link = |target: &str| Entry::link("a/link", EntryType::Symlink, target);
    for (archive, why) in [
        (with(&[Entry::file("/etc/cron.d/x", "x")]), "absolute"),
        (with(&[Entry::file("../../x", "x")]), "leads out"),
        (with(&[Entry::file("a/../../x", "x")]), "leads out"),
        (with(&[link("/etc/shadow")]), "absolute"),
        (with(&[link("../../etc/shadow")]), "leads out"),
        (with(&[Entry::link("hard", EntryType::Link, "/etc/shadow")]), "absolute"),
        (with(&[Entry::new("fifo", EntryType::Fifo)]), "its type"),
        (with(&[Entry::file("layer.tar", "other")]), "layer.tar is there twice"),
        (with(&[Entry::file("./layer.tar", "other")]), "layer.tar is there twice"),
        (
            with(&[Entry::link("manifest.json", EntryType::Symlink, "x")]),
            "manifest.json is there twice",
        ),
        (with(&[Entry::file("blobs/sha256/xyz", "x")]), "no digest"),
        (with(&[Entry::file(&blob(Digest::of("x")), "y")]), "is damaged"),
        (with(&[Entry::file("", "y")]), "no name"),
    ] {
        refused(&store, &archive, ErrorKind::Malformed, why);
    }
    let around = tar(&[
        Entry::link("manifest.json", EntryType::Symlink, "a"),
        Entry::link("a", EntryType::Symlink, "manifest.json"),
    ]);
    refused(&store, &around, ErrorKind::Malformed, "neither manifest.json nor");
}

#[test]
fn what_is_cut_short_damaged_or_no_archive_is_refused() {
    let dir = setup("archives-cut");
    let store = store_with_an_image(&dir);
    let good = Parts::new().archive();
    for len in [1, 511, 700, 50_000, 104_000] {
        refused(&store, &good[..len], ErrorKind::Malformed, "cut short");
    }
    refused(&store, b"", ErrorKind::Malformed, "cut short");
    refused(&store, &[0; 1024], ErrorKind::Malformed, "neither");
    refused(&store, &[7; 5000], ErrorKind::Malformed, "no tar archive");
    let flat = tar(&[Entry::file("etc/passwd", "root")]);
    refused(&store, &flat, ErrorKind::Malformed, "neither");
    for compression in [Gzip, Zstd] {
        let whole = compress(&good, compression);
        refused(&store, &whole[..whole.len() / 2], ErrorKind::Malformed, "cut short");
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 0x10;
        let err = store.load(&flipped[..]).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Malformed, "{err:#}");
        // Only the layer: found while the rest goes on.
        let packed = compress(&Parts::new().layer, compression);
        let cut = Parts::with(|it| it.layer = packed[..packed.len() - 10].to_vec());
        refused(&store, &cut, ErrorKind::Malformed, "read the layer layer.tar");
    }
    let xz = Parts::with(|it| it.layer = b"\xfd7zXZ\0".repeat(20_000));
    refused(&store, &xz, ErrorKind::Unsupported, "xz");
}

#[test]
fn a_layer_has_a_limit_after_decompression() {
    let dir = setup("archives-bomb");
    let store = store_with_an_image(&dir);
    for compression in [Gzip, Zstd] {
        let zeros = tar(&[Entry::file("zeros", vec![0; 9 << 20])]);
        let archive = Parts::with(|it| {
            it.config = config(&[&zeros], &[]);
            it.layer = compress(&zeros, compression);
        });
        let before = inventory(&store);
        let err = Load::new(&store).layer_bytes(8 << 20).read(&archive[..]).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::ResourceExhausted);
        assert!(format!("{err:#}").contains("layer.tar"), "{err:#}");
        assert_eq!(inventory(&store), before);
        assert_eq!(store.load(&archive[..]).unwrap().len(), 1);
        store.remove("app:1").unwrap();
        store.collect_garbage().unwrap();
    }
}

/// Spoils the documents of an archive that `save` has written.
#[test]
fn layouts_that_lie_are_refused() {
    let dir = setup("archives-layouts");
    let from = open(&dir, "from");
    let image = add(&from, "app:1", &[(Parts::new().layer, Gzip)], &[]);
    let store = store_with_an_image(&dir);
    let archive = save(&from, &["app:1"]);
    let spoil = |change: &dyn Fn(&mut Vec<Entry>)| {
        let mut entries = Vec::new();
        for entry in tar::Archive::new(&archive[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
            if path != "manifest.json" && entry.header().entry_type() == EntryType::Regular {
                entries.push(Entry::file(&path, content));
            }
        }
        change(&mut entries);
        tar(&entries)
    };
    let text = |entries: &mut Vec<Entry>, path: &str, from: &str, to: &str| {
        let entry = entries.iter_mut().find(|entry| entry.path == path).unwrap();
        let old = String::from_utf8(entry.content.clone()).unwrap();
        assert!(old.contains(from), "{old} has no {from}");
        entry.content = old.replace(from, to).into();
    };
    let layer = blob(image.manifest().layers()[0].digest);
    let manifest = blob(image.digest());
    let size = image.manifest_blob().size;
    for (archive, kind, why) in [
        (spoil(&|it| it.retain(|it| it.path != layer)), ErrorKind::Malformed, layer.as_str()),
        (spoil(&|it| it.retain(|it| it.path != manifest)), ErrorKind::Malformed, manifest.as_str()),
        (
            spoil(&|it| it.retain(|it| it.path != blob(image.id()))),
            ErrorKind::Malformed,
            "is not in the archive",
        ),
        (spoil(&|it| it.retain(|it| it.path != "oci-layout")), ErrorKind::Malformed, "neither"),
        (spoil(&|it| text(it, "oci-layout", "1.0.0", "2.0.0")), ErrorKind::Unsupported, "version"),
        (
            spoil(&|it| text(it, "index.json", &format!("\"size\":{size}"), "\"size\":5")),
            ErrorKind::Malformed,
            "and should have 5",
        ),
        (
            spoil(&|it| text(it, "index.json", "image.manifest.v1", "image.index.v1")),
            ErrorKind::Malformed,
            "calls itself",
        ),
        (
            spoil(&|it| text(it, "index.json", "vnd.oci.image.manifest", "other")),
            ErrorKind::Unsupported,
            "media type",
        ),
        (
            spoil(&|it| text(it, "index.json", "library/app", "Library/../app")),
            ErrorKind::InvalidInput,
            "app:1",
        ),
        (
            spoil(&|it| text(it, "index.json", "sha256:", "md5:")),
            ErrorKind::Unsupported,
            "index.json",
        ),
        (
            spoil(&|it| text(it, &manifest, "schemaVersion", "schemaversion")),
            ErrorKind::Malformed,
            "is damaged",
        ),
    ] {
        refused(&store, &archive, kind, why);
    }
    assert_eq!(store.load(&spoil(&|_| {})[..]).unwrap()[0].image, image);
    sound(&store);
}
