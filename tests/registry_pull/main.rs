//! Images from real registries, through all that can go wrong on the way.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod auth;
mod cancelled;
#[path = "../common/mod.rs"]
mod common;
mod embedding;
mod faults;
mod hostile;
mod peers;
mod reach;
mod whole;

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::http::Response;
use common::images::{INDEX, Layout, Packing, Skopeo, noise, tar};
use common::registry::Registry as Server;
use common::relay::{Fault, Relay, Rule};
use common::{
    Missing, Sandbox, require, setup, setup_in_memory, stacks_in_memory, user_namespaces,
};
use coracle::image::{Image, Store};
use coracle::namespaces::Command;
use coracle::registry::{Phase, Progress, Registry};
use coracle::{Error, ErrorKind};
use serde_json::json;

/// A registry with the image `app:1` of two layers, a relay before it and a store to pull into.
struct Scene {
    server: Server,
    relay: Relay,
    store: Store,
    sandbox: Sandbox,
    /// The digest of `app:1`.
    digest: String,
}

/// Longer than what passes at once.
const LAYER: usize = 3_000_000;

fn scene(name: &str) -> Result<Scene, Missing> {
    let server = Server::start()?;
    let skopeo = Skopeo::new(&server)?;
    scene_with(name, server, &skopeo)
}

/// [`scene`], with the store in memory if it can be: a disk would take its time to sync.
fn scene_in_memory(name: &str) -> Result<Scene, Missing> {
    let server = Server::start()?;
    let skopeo = Skopeo::new(&server)?;
    let sandbox = match stacks_in_memory() {
        Ok(()) => setup_in_memory(name),
        Err(_) => setup(name),
    };
    scene_in(sandbox, server, &skopeo)
}

fn scene_with(name: &str, server: Server, skopeo: &Skopeo) -> Result<Scene, Missing> {
    scene_in(setup(name), server, skopeo)
}

fn scene_in(sandbox: Sandbox, server: Server, skopeo: &Skopeo) -> Result<Scene, Missing> {
    let mut layout = Layout::new(sandbox.join("layout"));
    let first =
        layout.layer(&tar(&[("one", &noise(LAYER, 1)), ("dir/two", b"2")])[..], Packing::Gzip);
    let second = layout.layer(&tar(&[("one", b"1"), ("dir/.wh.two", b"")])[..], Packing::Zstd);
    let digest = layout.image("app:1", &[first, second]);
    assert_eq!(skopeo.push(layout.path(), "app:1", "app:1"), digest);
    let relay = Relay::start(server.address());
    let store = Store::open(sandbox.join("store")).unwrap();
    Ok(Scene { server, relay, store, sandbox, digest })
}

impl Scene {
    /// Pulls `app:1` through the relay.
    fn pull(&self, registry: &Registry) -> coracle::Result<Image> {
        registry.pull(self.relay.name("app:1"), &self.store).blocking()
    }

    /// The bytes of all blobs of the image.
    fn bytes(&self) -> u64 {
        let layout = self.sandbox.join("layout/blobs/sha256");
        fs::read_dir(layout).unwrap().map(|blob| blob.unwrap().metadata().unwrap().len()).sum()
    }

    /// The image is here, whole and unpacked.
    fn check(&self, image: &Image) {
        assert_eq!(image.digest().to_string(), self.digest);
        self.check_sound();
        assert_eq!(self.store.layers().unwrap().keys().unwrap().len(), 2, "not unpacked");
        self.check_clean();
    }

    /// Nothing half done is left, and nothing shows that is not whole.
    fn check_clean(&self) {
        let left = |dir: &str| fs::read_dir(self.store.path().join(dir)).unwrap().count();
        assert_eq!((left("ingest"), left("leases")), (0, 0));
        self.check_sound();
    }

    #[track_caller]
    fn check_sound(&self) {
        let verified = self.store.verify().unwrap();
        assert!(verified.is_sound(), "{:#?}", verified.damage);
    }

    /// Pulls, and sees it fail without a trace.
    fn fails(&self, registry: &Registry) -> Error {
        let err = self.pull(registry).unwrap_err();
        assert!(self.store.images().unwrap().is_empty());
        self.check_clean();
        err
    }
}

