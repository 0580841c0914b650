//! Layouts to push.

use coracle::registry::Registry as Client;
use serde_json::Value;

use crate::common::Sandbox;
use crate::common::images::{Layout, Packing, tar};

pub fn client() -> Client {
    Client::new().unwrap()
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
