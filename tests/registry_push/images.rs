//! Images pushed to registries in every mode are what other tools find there.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use coracle::ErrorKind;
use coracle::image::{Platform, Reference, Store};
use coracle::registry::{Credentials, Phase, Registry as Client};

use crate::common::images::{Layout, Packing, Skopeo, tar};
use crate::common::registry::Registry;
use crate::common::relay::{Fault, Rule, Seen};
use crate::common::{self, Sandbox, require};
use crate::fixture::{blobs, client, for_two_platforms, relayed, small, store};

/// Pushes the small image and fetches it with skopeo, with all its blobs.
fn round_trip(client: &Client, registry: &Registry, skopeo: &Skopeo, sandbox: &Sandbox) {
    let (layout, digest) = small(sandbox);
    let to = registry.name("team/app:1");
    let pushed = client.push(&store(&layout), "latest", &to).blocking().unwrap();
    assert_eq!(pushed.reference, to.parse::<Reference>().unwrap());
    assert_eq!(pushed.digest.to_string(), digest);
    assert_eq!(pushed.descriptor.digest().to_string(), digest);
    assert!(pushed.left_out.is_empty());
    let back = sandbox.join("back");
    skopeo.pull("team/app:1", &back, "latest");
    assert_eq!(blobs(layout.path()).len(), 4);
    assert_eq!(blobs(layout.path()), blobs(&back));
    let inspected = skopeo.inspect("team/app:1").unwrap();
    assert_eq!(inspected["Digest"], digest);
}

#[test]
fn a_plain_registry_takes_an_image_byte_by_byte() {
    let sandbox = common::setup("push-plain");
    let registry = require!(Registry::start());
    let skopeo = require!(Skopeo::new(&registry));
    round_trip(&client(), &registry, &skopeo, &sandbox);
}

#[test]
fn a_registry_with_tls_and_accounts_takes_an_image() {
    let sandbox = common::setup("push-tls");
    let registry = require!(Registry::builder().tls().htpasswd("anna", "sesame").start());
    let skopeo = require!(Skopeo::new(&registry));
    let ca = std::fs::read(registry.ca_pem()).unwrap();
    let client = Client::builder()
        .certificate_authority(ca)
        .credentials(registry.address(), Credentials::password("anna", "sesame"))
        .build()
        .unwrap();
    round_trip(&client, &registry, &skopeo, &sandbox);
}

#[test]
fn what_is_there_is_not_sent_again() {
    let sandbox = common::setup("push-again");
    let (_registry, relay) = require!(relayed());
    let (layout, digest) = small(&sandbox);
    let push = |to: &str| {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let theirs = Arc::clone(&seen);
        let push = client().push(&store(&layout), "latest", relay.name(to));
        let push = push.on_progress(move |progress| {
            theirs.lock().unwrap().push((progress.digest, progress.phase, progress.bytes));
        });
        assert_eq!(push.blocking().unwrap().digest.to_string(), digest);
        let seen = seen.lock().unwrap();
        let of = |phase: Phase| seen.iter().filter(|(_, it, _)| *it == phase).count();
        (of(Phase::Complete), of(Phase::Present))
    };
    assert_eq!(push("app:1"), (3, 0));
    let sent = relay.bytes_up(|path| path.contains("/blobs/"));
    let size: usize = blobs(layout.path()).iter().map(|(_, content)| content.len()).sum();
    let manifest = relay.bytes_up(|path| path.contains("/manifests/"));
    assert_eq!(sent + manifest, size as u64);
    let before = relay.requests().len();
    assert_eq!(push("app:2"), (0, 3));
    let again = relay.requests().split_off(before);
    let methods: Vec<_> = again.iter().map(|seen| seen.method().to_owned()).collect();
    assert_eq!(methods, ["HEAD", "HEAD", "HEAD", "PUT"]);
    assert_eq!(again[3].path(), "/v2/app/manifests/2");
}

