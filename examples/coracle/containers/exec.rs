//! `exec`: another process in a running container.

use std::path::PathBuf;
use std::sync::Arc;

use coracle::namespaces::{Capabilities, Child, Command, ExitStatus, Seccomp, Stdio};

use super::files;
use super::keys::Keys;
use super::relay::{Caught, End, Relay, Screen};
use super::{ended, terminal, unstarted};
use crate::failure::{Failure, Result, USAGE};
use crate::root::Root;

/// Run another command in a running container
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  coracle exec -it web sh\n  coracle exec -e A=b -w /srv web env\n  coracle exec -u www-data web id"
)]
pub struct Args {
    /// Do not wait for its end; what it writes is lost
    #[arg(short, long)]
    detach: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Hand standard input on; without this it is empty
    #[arg(short, long)]
    interactive: bool,
    /// Set a variable of its environment, or hand on the one of here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Read variables from a file
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Its user, as name or number, and group
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Its working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// Give it all capabilities, and allow it all system calls
    #[arg(long)]
    privileged: bool,
    /// The keys that leave it running (with -t)
    #[arg(long, default_value = "ctrl-p,ctrl-q", value_parser = Keys::parse, value_name = "KEYS")]
    detach_keys: Keys,
    /// The container, by name, id, or the beginning of its id
    container: String,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    command: Vec<String>,
}

impl Args {
    pub fn run(self, root: &Root) -> Result<()> {
        if self.tty && self.interactive && !self.detach {
            terminal::must_be_input()?;
        }
        let container = root.engine()?.find(&self.container)?;
        let command = self.command()?;
        let signals = Caught::new(self.tty, None)?;
        let child = container.exec_command(command).map_err(|err| {
            let status = unstarted(&err);
            let failure = Failure::from(err);
            if status == USAGE { failure } else { failure.exiting_with_at_least(status) }
        })?;
        if self.detach {
            child.detach()?;
            return Ok(());
        }
        let status = match self.tty {
            true => self.relayed(child, signals)?,
            false => wait(child)?,
        };
        match status.map_or(0, |status| ended(&status)) {
            0 => Ok(()),
            code => Err(Failure::with_status(code, "")),
        }
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]);
        match (self.detach, self.tty) {
            (true, _) => {
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            }
            (false, true) => {
                command.env("TERM", "xterm").terminal(terminal::size());
            }
            (false, false) if !self.interactive => {
                command.stdin(Stdio::null());
            }
            (false, false) => {}
        }
        let mut variables = Vec::new();
        for path in &self.env_file {
            variables.extend(files::read(path).map_err(|why| Failure::with_status(USAGE, why))?);
        }
        variables.extend(self.env.iter().cloned());
        for variable in files::with_values(variables) {
            match variable.split_once('=') {
                Some((name, value)) => command.env(name, value),
                None => command.env_remove(variable),
            };
        }
        if let Some(user) = &self.user {
            command.user(user);
        }
        if let Some(directory) = &self.workdir {
            command.current_dir(directory);
        }
        if self.privileged {
            command.capabilities(Capabilities::all()).seccomp(Seccomp::unconfined());
            command.no_new_privileges(false);
        }
        Ok(command)
    }

    /// With a terminal. `None` if it was left.
    fn relayed(self, mut child: Child, signals: Caught) -> Result<Option<ExitStatus>> {
        let Some(terminal) = child.terminal.take() else { return wait(child) };
        let relay = Relay {
            stdin: self.interactive,
            stdout: true,
            stderr: true,
            tty: true,
            keys: self.detach_keys,
        };
        match relay.run(Arc::new(Screen::new(terminal, &child)?), signals)? {
            End::Ended => wait(child),
            End::Detached => child.detach().map(|_| None).map_err(Failure::from),
        }
    }
}

fn wait(mut child: Child) -> Result<Option<ExitStatus>> {
    Ok(Some(child.wait()?))
}
