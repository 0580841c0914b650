//! A walk through a tree that may be the work of a hostile container.

use std::collections::BTreeSet;
use std::ffi::{CStr, OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, SFlag};
use nix::sys::statfs::{self, FsType, fstatfs};

use super::access::Access;
use super::directory::Identity;
use crate::error::{Context, Error, ErrorKind, Result};

/// A position in a tree: goes down by name without following a link or, by default, entering another mount, and up no
/// higher than where it began. Holds one descriptor at any depth.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    pub(super) access: Access<'a>,
    /// The directory it is at, open for reading.
    pub(super) here: OwnedFd,
    above: Vec<Identity>,
    /// Whether it enters what is mounted below.
    across: bool,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(root: OwnedFd, access: Access<'a>) -> Self {
        Self { access, here: root, above: Vec::new(), across: false }
    }

    /// One that enters other mounts, too.
    #[cfg(feature = "container")]
    pub(super) fn across_mounts(self) -> Self {
        Self { across: true, ..self }
    }

    /// Enters a directory. Returns whether there still is one of this name.
    pub(super) fn descend(&mut self, name: &OsStr) -> Result<bool> {
        let next = match self.across {
            true => self.access.open_directory(&self.here, name),
            false => self.access.enter(&self.here, name),
        };
        let next = match next {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(false),
            Err(Errno::EXDEV) => {
                return Err(Error::new(ErrorKind::Busy, "another file system is mounted there")
                    .with_hint("nothing may be mounted inside a layer: unmount it"));
            }
            next => next.context(|| "open the directory")?,
        };
        self.above.push(Identity::of(&self.here).context(|| "stat the directory")?);
        self.here = next;
        Ok(true)
    }

    /// Goes back to the directory above, provided that nobody has moved this one meanwhile. Returns the one
    /// it was at.
    pub(super) fn ascend(&mut self) -> Result<OwnedFd> {
        let above = self.directory("..").context(|| "open the directory above")?;
        if Some(Identity::of(&above).context(|| "stat the directory above")?) != self.above.pop() {
            return Err(Error::new(ErrorKind::Busy, "a directory was moved while it was read")
                .with_hint("stop or freeze the processes that write there, and try again"));
        }
        Ok(std::mem::replace(&mut self.here, above))
    }

    /// See [`Access::take_over`].
    pub(super) fn take_over(&self) -> Result<()> {
        self.access.take_over(&self.here)
    }

    fn directory(&self, name: &str) -> nix::Result<OwnedFd> {
        self.access.open_directory(&self.here, OsStr::new(name))
    }

    /// To read the directory entry by entry.
    pub(super) fn list(&self) -> Result<Dir> {
        let own = self.directory(".").context(|| "open a directory")?;
        Dir::from_fd(own).context(|| "read a directory")
    }

    /// What is in the directory, in byte order.
    pub(super) fn names(&self) -> Result<BTreeSet<OsString>> {
        names(self.directory(".").context(|| "open a directory")?)
    }

    pub(super) fn stat(&self, name: &OsStr) -> Result<Option<FileStat>> {
        match self.access.stat(&self.here, name) {
            Err(Errno::ENOENT) => Ok(None),
            stat => stat.map(Some).context(|| "stat it"),
        }
    }

    /// Whether the directory, of a layer, replaces that of the lower layers. `x` only says that it contains whiteouts in
    /// the form of attributes.
    pub(super) fn is_opaque(&self) -> Result<bool> {
        self.is_opaque_by(&[c"trusted.overlay.opaque", c"user.overlay.opaque"])
    }

    /// [`is_opaque`](Self::is_opaque), by one of these attributes.
    pub(super) fn is_opaque_by(&self, marks: &[&CStr]) -> Result<bool> {
        let value = self.access.attribute(&self.here, marks)?;
        Ok(value.is_some_and(|value| value == b"y"))
    }

    /// Whether a file of a layer says that there is none: a character device 0:0, or (Linux 6.7) an empty file
    /// with an attribute.
    pub(super) fn is_whiteout(&self, name: &OsStr, stat: &FileStat) -> Result<bool> {
        self.is_whiteout_by(name, stat, &[c"trusted.overlay.whiteout", c"user.overlay.whiteout"])
    }

    /// [`is_whiteout`](Self::is_whiteout), by one of these attributes.
    pub(super) fn is_whiteout_by(
        &self,
        name: &OsStr,
        stat: &FileStat,
        marks: &[&CStr],
    ) -> Result<bool> {
        if is_whiteout_device(stat) {
            return Ok(true);
        }
        if file_type(stat) != SFlag::S_IFREG || stat.st_size != 0 {
            return Ok(false);
        }
        match self.access.open(&self.here, name, OFlag::O_PATH) {
            Err(Errno::ENOENT) => Ok(false),
            file => {
                let file = file.context(|| "open it")?;
                Ok(self.access.attribute(&file, marks)?.is_some())
            }
        }
    }
}

/// Whether a directory shows the kernel and not files: on proc, sysfs, a cgroup hierarchy and the like. There even a change of
/// owner may act on the machine, and what is read depends on who reads.
pub(super) fn is_kernels(directory: &OwnedFd) -> Result<bool> {
    /// The last four are binfmt_misc, configfs, efivarfs and pstore, whose numbers nix does not name.
    const KERNELS: [FsType; 14] = [
        statfs::PROC_SUPER_MAGIC,
        statfs::SYSFS_MAGIC,
        statfs::CGROUP_SUPER_MAGIC,
        statfs::CGROUP2_SUPER_MAGIC,
        statfs::DEBUGFS_MAGIC,
        statfs::TRACEFS_MAGIC,
        statfs::SECURITYFS_MAGIC,
        statfs::SELINUX_MAGIC,
        statfs::BPF_FS_MAGIC,
        statfs::NSFS_MAGIC,
        FsType(0x4249_4e4d),
        FsType(0x6265_6570),
        FsType(0xde5e_81e4),
        FsType(0x6165_676c),
    ];
    let found = fstatfs(directory).context(|| "look at the file system of a directory")?;
    Ok(KERNELS.contains(&found.filesystem_type()))
}

/// What is in a directory, in byte order.
pub(super) fn names(directory: OwnedFd) -> Result<BTreeSet<OsString>> {
    let mut directory = Dir::from_fd(directory).context(|| "read a directory")?;
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

pub(super) fn file_type(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

pub(super) fn is_directory(stat: &FileStat) -> bool {
    file_type(stat) == SFlag::S_IFDIR
}

pub(super) fn is_whiteout_device(stat: &FileStat) -> bool {
    file_type(stat) == SFlag::S_IFCHR && stat.st_rdev == 0
}
