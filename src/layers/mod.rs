//! Root filesystem stacks: read-only directories under one writable layer.
//!
//! [`Rootfs::stack`] begins one, [`Command::rootfs`](crate::namespaces::Command::rootfs) runs a process on it,
//! [`Rootfs::changes`] lists what the process has changed.

mod access;
mod change;
mod diff;
mod directory;
mod explain;
mod id_mapping;
mod overlay;
mod rootfs;
mod scratch;

pub use change::{Change, ChangeKind};
pub use rootfs::{Rootfs, Stack};
