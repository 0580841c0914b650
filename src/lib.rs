//! An embeddable container engine.
// Not in Cargo.toml: examples and tests may.
#![deny(clippy::exit, clippy::print_stderr, clippy::print_stdout)]

mod error;
#[cfg(test)]
#[path = "../tests/common/machine.rs"]
#[allow(dead_code, reason = "shared with the integration tests")]
mod machine;
pub(crate) mod sys;

pub mod cgroups;
#[cfg(feature = "layers")]
pub mod layers;
pub mod namespaces;

pub use error::{Error, ErrorKind, Result};

/// 1,024 bytes.
pub const KIB: u64 = 1 << 10;
/// 1,024 [`KIB`].
pub const MIB: u64 = 1 << 20;
/// 1,024 [`MIB`].
pub const GIB: u64 = 1 << 30;
