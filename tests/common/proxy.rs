//! Debian's `tinyproxy` on loopback.

use std::net::TcpListener;

use super::daemon::Daemon;
use super::{Missing, Sandbox, program, setup};

/// A forward proxy, ended on drop: for `http://` as it is, and for `https://` with CONNECT, to any port.
pub struct ForwardProxy {
    daemon: Daemon,
    address: String,
    dir: Sandbox,
}

impl ForwardProxy {
    /// Starts one for everybody.
    pub fn start() -> Result<Self, Missing> {
        Self::with("")
    }

    /// Starts one that wants Basic credentials.
    pub fn with_account(user: &str, password: &str) -> Result<Self, Missing> {
        Self::with(&format!("BasicAuth {user} {password}\n"))
    }

    fn with(more: &str) -> Result<Self, Missing> {
        let executable = program("tinyproxy")?;
        let dir = setup("proxy");
        let (log, said) = (dir.join("log"), dir.join("said"));
        let mut why = String::new();
        // It cannot choose a port by itself, and one that is free may be another's a moment later.
        for _ in 0..10 {
            let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
            let address = free.expect("find a free port");
            let config = format!(
                "Listen 127.0.0.1\nPort {}\nTimeout 600\nMaxClients 200\nLogLevel Info\nLogFile \"{}\"\n{more}",
                address.port(),
                log.display()
            );
            let config = dir.file("tinyproxy.conf", config);
            dir.file("log", "");
            let args = ["-d".into(), "-c".into(), config.into()];
            let mut daemon = Daemon::start(&executable, &args, &[], &said);
            let ready = |_: &str| {
                let log = std::fs::read_to_string(&log).expect("read the log");
                log.contains("Accepting connections").then_some(())
            };
            match daemon.wait_for(ready) {
                Ok(()) => return Ok(Self { daemon, address: address.to_string(), dir }),
                Err(err) => why = err,
            }
        }
        Err(Missing::new("a proxy", why))
    }

    /// Where it listens: `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// As the environment's variables name it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// [`url`](Self::url) with credentials in it.
    pub fn url_as(&self, user: &str, password: &str) -> String {
        format!("http://{user}:{password}@{}", self.address)
    }

    /// Everything it has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).expect("read the log")
    }

    /// The first line of every request, `GET http://... HTTP/1.1` or `CONNECT HOST:PORT HTTP/1.1`, refused ones too.
    pub fn requests(&self) -> Vec<String> {
        let line = |line: &str| {
            let (_, rest) = line.split_once("Request (file descriptor ")?;
            Some(rest.split_once("): ")?.1.to_owned())
        };
        self.log().lines().filter_map(line).collect()
    }

    /// How many connections it has made for clients.
    pub fn connections(&self) -> usize {
        self.log().matches("Established connection to host").count()
    }

    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }
}
