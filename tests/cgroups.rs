//! Quotas held by the real kernel, on whichever cgroup version this machine has.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{Missing, audit, require};
use coracle::cgroups::{
    Cgroup, DeviceAccess, DeviceKind, DeviceRules, Event, IoLimit, Limits, Resource, Threshold,
};
use coracle::{ErrorKind, KIB, MIB};

/// How long the kernel may take on the slowest machine before something counts as not happening.
const PATIENCE: Duration = Duration::from_secs(60);

/// A name that no other test, process or earlier run uses.
fn unique(what: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    format!("test-{what}-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

fn create(what: &str, limits: &Limits) -> Cgroup {
    Cgroup::create(unique(what), limits).unwrap()
}

/// Starts a shell script in the cgroup: it waits for a line until it has been moved there.
fn start(cgroup: &Cgroup, script: &str) -> Child {
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(format!("read go || exit 99; {script}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    cgroup.add(child.id()).unwrap();
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    child
}

/// Waits for something that the kernel or another process is about to do.
#[track_caller]
fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed() < PATIENCE, "waited in vain: {what}");
        sleep(Duration::from_millis(10));
    }
}

/// The directories of that name in any hierarchy.
fn left_of(name: &str) -> BTreeSet<PathBuf> {
    let first = name.split('/').next().unwrap();
    audit::cgroups()
        .into_iter()
        .filter(|path| path.components().any(|c| c.as_os_str() == first))
        .collect()
}

fn io_controller() -> Result<(), Missing> {
    common::cgroup_controller("io").or_else(|_| common::cgroup_controller("blkio"))
}

/// There is a version 2 directory for every cgroup, without controllers in the hybrid layout.
fn unified() -> Result<(), Missing> {
    if !is_unified_mounted() {
        return Err(Missing::new("cgroup version 2", "it is not mounted"));
    }
    common::delegated_cgroup().map(drop)
}

fn is_unified_mounted() -> bool {
    fs::read_to_string("/proc/self/mountinfo").unwrap().contains(" - cgroup2 ")
}

/// A place for cgroups: one of v2's that is this user's, or v1 alone, which is root's.
fn permitted() -> Result<(), Missing> {
    match is_unified_mounted() {
        true => common::delegated_cgroup().map(drop),
        false => common::root(),
    }
}

#[test]
fn a_memory_hog_is_killed_and_counted() {
    require!(common::cgroup_controller("memory"));
    let cgroup = create("oom", &Limits::new().memory(24 * MIB));
    let mut events = cgroup.events().unwrap();
    assert_eq!(events.try_next().unwrap(), None);

    let mut hog = start(&cgroup, "exec tail /dev/zero");
    assert_eq!(events.wait_timeout(PATIENCE).unwrap(), Some(Event::Oom));
    assert_eq!(hog.wait().unwrap().signal(), Some(9));

    let memory = cgroup.stats().unwrap().memory;
    assert_eq!(memory.limit, Some(24 * MIB));
    assert!(memory.oom_kills.unwrap() >= 1, "{memory:?}");
    // Not on kernels before 5.19 with v2.
    assert!(memory.peak.is_none_or(|peak| (20 * MIB..=24 * MIB).contains(&peak)), "{memory:?}");
    let name = cgroup.name().to_owned();
    cgroup.delete().unwrap();
    assert!(left_of(&name).is_empty());
}

#[test]
fn memory_that_fits_does_no_harm() {
    require!(common::cgroup_controller("memory"));
    let cgroup = create("fits", &Limits::new().memory(64 * MIB));
    let mut events = cgroup.events().unwrap();
    // Holds what it reads, as it looks for the last line.
    let mut fits = start(&cgroup, "head -c 16M /dev/zero | tail >/dev/null");
    assert!(fits.wait().unwrap().success());
    let stats = cgroup.stats().unwrap();
    assert_eq!(stats.memory.oom_kills, Some(0));
    while let Some(event) = events.try_next().unwrap() {
        assert_ne!(event, Event::Oom);
    }
}

#[test]
fn a_fork_bomb_is_held() {
    require!(common::cgroup_controller("pids"));
    let cgroup = create("bomb", &Limits::new().pids(20));
    let script = "for i in $(seq 60); do sleep 1000 & done; wait";
    let mut bomb = start(&cgroup, script);
    eventually("a fork is refused", || cgroup.stats().unwrap().pids.refused.unwrap() > 0);
    let pids = cgroup.stats().unwrap().pids;
    assert_eq!(pids.limit, Some(20));
    assert!(pids.current.unwrap() <= 20, "{pids:?}");
    cgroup.kill().unwrap();
    bomb.wait().unwrap();
    // Zombies still count as pids until their new parent has collected them.
    assert_eq!(cgroup.processes().unwrap(), [0_u32; 0]);
}

#[test]
fn a_cpu_hog_is_throttled() {
    require!(common::cgroup_controller("cpu"));
    let limits =
        Limits::new().cpus(0.1).cpu_period(Duration::from_millis(20)).cpu_weight(50).accounting();
    let cgroup = create("cpu", &limits);
    let mut hog = start(&cgroup, "while :; do :; done");
    // The kernel counts a period when it runs out, and the time when the process goes on.
    eventually("throttled", || {
        let cpu = cgroup.stats().unwrap().cpu;
        cpu.throttled_periods.unwrap() >= 3 && cpu.throttled.unwrap() > Duration::ZERO
    });
    let cpu = cgroup.stats().unwrap().cpu;
    assert!(cpu.usage.unwrap() > Duration::ZERO, "{cpu:?}");
    assert!(cpu.periods >= cpu.throttled_periods, "{cpu:?}");
    cgroup.kill().unwrap();
    assert_eq!(hog.wait().unwrap().signal(), Some(9));
}

#[test]
fn a_burst_is_taken() {
    require!(common::cgroup_controller("cpu"));
    require!(common::kernel(5, 14));
    let limits = Limits::new().cpus(0.5).cpu_burst(Duration::from_millis(20));
    let cgroup = create("burst", &limits);
    let read =
        |file: &str| cgroup.paths().iter().find_map(|dir| fs::read_to_string(dir.join(file)).ok());
    let burst = read("cpu.max.burst").or_else(|| read("cpu.cfs_burst_us")).unwrap();
    assert_eq!(burst.trim(), "20000");
}

#[test]
fn limits_change_while_running_up_and_down() {
    require!(common::cgroup_controller("memory"));
    require!(common::cgroup_controller("pids"));
    require!(common::cgroup_controller("cpu"));
    let cgroup = create("change", &Limits::new().memory(32 * MIB).pids(10).accounting());
    let mut sleeper = start(&cgroup, "exec sleep 1000");
    for mib in [64, 16, 128, 8] {
        cgroup.set(&Limits::new().memory(mib * MIB)).unwrap();
        let stats = cgroup.stats().unwrap();
        assert_eq!(stats.memory.limit, Some(mib * MIB));
        assert_eq!(stats.pids.limit, Some(10), "what is not named stays");
        assert!(stats.swap.limit.is_none_or(|swap| swap == 0), "no swap crept in: {stats:?}");
    }
    cgroup.set(&Limits::new().pids(30).cpus(0.5)).unwrap();
    assert_eq!(cgroup.stats().unwrap().pids.limit, Some(30));
    cgroup.set(&Limits::new().memory(u64::MAX)).unwrap();
    assert_eq!(cgroup.stats().unwrap().memory.limit, None);
    cgroup.kill().unwrap();
    sleeper.wait().unwrap();
}

#[test]
fn swap_comes_on_top_of_memory_and_stays_when_memory_changes() {
    require!(common::cgroup_controller("memory"));
    let cgroup =
        match Cgroup::create(unique("swap"), &Limits::new().memory(32 * MIB).swap(16 * MIB)) {
            Err(err) if err.kind() == ErrorKind::Unsupported => {
                return Missing::new("swap accounting", format!("{err:#}")).skip();
            }
            other => other.unwrap(),
        };
    for mib in [32, 64, 20] {
        cgroup.set(&Limits::new().memory(mib * MIB)).unwrap();
        let stats = cgroup.stats().unwrap();
        assert_eq!((stats.memory.limit, stats.swap.limit), (Some(mib * MIB), Some(16 * MIB)));
    }
    cgroup.set(&Limits::new().memory(48 * MIB).swap(0)).unwrap();
    let stats = cgroup.stats().unwrap();
    assert_eq!((stats.memory.limit, stats.swap.limit), (Some(48 * MIB), Some(0)));
}

#[test]
fn a_controller_that_was_not_asked_for_cannot_be_limited_later() {
    require!(common::cgroup_controller("memory"));
    require!(common::cgroup_controller("pids"));
    let cgroup = create("later", &Limits::new().pids(5));
    let err = cgroup.set(&Limits::new().memory(32 * MIB)).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unsupported);
    assert!(format!("{err:#}").contains("memory"), "{err:#}");
    assert!(err.hint().unwrap().contains("accounting"), "{err:?}");
    let stats = cgroup.stats().unwrap();
    assert_eq!(stats.memory.current, None, "what is not counted is not 0");
}

