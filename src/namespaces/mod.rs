//! Isolated processes.

#[allow(dead_code, reason = "Command takes these types")]
mod capabilities;
#[allow(dead_code, reason = "Command takes these types")]
mod capability;
mod id_map;
mod id_range;
#[allow(dead_code, reason = "Command takes these types")]
mod landlock;
mod nearest;
mod protected_paths;
#[allow(dead_code, reason = "Command takes these types")]
mod rlimits;
#[allow(dead_code, reason = "Command takes these types")]
mod scheduler;
#[allow(dead_code, reason = "Command takes these types")]
pub mod seccomp;
mod signal;
mod subordinate;
#[allow(dead_code, reason = "Command takes these types")]
mod sysctl;
mod user_namespace;
mod users;

pub use capabilities::Capabilities;
pub use capability::{Capability, CapabilitySet};
pub use id_map::{IdExtent, IdMap};
pub use landlock::{FsAccess, Landlock};
pub use protected_paths::{masked_paths, read_only_paths};
pub use rlimits::{Resource, Rlimit};
pub use scheduler::{IoPriority, Scheduler};
pub use seccomp::Seccomp;
pub use signal::Signal;
pub use sysctl::Sysctl;
pub use user_namespace::UserNamespace;
