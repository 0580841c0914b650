//! `attach` and `start`.

use std::sync::Arc;

use coracle::container::{Container, Phase};

use super::keys::Keys;
use super::relay::{Caught, End, Relay};
use super::run::code;
use super::{each, terminal};
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::root::Root;

/// Take hold of the streams of a running container
///
/// Ends when the container does, with its exit status; or when the keys are typed that leave it running.
#[derive(clap::Args)]
pub struct AttachArgs {
    /// Do not hand standard input on
    #[arg(long)]
    no_stdin: bool,
    /// Hand signals on to it (not if it has a terminal)
    #[arg(long, default_value_t = true, default_missing_value = "true", num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set, value_name = "true|false")]
    sig_proxy: bool,
    /// The keys that leave it running (if it has a terminal)
    #[arg(long, default_value = "ctrl-p,ctrl-q", value_parser = Keys::parse, value_name = "KEYS")]
    detach_keys: Keys,
    /// The container, by name, id, or the beginning of its id
    container: String,
}

/// Start containers, in the background without --attach
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  coracle start web\n  coracle start -ai work     and take hold of its streams"
)]
pub struct StartArgs {
    /// Hand its output and signals on, and wait for its end
    #[arg(short, long)]
    attach: bool,
    /// Hand standard input on too
    #[arg(short, long)]
    interactive: bool,
    /// The keys that leave it running (if it has a terminal)
    #[arg(long, default_value = "ctrl-p,ctrl-q", value_parser = Keys::parse, value_name = "KEYS")]
    detach_keys: Keys,
    /// Start those, besides, that their restart policies want to run: for when the machine comes up
    #[arg(long, conflicts_with_all = ["attach", "interactive"])]
    due: bool,
    /// Containers, by name, id, or the beginning of an id
    #[arg(value_name = "CONTAINER", required_unless_present = "due")]
    containers: Vec<String>,
}

impl AttachArgs {
    pub fn run(self, root: &Root) -> Result<()> {
        let container = root.engine()?.find(&self.container)?;
        let phase = container.status()?.phase;
        if phase == Phase::Paused {
            return Err(Failure::new("you cannot attach to a paused container, unpause it first"));
        }
        if !phase.is_alive() {
            return Err(Failure::new("you cannot attach to a stopped container, start it first"));
        }
        let config = container.config()?;
        let stdin = config.stdin && !self.no_stdin;
        if config.terminal && stdin {
            terminal::must_be_input()?;
        }
        let proxy = self.sig_proxy.then(|| container.clone());
        let signals = Caught::new(config.terminal, proxy)?;
        let attachment = Arc::new(container.attach()?);
        if config.terminal {
            // What runs there draws itself anew when the size changes.
            let mut size = terminal::size();
            size.rows += 1;
            let _ = attachment.resize(size);
            let _ = attachment.resize(terminal::size());
        }
        let relay = Relay {
            stdin,
            stdout: true,
            stderr: true,
            tty: config.terminal,
            keys: self.detach_keys,
        };
        match relay.run(attachment.clone(), signals)? {
            End::Detached => Ok(()),
            End::Ended => exit(code(&container, attachment.exit_status())?),
        }
    }
}

impl StartArgs {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        if !self.attach && !self.interactive {
            let mut names = self.containers;
            if self.due {
                names.extend(root.engine()?.due()?.iter().map(|it| it.id().to_string()));
            }
            return each(root, &names, out, |container| {
                match container.status()?.phase.is_alive() {
                    true => Ok(()),
                    false => Ok(container.start_detached()?),
                }
            });
        }
        let [name] = &self.containers[..] else {
            return Err(Failure::new("you cannot start and attach multiple containers at once"));
        };
        let container = root.engine()?.find(name)?;
        self.start_attached(&container)
    }

    fn start_attached(&self, container: &Container) -> Result<()> {
        let config = container.config()?;
        let stdin = self.interactive && config.stdin;
        if config.terminal && stdin {
            terminal::must_be_input()?;
        }
        let relay = Relay {
            stdin,
            stdout: true,
            stderr: true,
            tty: config.terminal,
            keys: self.detach_keys.clone(),
        };
        let signals = Caught::new(config.terminal, Some(container.clone()))?;
        let attachment = Arc::new(container.start_detached_attached(terminal::size())?);
        match relay.run(attachment.clone(), signals)? {
            End::Detached => Ok(()),
            End::Ended => exit(code(container, attachment.exit_status())?),
        }
    }
}

fn exit(code: u8) -> Result<()> {
    match code {
        0 => Ok(()),
        code => Err(Failure::with_status(code, "")),
    }
}
