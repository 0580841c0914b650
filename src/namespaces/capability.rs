//! One Linux capability, and a set of them.

use std::fmt;
use std::str::FromStr;

use super::nearest::nearest;
use crate::error::{Error, Result};

macro_rules! capabilities {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// One of the privileges that root is divided into, see `capabilities(7)`.
        ///
        /// Parses from its name in any case, with or without `CAP_`, and prints as the manual page writes it.
        ///
        /// ```
        /// use coracle::namespaces::Capability;
        ///
        /// let cap: Capability = "net_raw".parse()?;
        /// assert_eq!(cap, Capability::NetRaw);
        /// assert_eq!(cap.to_string(), "CAP_NET_RAW");
        /// # Ok::<(), coracle::Error>(())
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        #[repr(u8)]
        pub enum Capability {
            $($(#[$doc])* $name = $number,)*
        }

        impl Capability {
            /// Every capability this crate knows, in the kernel's order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name as `capabilities(7)` writes it, such as `CAP_NET_RAW`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

capabilities! {
    /// Change the owner of any file.
    Chown = 0, "CAP_CHOWN";
    /// Pass over the permission bits of files.
    DacOverride = 1, "CAP_DAC_OVERRIDE";
    /// Read any file and search any directory; also `open_by_handle_at`, which leaves any chroot.
    DacReadSearch = 2, "CAP_DAC_READ_SEARCH";
    /// Do what only a file's owner may: change its mode, times and extended attributes.
    Fowner = 3, "CAP_FOWNER";
    /// Keep set-user-ID and set-group-ID bits when a file changes.
    Fsetid = 4, "CAP_FSETID";
    /// Send signals to processes of other users.
    Kill = 5, "CAP_KILL";
    /// Change group ids and the list of supplementary groups.
    Setgid = 6, "CAP_SETGID";
    /// Change user ids.
    Setuid = 7, "CAP_SETUID";
    /// Add to the inheritable set from the bounding set, and drop from the bounding set.
    Setpcap = 8, "CAP_SETPCAP";
    /// Set the append-only and immutable flags of files.
    LinuxImmutable = 9, "CAP_LINUX_IMMUTABLE";
    /// Bind to ports below 1024.
    NetBindService = 10, "CAP_NET_BIND_SERVICE";
    /// Unused by the kernel.
    NetBroadcast = 11, "CAP_NET_BROADCAST";
    /// Configure interfaces, routes, firewalls.
    NetAdmin = 12, "CAP_NET_ADMIN";
    /// Open raw and packet sockets.
    NetRaw = 13, "CAP_NET_RAW";
    /// Lock memory beyond the limit.
    IpcLock = 14, "CAP_IPC_LOCK";
    /// Pass over the permissions of System V IPC objects.
    IpcOwner = 15, "CAP_IPC_OWNER";
    /// Load and unload kernel modules: the host's kernel.
    SysModule = 16, "CAP_SYS_MODULE";
    /// Access I/O ports, `/dev/mem` and the like.
    SysRawio = 17, "CAP_SYS_RAWIO";
    /// Call `chroot`, and join mount namespaces.
    SysChroot = 18, "CAP_SYS_CHROOT";
    /// Trace any process.
    SysPtrace = 19, "CAP_SYS_PTRACE";
    /// Switch process accounting.
    SysPacct = 20, "CAP_SYS_PACCT";
    /// Mount, create namespaces, and a hundred other things: close to full privilege.
    SysAdmin = 21, "CAP_SYS_ADMIN";
    /// Reboot, and load a new kernel.
    SysBoot = 22, "CAP_SYS_BOOT";
    /// Raise priorities, set real-time scheduling and CPU affinity of other processes.
    SysNice = 23, "CAP_SYS_NICE";
    /// Pass over resource limits and quotas.
    SysResource = 24, "CAP_SYS_RESOURCE";
    /// Set the clocks.
    SysTime = 25, "CAP_SYS_TIME";
    /// Hang up and configure terminals.
    SysTtyConfig = 26, "CAP_SYS_TTY_CONFIG";
    /// Create device nodes.
    Mknod = 27, "CAP_MKNOD";
    /// Take leases on any file.
    Lease = 28, "CAP_LEASE";
    /// Write to the audit log.
    AuditWrite = 29, "CAP_AUDIT_WRITE";
    /// Configure auditing.
    AuditControl = 30, "CAP_AUDIT_CONTROL";
    /// Set file capabilities.
    Setfcap = 31, "CAP_SETFCAP";
    /// Override mandatory access control (Smack).
    MacOverride = 32, "CAP_MAC_OVERRIDE";
    /// Configure mandatory access control (Smack).
    MacAdmin = 33, "CAP_MAC_ADMIN";
    /// Read and clear the kernel's log.
    Syslog = 34, "CAP_SYSLOG";
    /// Set alarms that wake the machine.
    WakeAlarm = 35, "CAP_WAKE_ALARM";
    /// Block the machine from suspending.
    BlockSuspend = 36, "CAP_BLOCK_SUSPEND";
    /// Read the audit log from a multicast socket.
    AuditRead = 37, "CAP_AUDIT_READ";
    /// Use performance monitoring (Linux 5.8).
    Perfmon = 38, "CAP_PERFMON";
    /// Load BPF programs (Linux 5.8).
    Bpf = 39, "CAP_BPF";
    /// Checkpoint and restore processes (Linux 5.9).
    CheckpointRestore = 40, "CAP_CHECKPOINT_RESTORE";
}

impl Capability {
    /// The kernel's number, the bit in a set.
    pub const fn number(self) -> u8 {
        self as u8
    }

    pub(crate) const fn bit(self) -> u64 {
        1 << self as u8
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Capability {
    type Err = Error;

    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if there is no capability of that name.
    fn from_str(s: &str) -> Result<Self> {
        let upper = s.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let found = Self::ALL.iter().find(|cap| cap.name()[4..] == *bare);
        found.copied().ok_or_else(|| {
            let err = Error::invalid(format!("unknown capability {s:?}"));
            match nearest(&format!("CAP_{bare}"), Self::ALL.iter().map(|cap| cap.name())) {
                Some(name) => err.with_hint(format!("did you mean {name}?")),
                None => err.with_hint("capabilities(7) lists the names"),
            }
        })
    }
}

/// A set of capabilities.
///
/// ```
/// use coracle::namespaces::{Capability, CapabilitySet};
///
/// let mut set = CapabilitySet::from_iter([Capability::Kill, Capability::Chown]);
/// set.insert(Capability::NetRaw);
/// assert_eq!(set.to_string(), "CAP_CHOWN,CAP_KILL,CAP_NET_RAW");
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct CapabilitySet(u64);

impl CapabilitySet {
    /// The set without members.
    pub const EMPTY: Self = Self(0);

    /// Every capability, those that a later kernel may add included: what is set is cut down to what the
    /// running kernel knows.
    pub const ALL: Self = Self(u64::MAX);

    pub(crate) const fn of(caps: &[Capability]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < caps.len() {
            bits |= caps[i].bit();
            i += 1;
        }
        Self(bits)
    }

    /// The members as the kernel's bit set, bit *n* for capability number *n*.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether `cap` is a member.
    pub const fn contains(self, cap: Capability) -> bool {
        self.0 & cap.bit() != 0
    }

    /// Whether every member of `other` is a member.
    pub const fn contains_all(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// Whether there are no members.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Adds `cap`.
    pub fn insert(&mut self, cap: Capability) {
        self.0 |= cap.bit();
    }

    /// Takes `cap` out.
    pub fn remove(&mut self, cap: Capability) {
        self.0 &= !cap.bit();
    }

    /// What is in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in this set and not in `other`.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The members this crate has a name for, in the kernel's order.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::ALL.iter().copied().filter(move |cap| self.contains(*cap))
    }
}

impl FromIterator<Capability> for CapabilitySet {
    fn from_iter<I: IntoIterator<Item = Capability>>(caps: I) -> Self {
        Self(caps.into_iter().fold(0, |bits, cap| bits | cap.bit()))
    }
}

impl Extend<Capability> for CapabilitySet {
    fn extend<I: IntoIterator<Item = Capability>>(&mut self, caps: I) {
        *self = self.union(caps.into_iter().collect());
    }
}

impl From<Capability> for CapabilitySet {
    fn from(cap: Capability) -> Self {
        Self(cap.bit())
    }
}

impl fmt::Display for CapabilitySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL {
            return f.write_str("all");
        }
        for (i, cap) in self.iter().enumerate() {
            write!(f, "{}{cap}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl fmt::Debug for CapabilitySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn names_and_numbers_are_those_of_the_kernel_header() {
        assert_eq!(Capability::ALL.len(), 41);
        for (number, cap) in Capability::ALL.iter().enumerate() {
            assert_eq!(usize::from(cap.number()), number, "{cap}");
            assert!(cap.name().starts_with("CAP_"));
            assert_eq!(cap.name().parse::<Capability>().unwrap(), *cap);
        }
        for (number, cap) in [
            (13, Capability::NetRaw),
            (21, Capability::SysAdmin),
            (31, Capability::Setfcap),
            (40, Capability::CheckpointRestore),
        ] {
            assert_eq!(cap.number(), number);
        }
    }

    #[test]
    fn parses_names_in_any_case_and_prefix() {
        for text in ["CAP_NET_RAW", "cap_net_raw", "NET_RAW", "net_raw", "Cap_Net_Raw"] {
            assert_eq!(text.parse::<Capability>().unwrap(), Capability::NetRaw, "{text}");
        }
        for (text, hint) in [
            ("CAP_NET_ROW", "CAP_NET_RAW"),
            ("sysadmin", "CAP_SYS_ADMIN"),
            ("", "capabilities(7)"),
            ("CAP_", "capabilities(7)"),
            ("CAP_CAP_KILL", "capabilities(7)"),
            (" kill", "CAP_KILL"),
            ("\u{130}", "capabilities(7)"),
        ] {
            let err = text.parse::<Capability>().unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidInput);
            assert!(err.to_string().contains(&format!("{text:?}")), "{err}");
            assert!(err.hint().unwrap().contains(hint), "{text:?}: {:?}", err.hint());
        }
    }

    #[test]
    fn set_operations() {
        let a = CapabilitySet::of(&[Capability::Chown, Capability::Kill]);
        let b = CapabilitySet::of(&[Capability::Kill, Capability::Bpf]);
        assert_eq!(a.union(b).iter().count(), 3);
        assert_eq!(a.intersection(b), Capability::Kill.into());
        assert_eq!(a.difference(b), Capability::Chown.into());
        assert!(a.contains_all(Capability::Kill.into()) && !a.contains_all(b));
        assert_eq!(format!("{a:?}"), "{CAP_CHOWN,CAP_KILL}");
        assert_eq!(CapabilitySet::ALL.to_string(), "all");
        assert_eq!(CapabilitySet::EMPTY.to_string(), "");
    }
}
