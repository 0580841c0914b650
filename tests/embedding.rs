//! The rules that make Coracle safe to embed: what a spawn, good or failed, must not do to its host.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
mod matrix;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::panic;
use std::process::Command as StdCommand;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use common::{audit, require};
use coracle::ErrorKind;
use coracle::namespaces::{Command, Mount, Signal, Stdio};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, waitpid};

/// What [`audit::state`] leaves out, because few things could change it.
fn more_state() -> BTreeSet<String> {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let mut found = BTreeSet::new();
    for line in read("/proc/thread-self/status").lines() {
        let names = ["Cpus_allowed:", "Mems_allowed:", "Seccomp_filters:", "ShdPnd:", "SigPnd:"];
        if names.iter().any(|name| line.starts_with(name)) {
            found.insert(line.to_owned());
        }
    }
    let stat = read("/proc/thread-self/stat");
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    // Process group, session, terminal, priority, nice value, policy; see proc(5).
    for (name, index) in
        [("group", 2), ("session", 3), ("tty", 4), ("priority", 15), ("nice", 16), ("policy", 38)]
    {
        found.insert(format!("{name} {}", fields[index]));
    }
    for file in [
        "/proc/self/coredump_filter",
        "/proc/self/timerslack_ns",
        "/proc/self/cgroup",
        "/proc/self/loginuid",
        "/proc/self/personality",
    ] {
        found.insert(format!("{file} {}", read(file)));
    }
    found.insert(format!("securebits {:?}", nix::sys::prctl::get_keepcaps()));
    found.insert(format!("subreaper {:?}", nix::sys::prctl::get_child_subreaper()));
    found.insert(format!("death signal {:?}", nix::sys::prctl::get_pdeathsig()));
    found
}

/// The first limit opens the roots of the cgroup hierarchies, which stay open.
fn warm_up(kinds: &mut [matrix::Kind]) {
    for kind in kinds.iter_mut().filter(|kind| kind.name.contains("limited")) {
        kind.run();
    }
}

#[test]
fn nothing_of_the_host_changes() {
    common::alone(|| {
        let sandbox = common::setup("embedding");
        nix::unistd::chdir(&sandbox.dir("here")).unwrap();
        nix::sys::stat::umask(Mode::from_bits_truncate(0o027));
        // A mask of its own, to see that it comes back.
        let mut blocked = SigSet::empty();
        blocked.add(nix::sys::signal::SIGUSR2);
        blocked.thread_set_mask().unwrap();
        let mut kinds = matrix::kinds(&sandbox, &["true"]);
        warm_up(&mut kinds);
        let before = (audit::snapshot(), more_state());
        for _ in 0..common::rounds(5) {
            for kind in &mut kinds {
                kind.run();
                assert_eq!(more_state(), before.1, "{}", kind.name);
            }
            before.0.assert_unchanged();
        }
    });
}

#[test]
fn nothing_of_the_host_changes_while_it_runs() {
    common::alone(|| {
        let sandbox = common::setup("embedding");
        let mut kinds = matrix::kinds(&sandbox, &["sh", "-c", "read x || true"]);
        let before = (audit::state(), more_state());
        for kind in kinds.iter_mut().filter(|kind| !kind.fails) {
            kind.command.stdin(Stdio::piped());
            let mut child =
                kind.command.spawn().unwrap_or_else(|err| panic!("{}: {err:#}", kind.name));
            assert_eq!((audit::state(), more_state()), before, "{}", kind.name);
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    });
}

/// The ways in which a host can make the kernel forget its children.
#[allow(unsafe_code, reason = "nix marks the change of a signal's disposition unsafe")]
fn ignore_children(flags: Option<nix::sys::signal::SaFlags>) {
    use nix::sys::signal::{SaFlags, SigAction, sigaction};
    let handler = if flags.is_some() { SigHandler::SigDfl } else { SigHandler::SigIgn };
    let action = SigAction::new(handler, flags.unwrap_or(SaFlags::empty()), SigSet::empty());
    // SAFETY: no handler function is installed.
    unsafe { sigaction(nix::sys::signal::SIGCHLD, &action) }.unwrap();
}

/// Ends in every way, and checks that the host learns it.
fn exit_statuses_are_right() {
    let knows = common::kernel(6, 15).is_ok();
    let shell = |script: &str| Command::new("sh").args(["-c", script]).status();
    for (script, code, signal) in [
        ("exit 0", Some(0), None),
        ("exit 7", Some(7), None),
        ("kill -TERM $$", None, Some(Signal::TERM)),
    ] {
        for _ in 0..common::rounds(50) {
            match shell(script) {
                Ok(status) => {
                    assert_eq!((status.code(), status.signal()), (code, signal), "{script}");
                    // Where the kernel had it to give, the usage comes too.
                    if !knows {
                        assert!(status.usage().is_some());
                    }
                }
                Err(err) => {
                    assert!(!knows, "{err:#}");
                    assert_eq!(err.kind(), ErrorKind::InvalidState);
                    assert!(err.hint().unwrap().contains("Linux 6.15"), "{err:?}");
                }
            }
        }
    }
    let err = Command::new("/no/such/program").spawn().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound, "{err:#}");
    let output = Command::new("echo").arg("hello").output();
    if knows {
        assert_eq!(output.unwrap().stdout, b"hello\n");
    }
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    assert_eq!(child.try_wait().unwrap(), None);
    child.kill().unwrap();
    drop(child);
    assert_eq!(audit::children(), BTreeSet::new());
}

