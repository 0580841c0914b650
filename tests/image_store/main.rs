//! The image store: what it keeps, who it keeps it from, and what it says about what is damaged.
//!
//! `CORACLE_TEST_KILLS` is how often a process is killed in the middle of a change (1000 takes about a minute), and
//! `CORACLE_TEST_SECONDS` how long several processes share one store.

#![allow(clippy::unwrap_used, reason = "the helpers are test code too")]

#[path = "../common/mod.rs"]
mod common;

mod basics;
mod damage;
mod documents;
mod durability;
mod fixture;
mod full_disk;
mod kills;
mod lists;
mod sharing;
mod tools;
