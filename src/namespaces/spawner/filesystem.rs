//! The steps that build a container's file system.

use std::ffi::CString;
use std::fs::{self, Metadata};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Builder;
use super::device_nodes::{self, Node};
use super::environment::{absolute, c_path, c_string, os};
use nix::fcntl::AT_FDCWD;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::namespaces::mount::{IdMapping, Kind as MountKind, Propagation};
use crate::namespaces::root::{Source, duplicate};
use crate::namespaces::{
    Device, Mount, Namespaces, TerminalSize, UserNamespace, masked_paths, read_only_paths,
};
use crate::sys::mount::{MountAttr, OpenTree, SetAttr, mount_setattr, open_tree};
use crate::sys::plan::{Filesystem, Kind, Slot, Step, Target};

const DEV_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// A detached tree, and what its root is.
type Opened = (Slot, Kind);

/// The mounts that later steps come back to.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) proc: Option<Slot>,
    sys: Option<Slot>,
    pub(super) pts: Option<Slot>,
    null: Option<Slot>,
    old_root: Option<Slot>,
    /// See `RootMount::scaffolding`.
    scaffolding: Vec<Slot>,
}

impl Builder<'_> {
    /// Everything from the change of propagation to the detachment of the old root.
    pub(super) fn filesystem(&mut self) -> Result<()> {
        if !self.unshared.contains(Namespaces::MOUNT) {
            if self.command.is_container() {
                return Err(Error::invalid(
                    "a root file system needs a mount namespace of its own",
                ));
            }
            return if self.command.mounts.is_empty() {
                Ok(())
            } else {
                Err(Error::invalid("a mount needs a mount namespace of its own")
                    .with_hint("add .unshare(Namespaces::MOUNT)"))
            };
        }
        if self.contained() {
            // What is made on the way to a mount point has the mode it should; the process gets its own mask later.
            self.steps.push(Step::Umask { mask: 0 });
        }
        let root = self.root()?;
        let user_mounts = self.sources()?;
        self.steps.push(Step::Propagation { flags: libc::MS_REC | libc::MS_PRIVATE });
        if let Some(root) = root {
            let old = self.fds.empty();
            self.places.old_root = Some(old);
            self.steps.push(Step::EnterNewRoot { root, old });
            self.host_programs(root)?;
            if self.command.default_mounts {
                self.default_mounts()?;
            }
        }
        // One of the caller's mounts may be below the working directory, or on a directory above it.
        let early = self.mounts_below_working_tree()?;
        if early {
            self.working_tree()?;
        }
        for (mount, source) in user_mounts {
            self.user_mount(&mount, source)?;
        }
        if !early {
            self.working_tree()?;
        }
        if let Some(dir) =
            self.command.current_dir.as_ref().filter(|_| self.command.make_current_dir)
        {
            let target = self.target(dir, Kind::Directory, false)?;
            self.steps.push(Step::MakeDirectory { target });
        }
        self.sysctls()?;
        if root.is_some() && self.command.default_mounts {
            self.cover()?;
        }
        if let (Some(root), Some(old)) = (root, self.places.old_root) {
            self.steps.push(Step::DetachOldRoot {
                root,
                old,
                leftovers: initramfs_mounts()?,
                scaffolding: std::mem::take(&mut self.places.scaffolding),
            });
            let isolated = matches!(self.command.root.0, Source::HostPrograms);
            if self.command.read_only_root || isolated {
                self.steps.push(Step::Attributes {
                    mount: root,
                    set: MountAttr::READ_ONLY.bits(),
                    propagation: 0,
                    recursive: false,
                    what: "make the root read-only".into(),
                });
            }
        }
        Ok(())
    }

    fn root(&mut self) -> Result<Option<Slot>> {
        match &self.command.root.0 {
            Source::Host => Ok(None),
            Source::Directory(path) => {
                if path.as_os_str().is_empty() {
                    return Err(Error::invalid("the path of the root is empty"));
                }
                let what = || format!("use {} as the root", path.display());
                let found = fs::metadata(path).context(what)?;
                if !found.is_dir() {
                    return Err(Error::invalid(format!("{}: it is not a directory", what())));
                }
                let users = self.users.clone();
                let tree = self.tree(path, true, users.as_ref()).map_err(|e| e.context(what()))?;
                self.image_root = Some(Arc::new(fs::File::open(path).context(what)?.into()));
                Ok(Some(tree))
            }
            Source::Mounted { mounts, .. } => {
                let mount = mounts.detached()?;
                let root = duplicate(&mount).context(|| "duplicate the root's file descriptor")?;
                self.image_root = Some(Arc::new(root));
                for mount in mounts.scaffolding() {
                    let mount = self.fds.own(mount);
                    self.places.scaffolding.push(mount);
                }
                Ok(Some(self.fds.own(mount)))
            }
            Source::HostPrograms => {
                let out = self.fds.empty();
                let mount = Mount::tmpfs("/").mode(0o755);
                let fs = self.describe_filesystem("tmpfs", &mount)?;
                self.steps.push(Step::Mount { fs, target: None, out });
                Ok(Some(out))
            }
        }
    }

    /// A detached copy of a tree of the host: made now by a host that may, by the child where only its user
    /// namespace lets it.
    pub(super) fn tree(
        &mut self,
        path: &Path,
        recursive: bool,
        id_map: Option<&UserNamespace>,
    ) -> Result<Slot> {
        let source = c_path("path", path)?;
        if !self.privileged {
            let out = self.fds.empty();
            self.before_pivot(Step::OpenTree { source, recursive, out });
            return Ok(out);
        }
        let flags =
            OpenTree::CLONE | if recursive { OpenTree::RECURSIVE } else { OpenTree::empty() };
        let tree =
            open_tree(AT_FDCWD, &source, flags).context(|| format!("open {}", path.display()))?;
        if let Some(users) = id_map {
            let attr = SetAttr { user_namespace: Some(users.as_fd()), ..SetAttr::default() };
            mount_setattr(&tree, c"", &attr).context(|| format!("map the ids of {}", path.display())).map_err(
                |err| {
                    err.with_hint(
                        "idmapped mounts need Linux 5.12 and a file system that can (ext4, xfs, btrfs, tmpfs \
                         from 6.3); Mount::host_ids or Command::host_users do without",
                    )
                },
            )?;
        }
        Ok(self.fds.own(tree))
    }

    pub(super) fn attributes(
        &mut self,
        mount: Slot,
        set: u64,
        propagation: Propagation,
        recursive: bool,
        what: &str,
    ) {
        self.steps.push(Step::Attributes {
            mount,
            set,
            propagation: propagation.flag(),
            recursive,
            what: format!("set the attributes of {what}"),
        });
    }

    /// Opens what mounts lead to while the host's paths still mean something.
    fn sources(&mut self) -> Result<Vec<(Mount, Option<Opened>)>> {
        let mut opened = Vec::new();
        for mount in &self.command.mounts {
            let target = mount.target.display();
            let source = match &mount.kind {
                MountKind::Filesystem { .. } => None,
                MountKind::Bind { source, recursive, id_map } => {
                    let what = || format!("bind {} to {target}", source.display());
                    let found = fs::metadata(source).context(what)?;
                    let users = match id_map {
                        Some(IdMapping::Container) if self.privileged => self.users.clone(),
                        Some(IdMapping::Through(users)) => Some(users.clone()),
                        _ => None,
                    };
                    let tree = self
                        .tree(source, *recursive, users.as_ref())
                        .map_err(|err| err.context(what()))?;
                    Some((tree, kind_of(&found)))
                }
                MountKind::Stack { mounts, user_namespace } => {
                    let own = self.users.as_ref().map(UserNamespace::as_fd);
                    let theirs = user_namespace.as_ref().map(UserNamespace::as_fd);
                    if !same_namespace(own, theirs)? {
                        return Err(Error::invalid(format!(
                            "mount the stack {} on {target}: it has other ids than the process",
                            mounts.name()
                        ))
                        .with_hint("give the stack and the command the same user namespace"));
                    }
                    Some((self.fds.own(mounts.detached()?), Kind::Directory))
                }
            };
            opened.push((mount.clone(), source));
        }
        Ok(opened)
    }

    fn describe_filesystem(&self, fstype: &str, mount: &Mount) -> Result<Filesystem> {
        let mut options = Vec::new();
        let mut data = Vec::new();
        for (key, value) in &mount.options {
            data.push(match value {
                Some(value) => format!("{key}={value}"),
                None => key.clone(),
            });
            let value = value.as_ref().map(|v| c_string("mount option", v)).transpose()?;
            options.push((c_string("mount option", key)?, value));
        }
        // A file system whose namespace is the host's cannot be mounted from another user namespace.
        let shared_as = match fstype {
            "proc" => Some((Namespaces::PID, "proc")),
            "sysfs" => Some((Namespaces::NETWORK, "sys")),
            "mqueue" => Some((Namespaces::IPC, "dev/mqueue")),
            _ => None,
        };
        let or_bind = match (shared_as, self.places.old_root) {
            (Some((kind, path)), Some(old)) if !self.unshared.contains(kind) => {
                Some((old, c_string("path", path)?))
            }
            _ => None,
        };
        Ok(Filesystem {
            fstype: c_string("file system type", fstype)?,
            options,
            attributes: mount.attributes(),
            // MOUNT_ATTR_* and MS_* have the same values up to MS_NOEXEC.
            flags: mount.attributes(),
            data: c_string("mount options", data.join(","))?,
            or_bind,
        })
    }

    pub(super) fn target(&self, path: &Path, kind: Kind, strict: bool) -> Result<Target> {
        let clean = absolute("mount point", path)?;
        let mut components = Vec::new();
        let mut prefix = Vec::new();
        for name in clean.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            prefix.push(b'/');
            prefix.extend_from_slice(name);
            components.push((
                c_string("mount point", os(prefix.clone()))?,
                c_string("mount point", os(name.into()))?,
            ));
        }
        Ok(Target {
            path: c_string("mount point", os(clean))?,
            components,
            kind,
            // In the host's own tree nothing is made.
            create: self.command.is_container(),
            strict,
        })
    }

    fn user_mount(&mut self, mount: &Mount, source: Option<Opened>) -> Result<()> {
        let clean = os(absolute("mount point", &mount.target)?);
        let target = Path::new(&clean);
        if target == Path::new("/") {
            return Err(Error::invalid("a mount cannot replace the root; use .rootfs(..)"));
        }
        let is_proc = target == Path::new("/proc");
        if target.starts_with("/proc") && !(is_proc && mount.is_type("proc")) {
            return Err(Error::new(
                ErrorKind::SafetyViolation,
                format!("mount on {}: only proc may be mounted there", target.display()),
            )
            .with_hint(
                "what covers parts of /proc can make security settings go to the wrong file",
            ));
        }
        match source {
            Some((slot, kind)) => {
                let target = self.target(target, kind, false)?;
                self.steps.push(Step::Attach { mount: slot, target });
                self.attributes(
                    slot,
                    mount.attributes(),
                    mount.propagation,
                    true,
                    &mount.target.display().to_string(),
                );
                Ok(())
            }
            None => self.fresh(mount, false).map(drop),
        }
    }

    /// Mounts a new file system.
    pub(super) fn fresh(&mut self, mount: &Mount, strict: bool) -> Result<Slot> {
        let MountKind::Filesystem { fstype } = &mount.kind else {
            return Err(Error::invalid("only a file system can be mounted anew"));
        };
        let mut fs = self.describe_filesystem(fstype, mount)?;
        if fstype == "devpts" && self.may_own_gid(5) {
            fs.options.push((c"gid".into(), Some(c"5".into())));
        }
        let out = self.fds.empty();
        let target = self.target(&mount.target, Kind::Directory, strict)?;
        self.steps.push(Step::Mount { fs, target: Some(target), out });
        match fstype.as_str() {
            "proc" => self.places.proc = Some(out),
            "sysfs" if mount.target == Path::new("/sys") => self.places.sys = Some(out),
            "devpts" => self.places.pts = Some(out),
            _ => {}
        }
        Ok(out)
    }

    fn may_own_gid(&self, gid: u32) -> bool {
        match &self.users {
            None => true,
            Some(users) => users.map().is_some_and(|map| map.host_gid(gid).is_some()),
        }
    }

    /// Whether the caller has put something of his own there.
    fn replaced(&self, path: &str) -> bool {
        self.command.mounts.iter().any(|m| m.target == Path::new(path))
    }

    fn default_mounts(&mut self) -> Result<()> {
        if !self.replaced("/proc") {
            self.fresh(&Mount::proc(), true)?;
        }
        if !self.replaced("/dev") {
            self.dev()?;
        }
        if !self.replaced("/sys") {
            let mount = Mount::sysfs("/sys").read_only();
            self.fresh(&mount, true)?;
            let cgroup2 = "/sys/fs/cgroup";
            if self.unshared.contains(Namespaces::CGROUP)
                && !self.replaced(cgroup2)
                && is_cgroup2(Path::new(cgroup2))
            {
                self.fresh(&Mount::cgroup2(cgroup2).read_only(), true)?;
            }
        }
        Ok(())
    }

    fn dev(&mut self) -> Result<()> {
        let mut tmpfs = Mount::tmpfs("/dev").mode(0o755).size(64 << 10).no_exec();
        tmpfs.no_dev = false;
        let devices: Vec<Device> =
            Device::defaults().chain(self.command.devices.iter().cloned()).collect();
        let nodes = devices.iter().map(|device| self.node(device)).collect::<Result<Vec<_>>>()?;
        let with_nodes = self.dev_with_nodes(&tmpfs, nodes.iter().flatten())?;
        let dev = match with_nodes {
            Some(dev) => dev,
            None => self.fresh(&tmpfs, true)?,
        };
        for (name, target) in DEV_LINKS {
            let (name, target) = (c_string("link", name)?, c_string("link", target)?);
            self.steps.push(Step::Symlink { dir: dev, name, target });
        }
        for (device, node) in devices.iter().zip(nodes) {
            match node {
                Some(node) if with_nodes.is_none() && self.users.is_none() => {
                    self.steps.push(Step::Node {
                        dir: dev,
                        name: node.name,
                        mode: node.mode,
                        device: node.device,
                    });
                }
                Some(_) if with_nodes.is_some() => {}
                _ => self.device(device)?,
            }
        }
        if self.places.null.is_none() {
            let out = self.fds.empty();
            self.steps.push(Step::Open { dir: dev, name: c"null".into(), out });
            self.places.null = Some(out);
        }
        for (mount, mode) in [
            (Mount::devpts("/dev/pts"), 0o755),
            (Mount::tmpfs("/dev/shm").mode(0o1777).size(64 << 20).no_exec(), 0o1777),
            (Mount::mqueue("/dev/mqueue"), 0o755),
        ] {
            let name = mount.target.file_name().unwrap_or_default().to_owned();
            let name = c_string("directory", name)?;
            self.steps.push(Step::Directory { dir: dev, name, mode });
            // A host whose IPC namespace is shared may have no mqueue to share.
            let nothing_to_share = mount.is_type("mqueue")
                && !self.unshared.contains(Namespaces::IPC)
                && !mount.target.exists();
            if !nothing_to_share && !self.replaced(&mount.target.to_string_lossy()) {
                self.fresh(&mount, true)?;
            }
        }
        if self.places.pts.is_some() { self.terminal() } else { Ok(()) }
    }

    /// A terminal of the container's own devpts, which `tty` and the like can find by its path.
    pub(super) fn terminal(&mut self) -> Result<()> {
        let Some(TerminalSize { rows, columns }) = self.command.terminal else { return Ok(()) };
        let (receiver, sender) = UnixStream::pair().context(|| "make a socket pair")?;
        let (peer, socket) = (self.fds.empty(), self.fds.own(sender.into()));
        let pts = self.places.pts;
        self.steps.push(Step::OpenTerminal { pts, peer, socket, rows, columns });
        self.peer = Some(peer);
        self.terminal_receiver = Some(receiver);
        Ok(())
    }

    /// The device as a node directly in `/dev`, where such can be made at all.
    fn node(&self, device: &Device) -> Result<Option<Node>> {
        let what = || format!("add the device {}", device.source.display());
        let found = fs::metadata(&device.source).context(what)?;
        let file_type = found.file_type();
        if !file_type.is_char_device() && !file_type.is_block_device() {
            return Err(Error::invalid(format!("{}: it is no device", what())));
        }
        if device.target.parent() != Some(Path::new("/dev")) || !self.may_make_nodes {
            return Ok(None);
        }
        let name = c_string("device", device.target.file_name().unwrap_or_default())?;
        Ok(Some(Node { name, mode: found.mode(), device: found.rdev() }))
    }

    /// Attaches a `/dev` with `nodes`, if the host has to make them and can.
    fn dev_with_nodes<'n>(
        &mut self,
        tmpfs: &Mount,
        nodes: impl Iterator<Item = &'n Node>,
    ) -> Result<Option<Slot>> {
        let Some(users) = self.users.as_ref().filter(|_| self.privileged && self.may_make_nodes)
        else {
            return Ok(None);
        };
        let described = self.describe_filesystem("tmpfs", tmpfs)?;
        let attributes = MountAttr::from_bits_truncate(described.attributes);
        let Some(tree) = device_nodes::make(users, &described.options, attributes, nodes) else {
            return Ok(None);
        };
        let dev = self.fds.own(tree);
        let target = self.target(&tmpfs.target, Kind::Directory, true)?;
        self.steps.push(Step::Attach { mount: dev, target });
        Ok(Some(dev))
    }

    /// Binds a device of the host's.
    fn device(&mut self, device: &Device) -> Result<()> {
        let is_null = device.target == Path::new("/dev/null");
        let tree = self.tree(&device.source, false, None)?;
        let target = self.target(&device.target, Kind::File, true)?;
        self.steps.push(Step::Attach { mount: tree, target });
        if is_null {
            self.places.null = Some(tree);
        }
        Ok(())
    }

    /// Puts a step in front of the change of roots, where paths are still the host's.
    fn before_pivot(&mut self, step: Step) {
        let at = self
            .steps
            .iter()
            .position(|s| matches!(s, Step::Propagation { .. }))
            .unwrap_or(self.steps.len());
        self.steps.insert(at, step);
    }

    fn sysctls(&mut self) -> Result<()> {
        if self.command.sysctls.is_empty() {
            return Ok(());
        }
        let Some(proc) = self.places.proc else {
            return Err(Error::invalid("a sysctl needs a /proc of the container's own"));
        };
        for sysctl in &self.command.sysctls {
            let needed = sysctl.namespace().kind();
            if !self.unshared.contains(needed) {
                return Err(Error::new(
                    ErrorKind::SafetyViolation,
                    format!(
                        "set sysctl {}: it belongs to the {needed} namespace, which is the host's",
                        sysctl.path().display()
                    ),
                ));
            }
            let mut path = PathBuf::from("sys");
            path.push(sysctl.relative_path());
            self.steps.push(Step::WriteFile {
                dir: Some(proc),
                path: c_path("sysctl", &path)?,
                data: sysctl.value().into(),
                what: format!("set sysctl {}", sysctl.path().display()),
            });
        }
        Ok(())
    }

    /// Masks, then makes read-only.
    fn cover(&mut self) -> Result<()> {
        let masked = self.command.masked.as_deref().unwrap_or(masked_paths());
        let read_only = self.command.read_only.as_deref().unwrap_or(read_only_paths());
        let empty = self.fds.empty();
        for path in masked {
            let target = self
                .target(path, Kind::File, true)
                .context(|| format!("mask {}", path.display()))?;
            let within = self.within(path)?;
            let null = match self.places.null {
                Some(null) => null,
                // The caller has a /dev of his own, which nothing is known of (CVE-2025-31133).
                None => self.tree(Path::new("/dev/null"), false, None)?,
            };
            self.steps.push(Step::Mask { target, within, null, empty });
        }
        for path in read_only {
            let target = self
                .target(path, Kind::File, true)
                .context(|| format!("make {} read-only", path.display()))?;
            let within = self.within(path)?;
            self.steps.push(Step::ReadOnlyPath { target, within });
        }
        if let (Some(peer), false) = (self.peer, self.replaced("/dev")) {
            let target = self.target(Path::new("/dev/console"), Kind::File, true)?;
            self.steps.push(Step::Bind { from: peer, target });
        }
        Ok(())
    }

    /// A path of /proc or /sys by way of the mount that was made there. By its name, who shares the root file system could
    /// put an empty directory there for a moment, and nothing would be covered.
    fn within(&self, path: &Path) -> Result<Option<(Slot, CString)>> {
        for (top, mount) in [("/proc", self.places.proc), ("/sys", self.places.sys)] {
            if let (Ok(rest), Some(mount)) = (path.strip_prefix(top), mount)
                && rest != Path::new("")
            {
                return Ok(Some((mount, c_path("path", rest)?)));
            }
        }
        Ok(None)
    }
}