#[test]
fn only_the_hierarchies_that_are_needed_are_touched() {
    require!(common::cgroup_controller("pids"));
    let cgroup = create("few", &Limits::new().pids(5));
    let touched = left_of(cgroup.name());
    assert_eq!(touched, cgroup.paths().into_iter().collect());
    assert!(touched.len() <= 2, "{touched:?}");
}

#[test]
fn a_process_is_confined_to_its_cpu() {
    require!(common::cgroup_controller("cpuset"));
    let cgroup = create("cpuset", &Limits::new().cpuset_cpus("0").cpuset_mems("0"));
    let mut child = start(&cgroup, "exec grep Cpus_allowed_list /proc/self/status");
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    child.wait().unwrap();
    assert_eq!(said.split_whitespace().nth(1), Some("0"), "{said}");

    let name = unique("cpuset-absent");
    let result = Cgroup::create(&name, &Limits::new().cpuset_cpus("0-4000"));
    // v2 takes what it can have and gives what there is; v1 refuses.
    if let Err(err) = result {
        assert!(format!("{err:#}").contains("cpuset.cpus"), "{err:#}");
        assert!(err.hint().is_some(), "{err:?}");
    }
    assert!(left_of(&name).is_empty());
}

#[test]
fn cpus_alone_take_the_memory_nodes_from_above() {
    require!(common::cgroup_controller("cpuset"));
    let name = unique("cpus");
    let cgroup =
        Cgroup::create(format!("{name}/deeper/still"), &Limits::new().cpuset_cpus("0")).unwrap();
    let mut child = start(&cgroup, "exit 7");
    assert_eq!(child.wait().unwrap().code(), Some(7));
    drop(cgroup);
    assert!(left_of(&name).is_empty(), "the parents it made went with it");
}

