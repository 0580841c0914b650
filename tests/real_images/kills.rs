//! A process that is killed in the middle of import, commit, load, tag, rmi or gc.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coracle::image::{Filter, Image, Store};

use crate::common::victim::{Expected, Random, again, follow, say};
use crate::common::{self, require, rounds, setup, setup_in_memory};
use crate::worker::{Worker, check_clean, check_files, nonce};

const MARK: &str = "CORACLE_TEST_VICTIM";
const SEED: &str = "CORACLE_TEST_SEED";

/// Whether the image that a name means is one of those that it may.
fn is_one_of(found: Option<&Image>, possible: &[String]) -> bool {
    possible.iter().any(|what| match (found, what.strip_prefix("made:")) {
        (None, _) => what == "nothing",
        (Some(image), Some(made)) => nonce(image) == made,
        (Some(image), None) => image.digest().to_string() == *what,
    })
}

#[test]
fn whoever_is_killed_leaves_a_store_that_has_all_that_was_done() {
    if let Some(dir) = std::env::var_os(MARK) {
        let seed = std::env::var(SEED).unwrap().parse().unwrap();
        let mut victim = Worker::new(Path::new(&dir), "app", seed, say);
        say("ready");
        loop {
            victim.step();
        }
    }
    require!(common::stacks());
    // Who is killed loses nothing that a disk would keep: memory serves as well, and saves the time of syncing.
    let dir = match common::stacks_in_memory() {
        Ok(()) => setup_in_memory("real-kills"),
        Err(_) => setup("real-kills"),
    };
    Worker::prepare(&dir, "app");
    let kills = std::env::var("CORACLE_TEST_KILLS").map_or(rounds(60), |it| it.parse().unwrap());
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into();
    let mut random = Random::new(seed);
    let mut expected = Expected::new();
    let mut changes = 0;
    for kill in 0..kills {
        let test = "kills::whoever_is_killed_leaves_a_store_that_has_all_that_was_done";
        let mut victim = again(test, MARK, dir.to_str().unwrap());
        victim.env(SEED, random.below(u64::MAX).to_string()).stdout(Stdio::piped());
        let mut victim = victim.spawn().unwrap();
        let (after, delay) = (random.below(10), Duration::from_micros(random.below(30_000)));
        changes += follow(&mut victim, &mut expected, after, delay);

        let store = Store::open_existing(dir.join("images")).unwrap();
        let place = format!("kill {kill} of seed {seed}");
        for (name, possible) in &mut expected {
            let found = store.image(name).ok();
            assert!(
                is_one_of(found.as_ref(), possible),
                "{place}: {name} is {found:?}, not one of {possible:?}"
            );
            *possible =
                vec![found.map_or("nothing".to_owned(), |image| image.digest().to_string())];
        }
        let verified = store.verify().unwrap();
        assert!(verified.is_sound(), "{place}: {:?}", verified.damage);
        let images = store.images().unwrap();
        if random.below(2) == 0 {
            check_clean(&store);
        } else if !images.is_empty() {
            let at = random.below(images.len() as u64);
            check_files(&images[usize::try_from(at).unwrap()]);
        }
        if kill % 10 == 9 {
            // Images that lost their names would grow in number, and each is verified again after every kill.
            store.prune(&Filter::new().dangling(true)).unwrap();
        }
        remove_scratch(&dir, &store);
    }
    assert!(changes > kills as u64, "only {changes} changes were made in {kills} rounds");
}

/// The writable directories of who was killed.
fn remove_scratch(dir: &Path, store: &Store) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("scratch-") {
            assert!(store.layers().unwrap().remove_writable(&path).unwrap());
        }
    }
}
