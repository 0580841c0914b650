//! Many containers of one image.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use coracle::image::Store;
use tar::EntryType;

use crate::common::archive::Tar;
use crate::common::stack::{inside, root};
use crate::common::{self, require, setup};

const CONTAINERS: u8 = 50;
const WRITTEN: u64 = 64 << 10;
const LOWER: usize = 4 << 20;
/// The directories around what a container writes, at a few KiB each.
const OVERHEAD: u64 = 48 << 10;

/// What the files below a directory take of the disk.
fn blocks(path: &Path) -> u64 {
    let own = fs::symlink_metadata(path).unwrap();
    let below = match own.is_dir() {
        // The overlay's work directory is mode 000, and an ordinary user cannot look into it.
        true => {
            fs::read_dir(path).into_iter().flatten().map(|it| blocks(&it.unwrap().path())).sum()
        }
        false => 0,
    };
    own.blocks() * 512 + below
}

#[test]
fn fifty_containers_share_every_layer_and_take_what_each_writes() {
    require!(common::stacks());
    let dir = setup("real-fifty");
    let store = Store::open(dir.join("images")).unwrap();
    let mut tar = Tar::new();
    tar.dir("./", 0o755).raw("lower", EntryType::Regular, &vec![b'x'; LOWER]);
    let base = store.import("base", &tar.end()[..]).unwrap();
    let rootfs = base.rootfs().unwrap().writable(dir.join("upper")).unwrap();
    inside(&rootfs, |root| fs::write(root.join("second"), vec![b'y'; LOWER]).unwrap());
    let image = store.commit(&rootfs, "app").parent(&base).run().unwrap();
    drop(rootfs);
    // Unpacked by the first that needs it, and then there.
    drop(image.rootfs().unwrap());
    let before = blocks(&dir);
    let layers = store.layers().unwrap().keys().unwrap();

    let scratch = |number| dir.join(format!("container-{number}"));
    let containers: Vec<_> = (0..CONTAINERS)
        .map(|number| {
            let rootfs = image.rootfs().unwrap().writable(scratch(number)).unwrap();
            inside(&rootfs, |root| {
                let mut file = File::create(root.join("own")).unwrap();
                file.write_all(&vec![number; usize::try_from(WRITTEN).unwrap()]).unwrap();
                file.sync_all().unwrap();
            });
            rootfs
        })
        .collect();
    for (number, rootfs) in (0..CONTAINERS).zip(&containers) {
        let read = |name| fs::read(root(rootfs).join(name)).unwrap();
        assert_eq!(read("own"), vec![number; usize::try_from(WRITTEN).unwrap()]);
        assert!(read("lower") == vec![b'x'; LOWER] && read("second") == vec![b'y'; LOWER]);
    }
    assert_eq!(store.layers().unwrap().keys().unwrap(), layers);
    let (written, taken) = (u64::from(CONTAINERS) * WRITTEN, blocks(&dir) - before);
    println!("{} KiB written, {} KiB taken", written >> 10, taken >> 10);
    assert!(taken >= written, "{taken} bytes taken of {written} written");
    assert!(
        taken <= written + u64::from(CONTAINERS) * OVERHEAD,
        "{taken} bytes taken for {written} written"
    );
    drop(containers);
    for number in 0..CONTAINERS {
        assert!(store.layers().unwrap().remove_writable(scratch(number)).unwrap());
    }
    assert_eq!(blocks(&dir), before, "all of it is free again");
}
