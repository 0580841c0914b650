//! `prune`: making room.

use std::collections::HashMap;

use coracle::container::Pruned;
use coracle::image::{Filter, Store};

use crate::failure::{Failure, Result};
use crate::filter::{self, Condition};
use crate::human;
use crate::names;
use crate::output::Output;
use crate::progress::Spinner;
use crate::prompt;
use crate::root::Root;

/// Remove images that nothing uses, and what is left of work that was broken off
///
/// Without --all only images without a name go. What a container uses stays.
#[derive(clap::Args)]
#[command(after_help = filter::HELP)]
pub struct Args {
    /// Remove images with a name too
    #[arg(short, long)]
    all: bool,
    /// Only images that meet this condition, see below
    #[arg(long, value_name = "NAME=VALUE", value_parser = Condition::parse)]
    filter: Vec<Condition>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

impl Args {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        let engine = root.engine()?;
        let store = engine.store();
        let mut filter = Filter::new();
        if !self.all && !self.filter.iter().any(|it| it.is("dangling")) {
            filter = filter.dangling(true);
        }
        for condition in &self.filter {
            filter = condition.add_to(filter, store)?;
        }
        let question = match self.all {
            true => {
                "WARNING! This will remove all images without at least one container associated to them."
            }
            false => "WARNING! This will remove all dangling images.",
        };
        if !self.force && !prompt::agreed(question, out)? {
            return reclaimed_space(0, out);
        }
        let reclaimed = prune(store, &filter, out)?;
        reclaimed_space(reclaimed, out)
    }
}

/// Removes these images, and prints their names. Returns the bytes that they took.
pub fn prune(store: &Store, filter: &Filter, out: &mut Output) -> Result<u64> {
    let listed = store.list(filter)?.images;
    let ids: HashMap<_, _> = listed.iter().map(|it| (it.digest(), it.id())).collect();
    let pruned = {
        let _spinner = Spinner::new("removing");
        store.prune(filter)?
    };
    if !pruned.images.is_empty() {
        out.line("Deleted Images:")?;
        for removed in &pruned.images {
            let id = removed.image.and_then(|digest| ids.get(&digest).copied());
            names::print(removed, id, "untagged", "deleted", out)?;
        }
        out.line("")?;
    }
    Ok(pruned.collected.freed.bytes())
}

/// Prints which containers or volumes are gone, if any. Returns the bytes that they took.
pub fn print_pruned(title: &str, pruned: Pruned, out: &mut Output) -> Result<u64> {
    if !pruned.removed.is_empty() {
        out.line(title)?;
        pruned.removed.iter().try_for_each(|name| out.line(name))?;
        out.line("")?;
    }
    out.flush()?;
    pruned.failed.into_iter().for_each(|err| Failure::from(err).print());
    Ok(pruned.reclaimed)
}

/// The last line of a prune.
pub fn reclaimed_space(bytes: u64, out: &mut Output) -> Result<()> {
    out.line(&format!("Total reclaimed space: {}", human::size(bytes, 4)))
}
