//! `import`: an image of a root filesystem that another tool made.

use std::env;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use coracle::image::{ConfigChanges, Import, Platform};

use crate::archives::open_archive;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::progress::Bytes;
use crate::root::Root;

/// Make an image of the tar archive of a root filesystem
///
/// The archive may be compressed with gzip or zstd, and is kept as it comes. With $SOURCE_DATE_EPOCH, the seconds
/// since 1970 that the image says it was made at, the same archive makes the same image. Prints its id.
#[derive(clap::Args)]
#[command(after_help = CHANGES)]
pub struct Args {
    /// The archive; `-` is standard input
    #[arg(value_name = "FILE|-")]
    archive: PathBuf,
    /// The name of the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
    /// Change what the image says, see below
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// The message for the history
    #[arg(short, long, default_value = "")]
    message: String,
    /// The machine that it is for, if it is not one like this
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
}

/// For the help.
const CHANGES: &str = "\
Changes are instructions of a Dockerfile:
  CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL MAINTAINER ONBUILD SHELL STOPSIGNAL USER VOLUME WORKDIR

Example: mmdebstrap --variant=minbase bookworm - | coracle import -c 'CMD [\"bash\"]' - debian:12";

impl Args {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        let mut changes = ConfigChanges::new().message(&self.message);
        for change in &self.change {
            changes = changes.instruction(change)?;
        }
        if let Some(platform) = self.platform {
            changes = changes.platform(platform);
        }
        if let Some(time) = source_date()? {
            changes = changes.created(time);
        }
        let (archive, length) =
            open_archive(Some(&*self.archive).filter(|path| *path != Path::new("-")))?;
        let store = root.store_to_fill()?;
        let mut import = Import::new(&store).changes(changes);
        if let Some(name) = self.name {
            import = import.name(name);
        }
        let image = import.read(Bytes::new("importing", length, archive))?;
        out.line(&image.id().to_string())
    }
}

/// What images that are made now are to say of when they were made. See
/// <https://reproducible-builds.org/specs/source-date-epoch/>.
fn source_date() -> Result<Option<SystemTime>> {
    const VARIABLE: &str = "SOURCE_DATE_EPOCH";
    let Some(text) = env::var_os(VARIABLE) else { return Ok(None) };
    let seconds = text.to_str().and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let time = seconds.and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(seconds));
    match time {
        Some(time) => Ok(Some(time)),
        None => Err(Failure::new(format!(
            "${VARIABLE} is {}, and no number of seconds",
            text.display()
        ))),
    }
}
