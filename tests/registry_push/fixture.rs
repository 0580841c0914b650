//! Layouts, registries and relays to push between.

use std::fs;
use std::path::Path;

use coracle::image::Store;
use coracle::registry::Registry as Client;
use serde_json::Value;

use crate::common::images::{Layout, Packing, noise, tar};
use crate::common::registry::Registry;
use crate::common::relay::Relay;
use crate::common::{Missing, Sandbox};

/// A plain registry behind a relay.
pub fn relayed() -> Result<(Registry, Relay), Missing> {
    let registry = Registry::start()?;
    let relay = Relay::start(registry.address());
    Ok((registry, relay))
}

pub fn client() -> Client {
    Client::new().unwrap()
}

/// A layout with the image `latest`: a layer of some hundred KB, and a small one.
pub fn small(sandbox: &Sandbox) -> (Layout, String) {
    let mut layout = Layout::new(sandbox.join("layout"));
    let first =
        layout.layer(&tar(&[("a", b"one"), ("b/c", &noise(300_000, 1))])[..], Packing::Gzip);
    let second = layout.layer(&tar(&[("a", b"two")])[..], Packing::Plain);
    let digest = layout.image("latest", &[first, second]);
    (layout, digest)
}

/// A layout with the index `both`, of images for two platforms that share a layer.
pub fn for_two_platforms(sandbox: &Sandbox) -> (Layout, String, Vec<Value>) {
    let mut layout = Layout::new(sandbox.join("layout"));
    let shared = layout.layer(&tar(&[("shared", b"by both")])[..], Packing::Zstd);
    let manifest = |architecture: &str| {
        let own = tar(&[("architecture", architecture.as_bytes())]);
        let own = layout.layer(&own[..], Packing::Gzip);
        layout.manifest(architecture, &[shared.clone(), own])
    };
    let manifests = ["amd64", "arm64"].map(manifest).to_vec();
    let digest = layout.index("both", &manifests);
    (layout, digest, manifests)
}

/// The layout as a store, which it becomes; its names are read as those of images of docker.io.
pub fn store(layout: &Layout) -> Store {
    Store::open(layout.path()).unwrap()
}

/// The names and contents of all blobs in a layout.
pub fn blobs(layout: &Path) -> Vec<(String, Vec<u8>)> {
    let blobs = fs::read_dir(layout.join("blobs/sha256")).unwrap().map(Result::unwrap);
    let mut blobs: Vec<_> = blobs
        .map(|blob| (blob.file_name().into_string().unwrap(), fs::read(blob.path()).unwrap()))
        .collect();
    blobs.sort();
    blobs
}

/// By how many KiB this process grows meanwhile, at the most.
pub fn growth(run: impl FnOnce()) -> u64 {
    let peak = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = peak();
    run();
    peak() - before
}
