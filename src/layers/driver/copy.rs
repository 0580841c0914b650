//! A copy of a tree: types, contents, owners, modes, times, extended attributes, and which names are one file.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, openat, readlinkat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};

use super::attributes::{Attributes, Marks};
use super::content::Contents;
use super::walk::{Visitor, walk};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layers::access::Access;
use crate::layers::cursor::{Cursor, file_type, is_directory};
use crate::layers::directory::Identity;

/// Copies the entries of trees.
///
/// What has several names is linked from the first copy of it, which also lies in a directory made for the
/// purpose: its name in the tree may be out of reach by then, deeper than a path can be long.
#[derive(Debug)]
pub(super) struct Copier<'a> {
    access: Access<'a>,
    pub(super) attributes: Attributes<'a>,
    contents: Contents,
    /// On the file system of the copy.
    links: OwnedFd,
    /// The original, and how many of its names are still to come.
    linked: HashMap<Identity, libc::nlink_t>,
}

impl<'a> Copier<'a> {
    /// `links` is an empty directory of the caller's, which he removes in the end, with what is in it.
    pub(super) fn new(access: Access<'a>, marks: Marks, links: OwnedFd) -> Self {
        Self {
            access,
            attributes: Attributes::new(access, marks),
            contents: Contents::new(),
            links,
            linked: HashMap::new(),
        }
    }

    /// Makes the empty directory `to` a copy of the directory `from`. Both are open for reading.
    pub(super) fn tree(&mut self, from: OwnedFd, to: OwnedFd) -> Result<()> {
        let access = self.access;
        walk(self, Cursor::new(from, access), Cursor::new(to, access))?;
        self.attributes.flush()
    }

    /// Gives the copy of a directory its attributes, now that it is complete.
    pub(super) fn finish_directory(&mut self, from: &OwnedFd, to: OwnedFd) -> Result<()> {
        let stat = fstat(from).context(|| "stat the directory")?;
        self.attributes.copy(from, &stat, to)
    }

    /// Copies what is no directory and not there yet.
    pub(super) fn entry(
        &mut self,
        from: &OwnedFd,
        name: &OsStr,
        stat: &FileStat,
        to: &OwnedFd,
    ) -> Result<()> {
        if stat.st_nlink < 2 {
            return self.file(from, name, stat, to, name);
        }
        let identity = Identity { device: stat.st_dev, inode: stat.st_ino };
        let first = OsString::from(format!("{:x}-{:x}", identity.device, identity.inode));
        let links = self.links.try_clone().context(|| "duplicate a descriptor")?;
        let left = match self.linked.get(&identity) {
            Some(left) => *left,
            None => {
                self.file(from, name, stat, &links, &first)?;
                stat.st_nlink
            }
        };
        if left == 1 {
            // The last name: the limit on links may leave room for no other.
            self.linked.remove(&identity);
            return renameat(&links, first.as_os_str(), to, name).context(|| "rename its copy");
        }
        self.linked.insert(identity, left - 1);
        match link(self.access, &links, &first, to, name) {
            // The copy's file system allows fewer names: the rest share another copy.
            Err(err) if err.raw_os_error() == Some(libc::EMLINK) => {
                unlinkat(&links, first.as_os_str(), UnlinkatFlags::NoRemoveDir)
                    .context(|| "remove its copy")?;
                self.file(from, name, stat, &links, &first)?;
                link(self.access, &links, &first, to, name)
            }
            linked => linked,
        }
    }

    fn file(
        &mut self,
        from: &OwnedFd,
        name: &OsStr,
        stat: &FileStat,
        to: &OwnedFd,
        new_name: &OsStr,
    ) -> Result<()> {
        let kind = file_type(stat);
        if kind == SFlag::S_IFREG {
            return self.regular(from, name, stat, to, new_name);
        }
        let original = self.access.open(from, name, OFlag::O_PATH).context(|| "open it")?;
        same(&original, stat)?;
        let made = match kind {
            SFlag::S_IFLNK => {
                let target = readlinkat(&original, "").context(|| "read the link")?;
                symlinkat(target.as_os_str(), to, new_name)
            }
            SFlag::S_IFCHR | SFlag::S_IFBLK | SFlag::S_IFIFO | SFlag::S_IFSOCK => {
                mknodat(to, new_name, kind, Mode::S_IRUSR | Mode::S_IWUSR, stat.st_rdev)
            }
            _ => return Err(Error::unsupported("it is of a type that cannot be copied")),
        };
        made.context(|| "make its copy").map_err(|err| match err.raw_os_error() {
            Some(libc::EPERM) => err.with_hint("only root may make device nodes"),
            _ => err,
        })?;
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let copy = openat(to, new_name, flags, Mode::empty()).context(|| "open its copy")?;
        self.attributes.copy(&original, stat, copy)
    }

    fn regular(
        &mut self,
        from: &OwnedFd,
        name: &OsStr,
        stat: &FileStat,
        to: &OwnedFd,
        new_name: &OsStr,
    ) -> Result<()> {
        // Non-blocking, should it have become a fifo.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
        let original = self.access.open(from, name, flags).context(|| "open it")?;
        same(&original, stat)?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let copy = openat(to, new_name, flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .context(|| "make its copy")?;
        let (original, copy) = (File::from(original), File::from(copy));
        self.contents.copy(&original, stat, &copy)?;
        self.attributes.copy(&original.into(), stat, copy.into())
    }
}

impl Visitor for Copier<'_> {
    const VERB: &'static str = "copy";

    fn visit(&mut self, from: &mut Cursor<'_>, name: &OsStr, to: &mut Cursor<'_>) -> Result<bool> {
        let Some(stat) = from.stat(name)? else { return Ok(false) };
        if !is_directory(&stat) {
            return self.entry(&from.here, name, &stat, &to.here).map(|()| false);
        }
        make_directory(&to.here, name)?;
        if !from.descend(name)? {
            return Ok(false);
        }
        if !to.descend(name)? {
            from.ascend()?;
            return Ok(false);
        }
        Ok(true)
    }

    fn leave(&mut self, from: &OwnedFd, to: OwnedFd) -> Result<()> {
        self.finish_directory(from, to)
    }
}

/// Makes a directory that only the caller can use until it gets its attributes.
pub(super) fn make_directory(dir: &OwnedFd, name: &OsStr) -> Result<()> {
    mkdirat(dir, name, Mode::S_IRWXU).context(|| "make the directory")
}

/// Gives a file that is no directory another name.
pub(super) fn link(
    access: Access<'_>,
    dir: &OwnedFd,
    name: &OsStr,
    new_dir: &OwnedFd,
    new_name: &OsStr,
) -> Result<()> {
    access.link(dir, name, new_dir, new_name).context(|| "link it")
}

fn same(file: &OwnedFd, stat: &FileStat) -> Result<()> {
    let now = fstat(file).context(|| "stat it")?;
    if (now.st_dev, now.st_ino, file_type(&now)) == (stat.st_dev, stat.st_ino, file_type(stat)) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Busy, "it was replaced while it was copied")
        .with_hint("stop or freeze the processes that write there, and try again"))
}

/// Opens an existing directory below `dir` for reading.
pub(super) fn open_directory(dir: &OwnedFd, name: impl AsRef<OsStr>) -> Result<OwnedFd> {
    let name = name.as_ref();
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(dir, name, flags, Mode::empty()).context(|| format!("open {}", name.display()))
}
