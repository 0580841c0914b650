//! What `import` and `commit` change in the configuration of an image.

use std::env;
use std::time::{Duration, SystemTime};

use coracle::image::ConfigChanges;

use crate::failure::{Failure, Result};

#[derive(clap::Args)]
pub struct Changes {
    /// Change what the image says by an instruction of a Dockerfile: CMD, ENV, EXPOSE, LABEL, USER ...
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// The message for the history
    #[arg(short, long)]
    message: Option<String>,
}

impl Changes {
    pub fn read(&self) -> Result<ConfigChanges> {
        let mut changes = ConfigChanges::new();
        if let Some(message) = &self.message {
            changes = changes.message(message);
        }
        for change in &self.change {
            changes = changes.instruction(change)?;
        }
        match source_date()? {
            Some(time) => Ok(changes.created(time)),
            None => Ok(changes),
        }
    }
}

/// What images that are made now are to say of when they were made. See
/// <https://reproducible-builds.org/specs/source-date-epoch/>.
pub fn source_date() -> Result<Option<SystemTime>> {
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
