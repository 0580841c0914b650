//! Manifests as they are in the registry.

use coracle::ErrorKind;

use crate::common::images::Skopeo;
use crate::common::registry::Registry;
use crate::common::{self, require};
use crate::fixture::{client, for_two_platforms};

#[test]
fn a_manifest_is_shown_byte_by_byte() {
    let sandbox = common::setup("manifest");
    let registry = require!(Registry::start());
    let skopeo = require!(Skopeo::new(&registry));
    let (layout, digest, manifests) = for_two_platforms(&sandbox);
    skopeo.push(layout.path(), "both", "app:1");
    let index = client().manifest(registry.name("app:1")).blocking().unwrap();
    assert_eq!(index.bytes(), skopeo.raw("app:1").unwrap());
    assert_eq!(index.digest().to_string(), digest);
    assert_eq!(index.descriptor().size(), index.bytes().len() as u64);
    assert!(index.is_index());
    let platforms: Vec<_> = index.platforms().iter().map(ToString::to_string).collect();
    assert_eq!(platforms, ["linux/amd64", "linux/arm64"]);
    for (descriptor, expected) in index.manifests().iter().zip(&manifests) {
        assert_eq!(descriptor.digest().to_string(), expected["digest"]);
        let name = registry.name(&format!("app@{}", descriptor.digest()));
        let one = client().manifest(&name).blocking().unwrap();
        assert!(!one.is_index() && one.manifests().is_empty() && one.platforms().is_empty());
        assert_eq!(one.reference().to_string(), name);
        assert_eq!(one.bytes().len() as u64, descriptor.size());
    }
    let missing = client().manifest(registry.name("app:2")).blocking().unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(format!("{missing:#}").contains("MANIFEST_UNKNOWN"), "{missing:#}");
}
