//! A way through a tree that may be the work of a hostile container, and change meanwhile.
//!
//! It is walked by descriptors, one component at a time, without following a link and with two directories open
//! at any depth.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, SFlag};

use super::access::Access;
use super::directory::Identity;
use crate::error::{Context, Error, ErrorKind, Result};

/// A position in a tree: a directory.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    pub(super) access: Access<'a>,
    pub(super) here: OwnedFd,
    above: Vec<Identity>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(root: OwnedFd, access: Access<'a>) -> Self {
        Self { access, here: root, above: Vec::new() }
    }

    /// Enters a directory. Returns whether there still is one of this name.
    pub(super) fn descend(&mut self, name: &OsStr) -> Result<bool> {
        let next = match self.access.open_directory(&self.here, name) {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(false),
            next => next.context(|| "open the directory")?,
        };
        self.above.push(Identity::of(&self.here).context(|| "stat the directory")?);
        self.here = next;
        Ok(true)
    }

    /// Goes back to the directory above, provided that nobody has moved this one meanwhile.
    pub(super) fn ascend(&mut self) -> Result<()> {
        let above = self.directory("..").context(|| "open the directory above")?;
        if Some(Identity::of(&above).context(|| "stat the directory above")?) != self.above.pop() {
            return Err(Error::new(ErrorKind::Busy, "a directory was moved while it was read")
                .with_hint("stop or freeze the processes that write there, and try again"));
        }
        self.here = above;
        Ok(())
    }

    fn directory(&self, name: &str) -> nix::Result<OwnedFd> {
        self.access.open_directory(&self.here, OsStr::new(name))
    }

    /// What is in the directory, in byte order.
    pub(super) fn names(&self) -> Result<BTreeSet<OsString>> {
        names(self.directory(".").context(|| "open a directory")?)
    }

    pub(super) fn stat(&self, name: &OsStr) -> Result<Option<FileStat>> {
        match self.access.stat(&self.here, name) {
            Err(Errno::ENOENT) => Ok(None),
            stat => stat.map(Some).context(|| "stat it"),
        }
    }

    /// Whether the directory, of a layer, replaces that of the lower layers. `x` only says that it contains
    /// whiteouts in the form of attributes.
    pub(super) fn is_opaque(&self) -> Result<bool> {
        let marks = [c"trusted.overlay.opaque", c"user.overlay.opaque"];
        let value = self.access.attribute(&self.here, &marks)?;
        Ok(value.is_some_and(|value| value == b"y"))
    }

    /// Whether a file of a layer says that there is none: a character device 0:0, or (Linux 6.7) an empty file
    /// with an attribute.
    pub(super) fn is_whiteout(&self, name: &OsStr, stat: &FileStat) -> Result<bool> {
        if is_whiteout_device(stat) {
            return Ok(true);
        }
        if file_type(stat) != SFlag::S_IFREG || stat.st_size != 0 {
            return Ok(false);
        }
        match self.access.open(&self.here, name, OFlag::O_PATH) {
            Err(Errno::ENOENT) => Ok(false),
            file => {
                let marks = [c"trusted.overlay.whiteout", c"user.overlay.whiteout"];
                let file = file.context(|| "open it")?;
                Ok(self.access.attribute(&file, &marks)?.is_some())
            }
        }
    }
}

/// What is in a directory, in byte order.
pub(super) fn names(directory: OwnedFd) -> Result<BTreeSet<OsString>> {
    let mut directory = Dir::from_fd(directory).context(|| "read a directory")?;
    let mut names = BTreeSet::new();
    for entry in directory.iter() {
        let entry = entry.context(|| "read a directory")?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.insert(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

pub(super) fn file_type(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

pub(super) fn is_directory(stat: &FileStat) -> bool {
    file_type(stat) == SFlag::S_IFDIR
}

pub(super) fn is_whiteout_device(stat: &FileStat) -> bool {
    file_type(stat) == SFlag::S_IFCHR && stat.st_rdev == 0
}
