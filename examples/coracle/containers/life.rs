//! From start to end: `stop`, `restart`, `kill`, `wait`, `pause`, `unpause`, `rename`.

use std::time::Duration;

use coracle::container::Status;
use coracle::namespaces::Signal;

use super::{each, each_name, ended};
use crate::failure::Result;
use crate::output::Output;
use crate::root::Root;

// Containers, and how long they get to end.
#[derive(clap::Args)]
pub struct StopArgs {
    /// Seconds that each gets to end by itself; by default 10, or what --stop-timeout said. -1: for ever
    #[arg(
        short,
        long,
        visible_alias = "timeout",
        value_name = "SECONDS",
        allow_hyphen_values = true
    )]
    time: Option<i64>,
    /// The signal that asks them to, by name or number; by default what --stop-signal or the image says, or TERM
    #[arg(short, long)]
    signal: Option<String>,
    /// Containers, by name, id, or the beginning of an id
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

fn grace(seconds: Option<i64>) -> Option<Duration> {
    const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86400);
    seconds.map(|seconds| u64::try_from(seconds).map_or(FOR_EVER, Duration::from_secs))
}

impl StopArgs {
    /// `stop`.
    pub fn stop(self, root: &Root, out: &mut Output) -> Result<()> {
        let (signal, grace) = self.parsed()?;
        each(root, &self.containers, out, |container| {
            Ok(match signal {
                Some(signal) => container.stop_with(signal, grace),
                None => container.stop(grace),
            }?)
        })
    }

    /// `restart`, in the background.
    pub fn restart(self, root: &Root, out: &mut Output) -> Result<()> {
        let (signal, grace) = self.parsed()?;
        each(root, &self.containers, out, |container| {
            if let Some(signal) = signal {
                container.stop_with(signal, grace)?;
            }
            Ok(container.restart_detached(grace)?)
        })
    }

    fn parsed(&self) -> Result<(Option<Signal>, Option<Duration>)> {
        Ok((self.signal.as_deref().map(str::parse).transpose()?, grace(self.time)))
    }
}

/// Send a signal to containers
#[derive(clap::Args)]
pub struct KillArgs {
    /// The signal, by name or number
    #[arg(short, long, default_value = "KILL")]
    signal: String,
    /// Containers, by name, id, or the beginning of an id
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

impl KillArgs {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        let signal: Signal = self.signal.parse()?;
        each(root, &self.containers, out, |container| Ok(container.kill(signal)?))
    }
}

// Several containers, and nothing else.
#[derive(clap::Args)]
pub struct Names {
    /// Containers, by name, id, or the beginning of an id
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

impl Names {
    /// `pause`.
    pub fn pause(self, root: &Root, out: &mut Output) -> Result<()> {
        each(root, &self.containers, out, |container| Ok(container.pause()?))
    }

    /// `unpause`.
    pub fn unpause(self, root: &Root, out: &mut Output) -> Result<()> {
        each(root, &self.containers, out, |container| Ok(container.unpause()?))
    }

    /// `wait`, which prints exit statuses in the order of the containers.
    pub fn wait(self, root: &Root, out: &mut Output) -> Result<()> {
        let engine = root.engine()?;
        each_name(&self.containers, out, |name| {
            let container = engine.find(name)?;
            let Status { started, exit, .. } = container.status()?;
            let status = match exit {
                // It has been made, and is to be started by others.
                None if started.is_none() => wait_for_start(&container),
                _ => container.wait(),
            };
            Ok(Some(ended(&status?).to_string()))
        })
    }
}

fn wait_for_start(
    container: &coracle::container::Container,
) -> coracle::Result<coracle::namespaces::ExitStatus> {
    while container.status()?.started.is_none() {
        std::thread::sleep(Duration::from_millis(50));
    }
    container.wait()
}

/// Give a container another name
#[derive(clap::Args)]
pub struct RenameArgs {
    /// The container, by name, id, or the beginning of its id
    container: String,
    /// Its new name, which must be free
    name: String,
}

impl RenameArgs {
    pub fn run(self, root: &Root) -> Result<()> {
        Ok(root.engine()?.find(&self.container)?.rename(&self.name)?)
    }
}
