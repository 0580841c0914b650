//! The file-descriptor mount API of Linux 5.2: open_tree(2), move_mount(2), fsopen(2), fsconfig(2),
//! fsmount(2), fspick(2), and mount_setattr(2) of 5.12.
//!
//! These are for the parent. Failures print as strace would show the call, each descriptor with the path
//! it had at the time.

use std::ffi::CStr;
use std::fmt;
use std::fs::read_link;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use bitflags::bitflags;

use super::raw::{Errno, sys};
use crate::error::SyscallError;

type Result<T> = std::result::Result<T, SyscallError>;

bitflags! {
    /// Flags of [`open_tree`]; the descriptor is always close-on-exec.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct OpenTree: u32 {
        /// A detached copy of the mount instead of the mount itself.
        const CLONE = 1;
        /// With the mounts below it.
        const RECURSIVE = libc::AT_RECURSIVE as u32;
        const NO_FOLLOW = libc::AT_SYMLINK_NOFOLLOW as u32;
        const EMPTY_PATH = libc::AT_EMPTY_PATH as u32;
    }
}

bitflags! {
    /// Flags of [`move_mount`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct MoveMount: u32 {
        const FROM_EMPTY_PATH = 0x4;
        const FOLLOW_TO = 0x10;
        const TO_EMPTY_PATH = 0x40;
        /// Puts the mount below the one on top of the destination (Linux 6.5).
        const BENEATH = 0x200;
    }
}

bitflags! {
    /// `MOUNT_ATTR_*`: what [`FsContext::mount`] and [`mount_setattr`] set on a mount.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct MountAttr: u64 {
        const READ_ONLY = 0x1;
        const NO_SUID = 0x2;
        const NO_DEV = 0x4;
        const NO_EXEC = 0x8;
        const NO_ATIME = 0x10;
        const STRICT_ATIME = 0x20;
        /// All bits of the access-time mode; clear them before another mode is set.
        const ATIME_MODE = 0x70;
        const NO_DIR_ATIME = 0x80;
        /// Through the user namespace of [`SetAttr::user_namespace`]; set for you.
        const ID_MAP = 0x10_0000;
        /// Linux 5.14.
        const NO_SYM_FOLLOW = 0x20_0000;
    }
}

/// What [`mount_setattr`] changes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SetAttr<'a> {
    pub(crate) set: MountAttr,
    pub(crate) clear: MountAttr,
    /// `libc::MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` or `MS_UNBINDABLE`; 0 keeps the propagation.
    pub(crate) propagation: u64,
    /// Maps the owners of files through this user namespace (5.12; which filesystems can depends on the
    /// kernel: ext4 and xfs 5.12, btrfs 5.15, overlayfs layers 5.19, tmpfs 6.3).
    pub(crate) user_namespace: Option<BorrowedFd<'a>>,
    /// With the mounts below it.
    pub(crate) recursive: bool,
}

/// The kernel's `struct mount_attr`.
#[repr(C)]
struct RawMountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Opens the mount at `path`, or a detached copy of it (Linux 5.2; a copy of a detached mount: 6.15).
/// See open_tree(2).
pub(crate) fn open_tree(dir: impl AsFd, path: &CStr, flags: OpenTree) -> Result<OwnedFd> {
    let fd = dir.as_fd();
    let bits = flags.bits() | libc::O_CLOEXEC as u32;
    // SAFETY: `path` is NUL-terminated; the kernel only reads it.
    let ret = unsafe { sys!(SYS_open_tree, fd.as_raw_fd(), path.as_ptr(), bits) };
    owned(ret, || format!("open_tree({}, {path:?}, {})", Fd(fd), Flags(flags)))
}

/// A detached copy of the mount that `tree` lies on, with `tree` as its root (Linux 5.2).
pub(crate) fn clone_tree(tree: impl AsFd) -> Result<OwnedFd> {
    open_tree(tree, c"", OpenTree::CLONE | OpenTree::EMPTY_PATH)
}

