//! What a group uses.

use std::time::Duration;

use super::cgroup::Cgroup;
use super::controller::Controllers;
use super::node::Node;
use crate::error::{Context, ErrorKind, Result, SyscallError};

/// What the processes of a [`Cgroup`] use and have used. `None` is a value that is not counted: the cgroup was made
/// without that controller (see [`Limits::accounting`](super::Limits::accounting)), or the kernel has no such counter.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Cpu time.
    pub cpu: CpuStats,
    /// Memory, page cache included.
    pub memory: MemoryStats,
    /// Swap space.
    pub swap: SwapStats,
    /// Processes and threads.
    pub pids: PidsStats,
    /// Traffic with each block device.
    pub io: Vec<IoStats>,
    /// Huge pages of each size.
    pub hugetlb: Vec<HugetlbStats>,
    /// How long the processes had to wait.
    pub pressure: PressureStats,
}

/// Cpu time used and withheld.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CpuStats {
    /// Time spent on cpus, altogether.
    pub usage: Option<Duration>,
    /// In user mode.
    pub user: Option<Duration>,
    /// In the kernel.
    pub system: Option<Duration>,
    /// Periods in which a process wanted to run.
    pub periods: Option<u64>,
    /// Periods in which the quota ran out.
    pub throttled_periods: Option<u64>,
    /// Time that processes stood still because of the quota, summed over the cpus.
    pub throttled: Option<Duration>,
}

/// Bytes of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryStats {
    /// In use now.
    pub current: Option<u64>,
    /// The most that was ever in use (v2: Linux 5.19).
    pub peak: Option<u64>,
    /// The limit; `None` also if there is none.
    pub limit: Option<u64>,
    /// Memory of the programs themselves.
    pub anon: Option<u64>,
    /// Page cache, tmpfs included.
    pub file: Option<u64>,
    /// Processes killed because memory ran out (v1: Linux 4.13).
    pub oom_kills: Option<u64>,
}

/// Bytes of swap space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SwapStats {
    /// In use now.
    pub current: Option<u64>,
    /// The limit; `None` also if there is none.
    pub limit: Option<u64>,
}

/// The number of processes and threads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PidsStats {
    /// Alive now.
    pub current: Option<u64>,
    /// The limit; `None` also if there is none.
    pub limit: Option<u64>,
    /// How often a fork failed because of a limit, here or (v2) above.
    pub refused: Option<u64>,
}

/// The traffic with one block device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IoStats {
    /// The device's numbers.
    pub major: u32,
    /// See `major`.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Read operations.
    pub reads: u64,
    /// Write operations.
    pub writes: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HugetlbStats {
    /// The size of a page.
    pub page_size: u64,
    /// In use now.
    pub current: u64,
    /// The limit; `None` if there is none.
    pub limit: Option<u64>,
    /// How often an allocation failed because of the limit.
    pub refused: u64,
}

/// Pressure stall information for each resource; v2 (also beside v1), Linux 4.20 with PSI enabled.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct PressureStats {
    /// Waiting for a cpu.
    pub cpu: Option<Pressure>,
    /// Waiting for memory to be reclaimed or paged in.
    pub memory: Option<Pressure>,
    /// Waiting for disks.
    pub io: Option<Pressure>,
}

/// Time lost to waiting for one resource
/// ([PSI](https://docs.kernel.org/accounting/psi.html)).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Pressure {
    /// At least one process had to wait.
    pub some: Stall,
    /// All processes had to wait at the same time.
    pub full: Stall,
}

/// Time in which processes were held up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Stall {
    /// Percent of the last 10 seconds.
    pub avg10: f64,
    /// Percent of the last minute.
    pub avg60: f64,
    /// Percent of the last five minutes.
    pub avg300: f64,
    /// Altogether.
    pub total: Duration,
}

