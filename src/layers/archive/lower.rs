//! The layers below the one that an archive is unpacked to.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::errno::Errno;
use nix::fcntl::{OFlag, readlinkat};
use nix::sys::stat::{FileStat, fstat};

use super::attributes::{Attributes, Owners};
use super::pax::Time;
use super::reader::is_foreign;
use crate::error::{Context, Result};
use crate::layers::access::Access;
use crate::layers::cursor::{is_whiteout_device, names};
use crate::sys::xattr;

/// The merged view of the lower layers, read with the container's rights where the caller's do not suffice.
#[derive(Debug)]
pub(super) struct Lower<'a> {
    root: OwnedFd,
    access: Access<'a>,
}

/// What lies there at a path.
#[derive(Debug)]
pub(super) struct Found {
    parent: OwnedFd,
    name: Vec<u8>,
    /// Open with `O_PATH`.
    file: OwnedFd,
    pub(super) stat: FileStat,
}

impl<'a> Lower<'a> {
    pub(super) fn new(root: OwnedFd, access: Access<'a>) -> Self {
        Self { root, access }
    }

    pub(super) fn root(&self) -> Result<OwnedFd> {
        self.root.try_clone().context(|| "duplicate a descriptor")
    }

    /// Looks up a path of real directories; no link is followed.
    pub(super) fn find(&self, path: &[u8]) -> Result<Option<Found>> {
        let attempt = || format!("look for {} in the lower layers", path.escape_ascii());
        let mut parent = self.root()?;
        let mut file = self.root()?;
        let mut name: &[u8] = b".";
        for component in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            parent = file;
            name = component;
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
            file = match self.access.open(&parent, OsStr::from_bytes(name), flags) {
                Ok(file) => file,
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG) => return Ok(None),
                Err(errno) => return Err(errno).context(attempt),
            };
        }
        let stat = fstat(&file).context(attempt)?;
        // Another layer's whiteout, where a single layer stands for the merged view.
        if is_whiteout_device(&stat) {
            return Ok(None);
        }
        Ok(Some(Found { parent, name: name.to_vec(), file, stat }))
    }

    /// The attributes of what was found, with ids as the container has them.
    pub(super) fn attributes(&self, found: &Found, owners: &Owners) -> Result<Attributes> {
        attributes(&found.file, &found.stat, self.access, owners)
    }

    /// A file's content.
    pub(super) fn content(&self, found: &Found) -> Result<File> {
        self.access
            .open(
                &found.parent,
                OsStr::from_bytes(&found.name),
                OFlag::O_RDONLY | OFlag::O_NONBLOCK,
            )
            .map(File::from)
            .context(|| "open the file of the lower layers")
    }

    /// Where a link leads.
    pub(super) fn target(found: &Found) -> Result<Vec<u8>> {
        readlinkat(&found.file, "")
            .map(OsStringExt::into_vec)
            .context(|| "read a link of the lower layers")
    }

    /// Lists a directory.
    pub(super) fn names(&self, found: &Found) -> Result<BTreeSet<OsString>> {
        let directory = self.access.open_directory(&found.parent, OsStr::from_bytes(&found.name));
        names(directory.context(|| "open a directory of the lower layers")?)
    }
}

pub(super) fn mtime(stat: &FileStat) -> Time {
    let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    Time { seconds: stat.st_mtime, nanoseconds }
}

/// All that an archive would hold of a file, with ids as the container has them.
pub(super) fn attributes(
    file: &OwnedFd,
    stat: &FileStat,
    access: Access<'_>,
    owners: &Owners,
) -> Result<Attributes> {
    let mut xattrs = Vec::new();
    for name in xattr::list(file.as_fd()).context(|| "list its attributes")? {
        if is_kept(name.to_bytes())
            && let Some(value) = access.attribute(file, &[&name])?
        {
            xattrs.push((name, value));
        }
    }
    let (uid, gid) = owners.inside(stat.st_uid, stat.st_gid);
    let mode = stat.st_mode & 0o7777;
    let mut attributes = Attributes { uid, gid, mode, mtime: mtime(stat), xattrs };
    owners.translate_back(&mut attributes)?;
    Ok(attributes)
}

/// Labels and hashes of the host's are none of the container's.
fn is_kept(name: &[u8]) -> bool {
    let known = name.starts_with(b"user.")
        || name.starts_with(b"system.posix_acl_")
        || name == b"security.capability";
    known && !is_foreign(name)
}
