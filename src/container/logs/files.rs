//! The files of a log: their names, and opening them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, ErrorKind, Result};

pub(super) const NAME: &str = "container.log";
/// Where a new file is made before it takes the place of the old one.
pub(super) const NEW: &str = "container.log.new";

/// The path of the file that has been rotated `age` times.
pub(super) fn path(dir: &Path, age: u32) -> PathBuf {
    match age {
        0 => dir.join(NAME),
        age => dir.join(format!("{NAME}.{age}")),
    }
}

/// How often files that are there have been rotated, the youngest first.
pub(super) fn ages(dir: &Path) -> Result<Vec<u32>> {
    let attempt = || format!("list the logs in {}", dir.display());
    let mut ages = Vec::new();
    for entry in fs::read_dir(dir).context(attempt)? {
        let name = entry.context(attempt)?.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(NAME)) else { continue };
        let age = match rest.strip_prefix('.') {
            None if rest.is_empty() => Some(0),
            None => None,
            // Otherwise `.01` would be a second name of `.1`.
            Some(digits) if digits.starts_with(['0', '+']) => None,
            Some(digits) => digits.parse().ok(),
        };
        ages.extend(age);
    }
    ages.sort_unstable();
    Ok(ages)
}

/// Opens a log file: never through a link, never anything but a file.
pub(in crate::container) fn open(options: &mut OpenOptions, path: &Path) -> Result<File> {
    let attempt = || format!("open the log {}", path.display());
    let file = options
        // Not to wait for the other end of a pipe that somebody has put there.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .mode(0o640)
        .open(path)
        .context(attempt)?;
    if !file.metadata().context(attempt)?.is_file() {
        return Err(Error::new(ErrorKind::SafetyViolation, "it is not a regular file"))
            .context(attempt);
    }
    Ok(file)
}

/// Whether there was nothing to do it to.
pub(in crate::container) fn missing_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
