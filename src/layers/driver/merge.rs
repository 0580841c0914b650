//! Many overlay layers made one: a directory that shows what the stack of them would.

use std::ffi::{CStr, OsStr};
use std::os::fd::OwnedFd;

use super::attributes::Marks;
use super::copy::{Copier, link, make_directory};
use super::remove::{clear, remove};
use super::walk::{Visitor, walk};
use crate::error::{Context, Result};
use crate::layers::access::Access;
use crate::layers::cursor::{Cursor, is_directory};

/// Merges layers, the lowest first.
///
/// Directories are made anew; everything else is a hard link of what the layers hold, or a copy of it where
/// the file system gives no link.
#[derive(Debug)]
pub(super) struct Merge<'a> {
    access: Access<'a>,
    copier: Copier<'a>,
    into: OwnedFd,
    /// Whether nothing has been merged yet.
    empty: bool,
    may_link: bool,
}

impl<'a> Merge<'a> {
    /// `into` is an empty directory, and so is `links`, which may be removed, with what is in it, in the end.
    pub(super) fn new(access: Access<'a>, into: OwnedFd, links: OwnedFd) -> Self {
        let copier = Copier::new(access, Marks::Drop, links);
        Self { access, copier, into, empty: true, may_link: true }
    }

    /// Puts `layer` on top of what there is.
    pub(super) fn add(&mut self, layer: OwnedFd) -> Result<()> {
        let into = self.into.try_clone().context(|| "duplicate a descriptor")?;
        self.access.take_over(&into)?;
        let access = self.access;
        walk(self, Cursor::new(layer, access), Cursor::new(into, access))?;
        self.empty = false;
        // The next layer may go into directories that wait.
        self.copier.attributes.flush()
    }

    fn file(&mut self, from: &Cursor<'_>, name: &OsStr, to: &Cursor<'_>) -> Result<()> {
        if self.may_link {
            match link(self.access, &from.here, name, &to.here, name) {
                Ok(()) => return Ok(()),
                Err(err) => match err.raw_os_error() {
                    // It has as many names as it can.
                    Some(libc::EMLINK) => {}
                    Some(libc::EXDEV | libc::EPERM | libc::EACCES | libc::EOPNOTSUPP) => {
                        self.may_link = false;
                    }
                    _ => return Err(err),
                },
            }
        }
        match from.stat(name)? {
            Some(stat) => self.copier.entry(&from.here, name, &stat, &to.here),
            None => Ok(()),
        }
    }
}

impl Visitor for Merge<'_> {
    const VERB: &'static str = "merge";

    fn visit(&mut self, from: &mut Cursor<'_>, name: &OsStr, to: &mut Cursor<'_>) -> Result<bool> {
        let [opaque, whiteout] = marks(self.access);
        let Some(new) = from.stat(name)? else { return Ok(false) };
        let old = if self.empty { None } else { to.stat(name)? };
        if from.is_whiteout_by(name, &new, &[whiteout])? {
            return remove(&to.here, name, self.access).map(|()| false);
        }
        if !is_directory(&new) {
            if old.is_some() {
                remove(&to.here, name, self.access)?;
            }
            return self.file(from, name, to).map(|()| false);
        }
        let there = old.as_ref().is_some_and(is_directory);
        if !there {
            if old.is_some() {
                remove(&to.here, name, self.access)?;
            }
            make_directory(&to.here, name)?;
        }
        if !from.descend(name)? {
            return Ok(false);
        }
        if !to.descend(name)? {
            from.ascend()?;
            return Ok(false);
        }
        if there {
            to.take_over()?;
            if from.is_opaque_by(&[opaque])? {
                clear(&to.here, self.access)?;
            }
        }
        Ok(true)
    }

    fn leave(&mut self, from: &OwnedFd, to: OwnedFd) -> Result<()> {
        self.copier.finish_directory(from, to)
    }
}

/// The attributes of opaque directories and of whiteouts that the kernel heeds for this caller.
fn marks(access: Access<'_>) -> [&'static CStr; 2] {
    match access.0 {
        Some(_) => [c"user.overlay.opaque", c"user.overlay.whiteout"],
        None => [c"trusted.overlay.opaque", c"trusted.overlay.whiteout"],
    }
}