/// Attaches a detached mount, or moves an attached one (Linux 5.2). See move_mount(2).
pub(crate) fn move_mount(
    from: impl AsFd,
    from_path: &CStr,
    to: impl AsFd,
    to_path: &CStr,
    flags: MoveMount,
) -> Result<()> {
    let (from, to) = (from.as_fd(), to.as_fd());
    // SAFETY: both paths are NUL-terminated; the kernel only reads them.
    let ret = unsafe {
        sys!(
            SYS_move_mount,
            from.as_raw_fd(),
            from_path.as_ptr(),
            to.as_raw_fd(),
            to_path.as_ptr(),
            flags.bits()
        )
    };
    unit(ret, || {
        let (from, to, flags) = (Fd(from), Fd(to), Flags(flags));
        format!("move_mount({from}, {from_path:?}, {to}, {to_path:?}, {flags})")
    })
}

/// Changes the attributes of the mount at `path` (Linux 5.12). See mount_setattr(2).
pub(crate) fn mount_setattr(dir: impl AsFd, path: &CStr, attr: &SetAttr<'_>) -> Result<()> {
    let fd = dir.as_fd();
    let mut flags = OpenTree::empty();
    flags.set(OpenTree::EMPTY_PATH, path.is_empty());
    flags.set(OpenTree::RECURSIVE, attr.recursive);
    let mut set = attr.set;
    set.set(MountAttr::ID_MAP, attr.user_namespace.is_some());
    let raw = RawMountAttr {
        attr_set: set.bits(),
        attr_clr: attr.clear.bits(),
        propagation: attr.propagation,
        userns_fd: attr.user_namespace.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: `path` is NUL-terminated and `raw` a whole mount_attr of the size given; the kernel only
    // reads both.
    let ret = unsafe {
        sys!(
            SYS_mount_setattr,
            fd.as_raw_fd(),
            path.as_ptr(),
            flags.bits(),
            &raw const raw,
            size_of::<RawMountAttr>()
        )
    };
    unit(ret, || {
        let mut fields = format!("attr_set={}", Flags(set));
        if !attr.clear.is_empty() {
            fields += &format!(", attr_clr={}", Flags(attr.clear));
        }
        if attr.propagation != 0 {
            fields += &format!(", propagation={:#x}", attr.propagation);
        }
        if let Some(userns) = attr.user_namespace {
            fields += &format!(", userns_fd={}", Fd(userns));
        }
        format!("mount_setattr({}, {path:?}, {}, {{{fields}}})", Fd(fd), Flags(flags))
    })
}

/// A filesystem being configured, until [`create`](FsContext::create) makes it and
/// [`mount`](FsContext::mount) gives a detached mount of it (Linux 5.2).
#[derive(Debug)]
pub(crate) struct FsContext {
    fd: OwnedFd,
    name: String,
}

impl FsContext {
    /// A new filesystem of type `name`. See fsopen(2).
    pub(crate) fn open(name: &CStr) -> Result<Self> {
        const FSOPEN_CLOEXEC: u32 = 1;
        // SAFETY: `name` is NUL-terminated; the kernel only reads it.
        let ret = unsafe { sys!(SYS_fsopen, name.as_ptr(), FSOPEN_CLOEXEC) };
        let fd = owned(ret, || format!("fsopen({name:?})"))?;
        Ok(Self { fd, name: name.to_string_lossy().into_owned() })
    }

    /// The filesystem mounted at `path`, to [`reconfigure`](FsContext::reconfigure) it. See fspick(2).
    pub(crate) fn pick(dir: impl AsFd, path: &CStr) -> Result<Self> {
        const FSPICK_CLOEXEC: u32 = 1;
        const FSPICK_EMPTY_PATH: u32 = 8;
        let fd = dir.as_fd();
        let flags = FSPICK_CLOEXEC | if path.is_empty() { FSPICK_EMPTY_PATH } else { 0 };
        // SAFETY: `path` is NUL-terminated; the kernel only reads it.
        let ret = unsafe { sys!(SYS_fspick, fd.as_raw_fd(), path.as_ptr(), flags) };
        let name = || format!("fspick({}, {path:?})", Fd(fd));
        Ok(Self { fd: owned(ret, name)?, name: name() })
    }

    /// An option without a value, such as `ro`.
    pub(crate) fn set_flag(&self, key: &CStr) -> Result<()> {
        self.fsconfig(0, key, None, 0, format_args!("SET_FLAG, {key:?}"))
    }

    /// An option with a value of at most 255 bytes.
    pub(crate) fn set_string(&self, key: &CStr, value: &CStr) -> Result<()> {
        self.fsconfig(1, key, Some(value), 0, format_args!("SET_STRING, {key:?}, {value:?}"))
    }

    /// An option that is a file; overlayfs takes its layers this way since Linux 6.13.
    pub(crate) fn set_fd(&self, key: &CStr, value: impl AsFd) -> Result<()> {
        let value = value.as_fd();
        let call = format_args!("SET_FD, {key:?}, {}", Fd(value));
        self.fsconfig(5, key, None, value.as_raw_fd(), call)
    }

    /// Makes the filesystem.
    pub(crate) fn create(&self) -> Result<()> {
        self.fsconfig(6, c"", None, 0, format_args!("CMD_CREATE"))
    }

    /// Applies the options to a filesystem that was [picked](FsContext::pick).
    pub(crate) fn reconfigure(&self) -> Result<()> {
        self.fsconfig(7, c"", None, 0, format_args!("CMD_RECONFIGURE"))
    }

    /// A detached mount of the filesystem. See fsmount(2).
    pub(crate) fn mount(&self, attr: MountAttr) -> Result<OwnedFd> {
        const FSMOUNT_CLOEXEC: u32 = 1;
        // SAFETY: no pointers.
        let ret = unsafe { sys!(SYS_fsmount, self.fd.as_raw_fd(), FSMOUNT_CLOEXEC, attr.bits()) };
        owned(ret, || format!("fsmount({:?}, {})", self.name, Flags(attr)))
    }

    /// What the kernel said about the options, one message a line, without the `e`, `w` or `i` in front.
    pub(crate) fn messages(&self) -> String {
        let mut messages = String::new();
        let mut buffer = [0u8; 1024];
        loop {
            // SAFETY: the kernel writes at most the length given into `buffer`.
            let ret =
                unsafe { sys!(SYS_read, self.fd.as_raw_fd(), buffer.as_mut_ptr(), buffer.len()) };
            let Ok(len) = ret else { return messages };
            let line = String::from_utf8_lossy(buffer.get(..len).unwrap_or_default());
            let line = line.trim_end();
            messages += line.split_once(' ').map_or(line, |(_level, text)| text);
            messages.push('\n');
        }
    }

    fn fsconfig(
        &self,
        command: u32,
        key: &CStr,
        value: Option<&CStr>,
        aux: i32,
        call: fmt::Arguments<'_>,
    ) -> Result<()> {
        let key = if key.is_empty() { ptr::null() } else { key.as_ptr() };
        let value = value.map_or(ptr::null(), CStr::as_ptr);
        // SAFETY: key and value are null or NUL-terminated, as the command wants them; the kernel only
        // reads them.
        let ret = unsafe { sys!(SYS_fsconfig, self.fd.as_raw_fd(), command, key, value, aux) };
        unit(ret, || format!("fsconfig({:?}, {call})", self.name))
    }
}

impl AsFd for FsContext {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn owned(ret: std::result::Result<usize, Errno>, call: impl FnOnce() -> String) -> Result<OwnedFd> {
    match ret {
        // SAFETY: the kernel just made this descriptor for us; nobody else has it.
        Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
        Err(errno) => Err(SyscallError::new(call(), errno.0)),
    }
}

fn unit(ret: std::result::Result<usize, Errno>, call: impl FnOnce() -> String) -> Result<()> {
    ret.map(drop).map_err(|errno| SyscallError::new(call(), errno.0))
}

/// A descriptor with the path it has now: `3</usr>`.
pub(crate) struct Fd<'a>(pub(crate) BorrowedFd<'a>);

impl fmt::Display for Fd<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fd = self.0.as_raw_fd();
        if fd == libc::AT_FDCWD {
            return f.write_str("AT_FDCWD");
        }
        match read_link(format!("/proc/self/fd/{fd}")) {
            Ok(path) => write!(f, "{fd}<{}>", path.display()),
            Err(_) => write!(f, "{fd}"),
        }
    }
}

