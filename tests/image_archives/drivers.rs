//! Stores of every storage driver.

use std::path::Path;

use coracle::image::{Image, Store};
use coracle::layers::{Compression, Driver, LayerStore};
use nix::unistd::geteuid;

use crate::common::{self, require, setup};
use crate::fixture::{self, Entry, sound, tar};

/// Runs `body` on a store of each driver, and for root once more on a btrfs of its own.
pub fn each(name: &str, body: impl Fn(&Store)) {
    let run = |driver: Driver, dir: &Path| {
        let store = Store::open(dir.join(driver.as_str())).unwrap();
        LayerStore::open_with(store.path().join("layers"), driver).unwrap();
        assert_eq!(store.layers().unwrap().driver(), driver);
        body(&store);
        sound(&store);
        // What is another user's only the store can remove.
        let images = store.images().unwrap();
        images.iter().for_each(|it| drop(store.remove_forced(&it.digest().to_string()).unwrap()));
        store.collect_garbage().unwrap();
        let layers = store.layers().unwrap();
        assert_eq!(layers.keys().unwrap(), [""; 0]);
        // Nor is anything left half removed.
        let names = std::fs::read_dir(layers.path("")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let left: Vec<_> = names.filter(|name| name != ".empty").collect();
        assert_eq!(left, [""; 0], "{driver}");
    };
    if let Some(dir) = common::btrfs_directory() {
        return [Driver::Overlay, Driver::Btrfs, Driver::Vfs].iter().for_each(|it| run(*it, &dir));
    }
    require!(common::stacks());
    require!(common::program("getfattr"));
    let dir = setup(name);
    run(Driver::Overlay, &dir);
    run(Driver::Vfs, &dir);
    if geteuid().is_root() {
        require!(common::btrfs());
        common::on_btrfs();
    }
}

/// An image of these layers, each a list of entries.
pub fn add(store: &Store, name: &str, layers: &[Vec<Entry>]) -> Image {
    let layers: Vec<_> = layers.iter().map(|it| (tar(it), Compression::None)).collect();
    fixture::add(store, name, &layers, &["/bin/true"])
}
