//! Images from registries and to them: pull, push, tags, login.
//!
//! [`Registry`] is the client; it speaks the distribution specification
//! (<https://github.com/opencontainers/distribution-spec>) to any registry that a [`Reference`](crate::image::Reference)
//! names. Everything that it can be asked is a value first, which an async host awaits and any other host gives to
//! `blocking()`:
//!
//! ```no_run
//! use coracle::image::Store;
//! use coracle::registry::Registry;
//!
//! # async fn example() -> coracle::Result<()> {
//! let registry = Registry::from_docker_config()?;
//! let store = Store::open("images/")?;
//! let image = registry.pull("docker.io/library/nginx:1", &store).await?;
//! let again = registry.pull("nginx:1", &store).blocking()?;
//! assert_eq!(image, again);
//! # Ok(())
//! # }
//! ```
//!
//! # What it does to your process
//!
//! The first request starts two threads, which keep the connections of this `Registry` and its clones, and end with the last of
//! them; so it works under any async runtime, and under none. Each layer on its way has some more threads. What is no
//! longer awaited is broken off.
//!
//! # Whom it trusts
//!
//! Nobody. What comes in is bounded, and believed once its digest is right. Credentials go to the registry that they are for and to
//! the token server that it names if that is of the same site, never after a redirect; registries are spoken to by TLS
//! unless they are on this machine or [allowed by name](Builder::plain_http).

mod answer;
mod artifact;
mod auth;
mod builder;
mod challenge;
mod client;
mod content;
mod credentials;
mod destination;
mod docker_config;
mod download;
mod endpoint;
mod failure;
mod flight;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod guard;
mod helper;
mod listing;
mod login;
mod operation;
mod progress;
mod pull;
mod push;
mod referrers;
#[allow(clippy::module_inception, reason = "a file is named for its main type")]
mod registry;
mod remote_manifest;
mod resolve;
mod runtime;
mod search;
mod tls;
mod transfer;
mod upload;

pub use artifact::Artifact;
pub use builder::Builder;
pub use credentials::{Credentials, Kept};
pub use operation::{Operation, Running};
pub use progress::{Phase, Progress};
pub use pull::Pull;
pub use push::{Push, Pushed};
pub use registry::Registry;
pub use remote_manifest::RemoteManifest;
pub use search::{Search, SearchResult};
pub use transfer::Transfer;