impl Cgroup {
    /// Reads what the processes use now, and what they have used since the cgroup was made; those that ended
    /// included. Each file is read once, but not all at the same instant.
    ///
    /// # Errors
    /// `NotFound` once the cgroup has been removed.
    pub fn stats(&self) -> Result<Stats> {
        let reading = || format!("read the usage of cgroup {}", self.name());
        let mut stats = Stats {
            cpu: self.cpu().context(reading)?,
            memory: self.memory().context(reading)?,
            swap: self.swap().context(reading)?,
            pids: self.pids().context(reading)?,
            io: self.io().context(reading)?,
            hugetlb: self.hugetlb().context(reading)?,
            pressure: PressureStats::default(),
        };
        if let Some(node) = self.unified() {
            let pressure = |file| -> Result<_, SyscallError> {
                Ok(read(node, file)?.and_then(|text| parse_pressure(&text)))
            };
            stats.pressure = PressureStats {
                cpu: pressure("cpu.pressure").context(reading)?,
                memory: pressure("memory.pressure").context(reading)?,
                io: pressure("io.pressure").context(reading)?,
            };
        }
        if self.nodes().all(|node| !node.has("cgroup.procs")) {
            return Err(crate::Error::new(ErrorKind::NotFound, reading()));
        }
        Ok(stats)
    }

    fn cpu(&self) -> Result<CpuStats, SyscallError> {
        let mut cpu = CpuStats::default();
        if let Some(node) = self.unified()
            && let Some(text) = read(node, "cpu.stat")?
        {
            let time = |name| field(&text, name).map(Duration::from_micros);
            cpu.usage = time("usage_usec");
            cpu.user = time("user_usec");
            cpu.system = time("system_usec");
            cpu.periods = field(&text, "nr_periods");
            cpu.throttled_periods = field(&text, "nr_throttled");
            cpu.throttled = time("throttled_usec");
        }
        if let Some(node) = self.legacy(Controllers::CPUACCT) {
            let time = |file| Ok(number(node, file)?.map(Duration::from_nanos));
            cpu.usage = time("cpuacct.usage")?.or(cpu.usage);
            cpu.user = time("cpuacct.usage_user")?.or(cpu.user);
            cpu.system = time("cpuacct.usage_sys")?.or(cpu.system);
        }
        if let Some(node) = self.legacy(Controllers::CPU)
            && let Some(text) = read(node, "cpu.stat")?
        {
            cpu.periods = field(&text, "nr_periods");
            cpu.throttled_periods = field(&text, "nr_throttled");
            cpu.throttled = field(&text, "throttled_time").map(Duration::from_nanos);
        }
        Ok(cpu)
    }

    fn memory(&self) -> Result<MemoryStats, SyscallError> {
        let Some(node) = self.node(Controllers::MEMORY) else { return Ok(MemoryStats::default()) };
        let stat = read(node, "memory.stat")?.unwrap_or_default();
        Ok(if node.v2 {
            MemoryStats {
                current: number(node, "memory.current")?,
                peak: number(node, "memory.peak")?,
                limit: read(node, "memory.max")?.as_deref().and_then(limit),
                anon: field(&stat, "anon"),
                file: field(&stat, "file"),
                oom_kills: read(node, "memory.events")?.and_then(|t| field(&t, "oom_kill")),
            }
        } else {
            MemoryStats {
                current: number(node, "memory.usage_in_bytes")?,
                peak: number(node, "memory.max_usage_in_bytes")?,
                limit: read(node, "memory.limit_in_bytes")?.as_deref().and_then(limit),
                anon: field(&stat, "total_rss"),
                file: field(&stat, "total_cache"),
                oom_kills: read(node, "memory.oom_control")?.and_then(|t| field(&t, "oom_kill")),
            }
        })
    }

    fn swap(&self) -> Result<SwapStats, SyscallError> {
        let Some(node) = self.node(Controllers::MEMORY) else { return Ok(SwapStats::default()) };
        if node.v2 {
            return Ok(SwapStats {
                current: number(node, "memory.swap.current")?,
                limit: read(node, "memory.swap.max")?.as_deref().and_then(limit),
            });
        }
        let stat = read(node, "memory.stat")?.unwrap_or_default();
        let of = |file| Ok(read(node, file)?.as_deref().and_then(limit));
        let (sum, memory): (Option<u64>, Option<u64>) =
            (of("memory.memsw.limit_in_bytes")?, of("memory.limit_in_bytes")?);
        Ok(SwapStats {
            current: field(&stat, "total_swap"),
            limit: sum.map(|sum| sum.saturating_sub(memory.unwrap_or(0))),
        })
    }

