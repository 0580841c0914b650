//! Pushes past connections that break and registries that fail, and out of stores that are damaged.

use std::fs;
use std::future::IntoFuture;
use std::io::Read;
use std::time::Duration;

use coracle::ErrorKind;
use coracle::image::Store;
use coracle::registry::{Credentials, Registry as Client};

use crate::common::http::Response;
use crate::common::images::{Layout, Packing, Skopeo};
use crate::common::registry::Registry;
use crate::common::relay::{Fault, Relay, Rule};
use crate::common::server::Scripted;
use crate::common::tokens::TokenServer;
use crate::common::{self, require};
use crate::fixture::{blobs, client, growth, relayed, small, store};

const UPLOADS: &str = "/v2/app/blobs/uploads/";

/// That everything of the small image has arrived.
fn arrived(registry: &Registry, layout: &Layout, back: &std::path::Path) {
    Skopeo::new(registry).unwrap().pull("app:1", back, "latest");
    assert_eq!(blobs(layout.path()), blobs(back));
}

#[test]
fn uploads_that_are_cut_begin_anew() {
    require!(common::program("skopeo"));
    for bytes in [0, 1, 100_000, 300_000] {
        let sandbox = common::setup("push-cut");
        let (registry, relay) = require!(relayed());
        let (layout, _) = small(&sandbox);
        let is_large = |request: &crate::common::http::Request| {
            request.header("Content-Length").is_some_and(|it| it.len() > 5)
        };
        let cut = Rule::of("PUT", UPLOADS).when(is_large).times(2);
        relay.rule(cut.fault(Fault::CutUploadAfter(bytes)));
        client().push(&store(&layout), "latest", relay.name("app:1")).blocking().unwrap();
        arrived(&registry, &layout, &sandbox.join("back"));
        let cut = relay.requests().iter().filter(|seen| seen.faulty).count();
        assert_eq!(cut, 2);
    }
}

#[test]
fn failures_that_pass_are_waited_for() {
    require!(common::program("skopeo"));
    let sandbox = common::setup("push-500");
    let (registry, relay) = require!(relayed());
    let (layout, _) = small(&sandbox);
    for (method, path) in
        [("POST", UPLOADS), ("PUT", UPLOADS), ("PUT", "/v2/app/manifests/"), ("HEAD", "/v2/app/")]
    {
        for fault in [Fault::Respond(Response::new(503)), Fault::HangUp] {
            relay.rule(Rule::of(method, path).times(1).fault(fault));
        }
    }
    client().push(&store(&layout), "latest", relay.name("app:1")).blocking().unwrap();
    arrived(&registry, &layout, &sandbox.join("back"));
    assert_eq!(relay.requests().iter().filter(|seen| seen.faulty).count(), 8);
}

#[test]
fn a_registry_that_wants_to_be_left_alone_is_for_as_long_as_it_says() {
    let sandbox = common::setup("push-429");
    let (_registry, relay) = require!(relayed());
    let (layout, _) = small(&sandbox);
    let store = store(&layout);
    let busy = |seconds: u32| {
        let answer = Response::json(r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow"}]}"#);
        Fault::Respond(answer.status(429).header("Retry-After", seconds))
    };
    relay.rule(Rule::of("PUT", UPLOADS).times(1).fault(busy(1)));
    client().push(&store, "latest", relay.name("app:1")).at_once(1).blocking().unwrap();
    let requests = relay.requests();
    let refused = requests.iter().position(|seen| seen.faulty).unwrap();
    let waited = requests[refused + 1].started - requests[refused].ended.unwrap();
    assert!(waited >= Duration::from_secs(1), "{waited:?}");
    relay.rule(Rule::of("PUT", "/v2/app/manifests/").fault(busy(3600)));
    let err = client().push(&store, "latest", relay.name("app:2")).blocking().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ResourceExhausted);
    let shown = format!("{err:?}");
    println!("{shown}");
    assert!(shown.contains("slow") && shown.contains("hint: it asks to be left alone"), "{shown}");
}

