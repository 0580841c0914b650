//! Removal of a tree, whatever a container has put into it.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use nix::dir::Type;
use nix::errno::Errno;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::layers::access::Access;
use crate::layers::cursor::{Cursor, is_directory};

/// How often a directory is read anew that somebody still fills.
const MAX_PASSES: usize = 16;

/// Removes `name` in `dir`, with all below it if it is a directory. There may be nothing of that name.
///
/// Follows no link and enters no mount; two directories are open at any depth.
pub(super) fn remove(dir: &OwnedFd, name: &OsStr, access: Access<'_>) -> Result<()> {
    let mut walk = Cursor::new(dir.try_clone().context(|| "duplicate a descriptor")?, access);
    let attempt = || format!("remove {}", name.display());
    match walk.stat(name).context(attempt)? {
        None => Ok(()),
        Some(stat) if is_directory(&stat) => remove_directory(&mut walk, name).context(attempt),
        Some(_) => unlink(dir, name).context(attempt),
    }
}

/// Removes what is in the directory `dir`, but not the directory.
pub(super) fn clear(dir: &OwnedFd, access: Access<'_>) -> Result<()> {
    let top = Cursor::new(dir.try_clone().context(|| "duplicate a descriptor")?, access);
    access.take_over(dir)?;
    for name in top.names()? {
        remove(dir, &name, access)?;
    }
    Ok(())
}

/// A directory on the way down.
struct Frame {
    name: OsString,
    /// The directories in it that are still there.
    left: Vec<OsString>,
    passes: usize,
}

fn remove_directory(walk: &mut Cursor<'_>, name: &OsStr) -> Result<()> {
    let mut frames: Vec<Frame> = Vec::new();
    let mut next = Some(name.to_owned());
    loop {
        if let Some(name) = next.take() {
            if walk.descend(&name)? {
                walk.take_over()?;
                let left = unlink_files(walk)?;
                frames.push(Frame { name, left, passes: 1 });
            } else {
                // It has become a file or has gone since it was listed.
                unlink(&walk.here, &name).context(|| format!("remove {}", name.display()))?;
            }
        }
        let Some(frame) = frames.last_mut() else { return Ok(()) };
        next = frame.left.pop();
        if next.is_some() {
            continue;
        }
        walk.ascend()?;
        let name = frame.name.as_os_str();
        match unlinkat(&walk.here, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {
                frames.pop();
            }
            Err(Errno::ENOTEMPTY | Errno::EEXIST) if frame.passes < MAX_PASSES => {
                if walk.descend(name)? {
                    frame.left = unlink_files(walk)?;
                    frame.passes += 1;
                } else {
                    frames.pop();
                }
            }
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {
                let message = format!("the directory {} fills again and again", name.display());
                return Err(Error::new(ErrorKind::Busy, message)
                    .with_hint("stop the processes that write there"));
            }
            Err(errno) => {
                return Err(errno).context(|| format!("remove the directory {}", name.display()));
            }
        }
    }
}

/// Removes all but directories, whose names it returns.
fn unlink_files(walk: &Cursor<'_>) -> Result<Vec<OsString>> {
    let mut directories = Vec::new();
    for entry in walk.list()?.iter() {
        let entry = entry.context(|| "read a directory")?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let directory = match entry.file_type() {
            Some(kind) => kind == Type::Directory,
            None => walk.stat(name)?.is_some_and(|stat| is_directory(&stat)),
        };
        if directory {
            directories.push(name.to_owned());
        } else {
            match unlink(&walk.here, name) {
                Err(Errno::EISDIR) => directories.push(name.to_owned()),
                other => other.context(|| format!("remove {}", name.display()))?,
            }
        }
    }
    Ok(directories)
}

fn unlink(dir: &OwnedFd, name: &OsStr) -> nix::Result<()> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::ENOENT) => Ok(()),
        other => other,
    }
}
