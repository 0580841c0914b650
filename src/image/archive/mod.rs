//! Archives: images that leave a store and come into one, and flat root file systems.

mod bundle;
mod entries;
mod export;
mod import;
mod load;
mod save;

pub use import::Import;
pub use load::{Load, Loaded};
