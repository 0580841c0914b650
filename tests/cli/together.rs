//! Many command lines at once, which do anything to the same few containers.

use std::thread;
use std::time::{Duration, Instant};

use coracle::image::Store;

use crate::common::victim::Random;
use crate::common::{require, root};
use crate::life::Scene;
use crate::run;

const WORKERS: u64 = 4;

/// What may be in the way when others are at the same container. Whatever else is said is wrong.
const IN_THE_WAY: &[&str] = &[
    "no such container",
    "no such image",
    "is taken by the container",
    "it is ",
    "the container is ",
    "it has ended",
    "process has ended",
    "is frozen",
];

fn work(store: &Store, seed: u64, until: Instant) {
    let mut random = Random::new(seed * 7919 + 1);
    while Instant::now() < until {
        let [name, other] = &[(); 2].map(|()| format!("box{}", random.below(3)));
        let image = format!("of-{name}:1");
        let file = format!("{name}:/etc/hostname");
        let memory = format!("{}m", 20 + random.below(50));
        let script = format!("sleep 0.{}; exit 3", random.below(10));
        let run_with =
            |option| vec!["run", "-d", option, "--name", name, "busybox:1", "sh", "-c", &script];
        let cgroups = root().is_ok();
        let arguments = match random.below(26) {
            0 | 1 => vec!["run", "-d", "--name", name, "busybox:1", "sleep", "300"],
            2 => run_with("--rm"),
            3 => run_with("--restart=always"),
            4 => vec!["create", "--name", name, "busybox:1", "sleep", "300"],
            5 | 6 => vec!["start", name],
            7 => vec!["stop", "-t", "0", name],
            8 => vec!["restart", "-t", "0", name],
            9 => vec!["kill", name],
            10 => vec!["rm", "-f", name],
            11 => vec!["rm", name],
            12 | 13 => vec!["exec", name, "true"],
            14 if cgroups => vec!["pause", name],
            15 if cgroups => vec!["unpause", name],
            16 => vec!["inspect", name],
            17 => vec!["ps", "-a"],
            18 => vec!["rename", name, other],
            19 => vec!["commit", name, &image],
            20 => vec!["rmi", &image],
            21 => vec!["cp", &file, "-"],
            22 => vec!["diff", name],
            23 if cgroups => vec!["update", "--memory", &memory, name],
            24 => vec!["container", "prune", "-f"],
            _ => vec!["system", "df"],
        };
        let ran = run(store, &arguments);
        let expected = IN_THE_WAY.iter().any(|known| ran.err.contains(known));
        // By force, what is not there is no failure, but told, as by docker. What is executed may be killed.
        let fine = match arguments[..2] {
            ["rm", "-f"] => ran.status == 0,
            ["exec", _] if ran.err.is_empty() => [0, 137].contains(&ran.status),
            _ => (ran.status == 0) == ran.err.is_empty(),
        };
        assert!(fine && (ran.err.is_empty() || expected), "{arguments:?} (seed {seed}): {ran:?}");
    }
}

#[test]
fn whoever_does_what_to_a_container_it_stays_consistent() {
    let scene = require!(Scene::new("cli-together"));
    let seconds = std::env::var("CORACLE_TEST_SECONDS").map_or(4, |it| it.parse().unwrap());
    let until = Instant::now() + Duration::from_secs(seconds);
    let store = &scene.store;
    thread::scope(|scope| {
        for seed in 0..WORKERS {
            scope.spawn(move || work(store, seed, until));
        }
    });
    for id in run(store, &["ps", "-aq"]).out.lines() {
        let removed = run(store, &["rm", "-f", id]);
        // Those that go with their end may be faster.
        assert!(removed.status == 0 || removed.err.contains("no such container"), "{removed:?}");
    }
    // Monitors end a moment after their containers, and an engine puts in order what dead ones have left.
    let until = Instant::now() + Duration::from_secs(10);
    for left in ["by-id", "names", "staging", "trash", "supervisors", "sockets"] {
        let directory = store.path().join("containers").join(left);
        while let Some(left) = std::fs::read_dir(&directory).unwrap().next() {
            assert!(Instant::now() < until, "{left:?}");
            assert_eq!(run(store, &["ps", "-a", "-q"]).out, "");
        }
    }
    assert!(store.pins().unwrap().is_empty());
    assert!(store.verify().unwrap().is_sound());
}
