//! What a process gets: each thing that `Command` can be asked for, seen from inside.

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use coracle::cgroups::Limits;
#[cfg(feature = "layers")]
use coracle::layers::Rootfs;
use coracle::namespaces::{
    Capabilities, Capability, Child, Clock, Command, Device, IoPriority, Mount, Namespaces, Output,
    Resource, Rlimit, Scheduler, Seccomp, Signal, Stdio, Sysctl, TerminalSize, UserNamespace,
};
use coracle::{ErrorKind, MIB};

use common::{audit, require, setup};
use nix::sys::resource::{Resource::RLIMIT_NOFILE, getrlimit};

fn sh(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-euc", script]);
    command
}

fn text(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

fn says(command: &mut Command) -> String {
    text(&command.output().unwrap_or_else(|err| panic!("{err:?}")))
}

/// What `read`s into a string until the writing end is closed.
fn rest(mut from: impl Read) -> String {
    let (mut all, mut chunk) = (Vec::new(), [0; 4096]);
    // A terminal whose other side is closed answers EIO.
    while let Ok(n @ 1..) = from.read(&mut chunk) {
        all.extend_from_slice(&chunk[..n]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

fn namespace(of: &str, kind: &str) -> String {
    fs::read_link(format!("/proc/{of}/ns/{kind}"))
        .expect("read a namespace link")
        .display()
        .to_string()
}

#[test]
fn no_descriptor_reaches_who_lies_about_them_in_a_proc_of_its_own() {
    require!(common::containers());
    require!(common::program("perl"));
    let sandbox = setup("descriptors");
    let root = sandbox.dir("root");
    // It says that nothing is open.
    for dir in ["root/usr", "root/proc/self/fd", "root/dev"] {
        sandbox.dir(dir);
    }
    for dir in ["bin", "lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{dir}"), root.join(dir)).unwrap();
    }
    sandbox.file("root/dev/null", "");
    // Inheritable, one low and one high.
    let file = File::open("/dev/null").unwrap();
    let _low = nix::unistd::dup(&file).unwrap();
    let mut high: Vec<OwnedFd> = (0..150).map(|_| nix::unistd::dup(&file).unwrap()).collect();
    high.drain(..149);
    let script = r#"open(my $f, "<&$_") and print "$_\n" for 3 .. 250; print "end\n""#;
    let list = || {
        let mut command = Command::new("perl");
        command.args(["-e", script]);
        command
    };
    let in_root = |command: &mut Command| {
        command.rootfs(&root).mount(Mount::bind("/usr", "/usr").host_ids().read_only());
        command.no_default_mounts().clone()
    };
    let few = Rlimit { soft: 16, hard: 16 };
    for command in [&mut list(), list().rlimit(Resource::Nofile, few)] {
        assert_eq!(says(&mut in_root(command)), "end");
    }
    // A filter in front of everything else that keeps the child from asking the kernel.
    let deny = Seccomp::allow_all().deny("close_range", libc::ENOSYS);
    if common::root().is_ok() {
        let mut command = in_root(&mut list());
        command.host_users().no_new_privileges(false).seccomp(deny);
        assert_eq!(says(&mut command), "end");
    }
    let mut sleep = in_root(Command::new("sleep").arg("1000"));
    let container = sleep.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let mut inside = list();
    inside.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for command in [&mut inside.clone(), inside.rlimit(Resource::Nofile, few)] {
        assert_eq!(text(&container.exec(command).unwrap().wait_with_output().unwrap()), "end");
    }
    let mut given = list();
    given.fd(7, file).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = container.exec(&mut given).unwrap().wait_with_output().unwrap();
    assert_eq!(text(&output), "7\nend");
}

#[test]
fn an_isolated_process_starts_in_the_root_where_the_hosts_directory_is_closed_to_it() {
    require!(common::containers());
    common::alone(|| {
        let sandbox = setup("closed");
        let dir = sandbox.dir("dir");
        sandbox.file("dir/file", "x");
        let name = dir.to_str().unwrap();
        let starts = || says(sh("pwd; ls").isolated());
        std::env::set_current_dir(&dir).unwrap();
        assert_eq!(starts(), format!("{name}\nfile"));
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o750)).unwrap();
        if common::root().is_ok() {
            // Its root is another than the host's, to whom the directory belongs.
            assert!(starts().starts_with("/\nbin\n"), "{}", starts());
            // One that was asked for is not left out in silence.
            let err = sh("pwd").isolated().current_dir(&dir).spawn().unwrap_err();
            assert_eq!(err.kind(), ErrorKind::PermissionDenied, "{err:?}");
            assert!(format!("{err:#}").contains(&format!("working directory {name}")), "{err:?}");
            assert!(err.hint().is_some_and(|hint| hint.contains("Mount::bind")), "{err:?}");
            let mut shown = sh("pwd; cat file; ! echo y >file");
            shown.isolated().current_dir(&dir).mount(Mount::bind(&dir, &dir).read_only());
            assert_eq!(says(&mut shown), format!("{name}\nx"));
            assert_eq!(says(sh("pwd").isolated().host_users()), name);
        } else {
            assert_eq!(starts(), format!("{name}\nfile"));
        }
        // A directory that is gone can be shown to nobody.
        fs::remove_dir_all(&dir).unwrap();
        assert!(starts().starts_with("/\nbin\n"), "{}", starts());
        std::env::set_current_dir("/").unwrap();
    });
}

