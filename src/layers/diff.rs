//! The list of changes, read from the writable layer.
//!
//! See "whiteouts and opaque directories" in <https://docs.kernel.org/filesystems/overlayfs.html>. The layer
//! may be the work of a hostile container: it is walked by descriptors, one component at a time, without
//! following a link and with two directories open at any depth.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::fcntl::{OFlag, readlinkat};
use nix::sys::stat::{FileStat, SFlag, fstat};
use nix::sys::time::TimeSpec;

use super::access::Access;
use super::change::{Change, ChangeKind};
use super::cursor::{Cursor, file_type, is_directory, is_whiteout_device};
use crate::error::{Context, Error, Result};
use crate::sys::xattr;

/// What became of the tree `old` since `new` was made a copy of it, in the same order. Both have plain owners.
///
/// At `made`, a time of the file system's, the copy was complete: what it has changed of its inodes before is
/// none of the tree's changes. A process can set any other time.
pub(super) fn changes_of_copy(
    new: OwnedFd,
    old: OwnedFd,
    made: TimeSpec,
    access: Access<'_>,
) -> Result<Vec<Change>> {
    Walk::new(new, old, access, Some(made)).run()
}

/// What `upper` changes about `lower`, parents before what is below them, names in byte order.
///
/// `lower` is the other layers merged. Both must show the same owners.
pub(super) fn changes(upper: OwnedFd, lower: OwnedFd, access: Access<'_>) -> Result<Vec<Change>> {
    Walk::new(upper, lower, access, None).run()
}

/// A directory on the way from the root to the position.
struct Frame {
    /// What is left to look at.
    names: BTreeSet<OsString>,
    /// Whether the lower layers have a directory here, too.
    lower: bool,
    /// Whether the lower layers' content does not shine through here.
    hidden: bool,
    /// Of its path.
    length: usize,
}

struct Walk<'a> {
    access: Access<'a>,
    /// If `upper` is no layer but a changed copy of `lower`: when it was made.
    made: Option<TimeSpec>,
    upper: Cursor<'a>,
    lower: Cursor<'a>,
    path: PathBuf,
    frames: Vec<Frame>,
    /// How many of the frames are in the list: the root, which never is, counts as one.
    listed: usize,
    changes: Vec<Change>,
}

impl<'a> Walk<'a> {
    fn new(upper: OwnedFd, lower: OwnedFd, access: Access<'a>, made: Option<TimeSpec>) -> Self {
        Self {
            access,
            made,
            upper: Cursor::new(upper, access),
            lower: Cursor::new(lower, access),
            path: PathBuf::from("/"),
            frames: Vec::new(),
            listed: 1,
            changes: Vec::new(),
        }
    }

    fn run(mut self) -> Result<Vec<Change>> {
        // In a copy nothing of the original shines through.
        self.enter(true, self.made.is_some())?;
        while let Some(frame) = self.frames.last_mut() {
            match frame.names.pop_first() {
                Some(name) => {
                    self.path.push(&name);
                    let descended = self
                        .visit(&name)
                        .map_err(|err| err.context(format!("compare {}", self.path.display())))?;
                    if !descended {
                        self.path.pop();
                    }
                }
                None => self.leave()?,
            }
        }
        Ok(self.changes)
    }

    /// Starts on the directory that both cursors have been moved to.
    fn enter(&mut self, lower: bool, hidden: bool) -> Result<()> {
        let hidden = hidden || self.upper.is_opaque()?;
        let mut names = self.upper.names()?;
        if lower && hidden {
            names.append(&mut self.lower.names()?);
        }
        let length = self.path.as_os_str().len();
        self.frames.push(Frame { names, lower, hidden, length });
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
        if let (Some(made), Some(old), Some(new)) = (self.made, &old, &new)
            && !(is_directory(old) && is_directory(new))
            && self.is_same_file(name, old, new, made)?
        {
            return Ok(false);
        }
        let directory = |stat: &Option<FileStat>| stat.as_ref().is_some_and(is_directory);
        let descended = directory(&new) && self.upper.descend(name)?;
        let lower = descended && directory(&old) && self.lower.descend(name)?;
        if !lower {
            self.list(kind);
        }
        if descended {
            self.enter(lower, hidden)?;
            if !lower {
                self.listed = self.frames.len();
            }
        }
        Ok(descended)
    }

    /// Adds the current path to the list, after the directories above it, which that changes. To list them ahead
    /// would take a path of memory for each, of any length, though nothing has changed.
    fn list(&mut self, kind: ChangeKind) {
        let path = self.path.as_os_str().as_bytes();
        for frame in self.frames.iter().skip(self.listed) {
            let above = OsStr::from_bytes(path.get(..frame.length).unwrap_or(path));
            self.changes.push(Change::new(ChangeKind::Modified, above.into()));
        }
        self.listed = self.frames.len();
        self.changes.push(Change::new(kind, self.path.clone()));
    }

