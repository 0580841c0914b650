//! Small images. The store does not look into layers, so any bytes are one.

use std::fs;
use std::path::PathBuf;

use coracle::image::spec::{Descriptor, ImageManifest, ImageManifestBuilder, MediaType};
use coracle::image::{Digest, Image, Platform, Reference, Store, Work};

use crate::common::Sandbox;

pub fn store(dir: &Sandbox) -> Store {
    Store::open(dir.join("images")).unwrap()
}

pub fn name(text: &str) -> Reference {
    text.parse().unwrap()
}

/// A configuration for this machine, with a history. `extra` is more JSON, as `,"a":1`.
pub fn config(layers: &[&str], extra: &str) -> String {
    config_for(Platform::host().architecture(), layers, extra)
}

pub fn config_for(architecture: &str, layers: &[&str], extra: &str) -> String {
    let ids: Vec<_> = layers.iter().map(|it| format!("\"{}\"", Digest::of(it))).collect();
    let history: Vec<_> =
        (1..=layers.len()).map(|n| format!(r#"{{"created_by":"step {n}"}}"#)).collect();
    format!(
        r#"{{"architecture":"{architecture}","os":"linux","rootfs":{{"type":"layers","diff_ids":[{}]}},
            "history":[{}]{extra}}}"#,
        ids.join(","),
        history.join(",")
    )
}

/// Stores the blobs of an image and its manifest.
pub fn manifest(work: &Work, layers: &[&str], config: &str) -> Descriptor {
    let layer = |layer: &&str| {
        work.ingest(layer.as_bytes(), None).unwrap().descriptor(MediaType::ImageLayer)
    };
    let layers: Vec<_> = layers.iter().map(layer).collect();
    let config = work.ingest(config.as_bytes(), None).unwrap();
    work.add_manifest(&of(config.descriptor(MediaType::ImageConfig), layers)).unwrap()
}

pub fn of(config: Descriptor, layers: Vec<Descriptor>) -> ImageManifest {
    let manifest = ImageManifestBuilder::default().schema_version(2u32).config(config);
    manifest.layers(layers).media_type(MediaType::ImageManifest).build().unwrap()
}

pub fn add_with(store: &Store, reference: &str, layers: &[&str], extra: &str) -> Image {
    let work = store.work().unwrap();
    let manifest = manifest(&work, layers, &config(layers, extra));
    work.set_image(Some(&name(reference)), &manifest).unwrap()
}

pub fn add(store: &Store, reference: &str, layers: &[&str]) -> Image {
    add_with(store, reference, layers, "")
}

pub fn sound(store: &Store) {
    let verified = store.verify().unwrap();
    assert!(verified.is_sound(), "{:?}", verified.damage);
}

pub fn blob_file(store: &Store, digest: Digest) -> PathBuf {
    store.path().join("blobs/sha256").join(digest.hex())
}

/// The names in a directory of the store, sorted.
pub fn names(store: &Store, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(store.path().join(directory)).unwrap();
    let mut names: Vec<_> =
        entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Nothing half done is left once the garbage is collected.
pub fn tidy(store: &Store) {
    for directory in ["ingest", "leases", "trash"] {
        assert_eq!(names(store, directory), [""; 0], "{directory}");
    }
}
