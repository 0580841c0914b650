//! What a process may not do: filters, Landlock, capabilities, labels, through `Command`.

mod common;

use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::thread;

use common::{Missing, require};
use coracle::ErrorKind;
use coracle::namespaces::seccomp::{Action, Arg, Op, Response, Seccomp};
use coracle::namespaces::{
    Capabilities, Capability, CapabilitySet, Command, Landlock, Mount, Namespaces, Stdio,
};

fn sh(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).isolated();
    command
}

/// What it writes to either stream, however it ends.
#[track_caller]
fn says(command: &mut Command) -> String {
    let output = command.output().expect("run it");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// The sets of `/proc/self/status`: inheritable, permitted, effective, bounding, ambient.
fn sets(command: &mut Command) -> [u64; 5] {
    let said = says(command);
    let set = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(name));
        let digits = line.unwrap_or_else(|| panic!("no {name} in {said}")).trim();
        u64::from_str_radix(digits, 16).expect("hexadecimal")
    };
    ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"].map(set)
}

fn status() -> Command {
    let mut command = Command::new("cat");
    command.arg("/proc/self/status").isolated();
    command
}

fn bits(caps: impl IntoIterator<Item = Capability>) -> u64 {
    caps.into_iter().fold(0, |set, cap| set | 1 << cap.number())
}

#[test]
fn a_filter_of_ones_own_refuses_by_name_and_argument() {
    require!(common::user_namespaces());
    let filter = Seccomp::default_profile().deny("uname", libc::ENOANO).rule(
        "kill",
        Action::Errno(libc::EDOM),
        &[Arg::int(1, Op::Eq, libc::SIGUSR1)],
    );
    let said = says(sh("uname; kill -USR1 $$; kill -0 $$ && echo alive").seccomp(filter));
    assert!(said.contains("No anode"), "{said}");
    assert!(said.contains("argument out of domain"), "{said}");
    assert!(said.starts_with("alive\n"), "{said}");
    let mut killed = sh("uname; true");
    killed.seccomp(Seccomp::allow_all().rule("uname", Action::KillProcess, &[]));
    assert!(says(&mut killed).contains("Bad system call"));
    // Without a container around it, too.
    let mut plain = Command::new("uname");
    plain.no_new_privileges(true).seccomp(Seccomp::allow_all().deny("uname", libc::EPERM));
    assert!(says(&mut plain).contains("Operation not permitted"));
}

#[test]
fn the_host_answers_system_calls() {
    require!(common::user_namespaces());
    require!(common::kernel(5, 9));
    let filter = Seccomp::default_profile()
        .rule("uname", Action::Notify, &[])
        .rule("mkdir", Action::Notify, &[])
        .rule("getpriority", Action::Notify, &[])
        .rule("mkdirat", Action::Notify, &[]);
    let mut command = sh("mkdir /tmp/a || echo refused; uname -s; mkdir /tmp/b && ls -d /tmp/b");
    let mut child = command
        .seccomp(filter)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("spawn");
    let listener = child.seccomp_listener.take().expect("the filter notifies");
    let answers = thread::spawn(move || {
        let mut seen = Vec::new();
        while let Some(call) = listener.receive().expect("receive") {
            let name = call.name().expect("a known call");
            assert!(listener.is_waiting(&call).expect("ask"));
            let directories = seen.iter().filter(|(seen, _)| *seen == "mkdir").count();
            let response = match name {
                "mkdir" | "mkdirat" if directories == 0 => Response::Errno(libc::EDQUOT),
                _ => Response::Continue,
            };
            assert!(listener.respond(&call, response).expect("respond"));
            assert!(!listener.is_waiting(&call).expect("ask"));
            assert!(!listener.respond(&call, response).expect("respond twice"));
            seen.push((if name == "mkdirat" { "mkdir" } else { name }, call.pid));
        }
        seen
    });
    let output = child.wait_with_output().expect("wait");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "refused\nLinux\n/tmp/b\n");
    let seen = answers.join().expect("the answering thread");
    let names: Vec<_> = seen.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["mkdir", "uname", "mkdir"]);
    assert!(seen.iter().all(|(_, pid)| *pid != 0));
}

