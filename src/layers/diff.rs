//! Lists of changes: those that a writable layer makes, or the differences of two trees.
//!
//! See "whiteouts and opaque directories" in <https://docs.kernel.org/filesystems/overlayfs.html>. The layer
//! may be the work of a hostile container: it is walked by descriptors, one component at a time, without
//! following a link and with two directories open at any depth.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, readlinkat};
use nix::sys::stat::{FileStat, SFlag, fstat};
use nix::sys::time::TimeSpec;

use super::access::Access;
use super::change::{Change, ChangeKind};
use super::cursor::{Cursor, file_type, is_directory, is_whiteout_device};
use super::directory::Identity;
use super::overlay::has_owner;
use super::touched::{Node, Touched};
use crate::error::{Context, Result};
use crate::sys::xattr;

/// What has changed, and what is new but no change.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) changes: Vec<Change>,
    /// In the new and modified files, each name counted.
    pub(super) bytes: u64,
    /// Made only to mount something there, and of the `mount_points` that were named.
    pub(super) mount_points: Vec<PathBuf>,
}

/// What became of the tree `old` since `new` was made a copy of it, in the same order. Both have plain owners.
///
/// At `made`, a time of the file system's, the copy was complete: what it has changed of its inodes before is
/// none of the tree's changes. A process can set any other time.
pub(super) fn changes_of_copy(
    new: OwnedFd,
    old: OwnedFd,
    made: TimeSpec,
    mount_points: &[&str],
    access: Access<'_>,
) -> Result<Found> {
    Walk { mount_points, ..Walk::new(new, old, access, Mode::Copy(made)) }.find()
}

/// What `upper` changes about `lower`, parents before what is below them, names in byte order.
///
/// `lower` is the other layers merged. Both must show the same owners.
pub(super) fn changes(
    upper: OwnedFd,
    lower: OwnedFd,
    mount_points: &[&str],
    access: Access<'_>,
) -> Result<Found> {
    Walk { mount_points, ..Walk::new(upper, lower, access, Mode::Layer) }.find()
}

/// What the tree `new` has differently from `old`, in the same order, wherever they come from. Of files that are one in
/// `new` and were not in `old` each counts as modified. Both must show the same owners.
///
/// With `times` a directory's time of modification counts, too. What is not `touched` is known to be the same.
pub(super) fn differences(
    new: OwnedFd,
    old: OwnedFd,
    times: bool,
    touched: Option<&Touched>,
    access: Access<'_>,
) -> Result<Vec<Change>> {
    Walk::new(new, old, access, Mode::Trees { times, touched }).run()
}

/// What the directory of the layer `new` has differently from that of `old`, in the same order: an overlay's marks are
/// content like any other.
pub(super) fn layer_differences(
    new: OwnedFd,
    old: OwnedFd,
    access: Access<'_>,
) -> Result<Vec<Change>> {
    Walk::new(new, old, access, Mode::Layers).run()
}

/// What `upper` and `lower` are to each other.
#[derive(Clone, Copy, Debug)]
enum Mode<'a> {
    /// `upper` is a layer on `lower`.
    Layer,
    /// `upper` is a changed copy of `lower`, made at this time.
    Copy(TimeSpec),
    /// Two trees.
    Trees { times: bool, touched: Option<&'a Touched> },
    /// Two directories of layers, as they lie on the disk.
    Layers,
}

/// A directory on the way from the root to the position.
struct Frame {
    /// What is left to look at.
    names: BTreeSet<OsString>,
    /// Whether the lower layers have a directory here, too.
    lower: bool,
    /// Whether the lower layers' content does not shine through here.
    hidden: bool,
    /// What may differ below, if not all.
    touched: Option<Node>,
    /// Of its path.
    length: usize,
}

/// The names that a file of several has, as far as they have been met.
struct Names {
    /// The file that the other tree has under the first of them.
    old: Option<Identity>,
    /// Whether there was another one under another name.
    torn: bool,
    unchanged: Vec<PathBuf>,
}

struct Walk<'a> {
    access: Access<'a>,
    mode: Mode<'a>,
    upper: Cursor<'a>,
    lower: Cursor<'a>,
    path: PathBuf,
    frames: Vec<Frame>,
    /// How many of the frames are in the list: the root, of which only its own attributes count, is one.
    listed: usize,
    changes: Vec<Change>,
    /// Where something is mounted that may have had to be given a place first.
    mount_points: &'a [&'a str],
    /// Those that are new, with nothing in them.
    made: Vec<PathBuf>,
    bytes: u64,
    /// Of two trees: the files of the new one that have several names. Of two layers: of either.
    links: HashMap<Identity, Names>,
}