#[test]
fn all_platforms_are_pushed_if_they_are_here() {
    let sandbox = common::setup("push-index");
    let registry = require!(Registry::start());
    let skopeo = require!(Skopeo::new(&registry));
    let (layout, digest, manifests) = for_two_platforms(&sandbox);
    let store = store(&layout);
    let pushed = client().push(&store, "both", registry.name("app:1")).blocking().unwrap();
    assert_eq!(pushed.digest.to_string(), digest);
    let back = sandbox.join("back");
    skopeo.pull("app:1", &back, "latest");
    assert_eq!(blobs(layout.path()), blobs(&back));
    // One of them alone has a name of its own then.
    let arm: Platform = "linux/arm64".parse().unwrap();
    let push = client().push(&store, "both", registry.name("arm:1")).platform(arm);
    assert_eq!(push.blocking().unwrap().digest.to_string(), manifests[1]["digest"]);
    let s390: Platform = "linux/s390x".parse().unwrap();
    let push = client().push(&store, "both", registry.name("other:1")).platform(s390);
    let err = push.blocking().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound);
    assert!(format!("{err:?}").contains("linux/amd64, linux/arm64"), "{err:?}");
}

/// A store with what a registry has for some platforms.
fn pulled(sandbox: &Sandbox, name: &str, from: &str, platforms: &[&str]) -> Store {
    let store = Store::open(sandbox.join(name)).unwrap();
    for platform in platforms {
        let pull = client().pull(from, &store).platform(platform.parse().unwrap());
        pull.blocking().unwrap();
    }
    store
}

#[test]
fn the_only_platform_that_is_here_is_pushed_and_of_several_none_is_guessed() {
    let sandbox = common::setup("push-partial");
    let registry = require!(Registry::start());
    let mut layout = Layout::new(sandbox.join("layout"));
    let manifests = ["amd64", "arm64", "s390x"].map(|architecture| {
        let tar = common::images::tar(&[("a", architecture.as_bytes())]);
        let layer = layout.layer(&tar[..], common::images::Packing::Gzip);
        layout.manifest(architecture, &[layer])
    });
    let digest = layout.index("three", &manifests);
    let from = registry.name("app:1");
    client().push(&store(&layout), "three", &from).blocking().unwrap();

    let one = pulled(&sandbox, "one", &from, &["linux/arm64"]);
    let pushed = client().push(&one, &from, registry.name("one:1")).blocking().unwrap();
    assert_eq!(pushed.digest.to_string(), manifests[1]["digest"]);
    let left_out: Vec<_> = pushed.left_out.iter().map(ToString::to_string).collect();
    assert_eq!(left_out, ["linux/amd64", "linux/s390x"]);

    let two = pulled(&sandbox, "two", &from, &["linux/arm64", "linux/amd64"]);
    let push = || client().push(&two, &from, registry.name("two:1"));
    for err in [push().blocking(), push().all_platforms().blocking()].map(Result::unwrap_err) {
        assert_eq!(err.kind(), ErrorKind::NotFound);
        let shown = format!("{err:?}");
        assert!(shown.contains("lacks") && shown.contains("linux/s390x"), "{shown}");
        assert!(shown.contains("hint: name the platform"), "{shown}");
    }
    let amd: Platform = "linux/amd64".parse().unwrap();
    let pushed = push().platform(amd).blocking().unwrap();
    assert_eq!(pushed.digest.to_string(), manifests[0]["digest"]);

    let all = Store::open(sandbox.join("all")).unwrap();
    client().pull(&from, &all).all_platforms().blocking().unwrap();
    let pushed = client().push(&all, &from, registry.name("all:1")).blocking().unwrap();
    assert_eq!(pushed.digest.to_string(), digest);
}

