//! Kernel interfaces that a container does not see, or only reads.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// What tells of the host, or lets it be probed by side channels. A path that a kernel lacks is skipped.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Where each CPU has a directory with a `thermal_throttle` in it.
const CPUS: &str = "/sys/devices/system/cpu";

/// The paths that are empty in a container unless asked otherwise: an empty directory lies over a directory,
/// `/dev/null` over a file.
///
/// They are those that Docker masks today, with `thermal_throttle` of each of this machine's CPUs, looked up once.
pub fn masked_paths() -> &'static [PathBuf] {
    static PATHS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    PATHS.get_or_init(|| {
        let mut paths: Vec<PathBuf> = MASKED.iter().map(PathBuf::from).collect();
        paths.extend(thermal_throttles(Path::new(CPUS)));
        paths
    })
}

/// The paths that are read-only in a container unless asked otherwise.
pub fn read_only_paths() -> &'static [PathBuf] {
    static PATHS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    PATHS.get_or_init(|| READ_ONLY.iter().map(PathBuf::from).collect())
}

/// The counters of each CPU's throttling: an unprivileged measure of what others compute (CVE-2020-8694 and its kin).
fn thermal_throttles(cpus: &Path) -> Vec<PathBuf> {
    // Without sysfs on the host there is nothing to mask either.
    let entries = fs::read_dir(cpus).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("cpu")).unwrap_or("");
            !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
        })
        .map(|entry| entry.path().join("thermal_throttle"))
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_absolute_distinct_and_do_not_overlap() {
        let masked = masked_paths();
        for (i, path) in masked.iter().chain(read_only_paths()).enumerate() {
            assert!(path.starts_with("/proc") || path.starts_with("/sys"), "{path:?}");
            let mut others =
                masked.iter().chain(read_only_paths()).enumerate().filter(|(j, _)| *j != i);
            assert!(!others.any(|(_, other)| path.starts_with(other)), "{path:?}");
        }
        for path in ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"] {
            assert!(masked.contains(&PathBuf::from(path)), "{path}");
        }
        assert!(read_only_paths().contains(&PathBuf::from("/proc/sys")));
    }

    #[test]
    fn throttle_counters_of_each_cpu_are_found() {
        let dir = tempfile::tempdir().unwrap();
        for name in
            ["cpu0/thermal_throttle", "cpu12/thermal_throttle", "cpu3", "cpufreq/thermal_throttle"]
        {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        let expected = ["cpu0", "cpu12"].map(|cpu| dir.path().join(cpu).join("thermal_throttle"));
        assert_eq!(thermal_throttles(dir.path()), expected);
        assert!(thermal_throttles(&dir.path().join("none")).is_empty());
    }
}