impl<'a> Walk<'a> {
    fn new(upper: OwnedFd, lower: OwnedFd, access: Access<'a>, mode: Mode<'a>) -> Self {
        Self {
            access,
            mode,
            upper: Cursor::new(upper, access),
            lower: Cursor::new(lower, access),
            path: PathBuf::from("/"),
            frames: Vec::new(),
            listed: 1,
            changes: Vec::new(),
            mount_points: &[],
            made: Vec::new(),
            bytes: 0,
            links: HashMap::new(),
        }
    }

    fn run(self) -> Result<Vec<Change>> {
        self.find().map(|found| found.changes)
    }

    fn find(mut self) -> Result<Found> {
        let (hidden, touched) = match self.mode {
            Mode::Layer => (false, None),
            // Nothing of the original shines through.
            Mode::Copy(_) | Mode::Layers => (true, None),
            Mode::Trees { touched, .. } => (true, touched.map(|_| Touched::TOP)),
        };
        self.enter(true, hidden, touched)?;
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
        self.list_torn();
        Ok(Found { changes: self.changes, bytes: self.bytes, mount_points: self.made })
    }

    /// Starts on the directory that both cursors have been moved to.
    fn enter(&mut self, lower: bool, hidden: bool, node: Option<Node>) -> Result<()> {
        let hidden = hidden || self.upper.is_opaque()?;
        let touched = node.filter(|_| lower);
        let names = match (self.mode, touched) {
            (Mode::Trees { touched: Some(all), .. }, Some(node)) => all.names(node),
            _ => {
                let mut names = self.upper.names()?;
                if lower && hidden {
                    names.append(&mut self.lower.names()?);
                }
                names
            }
        };
        let length = self.path.as_os_str().len();
        self.frames.push(Frame { names, lower, hidden, touched, length });
        Ok(())
    }

    /// Looks at an entry. Returns whether it is a directory, now the current one.
    fn visit(&mut self, name: &OsStr) -> Result<bool> {
        let Some(&Frame { lower, hidden, touched, .. }) = self.frames.last() else {
            return Ok(false);
        };
        let new = self.upper.stat(name)?;
        let old = if lower { self.lower.stat(name)? } else { None };
        let old = old.filter(|old| matches!(self.mode, Mode::Layers) || !is_whiteout_device(old));
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
        if let (Some(old), Some(new)) = (&old, &new)
            && !(is_directory(old) && is_directory(new))
            && self.is_same_file(name, old, new)?
        {
            self.note_link(new, Some(old));
            return Ok(false);
        }
        if let (None, Some(new)) = (&old, &new)
            && self.is_mount_point(&self.path.clone(), name, new)?
        {
            self.made.push(self.path.clone());
            return Ok(false);
        }
        if let Some(new) = &new {
            self.note_link(new, None);
            if !is_directory(new) {
                self.bytes += u64::try_from(new.st_size).unwrap_or(0);
            }
        }
        let directory = |stat: &Option<FileStat>| stat.as_ref().is_some_and(is_directory);
        let descended = directory(&new) && self.upper.descend(name)?;
        let lower = descended && directory(&old) && self.lower.descend(name)?;
        if !lower {
            self.list(kind);
        }
        if descended {
            let node = match (self.mode, touched) {
                (Mode::Trees { touched: Some(all), .. }, Some(node)) => all.below(node, name),
                _ => None,
            };
            self.enter(lower, hidden, node)?;
            if !lower {
                self.listed = self.frames.len();
            }
        }
        Ok(descended)
    }

    /// Whether what is new at `path`, as `name` in the current directory, is as it was made to mount something there: an
    /// empty file, or a directory with nothing but such in it.
    fn is_mount_point(&mut self, path: &Path, name: &OsStr, stat: &FileStat) -> Result<bool> {
        if !self.mount_points.iter().any(|it| Path::new(it) == path) {
            return Ok(false);
        }
        let mode = stat.st_mode & 0o7777;
        if !is_directory(stat) {
            let regular = file_type(stat) == SFlag::S_IFREG;
            return Ok(regular && stat.st_size == 0 && mode == 0o644);
        }
        if mode != 0o755 || !self.upper.descend(name)? {
            return Ok(false);
        }
        let mut bare = true;
        for name in self.upper.names()? {
            if let Some(stat) = self.upper.stat(&name)? {
                bare = bare && self.is_mount_point(&path.join(&name), &name, &stat)?;
            }
        }
        self.upper.ascend()?;
        Ok(bare)
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
            if !self.is_unchanged()? {
                self.changes.insert(0, Change::new(ChangeKind::Modified, self.path.clone()));
            }
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
        match self.mode {
            Mode::Copy(_) | Mode::Trees { .. } => Ok(is_whiteout_device(stat)),
            Mode::Layer => self.upper.is_whiteout(name, stat),
            Mode::Layers => Ok(false),
        }
    }

