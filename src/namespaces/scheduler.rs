//! CPU scheduling and I/O priority of a process.

use std::time::Duration;

use crate::error::{Error, Result};

/// How a process gets the CPU, see `sched(7)`.
///
/// ```
/// use coracle::namespaces::Scheduler;
/// use std::time::Duration;
///
/// Scheduler::other().nice(10);
/// Scheduler::fifo(20).reset_on_fork(true);
/// Scheduler::deadline(Duration::from_millis(2), Duration::from_millis(10), Duration::from_millis(10));
/// ```
///
/// Real-time and deadline scheduling, and a lower nice value than the caller's, need `CAP_SYS_NICE` or resource
/// limits that permit them. Values out of range are reported when the process is spawned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scheduler {
    policy: Policy,
    reset_on_fork: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Policy {
    Other { nice: i32 },
    Batch { nice: i32 },
    Idle,
    Fifo { priority: u32 },
    RoundRobin { priority: u32 },
    Deadline { runtime: Duration, deadline: Duration, period: Duration },
}

const SCHED_FLAG_RESET_ON_FORK: u64 = 1;

impl Scheduler {
    const fn new(policy: Policy) -> Self {
        Self { policy, reset_on_fork: false }
    }

    /// The usual time sharing.
    pub const fn other() -> Self {
        Self::new(Policy::Other { nice: 0 })
    }

    /// Time sharing for work that is never interactive.
    pub const fn batch() -> Self {
        Self::new(Policy::Batch { nice: 0 })
    }

    /// Only when nobody else wants the CPU.
    pub const fn idle() -> Self {
        Self::new(Policy::Idle)
    }

    /// Real time, until it blocks; priority 1 to 99.
    pub const fn fifo(priority: u32) -> Self {
        Self::new(Policy::Fifo { priority })
    }

    /// Real time, in turns with others of the same priority, 1 to 99.
    pub const fn round_robin(priority: u32) -> Self {
        Self::new(Policy::RoundRobin { priority })
    }

    /// `runtime` of CPU in every `period`, done `deadline` after its start; `runtime <= deadline <= period`. A
    /// process under it can only fork with [`reset_on_fork`](Self::reset_on_fork).
    pub const fn deadline(runtime: Duration, deadline: Duration, period: Duration) -> Self {
        Self::new(Policy::Deadline { runtime, deadline, period })
    }

    /// The weight under time sharing: -20, most, to 19, least. The other policies have none and ignore it.
    #[must_use]
    pub const fn nice(mut self, value: i32) -> Self {
        match &mut self.policy {
            Policy::Other { nice } | Policy::Batch { nice } => *nice = value,
            _ => {}
        }
        self
    }

    /// Whether children start with the usual time sharing again.
    #[must_use]
    pub const fn reset_on_fork(mut self, yes: bool) -> Self {
        self.reset_on_fork = yes;
        self
    }

    /// The argument of `sched_setattr(2)`.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for values that the kernel refuses on every machine.
    pub(crate) fn attr(&self) -> Result<libc::sched_attr> {
        let mut attr = libc::sched_attr {
            size: 48, // SCHED_ATTR_SIZE_VER0
            sched_policy: 0,
            sched_flags: if self.reset_on_fork { SCHED_FLAG_RESET_ON_FORK } else { 0 },
            sched_nice: 0,
            sched_priority: 0,
            sched_runtime: 0,
            sched_deadline: 0,
            sched_period: 0,
        };
        // SCHED_NORMAL, SCHED_FIFO, SCHED_RR, SCHED_BATCH, SCHED_IDLE, SCHED_DEADLINE
        attr.sched_policy = match self.policy {
            Policy::Other { .. } => 0,
            Policy::Fifo { .. } => 1,
            Policy::RoundRobin { .. } => 2,
            Policy::Batch { .. } => 3,
            Policy::Idle => 5,
            Policy::Deadline { .. } => 6,
        };
        match self.policy {
            Policy::Other { nice } | Policy::Batch { nice } => {
                validate_nice(nice)?;
                attr.sched_nice = nice;
            }
            Policy::Idle => {}
            Policy::Fifo { priority } | Policy::RoundRobin { priority } => {
                if !(1..=99).contains(&priority) {
                    return Err(Error::invalid(format!(
                        "real-time priority {priority}, there are 1 to 99"
                    )));
                }
                attr.sched_priority = priority;
            }
            Policy::Deadline { runtime, deadline, period } => {
                // The kernel counts in units of 1,024 ns and refuses a runtime below one of them.
                if runtime < Duration::from_nanos(1024) || runtime > deadline || deadline > period {
                    return Err(Error::invalid(format!(
                        "deadline scheduling with {runtime:?} of runtime, {deadline:?} to the deadline and a period of {period:?}"
                    ))
                    .with_hint("it takes 1.024 microseconds <= runtime <= deadline <= period"));
                }
                attr.sched_runtime = nanoseconds(runtime)?;
                attr.sched_deadline = nanoseconds(deadline)?;
                attr.sched_period = nanoseconds(period)?;
            }
        }
        Ok(attr)
    }
}

