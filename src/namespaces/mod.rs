//! Isolated processes.

mod id_map;
mod id_range;
mod subordinate;
mod user_namespace;

pub use id_map::{IdExtent, IdMap};
pub use user_namespace::UserNamespace;
