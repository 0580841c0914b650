//! The directory that an archive is unpacked to.
//!
//! Every path is walked by descriptors, one component at a time and without following a link of the kernel's
//! accord: links are read and followed here, and lead nowhere but into the directory.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::ops::Bound;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, makedev, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, getegid, geteuid, symlinkat, unlinkat};

use super::attributes::{Attributes, Owners};
use super::finish::{Metadata, Setter};
use super::lower::{Lower, attributes, mtime};
use super::pax::Time;
use super::reader::{Entry, Kind};
use super::whiteout::{self, Whiteout};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layers::cursor::{file_type, is_directory, is_whiteout_device, names};
use crate::sys::xattr;

/// As the kernel: symbolic links followed in one resolution.
const MAX_LINKS: usize = 40;
/// Directories kept open, at least those on the way to where the archive is.
const OPEN_DIRECTORIES: usize = 64;
/// How directories are held.
const HANDLE: OFlag =
    OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// An open directory of the tree.
#[derive(Debug)]
pub(super) struct Dir {
    pub(super) fd: OwnedFd,
    /// From the top, through no link; empty at the top itself.
    pub(super) path: Vec<u8>,
    gid: u32,
    /// Whether what is made here inherits an access control list.
    inherits: bool,
}

impl Dir {
    pub(super) fn join(&self, name: &[u8]) -> Vec<u8> {
        match self.path.as_slice() {
            [] => name.to_vec(),
            path => [path, b"/", name].concat(),
        }
    }
}

/// What becomes of an entry.
pub(super) enum Made {
    /// A file to write its content to, and then to [`close`](Tree::close).
    File(OpenFile),
    Done,
}

/// A file that is being written.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) file: File,
    parent: Rc<Dir>,
    path: Vec<u8>,
}

pub(super) struct Tree<'a> {
    root: Rc<Dir>,
    pub(super) lower: Option<Lower<'a>>,
    pub(super) owners: Owners,
    pub(super) setter: Setter<'a>,
    pub(super) skip_devices: bool,
    /// Where devices were skipped.
    pub(super) left_out: BTreeSet<Vec<u8>>,
    /// Whether there are no lower layers.
    pub(super) lowest: bool,
    /// Whether what is in the lower layers has made, or would have made, a difference, but for the top and for
    /// directories that were passed.
    pub(super) depends: bool,
    /// Directories that were missing in this layer on the way to what the archive has an entry for.
    pub(super) passed: BTreeSet<Vec<u8>>,
    /// Whether deletions are written down as overlays do, with marks of this name for directories.
    pub(super) marks: Option<&'static std::ffi::CStr>,
    /// What is still to be set, by path.
    pub(super) metadata: BTreeMap<Vec<u8>, Metadata>,
    /// Where nothing of the lower layers is to be seen.
    pub(super) hidden: BTreeSet<Vec<u8>>,
    /// What this archive has made, if it is unpacked on top of the lower layers' files.
    pub(super) made: BTreeSet<Vec<u8>>,
    open: HashMap<Vec<u8>, Rc<Dir>>,
    /// The ids that the caller's files get.
    pub(super) own: (u32, u32),
}

/// What a component of a path leads to.
enum Step {
    Directory(Dir),
    Link(Vec<u8>),
    Missing,
}

impl<'a> Tree<'a> {
    pub(super) fn new(
        root: OwnedFd,
        lower: Option<Lower<'a>>,
        owners: Owners,
        setter: Setter<'a>,
        marks: Option<&'static std::ffi::CStr>,
    ) -> Result<Self> {
        let root = Rc::new(Dir {
            gid: fstat(&root).context(|| "stat the directory")?.st_gid,
            inherits: inherits(&root)?,
            fd: root,
            path: Vec::new(),
        });
        Ok(Self {
            root,
            lower,
            owners,
            setter,
            marks,
            skip_devices: false,
            left_out: BTreeSet::new(),
            lowest: false,
            depends: false,
            passed: BTreeSet::new(),
            metadata: BTreeMap::new(),
            hidden: BTreeSet::new(),
            made: BTreeSet::new(),
            open: HashMap::new(),
            own: (geteuid().as_raw(), getegid().as_raw()),
        })
    }

