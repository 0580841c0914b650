//! `squash`: layers become one.

use coracle::image::ConfigChanges;

use crate::changes::source_date;
use crate::failure::Result;
use crate::output::Output;
use crate::progress::Spinner;
use crate::root::Root;

/// Make an image with the same files and settings as another one, and fewer layers
///
/// All layers become one, unless an option says which. The history keeps the steps below them. With
/// $SOURCE_DATE_EPOCH the same image makes the same one. Prints its id.
#[derive(clap::Args)]
pub struct Args {
    /// The image, by name, id or digest
    image: String,
    /// Only the layers above those of this image, which it was built upon
    #[arg(long, value_name = "IMAGE", conflicts_with = "layers")]
    from: Option<String>,
    /// Only so many layers from the top
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// The name of the new image
    #[arg(short, long, value_name = "REPOSITORY[:TAG]")]
    tag: Option<String>,
    /// The message for the history, instead of what was squashed
    #[arg(short, long)]
    message: Option<String>,
}

impl Args {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        let engine = root.engine()?;
        let store = engine.store();
        let image = store.image(&self.image)?;
        let mut squash = image.squash();
        if let Some(layers) = self.layers {
            squash = squash.top(layers);
        }
        if let Some(from) = &self.from {
            squash = squash.above(&store.image(from)?);
        }
        if let Some(name) = self.tag {
            squash = squash.name(name);
        }
        if let Some(message) = self.message {
            squash = squash.changes(ConfigChanges::new().message(message));
        }
        if let Some(time) = source_date()? {
            squash = squash.timestamp(time);
        }
        let squashed = {
            let _spinner = Spinner::new("squashing");
            squash.run()?
        };
        out.line(&squashed.id().to_string())
    }
}
