//! The list of changes, read from the writable layer.
//!
//! See "whiteouts and opaque directories" in <https://docs.kernel.org/filesystems/overlayfs.html>.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::stat::{FileStat, fstat};

use super::access::Access;
use super::change::{Change, ChangeKind};
use super::cursor::{Cursor, is_directory, is_whiteout_device};
use crate::error::{Context, Error, Result};
use crate::sys::xattr;

/// What `upper` changes about `lower`, parents before what is below them, names in byte order.
///
/// `lower` is the other layers merged. Both must show the same owners.
pub(super) fn changes(upper: OwnedFd, lower: OwnedFd, access: Access<'_>) -> Result<Vec<Change>> {
    let mut walk = Walk {
        access,
        upper: Cursor::new(upper, access),
        lower: Cursor::new(lower, access),
        path: PathBuf::from("/"),
        frames: Vec::new(),
        changes: Vec::new(),
    };
    walk.enter(true, false)?;
    while let Some(frame) = walk.frames.last_mut() {
        match frame.names.pop_first() {
            Some(name) => {
                walk.path.push(&name);
                let descended = walk
                    .visit(&name)
                    .map_err(|err| err.context(format!("compare {}", walk.path.display())))?;
                if !descended {
                    walk.path.pop();
                }
            }
            None => walk.leave()?,
        }
    }
    Ok(walk.changes)
}

/// A directory on the way from the root to the position.
struct Frame {
    /// What is left to look at.
    names: BTreeSet<OsString>,
    /// Whether the lower layers have a directory here, too.
    lower: bool,
    /// Whether the lower layers' content does not shine through here.
    hidden: bool,
    /// How many changes there were before this directory.
    before: usize,
}

struct Walk<'a> {
    access: Access<'a>,
    upper: Cursor<'a>,
    lower: Cursor<'a>,
    path: PathBuf,
    frames: Vec<Frame>,
    changes: Vec<Change>,
}

impl Walk<'_> {
    /// Starts on the directory that both cursors have been moved to.
    fn enter(&mut self, lower: bool, hidden: bool) -> Result<()> {
        let hidden = hidden || self.upper.is_opaque()?;
        let mut names = self.upper.names()?;
        if lower && hidden {
            names.append(&mut self.lower.names()?);
        }
        // The directory's own entry, if it has one, is the last.
        let before = self.changes.len().saturating_sub(1);
        self.frames.push(Frame { names, lower, hidden, before });
        Ok(())
    }

    /// Looks at an entry. Returns whether it is a directory, now the current one.
    fn visit(&mut self, name: &OsStr) -> Result<bool> {
        let Some(&Frame { lower, hidden, .. }) = self.frames.last() else { return Ok(false) };
        let new = self.upper.stat(name)?;
        let old = if lower { self.lower.stat(name)? } else { None };
        let old = old.filter(|old| !is_whiteout_device(old));
        let new = match new {
            Some(new) if !self.upper.is_whiteout(name, &new)? => Some(new),
            // Either hidden by its parent, or a whiteout. Or it went away just now.
            _ => None,
        };
        let kind = match (&old, &new) {
            (None, None) => return Ok(false),
            (Some(_), None) => ChangeKind::Deleted,
            (None, Some(_)) => ChangeKind::Added,
            (Some(_), Some(_)) => ChangeKind::Modified,
        };
        self.changes.push(Change::new(kind, self.path.clone()));
        let is_directory = |stat: &Option<FileStat>| stat.as_ref().is_some_and(is_directory);
        if !is_directory(&new) || !self.upper.descend(name)? {
            return Ok(false);
        }
        let lower = is_directory(&old) && self.lower.descend(name)?;
        self.enter(lower, hidden)?;
        Ok(true)
    }

    /// Ends a directory. One that only had to be copied for what happened below it, and then did not, or
    /// only got another modification time, has not changed.
    fn leave(&mut self) -> Result<()> {
        let Some(frame) = self.frames.pop() else { return Ok(()) };
        if self.frames.is_empty() {
            return Ok(());
        }
        let lone = self.changes.len() == frame.before + 1;
        if frame.lower && lone && self.is_unchanged()? {
            self.changes.pop();
        }
        if frame.lower {
            self.lower.ascend()?;
        }
        self.upper.ascend()?;
        self.path.pop();
        Ok(())
    }

    /// Whether both layers have the directory with all the same that a layer records but times.
    fn is_unchanged(&self) -> Result<bool> {
        let facts = |directory: &OwnedFd| {
            let stat = fstat(directory).context(|| "stat a directory")?;
            let mut attributes = Vec::new();
            for name in xattr::list(directory.as_fd()).context(|| "list the attributes of it")? {
                let text = name.to_bytes();
                if !text.starts_with(b"trusted.overlay.") && !text.starts_with(b"user.overlay.") {
                    let value = self.access.attribute(directory, &[&name])?;
                    attributes.push((name, value));
                }
            }
            Ok::<_, Error>((stat.st_mode, stat.st_uid, stat.st_gid, attributes))
        };
        Ok(facts(&self.upper.here)? == facts(&self.lower.here)?)
    }
}
