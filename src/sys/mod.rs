//! The only room with `unsafe`: raw system calls behind safe, typed wrappers.
#![allow(unsafe_code)]
