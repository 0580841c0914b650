//! Images with a bit of everything in their layers, and archives made by hand.

use std::fs;
use std::io::Write;
use std::path::Path;

use coracle::image::spec::{ImageManifestBuilder, MediaType};
use coracle::image::{Digest, Image, Reference, Store};
use coracle::layers::Compression;
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::common::Sandbox;

pub fn open(dir: &Sandbox, store: &str) -> Store {
    Store::open(dir.join(store)).unwrap()
}

pub fn name(text: &str) -> Reference {
    text.parse().unwrap()
}

pub fn sound(store: &Store) {
    let verified = store.verify().unwrap();
    assert!(verified.is_sound(), "{:?}", verified.damage);
}

/// Every file of the store that holds content, with its length, and every unpacked layer, to see that nothing is left
/// of what failed.
pub fn inventory(store: &Store) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let list = |directory: &str| {
        let entries = fs::read_dir(store.path().join(directory)).unwrap();
        entries.map(Result::unwrap).collect::<Vec<_>>()
    };
    for directory in ["blobs/sha256", "ingest", "leases", "trash"] {
        for entry in list(directory) {
            let length = entry.metadata().unwrap().len();
            found.push((format!("{directory}/{:?}", entry.file_name()), length.to_string().into()));
        }
    }
    for driver in list("layers") {
        let driver = format!("layers/{}", driver.file_name().to_str().unwrap());
        let layers = list(&driver);
        found.extend(layers.iter().map(|it| (format!("{driver}/{:?}", it.file_name()), vec![])));
    }
    found.push(("index.json".to_owned(), fs::read(store.path().join("index.json")).unwrap()));
    found.sort();
    found
}

/// One entry of an archive.
#[derive(Clone)]
pub struct Entry {
    pub path: String,
    pub kind: EntryType,
    pub link: String,
    pub mode: u32,
    pub owner: (u64, u64),
    pub mtime: u64,
    pub xattrs: Vec<(String, Vec<u8>)>,
    pub content: Vec<u8>,
}

impl Entry {
    pub fn new(path: &str, kind: EntryType) -> Self {
        let (path, link) = (path.to_owned(), String::new());
        let mode = if kind == EntryType::Directory { 0o755 } else { 0o644 };
        let (owner, mtime) = ((0, 0), 1_000_000_000);
        Self { path, kind, link, mode, owner, mtime, xattrs: Vec::new(), content: Vec::new() }
    }

    pub fn file(path: &str, content: impl Into<Vec<u8>>) -> Self {
        Self { content: content.into(), ..Self::new(path, EntryType::Regular) }
    }

    pub fn directory(path: &str) -> Self {
        Self::new(path, EntryType::Directory)
    }

    pub fn link(path: &str, kind: EntryType, target: &str) -> Self {
        Self { link: target.to_owned(), ..Self::new(path, kind) }
    }

    pub fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    pub fn owner(self, uid: u64, gid: u64) -> Self {
        Self { owner: (uid, gid), ..self }
    }

    pub fn mtime(self, mtime: u64) -> Self {
        Self { mtime, ..self }
    }

    pub fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.xattrs.push((name.to_owned(), value.to_vec()));
        self
    }
}

/// A tar archive; names are written as they are, whatever they mean.
pub fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        if !entry.xattrs.is_empty() {
            let records = entry
                .xattrs
                .iter()
                .map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.clone()))
                .collect::<Vec<_>>();
            let records = records.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
            builder.append_pax_extensions(records).unwrap();
        }
        let mut header = Header::new_ustar();
        let fields = header.as_mut_bytes();
        fields[..entry.path.len()].copy_from_slice(entry.path.as_bytes());
        fields[157..157 + entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(entry.owner.0);
        header.set_gid(entry.owner.1);
        header.set_mtime(entry.mtime);
        header.set_size(entry.content.len() as u64);
        if matches!(entry.kind, EntryType::Block | EntryType::Char) {
            header.set_device_major(7).unwrap();
            header.set_device_minor(99).unwrap();
        }
        header.set_cksum();
        builder.append(&header, &entry.content[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

pub fn compress(bytes: &[u8], compression: Compression) -> Vec<u8> {
    let mut encoder = compression.encoder(Vec::new()).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The blob names of a layout.
pub fn blob(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

pub fn config(layers: &[&[u8]], command: &[&str]) -> String {
    config_for(layers, command, coracle::image::Platform::host().architecture())
}

fn config_for(layers: &[&[u8]], command: &[&str], architecture: &str) -> String {
    let ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let step = |number: usize| json!({"created": "2001-09-09T01:46:40Z", "created_by": format!("step {number}")});
    let history: Vec<_> = (1..=layers.len()).map(step).collect();
    json!({
        "created": "2001-09-09T01:46:40Z",
        "architecture": architecture,
        "os": "linux",
        "config": {"Cmd": command, "Healthcheck": {"Test": ["NONE"]}},
        "rootfs": {"type": "layers", "diff_ids": ids},
        "history": history,
    })
    .to_string()
}

/// Stores an image of these layers.
pub fn add(
    store: &Store,
    reference: &str,
    layers: &[(Vec<u8>, Compression)],
    command: &[&str],
) -> Image {
    add_for(store, reference, layers, command, coracle::image::Platform::host().architecture())
}

pub fn add_for(
    store: &Store,
    reference: &str,
    layers: &[(Vec<u8>, Compression)],
    command: &[&str],
    architecture: &str,
) -> Image {
    let work = store.work().unwrap();
    let mut descriptors = Vec::new();
    for (layer, compression) in layers {
        let media_type = match compression {
            Compression::None => MediaType::ImageLayer,
            Compression::Gzip => MediaType::ImageLayerGzip,
            Compression::Zstd => MediaType::ImageLayerZstd,
        };
        let stored = work.ingest(&compress(layer, *compression)[..], None).unwrap();
        descriptors.push(stored.descriptor(media_type));
    }
    let plain: Vec<_> = layers.iter().map(|(layer, _)| layer.as_slice()).collect();
    let config = work.ingest(config_for(&plain, command, architecture).as_bytes(), None).unwrap();
    let manifest = ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageManifest)
        .config(config.descriptor(MediaType::ImageConfig))
        .layers(descriptors)
        .build()
        .unwrap();
    let manifest = work.add_manifest(&manifest).unwrap();
    work.set_image(Some(&name(reference)), &manifest).unwrap()
}

/// How an index names an image.
pub fn entry_for(image: &Image, architecture: &str) -> Value {
    let mut descriptor = serde_json::to_value(image.descriptor()).unwrap();
    descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
    descriptor
}

/// Stores an index of images.
pub fn set_index(store: &Store, reference: &str, entries: &[Value]) -> Image {
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": entries,
    });
    let work = store.work().unwrap();
    let stored = work.ingest(index.to_string().as_bytes(), None).unwrap();
    work.set_image(Some(&name(reference)), &stored.descriptor(MediaType::ImageIndex)).unwrap()
}

pub fn save(store: &Store, names: &[&str]) -> Vec<u8> {
    let mut archive = Vec::new();
    store.save(names, &mut archive).unwrap();
    archive
}

pub fn save_to(store: &Store, names: &[&str], path: &Path) {
    store.save(names, fs::File::create(path).unwrap()).unwrap();
}