#[test]
fn a_token_that_ends_midway_is_replaced() {
    require!(common::program("skopeo"));
    let sandbox = common::setup("push-401");
    let tokens = require!(TokenServer::start());
    tokens.user("anna", "sesame");
    let registry = require!(Registry::builder().tokens(&tokens).start());
    let relay = Relay::start(registry.address());
    let (layout, digest) = small(&sandbox);
    for (method, path) in [("POST", UPLOADS), ("PUT", UPLOADS), ("PUT", "/v2/app/manifests/")] {
        let stale = Fault::edit_request(|request| {
            request.headers.set("Authorization", "Bearer of.something.stale");
        });
        relay.rule(Rule::of(method, path).times(1).fault(stale));
    }
    let credentials = Credentials::password("anna", "sesame");
    let anna = Client::builder().credentials(relay.address(), credentials).build().unwrap();
    anna.push(&store(&layout), "latest", relay.name("app:1")).blocking().unwrap();
    let skopeo = Skopeo::new(&registry).unwrap().user("anna", "sesame");
    assert_eq!(skopeo.inspect("app:1").unwrap()["Digest"], digest);
    let refused = relay.requests().iter().filter(|it| it.faulty).count();
    assert_eq!((refused, tokens.requests().len() > 1), (3, true));
}

/// What was sent to a server that is none of the registry's.
#[track_caller]
fn no_secrets(elsewhere: &Scripted, layout: &Layout) {
    let requests = elsewhere.requests();
    assert!(!requests.is_empty());
    for request in &requests {
        assert_eq!(request.header("Authorization"), None);
        assert_eq!(request.header("Cookie"), None);
    }
    // It was led there, so it gets what it was promised.
    let sent = blobs(layout.path());
    assert!(requests.iter().any(|it| sent.iter().any(|(_, content)| *content == it.body)));
}

#[test]
fn credentials_do_not_follow_an_upload_elsewhere() {
    let sandbox = common::setup("push-elsewhere");
    let registry = require!(Registry::builder().htpasswd("anna", "sesame").start());
    let relay = Relay::start(registry.address());
    let (layout, _) = small(&sandbox);
    let credentials = Credentials::password("anna", "sesame");
    let anna = Client::builder().credentials(relay.address(), credentials).build().unwrap();
    let push = || anna.push(&store(&layout), "latest", relay.name("app:1")).blocking();

    let elsewhere = Scripted::start(|_| Response::new(201));
    let lead = Response::redirect(307, format!("{}/there", elsewhere.url()));
    relay.rule(Rule::of("PUT", UPLOADS).fault(Fault::Respond(lead)));
    // It never comes back to the registry.
    let err = push().unwrap_err();
    println!("{err:?}");
    assert!(format!("{err:#}").contains("BLOB_UNKNOWN"), "{err:#}");
    no_secrets(&elsewhere, &layout);

    relay.heal();
    let elsewhere = Scripted::start(|_| Response::new(201));
    let there = format!("{}/there?id=1", elsewhere.url());
    let edit = Fault::edit_head(move |head| head.headers.set("Location", &there));
    relay.rule(Rule::of("POST", UPLOADS).fault(edit));
    push().unwrap_err();
    no_secrets(&elsewhere, &layout);
    assert!(elsewhere.requests().iter().all(|it| it.query("id") == ["1"]));
    assert!(relay.requests().iter().any(|it| it.header("Authorization").is_some()));
}

#[test]
fn a_registry_that_stores_something_else_is_not_believed() {
    let sandbox = common::setup("push-wrong");
    let (_registry, relay) = require!(relayed());
    let (layout, digest) = small(&sandbox);
    let other = format!("sha256:{}", "1".repeat(64));
    for prefix in [UPLOADS, "/v2/app/manifests/"] {
        let other = other.clone();
        let edit = Fault::edit_head(move |head| head.headers.set("Docker-Content-Digest", &other));
        relay.rule(Rule::of("PUT", prefix).fault(edit));
        let push = client().push(&store(&layout), "latest", relay.name("app:1"));
        let err = push.blocking().unwrap_err();
        relay.heal();
        assert_eq!(err.kind(), ErrorKind::Malformed);
        println!("{err:?}\n");
        assert!(format!("{err:#}").contains("1111"), "{err:#}");
    }
    client().push(&store(&layout), "latest", relay.name("app:1")).blocking().unwrap();
    let found = client().manifest(relay.name("app:1")).blocking().unwrap();
    assert_eq!(found.digest().to_string(), digest);
}

