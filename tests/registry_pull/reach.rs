//! Reaching a registry: TLS, certificates, mirrors, addresses.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use coracle::ErrorKind;
use coracle::image::Store;
use coracle::registry::{Builder, Credentials, Registry};
use nix::sys::socket::{Backlog, listen};

use crate::common::http::Response;
use crate::common::images::{Layout, Packing, Skopeo, tar};
use crate::common::registry::Registry as Server;
use crate::common::relay::{Fault, Relay, Rule};
use crate::common::server::Scripted;
use crate::common::{Missing, Sandbox, require, setup};
use crate::{says, scene};

/// A registry with a small image, and its digest.
fn served(server: &Server) -> Result<(Sandbox, Store, String), Missing> {
    let sandbox = setup("reach");
    let mut layout = Layout::new(sandbox.join("layout"));
    let layer = layout.layer(&tar(&[("a", b"b")])[..], Packing::Gzip);
    let digest = layout.image("app:1", &[layer]);
    let mut skopeo = Skopeo::new(server)?;
    if server.client_dir().exists() {
        skopeo = skopeo.certificates(&server.client_dir());
    }
    skopeo.push(layout.path(), "app:1", "app:1");
    let store = Store::open(sandbox.join("store")).unwrap();
    Ok((sandbox, store, digest))
}

fn pull(builder: Builder, server: &Server, store: &Store) -> coracle::Result<String> {
    let image = builder.build().unwrap().pull(server.name("app:1"), store).blocking()?;
    Ok(image.digest().to_string())
}

#[test]
fn a_registry_with_a_private_authority_is_believed_if_that_is_named() {
    let server = require!(Server::builder().tls().start());
    let (_sandbox, store, digest) = require!(served(&server));
    let err = pull(Registry::builder(), &server, &store).unwrap_err();
    says(
        &err,
        ErrorKind::Unavailable,
        &["TLS", "UnknownIssuer", "certificate_authority", server.address()],
    );
    let ca = fs::read(server.ca_pem()).unwrap();
    let trusting = Registry::builder().certificate_authority(ca);
    assert_eq!(pull(trusting, &server, &store).unwrap(), digest);
}

#[test]
fn a_certificate_for_another_name_is_not_believed() {
    let server = require!(Server::builder().tls_for("DNS:elsewhere.example").start());
    let (_sandbox, store) = (setup("reach-name"), setup("reach-name-store"));
    let store = Store::open(store.join("store")).unwrap();
    let ca = fs::read(server.ca_pem()).unwrap();
    let err = pull(Registry::builder().certificate_authority(ca), &server, &store).unwrap_err();
    says(&err, ErrorKind::Unavailable, &["TLS", "another host's"]);
}

#[test]
fn a_registry_that_knows_its_users_by_certificates_is_shown_one() {
    let server = require!(Server::builder().client_certificates().start());
    let (_sandbox, store, digest) = require!(served(&server));
    let trusting = || Registry::builder().certificate_authority(fs::read(server.ca_pem()).unwrap());
    let err = pull(trusting(), &server, &store).unwrap_err();
    says(&err, ErrorKind::Unavailable, &["client_certificate"]);
    let (chain, key) =
        (fs::read(server.client_certificate()).unwrap(), fs::read(server.client_key()).unwrap());
    let known = trusting().client_certificate(server.address(), chain, key.clone());
    assert!(!format!("{known:?}").contains(&format!("{key:?}")));
    assert_eq!(pull(known, &server, &store).unwrap(), digest);
}

#[test]
fn a_registry_without_tls_that_is_not_of_this_machine_must_be_allowed_by_name() {
    // As a proxy it sees what would go there.
    let proxy = Scripted::start(|_| Response::new(404));
    let (sandbox, name) = (setup("reach-plain"), "registry.example:5000/app:1");
    let store = Store::open(sandbox.join("store")).unwrap();
    let through = || Registry::builder().proxy(proxy.url()).retries(0);
    let asked = |builder: Builder| {
        let err = builder.build().unwrap().pull(name, &store).blocking().unwrap_err();
        says(&err, err.kind(), &["registry.example:5000"]);
        proxy.requests().pop().unwrap().method
    };
    assert_eq!(asked(through()), "CONNECT");
    assert_eq!(asked(through().plain_http("registry.example")), "CONNECT");
    assert_eq!(asked(through().plain_http("registry.example:5000")), "GET");
}

#[test]
fn an_address_of_version_6_is_one_too() {
    let server = require!(Server::builder().ipv6().start());
    let sandbox = setup("reach-6");
    let empty = Store::open(sandbox.join("store")).unwrap();
    let err = pull(Registry::builder(), &server, &empty).unwrap_err();
    says(&err, ErrorKind::NotFound, &["404", "[::1]"]);
    // No other tool that we have takes such a name.
    let mut layout = Layout::new(sandbox.join("layout"));
    let layer = layout.layer(&tar(&[("a", b"b")])[..], Packing::Gzip);
    let digest = layout.image("app:1", &[layer]);
    let (registry, source) = (Registry::new().unwrap(), Store::open(layout.path()).unwrap());
    registry.push(&source, "app:1", server.name("app:1")).blocking().unwrap();
    assert_eq!(pull(Registry::builder(), &server, &empty).unwrap(), digest);
}

#[test]
fn a_certificate_whose_time_is_over_is_not_believed() {
    let server = require!(Server::builder().expired().start());
    let sandbox = setup("reach-expired");
    let store = Store::open(sandbox.join("store")).unwrap();
    let ca = fs::read(server.ca_pem()).unwrap();
    let err = pull(Registry::builder().certificate_authority(ca), &server, &store).unwrap_err();
    says(&err, ErrorKind::Unavailable, &["TLS", "has expired", server.address()]);
}

