//! Attacks of a hostile container on a process that comes in with `Child::exec`.

use std::fs;
use std::os::unix::fs::symlink;

use coracle::namespaces::{Capabilities, Child, Command, Seccomp, Signal, Stdio};

use super::common::{self, require};
use super::image::{Image, isolated, said_by};

/// Loops over all processes but itself and says "ESCAPE" once it got at the host through one of them:
/// arguments are the host's canary directory, a piece of the host's memory (address, content) and the host's program.
const HUNTER: &str = r#"
    $| = 1;
    my ($canary, $address, $content, $program) = @ARGV;
    my ($seen, $denied) = (0, 0);
    print "ready\n";
    while (!-e "/tmp/stop") {
        opendir(my $proc, "/proc") or die;
        for my $pid (grep { /^\d+$/ && $_ > 2 && $_ != $$ } readdir $proc) {
            $seen++;
            my $exe = readlink "/proc/$pid/exe";
            $denied++ if !defined $exe && $!{EACCES};
            print "ESCAPE exe $exe\n" if defined $exe && index($exe, $program) >= 0;
            for my $way ("root", "cwd", map { "fd/$_" } 0 .. 12) {
                print "ESCAPE $way\n" if -e "/proc/$pid/$way$canary";
                my $to = readlink "/proc/$pid/$way";
                print "ESCAPE $way -> $to\n" if defined $to && index($to, $canary) >= 0;
            }
            if (sysopen(my $mem, "/proc/$pid/mem", 2)) {
                sysseek($mem, $address, 0);
                my $read = "";
                sysread($mem, $read, length $content);
                print "ESCAPE mem\n" if $read eq $content;
            }
            # PTRACE_SEIZE, PTRACE_INTERRUPT, and PTRACE_DETACH once it has stopped.
            if (syscall(101, 0x4206, $pid, 0, 0) == 0) {
                my $exe = readlink "/proc/$pid/exe";
                print "ESCAPE ptrace\n" if defined $exe && index($exe, $program) >= 0;
                syscall(101, 0x4207, $pid, 0, 0);
                waitpid($pid, 0x40000000);
                syscall(101, 17, $pid, 0, 0);
            }
        }
    }
    print "looked at $seen, denied $denied\n";
"#;

#[test]
fn cve_2016_9962_2016_8649_who_joins_cannot_be_traced() {
    require!(common::user_namespaces());
    require!(common::program("perl"));
    let image = Image::new("joiner");
    // What the host holds: a directory without close-on-exec, and memory.
    let dir = fs::File::open(image.host()).unwrap();
    let _inheritable = nix::unistd::dup(&dir).unwrap();
    let secret = format!("the host's memory {}", std::process::id()).into_boxed_str();
    let program = std::env::current_exe().unwrap();
    let mut hunter = image.command("perl");
    hunter
        .args(["-MErrno", "-e", HUNTER])
        .arg(image.host())
        .arg((secret.as_ptr() as usize).to_string());
    hunter.arg(&*secret).arg(&program).init().stdout(Stdio::piped());
    // It must not outlive a test that is itself killed.
    hunter.parent_death_signal(Signal::KILL);
    let hunter = hunter.capabilities(Capabilities::all()).spawn().unwrap();
    for _ in 0..400 {
        let status =
            hunter.exec(Command::new("/bin/true").stdin(Stdio::null())).unwrap().wait().unwrap();
        assert!(status.success(), "{status}");
    }
    // The hunter may be gone, and all in its container killed, before this one has ended by itself.
    let stopped = hunter.exec(Command::new("touch").arg("/tmp/stop")).unwrap().wait().unwrap();
    assert!(stopped.success() || stopped.signal() == Some(Signal::KILL), "{stopped}");
    let output = hunter.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let rest = said.strip_prefix("ready\n").unwrap_or_else(|| panic!("{output:?}"));
    assert!(rest.starts_with("looked at "), "{rest}");
    assert!(!rest.starts_with("looked at 0,"), "the hunter saw nobody: {rest}");
    image.canary.assert_untouched();
}

fn sleeper(image: &Image) -> Child {
    let mut command = image.command("sleep");
    // All rights over its own namespaces, among them to mount.
    command.arg("1000").capabilities(Capabilities::all()).seccomp(Seccomp::unconfined());
    command.masked_paths([""; 0]).read_only_paths([""; 0]).spawn().unwrap()
}

/// What a container does to itself before somebody joins it.
#[track_caller]
fn prepare(container: &Child, script: &str) {
    let mut command = Command::new("sh");
    command.args(["-euc", script]).capabilities(Capabilities::all()).seccomp(Seccomp::unconfined());
    assert!(container.exec(&mut command).unwrap().wait().unwrap().success());
}

