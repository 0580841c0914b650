//! Whatever is cut and whoever is killed: the store is sound, and the next pull completes what is missing.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coracle::image::Store;
use coracle::registry::Registry;

use crate::common::relay::{Fault, Relay, Rule};
use crate::common::victim::{Random, again};
use crate::common::{require, rounds};
use crate::{Scene, client, scene_in_memory};

const BLOBS: &str = "/v2/app/blobs/";
const MARK: &str = "CORACLE_TEST_PULLER";
const NAME: &str = "CORACLE_TEST_NAME";

fn seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into()
}

/// Throws the image away, and what it was made of.
fn forget(scene: &Scene) {
    let images = scene.store.images().unwrap();
    for name in images.iter().flat_map(|image| image.references()) {
        scene.store.remove(&name.to_string()).unwrap();
    }
    scene.store.collect_garbage().unwrap();
}

/// Pulls the image, and says how many blobs that took.
fn complete(scene: &Scene, place: &str) -> usize {
    // The last requests of who was broken off may reach the other relay only now.
    let relay = Relay::start(scene.server.address());
    let pull = client().pull(relay.name("app:1"), &scene.store);
    let image = pull.blocking().unwrap_or_else(|err| panic!("{place}: {err:?}"));
    assert_eq!(image.digest().to_string(), scene.digest, "{place}");
    relay.requests().iter().filter(|it| it.path().starts_with(BLOBS)).count()
}

#[test]
fn cut_at_any_byte_and_given_up_the_next_pull_takes_what_is_whole() {
    let scene = require!(scene_in_memory("whole-cut"));
    let all = scene.bytes();
    let (seed, registry) = (seed(), Registry::builder().retries(0).no_proxy().build().unwrap());
    let (mut random, mut failed) = (Random::new(seed), 0);
    for round in 0..rounds(200) {
        let place = format!("round {round} of seed {seed}");
        scene.relay.heal();
        let at = random.below(all);
        let fault = if round % 2 == 0 { Fault::CutAfter(at) } else { Fault::ResetAfter(at) };
        scene.relay.rule(Rule::get(BLOBS).fault(fault));
        // What is shorter arrives whole, and what came on is not given up.
        let cut = scene.pull(&registry);
        let blobs =
            |scene: &Scene| fs::read_dir(scene.store.path().join("blobs/sha256")).unwrap().count();
        if let Err(err) = &cut {
            failed += 1;
            assert!(scene.store.images().unwrap().is_empty(), "{place}: {err:?}");
        }
        scene.check_clean();
        let kept = blobs(&scene);
        let fetched = complete(&scene, &place);
        // Two layers, a configuration and the manifest.
        assert!(fetched + kept <= 4, "{place}: {fetched} fetched though {kept} were here");
        forget(&scene);
    }
    assert!(failed > rounds(200) / 2, "only {failed} were given up");
}

#[test]
fn killed_at_any_moment_the_next_pull_takes_what_is_whole() {
    if let Some(dir) = std::env::var_os(MARK) {
        let store = Store::open_existing(Path::new(&dir)).unwrap();
        let pulled = client().pull(std::env::var(NAME).unwrap(), &store).blocking();
        std::process::exit(i32::from(pulled.is_err()));
    }
    let scene = require!(scene_in_memory("whole-killed"));
    let seed = seed();
    let mut random = Random::new(seed);
    let (mut killed, mut longest) = (0, Duration::from_millis(200));
    for round in 0..rounds(100) {
        let place = format!("round {round} of seed {seed}");
        let test = "whole::killed_at_any_moment_the_next_pull_takes_what_is_whole";
        let mut victim = again(test, MARK, scene.store.path().to_str().unwrap());
        victim.env(NAME, scene.relay.name("app:1")).stdout(Stdio::null()).stderr(Stdio::null());
        let start = std::time::Instant::now();
        let mut victim = victim.spawn().unwrap();
        std::thread::sleep(Duration::from_micros(
            random.below(u64::try_from(longest.as_micros()).unwrap()),
        ));
        let done = victim.try_wait().unwrap().is_some();
        let _ = victim.kill();
        let status = victim.wait().unwrap();
        assert!(!done || status.success(), "{place}: {status}");
        killed += usize::from(!done);
        if done {
            longest = start.elapsed();
        }
        let verified = scene.store.verify().unwrap();
        assert!(verified.is_sound(), "{place}: {:?}", verified.damage);
        let whole = fs::read_dir(scene.store.path().join("blobs/sha256")).unwrap().count();
        let fetched = complete(&scene, &place);
        assert!(fetched + whole <= 4, "{place}: {fetched} fetched though {whole} were here");
        assert!(scene.store.verify().unwrap().is_sound(), "{place}");
        forget(&scene);
        scene.check_clean();
    }
    assert!(killed > rounds(100) / 10, "only {killed} were killed");
}
