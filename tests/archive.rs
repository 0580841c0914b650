//! Archives that become layers and layers that become archives.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use coracle::layers::{Pack, Unpack};

use common::setup;

fn add(tar: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o640);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, path, content).unwrap();
}

#[test]
fn what_is_unpacked_is_packed_to_the_same_bytes() {
    let dir = setup("archive-round");
    let mut tar = tar::Builder::new(Vec::new());
    add(&mut tar, "etc/hosts", tar::EntryType::Regular, b"127.0.0.1 localhost\n");
    let layer = dir.dir("layer");
    let open = |path: &Path| File::open(path).unwrap();
    let unpacked = Unpack::new().run(tar.into_inner().unwrap().as_slice(), open(&layer)).unwrap();
    assert_eq!(unpacked.entries, 1);
    let meta = fs::metadata(layer.join("etc/hosts")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o640, 1_000_000_000));
    let mut first = Vec::new();
    Pack::new().layer(open(&layer), &mut first).unwrap();
    let again = dir.dir("again");
    Unpack::new().run(first.as_slice(), open(&again)).unwrap();
    let mut second = Vec::new();
    Pack::new().layer(open(&again), &mut second).unwrap();
    assert!(first == second);
}
