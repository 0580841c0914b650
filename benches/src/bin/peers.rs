//! Measures Coracle and its peers side by side: every round asks each contender once, in turn, so that whatever
//! else the machine does meets all alike. Prints medians and ratios. Needs root; see README.md.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use coracle::layers::Rootfs;
use coracle::namespaces;
use coracle_benches::contender::{self, Contender, Result, interleave, succeed, table, timed};
use coracle_benches::{Fixture, container, quiet};

const GIB: usize = 1 << 30;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", what, ref rest @ ..] => serve(what, rest),
        [] => compare(60),
        [rounds] => compare(rounds.parse()?),
        _ => Err("usage: peers [ROUNDS]".into()),
    }
}

/// The contender's side.
fn serve(what: &str, args: &[&str]) -> Result<()> {
    let mut task: Box<dyn FnMut() -> Result<()>> = match (what, args) {
        ("coracle", [root, scratch, users, hold]) => {
            let memory = vec![1u8; hold.parse::<usize>()? * GIB];
            let (root, scratch) = (PathBuf::from(root), PathBuf::from(scratch));
            let host_users = *users == "host";
            Box::new(move || {
                std::hint::black_box(&memory);
                let stack = Rootfs::stack([&root]);
                let stack = if host_users { stack.host_ids() } else { stack };
                let rootfs = stack.writable(&scratch)?;
                let mut command = container("/bin/true", &rootfs);
                if host_users {
                    command.host_users();
                }
                succeed(command.status()?.success())
            })
        }
        ("coracle-threads", [root, threads]) => {
            let threads: usize = threads.parse()?;
            let command = container("/bin/true", Path::new(root));
            Box::new(move || {
                std::thread::scope(|scope| {
                    let run = || {
                        let mut command = command.clone();
                        move || command.status().is_ok_and(|status| status.success())
                    };
                    let all: Vec<_> = (0..threads).map(|_| scope.spawn(run())).collect();
                    succeed(all.into_iter().all(|thread| thread.join().unwrap_or(false)))
                })
            })
        }
        ("coracle-exec", [root]) => {
            let mut sleep = container("/bin/sleep", Path::new(root));
            let child = sleep.arg("1000000").spawn()?;
            let mut command = quiet(namespaces::Command::new("/bin/true"));
            Box::new(move || succeed(child.exec(&mut command)?.wait()?.success()))
        }
        ("program", [program, args @ ..]) => {
            let mut command = Command::new(program);
            command.args(args).stdin(Stdio::null()).stdout(Stdio::null());
            Box::new(move || succeed(command.status()?.success()))
        }
        _ => return Err("not a contender".into()),
    };
    contender::serve(|| timed(&mut task))
}

/// A contender in a mount namespace without cgroup v2, whose presence beside v1 crun refuses.
fn without_unified(name: &str, args: &[&str]) -> Result<Contender> {
    let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$0\" serve \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(std::env::current_exe()?).args(args);
    Contender::start(name, &mut command)
}