    /// Ends a directory. One that only had to be copied for what happened below it, and then did not, or
    /// only got another modification time, has not changed.
    fn leave(&mut self) -> Result<()> {
        let Some(frame) = self.frames.pop() else { return Ok(()) };
        if self.frames.is_empty() {
            return Ok(());
        }
        if self.listed > self.frames.len() {
            self.listed = self.frames.len();
        } else if !self.is_unchanged()? {
            self.list(ChangeKind::Modified);
        }
        if frame.lower {
            self.lower.ascend()?;
        }
        self.upper.ascend()?;
        self.path.pop();
        Ok(())
    }

    /// In a copy nothing stands for what is not there, though a layer below could not show such a device.
    fn is_whiteout(&self, name: &OsStr, stat: &FileStat) -> Result<bool> {
        match self.made {
            Some(_) => Ok(is_whiteout_device(stat)),
            None => self.upper.is_whiteout(name, stat),
        }
    }

    /// Whether both layers have the directory with all the same that a layer records but times.
    fn is_unchanged(&self) -> Result<bool> {
        if let Some(made) = self.made {
            let stat = fstat(&self.upper.here).context(|| "stat a directory")?;
            if changed_at(&stat) < made {
                return Ok(true);
            }
        }
        let facts = |directory: &OwnedFd| {
            let stat = fstat(directory).context(|| "stat a directory")?;
            Ok::<_, Error>((stat.st_mode, stat.st_uid, stat.st_gid, self.attributes(directory)?))
        };
        Ok(facts(&self.upper.here)? == facts(&self.lower.here)?)
    }

    /// Whether a file, of whatever type, is as it was when the tree was copied.
    fn is_same_file(
        &self,
        name: &OsStr,
        old: &FileStat,
        new: &FileStat,
        made: TimeSpec,
    ) -> Result<bool> {
        let facts = |stat: &FileStat| {
            let times = (stat.st_mtime, stat.st_mtime_nsec);
            (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_size, stat.st_rdev, times)
        };
        // An overlay makes a file its own before it gives it another name; taking one away it does not notice.
        if facts(old) != facts(new) || new.st_nlink > old.st_nlink {
            return Ok(false);
        }
        if changed_at(new) < made {
            return Ok(true);
        }
        if changed_at(new) > made && new.st_nlink == old.st_nlink {
            return Ok(false);
        }
        // In the same tick of the clock, or it has lost a name.
        let open = |cursor: &Cursor<'_>, flags| {
            self.access.open(&cursor.here, name, flags).context(|| "open it")
        };
        let (was, is) = (open(&self.lower, OFlag::O_PATH)?, open(&self.upper, OFlag::O_PATH)?);
        if self.attributes(&was)? != self.attributes(&is)? {
            return Ok(false);
        }
        match file_type(new) {
            SFlag::S_IFLNK => {
                let target = |link: &OwnedFd| readlinkat(link, "").context(|| "read the link");
                Ok(target(&was)? == target(&is)?)
            }
            SFlag::S_IFREG => {
                let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
                let (was, is) = (open(&self.lower, flags)?, open(&self.upper, flags)?);
                same_content(was.into(), is.into()).context(|| "read it")
            }
            _ => Ok(true),
        }
    }

    /// The extended attributes, without the overlay's own.
    fn attributes(&self, file: &OwnedFd) -> Result<Vec<(CString, Option<Vec<u8>>)>> {
        let mut attributes = Vec::new();
        for name in xattr::list(file.as_fd()).context(|| "list the attributes of it")? {
            let text = name.to_bytes();
            if !text.starts_with(b"trusted.overlay.") && !text.starts_with(b"user.overlay.") {
                let value = self.access.attribute(file, &[&name])?;
                attributes.push((name, value));
            }
        }
        Ok(attributes)
    }
}

/// When the inode was last changed, which nobody can set.
fn changed_at(stat: &FileStat) -> TimeSpec {
    TimeSpec::new(stat.st_ctime, stat.st_ctime_nsec)
}

fn same_content(a: File, b: File) -> io::Result<bool> {
    let (mut a, mut b) = (BufReader::new(a), BufReader::new(b));
    loop {
        let (x, y) = (a.fill_buf()?, b.fill_buf()?);
        let len = x.len().min(y.len());
        if x[..len] != y[..len] || len == 0 {
            return Ok(x.len() == y.len() && len == 0);
        }
        a.consume(len);
        b.consume(len);
    }
}
