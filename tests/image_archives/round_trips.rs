//! What we write we read, and what the tools write in other ways too.

use std::fs;
use std::io::Read;

use coracle::ErrorKind;
use coracle::image::Digest;
use coracle::layers::Compression::{Gzip, None as Plain, Zstd};
use tar::EntryType;

use crate::common::setup;
use crate::fixture::{
    Entry, add, add_for, blob, compress, config, entry_for, inventory, name, open, save, set_index,
    sound, tar,
};

fn layers() -> [Vec<u8>; 3] {
    let noise: Vec<u8> =
        (0..3_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[1]).collect();
    [
        tar(&[Entry::directory("etc/"), Entry::file("etc/one", "1"), Entry::file("noise", noise)]),
        tar(&[Entry::file("etc/two", "2")]),
        tar(&[Entry::file("etc/.wh.one", "")]),
    ]
}

#[test]
fn images_saved_and_loaded_elsewhere_are_the_same_images() {
    let dir = setup("archives-round");
    let (from, to) = (open(&dir, "from"), open(&dir, "to"));
    let [one, two, three] = layers();
    let base = add(&from, "base", &[(one.clone(), Gzip)], &[]);
    let app = add(&from, "host:5000/app:1", &[(one, Gzip), (two, Plain), (three, Zstd)], &["/sh"]);
    from.tag("base", "other:2").unwrap();
    let names = ["base", "host:5000/app:1", "other:2"];
    let archive = save(&from, &names);
    assert_eq!(archive, save(&from, &names), "the same images give the same bytes");

    let loaded = to.load(&archive[..]).unwrap();
    let shown: Vec<_> = loaded.iter().map(|it| (it.image.clone(), it.references.clone())).collect();
    let expected =
        [(base, vec![name("base"), name("other:2")]), (app.clone(), vec![name("host:5000/app:1")])];
    assert_eq!(shown, expected);
    for name in names {
        let (ours, theirs) = (from.image(name).unwrap(), to.image(name).unwrap());
        assert_eq!((ours.id(), ours.digest()), (theirs.id(), theirs.digest()));
        assert_eq!(ours.config().raw(), theirs.config().raw());
    }
    sound(&to);
    assert_eq!(to.collect_garbage().unwrap().blobs, 0, "only what is needed is kept");

    // Again: nothing changes.
    let before = inventory(&to);
    assert_eq!(to.load(&archive[..]).unwrap().len(), 2);
    assert_eq!(inventory(&to), before);

    // By id an image has no name, and shows so where it is loaded.
    let bare = open(&dir, "bare");
    let loaded = bare.load(&save(&from, &[&app.id().to_string()])[..]).unwrap();
    assert!(loaded[0].references.is_empty() && loaded[0].image.references().is_empty());
    assert_eq!(loaded[0].image, app);
}

#[test]
fn a_whole_archive_may_be_compressed_and_come_in_small_pieces() {
    struct Pieces<'a>(&'a [u8]);
    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let len = buffer.len().min(777);
            self.0.read(&mut buffer[..len])
        }
    }
    let dir = setup("archives-compressed");
    let from = open(&dir, "from");
    let [one, two, _] = layers();
    let image = add(&from, "app", &[(one, Gzip), (two, Plain)], &[]);
    let archive = save(&from, &["app"]);
    for (compression, store) in [(Plain, "plain"), (Gzip, "gzip"), (Zstd, "zstd")] {
        let to = open(&dir, store);
        let loaded = to.load(Pieces(&compress(&archive, compression))).unwrap();
        assert_eq!(loaded[0].image, image);
        sound(&to);
    }
}