#[test]
fn frozen_processes_stand_still_until_thawed() {
    require!(permitted());
    let cgroup = create("freeze", &Limits::new());
    let mut events = cgroup.events().unwrap();
    let mut child = start(&cgroup, "while :; do :; done");
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        stat.rsplit(") ").next().unwrap().split(' ').nth(11).unwrap().parse::<u64>().unwrap()
    };
    eventually("it runs", || ticks() > 0);
    cgroup.freeze().unwrap();
    assert_eq!(events.wait_timeout(PATIENCE).unwrap(), Some(Event::Frozen));
    let before = ticks();
    sleep(Duration::from_millis(100));
    assert_eq!(ticks(), before);
    cgroup.thaw().unwrap();
    assert_eq!(events.wait_timeout(PATIENCE).unwrap(), Some(Event::Thawed));
    eventually("it runs again", || ticks() > before);
    cgroup.freeze().unwrap();
    cgroup.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9), "frozen ones die too");
}

#[test]
fn nothing_is_started_in_a_frozen_cgroup() {
    require!(permitted());
    let outer = create("frozen", &Limits::new());
    let inner = Cgroup::create(format!("{}/inner", outer.name()), &Limits::new()).unwrap();
    let mut sleeper = coracle::namespaces::Command::new("sleep");
    let child = sleeper.arg("1000").cgroup(&inner).spawn().unwrap();
    let program = || coracle::namespaces::Command::new("true");
    type Start<'a> = &'a (dyn Fn() -> coracle::Result<coracle::namespaces::Child> + Sync);
    let ways: [Start<'_>; 2] =
        [&|| child.exec(&mut program()), &|| program().cgroup(&inner).spawn()];
    for frozen in [&inner, &outer] {
        frozen.freeze().unwrap();
        for start in ways {
            let (sender, receiver) = std::sync::mpsc::channel();
            std::thread::scope(|scope| {
                scope.spawn(|| sender.send(start().map(drop)));
                let answer = receiver.recv_timeout(PATIENCE);
                if answer.is_err() {
                    // Whoever stands still now would do so for ever.
                    frozen.thaw().unwrap();
                }
                let err = answer.expect("an answer while it is frozen").unwrap_err();
                assert_eq!(err.kind(), ErrorKind::InvalidState, "{err:?}");
                let chain = format!("{err:#}");
                assert!(chain.contains(inner.name()) && chain.contains("frozen"), "{err:?}");
                assert!(err.hint().is_some_and(|hint| hint.contains("thaw")), "{err:?}");
            });
        }
        frozen.thaw().unwrap();
        for start in ways {
            assert!(start().unwrap().wait().unwrap().success());
        }
    }
}

#[test]
fn a_whole_tree_is_killed_however_it_hides() {
    require!(unified());
    let cgroup = create("tree", &Limits::new());
    let mut events = cgroup.events().unwrap();
    let script = "for i in 1 2 3; do setsid sh -c 'trap \"\" TERM HUP INT; setsid sleep 1000 & setsid sleep 1000 & wait' & done; wait";
    let mut top = start(&cgroup, script);
    eventually("ten processes", || cgroup.processes().unwrap().len() == 10);
    assert!(cgroup.processes().unwrap().contains(&top.id()));
    cgroup.kill().unwrap();
    assert_eq!(cgroup.processes().unwrap(), [0_u32; 0]);
    assert_eq!(events.wait_timeout(PATIENCE).unwrap(), Some(Event::Empty));
    assert_eq!(top.wait().unwrap().signal(), Some(9));
    cgroup.kill().unwrap();
}

#[test]
fn dropping_kills_and_removes_also_what_was_made_inside() {
    require!(permitted());
    let cgroup = create("drop", &Limits::new().accounting());
    let name = cgroup.name().to_owned();
    for dir in cgroup.paths() {
        fs::create_dir_all(dir.join("inner/most")).unwrap();
    }
    let mut child = start(&cgroup, "exec sleep 1000");
    drop(cgroup);
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert_eq!(left_of(&name), BTreeSet::new());
}

#[test]
fn keep_leaves_it_for_another_to_open_and_delete() {
    require!(permitted());
    let name = unique("keep");
    let cgroup = Cgroup::create(&name, &Limits::new()).unwrap();
    let mut child = start(&cgroup, "exec sleep 1000");
    let kept = cgroup.keep();
    let paths = kept.paths();
    drop(kept);
    assert!(paths.iter().all(|path| path.is_dir()));

    drop(Cgroup::open(&name).unwrap());
    assert!(paths.iter().all(|path| path.is_dir()), "opening does not own");
    assert!(child.try_wait().unwrap().is_none());
    let opened = Cgroup::open(&name).unwrap();
    assert_eq!(opened.processes().unwrap(), [child.id()]);
    let err = Cgroup::create(&name, &Limits::new()).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::AlreadyExists);

    opened.delete().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert!(left_of(&name).is_empty(), "delete removes also what was only opened");
    let err = Cgroup::open(&name).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound);
}