    fn pids(&self) -> Result<PidsStats, SyscallError> {
        let Some(node) = self.node(Controllers::PIDS) else { return Ok(PidsStats::default()) };
        Ok(PidsStats {
            current: number(node, "pids.current")?,
            limit: read(node, "pids.max")?.as_deref().and_then(limit),
            refused: read(node, "pids.events")?.and_then(|text| field(&text, "max")),
        })
    }

    fn io(&self) -> Result<Vec<IoStats>, SyscallError> {
        let Some(node) = self.node(Controllers::IO) else { return Ok(Vec::new()) };
        if node.v2 {
            return Ok(parse_io_v2(&read(node, "io.stat")?.unwrap_or_default()));
        }
        let mut bytes = "blkio.throttle.io_service_bytes_recursive";
        let mut operations = "blkio.throttle.io_serviced_recursive";
        if !node.has(bytes) {
            (bytes, operations) = ("blkio.throttle.io_service_bytes", "blkio.throttle.io_serviced");
        }
        let bytes = read(node, bytes)?.unwrap_or_default();
        Ok(parse_io_v1(&bytes, &read(node, operations)?.unwrap_or_default()))
    }

    fn hugetlb(&self) -> Result<Vec<HugetlbStats>, SyscallError> {
        let Some(node) = self.node(Controllers::HUGETLB) else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for page_size in page_sizes() {
            let page = super::settings::page_name(page_size);
            let file = |name: &str| format!("hugetlb.{page}.{name}");
            let (current, max, refused) = if node.v2 {
                let events = read(node, &file("events"))?;
                (file("current"), file("max"), events.and_then(|text| field(&text, "max")))
            } else {
                let refused = number(node, &file("failcnt"))?;
                (file("usage_in_bytes"), file("limit_in_bytes"), refused)
            };
            if let Some(current) = number(node, &current)? {
                all.push(HugetlbStats {
                    page_size,
                    current,
                    limit: read(node, &max)?.as_deref().and_then(limit),
                    refused: refused.unwrap_or(0),
                });
            }
        }
        Ok(all)
    }
}

/// The sizes of huge pages that this machine has.
fn page_sizes() -> Vec<u64> {
    let Ok(entries) = std::fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    let size = |name: &str| {
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        kib.checked_mul(1024)
    };
    let mut sizes: Vec<u64> =
        entries.flatten().filter_map(|entry| size(entry.file_name().to_str()?)).collect();
    sizes.sort_unstable();
    sizes
}

/// The file's text; `None` if this kernel does not have it or has it switched off.
fn read(node: &Node, file: &str) -> Result<Option<String>, SyscallError> {
    match node.read(file) {
        Ok(text) => Ok(Some(text)),
        Err(err) if matches!(err.errno, libc::ENOENT | libc::EOPNOTSUPP) => Ok(None),
        Err(err) => Err(err),
    }
}

fn number(node: &Node, file: &str) -> Result<Option<u64>, SyscallError> {
    Ok(read(node, file)?.and_then(|text| text.trim().parse().ok()))
}

/// The value on the line that begins with `name`.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// A limit as the kernel shows it; `None` for `max`, and for the huge number that v1 shows instead.
pub(super) fn limit(text: &str) -> Option<u64> {
    let bytes: u64 = text.trim().parse().ok()?;
    // The largest multiple of a page, whatever the size of a page (4 to 64 KiB).
    (bytes < i64::MAX as u64 - 0xffff).then_some(bytes)
}

