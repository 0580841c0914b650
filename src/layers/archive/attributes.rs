//! Owner, permissions, times and extended attributes of a file.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmod, fchmodat, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat};

use super::acl::{self, Who};
use super::pax::Time;
use super::reader::{Entry, is_foreign};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::namespaces::IdMap;
use crate::sys::xattr;

/// What a file has besides its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
    pub(super) mtime: Time,
    pub(super) xattrs: Vec<(CString, Vec<u8>)>,
}

impl Attributes {
    /// Of a directory that nothing is said about.
    pub(super) fn of_missing_directory(mtime: Time) -> Self {
        Self { uid: 0, gid: 0, mode: 0o755, mtime, xattrs: Vec::new() }
    }

    /// Sets all of them on an open file. `owner` is to be set, too, as the caller knows the ids.
    ///
    /// The owner comes first, as a change of it takes the special bits and the capabilities away; then what may
    /// need the right to write, then what takes it away. A list changes the bits of the group to what they were.
    pub(super) fn set(&self, file: impl AsFd, owner: Option<(u32, u32)>) -> Result<()> {
        let file = file.as_fd();
        if let Some((uid, gid)) = owner {
            fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .context(|| format!("give it to user {uid} and group {gid}"))
                .map_err(explain_owner)?;
        }
        self.set_xattrs(file, false)?;
        fchmod(file, Mode::from_bits_truncate(self.mode)).context(|| "set its mode")?;
        self.set_xattrs(file, true)?;
        let time = self.mtime.to_timespec();
        futimens(file, &time, &time).context(|| "set its time")
    }

    /// The same on what cannot be opened: a link, fifo or device, which the directory has under this name.
    pub(super) fn set_at(
        &self,
        directory: &OwnedFd,
        name: &[u8],
        owner: Option<(u32, u32)>,
        symlink: bool,
        clean: bool,
    ) -> Result<()> {
        if let Some((uid, gid)) = owner {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            fchownat(directory, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
                .context(|| "set its owner")
                .map_err(explain_owner)?;
        }
        if !symlink || !self.xattrs.is_empty() {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let file = openat(directory, name, flags, Mode::empty()).context(|| "open it")?;
            if clean && !symlink {
                self.remove_others(file.as_fd())?;
            }
            self.set_xattrs(file.as_fd(), false)?;
            if !symlink {
                let link = format!("/proc/self/fd/{}", file.as_raw_fd());
                let mode = Mode::from_bits_truncate(self.mode);
                fchmodat(AT_FDCWD, link.as_str(), mode, FchmodatFlags::FollowSymlink)
                    .context(|| "set its mode")?;
            }
            self.set_xattrs(file.as_fd(), true)?;
        }
        let time = self.mtime.to_timespec();
        utimensat(directory, name, &time, &time, UtimensatFlags::NoFollowSymlink)
            .context(|| "set its time")
    }

    fn set_xattrs(&self, file: BorrowedFd<'_>, lists: bool) -> Result<()> {
        for (name, value) in &self.xattrs {
            if is_list(name) == lists {
                xattr::set(file, name, value)
                    .context(|| format!("set its attribute {name:?}"))
                    .map_err(explain_xattr)?;
            }
        }
        Ok(())
    }

    /// Removes attributes that the file has and should not have.
    pub(super) fn remove_others(&self, file: BorrowedFd<'_>) -> Result<()> {
        for name in xattr::list(file).context(|| "list its attributes")? {
            let bytes = name.to_bytes();
            let ours = !is_foreign(bytes)
                && (!bytes.starts_with(b"security.") || bytes == b"security.capability");
            if ours && !self.xattrs.iter().any(|(other, _)| *other == name) {
                xattr::remove(file, &name).context(|| format!("remove its attribute {name:?}"))?;
            }
        }
        Ok(())
    }
}

impl From<&Entry> for Attributes {
    fn from(entry: &Entry) -> Self {
        Self {
            uid: entry.uid,
            gid: entry.gid,
            mode: entry.mode,
            mtime: entry.mtime,
            xattrs: entry.xattrs.clone(),
        }
    }
}

impl Time {
    pub(super) fn to_timespec(self) -> TimeSpec {
        TimeSpec::new(self.seconds, self.nanoseconds.into())
    }
}

pub(super) fn is_list(name: &CString) -> bool {
    name.to_bytes().starts_with(b"system.posix_acl_")
}

pub(super) fn explain_owner(err: Error) -> Error {
    match err.raw_os_error() {
        Some(libc::EPERM | libc::EINVAL) => err.with_hint(
            "this process may not give files away to that user: without privilege, unpack with a user namespace \
             that has the id, or with `squash_ids`",
        ),
        _ => err,
    }
}

pub(super) fn explain_xattr(err: Error) -> Error {
    match err.raw_os_error() {
        Some(libc::EOPNOTSUPP) => err.with_kind(ErrorKind::Unsupported).with_hint(
            "the file system keeps no such attributes: ext4, xfs and btrfs do, and tmpfs since Linux 6.6",
        ),
        Some(libc::ENOSPC | libc::E2BIG | libc::ERANGE) => err
            .with_kind(ErrorKind::ResourceExhausted)
            .with_hint("file systems limit the attributes of a file: ext4 to one block, 4 KiB"),
        Some(libc::EPERM) => {
            err.with_hint("this process lacks the right to set it, CAP_SETFCAP or CAP_SYS_ADMIN")
        }
        _ => err,
    }
}

/// How the ids of an archive become those of files.
#[derive(Clone, Debug)]
pub(super) struct Owners {
    /// `None` leaves them as they are.
    pub(super) map: Option<IdMap>,
    /// Whether an id that the map does not have becomes root.
    pub(super) squash: bool,
}

impl Owners {
    /// Checks that every id is there, or squashes it. What comes back are still ids inside.
    pub(super) fn check(&self, attributes: &mut Attributes) -> Result<()> {
        let Some(map) = &self.map else { return Ok(()) };
        let squash = self.squash;
        let user = |uid| squashed(map.check_uid(uid).map(|_| uid), squash);
        let group = |gid| squashed(map.check_gid(gid).map(|_| gid), squash);
        attributes.uid = user(attributes.uid)?.unwrap_or(0);
        attributes.gid = group(attributes.gid)?.unwrap_or(0);
        for (name, value) in &mut attributes.xattrs {
            if is_list(name) {
                *value = acl::map_ids(value, |who| match who {
                    Who::User(uid) => user(uid),
                    Who::Group(gid) => group(gid),
                })?;
            }
        }
        Ok(())
    }

