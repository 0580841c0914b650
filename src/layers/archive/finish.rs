//! What is set once everything is there: attributes of directories, in which nothing may be made any more
//! afterwards, and whatever needs the rights of a user namespace.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FileStat, Mode, futimens};

use super::attributes::{Attributes, explain_owner, explain_xattr, is_list};
use super::pax::Time;
use super::reader::is_foreign;
use super::tree::Tree;
use crate::error::{Context, Result};
use crate::layers::access::Access;
use crate::layers::overlay::join;
use crate::namespaces::UserNamespace;
use crate::sys::worker::Worker;
use crate::sys::xattr;

/// How many files are opened for one process in the user namespace.
const BATCH: usize = 64;
/// Longer paths the kernel does not take.
const LONGEST_PATH: usize = 4000;

/// Who sets the attributes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Setter<'a> {
    /// The caller, at once.
    Caller,
    /// Root of this namespace, in the end, unless the caller can.
    Namespace(&'a UserNamespace),
}

impl Setter<'_> {
    /// Whether the attributes cannot be set by the caller. `owner` is to be set, too.
    pub(super) fn must_wait(&self, owner: Option<(u32, u32)>, attributes: &Attributes) -> bool {
        let privileged =
            |name: &[u8]| name.starts_with(b"security.") || name.starts_with(b"system.");
        matches!(self, Self::Namespace(_))
            && (owner.is_some()
                || attributes.xattrs.iter().any(|(name, _)| privileged(name.to_bytes())))
    }
}

impl<'a> Setter<'a> {
    /// Whether the caller may make and remove files in a directory.
    pub(super) fn may_write(&self, stat: &FileStat, own: (u32, u32)) -> bool {
        const ALL: u32 = 0o700;
        match self {
            Self::Caller => true,
            Self::Namespace(_) => stat.st_uid == own.0 && stat.st_mode & ALL == ALL,
        }
    }

    /// The rights to use other users' files.
    pub(super) fn access(&self) -> Access<'a> {
        match *self {
            Self::Caller => Access(None),
            Self::Namespace(namespace) => Access(Some(namespace)),
        }
    }
}

/// What is still to be set on a file.
#[derive(Clone, Debug)]
pub(super) enum Metadata {
    Directory {
        attributes: Attributes,
        /// Whether it may have other attributes, to be removed.
        clean: bool,
        /// Whether no entry says anything about it.
        implicit: bool,
    },
    /// A directory of the lower layers in which something was made.
    Times(Time),
    Other {
        attributes: Attributes,
        symlink: bool,
    },
}

impl Metadata {
    pub(super) fn mtime(&self) -> Time {
        match self {
            Self::Directory { attributes, .. } | Self::Other { attributes, .. } => attributes.mtime,
            Self::Times(mtime) => *mtime,
        }
    }

    /// Forgets what a directory has got from the lower layers alone.
    pub(super) fn reset_implicit(&mut self) {
        if let Self::Directory { attributes, implicit: true, .. } = self {
            *attributes = Attributes::of_missing_directory(attributes.mtime);
        }
    }
}

/// Something to be set by root of the namespace.
struct Job<'t> {
    file: OwnedFd,
    path: &'t [u8],
    metadata: &'t Metadata,
}

