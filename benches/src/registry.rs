//! A registry of one's own, to measure with.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::contender::Result;

/// Debian's docker-registry on this machine, with its files in a directory. Ends with this value.
#[derive(Debug)]
pub struct Registry {
    server: Child,
    address: String,
}

impl Registry {
    /// Starts one with all of its files in `dir`.
    pub fn start(dir: &Path) -> Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        fs::create_dir_all(dir)?;
        let config = dir.join("config.yml");
        let data = dir.join("data");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            data.display()
        );
        fs::write(&config, text)?;
        let log = File::create(dir.join("log"))?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut registry = Self { server: command.spawn()?, address };
        let end = Instant::now() + Duration::from_secs(30);
        while !registry.answers() {
            if registry.server.try_wait()?.is_some() || Instant::now() > end {
                return Err(format!("no registry; {}/log says why", dir.display()).into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(registry)
    }

    fn answers(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(&self.address)?;
            stream.write_all(b"GET /v2/ HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.contains("200 OK"))
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
