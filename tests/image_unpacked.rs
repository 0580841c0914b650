//! The unpacked layers of images: what they take, whether they are as they should be, and how long they stay.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "image_archives/drivers.rs"]
mod drivers;
#[path = "image_archives/fixture.rs"]
#[allow(dead_code, reason = "each suite uses another part")]
mod fixture;

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::Duration;

use coracle::ErrorKind;
use coracle::image::spec::{ImageManifestBuilder, MediaType};
use coracle::image::{Image, Store, Usage, Verified};
use coracle::layers::{ArchiveLimits, Compression, Driver, LayerStore};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::geteuid;
use tar::EntryType;

use common::stack::inside;
use common::{require, setup};
use drivers::{add, each};
use fixture::{Entry, compress, sound, tar};

const MIB: u64 = 1 << 20;

fn unpack(image: &Image) {
    drop(image.rootfs().unwrap());
}

/// A file of so many MiB that no file system makes smaller.
fn large(path: &str, mib: u64) -> Entry {
    let mut state = mib;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    Entry::file(path, (0..mib * MIB).map(|_| next()).collect::<Vec<_>>())
}

/// In whole MiB; the rest is what directories and the file system itself take.
fn mib(bytes: u64) -> u64 {
    bytes / MIB
}

#[test]
fn usage_counts_unpacked_layers_by_image() {
    each("unpacked-usage", |store| {
        let base = vec![large("base", 4)];
        let one = add(store, "one", &[base.clone(), vec![large("one", 2)]]);
        let two = add(store, "two", &[base, vec![large("two", 1)]]);
        assert_eq!(store.usage().unwrap().total.layers, 0, "nothing is unpacked");
        unpack(&one);
        unpack(&two);
        let usage = store.usage().unwrap();
        let of = |image: &Image| usage.images.iter().find(|it| it.image == *image).unwrap();
        // A copy of a tree counts for itself, whether or not its file system shares the content.
        let whole = store.layers().unwrap().driver() == Driver::Vfs;
        let (one_unique, two_unique) = if whole { (6, 5) } else { (2, 1) };
        for (image, unique) in [(&one, one_unique), (&two, two_unique)] {
            let found = of(image);
            assert_eq!(mib(found.shared.layers), 4, "{found:?}");
            assert_eq!(mib(found.unique.layers), unique, "{found:?}");
            assert_eq!(found.size, found.shared + found.unique);
            assert_eq!(found.size.blobs, image.size());
        }
        assert_eq!(usage.garbage.bytes(), 0);
        assert_eq!(usage.reclaimable, usage.total);
        assert_eq!(mib(usage.total.layers), 4 + one_unique + two_unique);

        // What a pin keeps is neither garbage nor to be reclaimed, though its image has been removed.
        store.pin("box", &two).unwrap();
        store.remove_forced("two").unwrap();
        let usage = store.usage().unwrap();
        assert_eq!(usage.garbage.bytes(), 0, "{usage:?}");
        assert_eq!(mib(usage.reclaimable.layers), one_unique, "{usage:?}");
        store.collect_garbage().unwrap();
        assert_eq!(store.usage().unwrap().total, usage.total);
        store.unpin("box").unwrap();
        let garbage = store.usage().unwrap().garbage;
        assert_eq!(mib(garbage.layers), two_unique);
        assert_eq!(store.collect_garbage().unwrap().freed, garbage);
        assert_eq!(store.usage().unwrap().total, usage.total - garbage);
    });
}

#[test]
fn usage_of_a_deep_image_has_what_was_merged_for_it() {
    require!(common::stacks());
    let dir = setup("unpacked-merged");
    let store = Store::open(dir.join("images")).unwrap();
    LayerStore::open_with(store.path().join("layers"), Driver::Overlay).unwrap();
    let mut layers = vec![vec![large("large", 3)]];
    layers.extend((0..20).map(|n| {
        vec![Entry::directory(&format!("dir{n}")), Entry::file(&format!("dir{n}/file"), "x")]
    }));
    let image = add(&store, "deep", &layers);
    let layers = store.layers().unwrap();
    let inodes = |usage: &Usage| {
        assert_eq!(mib(usage.total.layers), 3, "a link takes nothing");
        let keys = layers.keys().unwrap();
        keys.iter().map(|key| layers.usage(key, None).unwrap().inodes).sum::<u64>()
    };
    unpack(&image);
    let unmerged: u64 = 2 + 20 * 3;
    let merged = inodes(&store.usage().unwrap()) - unmerged;
    // Of the lowest sixteen layers: the root directory and the fifteen in it.
    assert_eq!(merged, 16);
}

