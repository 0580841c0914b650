//! What is mounted in a container.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::root::{RootMount, Source};
use super::{Root, UserNamespace};

/// A mount in the namespace of a new process.
///
/// ```
/// use coracle::namespaces::Mount;
/// let site = Mount::bind("./site", "/usr/share/nginx/html").read_only();
/// let tmp = Mount::tmpfs("/tmp").size(64 * coracle::MIB).no_exec();
/// ```
///
/// Mounts are made in the order in which they were added, after the defaults. A missing mount point is
/// made in the root file system. A mount point that is a symbolic link is refused; a link further up in its
/// path is followed inside the root. Mounting on or below `/proc` is refused.
#[derive(Clone, Debug)]
pub struct Mount {
    pub(crate) kind: Kind,
    pub(crate) target: PathBuf,
    pub(crate) options: Vec<(String, Option<String>)>,
    pub(crate) read_only: bool,
    pub(crate) no_suid: bool,
    pub(crate) no_dev: bool,
    pub(crate) no_exec: bool,
    pub(crate) propagation: Propagation,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Bind { source: PathBuf, recursive: bool, id_map: Option<IdMapping> },
    Filesystem { fstype: String },
    Stack { mounts: Arc<dyn RootMount>, user_namespace: Option<UserNamespace> },
}

/// Whose ids a bind mount shows.
#[derive(Clone, Debug)]
pub(crate) enum IdMapping {
    Container,
    Through(UserNamespace),
}

/// Whether mount events cross between a mount and its origin, see mount_namespaces(7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// None cross. The default.
    #[default]
    Private,
    /// The host's reach the container.
    Slave,
    /// They cross both ways: the container can mount on the host.
    Shared,
    /// None cross, and the mount cannot be bound again.
    Unbindable,
}

