//! Commands on containers.

pub mod attach;
pub mod commit;
pub mod copy;
pub mod describe;
pub mod events;
pub mod exec;
mod files;
mod filter;
mod health;
pub mod info;
mod keys;
pub mod life;
pub mod list;
pub mod logs;
pub mod look;
mod mounts;
mod options;
mod process;
mod relay;
pub mod remove;
mod resources;
mod restrictions;
pub mod run;
mod sizes;
pub mod stats;
mod terminal;
pub mod update;
pub mod volumes;

use std::error::Error;
use std::thread;
use std::time::{Duration, Instant};

use coracle::ErrorKind;
use coracle::container::Container;
use coracle::namespaces::ExitStatus;

use crate::failure::{Failure, Result, USAGE};
use crate::output::Output;
use crate::root::Root;

const NO_PROGRAM: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Does it with each container, and prints the name that was given. Goes on after a failure, and fails in the end.
fn each(
    root: &Root,
    names: &[String],
    out: &mut Output,
    mut act: impl FnMut(Container) -> Result<()>,
) -> Result<()> {
    let engine = root.engine()?;
    each_name(names, out, |name| {
        act(engine.find(name)?)?;
        Ok(Some(name.to_owned()))
    })
}

/// Does it with each name, and prints at once what comes of it. Goes on after a failure, and fails in the end.
fn each_name(
    names: &[String],
    out: &mut Output,
    mut act: impl FnMut(&str) -> Result<Option<String>>,
) -> Result<()> {
    let mut failed = false;
    for name in names {
        match act(name) {
            Ok(Some(line)) => out.line(&line)?,
            Ok(None) => {}
            Err(failure) => {
                failure.print();
                failed = true;
            }
        }
        out.flush()?;
    }
    if failed { Err(Failure::told()) } else { Ok(()) }
}

/// The exit status that tells how a process has ended.
fn ended(status: &ExitStatus) -> u8 {
    u8::try_from(status.shell_code()).unwrap_or(u8::MAX)
}

/// The exit status for a program that could not be started.
fn unstarted(err: &coracle::Error) -> u8 {
    if err.kind() == ErrorKind::InvalidState {
        return USAGE;
    }
    // The first tells what was to be done with the container.
    let mut cause = err.source();
    while let Some(it) = cause {
        if it.to_string().starts_with("execute ") {
            return if err.kind() == ErrorKind::NotFound { NOT_FOUND } else { NO_PROGRAM };
        }
        cause = it.source();
    }
    USAGE
}

/// Waits until a container is removed that goes with its end.
fn gone(container: &Container) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let until = Instant::now() + PATIENCE;
    loop {
        match container.status() {
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(()),
            // Whoever asks next finds out.
            _ if Instant::now() > until => return Ok(()),
            _ => thread::sleep(Duration::from_micros(200)),
        }
    }
}
