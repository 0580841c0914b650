//! Makes an overlay file system that no mount table shows.
//!
//! On kernels that take layers as descriptors (Linux 6.13) and detached mounts as layers (about 6.15), nothing
//! is ever attached: [`Assembly::detached`]. Older ones get a mount namespace made for the purpose, with
//! the layers under short names, since there the kernel also limits the options to a page:
//! [`Assembly::attached`]. Which it is, is found out by trying. See
//! <https://docs.kernel.org/filesystems/overlayfs.html>.

use std::ffi::{CStr, CString};
use std::fmt::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::sys::stat::FileStat;
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::{getegid, geteuid};

use super::directory::{Directory, HANDLE, c_string};
use super::id_mapping::{MappedTree, map_ids};
use super::scratch::Scratch;
use crate::error::{Context, Error, ErrorKind, Result, SyscallError};
use crate::namespaces::UserNamespace;
use crate::sys::mount::{MountAttr, OpenTree};
use crate::sys::user_namespace::in_initial_user_namespace;
use crate::sys::worker::{At, Slot, Worker};
use crate::sys::xattr;

/// Whose ids the files of a stack have.
#[derive(Clone, Debug)]
pub(super) enum Ids {
    /// Those on disk.
    Host,
    /// Those on disk, seen through this user namespace: the kernel maps them.
    Mapped(UserNamespace),
    /// Those on disk; but only this user namespace gives the caller the right to mount at all.
    Joined(UserNamespace),
}

impl Ids {
    pub(super) fn namespace(&self) -> Option<&UserNamespace> {
        match self {
            Self::Host => None,
            Self::Mapped(namespace) | Self::Joined(namespace) => Some(namespace),
        }
    }
}

/// The layer on top.
#[derive(Debug)]
pub(super) enum Top {
    Nothing,
    Scratch(Scratch),
    /// In memory, and gone with the stack.
    Memory,
}

/// A finished overlay.
#[derive(Debug)]
pub(super) struct Overlay {
    /// A mount of it: detached, or attached in `namespace` only.
    pub(super) mount: OwnedFd,
    pub(super) namespace: Option<OwnedFd>,
    /// The layer on top, open for reading, if it was made in memory.
    pub(super) memory: Option<OwnedFd>,
    /// The idmapped copies, if they are still detached.
    pub(super) scaffolding: Mutex<Vec<OwnedFd>>,
}

/// What an overlay is made of.
#[derive(Debug)]
pub(super) struct Assembly<'a> {
    /// Lowest first.
    lowers: &'a [Directory],
    top: &'a Top,
    ids: &'a Ids,
    trees: Vec<MappedTree>,
    /// For each of `lowers`, then the scratch directory: which of `trees` it lies in.
    tree_of: Vec<usize>,
}

/// Options that keep a stack in the form that other tools read: every changed file is there whole, and
/// hides what it replaces by nothing but its place.
const OPTIONS: [(&CStr, &CStr); 3] =
    [(c"redirect_dir", c"nofollow"), (c"metacopy", c"off"), (c"index", c"off")];

/// Device nodes of an image are never to be trusted: a container's come with its `/dev`.
const ATTRIBUTES: MountAttr = MountAttr::NO_DEV;

impl<'a> Assembly<'a> {
    pub(super) fn new(lowers: &'a mut [Directory], top: &'a mut Top, ids: &'a Ids) -> Result<Self> {
        let (mut trees, mut tree_of) = (Vec::new(), Vec::new());
        if let Ids::Mapped(namespace) = ids {
            let mut all: Vec<&mut Directory> = lowers.iter_mut().collect();
            if let Top::Scratch(scratch) = top {
                all.push(&mut scratch.directory);
            }
            (trees, tree_of) = map_ids(&mut all, namespace)?;
        }
        Ok(Self { lowers, top, ids, trees, tree_of })
    }

