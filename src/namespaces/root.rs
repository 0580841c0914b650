//! The root directory of a new process.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::UserNamespace;
use crate::error::Result;

/// What a container's `/` is: a directory, or a mount that something else, such as a
/// `Rootfs`, has prepared.
#[derive(Clone, Debug)]
pub struct Root(pub(crate) Source);

#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// The host's root, shared.
    Host,
    Directory(PathBuf),
    #[cfg_attr(not(feature = "layers"), expect(dead_code, reason = "layers makes them"))]
    Mounted {
        mounts: Arc<dyn RootMount>,
        user_namespace: Option<UserNamespace>,
    },
    /// A memory file system with the host's programs, see `Command::isolated`.
    HostPrograms,
}

/// Gives out detached mounts of one root file system.
pub(crate) trait RootMount: std::fmt::Debug + Send + Sync {
    /// A detached mount for one process to attach.
    fn detached(&self) -> Result<OwnedFd>;

    /// Detached mounts that it took to make the file system and that nobody needs any more. To take one apart on
    /// its own makes the kernel wait, for milliseconds on a busy machine; a child that has an old root to
    /// leave leaves them with it at no cost.
    fn scaffolding(&self) -> Vec<OwnedFd>;

    /// A name for messages.
    fn name(&self) -> String;
}

impl Root {
    pub(crate) fn is_host(&self) -> bool {
        matches!(self.0, Source::Host)
    }

    #[cfg(feature = "layers")]
    pub(crate) fn mounted(
        mounts: Arc<dyn RootMount>,
        user_namespace: Option<UserNamespace>,
    ) -> Self {
        Self(Source::Mounted { mounts, user_namespace })
    }

    pub(crate) fn name(&self) -> String {
        match &self.0 {
            Source::Host => "the host".into(),
            Source::Directory(path) => path.display().to_string(),
            Source::Mounted { mounts, .. } => mounts.name(),
            Source::HostPrograms => "the host's programs".into(),
        }
    }
}

impl<P: AsRef<Path> + ?Sized> From<&P> for Root {
    fn from(path: &P) -> Self {
        Self(Source::Directory(path.as_ref().into()))
    }
}

impl From<PathBuf> for Root {
    fn from(path: PathBuf) -> Self {
        Self(Source::Directory(path))
    }
}

/// Duplicates a fd, for an owner that keeps its own.
pub(crate) fn duplicate(fd: impl AsFd) -> std::io::Result<OwnedFd> {
    fd.as_fd().try_clone_to_owned()
}
