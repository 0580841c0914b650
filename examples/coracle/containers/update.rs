//! `update`: other limits for containers, running or not.

use coracle::container::Restart;

use super::resources::Limits;
use super::{each, process};
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::root::Root;

/// Change what containers may use, at once if they run
#[derive(clap::Args)]
#[command(after_help = "Example:\n  coracle update -m 256m --cpus 0.5 web")]
pub struct Args {
    #[command(flatten)]
    limits: Limits,
    /// What is done when it ends: no, on-failure[:TIMES], always, unless-stopped
    #[arg(long, value_name = "POLICY", value_parser = process::restart)]
    restart: Option<Restart>,
    /// Containers, by name, id, or the beginning of an id
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

impl Args {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        let resources = self.limits.resources()?;
        let limited = resources != coracle::container::Resources::default();
        if !limited && self.restart.is_none() {
            return Err(Failure::new("you must provide one or more flags when using this command"));
        }
        each(root, &self.containers, out, |container| {
            if let Some(policy) = self.restart {
                container.set_restart(policy)?;
            }
            if limited {
                container.update(&resources)?;
            }
            Ok(())
        })
    }
}
