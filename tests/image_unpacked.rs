//! The unpacked layers of images: what they take, whether they are as they should be, and how long they stay.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "image_archives/drivers.rs"]
mod drivers;
#[path = "image_archives/fixture.rs"]
#[allow(dead_code, reason = "each suite uses another part")]
mod fixture;

use coracle::image::{Image, Store, Usage};
use coracle::layers::{Driver, LayerStore};

use common::{require, setup};
use drivers::{add, each};
use fixture::Entry;

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
        assert_eq!(store.collect_garbage().unwrap().bytes, garbage.blobs);
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