    pub(super) fn build(mut self) -> Result<Overlay> {
        let volatile = matches!(self.top, Top::Scratch(scratch) if scratch.volatile);
        let mut overlay = match self.assemble(volatile)? {
            // Linux before 5.10 does not know it. What fails for another reason fails again.
            Err(err) if volatile => self.assemble(false)?.map_err(|_| err),
            other => other,
        }
        .context(|| "mount the overlay")?;
        let upper = match self.top {
            Top::Scratch(scratch) => Some(&scratch.upper),
            Top::Nothing | Top::Memory => overlay.memory.as_ref(),
        };
        if let Some(upper) = upper {
            self.check_attributes(upper.as_fd())?;
            check_writable(&overlay)?;
        }
        if let Top::Scratch(scratch) = self.top {
            scratch.make_removable();
        }
        if overlay.namespace.is_none() {
            let trees = std::mem::take(&mut self.trees).into_iter().map(|tree| tree.fd);
            overlay.scaffolding = Mutex::new(trees.collect());
        }
        Ok(overlay)
    }

    fn assemble(&self, volatile: bool) -> Result<Result<Overlay, SyscallError>> {
        match self.detached(volatile)? {
            Err(err) if is_too_new(&err) => self.attached(volatile),
            other => Ok(other),
        }
    }

    /// Layers as descriptors, and nothing attached but, for the caller without privilege, the result in a
    /// namespace of its own: he has no other right to copy it.
    fn detached(&self, volatile: bool) -> Result<Result<Overlay, SyscallError>> {
        let mut worker = Worker::new();
        let joined = matches!(self.ids, Ids::Joined(_));
        self.enter(&mut worker, joined)?;
        self.become_root(&mut worker)?;
        let overlay = worker.fsopen(c"overlay");
        for lower in self.lowers.iter().rev() {
            let lower = self.open(&mut worker, lower)?;
            worker.fs_fd(overlay, c"lowerdir+", lower);
        }
        let mut memory = None;
        match self.top {
            Top::Nothing if self.lowers.len() > 1 => {}
            Top::Nothing => {
                let empty = tmpfs(&mut worker);
                worker.fs_fd(overlay, c"lowerdir+", empty);
            }
            Top::Scratch(scratch) => {
                let scratch = self.open(&mut worker, &scratch.directory)?;
                set_top(&mut worker, overlay, scratch);
            }
            Top::Memory => {
                let scratch = tmpfs(&mut worker);
                worker.mkdir(scratch, c"upper".into(), 0o755);
                worker.mkdir(scratch, c"work".into(), 0o700);
                set_top(&mut worker, overlay, scratch.into());
                memory = Some(open_upper(&mut worker, scratch, c"upper"));
            }
        }
        for (key, value) in OPTIONS {
            worker.fs_string(overlay, key, value.into());
        }
        if self.user_xattr() {
            worker.fs_flag(overlay, c"userxattr");
        }
        if volatile {
            worker.fs_flag(overlay, c"volatile");
        }
        worker.fs_create(overlay);
        let mount = worker.fsmount(overlay, self.attributes());
        let namespace = joined.then(|| {
            worker.move_mount(mount, At::Cwd, c"/".into());
            worker.fchdir(mount);
            keep_namespace(&mut worker)
        });
        Ok(run(worker, mount, namespace, memory))
    }

