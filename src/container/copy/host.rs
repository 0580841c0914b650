//! The paths of the host that are copied from or to. The host is believed: they mean what they mean to any program.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::rules::{From, Goal, To, goal};
use crate::error::{Context, Error, ErrorKind, Result};

/// Something of the host's, by the directory that it lies in.
#[derive(Debug)]
pub(super) struct HostFile {
    pub(super) directory: OwnedFd,
    pub(super) name: Vec<u8>,
    pub(super) from: From,
}

/// What `path` means. A link at its end is followed if `follow`, or if the path ends in a slash.
pub(super) fn source(path: &Path, follow: bool) -> Result<HostFile> {
    let attempt = || format!("look at {}", path.display());
    let (slash, contents) = endings(path);
    let found = match follow || slash {
        true => fs::metadata(path),
        false => fs::symlink_metadata(path),
    };
    let found = found.context(attempt)?;
    if slash && !found.is_dir() {
        return Err(Error::invalid(format!("{} is no directory", path.display())));
    }
    let real = match follow || slash || path.file_name().is_none() {
        true => fs::canonicalize(path).context(attempt)?,
        false => path.to_owned(),
    };
    let given = path.file_name().or_else(|| real.file_name());
    let name = given.map(|name| name.as_bytes().to_vec()).unwrap_or_default();
    let from = From { name, directory: found.is_dir(), contents };
    let (directory, name) = match real.file_name() {
        Some(name) => (open_directory(&parent(&real))?, name.as_bytes().to_vec()),
        None => (open_directory(&real)?, b".".to_vec()),
    };
    Ok(HostFile { directory, name, from })
}

/// The directory that what is copied goes to, and its name there.
pub(super) fn destination(path: &Path, from: &From) -> Result<(OwnedFd, Vec<u8>)> {
    let attempt = || format!("copy to {}", path.display());
    let found = match fs::metadata(path) {
        Ok(found) if found.is_dir() => To::Directory,
        Ok(found) if found.is_file() => To::File,
        Ok(_) => To::Special,
        Err(err) if err.kind() == io::ErrorKind::NotFound => To::Nothing,
        Err(err) => return Err(err).context(attempt),
    };
    match goal(from, found, endings(path).0).context(attempt)? {
        Goal::Into(name) => Ok((open_directory(path)?, name)),
        Goal::As => {
            let path = match found {
                // Through links, as cp(1) writes.
                To::File => fs::canonicalize(path).context(attempt)?,
                _ => path.to_owned(),
            };
            let name = path
                .file_name()
                .ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such directory"))
                .context(attempt)?;
            Ok((open_directory(&parent(&path)).context(attempt)?, name.as_bytes().to_vec()))
        }
    }
}

/// Whether a path says that it is a directory's, and whether that what is in it is meant.
pub(super) fn endings(path: &Path) -> (bool, bool) {
    let bytes = path.as_os_str().as_bytes();
    let contents = bytes == b"." || bytes.ends_with(b"/.");
    (contents || bytes.ends_with(b"/"), contents)
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).context(|| format!("open the directory {}", path.display()))
}
