//! What is damaged is named, and only that is dropped.

use std::fs;
use std::os::unix::fs::symlink;

use coracle::ErrorKind;
use coracle::image::{Digest, Store};

use crate::common::setup;
use crate::fixture::{add, blob_file, name, names, sound, store, tidy};

/// Three images: the second shares a layer with the first, the third is on its own.
fn three(store: &Store) {
    add(store, "one", &["base", "one"]);
    add(store, "two", &["base", "two"]);
    add(store, "three", &["three"]);
}

fn index(store: &Store) -> std::path::PathBuf {
    store.path().join("index.json")
}

#[test]
fn each_kind_of_damage_is_named_and_repair_drops_the_images_that_need_it() {
    type Harm = fn(&Store) -> Digest;
    let harms: [(&str, Harm, &str, &[&str]); 7] = [
        (
            "a flipped bit",
            |store| {
                let digest = Digest::of("base");
                fs::write(blob_file(store, digest), "bass").unwrap();
                digest
            },
            "is damaged",
            &["one", "two"],
        ),
        (
            "a truncated layer",
            |store| {
                let digest = Digest::of("one");
                fs::write(blob_file(store, digest), "on").unwrap();
                digest
            },
            "is damaged: its 2 bytes",
            &["one"],
        ),
        (
            "a missing layer",
            |store| {
                let digest = Digest::of("two");
                fs::remove_file(blob_file(store, digest)).unwrap();
                digest
            },
            "ENOENT",
            &["two"],
        ),
        (
            "a truncated configuration",
            |store| {
                let digest = store.image("three").unwrap().id();
                fs::write(blob_file(store, digest), "{}").unwrap();
                digest
            },
            "is damaged",
            &["three"],
        ),
        (
            "a missing manifest",
            |store| {
                let digest = store.image("three").unwrap().digest();
                fs::remove_file(blob_file(store, digest)).unwrap();
                digest
            },
            "ENOENT",
            &["three"],
        ),
        (
            "a link out of the store",
            |store| {
                let digest = Digest::of("one");
                fs::remove_file(blob_file(store, digest)).unwrap();
                symlink("/etc/passwd", blob_file(store, digest)).unwrap();
                digest
            },
            "ELOOP",
            &["one"],
        ),
        (
            "a fifo",
            |store| {
                let digest = Digest::of("one");
                fs::remove_file(blob_file(store, digest)).unwrap();
                let mode = nix::sys::stat::Mode::S_IRWXU;
                nix::unistd::mkfifo(&blob_file(store, digest), mode).unwrap();
                digest
            },
            "no regular file",
            &["one"],
        ),
    ];
    for (what, harm, why, victims) in harms {
        let dir = setup("image-damage");
        let store = store(&dir);
        three(&store);
        let digest = harm(&store);
        let verified = store.verify().unwrap();
        let [damage] = &verified.damage[..] else { panic!("{what}: {:?}", verified.damage) };
        assert_eq!(damage.blob, Some(digest), "{what}");
        let said = damage.to_string();
        let victims: Vec<_> = victims.iter().map(|it| format!("{it}:latest")).collect();
        assert!(said.contains(why) && said.contains(&digest.to_string()), "{what}: {said}");
        assert_eq!(damage.images, victims, "{what}");

        let repaired = store.repair().unwrap();
        assert_eq!(repaired.images, victims, "{what}");
        assert_eq!(repaired.kept_index, None, "{what}");
        sound(&store);
        let left = store.images().unwrap();
        assert_eq!(left.len(), 3 - victims.len(), "{what}");
        store.collect_garbage().unwrap();
        sound(&store);
        tidy(&store);
        // Adding it again heals.
        three(&store);
        sound(&store);
        assert_eq!(store.images().unwrap().len(), 3, "{what}");
    }
}

#[test]
fn repairing_a_sound_store_changes_nothing() {
    let dir = setup("image-repair-sound");
    let store = store(&dir);
    three(&store);
    let before = fs::read(index(&store)).unwrap();
    let repaired = store.repair().unwrap();
    assert!(repaired.found.is_sound() && repaired.images.is_empty());
    assert_eq!((repaired.found.images, repaired.found.blobs), (3, 10));
    assert_eq!(fs::read(index(&store)).unwrap(), before);
}

