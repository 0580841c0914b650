//! A disk without room for even one more directory, and one with too little room.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use coracle::ErrorKind;
use coracle::image::{Import, Load, Store};
use coracle::layers::Compression;
use nix::fcntl::FallocateFlags;
use nix::sys::statvfs::statvfs;
use tar::EntryType;

use crate::common::archive::Tar;
use crate::common::stack::inside;
use crate::common::victim::Random;
use crate::common::{self, require, setup};
use crate::worker::check_clean;

/// Takes all the room there is.
fn fill(disk: &Path) {
    let mut file = File::create(disk.join("filler")).unwrap();
    for block in [64 << 10, 4096] {
        while file.write_all(&vec![1; block]).is_ok() {}
    }
}

fn on_a_full_disk(disk: &Path) {
    let store = Store::open(disk.join("images")).unwrap();
    let mut tar = Tar::new();
    tar.dir("./", 0o755).raw("lower", EntryType::Regular, &vec![b'x'; 1 << 20]);
    let mut image = store.import("app:0", &tar.end()[..]).unwrap();
    for number in 1..4 {
        let scratch = disk.join(format!("scratch-{number}"));
        let rootfs = image.rootfs().unwrap().writable(&scratch).unwrap();
        inside(&rootfs, |root| fs::write(root.join(format!("{number}")), "more").unwrap());
        image = store.commit(&rootfs, &format!("app:{number}")).parent(&image).run().unwrap();
    }
    drop(image.rootfs().unwrap());
    assert_eq!(store.layers().unwrap().keys().unwrap().len(), 4);
    fill(disk);
    // What the file left over.
    let mut more = (0..).map(|number| fs::create_dir(disk.join(format!("more-{number}"))));
    let failed = more.find_map(Result::err).unwrap();
    assert_eq!(failed.raw_os_error(), Some(libc::ENOSPC), "the disk is not full: {failed}");
    let failed = store.import("other", &tar.end()[..]).unwrap_err();
    assert_eq!(failed.raw_os_error(), Some(libc::ENOSPC), "{failed:?}");
    // Nor can layers be unpacked to be compared; the blobs are.
    let verified = store.verify().unwrap();
    assert!(verified.is_sound() && !verified.unchecked.is_empty(), "{verified:?}");

    // What makes room needs none.
    for number in 1..4 {
        store.remove(&format!("app:{number}")).unwrap();
    }
    let collected = store.collect_garbage().unwrap();
    assert_eq!((collected.blobs, collected.layers), (9, 3));
    assert_eq!(store.layers().unwrap().keys().unwrap().len(), 1);
    assert!(store.verify().unwrap().is_sound());
    store.tag("app:0", "again").unwrap();
    fs::remove_file(disk.join("filler")).unwrap();
    store.import("other", &tar.end()[..]).unwrap();
    check_clean(&store);
}

/// What may fail for want of room.
type Call<'a> = Box<dyn Fn() -> coracle::Result<()> + 'a>;

/// Leaves so much room.
fn leave(disk: &Path, room: u64) {
    let stat = statvfs(disk).unwrap();
    let taken = (stat.blocks_available() * stat.fragment_size()).saturating_sub(room);
    let file = File::create(disk.join("filler")).unwrap();
    nix::fcntl::fallocate(file, FallocateFlags::empty(), 0, i64::try_from(taken).unwrap()).unwrap();
}

/// What is under way in the store, or was.
fn unfinished(store: &Store) -> Vec<PathBuf> {
    let entries = ["ingest", "leases", "trash"]
        .map(|directory| fs::read_dir(store.path().join(directory)).unwrap());
    let mut found: Vec<_> = entries.into_iter().flatten().map(|it| it.unwrap().path()).collect();
    found.sort();
    found
}

/// With more and more room, until there is enough, every attempt fails in another place.
fn grow_until_it_fits(disk: &Path, store: &Store, what: &str, call: &Call<'_>) -> u32 {
    let before = (store.images().unwrap(), unfinished(store), store.usage().unwrap().total.bytes());
    for attempt in 0.. {
        leave(disk, u64::from(attempt) * (64 << 10));
        let done = call();
        let shown = Store::open(store.path()).unwrap().images().unwrap();
        if done.is_err() {
            assert_eq!(shown, before.0, "{what}");
        }
        let verified = store.verify().unwrap();
        assert!(verified.is_sound(), "{what}: {:?}", verified.damage);
        fs::remove_file(disk.join("filler")).unwrap();
        store.collect_garbage().unwrap();
        let Err(err) = done else { return attempt };
        assert_eq!(err.kind(), ErrorKind::ResourceExhausted, "{what}: {err:?}");
        assert_eq!(err.raw_os_error(), Some(libc::ENOSPC), "{what}: {err:?}");
        let hint = err.hint().unwrap_or_else(|| panic!("{what}: no hint: {err:?}"));
        let words = ["no space is left", "the disk, or the quota on it, is full"];
        assert!(words.iter().any(|it| hint.contains(it)), "{what}: {hint}");
        let left = (shown, unfinished(store), store.usage().unwrap().total.bytes());
        assert!(left == before, "{what}: of {before:?} this is left: {left:?}");
    }
    unreachable!("a disk has an end")
}

/// A layer of one file that no compression makes smaller.
fn layer(name: &str, kib: usize) -> Vec<u8> {
    let mut random = Random::new(name.len() as u64);
    let content: Vec<u8> =
        (0..kib << 7).flat_map(|_| random.below(u64::MAX).to_le_bytes()).collect();
    Tar::new().dir("./", 0o755).raw(name, EntryType::Regular, &content).end()
}

