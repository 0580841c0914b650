//! Deletions, as layers write them down.
//!
//! See "Whiteouts" in <https://github.com/opencontainers/image-spec/blob/main/layer.md>. They are about the
//! lower layers alone, wherever in the archive they stand.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag, mknodat};

use super::attributes::explain_xattr;

use super::tree::{Dir, Tree};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layers::cursor::{is_directory, names};
use crate::sys::xattr;

/// What the names of whiteouts begin with.
pub(super) const PREFIX: &[u8] = b".wh.";
/// The name that hides all that the lower layers have in a directory.
pub(super) const OPAQUE: &[u8] = b".wh..wh..opq";

/// What an entry says by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whiteout<'a> {
    /// This is deleted.
    Name(&'a [u8]),
    /// All that is in the directory is.
    Opaque,
    /// Notes of an old storage driver to itself.
    Other,
}

/// Whether an entry of this name, or `device` for a character device 0:0, is a whiteout.
pub(super) fn parse(name: &[u8], device: bool) -> Result<Option<Whiteout<'_>>> {
    let Some(deleted) = name.strip_prefix(PREFIX) else {
        return Ok(device.then_some(Whiteout::Name(name)));
    };
    match deleted {
        _ if name == OPAQUE => Ok(Some(Whiteout::Opaque)),
        b"" | b"." | b".." => {
            let name = name.escape_ascii();
            Err(Error::new(ErrorKind::Malformed, format!("the whiteout {name} names no file")))
        }
        _ if deleted.starts_with(PREFIX) => Ok(Some(Whiteout::Other)),
        _ => Ok(Some(Whiteout::Name(deleted))),
    }
}

impl Tree<'_> {
    /// Deletes what the lower layers have of this name.
    pub(super) fn white_out(&mut self, parent: &Rc<Dir>, name: &[u8]) -> Result<()> {
        let path = parent.join(name);
        let attempt = || format!("delete {}", path.escape_ascii());
        self.depends = true;
        if self.marks.is_none() {
            if self.clear(parent, name, &path, true).context(attempt)? {
                self.forget(&path);
            }
            return Ok(());
        }
        let below = match &self.lower {
            Some(lower) if !self.is_hidden(&path) => lower.find(&path)?.is_some(),
            Some(_) => false,
            None => !self.lowest,
        };
        self.hidden.insert(path.clone());
        match self.stat(parent, name)? {
            None if below => self.mark_deleted(parent, name).context(attempt),
            Some(stat) if is_directory(&stat) => {
                self.mark_opaque(parent, name).context(attempt)?;
                self.reset_implicit(&path);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Deletes all that the lower layers have in this directory.
    pub(super) fn make_opaque(&mut self, dir: &Rc<Dir>) -> Result<()> {
        let attempt = || format!("empty {}", dir.path.escape_ascii());
        self.depends = true;
        if self.marks.is_none() {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let listed = openat(&dir.fd, ".", flags, Mode::empty()).context(attempt)?;
            for name in names(listed)? {
                self.white_out(dir, name.as_bytes())?;
            }
            return Ok(());
        }
        if dir.path.is_empty() {
            // Overlays take no notice of a mark at the very top.
            let below = match &self.lower {
                Some(lower) => match lower.find(b"")? {
                    Some(found) => lower.names(&found)?,
                    None => BTreeSet::new(),
                },
                None => BTreeSet::new(),
            };
            for name in below {
                self.white_out(dir, name.as_bytes())?;
            }
            self.hidden.insert(Vec::new());
            return Ok(());
        }
        self.hidden.insert(dir.path.clone());
        self.mark_opaque(dir, b".").context(attempt)?;
        let below = [&dir.path, &b"/"[..]].concat();
        self.reset_below(below);
        Ok(())
    }

    /// Hides what the lower layers have in a directory of this one.
    pub(super) fn mark_opaque(&mut self, parent: &Dir, name: &[u8]) -> Result<()> {
        let Some(mark) = self.marks.filter(|_| !self.lowest) else { return Ok(()) };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&parent.fd, name, flags, Mode::empty()).context(|| "open the directory")?;
        xattr::set(fd.as_fd(), mark, b"y")
            .context(|| "mark the directory as opaque")
            .map_err(explain_xattr)
    }

    fn mark_deleted(&self, parent: &Dir, name: &[u8]) -> Result<()> {
        match mknodat(&parent.fd, name, SFlag::S_IFCHR, Mode::empty(), 0) {
            Err(Errno::EPERM) => Err(Errno::EPERM)
                .context(|| "make a whiteout")
                .map_err(|err| err.with_hint("who is not root may make whiteouts since Linux 5.8")),
            made => made.context(|| "make a whiteout"),
        }
    }

    /// A directory that was only passed got its attributes from one that does not count any more.
    fn reset_implicit(&mut self, path: &[u8]) {
        if let Some(metadata) = self.metadata.get_mut(path) {
            metadata.reset_implicit();
        }
        self.reset_below([path, b"/"].concat());
    }

    fn reset_below(&mut self, below: Vec<u8>) {
        let mut behind = below.clone();
        behind.pop();
        behind.push(b'0');
        for (_, metadata) in
            self.metadata.range_mut((Bound::Included(below), Bound::Excluded(behind)))
        {
            metadata.reset_implicit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_deleted() {
        use Whiteout::{Name, Opaque, Other};
        for (name, expected) in [
            (&b"file"[..], None),
            (b".wh", None),
            (b".wh.x", Some(Name(b"x"))),
            (b".wh..x", Some(Name(b".x"))),
            (b".wh....", Some(Name(b"..."))),
            (b".wh..wh..opq", Some(Opaque)),
            (b".wh..wh.plnk", Some(Other)),
            (b".wh..wh..opq2", Some(Other)),
        ] {
            assert_eq!(parse(name, false).unwrap(), expected, "{}", name.escape_ascii());
        }
        assert_eq!(parse(b"x", true).unwrap(), Some(Name(b"x")));
        for name in [&b".wh."[..], b".wh..", b".wh..."] {
            parse(name, false).unwrap_err();
        }
    }
}
