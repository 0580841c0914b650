//! What the integration tests share: a scratch directory that cleans itself, probes of the machine with
//! a skip that is never silent, auditors for leaks, and a harness for attacks on path handling.
//!
//! Nothing here uses `coracle` itself, so that a fault there cannot hide in the measure of it.
#![allow(dead_code, unused_imports, unused_macros, reason = "every suite uses another part")]

#[cfg(feature = "layers")]
pub mod archive;
pub mod attack;
pub mod audit;
mod btrfs;
pub mod certificates;
pub mod command_line;
pub mod daemon;
pub mod engines;
pub mod http;
#[cfg(feature = "image")]
pub mod images;
mod machine;
pub mod proxy;
#[cfg(feature = "image")]
pub mod registry;
pub mod relay;
mod sandbox;
pub mod server;
pub mod stack;
pub mod tmux;
#[cfg(feature = "image")]
pub mod tokens;
pub mod tree;
pub mod victim;

pub use btrfs::{btrfs, btrfs_directory, on_btrfs};
pub(crate) use machine::require;
pub use machine::{
    Missing, alone, cgroup_controller, containers, debian_rootfs, delegated_cgroup, emulated,
    kernel, not_root, overlay, program, programs_archive, rerun, root, rounds, stacks,
    stacks_in_memory, subordinate_ids, system_calls, time_limit, user_namespaces,
};
pub use sandbox::{Sandbox, setup, setup_in_memory};

use std::path::PathBuf;

/// The top of the source tree. `tests/run` starts the suites of the unprivileged user in a copy of it.
pub fn source_tree() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from)
}