/// A bit of everything, of several owners; the second layer changes the first, the third that.
fn layers() -> [Vec<Entry>; 3] {
    let secret = |entry: Entry| entry.owner(1000, 1001);
    [
        vec![
            Entry::directory("etc"),
            Entry::file("etc/old", "old"),
            Entry::file("etc/kept", "kept"),
            Entry::directory("opt"),
            Entry::file("opt/hidden", "hidden"),
            secret(Entry::directory("secret").mode(0o700)),
            secret(Entry::file("secret/key", "key").mode(0o600)),
            Entry::file("low", "low"),
        ],
        vec![
            Entry::file("etc/passwd", "root:x"),
            Entry::file("etc/.wh.old", ""),
            Entry::directory("opt"),
            Entry::file("opt/.wh..wh..opq", ""),
            Entry::file("opt/tool", "tool").mode(0o755),
            Entry::link("opt/alias", EntryType::Link, "opt/tool"),
            Entry::link("opt/lower", EntryType::Link, "low"),
            Entry::link("opt/leads", EntryType::Symlink, "tool"),
            Entry::new("opt/pipe", EntryType::Fifo),
            secret(Entry::file("secret/deep/more", "more").mode(0o600)),
            Entry::file("noted", "noted").xattr("user.note", b"one"),
        ],
        vec![Entry::file("top", "top"), Entry::file("etc/.wh.passwd", "")],
    ]
}

