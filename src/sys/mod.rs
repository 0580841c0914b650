//! The only room with `unsafe`: raw system calls behind safe, typed wrappers.
//!
//! | feature | kernel | fallback |
//! |---------|--------|----------|
//! | open_tree, move_mount, fsopen, fsconfig, fsmount, fspick | 5.2 | none: an error that says so |
//! | bpf(BPF_PROG_TYPE_CGROUP_DEVICE) | 5.1 | v1 devices list where mounted, else an error that says so |
//! | mount_setattr | 5.12 | none: an error that says so |
//! | idmapped layers of a stack | 5.19 | an error with a hint, or the host's ids if `host_ids` asks for them |
//! | overlay in a user namespace | 5.11 | none: an error that says so |
//! | overlay layers by descriptor, detached ones, copies of detached mounts | 6.13, 6.15, 6.15 | attached in a mount namespace of their own, under short names |
//! | Landlock | 5.13; truncate 6.2, TCP 6.7, device ioctl 6.10, scopes 6.12 | an error that says so, or less restriction if `best_effort` asks for it |
//! | seccomp notifications | 5.0; continue 5.5, end seen 5.8, open files given 5.9 | none: an error that says so |
//! | openat2 | 5.6 | a walk that opens one component at a time |
//! | waitid(P_PIDFD) for user namespaces | 5.4 | none |
#![allow(unsafe_code)]
// Words, pids and flags cross the kernel boundary in several widths; the ABI fixes which.
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

pub(crate) mod bpf;
#[cfg(feature = "layers")]
pub(crate) mod btrfs;
mod child;
pub(crate) mod clone;
pub(crate) mod dumpable;
pub(crate) mod init;
pub(crate) mod landlock;
#[allow(dead_code, reason = "spawning and layers take the rest of the calls")]
pub(crate) mod mount;
pub(crate) mod plan;
#[cfg(feature = "container")]
pub(crate) mod process;
pub(crate) mod raw;
#[cfg(feature = "layers")]
pub(crate) mod reflink;
pub(crate) mod root_dir;
pub(crate) mod seccomp;
pub(crate) mod signals;
#[cfg(feature = "container")]
pub(crate) mod socket;
pub(crate) mod spawn;
pub(crate) mod terminal;
pub(crate) mod user_namespace;
pub(crate) mod wait;
#[allow(dead_code, reason = "used by the feature `layers`")]
pub(crate) mod worker;
#[allow(dead_code, reason = "used by the feature `layers`")]
pub(crate) mod xattr;