#[test]
fn the_limit_on_descriptors_may_be_below_what_the_host_has_open() {
    require!(common::containers());
    let file = File::open("/dev/null").unwrap();
    let open: Vec<OwnedFd> = (0..100).map(|_| file.try_clone().unwrap().into()).collect();
    let limit = |command: &mut Command| {
        command.rlimit(Resource::Nofile, Rlimit::both(20));
        command.fd(50, open[0].try_clone().unwrap()).clone()
    };
    let script = "ulimit -Sn; ulimit -Hn; [ -e /proc/self/fd/50 ] && echo given";
    assert_eq!(says(&mut limit(&mut sh(script))), "20\n20\ngiven");
    assert_eq!(says(limit(&mut sh(script)).isolated()), "20\n20\ngiven");
    // Above the host's own it takes a capability, which the program need not have.
    let (_, hard) = getrlimit(RLIMIT_NOFILE).unwrap();
    let mut more = sh("ulimit -Sn; ulimit -Hn");
    more.rlimit(Resource::Nofile, Rlimit::new(20, hard + 1)).capabilities(Capabilities::none());
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let effective = u64::from_str_radix(effective.trim(), 16).unwrap();
    if effective >> Capability::SysResource.number() & 1 == 1 {
        assert_eq!(says(&mut more), format!("20\n{}", hard + 1));
    } else {
        let err = more.spawn().expect_err("raised");
        assert_eq!(err.kind(), ErrorKind::PermissionDenied, "{err:?}");
        assert!(err.hint().is_some_and(|hint| hint.contains("CAP_SYS_RESOURCE")), "{err:?}");
    }
}

