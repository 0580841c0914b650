//! Root file systems become images of one layer.

use std::time::{Duration, UNIX_EPOCH};

use coracle::ErrorKind;
use coracle::image::{ConfigChanges, DiffId, Digest, Import};
use coracle::layers::ArchiveLimits;
use coracle::layers::Compression::{Gzip, None as Plain, Zstd};
use tar::EntryType;

use crate::common::{self, require, setup};
use crate::fixture::{Entry, add, compress, inventory, name, open, sound, tar};

fn rootfs() -> Vec<u8> {
    tar(&[Entry::directory("./"), Entry::file("./etc/passwd", vec![b'x'; 300_000])])
}

#[test]
fn an_archive_is_kept_as_it_comes_and_named_by_what_is_in_it() {
    let dir = setup("imports-kept");
    let store = open(&dir, "store");
    let rootfs = rootfs();
    for compression in [Plain, Gzip, Zstd] {
        let archive = compress(&rootfs, compression);
        let image = store.import("debian:12", &archive[..]).unwrap();
        assert_eq!(image.references(), [name("debian:12")]);
        assert_eq!(image.diff_ids(), [DiffId(Digest::of(&rootfs))]);
        assert_eq!(image.manifest().layers()[0].digest, Digest::of(&archive));
        let step = &image.history().unwrap()[0];
        assert_eq!((step.comment.as_str(), step.layer), ("imported", Some(image.diff_ids()[0])));
        assert_eq!((step.created, image.created().is_some()), (image.created(), true));
    }
    sound(&store);
}

#[test]
fn what_is_asked_for_is_in_the_configuration_and_the_same_gives_the_same_image() {
    let dir = setup("imports-changed");
    let store = open(&dir, "store");
    let changes = ConfigChanges::new()
        .platform("linux/arm64".parse().unwrap())
        .instruction("ENV A=1 B=${A}2")
        .unwrap()
        .cmd(["/bin/sh"])
        .message("made by hand")
        .created(UNIX_EPOCH + Duration::from_secs(86_400));
    let import = Import::new(&store).changes(changes);
    let image = import.read(&rootfs()[..]).unwrap();
    assert_eq!(image.platform().to_string(), "linux/arm64");
    assert!(image.references().is_empty());
    let config = image.config().raw();
    assert_eq!(config["config"], serde_json::json!({"Env": ["A=1", "B=2"], "Cmd": ["/bin/sh"]}));
    assert_eq!(config["created"], "1970-01-02T00:00:00Z");
    assert_eq!(image.history().unwrap()[0].comment, "made by hand");
    assert_eq!(import.read(&rootfs()[..]).unwrap(), image);
    for compression in [Plain, Gzip, Zstd] {
        let import = import.clone().compress(compression);
        let again = import.read(&compress(&rootfs(), Gzip)[..]).unwrap();
        assert_eq!(again.id(), image.id(), "the id depends on the content alone");
        let stored = compress(&rootfs(), compression);
        assert_eq!(again.manifest().layers()[0].digest, Digest::of(stored));
    }
    sound(&store);
}

#[test]
fn what_is_no_root_file_system_leaves_nothing() {
    let dir = setup("imports-refused");
    let store = open(&dir, "store");
    let good = rootfs();
    let packed = compress(&good, Gzip);
    let mut flipped = packed.clone();
    flipped[packed.len() / 2] ^= 4;
    let link = tar(&[Entry::link("a", EntryType::Link, "../../etc/shadow")]);
    for (archive, why) in [
        (&b""[..], "cut short"),
        (b"hello", "cut short"),
        (&good[..good.len() / 2], "cut short"),
        (&packed[..packed.len() / 2], "cut short"),
        (&flipped, "damaged"),
        (&[7; 5000], "no tar archive"),
        (&tar(&[Entry::file("a/../../b", "x")]), "leads out"),
        (&link, "leads out"),
    ] {
        for compression in [None, Some(Gzip)] {
            let before = inventory(&store);
            let mut import = Import::new(&store).name("app");
            if let Some(compression) = compression {
                import = import.compress(compression);
            }
            let err = import.read(archive).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Malformed, "{err:#}");
            assert!(format!("{err:#}").contains(why), "{err:#} does not say {why:?}");
            assert_eq!(inventory(&store), before);
        }
    }
    let small = Import::new(&store).limits(ArchiveLimits::new().bytes(200_000));
    let err = small.read(&packed[..]).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ResourceExhausted, "{err:#}");
    assert_eq!(store.import("App", &good[..]).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert!(store.images().unwrap().is_empty());
}

#[test]
fn an_exported_image_has_the_files_of_all_layers_and_none_that_were_deleted() {
    require!(common::stacks());
    let dir = setup("imports-export");
    let store = open(&dir, "store");
    let lower = tar(&[
        Entry::directory("etc/"),
        Entry::file("etc/gone", "gone"),
        Entry::file("etc/kept", "kept").mode(0o4755).mtime(1_234_567_890),
        Entry::link("etc/same", EntryType::Link, "etc/kept").mode(0o4755).mtime(1_234_567_890),
    ]);
    let upper = tar(&[Entry::file("etc/.wh.gone", ""), Entry::file("new", "new")]);
    let image = add(&store, "app", &[(lower, Gzip), (upper, Zstd)], &[]);
    let export = || {
        let mut flat = Vec::new();
        image.export(&mut flat).unwrap();
        flat
    };
    let flat = export();
    assert_eq!(flat, export(), "the same image gives the same bytes");
    let mut archive = tar::Archive::new(&flat[..]);
    let entries = archive.entries().unwrap().map(Result::unwrap);
    let found: Vec<_> = entries
        .map(|entry| {
            let header = entry.header();
            let path = entry.path().unwrap().display().to_string();
            (path, header.mode().unwrap() & 0o7777, header.mtime().unwrap(), header.entry_type())
        })
        .filter(|(path, ..)| path.contains("etc/") || path.contains("new"))
        .collect();
    let file = |path: &str, mode, mtime, kind| (path.to_owned(), mode, mtime, kind);
    let expected = [
        file("etc/", 0o755, 1_000_000_000, EntryType::Directory),
        file("etc/kept", 0o4755, 1_234_567_890, EntryType::Regular),
        file("etc/same", 0o4755, 1_234_567_890, EntryType::Link),
        file("new", 0o644, 1_000_000_000, EntryType::Regular),
    ];
    assert_eq!(found, expected);
    // And as an image again.
    let again = store.import("flat", &flat[..]).unwrap();
    let mut twice = Vec::new();
    again.export(&mut twice).unwrap();
    assert_eq!(twice, flat);
}