#[test]
fn cve_2015_1334_2025_52881_who_joins_does_not_trust_the_containers_proc() {
    require!(common::root());
    let image = Image::new("false-proc");
    let container = sleeper(&image);
    prepare(
        &container,
        "echo untouched >/tmp/victim; mount -t tmpfs none /proc; mkdir /proc/self /proc/thread-self
         for i in oom_score_adj timens_offsets attr uid_map; do ln -s /tmp/victim /proc/self/$i; done",
    );
    let mut exec = Command::new("cat");
    exec.arg("/tmp/victim").oom_score_adj(321).stdout(Stdio::piped());
    let output = container.exec(&mut exec).unwrap().wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "untouched\n");
    exec = Command::new("sleep");
    let mut child = container.exec(exec.arg("1000").oom_score_adj(321)).unwrap();
    let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", child.id())).unwrap();
    assert_eq!(score, "321\n");
    child.kill().unwrap();
    child.wait().unwrap();
    drop(container);
    image.canary.assert_untouched();
}

#[test]
fn cve_2024_21626_who_joins_stays_in_the_containers_root() {
    require!(common::user_namespaces());
    let image = Image::new("joined-root");
    let container = sleeper(&image);
    let mut exec = Command::new("sh");
    exec.args([
        "-c",
        "cd /; pwd; ls -d /usr/bin /proc/1 /../../../usr/bin; ls -l /proc/self/fd | wc -l",
    ]);
    let said = container.exec(exec.stdin(Stdio::null()).stdout(Stdio::piped())).unwrap();
    let output = said.wait_with_output().unwrap();
    // The total, 0, 1, 2 and the directory itself.
    let expected = "/\n/../../../usr/bin\n/proc/1\n/usr/bin\n5\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    let joined = container.exec(Command::new("sleep").arg("1000")).unwrap();
    for name in ["mnt", "pid", "net", "ipc", "uts", "cgroup", "user"] {
        let of = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/{name}"));
        let own = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(of(joined.id()).unwrap(), own, "{name}");
        assert_eq!(of(joined.id()).unwrap(), of(container.id()).unwrap(), "{name}");
    }
}

/// No argument of exec reaches the host's program either.
#[test]
fn cve_2019_5736_who_joins_executes_no_program_of_the_hosts() {
    require!(common::user_namespaces());
    let image = Image::new("joined-exe");
    symlink("/proc/self/exe", image.root().join("link")).unwrap();
    fs::write(image.root().join("script"), "#!/proc/self/exe\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(image.root().join("script"), mode).unwrap();
    let container = sleeper(&image);
    for program in ["/proc/self/exe", "/proc/thread-self/exe", "/link", "/script"] {
        let err = container.exec(&mut Command::new(program)).expect_err(program);
        assert_eq!(err.kind(), coracle::ErrorKind::SafetyViolation, "{program}: {err:?}");
    }
}

#[test]
fn cve_2022_29162_2025_27612_nothing_is_inheritable_after_exec() {
    require!(common::user_namespaces());
    let run = isolated("grep -E 'Cap(Inh|Amb)' /proc/self/status");
    let zero = "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n";
    assert_eq!(run, zero);
    let container = Command::new("sleep").arg("1000").isolated().spawn().unwrap();
    let mut exec = Command::new("grep");
    exec.args(["-E", "Cap(Inh|Amb|Prm|Bnd)|NoNewPrivs|Seccomp:", "/proc/self/status"]);
    let output = container.exec(exec.stdout(Stdio::piped())).unwrap().wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    for line in zero.lines().chain(["NoNewPrivs:\t1", "Seccomp:\t2"]) {
        assert!(said.contains(line), "{said}");
    }
    // And it has no more than the container.
    let mut first = Command::new("grep");
    let first = said_by(first.args(["-E", "Cap(Prm|Bnd)", "/proc/self/status"]).isolated());
    assert!(first.lines().all(|line| said.contains(line)), "{said}\n{first}");
}

/// `kill 0`, and input pushed into a terminal, would reach the host's session.
#[test]
fn who_joins_leaves_the_hosts_session_and_process_group() {
    require!(common::user_namespaces());
    let container = Command::new("sleep").arg("1000").isolated().spawn().unwrap();
    let mut exec = Command::new("cat");
    let child = container.exec(exec.arg("/proc/self/stat").stdout(Stdio::piped())).unwrap();
    let output = child.wait_with_output().unwrap();
    let stat = String::from_utf8(output.stdout).unwrap();
    // Number, name, state, parent, process group, session, terminal: 0 is one that is outside.
    let fields: Vec<&str> = stat.split(' ').collect();
    assert_eq!((fields[4], fields[5], fields[6]), (fields[0], fields[0], "0"), "{stat}");
}