#[test]
fn a_plain_command_runs_in_the_hosts_namespaces_like_std() {
    let output = Command::new("sh")
        .args(["-c", "echo out; echo err >&2; readlink /proc/self/ns/mnt; exit 3"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(out, format!("out\n{}\n", namespace("self", "mnt")));
    assert_eq!(output.stderr, b"err\n");
}

#[test]
fn every_kind_of_namespace_is_new_in_a_container_but_time() {
    require!(common::containers());
    let said = says(
        sh("for n in user cgroup ipc uts net pid mnt time; do readlink /proc/self/ns/$n; done")
            .isolated(),
    );
    for (inside, kind) in
        said.lines().zip(["user", "cgroup", "ipc", "uts", "net", "pid", "mnt", "time"])
    {
        assert_eq!(inside == namespace("self", kind), kind == "time", "{kind}");
    }
}

#[test]
fn namespaces_are_shared_on_request_and_made_alone_on_request() {
    require!(common::containers());
    let said = says(
        sh("readlink /proc/self/ns/net; readlink /proc/self/ns/ipc")
            .isolated()
            .share(Namespaces::NETWORK | Namespaces::IPC),
    );
    assert_eq!(said, format!("{}\n{}", namespace("self", "net"), namespace("self", "ipc")));
    let users = UserNamespace::automatic().unwrap();
    let said = says(
        sh("readlink /proc/self/ns/uts; readlink /proc/self/ns/net")
            .unshare(Namespaces::UTS)
            .user_namespace(&users),
    );
    let (uts, net) = said.split_once('\n').unwrap();
    assert_ne!(uts, namespace("self", "uts"));
    assert_eq!(net, namespace("self", "net"));
}

#[test]
fn namespaces_are_joined_by_file_and_by_pidfd() {
    require!(common::root());
    require!(common::containers());
    let holder =
        Command::new("sleep").arg("60").isolated().host_users().hostname("held").spawn().unwrap();
    let file = File::open(format!("/proc/{}/ns/uts", holder.id())).unwrap();
    assert_eq!(says(Command::new("hostname").join(Namespaces::UTS, file)), "held");
    let pidfd = std::os::fd::AsFd::as_fd(&holder).try_clone_to_owned().unwrap();
    let said = says(
        sh("hostname; readlink /proc/self/ns/ipc").join(Namespaces::UTS | Namespaces::IPC, pidfd),
    );
    assert_eq!(said, format!("held\n{}", namespace(&holder.id().to_string(), "ipc")));
}

#[test]
fn clocks_are_set_forward_and_exec_sees_them_too() {
    require!(common::containers());
    // In hundredths of a second, as the kernel writes it: as fractions, two readings of one
    // moment may differ by less than a day.
    let hundredths =
        |said: &str| -> u64 { said.split(' ').next().unwrap().replace('.', "").parse().unwrap() };
    let host = hundredths(&says(Command::new("cat").arg("/proc/uptime")));
    let day = Duration::from_secs(86_400);
    let mut cat = Command::new("cat");
    let inside =
        hundredths(&says(cat.arg("/proc/uptime").isolated().time_offset(Clock::Boottime, day)));
    assert!((8_640_000..8_650_000).contains(&(inside - host)), "{host} {inside}");
    let child = Command::new("sleep")
        .arg("60")
        .isolated()
        .time_offset(Clock::Boottime, day)
        .spawn()
        .unwrap();
    let exec = child.exec(Command::new("cat").arg("/proc/uptime").stdout(Stdio::piped())).unwrap();
    let seen = hundredths(&text(&exec.wait_with_output().unwrap()));
    assert!(seen - host >= 8_640_000, "{host} {seen}");
}

#[test]
fn names_of_host_and_domain_are_the_containers_own() {
    require!(common::containers());
    let said = says(
        sh("hostname; cat /proc/sys/kernel/domainname")
            .isolated()
            .hostname("box")
            .domainname("example"),
    );
    assert_eq!(said, "box\nexample");
    assert_eq!(says(Command::new("hostname").isolated()), "container");
}

#[cfg(feature = "layers")]
#[test]
fn mounts_of_every_kind_show_up_with_their_options() {
    require!(common::containers());
    require!(common::overlay());
    let dir = setup("namespaces-mounts");
    dir.file("source/file", "bound");
    dir.file("lower/low", "low");
    let at = |name: &str| dir.path().join(name);
    let users = UserNamespace::automatic().unwrap();
    let stack =
        Rootfs::stack([at("lower")]).user_namespace(&users).writable(at("scratch")).unwrap();
    let mounts = "dir file ro tmp queue pts sys over";
    let script = format!(
        "cat /run/dir/file /run/file /run/over/low; echo
        for m in {mounts}; do grep \" /run/$m \" /proc/self/mountinfo | cut -d' ' -f6; done
        : > /run/over/new; ls /run/over
        (: > /run/ro/x) 2>/dev/null || echo read-only"
    );
    let said = says(
        sh(&script)
            .isolated()
            .user_namespace(&users)
            .current_dir("/")
            .mount(Mount::tmpfs("/run").mode(0o755))
            .mount(Mount::bind(at("source"), "/run/dir").no_exec())
            .mount(Mount::bind(at("source/file"), "/run/file").no_suid())
            .mount(Mount::bind(at("source"), "/run/ro").read_only())
            .mount(Mount::tmpfs("/run/tmp").size(MIB).mode(0o700))
            .mount(Mount::mqueue("/run/queue"))
            .mount(Mount::devpts("/run/pts"))
            .mount(Mount::sysfs("/run/sys").read_only())
            .mount(Mount::overlay(&stack, "/run/over")),
    );
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "boundboundlow");
    let flags = [
        "rw,noexec",
        "rw,nosuid",
        "ro",
        "rw,nosuid,nodev",
        "rw,nosuid,nodev,noexec",
        "rw,nosuid,noexec",
        "ro,nosuid,nodev,noexec",
        "rw,nodev",
    ];
    for ((mount, seen), flags) in mounts.split(' ').zip(&lines[1..9]).zip(flags) {
        assert!(seen.starts_with(&format!("{flags},relatime")), "{mount}: {seen}");
    }
    assert_eq!(lines[9..], ["low", "new", "read-only"]);
    let changes: Vec<String> = stack.changes().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(changes, ["A /new"]);
    let err = Command::new("true").isolated().mount(Mount::overlay(&stack, "/run")).spawn();
    assert!(err.expect_err("other ids").to_string().contains("true"));
}

#[test]
fn the_working_directory_of_a_sandbox_shows_whatever_is_mounted_around_it() {
    require!(common::containers());
    let dir = setup("namespaces-cwd");
    dir.file("here/file", "seen");
    dir.file("here/below/hidden", "");
    let here = dir.path().join("here");
    let above = dir.path().parent().unwrap().to_owned();
    let cat = |mount: Mount| {
        let script = "cat file; ls below; (: > new) 2>/dev/null || echo read-only";
        says(sh(script).isolated().current_dir(&here).mount(mount))
    };
    assert_eq!(cat(Mount::tmpfs("/run")), "seenhidden\nread-only");
    assert_eq!(cat(Mount::tmpfs(above)), "seenhidden\nread-only");
    assert_eq!(cat(Mount::tmpfs(here.join("below"))), "seenread-only");
}

#[test]
fn read_only_reaches_the_mounts_below() {
    require!(common::root());
    require!(common::containers());
    let dir = setup("namespaces-recursive");
    fs::create_dir_all(dir.path().join("top/below")).unwrap();
    let script =
        format!("mount -t tmpfs none {0}/below && exec \"$@\"", dir.path().join("top").display());
    // A host with a mount below the source: a process in a mount namespace of its own.
    let bind = Mount::bind(dir.path().join("top"), "/run/top").read_only().host_ids();
    let mut outer = Command::new("sh");
    outer.args(["-ec", &script, "sh", "sh", "-c"]);
    outer.arg(format!("ls {}", dir.path().join("top").display()));
    outer.unshare(Namespaces::MOUNT);
    assert_eq!(says(&mut outer), "below");
    let said = says(
        sh("(: > /run/top/x) 2>/dev/null || echo top; (: > /run/top/below/x) 2>/dev/null || echo below")
            .isolated()
            .mount(Mount::tmpfs("/run"))
            .mount(bind)
            .mount(Mount::tmpfs("/run/top/below").read_only()),
    );
    assert_eq!(said, "top\nbelow");
}

#[test]
fn files_keep_their_ids_through_an_idmapped_bind() {
    require!(common::root());
    require!(common::containers());
    let dir = setup("namespaces-idmap");
    dir.file("files/ours", "");
    let source = dir.path().join("files");
    let said = says(
        sh("stat -c %u:%g /run/files/ours; : > /run/files/theirs; stat -c %u:%g /run/files/theirs")
            .isolated()
            .mount(Mount::tmpfs("/run"))
            .mount(Mount::bind(&source, "/run/files")),
    );
    assert_eq!(said, "0:0\n0:0");
    let made = fs::metadata(source.join("theirs")).unwrap();
    assert_eq!((made.uid(), made.gid()), (0, 0));
    let hosts = says(
        sh("stat -c %u:%g /run/files/ours")
            .isolated()
            .mount(Mount::tmpfs("/run"))
            .mount(Mount::bind(&source, "/run/files").host_ids()),
    );
    assert_eq!(hosts, "65534:65534");
}

#[test]
fn nothing_mounted_inside_reaches_the_host() {
    require!(common::root());
    require!(common::containers());
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let said = says(
        sh("mount -t tmpfs none /mnt/x 2>/dev/null || mkdir /mnt/x && mount -t tmpfs none /mnt/x && grep -c /mnt/x /proc/self/mountinfo")
            .isolated()
            .mount(Mount::tmpfs("/mnt"))
            .privileged(),
    );
    assert_eq!(said, "1");
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
}

#[test]
fn sysctls_of_own_namespaces_are_set_and_others_refused() {
    require!(common::containers());
    let said = says(
        sh("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax; (echo 1 > /proc/sys/kernel/msgmax) 2>/dev/null || echo read-only")
            .isolated()
            .sysctl(Sysctl::new("net.ipv4.ip_unprivileged_port_start", "80").unwrap())
            .sysctl(Sysctl::new("kernel.msgmax", "65536").unwrap()),
    );
    assert_eq!(said, "80\n65536\nread-only");
    let err = Command::new("true")
        .isolated()
        .share(Namespaces::NETWORK)
        .sysctl(Sysctl::new("net.ipv4.ip_forward", "1").unwrap())
        .spawn()
        .expect_err("it would be the host's");
    assert_eq!(err.kind(), ErrorKind::SafetyViolation);
}

#[test]
fn default_devices_work_and_added_ones_appear() {
    require!(common::containers());
    let said = says(
        sh("head -c3 /dev/zero | wc -c; echo x > /dev/null; head -c1 /dev/urandom | wc -c; (echo > /dev/full) 2>/dev/null || echo full
            readlink /dev/fd; test -c /dev/tty; test -c /dev/other && head -c2 /dev/other | wc -c
            ls /dev | tr '\\n' ' '")
        .isolated()
        .device(Device::new("/dev/zero").at("/dev/other")),
    );
    assert_eq!(
        said,
        "3\n1\nfull\n/proc/self/fd\n2\nfd full mqueue null other ptmx pts random shm stderr stdin stdout tty urandom zero"
    );
}

#[test]
fn dev_belongs_to_the_containers_root() {
    require!(common::root());
    require!(common::containers());
    // Which maps the ids of a tmpfs.
    require!(common::kernel(6, 3));
    let script = "umask 077; : > /dev/log; stat -c '%n %u:%g %a' /dev /dev/null /dev/log /dev/shm; mknod /dev/x c 1 3 || echo no";
    for command in [&mut sh(script), sh(script).host_users()] {
        let said = says(command.isolated().stderr(Stdio::null()));
        assert_eq!(
            said,
            "/dev 0:0 755\n/dev/null 0:0 666\n/dev/log 0:0 600\n/dev/shm 0:0 1777\nno"
        );
    }
}

#[test]
fn limits_of_the_process_are_set() {
    let said = says(
        sh("ulimit -n; ulimit -Hn; umask; nice; cat /proc/self/oom_score_adj; cut -d' ' -f41 /proc/self/stat; ionice 2>/dev/null || echo 'idle'")
            .rlimit(Resource::Nofile, Rlimit::new(64, 128))
            .umask(0o027)
            .nice(7)
            .oom_score_adj(321)
            .scheduler(Scheduler::batch().nice(7))
            .io_priority(IoPriority::idle()),
    );
    assert_eq!(said, "64\n128\n0027\n7\n321\n3\nidle");
}

#[test]
fn environment_and_directory_are_what_was_asked() {
    require!(common::containers());
    let said =
        says(Command::new("env").isolated().current_dir("/").env("A", "1").env_remove("HOME"));
    let mut lines: Vec<_> = said.lines().filter(|l| !l.starts_with("PWD=")).collect();
    lines.sort_unstable();
    assert_eq!(lines.len(), 2, "{said}");
    assert_eq!(lines[0], "A=1");
    assert!(lines[1].starts_with("PATH=/usr/local/sbin:"));
    assert_eq!(says(Command::new("pwd").isolated().current_dir("/usr/lib")), "/usr/lib");
    assert_eq!(says(sh("echo $0").arg0("named")), "named");
    assert_eq!(says(Command::new("/usr/bin/env").env_clear().env("ONLY", "x")), "ONLY=x");
}

#[test]
fn users_and_groups_are_exact() {
    require!(common::root());
    require!(common::containers());
    let said = says(sh("id -u; id -g; id -G; umask").isolated().user("1234:2345").groups([7, 8]));
    assert_eq!(said, "1234\n2345\n2345 7 8\n0022");
    let added = |command: &mut Command| says(command.add_groups(["7", "daemon", "7"]));
    assert_eq!(added(sh("id -G").isolated().user("1234:2345")), "2345 1 7");
    assert_eq!(added(sh("id -G").isolated()), "0 1 7");
    assert_eq!(says(sh("id -G").isolated()), "0");
    assert_eq!(says(sh("id -un; echo $HOME").isolated().user("nobody")), "nobody\n/nonexistent");
}

#[test]
fn given_descriptors_arrive_under_their_numbers_and_no_others() {
    require!(common::containers());
    let dir = setup("namespaces-fds");
    dir.file("a", "first");
    dir.file("b", "second");
    let open = |name: &str| OwnedFd::from(File::open(dir.path().join(name)).unwrap());
    let said = says(
        sh("cat <&5; cat <&3; ls /proc/self/fd | tr '\\n' ' '")
            .isolated()
            .fd(5, open("a"))
            .fd(3, open("b")),
    );
    // 4 is the directory that ls lists.
    assert_eq!(said, "firstsecond0 1 2 3 4 5");
}

/// The child must not close the pipe on which the host waits for it, whatever number that has.
#[test]
fn descriptors_at_every_low_number_confuse_nothing() {
    require!(common::containers());
    let null = || OwnedFd::from(File::open("/dev/null").unwrap());
    for round in 0..20 {
        let mut command = Command::new("true");
        command.isolated();
        if round % 2 == 0 {
            command.init();
        }
        for number in 3..40 {
            command.fd(number, null());
        }
        assert!(command.status().unwrap_or_else(|err| panic!("{err:?}")).success());
    }
}

#[test]
fn streams_are_pipes_files_or_nothing() {
    let dir = setup("namespaces-streams");
    let mut child =
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"through").unwrap();
    assert_eq!(rest(child.stdout.take().unwrap()), "through");
    assert!(child.wait().unwrap().success());
    let file = File::create(dir.path().join("out")).unwrap();
    assert!(Command::new("echo").arg("kept").stdout(file).status().unwrap().success());
    assert_eq!(fs::read_to_string(dir.path().join("out")).unwrap(), "kept\n");
    assert_eq!(says(sh("cat").stdin(Stdio::null())), "");
}

#[test]
fn a_terminal_has_a_size_that_changes_and_controls_the_session() {
    require!(common::containers());
    let script =
        "tty; stty size; trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.01; done";
    for command in [sh(script).isolated(), &mut sh(script)] {
        let mut child = command.terminal(TerminalSize::new(100, 30)).spawn().unwrap();
        let mut terminal = child.terminal.take().unwrap();
        let mut seen = String::new();
        let mut chunk = [0; 256];
        while !seen.contains("ready") {
            let n = terminal.read(&mut chunk).unwrap();
            seen.push_str(&String::from_utf8_lossy(&chunk[..n]));
        }
        assert!(seen.starts_with("/dev/pts/") && seen.contains("30 100"), "{seen}");
        terminal.resize(TerminalSize::new(60, 20)).unwrap();
        assert_eq!(terminal.size().unwrap(), TerminalSize::new(60, 20));
        assert!(rest(&terminal).contains("20 60"));
        assert_eq!(child.wait().unwrap().code(), Some(5));
    }
}

#[test]
fn ctrl_c_on_the_terminal_interrupts_the_program() {
    require!(common::containers());
    let mut command = sh("echo ready; exec sleep 60");
    let mut child = command.isolated().init().terminal(TerminalSize::default()).spawn().unwrap();
    let mut terminal = child.terminal.take().unwrap();
    let mut byte = [0; 64];
    let _ = terminal.read(&mut byte).unwrap();
    terminal.write_all(b"\x03").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn the_built_in_init_reaps_forwards_and_exits_like_its_program() {
    require!(common::containers());
    let mut command = sh("trap 'echo got; exit 9' TERM
        (sleep 0.05 & sleep 0.05 &) ; sleep 0.3
        ls -d /proc/[0-9]* | wc -l; echo $$; readlink /proc/1/exe || :; echo ready; while :; do sleep 0.01; done");
    let mut child = command.isolated().init().stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut seen = String::new();
    let mut chunk = [0; 256];
    while !seen.contains("ready") {
        let n = stdout.read(&mut chunk).unwrap();
        assert_ne!(n, 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&chunk[..n]));
    }
    // The init, the shell and the ls | wc beside it; no zombie of the orphans.
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines[1], "2", "{seen}");
    assert!(lines[0].parse::<u32>().unwrap() <= 4, "{seen}");
    child.signal(Signal::TERM).unwrap();
    assert_eq!(rest(stdout), "got\n");
    assert_eq!(child.wait().unwrap().code(), Some(9));
    let err = Command::new("nonesuch").isolated().init().spawn().expect_err("no such program");
    assert_eq!(err.kind(), ErrorKind::NotFound);
    let status = sh("kill -9 $$").isolated().init().status().unwrap();
    assert_eq!(status.code(), Some(137));
}

#[test]
fn the_end_of_the_spawning_thread_signals_the_process() {
    let spawn =
        || Command::new("sleep").arg("60").parent_death_signal(Signal::TERM).spawn().unwrap();
    let mut child: Child = std::thread::spawn(spawn).join().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(Signal::TERM));
}

