//! The file system the program sees.
//!
//! All of it happens after the process moved into the new root and before the old one is detached: no path of an image
//! can lead to the host, and the kernel still sees the host's /proc, without which it refuses a new one in
//! a user namespace.

use std::ffi::{CStr, CString};

use super::{Done, Failure, Named, close, fail, open, stat};
use crate::sys::plan::{Fds, Filesystem, Kind, Slot, Target};
use crate::sys::raw::{Errno, sys};

const OPEN_TREE_CLONE: u32 = 1;
const AT_RECURSIVE: i32 = 0x8000;
const MOVE_MOUNT_BOTH_EMPTY: u32 = 0x4 | 0x40;
const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const MOUNT_ATTR_RDONLY: u64 = 1;

const RESOLVE_NO_XDEV: u64 = 1;
const RESOLVE_NO_MAGICLINKS: u64 = 2;
const RESOLVE_NO_SYMLINKS: u64 = 4;
const RESOLVE_BENEATH: u64 = 8;

pub(super) fn propagation(flags: u64) -> Done {
    // SAFETY: C strings and null pointers, as mount(2) allows for a change of propagation.
    unsafe { sys!(SYS_mount, 0usize, c"/".as_ptr(), 0usize, flags, 0usize) }
        .named("mount(\"/\", propagation)")
        .map(drop)
}

fn enter_root(dir: i32) -> Done {
    fchdir(dir)?;
    // SAFETY: a C string.
    unsafe { sys!(SYS_chroot, c".".as_ptr()) }.named("chroot").map(drop)
}

fn fchdir(dir: i32) -> Done {
    // SAFETY: takes no pointer.
    unsafe { sys!(SYS_fchdir, dir) }.named("fchdir").map(drop)
}

/// Stacks the new root on the old one and lives in it, as after chroot(2). The old one stays in the namespace, for the
/// kernel to see its /proc, but *below*: pivot_root would put it on top of the new `/`, where any `..` of an
/// image's symbolic links that climbs past the root steps into it.
pub(super) fn enter_new_root(fds: &Fds, root: Slot, old: Slot) -> Done {
    let root = fds.get(root);
    fds.set(
        old,
        open(libc::AT_FDCWD, c"/", libc::O_PATH | libc::O_DIRECTORY).named("open(\"/\")")?,
    );
    // SAFETY: C strings.
    unsafe {
        sys!(
            SYS_move_mount,
            root,
            c"".as_ptr(),
            libc::AT_FDCWD,
            c"/".as_ptr(),
            0x4 /* MOVE_MOUNT_F_EMPTY_PATH */
        )
    }
    .named("move_mount(root, \"/\")")?;
    enter_root(root)?;
    // A copy of a shared mount is its peer: what the container mounted in it would appear on the host.
    change_here(libc::MS_REC | libc::MS_PRIVATE)
}

pub(super) fn detach_old_root(
    fds: &Fds,
    root: Slot,
    old: Slot,
    leftovers: &[CString],
    scaffolding: &[Slot],
) -> Done {
    let (root, old) = (fds.get(root), fds.get(old));
    // The kernel exchanges the root of the process, so it has to be the old one once more.
    enter_root(old)?;
    if leftovers.is_empty() {
        for mount in scaffolding {
            // SAFETY: C strings. Should it fail, closing the descriptor takes the mount apart as well, in its own time.
            let _ = unsafe {
                sys!(
                    SYS_move_mount,
                    fds.get(*mount),
                    c"".as_ptr(),
                    libc::AT_FDCWD,
                    c"proc".as_ptr(),
                    0x4 /* MOVE_MOUNT_F_EMPTY_PATH */
                )
            };
        }
    }
    fchdir(root)?;
    // SAFETY: C strings.
    match unsafe { sys!(SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) } {
        // An initramfs is the bottom of every mount tree and cannot be moved away; stacked on it, the new
        // root's `..` leads nowhere else either.
        Err(Errno(libc::EINVAL)) => enter_root(root)?,
        other => other.named("pivot_root").map(drop)?,
    }
    fchdir(old)?;
    for mount in leftovers {
        // SAFETY: a C string. What a more privileged namespace mounted is locked and stays, unreachable.
        let _ =
            unsafe { sys!(SYS_umount2, mount.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) };
    }
    if leftovers.is_empty() {
        // SAFETY: a C string.
        unsafe { sys!(SYS_umount2, c".".as_ptr(), libc::MNT_DETACH) }.named("umount2(old root)")?;
    }
    // SAFETY: a C string.
    unsafe { sys!(SYS_chdir, c"/".as_ptr()) }.named("chdir(\"/\")")?;
    close(old);
    Ok(())
}

