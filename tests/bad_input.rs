//! Input that cannot be meant, or names what is not there: an error that says what and why, and nothing left behind.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Sandbox, audit, require};
use coracle::cgroups::{Cgroup, Limits};
use coracle::namespaces::{
    Capability, Command, Device, IdMap, IoPriority, Landlock, Mount, Namespaces, Resource, Rlimit,
    Scheduler, Seccomp, Signal, Sysctl, UserNamespace, seccomp::Action,
};
use coracle::{Error, ErrorKind, Result};

/// The error, of this kind, whose chain names all of `names`; it is no longer than a screen, and never only what the
/// C library calls the number.
#[track_caller]
fn check<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind, names: &[&str]) -> Error {
    let err = match result {
        Err(err) => err,
        Ok(found) => panic!("{names:?} was taken: {found:?}"),
    };
    let chain = format!("{err:#}");
    for name in names {
        assert!(chain.contains(name), "{name:?} is not in: {err:?}");
    }
    assert_eq!(err.kind(), kind, "{err:?}");
    assert!(chain.len() < 4000, "{} bytes of message", chain.len());
    assert!(!chain.contains(char::is_control), "{chain:?}");
    if std::env::var_os("CORACLE_SHOW_ERRORS").is_some() {
        eprintln!("{err:?}\n");
    }
    err
}

/// A root file system with the host's `/usr` to be.
fn rootfs(sandbox: &Sandbox) -> PathBuf {
    for dir in ["root/usr", "root/etc", "root/tmp"] {
        sandbox.dir(dir);
    }
    let root = sandbox.join("root");
    for dir in ["bin", "lib", "lib64"] {
        symlink(format!("usr/{dir}"), root.join(dir)).expect("link");
    }
    root
}

fn in_root(root: &Path, program: &str) -> Command {
    let mut command = Command::new(program);
    command.rootfs(root).mount(Mount::bind("/usr", "/usr").host_ids().read_only());
    command
}

