//! Copies from registry to registry.

use std::fs;

use coracle::ErrorKind;
use coracle::image::Platform;
use coracle::registry::{Artifact, Credentials, Registry as Client};

use crate::common::images::{Layout, Packing, Skopeo, noise, tar};
use crate::common::registry::Registry;
use crate::common::relay::{Fault, Relay, Rule};
use crate::common::{self, Missing, Sandbox, require};
use crate::fixture::{blobs, client, for_two_platforms, relayed, small, store};

/// Two registries behind relays.
struct Pair {
    _source: Registry,
    target: Registry,
    from: Relay,
    to: Relay,
}

fn pair() -> Result<Pair, Missing> {
    let ((source, from), (target, to)) = (relayed()?, relayed()?);
    Ok(Pair { _source: source, target, from, to })
}

#[test]
fn an_index_is_copied_with_all_that_it_names() {
    let sandbox = common::setup("copy");
    let Pair { _source, target, from, to } = require!(pair());
    let skopeo = require!(Skopeo::new(&target));
    let (layout, digest, manifests) = for_two_platforms(&sandbox);
    client().push(&store(&layout), "both", from.name("app:1")).blocking().unwrap();
    let (there, here) = (to.name("team/copy:2"), from.name("app:1"));
    let copied = client().copy(&here, &there).blocking().unwrap();
    assert_eq!(copied.digest.to_string(), digest);
    assert_eq!(copied.reference.to_string(), there);
    let back = sandbox.join("back");
    skopeo.pull("team/copy:2", &back, "latest");
    assert_eq!(blobs(layout.path()), blobs(&back));

    // What the target has is neither sent nor fetched.
    let (sent, fetched) = (to.requests().len(), from.requests().len());
    client().copy(&here, to.name("team/copy:3")).blocking().unwrap();
    let again = to.requests().split_off(sent);
    assert!(again.iter().all(|it| it.method() == "HEAD" || it.path().contains("/manifests/")));
    let fetched = from.requests().split_off(fetched);
    assert!(fetched.iter().all(|it| it.path().contains("/manifests/")));

    let arm: Platform = "linux/arm64".parse().unwrap();
    let one = client().copy(&here, to.name("arm:1")).platform(arm).blocking().unwrap();
    assert_eq!(one.digest.to_string(), manifests[1]["digest"]);
    assert_eq!(skopeo.inspect("arm:1").unwrap()["Architecture"], "arm64");
    let none: Platform = "linux/riscv64".parse().unwrap();
    let err = client().copy(&here, to.name("none:1")).platform(none).blocking().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound, "{err:?}");
}

#[test]
fn within_a_registry_nothing_is_transferred() {
    let sandbox = common::setup("copy-within");
    let (_registry, relay) = require!(relayed());
    let (layout, digest) = small(&sandbox);
    client().push(&store(&layout), "latest", relay.name("one:1")).blocking().unwrap();
    let before = relay.requests().len();
    for to in ["two:1", "one:2"] {
        let copied = client().copy(relay.name("one:1"), relay.name(to)).blocking().unwrap();
        assert_eq!(copied.digest.to_string(), digest);
    }
    let requests = relay.requests().split_off(before);
    let of = |method: &str| requests.iter().filter(|it| it.method() == method).count();
    assert_eq!((of("POST"), of("PUT")), (3, 2));
    assert!(requests.iter().all(|it| it.method() != "GET" || it.path().contains("/manifests/")));
    assert!(client().manifest(relay.name("two:1")).blocking().is_ok());
}

#[test]
fn each_registry_gets_its_own_credentials() {
    let sandbox = common::setup("copy-accounts");
    let source = require!(Registry::builder().htpasswd("anna", "sesame").start());
    let target = require!(Registry::builder().htpasswd("bert", "poppy").start());
    let (from, to) = (Relay::start(source.address()), Relay::start(target.address()));
    let (layout, digest) = small(&sandbox);
    let client = Client::builder()
        .credentials(from.address(), Credentials::password("anna", "sesame"))
        .credentials(to.address(), Credentials::password("bert", "poppy"))
        .build()
        .unwrap();
    client.push(&store(&layout), "latest", from.name("app:1")).blocking().unwrap();
    let copied = client.copy(from.name("app:1"), to.name("app:1")).blocking().unwrap();
    assert_eq!(copied.digest.to_string(), digest);
    let sent = |relay: &Relay| {
        let requests = relay.requests();
        let mut all: Vec<_> = requests
            .iter()
            .filter_map(|it| it.header("Authorization"))
            .map(str::to_owned)
            .collect();
        all.sort();
        all.dedup();
        all
    };
    assert_eq!(sent(&from).len(), 1);
    assert_eq!(sent(&to).len(), 1);
    assert_ne!(sent(&from), sent(&to));
}

