//! A disk without room for even one more directory.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use coracle::image::Store;
use tar::EntryType;

use crate::common::archive::Tar;
use crate::common::stack::inside;
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
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-euc", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "full_disk::unpacked_layers_are_collected_on_an_ext4_without_a_block"])
        .args(["--test-threads=1", "--nocapture"])
        .env(MARK, dir.join("m"))
        .current_dir(&*dir)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{complained}");
}