#[test]
fn the_host_answers_system_calls_of_what_it_executes_in_a_container() {
    require!(common::user_namespaces());
    require!(common::kernel(5, 9));
    let container = Command::new("sleep").arg("1000").isolated().spawn().expect("spawn");
    let filter = Seccomp::allow_all().rule("uname", Action::Notify, &[]);
    for early in [false, true] {
        let mut command = Command::new("uname");
        // Without it the filter is there before the descriptors are in their places.
        command.no_new_privileges(!early).seccomp(filter.clone()).stdout(Stdio::piped());
        let given = File::open("/dev/null").expect("open");
        let mut child = container.exec(command.fd(9, given)).expect("exec");
        let listener = child.seccomp_listener.take().expect("the filter notifies");
        let call = listener.receive().expect("receive").expect("a call");
        assert_eq!(call.name(), Some("uname"));
        assert!(listener.respond(&call, Response::Continue).expect("respond"));
        let output = child.wait_with_output().expect("wait");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "Linux\n");
        assert_eq!(listener.receive().expect("receive"), None);
    }
    for action in [Action::Errno(libc::EPERM), Action::Notify] {
        let mut command = Command::new("uname");
        command.seccomp(filter.clone().rule("sendmsg", action, &[])).stdin(Stdio::null());
        let spawned = container.exec(command.stdout(Stdio::null()));
        if common::root().is_ok() {
            spawned.expect("the privileged need no message");
            continue;
        }
        let err = spawned.expect_err("it cannot be handed over");
        assert_eq!(err.kind(), ErrorKind::Unsupported, "{err:?}");
        assert!(format!("{err:#}").contains("sendmsg"), "{err:?}");
        assert!(err.hint().is_some_and(|hint| hint.contains("CAP_SYS_PTRACE")), "{err:?}");
    }
}

#[test]
fn the_host_puts_an_open_file_in_the_answer() {
    require!(common::user_namespaces());
    require!(common::kernel(5, 9));
    require!(common::program("perl"));
    let sandbox = common::setup("notify");
    let file = sandbox.file("file", "from the host\n");
    // acct(2) is refused to everybody: what it returns here is a descriptor.
    let filter = Seccomp::default_profile().rule("acct", Action::Notify, &[]);
    let mut command = Command::new("perl");
    let script = format!(
        "my $n = '/x'; my $fd = syscall({}, $n); open(my $f, '<&=', $fd) or die $!; print <$f>",
        libc::SYS_acct
    );
    command.args(["-e", &script]).isolated().seccomp(filter).stdout(Stdio::piped());
    let mut child = command.spawn().expect("spawn");
    let listener = child.seccomp_listener.take().expect("the filter notifies");
    let call = listener.receive().expect("receive").expect("a call");
    assert_eq!(call.name(), Some("acct"));
    let opened = File::open(&file).expect("open");
    let number = listener.add_fd(&call, &opened, true).expect("give it");
    assert!(listener.respond(&call, Response::Value(number.into())).expect("respond"));
    let output = child.wait_with_output().expect("wait");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "from the host\n");
    assert_eq!(listener.receive().expect("receive"), None);
}

