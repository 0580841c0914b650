//! Limits as the files of v1 and v2 want them written.

use std::borrow::Cow;

use super::controller::Controllers;
use super::limits::{Limits, micros};
use crate::error::{Error, Result};

/// A value for one interface file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) controller: Controllers,
    pub(super) file: Cow<'static, str>,
    pub(super) value: String,
    /// The first file that exists is taken; for files whose name depends on the kernel.
    pub(super) otherwise: Option<(&'static str, String)>,
    /// Whether a kernel without the file meets the limit all the same.
    pub(super) optional: bool,
}

impl Setting {
    fn new(
        controller: Controllers,
        file: impl Into<Cow<'static, str>>,
        value: impl Into<String>,
    ) -> Self {
        Self {
            controller,
            file: file.into(),
            value: value.into(),
            otherwise: None,
            optional: false,
        }
    }

    fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    fn or(mut self, file: &'static str, value: impl Into<String>) -> Self {
        self.otherwise = Some((file, value.into()));
        self
    }
}

/// Swap follows the memory limit: none, unless asked for.
fn swap_of(limits: &Limits, fresh: bool) -> Option<u64> {
    let default = limits.memory.filter(|_| fresh).map(|b| if b == u64::MAX { b } else { 0 });
    limits.swap.or(default)
}

/// What to write on v2. `fresh` is a cgroup just made, in which nothing is set yet.
pub(super) fn v2(limits: &Limits, fresh: bool) -> Vec<Setting> {
    let mut list = Vec::with_capacity(8);
    let bytes = |b: u64| if b == u64::MAX { "max".to_owned() } else { b.to_string() };
    let mut memory = |file: &'static str, value: Option<u64>| {
        if let Some(value) = value {
            list.push(Setting::new(Controllers::MEMORY, file, bytes(value)));
        }
    };
    memory("memory.low", limits.memory_low);
    memory("memory.high", limits.memory_high);
    memory("memory.max", limits.memory);
    if let Some(swap) = swap_of(limits, fresh) {
        let setting = Setting::new(Controllers::MEMORY, "memory.swap.max", bytes(swap));
        // Without swap accounting in the kernel there is no swap either, in all but exotic builds.
        list.push(if limits.swap.is_some() { setting } else { setting.optional() });
    }
    if let Some((quota, period)) = limits.cpu_quota() {
        list.push(Setting::new(Controllers::CPU, "cpu.max", format!("{quota} {period}")));
    }
    if let Some(burst) = limits.cpu_burst {
        list.push(Setting::new(Controllers::CPU, "cpu.max.burst", micros(burst).to_string()));
    }
    if let Some(weight) = limits.cpu_weight {
        list.push(Setting::new(Controllers::CPU, "cpu.weight", weight.to_string()));
    }
    cpuset(&mut list, limits);
    if let Some(count) = limits.pids {
        list.push(Setting::new(Controllers::PIDS, "pids.max", bytes(count)));
    }
    if let Some(weight) = limits.io_weight {
        list.push(
            Setting::new(Controllers::IO, "io.weight", format!("default {weight}"))
                .or("io.bfq.weight", weight.min(1000).to_string()),
        );
    }
    for io in &limits.io {
        let mut line = format!("{}:{}", io.major, io.minor);
        for (name, value) in
            [("rbps", io.rbps), ("wbps", io.wbps), ("riops", io.riops), ("wiops", io.wiops)]
        {
            if let Some(value) = value {
                line.push_str(&format!(" {name}={}", bytes(value)));
            }
        }
        list.push(Setting::new(Controllers::IO, "io.max", line));
    }
    for &(page, limit) in &limits.hugetlb {
        let page = page_name(page);
        let reserved = format!("hugetlb.{page}.rsvd.max");
        // Reservations are limited too, so that who asks for too much gets ENOMEM and not a SIGBUS later.
        list.push(Setting::new(Controllers::HUGETLB, reserved, bytes(limit)).optional());
        list.push(Setting::new(Controllers::HUGETLB, format!("hugetlb.{page}.max"), bytes(limit)));
    }
    for (key, value) in &limits.unified {
        list.push(Setting::new(Controllers::of_key(key), key.clone(), value.clone()));
    }
    list
}

