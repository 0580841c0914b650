//! The list of changes, read from the writable layer.
//!
//! See "whiteouts and opaque directories" in <https://docs.kernel.org/filesystems/overlayfs.html>. The layer
//! may be the work of a hostile container: it is walked by descriptors, one component at a time, without
//! following a link and with two directories open at any depth.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, SFlag, fstat};

use super::access::Access;
use super::change::{Change, ChangeKind};
use super::directory::Identity;
use crate::error::{Context, Error, ErrorKind, Result};
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

/// A position in a tree.
struct Cursor<'a> {
    access: Access<'a>,
    here: OwnedFd,
    above: Vec<Identity>,
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
        let hidden = hidden || self.is_opaque()?;
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
            Some(new) if !self.is_whiteout(name, &new)? => Some(new),
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

    /// Whether the directory replaces that of the lower layers. `x` only says that it contains whiteouts in
    /// the form of attributes.
    fn is_opaque(&self) -> Result<bool> {
        let marks = [c"trusted.overlay.opaque", c"user.overlay.opaque"];
        let value = self.access.attribute(&self.upper.here, &marks)?;
        Ok(value.is_some_and(|value| value == b"y"))
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

    /// A character device 0:0, or (Linux 6.7) an empty file with an attribute.
    fn is_whiteout(&self, name: &OsStr, stat: &FileStat) -> Result<bool> {
        if is_whiteout_device(stat) {
            return Ok(true);
        }
        if file_type(stat) != SFlag::S_IFREG || stat.st_size != 0 {
            return Ok(false);
        }
        match self.access.open(&self.upper.here, name, OFlag::O_PATH) {
            Err(Errno::ENOENT) => Ok(false),
            file => {
                let marks = [c"trusted.overlay.whiteout", c"user.overlay.whiteout"];
                let file = file.context(|| "open it")?;
                Ok(self.access.attribute(&file, &marks)?.is_some())
            }
        }
    }
}

impl<'a> Cursor<'a> {
    fn new(root: OwnedFd, access: Access<'a>) -> Self {
        Self { access, here: root, above: Vec::new() }
    }

    /// Enters a directory. Returns whether there still is one of this name.
    fn descend(&mut self, name: &OsStr) -> Result<bool> {
        let next = match self.access.open_directory(&self.here, name) {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(false),
            next => next.context(|| "open the directory")?,
        };
        self.above.push(Identity::of(&self.here).context(|| "stat the directory")?);
        self.here = next;
        Ok(true)
    }

    /// Goes back to the directory above, provided that nobody has moved this one meanwhile.
    fn ascend(&mut self) -> Result<()> {
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

    fn names(&self) -> Result<BTreeSet<OsString>> {
        let own = self.directory(".").context(|| "open a directory")?;
        let mut directory = Dir::from_fd(own).context(|| "read a directory")?;
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

    fn stat(&self, name: &OsStr) -> Result<Option<FileStat>> {
        match self.access.stat(&self.here, name) {
            Err(Errno::ENOENT) => Ok(None),
            stat => stat.map(Some).context(|| "stat it"),
        }
    }
}

fn file_type(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

fn is_directory(stat: &FileStat) -> bool {
    file_type(stat) == SFlag::S_IFDIR
}

fn is_whiteout_device(stat: &FileStat) -> bool {
    file_type(stat) == SFlag::S_IFCHR && stat.st_rdev == 0
}