#[test]
fn works_with_sigchld_ignored() {
    common::alone(|| {
        ignore_children(None);
        let before = audit::state();
        exit_statuses_are_right();
        assert_eq!(audit::state(), before);
    });
}

#[test]
fn works_where_children_are_never_zombies() {
    common::alone(|| {
        ignore_children(Some(nix::sys::signal::SaFlags::SA_NOCLDWAIT));
        exit_statuses_are_right();
    });
}

#[test]
fn works_in_a_host_that_reaps_everything() {
    common::alone(|| {
        let stop = AtomicBool::new(false);
        let stolen = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // __WALL too: the worst a host can do.
                    let flags = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL;
                    if waitpid(None, Some(flags)).is_ok_and(|status| status.pid().is_some()) {
                        stolen.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            let _stop = Stop(&stop);
            // On a busy machine the thief may come late every time.
            for _ in 0..50 {
                exit_statuses_are_right();
                if stolen.load(Ordering::Relaxed) > 0 {
                    break;
                }
            }
        });
        assert_ne!(stolen.load(Ordering::Relaxed), 0, "nothing was stolen");
    });
}

/// Tells other threads to stop, also when the test panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The numbers in a listing of /proc/self/fd.
fn numbers(listing: &[u8]) -> BTreeSet<i32> {
    String::from_utf8_lossy(listing).split_whitespace().map(|n| n.parse().unwrap()).collect()
}

#[test]
fn no_descriptor_is_seen_by_what_other_threads_start() {
    common::alone(|| {
        let sandbox = common::setup("embedding");
        let mut kinds = matrix::kinds(&sandbox, &["true"]);
        warm_up(&mut kinds);
        let list = || {
            let output = StdCommand::new("ls").arg("/proc/self/fd").output().unwrap();
            numbers(&output.stdout)
        };
        let before = (list(), audit::fds());
        let done = AtomicBool::new(false);
        let listings = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(list(), before.0);
                    listings.fetch_add(1, Ordering::Relaxed);
                }
            });
            let _stop = Stop(&done);
            for round in 0..common::rounds(1000) {
                let index = round % kinds.len();
                kinds[index].run();
            }
        });
        assert!(listings.load(Ordering::Relaxed) > 10);
        audit::assert_no_more("file descriptors", &before.1, audit::fds);
    });
}

#[test]
fn every_descriptor_a_child_has_here_is_close_on_exec() {
    common::alone(|| {
        let sandbox = common::setup("embedding");
        let before = audit::inheritable_fds();
        let mut children = Vec::new();
        for mut kind in matrix::kinds(&sandbox, &["sleep", "1000"]) {
            let command = &mut kind.command;
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            children.extend(command.spawn());
            assert_eq!(audit::inheritable_fds(), before, "{}", kind.name);
        }
        let child = children.iter().find(|child| child.user_namespace().is_some());
        if let Some(child) = child {
            let _exec =
                child.exec(Command::new("sleep").arg("1000").stdout(Stdio::piped())).unwrap();
            assert_eq!(audit::inheritable_fds(), before);
        }
    });
}