    /// Everything attached in a mount namespace of its own: below the mount point, an in-memory directory,
    /// are the overlay `o`, the idmapped trees `m0`, `m1` ..., the layers `0`, `1` ... as links into these or
    /// into the host's directories, and `s`, the scratch directory, in the same way.
    fn attached(&self, volatile: bool) -> Result<Result<Overlay, SyscallError>> {
        let mut worker = Worker::new();
        self.enter(&mut worker, true)?;
        let base = tmpfs(&mut worker);
        worker.move_mount(base, At::Cwd, c"/".into());
        worker.fchdir(base);
        worker.mkdir(base, c"o".into(), 0o700);
        for (i, tree) in self.trees.iter().enumerate() {
            let name = c_string(Path::new(&format!("m{i}")))?;
            worker.mkdir(base, name.clone(), 0o700);
            worker.move_mount(tree.fd.as_fd(), base, name);
        }
        for (i, lower) in self.lowers.iter().enumerate() {
            let name = c_string(Path::new(&i.to_string()))?;
            worker.symlink(c_string(&self.place(i, lower))?, base, name);
        }
        let mut lowers: Vec<_> = (0..self.lowers.len()).rev().map(|i| i.to_string()).collect();
        self.become_root(&mut worker)?;
        let mut memory = None;
        let mut top = ",upperdir=s/upper,workdir=s/work";
        match self.top {
            Top::Nothing => {
                top = "";
                if lowers.len() == 1 {
                    worker.mkdir(base, c"e".into(), 0o755);
                    lowers.push("e".into());
                }
            }
            Top::Scratch(scratch) => {
                let place = self.place(self.lowers.len(), &scratch.directory);
                worker.symlink(c_string(&place)?, base, c"s".into());
            }
            Top::Memory => {
                worker.mkdir(base, c"s".into(), 0o755);
                worker.mkdir(base, c"s/upper".into(), 0o755);
                worker.mkdir(base, c"s/work".into(), 0o700);
                memory = Some(open_upper(&mut worker, base, c"s/upper"));
            }
        }
        let mut data = format!("lowerdir={}{top}", lowers.join(":"));
        for (key, value) in OPTIONS {
            // Writing to a string cannot fail.
            let _ = write!(data, ",{}={}", key.to_string_lossy(), value.to_string_lossy());
        }
        if self.user_xattr() {
            data += ",userxattr";
        }
        if volatile {
            data += ",volatile";
        }
        let read_only = if matches!(self.top, Top::Nothing) { libc::MS_RDONLY } else { 0 };
        let data = c_string(Path::new(&data))?;
        worker.mount(c"overlay", c"o".into(), libc::MS_NODEV | read_only, data);
        let mount = worker.open(At::Cwd, c"o".into(), HANDLE.bits());
        let namespace = keep_namespace(&mut worker);
        Ok(run(worker, mount, Some(namespace), memory))
    }

    fn enter(&self, worker: &mut Worker<'a>, own_mounts: bool) -> Result<()> {
        if own_mounts || matches!(self.top, Top::Memory) {
            // It makes directories.
            worker.umask(0);
        }
        if let Ids::Joined(namespace) = self.ids {
            join(worker, namespace)?;
        }
        if own_mounts {
            worker.unshare_mounts();
        }
        Ok(())
    }

    /// The overlay works on its layers with the ids of whoever made it, and these must be mapped in them.
    fn become_root(&self, worker: &mut Worker<'a>) -> Result<()> {
        if let Ids::Mapped(namespace) = self.ids {
            let (uid, gid) = root_ids(namespace)?;
            worker.fs_ids(uid, gid);
        }
        Ok(())
    }

    /// A descriptor of a directory that the worker may use as a layer: of its own mount namespace, if it
    /// has one, or of an idmapped tree.
    fn open(&self, worker: &mut Worker<'a>, directory: &'a Directory) -> Result<At<'a>> {
        match self.ids {
            Ids::Joined(_) => {
                let path = c_string(&directory.path)?;
                Ok(worker.open(At::Cwd, path, HANDLE.bits()).into())
            }
            Ids::Host | Ids::Mapped(_) => Ok(directory.fd.as_fd().into()),
        }
    }

    /// Where the directory is found in the arrangement of [`attached`](Self::attached).
    fn place(&self, i: usize, directory: &Directory) -> PathBuf {
        let tree = self.tree_of.get(i).and_then(|&n| Some((n, self.trees.get(n)?)));
        match tree {
            Some((n, tree)) => {
                let rest = directory.path.strip_prefix(&tree.root).unwrap_or(Path::new(""));
                Path::new(&format!("m{n}")).join(rest)
            }
            None => directory.path.clone(),
        }
    }

    fn attributes(&self) -> MountAttr {
        match self.top {
            Top::Nothing => ATTRIBUTES | MountAttr::READ_ONLY,
            Top::Scratch(_) | Top::Memory => ATTRIBUTES,
        }
    }

    /// The kernel goes on without attributes, and then some changes fail with EIO.
    fn check_attributes(&self, upper: BorrowedFd<'_>) -> Result<()> {
        let mark =
            if self.user_xattr() { c"user.overlay.coracle" } else { c"trusted.overlay.coracle" };
        xattr::set(upper, mark, b"y")
            .and_then(|()| xattr::remove(upper, mark))
            .context(|| "keep marks in the attributes of the writable layer")
            .map_err(|err| match err.raw_os_error() {
                Some(libc::EOPNOTSUPP) => err.with_kind(ErrorKind::Unsupported).with_hint(
                    "its file system has no extended attributes: ext4, xfs and btrfs have, tmpfs since Linux \
                     6.6 for who is not root",
                ),
                _ => err,
            })
    }

    /// Only the initial user namespace may keep the overlay's own marks in `trusted.*` attributes.
    fn user_xattr(&self) -> bool {
        matches!(self.ids, Ids::Joined(_)) || !in_initial_user_namespace()
    }
}

