//! What a group of processes may use at most.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use super::controller::Controllers;
use super::devices::DeviceRules;
use crate::error::{Context, Error, Result};

/// The smallest memory limit that is accepted: below it the kernel cannot even start a program.
const SMALLEST_MEMORY: u64 = 512 * 1024;

/// How much a [`Cgroup`](super::Cgroup) and everything in it may use. What is not set is not limited.
///
/// One value for every cgroup version: the units are those of v2, and v1 gets the nearest file. A limit that
/// the machine cannot enforce is an error when the cgroup is made, never left out.
///
/// ```
/// use coracle::{MIB, cgroups::Limits};
///
/// let limits = Limits::new().memory(256 * MIB).cpus(0.5).pids(64);
/// ```
///
/// Values are checked when they are used: [`Cgroup::create`](super::Cgroup::create) and
/// [`Cgroup::set`](super::Cgroup::set) name the one that makes no sense.
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use = "limits do nothing until a cgroup or a command takes them"]
pub struct Limits {
    pub(super) memory: Option<u64>,
    pub(super) memory_high: Option<u64>,
    pub(super) memory_low: Option<u64>,
    pub(super) swap: Option<u64>,
    pub(super) cpus: Option<f64>,
    pub(super) cpu_weight: Option<u64>,
    pub(super) cpu_burst: Option<Duration>,
    pub(super) cpu_period: Option<Duration>,
    pub(super) cpuset_cpus: Option<String>,
    pub(super) cpuset_mems: Option<String>,
    pub(super) pids: Option<u64>,
    pub(super) io_weight: Option<u64>,
    pub(super) io: Vec<IoLimit>,
    pub(super) hugetlb: Vec<(u64, u64)>,
    pub(super) devices: Option<DeviceRules>,
    pub(super) unified: Vec<(String, String)>,
    pub(super) accounting: bool,
}

impl Limits {
    /// No limit at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// Memory in bytes, page cache included; `u64::MAX` lifts the limit. More than that, and the kernel
    /// first drops caches, then kills a process of the group (`memory.max`, `memory.limit_in_bytes`).
    ///
    /// A new cgroup with this limit gets no swap space unless [`swap`](Self::swap) says so: the limit is
    /// what it says, and who exceeds it is killed rather than paged out.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// The amount of memory above which the group is slowed down and reclaimed from, but not killed
    /// (`memory.high`, v2 only).
    pub fn memory_high(mut self, bytes: u64) -> Self {
        self.memory_high = Some(bytes);
        self
    }

    /// The amount of memory that is taken from the group only if nothing else can be reclaimed
    /// (`memory.low`; on v1 the nearest is `memory.soft_limit_in_bytes`).
    pub fn memory_low(mut self, bytes: u64) -> Self {
        self.memory_low = Some(bytes);
        self
    }

    /// Swap space in bytes, in addition to memory; `u64::MAX` lifts the limit (`memory.swap.max`; on v1
    /// `memory.memsw.limit_in_bytes` is set to the sum, so there [`memory`](Self::memory) must be given too).
    pub fn swap(mut self, bytes: u64) -> Self {
        self.swap = Some(bytes);
        self
    }

    /// How many cpus' worth of time, at least 0.001: `0.5` is half a cpu, `2.0` is two, however many
    /// the machine has (`cpu.max`, `cpu.cfs_quota_us`).
    pub fn cpus(mut self, cpus: f64) -> Self {
        self.cpus = Some(cpus);
        self
    }

    /// The share of cpu time relative to other groups when there is not enough, 1 to 10000; a group that
    /// says nothing has 100 (`cpu.weight`, `cpu.shares`).
    pub fn cpu_weight(mut self, weight: u64) -> Self {
        self.cpu_weight = Some(weight);
        self
    }