/// A client that loses no time.
fn client() -> Registry {
    Registry::builder().no_proxy().build().unwrap()
}

/// Whether an error is of this kind and says all of this somewhere.
#[track_caller]
fn says(err: &Error, kind: ErrorKind, words: &[&str]) {
    let shown = format!("{err:?}");
    assert_eq!(err.kind(), kind, "{shown}");
    for word in words {
        assert!(shown.contains(word), "{shown}\ndoes not say {word:?}");
    }
}

#[test]
fn an_image_comes_with_its_layers_unpacked_and_runs() {
    let scene = require!(scene("pull"));
    let image = scene.pull(&client()).unwrap();
    scene.check(&image);
    assert_eq!(image.references()[0].to_string(), scene.relay.name("app:1"));
    require!(user_namespaces());
    let rootfs = image.rootfs().unwrap().ephemeral().unwrap();
    let changes = rootfs.changes().unwrap();
    assert!(changes.is_empty(), "{changes:?}");
}

#[test]
fn what_is_here_costs_one_request_and_what_is_named_by_digest_none() {
    let scene = require!(scene("pull-again"));
    let registry = client();
    let image = scene.pull(&registry).unwrap();
    let before = scene.relay.requests().len();
    assert_eq!(scene.pull(&registry).unwrap(), image);
    let asked = scene.relay.requests().split_off(before);
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!((asked[0].method(), asked[0].path()), ("HEAD", "/v2/app/manifests/1"));

    let by_digest = format!("{}@{}", scene.relay.name("app"), scene.digest);
    assert_eq!(registry.pull(&by_digest, &scene.store).blocking().unwrap(), image);
    let asked = scene.relay.requests().len();
    assert_eq!(registry.pull(&by_digest, &scene.store).blocking().unwrap(), image);
    assert_eq!(scene.relay.requests().len(), asked);
}

#[test]
fn another_image_fetches_only_the_layers_that_are_not_here() {
    let scene = require!(scene("pull-shared"));
    let registry = client();
    scene.pull(&registry).unwrap();
    let mut layout = Layout::new(scene.sandbox.join("layout"));
    let first =
        layout.layer(&tar(&[("one", &noise(LAYER, 1)), ("dir/two", b"2")])[..], Packing::Gzip);
    let third = layout.layer(&tar(&[("three", b"3")])[..], Packing::Plain);
    let digest = layout.image("app:2", &[first, third]);
    require!(Skopeo::new(&scene.server)).push(layout.path(), "app:2", "app:2");
    let before = scene.relay.bytes_down(|_| true);
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let pull = registry.pull(scene.relay.name("app:2"), &scene.store);
    let pull = pull.on_progress(move |progress: &Progress| tell.lock().unwrap().push(*progress));
    assert_eq!(pull.blocking().unwrap().digest().to_string(), digest);
    assert!(scene.relay.bytes_down(|_| true) - before < 20_000);
    let told = told.lock().unwrap();
    let ends: Vec<_> = told
        .iter()
        .filter(|it| matches!(it.phase, Phase::Present | Phase::Complete))
        .map(|it| (it.phase, it.bytes == it.size))
        .collect();
    assert_eq!(ends.len(), 2, "{told:?}");
    assert!(ends.contains(&(Phase::Present, true)) && ends.contains(&(Phase::Complete, true)));
    scene.check_clean();
}

#[test]
fn a_tag_that_moved_is_fetched_anew_and_the_old_image_stays_without_a_name() {
    let scene = require!(scene("pull-moved"));
    let registry = client();
    let old = scene.pull(&registry).unwrap();
    let mut layout = Layout::new(scene.sandbox.join("layout"));
    let layer = layout.layer(&tar(&[("new", b"n")])[..], Packing::Gzip);
    let digest = layout.image("app:1b", &[layer]);
    require!(Skopeo::new(&scene.server)).push(layout.path(), "app:1b", "app:1");
    let new = scene.pull(&registry).unwrap();
    assert_eq!(new.digest().to_string(), digest);
    let images = scene.store.images().unwrap();
    let old = images.iter().find(|image| **image == old).unwrap();
    assert!(old.references().is_empty());
}

