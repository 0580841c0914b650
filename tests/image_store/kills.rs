//! Processes that are killed in the middle of a change.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coracle::image::Store;

use crate::common::victim::{Expected, Random, again, follow, say};
use crate::common::{rounds, setup};
use crate::fixture::{config, manifest, name, sound, tidy};

const MARK: &str = "CORACLE_TEST_VICTIM";
const NAMES: u64 = 6;

/// Changes the store until it is killed. Before a change it says what it will do, and after it that it is done.
fn victim(dir: &Path, seed: u64) -> ! {
    let store = Store::open(dir).unwrap();
    let mut random = Random::new(seed);
    say("ready".to_owned());
    loop {
        let app = format!("app:{}", random.below(NAMES));
        match random.below(10) {
            0..=4 => {
                let top = format!("{seed} {}", random.below(u64::MAX)).repeat(100);
                let layers = ["base", &top];
                say(format!("will set {app}"));
                let work = store.work().unwrap();
                let descriptor = manifest(&work, &layers, &config(&layers, ""));
                say(format!("may be {app} {}", descriptor.digest()));
                work.set_image(Some(&name(&app)), &descriptor).unwrap();
                say(format!("is {app} {}", descriptor.digest()));
            }
            5 | 6 => {
                let Ok(from) = store.image(&app) else { continue };
                let to = format!("app:{}", random.below(NAMES));
                say(format!("may be {to} {}", from.digest()));
                store.tag(&app, &to).unwrap();
                say(format!("is {to} {}", from.digest()));
            }
            7 | 8 => {
                say(format!("may be {app} nothing"));
                let removed = store.remove(&app);
                assert!(removed.is_ok() || store.image(&app).is_err());
                say(format!("is {app} nothing"));
            }
            _ => {
                store.collect_garbage().unwrap();
            }
        }
    }
}

#[test]
fn a_store_is_whole_after_every_kill_and_loses_nothing_that_was_done() {
    if let Some(dir) = std::env::var_os(MARK) {
        let seed = std::env::var("CORACLE_TEST_SEED").unwrap().parse().unwrap();
        victim(Path::new(&dir), seed);
    }
    let dir = setup("image-kills");
    let path = dir.join("images");
    let kills = std::env::var("CORACLE_TEST_KILLS").map_or(rounds(100), |it| it.parse().unwrap());
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into();
    let mut random = Random::new(seed);
    let mut expected = Expected::new();
    let mut changes = 0;
    for kill in 0..kills {
        let test = "kills::a_store_is_whole_after_every_kill_and_loses_nothing_that_was_done";
        let mut victim = again(test, MARK, path.to_str().unwrap());
        let mine = random.below(u64::MAX);
        victim.env("CORACLE_TEST_SEED", mine.to_string()).stdout(Stdio::piped());
        let mut victim = victim.spawn().unwrap();
        let (after, delay) = (random.below(12), Duration::from_micros(random.below(4000)));
        changes += follow(&mut victim, &mut expected, after, delay);

        let place = || format!("kill {kill} of seed {seed}");
        let store = Store::open_existing(&path).unwrap();
        for (name, possible) in &mut expected {
            let found =
                store.image(name).map_or("nothing".to_owned(), |it| it.digest().to_string());
            assert!(possible.contains(&found), "{}: {name} is {found}, not {possible:?}", place());
            *possible = vec![found];
        }
        let verified = store.verify().unwrap();
        assert!(verified.is_sound(), "{}: {:?}", place(), verified.damage);
        if random.below(2) == 0 {
            store.collect_garbage().unwrap();
            sound(&store);
            tidy(&store);
            let names = expected.values().filter(|it| it[0] != "nothing").count();
            let found: usize = store.images().unwrap().iter().map(|it| it.references().len()).sum();
            assert_eq!(found, names, "{}", place());
        }
    }
    assert!(2 * changes > kills as u64, "only {changes} changes were made in {kills} rounds");
}

#[test]
fn a_store_that_was_being_made_when_its_maker_was_killed_is_made_by_the_next() {
    const MARK: &str = "CORACLE_TEST_MAKER";
    if let Some(dir) = std::env::var_os(MARK) {
        println!("\n@ready");
        for number in 0.. {
            Store::open(Path::new(&dir).join(number.to_string())).unwrap();
        }
    }
    let mut random = Random::new(7);
    for round in 0..rounds(40) {
        let dir = setup("image-makers");
        let test =
            "kills::a_store_that_was_being_made_when_its_maker_was_killed_is_made_by_the_next";
        let mut maker = again(test, MARK, dir.to_str().unwrap());
        let mut maker = maker.stdout(Stdio::piped()).spawn().unwrap();
        let delay = Duration::from_micros(random.below(6000));
        follow(&mut maker, &mut Expected::new(), 0, delay);
        for entry in std::fs::read_dir(&*dir).unwrap() {
            let store = Store::open(entry.unwrap().path()).unwrap();
            crate::fixture::add(&store, "app", &[&round.to_string()]);
            store.collect_garbage().unwrap();
            sound(&store);
            tidy(&store);
        }
    }
}