/// As docker before version 25 and podman write it: `HEX/layer.tar`, some of them links.
#[test]
fn archives_of_older_tools_are_read() {
    let dir = setup("archives-old");
    let [one, two, _] = layers();
    let config = config(&[&one, &two, &one], &["/sh"]);
    let id = Digest::of(&config);
    let link = |path: &str, target: &str| Entry::link(path, EntryType::Symlink, target);
    let list = |config: &str| {
        format!(
            r#"[{{"Config":"{config}","RepoTags":["app:1","host/app:2"],"Layers":["a/layer.tar","b/layer.tar","c/layer.tar"]}}]"#
        )
    };
    let docker = |layer: &[u8]| {
        tar(&[
            Entry::file(&format!("{}.json", id.hex()), config.clone()),
            Entry::directory("a/"),
            Entry::file("a/VERSION", "1.0"),
            Entry::file("a/json", "{}"),
            Entry::file("a/layer.tar", layer),
            Entry::directory("b/"),
            Entry::file("b/layer.tar", two.clone()),
            link("c/layer.tar", "../a/layer.tar"),
            Entry::file("manifest.json", list(&format!("{}.json", id.hex()))),
            Entry::file("repositories", "{}"),
        ])
    };
    let podman = tar(&[
        Entry::file("manifest.json", list("./config.json")),
        link("a/layer.tar", "../x.tar"),
        link("b/layer.tar", "./../b.tar"),
        Entry::link("c/layer.tar", EntryType::Link, "./x.tar"),
        Entry::file("./config.json", config.clone()),
        Entry::file("x.tar", one.clone()),
        Entry::file("b.tar", two.clone()),
    ]);
    for (store, archive, compression) in [
        ("docker", docker(&one), Plain),
        ("docker-gzip", docker(&compress(&one, Gzip)), Gzip),
        ("podman", podman, Plain),
    ] {
        let store = open(&dir, store);
        let loaded = store.load(&archive[..]).unwrap();
        assert_eq!(loaded[0].references, [name("host/app:2"), name("app:1")]);
        let image = store.image("host/app:2").unwrap();
        assert_eq!(image.id(), id);
        assert_eq!(image.manifest().layers()[0], image.manifest().layers()[2]);
        let stored = compress(&one, compression);
        assert_eq!(image.manifest().layers()[0].digest, Digest::of(stored));
        sound(&store);
        assert_eq!(store.collect_garbage().unwrap().blobs, 0);
    }
}

#[test]
fn an_index_for_several_platforms_keeps_its_digest_and_the_platforms_that_are_there() {
    let dir = setup("archives-platforms");
    let (from, to) = (open(&dir, "from"), open(&dir, "to"));
    let [one, two, _] = layers();
    let here = add(&from, "here", &[(one, Gzip)], &[]);
    let there = add_for(&from, "there", &[(two, Gzip)], &[], "riscv64");
    let host = coracle::image::Platform::host();
    let mut missing = entry_for(&there, "s390x");
    missing["digest"] = Digest::of("not here").to_string().into();
    let entries = [entry_for(&here, host.architecture()), entry_for(&there, "riscv64"), missing];
    let both = set_index(&from, "both:1", &entries);
    let loaded = to.load(&save(&from, &["both:1"])[..]).unwrap();
    assert_eq!((loaded[0].image.digest(), loaded[0].image.id()), (both.digest(), here.id()));
    let other = to.image_for("both:1", &"linux/riscv64".parse().unwrap()).unwrap();
    assert_eq!(other.id(), there.id());
    let err = to.image_for("both:1", &"linux/s390x".parse().unwrap()).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound);
    sound(&to);
}

#[test]
fn a_layout_packed_by_tar_is_read_and_a_store_s_own_directory_too() {
    let dir = setup("archives-tar");
    let (from, to) = (open(&dir, "from"), open(&dir, "to"));
    let [one, ..] = layers();
    let image = add(&from, "app", &[(one, Gzip)], &[]);
    let archive = dir.join("layout.tar");
    let mut tar = std::process::Command::new("tar");
    crate::common::engines::run(tar.arg("-C").arg(from.path()).arg("-cf").arg(&archive).arg("."));
    let loaded = to.load(fs::File::open(&archive).unwrap()).unwrap();
    assert_eq!((&loaded[0].image, &loaded[0].references[..]), (&image, &[name("app")][..]));
}

#[test]
fn save_says_what_it_cannot_save() {
    let dir = setup("archives-cannot");
    let store = open(&dir, "store");
    let [one, ..] = layers();
    let image = add(&store, "app", &[(one, Gzip)], &[]);
    let none: [&str; 0] = [];
    assert_eq!(store.save(none, std::io::sink()).unwrap_err().kind(), ErrorKind::InvalidInput);
    let err = store.save(["app", "missing"], std::io::sink()).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound);
    assert!(format!("{err:#}").contains("missing"), "{err:#}");
    // A bit that has turned over is found before it is passed on.
    let layer = image.manifest().layers()[0].digest;
    let path = store.path().join(blob(layer));
    let mut bytes = fs::read(&path).unwrap();
    bytes[1000] ^= 1;
    fs::write(&path, bytes).unwrap();
    let err = store.save(["app"], std::io::sink()).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Malformed);
    assert!(format!("{err:#}").contains(&layer.to_string()), "{err:#}");
    let err = store.save(["app"], full()).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ResourceExhausted, "{err:#}");
}

fn full() -> fs::File {
    fs::OpenOptions::new().write(true).open("/dev/full").unwrap()
}