    pub(super) fn root(&self) -> &Dir {
        &self.root
    }

    /// Whether an entry has said what the top looks like.
    pub(super) fn has_top(&self) -> bool {
        matches!(self.metadata.get(&b""[..]), Some(Metadata::Directory { implicit: false, .. }))
    }

    /// What the top looks like if no entry says it: as in the lower layers.
    pub(super) fn begin(&mut self) -> Result<()> {
        if self.marks.is_none() {
            let root = self.root.clone();
            return self.enter(&root);
        }
        let attributes = match &self.lower {
            Some(lower) => match lower.find(b"")? {
                Some(found) => lower.attributes(&found, &self.owners)?,
                None => Attributes::of_missing_directory(Time::default()),
            },
            None => Attributes::of_missing_directory(Time::default()),
        };
        let metadata = Metadata::Directory { attributes, clean: false, implicit: true };
        self.metadata.insert(Vec::new(), metadata);
        Ok(())
    }

    /// Makes what the entry says.
    pub(super) fn make(&mut self, entry: &Entry) -> Result<Made> {
        let components = components(&entry.path)?;
        let Some((name, above)) = components.split_last() else {
            if entry.kind != Kind::Directory {
                return Err(Error::new(ErrorKind::Malformed, "it replaces the root directory"));
            }
            let attributes = self.attributes(entry)?;
            let clean = self.marks.is_none();
            let metadata = Metadata::Directory { attributes, clean, implicit: false };
            self.metadata.insert(Vec::new(), metadata);
            return Ok(Made::Done);
        };
        let device = matches!(entry.kind, Kind::Character(0, 0));
        if let Some(whiteout) = whiteout::parse(name, device)? {
            // Where there is no directory there is nothing to delete.
            if let Some(parent) = self.find_directory(above, None)? {
                match whiteout {
                    Whiteout::Name(name) => self.white_out(&parent, name)?,
                    Whiteout::Opaque => self.make_opaque(&parent)?,
                    Whiteout::Other => {}
                }
            }
            return Ok(Made::Done);
        }
        let parent = self.directory(above, entry.mtime)?;
        let path = parent.join(name);
        let attributes = self.attributes(entry)?;
        match &entry.kind {
            Kind::Directory => self.make_directory(&parent, name, path, attributes, false)?,
            Kind::File => {
                let file = self.create(&parent, name, &path)?;
                return Ok(Made::File(OpenFile { file, parent, path }));
            }
            Kind::HardLink(target) => self.make_link(&parent, name, path, target, entry.mtime)?,
            Kind::Symlink(target) => {
                self.placing(&parent, name, &path, || {
                    symlinkat(target.as_slice(), &parent.fd, *name)
                })
                .context(|| "make the symbolic link")?;
                self.set_later_or_now(&parent, name, path, attributes, true)?;
            }
            Kind::Fifo => self.make_node(&parent, name, path, attributes, SFlag::S_IFIFO, 0)?,
            Kind::Character(major, minor) => {
                let device = makedev((*major).into(), (*minor).into());
                self.make_node(&parent, name, path, attributes, SFlag::S_IFCHR, device)?;
            }
            Kind::Block(major, minor) => {
                let device = makedev((*major).into(), (*minor).into());
                self.make_node(&parent, name, path, attributes, SFlag::S_IFBLK, device)?;
            }
        }
        Ok(Made::Done)
    }

    /// Sets the attributes of a file whose content is written.
    pub(super) fn close(&mut self, file: OpenFile, entry: &Entry) -> Result<()> {
        let attributes = self.attributes(entry)?;
        self.set_file(&file, attributes)
    }