/// What to write on v1.
///
/// `swap_now` is the swap space that a running cgroup has at present beside its memory.
pub(super) fn v1(limits: &Limits, fresh: bool, swap_now: Option<u64>) -> Result<Vec<Setting>> {
    let mut list = Vec::with_capacity(8);
    let bytes = |b: u64| if b == u64::MAX { "-1".to_owned() } else { b.to_string() };
    if limits.memory_high.is_some() {
        return Err(Error::unsupported("set memory.high on cgroup v1")
            .with_hint("only v2 can slow a group down; use Limits::memory"));
    }
    if let Some(low) = limits.memory_low {
        list.push(Setting::new(Controllers::MEMORY, "memory.soft_limit_in_bytes", bytes(low)));
    }
    if let Some(memory) = limits.memory {
        list.push(Setting::new(Controllers::MEMORY, "memory.limit_in_bytes", bytes(memory)));
        if let Some(swap) = swap_of(limits, fresh).or(swap_now) {
            let both = memory.saturating_add(swap);
            let setting =
                Setting::new(Controllers::MEMORY, "memory.memsw.limit_in_bytes", bytes(both));
            list.push(if limits.swap.is_some() { setting } else { setting.optional() });
        }
    } else if limits.swap.is_some() {
        return Err(Error::unsupported("limit swap without a memory limit on cgroup v1")
            .with_hint("v1 only knows the sum of both: give Limits::memory too"));
    }
    if let Some((quota, period)) = limits.cpu_quota() {
        if !fresh || period != 100_000 {
            list.push(Setting::new(Controllers::CPU, "cpu.cfs_period_us", period.to_string()));
        }
        list.push(Setting::new(Controllers::CPU, "cpu.cfs_quota_us", quota.to_string()));
    }
    if let Some(burst) = limits.cpu_burst {
        list.push(Setting::new(Controllers::CPU, "cpu.cfs_burst_us", micros(burst).to_string()));
    }
    if let Some(weight) = limits.cpu_weight {
        list.push(Setting::new(Controllers::CPU, "cpu.shares", shares(weight).to_string()));
    }
    cpuset(&mut list, limits);
    if let Some(count) = limits.pids {
        let count = if count == u64::MAX { "max".to_owned() } else { count.to_string() };
        list.push(Setting::new(Controllers::PIDS, "pids.max", count));
    }
    if let Some(weight) = limits.io_weight {
        list.push(
            Setting::new(Controllers::IO, "blkio.bfq.weight", weight.min(1000).to_string())
                .or("blkio.weight", weight.clamp(10, 1000).to_string()),
        );
    }
    for io in &limits.io {
        for (name, value) in [
            ("read_bps", io.rbps),
            ("write_bps", io.wbps),
            ("read_iops", io.riops),
            ("write_iops", io.wiops),
        ] {
            if let Some(value) = value {
                // 0 is how v1 spells "no limit".
                let value = if value == u64::MAX { 0 } else { value };
                list.push(Setting::new(
                    Controllers::IO,
                    format!("blkio.throttle.{name}_device"),
                    format!("{}:{} {value}", io.major, io.minor),
                ));
            }
        }
    }
    for &(page, limit) in &limits.hugetlb {
        let page = page_name(page);
        let reserved = format!("hugetlb.{page}.rsvd.limit_in_bytes");
        list.push(Setting::new(Controllers::HUGETLB, reserved, bytes(limit)).optional());
        let file = format!("hugetlb.{page}.limit_in_bytes");
        list.push(Setting::new(Controllers::HUGETLB, file, bytes(limit)));
    }
    Ok(list)
}

fn cpuset(list: &mut Vec<Setting>, limits: &Limits) {
    for (file, value) in
        [("cpuset.cpus", &limits.cpuset_cpus), ("cpuset.mems", &limits.cpuset_mems)]
    {
        if let Some(value) = value {
            list.push(Setting::new(Controllers::CPUSET, file, value.clone()));
        }
    }
}

/// `cpu.shares` of v1 for a weight of v2, by the ratio the kernel itself uses: 100 is 1024.
fn shares(weight: u64) -> u64 {
    ((weight * 1024 + 50) / 100).clamp(2, 262_144)
}