/// An image with a layer that takes a while.
fn long(sandbox: &Sandbox) -> Layout {
    let mut layout = Layout::new(sandbox.join("layout"));
    let layer = layout.layer(&tar(&[("a", &noise(5 << 20, 3))])[..], Packing::Plain);
    layout.image("latest", &[layer]);
    layout
}

#[test]
fn cuts_on_either_side_are_got_over() {
    let sandbox = common::setup("copy-cut");
    let Pair { _source, target, from, to } = require!(pair());
    let skopeo = require!(Skopeo::new(&target));
    let layout = long(&sandbox);
    client().push(&store(&layout), "latest", from.name("app:1")).blocking().unwrap();
    from.rule(Rule::get("/v2/app/blobs/").fault(Fault::CutAfter(2 << 20)));
    let long = |request: &common::http::Request| {
        request.header("Content-Length").is_some_and(|it| it.len() > 6)
    };
    let cut = Rule::of("PUT", "/v2/copy/blobs/").when(long).times(1);
    to.rule(cut.fault(Fault::CutUploadAfter(3 << 20)));
    client().copy(from.name("app:1"), to.name("copy:1")).blocking().unwrap();
    assert!(to.requests().iter().any(|it| it.faulty));
    assert!(from.requests().iter().filter(|it| it.header("Range").is_some()).count() >= 3);
    skopeo.pull("copy:1", &sandbox.join("back"), "latest");
    assert_eq!(blobs(layout.path()), blobs(&sandbox.join("back")));
}

#[test]
fn what_is_wrong_at_the_source_does_not_reach_the_target() {
    let sandbox = common::setup("copy-damaged");
    let Pair { _source: source, target, from, to } = require!(pair());
    let layout = long(&sandbox);
    client().push(&store(&layout), "latest", from.name("app:1")).blocking().unwrap();
    let copy = || client().copy(from.name("app:1"), to.name("copy:1")).blocking();
    let layer = store(&layout).image("latest").unwrap().manifest().layers()[0];
    let digest = layer.digest.to_string();

    from.rule(Rule::get(&format!("/v2/app/blobs/{digest}")).fault(Fault::CorruptAt(4_000_000)));
    let err = copy().unwrap_err();
    println!("{err:?}\n");
    assert_eq!(err.kind(), ErrorKind::Malformed, "{err:?}");
    assert!(format!("{err:#}").contains(&format!("the blob {digest} is damaged")), "{err:#}");
    from.heal();
    let gone = source.blob_file(&digest);
    let kept = fs::read(&gone).unwrap();
    fs::remove_file(&gone).unwrap();
    let err = copy().unwrap_err();
    println!("{err:?}\n");
    assert!(format!("{err:#}").contains(&digest), "{err:#}");
    assert!(!target.blob_file(&digest).exists());
    assert!(client().manifest(to.name("copy:1")).blocking().is_err());
    fs::write(&gone, kept).unwrap();
    let err = client().copy(from.name("app:9"), to.name("copy:1")).blocking().unwrap_err();
    println!("{err:?}\n");
    assert_eq!(err.kind(), ErrorKind::NotFound, "{err:?}");
    let nowhere = client().copy(from.name("app:1"), "no name").blocking();
    assert_eq!(nowhere.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn an_artifact_is_copied_too() {
    let Pair { _source, target: _target, from, to } = require!(pair());
    let artifact = Artifact::new("application/vnd.example").blob("text/plain", *b"hello");
    let pushed = client().push_artifact(from.name("thing:1"), artifact).blocking().unwrap();
    let copied = client().copy(from.name("thing:1"), to.name("thing:1")).blocking().unwrap();
    assert_eq!(copied.digest, pushed.digest);
    let there = client().manifest(to.name("thing:1")).blocking().unwrap();
    assert_eq!(there.digest(), pushed.digest);
}

#[test]
fn a_copy_is_never_whole_in_memory() {
    common::alone(|| {
        let sandbox = common::setup("copy-memory");
        let Pair { _source, target: _target, from, to } = require!(pair());
        let mut layout = Layout::new(sandbox.join("layout"));
        let layer =
            layout.layer(std::io::Read::take(std::io::repeat(7), 200 << 20), Packing::Plain);
        layout.image("latest", &[layer]);
        client().push(&store(&layout), "latest", from.name("app:1")).blocking().unwrap();
        let grown = crate::fixture::growth(|| {
            client().copy(from.name("app:1"), to.name("app:1")).blocking().unwrap();
        });
        println!("{grown} KiB more");
        assert!(grown < 48 << 10, "{grown} KiB more");
    });
}
