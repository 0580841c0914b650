//! The demo command line, `examples/coracle`, as a user has it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The example, which cargo and tests/run put beside the tests.
pub fn program() -> PathBuf {
    let tests = std::env::current_exe().expect("find the test binary");
    let directory = tests.parent().expect("the test binary lies in a directory");
    let program = directory.with_file_name("examples").join("coracle");
    assert!(program.exists(), "first `cargo build --all-features --example coracle`");
    program
}

/// What a run printed, and its exit status.
#[derive(Debug)]
pub struct Ran {
    pub out: String,
    pub err: String,
    pub status: i32,
}

/// A run on no store yet, or on the one that its arguments name.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).stdin(Stdio::null()).env_remove("CORACLE_ROOT").env("TZ", "UTC");
    command
}

/// A run on the store.
pub fn on(store: &Path, arguments: &[&str]) -> Command {
    let mut command = command(arguments);
    command.env("CORACLE_ROOT", store);
    command
}

pub fn finish(command: &mut Command) -> Ran {
    let output = command.output().expect("start the example");
    let text = |bytes| String::from_utf8(bytes).expect("it prints text");
    let status = output.status.code().expect("no signal ends it");
    Ran { out: text(output.stdout), err: text(output.stderr), status }
}
