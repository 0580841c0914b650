//! Rights that a container must not have, whatever it tries.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use coracle::ErrorKind;
use coracle::namespaces::{
    Capabilities, Capability, Command, Landlock, Namespaces, Seccomp, Stdio, Sysctl, TerminalSize,
};

use super::common::{self, require};
use super::image::{Image, assert_names, isolated, output, said_by};

/// A Perl program in the default sandbox; `call(..)` makes a system call and prints its error.
fn perl(script: &str) -> Command {
    let mut command = Command::new("perl");
    let call = "sub call { my $n = shift; my @a = @_; my $r = syscall($n + 0, @a); print $r == -1 ? ($!+0) : 'done', qq(\\n) }";
    command.arg("-e").arg(format!("{call}\n{script}")).isolated();
    command
}

const EPERM: &str = "1\n";
const ENOSYS: &str = "38\n";

#[test]
fn shocker_files_cannot_be_opened_by_handle() {
    require!(common::program("perl"));
    // The handle of inode 2, the root of most file systems.
    let script =
        "open(my $d, '<', '/usr'); my $h = pack('LlQ', 8, 1, 2); call(304, fileno $d, $h, 0)";
    assert_eq!(said_by(&mut perl(script)), EPERM);
    // Without the filter and with the capability, the kernel still wants it in the host's user namespace.
    let mut command = perl(script);
    let caps = Capabilities::default().add(Capability::DacReadSearch);
    assert_eq!(said_by(command.seccomp(Seccomp::unconfined()).capabilities(caps)), EPERM);
}

#[test]
fn keyrings_of_the_host_are_out_of_reach() {
    require!(common::program("perl"));
    let script =
        "call(250, 0, -3, 0); call(248, 'user', 'x', 'y', 1, -3); call(249, 'user', 'x', 0, 0);
                  open(my $f, '<', '/proc/keys'); print scalar <$f> // 'nothing'";
    assert_eq!(said_by(&mut perl(script)), [EPERM, EPERM, EPERM, "nothing"].concat());
}

#[test]
fn namespaces_mounts_and_modules_are_refused() {
    require!(common::program("perl"));
    for (number, arguments, expected) in [
        (272, "0x10000000", EPERM),                       // unshare(CLONE_NEWUSER)
        (272, "0x20000", EPERM),                          // unshare(CLONE_NEWNS)
        (56, "0x10000011, 0, 0, 0, 0", EPERM),            // clone(CLONE_NEWUSER)
        (435, "pack('Q11', 0x10000000), 88", ENOSYS),     // clone3
        (308, "0, 0", EPERM),                             // setns
        (165, "'none', '/tmp', 'tmpfs', 0, 0", EPERM),    // mount
        (166, "'/proc', 2", EPERM),                       // umount2
        (155, "'/', '/tmp'", EPERM),                      // pivot_root
        (430, "'tmpfs', 0", EPERM),                       // fsopen
        (428, "-100, '/', 1", EPERM),                     // open_tree
        (429, "3, '', -100, '/', 4", EPERM),              // move_mount
        (442, "-100, '/', 0, 0, 0", EPERM),               // mount_setattr
        (175, "0, 0, 0", EPERM),                          // init_module
        (313, "0, '', 0", EPERM),                         // finit_module
        (246, "0, 0, 0, 0", EPERM),                       // kexec_load
        (169, "0xfee1dead, 672274793, 0x1234567", EPERM), // reboot
        (321, "0, 0, 0", EPERM),                          // bpf
        (298, "0, 0, 0, 0, 0", EPERM),                    // perf_event_open
        (323, "0", EPERM),                                // userfaultfd
        (425, "1, 0", EPERM),                             // io_uring_setup
        (135, "0x0040000", EPERM),                        // personality(ADDR_NO_RANDOMIZE)
    ] {
        assert_eq!(
            said_by(&mut perl(&format!("call({number}, {arguments})"))),
            expected,
            "{number}"
        );
    }
    let said = isolated(
        "unshare -Ur true; unshare -m true; mount -t tmpfs none /tmp; nsenter -t 1 -m true",
    );
    assert!(said.lines().count() >= 4, "{said}");
    assert!(
        said.lines().all(|line| line.ends_with("Operation not permitted")
            || line.contains("denied")
            || line.contains("dmesg")),
        "{said}"
    );
}