    /// Time left over from earlier periods that may be used on top of [`cpus`](Self::cpus), at most one
    /// period's quota (`cpu.max.burst`, `cpu.cfs_burst_us`; Linux 5.14).
    pub fn cpu_burst(mut self, time: Duration) -> Self {
        self.cpu_burst = Some(time);
        self
    }

    /// The time over which [`cpus`](Self::cpus) is meted out, 1 ms to 1 s. The default of 100 ms is right
    /// for throughput; a shorter one has shorter pauses.
    pub fn cpu_period(mut self, period: Duration) -> Self {
        self.cpu_period = Some(period);
        self
    }

    /// The cpus to run on, as a list of numbers and ranges: `"0-3,8"`
    /// ([cpuset(7)](https://man7.org/linux/man-pages/man7/cpuset.7.html), "List format").
    pub fn cpuset_cpus(mut self, list: impl Into<String>) -> Self {
        self.cpuset_cpus = Some(list.into());
        self
    }

    /// The NUMA nodes to take memory from, in the same form as [`cpuset_cpus`](Self::cpuset_cpus).
    pub fn cpuset_mems(mut self, list: impl Into<String>) -> Self {
        self.cpuset_mems = Some(list.into());
        self
    }

    /// The number of processes and threads at one time, at least 1; `u64::MAX` lifts the limit (`pids.max`).
    pub fn pids(mut self, count: u64) -> Self {
        self.pids = Some(count);
        self
    }

    /// The share of disk time relative to other groups, 1 to 10000, where the disk's scheduler knows shares
    /// (`io.weight`, or BFQ's own file in which anything above 1000 counts as 1000).
    pub fn io_weight(mut self, weight: u64) -> Self {
        self.io_weight = Some(weight);
        self
    }

    /// Limits the traffic with one block device (`io.max`, `blkio.throttle.*`); may be called for several.
    /// On v1 only reads and direct or synchronous writes are held, since the kernel does not know there
    /// who dirtied a page.
    pub fn io_limit(mut self, limit: IoLimit) -> Self {
        self.io.push(limit);
        self
    }

    /// Memory in huge pages of `page_size` bytes (such as 2 MiB), in bytes (`hugetlb.2MB.max`).
    pub fn hugetlb(mut self, page_size: u64, bytes: u64) -> Self {
        self.hugetlb.push((page_size, bytes));
        self
    }

    /// The device nodes that may be opened and made.
    pub fn devices(mut self, rules: DeviceRules) -> Self {
        self.devices = Some(rules);
        self
    }

    /// Writes `value` to the v2 file `key` as it stands, for what has no method here: `("memory.oom.group", "1")`.
    /// An error where that controller is not on v2.
    pub fn unified(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.unified.push((key.into(), value.into()));
        self
    }

    /// Counts cpu time, memory, processes and disk traffic even where nothing limits them, so that
    /// [`Cgroup::stats`](super::Cgroup::stats) has them all and limits can be added later.
    pub fn accounting(mut self) -> Self {
        self.accounting = true;
        self
    }

    /// The controllers these limits cannot do without.
    pub(super) fn controllers(&self) -> Controllers {
        let mut set = Controllers::empty();
        set.set(
            Controllers::MEMORY,
            self.memory.or(self.memory_high).or(self.memory_low).or(self.swap).is_some(),
        );
        set.set(
            Controllers::CPU,
            self.cpus.is_some()
                || self.cpu_weight.is_some()
                || self.cpu_burst.is_some()
                || self.cpu_period.is_some(),
        );
        set.set(Controllers::CPUSET, self.cpuset_cpus.is_some() || self.cpuset_mems.is_some());
        set.set(Controllers::PIDS, self.pids.is_some());
        set.set(Controllers::IO, self.io_weight.is_some() || !self.io.is_empty());
        set.set(Controllers::HUGETLB, !self.hugetlb.is_empty());
        set.set(Controllers::DEVICES, self.devices.is_some());
        for (key, _) in &self.unified {
            set |= Controllers::of_key(key);
        }
        set
    }

