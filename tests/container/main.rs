//! Containers, of an image with busybox in it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../common/mod.rs"]
mod common;
mod contents;
mod copy;
mod copy_races;
mod crashes;
mod descriptors;
mod detached;
mod events;
mod examples;
mod health;
mod life;
mod memory;
mod races;
mod scene;
mod settings;
mod streams;
mod volumes;
mod waiting;

use std::path::PathBuf;

use scene::{Scene, scene};

/// The built program of an example, which lies beside the tests.
fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(
        program.exists(),
        "`cargo build --all-features --example {name}` makes {}",
        program.display()
    );
    program
}
