//! Root filesystem stacks: read-only directories under one writable layer.

mod directory;
mod id_mapping;
mod overlay;
mod rootfs;
mod scratch;

pub use rootfs::{Rootfs, Stack};