/// Flags by name, as in the kernel's own, lower case and without the common prefix: `clone|empty_path`.
struct Flags<T>(T);

impl<T: bitflags::Flags> fmt::Display for Flags<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("0");
        }
        for (i, (name, _)) in self.0.iter_names().enumerate() {
            let bar = if i > 0 { "|" } else { "" };
            write!(f, "{bar}{}", name.to_ascii_lowercase())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use nix::fcntl::AT_FDCWD;

    use super::*;
    use crate::machine::{require, root, system_calls};

    #[test]
    fn failures_print_the_call_with_all_arguments() {
        require!(system_calls(&["open_tree"]));
        let dir = File::open("/").unwrap();
        let fd = dir.as_raw_fd();
        let err = open_tree(&dir, c"no/such", OpenTree::NO_FOLLOW).unwrap_err();
        assert_eq!(
            err.to_string(),
            format!(
                "open_tree({fd}</>, \"no/such\", no_follow): ENOENT (No such file or directory)"
            )
        );
        let attr = SetAttr {
            set: MountAttr::READ_ONLY | MountAttr::NO_SUID,
            propagation: libc::MS_PRIVATE,
            user_namespace: Some(dir.as_fd()),
            recursive: true,
            ..SetAttr::default()
        };
        let err = mount_setattr(AT_FDCWD, c"/no/such", &attr).unwrap_err();
        assert_eq!(
            err.call,
            format!(
                "mount_setattr(AT_FDCWD, \"/no/such\", recursive, {{attr_set=read_only|no_suid|id_map, \
                 propagation=0x40000, userns_fd={fd}</>}})"
            )
        );
        let empty = MoveMount::empty();
        let err = move_mount(AT_FDCWD, c"/no/such", &dir, c"tmp", empty).unwrap_err();
        assert_eq!(err.call, format!("move_mount(AT_FDCWD, \"/no/such\", {fd}</>, \"tmp\", 0)"));
    }

    #[test]
    fn a_detached_tmpfs_is_made_cloned_and_reconfigured_without_a_path() {
        require!(root());
        require!(system_calls(&["fsopen", "fsmount", "open_tree", "mount_setattr"]));
        let context = FsContext::open(c"tmpfs").unwrap();
        context.set_string(c"size", c"1m").unwrap();
        let err = context.set_string(c"no_such_option", c"1").unwrap_err();
        assert_eq!(
            (err.errno, &*err.call),
            (libc::EINVAL, "fsconfig(\"tmpfs\", SET_STRING, \"no_such_option\", \"1\")")
        );
        assert_eq!(context.messages(), "tmpfs: Unknown parameter 'no_such_option'\n");
        context.create().unwrap();
        let mount = context.mount(MountAttr::NO_SUID).unwrap();
        let pick = FsContext::pick(&mount, c"").unwrap();
        pick.set_flag(c"ro").unwrap();
        pick.reconfigure().unwrap();
        let err = nix::sys::stat::mkdirat(&mount, "x", nix::sys::stat::Mode::empty());
        assert_eq!(err, Err(nix::errno::Errno::EROFS));
    }
}
