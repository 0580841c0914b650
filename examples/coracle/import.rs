//! `import`: an image of a root filesystem that another tool made.

use std::path::{Path, PathBuf};

use coracle::image::{Import, Platform};

use crate::archives::open_archive;
use crate::changes::Changes;
use crate::failure::Result;
use crate::output::Output;
use crate::progress::Bytes;
use crate::root::Root;

/// Make an image of the tar archive of a root filesystem
///
/// The archive may be compressed with gzip or zstd, and is kept as it comes. With $SOURCE_DATE_EPOCH, the seconds
/// since 1970 that the image says it was made at, the same archive makes the same image. Prints its id.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The archive; `-` is standard input
    #[arg(value_name = "FILE|-")]
    archive: PathBuf,
    /// The name of the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
    #[command(flatten)]
    changes: Changes,
    /// The machine that it is for, if it is not one like this
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
}

const EXAMPLE: &str = "Example: mmdebstrap --variant=minbase bookworm - | coracle import -c 'CMD [\"bash\"]' - debian:12";

impl Args {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        let mut changes = self.changes.read()?;
        if let Some(platform) = self.platform {
            changes = changes.platform(platform);
        }
        let (archive, length) =
            open_archive(Some(&*self.archive).filter(|path| *path != Path::new("-")))?;
        let engine = root.engine_to_fill()?;
        let mut import = Import::new(engine.store()).changes(changes);
        if let Some(name) = self.name {
            import = import.name(name);
        }
        let image = import.read(Bytes::new("importing", length, archive))?;
        out.line(&image.id().to_string())
    }
}
