//! Archives: images that leave a store and come into one, and flat root file systems.

mod bundle;
mod content;
mod entries;
mod load;
mod save;

pub use load::{Load, Loaded};
