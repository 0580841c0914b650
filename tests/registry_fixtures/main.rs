//! The real parts that the tests of registries stand on: what breaks nothing, or lets everybody in, would prove nothing.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../common/mod.rs"]
mod common;
mod proxy;
mod registry;
mod relay;

use std::fs;
use std::path::Path;

use common::Sandbox;
use common::http::{Request, Response, ask};
use common::images::{Layout, MANIFEST, Packing, Skopeo, noise, tar};
use common::registry::Registry;

/// A layout with a small image of two layers, called `latest`, and its digest.
fn small(sandbox: &Sandbox) -> (Layout, String) {
    let mut layout = Layout::new(sandbox.join("layout"));
    let first = layout.layer(&tar(&[("a", b"one"), ("b/c", &noise(10_000, 1))])[..], Packing::Gzip);
    let second = layout.layer(&tar(&[("a", b"two")])[..], Packing::Plain);
    let digest = layout.image("latest", &[first, second]);
    (layout, digest)
}

/// Pushes a small image and pulls it again, with all its blobs.
fn round_trip(skopeo: &Skopeo, sandbox: &Sandbox, name: &str) {
    let (layout, digest) = small(sandbox);
    assert_eq!(skopeo.push(layout.path(), "latest", name), digest);
    let back = sandbox.join("back");
    skopeo.pull(name, &back, "latest");
    let blobs = |dir: &Path| {
        let blobs = fs::read_dir(dir.join("blobs/sha256")).unwrap().map(Result::unwrap);
        let mut blobs: Vec<_> =
            blobs.map(|blob| (blob.file_name(), fs::read(blob.path()).unwrap())).collect();
        blobs.sort();
        blobs
    };
    assert_eq!(blobs(layout.path()).len(), 4);
    assert_eq!(blobs(layout.path()), blobs(&back));
}

/// Without saying that it takes them, one gets no OCI manifests.
fn get(registry: &Registry, path: &str) -> Response {
    let request = Request::new("GET", path).with_header("Accept", MANIFEST);
    ask(registry.address(), &request).unwrap()
}

fn text(response: &Response) -> String {
    String::from_utf8(response.body.clone()).unwrap()
}