/// All but the times of directories, of which some are of the moment.
fn files(image: &Image) -> BTreeMap<PathBuf, String> {
    let mut archive = Vec::new();
    image.export(&mut archive).unwrap();
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(&archive[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        let (header, link) = (entry.header(), entry.link_name().unwrap());
        let (mode, owner) =
            (header.mode().unwrap(), (header.uid().unwrap(), header.gid().unwrap()));
        let kind = header.entry_type();
        let told = format!("{kind:?} {mode:o} {owner:?} {link:?} {content}");
        files.insert(entry.path().unwrap().into_owned(), told);
    }
    files
}

/// Where a layer of the image lies, counted from the lowest.
fn place(store: &Store, image: &Image, at: usize) -> PathBuf {
    store.layers().unwrap().path(&image.chain_ids()[at].0.hex())
}

/// Another content, with nothing else to tell it by.
fn tamper(path: &Path) {
    let metadata = fs::metadata(path).unwrap();
    let mut content = fs::read(path).unwrap();
    content[0] ^= 1;
    fs::write(path, content).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(metadata.modified().unwrap()).unwrap();
}

fn replace(path: &Path, make: impl FnOnce(&Path)) {
    fs::remove_file(path).unwrap();
    make(path);
}

type Harm = (&'static str, fn(&Path), &'static str);

const HARMS: [Harm; 9] = [
    ("content", |tree| tamper(&tree.join("etc/passwd")), "/etc/passwd is not what it was"),
    (
        "a mode",
        |tree| fs::set_permissions(tree.join("opt/tool"), Permissions::from_mode(0o4755)).unwrap(),
        "/opt/alias is not what it was, /opt/tool is not what it was",
    ),
    (
        "a directory's mode",
        |tree| fs::set_permissions(tree.join("opt"), Permissions::from_mode(0o777)).unwrap(),
        "/opt is not what it was",
    ),
    ("a new file", |tree| fs::write(tree.join("opt/new"), "").unwrap(), "/opt/new has been added"),
    ("a missing file", |tree| fs::remove_file(tree.join("noted")).unwrap(), "/noted is missing"),
    (
        "a link elsewhere",
        |tree| replace(&tree.join("opt/leads"), |link| symlink("/etc/shadow", link).unwrap()),
        "/opt/leads is not what it was",
    ),
    (
        "another type",
        |tree| replace(&tree.join("opt/pipe"), |file| fs::write(file, "").unwrap()),
        "/opt/pipe is not what it was",
    ),
    (
        "a torn hard link",
        |tree| {
            let (tool, alias) = (tree.join("opt/tool"), tree.join("opt/alias"));
            replace(&alias, |alias| assert_eq!(fs::copy(&tool, alias).unwrap(), 4));
            let modified = fs::metadata(tool).unwrap().modified().unwrap();
            File::options().write(true).open(alias).unwrap().set_modified(modified).unwrap();
        },
        "/opt/alias is not what it was, /opt/tool is not what it was",
    ),
    (
        "everything",
        |tree| {
            for name in ["a", "b", "c", "d", "e"] {
                fs::write(tree.join(name), "").unwrap();
            }
        },
        "/a has been added, /b has been added, /c has been added, and 2 more",
    ),
];

#[test]
fn a_changed_file_of_an_unpacked_layer_is_named_and_only_that_layer_is_unpacked_again() {
    each("unpacked-damage", |store| {
        let all = layers();
        let image = add(store, "app", &all);
        let other =
            add(store, "other", &[all[0].clone(), all[1].clone(), vec![Entry::file("else", "")]]);
        let expected = [files(&image), files(&other)];
        let verified = store.verify().unwrap();
        assert!(verified.is_sound() && verified.unchecked.is_empty(), "{verified:?}");
        assert_eq!(verified.layers, 4);
        let inodes = || {
            let inode = |at| fs::metadata(place(store, &image, at)).unwrap().ino();
            [0, 1, 2].map(inode)
        };
        for (what, harm, why) in HARMS {
            let before = inodes();
            harm(&place(store, &image, 1).join("tree"));
            let repaired = store.repair().unwrap();
            let images = ["app:latest", "other:latest"];
            assert_damage(&repaired.found, &image, 1, &images, why, what);
            assert_eq!((repaired.layers, repaired.images.len()), (1, 0), "{what}: {repaired:?}");
            assert!(!place(store, &image, 1).exists(), "{what}");
            assert_eq!([files(&image), files(&other)], expected, "{what}");
            let after = inodes();
            assert_eq!((after[0], after[2]), (before[0], before[2]), "{what}");
        }
        // A layer that is not there is no damage, nor does it keep those above from being checked.
        assert!(store.layers().unwrap().remove(&image.chain_ids()[1].0.hex()).unwrap());
        let verified = store.verify().unwrap();
        assert!(verified.is_sound() && verified.unchecked.is_empty(), "{verified:?}");
        assert_eq!(verified.layers, 3);
    });
}

fn assert_damage(
    verified: &Verified,
    image: &Image,
    layer: usize,
    images: &[&str],
    why: &str,
    what: &str,
) {
    let [damage] = &verified.damage[..] else { panic!("{what}: {verified:?}") };
    let chain = image.chain_ids()[layer];
    assert_eq!((damage.layer, damage.blob), (Some(chain), None), "{what}");
    assert_eq!(damage.images, images, "{what}");
    let said = damage.to_string();
    assert_eq!(damage.reason.kind(), ErrorKind::Malformed, "{what}: {said}");
    assert!(
        said.contains(&format!("the unpacked layer {chain} is damaged: {why}")),
        "{what}: {said}"
    );
    assert!(verified.unchecked.is_empty(), "{what}: {verified:?}");
}

#[test]
fn what_an_overlay_marks_and_others_own_is_compared_too() {
    require!(common::stacks());
    require!(common::program("setfattr"));
    require!(common::program("unshare"));
    let dir = setup("unpacked-marks");
    let store = Store::open(dir.join("images")).unwrap();
    LayerStore::open_with(store.path().join("layers"), Driver::Overlay).unwrap();
    let image = add(&store, "app", &layers());
    let namespace = if geteuid().is_root() { "trusted" } else { "user" };
    // What belongs to a subordinate id only root of a user namespace may touch.
    let change = |script: &str| {
        let mut command = match geteuid().is_root() {
            true => std::process::Command::new("sh"),
            false => {
                let mut command = std::process::Command::new("unshare");
                command.args(["--map-auto", "--map-root-user", "sh"]);
                command
            }
        };
        common::engines::run(
            command.args(["-euc", script]).current_dir(place(&store, &image, 1).join("tree")),
        );
    };
    let opaque = format!("setfattr -x {namespace}.overlay.opaque opt");
    for (script, why) in [
        ("rm etc/old", "/etc/old is missing"),
        (opaque.as_str(), "/opt is not what it was"),
        (
            "touch -r secret/deep/more t; echo less > secret/deep/more; touch -r t secret/deep/more; rm t",
            "/secret/deep/more is not what it was",
        ),
        ("chown 7 secret/deep/more", "/secret/deep/more is not what it was"),
        ("chmod 700 secret/deep", "/secret/deep is not what it was"),
        ("setfattr -n user.note -v two noted", "/noted is not what it was"),
    ] {
        unpack(&image);
        sound(&store);
        change(script);
        let verified = store.verify().unwrap();
        assert_damage(&verified, &image, 1, &["app:latest"], why, script);
        assert_eq!(store.repair().unwrap().layers, 1, "{script}");
    }
    // What a pin keeps of an image that is gone is checked as well.
    unpack(&image);
    store.pin("box", &image).unwrap();
    store.remove_forced("app").unwrap();
    change("echo more >> opt/tool");
    let why = "/opt/alias is not what it was, /opt/tool is not what it was";
    assert_damage(&store.verify().unwrap(), &image, 1, &["the pin box"], why, "pinned");
    assert_eq!(store.repair().unwrap().layers, 1);
    unpack(&image);
    sound(&store);
    store.unpin("box").unwrap();
    store.collect_garbage().unwrap();
}

#[test]
fn layers_that_stand_on_a_damaged_one_are_checked_by_themselves() {
    each("unpacked-upon", |store| {
        let image = add(store, "app", &layers());
        let expected = files(&image);
        // What the layer above deletes, so that it is another layer without it.
        let low = place(store, &image, 0).join("tree");
        fs::remove_file(low.join("etc/old")).unwrap();
        let verified = store.verify().unwrap();
        assert_damage(&verified, &image, 0, &["app:latest"], "/etc/old is missing", "below");
        tamper(&place(store, &image, 2).join("tree/top"));
        let repaired = store.repair().unwrap();
        assert_eq!((repaired.found.damage.len(), repaired.layers), (2, 2), "{repaired:?}");
        assert_eq!(files(&image), expected);
    });
}

#[test]
fn a_damaged_blob_is_no_measure_of_what_was_unpacked_from_it() {
    require!(common::stacks());
    let dir = setup("unpacked-blob");
    let store = Store::open(dir.join("images")).unwrap();
    let image = add(&store, "app", &layers());
    unpack(&image);
    let blob = image.manifest().layers()[1].digest;
    let path = store.path().join("blobs/sha256").join(blob.hex());
    let mut bytes = fs::read(&path).unwrap();
    let whole = bytes.clone();
    bytes[700] ^= 1;
    fs::write(&path, bytes).unwrap();
    let verified = store.verify().unwrap();
    let [damage] = &verified.damage[..] else { panic!("{verified:?}") };
    assert_eq!((damage.blob, damage.layer), (Some(blob), None));
    assert_eq!((verified.layers, verified.unchecked.len()), (1, 0), "those below");
    fs::write(&path, whole).unwrap();
    sound(&store);
}

/// Everything below a directory, as far as it may be read, by type, mode and length.
fn listing(dir: &Path) -> BTreeMap<PathBuf, (u32, u64)> {
    let mut found = BTreeMap::new();
    let mut next = vec![dir.to_owned()];
    while let Some(dir) = next.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            if metadata.is_dir() {
                next.push(path.clone());
            }
            found.insert(
                path,
                (metadata.mode(), if metadata.is_file() { metadata.len() } else { 0 }),
            );
        }
    }
    found
}

