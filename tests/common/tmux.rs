//! A real terminal, which tmux plays.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::Missing;
use super::command_line;

/// A terminal with a shell of the host on it.
pub struct Tmux {
    socket: String,
}

impl Tmux {
    /// Its socket lies in `directory`, and the command line tool works on `store`.
    pub fn start(directory: &Path, store: &Path) -> Result<Self, Missing> {
        super::program("tmux")?;
        let tmux = Self { socket: directory.join("tmux").display().to_string() };
        let root = format!("CORACLE_ROOT={}", store.display());
        let size = ["-x", "100", "-y", "30"];
        let shell = "exec env PS1='host> ' sh";
        tmux.run(
            &[&["-f", "/dev/null", "new-session", "-d", "-e", &root], &size[..], &[shell]].concat(),
        );
        tmux.shows("host>");
        Ok(tmux)
    }

    pub fn run(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.args(["-S", &self.socket]).args(arguments).env_remove("TMUX").env("TERM", "xterm");
        let output = command.output().expect("start tmux");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("a screen is text")
    }

    /// Types this and the return key.
    pub fn types(&self, line: &str) {
        self.run(&["send-keys", "-l", line]);
        self.key("Enter");
    }

    pub fn key(&self, name: &str) {
        self.run(&["send-keys", name]);
    }

    /// Runs the command line tool.
    pub fn coracle(&self, arguments: &str) {
        self.types(&format!("clear; {} {arguments}", command_line::program().display()));
    }

    pub fn screen(&self) -> String {
        self.run(&["capture-pane", "-p", "-J"])
    }

    /// Waits until a line of the screen is this.
    pub fn shows(&self, line: &str) {
        let end = Instant::now() + Duration::from_secs(60);
        while !self.screen().lines().any(|it| it.trim_end() == line) {
            assert!(Instant::now() < end, "{line:?} does not come: {}", self.screen());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let mut command = Command::new("tmux");
        let _ = command.args(["-S", &self.socket, "kill-server"]).output();
    }
}