#[test]
fn cve_2017_5226_2016_10124_no_input_is_pushed_into_the_hosts_terminal() {
    require!(common::program("perl"));
    let tty = nix::pty::openpty(None, None).unwrap();
    let script = "print ioctl(STDIN, 0x5412, my $x = 'x') ? 'pushed' : $!+0, qq(\\n);
                  print open(my $t, '<', '/dev/tty') ? 'a terminal' : 'none', qq(\\n)";
    // Behind the filter, and without it by the session alone.
    for filter in [Seccomp::default_profile(), Seccomp::unconfined()] {
        let mut command = perl(script);
        command.stdin(tty.slave.try_clone().unwrap()).seccomp(filter);
        let said = said_by(&mut command);
        assert!(said == "1\nnone\n" || said == "5\nnone\n", "{said}");
    }
    // Its own terminal neither: what reads it on the host's side may be a shell.
    let mut command =
        perl("print STDERR ioctl(STDIN, 0x5412, my $x = 'x') ? 'pushed' : $!+0, qq(\\n)");
    command.terminal(TerminalSize { rows: 24, columns: 80 }).stderr(Stdio::piped());
    assert_eq!(said_by(&mut command), EPERM);
}

#[test]
fn abstract_sockets_of_the_host_are_out_of_reach() {
    require!(common::program("perl"));
    let name = format!("coracle-test-{}", std::process::id());
    let listener =
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let script = format!(
        "socket(my $s, 1, 1, 0); print connect($s, pack('S a*', 1, qq(\\0{name}))) ? 'connected' : $!+0, qq(\\n)"
    );
    assert_eq!(said_by(&mut perl(&script)), "111\n", "ECONNREFUSED");
    // That is the network namespace's doing; on the host's network Landlock does it.
    let mut shared = perl(&script);
    shared.share(Namespaces::NETWORK);
    assert_eq!(said_by(&mut shared), "connected\n");
    require!(common::kernel(6, 12));
    assert_eq!(said_by(shared.landlock(Landlock::new().scope_abstract_sockets())), EPERM);
    drop(listener);
}

#[test]
fn cve_2020_15257_no_abstract_socket_appears_with_a_container() {
    require!(common::user_namespaces());
    common::alone(|| {
        let sockets = || {
            let table = std::fs::read_to_string("/proc/net/unix").unwrap();
            let named = table.lines().filter_map(|line| line.split_once(" @"));
            named.map(|(_, name)| name.to_owned()).collect::<std::collections::BTreeSet<_>>()
        };
        // A user namespace's id range is held by an abstract socket that nobody can connect to.
        let before = sockets();
        let container = Command::new("sleep").arg("1000").isolated().spawn().unwrap();
        let new: Vec<_> = sockets().difference(&before).cloned().collect();
        for name in &new {
            let address = SocketAddr::from_abstract_name(name).unwrap();
            let connected = std::os::unix::net::UnixStream::connect_addr(&address);
            assert!(connected.is_err(), "{name} takes connections");
        }
        drop(container);
    });
}

#[test]
fn cve_2022_0811_a_sysctl_carries_no_other() {
    for (name, value) in [
        ("kernel.core_pattern", "|/evil"),
        ("kernel/core_pattern", "|/evil"),
        ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/evil"),
        ("net.ipv4.ip_forward", "1\nkernel.core_pattern=|/evil"),
        ("net.ipv4.ip_forward", "1\0"),
        ("net.ipv4.../../kernel/core_pattern", "x"),
        ("net/../kernel/core_pattern", "x"),
        ("net/./../kernel/core_pattern", "x"),
        ("net..kernel", "x"),
        ("/proc/sys/kernel/core_pattern", "x"),
        ("net", "x"),
        ("vm.overcommit_memory", "1"),
        ("fs.protected_symlinks", "0"),
        ("", ""),
    ] {
        let err = Sysctl::new(name, value).expect_err(name);
        assert_eq!(err.kind(), ErrorKind::InvalidInput, "{name}: {err:?}");
        assert_names(&err, &[if name.is_empty() { "sysctl" } else { &name[..3] }]);
    }
    let mut command = Command::new("true");
    command.isolated().share(Namespaces::NETWORK);
    let err = command.sysctl(Sysctl::new("net.ipv4.ip_forward", "1").unwrap()).spawn().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::SafetyViolation, "{err:?}");
    assert_names(&err, &["net/ipv4/ip_forward", "net namespace"]);
}

#[test]
fn cve_2022_0492_no_release_agent_can_be_set() {
    require!(common::user_namespaces());
    let script = "for c in memory cpu pids rdma misc devices; do
        mkdir /tmp/$c; mount -t cgroup -o $c none /tmp/$c 2>/dev/null && echo mounted $c; done
        for f in /tmp/*/release_agent /sys/fs/cgroup/*/release_agent /sys/fs/cgroup/release_agent; do
            [ -e $f ] && (echo /evil >$f) 2>/dev/null && echo set $f; done; echo tried";
    assert_eq!(isolated(script), "tried\n");
    // With all rights in its own namespaces it may mount, and set nothing.
    let mut command = Command::new("sh");
    command.args(["-c", script]).isolated().capabilities(Capabilities::all());
    let said = said_by(command.seccomp(Seccomp::unconfined()));
    assert!(said.ends_with("tried\n"), "{said}");
    assert!(!said.contains("set /"), "{said}");
}