/// A layer by its bytes as they are stored, what its configuration says that they are, and their media type.
struct Bad {
    what: &'static str,
    stored: Vec<u8>,
    plain: Vec<u8>,
    media_type: MediaType,
    kind: ErrorKind,
    why: &'static str,
}

fn bad_layers() -> Vec<Bad> {
    use ErrorKind::{Malformed, ResourceExhausted, SafetyViolation};
    let link = |path: &str, target: &str| Entry::link(path, EntryType::Link, target);
    let plain = |what, tar: Vec<u8>, kind, why| {
        let media_type = MediaType::ImageLayer;
        Bad { what, stored: tar.clone(), plain: tar, media_type, kind, why }
    };
    let entries = |what, entries: &[Entry], kind, why| plain(what, tar(entries), kind, why);
    let good = tar(&[Entry::file("file", vec![7; 5000])]);
    let mut header = good.clone();
    header[150] ^= 1;
    let zeros = tar(&[Entry::file("zeros", vec![0; 3 << 20])]);
    let gzip = compress(&good, Compression::Gzip);
    let packed = |what, stored: Vec<u8>, plain: &[u8], kind, why| {
        let plain = plain.to_vec();
        Bad { what, stored, plain, media_type: MediaType::ImageLayerGzip, kind, why }
    };
    let mut flipped = gzip.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x40;
    vec![
        plain("cut short", good[..1500].to_vec(), Malformed, "cut short"),
        plain("empty", Vec::new(), Malformed, "cut short"),
        plain("a flipped bit", header, Malformed, "header"),
        plain("no archive", vec![7; 5000], Malformed, "header"),
        entries("up", &[Entry::file("../../../canary", "x")], SafetyViolation, "leads out"),
        entries("up by a link", &[link("x", "../../canary")], SafetyViolation, "leads out"),
        entries(
            "round and round",
            &[
                Entry::link("a", EntryType::Symlink, "b"),
                Entry::link("b", EntryType::Symlink, "a"),
                Entry::file("a/x", "x"),
            ],
            SafetyViolation,
            "ELOOP",
        ),
        entries("a link to nothing", &[link("x", "/etc/nothing-here")], Malformed, "unpack x"),
        entries(
            "a whiteout of the parent",
            &[Entry::file("etc/.wh...", "")],
            Malformed,
            "names no file",
        ),
        entries(
            "a whiteout of itself",
            &[Entry::file("etc/.wh..", "")],
            Malformed,
            "names no file",
        ),
        entries(
            "a whiteout without a name",
            &[Entry::file("etc/.wh.", "")],
            Malformed,
            "names no file",
        ),
        plain("a bomb", zeros.clone(), ResourceExhausted, "longer than 1048576"),
        packed(
            "a gzip bomb",
            compress(&zeros, Compression::Gzip),
            &zeros,
            ResourceExhausted,
            "longer than 1048576",
        ),
        entries(
            "many entries",
            &vec![Entry::file("same", ""); 200],
            ResourceExhausted,
            "more than 100 entries",
        ),
        packed("gzip, cut short", gzip[..gzip.len() - 9].to_vec(), &good, Malformed, "cut short"),
        packed("gzip, damaged", flipped, &good, Malformed, "unpack"),
        packed("no gzip", good.clone(), &good, Malformed, "gzip"),
        packed("other content", gzip, &zeros, Malformed, "its content has the digest"),
    ]
}

