//! Reaching a registry: TLS, certificates, mirrors, addresses.

use std::fs;

use coracle::ErrorKind;
use coracle::image::Store;
use coracle::registry::{Builder, Credentials, Registry};

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
    let store = Store::open(sandbox.join("store")).unwrap();
    let err = pull(Registry::builder(), &server, &store).unwrap_err();
    says(&err, ErrorKind::NotFound, &["404", "[::1]"]);
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