fn compare(rounds: usize) -> Result<()> {
    let fixture = Fixture::new()?;
    let root = fixture.root().display().to_string();
    let bare = fixture.path().join("bare").display().to_string();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/bare.c");
    succeed(Command::new("cc").args(["-O2", "-o", &bare, source]).status()?.success())?;
    let bundle = fixture.path().join("bundle");
    fs::create_dir(&bundle)?;
    // They make no overlay themselves, so theirs is mounted already.
    let merged = Merged::new(&fixture)?;
    let mounted = merged.0.display().to_string();
    fs::write(bundle.join("config.json"), config(&mounted, &["/bin/true"]))?;
    let bundle = bundle.display().to_string();
    let scratch = |name: &str| -> Result<String> {
        let dir = fixture.path().join(name);
        for part in ["upper", "work"] {
            fs::create_dir_all(dir.join(part))?;
        }
        Ok(dir.display().to_string())
    };
    let (a, b, c, d) = (scratch("a")?, scratch("b")?, scratch("c")?, scratch("d")?);
    let id = format!("coracle-peers-{}", std::process::id());

    // The filter is taken from one that runs.
    let mut model = container("/bin/sleep", Path::new(&root));
    let model = model.arg("1000000").host_users().spawn()?;
    let model_pid = model.id().to_string();

    println!("{rounds} rounds, load {}", fs::read_to_string("/proc/loadavg")?.trim());

    let mut all = vec![
        Contender::start("bare C", Command::new(&bare).args([&root, &a, &model_pid]))?,
        Contender::of_ourselves("coracle, host's users", &["coracle", &root, &b, "host", "0"])?,
        Contender::of_ourselves("coracle", &["coracle", &root, &c, "own", "0"])?,
        Contender::of_ourselves("coracle in a host of 8 GiB", &["coracle", &root, &d, "own", "8"])?,
        Contender::of_ourselves("bubblewrap", &[&["program"], &bwrap(&mounted)[..]].concat())?,
        without_unified("crun", &["program", "crun", "run", "-b", &bundle, &id])?,
        Contender::of_ourselves("runc", &["program", "runc", "run", "-b", &bundle, &id])?,
    ];
    interleave(&mut all, rounds)?;
    table("Start to end of /bin/true in a container", &all, 0);
    drop(all);

    let mut threads = vec![
        Contender::of_ourselves("1 thread", &["coracle-threads", &root, "1"])?,
        Contender::of_ourselves("8 threads at once", &["coracle-threads", &root, "8"])?,
    ];
    interleave(&mut threads, rounds)?;
    for (contender, count) in threads.iter_mut().zip([1.0, 8.0]) {
        contender.times.iter_mut().for_each(|time| *time /= count);
    }
    table("The same from threads, for each container", &threads, 0);
    drop(threads);

    exec(&fixture, rounds)?;
    alive(&root)
}

/// An overlay that the host has mounted.
struct Merged(PathBuf);

impl Merged {
    fn new(fixture: &Fixture) -> Result<Self> {
        let dir = |name: &str| fixture.path().join("merged").join(name);
        for name in ["upper", "work", "root"] {
            fs::create_dir_all(dir(name))?;
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            fixture.root().display(),
            dir("upper").display(),
            dir("work").display()
        );
        let mut mount = Command::new("mount");
        mount.args(["-t", "overlay", "overlay", "-o", &options]).arg(dir("root"));
        succeed(mount.status()?.success())?;
        Ok(Self(dir("root")))
    }
}