#[test]
fn attestations_beside_the_images_come_and_go_with_them() {
    let sandbox = common::setup("push-attested");
    let registry = require!(Registry::start());
    let mut layout = Layout::new(sandbox.join("layout"));
    let layer =
        layout.layer(&common::images::tar(&[("a", b"b")])[..], common::images::Packing::Zstd);
    let image = layout.manifest(common::images::architecture(), &[layer]);
    let statement = common::images::Layer {
        descriptor: layout.blob("application/vnd.in-toto+json", br#"{"_type":"statement"}"#),
        diff_id: format!("sha256:{}", "0".repeat(64)),
    };
    let mut attestation = layout.manifest("unknown", &[statement]);
    attestation["platform"]["os"] = "unknown".into();
    let digest = layout.index("attested", &[image, attestation]);
    let from = registry.name("app:1");
    client().push(&store(&layout), "attested", &from).blocking().unwrap();

    let there = Store::open(sandbox.join("there")).unwrap();
    client().pull(&from, &there).all_platforms().blocking().unwrap();
    assert!(there.verify().unwrap().is_sound());
    assert_eq!(blobs(layout.path()), blobs(there.path()));
    there.collect_garbage().unwrap();
    let pushed = client().push(&there, &from, registry.name("again:1")).blocking().unwrap();
    assert_eq!(pushed.digest.to_string(), digest);
    // Of one platform there is nothing beside it.
    let host = format!("linux/{}", common::images::architecture());
    let one = pulled(&sandbox, "one", &from, &[&host]);
    let pushed = client().push(&one, &from, registry.name("one:1")).blocking().unwrap();
    assert_ne!(pushed.digest.to_string(), digest);
}

#[test]
fn a_name_with_a_digest_is_that_of_one_image() {
    let sandbox = common::setup("push-digest");
    let registry = require!(Registry::start());
    let (layout, digest) = small(&sandbox);
    let store = store(&layout);
    let to = registry.name(&format!("app@{digest}"));
    client().push(&store, "latest", &to).blocking().unwrap();
    assert_eq!(client().manifest(&to).blocking().unwrap().digest().to_string(), digest);
    let other = registry.name(&format!("app@sha256:{}", "0".repeat(64)));
    let err = client().push(&store, "latest", &other).blocking().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidInput);
    assert!(format!("{err:#}").contains(&digest), "{err:#}");
}

#[test]
fn layers_that_must_not_be_passed_on_stay() {
    let sandbox = common::setup("push-foreign");
    let (_registry, relay) = require!(relayed());
    let mut layout = Layout::new(sandbox.join("layout"));
    let tar = common::images::tar(&[("a", b"b")]);
    let own = layout.layer(&tar[..], common::images::Packing::Gzip);
    let mut foreign = layout.layer(&[0; 1024][..], common::images::Packing::Gzip);
    let kept = foreign.descriptor["digest"].as_str().unwrap().to_owned();
    foreign.descriptor["mediaType"] =
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into();
    foreign.descriptor["urls"] = serde_json::json!(["https://example.com/layer"]);
    let digest = layout.image("latest", &[foreign, own]);
    for there in [true, false] {
        if !there {
            std::fs::remove_file(layout.blob_file(&kept)).unwrap();
        }
        let to = relay.name(&format!("there-{there}:1"));
        let pushed = client().push(&store(&layout), "latest", &to).blocking().unwrap();
        assert_eq!(pushed.digest.to_string(), digest);
    }
    assert!(relay.requests().iter().all(|seen| !seen.request.target.contains(&kept[7..])));
}

#[test]
fn what_the_store_does_not_have_is_not_pushed() {
    let sandbox = common::setup("push-missing");
    let (_registry, relay) = require!(relayed());
    let (layout, _) = small(&sandbox);
    let store = store(&layout);
    let push = |name: &str| client().push(&store, name, relay.name("app:1")).blocking();
    let err = push("other:1").unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound);
    assert!(format!("{err:#}").contains("no such image: other:1"), "{err:#}");
    let layer = store.image("latest").unwrap().manifest().layers()[0];
    let path = layout.blob_file(&layer.digest.to_string());
    std::fs::remove_file(path).unwrap();
    let err = push("latest").unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound);
    assert!(format!("{err:#}").contains(&layer.digest.to_string()), "{err:#}");
    assert!(client().push(&store, "latest", "no name").blocking().is_err());
    assert!(relay.requests().is_empty());
}

#[test]
fn blobs_go_side_by_side_and_no_more_than_may() {
    let sandbox = common::setup("push-side-by-side");
    let mut layout = Layout::new(sandbox.join("many"));
    let layers: Vec<_> = (0..8_u8)
        .map(|number| layout.layer(&tar(&[("a", &[number])])[..], Packing::Gzip))
        .collect();
    layout.image("latest", &layers);
    let store = store(&layout);
    for (at_once, most) in [(None, 6), (Some(2), 2), (Some(1), 1)] {
        let (_registry, relay) = require!(relayed());
        let uploads = "/v2/app/blobs/uploads/";
        let delay = Fault::Delay(Duration::from_millis(500));
        relay.rule(Rule::of("PUT", uploads).fault(delay));
        let mut push = client().push(&store, "latest", relay.name("app:1"));
        if let Some(at_once) = at_once {
            push = push.at_once(at_once);
        }
        push.blocking().unwrap();
        let sent = |seen: &Seen| seen.method() == "PUT" && seen.path().starts_with(uploads);
        assert_eq!(relay.most_at_once(sent), most);
    }
}
