//! Isolated processes.

#[cfg(feature = "container")]
mod adopt;
mod capabilities;
mod capability;
mod child;
mod command;
mod device;
mod exit_status;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod guests;
mod id_map;
mod id_range;
mod landlock;
mod mount;
mod namespace;
mod nearest;
mod protected_paths;
mod rlimits;
mod root;
mod scheduler;
pub mod seccomp;
mod signal;
mod spawner;
mod stdio;
mod subordinate;
mod sysctl;
mod terminal;
mod user_namespace;
mod users;

pub use capabilities::Capabilities;
pub use capability::{Capability, CapabilitySet};
pub use child::{Child, Output};
pub use command::{Clock, Command};
pub use device::Device;
pub use exit_status::{ExitStatus, ResourceUsage};
pub use id_map::{IdExtent, IdMap};
pub use landlock::{FsAccess, Landlock};
pub use mount::{Mount, Propagation};
pub use namespace::Namespaces;
pub use protected_paths::{masked_paths, read_only_paths};
pub use rlimits::{Resource, Rlimit};
pub use root::Root;
#[cfg(feature = "layers")]
pub(crate) use root::RootMount;
pub use scheduler::{IoPriority, Scheduler};
pub use seccomp::Seccomp;
pub use signal::Signal;
pub use stdio::Stdio;
pub use sysctl::Sysctl;
pub use terminal::{Terminal, TerminalSize};
pub use user_namespace::UserNamespace;
#[cfg(feature = "container")]
pub(crate) use user_namespace::own_map;