#[test]
fn of_several_platforms_the_wanted_one_comes_or_all() {
    let scene = require!(scene("pull-platforms"));
    let mut layout = Layout::new(scene.sandbox.join("layout"));
    let manifests = ["amd64", "arm64", "riscv64"].map(|architecture| {
        let layer = layout.layer(&tar(&[("for", architecture.as_bytes())])[..], Packing::Gzip);
        layout.manifest(architecture, &[layer])
    });
    let digest = layout.index("multi:1", &manifests[..2]);
    require!(Skopeo::new(&scene.server)).push(layout.path(), "multi:1", "multi:1");
    let (registry, name) = (client(), scene.relay.name("multi:1"));
    let pull = || registry.pull(&name, &scene.store);

    let other = pull().platform("linux/arm64".parse().unwrap()).blocking().unwrap();
    assert_eq!(other.platform().to_string(), "linux/arm64");
    assert_eq!(other.digest().to_string(), digest);
    let layers = |requests: &[common::relay::Seen]| {
        requests.iter().filter(|seen| seen.path().contains("/blobs/")).count()
    };
    assert_eq!(layers(&scene.relay.requests()), 2, "one layer and one configuration");

    let err = pull().platform("linux/s390x".parse().unwrap()).blocking().unwrap_err();
    says(&err, ErrorKind::NotFound, &[&name, "linux/s390x", "it has linux/amd64, linux/arm64"]);

    let own = pull().blocking().unwrap();
    assert_eq!(own.platform(), coracle::image::Platform::host());
    scene.store.remove(&name).unwrap();
    scene.store.collect_garbage().unwrap();
    pull().all_platforms().blocking().unwrap();
    for platform in ["linux/amd64", "linux/arm64"] {
        scene.store.image_for(&name, &platform.parse().unwrap()).unwrap();
    }
    scene.check_clean();
}

#[test]
fn indexes_in_indexes_are_followed() {
    let scene = require!(scene("pull-nested"));
    let (registry, mut layout) = (client(), Layout::new(scene.sandbox.join("nested")));
    let [mut inner, outer] = ["amd64", "arm64"].map(|architecture| {
        let layer = layout.layer(&tar(&[("for", architecture.as_bytes())])[..], Packing::Gzip);
        layout.manifest(architecture, &[layer])
    });
    for depth in 0..6 {
        let name = format!("nested:{depth}");
        let digest = layout.index(&name, &[inner, outer.clone()]);
        let size = fs::metadata(layout.blob_file(&digest)).unwrap().len();
        inner = json!({ "mediaType": INDEX, "digest": digest, "size": size });
        // No other tool that we have takes more than one of them.
        let source = Store::open(layout.path()).unwrap();
        let (name, tag) = (scene.relay.name(&name), name);
        let push = registry.push(&source, &tag, &name).all_platforms().blocking();
        let pull = || registry.pull(&name, &scene.store);
        if depth > 4 {
            let index = fs::read(layout.blob_file(&digest)).unwrap();
            let answer = Response::new(200).header("Content-Type", INDEX).body(index);
            let path = format!("/v2/nested/manifests/{depth}");
            scene.relay.rule(Rule::get(&path).fault(Fault::Respond(answer)));
            for err in [push.map(drop), pull().all_platforms().blocking().map(drop)] {
                let told = [&*name, "over 4 indexes lie in each other"];
                says(&err.unwrap_err(), ErrorKind::Malformed, &told);
            }
            continue;
        }
        push.unwrap();
        pull().all_platforms().blocking().unwrap();
        for platform in ["linux/amd64", "linux/arm64"] {
            let image = scene.store.image_for(&name, &platform.parse().unwrap()).unwrap();
            assert_eq!(
                (image.digest().to_string(), image.platform().to_string()),
                (digest.clone(), platform.into())
            );
        }
        let copy = scene.relay.name(&format!("copied:{depth}"));
        let push = registry.push(&scene.store, &name, &copy).all_platforms();
        assert_eq!(push.blocking().unwrap().digest.to_string(), digest);
        scene.store.remove(&name).unwrap();
        scene.store.collect_garbage().unwrap();
        // One alone: its documents are those of the indexes on the way to it.
        let image = pull().platform("linux/amd64".parse().unwrap()).blocking().unwrap();
        assert_eq!(image.platform().to_string(), "linux/amd64");
        scene.store.remove(&name).unwrap();
        scene.store.collect_garbage().unwrap();
    }
    scene.check_clean();
}