    /// Refuses what cannot be meant, before anything is made.
    pub(super) fn check(&self) -> Result<()> {
        if let Some(bytes) = self.memory.filter(|b| *b < SMALLEST_MEMORY) {
            return Err(refuse(format!("memory limit of {bytes} bytes")).with_hint(
                "the smallest a program can start in is 512 KiB; the unit is bytes: 256 * coracle::MIB",
            ));
        }
        if let Some(cpus) = self.cpus {
            if !cpus.is_finite() || cpus < 0.001 {
                return Err(refuse(format!("limit of {cpus} cpus"))
                    .with_hint("at least 0.001; leave the limit away for as many as there are"));
            }
            if cpus > 1_000_000.0 {
                return Err(refuse(format!("limit of {cpus} cpus")));
            }
        }
        weight("cpu", self.cpu_weight)?;
        weight("io", self.io_weight)?;
        if let Some(period) = self.cpu_period {
            if !(Duration::from_millis(1)..=Duration::from_secs(1)).contains(&period) {
                return Err(refuse(format!("cpu period of {period:?}"))
                    .with_hint("the kernel takes 1 ms to 1 s"));
            }
            if self.cpus.is_none() {
                return Err(refuse("cpu period without a number of cpus"));
            }
            if self.cpus.is_some_and(|cpus| cpus * period.as_secs_f64() < 0.001) {
                return Err(refuse(format!("cpu period of {period:?} for so few cpus"))
                    .with_hint("the kernel metes out at least 1 ms in a period"));
            }
        }
        if self.cpu_burst.is_some() && self.cpus.is_none() {
            return Err(refuse("cpu burst without a number of cpus"));
        }
        list("cpuset_cpus", self.cpuset_cpus.as_deref())?;
        list("cpuset_mems", self.cpuset_mems.as_deref())?;
        if self.pids == Some(0) {
            return Err(refuse("limit of 0 processes")
                .with_hint("the first process counts too: at least 1"));
        }
        for (page_size, _) in &self.hugetlb {
            if !page_size.is_power_of_two() || *page_size < 4096 {
                return Err(refuse(format!("huge page size of {page_size} bytes"))
                    .with_hint("sizes are those in /sys/kernel/mm/hugepages, in bytes"));
            }
        }
        for limit in &self.io {
            if [limit.rbps, limit.wbps, limit.riops, limit.wiops].contains(&Some(0)) {
                return Err(refuse(format!(
                    "traffic limit of 0 on device {}:{}",
                    limit.major, limit.minor
                )));
            }
        }
        for (key, value) in &self.unified {
            let odd = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
            if !key.contains('.') || key.contains("..") || key.contains(odd) || value.contains('\0')
            {
                return Err(refuse(format!("cgroup file {key:?}"))
                    .with_hint("name a v2 interface file, such as memory.oom.group"));
            }
        }
        Ok(())
    }

    /// Quota and period in microseconds.
    pub(super) fn cpu_quota(&self) -> Option<(u64, u64)> {
        let cpus = self.cpus?;
        let period = self.cpu_period.unwrap_or({
            // The kernel metes out no less than a millisecond in a period.
            Duration::from_millis(if cpus < 0.01 { 1000 } else { 100 })
        });
        let period = micros(period);
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "both are checked to be small and positive"
        )]
        let quota = (cpus * period as f64).round() as u64;
        Some((quota.max(1000), period))
    }
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn refuse(what: impl std::fmt::Display) -> Error {
    Error::invalid(format!("accept a {what}"))
}

fn weight(what: &str, value: Option<u64>) -> Result<()> {
    match value {
        Some(value) if !(1..=10_000).contains(&value) => {
            Err(refuse(format!("{what} weight of {value}"))
                .with_hint("weights are 1 to 10000; a group that says nothing has 100"))
        }
        _ => Ok(()),
    }
}