fn write(path: &Path, content: &[u8], mode: u32) {
    fs::write(path, content).expect("write");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

/// Runs the attempts once to warm up what a process makes once, and again between two looks at everything.
fn leaves_nothing(attempts: impl Fn()) {
    common::alone(|| {
        attempts();
        let before = audit::snapshot();
        attempts();
        before.assert_unchanged();
    });
}

#[test]
fn programs() {
    require!(common::user_namespaces());
    leaves_nothing(|| {
        let sandbox = common::setup("programs");
        let root = rootfs(&sandbox);
        let mut foreign = fs::read("/bin/true").expect("read");
        // e_machine: IBM S/390.
        foreign[18..20].copy_from_slice(&22u16.to_ne_bytes());
        write(&root.join("foreign"), &foreign, 0o755);
        write(&root.join("text"), b"no program\n", 0o755);
        write(&root.join("empty"), b"", 0o755);
        write(&root.join("closed"), b"#!/bin/sh\n", 0o644);
        write(&root.join("script"), b"#!/no/such/interpreter\n", 0o755);
        symlink("loop", root.join("loop")).expect("link");
        for (program, kind, names) in [
            ("/no/such", ErrorKind::NotFound, "ENOENT"),
            ("nonesuch", ErrorKind::NotFound, "ENOENT"),
            ("/script", ErrorKind::NotFound, "ENOENT"),
            ("/closed", ErrorKind::PermissionDenied, "EACCES"),
            ("/etc", ErrorKind::PermissionDenied, "EACCES"),
            ("/foreign", ErrorKind::InvalidInput, "ENOEXEC"),
            ("/text", ErrorKind::InvalidInput, "ENOEXEC"),
            ("/empty", ErrorKind::InvalidInput, "ENOEXEC"),
            ("/text/x", ErrorKind::NotFound, "execve"),
            ("/loop", ErrorKind::SafetyViolation, "ELOOP"),
        ] {
            let err = check(in_root(&root, program).spawn(), kind, &[program, names]);
            assert!(err.hint().is_some(), "{err:?}");
            let host = root.join(program.trim_start_matches('/'));
            if host.symlink_metadata().is_ok() && program != "/loop" {
                let host = host.to_str().expect("UTF-8");
                check(Command::new(host).spawn(), kind, &[host, names]);
            }
        }
        check(Command::new("").spawn(), ErrorKind::InvalidInput, &["program is empty"]);
    });
}

#[test]
fn roots_and_working_directories() {
    require!(common::user_namespaces());
    leaves_nothing(|| {
        let sandbox = common::setup("roots");
        let root = rootfs(&sandbox);
        let file = sandbox.file("file", "x");
        let missing = sandbox.join("missing");
        let (file, missing) = (file.to_str().expect("UTF-8"), missing.to_str().expect("UTF-8"));
        let spawn = |root: &str| Command::new("true").rootfs(root).spawn();
        check(spawn(missing), ErrorKind::NotFound, &[missing, "ENOENT"]);
        check(spawn(file), ErrorKind::InvalidInput, &[file, "not a directory"]);
        check(spawn(""), ErrorKind::InvalidInput, &["root is empty"]);
        write(&root.join("etc/file"), b"", 0o644);
        let cwd = |dir: &str| in_root(&root, "true").current_dir(dir).spawn();
        check(cwd("/missing"), ErrorKind::NotFound, &["working directory /missing", "ENOENT"]);
        check(
            cwd("/etc/file"),
            ErrorKind::InvalidInput,
            &["working directory /etc/file", "ENOTDIR"],
        );
        check(cwd("etc"), ErrorKind::InvalidInput, &["working directory etc", "not absolute"]);
        check(cwd(""), ErrorKind::InvalidInput, &["working directory is empty"]);
        let host = Command::new("true").current_dir("").spawn();
        check(host, ErrorKind::InvalidInput, &["working directory is empty"]);
        check(Command::new("true").current_dir(missing).spawn(), ErrorKind::NotFound, &[missing]);
        check(
            Command::new("true").isolated().current_dir(missing).spawn(),
            ErrorKind::NotFound,
            &[missing],
        );
    });
}

#[test]
fn users_and_ids() {
    require!(common::user_namespaces());
    leaves_nothing(|| {
        let sandbox = common::setup("ids");
        let root = rootfs(&sandbox);
        let user = |user: &str| in_root(&root, "true").user(user).spawn();
        check(user("nobody-here"), ErrorKind::NotFound, &["nobody-here", "/etc/passwd"]);
        check(user("0:no-group"), ErrorKind::NotFound, &["no-group", "/etc/group"]);
        check(user("0:"), ErrorKind::InvalidInput, &["\"0:\""]);
        check(user("a\0b"), ErrorKind::InvalidInput, &["a\\0b"]);
        check(user("3000000000"), ErrorKind::InvalidInput, &["3000000000", "map"]);
        check(user("0:3000000000"), ErrorKind::InvalidInput, &["3000000000", "map"]);
        let groups = in_root(&root, "true").groups([3_000_000_000]).spawn();
        check(groups, ErrorKind::InvalidInput, &["3000000000", "map"]);
        let map = |map: IdMap| UserNamespace::new(&map);
        check(map(IdMap::new()), ErrorKind::InvalidInput, &["map"]);
        check(map(IdMap::range(0, 0)), ErrorKind::InvalidInput, &["map"]);
        check(map(IdMap::range(u32::MAX, 2)), ErrorKind::InvalidInput, &["4294967295"]);
        let twice = IdMap::new().uid(0, 1000, 10).uid(5, 5000, 10).gid(0, 0, 1);
        check(map(twice), ErrorKind::InvalidInput, &["5"]);
    });
}

#[test]
fn limits() {
    require!(common::user_namespaces());
    leaves_nothing(|| {
        let sandbox = common::setup("limits");
        let root = rootfs(&sandbox);
        let with = |limits: Limits| in_root(&root, "true").limits(limits).spawn();
        for (limits, name) in [
            (Limits::new().cpus(0.0), "cpu"),
            (Limits::new().cpus(-1.0), "cpu"),
            (Limits::new().cpus(f64::NAN), "cpu"),
            (Limits::new().cpus(f64::INFINITY), "cpu"),
            (Limits::new().cpu_weight(0), "weight"),
            (Limits::new().cpu_weight(10_001), "10001"),
            (Limits::new().io_weight(10_001), "10001"),
            (Limits::new().cpuset_cpus("0-"), "0-"),
            (Limits::new().cpuset_cpus("a,b"), "a,b"),
            (Limits::new().cpuset_cpus("0\n1"), "0"),
            (Limits::new().cpu_period(Duration::from_secs(3600)), "period"),
            (Limits::new().unified("../../x", "1"), "../../x"),
        ] {
            check(with(limits), ErrorKind::InvalidInput, &[name]);
        }
        let mut command = in_root(&root, "true");
        let rlimit = |resource, soft, hard| {
            let mut command = command.clone();
            command.rlimit(resource, Rlimit { soft, hard }).spawn()
        };
        check(rlimit(Resource::Nofile, 10, 5), ErrorKind::InvalidInput, &["10", "5"]);
        for score in [-1001, 1001, i32::MAX] {
            let spawned = command.clone().oom_score_adj(score).spawn();
            check(spawned, ErrorKind::InvalidInput, &[&score.to_string(), "oom_score_adj"]);
        }
        for nice in [-21, 20, i32::MIN] {
            check(
                command.clone().nice(nice).spawn(),
                ErrorKind::InvalidInput,
                &[&nice.to_string()],
            );
        }
        for mask in [0o1000, u32::MAX] {
            let spawned = command.clone().umask(mask).spawn();
            check(spawned, ErrorKind::InvalidInput, &["umask", &format!("{mask:#o}")]);
        }
        check(
            command.io_priority(IoPriority::best_effort(8)).spawn(),
            ErrorKind::InvalidInput,
            &["8"],
        );
        let priority = command.clone().scheduler(Scheduler::fifo(1000)).spawn();
        check(priority, ErrorKind::InvalidInput, &["1000"]);
    });
}

#[test]
fn limits_and_a_cgroup_at_once() {
    require!(common::root());
    require!(common::cgroup_controller("pids"));
    leaves_nothing(|| {
        let cgroup = Cgroup::create("bad-input", &Limits::new().pids(10)).expect("make a cgroup");
        let both = Command::new("true").limits(Limits::new().pids(5)).cgroup(&cgroup).spawn();
        let err = check(both, ErrorKind::InvalidInput, &["both limits and a cgroup"]);
        assert!(err.hint().is_some_and(|hint| hint.contains("Cgroup::set")), "{err:?}");
        cgroup.delete().expect("delete it");
    });
}

#[test]
fn names_that_do_not_exist() {
    let unknown = "CAP_FLY".parse::<Capability>();
    check(unknown, ErrorKind::InvalidInput, &["CAP_FLY"]);
    check("SIGNOPE".parse::<Signal>(), ErrorKind::InvalidInput, &["SIGNOPE"]);
    check("pockets".parse::<Resource>(), ErrorKind::InvalidInput, &["pockets"]);
    let typo = Seccomp::allow_all().deny("opne", libc::EPERM);
    let err = check(
        Command::new("true").no_new_privileges(true).seccomp(typo).spawn(),
        ErrorKind::InvalidInput,
        &["opne", "system call"],
    );
    assert_eq!(err.hint(), Some("did you mean open?"));
    for errno in [-1, 4096] {
        let filter = Seccomp::allow_all().deny("open", errno);
        let spawned = Command::new("true").no_new_privileges(true).seccomp(filter).spawn();
        check(spawned, ErrorKind::InvalidInput, &[&errno.to_string()]);
    }
    let deaf = Seccomp::deny_all(Action::Notify);
    let spawned = Command::new("true").no_new_privileges(true).seccomp(deaf).spawn();
    check(spawned, ErrorKind::InvalidInput, &["notifies"]);
    check(Sysctl::new("kernel.hostnam", "x"), ErrorKind::InvalidInput, &["kernel.hostnam"]);
    check(Sysctl::new("net.ipv4.ip_forward", "1\0"), ErrorKind::InvalidInput, &["ip_forward"]);
}

#[test]
fn a_nul_in_every_string() {
    require!(common::user_namespaces());
    leaves_nothing(|| {
        let sandbox = common::setup("nul");
        let root = rootfs(&sandbox);
        let with = |change: &dyn Fn(&mut Command) -> &mut Command| {
            let mut command = in_root(&root, "true");
            change(&mut command).spawn()
        };
        let nul = "bad\0thing";
        let mounts = |mount: Mount| with(&|c| c.mount(mount.clone()));
        for (what, result) in [
            ("program", in_root(&root, nul).spawn()),
            ("program", Command::new(nul).spawn()),
            ("program", with(&|c| c.arg0(nul))),
            ("argument", with(&|c| c.arg(nul))),
            ("environment", with(&|c| c.env(nul, "x"))),
            ("environment", with(&|c| c.env("x", nul))),
            ("working directory", with(&|c| c.current_dir(Path::new("/").join(nul)))),
            ("working directory", Command::new("true").current_dir(nul).spawn()),
            ("root", Command::new("true").rootfs(nul).spawn()),
            ("host name", with(&|c| c.hostname(nul))),
            ("domain name", with(&|c| c.domainname(nul))),
            ("bind", mounts(Mount::bind(nul, "/x"))),
            ("mount point", mounts(Mount::bind("/usr", "/bad\0thing"))),
            ("mount point", mounts(Mount::tmpfs("/bad\0thing"))),
            ("file system type", mounts(Mount::filesystem(nul, "/x"))),
            ("mount option", mounts(Mount::tmpfs("/x").option(nul, None))),
            ("mount option", mounts(Mount::tmpfs("/x").option("mode", Some(nul)))),
            ("bind", mounts(Mount::overlay(nul, "/x"))),
            ("device", with(&|c| c.device(Device::new(nul)))),
            ("bad", with(&|c| c.device(Device::new("/dev/null").at("/dev/bad\0thing")))),
            ("user", with(&|c| c.user(nul))),
            ("mount point", with(&|c| c.masked_paths(["/bad\0thing"]))),
            ("mount point", with(&|c| c.read_only_paths(["/bad\0thing"]))),
            ("landlock", with(&|c| c.landlock(Landlock::new().read("/bad\0thing")))),
            ("label", with(&|c| c.apparmor(nul))),
            ("label", with(&|c| c.selinux(nul))),
        ] {
            let err = result.expect_err(what);
            let chain = format!("{err:#}");
            assert_eq!(err.kind(), ErrorKind::InvalidInput, "{what}: {err:?}");
            assert!(chain.to_lowercase().contains(what), "{what} is not in: {err:?}");
            assert!(
                ["NUL", "nul byte", "control characters"].iter().any(|why| chain.contains(why)),
                "{what}: {err:?}"
            );
            assert!(chain.contains("thing"), "{what}: {err:?}");
            assert!(!chain.contains(char::is_control), "{what}: {chain:?}");
        }
        check(UserNamespace::open(nul).map(drop), ErrorKind::InvalidInput, &["thing", "NUL"]);
    });
}

#[test]
fn strings_that_are_too_long() {
    require!(common::user_namespaces());
    leaves_nothing(|| {
        let sandbox = common::setup("long");
        let root = rootfs(&sandbox);
        let path = "/long".repeat(14_000);
        let name = "n".repeat(70_000);
        let with = |change: &dyn Fn(&mut Command) -> &mut Command| {
            let mut command = in_root(&root, "true");
            change(&mut command).spawn()
        };
        let mounts = |mount: Mount| with(&|c| c.mount(mount.clone()));
        for (what, result) in [
            ("execute /long", in_root(&root, &path).spawn()),
            ("execute nnn", Command::new(&name).spawn()),
            ("root", Command::new("true").rootfs(&path).spawn()),
            ("working directory /long", with(&|c| c.current_dir(&path))),
            ("bind /long", mounts(Mount::bind(&path, "/x"))),
            ("/long", mounts(Mount::bind("/usr", &path).host_ids())),
            ("/long", mounts(Mount::tmpfs(&path))),
            ("device", with(&|c| c.device(Device::new(&path)))),
            ("host name", with(&|c| c.hostname(&name))),
            ("host name", with(&|c| c.hostname("n".repeat(65)))),
            ("host name", with(&|c| c.hostname(""))),
            ("domain name", with(&|c| c.domainname("n".repeat(65)))),
            ("mask /long", with(&|c| c.masked_paths([&path]))),
            ("Landlock", with(&|c| c.landlock(Landlock::new().read(&path)))),
        ] {
            check(result, ErrorKind::InvalidInput, &[what]);
        }
        let user = with(&|c| c.user("u".repeat(70_000)));
        check(user, ErrorKind::NotFound, &["uuu", "/etc/passwd"]);
        let many = with(&|c| c.args(std::iter::repeat_n(&name, 100)));
        let err = check(many, ErrorKind::InvalidInput, &["E2BIG"]);
        assert!(err.hint().is_some_and(|hint| hint.contains("arguments")), "{err:?}");
        let one = with(&|c| c.arg("a".repeat(200_000)));
        check(one, ErrorKind::InvalidInput, &["E2BIG"]);
        check(with(&|c| c.env("X", "a".repeat(200_000))), ErrorKind::InvalidInput, &["E2BIG"]);
    });
}

#[test]
fn environment_and_descriptors() {
    let env = |key: &str| Command::new("true").env(key, "x").spawn();
    check(env("a=b"), ErrorKind::InvalidInput, &["a=b", "environment variable"]);
    check(env("=a"), ErrorKind::InvalidInput, &["=a"]);
    check(env(""), ErrorKind::InvalidInput, &["environment variable", "empty"]);
    for number in [-1, 0, 2, i32::MIN, i32::MAX, (1 << 20) + 1] {
        let file = File::open("/dev/null").expect("open");
        let spawned = Command::new("true").fd(number, file).spawn();
        check(spawned, ErrorKind::InvalidInput, &[&number.to_string(), "descriptor"]);
    }
    let open = || File::open("/dev/null").expect("open");
    let twice = Command::new("true").fd(5, open()).fd(5, open()).spawn();
    check(twice, ErrorKind::InvalidInput, &["5", "twice"]);
}

#[test]
fn mounts() {
    require!(common::user_namespaces());
    leaves_nothing(|| {
        let sandbox = common::setup("mounts");
        let root = rootfs(&sandbox);
        let dir = sandbox.dir("dir");
        let file = sandbox.file("file", "x");
        write(&root.join("etc/file"), b"", 0o644);
        let mounts = |mount: Mount| in_root(&root, "true").mount(mount).spawn();
        for target in ["relative", "", "./x", "../x"] {
            let spawned = mounts(Mount::tmpfs(target));
            check(spawned, ErrorKind::InvalidInput, &["mount point", target]);
        }
        for target in ["/..", "/a/../b", "/../../x"] {
            check(mounts(Mount::tmpfs(target)), ErrorKind::InvalidInput, &[target, ".."]);
        }
        for target in ["/", "//", "/."] {
            check(mounts(Mount::tmpfs(target)), ErrorKind::InvalidInput, &["root"]);
        }
        let missing = sandbox.join("missing");
        let name = missing.to_str().expect("UTF-8");
        check(mounts(Mount::bind(&missing, "/x")), ErrorKind::NotFound, &[name, "/x", "ENOENT"]);
        let over = mounts(Mount::bind(&dir, "/etc/file").host_ids());
        check(over, ErrorKind::InvalidInput, &["/etc/file", "ENOTDIR"]);
        let over = mounts(Mount::bind(&file, "/etc").host_ids());
        check(over, ErrorKind::InvalidInput, &["/etc", "EISDIR"]);
        check(mounts(Mount::tmpfs("/etc/file/x")), ErrorKind::InvalidInput, &["/etc/file/x"]);
        let unknown = mounts(Mount::filesystem("nosuchfs", "/x"));
        check(unknown, ErrorKind::NotFound, &["nosuchfs", "/x"]);
        let option = mounts(Mount::tmpfs("/x").option("nosuchoption", Some("1")));
        check(option, ErrorKind::InvalidInput, &["tmpfs", "/x", "nosuchoption"]);
        let value = mounts(Mount::tmpfs("/x").option("mode", Some("rwx")));
        check(value, ErrorKind::InvalidInput, &["tmpfs", "/x", "mode"]);
        check(mounts(Mount::overlay(&missing, "/x")), ErrorKind::NotFound, &[name]);
        let device = in_root(&root, "true").device(Device::new(&file)).spawn();
        check(device, ErrorKind::InvalidInput, &[file.to_str().expect("UTF-8"), "device"]);
        let device = in_root(&root, "true").device(Device::new(&missing)).spawn();
        check(device, ErrorKind::NotFound, &[name]);
        let stray = Command::new("true").mount(Mount::tmpfs("/x")).spawn();
        check(stray, ErrorKind::InvalidInput, &["mount namespace"]);
    });
}

#[test]
fn settings_that_exclude_each_other() {
    require!(common::user_namespaces());
    leaves_nothing(|| {
        let sandbox = common::setup("conflicts");
        let root = rootfs(&sandbox);
        let shared = in_root(&root, "true").share(Namespaces::MOUNT).spawn();
        check(shared, ErrorKind::InvalidInput, &["mount namespace"]);
        let named = in_root(&root, "true").share(Namespaces::UTS).hostname("x").spawn();
        check(named, ErrorKind::InvalidInput, &["UTS namespace"]);
        check(Command::new("true").hostname("x").spawn(), ErrorKind::InvalidInput, &["host name"]);
        let mut container = in_root(&root, "sleep").arg("1000").spawn().expect("spawn");
        for change in [
            |c: &mut Command| c.unshare(Namespaces::NETWORK).clone(),
            |c: &mut Command| c.rootfs("/").clone(),
            |c: &mut Command| c.isolated().clone(),
            |c: &mut Command| c.mount(Mount::tmpfs("/x")).clone(),
        ] {
            let joined = container.exec(&mut change(&mut Command::new("true")));
            check(joined, ErrorKind::InvalidInput, &["true", "existing container"]);
        }
        let missing = container.exec(&mut Command::new("/no/such"));
        check(missing, ErrorKind::NotFound, &["/no/such", "sleep", "ENOENT"]);
        container.kill().expect("kill");
        container.wait().expect("wait");
        let late = container.exec(&mut Command::new("true"));
        check(late, ErrorKind::InvalidState, &["ended"]);
        check(container.signal(Signal::TERM), ErrorKind::InvalidState, &["ended"]);
    });
}