#[test]
fn no_descriptor_of_the_host_is_in_a_child() {
    common::alone(|| {
        let sandbox = common::setup("embedding");
        let secret = fs::File::open("/etc/passwd").unwrap();
        // Without close-on-exec, low and high.
        let mut kept: Vec<OwnedFd> = (0..50).map(|_| nix::unistd::dup(&secret).unwrap()).collect();
        for number in [300, 700, 1000] {
            let number = nix::fcntl::fcntl(&secret, nix::fcntl::FcntlArg::F_DUPFD(number)).unwrap();
            kept.push(adopt(number));
        }
        let script = "exec ls /proc/self/fd";
        for mut kind in matrix::kinds(&sandbox, &["sh", "-c", script]) {
            if kind.fails || kind.name.contains("terminal") {
                continue;
            }
            let output =
                kind.command.output().unwrap_or_else(|err| panic!("{}: {err:#}", kind.name));
            // 3 is ls's own.
            assert_eq!(numbers(&output.stdout), BTreeSet::from([0, 1, 2, 3]), "{}", kind.name);
        }
        if common::user_namespaces().is_ok() {
            let child = Command::new("sleep").arg("1000").isolated().spawn().unwrap();
            let mut list = Command::new("ls");
            let listing = child.exec(list.arg("/proc/self/fd").stdout(Stdio::piped())).unwrap();
            let output = listing.wait_with_output().unwrap();
            assert_eq!(numbers(&output.stdout), BTreeSet::from([0, 1, 2, 3]));
        }
        // Given ones arrive where they should, and only those.
        let given = kept[7].as_fd().try_clone_to_owned().unwrap();
        let mut command = Command::new("ls");
        let output = command.arg("/proc/self/fd").fd(9, given).output().unwrap();
        assert_eq!(numbers(&output.stdout), BTreeSet::from([0, 1, 2, 3, 9]));
    });
}

#[allow(unsafe_code, reason = "std has no safe way from a number to its owner")]
fn adopt(number: i32) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: fcntl has just made it for us.
    unsafe { OwnedFd::from_raw_fd(number) }
}

#[test]
fn nothing_is_printed_and_nothing_panics() {
    common::alone(|| {
        let sandbox = common::setup("embedding");
        let panics = Arc::new(AtomicUsize::new(0));
        let counter = panics.clone();
        let mut kinds = matrix::kinds(&sandbox, &["true"]);
        let mut said = fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(sandbox.join("said"))
            .unwrap();
        let (out, err) = (
            std::io::stdout().as_fd().try_clone_to_owned().unwrap(),
            std::io::stderr().as_fd().try_clone_to_owned().unwrap(),
        );
        std::io::stdout().flush().unwrap();
        nix::unistd::dup2_stdout(&said).unwrap();
        nix::unistd::dup2_stderr(&said).unwrap();
        panic::set_hook(Box::new(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
        }));
        let result = panic::catch_unwind(panic::AssertUnwindSafe(|| {
            for kind in &mut kinds {
                kind.run();
            }
            for mut command in bad_commands() {
                assert!(command.output().is_err());
            }
        }));
        let _ = panic::take_hook();
        nix::unistd::dup2_stdout(&out).unwrap();
        nix::unistd::dup2_stderr(&err).unwrap();
        let mut text = String::new();
        said.rewind().unwrap();
        said.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), panics.load(Ordering::Relaxed)), ("", 0));
        result.unwrap();
    });
}

/// Requests that nobody can mean.
fn bad_commands() -> Vec<Command> {
    let mut commands = Vec::new();
    let mut add = |change: &dyn Fn(&mut Command)| {
        let mut command = Command::new("true");
        change(&mut command);
        commands.push(command);
    };
    add(&|c| _ = c.arg("a\0b"));
    add(&|c| _ = c.env("A=B", "c"));
    add(&|c| _ = c.env("A", "c\0"));
    add(&|c| _ = c.arg("a".repeat(1 << 22)));
    add(&|c| _ = c.current_dir("/x".repeat(35_000)));
    add(&|c| _ = c.rootfs(&"/x".repeat(35_000)));
    add(&|c| _ = c.user("no-such-user"));
    add(&|c| _ = c.user(""));
    add(&|c| _ = c.user("99999999999999"));
    add(&|c| _ = c.umask(0o7777));
    add(&|c| _ = c.nice(1000));
    add(&|c| _ = c.oom_score_adj(i32::MAX));
    add(&|c| _ = c.hostname("h".repeat(1000)).isolated());
    add(&|c| _ = c.fd(i32::MAX, fs::File::open("/dev/null").unwrap()));
    add(&|c| _ = c.fd(-1, fs::File::open("/dev/null").unwrap()));
    add(&|c| {
        _ = c
            .fd(5, fs::File::open("/dev/null").unwrap())
            .fd(5, fs::File::open("/dev/null").unwrap());
    });
    add(&|c| {
        _ = c.join(coracle::namespaces::Namespaces::NETWORK, fs::File::open("/dev/null").unwrap());
    });
    commands
}