#[test]
fn an_absolute_path_counts_from_the_top() {
    require!(common::root());
    let name = unique("absolute");
    let cgroup = Cgroup::create_at(format!("/{name}/web"), &Limits::new().accounting()).unwrap();
    for path in cgroup.paths() {
        let hierarchy = path.ancestors().nth(2).unwrap();
        assert!(hierarchy.join("cgroup.procs").is_file(), "{path:?}");
        assert!(!hierarchy.parent().unwrap().join("cgroup.procs").exists(), "{path:?}");
    }
    let other = Cgroup::open(format!("/{name}/web")).unwrap();
    let of = |cgroup: &Cgroup| cgroup.paths().into_iter().collect::<BTreeSet<_>>();
    assert!(of(&other).is_superset(&of(&cgroup)));
    drop(cgroup);
    assert!(left_of(&name).is_empty());
}

#[test]
fn events_are_readable_in_a_poll_loop_and_end_with_removal() {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    require!(unified());
    let cgroup = create("poll", &Limits::new());
    let mut events = cgroup.events().unwrap();
    let poll = |events: &coracle::cgroups::Events, patience: Duration| {
        let timeout = PollTimeout::try_from(patience).unwrap();
        poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLIN)], timeout).unwrap()
    };
    assert_eq!(poll(&events, Duration::ZERO), 0);
    let mut child = start(&cgroup, "exit 0");
    child.wait().unwrap();
    let mut seen = None;
    while seen.is_none() {
        assert_eq!(poll(&events, PATIENCE), 1);
        seen = events.try_next().unwrap();
    }
    assert_eq!(seen, Some(Event::Empty));
    assert_eq!(events.try_next().unwrap(), None);
    cgroup.delete().unwrap();
    assert_eq!(events.wait_timeout(PATIENCE).unwrap(), Some(Event::Removed));
    assert_eq!(events.wait_timeout(PATIENCE).unwrap(), None, "and nothing after it");
}

