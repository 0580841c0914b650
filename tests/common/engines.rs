//! The engines of Debian, each with a storage of the test's own.

#![allow(clippy::unwrap_used, reason = "it is test code")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{Missing, Sandbox, program, root, time_limit};

/// Runs a program to its end and returns what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|err| panic!("start {command:?}: {err}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a program to its end, its output in a file.
pub fn to_file(command: &mut Command, path: &Path) {
    let status = command.stdout(File::create(path).unwrap()).status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

/// A docker daemon of the test's own, whose mounts nobody else sees.
pub struct Docker {
    daemon: Child,
    client: PathBuf,
    socket: String,
    cgroup: String,
    /// Its containerd never answers on a socket whose path is too long, and a sandbox may have a long one.
    _state: tempfile::TempDir,
}

impl Docker {
    /// Starts it with a storage driver.
    pub fn start(dir: &Sandbox, driver: &str) -> Result<Self, Missing> {
        root()?;
        let daemon = program("dockerd")?;
        program("containerd")?;
        // The client of the same package.
        let client = [PathBuf::from("/usr/bin/docker"), program("docker")?];
        let client = client.into_iter().find(|path| path.exists()).unwrap();
        let state = tempfile::Builder::new().prefix("cd").tempdir_in("/tmp").unwrap();
        let socket = format!("unix://{}", state.path().join("docker.sock").display());
        let cgroup = format!("/coracle-test-{}", std::process::id());
        let log = File::create(dir.join("dockerd.log")).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]).arg(daemon);
        // For the stacks that a slow containerd is asked for.
        command.env("TMPDIR", state.path());
        command
            .arg("--data-root")
            .arg(dir.join("docker"))
            .arg("--exec-root")
            .arg(state.path().join("run"));
        command.arg("--pidfile").arg(state.path().join("docker.pid")).args(["-H", &socket]);
        command.args(["--storage-driver", driver, "--bridge=none", "--iptables=false"]);
        command.args(["--ip6tables=false", "--cgroup-parent", &cgroup]);
        let daemon =
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn();
        let mut docker = Self { daemon: daemon.unwrap(), client, socket, cgroup, _state: state };
        let end = Instant::now() + time_limit(Duration::from_secs(60));
        while !docker.command(&["version"]).output().unwrap().status.success() {
            let ended = docker.daemon.try_wait().unwrap();
            if ended.is_some() || Instant::now() > end {
                let log = fs::read_to_string(dir.join("dockerd.log")).unwrap();
                let last: Vec<_> = log.lines().rev().take(3).collect();
                let ended = ended.map_or("still running".to_owned(), |status| status.to_string());
                let why = format!("it did not start ({ended}): {}", last.join("; before it: "));
                return Err(Missing::new("a docker daemon", why));
            }
            sleep(Duration::from_millis(50));
        }
        Ok(docker)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.client);
        command.args(["-H", &self.socket]).args(args).stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> String {
        run(&mut self.command(args))
    }

    /// Runs what the image says, without network.
    pub fn run_image(&self, reference: &str) -> String {
        self.run(&["run", "--rm", "--network", "none", reference])
    }

    pub fn load(&self, archive: &Path) -> String {
        run(self.command(&["load", "--quiet"]).stdin(File::open(archive).unwrap()))
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.daemon.id()).unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.daemon.wait();
        // One in each hierarchy.
        let mut hierarchies: Vec<_> = fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        hierarchies.push("/sys/fs/cgroup".into());
        for hierarchy in hierarchies {
            let _ = fs::remove_dir(hierarchy.join(&self.cgroup[1..]));
        }
    }
}

/// podman and buildah with a storage of the test's own.
pub struct Containers<'a> {
    dir: &'a Sandbox,
    driver: &'a str,
    /// podman takes no path of more than 50 bytes here, and a sandbox may have a longer one.
    state: tempfile::TempDir,
}

impl<'a> Containers<'a> {
    pub fn new(dir: &'a Sandbox, driver: &'a str) -> Self {
        let state = tempfile::Builder::new().prefix("cp").tempdir_in("/tmp").unwrap();
        Self { dir, driver, state }
    }

    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        // crun refuses a second hierarchy beside those of version 1.
        let script = r#"if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi; exec "$@""#;
        command.args(["--mount", "--propagation", "private", "sh", "-euc", script, "sh", program]);
        command.arg("--root").arg(self.dir.join("containers"));
        command.arg("--runroot").arg(self.state.path());
        command.args(["--storage-driver", self.driver]).args(args).stdin(Stdio::null());
        command.env("TMPDIR", self.dir.path()).current_dir(self.dir.path());
        command
    }

    pub fn run(&self, program: &str, args: &[&str]) -> String {
        run(&mut self.command(program, args))
    }

    /// Runs what the image says, without network.
    pub fn run_image(&self, reference: &str) -> String {
        // The limits of this machine may be below those that it sets otherwise.
        let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"];
        let args = [&["run", "--rm", "--network", "none", "--cgroups=disabled"], &limits[..]];
        self.run("podman", &[&args.concat(), &[reference][..]].concat())
    }

    pub fn id(&self, reference: &str) -> String {
        let id = self.run("podman", &["image", "inspect", "--format", "{{.Id}}", reference]);
        format!("sha256:{}", id.trim())
    }
}
