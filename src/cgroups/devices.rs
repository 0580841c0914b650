//! Which device nodes a group may open and make.

use std::fmt;

/// The kind of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// A character device.
    Char,
    /// A block device.
    Block,
}

bitflags::bitflags! {
    /// What may be done with a device.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct DeviceAccess: u8 {
        /// Make a node for it.
        const MKNOD = 1;
        /// Open it for reading.
        const READ = 1 << 1;
        /// Open it for writing.
        const WRITE = 1 << 2;
    }
}

/// The devices that a group may use; all others are denied with `EPERM`, whatever the node's mode says.
///
/// The default has what every container gets: `null`, `zero`, `full`, `random`, `urandom`, `tty`, `ptmx` and
/// the terminals in `/dev/pts`; and any node may be made, though not opened.
///
/// ```
/// use coracle::cgroups::{DeviceAccess, DeviceKind, DeviceRules, Limits};
///
/// let fuse = DeviceRules::default().allow(DeviceKind::Char, 10, 229, DeviceAccess::all());
/// let limits = Limits::new().devices(fuse);
/// ```
///
/// v1 keeps the list itself (`devices.allow`); on v2 it becomes an eBPF program attached to the cgroup, which
/// takes `CAP_BPF` and `CAP_NET_ADMIN`, or root, in the initial user namespace (Linux 5.1). An unprivileged process
/// in a user namespace needs neither: it cannot open a device node that it made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "rules do nothing until Limits::devices takes them"]
pub struct DeviceRules {
    pub(super) allowed: Vec<DeviceRule>,
}

/// One entry; `None` is any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeviceRule {
    pub(super) kind: DeviceKind,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    pub(super) access: DeviceAccess,
}

impl Default for DeviceRules {
    fn default() -> Self {
        use DeviceKind::{Block, Char};
        let mut rules = Self::none().allow(Char, None, None, DeviceAccess::MKNOD).allow(
            Block,
            None,
            None,
            DeviceAccess::MKNOD,
        );
        for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)] {
            rules = rules.allow(Char, major, minor, DeviceAccess::all());
        }
        rules.allow(Char, 136, None, DeviceAccess::all())
    }
}

impl DeviceRules {
    /// No device at all, not even `/dev/null`.
    pub fn none() -> Self {
        Self { allowed: Vec::new() }
    }

    /// Every device.
    pub fn all() -> Self {
        Self::none().allow(DeviceKind::Char, None, None, DeviceAccess::all()).allow(
            DeviceKind::Block,
            None,
            None,
            DeviceAccess::all(),
        )
    }

    /// Allows `access` to the device with these numbers as well; `None` stands for any number.
    pub fn allow(
        mut self,
        kind: DeviceKind,
        major: impl Into<Option<u32>>,
        minor: impl Into<Option<u32>>,
        access: DeviceAccess,
    ) -> Self {
        let (major, minor) = (major.into(), minor.into());
        self.allowed.push(DeviceRule { kind, major, minor, access });
        self
    }
}

/// `c 1:3 rwm`, the form `devices.allow` of v1 takes.
impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            DeviceKind::Char => "c ",
            DeviceKind::Block => "b ",
        })?;
        for (number, after) in [(self.major, ":"), (self.minor, " ")] {
            match number {
                Some(number) => write!(f, "{number}{after}")?,
                None => write!(f, "*{after}")?,
            }
        }
        for (access, letter) in
            [(DeviceAccess::READ, "r"), (DeviceAccess::WRITE, "w"), (DeviceAccess::MKNOD, "m")]
        {
            if self.access.contains(access) {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_read_like_the_kernels_list() {
        let lines: Vec<_> =
            DeviceRules::default().allowed.iter().map(ToString::to_string).collect();
        assert_eq!(lines[0], "c *:* m");
        assert_eq!(lines[1], "b *:* m");
        assert_eq!(lines[2], "c 1:3 rwm");
        assert_eq!(lines.last().unwrap(), "c 136:* rwm");
    }
}