    /// The ids as the caller has them, of attributes that passed the check.
    pub(super) fn outside(&self, attributes: &Attributes) -> (u32, u32) {
        let Attributes { uid, gid, .. } = *attributes;
        match &self.map {
            Some(map) => (map.host_uid(uid).unwrap_or(uid), map.host_gid(gid).unwrap_or(gid)),
            None => (uid, gid),
        }
    }

    /// Makes ids inside of the caller's. Ids that are not inside become the kernel's 65534.
    pub(super) fn inside(&self, uid: u32, gid: u32) -> (u32, u32) {
        const NOBODY: u32 = 65_534;
        match &self.map {
            Some(map) => {
                (map.inside_uid(uid).unwrap_or(NOBODY), map.inside_gid(gid).unwrap_or(NOBODY))
            }
            None => (uid, gid),
        }
    }

    /// The values of extended attributes as the caller's kernel takes them.
    pub(super) fn translate(&self, attributes: &mut Attributes) -> Result<()> {
        let Some(map) = &self.map else { return Ok(()) };
        for (name, value) in &mut attributes.xattrs {
            if is_list(name) {
                *value = acl::map_ids(value, |who| {
                    Ok(match who {
                        Who::User(uid) => map.host_uid(uid),
                        Who::Group(gid) => map.host_gid(gid),
                    })
                })?;
            } else if name.to_bytes() == b"security.capability" {
                capability_of_root(value, map.host_uid(0).unwrap_or(0));
            }
        }
        Ok(())
    }

    /// Undoes [`translate`](Self::translate).
    pub(super) fn translate_back(&self, attributes: &mut Attributes) -> Result<()> {
        let Some(map) = &self.map else { return Ok(()) };
        for (name, value) in &mut attributes.xattrs {
            if is_list(name) {
                *value = acl::map_ids(value, |who| {
                    Ok(match who {
                        Who::User(uid) => map.inside_uid(uid),
                        Who::Group(gid) => map.inside_gid(gid),
                    })
                })?;
            } else if name.to_bytes() == b"security.capability" {
                capability_of_all(value, map.host_uid(0).unwrap_or(0));
            }
        }
        Ok(())
    }
}

fn squashed(checked: Result<u32>, squash: bool) -> Result<Option<u32>> {
    match checked {
        Ok(id) => Ok(Some(id)),
        Err(_) if squash => Ok(None),
        Err(err) => Err(err.with_hint(
            "unpack with a user namespace that has the id (for who is not root that needs ranges in /etc/subuid and \
             /etc/subgid), or with `squash_ids`, which makes it root's",
        )),
    }
}

/// `VFS_CAP_REVISION_2` and `VFS_CAP_REVISION_3` of struct vfs_ns_cap_data, and where they stand.
const REVISION: usize = 3;
const REVISION_2: u8 = 2;
const REVISION_3: u8 = 3;
const SIZE_2: usize = 20;
const SIZE_3: usize = 24;

/// Makes capabilities of the host's root those of another user namespace's, which has this user as root.
fn capability_of_root(value: &mut Vec<u8>, root: u32) {
    if value.len() == SIZE_2 && value[REVISION] == REVISION_2 {
        value[REVISION] = REVISION_3;
        value.extend(root.to_le_bytes());
    }
}

fn capability_of_all(value: &mut Vec<u8>, root: u32) {
    if value.len() == SIZE_3
        && value[REVISION] == REVISION_3
        && value[SIZE_2..] == root.to_le_bytes()
    {
        value[REVISION] = REVISION_2;
        value.truncate(SIZE_2);
    }
}
