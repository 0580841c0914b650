//! A server from Debian's packages as a child process.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use super::time_limit;

/// A child process that serves: ended and reaped on drop, and ended by the kernel if the test is killed.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
    /// The thread that started it: the kernel ends the child with this thread, so it must stay.
    keeper: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Daemon {
    /// Starts a program with what it says appended to the file `log`.
    pub fn start(
        program: &Path,
        args: &[OsString],
        env: &[(String, OsString)],
        log: &Path,
    ) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(args);
        command.envs(env.iter().map(|(name, value)| (name, value)));
        let output = File::options().create(true).append(true).open(log).expect("make the log");
        command.stdin(Stdio::null()).stderr(output.try_clone().expect("copy a descriptor"));
        command.stdout(output);
        let (stop, stopped) = channel::<()>();
        let (tell, told) = channel();
        let keeper = std::thread::spawn(move || {
            tell.send(command.spawn()).expect("the starter waits");
            let _ = stopped.recv();
        });
        let child = told.recv().expect("the keeper answers").expect("start setpriv");
        Self { child, log: log.to_owned(), keeper: Some((stop, keeper)) }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).expect("read the log")).into_owned()
    }

    /// Waits until `find` finds something in the log. If the program ends instead, tells the last it said.
    pub fn wait_for<T>(&mut self, find: impl Fn(&str) -> Option<T>) -> Result<T, String> {
        let end = Instant::now() + time_limit(Duration::from_secs(60));
        loop {
            let ended = self.child.try_wait().expect("ask for the child's status");
            if let Some(found) = find(&self.log()) {
                return Ok(found);
            }
            if let Some(status) = ended {
                return Err(format!("{status}: {}", self.log().lines().last().unwrap_or_default()));
            }
            assert!(Instant::now() < end, "not ready after a minute:\n{}", self.log());
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some((stop, keeper)) = self.keeper.take() {
            drop(stop);
            let _ = keeper.join();
        }
    }
}
