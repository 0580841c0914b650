//! Root filesystem stacks: read-only directories under one writable layer.
//!
//! [`Rootfs::stack`] begins one, [`Command::rootfs`](crate::namespaces::Command::rootfs) runs a process on it,
//! [`Rootfs::changes`] lists what the process has changed. [`Pack`] makes a tar stream of the changes, [`Unpack`] a
//! directory of such a stream, and [`Compression`] goes between.

mod access;
mod archive;
mod change;
mod compression;
mod cursor;
mod diff;
mod directory;
mod driver;
mod explain;
mod id_mapping;
mod kept;
mod overlay;
mod rootfs;
mod scratch;
mod stack;
mod touched;
#[cfg(feature = "container")]
mod view;

#[cfg(feature = "image")]
pub(crate) use archive::{Ahead, Implied, Kind, Reader, read_buffered};
pub use archive::{ArchiveLimits, Pack, Packed, Unpack, Unpacked};
#[cfg(feature = "container")]
pub(crate) use archive::{NewOwner, Place, Placed};
pub use change::{Change, ChangeKind};
pub use compression::{Compression, Decoder, Encoder};
pub use driver::{Driver, LayerStore, Staging, Usage};
#[cfg(feature = "image")]
pub(crate) use kept::Owner;
pub use rootfs::Rootfs;
pub use stack::Stack;
#[cfg(feature = "container")]
pub(crate) use view::{Branch, Mounted, Source, Spot, View, names};
