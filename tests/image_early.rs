//! Layers that are unpacked while an archive is read are those that would be unpacked afterwards.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "image_archives/drivers.rs"]
#[allow(dead_code, reason = "each suite uses another part")]
mod drivers;
#[path = "image_archives/fixture.rs"]
#[allow(dead_code, reason = "each suite uses another part")]
mod fixture;

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use coracle::ErrorKind;
use coracle::image::{Image, Import, Load, Store};
use coracle::layers::{ArchiveLimits, Compression};
use tar::EntryType;

use common::archive::attributes;
use common::victim::Random;
use common::{require, setup};
use drivers::each;
use fixture::{Entry, compress, inventory, open, tar};

/// What is longer than a document is unpacked early.
fn large(path: &str) -> Entry {
    let content: Vec<u8> = (0..20_000_u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect();
    Entry::file(path, content)
}

/// What the lower layers have a say in, and what not.
fn layers() -> Vec<(&'static str, Vec<Entry>)> {
    vec![
        (
            "the lowest",
            vec![
                Entry::directory("./").mode(0o751).mtime(77),
                Entry::directory("etc").mode(0o700),
                Entry::file("etc/gone", "gone"),
                Entry::file("etc/kept", "kept").mode(0o4755),
                Entry::directory("opt").mode(0o711).owner(3, 4).xattr("user.of", b"the lowest"),
                Entry::file("opt/hidden", "hidden"),
                Entry::directory("usr"),
                Entry::directory("usr/lib"),
                Entry::link("lib", EntryType::Symlink, "usr/lib"),
                large("base"),
            ],
        ),
        ("stands alone", vec![Entry::directory("etc").mode(0o705), large("etc/alone")]),
        ("too small", vec![Entry::file("small", "small")]),
        ("with another top", vec![Entry::directory("./").mode(0o711).mtime(99), large("top")]),
        ("upon another top", vec![large("upon")]),
        ("passes a directory", vec![large("opt/passed/on")]),
        ("passes what it names", vec![large("opt/first"), Entry::directory("opt").mode(0o700)]),
        ("passes a whole one", vec![large("usr/lib/under/all")]),
        ("passes a link", vec![large("lib/library")]),
        ("links below", vec![Entry::link("linked", EntryType::Link, "base"), large("beside")]),
        (
            "deletes",
            vec![Entry::directory("etc"), Entry::file("etc/.wh.gone", ""), large("etc/new")],
        ),
        (
            "empties",
            vec![Entry::directory("opt"), Entry::file("opt/.wh..wh..opq", ""), large("opt/new")],
        ),
        ("deletes nothing", vec![Entry::file(".wh.nothing", ""), large("more")]),
    ]
}

/// All that can be told of the files of the unpacked layers, in the order of the layers.
fn unpacked(store: &Store, image: &Image) -> Vec<BTreeMap<PathBuf, String>> {
    let layers = store.layers().unwrap();
    let told = |path: &Path, metadata: &Metadata| {
        let (mode, owner) = (metadata.mode(), (metadata.uid(), metadata.gid()));
        // Whiteouts are of the moment.
        let whiteout = metadata.file_type().is_char_device();
        let mtime = (!whiteout).then(|| (metadata.mtime(), metadata.mtime_nsec()));
        let size = if metadata.is_dir() { 0 } else { metadata.len() };
        let (device, attributes) = (metadata.rdev(), attributes(path));
        format!("{mode:o} {owner:?} {mtime:?} {size} {device} {attributes:?}")
    };
    let walk = |key: String| {
        let (top, mut found) = (layers.path(&key).join("tree"), BTreeMap::new());
        let mut ahead = vec![top.clone()];
        while let Some(path) = ahead.pop() {
            let metadata = path.symlink_metadata().unwrap();
            if metadata.is_dir() {
                ahead.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            found.insert(path.strip_prefix(&top).unwrap().to_owned(), told(&path, &metadata));
        }
        found
    };
    let keys = image.chain_ids().into_iter().map(|chain| chain.0.hex());
    keys.filter(|key| layers.contains(key)).map(walk).collect()
}

/// An image of these layers, compressed in one way or another.
fn archive(store: &Store) -> Vec<u8> {
    let compressions = [Compression::None, Compression::Gzip, Compression::Zstd];
    let layers = layers().into_iter().zip(compressions.into_iter().cycle());
    let layers: Vec<_> = layers.map(|((_, it), compression)| (tar(&it), compression)).collect();
    fixture::add(store, "app", &layers, &["/bin/true"]);
    let mut archive = Vec::new();
    store.save(["app"], &mut archive).unwrap();
    archive
}

#[test]
fn loaded_layers_are_unpacked_as_they_would_be_later() {
    // Of another user's files nothing can be told, and `verify` compares these too.
    require!(common::root());
    let dir = setup("early-source");
    let archive = archive(&open(&dir, "source"));
    each("early-load", |store| {
        let image = Load::new(store).unpack(false).read(&archive[..]).unwrap().remove(0).image;
        assert!(unpacked(store, &image).is_empty());
        drop(image.rootfs().unwrap());
        let later = unpacked(store, &image);
        store.remove("app").unwrap();
        store.collect_garbage().unwrap();
        let image = store.load(&archive[..]).unwrap().remove(0).image;
        let early = unpacked(store, &image);
        for (at, (name, _)) in layers().iter().enumerate() {
            assert_eq!(early[at], later[at], "{name}");
        }
        assert_eq!((early.len(), later.len()), (layers().len(), layers().len()));
    });
}

/// A few entries of few names, so that layers meet: in any order, through links and what is no directory.
fn random_layer(random: &mut Random) -> Vec<Entry> {
    let directory = |random: &mut Random| {
        let names = (0..=random.below(3)).map(|_| if random.below(2) == 0 { "a" } else { "b" });
        names.collect::<Vec<_>>().join("/")
    };
    let file = |random: &mut Random| {
        format!("{}/{}", directory(random), if random.below(2) == 0 { "f" } else { "g" })
    };
    let mut entries = vec![large(&format!("{}/large", directory(random)))];
    for _ in 0..random.below(7) {
        let (directory, file) = (directory(random), file(random));
        let entry = match random.below(32) {
            0..12 => Entry::directory(&directory),
            12..24 => Entry::file(&file, "content"),
            24 => Entry::file(&directory, "content"),
            25 => Entry::link(&directory, EntryType::Symlink, ["b", "/b/a", ".."][file.len() % 3]),
            26 | 27 => Entry::link(&file, EntryType::Symlink, &directory),
            28 => Entry::link(&file, EntryType::Link, &format!("{directory}/f")),
            29 => Entry::directory("./"),
            30 => Entry::file(&format!("{directory}/.wh.f"), ""),
            _ => Entry::file(&format!("{directory}/.wh..wh..opq"), ""),
        };
        let number = random.below(1000);
        let mode = u32::try_from(number).unwrap();
        let mode = if entry.kind == EntryType::Directory { 0o7000 | mode } else { 0o644 };
        let entry = entry.mode(mode).owner(number, number + 1).mtime(number);
        entries.push(match number % 3 {
            // Only files and directories may have them.
            0 | 1 if matches!(entry.kind, EntryType::Directory | EntryType::Regular) => {
                entry.xattr(&format!("user.{number}"), &number.to_le_bytes())
            }
            _ => entry,
        });
    }
    let first = random.below(entries.len() as u64);
    entries.rotate_left(usize::try_from(first).unwrap());
    entries
}

#[test]
fn whatever_layers_leave_out_they_are_unpacked_as_they_would_be_later() {
    require!(common::stacks());
    require!(common::subordinate_ids());
    let dir = setup("early-random");
    let (mut whole, mut refused) = (0, 0);
    for seed in 1..=common::rounds(20) as u64 {
        let random = &mut Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let layers: Vec<_> = (0..4).map(|_| random_layer(random)).collect();
        let source = open(&dir, &format!("source-{seed}"));
        drivers::add(&source, "app", &layers);
        let archive = fixture::save(&source, &["app"]);
        let [early, later] = [true, false].map(|unpack| {
            let store = open(&dir, &format!("store-{seed}-{unpack}"));
            let image = Load::new(&store).unpack(unpack).read(&archive[..]).unwrap().remove(0);
            let outcome = image.image.rootfs().map(drop).map_err(|err| err.kind());
            let verified = store.verify().unwrap();
            assert!(verified.is_sound() && verified.unchecked.is_empty(), "{seed}: {verified:?}");
            // Of another user's files nothing can be told but that.
            let root = common::root().is_ok();
            let files = if root { unpacked(&store, &image.image) } else { Vec::new() };
            store.remove_forced("app").unwrap();
            store.collect_garbage().unwrap();
            (outcome, files)
        });
        assert_eq!(early, later, "seed {seed}");
        *(if early.0.is_ok() { &mut whole } else { &mut refused }) += 1;
    }
    assert!(whole > 0 && refused > 0, "{whole} images whole, {refused} refused");
}

#[test]
fn what_is_imported_is_unpacked_too() {
    let (_, entries) = layers().remove(0);
    let plain = tar(&entries);
    each("early-import", |store| {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let archive = compress(&plain, compression);
            for (unpack, expected) in [(false, 0), (true, 1)] {
                let image = Import::new(store).name("app").unpack(unpack).read(&archive[..]);
                let image = image.unwrap();
                let layers = store.layers().unwrap();
                assert_eq!(layers.keys().unwrap().len(), expected, "{compression:?}");
                let verified = store.verify().unwrap();
                assert!(verified.is_sound() && verified.unchecked.is_empty(), "{verified:?}");
                drop(image.rootfs().unwrap());
                store.remove("app").unwrap();
                store.collect_garbage().unwrap();
            }
        }
    });
}

#[test]
fn layers_that_cannot_be_unpacked_are_loaded_and_told_when_they_are_needed() {
    require!(common::stacks());
    let dir = setup("early-refused");
    let noise = large("noise").content;
    let outside = tar(&[large("first"), Entry::file("../outside", "x")]);
    let sources = [
        (&outside, ErrorKind::SafetyViolation, "../outside"),
        (&noise, ErrorKind::Malformed, "no tar archive"),
    ];
    for (number, (content, kind, why)) in sources.into_iter().enumerate() {
        for compression in [Compression::None, Compression::Gzip] {
            let source = open(&dir, &format!("source-{number}-{compression:?}"));
            fixture::add(&source, "app", &[(content.clone(), compression)], &[]);
            let mut archive = Vec::new();
            source.save(["app"], &mut archive).unwrap();
            let store = open(&dir, &format!("store-{number}-{compression:?}"));
            let image = store.load(&archive[..]).unwrap().remove(0).image;
            assert!(store.layers().unwrap().keys().unwrap().is_empty());
            let err = image.rootfs().unwrap_err();
            assert_eq!(err.kind(), kind, "{err:#}");
            assert!(format!("{err:#}").contains(why), "{err:#} does not say {why}");
            assert!(!Path::new(&*dir).join("outside").exists());
        }
    }
}

#[test]
fn early_layers_keep_to_the_limits_of_the_store() {
    require!(common::stacks());
    let dir = setup("early-limits");
    let archive = archive(&open(&dir, "source"));
    let store = open(&dir, "store").layer_limits(ArchiveLimits::new().bytes(20_000));
    let before = inventory(&store);
    let image = store.load(&archive[..]).unwrap().remove(0).image;
    let err = image.rootfs().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ResourceExhausted, "{err:#}");
    store.remove("app").unwrap();
    store.collect_garbage().unwrap();
    let layers = |inventory: Vec<(String, Vec<u8>)>| {
        inventory.into_iter().filter(|(name, _)| name.starts_with("layers/")).count()
    };
    assert_eq!(layers(inventory(&store)), layers(before), "nothing is left of what was begun");
}