#[test]
fn pressure_is_reported_past_its_threshold() {
    require!(unified());
    let cgroup = create("psi", &Limits::new());
    let threshold = Threshold::Some(Duration::from_millis(50));
    let window = Duration::from_secs(2);
    let mut trigger = match cgroup.psi(Resource::Cpu, threshold, window) {
        Err(err) if err.kind() == ErrorKind::Unsupported => {
            return Missing::new("pressure stall information", format!("{err:#}")).skip();
        }
        Err(err)
            if err.kind() == ErrorKind::InvalidInput
                || err.kind() == ErrorKind::PermissionDenied =>
        {
            // Before Linux 6.6 only CAP_SYS_RESOURCE may.
            require!(common::kernel(6, 6));
            panic!("{err:?}");
        }
        other => other.unwrap(),
    };
    assert!(!trigger.wait_timeout(Duration::ZERO).unwrap());
    let processors = std::thread::available_parallelism().unwrap().get();
    let hogs: Vec<_> = (0..2 * processors).map(|_| start(&cgroup, "while :; do :; done")).collect();
    assert!(trigger.wait_timeout(PATIENCE).unwrap());
    let pressure = cgroup.stats().unwrap().pressure.cpu.unwrap();
    assert!(pressure.some.total > Duration::ZERO, "{pressure:?}");
    cgroup.kill().unwrap();
    for mut hog in hogs {
        hog.wait().unwrap();
    }
    let err = cgroup.psi(Resource::Io, threshold, Duration::from_millis(10)).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidInput);
    assert!(err.hint().is_some());
}

#[test]
fn devices_that_are_not_allowed_cannot_be_opened() {
    require!(common::root());
    let probe = "for f in /dev/null /dev/zero /dev/kmsg; do head -c 0 <$f && echo $f; done; true";
    let run = |rules: DeviceRules| {
        let cgroup = create("devices", &Limits::new().devices(rules));
        let output = start(&cgroup, probe).wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).replace('\n', " ");
        (said.trim().to_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (opened, refused) = run(DeviceRules::default());
    assert_eq!(opened, "/dev/null /dev/zero");
    assert!(refused.contains("not permitted"), "{refused}");
    assert_eq!(run(DeviceRules::all()).0, "/dev/null /dev/zero /dev/kmsg");
    assert_eq!(run(DeviceRules::none()).0, "");
    let kmsg = DeviceRules::none().allow(DeviceKind::Char, 1, 11, DeviceAccess::READ);
    assert_eq!(run(kmsg).0, "/dev/kmsg");
}

#[test]
fn device_rules_change_while_running() {
    require!(common::root());
    let cgroup = create("devices-change", &Limits::new().devices(DeviceRules::none()));
    let open =
        || start(&cgroup, "head -c 0 </dev/zero").wait_with_output().unwrap().status.success();
    assert!(!open());
    cgroup.set(&Limits::new().devices(DeviceRules::default())).unwrap();
    assert!(open());
    cgroup.set(&Limits::new().devices(DeviceRules::none())).unwrap();
    assert!(!open());
}

/// A block device of 8 MiB, in memory.
struct Loop {
    device: String,
    numbers: (u32, u32),
    _file: tempfile::NamedTempFile,
}

impl Loop {
    fn new() -> Result<Self, Missing> {
        common::root()?;
        common::program("losetup")?;
        let need = "a loop device";
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 * MIB).unwrap();
        let output =
            Command::new("losetup").args(["--find", "--show"]).arg(file.path()).output().unwrap();
        if !output.status.success() {
            return Err(Missing::new(need, String::from_utf8_lossy(&output.stderr).trim()));
        }
        let device = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        let name = device.trim_start_matches("/dev/");
        let numbers = fs::read_to_string(format!("/sys/block/{name}/dev")).unwrap();
        let (major, minor) = numbers.trim().split_once(':').unwrap();
        let numbers = (major.parse().unwrap(), minor.parse().unwrap());
        Ok(Self { device, numbers, _file: file })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let status = Command::new("losetup").args(["--detach", &self.device]).status();
        assert!(status.is_ok_and(|status| status.success()), "detach {}", self.device);
    }
}