#[test]
fn cve_2023_25809_the_cgroup_tree_is_not_writable() {
    require!(common::user_namespaces());
    let script =
        "set +e; cd /sys/fs/cgroup || exit 0; find . -maxdepth 3 -type d | while read d; do
        mkdir $d/evil && echo made $d; (echo 0 >$d/cgroup.procs) && echo joined $d; done 2>/dev/null
        touch x 2>/dev/null && echo touched; true";
    let image = Image::new("cgroups");
    for mut command in image.scripts(script) {
        assert_eq!(output(&mut command).unwrap(), "");
        // Whoever leaves it the host's cgroup namespace gives it no more.
        assert_eq!(output(command.share(Namespaces::CGROUP)).unwrap(), "");
    }
}

#[test]
fn a_rule_of_landlock_is_a_restriction_at_once() {
    require!(common::kernel(5, 13));
    let image = Image::new("landlock");
    std::fs::write(image.root().join("etc/secret"), "secret").unwrap();
    let mut command = image.command("cat");
    command.arg("/etc/secret");
    assert_eq!(output(&mut command).unwrap(), "secret");
    // Before Linux 6.10 one cannot deny all that a rule denies by default; what is looked at here, any version can.
    let rules = || Landlock::new().best_effort(common::kernel(6, 10).is_err());
    let said = said_by(command.landlock(rules().read_execute("/usr").read_execute("/lib64")));
    assert_eq!(said, "cat: /etc/secret: Permission denied\n");
    // The magic links of /proc lead no rule to the host.
    let mut through = image.command("true");
    let err = through.landlock(rules().read("/proc/self/root")).spawn().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::SafetyViolation, "{err:?}");
}

/// What Docker's default isolation shows from inside, or better.
#[test]
fn what_a_container_sees() {
    require!(common::subordinate_ids());
    let image = Image::new("inside");
    let marker = std::fs::File::open(image.host()).unwrap();
    let _inheritable = nix::unistd::dup(&marker).unwrap();
    let script = r#"
        echo pid $$; echo host $(hostname); echo uid $(id -u)
        grep -E '^(CapInh|CapAmb|NoNewPrivs|Seccomp|Groups):' /proc/self/status
        set -- /proc/[0-9]*; echo processes $#
        fds=; for i in $(seq 0 200); do [ -e /proc/$$/fd/$i ] && fds="$fds $i"; done; echo fds$fds
        echo devices $(ls /sys/class/net)
        for f in kcore keys timer_list interrupts; do [ -e /proc/$f ] && echo masked $(head -c1 /proc/$f | wc -c); done
        for d in acpi scsi; do [ -e /proc/$d ] && echo hidden $(ls /proc/$d | wc -l); done
        echo firmware $(ls /sys/firmware | wc -l)
        for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/irq/default_smp_affinity; do
            (echo 0 >$f) 2>/dev/null && echo written $f; done
        (: >/sys/kernel/x) 2>/dev/null && echo written sys
        mkdir /sys/x 2>/dev/null && echo made
        cat /proc/self/mountinfo >&2"#;
    let output = image.command("sh").args(["-c", script]).stdin(Stdio::null()).output().unwrap();
    let (said, mounts) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let has = |line: &str| assert!(said.lines().any(|l| l == line), "{line:?} is not in:\n{said}");
    for line in [
        "pid 1",
        "host container",
        "uid 0",
        "CapInh:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "processes 1",
        "fds 0 1 2",
        "devices lo",
        "firmware 0",
    ] {
        has(line);
    }
    for line in said.lines() {
        assert!(
            !line.starts_with("masked 1") && !line.starts_with("written") && line != "made",
            "{said}"
        );
        if let Some(count) = line.strip_prefix("hidden ") {
            assert_eq!(count, "0", "{said}");
        }
    }
    let root = image.root().to_string_lossy().into_owned();
    let expected = ["/", "/usr", "/proc", "/dev", "/sys"];
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let point = Path::new(fields[4]);
        assert!(expected.iter().any(|top| point.starts_with(top)), "{line}");
        // Of the host's there is the root, /usr and the six devices, under no other name.
        if line.contains(" - ext4 ") || line.contains(" - overlay ") {
            assert!(
                fields[3] == root || fields[3] == "/usr" || root.ends_with(fields[3]),
                "{line}"
            );
        }
        if line.contains(" - devtmpfs ") {
            assert!(
                ["/null", "/zero", "/full", "/random", "/urandom", "/tty"].contains(&fields[3]),
                "{line}"
            );
        }
        assert!(fields[6] == "-", "{line} propagates");
    }
    // Its root is nobody on the host.
    let container = image.command("sleep").arg("1000").spawn().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", container.id())).unwrap();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:\t")).unwrap();
    let uid: u32 = uid.split('\t').next().unwrap().parse().unwrap();
    if common::root().is_ok() {
        assert!(uid >= 1_000_000, "{uid}");
    } else {
        assert_ne!(uid, 0);
    }
}