impl Propagation {
    pub(crate) fn flag(self) -> u64 {
        match self {
            Self::Private => libc::MS_PRIVATE,
            Self::Slave => libc::MS_SLAVE,
            Self::Shared => libc::MS_SHARED,
            Self::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

impl Mount {
    fn new(kind: Kind, target: &Path) -> Self {
        Self {
            kind,
            target: target.into(),
            options: Vec::new(),
            read_only: false,
            no_suid: false,
            no_dev: false,
            no_exec: false,
            propagation: Propagation::Private,
        }
    }

    fn filesystem_of(fstype: &str, target: &Path) -> Self {
        Self::new(Kind::Filesystem { fstype: fstype.into() }, target)
    }

    /// The host's file or directory `source`, with what is mounted below it.
    ///
    /// In a user namespace of its own a container of a privileged host sees the files through an idmapped
    /// mount (Linux 5.12, the file system permitting): ids on disk are the ids inside.
    pub fn bind(source: impl AsRef<Path>, target: impl AsRef<Path>) -> Self {
        let source = source.as_ref().into();
        let kind = Kind::Bind { source, recursive: true, id_map: Some(IdMapping::Container) };
        Self::new(kind, target.as_ref())
    }

    /// An empty file system in memory, with nosuid and nodev.
    pub fn tmpfs(target: impl AsRef<Path>) -> Self {
        Self::filesystem_of("tmpfs", target.as_ref()).no_suid().no_dev()
    }

    /// Process information of the container's pid namespace; only at `/proc`.
    pub fn proc() -> Self {
        Self::filesystem_of("proc", Path::new("/proc")).no_suid().no_dev().no_exec()
    }

    /// Kernel objects, with the network devices of the container's network namespace.
    pub fn sysfs(target: impl AsRef<Path>) -> Self {
        Self::filesystem_of("sysfs", target.as_ref()).no_suid().no_dev().no_exec()
    }

    /// Terminals of the container's own.
    pub fn devpts(target: impl AsRef<Path>) -> Self {
        Self::filesystem_of("devpts", target.as_ref())
            .no_suid()
            .no_exec()
            .option("newinstance", None)
            .option("ptmxmode", Some("0666"))
            .option("mode", Some("0620"))
    }

    /// POSIX message queues of the container's IPC namespace.
    pub fn mqueue(target: impl AsRef<Path>) -> Self {
        Self::filesystem_of("mqueue", target.as_ref()).no_suid().no_dev().no_exec()
    }

    /// The cgroup v2 tree, as far as the container's cgroup namespace shows it.
    pub fn cgroup2(target: impl AsRef<Path>) -> Self {
        Self::filesystem_of("cgroup2", target.as_ref()).no_suid().no_dev().no_exec()
    }

    /// Any other file system that takes no source.
    pub fn filesystem(fstype: &str, target: impl AsRef<Path>) -> Self {
        Self::filesystem_of(fstype, target.as_ref())
    }

    /// A prepared stack of layers (`layers::Rootfs`), or a directory, which is bound. The stack must have the
    /// user namespace of the process.
    pub fn overlay(stack: impl Into<Root>, target: impl AsRef<Path>) -> Self {
        match stack.into().0 {
            Source::Mounted { mounts, user_namespace } => {
                Self::new(Kind::Stack { mounts, user_namespace }, target.as_ref())
            }
            Source::Directory(path) => Self::bind(path, target),
            Source::Host | Source::HostPrograms => Self::bind("/", target),
        }
    }

    /// Nothing can be written, in the mounts below neither (recursion: Linux 5.12).
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Set-user-id bits and file capabilities have no effect.
    pub fn no_suid(mut self) -> Self {
        self.no_suid = true;
        self
    }

    /// Device nodes cannot be opened.
    pub fn no_dev(mut self) -> Self {
        self.no_dev = true;
        self
    }

    /// Nothing can be executed.
    pub fn no_exec(mut self) -> Self {
        self.no_exec = true;
        self
    }

    /// Leaves out what is mounted below the source of a bind.
    pub fn not_recursive(mut self) -> Self {
        if let Kind::Bind { recursive, .. } = &mut self.kind {
            *recursive = false;
        }
        self
    }

    /// Shows a bind's files with the host's ids: those outside the container's map appear as nobody's.
    pub fn host_ids(mut self) -> Self {
        if let Kind::Bind { id_map, .. } = &mut self.kind {
            *id_map = None;
        }
        self
    }

    /// Shows a bind's files through the map of another user namespace (Linux 5.12).
    pub fn id_mapped(mut self, through: &UserNamespace) -> Self {
        if let Kind::Bind { id_map, .. } = &mut self.kind {
            *id_map = Some(IdMapping::Through(through.clone()));
        }
        self
    }

    /// Whether mount events cross.
    pub fn propagation(mut self, propagation: Propagation) -> Self {
        self.propagation = propagation;
        self
    }

    /// The size limit of a tmpfs in bytes; without it the kernel allows half of the memory.
    pub fn size(self, bytes: u64) -> Self {
        self.option("size", Some(&bytes.to_string()))
    }

    /// The mode of the root directory of a tmpfs.
    pub fn mode(self, mode: u32) -> Self {
        self.option("mode", Some(&format!("{mode:o}")))
    }

    /// An option of the file system, `key` or `key=value`.
    pub fn option(mut self, key: &str, value: Option<&str>) -> Self {
        self.options.push((key.into(), value.map(Into::into)));
        self
    }

    pub(crate) fn is_type(&self, wanted: &str) -> bool {
        matches!(&self.kind, Kind::Filesystem { fstype } if fstype == wanted)
    }

    /// `MOUNT_ATTR_*`, which have the values of the `MS_*` flags of the same meaning.
    pub(crate) fn attributes(&self) -> u64 {
        u64::from(self.read_only)
            | u64::from(self.no_suid) << 1
            | u64::from(self.no_dev) << 2
            | u64::from(self.no_exec) << 3
    }
}