    /// Whether both have the directory with all the same that a layer records, but for times unless they count.
    fn is_unchanged(&self) -> Result<bool> {
        let stat = |directory: &OwnedFd| fstat(directory).context(|| "stat a directory");
        let (new, old) = (stat(&self.upper.here)?, stat(&self.lower.here)?);
        match self.mode {
            Mode::Copy(made) if changed_at(&new) < made => return Ok(true),
            Mode::Trees { times: true, .. } if modified_at(&new) != modified_at(&old) => {
                return Ok(false);
            }
            _ => {}
        }
        // An owner that the user namespace lacks cannot be given to the top of a writable layer.
        let foreign = self.access.0.is_some_and(|namespace| !has_owner(namespace, &old));
        let owner = |stat: &FileStat| if foreign { (0, 0) } else { (stat.st_uid, stat.st_gid) };
        Ok((new.st_mode, owner(&new)) == (old.st_mode, owner(&old))
            && self.attributes(&self.upper.here)? == self.attributes(&self.lower.here)?)
    }

    /// Whether a file, of whatever type, is the same in both. In a layer none is.
    fn is_same_file(&self, name: &OsStr, old: &FileStat, new: &FileStat) -> Result<bool> {
        let facts = |stat: &FileStat| {
            // Whiteouts are of the time when they were made.
            let modified = (!is_whiteout_device(stat)).then(|| modified_at(stat));
            (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_size, stat.st_rdev, modified)
        };
        if matches!(self.mode, Mode::Layer) || facts(old) != facts(new) {
            return Ok(false);
        }
        if let Mode::Copy(made) = self.mode {
            // An overlay makes a file its own before it gives it another name; taking one away it does not notice.
            if new.st_nlink > old.st_nlink {
                return Ok(false);
            }
            if changed_at(new) < made {
                return Ok(true);
            }
            if changed_at(new) > made && new.st_nlink == old.st_nlink {
                return Ok(false);
            }
            // In the same tick of the clock, or it has lost a name.
        }
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

    /// The extended attributes, without the overlay's own where it may have made these.
    fn attributes(&self, file: &OwnedFd) -> Result<Vec<(CString, Option<Vec<u8>>)>> {
        let mut attributes = Vec::new();
        for name in xattr::list(file.as_fd()).context(|| "list the attributes of it")? {
            let text = name.to_bytes();
            let own = !matches!(self.mode, Mode::Layers)
                && (text.starts_with(b"trusted.overlay.") || text.starts_with(b"user.overlay."));
            // The host's security modules label files as they like.
            if !own && text != b"security.selinux" {
                let value = self.access.attribute(file, &[&name])?;
                attributes.push((name, value));
            }
        }
        Ok(attributes)
    }

    /// Remembers a file of several names that is now at the path; `old`, if it is as it was.
    fn note_link(&mut self, new: &FileStat, old: Option<&FileStat>) {
        if !matches!(self.mode, Mode::Trees { .. } | Mode::Layers) || is_directory(new) {
            return;
        }
        if new.st_nlink > 1 {
            self.note_name(new, old);
        }
        // Files that were one must still be.
        if let (Mode::Layers, Some(old)) = (self.mode, old)
            && old.st_nlink > 1
        {
            self.note_name(old, Some(new));
        }
    }

    /// Remembers that a file has the name of the path in one tree, and which has it in the other.
    fn note_name(&mut self, file: &FileStat, other: Option<&FileStat>) {
        let identity = |stat: &FileStat| Identity { device: stat.st_dev, inode: stat.st_ino };
        let old = other.map(identity);
        let names = self.links.entry(identity(file)).or_insert_with(|| Names {
            old,
            torn: false,
            unchanged: Vec::new(),
        });
        names.torn |= old.is_none() || names.old != old;
        if old.is_some() {
            names.unchanged.push(self.path.clone());
        }
    }

    /// Lists files that are one now and were not, with the directories that they are in.
    fn list_torn(&mut self) {
        let torn = self.links.drain().filter(|(_, names)| names.torn);
        let missing: Vec<_> = torn.flat_map(|(_, names)| names.unchanged).collect();
        if missing.is_empty() {
            return;
        }
        let mut paths: HashSet<PathBuf> =
            self.changes.iter().map(|change| change.path().to_owned()).collect();
        for path in missing {
            let above = path.ancestors().skip(1).take_while(|above| *above != Path::new("/"));
            for path in std::iter::once(path.as_path()).chain(above) {
                if !paths.contains(path) {
                    paths.insert(path.to_owned());
                    self.changes.push(Change::new(ChangeKind::Modified, path.to_owned()));
                }
            }
        }
        self.changes.sort_by(|a, b| a.path().cmp(b.path()));
    }
}

fn modified_at(stat: &FileStat) -> TimeSpec {
    TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec)
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
