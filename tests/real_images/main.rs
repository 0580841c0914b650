//! The image store at work: on files as they are unpacked and run, with whole processes that change it, are killed, and
//! share it.
//!
//! `CORACLE_TEST_KILLS` is how often a process is killed in the middle of a change (1000 takes some minutes), and
//! `CORACLE_TEST_SECONDS` how long two processes hammer one store.

#![allow(clippy::unwrap_used, reason = "the helpers are test code too")]

#[path = "../common/mod.rs"]
mod common;

mod everywhere;
mod fifty;
mod full_disk;
mod hammer;
mod kills;
mod worker;