/// `8:0 rbytes=90430464 wbytes=299008000 rios=8950 wios=1252 dbytes=0 dios=0`
pub(super) fn parse_io_v2(text: &str) -> Vec<IoStats> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = device(words.next()?)?;
        let mut io = IoStats { major, minor, ..IoStats::default() };
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let place = match name {
                "rbytes" => &mut io.read_bytes,
                "wbytes" => &mut io.written_bytes,
                "rios" => &mut io.reads,
                "wios" => &mut io.writes,
                _ => continue,
            };
            *place = value.parse().unwrap_or(0);
        }
        Some(io)
    };
    text.lines().filter_map(line).collect()
}

/// `8:0 Read 1024` in both files.
pub(super) fn parse_io_v1(bytes: &str, operations: &str) -> Vec<IoStats> {
    let mut all: Vec<IoStats> = Vec::new();
    for (text, is_bytes) in [(bytes, true), (operations, false)] {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(numbers), Some(what), Some(value)) =
                (words.next().and_then(device), words.next(), words.next())
            else {
                continue;
            };
            let at =
                all.iter().position(|io| (io.major, io.minor) == numbers).unwrap_or_else(|| {
                    all.push(IoStats { major: numbers.0, minor: numbers.1, ..IoStats::default() });
                    all.len() - 1
                });
            let io = &mut all[at];
            let place = match (what, is_bytes) {
                ("Read", true) => &mut io.read_bytes,
                ("Write", true) => &mut io.written_bytes,
                ("Read", false) => &mut io.reads,
                ("Write", false) => &mut io.writes,
                _ => continue,
            };
            *place = value.parse().unwrap_or(0);
        }
    }
    all
}

fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and `full` the same.
pub(super) fn parse_pressure(text: &str) -> Option<Pressure> {
    let stall = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
        let value = |name: &str| {
            line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        };
        Some(Stall {
            avg10: value("avg10")?.parse().ok()?,
            avg60: value("avg60")?.parse().ok()?,
            avg300: value("avg300")?.parse().ok()?,
            total: Duration::from_micros(value("total")?.parse().ok()?),
        })
    };
    // Before Linux 5.13 the cpu had no "full" line.
    Some(Pressure { some: stall("some")?, full: stall("full").unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "oom 4\noom_kill 3\noom_group_kill 1\n";
        assert_eq!(field(text, "oom_kill"), Some(3));
        assert_eq!(field(text, "oom"), Some(4));
        assert_eq!(field(text, "oo"), None);
        assert_eq!(field("oom_kill x\n", "oom_kill"), None);
    }

    #[test]
    fn no_limit_is_none_however_it_is_spelled() {
        assert_eq!(limit("max\n"), None);
        assert_eq!(limit("9223372036854771712\n"), None, "4 KiB pages");
        assert_eq!(limit("9223372036854710272\n"), None, "64 KiB pages");
        assert_eq!(limit("1048576\n"), Some(1 << 20));
        assert_eq!(limit(""), None);
    }

    #[test]
    fn traffic_of_both_versions() {
        let expected = IoStats {
            major: 8,
            minor: 16,
            read_bytes: 1459200,
            written_bytes: 314773504,
            reads: 192,
            writes: 353,
        };
        let v2 =
            "8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0\n7:0 \nx\n";
        assert_eq!(parse_io_v2(v2)[0], expected);
        let bytes = "8:16 Read 1459200\n8:16 Write 314773504\n8:16 Sync 1\n8:16 Total 9\nTotal 9\n";
        let operations = "8:16 Read 192\n8:16 Write 353\nTotal 545\n";
        assert_eq!(parse_io_v1(bytes, operations), [expected]);
    }

    #[test]
    fn pressure_with_and_without_the_full_line() {
        let some = "some avg10=1.50 avg60=0.25 avg300=0.00 total=2500\n";
        let pressure = parse_pressure(some).unwrap();
        assert_eq!(pressure.some.total, Duration::from_micros(2500));
        assert_eq!((pressure.some.avg10, pressure.full), (1.5, Stall::default()));
        let both = format!("{some}full avg10=0.00 avg60=0.00 avg300=9.00 total=1\n");
        assert_eq!(parse_pressure(&both).unwrap().full.avg300, 9.0);
        assert_eq!(parse_pressure("full avg10=0\n"), None);
    }
}
