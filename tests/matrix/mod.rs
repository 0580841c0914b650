//! One command of every kind, for the tests that no kind may fail.
#![allow(dead_code, reason = "every suite uses another part")]

use std::path::Path;
use std::time::Duration;

use coracle::ErrorKind;
use coracle::cgroups::Limits;
use coracle::namespaces::{
    Capabilities, Clock, Command, Landlock, Mount, Namespaces, Resource, Rlimit, Seccomp,
    TerminalSize,
};

use crate::common::{self, Sandbox};

/// A command, and how it ends: with success, or an error that is not a lack of support.
pub struct Kind {
    pub name: &'static str,
    pub command: Command,
    pub fails: bool,
}

/// A root directory that needs nothing but the host's /usr, bound by [`rooted`].
pub fn root_dir(sandbox: &Sandbox) {
    root_dir_at(sandbox);
}

/// The same in any directory.
pub fn root_dir_at(root: &Path) {
    for link in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
        let host = Path::new("/").join(link);
        if host.is_dir() {
            let _ = std::os::unix::fs::symlink(format!("usr/{link}"), root.join(link));
        }
    }
    std::fs::create_dir_all(root.join("usr")).expect("make a directory");
}

/// A container on the directory that [`root_dir`] has filled.
pub fn rooted(run: &[&str], root: &Path) -> Command {
    let mut command = Command::new(run[0]);
    command.args(&run[1..]).rootfs(root).mount(Mount::bind("/usr", "/usr").read_only());
    command
}

fn command(run: &[&str], change: impl FnOnce(&mut Command)) -> Command {
    let mut command = Command::new(run[0]);
    command.args(&run[1..]);
    change(&mut command);
    command
}

/// Every kind that this user may start on this machine, those that do not fail with the program `run`.
pub fn kinds(sandbox: &Sandbox, run: &[&str]) -> Vec<Kind> {
    root_dir(sandbox);
    let mut kinds = Vec::new();
    let mut add = |name, fails, mut command: Command| {
        command.stdin(coracle::namespaces::Stdio::null());
        kinds.push(Kind { name, command, fails });
    };
    let good = false;
    let bad = true;
    add("plain", good, command(run, |_| {}));
    add(
        "plain in its own directory",
        good,
        command(run, |c| {
            c.current_dir("/").umask(0o077).env("A", "b");
        }),
    );
    add(
        "limited by rlimits",
        good,
        command(run, |c| {
            let resource = Resource::Nofile;
            c.rlimit(resource, Rlimit::both(64)).nice(5).oom_score_adj(600);
        }),
    );
    add(
        "without privileges",
        good,
        command(run, |c| {
            c.no_new_privileges(true);
            if common::root().is_ok() {
                c.capabilities(Capabilities::none());
            }
        }),
    );
    add(
        "filtered",
        good,
        command(run, |c| {
            c.no_new_privileges(true);
            c.seccomp(Seccomp::allow_all().deny("uname", libc::EPERM));
        }),
    );
    add(
        "copied",
        good,
        command(run, |c| {
            c.copy_memory();
        }),
    );
    add(
        "on a terminal",
        good,
        command(run, |c| {
            c.terminal(TerminalSize::new(80, 24));
        }),
    );
    add("missing program", bad, Command::new("/no/such/program"));
    add(
        "missing program, copied",
        bad,
        command(&["/no/such/program"], |c| {
            c.copy_memory();
        }),
    );
    add(
        "missing directory",
        bad,
        command(run, |c| {
            c.current_dir("/no/such/directory");
        }),
    );
    add("not a program", bad, Command::new("/etc/passwd"));
    if common::kernel(5, 13).is_ok() {
        add(
            "under Landlock",
            good,
            command(run, |c| {
                c.no_new_privileges(true)
                    .landlock(Landlock::new().read_execute("/").best_effort(true));
            }),
        );
        add(
            "Landlock on a missing path",
            bad,
            command(run, |c| {
                c.no_new_privileges(true)
                    .landlock(Landlock::new().read_execute("/no/such/path").best_effort(true));
            }),
        );
    }
    if common::user_namespaces().is_ok() {
        add(
            "isolated",
            good,
            command(run, |c| {
                c.isolated();
            }),
        );
        add(
            "isolated on a terminal",
            good,
            command(run, |c| {
                c.isolated().terminal(TerminalSize::new(80, 24));
            }),
        );
        add(
            "isolated, copied",
            good,
            command(run, |c| {
                c.isolated().copy_memory();
            }),
        );
        add(
            "isolated, failing mount",
            bad,
            command(run, |c| {
                c.isolated().mount(Mount::filesystem("tmpfs", "/x").option("no_such_option", None));
            }),
        );
        add(
            "isolated, missing program",
            bad,
            command(&["/no/such/program"], |c| {
                c.isolated();
            }),
        );
        add(
            "isolated, with init",
            good,
            command(run, |c| {
                c.isolated().init();
            }),
        );
        add("rootfs", good, rooted(run, sandbox));
        add("rootfs, missing source", bad, {
            let mut command = rooted(run, sandbox);
            command.mount(Mount::bind("/no/such/source", "/mnt"));
            command
        });
        add(
            "own user namespace only",
            good,
            command(run, |c| {
                c.unshare(Namespaces::USER);
            }),
        );
        if common::kernel(5, 6).is_ok() {
            add(
                "with its own time",
                good,
                command(run, |c| {
                    c.isolated().time_offset(Clock::Boottime, Duration::from_secs(86_400));
                }),
            );
        }
        if common::root().is_ok() {
            add("rootfs with the host's users", good, {
                let mut command = rooted(run, sandbox);
                command.host_users();
                command
            });
        }
    }
    if common::cgroup_controller("memory").is_ok() && common::cgroup_controller("pids").is_ok() {
        let limits = || Limits::new().memory(64 << 20).pids(16);
        add(
            "limited",
            good,
            command(run, |c| {
                c.limits(limits());
            }),
        );
        add(
            "limited, missing program",
            bad,
            command(&["/no/such/program"], |c| {
                c.limits(limits());
            }),
        );
        add(
            "isolated and limited",
            good,
            command(run, |c| {
                c.isolated().limits(limits());
            }),
        );
    }
    kinds
}

impl Kind {
    /// Runs it once and checks its end.
    #[track_caller]
    pub fn run(&mut self) {
        let name = self.name;
        match self.command.status() {
            Ok(status) if self.fails => panic!("{name}: {status}, not an error"),
            Ok(status) => assert!(status.success(), "{name}: {status}"),
            Err(err) if self.fails => {
                assert_ne!(err.kind(), ErrorKind::Unsupported, "{name}: {err:#}");
                assert!(!format!("{err:#}").contains("killed"), "{name}: {err:#}");
            }
            Err(err) => panic!("{name}: {err:#}"),
        }
    }
}