impl Tree<'_> {
    /// Sets what has been left for the end, files before the directories they are in.
    pub(super) fn finish(self) -> Result<()> {
        let mut jobs: Vec<Job<'_>> = Vec::new();
        let is_other = |metadata: &Metadata| matches!(metadata, Metadata::Other { .. });
        let others = self.metadata.iter().rev().filter(|(_, metadata)| is_other(metadata));
        let directories = self.metadata.iter().rev().filter(|(_, metadata)| !is_other(metadata));
        for (path, metadata) in others.chain(directories) {
            let attempt = || format!("set the attributes of {}", shown(path));
            match self.setter {
                Setter::Namespace(_) if self.needs_namespace(metadata) => {
                    let file = self.open(path, OFlag::O_PATH).context(attempt)?;
                    jobs.push(Job { file, path, metadata });
                    if jobs.len() == BATCH {
                        self.run(&jobs)?;
                        jobs.clear();
                    }
                }
                _ => self.set(path, metadata).context(attempt)?,
            }
        }
        self.run(&jobs)
    }

    fn needs_namespace(&self, metadata: &Metadata) -> bool {
        match metadata {
            Metadata::Directory { attributes, .. } => {
                let owner = self.owners.outside(attributes);
                self.marks.is_none()
                    || self.setter.must_wait((owner != self.own).then_some(owner), attributes)
            }
            // They may be another user's.
            Metadata::Times(_) | Metadata::Other { .. } => true,
        }
    }

    /// Sets attributes of a directory with the caller's rights.
    fn set(&self, path: &[u8], metadata: &Metadata) -> Result<()> {
        let directory = self.open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        match metadata {
            Metadata::Times(time) => {
                let time = time.to_timespec();
                futimens(&directory, &time, &time).context(|| "set its time")
            }
            Metadata::Directory { attributes, clean, .. } => {
                if *clean {
                    attributes.remove_others(directory.as_fd())?;
                }
                let mut attributes = attributes.clone();
                self.owners.translate(&mut attributes)?;
                let owner = self.owners.outside(&attributes);
                attributes.set(&directory, Some(owner))
            }
            Metadata::Other { .. } => Ok(()),
        }
    }

    /// Sets attributes with the rights of the namespace's root, of many files at a time.
    fn run(&self, jobs: &[Job<'_>]) -> Result<()> {
        let Setter::Namespace(namespace) = self.setter else { return Ok(()) };
        if jobs.is_empty() {
            return Ok(());
        }
        let mut worker = Worker::new();
        join(&mut worker, namespace)?;
        for job in jobs {
            job.add_to(&mut worker)?;
        }
        match worker.run() {
            Ok(_) => Ok(()),
            // Again, to find out which it is.
            Err(_) if jobs.len() > 1 => {
                jobs.iter().try_for_each(|job| self.run(std::slice::from_ref(job)))
            }
            Err(err) => {
                let is_xattr = err.call.contains("xattr");
                let explain = if is_xattr { explain_xattr } else { explain_owner };
                let name = shown(jobs[0].path);
                Err(err).context(|| format!("set the attributes of {name}")).map_err(explain)
            }
        }
    }

    fn open(&self, path: &[u8], flags: OFlag) -> Result<OwnedFd> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        beneath(&self.root().fd, path, flags).context(|| "open it")
    }
}

impl Job<'_> {
    fn add_to<'a>(&'a self, worker: &mut Worker<'a>) -> Result<()> {
        let file = self.file.as_fd();
        let (attributes, clean, symlink) = match self.metadata {
            Metadata::Times(time) => {
                worker.set_times(file, time.seconds, time.nanoseconds);
                return Ok(());
            }
            Metadata::Directory { attributes, clean, .. } => (attributes, *clean, false),
            Metadata::Other { attributes, symlink } => (attributes, false, *symlink),
        };
        worker.set_owner(file, attributes.uid, attributes.gid);
        if clean {
            for name in xattr::list(file).context(|| "list its attributes")? {
                if !is_foreign(name.to_bytes())
                    && !attributes.xattrs.iter().any(|(other, _)| *other == name)
                {
                    worker.remove_attribute(file, &name);
                }
            }
        }
        attributes.set_by(worker, file, symlink);
        Ok(())
    }
}

impl Attributes {
    /// What is set once the owner is, in the order of [`set`](Self::set).
    pub(super) fn set_by<'a>(&self, worker: &mut Worker<'a>, file: BorrowedFd<'a>, symlink: bool) {
        let set_xattrs = |worker: &mut Worker<'a>, lists| {
            for (name, value) in &self.xattrs {
                if is_list(name) == lists {
                    worker.set_attribute(file, name, value);
                }
            }
        };
        set_xattrs(worker, false);
        if !symlink {
            worker.set_mode(file, self.mode);
        }
        set_xattrs(worker, true);
        worker.set_times(file, self.mtime.seconds, self.mtime.nanoseconds);
    }
}

/// Opens a path of real directories.
fn beneath(root: &OwnedFd, path: &[u8], flags: OFlag) -> nix::Result<OwnedFd> {
    if path.is_empty() {
        return openat(root, ".", flags, Mode::empty());
    }
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let how = OpenHow::new().flags(flags).resolve(resolve);
    for _ in 0..128 {
        if path.len() > LONGEST_PATH {
            break;
        }
        match openat2(root, path, how) {
            // A rename elsewhere on the machine.
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(Errno::ENOSYS) => break,
            opened => return opened,
        }
    }
    let step = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut here = openat(root, ".", step, Mode::empty())?;
    let mut names = path.split(|&byte| byte == b'/').peekable();
    while let Some(name) = names.next() {
        let flags = if names.peek().is_some() { step } else { flags };
        here = openat(&here, name, flags, Mode::empty())?;
    }
    Ok(here)
}

fn shown(path: &[u8]) -> String {
    match path {
        [] => "the root directory".into(),
        path => path.escape_ascii().to_string(),
    }
}