#[test]
fn landlock_limits_files_and_ports() {
    require!(common::kernel(5, 13));
    let sandbox = common::setup("landlock");
    let (open, closed) = (sandbox.dir("open"), sandbox.file("closed", "secret\n"));
    let mut rules = Landlock::new().read_execute("/usr").read_execute("/lib64");
    if common::kernel(6, 10).is_err() {
        let err = sh("true").landlock(rules.clone()).spawn().expect_err("not all can be denied");
        assert_eq!(err.kind(), ErrorKind::Unsupported, "{err:?}");
        // What is looked at here, any version can deny.
        rules = rules.best_effort(true);
    }
    let mut command = Command::new("sh");
    let script = format!(
        "echo x >{0}/new && cat {0}/new; cat {1}; echo y >{1}; ls /",
        open.display(),
        closed.display()
    );
    command.args(["-c", &script]).no_new_privileges(true).landlock(rules.clone().read_write(&open));
    let said = says(&mut command);
    assert!(said.starts_with("x\n"), "{said}");
    assert_eq!(said.matches("ermission denied").count(), 3, "{said}");
    assert!(!said.contains("secret"), "{said}");
    let mut container = sh("cat /proc/self/status >/dev/null && echo read");
    assert!(says(container.landlock(rules)).contains("ermission denied"));

    require!(common::kernel(6, 7));
    require!(common::program("perl"));
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("bind"));
    let ports = listeners.each_ref().map(|l| l.local_addr().expect("its address").port());
    let script = "use IO::Socket::INET; for (@ARGV) {
        print IO::Socket::INET->new('127.0.0.1:'.$_) ? qq(connected\\n) : $!.qq(\\n) }";
    let mut command = Command::new("perl");
    command.args(["-e", script]).args(ports.map(|port| port.to_string()));
    command.isolated().share(Namespaces::NETWORK);
    assert_eq!(says(&mut command), "connected\nconnected\n");
    let said = says(command.landlock(Landlock::new().tcp_connect(ports[1])));
    assert_eq!(said, "Permission denied\nconnected\n");
}

#[test]
fn every_capability_set_is_what_was_asked_for() {
    require!(common::subordinate_ids());
    use Capability::{Chown, Kill, NetBindService, SysAdmin};
    let default = sets(&mut status());
    assert_eq!((default[0], default[4]), (0, 0), "inheritable and ambient are empty");
    assert!(default[1] == default[2] && default[2] == default[3], "{default:x?}");
    assert_eq!(default[1] & bits([SysAdmin]), 0);
    assert_eq!(sets(status().capabilities(Capabilities::none())), [0; 5]);
    let one = bits([Kill]);
    assert_eq!(sets(status().capabilities(Capabilities::none().add(Kill))), [0, one, one, one, 0]);
    let all = sets(status().capabilities(Capabilities::all()));
    assert_eq!(all[1] & bits([SysAdmin, Chown]), bits([SysAdmin, Chown]));
    assert_eq!((all[0], all[4]), (0, 0));
    // Each set alone.
    let custom = Capabilities::none()
        .with_bounding([Chown, Kill, NetBindService].into_iter().collect::<CapabilitySet>())
        .with_permitted([Chown, Kill].into_iter().collect())
        .with_effective([Chown].into_iter().collect())
        .with_inheritable([Kill].into_iter().collect());
    // Root's effective set becomes the permitted one by execve(2); that all of the bounding set would be permitted too,
    // no_new_privileges prevents.
    let as_root = sets(status().capabilities(custom));
    let (bounding, permitted) = (bits([Chown, Kill, NetBindService]), bits([Chown, Kill]));
    assert_eq!(as_root, [bits([Kill]), permitted, permitted, bounding, 0]);
    let gains = sets(status().capabilities(custom).no_new_privileges(false));
    assert_eq!(gains, [bits([Kill]), bounding, bounding, bounding, 0]);
    let other = sets(status().capabilities(custom).user("65534"));
    assert_eq!(other, [bits([Kill]), 0, 0, bounding, 0]);
    // Ambient ones survive the execve of another user.
    let ambient = Capabilities::none().add_ambient(NetBindService);
    let bit = bits([NetBindService]);
    assert_eq!(sets(status().capabilities(ambient).user("65534")), [bit; 5]);
    let ambient = custom.with_ambient([NetBindService].into_iter().collect());
    let err = status().capabilities(ambient).spawn().expect_err("ambient without permitted");
    assert_eq!(err.kind(), ErrorKind::InvalidInput, "{err:?}");
    assert!(format!("{err:#}").contains("CAP_NET_BIND_SERVICE"), "{err:?}");
}

