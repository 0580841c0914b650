//! Archives become files of a tree that is in use, by a running container or by the host.
//!
//! Nothing is believed of the tree: every directory on the way is opened by its name, never through a symbolic link, and
//! what has been made is known by its descriptor from then on. What is done is done as root of the container, who can be
//! led nowhere that he could not go himself.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::BufRead;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, SFlag, fstat, makedev};

use super::attributes::{Attributes, Owners, is_list};
use super::limits::ArchiveLimits;
use super::pax::Time;
use super::reader::{Entry, Kind, Reader};
use super::tree::components;
use super::unpack::{explain, fill};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layers::access::Access;
use crate::layers::cursor::{file_type, is_directory, is_kernels};
use crate::layers::directory::{HANDLE, Identity};
use crate::layers::overlay::join;
use crate::namespaces::UserNamespace;
use crate::sys::worker::{Slot, Worker};

/// How many files are kept open until their attributes are set, by one process in the user namespace.
const BATCH: usize = 64;
/// How often another may take a name before this one gives up.
const MOST_TRIES: usize = 16;

/// Whose the files become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NewOwner {
    /// Whose the archive says.
    Kept,
    Root,
    /// The caller's, on the host: what would have power there, in files that a container has made, is left out: devices,
    /// set-id bits and capabilities.
    Caller,
}

/// Unpacks an archive into a directory of a tree that is in use.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    /// That of the container. Its root does it all. Without one the caller does.
    pub(crate) namespace: Option<&'a UserNamespace>,
    pub(crate) owner: NewOwner,
}

/// What has been placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    /// Devices that root of the container may not make, or that are not to be on the host.
    pub(crate) left_out: u64,
}

impl Place<'_> {
    /// Reads the archive to its end. What is placed until an error stays.
    pub(crate) fn run(&self, archive: impl BufRead, directory: OwnedFd) -> Result<Placed> {
        let map = self.namespace.map(|namespace| {
            let unknown = || Error::invalid("the ids of the user namespace are not known");
            namespace.map().cloned().ok_or_else(unknown)
        });
        let mut placing = Placing {
            owners: Owners { map: map.transpose()?, squash: false },
            place: self,
            here: (Vec::new(), directory.try_clone().context(|| "duplicate a descriptor")?),
            top: directory,
            open: Vec::new(),
            directories: Vec::new(),
            left_out: 0,
        };
        let mut archive = Reader::new(archive, ArchiveLimits::new());
        while let Some(entry) = archive.next()? {
            placing.make(&mut archive, &entry).map_err(|err| explain(err, &entry))?;
        }
        placing.finish()?;
        let (entries, bytes) = archive.totals();
        Ok(Placed { entries, bytes, left_out: placing.left_out })
    }
}

struct Placing<'a> {
    place: &'a Place<'a>,
    owners: Owners,
    top: OwnedFd,
    /// The directory of the last entry: its path and itself.
    here: (Vec<u8>, OwnedFd),
    /// What is still to get its attributes.
    open: Vec<Made>,
    /// These get them in the end, as what is made in them changes their times.
    directories: Vec<Directory>,
    left_out: u64,
}

struct Made {
    path: Vec<u8>,
    file: OwnedFd,
    attributes: Attributes,
    symlink: bool,
}

struct Directory {
    path: Vec<u8>,
    identity: Identity,
    attributes: Attributes,
}