#[test]
fn a_registry_that_is_wrongly_believed_to_speak_tls_is_told() {
    let server = require!(Server::start());
    let sandbox = setup("reach-no-tls");
    let store = Store::open(sandbox.join("store")).unwrap();
    // By this address it is reached, and is none of this machine.
    let address = server.address().replace("127.0.0.1", "0.0.0.0");
    let registry = Registry::builder().no_proxy().build().unwrap();
    let err = registry.pull(format!("{address}/app:1"), &store).blocking().unwrap_err();
    says(&err, ErrorKind::Unavailable, &["does not seem to speak TLS", "plain_http", &address]);
}

#[test]
fn a_connection_that_is_not_made_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // It accepts nobody, and its queue is as short as can be: those who come later are not answered.
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let soon = Duration::from_millis(200);
    let mut queue = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, soon) {
        queue.push(stream);
        assert!(queue.len() < 100, "the queue has no end");
    }
    let sandbox = setup("reach-silent");
    let store = Store::open(sandbox.join("store")).unwrap();
    let registry = Registry::builder().connect_timeout(soon).retries(0).build().unwrap();
    let start = Instant::now();
    let err = registry.pull(format!("{address}/app:1"), &store).blocking().unwrap_err();
    // Those 15 s that are the rule would be twice as many: without TLS and with it.
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    says(&err, ErrorKind::TimedOut, &["connect_timeout", &address.to_string()]);
}

#[test]
fn a_mirror_is_asked_first_and_the_registry_if_it_fails() {
    let scene = require!(scene("reach-mirror"));
    let mirror = require!(Server::builder().mirror(&scene.server).start());
    let mirror = Relay::start(mirror.address());
    let through = || {
        Registry::builder()
            .mirror(scene.relay.address(), mirror.address())
            .credentials(scene.relay.address(), Credentials::password("anna", "hunter2"))
            .retries(1)
            .build()
            .unwrap()
    };
    scene.check(&scene.pull(&through()).unwrap());
    assert_eq!(scene.relay.requests().len(), 0, "the mirror has it all");
    assert!(mirror.requests().iter().all(|it| it.header("Authorization").is_none()));

    for fault in [Fault::HangUp, Fault::CorruptAt(50)] {
        let other = require!(crate::scene("reach-mirror-broken"));
        mirror.heal();
        mirror.rule(Rule::any("/v2/").fault(fault));
        let through = Registry::builder()
            .mirror(other.relay.address(), mirror.address())
            .retries(1)
            .build()
            .unwrap();
        other.check(&other.pull(&through).unwrap());
        assert_ne!(other.relay.requests().len(), 0);
    }
}

#[test]
fn a_mirror_that_is_gone_is_passed_over() {
    let scene = require!(scene("reach-mirror-gone"));
    let through = Registry::builder().mirror(scene.relay.address(), "127.0.0.1:1").build().unwrap();
    scene.check(&scene.pull(&through).unwrap());
}

#[test]
fn what_a_mirror_lacks_the_registry_gives() {
    let scene = require!(scene("reach-mirror-lacks"));
    let empty = require!(Server::start());
    let mirror = Relay::start(empty.address());
    let through = Registry::builder().mirror(scene.relay.address(), mirror.address());
    scene.check(&scene.pull(&through.build().unwrap()).unwrap());
    assert!(mirror.requests().iter().any(|it| it.status == Some(404)));
}

#[test]
fn what_a_mirror_began_the_registry_completes() {
    let scene = require!(scene("reach-mirror-breaks"));
    let mirror = Relay::start(scene.server.address());
    let blobs = "/v2/app/blobs/";
    let fresh = Rule::get(blobs).when(|request| request.header("Range").is_none());
    mirror.rule(fresh.fault(Fault::CutAfter(500_000)));
    mirror.rule(Rule::get(blobs).fault(Fault::HangUp));
    let through = Registry::builder().mirror(scene.relay.address(), mirror.address()).retries(1);
    scene.check(&scene.pull(&through.build().unwrap()).unwrap());
    let asked = scene.relay.requests();
    let asked: Vec<_> = asked.iter().filter(|it| it.path().starts_with(blobs)).collect();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].header("Range"), Some("bytes=500000-"));
    let sent = [&mirror, &scene.relay].map(|it| it.bytes_down(|path| path.starts_with(blobs)));
    let manifest = scene.sandbox.join("layout/blobs/sha256").join(&scene.digest[7..]);
    let manifest = fs::metadata(manifest).unwrap().len();
    assert_eq!(sent.iter().sum::<u64>(), scene.bytes() - manifest, "fetched twice");
}

#[test]
fn certificates_and_proxies_that_are_none_are_refused() {
    let err = Registry::builder().certificate_authority("nonsense").build().unwrap_err();
    says(&err, ErrorKind::InvalidInput, &["trust a certificate authority", "PEM"]);
    let err = Registry::builder().client_certificate("host", "x", "y").build().unwrap_err();
    says(&err, ErrorKind::InvalidInput, &["host", "PEM"]);
    let sandbox = setup("reach-proxy");
    let store = Store::open(sandbox.join("store")).unwrap();
    let proxied = Registry::builder().proxy("http://u:secret@[nonsense").build().unwrap();
    let err = proxied.pull("127.0.0.1:1/app", &store).blocking().unwrap_err();
    says(&err, ErrorKind::InvalidInput, &["proxy"]);
    assert!(!format!("{err:?}").contains("secret"), "{err:?}");
}
