//! Pulls that nobody awaits any longer, wherever they are.

use std::fs;
use std::pin::Pin;
use std::sync::{Mutex, mpsc};
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use coracle::Result;
use coracle::image::Image;

use crate::common::http::Response;
use crate::common::relay::{Fault, Rule, Seen};
use crate::common::require;
use crate::common::server::Scripted;
use crate::{LAYER, Scene, client, scene, wait_until_clean};

const MANIFESTS: &str = "/v2/app/manifests/";
const BLOBS: &str = "/v2/app/blobs/";

type Running = Pin<Box<dyn Future<Output = Result<Image>>>>;

/// Begins a pull, which then goes on by itself.
fn begin(scene: &Scene, registry: &coracle::registry::Registry) -> Running {
    let pull = registry.pull(scene.relay.name("app:1"), &scene.store);
    let mut pull: Running = Box::pin(pull.into_future());
    assert!(pull.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    pull
}

fn struck(seen: &[Seen]) -> Option<()> {
    seen.iter().find(|it| it.faulty).map(drop)
}

/// Nothing is left of the one that was broken off, and nothing is in the way of the next.
fn check_gone(scene: &Scene, registry: &coracle::registry::Registry) {
    wait_until_clean(&scene.store);
    assert!(scene.store.images().unwrap().is_empty());
    scene.relay.heal();
    scene.check(&scene.pull(registry).unwrap());
}

#[test]
fn it_ends_where_no_manifest_comes_and_where_it_is_to_wait() {
    let busy = Response::new(429).header("Retry-After", 30);
    for fault in [Fault::StallAfter(0), Fault::Respond(busy)] {
        let scene = require!(scene("cancelled-manifest"));
        let registry = client();
        scene.relay.rule(Rule::any(MANIFESTS).fault(fault));
        let pull = begin(&scene, &registry);
        scene.relay.wait_for(struck);
        drop(pull);
        check_gone(&scene, &registry);
    }
}

#[test]
fn it_ends_where_no_token_comes() {
    let scene = require!(scene("cancelled-token"));
    let registry = client();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let tokens = Scripted::start(move |_| {
        let _ = released.lock().unwrap().recv();
        Response::json("{\"token\": \"t\"}")
    });
    // Goes before the server, which waits for its answers.
    let release = release;
    let realm = format!("Bearer realm=\"http://{}/token\"", tokens.address());
    let answer = Response::new(401).header("WWW-Authenticate", realm);
    scene.relay.rule(Rule::any("/v2/").fault(Fault::Respond(answer)));
    let pull = begin(&scene, &registry);
    let end = Instant::now() + Duration::from_secs(60);
    while tokens.requests().is_empty() {
        assert!(Instant::now() < end, "no token is asked for");
        thread::yield_now();
    }
    drop(pull);
    // The next one asks for a token too: the registry wanted one.
    drop(release);
    check_gone(&scene, &registry);
}

#[test]
fn another_pull_that_waits_for_the_same_layer_fetches_it_then() {
    let scene = require!(scene("cancelled-leader"));
    let registry = client();
    scene.relay.rule(Rule::get(BLOBS).fault(Fault::StallAfter(LAYER as u64 / 2)));
    let leader = begin(&scene, &registry);
    scene.relay.wait_for(struck);
    scene.relay.heal();
    let image = thread::scope(|scope| {
        let waiter = scope.spawn(|| scene.pull(&registry));
        // It has the manifest, and cannot have the layer.
        scene.relay.wait_for(|seen| {
            let manifests = seen.iter().filter(|it| it.path().starts_with(MANIFESTS));
            manifests.filter(|it| it.ended.is_some()).nth(1).map(drop)
        });
        drop(leader);
        waiter.join().unwrap().unwrap()
    });
    wait_until_clean(&scene.store);
    scene.check(&image);
    let large = |seen: &&Seen| seen.path().starts_with(BLOBS) && seen.sent >= LAYER as u64 / 2;
    let requests = scene.relay.requests();
    assert_eq!(requests.iter().filter(large).count(), 2, "{requests:?}");
    assert!(fs::read_dir(scene.store.path().join("ingest")).unwrap().next().is_none());
}