#[test]
fn exec_runs_in_everything_the_container_has() {
    require!(common::containers());
    let child = Command::new("sleep").arg("60").isolated().hostname("home").spawn().unwrap();
    let script = "hostname; grep -E '^(CapInh|NoNewPrivs|Seccomp):' /proc/self/status
        for n in user cgroup ipc uts net pid mnt; do
            [ $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) ] || echo other $n
        done
        ls /proc/self/fd | wc -l; id -u";
    let exec = child.exec(sh(script).stdout(Stdio::piped()).stdin(Stdio::null())).unwrap();
    let said = text(&exec.wait_with_output().unwrap());
    let expected = "home\nCapInh:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n4\n0";
    assert_eq!(said, expected);
    let mut terminal = child.exec(sh("tty; stty size").terminal(TerminalSize::new(90, 9))).unwrap();
    let seen = rest(terminal.terminal.take().unwrap());
    assert!(seen.contains("9 90"), "{seen:?}");
    assert!(terminal.wait().unwrap().success());
    let err = child.exec(Command::new("nonesuch").arg("x")).expect_err("no such program");
    assert_eq!(err.kind(), ErrorKind::NotFound);
    assert!(format!("{err:#}").contains("exec nonesuch in sleep"), "{err:?}");
}

/// The kernel lets the first process of a pid namespace end only when all others are reaped.
#[test]
fn a_container_can_be_waited_for_while_somebody_is_in_it() {
    require!(common::containers());
    let mut sleep = Command::new("sleep");
    sleep.arg("1000");
    let mut isolated = sleep.clone();
    isolated.isolated();
    let container = || isolated.clone().spawn().unwrap();
    let mut first = container();
    let mut guest = first.exec(&mut sleep).unwrap();
    let mut ended = first.exec(&mut Command::new("true")).unwrap();
    let mut through = guest.exec(&mut sleep).unwrap();
    first.kill().unwrap();
    assert_eq!(first.wait().unwrap().signal(), Some(Signal::KILL));
    for joined in [&mut guest, &mut through] {
        assert_eq!(joined.try_wait().unwrap().and_then(|s| s.signal()), Some(Signal::KILL));
        assert_eq!(joined.wait().unwrap().signal(), Some(Signal::KILL));
    }
    let status = ended.wait().unwrap();
    assert!(status.success() || status.signal() == Some(Signal::KILL), "{status}");
    // With a time limit, by dropping it, and from a detached guest.
    let limit = common::time_limit(Duration::from_millis(200));
    let mut first = isolated.clone().timeout(limit).spawn().unwrap();
    let _guest = first.exec(&mut sleep).unwrap();
    assert!(first.wait().unwrap().timed_out());
    let first = container();
    let mut guest = first.exec(&mut sleep).unwrap();
    let pidfd = first.exec(&mut sleep).unwrap().detach().unwrap();
    drop(first);
    assert_eq!(guest.wait().unwrap().signal(), Some(Signal::KILL));
    drop(pidfd);
    let mut first = container();
    let guest = first.exec(&mut sleep).unwrap();
    assert_eq!(first.wait_timeout(Duration::from_millis(150)).unwrap(), None);
    drop(guest);
    first.kill().unwrap();
    assert!(first.wait_timeout(Duration::from_secs(60)).unwrap().is_some());
}

