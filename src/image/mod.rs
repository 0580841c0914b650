//! Images: what a root filesystem is made of, how it came about and what to run on it, in a store that shares
//! layers.
//!
//! [`Store::open`] gives the store, [`Store::image`] an [`Image`] in it, [`Store::work`] a handle to add to it.

mod archive;
mod blobs;
mod changes;
mod check;
mod commit;
mod config;
mod content;
mod digest;
mod draft;
mod early;
mod files;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod gc;
#[cfg(feature = "registry")]
mod graph;
mod growing;
mod hashed;
mod history;
#[allow(clippy::module_inception, reason = "a file is named for its main type")]
mod image;
mod index;
mod instruction;
#[cfg(feature = "registry")]
mod intake;
mod json;
mod layer;
mod lease;
mod listing;
mod lock;
mod manifest;
mod names;
mod observer;
#[cfg(feature = "registry")]
mod outgoing;
mod pattern;
mod pin;
mod platform;
mod reference;
mod reserve;
mod room;
mod squash;
mod store;
mod tree;
mod unpacked;
mod usage;
mod verify;
mod walk;

pub use archive::{Import, Load, Loaded};
pub use blobs::BlobWriter;
pub use changes::ConfigChanges;
pub use commit::Commit;
pub use config::Config;
pub use digest::{ChainId, DiffId, Digest};
#[cfg(feature = "registry")]
pub(crate) use files::temporary;
#[cfg(feature = "container")]
pub(crate) use files::{read as read_file, sync_dir};
pub use gc::Collected;
#[cfg(feature = "registry")]
pub(crate) use graph::{Document, Graph, Named};
pub use history::Step;
pub use image::Image;
#[cfg(feature = "registry")]
pub(crate) use intake::Intake;
#[cfg(feature = "registry")]
pub(crate) use json::MAX_DOCUMENT;
pub use lease::Work;
pub use listing::{Filter, Listing, Pruned};
pub use manifest::{Blob, Manifest};
#[cfg(feature = "registry")]
pub(crate) use manifest::{DocumentKind, Index, media_type};
pub use names::Removed;
#[cfg(feature = "container")]
pub(crate) use observer::Observer;
/// The specification's types, in its words: descriptors, media types, manifests and configurations.
pub use oci_spec::image as spec;
#[cfg(feature = "registry")]
pub(crate) use outgoing::{Checker, Extent, Outgoing, blob_of, holders};
pub use platform::Platform;
pub use reference::Reference;
#[cfg(feature = "registry")]
pub(crate) use room::Room;
pub use squash::Squash;
pub use store::Store;
pub use tree::Tree;
#[cfg(feature = "container")]
pub(crate) use unpacked::boot_id;
pub use usage::{ImageUsage, Space, Usage};
pub use verify::{Damage, Repaired, Verified};
