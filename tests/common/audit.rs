//! Auditors: what a host has before, it has after, and nothing more.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How long something that other processes hold for a moment may stay before it counts as a leak.
const PATIENCE: Duration = Duration::from_secs(10);

/// What this process and the machine hold at one moment: mounts, cgroups, children, descriptors.
///
/// Descriptors and children are counted for the whole process: use it within
/// [`alone`](super::alone), so that no parallel test adds its own.
#[derive(Debug)]
#[must_use = "compare it with `assert_unchanged`"]
pub struct Snapshot {
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
    children: BTreeSet<u32>,
    fds: BTreeSet<String>,
    state: BTreeSet<String>,
}

/// Looks at everything now.
pub fn snapshot() -> Snapshot {
    Snapshot {
        mounts: mounts(),
        cgroups: cgroups(),
        children: children(),
        fds: lasting_fds(),
        state: state(),
    }
}

impl Snapshot {
    /// Panics if anything is there that was not there at the snapshot, or the process-wide state
    /// (working directory, umask, signal dispositions, limits, environment) differs from then.
    ///
    /// What only passes by, like a mount that another process makes and removes, is waited out.
    #[track_caller]
    pub fn assert_unchanged(&self) {
        assert_no_more("mounts", &self.mounts, mounts);
        assert_no_more("cgroups", &self.cgroups, cgroups);
        assert_no_more("children", &self.children, children);
        assert_no_more("file descriptors", &self.fds, lasting_fds);
        // A joined thread may live on in the kernel for a moment, so this has patience too.
        assert_within(Duration::from_secs(1), "process-wide state", &self.state, || {
            let now = state();
            // What is gone counts as a change as well as what is new.
            let gone = self.state.difference(&now).map(|line| format!("no more: {line}"));
            gone.chain(now.iter().cloned()).collect()
        });
    }
}

/// Panics if `now` holds something that `before` did not and that does not go away.
#[track_caller]
pub fn assert_no_more<T: Ord + Debug>(
    what: &str,
    before: &BTreeSet<T>,
    now: impl Fn() -> BTreeSet<T>,
) {
    assert_within(PATIENCE, what, before, now);
}

#[track_caller]
fn assert_within<T: Ord + Debug>(
    patience: Duration,
    what: &str,
    before: &BTreeSet<T>,
    now: impl Fn() -> BTreeSet<T>,
) {
    let start = Instant::now();
    // Others make and remove their own meanwhile: a leak is what is there every time.
    let mut more: BTreeSet<T> = now();
    more.retain(|one| !before.contains(one));
    while !more.is_empty() {
        assert!(start.elapsed() < patience, "more {what} than before: {more:#?}");
        thread::sleep(Duration::from_millis(20));
        let after = now();
        more.retain(|one| after.contains(one));
    }
}

/// The mounts of this process's mount namespace: `type source on point`, with the kernel's number.
pub fn mounts() -> BTreeSet<String> {
    read("/proc/self/mountinfo").lines().map(str::to_owned).collect()
}

/// The points, in the order of mounting, of all mounts at or below `dir`.
pub fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    read("/proc/self/mountinfo")
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .filter(|point| point.starts_with(dir))
        .collect()
}

/// Every cgroup directory of every mounted hierarchy.
pub fn cgroups() -> BTreeSet<PathBuf> {
    fn walk(dir: &Path, found: &mut BTreeSet<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.insert(entry.path());
                walk(&entry.path(), found);
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(Path::new("/sys/fs/cgroup"), &mut found);
    found
}

/// The process ids of the children of this process, zombies too.
pub fn children() -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    for task in fs::read_dir("/proc/self/task").expect("list threads").flatten() {
        // A thread may end meanwhile.
        let list = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(list.split_whitespace().map(|pid| pid.parse::<u32>().expect("a process id")));
    }
    found
}

/// The open descriptors of this process: `number -> what, flags`.
pub fn fds() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc/self/fd").expect("list descriptors").flatten() {
        // The descriptor of this very listing is gone by now, or names the listing.
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        if target.as_os_str().as_bytes().ends_with(b"/fd") {
            continue;
        }
        found.insert(format!("{} -> {}", entry.file_name().display(), target.display()));
    }
    found
}

/// The same, where an engine's journal is one thing: it goes on in the next file when one is full.
fn lasting_fds() -> BTreeSet<String> {
    let (journals, mut others): (BTreeSet<_>, BTreeSet<_>) =
        fds().into_iter().partition(|fd| fd.contains("/containers/events/"));
    others.extend((0..journals.len()).map(|number| format!("journal {number}")));
    others
}

/// The open descriptors of this process, from 3 up, that `execve` would pass on.
pub fn inheritable_fds() -> BTreeSet<String> {
    fds()
        .into_iter()
        .filter(|fd| {
            let number = fd.split(' ').next().expect("a number");
            let info =
                fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
            number.parse::<u32>().is_ok_and(|n| n > 2)
                && flags.is_some_and(|flags| flags & libc::O_CLOEXEC.cast_unsigned() == 0)
        })
        .collect()
}

/// What the kernel keeps once for a whole process, and a library must not change.
pub fn state() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let cwd = fs::read_link("/proc/self/cwd").expect("read the working directory");
    found.insert(format!("cwd {}", cwd.display()));
    let root = fs::read_link("/proc/self/root").expect("read the root directory");
    found.insert(format!("root {}", root.display()));
    found.insert(format!("dumpable {:?}", nix::sys::prctl::get_dumpable()));
    found.insert(format!("oom_score_adj {}", read("/proc/self/oom_score_adj").trim()));
    const LINES: [&str; 15] = [
        "Umask:",
        "Uid:",
        "Gid:",
        "Groups:",
        "Threads:",
        "SigBlk:",
        "SigIgn:",
        "SigCgt:",
        "CapInh:",
        "CapPrm:",
        "CapEff:",
        "CapBnd:",
        "CapAmb:",
        "NoNewPrivs:",
        "Seccomp:",
    ];
    let status = read("/proc/thread-self/status");
    found.extend(
        status.lines().filter(|l| LINES.iter().any(|name| l.starts_with(name))).map(str::to_owned),
    );
    found.extend(read("/proc/self/limits").lines().map(|line| format!("limit {line}")));
    for entry in fs::read_dir("/proc/self/ns").expect("list namespaces").flatten() {
        let namespace = fs::read_link(entry.path()).unwrap_or_default();
        found.insert(format!("{} namespace {}", entry.file_name().display(), namespace.display()));
    }
    found.extend(
        std::env::vars_os()
            .map(|(name, value)| format!("env {}={}", name.display(), value.display())),
    );
    found
}

fn read(file: &str) -> String {
    fs::read_to_string(file).unwrap_or_else(|err| panic!("read {file}: {err}"))
}

/// The memory that is this process's own, in KiB.
pub fn own_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("read /proc/self/status");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