/// Of what fits, nothing fails because of what would be unpacked besides.
fn blobs_come_first(disk: &Path, scratch: &Path) {
    let elsewhere = Store::open(scratch.with_extension("larger")).unwrap();
    let base = elsewhere.import("two", &layer("one", 2000)[..]).unwrap();
    let rootfs = base.rootfs().unwrap().writable(scratch.with_extension("work")).unwrap();
    inside(&rootfs, |root| fs::write(root.join("more"), layer("more", 2000)).unwrap());
    elsewhere.commit(&rootfs, "two").parent(&base).run().unwrap();
    let mut archive = Vec::new();
    elsewhere.save(["two"], &mut archive).unwrap();
    let packed = layer("packed", 4000);
    let mut encoder = Compression::Gzip.encoder(Vec::new()).unwrap();
    encoder.write_all(&packed).unwrap();
    let packed = encoder.finish().unwrap();

    let store = Store::open(disk.join("larger")).unwrap();
    for (what, room) in [("load", 5000), ("import", 5000), ("import, plain", 5000)] {
        leave(disk, room << 10);
        let image = match what {
            "load" => store.load(&archive[..]).unwrap().remove(0).image,
            "import" => store.import("two", &packed[..]).unwrap(),
            _ => store.import("two", &layer("plain", 4000)[..]).unwrap(),
        };
        assert!(store.layers().unwrap().keys().unwrap().is_empty(), "{what}");
        let err = image.rootfs().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::ResourceExhausted, "{what}: {err:?}");
        fs::remove_file(disk.join("filler")).unwrap();
        assert!(store.verify().unwrap().is_sound(), "{what}");
        store.remove("two").unwrap();
        store.collect_garbage().unwrap();
    }
    fs::remove_dir_all(store.path()).unwrap();
}

fn on_a_small_disk(disk: &Path, scratch: &Path) {
    blobs_come_first(disk, scratch);
    let store = Store::open(disk.join("images")).unwrap();
    let (first, second) = (layer("first", 320), layer("second", 320));
    let base = store.import("base", &first[..]).unwrap();
    let rootfs = base.rootfs().unwrap().writable(scratch).unwrap();
    inside(&rootfs, |root| fs::write(root.join("more"), &second).unwrap());
    let elsewhere = Store::open(scratch.with_extension("other")).unwrap();
    elsewhere.import("loaded", &second[..]).unwrap();
    let mut archive = Vec::new();
    elsewhere.save(["loaded"], &mut archive).unwrap();

    let import = Import::new(&store).name("imported");
    let packed = import.clone().compress(Compression::Gzip).name("packed");
    let load = |unpack| Load::new(&store).unpack(unpack);
    let commit = || store.commit(&rootfs, "committed").parent(&base);
    let calls: [(&str, Call<'_>); 6] = [
        ("import", Box::new(|| import.read(&second[..]).map(drop))),
        ("import, compressed", Box::new(|| packed.read(&second[..]).map(drop))),
        ("load", Box::new(|| load(true).read(&archive[..]).map(drop))),
        ("load, not unpacked", Box::new(|| load(false).read(&archive[..]).map(drop))),
        ("commit", Box::new(|| commit().run().map(drop))),
        ("squash", Box::new(|| base.squash().name("squashed").run().map(drop))),
    ];
    for (what, call) in &calls {
        let failed = grow_until_it_fits(disk, &store, what, call);
        println!("{what}: failed {failed} times");
        assert!(failed > 2, "{what} failed {failed} times");
        // The next begins as this one did.
        for image in store.images().unwrap() {
            if image.references()[0] != base.references()[0] {
                store.remove(&image.references()[0].familiar()).unwrap();
            }
        }
        store.collect_garbage().unwrap();
    }
    load(false).read(&archive[..]).unwrap();
    let loaded = store.image("loaded").unwrap();
    let unpack: Call<'_> = Box::new(|| loaded.rootfs().map(drop));
    assert!(grow_until_it_fits(disk, &store, "unpack", &unpack) > 2);
}

#[test]
fn every_change_fails_clearly_until_there_is_room_enough() {
    const MARK: &str = "CORACLE_TEST_SMALL_TMPFS";
    if let Some(disk) = std::env::var_os(MARK) {
        let disk = Path::new(&disk);
        return on_a_small_disk(disk, &disk.with_extension("scratch"));
    }
    require!(common::root());
    require!(common::stacks());
    let dir = setup("real-full-memory");
    // The mount is gone with its namespace.
    let script = r#"mkdir m; mount -t tmpfs -o size=8m none m; exec "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-euc", script, "sh"]);
    command.env(MARK, dir.join("m")).current_dir(&*dir);
    common::rerun(command);
}

#[test]
fn unpacked_layers_are_collected_on_an_ext4_without_a_block() {
    const MARK: &str = "CORACLE_TEST_SMALL_EXT4";
    if let Some(disk) = std::env::var_os(MARK) {
        return on_a_full_disk(Path::new(&disk));
    }
    require!(common::root());
    require!(common::stacks());
    let dir = setup("real-full");
    File::create(dir.join("disk")).unwrap().set_len(24 << 20).unwrap();
    // The mount, and with it the loop device, is gone with its namespace.
    let script = r#"mkfs.ext4 -q -m 0 disk; mkdir m; mount -o loop disk m; exec "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-euc", script, "sh"]);
    command.env(MARK, dir.join("m")).current_dir(&*dir);
    common::rerun(command);
}