#[test]
fn privileges_can_be_gained_only_if_that_is_asked_for() {
    require!(common::subordinate_ids());
    let sandbox = common::setup("setuid");
    let root = sandbox.dir("root");
    for dir in ["root/usr", "root/tmp"] {
        sandbox.dir(dir);
    }
    for dir in ["bin", "lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{dir}"), root.join(dir)).expect("link");
    }
    // A set-user-id program of the container's root, made inside, where that has an id.
    let mut make = Command::new("sh");
    make.rootfs(&root).mount(Mount::bind("/usr", "/usr").host_ids().read_only());
    let mut run = make.clone();
    let script = "cp /usr/bin/id /tmp/id && chmod 4755 /tmp/id";
    assert_eq!(says(make.args(["-c", script])), "");
    run.args(["-c", "/tmp/id -u; grep NoNewPrivs /proc/self/status"]).user("1000");
    assert_eq!(says(&mut run), "1000\nNoNewPrivs:\t1\n");
    assert_eq!(says(run.no_new_privileges(false)), "0\nNoNewPrivs:\t0\n");
    // The filter is there all the same.
    let mut uname = Command::new("uname");
    uname.rootfs(&root).mount(Mount::bind("/usr", "/usr").host_ids().read_only()).user("1000");
    uname.no_new_privileges(false).seccomp(Seccomp::default_profile().deny("uname", libc::ENOANO));
    assert!(says(&mut uname).contains("No anode"));
}

#[test]
fn a_security_module_that_is_not_there_is_an_error() {
    for (active, name, label) in [
        ("/sys/module/apparmor", "AppArmor", Command::new("true").apparmor("unconfined").clone()),
        ("/sys/fs/selinux/enforce", "SELinux", Command::new("true").selinux("u:r:t:s0").clone()),
    ] {
        let mut command = label;
        if std::path::Path::new(active).exists() {
            // What the label may be, is that machine's policy: it must not be taken silently.
            if let Err(err) = command.spawn() {
                assert!(format!("{err:#}").contains(&name.to_lowercase()), "{err:?}");
            }
            continue;
        }
        let err = command.spawn().expect_err(name);
        assert_eq!(err.kind(), ErrorKind::Unsupported, "{err:?}");
        assert!(
            format!("{err:#}").contains(&format!("{name} is not active on this kernel")),
            "{err:?}"
        );
        assert!(
            err.hint().is_some_and(|hint| hint.contains("/sys/kernel/security/lsm")),
            "{err:?}"
        );
    }
    std::io::stderr().flush().expect("flush");
}

/// What another file system at /proc or /sys says must not pass for a label that confines.
#[test]
fn a_false_proc_or_sys_lets_nothing_run_unconfined() {
    const REFUSED_WITH: &str = "CORACLE_TEST_REFUSED_WITH";
    if let Ok(reason) = std::env::var(REFUSED_WITH) {
        for copy in [false, true] {
            let mut command = Command::new("true");
            command.apparmor("coracle-test");
            if copy {
                command.copy_memory();
            }
            let err = command.spawn().expect_err("it ran unconfined");
            let said = format!("{err:#}");
            assert!(said.contains("change to the apparmor label coracle-test at exec"), "{err:?}");
            assert!(said.contains(&reason) && err.hint().is_some(), "{err:?}");
        }
        return;
    }
    require!(common::user_namespaces());
    let module = |enabled: &str| {
        format!(
            "mount -t tmpfs none /sys/module; mkdir -p /sys/module/apparmor/parameters
             echo {enabled} >/sys/module/apparmor/parameters/enabled"
        )
    };
    let (off, on) = (module("N"), module("Y"));
    let no_proc = format!("{on}; mount -t tmpfs none /proc");
    let files = "mkdir -p /proc/self/attr/apparmor; touch /proc/self/attr/exec /proc/self/attr/apparmor/exec";
    for (script, reason) in [
        ("mount -t tmpfs none /sys", "/sys"),
        (&off, "AppArmor is not active on this kernel"),
        (&no_proc, "/proc/self/attr is not of a proc file system"),
        (&format!("{no_proc}; {files}"), "/proc/self/attr is not of a proc file system"),
    ] {
        let mut command = std::process::Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-euc"]);
        command.arg(format!("{script}; exec \"$@\"")).arg("sh").env(REFUSED_WITH, reason);
        common::rerun(command);
    }
}