#[test]
fn a_bad_layer_is_named_with_the_reason_and_leaves_the_store_as_it_was() {
    each("unpacked-bad", |store| {
        let limits = ArchiveLimits::new().bytes(1 << 20).entries(100);
        let store = store.clone().layer_limits(limits);
        let base = tar(&layers()[0]);
        let canary = store.path().join("../canary");
        fs::write(&canary, "canary").unwrap();
        unpack(&fixture::add(&store, "base", &[(base.clone(), Compression::None)], &[]));
        for bad in bad_layers() {
            let Bad { what, stored, plain, media_type, kind, why } = bad;
            let work = store.work().unwrap();
            let lower = work.ingest(&base[..], None).unwrap().descriptor(MediaType::ImageLayer);
            let layer = work.ingest(&stored[..], None).unwrap();
            let config = fixture::config(&[&base, &plain], &[]);
            let config = work.ingest(config.as_bytes(), None).unwrap();
            let manifest = ImageManifestBuilder::default()
                .schema_version(2_u32)
                .media_type(MediaType::ImageManifest)
                .config(config.descriptor(MediaType::ImageConfig))
                .layers(vec![lower, layer.descriptor(media_type)])
                .build()
                .unwrap();
            let manifest = work.add_manifest(&manifest).unwrap();
            let image = work.set_image(Some(&fixture::name("bad")), &manifest).unwrap();
            drop(work);
            let before = listing(store.path());
            let err = image.rootfs().unwrap_err();
            let said = format!("{err:#}");
            assert_eq!(err.kind(), kind, "{what}: {said}");
            assert!(said.contains(&layer.digest.to_string()), "{what}: {said}");
            assert!(said.contains(why), "{what}: {said}");
            assert_eq!(listing(store.path()), before, "{what}");
        }
        assert_eq!(fs::read_to_string(&canary).unwrap(), "canary");
        fs::remove_file(canary).unwrap();
    });
}