/// Checks the list format of cpuset(7): `0-3,8`, `0-31:2/4`.
fn list(what: &str, value: Option<&str>) -> Result<()> {
    let Some(value) = value else { return Ok(()) };
    let number = |text: &str| text.parse::<u32>().ok().filter(|_| !text.starts_with('+'));
    let part = |part: &str| -> Option<()> {
        let (range, stride) = part.split_once(':').map_or((part, None), |(r, s)| (r, Some(s)));
        match range.split_once('-') {
            Some((from, to)) => (number(from)? <= number(to)?).then_some(())?,
            None => _ = number(range)?,
        }
        if let Some(stride) = stride {
            let (used, group) = stride.split_once('/')?;
            (number(used)? <= number(group)?).then_some(())?;
        }
        Some(())
    };
    if value.split(',').all(|p| part(p).is_some()) {
        return Ok(());
    }
    Err(refuse(format!("{what} of {value:?}")).with_hint("numbers and ranges with commas: 0-3,8"))
}

/// How fast one block device may be used; see [`Limits::io_limit`].
///
/// ```
/// use coracle::{MIB, cgroups::{IoLimit, Limits}};
///
/// let limits = Limits::new().io_limit(IoLimit::new(8, 0).rbps(10 * MIB).wiops(200));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "container", derive(serde::Serialize, serde::Deserialize))]
#[must_use = "it does nothing until Limits::io_limit takes it"]
pub struct IoLimit {
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) rbps: Option<u64>,
    pub(super) wbps: Option<u64>,
    pub(super) riops: Option<u64>,
    pub(super) wiops: Option<u64>,
}

impl IoLimit {
    /// No limit yet, for the whole disk with these device numbers: a partition cannot be limited.
    pub fn new(major: u32, minor: u32) -> Self {
        Self { major, minor, rbps: None, wbps: None, riops: None, wiops: None }
    }

    /// No limit yet, for the disk behind a device file: `/dev/sda`.
    ///
    /// # Errors
    ///
    /// `NotFound`; `InvalidInput` for what is no block device, and for a partition, of which the kernel limits only the whole
    /// disk.
    pub fn of_disk(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let attempt = || format!("limit the disk {}", path.display());
        let found = path.metadata().context(attempt)?;
        if !found.file_type().is_block_device() {
            return Err(Error::invalid("it is no block device").context(attempt()));
        }
        let (major, minor) = (libc::major(found.rdev()), libc::minor(found.rdev()));
        if Path::new(&format!("/sys/dev/block/{major}:{minor}/partition")).exists() {
            let message = "it is a partition, and only whole disks can be limited";
            return Err(Error::invalid(message).context(attempt()));
        }
        Ok(Self::new(major, minor))
    }

    /// The disk's device numbers.
    pub fn numbers(&self) -> (u32, u32) {
        (self.major, self.minor)
    }

    /// These, where they are set, in place of those of `older`.
    #[cfg(feature = "container")]
    pub(crate) fn over(self, older: Self) -> Self {
        Self {
            rbps: self.rbps.or(older.rbps),
            wbps: self.wbps.or(older.wbps),
            riops: self.riops.or(older.riops),
            wiops: self.wiops.or(older.wiops),
            ..self
        }
    }

    /// Bytes read a second.
    pub fn rbps(mut self, bytes: u64) -> Self {
        self.rbps = Some(bytes);
        self
    }

    /// Bytes written a second.
    pub fn wbps(mut self, bytes: u64) -> Self {
        self.wbps = Some(bytes);
        self
    }

    /// Read operations a second.
    pub fn riops(mut self, operations: u64) -> Self {
        self.riops = Some(operations);
        self
    }