/// # Errors
///
/// `InvalidInput` for a nice value outside -20 to 19, which the kernel would silently clamp.
pub(crate) fn validate_nice(nice: i32) -> Result<()> {
    if (-20..=19).contains(&nice) {
        Ok(())
    } else {
        Err(Error::invalid(format!("nice value {nice}, there are -20 to 19")))
    }
}

/// The kernel refuses durations with the top bit set.
fn nanoseconds(duration: Duration) -> Result<u64> {
    i64::try_from(duration.as_nanos())
        .map(i64::cast_unsigned)
        .map_err(|_| Error::invalid(format!("deadline scheduling with {duration:?}")))
}

/// The order in which a process gets the disk, see `ioprio_set(2)`. It matters to I/O schedulers that know
/// priorities, such as BFQ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IoPriority {
    class: u16,
    level: u16,
}

impl IoPriority {
    /// Before everyone else; level 0, first, to 7. Needs `CAP_SYS_ADMIN` or `CAP_SYS_NICE`.
    pub const fn real_time(level: u16) -> Self {
        Self { class: 1, level }
    }

    /// The usual class; level 0, first, to 7.
    pub const fn best_effort(level: u16) -> Self {
        Self { class: 2, level }
    }

    /// Only when nobody else wants the disk.
    pub const fn idle() -> Self {
        Self { class: 3, level: 0 }
    }

    /// The argument of `ioprio_set(2)`.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a level above 7.
    pub(crate) fn raw(self) -> Result<i32> {
        const CLASS_SHIFT: u32 = 13;
        if self.level > 7 {
            return Err(Error::invalid(format!(
                "io priority level {}, there are 0 to 7",
                self.level
            )));
        }
        Ok(i32::from(self.class) << CLASS_SHIFT | i32::from(self.level))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn attributes_are_as_the_kernel_takes_them() {
        let ms = Duration::from_millis;
        for (scheduler, policy, nice, priority, flags) in [
            (Scheduler::other(), libc::SCHED_OTHER, 0, 0, 0),
            (Scheduler::other().nice(-20), libc::SCHED_OTHER, -20, 0, 0),
            (Scheduler::batch().nice(19), libc::SCHED_BATCH, 19, 0, 0),
            (Scheduler::idle().nice(5), libc::SCHED_IDLE, 0, 0, 0),
            (Scheduler::fifo(1), libc::SCHED_FIFO, 0, 1, 0),
            (Scheduler::round_robin(99).reset_on_fork(true), libc::SCHED_RR, 0, 99, 1),
            (Scheduler::deadline(ms(1), ms(2), ms(3)), libc::SCHED_DEADLINE, 0, 0, 0),
        ] {
            let attr = scheduler.attr().unwrap();
            assert_eq!(attr.size as usize, size_of::<libc::sched_attr>());
            assert_eq!(attr.sched_policy.cast_signed(), policy);
            assert_eq!(
                (attr.sched_nice, attr.sched_priority, attr.sched_flags),
                (nice, priority, flags)
            );
        }
        let attr = Scheduler::deadline(ms(1), ms(2), ms(3)).attr().unwrap();
        assert_eq!(
            (attr.sched_runtime, attr.sched_deadline, attr.sched_period),
            (1_000_000, 2_000_000, 3_000_000)
        );
    }

    #[test]
    fn values_out_of_range_are_named() {
        let ms = Duration::from_millis;
        for (scheduler, expected) in [
            (Scheduler::other().nice(20), "nice value 20"),
            (Scheduler::batch().nice(-21), "nice value -21"),
            (Scheduler::fifo(0), "priority 0"),
            (Scheduler::round_robin(100), "priority 100"),
            (Scheduler::deadline(ms(3), ms(2), ms(5)), "3ms of runtime"),
            (Scheduler::deadline(ms(1), ms(6), ms(5)), "6ms to the deadline"),
            (Scheduler::deadline(ms(0), ms(6), ms(6)), "0ns of runtime"),
            (Scheduler::deadline(ms(1), ms(6), Duration::MAX), "deadline scheduling"),
        ] {
            let err = scheduler.attr().err().unwrap();
            assert_eq!(err.kind(), ErrorKind::InvalidInput);
            assert!(err.to_string().contains(expected), "{err}");
        }
    }

    #[test]
    fn io_priorities() {
        assert_eq!(IoPriority::real_time(0).raw().unwrap(), 1 << 13);
        assert_eq!(IoPriority::best_effort(7).raw().unwrap(), 2 << 13 | 7);
        assert_eq!(IoPriority::idle().raw().unwrap(), 3 << 13);
        assert!(IoPriority::best_effort(8).raw().is_err());
    }
}
