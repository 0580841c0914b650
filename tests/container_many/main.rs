//! Many containers: one after the other, and at once. Apart from the other tests, which look for what is left behind.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../container/scene.rs"]
mod scene;

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use coracle::container::{Container, Phase};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use common::{Missing, alone, audit, require};
use scene::scene;

/// Nor do these two run at once.
static TURN: Mutex<()> = Mutex::new(());

/// The files and directories below.
fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        }
        found.push(entry.path().display().to_string());
    }
    found.sort_unstable();
    found
}

/// So many as `CORACLE_TEST_CYCLES` says: half of them remove themselves.
#[test]
fn cycles_leave_nothing_behind() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    alone(|| {
        let scene = require!(scene("container-cycles"));
        let cycles = std::env::var("CORACLE_TEST_CYCLES").map_or(300, |it| it.parse().unwrap());
        let root = scene.dir.join("root");
        let builder = scene.engine.container("box").command(["true"]);
        let run = |number: usize| {
            if number.is_multiple_of(2) {
                let container = builder.clone().remove_on_exit().start().unwrap();
                assert!(container.wait().unwrap().success());
            } else {
                let container = builder.clone().start().unwrap();
                assert!(container.wait().unwrap().success());
                container.remove().unwrap();
            }
        };
        // The allocator finds its size.
        let warm = cycles / 4;
        (0..warm).for_each(run);
        let journal = root.join("containers/events");
        let but_events = || -> Vec<_> {
            let all = files(&root).into_iter();
            all.filter(|path| !Path::new(path).starts_with(&journal)).collect()
        };
        let before = (audit::snapshot(), but_events(), audit::own_memory());
        (warm..cycles).for_each(run);
        before.0.assert_unchanged();
        assert_eq!(but_events(), before.1);
        // What was told of them stays, the last of it.
        let told: Vec<_> = files(&journal);
        let bytes: u64 = told.iter().map(|path| fs::metadata(path).unwrap().len()).sum();
        assert!(told.len() <= 4 && bytes <= 5 << 20, "{told:?}: {bytes} bytes");
        // Ten bytes that stay for each would be more, where there are enough of them.
        let more = audit::own_memory().saturating_sub(before.2);
        assert!(more < 256 + cycles as u64 / 100, "{more} KiB more than before");
    });
}

#[test]
fn a_thousand_run_at_once() {
    const MANY: usize = 1000;
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    alone(|| {
        let scene = require!(scene("container-thousand"));
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        require!(match most {
            ..13_000 => Err(Missing::new("13,000 file descriptors", format!("{most} are allowed"))),
            _ => Ok(()),
        });
        setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
        scene.warm_up();
        let before = audit::snapshot();
        let builder = scene.engine.container("box").command(["sleep", "600"]);
        let all: Vec<Container> = (0..MANY).map(|_| builder.clone().start().unwrap()).collect();
        assert_eq!(scene.engine.containers().unwrap().len(), MANY);
        for container in &all {
            assert_eq!(container.status().unwrap().phase, Phase::Running);
        }
        let threads = fs::read_dir("/proc/self/task").unwrap().count();
        assert!(threads <= 3, "{threads} threads");
        assert!(all[MANY / 2].exec(["true"]).unwrap().wait().unwrap().success());
        all.into_iter().for_each(|container| container.remove_forced().unwrap());
        drop((builder, scene));
        before.assert_unchanged();
    });
}