    /// Write operations a second.
    pub fn wiops(mut self, operations: u64) -> Self {
        self.wiops = Some(operations);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn what_is_no_disk_is_told() {
        for (path, kind, why) in [
            ("/dev/null", ErrorKind::InvalidInput, "it is no block device"),
            ("/no/such", ErrorKind::NotFound, "ENOENT"),
        ] {
            let err = IoLimit::of_disk(path).unwrap_err();
            assert_eq!(err.kind(), kind);
            let text = format!("{err:#}");
            assert!(text.contains(path) && text.contains(why), "{text}");
        }
    }

    #[test]
    fn absurd_values_are_refused_by_name() {
        let l = Limits::new;
        let table = [
            (l().memory(0), "memory limit of 0 bytes"),
            (l().memory(SMALLEST_MEMORY - 1), "memory limit"),
            (l().cpus(0.0), "limit of 0 cpus"),
            (l().cpus(-1.0), "limit of -1 cpus"),
            (l().cpus(f64::NAN), "limit of NaN cpus"),
            (l().cpus(f64::INFINITY), "limit of inf cpus"),
            (l().cpus(1e300), "cpus"),
            (l().cpu_weight(0), "cpu weight of 0"),
            (l().io_weight(10_001), "io weight of 10001"),
            (l().cpus(1.0).cpu_period(Duration::from_micros(999)), "cpu period of 999"),
            (l().cpu_period(Duration::from_millis(5)), "cpu period without"),
            (l().cpus(0.01).cpu_period(Duration::from_millis(1)), "for so few cpus"),
            (l().cpu_burst(Duration::from_millis(5)), "cpu burst without"),
            (l().cpuset_cpus(""), "cpuset_cpus of \"\""),
            (l().cpuset_cpus("0-"), "cpuset_cpus of \"0-\""),
            (l().cpuset_cpus("3-1"), "cpuset_cpus"),
            (l().cpuset_cpus("+1"), "cpuset_cpus"),
            (l().cpuset_cpus("0\n1"), "cpuset_cpus"),
            (l().cpuset_mems("0,,1"), "cpuset_mems"),
            (l().cpuset_mems("0-7:3"), "cpuset_mems"),
            (l().pids(0), "limit of 0 processes"),
            (l().hugetlb(3000, 1), "huge page size of 3000"),
            (l().io_limit(IoLimit::new(8, 0).wbps(0)), "device 8:0"),
            (l().unified("../memory.max", "1"), "../memory.max"),
            (l().unified("memory", "1"), "\"memory\""),
            (l().unified("memory.max", "1\0"), "memory.max"),
        ];
        for (limits, expected) in table {
            let err = limits.check().unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidInput, "{limits:?}");
            assert!(err.to_string().contains(expected), "{err} should name {expected}");
        }
    }

    #[test]
    fn sensible_values_pass() {
        let limits = Limits::new()
            .memory(SMALLEST_MEMORY)
            .swap(0)
            .cpus(1000.0)
            .cpu_weight(10_000)
            .cpuset_cpus("0-3,8,16-31:2/4")
            .cpuset_mems("0")
            .pids(1)
            .hugetlb(2 << 20, 0)
            .unified("cgroup.max.descendants", "10");
        limits.check().unwrap();
        Limits::new().check().unwrap();
    }

    #[test]
    fn only_the_controllers_that_are_asked_for_are_needed() {
        assert_eq!(Limits::new().controllers(), Controllers::empty());
        assert_eq!(
            Limits::new().swap(0).cpus(1.0).unified("pids.max", "3").controllers(),
            Controllers::MEMORY | Controllers::CPU | Controllers::PIDS
        );
    }

    #[test]
    fn a_quota_is_a_share_of_the_period_and_never_below_what_the_kernel_takes() {
        assert_eq!(Limits::new().cpus(0.5).cpu_quota(), Some((50_000, 100_000)));
        assert_eq!(Limits::new().cpus(0.001).cpu_quota(), Some((1000, 1_000_000)));
        let fine = Limits::new().cpus(2.0).cpu_period(Duration::from_millis(10));
        assert_eq!(fine.cpu_quota(), Some((20_000, 10_000)));
        assert_eq!(Limits::new().cpu_quota(), None);
    }
}