#[test]
fn what_stands_on_an_image_that_was_removed_by_force_goes_on() {
    each("unpacked-removed", |store| {
        let image = add(store, "app", &layers());
        let expected = files(&image);
        store.pin("box", &image).unwrap();
        let scratch = store.path().join("../scratch");
        let rootfs = image.rootfs().unwrap().writable(&scratch).unwrap();
        inside(&rootfs, |root| fs::write(root.join("new"), "new").unwrap());
        drop(rootfs);
        store.remove_forced("app").unwrap();
        store.collect_garbage().unwrap();
        // Another process, after a restart, say: all it has is the name of the pin, and the directory.
        let found = store.pinned_image("box").unwrap();
        assert_eq!(files(&found), expected);
        let rootfs = found.rootfs().unwrap().writable(&scratch).unwrap();
        let changes: Vec<_> = rootfs.changes().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(changes, ["A /new"]);
        // Even as the parent of a new image, which then keeps what it needs.
        let committed = store.commit(&rootfs, "new").parent(&found).run().unwrap();
        drop(rootfs);
        assert!(store.layers().unwrap().remove_writable(&scratch).unwrap());
        store.unpin("box").unwrap();
        store.collect_garbage().unwrap();
        assert_eq!(committed.diff_ids()[..3], *image.diff_ids());
        assert_eq!(files(&committed).len(), expected.len() + 1);
    });
}

#[test]
fn a_root_directory_that_is_closed_to_all_but_another_user_is_no_obstacle() {
    each("unpacked-closed", |store| {
        let closed = |entry: Entry| entry.owner(1000, 1000).mode(0o700);
        let image = add(
            store,
            "closed",
            &[
                vec![
                    closed(Entry::directory("./")),
                    closed(Entry::directory("in")),
                    Entry::file("in/file", "x"),
                ],
                vec![closed(Entry::directory("./")), Entry::file("in/other", "y")],
            ],
        );
        let found = files(&image);
        let line =
            |path: &str| found.iter().find(|(it, _)| it.ends_with(path)).map(|it| it.1.clone());
        assert_eq!(line("in/file").unwrap(), "Regular 644 (0, 0) None x");
        assert_eq!(line("in").unwrap(), "Directory 700 (1000, 1000) None ");
        let scratch = store.path().join("../scratch");
        let rootfs = image.rootfs().unwrap().writable(&scratch).unwrap();
        assert_eq!(rootfs.changes().unwrap(), []);
        let same = store.commit(&rootfs, "same").parent(&image).run().unwrap();
        assert_eq!(same.diff_ids(), image.diff_ids());
        drop(rootfs);
        assert!(store.layers().unwrap().remove_writable(&scratch).unwrap());
        assert!(store.usage().unwrap().total.layers > 0);
        assert_eq!(store.verify().unwrap().layers, 2);
    });
}

