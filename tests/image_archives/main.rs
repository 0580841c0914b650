//! Archives of images: what we write we read, what others write we read, what we write others read; and what is
//! not what it claims to be is refused.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../common/mod.rs"]
mod common;

mod engines;
mod fixture;
mod hostile;
mod imports;
mod round_trips;