#[test]
fn many_pulls_at_once_share_one_download_of_each_layer() {
    let scene = require!(scene("pull-shared-download"));
    let registry = client();
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..8).map(|_| scope.spawn(|| scene.pull(&registry))).collect();
        for pull in pulls {
            assert_eq!(pull.join().unwrap().unwrap().digest().to_string(), scene.digest);
        }
    });
    let size = scene.relay.bytes_down(|path| path.contains("/blobs/"));
    assert!(size <= scene.bytes(), "{size} bytes of {}", scene.bytes());
    scene.check_clean();
}

#[test]
fn layers_come_side_by_side_and_no_more_than_may() {
    let scene = require!(scene("pull-side-by-side"));
    let mut layout = Layout::new(scene.sandbox.join("many"));
    let layers: Vec<_> = (0..8_u8)
        .map(|number| layout.layer(&tar(&[("a", &[number])])[..], Packing::Gzip))
        .collect();
    layout.image("many:1", &layers);
    require!(Skopeo::new(&scene.server)).push(layout.path(), "many:1", "many:1");
    let (registry, blobs) = (client(), "/v2/many/blobs/");
    for (at_once, most) in [(None, 6), (Some(2), 2), (Some(1), 1)] {
        let relay = Relay::start(scene.server.address());
        relay.rule(Rule::get(blobs).fault(Fault::Delay(Duration::from_millis(500))));
        let store = Store::open(scene.sandbox.join(format!("store-{most}"))).unwrap();
        let mut pull = registry.pull(relay.name("many:1"), &store);
        if let Some(at_once) = at_once {
            pull = pull.at_once(at_once);
        }
        pull.blocking().unwrap();
        assert_eq!(relay.most_at_once(|seen| seen.path().starts_with(blobs)), most);
    }
}

#[tokio::test]
async fn it_is_awaited_in_any_runtime_and_blocks_in_one_too() {
    let scene = require!(scene("pull-async"));
    let registry = client();
    let image = registry.pull(scene.relay.name("app:1"), &scene.store).await.unwrap();
    scene.check(&image);
    // The thread is blocked, but nothing panics and nothing waits for itself.
    assert_eq!(scene.pull(&registry).unwrap(), image);
    drop(registry);
}

#[test]
fn what_is_no_longer_awaited_is_broken_off() {
    let scene = require!(scene("pull-cancelled"));
    let registry = client();
    for bytes in [0, 1, LAYER as u64 / 2] {
        scene.relay.heal();
        let stall = Fault::StallAfter(bytes);
        scene.relay.rule(Rule::get("/v2/app/blobs/").fault(stall));
        let name = scene.relay.name("app:1");
        let before = scene.relay.requests().len();
        let mut pull = std::pin::pin!(registry.pull(&name, &scene.store).into_future());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(Future::poll(pull.as_mut(), &mut context).is_pending());
        scene.relay.wait_for(|seen| {
            seen[before..].iter().find(|it| it.path().contains("/blobs/")).map(drop)
        });
        // By its replacement.
        pull.set(registry.pull("x y", &scene.store).into_future());
        wait_until_clean(&scene.store);
        assert!(scene.store.images().unwrap().is_empty());
    }
    scene.relay.heal();
    scene.check(&scene.pull(&registry).unwrap());
}

