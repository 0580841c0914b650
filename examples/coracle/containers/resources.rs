//! What a container may use: options of `run`, `create` and, but for disks, `update`.

use std::path::PathBuf;

use coracle::cgroups::IoLimit;
use coracle::container::Resources;

use super::sizes;
use crate::failure::{Failure, Result, USAGE};

#[derive(clap::Args)]
#[command(next_help_heading = "What it may use")]
pub struct Limits {
    /// Memory; without --memory-swap it gets no swap space. Sizes are like 64m or 1.5g
    #[arg(short, long, value_name = "SIZE", value_parser = sizes::bytes)]
    memory: Option<u64>,
    /// Memory that is taken from it only if there is nothing else to take
    #[arg(long, value_name = "SIZE", value_parser = sizes::bytes)]
    memory_reservation: Option<u64>,
    /// Memory and swap space together; -1 for no limit
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = sizes::bytes_or_unlimited)]
    memory_swap: Option<u64>,
    /// How many cpus' worth of time: 0.5 is half of one
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<f64>,
    /// Its share of cpu time when there is not enough; others have 1024
    #[arg(short, long, value_name = "SHARES", value_parser = sizes::cpu_weight)]
    cpu_shares: Option<u64>,
    /// The time over which cpu time is meted out, in microseconds
    #[arg(long, value_name = "MICROSECONDS", conflicts_with = "cpus")]
    cpu_period: Option<u64>,
    /// Cpu time in each such period, in microseconds
    #[arg(long, value_name = "MICROSECONDS", conflicts_with = "cpus")]
    cpu_quota: Option<u64>,
    /// The cpus to run on: 0-3,8
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// The NUMA nodes to take memory from
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// The most processes and threads; -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, value_parser = sizes::count_or_unlimited)]
    pids_limit: Option<u64>,
    /// Its share of disk time, 10 to 1000; others have 500
    #[arg(long, value_name = "WEIGHT", value_parser = sizes::io_weight)]
    blkio_weight: Option<u64>,
}

/// How fast it may use disks.
#[derive(clap::Args)]
#[command(next_help_heading = "What it may use")]
pub struct Disks {
    /// Bytes that it may read of a disk each second: /dev/sda:10m
    #[arg(long, value_name = "DISK:SIZE", value_parser = size)]
    device_read_bps: Vec<Rate>,
    /// Bytes that it may write to a disk each second
    #[arg(long, value_name = "DISK:SIZE", value_parser = size)]
    device_write_bps: Vec<Rate>,
    /// How often it may read of a disk each second: /dev/sda:200
    #[arg(long, value_name = "DISK:NUMBER", value_parser = number)]
    device_read_iops: Vec<Rate>,
    /// How often it may write to a disk each second
    #[arg(long, value_name = "DISK:NUMBER", value_parser = number)]
    device_write_iops: Vec<Rate>,
}

/// So much a second, of this disk.
type Rate = (PathBuf, u64);

fn size(text: &str) -> Result<Rate, String> {
    rate(text, sizes::bytes)
}

fn number(text: &str) -> Result<Rate, String> {
    rate(text, |text| text.parse().map_err(|_| format!("{text:?} is no number")))
}

fn rate(text: &str, parse: impl Fn(&str) -> Result<u64, String>) -> Result<Rate, String> {
    let (disk, amount) = text.rsplit_once(':').ok_or("it is not like /dev/sda:10")?;
    Ok((disk.into(), parse(amount)?))
}

impl Disks {
    pub fn apply(self, resources: &mut Resources) -> Result<()> {
        for (rates, set) in [
            (self.device_read_bps, IoLimit::rbps as fn(IoLimit, u64) -> IoLimit),
            (self.device_write_bps, IoLimit::wbps),
            (self.device_read_iops, IoLimit::riops),
            (self.device_write_iops, IoLimit::wiops),
        ] {
            for (disk, rate) in rates {
                resources.limit_io(set(IoLimit::of_disk(disk)?, rate));
            }
        }
        Ok(())
    }
}

impl Limits {
    pub fn resources(&self) -> Result<Resources> {
        let mut resources = Resources::default();
        resources.memory = self.memory;
        resources.memory_low = self.memory_reservation;
        resources.swap = match (self.memory_swap, self.memory) {
            (Some(_), None) => {
                let message = "--memory-swap needs --memory, which it includes";
                return Err(Failure::with_status(USAGE, message));
            }
            (Some(u64::MAX), _) => Some(u64::MAX),
            (Some(both), Some(memory)) => Some(both.checked_sub(memory).ok_or_else(|| {
                Failure::with_status(
                    USAGE,
                    "--memory-swap is less than --memory, which it includes",
                )
            })?),
            _ => None,
        };
        #[allow(clippy::cast_precision_loss, reason = "microseconds of a second")]
        let share = |quota: u64| quota as f64 / self.cpu_period.unwrap_or(100_000).max(1) as f64;
        resources.cpus = self.cpus.or_else(|| self.cpu_quota.map(share));
        resources.cpu_period = self.cpu_period;
        resources.cpu_weight = self.cpu_shares;
        resources.cpuset_cpus = self.cpuset_cpus.clone();
        resources.cpuset_mems = self.cpuset_mems.clone();
        resources.pids = self.pids_limit;
        resources.io_weight = self.blkio_weight;
        Ok(resources)
    }
}
