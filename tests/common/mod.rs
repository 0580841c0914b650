//! What the integration tests share: a scratch directory that cleans itself, probes of the machine with
//! a skip that is never silent, auditors for leaks, and a harness for attacks on path handling.
//!
//! Nothing here uses `coracle` itself, so that a fault there cannot hide in the measure of it.
#![allow(dead_code, unused_imports, unused_macros, reason = "every suite uses another part")]

pub mod attack;
pub mod audit;
mod machine;
mod sandbox;

pub(crate) use machine::require;
pub use machine::{
    Missing, cgroup_controller, debian_rootfs, delegated_cgroup, kernel, not_root, overlay,
    program, root, subordinate_ids, user_namespaces,
};
pub use sandbox::{Sandbox, setup};

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

/// The top of the source tree. `tests/run` starts the suites of the unprivileged user in a copy of it.
pub fn source_tree() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from)
}

/// Runs the body of the calling test in a process of its own, where no other test's threads,
/// descriptors or children disturb what it counts. Orphans of the test become its children.
///
/// ```ignore
/// #[test]
/// fn nothing_is_leaked() {
///     common::alone(|| { /* the test */ });
/// }
/// ```
pub fn alone(body: impl FnOnce()) {
    const MARK: &str = "CORACLE_TEST_ALONE";
    let thread = std::thread::current();
    let name = thread.name().expect("libtest names its threads").to_owned();
    if std::env::var_os(MARK).is_some_and(|alone| alone.to_str() == Some(&name)) {
        nix::sys::prctl::set_child_subreaper(true).expect("become a child subreaper");
        return body();
    }
    let output = Command::new(std::env::current_exe().expect("find the test binary"))
        .args(["--exact", &name, "--test-threads=1", "--nocapture"])
        .env(MARK, &name)
        .output()
        .expect("start the test binary again");
    let said = String::from_utf8_lossy(&output.stderr);
    for skip in said.lines().filter(|line| line.starts_with("skipped: ")) {
        let _ = writeln!(std::io::stderr(), "{skip}");
    }
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "in its own process, {}:\n{printed}\n{said}", output.status);
}
