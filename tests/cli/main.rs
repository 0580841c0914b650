//! The demo command line, `examples/coracle`: what it prints, where, and how it ends.

#![allow(clippy::unwrap_used, reason = "the helpers are test code too")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../image_store/fixture.rs"]
#[allow(dead_code, reason = "each suite uses another part")]
mod fixture;

mod archives;
mod changes;
mod containers;
mod copy;
mod docker;
mod docker08;
mod docker_containers;
mod events;
mod health;
mod life;
mod lists;
mod options;
mod proxies;
mod registries;
mod remote;
mod terminal;
mod together;
mod usage;
mod volumes;

/// The parts of the example that read options, with tests of their own.
#[path = "../../examples/coracle/containers"]
#[allow(dead_code, reason = "the example uses it")]
mod parsers {
    mod files;
    mod keys;
    mod mounts;
    mod sizes;
}

use std::process::Command;
use std::time::{Duration, SystemTime};

use coracle::image::{Image, Store};

use common::Sandbox;
use common::command_line::{Ran, command, finish, on, program};
use fixture::{add_with, store};

/// Runs it on the store.
fn run(store: &Store, arguments: &[&str]) -> Ran {
    finish(&mut on(store.path(), arguments))
}

/// Runs what must succeed without a complaint, and gives the lines that it printed.
fn lines(store: &Store, arguments: &[&str]) -> Vec<String> {
    let ran = run(store, arguments);
    assert!(ran.status == 0 && ran.err.is_empty(), "{arguments:?}: {ran:?}");
    ran.out.lines().map(str::to_owned).collect()
}

/// Runs what must fail with this exit status and a message that has all of these words.
fn fails(store: &Store, arguments: &[&str], status: i32, words: &[&str]) -> Ran {
    let ran = run(store, arguments);
    assert_eq!(ran.status, status, "{arguments:?}: {ran:?}");
    assert!(ran.err.starts_with("Error: "), "{arguments:?}: {ran:?}");
    words.iter().for_each(|word| assert!(ran.err.contains(word), "{word}: {ran:?}"));
    ran
}

/// `,"created":...` so long ago.
fn created(ago: Duration) -> String {
    let time = SystemTime::now() - ago;
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let date = Command::new("date").args(["-u", "-d", &format!("@{seconds}"), "+%FT%TZ"]).output();
    format!(r#","created":"{}""#, String::from_utf8(date.unwrap().stdout).unwrap().trim())
}

const HOUR: Duration = Duration::from_secs(3600);

/// `base:1` with another name, two images upon it, the nearer one without a name, and one beside them.
fn family(dir: &Sandbox) -> (Store, [Image; 4]) {
    let store = store(dir);
    let large = "base".repeat(3000);
    let old = format!(r#"{},"config":{{"Labels":{{"tier":"low"}}}}"#, created(50 * HOUR));
    let base = add_with(&store, "base:1", &[&large], &old);
    store.tag("base:1", "registry.example:5000/team/base").unwrap();
    let middle = add_with(&store, "app", &[&large, "middle"], &created(3 * HOUR));
    let app = add_with(&store, "app", &[&large, "middle", "top"], &created(2 * HOUR));
    let other = add_with(&store, "other", &["other"], &created(HOUR / 60));
    (store, [base, middle, app, other])
}