#[test]
fn absurd_requests_are_errors_and_leave_nothing() {
    common::alone(|| {
        let before = audit::snapshot();
        for mut command in bad_commands() {
            let err = command.spawn().expect_err("an absurd request was taken");
            assert!(format!("{err:#}").len() < 2000, "{err:#}");
        }
        before.assert_unchanged();
    });
}

#[test]
fn any_thread_of_a_busy_host_may_spawn() {
    common::alone(|| {
        let sandbox = common::setup("embedding");
        warm_up(&mut matrix::kinds(&sandbox, &["true"]));
        let before = audit::snapshot();
        let done = AtomicBool::new(false);
        let shared = Mutex::new(Vec::<String>::new());
        // As many busy threads as an emulated machine can bear.
        let busy = if common::emulated() { 4 } else { 100 };
        let spawners = if common::emulated() { 1 } else { 4 };
        let start = Barrier::new(busy + spawners);
        thread::scope(|scope| {
            for index in 0..busy {
                let (done, shared, start) = (&done, &shared, &start);
                scope.spawn(move || {
                    start.wait();
                    while !done.load(Ordering::Relaxed) {
                        let text = format!("{index}").repeat(100);
                        let mut shared = shared.lock().unwrap();
                        shared.push(text);
                        if shared.len() > 1000 {
                            shared.clear();
                        }
                        drop(shared);
                        if index % 25 == 0 {
                            assert!(StdCommand::new("true").status().unwrap().success());
                        }
                        thread::yield_now();
                    }
                });
            }
            let spawners: Vec<_> = (0..spawners)
                .map(|_| {
                    let (sandbox, start) = (&sandbox, &start);
                    scope.spawn(move || {
                        start.wait();
                        for _ in 0..common::rounds(3) {
                            for mut kind in matrix::kinds(sandbox, &["true"]) {
                                kind.run();
                            }
                        }
                    })
                })
                .collect();
            let results: Vec<_> = spawners.into_iter().map(|spawner| spawner.join()).collect();
            done.store(true, Ordering::Relaxed);
            assert!(results.iter().all(Result::is_ok), "a spawner panicked");
        });
        before.assert_unchanged();
    });
}

