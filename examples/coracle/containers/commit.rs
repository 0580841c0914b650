//! `commit`: an image of a container.

use crate::changes::Changes;
use crate::failure::Result;
use crate::output::Output;
use crate::progress::Spinner;
use crate::retired::{Retired, retired};
use crate::root::Root;

/// Make an image of what a container has changed
///
/// The image has one layer more than the container's. Prints its id.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  coracle commit -c 'CMD [\"cat\", \"/stamp\"]' work stamped:1")]
pub struct Args {
    /// The container, by name, id, or the beginning of its id
    container: String,
    /// The name of the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
    /// Who made it: a name, perhaps with an address
    #[arg(short, long)]
    author: Option<String>,
    /// Let its processes stand still meanwhile
    #[arg(short, long, default_value_t = true, default_missing_value = "true", num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set, value_name = "true|false")]
    pause: bool,
    #[arg(long, hide = true, value_parser = retired("say --change INSTRUCTION"))]
    run: Option<Retired>,
    #[command(flatten)]
    changes: Changes,
}

impl Args {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        let mut changes = self.changes.read()?;
        if let Some(author) = self.author {
            changes = changes.author(author);
        }
        let container = root.engine()?.find(&self.container)?;
        let name = self.name.unwrap_or_default();
        let image = {
            let _spinner = Spinner::new("committing");
            container.commit(&name).changes(changes).pause(self.pause).run()?
        };
        out.line(&image.id().to_string())
    }
}
