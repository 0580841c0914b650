//! Published attacks on container engines, mounted against this one. Each test carries the numbers of the
//! advisories it stands for; `image.rs` has what an attacker makes, `../common/attack.rs` the racer and the canary.
//!
//! What has no test, because there is nothing to attack:
//!
//! | advisory | why |
//! |---|---|
//! | CVE-2016-8659, 2020-5291, 2019-12439, 2026-41163 (bubblewrap), 2017-5985, 2018-6556, 2022-47952 (lxc-user-nic) | no set-user-id program is shipped, nor one that helps |
//! | CVE-2021-43784, the netlink part (runc) | there is no bootstrap message: the child reads the parent's memory. The lengths are tested all the same |
//! | CVE-2024-0132, 2025-23266, 2025-23267 (NVIDIA toolkit) | there are no hooks |
//! | CVE-2025-24965 (crun-krun) | no file is written into a root file system, but into a fresh tmpfs only |
//! | CVE-2020-15257 (containerd-shim) | there is no shim and no control socket; that no abstract socket appears is tested |
//! | CVE-2018-15664, 2019-14271 (docker cp) | `tests/container/copy_races.rs` has the tests, with a container that swaps the paths; no program or library of an image is ever run by the host |
//! | CVE-2014-6407, 2014-9357, 2014-9358 (Docker), 2022-23648, 2024-5154 | archives, image volumes and generated `/etc` files are not there yet |
//! | CVE-2024-1753, 2024-9407, 2024-23651 to 23653 (builders) | there is no builder yet |
//! | CVE-2021-41091, 2021-41103 (state directories) | a process leaves no directory behind |
//! | CVE-2015-1331 (LXC's lock directory) | id ranges are locked through sockets or root's own directory, see `UserNamespace` |

#![allow(clippy::unwrap_used, reason = "the helpers are test code too")]

#[path = "../common/mod.rs"]
mod common;

mod image;
mod joiner;
mod paths;
mod privileges;
mod program;
mod races;
mod users;
