//! Storage drivers: unpacked layers kept in a directory, and root filesystems made of them.

mod attributes;
mod btrfs;
mod collect;
mod compare;
mod content;
mod copy;
mod extract;
mod merge;
mod name;
mod overlay;
mod remove;
mod staging;
mod store;
mod tree_root;
mod tree_stack;
mod usage;
mod vfs;
mod walk;

use std::ffi::OsStr;
use std::fmt::Debug;
use std::os::fd::OwnedFd;

pub(super) use attributes::copy_attributes;
pub use name::Driver;
pub use staging::Staging;
pub use store::LayerStore;
pub(super) use tree_stack::TreeStack;
pub use usage::Usage;

use super::access::Access;
use super::stack::Stack;
use crate::error::Result;

/// The layer in its directory.
const TREE: &str = "tree";
/// Beside a tree while it is copied: the first copy of each file with several names.
const LINKS: &str = "links";

/// One way of keeping layers.
trait Storage: Debug + Send + Sync {
    fn driver(&self) -> Driver;

    /// Fails, with a hint, where layers cannot be kept this way.
    fn check(&self, store: &LayerStore) -> Result<()>;

    /// Whether a layer is only what it changes, with the overlay's marks for what it hides.
    fn keeps_differences(&self) -> bool;

    /// Makes the directory `name` in `dir`, beside which nothing else is made: an empty one, or a copy of the tree
    /// of `parent`.
    fn create(
        &self,
        parent: Option<OwnedFd>,
        dir: &OwnedFd,
        name: &OsStr,
        access: Access<'_>,
    ) -> Result<()>;

    /// Removes what [`create`](Self::create) has made.
    fn remove(&self, dir: &OwnedFd, name: &OsStr, access: Access<'_>) -> Result<()>;

    /// What shows the layers of these keys, the lowest first, of which there is one at least.
    fn stack(&self, store: &LayerStore, keys: &[&str]) -> Result<Stack>;
}
