//! Probes of the machine. What a test needs and the machine lacks is a [`Missing`], which is told.
//! And a process of its own for a test that counts, and how often to try. The unit tests use this file too.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Takes what a probe found, or says why the test cannot run here and returns from it.
///
/// ```ignore
/// require!(common::root());
/// let rootfs = require!(common::debian_rootfs());
/// ```
macro_rules! require {
    ($probe:expr) => {
        match $probe {
            Ok(found) => found,
            Err(missing) => {
                missing.skip();
                return;
            }
        }
    };
}
pub(crate) use require;

/// Something this machine, kernel or user lacks.
#[derive(Debug)]
pub struct Missing {
    /// What is needed, in words that do not change: `tests/impossible.txt` names it.
    pub need: String,
    /// Why it is not here.
    pub why: String,
}

impl Missing {
    pub fn new(need: impl Into<String>, why: impl Into<String>) -> Self {
        Self { need: need.into(), why: why.into() }
    }

    /// Says that the calling test cannot run here, and why.
    ///
    /// `tests/run` collects what it is told through the file `$CORACLE_SKIPS` and fails on CI if a
    /// test could run nowhere. Without that file, `CI=true` makes a skip a failure at once, unless
    /// `tests/impossible.txt` names the need.
    pub fn skip(&self) {
        let Self { need, why } = self;
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("?");
        // Past the capture of libtest, so that it is seen in a passing run too.
        let _ = writeln!(std::io::stderr(), "skipped: {test}: needs {need}: {why}");
        if let Some(list) = std::env::var_os("CORACLE_SKIPS") {
            // One write, so that lines of parallel tests do not mix.
            let line = format!("{}\t{test}\t{need}\t{why}\n", suite());
            let mut list =
                fs::OpenOptions::new().append(true).open(list).expect("open the list of skips");
            list.write_all(line.as_bytes()).expect("record the skip");
        } else if std::env::var_os("CI").is_some_and(|ci| ci == "true") {
            assert!(is_impossible(need), "{test} must run on CI, but needs {need}: {why}");
        }
    }
}

/// The name of the test binary without cargo's hash.
fn suite() -> String {
    let exe = std::env::current_exe().expect("find the test binary");
    let name = exe.file_name().expect("a binary has a name").to_string_lossy();
    match name.rsplit_once('-') {
        Some((name, hash)) if hash.len() == 16 => name.to_owned(),
        _ => name.into_owned(),
    }
}

fn is_impossible(need: &str) -> bool {
    include_str!("../impossible.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .any(|line| line.split_once(": ").is_some_and(|(name, _)| name == need))
}

/// Runs the body of the calling test in a process of its own, where no other test's threads,
/// descriptors or children disturb what it counts. Orphans of the test become its children.
///
/// ```ignore
/// #[test]
/// fn nothing_is_leaked() {
///     common::alone(|| { /* the test */ });
/// }
/// ```
pub fn alone(body: impl FnOnce()) {
    const MARK: &str = "CORACLE_TEST_ALONE";
    let thread = std::thread::current();
    let name = thread.name().expect("libtest names its threads").to_owned();
    if std::env::var_os(MARK).is_some_and(|alone| alone.to_str() == Some(&name)) {
        nix::sys::prctl::set_child_subreaper(true).expect("become a child subreaper");
        return body();
    }
    let mut command = Command::new("env");
    command.env(MARK, &name);
    rerun(command);
}

/// Runs the calling test again through `command`, to whose arguments those are added that start it.
pub fn rerun(mut command: Command) {
    let thread = std::thread::current();
    let name = thread.name().expect("libtest names its threads");
    let output = command
        .arg(std::env::current_exe().expect("find the test binary"))
        .args(["--exact", name, "--test-threads=1", "--nocapture"])
        .output()
        .expect("start the test binary again");
    let said = String::from_utf8_lossy(&output.stderr);
    for skip in said.lines().filter(|line| line.starts_with("skipped: ")) {
        let _ = writeln!(std::io::stderr(), "{skip}");
    }
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "in its own process, {}:\n{printed}\n{said}", output.status);
}

/// Whether this is the emulated machine of tests/vm, which is slow and small.
pub fn emulated() -> bool {
    std::env::var_os("CORACLE_TEST_EMULATED").is_some()
}

/// How often to do something that is done `many` times: a fraction of it on the emulated machine.
pub fn rounds(many: usize) -> usize {
    if emulated() { many.div_ceil(40) } else { many }
}

/// A time limit that ends what would never end: what ends by itself has long done so, on the emulated machine too.
pub fn time_limit(usual: Duration) -> Duration {
    if emulated() { usual * 10 } else { usual }
}

/// Runs as root of the initial user namespace.
pub fn root() -> Result<(), Missing> {
    let uid = nix::unistd::geteuid();
    if uid.is_root() {
        return Ok(());
    }
    Err(Missing::new("root", format!("runs as uid {uid}")))
}

/// Runs as an ordinary user.
pub fn not_root() -> Result<(), Missing> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Missing::new("an ordinary user", "runs as root"))
}

/// The caller may make a user namespace (root always may, unless they are switched off).
pub fn user_namespaces() -> Result<(), Missing> {
    succeeds("user namespaces", Command::new("unshare").args(["--user", "--map-root-user", "true"]))
}

/// The caller is root, or has ranges in /etc/subuid and /etc/subgid and the two helpers that map them.
pub fn subordinate_ids() -> Result<(), Missing> {
    if root().is_ok() {
        return Ok(());
    }
    let mut command = Command::new("unshare");
    succeeds("subordinate ids", command.args(["--user", "--map-auto", "--map-root-user", "true"]))
}

