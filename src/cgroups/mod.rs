//! Quotas: how much a group of processes may use, what it does use, and what happens to it
//! ([cgroups(7)](https://man7.org/linux/man-pages/man7/cgroups.7.html)).
//!
//! [`Limits`] say how much, a [`Cgroup`] holds processes to them, [`Stats`] count, [`Events`] report.
//! The same code works with cgroup v2, with v1, and with both side by side (hybrid): which it is, is found out from
//! what is mounted, once in the life of the process.
//!
//! | Feature | Kernel | Without it |
//! |---|---|---|
//! | [`Cgroup::kill`] in one step | 5.14, v2 or hybrid | freeze, signal and repeat |
//! | [`Cgroup::freeze`] | 5.2, v2 or hybrid | the v1 freezer |
//! | [`Limits::cpu_burst`] | 5.14 | error |
//! | [`Limits::devices`] on v2 | 5.1 | error |
//! | [`Cgroup::psi`], [`Stats::pressure`] | 5.2, v2 or hybrid | error, `None` |
//! | [`MemoryStats::peak`] on v2 | 5.19 | `None` |

#[cfg(feature = "systemd")]
mod bus;
mod cgroup;
mod controller;
mod device_program;
mod devices;
mod dir;
mod events;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod layout;
mod limits;
mod name;
mod node;
mod oom;
mod plan;
mod settings;
mod stats;
#[cfg(feature = "systemd")]
mod systemd;

#[allow(unused_imports, reason = "for namespaces::Command")]
pub(crate) use cgroup::Attach;
pub use cgroup::Cgroup;
pub use devices::{DeviceAccess, DeviceKind, DeviceRules};
pub use events::{Event, Events, PsiTrigger, Resource, Threshold};
pub use limits::{IoLimit, Limits};
#[cfg(feature = "container")]
pub(crate) use oom::OomWatch;
pub use stats::{
    CpuStats, HugetlbStats, IoStats, MemoryStats, PidsStats, Pressure, PressureStats, Stall, Stats,
    SwapStats,
};
#[cfg(feature = "systemd")]
pub use systemd::{Bus, delegate_by_systemd};
