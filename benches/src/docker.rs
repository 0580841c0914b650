//! A docker daemon of one's own, to measure beside.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::contender::{Result, succeed};

/// Ends with this value.
#[derive(Debug)]
pub struct Docker {
    daemon: Child,
    client: PathBuf,
    socket: String,
}

impl Docker {
    /// Starts Debian's with all of its files in `dir`; its containers have no network. `None` if it is not installed.
    pub fn start(dir: &Path) -> Result<Option<Self>> {
        Self::start_in("exec \"$@\" --bridge=none --iptables=false --ip6tables=false", &[], dir)
    }

    /// The same with the bridge that it makes by itself, in a network namespace that goes with it.
    pub fn start_bridged(dir: &Path) -> Result<Option<Self>> {
        Self::start_in("ip link set lo up && exec \"$@\"", &["--net"], dir)
    }

    fn start_in(script: &str, namespaces: &[&str], dir: &Path) -> Result<Option<Self>> {
        let client = PathBuf::from("/usr/bin/docker");
        if !client.exists() || !Path::new("/usr/sbin/dockerd").exists() {
            return Ok(None);
        }
        let at = |name: &str| dir.join(name);
        let socket = format!("unix://{}", at("docker.sock").display());
        let log = File::create(at("dockerd.log"))?;
        let mut command = Command::new("unshare");
        command.args(namespaces).args(["--mount", "--propagation", "private"]);
        command.args(["sh", "-c", script, "sh", "/usr/sbin/dockerd", "-H", &socket]);
        command.arg("--data-root").arg(at("docker")).arg("--exec-root").arg(at("docker-run"));
        command.arg("--pidfile").arg(at("docker.pid")).args(["--storage-driver", "overlay2"]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut docker = Self { daemon: command.spawn()?, client, socket };
        let end = Instant::now() + Duration::from_secs(60);
        while docker.run(&["version"]).is_err() {
            if docker.daemon.try_wait()?.is_some() || Instant::now() > end {
                return Err(
                    format!("no docker daemon; {} says why", at("dockerd.log").display()).into()
                );
            }
            sleep(Duration::from_millis(50));
        }
        Ok(Some(docker))
    }

    /// What begins a command line of the client.
    pub fn client(&self) -> [String; 3] {
        [self.client.display().to_string(), "-H".into(), self.socket.clone()]
    }

    /// Runs a command of the client's.
    pub fn run(&self, args: &[&str]) -> Result<()> {
        let [client, option, socket] = self.client();
        let mut command = Command::new(client);
        command.args([&option, &socket]).args(args);
        succeed(
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()?
                .success(),
        )
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // It stops its containerd, too.
        let _ = Command::new("kill").arg(self.daemon.id().to_string()).status();
        let _ = self.daemon.wait();
    }
}