#[test]
fn a_damaged_blob_is_named_and_does_not_get_there() {
    let sandbox = common::setup("push-damaged");
    let (registry, relay) = require!(relayed());
    let (layout, _) = small(&sandbox);
    let store = store(&layout);
    let layer = store.image("latest").unwrap().manifest().layers()[0];
    let digest = layer.digest.to_string();
    let path = layout.blob_file(&digest);
    let good = fs::read(&path).unwrap();
    for at in [0, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, bad).unwrap();
        let err = client().push(&store, "latest", relay.name("app:1")).blocking().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Malformed, "{err:?}");
        let shown = format!("{err:?}");
        assert!(shown.contains(&format!("the blob {digest} is damaged")), "{shown}");
        assert!(!registry.blob_file(&digest).exists());
    }
    fs::write(&path, &good[..good.len() - 1]).unwrap();
    let err = client().push(&store, "latest", relay.name("app:1")).blocking().unwrap_err();
    assert!(format!("{err:#}").contains("is truncated"), "{err:#}");
    assert!(!relay.requests().iter().any(|it| it.path().contains("/manifests/")));
    fs::write(&path, good).unwrap();
    client().push(&store, "latest", relay.name("app:1")).blocking().unwrap();
}

#[test]
fn a_registry_that_does_not_answer_is_given_up() {
    let sandbox = common::setup("push-stall");
    let (_registry, relay) = require!(relayed());
    let (layout, _) = small(&sandbox);
    let brief = Client::builder().read_timeout(Duration::from_millis(300)).retries(1);
    let brief = brief.build().unwrap();
    relay.rule(Rule::of("PUT", UPLOADS).fault(Fault::Delay(Duration::from_secs(3600))));
    let err = brief.push(&store(&layout), "latest", relay.name("app:1")).blocking().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::TimedOut, "{err:?}");
    println!("{err:?}");
}

#[test]
fn broken_off_at_any_moment_the_registry_shows_the_image_or_nothing() {
    let sandbox = common::setup("push-cancelled");
    let (_registry, relay) = require!(relayed());
    let (layout, digest) = small(&sandbox);
    let store = store(&layout);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    // Each of three blobs is looked for, begun and sent; then comes the manifest.
    for requests in 0..=10 {
        for bytes in [0, 1, 200_000] {
            let name = relay.name(&format!("app-{requests}-{bytes}:1"));
            let before = relay.requests().len();
            let running = client().push(&store, "latest", &name).into_future();
            let running = runtime.spawn(running);
            relay.wait_for(|seen| {
                let seen = &seen[before..];
                let enough = seen.iter().any(|it| it.received >= bytes);
                (seen.len() >= requests && (enough || requests < 7)).then_some(())
            });
            running.abort();
            let whole = runtime.block_on(running).is_ok_and(|pushed| pushed.is_ok());
            match client().manifest(&name).blocking() {
                Ok(manifest) => {
                    assert_eq!(manifest.digest().to_string(), digest);
                    let pulled = sandbox.join(format!("pulled-{requests}-{bytes}"));
                    let pulled = Store::open(pulled).unwrap();
                    client().pull(&name, &pulled).unpack(false).blocking().unwrap();
                }
                Err(err) => assert!(!whole && err.kind() == ErrorKind::NotFound, "{err:?}"),
            }
            client().push(&store, "latest", &name).blocking().unwrap();
        }
    }
}

#[test]
fn long_blobs_are_never_whole_in_memory() {
    common::alone(|| {
        let sandbox = common::setup("push-memory");
        let registry = require!(Registry::start());
        let mut layout = Layout::new(sandbox.join("layout"));
        let long = 200 << 20;
        let layers =
            [1, 2, 3].map(|byte| layout.layer(std::io::repeat(byte).take(long), Packing::Plain));
        layout.image("latest", &layers);
        let grown = growth(|| {
            let push = client().push(&store(&layout), "latest", registry.name("app:1"));
            push.blocking().unwrap();
        });
        println!("{grown} KiB more");
        assert!(grown < 48 << 10, "{grown} KiB more");
    });
}

#[test]
fn errors_say_where_and_why() {
    let sandbox = common::setup("push-errors");
    let (layout, _) = small(&sandbox);
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let push = |to: String| client().push(&store(&layout), "latest", to).blocking().unwrap_err();
    let err = push(format!("{nobody}/app:1"));
    assert_eq!(err.kind(), ErrorKind::Unavailable, "{err:?}");
    println!("{err:?}\n");
    let web = Scripted::start(|_| Response::html("<html>hello</html>").status(405));
    let err = push(format!("{}/app:1", web.address()));
    println!("{err:?}\n");
    assert_eq!(err.kind(), ErrorKind::Malformed, "{err:?}");
    let registry = require!(Registry::start());
    let mirror = require!(Registry::builder().mirror(&registry).start());
    let err = push(mirror.name("app:1"));
    println!("{err:?}\n");
    assert!(format!("{err:#}").contains("UNSUPPORTED"), "{err:#}");
}