/// A container gets its devices with its `/dev`, so who may make none can do without those of an image.
#[test]
fn an_image_with_devices_runs_for_those_who_may_make_none() {
    each("unpacked-devices", |store| {
        let base = vec![Entry::directory("dev"), Entry::file("dev/x", "of the base")];
        let devices = vec![
            Entry::new("dev/x", EntryType::Char),
            Entry::new("dev/y", EntryType::Block),
            Entry::file("kept", "kept"),
        ];
        let top = vec![Entry::file("top", "top")];
        let image = add(store, "app", &[base, devices, top]);
        let made = geteuid().is_root();
        let names: &[&str] = if made { &["dev/x", "dev/y"] } else { &[] };
        let rootfs = image.rootfs().unwrap().read_only().unwrap();
        let root = common::stack::root(&rootfs);
        for name in ["dev/x", "dev/y"] {
            let found = root.join(name).symlink_metadata().is_ok();
            assert_eq!(found, names.contains(&name), "{name}");
        }
        assert!(root.join("kept").exists() && root.join("top").exists());
        drop((root, rootfs));
        // What is made of the unpacked layers must not be without them.
        assert_eq!(image.squash().top(1).run().unwrap().diff_ids().len(), 3);
        match image.squash().top(2).run() {
            Ok(_) => assert!(made),
            Err(err) => {
                assert!(!made && err.kind() == ErrorKind::PermissionDenied, "{err:?}");
                assert!(format!("{err:#}").contains("2 devices"), "{err:#}");
            }
        }
    });
}

#[test]
fn many_that_unpack_a_layer_at_once_all_find_it_and_nobody_takes_it_away() {
    each("unpacked-at-once", |store| {
        for round in 0..10 {
            let mut layers = layers();
            layers[0].push(Entry::file("round", round.to_string()));
            let image = add(store, &format!("round{round}"), &layers);
            let start = Barrier::new(8);
            let inodes: Vec<_> = std::thread::scope(|scope| {
                let unpack = || {
                    start.wait();
                    unpack(&image);
                    let inode = |at| place(store, &image, at).metadata().unwrap().ino();
                    [inode(0), inode(1), inode(2)]
                };
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(unpack)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(
                inodes.iter().all(|it| *it == inodes[0]),
                "one went and came again: {inodes:?}"
            );
        }
        sound(store);
    });
}

#[test]
fn where_descriptors_are_short_nothing_is_taken_for_damaged() {
    require!(common::stacks());
    // The limit is all threads'.
    common::alone(with_few_descriptors);
}

fn with_few_descriptors() {
    let dir = setup("unpacked-few-descriptors");
    let store = Store::open(dir.join("images")).unwrap();
    let image = add(&store, "image", &layers());
    unpack(&image);
    let places = [0, 1, 2].map(|at| place(&store, &image, at));
    let inodes = || places.iter().map(|it| it.metadata().unwrap().ino());
    let before: Vec<_> = inodes().collect();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let used = fs::read_dir("/proc/self/fd").unwrap().count() as u64 - 1;
    setrlimit(Resource::RLIMIT_NOFILE, used + 10, hard).unwrap();
    // Another thread has them now and then, so that what failed may work a moment later. It ends with the process.
    std::thread::spawn(|| {
        loop {
            let taken: Vec<_> = (0..10).map_while(|_| File::open("/dev/null").ok()).collect();
            std::thread::sleep(Duration::from_micros(20));
            drop(taken);
        }
    });
    let mut refused = 0;
    for _ in 0..1000 {
        if let Err(err) = image.rootfs() {
            assert_eq!(err.kind(), ErrorKind::ResourceExhausted, "{err:?}");
            refused += 1;
        }
        assert!(inodes().eq(before.iter().copied()), "a layer was taken away");
        match store.repair() {
            Ok(repaired) => assert!(repaired.found.is_sound(), "{:?}", repaired.found.damage),
            Err(err) => assert_eq!(err.kind(), ErrorKind::ResourceExhausted, "{err:?}"),
        }
    }
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    assert!(refused > 10, "{refused}");
}