#[test]
fn a_layers_files_are_written_while_the_rest_of_it_comes() {
    let scene = require!(scene("pull-one-pass"));
    let stall = Fault::StallAfter(LAYER as u64 / 2);
    scene.relay.rule(Rule::get("/v2/app/blobs/").fault(stall));
    let registry = client();
    let pull = registry.pull(scene.relay.name("app:1"), &scene.store).into_future();
    let mut pull = Box::pin(pull);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(Future::poll(pull.as_mut(), &mut context).is_pending());
    let end = Instant::now() + Duration::from_secs(60);
    while size_of("one", &scene.store.path().join("layers")) < LAYER as u64 / 4 {
        assert!(Instant::now() < end, "nothing is unpacked");
        std::thread::sleep(Duration::from_millis(10));
    }
    let blobs = fs::read_dir(scene.store.path().join("blobs/sha256")).unwrap();
    for blob in blobs.map(Result::unwrap) {
        assert!(blob.metadata().unwrap().len() < LAYER as u64 / 4, "{blob:?} is the layer");
    }
    drop(pull);
    wait_until_clean(&scene.store);
    scene.relay.heal();
    scene.check(&scene.pull(&registry).unwrap());
}

/// The size of the largest file of this name somewhere below. What is being made there may vanish.
fn size_of(name: &str, dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(it) if it.is_dir() => size_of(name, &entry.path()),
        Ok(it) if entry.file_name() == name => it.len(),
        _ => 0,
    });
    sizes.max().unwrap_or(0)
}

/// Threads that store a layer notice a moment later that nobody wants it.
fn wait_until_clean(store: &Store) {
    let end = Instant::now() + Duration::from_secs(60);
    let left = || {
        ["ingest", "leases"]
            .map(|dir| fs::read_dir(store.path().join(dir)).unwrap().count())
            .iter()
            .sum::<usize>()
    };
    while left() > 0 {
        assert!(Instant::now() < end, "something is left");
        std::thread::yield_now();
    }
}

#[test]
fn bad_names_and_missing_images_are_told_apart() {
    let scene = require!(scene("pull-names"));
    let registry = client();
    let fails = |name: &str| registry.pull(name, &scene.store).blocking().unwrap_err();
    says(&fails("A b"), ErrorKind::InvalidInput, &["pull A b", "\"A b\""]);
    let missing = scene.relay.name("app:none");
    says(&fails(&missing), ErrorKind::NotFound, &[&missing, "404", "MANIFEST_UNKNOWN"]);
    let missing = scene.relay.name("no/such:1");
    says(&fails(&missing), ErrorKind::NotFound, &[&missing, "404"]);
    let err = fails("127.0.0.1:1/app:1");
    says(&err, ErrorKind::Unavailable, &["127.0.0.1:1", "ECONNREFUSED", "port"]);
    let err = fails("no-such-host.invalid/app:1");
    says(&err, ErrorKind::Unavailable, &["no-such-host.invalid", "address", "name right"]);
}

#[test]
fn debian_comes_over_a_connection_that_is_cut_every_10_mb_and_runs() {
    let scene = require!(scene("pull-debian"));
    let mut layout = Layout::new(scene.sandbox.join("debian"));
    let digest = require!(layout.debian("debian:12", Packing::Gzip));
    require!(Skopeo::new(&scene.server)).push(layout.path(), "debian:12", "debian:12");
    let blobs = "/v2/debian/blobs/";
    scene.relay.rule(Rule::get(blobs).fault(Fault::CutAfter(10_000_000)));
    let pulled = client().pull(scene.relay.name("debian:12"), &scene.store).blocking().unwrap();
    assert_eq!(pulled.digest().to_string(), digest);
    scene.check_clean();
    let manifest = pulled.manifest();
    let size: u64 = manifest.layers().iter().chain([&manifest.config()]).map(|it| it.size).sum();
    assert!(size > 60_000_000, "{size} bytes are not Debian");
    assert_eq!(scene.relay.bytes_down(|path| path.starts_with(blobs)), size, "fetched twice");
    let cuts = scene.relay.requests().iter().filter(|it| it.faulty).count();
    assert!(cuts as u64 >= size / 10_000_000, "{cuts} cuts in {size} bytes");
    require!(common::containers());
    let rootfs = pulled.rootfs().unwrap().ephemeral().unwrap();
    let out = Command::new("/bin/sh")
        .args(["-c", "cat /etc/debian_version; id -u"])
        .rootfs(&rootfs)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", out.status);
    assert!(String::from_utf8(out.stdout).unwrap().ends_with("\n0\n"));
}
