//! A file system without room.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use coracle::ErrorKind;
use coracle::image::Store;

use crate::common::{require, setup, user_namespaces};
use crate::fixture::{add, config, manifest, name, sound, tidy};

/// Takes all the room there is.
fn fill(disk: &Path) -> PathBuf {
    let path = disk.join("filler");
    let mut file = File::create(&path).unwrap();
    for block in [64 << 10, 4096] {
        while file.write_all(&vec![0; block]).is_ok() {}
    }
    path
}

#[track_caller]
fn full(failed: coracle::Result<()>) {
    let err = failed.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ResourceExhausted, "{err:?}");
    assert_eq!(err.raw_os_error(), Some(libc::ENOSPC), "{err:?}");
    assert!(err.hint().unwrap().contains("no space is left"), "{err:?}");
}

fn on_a_full_disk(disk: &Path) {
    let store = Store::open(disk.join("images")).unwrap();
    let spare = "spare".repeat(20_000);
    add(&store, "app", &["base", "app"]);
    add(&store, "spare", &[&spare]);
    let before = store.images().unwrap();

    // It fills up in the middle of a blob.
    let work = store.work().unwrap();
    full(work.ingest(std::io::repeat(7), None).map(drop));
    drop(work);
    tidy(&store);
    sound(&store);

    let filler = fill(disk);
    for _ in 0..3 {
        full(store.work().and_then(|work| work.ingest(&b"more"[..], None)).map(drop));
        full(store.tag("app", "another").map(drop));
        full(Store::open(disk.join("second")).map(drop));
    }
    assert_eq!(store.images().unwrap(), before);
    assert!(Store::open(store.path()).unwrap().image("another").is_err());
    sound(&store);
    tidy(&store);

    // What makes room needs none.
    store.remove("spare").unwrap();
    assert_eq!(store.collect_garbage().unwrap().blobs, 3);
    store.tag("app", "another").unwrap();
    fs::remove_file(filler).unwrap();
    let work = store.work().unwrap();
    let layers = ["base", &spare];
    let descriptor = manifest(&work, &layers, &config(&layers, ""));
    work.set_image(Some(&name("later")), &descriptor).unwrap();
    drop(work);
    sound(&store);
    tidy(&store);
    assert_eq!(store.images().unwrap().len(), 2);
}

#[test]
fn a_full_disk_is_an_error_that_leaves_the_store_as_it_was_and_removing_makes_room() {
    const MARK: &str = "CORACLE_TEST_SMALL_DISK";
    if let Some(disk) = std::env::var_os(MARK) {
        return on_a_full_disk(Path::new(&disk));
    }
    require!(user_namespaces());
    let dir = setup("image-full");
    // The mount is gone with its namespace.
    let mut command = Command::new("unshare");
    command
        .args(["--map-root-user", "--mount", "sh", "-euc"])
        .arg(r#"mount -t tmpfs -o size=1m none "$0"; exec "$@""#)
        .arg(&*dir)
        .env(MARK, &*dir);
    crate::common::rerun(command);
}
