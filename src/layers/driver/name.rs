//! The drivers by name.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A way of keeping layers on disk. Prints as, and is parsed from, its name in lower case.
///
/// ```
/// use coracle::layers::Driver;
///
/// assert_eq!("overlay".parse::<Driver>()?, Driver::Overlay);
/// assert_eq!(Driver::Vfs.to_string(), "vfs");
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Driver {
    /// A layer is a directory of what it changes, and the kernel's overlay file system stacks them. The fastest,
    /// and the choice wherever it can be had: ext4, xfs, btrfs, tmpfs.
    Overlay,
    /// A layer is a subvolume of btrfs, a snapshot of the one below it. Needs root.
    Btrfs,
    /// A layer is a whole tree, a copy of the one below it; on xfs and btrfs the contents are shared. Works
    /// on every file system that keeps owners, modes and extended attributes.
    Vfs,
}

impl Driver {
    /// The name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Btrfs => "btrfs",
            Self::Vfs => "vfs",
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Driver {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Self::Overlay, Self::Btrfs, Self::Vfs]
            .into_iter()
            .find(|driver| driver.as_str() == name)
            .ok_or_else(|| {
                Error::invalid(format!("there is no storage driver {name:?}"))
                    .with_hint("the drivers are overlay, btrfs and vfs")
            })
    }
}