#[test]
fn a_damaged_index_stops_every_change_and_repair_brings_the_images_back() {
    let damages: [(&str, &[u8]); 6] = [
        ("empty", b""),
        ("cut", br#"{"schemaVersion":2,"manifests":[{"mediaType":"#),
        ("no list", br#"{"schemaVersion":2}"#),
        ("no object", b"[]"),
        ("a wrong entry", br#"{"manifests":[{"digest":"sha256:../../etc/passwd"}]}"#),
        ("zeros", &[0; 4096]),
    ];
    for (what, bytes) in damages {
        let dir = setup("image-index");
        let store = store(&dir);
        three(&store);
        fs::write(index(&store), bytes).unwrap();
        let before = names(&store, "blobs/sha256");
        let fails = [
            store.images().map(drop),
            store.image("one").map(drop),
            store.tag("one", "uno").map(drop),
            store.remove("one").map(drop),
            store.collect_garbage().map(drop),
            store.usage().map(drop),
        ];
        for failed in fails {
            let err = failed.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Malformed, "{what}: {err:?}");
            assert!(format!("{err:#}").contains("index.json"), "{what}: {err:#}");
            assert!(err.hint().unwrap().contains("repair"), "{what}: {err:?}");
        }
        assert_eq!(fs::read(index(&store)).unwrap(), bytes, "{what}: kept");
        assert_eq!(names(&store, "blobs/sha256"), before, "{what}");
        assert_eq!(store.verify().unwrap().damage.len(), 1, "{what}");

        let repaired = store.repair().unwrap();
        assert!(repaired.images.is_empty(), "{what}");
        let kept = repaired.kept_index.unwrap();
        assert_eq!(fs::read(store.path().join(kept)).unwrap(), bytes, "{what}");
        let images = store.images().unwrap();
        assert_eq!(images.len(), 3, "{what}");
        // The last change is not in the file before it: that image has lost its name only.
        let found: Vec<_> = images.iter().flat_map(|image| image.references()).collect();
        assert_eq!(found, [&name("one"), &name("two")], "{what}");
        store.collect_garbage().unwrap();
        sound(&store);
        assert_eq!(store.images().unwrap().len(), 3, "{what}");
    }
}

#[test]
fn a_missing_index_is_damage_too() {
    let dir = setup("image-no-index");
    let store = store(&dir);
    three(&store);
    fs::remove_file(index(&store)).unwrap();
    fs::remove_file(store.path().join("index.json.previous")).unwrap();
    let store = Store::open(dir.join("images")).unwrap();
    assert_eq!(store.images().unwrap_err().kind(), ErrorKind::Malformed);
    assert_eq!(store.repair().unwrap().kept_index, None);
    let images = store.images().unwrap();
    assert!(images.len() == 3 && images.iter().all(|image| image.references().is_empty()));
    sound(&store);
}

#[test]
fn lists_go_on_past_a_damaged_image_and_the_collector_stops_at_it() {
    let dir = setup("image-list-damaged");
    let store = store(&dir);
    three(&store);
    let manifest = store.image("two").unwrap().digest();
    fs::write(blob_file(&store, manifest), "{}").unwrap();
    let listing = store.list(&coracle::image::Filter::new()).unwrap();
    assert_eq!((listing.images.len(), listing.damaged.len()), (2, 1));
    assert!(format!("{:#}", listing.damaged[0]).contains("two:latest"));
    let err = store.images().unwrap_err();
    assert!(format!("{err:#}").contains(&manifest.to_string()), "{err:#}");
    store.remove("one").unwrap();
    let err = store.collect_garbage().unwrap_err();
    assert!(format!("{err:#}").contains(&manifest.to_string()), "{err:#}");
    assert!(err.hint().unwrap().contains("repair"));
    assert!(blob_file(&store, Digest::of("one")).exists());
    // What is damaged can still be removed by name.
    store.remove("two").unwrap();
    store.collect_garbage().unwrap();
    sound(&store);
    assert_eq!(store.images().unwrap().len(), 1);
}

#[test]
fn a_damaged_lease_keeps_everything() {
    let dir = setup("image-lease");
    let store = store(&dir);
    let image = add(&store, "one", &["one"]);
    store.pin("box", &image).unwrap();
    store.remove_forced("one").unwrap();
    let pin = store.path().join("leases/pin-box");
    fs::write(&pin, "document sha256:12").unwrap();
    let err = store.collect_garbage().unwrap_err();
    assert!(format!("{err:#}").contains("pin-box"), "{err:#}");
    assert_eq!(store.verify().unwrap().damage.len(), 1);
    assert!(blob_file(&store, Digest::of("one")).exists());
    store.unpin("box").unwrap();
    assert_eq!(store.collect_garbage().unwrap().blobs, 3);
    sound(&store);
}

#[test]
fn a_directory_with_other_things_in_it_is_no_store() {
    let dir = setup("image-foreign");
    dir.file("full/notes.txt", "mine");
    let err = Store::open(dir.join("full")).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidInput);
    assert!(format!("{err:#}").contains("notes.txt"), "{err:#}");
    assert_eq!(fs::read_dir(dir.join("full")).unwrap().count(), 1);
    let file = dir.file("file", "");
    assert!(Store::open(file).is_err());
    assert_eq!(Store::open(dir.join("no/such")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(Store::open_existing(dir.join("no")).unwrap_err().kind(), ErrorKind::NotFound);
    dir.file("later/oci-layout", r#"{"imageLayoutVersion":"2.0.0"}"#);
    let err = Store::open(dir.join("later")).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unsupported);
    assert!(format!("{err:#}").contains("2.0.0"), "{err:#}");
    dir.file("broken/oci-layout", "{");
    assert_eq!(Store::open(dir.join("broken")).unwrap_err().kind(), ErrorKind::Malformed);
    // A process that was killed while it made the store has left these.
    dir.file("begun/index.json.new", "");
    dir.dir("begun/blobs");
    let begun = Store::open(dir.join("begun")).unwrap();
    add(&begun, "one", &["one"]);
    begun.collect_garbage().unwrap();
    sound(&begun);
    assert!(!dir.join("begun/index.json.new").exists());
}

#[test]
fn indexes_that_lie_deep_in_each_other_are_dropped_where_they_are_damaged() {
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const DEEP: usize = 3000;
    let dir = setup("damage-deep");
    let store = store(&dir);
    let image = add(&store, "one", &["one"]);
    let mut entry = serde_json::to_value(image.descriptor()).unwrap();
    for _ in 0..DEEP {
        let index =
            serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
        let index = index.to_string();
        let digest = Digest::of(&index);
        fs::write(blob_file(&store, digest), &index).unwrap();
        entry = serde_json::json!({ "mediaType": INDEX, "digest": digest.to_string(), "size": index.len() });
    }
    let mut list: serde_json::Value =
        serde_json::from_slice(&fs::read(index(&store)).unwrap()).unwrap();
    list["manifests"].as_array_mut().unwrap().push(entry);
    fs::write(index(&store), list.to_string()).unwrap();

    let repaired = store.repair().unwrap();
    assert_eq!(repaired.images.len(), 1, "{repaired:?}");
    sound(&store);
    assert_eq!(store.image("one").unwrap(), image);
    tidy(&store);
}
