//! Several processes and threads on one store.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use coracle::ErrorKind;
use coracle::image::{Digest, Store};

use crate::common::victim::{Random, again};
use crate::common::{rounds, setup};
use crate::fixture::{add, name, sound, store, tidy};

const THREADS: u64 = 3;

/// Adds, tags and removes images of its own, while others do the same and collect garbage. Returns what is left.
fn work(store: &Store, seed: u64, deadline: Instant) -> BTreeMap<String, Digest> {
    let mut random = Random::new(seed * 7919 + 1);
    let mut mine = BTreeMap::new();
    let mut number = 0;
    while Instant::now() < deadline {
        let app = format!("app-{seed}:{}", random.below(5));
        number += 1;
        match random.below(13) {
            0..=4 => {
                // Everybody's first layer, a layer that somebody else may just remove, and one's own.
                let shared = format!("shared {}", random.below(3));
                let own = format!("{seed} {number}");
                mine.insert(app.clone(), add(store, &app, &["base", &shared, &own]).digest());
            }
            5 | 6 => {
                let to = format!("app-{seed}:{}", random.below(5));
                match (store.tag(&app, &to), mine.get(&app).copied()) {
                    (Ok(image), Some(digest)) => {
                        assert_eq!(image.digest(), digest);
                        mine.insert(to, digest);
                    }
                    (Err(err), None) => assert_eq!(err.kind(), ErrorKind::NotFound, "{err:?}"),
                    (tagged, known) => panic!("{app}: {tagged:?}, but {known:?}"),
                }
            }
            7 | 8 => match (store.remove(&app), mine.remove(&app)) {
                (Ok(_), Some(_)) => {}
                (Err(err), None) => assert_eq!(err.kind(), ErrorKind::NotFound, "{err:?}"),
                (removed, known) => panic!("{app}: {removed:?}, but {known:?}"),
            },
            9 => drop(store.collect_garbage().unwrap()),
            10 => {
                let listing = store.list(&coracle::image::Filter::new()).unwrap();
                assert!(listing.damaged.is_empty(), "{:?}", listing.damaged);
            }
            11 => {
                let usage = store.usage().unwrap();
                assert!(usage.damaged.is_empty(), "{:?}", usage.damaged);
            }
            _ => {
                let verified = store.verify().unwrap();
                assert!(verified.is_sound(), "{:?}", verified.damage);
            }
        }
        for (app, digest) in &mine {
            assert_eq!(store.image(app).unwrap().digest(), *digest, "{app}");
        }
    }
    mine
}

#[test]
fn processes_and_threads_share_a_store_and_lose_nothing() {
    const MARK: &str = "CORACLE_TEST_SHARER";
    let seconds = std::env::var("CORACLE_TEST_SECONDS").map_or(2, |it| it.parse().unwrap());
    if let Some(mark) = std::env::var_os(MARK) {
        let mark = mark.into_string().unwrap();
        let (seed, dir) = mark.split_once(' ').unwrap();
        let seed: u64 = seed.parse().unwrap();
        let store = &Store::open(dir).unwrap();
        let deadline = Instant::now() + Duration::from_secs(seconds);
        thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|number| scope.spawn(move || work(store, seed + number, deadline)))
                .collect();
            for (app, digest) in threads.into_iter().flat_map(|it| it.join().unwrap()) {
                println!("\n@{app} {digest}");
            }
        });
        return;
    }
    let dir = setup("image-sharing");
    let path = dir.join("images");
    let test = "sharing::processes_and_threads_share_a_store_and_lose_nothing";
    let sharers: Vec<_> = (0..2)
        .map(|process| {
            let mark = format!("{} {}", process * THREADS, path.display());
            let mut sharer = again(test, MARK, &mark);
            sharer.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let started = Instant::now();
    let outputs: Vec<_> = sharers.into_iter().map(|it| it.wait_with_output().unwrap()).collect();
    let took = started.elapsed();
    let store = Store::open(&path).unwrap();
    let mut names = 0;
    for output in outputs {
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
        for line in said.lines().filter_map(|line| line.strip_prefix('@')) {
            let (app, digest) = line.split_once(' ').unwrap();
            assert_eq!(store.image(app).unwrap().digest().to_string(), digest);
            names += 1;
        }
    }
    assert!(names > 0, "nothing was left to look at");
    // Nobody waited for ever.
    assert!(took < Duration::from_secs(seconds * 4 + 30), "took {took:?}");
    store.collect_garbage().unwrap();
    sound(&store);
    tidy(&store);
    let found: usize = store.images().unwrap().iter().map(|it| it.references().len()).sum();
    assert_eq!(found, names);
}

#[test]
fn threads_that_store_the_same_at_once_all_succeed() {
    let dir = setup("image-same");
    let store = store(&dir);
    for round in 0..rounds(40) {
        let barrier = Barrier::new(8);
        let own = round.to_string();
        thread::scope(|scope| {
            for number in 0..8 {
                let (barrier, own, store) = (&barrier, &own, &store);
                scope.spawn(move || {
                    barrier.wait();
                    if number == 7 {
                        store.collect_garbage().unwrap();
                    }
                    add(store, &format!("app:{number}"), &["base", own]);
                });
            }
        });
        let images = store.images().unwrap();
        let newest = images.iter().find(|it| !it.references().is_empty()).unwrap();
        assert_eq!(newest.references().len(), 8);
    }
    assert_eq!(store.image("app:0").unwrap(), store.image("app:7").unwrap());
    store.collect_garbage().unwrap();
    sound(&store);
    tidy(&store);
}

#[test]
fn what_is_looked_up_just_before_it_is_removed_is_held_whole_or_not_at_all() {
    let dir = setup("image-hold");
    let store = store(&dir);
    let mut held = [0; 2];
    for round in 0..rounds(100) {
        let image = add(&store, "app", &["base", &round.to_string()]);
        let remover = store.clone();
        let remover = thread::spawn(move || {
            remover.remove("app").unwrap();
            remover.collect_garbage().unwrap();
        });
        let work = store.work().unwrap();
        let hold = work.hold(&image);
        remover.join().unwrap();
        held[usize::from(hold.is_ok())] += 1;
        match hold {
            Ok(()) => {
                store.collect_garbage().unwrap();
                work.set_image(Some(&name("kept")), image.descriptor()).unwrap();
            }
            Err(err) => assert_eq!(err.kind(), ErrorKind::NotFound, "{err:?}"),
        }
    }
    assert!(held[1] > 0, "{held:?}");
    sound(&store);
}
