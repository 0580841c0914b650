//! Layers as tar streams: [`Unpack`] applies one, [`Pack`] makes one.

mod acl;
mod ahead;
mod attributes;
mod finish;
mod implied;
mod limits;
mod lower;
mod pack;
mod pax;
#[cfg(feature = "container")]
mod place;
mod reader;
mod selection;
mod sparse;
mod tree;
mod unpack;
mod whiteout;
mod writer;

#[cfg(feature = "image")]
pub(crate) use ahead::{Ahead, read_buffered};
#[cfg(feature = "image")]
pub(crate) use implied::Implied;
pub use limits::ArchiveLimits;
pub use pack::{Pack, Packed};
#[cfg(feature = "container")]
pub(crate) use place::{NewOwner, Place, Placed};
#[cfg(feature = "image")]
pub(crate) use reader::{Kind, Reader};
pub use unpack::{Unpack, Unpacked};