impl Drop for Merged {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn exec(fixture: &Fixture, rounds: usize) -> Result<()> {
    let root = fixture.root().display().to_string();
    let bundle = fixture.path().join("sleeper");
    fs::create_dir(&bundle)?;
    fs::write(bundle.join("config.json"), config(&root, &["/bin/sleep", "1000000"]))?;
    let bundle = bundle.display().to_string();
    let id = format!("coracle-sleeper-{}", std::process::id());
    let state = fixture.path().join("state").display().to_string();
    let runtime = |program: &str, args: &[&str]| {
        let mut command = Command::new("unshare");
        let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$0\" --root \"$@\"";
        command.args(["--mount", "sh", "-c", script, program]);
        command.arg(format!("{state}-{program}")).args(args).arg(format!("{id}-{program}"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    };
    for program in ["crun", "runc"] {
        succeed(runtime(program, &["run", "-d", "-b", &bundle]).status()?.success())?;
    }
    let (crun, runc) = (format!("{state}-crun"), format!("{state}-runc"));
    let (crun_id, runc_id) = (format!("{id}-crun"), format!("{id}-runc"));
    let measured = (|| {
        let mut all = vec![
            Contender::of_ourselves("coracle", &["coracle-exec", &root])?,
            without_unified(
                "crun",
                &["program", "crun", "--root", &crun, "exec", &crun_id, "/bin/true"],
            )?,
            without_unified(
                "runc",
                &["program", "runc", "--root", &runc, "exec", &runc_id, "/bin/true"],
            )?,
        ];
        interleave(&mut all, rounds)?;
        table("Start to end of /bin/true in a running container", &all, 0);
        Ok(())
    })();
    for program in ["crun", "runc"] {
        runtime(program, &["delete", "--force"]).status()?;
    }
    measured
}

/// Many at once, and what is left of them.
fn alive(root: &str) -> Result<()> {
    const COUNT: usize = 1000;
    let mut command = container("/bin/sleep", Path::new(root));
    command.arg("1000000");
    let before = fs::read_dir("/proc/self/fd")?.count();
    let start = Instant::now();
    let children = (0..COUNT).map(|_| command.spawn()).collect::<coracle::Result<Vec<_>>>()?;
    let started = start.elapsed();
    let open = fs::read_dir("/proc/self/fd")?.count();
    let start = Instant::now();
    drop(children);
    let each = |time: Duration| time.as_secs_f64() * 1000.0 / COUNT as f64;
    println!(
        "\n{COUNT} alive at once: {:.2} ms to start and {:.2} ms to end each; {} file descriptors, {} of them left",
        each(started),
        each(start.elapsed()),
        open - before,
        fs::read_dir("/proc/self/fd")?.count() - before,
    );
    Ok(())
}

fn bwrap(root: &str) -> Vec<&str> {
    let mut args = vec!["bwrap", "--bind", root, "/"];
    args.extend([
        "--unshare-pid",
        "--unshare-net",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-cgroup-try",
    ]);
    args.extend(["--proc", "/proc", "--dev", "/dev", "--ro-bind", "/sys", "/sys"]);
    args.extend(["--hostname", "container", "--new-session", "--cap-drop", "ALL", "/bin/true"]);
    args
}

/// The names of the system calls that any container may make.
fn allowed_calls() -> Vec<&'static str> {
    let source = include_str!("../../../src/namespaces/seccomp/profile.rs");
    let list = source.split_once("const ALLOWED: &str = \"").map_or("", |(_, rest)| rest);
    let list = list.split_once('"').map_or("", |(list, _)| list);
    list.split_ascii_whitespace().chain(["chroot", "clone", "ioctl", "socket"]).collect()
}

/// An OCI bundle with the same namespaces, mounts, limits, capabilities and allowed system calls.
fn config(root: &str, args: &[&str]) -> String {
    let list = |items: &[&str]| {
        items.iter().map(|item| format!("{item:?}")).collect::<Vec<_>>().join(", ")
    };
    let mount = |target: &str, kind: &str, options: &[&str]| {
        format!(
            r#"{{"destination": "{target}", "type": "{kind}", "source": "{kind}", "options": [{}]}}"#,
            list(options)
        )
    };
    let mounts = [
        mount("/proc", "proc", &[]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ]
    .join(", ");
    let capabilities = list(&[
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_SETFCAP",
    ]);
    let masked = list(&[
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
        "/sys/firmware",
    ]);
    let read_only =
        list(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]);
    let calls = list(&allowed_calls());
    let namespaces = ["pid", "network", "ipc", "uts", "mount", "cgroup"]
        .map(|kind| format!(r#"{{"type": "{kind}"}}"#))
        .join(", ");
    format!(
        r#"{{
  "ociVersion": "1.0.2",
  "process": {{
    "terminal": false, "user": {{"uid": 0, "gid": 0}}, "cwd": "/", "args": [{}],
    "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"],
    "capabilities": {{"bounding": [{capabilities}], "effective": [{capabilities}], "permitted": [{capabilities}]}},
    "noNewPrivileges": true
  }},
  "root": {{"path": "{root}", "readonly": false}},
  "hostname": "container",
  "mounts": [{mounts}],
  "linux": {{
    "namespaces": [{namespaces}],
    "resources": {{
      "memory": {{"limit": 67108864, "swap": 67108864}}, "pids": {{"limit": 64}},
      "cpu": {{"quota": 150000, "period": 100000}}
    }},
    "seccomp": {{
      "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
      "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
      "syscalls": [{{"names": [{calls}], "action": "SCMP_ACT_ALLOW"}}]
    }},
    "maskedPaths": [{masked}],
    "readonlyPaths": [{read_only}]
  }}
}}"#,
        list(args)
    )
}