    fn set_file(&mut self, file: &OpenFile, mut attributes: Attributes) -> Result<()> {
        let OpenFile { file, parent, path } = file;
        if parent.inherits {
            attributes.remove_others(file.as_fd())?;
        }
        let owner = self.owner(parent, &attributes);
        if self.setter.must_wait(owner, &attributes) {
            self.metadata.insert(path.clone(), Metadata::Other { attributes, symlink: false });
            return Ok(());
        }
        self.owners.translate(&mut attributes)?;
        attributes.set(file, owner)
    }

    fn attributes(&self, entry: &Entry) -> Result<Attributes> {
        let mut attributes = Attributes::from(entry);
        self.owners.check(&mut attributes)?;
        Ok(attributes)
    }

    /// The owner that a new file has to be given, as the caller knows it.
    fn owner(&self, parent: &Dir, attributes: &Attributes) -> Option<(u32, u32)> {
        let owner = self.owners.outside(attributes);
        // A directory can hand its group on to what is made in it.
        (owner != self.own || parent.gid != self.own.1).then_some(owner)
    }

    /// The directory of a path, made if it is missing.
    pub(super) fn directory(&mut self, path: &[&[u8]], time: Time) -> Result<Rc<Dir>> {
        let found = self.find_directory(path, Some(time))?;
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, "its directory has gone"))
    }

    /// The directory of a path. If `make` gives a time for it, a missing one is made; else it is only looked for, in
    /// the lower layers too.
    pub(super) fn find_directory(
        &mut self,
        path: &[&[u8]],
        make: Option<Time>,
    ) -> Result<Option<Rc<Dir>>> {
        let key = path.join(&b'/');
        if let Some(known) = self.open.get(&key) {
            return Ok(Some(known.clone()));
        }
        let mut begin = path.len();
        let mut here = loop {
            match begin {
                0 => break self.root.clone(),
                n => match self.open.get(&path[..n - 1].join(&b'/')) {
                    Some(known) if n > 1 => {
                        begin = n - 1;
                        break known.clone();
                    }
                    _ => begin = n - 1,
                },
            }
        };
        let mut ahead: VecDeque<Vec<u8>> = path[begin..].iter().map(|name| name.to_vec()).collect();
        let mut links = 0;
        let mut plain = begin;
        while let Some(name) = ahead.pop_front() {
            if name == b".." {
                here = self.above(&here)?;
                continue;
            }
            match self.step(&here, &name, make)? {
                Step::Missing => return Ok(None),
                Step::Directory(next) => {
                    here = Rc::new(next);
                    if links == 0 {
                        plain += 1;
                        self.keep(path[..plain].join(&b'/'), &here);
                    }
                }
                Step::Link(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::ELOOP).context(|| {
                            format!("follow the link {}", here.join(&name).escape_ascii())
                        });
                    }
                    if target.starts_with(b"/") {
                        here = self.root.clone();
                    }
                    let names = target.split(|&byte| byte == b'/');
                    let names = names.filter(|name| !name.is_empty() && *name != b".");
                    for name in names.rev().map(<[u8]>::to_vec) {
                        ahead.push_front(name);
                    }
                }
            }
        }
        self.keep(key, &here);
        Ok(Some(here))
    }

    fn keep(&mut self, key: Vec<u8>, dir: &Rc<Dir>) {
        if self.open.len() >= OPEN_DIRECTORIES {
            self.open.clear();
        }
        self.open.insert(key, dir.clone());
    }

    fn above(&self, dir: &Dir) -> Result<Rc<Dir>> {
        let Some(slash) = dir.path.iter().rposition(|&byte| byte == b'/') else {
            return Ok(self.root.clone());
        };
        let path = &dir.path[..slash];
        let mut here = self.root.clone();
        for name in path.split(|&byte| byte == b'/') {
            let fd =
                openat(&here.fd, name, HANDLE, Mode::empty()).context(|| "open a directory")?;
            here = Rc::new(self.opened(&here, name, fd)?);
        }
        Ok(here)
    }

    fn opened(&self, parent: &Dir, name: &[u8], fd: OwnedFd) -> Result<Dir> {
        let stat = fstat(&fd).context(|| "stat a directory")?;
        // A new tree has no other lists than those that its top gives it.
        let inherits = if self.marks.is_some() { parent.inherits } else { inherits(&fd)? };
        Ok(Dir { path: parent.join(name), gid: stat.st_gid, inherits, fd })
    }

    fn step(&mut self, here: &Rc<Dir>, name: &[u8], make: Option<Time>) -> Result<Step> {
        let attempt = || format!("open the directory {}", here.join(name).escape_ascii());
        if name.starts_with(whiteout::PREFIX) {
            return Err(Error::new(
                ErrorKind::Malformed,
                format!("{} is the name of a whiteout, not of a directory", name.escape_ascii()),
            ));
        }
        for _ in 0..2 {
            match openat(&here.fd, name, HANDLE, Mode::empty()) {
                Ok(fd) => {
                    let dir = self.opened(here, name, fd)?;
                    if self.marks.is_none() {
                        self.enter(&dir).context(attempt)?;
                    }
                    return Ok(Step::Directory(dir));
                }
                Err(Errno::ENOENT) => {}
                Err(Errno::ENOTDIR | Errno::ELOOP) => match readlinkat(&here.fd, name) {
                    Ok(target) => return Ok(Step::Link(target.into_vec())),
                    Err(_) if self.is_mark(here, name)? => {}
                    Err(_) => return Err(Errno::ENOTDIR).context(attempt),
                },
                Err(errno) => return Err(errno).context(attempt),
            }
            // It is not in this layer.
            let path = here.join(name);
            match make {
                Some(_) => drop(self.passed.insert(path.clone())),
                None => self.depends = true,
            }
            let mut attributes = Attributes::of_missing_directory(make.unwrap_or_default());
            if let Some(lower) = &self.lower
                && !self.is_hidden(&path)
                && let Some(found) = lower.find(&path)?
            {
                match file_type(&found.stat) {
                    SFlag::S_IFDIR => attributes = lower.attributes(&found, &self.owners)?,
                    SFlag::S_IFLNK => return Ok(Step::Link(Lower::target(&found)?)),
                    _ => return Err(Errno::ENOTDIR).context(attempt),
                }
            } else if make.is_none() {
                return Ok(Step::Missing);
            }
            self.make_directory(here, name, path, attributes, true)?;
        }
        Err(Errno::ENOENT).context(attempt)
    }

    /// Begins to make things in a directory that was there before. It becomes the caller's until the end, if it is
    /// not.
    fn enter(&mut self, dir: &Dir) -> Result<()> {
        let stat = fstat(&dir.fd).context(|| "stat the directory")?;
        let writable = self.setter.may_write(&stat, self.own);
        if !self.metadata.contains_key(&dir.path) {
            let metadata = if writable {
                Metadata::Times(mtime(&stat))
            } else {
                let access = self.setter.access();
                let attributes = attributes(&dir.fd, &stat, access, &self.owners)?;
                Metadata::Directory { attributes, clean: false, implicit: true }
            };
            self.metadata.insert(dir.path.clone(), metadata);
        }
        self.setter.access().take_over(&dir.fd)
    }

    /// Whether the lower layers' file at a path is not to be seen.
    pub(super) fn is_hidden(&self, path: &[u8]) -> bool {
        !self.hidden.is_empty()
            && (self.hidden.contains(path)
                || self.hidden.contains(&b""[..])
                || path
                    .iter()
                    .enumerate()
                    .any(|(i, &byte)| byte == b'/' && self.hidden.contains(&path[..i])))
    }

    fn make_directory(
        &mut self,
        parent: &Rc<Dir>,
        name: &[u8],
        path: Vec<u8>,
        attributes: Attributes,
        implicit: bool,
    ) -> Result<()> {
        let mut existed = false;
        loop {
            match mkdirat(&parent.fd, name, Mode::S_IRWXU) {
                Ok(()) => break,
                Err(Errno::EEXIST) if self.is_directory(parent, name)? => {
                    existed = true;
                    break;
                }
                Err(Errno::EEXIST) => self.remove(parent, name, &path)?,
                Err(errno) => return Err(errno).context(|| "make the directory"),
            }
        }
        let at_top = parent.path.is_empty() && self.hidden.contains(&b""[..]);
        if self.hidden.contains(&path) || at_top {
            self.mark_opaque(parent, name)?;
        }
        let clean = existed || parent.inherits;
        self.metadata.insert(path.clone(), Metadata::Directory { attributes, clean, implicit });
        self.record(path);
        Ok(())
    }

    fn create(&mut self, parent: &Rc<Dir>, name: &[u8], path: &[u8]) -> Result<File> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        self.placing(parent, name, path, || openat(&parent.fd, name, flags, mode))
            .map(File::from)
            .context(|| "make the file")
    }

    /// Makes something, in place of what may be there already.
    fn placing<T>(
        &mut self,
        parent: &Rc<Dir>,
        name: &[u8],
        path: &[u8],
        make: impl Fn() -> nix::Result<T>,
    ) -> Result<T> {
        let made = match make() {
            Err(Errno::EEXIST) => {
                self.remove(parent, name, path)?;
                make()
            }
            made => made,
        };
        let made = made.context(|| format!("place {}", path.escape_ascii()))?;
        self.record(path.to_vec());
        Ok(made)
    }

    /// Where whiteouts delete, what the archive has made must be known.
    fn record(&mut self, path: Vec<u8>) {
        if self.marks.is_none() {
            self.made.insert(path);
        }
    }

    fn make_node(
        &mut self,
        parent: &Rc<Dir>,
        name: &[u8],
        path: Vec<u8>,
        attributes: Attributes,
        node: SFlag,
        device: u64,
    ) -> Result<()> {
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let make = || mknodat(&parent.fd, name, node, mode, device);
        match self.placing(parent, name, &path, make) {
            Ok(()) => self.set_later_or_now(parent, name, path, attributes, false),
            Err(err) if node == SFlag::S_IFIFO => Err(err.context("make the fifo")),
            Err(err) if err.raw_os_error() == Some(libc::EPERM) && self.skip_devices => {
                self.leave_out(parent, name, path)
            }
            Err(err) if err.raw_os_error() == Some(libc::EPERM) => {
                Err(err.context("make the device").with_hint(
                    "only root of the host may make devices (CAP_MKNOD): `skip_devices` leaves them out, and a \
                     container gets its devices with its /dev anyway",
                ))
            }
            Err(err) => Err(err.context("make the device")),
        }
    }

    /// Nothing is seen of what the lower layers have there either.
    fn leave_out(&mut self, parent: &Rc<Dir>, name: &[u8], path: Vec<u8>) -> Result<()> {
        self.left_out.insert(path);
        self.white_out(parent, name)
    }

    /// Of anything but files and directories.
    fn set_later_or_now(
        &mut self,
        parent: &Rc<Dir>,
        name: &[u8],
        path: Vec<u8>,
        mut attributes: Attributes,
        symlink: bool,
    ) -> Result<()> {
        let owner = self.owner(parent, &attributes);
        if self.setter.must_wait(owner, &attributes) {
            self.metadata.insert(path, Metadata::Other { attributes, symlink });
            return Ok(());
        }
        self.owners.translate(&mut attributes)?;
        attributes.set_at(&parent.fd, name, owner, symlink, parent.inherits)
    }

    fn make_link(
        &mut self,
        parent: &Rc<Dir>,
        name: &[u8],
        path: Vec<u8>,
        target: &[u8],
        time: Time,
    ) -> Result<()> {
        let shown = target.escape_ascii().to_string();
        let attempt = || format!("make a hard link to {shown}");
        let missing = || {
            let message = format!("{shown} is no file before it in the archive or below it");
            Error::new(ErrorKind::Malformed, message)
        };
        let components = components(target).context(attempt)?;
        let Some((last, above)) = components.split_last() else { return Err(missing()) };
        let from = self.directory(above, time).context(attempt)?;
        let source = from.join(last);
        if source == path {
            return match self.stat(&from, last)? {
                Some(_) => Ok(()),
                None => Err(missing()),
            };
        }
        let there = self.stat(&from, last)?.filter(|stat| !is_whiteout_device(stat));
        match there {
            Some(stat) if is_directory(&stat) => {
                return Err(Error::new(ErrorKind::Malformed, format!("{shown} is a directory")));
            }
            Some(_) => {}
            None if self.left_out.contains(&source) => return self.leave_out(parent, name, path),
            None => self.copy_up(&from, last, &source)?.then_some(()).ok_or_else(missing)?,
        }
        let access = self.setter.access();
        self.placing(parent, name, &path, || {
            let (last, name) = (OsStr::from_bytes(last), OsStr::from_bytes(name));
            access.link(&from.fd, last, &parent.fd, name)
        })
        .context(attempt)?;
        // The first name may yet be taken by another file.
        if let Some(metadata) = self.metadata.get(&source).cloned() {
            self.metadata.insert(path, metadata);
        }
        Ok(())
    }

    /// Copies a file of the lower layers. Returns whether there is one.
    fn copy_up(&mut self, parent: &Rc<Dir>, name: &[u8], path: &[u8]) -> Result<bool> {
        self.depends = true;
        let hidden = self.is_hidden(path);
        let Some(lower) = self.lower.as_ref().filter(|_| !hidden) else { return Ok(false) };
        let Some(found) = lower.find(path)? else { return Ok(false) };
        let mut attributes = lower.attributes(&found, &self.owners)?;
        self.owners.check(&mut attributes)?;
        match file_type(&found.stat) {
            SFlag::S_IFREG => {
                let mut content = lower.content(&found)?;
                let mut file = self.create(parent, name, path)?;
                std::io::copy(&mut content, &mut file)
                    .context(|| "copy the file of the lower layers")?;
                let open = OpenFile { file, parent: parent.clone(), path: path.to_vec() };
                self.set_file(&open, attributes)?;
            }
            SFlag::S_IFLNK => {
                let target = Lower::target(&found)?;
                self.placing(parent, name, path, || {
                    symlinkat(target.as_slice(), &parent.fd, name)
                })?;
                self.set_later_or_now(parent, name, path.to_vec(), attributes, true)?;
            }
            node @ (SFlag::S_IFIFO | SFlag::S_IFCHR | SFlag::S_IFBLK) => {
                let device = found.stat.st_rdev;
                self.make_node(parent, name, path.to_vec(), attributes, node, device)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(super) fn stat(&self, parent: &Dir, name: &[u8]) -> Result<Option<FileStat>> {
        match fstatat(&parent.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => {
                Err(errno).context(|| format!("stat {}", parent.join(name).escape_ascii()))
            }
        }
    }

    fn is_directory(&self, parent: &Dir, name: &[u8]) -> Result<bool> {
        Ok(self.stat(parent, name)?.is_some_and(|stat| is_directory(&stat)))
    }

    fn is_mark(&self, parent: &Dir, name: &[u8]) -> Result<bool> {
        Ok(self.marks.is_some()
            && self.stat(parent, name)?.is_some_and(|stat| is_whiteout_device(&stat)))
    }

    /// Removes what is there, with all below it, to make room.
    pub(super) fn remove(&mut self, parent: &Dir, name: &[u8], path: &[u8]) -> Result<()> {
        self.clear(parent, name, path, false).context(|| "remove what was there before")?;
        self.forget(path);
        Ok(())
    }

    /// What was known about a path that is no more.
    pub(super) fn forget(&mut self, path: &[u8]) {
        let below = [path, b"/"].concat();
        let behind = [path, b"0"].concat();
        self.metadata.remove(path);
        self.made.remove(path);
        let range = (Bound::Included(below), Bound::Excluded(behind));
        for gone in
            self.metadata.range(range.clone()).map(|(path, _)| path.clone()).collect::<Vec<_>>()
        {
            self.metadata.remove(&gone);
        }
        for set in [&mut self.made, &mut self.hidden] {
            for gone in set.range(range.clone()).cloned().collect::<Vec<_>>() {
                set.remove(&gone);
            }
        }
        self.open.clear();
    }

    /// Removes a file, or a directory with what is in it; if `lower`, only what is not of this archive. Two
    /// directories are open at any depth. Returns whether it has gone.
    pub(super) fn clear(
        &mut self,
        parent: &Dir,
        name: &[u8],
        path: &[u8],
        lower: bool,
    ) -> Result<bool> {
        let gone = |result: nix::Result<()>| match result {
            Ok(()) | Err(Errno::ENOENT) => Ok(true),
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(false),
            Err(errno) => Err(errno).context(|| format!("remove {}", path.escape_ascii())),
        };
        let Some(stat) = self.stat(parent, name)? else { return Ok(true) };
        if !is_directory(&stat) {
            if lower && self.made.contains(path) {
                return Ok(false);
            }
            return gone(unlinkat(&parent.fd, name, UnlinkatFlags::NoRemoveDir));
        }
        self.open.clear();
        let list = |dir: &OwnedFd| {
            let flags = (HANDLE - OFlag::O_PATH) | OFlag::O_RDONLY;
            names(openat(dir, ".", flags, Mode::empty()).context(|| "open a directory")?)
        };
        let access = self.setter.access();
        let descend = |dir: &OwnedFd, name: &[u8]| {
            let fd = openat(dir, name, HANDLE, Mode::empty()).context(|| "open a directory")?;
            access.take_over(&fd)?;
            Ok::<_, Error>(fd)
        };
        let mut here = descend(&parent.fd, name)?;
        let mut frames = vec![(name.to_vec(), path.to_vec(), list(&here)?)];
        while let Some((name, path, left)) = frames.last_mut() {
            if let Some(next) = left.pop_last() {
                let next = next.into_vec();
                let below = [path, &b"/"[..], &next].concat();
                let stat = fstatat(&here, next.as_slice(), AtFlags::AT_SYMLINK_NOFOLLOW);
                if stat.is_ok_and(|stat| is_directory(&stat)) {
                    here = descend(&here, &next)?;
                    let left = list(&here)?;
                    frames.push((next, below, left));
                } else if !lower || !self.made.contains(&below) {
                    gone(unlinkat(&here, next.as_slice(), UnlinkatFlags::NoRemoveDir))?;
                }
                continue;
            }
            let (name, path) = (std::mem::take(name), std::mem::take(path));
            frames.pop();
            let above = match frames.is_empty() {
                true => None,
                false => Some(descend(&here, b"..")?),
            };
            let kept = lower && self.made.contains(&path);
            let removed = !kept && {
                let dir = above.as_ref().unwrap_or(&parent.fd);
                gone(unlinkat(dir, name.as_slice(), UnlinkatFlags::RemoveDir))?
            };
            if removed {
                self.metadata.remove(&path);
            } else if !kept {
                // Something of this archive is in it, though it has no entry: as if it had been missing.
                let mtime = match self.metadata.get(&path) {
                    Some(metadata) => metadata.mtime(),
                    None => Time::default(),
                };
                let attributes = Attributes::of_missing_directory(mtime);
                let metadata = Metadata::Directory { attributes, clean: true, implicit: true };
                self.metadata.insert(path, metadata);
            }
            match above {
                Some(above) => here = above,
                None => return Ok(removed),
            }
        }
        Ok(true)
    }
}

fn inherits(directory: &OwnedFd) -> Result<bool> {
    let list = xattr::get(directory.as_fd(), c"system.posix_acl_default");
    Ok(list.context(|| "read the access control list of a directory")?.is_some())
}

/// The names of a path in an archive. Those that lead up are refused, others that lead nowhere left out.
pub(super) fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    if path.is_empty() {
        return Err(Error::new(ErrorKind::Malformed, "it has no name"));
    }
    let names: Vec<_> =
        path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".").collect();
    if names.contains(&&b".."[..]) {
        return Err(Error::new(
            ErrorKind::SafetyViolation,
            format!("the path {} leads out of its directory", path.escape_ascii()),
        ));
    }
    Ok(names)
}
