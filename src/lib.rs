//! An embeddable container engine: isolated processes, quotas and layered root file systems, in your own process.
//! No daemon, no helper program, no re-exec of the host.
//!
//! ```
//! use std::time::Duration;
//! use coracle::namespaces::{Command, Mount};
//!
//! let out = Command::new("sh")
//!     .args(["-c", "echo $$ > /tmp/pid; cat /tmp/pid; hostname"])
//!     .isolated() // own processes, network, users ...; the host's programs read-only
//!     .hostname("sandbox")
//!     .mount(Mount::tmpfs("/tmp").size(16 * coracle::MIB))
//!     .timeout(Duration::from_secs(5))
//!     .output()?;
//! assert_eq!(out.stdout, b"1\nsandbox\n");
//! assert!(out.status.success(), "{}", out.status);
//! # Ok::<(), coracle::Error>(())
//! ```
//!
//! # The layers
//!
//! Each is useful without those below it in this list.
//!
//! - [`namespaces`]: spawn, watch and enter isolated processes. [`Command`](namespaces::Command) and
//!   [`Child`](namespaces::Child) are std's, with isolation.
//! - [`cgroups`]: limit and measure them. [`Limits`](cgroups::Limits) is one value for cgroup v1, hybrid and v2.
//! - `layers` (feature): root file systems of shared read-only directories under a writable one, and what
//!   changed in it.
//! - `image` (feature): images with names and history in a store that several processes share.
//! - `registry` (feature): images from registries and to them.
//! - `container` (feature): containers with a name, a life and a state on disk; `Engine` ties them, their images and
//!   volumes together.
//!
//! # What it does to your process
//!
//! Nothing that lasts. Working directory, environment, umask, limits, signal handlers and threads stay as they are;
//! nothing is printed, nothing panics, nothing exits; descriptors stay open only in the values you hold, and the
//! first [`Limits`](cgroups::Limits) open the directories of the cgroup hierarchies for good. A spawn borrows the
//! host's memory instead of copying it (`CLONE_VM | CLONE_VFORK`), so it takes as long from a host of 8 GiB as from
//! a small one; between clone and exec the child only makes system calls. See
//! [`Command`](namespaces::Command#embedding).
//!
//! # What it does not do
//!
//! It starts no daemon and no background thread, but for those that serve a registry's connections, and the one with which an
//! `Engine` looks after the containers that it has started, and runs no other
//! program, but for `newuidmap` and `newgidmap` when an unprivileged host wants a range of ids, and the credential
//! helpers that Docker's configuration names. It does not hide downgrades: what the
//! kernel cannot do is an error that says so.
//!
//! # Features
//!
//! | feature | what it adds |
//! |---------|--------------|
//! | `layers` (default) | root file system stacks |
//! | `image` (default) | images in a content store |
//! | `registry` (default) | images from registries: HTTP, TLS and a runtime of its own (about 100 crates more) |
//! | `container` (default) | containers and the engine |
//! | `systemd` | `cgroups::delegate_by_systemd`: a delegated scope, asked for over D-Bus (about 60 crates more) |
//!
//! Without features there are `namespaces` and `cgroups`, and 12 crates in the tree.
//!
//! # Kernels
//!
//! Linux 5.8 or later; each optional call has its fallback:
//!
//! | feature | kernel | fallback |
//! |---------|--------|----------|
//! | clone3, CLONE_INTO_CGROUP | 5.3, 5.7 | clone; the child moves itself into the cgroup |
//! | openat2 | 5.6 | a walk component by component that follows no link |
//! | pidfd in setns (exec into a container) | 5.8 | none: an error that says so |
//! | volatile overlays: `Stack::volatile` | 5.10 | the disk is synced |
//! | close_range(CLOEXEC) | 5.11 | each descriptor in turn, as the host's /proc lists them |
//! | overlay in a user namespace | 5.11 | none: an error that says so |
//! | mount_setattr: idmapped and recursively read-only mounts | 5.12 | a remount of the one mount; else an error |
//! | Landlock | 5.13 | an error, or less if `best_effort` is asked for |
//! | cgroup.kill | 5.14 | freeze, then signals |
//! | idmapped overlay layers | 5.19 | an error, or `host_ids` |
//! | overlay layers by descriptor | 6.13 | attached in a mount namespace of their own |
//! | exit status in spite of an ignored SIGCHLD | 6.15 | an error that says so |
//!
//! # Machines
//!
//! x86-64, on which everything is tested, and aarch64, on which namespaces and cgroups were, on Debian's kernel in the emulator.
//! On others it does not compile: their system calls are not written.

// Not in Cargo.toml: examples and tests may.
#![deny(clippy::exit, clippy::print_stderr, clippy::print_stdout)]

mod error;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
#[allow(clippy::missing_panics_doc, missing_docs, reason = "for fuzz/ alone")]
pub mod fuzzing;
#[cfg(test)]
#[path = "../tests/common/machine.rs"]
#[allow(dead_code, reason = "shared with the integration tests")]
mod machine;
pub(crate) mod sys;

pub mod cgroups;
#[cfg(feature = "container")]
pub mod container;
#[cfg(feature = "container")]
mod engine;
#[cfg(feature = "image")]
pub mod image;
#[cfg(feature = "layers")]
pub mod layers;
pub mod namespaces;
#[cfg(feature = "registry")]
pub mod registry;

#[cfg(feature = "container")]
pub use container::monitor;
#[cfg(feature = "container")]
pub use engine::Engine;
pub use error::{Error, ErrorKind, Result};

/// 1,024 bytes.
pub const KIB: u64 = 1 << 10;
/// 1,024 [`KIB`].
pub const MIB: u64 = 1 << 20;
/// 1,024 [`MIB`].
pub const GIB: u64 = 1 << 30;

/// The README's snippets are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