/// The kernel has the overlay filesystem and the caller may mount it, in a user namespace if need be.
pub fn overlay() -> Result<(), Missing> {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-euc"]).arg(
        "mount -t tmpfs none /mnt; cd /mnt; mkdir l u w m; mount -t overlay -o lowerdir=l,upperdir=u,workdir=w o m",
    );
    succeeds("overlay", &mut command)
}

/// All that an isolated process is made of.
pub fn containers() -> Result<(), Missing> {
    user_namespaces()?;
    system_calls(&["fsopen", "fsconfig", "fsmount", "open_tree", "move_mount", "mount_setattr"])
}

/// All that stacks of directories are made of.
pub fn stacks() -> Result<(), Missing> {
    overlay()?;
    system_calls(&["fsopen", "fsconfig", "fsmount", "open_tree", "move_mount"])?;
    if root().is_ok() { system_calls(&["mount_setattr"]) } else { Ok(()) }
}

/// [`stacks`], with their changes in memory: an ordinary user's tmpfs keeps the overlay's marks only since
/// Linux 6.6.
pub fn stacks_in_memory() -> Result<(), Missing> {
    stacks()?;
    if root().is_ok() { Ok(()) } else { kernel(6, 6) }
}

/// The running kernel is at least `major.minor`.
pub fn kernel(major: u32, minor: u32) -> Result<(), Missing> {
    let release =
        fs::read_to_string("/proc/sys/kernel/osrelease").expect("read the kernel's version");
    let mut numbers = release.split(['.', '-']).map_while(|part| part.trim().parse::<u32>().ok());
    let running = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if running >= (major, minor) {
        return Ok(());
    }
    Err(Missing::new(format!("Linux {major}.{minor}"), format!("this is Linux {}", release.trim())))
}

/// A program in `$PATH`.
pub fn program(name: &str) -> Result<PathBuf, Missing> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| Missing::new(format!("the program {name}"), "it is not in $PATH"))
}

/// The unpacked Debian root filesystem that `tests/run` makes.
pub fn debian_rootfs() -> Result<PathBuf, Missing> {
    let need = "a Debian root filesystem";
    let Some(path) = std::env::var_os("CORACLE_TEST_ROOTFS").map(PathBuf::from) else {
        return Err(Missing::new(need, "$CORACLE_TEST_ROOTFS is not set; tests/run makes one"));
    };
    if path.join("usr/bin/dpkg").exists() {
        return Ok(path);
    }
    Err(Missing::new(need, format!("there is none at {}", path.display())))
}

/// The tar archive of a Debian root filesystem with servers, that `tests/run` makes.
pub fn programs_archive() -> Result<PathBuf, Missing> {
    let need = "a Debian root filesystem with servers";
    let Some(path) = std::env::var_os("CORACLE_TEST_PROGRAMS").map(PathBuf::from) else {
        return Err(Missing::new(need, "$CORACLE_TEST_PROGRAMS is not set; tests/run makes one"));
    };
    if path.is_file() {
        return Ok(path);
    }
    Err(Missing::new(need, format!("there is none at {}", path.display())))
}

/// Version 1 or 2 (hybrid counts) offers the controller, and this user may make a group with it.
pub fn cgroup_controller(name: &str) -> Result<(), Missing> {
    let need = format!("cgroup controller {name}");
    let mine = fs::read_to_string("/proc/self/cgroup").expect("read /proc/self/cgroup");
    let v1 = mine.lines().any(|line| {
        line.split(':').nth(1).is_some_and(|names| names.split(',').any(|other| other == name))
    });
    if v1 {
        return root().map_err(|_| Missing::new(need, "version 1 and not root"));
    }
    let group = delegated_cgroup().map_err(|missing| Missing::new(&need, missing.why))?;
    let offered = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    if offered.split_whitespace().any(|other| other == name) {
        return Ok(());
    }
    Err(Missing::new(need, format!("{} offers only: {}", group.display(), offered.trim())))
}

/// The version 2 group this process lies in, if it may make groups below its parent or itself.
pub fn delegated_cgroup() -> Result<PathBuf, Missing> {
    let need = "a cgroup version 2 delegated to this user";
    let mine = fs::read_to_string("/proc/self/cgroup").expect("read /proc/self/cgroup");
    let Some(group) = mine.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return Err(Missing::new(need, "version 2 is not mounted"));
    };
    let unified = PathBuf::from("/sys/fs/cgroup/unified");
    let top = if unified.is_dir() { unified } else { PathBuf::from("/sys/fs/cgroup") };
    let group = top.join(group);
    let may_write = nix::unistd::access(&group, nix::unistd::AccessFlags::W_OK);
    if may_write.is_ok() && group.join("cgroup.procs").is_file() {
        return Ok(group);
    }
    Err(Missing::new(need, format!("{} is not this user's", group.display())))
}

fn succeeds(need: &str, command: &mut Command) -> Result<(), Missing> {
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(err) => return Err(Missing::new(need, format!("{:?}: {err}", command.get_program()))),
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Missing::new(need, said.trim().replace(['\n', '\t'], " ")))
}

/// None of the system calls is one that `tests/run` hides in this round.
pub fn system_calls(names: &[&str]) -> Result<(), Missing> {
    let hidden = std::env::var("CORACLE_TEST_ENOSYS").unwrap_or_default();
    match names.iter().find(|name| hidden.split(',').any(|other| other == **name)) {
        None => Ok(()),
        Some(name) => Err(Missing::new(format!("the system call {name}"), "hidden in this round")),
    }
}
