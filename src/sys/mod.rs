//! The only room with `unsafe`: raw system calls behind safe, typed wrappers.
#![allow(unsafe_code)]
// Words, pids and flags cross the kernel boundary in several widths; the ABI fixes which.
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

pub(crate) mod clone;
pub(crate) mod raw;