/// How the kernel spells a huge page size: `2MB`, `64KB`, `1GB`.
pub(super) fn page_name(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 30 => format!("{}GB", b >> 30),
        b if b >= 1 << 20 => format!("{}MB", b >> 20),
        b => format!("{}KB", b >> 10),
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits::IoLimit;
    use super::*;
    use std::time::Duration;

    fn lines(settings: &[Setting]) -> Vec<String> {
        settings.iter().map(|s| format!("{}={}", s.file, s.value)).collect()
    }

    fn all() -> Limits {
        Limits::new()
            .memory(1 << 20)
            .memory_low(1 << 19)
            .swap(4096)
            .cpus(1.5)
            .cpu_burst(Duration::from_millis(20))
            .cpu_weight(200)
            .cpuset_cpus("0-1")
            .cpuset_mems("0")
            .pids(7)
            .io_weight(2000)
            .io_limit(IoLimit::new(8, 16).rbps(1000).wiops(5))
            .hugetlb(2 << 20, 4 << 20)
    }

    #[test]
    fn everything_on_v2() {
        let limits = all().memory_high(1 << 18).unified("memory.oom.group", "1");
        assert_eq!(
            lines(&v2(&limits, true)),
            [
                "memory.low=524288",
                "memory.high=262144",
                "memory.max=1048576",
                "memory.swap.max=4096",
                "cpu.max=150000 100000",
                "cpu.max.burst=20000",
                "cpu.weight=200",
                "cpuset.cpus=0-1",
                "cpuset.mems=0",
                "pids.max=7",
                "io.weight=default 2000",
                "io.max=8:16 rbps=1000 wiops=5",
                "hugetlb.2MB.rsvd.max=4194304",
                "hugetlb.2MB.max=4194304",
                "memory.oom.group=1",
            ]
        );
    }

    #[test]
    fn everything_on_v1() {
        assert_eq!(
            lines(&v1(&all(), true, None).unwrap()),
            [
                "memory.soft_limit_in_bytes=524288",
                "memory.limit_in_bytes=1048576",
                "memory.memsw.limit_in_bytes=1052672",
                "cpu.cfs_quota_us=150000",
                "cpu.cfs_burst_us=20000",
                "cpu.shares=2048",
                "cpuset.cpus=0-1",
                "cpuset.mems=0",
                "pids.max=7",
                "blkio.bfq.weight=1000",
                "blkio.throttle.read_bps_device=8:16 1000",
                "blkio.throttle.write_iops_device=8:16 5",
                "hugetlb.2MB.rsvd.limit_in_bytes=4194304",
                "hugetlb.2MB.limit_in_bytes=4194304",
            ]
        );
    }

    #[test]
    fn no_swap_unless_asked_for_and_a_change_keeps_what_there_is() {
        let memory = Limits::new().memory(1 << 20);
        assert_eq!(lines(&v2(&memory, true)), ["memory.max=1048576", "memory.swap.max=0"]);
        assert_eq!(lines(&v2(&memory, false)), ["memory.max=1048576"]);
        let v1_lines = |fresh, now| lines(&v1(&memory, fresh, now).unwrap());
        assert_eq!(v1_lines(true, None)[1], "memory.memsw.limit_in_bytes=1048576");
        assert_eq!(v1_lines(false, Some(4096))[1], "memory.memsw.limit_in_bytes=1052672");
        assert_eq!(v1_lines(false, None), ["memory.limit_in_bytes=1048576"]);
    }

    #[test]
    fn a_limit_can_be_lifted() {
        let free = Limits::new().memory(u64::MAX).pids(u64::MAX);
        let expected = ["memory.max=max", "memory.swap.max=max", "pids.max=max"];
        assert_eq!(lines(&v2(&free, true)), expected);
        let expected =
            ["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1", "pids.max=max"];
        assert_eq!(lines(&v1(&free, true, None).unwrap()), expected);
    }

    #[test]
    fn what_v1_cannot_do_is_an_error() {
        assert!(v1(&Limits::new().memory_high(1 << 20), true, None).is_err());
        assert!(v1(&Limits::new().swap(0), true, None).is_err());
    }

    #[test]
    fn weights_keep_their_ratio() {
        assert_eq!([1, 100, 10_000].map(shares), [10, 1024, 102_400]);
        assert_eq!([64 << 10, 2 << 20, 1 << 30].map(page_name), ["64KB", "2MB", "1GB"]);
    }
}