/// The name of the profile that tests/vm/rounds loads: all is allowed but to read a file called `denied`.
fn apparmor_profile() -> Result<&'static str, Missing> {
    let (name, loaded) = ("coracle-test", "/sys/kernel/security/apparmor/policy/profiles");
    let need = format!("the AppArmor profile {name}");
    let entries =
        std::fs::read_dir(loaded).map_err(|err| Missing::new(&need, format!("{loaded}: {err}")))?;
    // The kernel adds a number to the name.
    let known = entries
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with(&format!("{name}.")));
    if known { Ok(name) } else { Err(Missing::new(need, "it is not loaded")) }
}

#[test]
fn a_label_of_apparmor_confines_the_program() {
    let profile = require!(apparmor_profile());
    let sandbox = common::setup("apparmor");
    let script = |dir: &std::path::Path| {
        format!(
            "cat /proc/self/attr/apparmor/current; cd {}; for f in allowed denied; do echo $f >$f; cat $f; done",
            dir.display()
        )
    };
    let labelled = format!("{profile} (enforce)\nallowed\n");
    let confined = |said: &str| {
        assert!(
            said.starts_with(&labelled) && said.ends_with("denied: Permission denied\n"),
            "{said}"
        );
    };
    let mut plain = Command::new("sh");
    plain.args(["-c", &script(sandbox.path())]);
    assert_eq!(says(&mut plain), "unconfined\nallowed\ndenied\n");
    confined(&says(plain.apparmor(profile)));
    confined(&says(plain.no_new_privileges(true)));

    // In all namespaces, that of users too, with and without a pid 1 of ours.
    let inside = script("/tmp".as_ref());
    assert_eq!(says(&mut sh(&inside)), "unconfined\nallowed\ndenied\n");
    confined(&says(sh(&inside).apparmor(profile)));
    confined(&says(sh(&inside).apparmor(profile).init()));
    // What is executed in a container has the label it asks for itself, not that of the container.
    let mut container = Command::new("sleep");
    let container = container.arg("1000").isolated().apparmor(profile).spawn().expect("spawn");
    for (label, confine) in [(None, false), (Some(profile), true)] {
        let mut command = Command::new("sh");
        command.args(["-c", &inside]).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(label) = label {
            command.apparmor(label);
        }
        let output = container.exec(&mut command).expect("exec").wait_with_output().expect("wait");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if confine { confined(&said) } else { assert_eq!(said, "unconfined\nallowed\ndenied\n") }
    }
    // The host's own label is untouched.
    let own = std::fs::read_to_string("/proc/thread-self/attr/apparmor/current").expect("read");
    assert_eq!(own, "unconfined\n");
}

#[test]
fn a_label_that_apparmor_does_not_know_is_an_error() {
    require!(apparmor_profile());
    for command in [&mut Command::new("true"), &mut sh("true")] {
        let err = command.apparmor("coracle-unknown").spawn().expect_err("no such profile");
        assert_eq!(err.kind(), ErrorKind::NotFound, "{err:?}");
        assert!(format!("{err:#}").contains("the apparmor label coracle-unknown"), "{err:?}");
        assert!(err.hint().is_some_and(|hint| hint.contains("apparmor_parser")), "{err:?}");
    }
}