pub(super) fn kind_of(found: &Metadata) -> Kind {
    if found.is_dir() { Kind::Directory } else { Kind::File }
}

/// Whether both are the same user namespace, or both the host's.
fn same_namespace(a: Option<BorrowedFd<'_>>, b: Option<BorrowedFd<'_>>) -> Result<bool> {
    let identity = |fd: BorrowedFd<'_>| {
        let found = nix::sys::stat::fstat(fd).context(|| "look at a user namespace")?;
        Result::Ok((found.st_dev, found.st_ino))
    };
    Ok(match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => identity(a)? == identity(b)?,
        _ => false,
    })
}

fn is_cgroup2(path: &Path) -> bool {
    nix::sys::statfs::statfs(path)
        .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::CGROUP2_SUPER_MAGIC)
}

/// What is mounted below a root that is an initramfs, deepest first and relative to it. Empty anywhere else.
fn initramfs_mounts() -> Result<Vec<CString>> {
    use nix::sys::statfs::{TMPFS_MAGIC, statfs};
    const RAMFS_MAGIC: i64 = 0x8584_58f6;
    let magic = statfs("/").context(|| "look at the host's root")?.filesystem_type();
    if magic != TMPFS_MAGIC && magic.0 != RAMFS_MAGIC {
        return Ok(Vec::new());
    }
    let table = fs::read_to_string("/proc/self/mountinfo").context(|| "read the host's mounts")?;
    parse_initramfs_mounts(&table)
}

fn parse_initramfs_mounts(table: &str) -> Result<Vec<CString>> {
    let points = |line: &str| line.split(' ').nth(4).map(str::to_owned);
    let is_rootfs = |line: &&str| {
        points(line).as_deref() == Some("/")
            && line.split(" - ").nth(1).is_some_and(|rest| rest.starts_with("rootfs "))
    };
    if !table.lines().any(|line| is_rootfs(&line)) {
        return Ok(Vec::new());
    }
    let mut below = Vec::new();
    for point in table.lines().rev().filter_map(points) {
        if point != "/" {
            below.push(c_string("mount point", unescape(point.trim_start_matches('/')))?);
        }
    }
    if below.is_empty() {
        // The old root itself cannot be detached: something must stand for "covered only".
        below.push(c"nothing-is-mounted-below".into());
    }
    Ok(below)
}

/// `\040` for a space, as mountinfo writes it.
fn unescape(field: &str) -> String {
    let mut text = field.to_owned();
    for (code, plain) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        text = text.replace(code, plain);
    }
    text
}
