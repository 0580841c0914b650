//! Containers: processes on an image that have a name, a life and a state that outlasts the host process.

mod aside;
mod attach;
mod builder;
mod commit;
mod config;
#[allow(clippy::module_inception, reason = "a file is named for its main type")]
mod container;
mod contents;
mod copy;
mod etc;
pub mod events;
mod executed;
mod files;
mod health;
mod home;
mod id;
mod inside;
mod launch;
mod lifecycle;
mod link;
mod locked;
pub mod logs;
pub mod monitor;
mod mounts;
mod new_container;
mod process;
mod prune;
mod remove;
mod roster;
mod running;
mod seccomp;
mod state;
mod supervisor;
mod volume;
mod wait;

pub use attach::{Attachment, Output};
pub use builder::ContainerBuilder;
pub use commit::Commit;
pub use config::{
    Config, Link, LogConfig, LogDriver, MountConfig, MountSource, Names, Resources, Restart, Share,
};
pub use container::Container;
pub use contents::Size;
pub use copy::{Copied, CopyIn, CopyOut};
pub use health::{Health, HealthCheck, HealthStatus, Probe};
pub(crate) use home::Home;
pub use id::ContainerId;
pub use new_container::NewContainer;
pub use prune::Pruned;
pub use remove::Removal;
pub use seccomp::SeccompProfile;
pub use state::{Phase, Status};
pub use volume::Volume;
pub use wait::Exited;