#[test]
fn traffic_with_a_disk_is_held_and_counted() {
    require!(io_controller());
    let disk = require!(Loop::new());
    let (major, minor) = disk.numbers;
    let limit = IoLimit::of_disk(&disk.device).unwrap();
    assert_eq!(limit, IoLimit::new(major, minor));
    let limit = limit.wbps(64 * KIB);
    let cgroup = create("io", &Limits::new().io_limit(limit));
    let begin = Instant::now();
    let write = format!("exec dd if=/dev/zero of={} bs=32k count=8 oflag=direct", disk.device);
    let output = start(&cgroup, &write).wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    // 256 KiB at 64 KiB a second take about 4 s; unlimited, they take next to nothing.
    assert!(begin.elapsed() > Duration::from_secs(2), "{:?}", begin.elapsed());
    let io = cgroup.stats().unwrap().io;
    let ours = io.iter().find(|io| (io.major, io.minor) == disk.numbers).unwrap();
    assert_eq!((ours.written_bytes, ours.read_bytes), (256 * KIB, 0), "{io:?}");
    assert!(ours.writes >= 8, "{io:?}");

    cgroup.set(&Limits::new().io_limit(IoLimit::new(major, minor).wbps(u64::MAX))).unwrap();
    let err = cgroup.set(&Limits::new().io_limit(IoLimit::new(4095, 9).rbps(1))).unwrap_err();
    assert!(format!("{err:#}").contains("4095:9"), "{err:#}");
}

#[test]
fn a_disk_weight_is_taken_or_refused_with_the_reason() {
    require!(io_controller());
    let name = unique("weight");
    match Cgroup::create(&name, &Limits::new().io_weight(500)) {
        Ok(cgroup) => {
            let weights = ["io.weight", "io.bfq.weight", "blkio.bfq.weight", "blkio.weight"];
            let found = cgroup.paths().iter().find_map(|dir| {
                weights.iter().find_map(|file| fs::read_to_string(dir.join(file)).ok())
            });
            assert!(found.as_ref().unwrap().contains("500"), "{found:?}");
        }
        Err(err) => {
            assert_eq!(err.kind(), ErrorKind::Unsupported);
            assert!(err.hint().unwrap().contains("scheduler"), "{err:?}");
        }
    }
    assert!(left_of(&name).is_empty());
}

/// Some free huge pages of 2 MiB, while the value lives.
struct HugePages(String);

const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

impl HugePages {
    fn new() -> Result<Self, Missing> {
        common::root()?;
        let need = "huge pages of 2 MiB";
        let Ok(before) = fs::read_to_string(HUGE_PAGES) else {
            return Err(Missing::new(need, "the kernel has none"));
        };
        let wanted = before.trim().parse::<u64>().unwrap() + 4;
        fs::write(HUGE_PAGES, wanted.to_string()).unwrap();
        let pages = Self(before);
        let now = fs::read_to_string(HUGE_PAGES).unwrap().trim().parse::<u64>().unwrap();
        if now < wanted {
            return Err(Missing::new(need, "memory is too fragmented"));
        }
        Ok(pages)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        fs::write(HUGE_PAGES, self.0.trim()).unwrap();
    }
}

#[test]
fn huge_pages_are_held() {
    require!(common::cgroup_controller("hugetlb"));
    require!(common::program("python3"));
    let _pages = require!(HugePages::new());
    let cgroup = create("hugetlb", &Limits::new().hugetlb(2 * MIB, 2 * MIB));
    let run = |pages: u32| {
        let script =
            format!("m = mmap.mmap(-1, {pages} << 21, flags=0x40022); m[0] = 1; sys.stdin.read()");
        start(&cgroup, &format!("exec python3 -c 'import mmap, sys; {script}' <&-"))
            .wait_with_output()
            .unwrap()
    };
    let one = run(1);
    assert!(!String::from_utf8_lossy(&one.stderr).contains("OSError: [Errno 12]"), "{one:?}");
    let two = run(2);
    assert!(!two.status.success());
    let stats = cgroup.stats().unwrap();
    let huge = stats.hugetlb.iter().find(|huge| huge.page_size == 2 * MIB).unwrap();
    assert_eq!((huge.limit, huge.current), (Some(2 * MIB), 0));
}

