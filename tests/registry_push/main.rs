//! What goes to a registry: images, artifacts and copies, and what is there.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod artifacts;
#[path = "../common/mod.rs"]
mod common;
mod copies;
mod engines;
mod faults;
mod fixture;
mod images;
mod manifests;
mod mounts;
mod uploads;
