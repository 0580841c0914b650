//! Root filesystem stacks: read-only directories under one writable layer.

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
