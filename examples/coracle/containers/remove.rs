//! `rm` and `container prune`.

use coracle::ErrorKind;
use coracle::container::{Container, Removal};

use super::each_name;
use super::list::all;
use crate::failure::{Failure, Result};
use crate::filter::{Condition, moment};
use crate::output::Output;
use crate::prompt;
use crate::prune::{print_pruned, reclaimed_space};
use crate::root::Root;

/// Remove containers, with all that they have written
///
/// Volumes stay; --volumes removes those that have no name, with the last container that mounts them. Of a container that
/// was run with --rm they go in any case.
#[derive(clap::Args)]
pub struct Args {
    /// Kill those that run, and do not fail if one is missing
    #[arg(short, long)]
    force: bool,
    /// Remove their volumes without a name too
    #[arg(short, long)]
    volumes: bool,
    /// Remove links, as NAME/ALIAS, which there are none of: what --link says goes with the container
    #[arg(short, long, hide = true)]
    link: bool,
    /// Containers, by name, id, or the beginning of an id
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

impl Args {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        if self.link {
            return Err(Failure::new("links cannot be removed: they go with their container"));
        }
        let engine = root.engine()?;
        each_name(&self.containers, out, |name| {
            match engine.find(name).and_then(|container| self.removal(container).run()) {
                // Told, and no failure.
                Err(err) if self.force && err.kind() == ErrorKind::NotFound => {
                    Failure::from(err).print();
                    Ok(None)
                }
                removed => Ok(Some(removed.map(|()| name.to_owned())?)),
            }
        })
    }

    fn removal(&self, container: Container) -> Removal {
        let removal = container.removal();
        let removal = if self.force { removal.force() } else { removal };
        if self.volumes { removal.volumes() } else { removal }
    }
}

/// Remove all containers that do not run
#[derive(clap::Args)]
#[command(after_help = "Filters: label=KEY[=VALUE], label!=KEY[=VALUE], until=TIME")]
pub struct PruneArgs {
    /// Only containers that meet this condition
    #[arg(long, value_name = "NAME=VALUE", value_parser = Condition::parse)]
    filter: Vec<Condition>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

impl PruneArgs {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        let question = "WARNING! This will remove all stopped containers.";
        if !self.force && !prompt::agreed(question, out)? {
            return Ok(());
        }
        let reclaimed = prune(root, &self.filter, out)?;
        reclaimed_space(reclaimed, out)
    }
}

/// Removes those that do not run, and prints their ids. Returns the bytes that they took.
pub fn prune(root: &Root, filter: &[Condition], out: &mut Output) -> Result<u64> {
    let engine = root.engine()?;
    let (mut seen, _) = all(&engine)?;
    for condition in filter {
        let (name, value) = condition.parts();
        let (key, wanted) = value.split_once('=').map_or((value, None), |(k, v)| (k, Some(v)));
        match name {
            "label" | "label!" => seen.retain(|it| {
                let found = it.config.labels.get(key);
                let has = found.is_some_and(|found| wanted.is_none_or(|wanted| wanted == found));
                has == (name == "label")
            }),
            "until" => {
                let until = moment(value)
                    .ok_or_else(|| Failure::new(format!("invalid filter '{name}={value}'")))?;
                seen.retain(|it| it.status.created < until);
            }
            _ => return Err(Failure::new(format!("invalid filter '{name}'"))),
        }
    }
    let wanted: Vec<_> = seen.iter().map(|it| it.container.id()).collect();
    let pruned = engine.prune_containers(|it| wanted.contains(&it.id()))?;
    print_pruned("Deleted Containers:", pruned, out)
}