pub(super) fn open_tree(dir: i32, path: &CStr, recursive: bool) -> Done<i32> {
    let flags = OPEN_TREE_CLONE as i32
        | libc::O_CLOEXEC
        | libc::AT_EMPTY_PATH
        | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: a C string.
    unsafe { sys!(SYS_open_tree, dir, path.as_ptr(), flags) }.named("open_tree").map(|fd| fd as i32)
}

pub(super) fn attach(mount: i32, target: &Target) -> Done {
    let at = open_target(target)?;
    if !target.strict
        && let Err(failure) = outside_proc(at)
    {
        close(at);
        return Err(failure);
    }
    let moved = move_mount(mount, at);
    close(at);
    moved
}

/// A link of an image's may lead a mount over a part of /proc, and what is written there astray
/// (CVE-2019-19921, CVE-2025-52881).
fn outside_proc(at: i32) -> Done {
    const PROC_SUPER_MAGIC: u64 = 0x9fa0;
    match file_system(at)?.first() {
        Some(&PROC_SUPER_MAGIC) => fail("fstatfs(proc)", libc::EXDEV),
        _ => Ok(()),
    }
}

/// The kernel's struct statfs on 64-bit machines, 15 words, of which the first is the type.
fn file_system(fd: i32) -> Done<[u64; 16]> {
    let mut found = [0u64; 16];
    // SAFETY: the kernel fills one struct statfs, 15 words.
    unsafe { sys!(SYS_fstatfs, fd, found.as_mut_ptr()) }.named("fstatfs")?;
    Ok(found)
}

fn move_mount(mount: i32, target: i32) -> Done {
    // SAFETY: C strings.
    unsafe {
        sys!(SYS_move_mount, mount, c"".as_ptr(), target, c"".as_ptr(), MOVE_MOUNT_BOTH_EMPTY)
    }
    .named("move_mount")
    .map(drop)
}

pub(super) fn bind(from: i32, target: &Target) -> Done {
    let tree = open_tree(from, c"", false)?;
    let attached = attach(tree, target);
    close(tree);
    attached
}

pub(super) fn mount(fds: &Fds, fs: &Filesystem, target: Option<&Target>, out: Slot) -> Done {
    let made = match create(fs) {
        Ok(fd) => Ok(fd),
        Err(Failure { call: "fsopen", errno: libc::ENOSYS }) => match target {
            Some(target) => return mount_classic(fds, fs, target, out),
            None => fail("fsopen", libc::ENOSYS),
        },
        Err(failure) => match &fs.or_bind {
            Some((old, source)) if failure.errno == libc::EPERM => {
                open_tree(fds.get(*old), source, true)
            }
            _ => Err(failure),
        },
    }?;
    fds.set(out, made);
    match target {
        Some(target) => attach(made, target),
        None => Ok(()),
    }
}

fn create(fs: &Filesystem) -> Done<i32> {
    // SAFETY: a C string; 1 is FSOPEN_CLOEXEC.
    let context = unsafe { sys!(SYS_fsopen, fs.fstype.as_ptr(), 1) }.named("fsopen")? as i32;
    let mounted = configure(context, fs);
    close(context);
    mounted
}

