//! What a file has beside its content: owner, mode, times and extended attributes, from one file to another.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, getegid, geteuid};

use crate::error::{Context, Error, Result};
use crate::layers::access::Access;
use crate::layers::cursor::file_type;
use crate::layers::overlay::join;
use crate::namespaces::UserNamespace;
use crate::sys::worker::Worker;
use crate::sys::xattr;

/// How many files wait, with a descriptor each, to be given to their owners at once.
const BATCH: usize = 64;

const CAPABILITY: &CStr = c"security.capability";

/// Which of the overlay's own marks a copy keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marks {
    /// Whiteouts and opaque directories: the copy is a layer as well.
    Keep,
    /// None: the copy is a whole tree.
    Drop,
}

/// Gives files owners, modes, times and attributes.
///
/// Who has no privilege may only make files of his own; those of his subordinate ids are given to them
/// within the user namespace, many at a time.
#[derive(Debug)]
pub(super) struct Attributes<'a> {
    access: Access<'a>,
    marks: Marks,
    pending: Vec<Pending>,
}

#[derive(Debug)]
struct Pending {
    file: OwnedFd,
    /// As the namespace knows them.
    owner: (u32, u32),
    /// Unless it is a symbolic link.
    mode: Option<u32>,
    capability: Option<Vec<u8>>,
}

impl<'a> Attributes<'a> {
    pub(super) fn new(access: Access<'a>, marks: Marks) -> Self {
        Self { access, marks, pending: Vec::new() }
    }

    /// Gives `to` all that `from` has, as its `stat` says. Both may be open with `O_PATH`. Nothing may be done
    /// to `to` afterwards.
    pub(super) fn copy(&mut self, from: &OwnedFd, stat: &FileStat, to: OwnedFd) -> Result<()> {
        let link = file_type(stat) == SFlag::S_IFLNK;
        let mode = (!link).then_some(stat.st_mode & !SFlag::S_IFMT.bits());
        let Some(namespace) = self.access.0 else {
            let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            fchownat(&to, "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)
                .context(|| "give it its owner")?;
            // After the owner, which takes the set-id bits and capabilities away.
            if let Some(mode) = mode {
                chmod(&to, mode)?;
            }
            for (name, value) in self.extended(from)? {
                set_extended(&to, &name, &value)?;
            }
            return set_times(&to, stat);
        };
        let mut capability = None;
        for (name, value) in self.extended(from)? {
            if name.as_c_str() == CAPABILITY {
                capability = Some(without_root_id(value));
            } else {
                set_extended(&to, &name, &value)?;
            }
        }
        set_times(&to, stat)?;
        let own = (stat.st_uid, stat.st_gid) == (geteuid().as_raw(), getegid().as_raw());
        if own && capability.is_none() {
            return mode.map_or(Ok(()), |mode| chmod(&to, mode));
        }
        let owner = inside(namespace, stat)?;
        self.pending.push(Pending { file: to, owner, mode, capability });
        if self.pending.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    /// Gives the files that wait to their owners.
    pub(super) fn flush(&mut self) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        let Some(namespace) = self.access.0.filter(|_| !pending.is_empty()) else { return Ok(()) };
        let mut worker = Worker::new();
        join(&mut worker, namespace)?;
        for Pending { file, owner, mode, capability } in &pending {
            worker.set_owner(file.as_fd(), owner.0, owner.1);
            if let Some(mode) = mode {
                worker.set_mode(file.as_fd(), *mode);
            }
            if let Some(capability) = capability {
                worker.set_attribute(file.as_fd(), CAPABILITY, capability);
            }
        }
        worker.run().map(drop).context(|| "give files to their owners")
    }

    /// The extended attributes that a copy of `file` gets.
    pub(super) fn extended(&self, file: &OwnedFd) -> Result<Vec<(CString, Vec<u8>)>> {
        let mut found = Vec::new();
        for name in xattr::list(file.as_fd()).context(|| "list its attributes")? {
            if !self.keeps(name.to_bytes()) {
                continue;
            }
            if let Some(value) = self.access.attribute(file, &[&name])? {
                found.push((name, value));
            }
        }
        Ok(found)
    }

    fn keeps(&self, name: &[u8]) -> bool {
        if let Some(mark) = name.strip_prefix(overlay_prefix(self.access)) {
            return self.marks == Marks::Keep && matches!(mark, b"opaque" | b"whiteout");
        }
        // The host's security modules label files themselves, and the unprivileged see trusted ones not.
        !name.starts_with(b"security.") || name == CAPABILITY.to_bytes()
    }
}

/// Where the overlay keeps its marks.
pub(super) fn overlay_prefix(access: Access<'_>) -> &'static [u8] {
    if access.0.is_some() { b"user.overlay." } else { b"trusted.overlay." }
}

/// Gives `to` all that `from` has, as `stat` says.
pub(in crate::layers) fn copy_attributes(
    from: &OwnedFd,
    stat: &FileStat,
    to: OwnedFd,
    access: Access<'_>,
) -> Result<()> {
    let mut attributes = Attributes::new(access, Marks::Drop);
    attributes.copy(from, stat, to)?;
    attributes.flush()
}

fn inside(namespace: &UserNamespace, stat: &FileStat) -> Result<(u32, u32)> {
    let map = namespace.map();
    let ids = map.and_then(|map| map.inside_uid(stat.st_uid).zip(map.inside_gid(stat.st_gid)));
    ids.ok_or_else(|| {
        let (uid, gid) = (stat.st_uid, stat.st_gid);
        Error::unsupported(format!("its owner {uid}:{gid} is not one of this user's ids"))
            .with_hint(
                "the ids that /etc/subuid and /etc/subgid grant have changed since it was made",
            )
    })
}

fn chmod(file: &OwnedFd, mode: u32) -> Result<()> {
    // fchmod(2) takes no O_PATH descriptors.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mode = Mode::from_bits_truncate(mode);
    fchmodat(AT_FDCWD, path.as_str(), mode, FchmodatFlags::FollowSymlink).context(|| "set its mode")
}

fn set_extended(file: &OwnedFd, name: &CStr, value: &[u8]) -> Result<()> {
    xattr::set(file.as_fd(), name, value)
        .context(|| format!("set its attribute {}", name.to_string_lossy()))
        .map_err(|err| match err.raw_os_error() {
            Some(libc::EOPNOTSUPP) => err.with_hint(
                "the file system of the copy has no such attributes: ext4, xfs and btrfs have",
            ),
            _ => err,
        })
}

/// Times of access and of the last change.
fn set_times(file: &OwnedFd, stat: &FileStat) -> Result<()> {
    let accessed = TimeSpec::new(stat.st_atime, stat.st_atime_nsec);
    let modified = TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec);
    // By the path of the descriptor, which leads to a symbolic link itself.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    utimensat(AT_FDCWD, path.as_str(), &accessed, &modified, UtimensatFlags::FollowSymlink)
        .context(|| "set its times")
}

/// Makes capabilities for the root of one user namespace (version 3) those for the root of whichever sets
/// them (version 2), in whose namespace the kernel makes them version 3 again; see capabilities(7).
fn without_root_id(mut value: Vec<u8>) -> Vec<u8> {
    const REVISION_2: u8 = 2;
    const REVISION_3: u8 = 3;
    const LENGTH_2: usize = 20;
    // The revision is the highest byte of a little-endian word.
    if value.len() > LENGTH_2 && value.get(3) == Some(&REVISION_3) {
        value.truncate(LENGTH_2);
        if let Some(revision) = value.get_mut(3) {
            *revision = REVISION_2;
        }
    }
    value
}