#[test]
fn a_child_outlives_the_thread_that_spawned_it() {
    let spawn = |signal: Option<Signal>| {
        thread::spawn(move || {
            let mut command = Command::new("sh");
            command
                .args(["-c", "read line; echo $line"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped());
            if let Some(signal) = signal {
                command.parent_death_signal(signal);
            }
            command.spawn().unwrap()
        })
        .join()
        .unwrap()
    };
    let mut child = spawn(None);
    child.stdin.take().unwrap().write_all(b"still here\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"still here\n"[..]));
    // The documented exception.
    let mut child = spawn(Some(Signal::KILL));
    let stdin = child.stdin.take();
    assert_eq!(child.wait().unwrap().signal(), Some(Signal::KILL));
    drop(stdin);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[allow(deprecated, reason = "what replaces AsyncFd::new is unsafe, and a pidfd is no trap")]
async fn an_async_runtime_waits_on_the_pidfd() {
    use tokio::io::unix::AsyncFd;
    let mut tasks = Vec::new();
    for index in 0..32 {
        tasks.push(tokio::spawn(async move {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("sleep 0.1; exit {index}")]);
            let mut child = command.spawn().unwrap();
            let pidfd = AsyncFd::new(child.as_fd().try_clone_to_owned().unwrap()).unwrap();
            pidfd.readable().await.unwrap().retain_ready();
            (
                child.try_wait().unwrap().expect("the pidfd is readable, so it has ended").code(),
                index,
            )
        }));
    }
    for task in tasks {
        let (code, index) = task.await.unwrap();
        assert_eq!(code, Some(index));
    }
    // What is not awaited to its end is killed by the drop.
    let child = Command::new("sleep").arg("1000").spawn().unwrap();
    let pidfd = AsyncFd::new(child.as_fd().try_clone_to_owned().unwrap()).unwrap();
    let waited = tokio::time::timeout(Duration::from_millis(20), pidfd.readable()).await;
    assert!(waited.is_err());
    drop(child);
    pidfd.readable().await.unwrap().retain_ready();
}

#[test]
fn no_cgroup_is_touched_when_no_limit_is_asked() {
    common::alone(|| {
        let sandbox = common::setup("embedding");
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let before = audit::cgroups();
        let mut children = Vec::new();
        for mut kind in matrix::kinds(&sandbox, &["sleep", "1000"]) {
            if kind.fails || kind.name.contains("limited") && !kind.name.contains("rlimits") {
                continue;
            }
            let child = kind.command.spawn().unwrap_or_else(|err| panic!("{}: {err:#}", kind.name));
            let its = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
            assert_eq!(its, own, "{}", kind.name);
            assert!(child.cgroup().is_none());
            children.push(child);
        }
        audit::assert_no_more("cgroups", &before, audit::cgroups);
    });
}

#[test]
fn a_failed_spawn_names_step_object_and_errno() {
    // Where no other test's children hold the script open for writing.
    common::alone(|| {
        let sandbox = common::setup("embedding");
        let fails = |what: &str, command: &mut Command, errno: i32, words: &[&str]| {
            let err = command.spawn().map(|child| child.id()).expect_err(what);
            let text = format!("{err:#}");
            assert_eq!(err.raw_os_error(), Some(errno), "{what}: {text}");
            for word in words {
                assert!(text.contains(word), "{what}: {text:?} lacks {word:?}");
            }
        };
        for copy in [false, true] {
            let command = |program: &str| {
                let mut command = Command::new(program);
                if copy {
                    command.copy_memory();
                }
                command
            };
            fails(
                "missing",
                &mut command("/no/such"),
                libc::ENOENT,
                &["spawn /no/such", "execve", "ENOENT"],
            );
            fails(
                "no program",
                &mut command("/etc/passwd"),
                libc::EACCES,
                &["/etc/passwd", "execve", "EACCES"],
            );
            let script = sandbox.file("garbage", "\x7fgarbage");
            fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .unwrap();
            fails(
                "garbage",
                &mut command(script.to_str().unwrap()),
                libc::ENOEXEC,
                &["garbage", "ENOEXEC"],
            );
            let mut no_dir = command("true");
            no_dir.current_dir("/no/such/dir");
            fails("no directory", &mut no_dir, libc::ENOENT, &["/no/such/dir", "chdir", "ENOENT"]);
        }
        require!(common::user_namespaces());
        let mut command = Command::new("true");
        command.isolated().current_dir("/no/such/dir");
        fails("no directory inside", &mut command, libc::ENOENT, &["/no/such/dir"]);
        let mut command = Command::new("/no/such");
        command.isolated();
        fails("missing inside", &mut command, libc::ENOENT, &["/no/such", "execve", "ENOENT"]);
    });
}

#[test]
fn signal_masks_are_the_hosts_own_and_the_child_starts_clean() {
    common::alone(|| {
        let mut blocked = SigSet::empty();
        blocked.add(nix::sys::signal::SIGTERM);
        nix::sys::signal::pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&blocked), None).unwrap();
        let output = Command::new("cat").arg("/proc/self/status").output().unwrap();
        let status = String::from_utf8(output.stdout).unwrap();
        for name in ["SigBlk:", "SigIgn:", "SigCgt:"] {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            assert!(line.ends_with("0000000000000000"), "{line}");
        }
        assert_eq!(SigSet::thread_get_mask().unwrap(), blocked);
    });
}

#[test]
fn the_hosts_umask_does_not_show_in_a_container() {
    require!(common::user_namespaces());
    common::alone(|| {
        let sandbox = common::setup("umask");
        let host = sandbox.dir("host");
        let modes = |mask: u32| {
            let root = sandbox.dir(format!("root-{mask:o}"));
            matrix::root_dir_at(&root);
            nix::sys::stat::umask(Mode::from_bits_truncate(mask));
            let look = "stat -c '%a %n' / /dev /dev/* /proc /sys /run /tmp /mnt/* /mnt/*/* 2>/dev/null; umask";
            let mut rooted = matrix::rooted(&["sh", "-c", look], &root);
            rooted.mount(Mount::bind(&host, "/mnt/deep/dir"));
            let mut isolated = Command::new("sh");
            isolated.args(["-c", look]).isolated().current_dir("/");
            let mut said = String::new();
            for mut command in [rooted, isolated] {
                let output = command.output().unwrap_or_else(|err| panic!("{err:?}"));
                said += std::str::from_utf8(&output.stdout).unwrap();
            }
            nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
            said
        };
        let usual = modes(0o022);
        assert!(usual.contains("755 /mnt/deep"), "{usual}");
        assert_eq!(modes(0o077), usual);
        assert_eq!(modes(0), usual);
    });
}