impl Overlay {
    /// Another detached mount of the same file system, for somebody to attach.
    pub(super) fn copy(&self, ids: &Ids) -> Result<OwnedFd> {
        let mut worker = Worker::new();
        let Some(namespace) = &self.namespace else {
            return crate::sys::mount::clone_tree(&self.mount).context(|| "copy the mount");
        };
        if let Ids::Joined(user_namespace) = ids {
            worker.set_ns(user_namespace.as_fd(), libc::CLONE_NEWUSER);
        }
        worker.set_ns(namespace.as_fd(), libc::CLONE_NEWNS);
        let flags = OpenTree::CLONE | OpenTree::EMPTY_PATH;
        let copy = worker.open_tree(self.mount.as_fd(), CString::default(), flags);
        let opened = worker.run().context(|| "copy the mount")?.take(copy);
        opened.ok_or_else(|| Error::unsupported("the kernel gave no mount"))
    }
}

/// Makes the worker root of the user namespace.
pub(super) fn join<'a>(worker: &mut Worker<'a>, namespace: &'a UserNamespace) -> Result<()> {
    worker.set_ns(namespace.as_fd(), libc::CLONE_NEWUSER);
    if root_ids(namespace)? != (geteuid().as_raw(), getegid().as_raw()) {
        worker.set_ids(0, 0);
    }
    Ok(())
}

/// What user 0 and group 0 of the namespace are for the caller.
pub(super) fn root_ids(namespace: &UserNamespace) -> Result<(u32, u32)> {
    let map = namespace.map().ok_or_else(|| {
        Error::invalid("the ids of the user namespace are not known")
            .with_hint("open it through /proc/PID/ns/user, which tells them")
    })?;
    map.host_uid(0)
        .zip(map.host_gid(0))
        .ok_or_else(|| Error::invalid(format!("the user namespace has no root: {map}")))
}

/// Whether the owner of a file is one of the namespace's.
pub(super) fn has_owner(namespace: &UserNamespace, stat: &FileStat) -> bool {
    namespace.map().is_none_or(|map| {
        map.inside_uid(stat.st_uid).is_some() && map.inside_gid(stat.st_gid).is_some()
    })
}

/// What the kernel says to layers as descriptors before Linux 6.5 and 6.13, and to detached ones before 6.15.
fn is_too_new(err: &SyscallError) -> bool {
    matches!(err.errno, libc::EOPNOTSUPP | libc::EINVAL)
}

/// If the kernel cannot make its work directory, it mounts read-only and says so only in its log.
fn check_writable(overlay: &Overlay) -> Result<()> {
    let flags = fstatvfs(&overlay.mount).context(|| "ask for the state of the mount")?.flags();
    if flags.contains(FsFlags::ST_RDONLY) {
        return Err(Error::unsupported("the kernel could only make the stack read-only").with_hint(
            "it has no use of the writable directory: is its disk full, or are `upper` and `work` in it another \
             user's? The kernel's log may tell (`dmesg | grep overlayfs`)",
        ));
    }
    Ok(())
}

fn tmpfs(worker: &mut Worker<'_>) -> Slot {
    let context = worker.fsopen(c"tmpfs");
    worker.fs_string(context, c"mode", c"755".into());
    worker.fs_create(context);
    worker.fsmount(context, MountAttr::empty())
}

fn set_top<'a>(worker: &mut Worker<'a>, overlay: Slot, scratch: At<'a>) {
    for (key, name) in [(c"upperdir", c"upper"), (c"workdir", c"work")] {
        let directory = worker.open(scratch, name.into(), HANDLE.bits());
        worker.fs_fd(overlay, key, directory);
    }
}

