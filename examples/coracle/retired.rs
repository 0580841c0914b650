//! What docker has or has had and Coracle has not, and what to say instead: hidden from the help, told to who uses it.

use crate::failure::{Failure, Result};

/// An option that is gone: no value of it can be.
#[derive(Clone)]
pub enum Retired {}

/// Refuses whatever is given to such an option.
pub fn retired(today: &'static str) -> impl Fn(&str) -> Result<Retired, String> + Clone {
    move |_| Err(format!("docker has dropped this option, too: {today}"))
}

/// Refuses to publish a port.
pub fn unpublished(_: &str) -> Result<Retired, String> {
    Err("ports cannot be published yet, as a container has no network that leads outside: \
         --network host lets it serve on the host's ports"
        .into())
}

/// `-e NAME=VALUE`, but not the beginning of a long option behind one dash: `-entrypoint=sh` sets nothing.
pub fn variable(text: &str) -> Result<String, String> {
    let name = text.split('=').next().unwrap_or_default();
    match ["entrypoint", "env-file"].into_iter().find(|option| option[1..] == *name) {
        Some(option) => Err(format!("long options begin with two dashes: --{option}")),
        None => Ok(text.to_owned()),
    }
}

/// A command that is gone, with any arguments.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Arguments {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _words: Vec<String>,
}

/// `insert`: a file of an address into an image.
pub fn insert() -> Result<()> {
    Err(Failure::new("docker has dropped the command insert, too").with_hint(
        "build an image with ADD, or `coracle cp` into a container and `coracle commit` that",
    ))
}

/// `-d`: run as a daemon.
pub fn daemon() -> Failure {
    Failure::with_status(
        crate::failure::USAGE,
        "there is no daemon to start: each command does its work itself",
    )
}
