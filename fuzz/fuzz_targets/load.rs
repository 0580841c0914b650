#![no_main]
//! Whatever an archive of images says, the store stays sound, and what was loaded can be saved and loaded again.

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use coracle::image::{Digest, Store};
use libfuzzer_sys::fuzz_target;
use tar::{Builder, EntryType, Header};

#[derive(Arbitrary, Debug)]
struct Archive {
    oci: bool,
    files: Vec<(Name, Content)>,
}

#[derive(Arbitrary, Debug)]
enum Name {
    Blob,
    Index,
    Layout,
    DockerManifest,
    Layer,
    Other(String),
}

#[derive(Arbitrary, Debug)]
enum Content {
    /// A document that refers to files that came before.
    Manifest { config: u8, layers: Vec<u8>, lie: Option<u32> },
    Index { manifests: Vec<u8>, name: Option<String> },
    Config { layers: Vec<u8>, history: u8 },
    DockerManifest { config: u8, layers: Vec<u8>, tags: Vec<String> },
    Layout,
    EmptyTar,
    Bytes(Vec<u8>),
}

/// What came so far: name and content.
struct Files(Vec<(String, Vec<u8>)>);

impl Files {
    fn get(&self, at: u8) -> (&str, &[u8]) {
        let found = self.0.len().checked_sub(1).map(|last| &self.0[last.min(usize::from(at))]);
        found.map_or(("none", b""), |(name, content)| (name, content))
    }

    fn descriptor(&self, at: u8, media_type: &str, lie: Option<u32>) -> serde_json::Value {
        let content = self.get(at).1;
        let size = lie.map_or(content.len() as u64, u64::from);
        serde_json::json!({ "mediaType": media_type, "digest": Digest::of(content).to_string(), "size": size })
    }

    fn content(&self, content: Content) -> Vec<u8> {
        let names = |layers: Vec<u8>| layers.into_iter().map(|at| self.get(at).0).collect::<Vec<_>>();
        let document = match content {
            Content::Manifest { config, layers, lie } => {
                let layer = |at| self.descriptor(at, "application/vnd.oci.image.layer.v1.tar", None);
                serde_json::json!({
                    "schemaVersion": 2,
                    "config": self.descriptor(config, "application/vnd.oci.image.config.v1+json", lie),
                    "layers": layers.into_iter().map(layer).collect::<Vec<_>>(),
                })
            }
            Content::Index { manifests, name } => {
                let entry = |at| {
                    let mut entry = self.descriptor(at, "application/vnd.oci.image.manifest.v1+json", None);
                    if let Some(name) = &name {
                        entry["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": name });
                    }
                    entry
                };
                let manifests = manifests.into_iter().map(entry).collect::<Vec<_>>();
                serde_json::json!({ "schemaVersion": 2, "manifests": manifests })
            }
            Content::Config { layers, history } => {
                let digests = layers.into_iter().map(|at| Digest::of(self.get(at).1).to_string());
                serde_json::json!({
                    "architecture": "amd64", "os": "linux",
                    "rootfs": { "type": "layers", "diff_ids": digests.collect::<Vec<_>>() },
                    "history": vec![serde_json::json!({ "created_by": "x" }); usize::from(history % 4)],
                })
            }
            Content::DockerManifest { config, layers, tags } => serde_json::json!([
                { "Config": self.get(config).0, "Layers": names(layers), "RepoTags": tags }
            ]),
            Content::Layout => serde_json::json!({ "imageLayoutVersion": "1.0.0" }),
            Content::EmptyTar => return vec![0; 1024],
            Content::Bytes(bytes) => return bytes,
        };
        document.to_string().into_bytes()
    }
}

fn bytes(archive: Archive) -> Vec<u8> {
    let mut files = Files(Vec::new());
    if archive.oci {
        files.0.push(("oci-layout".to_owned(), files.content(Content::Layout)));
    }
    for (name, content) in archive.files {
        let content = files.content(content);
        let name = match name {
            Name::Blob => format!("blobs/sha256/{}", Digest::of(&content).hex()),
            Name::Index => "index.json".to_owned(),
            Name::Layout => "oci-layout".to_owned(),
            Name::DockerManifest => "manifest.json".to_owned(),
            Name::Layer => format!("{}/layer.tar", files.0.len()),
            Name::Other(name) => name,
        };
        files.0.push((name, content));
    }
    let mut builder = Builder::new(Vec::new());
    for (name, content) in &files.0 {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        if builder.append_data(&mut header, name, content.as_slice()).is_err() {
            header.set_cksum();
            builder.append(&header, content.as_slice()).expect("write to memory");
        }
    }
    builder.into_inner().expect("write to memory")
}

fuzz_target!(|archive: Archive| {
    static STORE: LazyLock<(tempfile::TempDir, Store)> = LazyLock::new(|| {
        let dir = tempfile::tempdir_in("/dev/shm").expect("make a directory");
        let store = Store::open(dir.path()).expect("open a store");
        (dir, store)
    });
    let store = &STORE.1;
    let bytes = bytes(archive);
    let Ok(loaded) = store.load(bytes.as_slice()) else { return };
    assert!(store.verify().expect("verify the store").is_sound());
    for loaded in loaded {
        let mut saved = Vec::new();
        let name = loaded.image.id().to_string();
        store.save([name.as_str()], &mut saved).expect("save what was loaded");
        let again = store.load(saved.as_slice()).expect("load what was saved");
        assert_eq!(again.len(), 1);
        store.remove_forced(&name).expect("remove the image");
    }
    store.collect_garbage().expect("collect the rest");
});