#[test]
fn usage_and_limits_show_in_the_exit_status() {
    require!(common::containers());
    let status =
        sh("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done").isolated().status().unwrap();
    let usage = status.usage().expect("usage");
    assert!(usage.user_time + usage.system_time > Duration::ZERO && usage.max_rss > 100 << 10);
    require!(common::cgroup_controller("memory"));
    require!(common::program("python3"));
    let output = Command::new("python3")
        .args(["-c", "x = bytearray(256 << 20)"])
        .isolated()
        .env("PATH", "/usr/bin:/bin")
        .limits(Limits::new().memory(64 * MIB).swap(0))
        .output()
        .unwrap();
    assert_eq!(output.status.to_string(), "killed: out of memory (limit 64 MiB)");
}

#[test]
fn a_time_limit_kills_the_whole_sandbox() {
    require!(common::containers());
    let limit = common::time_limit(Duration::from_millis(300));
    let output =
        sh("sleep 60 & echo started; sleep 60").isolated().timeout(limit).output().unwrap();
    assert!(output.status.timed_out());
    assert_eq!(output.stdout, b"started\n");
    assert_eq!(output.status.to_string(), format!("killed: ran longer than {limit:?}"));
}

#[test]
fn privileged_undoes_the_isolation_but_for_the_namespaces() {
    require!(common::root());
    require!(common::containers());
    let said = says(
        sh("grep -E '^(CapEff|Seccomp|NoNewPrivs):' /proc/self/status; readlink /proc/self/ns/user; echo $$; (: > /proc/sys/kernel/msgmax) && echo writable")
            .isolated()
            .privileged(),
    );
    let lines: Vec<&str> = said.lines().collect();
    let own = fs::read_to_string("/proc/self/status").unwrap();
    assert!(own.contains(lines[0]), "{said}");
    assert_eq!(lines[1], "NoNewPrivs:\t0");
    assert!(own.contains(lines[2]), "{said}");
    assert_eq!(lines[3], namespace("self", "user"));
    assert_eq!(lines[4..], ["1", "writable"]);
}