impl Placing<'_> {
    fn make(&mut self, archive: &mut Reader<impl BufRead>, entry: &Entry) -> Result<()> {
        let components = components(&entry.path)?;
        let Some((name, above)) = components.split_last() else {
            // The directory itself is there already, and stays as it is.
            return match entry.kind {
                Kind::Directory => Ok(()),
                _ => Err(Error::new(ErrorKind::Malformed, "it replaces the directory itself")),
            };
        };
        self.enter(above, entry.mtime)?;
        let path = components.join(&b'/');
        let attributes = self.attributes(entry)?;
        let made = match &entry.kind {
            Kind::Directory => return self.make_directory(name, path, attributes),
            Kind::File => {
                let mut file = File::from(self.create(name)?);
                fill(archive, &mut file, entry)?;
                Some(file.into())
            }
            Kind::HardLink(target) => {
                self.make_link(name, target)?;
                None
            }
            Kind::Symlink(target) => Some(self.make_symlink(name, target)?),
            Kind::Fifo => self.make_node(name, SFlag::S_IFIFO, 0)?,
            Kind::Character(major, minor) => {
                self.make_node(name, SFlag::S_IFCHR, makedev((*major).into(), (*minor).into()))?
            }
            Kind::Block(major, minor) => {
                self.make_node(name, SFlag::S_IFBLK, makedev((*major).into(), (*minor).into()))?
            }
        };
        if let Some(file) = made {
            let symlink = matches!(entry.kind, Kind::Symlink(_));
            self.open.push(Made { path, file, attributes, symlink });
            if self.open.len() == BATCH {
                self.settle()?;
            }
        }
        Ok(())
    }

    fn attributes(&self, entry: &Entry) -> Result<Attributes> {
        let mut attributes = Attributes::from(entry);
        if self.place.owner == NewOwner::Kept {
            self.owners.check(&mut attributes)?;
            return Ok(attributes);
        }
        (attributes.uid, attributes.gid) = (0, 0);
        // They name users.
        attributes.xattrs.retain(|(name, _)| !is_list(name));
        if self.place.owner == NewOwner::Caller {
            const SET_IDS: u32 = 0o6000;
            attributes.mode &= !SET_IDS;
            attributes.xattrs.retain(|(name, _)| name.to_bytes().starts_with(b"user."));
        }
        Ok(attributes)
    }

    fn access(&self) -> Access<'_> {
        Access(self.place.namespace)
    }

    /// Goes to a directory, which is made where it is missing.
    fn enter(&mut self, names: &[&[u8]], time: Time) -> Result<()> {
        let path = names.join(&b'/');
        if self.here.0 == path {
            return Ok(());
        }
        let mut on_the_way = self.here.0.clone();
        let below = path.strip_prefix(on_the_way.as_slice()).is_some_and(|it| it.starts_with(b"/"));
        if !on_the_way.is_empty() && !below {
            on_the_way.clear();
            self.here = (Vec::new(), self.top.try_clone().context(|| "duplicate a descriptor")?);
        }
        let known = on_the_way.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).count();
        for name in &names[known..] {
            if !on_the_way.is_empty() {
                on_the_way.push(b'/');
            }
            on_the_way.extend_from_slice(name);
            let directory = match self.step(name)? {
                Some(directory) => directory,
                None => {
                    let attributes = Attributes::of_missing_directory(time);
                    self.make_directory(name, on_the_way.clone(), attributes)?;
                    let gone = || Error::new(ErrorKind::NotFound, "its directory has gone");
                    self.step(name)?.ok_or_else(gone)?
                }
            };
            self.here = (on_the_way.clone(), directory);
        }
        Ok(())
    }

    /// The directory of this name, here.
    fn step(&self, name: &[u8]) -> Result<Option<OwnedFd>> {
        let attempt = || format!("open the directory {}", name.escape_ascii());
        let directory = match self.access().open(&self.here.1, OsStr::from_bytes(name), HANDLE) {
            Ok(directory) => directory,
            Err(Errno::ENOENT) => return Ok(None),
            Err(Errno::ENOTDIR | Errno::ELOOP) => {
                return Err(Errno::ENOTDIR).context(attempt).map_err(|err| {
                    err.with_hint("where it is copied to, a file or a symbolic link has that name")
                });
            }
            Err(errno) => return Err(errno).context(attempt),
        };
        match is_kernels(&directory).context(attempt)? {
            true => Err(Error::unsupported("it is on a file system of the kernel, such as proc")
                .context(attempt())),
            false => Ok(Some(directory)),
        }
    }

    fn stat(&self, name: &[u8]) -> Result<Option<FileStat>> {
        match self.access().stat(&self.here.1, OsStr::from_bytes(name)) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno).context(|| "look at what is there"),
        }
    }

    fn make_directory(&mut self, name: &[u8], path: Vec<u8>, attributes: Attributes) -> Result<()> {
        const PRIVATE: u32 = 0o700;
        let c_name = c_string(name)?;
        let made = self.as_root(|worker, here| {
            worker.mkdir(here, c_name.clone(), PRIVATE);
            None
        });
        match made {
            Ok(_) => {}
            Err(err) if err.raw_os_error() == Some(libc::EEXIST) => {
                if self.stat(name)?.is_some_and(|stat| !is_directory(&stat)) {
                    return Err(Error::new(
                        ErrorKind::AlreadyExists,
                        "it is a directory, and cannot replace what is there and is none",
                    ));
                }
            }
            Err(err) => return Err(err.context("make the directory")),
        }
        let Some(directory) = self.step(name)? else {
            return Err(Error::new(ErrorKind::Busy, "it was removed at once"));
        };
        let identity = Identity::of(&directory).context(|| "stat the directory")?;
        self.directories.push(Directory { path, identity, attributes });
        Ok(())
    }

    fn create(&self, name: &[u8]) -> Result<OwnedFd> {
        const PRIVATE: u32 = 0o600;
        self.placing(name, |worker, here, name| Some(worker.create(here, name, PRIVATE)))
            .context(|| "make the file")
    }

    fn make_symlink(&self, name: &[u8], target: &[u8]) -> Result<OwnedFd> {
        let target = c_string(target)?;
        let made = self.placing(name, |worker, here, name| {
            worker.symlink(target.clone(), here, name.clone());
            Some(worker.open(here, name, (OFlag::O_PATH | OFlag::O_NOFOLLOW).bits()))
        });
        let made = made.context(|| "make the symbolic link")?;
        self.expect(&made, SFlag::S_IFLNK)?;
        Ok(made)
    }

    fn make_node(&mut self, name: &[u8], kind: SFlag, device: u64) -> Result<Option<OwnedFd>> {
        const PRIVATE: u32 = 0o600;
        let is_device = kind != SFlag::S_IFIFO;
        if is_device && self.place.owner == NewOwner::Caller {
            self.left_out += 1;
            return Ok(None);
        }
        let made = self.placing(name, |worker, here, name| {
            worker.mknod(here, name.clone(), kind.bits() | PRIVATE, device);
            Some(worker.open(here, name, (OFlag::O_PATH | OFlag::O_NOFOLLOW).bits()))
        });
        match made {
            Err(err) if is_device && err.raw_os_error() == Some(libc::EPERM) => {
                self.left_out += 1;
                Ok(None)
            }
            made => {
                let made = made.context(|| "make the device or fifo")?;
                self.expect(&made, kind)?;
                Ok(Some(made))
            }
        }
    }

    /// That nobody has put something else in the place of what was just made.
    fn expect(&self, made: &OwnedFd, kind: SFlag) -> Result<()> {
        let stat = fstat(made).context(|| "stat it")?;
        match file_type(&stat) == kind {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Busy, "it was replaced at once")),
        }
    }

    fn make_link(&mut self, name: &[u8], target: &[u8]) -> Result<()> {
        let shown = target.escape_ascii().to_string();
        let attempt = || format!("make a hard link to {shown}");
        let components = components(target).context(attempt)?;
        let Some((last, above)) = components.split_last() else {
            return Err(Error::new(ErrorKind::Malformed, "a directory has one name"))
                .context(attempt);
        };
        let mut from = self.top.try_clone().context(|| "duplicate a descriptor")?;
        for name in above {
            let next = self.access().open(&from, OsStr::from_bytes(name), HANDLE);
            from = next.context(attempt)?;
        }
        let same = self.access().stat(&from, OsStr::from_bytes(last)).ok();
        if let (Some(source), Some(there)) = (same, self.stat(name)?)
            && (source.st_dev, source.st_ino) == (there.st_dev, there.st_ino)
        {
            return Ok(());
        }
        let last = c_string(last)?;
        self.placing(name, |worker, here, name| {
            worker.link(from.as_fd(), last.clone(), here, name.clone());
            Some(worker.open(here, name, (OFlag::O_PATH | OFlag::O_NOFOLLOW).bits()))
        })
        .map(drop)
        .context(attempt)
    }

    /// Makes something, in place of what may be there already and is no directory, and opens it.
    fn placing<'w>(
        &'w self,
        name: &[u8],
        make: impl Fn(&mut Worker<'w>, BorrowedFd<'w>, CString) -> Option<Slot>,
    ) -> Result<OwnedFd> {
        let c_name = c_string(name)?;
        for _ in 0..MOST_TRIES {
            match self.as_root(|worker, here| make(worker, here, c_name.clone())) {
                Err(err) if err.raw_os_error() == Some(libc::EEXIST) => {}
                made => {
                    return made?.ok_or_else(|| Error::unsupported("the kernel opened no file"));
                }
            }
            if self.stat(name)?.is_some_and(|stat| is_directory(&stat)) {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    "it is no directory, and cannot replace the one that is there",
                ));
            }
            // To remove it would unmount it where the container has it.
            if self.access().is_mounted(&self.here.1, OsStr::from_bytes(name)) {
                return Err(Error::new(ErrorKind::Busy, "it is mounted there, from elsewhere")
                    .with_hint(
                        "it can be written to by a program in the container, not replaced",
                    ));
            }
            let removed = self.as_root(|worker, here| {
                worker.unlink(here, c_name.clone());
                None
            });
            match removed {
                Err(err) if err.raw_os_error() != Some(libc::ENOENT) => {
                    return Err(err.context("remove what was there before"));
                }
                _ => {}
            }
        }
        Err(Error::new(ErrorKind::Busy, "others keep making something of that name"))
    }

    /// Has root of the container make calls in the directory that this is at.
    fn as_root<'w>(
        &'w self,
        calls: impl FnOnce(&mut Worker<'w>, BorrowedFd<'w>) -> Option<Slot>,
    ) -> Result<Option<OwnedFd>> {
        let mut worker = self.worker()?;
        let slot = calls(&mut worker, self.here.1.as_fd());
        let mut opened =
            worker.run().context(|| "do it as root of the container").map_err(|err| {
                match err.raw_os_error() {
                    Some(libc::EROFS) => {
                        err.with_hint("it is read-only where the container has it")
                    }
                    _ => err,
                }
            })?;
        Ok(slot.and_then(|slot| opened.take(slot)))
    }

    fn worker<'w>(&'w self) -> Result<Worker<'w>> {
        let mut worker = Worker::new();
        if let Some(namespace) = self.place.namespace {
            join(&mut worker, namespace)?;
        }
        Ok(worker)
    }

    /// Gives attributes to what is made.
    fn settle(&mut self) -> Result<()> {
        let made = std::mem::take(&mut self.open);
        self.set(&made)
    }

    fn set(&self, made: &[Made]) -> Result<()> {
        if made.is_empty() {
            return Ok(());
        }
        let mut worker = self.worker()?;
        for Made { file, attributes, symlink, .. } in made {
            if self.place.owner != NewOwner::Caller {
                worker.set_owner(file.as_fd(), attributes.uid, attributes.gid);
            }
            attributes.set_by(&mut worker, file.as_fd(), *symlink);
        }
        match worker.run() {
            Ok(_) => Ok(()),
            // Again, to find out which it is.
            Err(_) if made.len() > 1 => {
                made.iter().try_for_each(|one| self.set(std::slice::from_ref(one)))
            }
            Err(err) => {
                let path = made[0].path.escape_ascii().to_string();
                let err = Err(err).context(|| format!("set the attributes of {path}"));
                err.map_err(|err| match (err.raw_os_error(), self.place.owner) {
                    (Some(libc::EPERM | libc::EINVAL), NewOwner::Kept) => err.with_hint(
                        "only root may give files away, on the host or in the container: do not ask for their ids to be kept",
                    ),
                    _ => err,
                })
            }
        }
    }

    /// Gives the directories their attributes, those in others first.
    fn finish(&mut self) -> Result<()> {
        self.settle()?;
        for Directory { path, identity, attributes } in
            std::mem::take(&mut self.directories).into_iter().rev()
        {
            let mut file = self.top.try_clone().context(|| "duplicate a descriptor")?;
            let mut there = true;
            for name in path.split(|&byte| byte == b'/') {
                match self.access().open(&file, OsStr::from_bytes(name), HANDLE) {
                    Ok(next) => file = next,
                    // Moved or removed since, by whoever uses the tree.
                    Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {
                        there = false;
                        break;
                    }
                    Err(errno) => return Err(errno).context(|| "open a directory again"),
                }
            }
            if there && Identity::of(&file).context(|| "stat a directory")? == identity {
                self.open.push(Made { path, file, attributes, symlink: false });
            }
            if self.open.len() == BATCH {
                self.settle()?;
            }
        }
        self.settle()
    }
}

fn c_string(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| Error::new(ErrorKind::Malformed, "a name contains a NUL byte"))
}