fn configure(context: i32, fs: &Filesystem) -> Done<i32> {
    for (key, value) in &fs.options {
        let (command, value) = match value {
            Some(value) => (FSCONFIG_SET_STRING, value.as_ptr()),
            None => (FSCONFIG_SET_FLAG, std::ptr::null()),
        };
        // SAFETY: C strings, or null where the command wants it.
        unsafe { sys!(SYS_fsconfig, context, command, key.as_ptr(), value, 0) }
            .named("fsconfig")?;
    }
    // SAFETY: null pointers, as the command wants.
    unsafe { sys!(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, 0usize, 0usize, 0) }
        .named("fsconfig(FSCONFIG_CMD_CREATE)")?;
    // SAFETY: takes no pointer; 1 is FSMOUNT_CLOEXEC.
    unsafe { sys!(SYS_fsmount, context, 1, fs.attributes) }.named("fsmount").map(|fd| fd as i32)
}

/// mount(2) onto the directory itself, not onto its path: it is the working directory.
fn mount_classic(fds: &Fds, fs: &Filesystem, target: &Target, out: Slot) -> Done {
    let at = open_target(target)?;
    let result = with_cwd(at, || {
        // SAFETY: C strings.
        unsafe {
            sys!(
                SYS_mount,
                fs.fstype.as_ptr(),
                c".".as_ptr(),
                fs.fstype.as_ptr(),
                fs.flags,
                fs.data.as_ptr()
            )
        }
        .named("mount")
        .map(drop)
    });
    close(at);
    result?;
    fds.set(out, open_target(target)?);
    Ok(())
}

fn with_cwd(dir: i32, body: impl FnOnce() -> Done) -> Done {
    let back = open(libc::AT_FDCWD, c".", libc::O_PATH).named("open(\".\")")?;
    let result = fchdir(dir).and_then(|()| body());
    let returned = fchdir(back);
    close(back);
    result.and(returned)
}

/// The kernel's `struct mount_attr`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