#[test]
fn a_huge_page_size_that_does_not_exist_is_named() {
    require!(common::cgroup_controller("hugetlb"));
    let name = unique("huge");
    let err = Cgroup::create(&name, &Limits::new().hugetlb(8 * KIB, MIB)).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unsupported);
    assert!(format!("{err:#}").contains("hugetlb.8KB"), "{err:#}");
    assert!(err.hint().unwrap().contains("/sys/kernel/mm/hugepages"), "{err:?}");
    assert!(left_of(&name).is_empty(), "a failed creation leaves nothing");
}

#[test]
fn absurd_limits_and_names_are_refused_before_anything_is_made() {
    let before = audit::cgroups();
    for limits in [Limits::new().pids(0), Limits::new().memory(1), Limits::new().cpus(f64::NAN)] {
        let err = Cgroup::create(unique("absurd"), &limits).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidInput, "{err:?}");
    }
    for name in ["", "/", "..", "a/../../b", "a\0b", "cgroup.procs"] {
        for result in [Cgroup::create(name, &Limits::new()), Cgroup::open(name)] {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidInput, "{name:?}");
        }
    }
    let now = audit::cgroups();
    assert!(!now.difference(&before).any(|path| path.to_string_lossy().contains("absurd")));
}

#[test]
fn a_missing_controller_is_named_with_what_to_do() {
    // Whichever version the others are on, a kernel has no such controller for v2.
    let name = unique("missing");
    let has = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let absent = ["rdma", "misc"].into_iter().find(|name| !has.contains(name));
    let Some(absent) = absent else {
        return Missing::new("a kernel without some controller", "it has them all").skip();
    };
    let err =
        Cgroup::create(&name, &Limits::new().unified(format!("{absent}.max"), "1")).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unsupported);
    assert!(format!("{err:#}").contains(absent), "{err:#}");
    assert!(err.hint().is_some(), "{err:?}");
    assert!(left_of(&name).is_empty());
}

#[test]
fn a_user_without_permission_is_told_what_to_do() {
    require!(common::not_root());
    if common::cgroup_controller("memory").is_ok() {
        return Missing::new("a user without a cgroup of its own", "it has one").skip();
    }
    let err = Cgroup::create(unique("denied"), &Limits::new().memory(32 * MIB)).unwrap_err();
    assert!(matches!(err.kind(), ErrorKind::PermissionDenied | ErrorKind::Busy), "{err:?}");
    assert!(format!("{err:#}").contains("memory"), "{err:#}");
    assert!(err.hint().is_some(), "{err:?}");
}

#[test]
fn room_is_made_in_the_own_cgroup_on_request() {
    require!(permitted());
    require!(common::cgroup_controller("memory"));
    if fs::read_to_string("/proc/self/cgroup").unwrap().contains(":memory:") {
        return Missing::new("limits on cgroup version 2", "memory is on version 1").skip();
    }
    let home = require!(common::delegated_cgroup());
    common::alone(|| {
        let outer = create("outer", &Limits::new().accounting());
        outer.add(std::process::id()).unwrap();
        let place = Cgroup::make_room().unwrap();
        assert!(place.to_string_lossy().contains(outer.name()), "{place:?}");
        let inner = create("inner", &Limits::new().memory(32 * MIB));
        let path = &inner.paths()[0];
        assert!(path.to_string_lossy().contains(outer.name()), "{path:?}");
        let mut child = start(&inner, "exit 3");
        assert_eq!(child.wait().unwrap().code(), Some(3));
        drop(inner);
        fs::write(home.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        let name = outer.name().to_owned();
        outer.delete().unwrap();
        assert!(left_of(&name).is_empty());
    });
}

#[test]
fn nothing_is_left_behind_or_held_open() {
    require!(unified());
    common::alone(|| {
        // The hierarchies stay open for the life of the process; nothing else does.
        drop(create("warm", &Limits::new().accounting()));
        let before = audit::fds();
        for _ in 0..20 {
            let cgroup = create("cycle", &Limits::new().accounting());
            let name = cgroup.name().to_owned();
            let mut events = cgroup.events().unwrap();
            let mut child = start(&cgroup, "exit 0");
            child.wait().unwrap();
            assert_eq!(events.wait_timeout(PATIENCE).unwrap(), Some(Event::Empty));
            drop((cgroup, events, child));
            assert!(left_of(&name).is_empty());
        }
        assert_eq!(audit::fds(), before);
    });
}
