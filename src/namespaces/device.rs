//! Device nodes.

use std::path::{Path, PathBuf};

/// A device of the host that a container gets in its `/dev`.
///
/// With the host's user ids the node is made anew; in a user namespace, where the kernel allows no device
/// nodes, the host's own node is bound to the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
}

impl Device {
    /// The device node `path` of the host, under the same path.
    pub fn new(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        Self { source: path.into(), target: path.into() }
    }

    /// Where it is on the host.
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// Puts it at `path` inside instead.
    pub fn at(mut self, path: impl AsRef<Path>) -> Self {
        self.target = path.as_ref().into();
        self
    }

    /// What every container has: null, zero, full, random, urandom, tty.
    pub(crate) fn defaults() -> impl Iterator<Item = Self> {
        ["null", "zero", "full", "random", "urandom", "tty"]
            .into_iter()
            .map(|name| Self::new(Path::new("/dev").join(name)))
    }
}