#[test]
fn a_read_only_root_leaves_its_mounts_writable() {
    require!(common::containers());
    let dir = setup("namespaces-ro-root");
    for name in ["usr", "proc", "dev", "sys", "tmp"] {
        fs::create_dir_all(dir.path().join("root").join(name)).unwrap();
    }
    for name in ["bin", "lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{name}"), dir.path().join("root").join(name))
            .unwrap();
    }
    let said = says(
        sh("(: > /x) 2>/dev/null || echo read-only; : > /tmp/x && echo writable")
            .rootfs(dir.path().join("root"))
            .read_only_root()
            .capabilities(Capabilities::none())
            .mount(Mount::bind("/usr", "/usr").read_only().host_ids())
            .mount(Mount::tmpfs("/tmp")),
    );
    assert_eq!(said, "read-only\nwritable");
}

#[test]
fn many_begin_in_a_directory_that_has_no_mount_points_yet() {
    require!(common::containers());
    let dir = setup("namespaces-shared-root");
    let file = dir.file("file", "");
    for round in 0..common::rounds(40) {
        let root = dir.dir(round.to_string());
        fs::create_dir(root.join("usr")).unwrap();
        for name in ["bin", "lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{name}"), root.join(name)).unwrap();
        }
        let start = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut command = sh("echo up");
                    command.rootfs(&root).mount(Mount::bind("/usr", "/usr").read_only());
                    command.mount(Mount::tmpfs("/srv/here"));
                    command.mount(Mount::bind(&file, "/srv/file").host_ids());
                    start.wait();
                    assert_eq!(says(&mut command), "up");
                });
            }
        });
    }
}

/// `tests/run` hides the system calls, one after the other.
#[test]
fn without_the_mount_calls_the_error_names_the_missing_one() {
    let Err(missing) = common::containers() else {
        return common::Missing::new("a kernel that lacks a mount call", "has them all").skip();
    };
    common::alone(|| {
        let before = audit::snapshot();
        let err = sh("true").isolated().status().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unsupported, "{missing:?}: {err:?}");
        assert_eq!(err.raw_os_error(), Some(libc::ENOSYS), "{err:?}");
        let hidden = std::env::var("CORACLE_TEST_ENOSYS").unwrap();
        assert!(hidden.split(',').any(|call| format!("{err:#}").contains(call)), "{err:?}");
        before.assert_unchanged();
    });
}
