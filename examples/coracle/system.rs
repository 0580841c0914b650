//! `system prune`: everything that is not in use.

use coracle::image::Filter;

use crate::containers::{remove, volumes};
use crate::failure::Result;
use crate::filter::Condition;
use crate::output::Output;
use crate::root::Root;
use crate::{prompt, prune};

/// Remove containers that do not run, and images that nothing uses
///
/// Without --all only images without a name go.
#[derive(clap::Args)]
pub struct PruneArgs {
    /// Remove images with a name too
    #[arg(short, long)]
    all: bool,
    /// Remove volumes without a name too
    #[arg(long)]
    volumes: bool,
    /// Only what meets this condition: label=KEY[=VALUE], label!=KEY[=VALUE], until=TIME
    #[arg(long, value_name = "NAME=VALUE", value_parser = Condition::parse)]
    filter: Vec<Condition>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

impl PruneArgs {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        let engine = root.engine()?;
        let mut filter = Filter::new();
        if !self.all {
            filter = filter.dangling(true);
        }
        for condition in &self.filter {
            filter = condition.add_to(filter, engine.store())?;
        }
        let images = match self.all {
            true => "all images without at least one container associated to them",
            false => "all dangling images",
        };
        let volumes =
            if self.volumes { "\n  - all anonymous volumes not used by any container" } else { "" };
        let warning = format!(
            "WARNING! This will remove:\n  - all stopped containers{volumes}\n  - {images}\n"
        );
        if !self.force && !prompt::agreed(&warning, out)? {
            return Ok(());
        }
        let mut reclaimed = remove::prune(root, &self.filter, out)?;
        if self.volumes {
            reclaimed += volumes::prune(&engine, false, out)?;
        }
        reclaimed += prune::prune(engine.store(), &filter, out)?;
        prune::reclaimed_space(reclaimed, out)
    }
}