pub(super) fn set_attributes(mount: i32, set: u64, propagation: u64, recursive: bool) -> Done {
    let attr = MountAttr { set, clear: 0, propagation, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: a C string, and a mount_attr of the size given.
    let changed = unsafe {
        sys!(SYS_mount_setattr, mount, c"".as_ptr(), flags, &raw const attr, size_of::<MountAttr>())
    };
    match changed {
        Err(Errno(libc::ENOSYS)) if set == 0 || !recursive => {
            remount_classic(mount, set, propagation)
        }
        other => other.named("mount_setattr").map(drop),
    }
}

/// Before Linux 5.12, on an attached mount only.
fn remount_classic(mount: i32, set: u64, propagation: u64) -> Done {
    // A bind remount must repeat the flags that it keeps. ST_RDONLY to ST_NODIRATIME and MOUNT_ATTR_RDONLY to
    // _NOEXEC have the values of their MS_* flags. The eleventh word of a statfs is f_flags.
    let kept = file_system(mount)?[10] & (1 | 2 | 4 | 8 | 1024 | 2048);
    let remount = kept | set & 0xf | libc::MS_REMOUNT | libc::MS_BIND;
    with_cwd(mount, || {
        if set != 0 {
            change_here(remount)?;
        }
        if propagation != 0 {
            change_here(propagation | libc::MS_REC)?;
        }
        Ok(())
    })
}

fn change_here(flags: u64) -> Done {
    // SAFETY: C strings and null pointers, as mount(2) allows for changes of a mount.
    unsafe { sys!(SYS_mount, 0usize, c".".as_ptr(), 0usize, flags, 0usize) }
        .named("mount(\".\", remount)")
        .map(drop)
}

pub(super) fn node(dir: i32, name: &CStr, mode: u32, device: u64) -> Done {
    // SAFETY: a C string.
    unsafe { sys!(SYS_mknodat, dir, name.as_ptr(), mode, device) }.named("mknodat")?;
    chmod(dir, name, mode & 0o7777)
}

pub(super) fn directory(dir: i32, name: &CStr, mode: u32) -> Done {
    // SAFETY: a C string.
    unsafe { sys!(SYS_mkdirat, dir, name.as_ptr(), mode) }.named("mkdirat")?;
    chmod(dir, name, mode)
}

/// The umask of the host has taken bits away. The directory is new and still nobody else's.
fn chmod(dir: i32, name: &CStr, mode: u32) -> Done {
    // SAFETY: a C string.
    unsafe { sys!(SYS_fchmodat, dir, name.as_ptr(), mode) }.named("fchmodat").map(drop)
}

pub(super) fn symlink(dir: i32, name: &CStr, target: &CStr) -> Done {
    // SAFETY: C strings.
    unsafe { sys!(SYS_symlinkat, target.as_ptr(), dir, name.as_ptr()) }.named("symlinkat").map(drop)
}

pub(super) fn mask(
    fds: &Fds,
    target: &Target,
    within: Option<(i32, &CStr)>,
    null: i32,
    empty: Slot,
) -> Done {
    let at = match open_existing(target, within) {
        Ok(at) => at,
        Err(Failure { errno: libc::ENOENT | libc::ENOTDIR, .. }) => return Ok(()),
        Err(failure) => return Err(failure),
    };
    let covered = cover(fds, at, null, empty);
    close(at);
    covered
}

fn cover(fds: &Fds, at: i32, null: i32, empty: Slot) -> Done {
    let found = stat(at, c"").named("statx")?;
    let tree = if u32::from(found.stx_mode) & libc::S_IFMT == libc::S_IFDIR {
        match empty_directory(fds, empty) {
            Err(Failure { errno: libc::ENOSYS, .. }) => {
                return with_cwd(at, || {
                    // SAFETY: C strings.
                    unsafe {
                        sys!(
                            SYS_mount,
                            c"tmpfs".as_ptr(),
                            c".".as_ptr(),
                            c"tmpfs".as_ptr(),
                            libc::MS_RDONLY,
                            c"size=0k".as_ptr()
                        )
                    }
                    .named("mount(tmpfs)")
                    .map(drop)
                });
            }
            other => other?,
        }
    } else {
        match open_tree(null, c"", false) {
            // One that is nowhere attached cannot be copied, but itself be used.
            Err(Failure { errno: libc::EINVAL, .. }) => return move_mount(null, at),
            other => other?,
        }
    };
    let moved = move_mount(tree, at);
    if tree != fds.get(empty) {
        close(tree);
    }
    moved
}

/// A mount of the one empty file system: each new one would cost the kernel far more than a copy. The first is
/// the original, not a copy, since a mount that was never attached is as dear to take apart as an attached one.
fn empty_directory(fds: &Fds, empty: Slot) -> Done<i32> {
    match fds.get(empty) {
        -1 => {
            let made = empty_file_system()?;
            fds.set(empty, made);
            Ok(made)
        }
        made => open_tree(made, c"", false),
    }
}

fn empty_file_system() -> Done<i32> {
    // SAFETY: a C string; 1 is FSOPEN_CLOEXEC.
    let context = unsafe { sys!(SYS_fsopen, c"tmpfs".as_ptr(), 1) }.named("fsopen")? as i32;
    // SAFETY: C strings; null pointers, as the command wants; no pointer.
    let mounted = unsafe {
        sys!(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, 0usize, 0usize, 0)
            .and_then(|_| sys!(SYS_fsmount, context, 1, MOUNT_ATTR_RDONLY))
    };
    close(context);
    mounted.named("fsmount(tmpfs)").map(|fd| fd as i32)
}

pub(super) fn read_only_path(target: &Target, within: Option<(i32, &CStr)>) -> Done {
    let at = match open_existing(target, within) {
        Ok(at) => at,
        Err(Failure { errno: libc::ENOENT | libc::ENOTDIR, .. }) => return Ok(()),
        Err(failure) => return Err(failure),
    };
    let result = open_tree(at, c"", true).and_then(|tree| {
        let result = match set_attributes(tree, MOUNT_ATTR_RDONLY, 0, true) {
            // Only an attached mount can be remounted the old way.
            Err(Failure { errno: libc::ENOSYS, .. }) => move_mount(tree, at)
                .and_then(|()| set_attributes(tree, MOUNT_ATTR_RDONLY, 0, false)),
            other => other.and_then(|()| move_mount(tree, at)),
        };
        close(tree);
        result
    });
    close(at);
    result
}

pub(super) fn chdir(path: &CStr, rooted: bool) -> Done {
    if rooted {
        match openat2(path, libc::O_PATH | libc::O_DIRECTORY, RESOLVE_NO_MAGICLINKS) {
            Err(Errno(libc::ENOSYS)) => chdir_path(path)?,
            other => {
                let dir = other.named("openat2(RESOLVE_NO_MAGICLINKS)")?;
                let entered = fchdir(dir);
                close(dir);
                entered?;
            }
        }
    } else {
        chdir_path(path)?;
        return Ok(());
    }
    // A directory outside the root, reached through an fd the kernel still knew (CVE-2024-21626).
    let mut name = [0u8; 4096 + 16];
    // SAFETY: the kernel writes at most the buffer's bytes.
    unsafe { sys!(SYS_getcwd, name.as_mut_ptr(), name.len()) }.named("getcwd")?;
    if name.first() == Some(&b'/') { Ok(()) } else { fail("getcwd", libc::ELOOP) }
}

fn chdir_path(path: &CStr) -> Done {
    // SAFETY: a C string.
    unsafe { sys!(SYS_chdir, path.as_ptr()) }.named("chdir").map(drop)
}

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

fn openat2(path: &CStr, flags: i32, resolve: u64) -> Result<i32, Errno> {
    openat2_from(libc::AT_FDCWD, path, flags, resolve)
}

fn openat2_from(dir: i32, path: &CStr, flags: i32, resolve: u64) -> Result<i32, Errno> {
    let how = OpenHow { flags: (flags | libc::O_CLOEXEC) as u64, mode: 0, resolve };
    // SAFETY: a C string and an open_how of the size given.
    unsafe { sys!(SYS_openat2, dir, path.as_ptr(), &raw const how, size_of::<OpenHow>()) }
        .map(|fd| fd as i32)
}

/// Opens a file to write, which must lie in the mount `dir` and be reached without a link.
pub(super) fn open_beneath(dir: i32, path: &CStr) -> Result<i32, Errno> {
    let resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS;
    openat2_from(dir, path, libc::O_WRONLY, resolve)
}

/// Opens a path of the container's that may go through links, but not through those of /proc.
pub(super) fn open_no_magic(path: &CStr) -> Result<i32, Errno> {
    match openat2(path, libc::O_PATH, RESOLVE_NO_MAGICLINKS) {
        Err(Errno(libc::ENOSYS)) => open(libc::AT_FDCWD, path, libc::O_PATH),
        other => other,
    }
}

/// The same, but through no link at all.
pub(super) fn open_no_links(path: &CStr) -> Result<i32, Errno> {
    match openat2(path, libc::O_PATH, RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS) {
        Err(Errno(libc::ENOSYS)) => open(libc::AT_FDCWD, path, libc::O_PATH | libc::O_NOFOLLOW),
        other => other,
    }
}

/// Opens a path that the engine itself chose, with no symbolic link on the way.
fn open_existing(target: &Target, within: Option<(i32, &CStr)>) -> Done<i32> {
    let resolve = RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS;
    let (dir, path) = within.unwrap_or((libc::AT_FDCWD, &target.path));
    match openat2_from(dir, path, libc::O_PATH | libc::O_NOFOLLOW, resolve) {
        Err(Errno(libc::ENOSYS)) => walk(target, true, false),
        other => other.named("openat2(RESOLVE_NO_SYMLINKS)"),
    }
}

/// Makes a directory, if there is nothing yet. What there is may be a link to one.
pub(super) fn make_directory(target: &Target) -> Done {
    let found = match openat2(&target.path, libc::O_PATH, RESOLVE_NO_MAGICLINKS) {
        Err(Errno(libc::ENOENT)) => walk(target, false, true)?,
        // Entering it comes later and tells what is wrong.
        Err(Errno(libc::ENOSYS)) => match walk(target, false, true) {
            Err(Failure { errno: libc::ELOOP, .. }) => return Ok(()),
            other => other?,
        },
        other => other.named("openat2(RESOLVE_NO_MAGICLINKS)")?,
    };
    close(found);
    Ok(())
}

/// Opens, and where asked makes, a mount point.
fn open_target(target: &Target) -> Done<i32> {
    let resolve = RESOLVE_NO_MAGICLINKS | if target.strict { RESOLVE_NO_SYMLINKS } else { 0 };
    let fd = match openat2(&target.path, libc::O_PATH | libc::O_NOFOLLOW, resolve) {
        Err(Errno(libc::ENOENT)) if target.create => walk(target, target.strict, true)?,
        // Without openat2 nothing keeps a link off the magic links of /proc: follow none.
        Err(Errno(libc::ENOSYS)) => walk(target, true, target.create)?,
        other => other.named("openat2")?,
    };
    match check_kind(fd, target.kind) {
        Ok(()) => Ok(fd),
        Err(failure) => {
            close(fd);
            Err(failure)
        }
    }
}

fn check_kind(fd: i32, kind: Kind) -> Done {
    let found = stat(fd, c"").named("statx")?;
    let is_dir = match u32::from(found.stx_mode) & libc::S_IFMT {
        libc::S_IFLNK => return fail("open(O_NOFOLLOW)", libc::ELOOP),
        mode => mode == libc::S_IFDIR,
    };
    match kind {
        Kind::Directory if !is_dir => fail("open(O_DIRECTORY)", libc::ENOTDIR),
        Kind::File if is_dir => fail("open", libc::EISDIR),
        _ => Ok(()),
    }
}

/// From `/` down, component by component.
fn walk(target: &Target, strict: bool, create: bool) -> Done<i32> {
    let mut dir =
        open(libc::AT_FDCWD, c"/", libc::O_PATH | libc::O_DIRECTORY).named("open(\"/\")")?;
    let last = target.components.len().saturating_sub(1);
    for (index, (prefix, name)) in target.components.iter().enumerate() {
        let kind = if index == last { target.kind } else { Kind::Directory };
        let next = step_down(dir, prefix, name, kind, index == last, strict, create);
        close(dir);
        dir = next?;
    }
    Ok(dir)
}

fn step_down(
    dir: i32,
    prefix: &CStr,
    name: &CStr,
    kind: Kind,
    last: bool,
    strict: bool,
    create: bool,
) -> Done<i32> {
    let opened = match open(dir, name, libc::O_PATH | libc::O_NOFOLLOW) {
        Err(Errno(libc::ENOENT)) if create => {
            let (made, call) = match kind {
                Kind::Directory => {
                    // SAFETY: a C string.
                    (unsafe { sys!(SYS_mkdirat, dir, name.as_ptr(), 0o755) }, "mkdirat")
                }
                Kind::File => {
                    let mode = libc::S_IFREG | 0o644;
                    // SAFETY: a C string.
                    (unsafe { sys!(SYS_mknodat, dir, name.as_ptr(), mode, 0) }, "mknodat")
                }
            };
            match made {
                // Another process that begins in the same directory was faster. What it is, is looked at below.
                Err(Errno(libc::EEXIST)) => {}
                made => drop(made.named(call)?),
            }
            open(dir, name, libc::O_PATH | libc::O_NOFOLLOW)
        }
        other => other,
    }
    .named("openat(O_PATH|O_NOFOLLOW)")?;
    let found = match stat(opened, c"").named("statx") {
        Ok(found) => found,
        Err(failure) => {
            close(opened);
            return Err(failure);
        }
    };
    match u32::from(found.stx_mode) & libc::S_IFMT {
        libc::S_IFLNK if last || strict => {
            close(opened);
            fail("openat(O_NOFOLLOW)", libc::ELOOP)
        }
        libc::S_IFLNK => {
            close(opened);
            openat2(prefix, libc::O_PATH | libc::O_DIRECTORY, RESOLVE_NO_MAGICLINKS)
                .named("openat2(RESOLVE_NO_MAGICLINKS)")
        }
        libc::S_IFDIR => Ok(opened),
        _ if last => Ok(opened),
        _ => {
            close(opened);
            fail("openat(O_DIRECTORY)", libc::ENOTDIR)
        }
    }
}