fn open_upper(worker: &mut Worker<'_>, directory: Slot, path: &CStr) -> Slot {
    worker.open(directory, path.into(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW)
}

/// Opens the worker's mount namespace and makes it forget the host's mounts. It lives as long as it is open.
fn keep_namespace(worker: &mut Worker<'_>) -> Slot {
    let namespace = worker.open(At::Cwd, c"/proc/self/ns/mnt".into(), libc::O_RDONLY);
    worker.leave_root();
    namespace
}

fn run(
    worker: Worker<'_>,
    mount: Slot,
    namespace: Option<Slot>,
    memory: Option<Slot>,
) -> Result<Overlay, SyscallError> {
    let mut opened = worker.run()?;
    // Every slot is filled when all calls have succeeded.
    let mount = opened.take(mount).ok_or_else(|| SyscallError::new("fsmount", libc::EBADF))?;
    let mut take = |slot: Option<Slot>| slot.and_then(|slot| opened.take(slot));
    Ok(Overlay {
        mount,
        namespace: take(namespace),
        memory: take(memory),
        scaffolding: Mutex::default(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, create_dir, read_dir, read_to_string};
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::machine::{require, stacks};

    fn ids() -> Vec<Ids> {
        let namespace = UserNamespace::automatic().unwrap();
        if geteuid().is_root() {
            vec![Ids::Host, Ids::Mapped(namespace)]
        } else {
            vec![Ids::Joined(namespace)]
        }
    }

    fn names(dir: &OwnedFd) -> Vec<String> {
        let entries = read_dir(format!("/proc/self/fd/{}", dir.as_raw_fd())).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Both ways, whichever this kernel would take, give the same for every kind of stack.
    #[test]
    fn old_and_new_ways_agree() {
        require!(stacks());
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let file = |layer: &str, name: &str| {
            let _ = create_dir(path(layer));
            fs::write(path(layer).join(name), layer).unwrap();
        };
        file("base", "a");
        file("base", "b");
        file("app", "b");
        let mounts = || read_to_string("/proc/self/mountinfo").unwrap();
        let before = mounts();
        for ids in ids() {
            for layers in [&["base"][..], &["base", "app"]] {
                for top in ["nothing", "scratch", "volatile", "memory"] {
                    for attached in [false, true] {
                        let case = format!("{ids:?} {layers:?} {top} attached: {attached}");
                        let mut lowers: Vec<_> = layers
                            .iter()
                            .map(|layer| Directory::open(&path(layer), "the layer").unwrap())
                            .collect();
                        let volatile = top == "volatile";
                        let mut top = match top {
                            "nothing" => Top::Nothing,
                            "memory" => Top::Memory,
                            _ => Top::Scratch(Scratch::open(&path(top), volatile).unwrap()),
                        };
                        let assembly = Assembly::new(&mut lowers, &mut top, &ids).unwrap();
                        let made = match attached {
                            true => assembly.attached(volatile),
                            false => assembly.detached(volatile),
                        };
                        let overlay = match made.unwrap() {
                            Ok(overlay) => overlay,
                            // Before Linux 6.15.
                            Err(err) if !attached && is_too_new(&err) => continue,
                            Err(err) => panic!("{case}: {err}"),
                        };
                        let copies = [overlay.copy(&ids).unwrap(), overlay.copy(&ids).unwrap()];
                        drop(overlay);
                        for copy in copies {
                            assert_eq!(names(&copy), ["a", "b"], "{case}");
                            let b = format!("/proc/self/fd/{}/b", copy.as_raw_fd());
                            assert_eq!(read_to_string(&b).unwrap(), layers[layers.len() - 1]);
                            let read_only = fstatvfs(&copy).unwrap().flags();
                            let read_only = read_only.contains(FsFlags::ST_RDONLY);
                            assert_eq!(read_only, matches!(top, Top::Nothing), "{case}");
                        }
                        if let Top::Scratch(scratch) = &top {
                            scratch.make_removable();
                        }
                        assert_eq!(mounts(), before, "{case}");
                    }
                }
            }
        }
    }
}
