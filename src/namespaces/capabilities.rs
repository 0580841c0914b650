//! The five capability sets of a process.

use super::capability::{Capability, CapabilitySet};
use crate::error::{Error, Result};

/// The five capability sets a process starts with, see `capabilities(7)`.
///
/// [`Capabilities::default`] is what a container gets:
///
/// | kept | why |
/// |---|---|
/// | `CHOWN` `DAC_OVERRIDE` `FOWNER` `FSETID` `SETFCAP` | package managers unpack files of any owner and mode |
/// | `SETUID` `SETGID` `SETPCAP` `KILL` | daemons drop to their own user, and init signals them |
/// | `NET_BIND_SERVICE` | servers on ports below 1024 |
/// | `SYS_CHROOT` | sandboxed daemons such as sshd |
///
/// Of the fourteen that Docker gives, three are left out. `MKNOD`: a device node is a way to the host's
/// devices. `NET_RAW`: a packet socket can forge and read the traffic of neighbours; without it, a program whose
/// file asks for it, as Debian's `ping` does, cannot be executed. `AUDIT_WRITE`: writes into the host's audit log.
/// The inheritable and ambient sets are empty: an inheritable capability would be handed to programs that the
/// container's user never gave it to (CVE-2022-24769).
///
/// For a process whose user id is 0 in its user namespace, `execve` makes the permitted and effective sets
/// anew from the *bounding* set. A set that is to hold for root has to be left out of there too;
/// [`drop`](Self::drop) takes a capability out of all five.
///
/// ```
/// use coracle::namespaces::{Capabilities, Capability};
///
/// let caps = Capabilities::default().drop(Capability::Setfcap).add(Capability::NetRaw);
/// assert!(caps.bounding().contains(Capability::NetRaw));
/// assert!(caps.inheritable().is_empty());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Capabilities {
    bounding: CapabilitySet,
    permitted: CapabilitySet,
    effective: CapabilitySet,
    inheritable: CapabilitySet,
    ambient: CapabilitySet,
}

/// The five sets as the kernel takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CapabilityMasks {
    pub(crate) bounding: u64,
    pub(crate) permitted: u64,
    pub(crate) effective: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
}

const CONTAINER_DEFAULT: CapabilitySet = CapabilitySet::of(&[
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Setfcap,
]);

impl Default for Capabilities {
    fn default() -> Self {
        Self::of(CONTAINER_DEFAULT)
    }
}

impl Capabilities {
    /// `set` as bounding, permitted and effective, nothing inheritable or ambient.
    pub const fn of(set: CapabilitySet) -> Self {
        Self {
            bounding: set,
            permitted: set,
            effective: set,
            inheritable: CapabilitySet::EMPTY,
            ambient: CapabilitySet::EMPTY,
        }
    }

    /// No capability at all.
    pub const fn none() -> Self {
        Self::of(CapabilitySet::EMPTY)
    }

    /// Every capability that the running kernel knows and the caller holds in its bounding set.
    pub const fn all() -> Self {
        Self::of(CapabilitySet::ALL)
    }

    /// Adds to the bounding, permitted and effective sets.
    #[must_use]
    #[allow(clippy::should_implement_trait, reason = "the opposite of `drop`, not arithmetic")]
    pub fn add(mut self, cap: Capability) -> Self {
        for set in [&mut self.bounding, &mut self.permitted, &mut self.effective] {
            set.insert(cap);
        }
        self
    }

    /// Takes out of all five sets.
    #[must_use]
    pub fn drop(mut self, cap: Capability) -> Self {
        for set in [
            &mut self.bounding,
            &mut self.permitted,
            &mut self.effective,
            &mut self.inheritable,
            &mut self.ambient,
        ] {
            set.remove(cap);
        }
        self
    }

    /// Adds to all five sets, so that a process which is *not* root keeps it over `execve`. The kernel
    /// demands that an ambient capability be permitted and inheritable.
    #[must_use]
    pub fn add_ambient(mut self, cap: Capability) -> Self {
        self = self.add(cap);
        self.inheritable.insert(cap);
        self.ambient.insert(cap);
        self
    }

    /// Replaces the bounding set: what can be gained by `execve`.
    #[must_use]
    pub const fn with_bounding(mut self, set: CapabilitySet) -> Self {
        self.bounding = set;
        self
    }

    /// Replaces the permitted set: what can be made effective.
    #[must_use]
    pub const fn with_permitted(mut self, set: CapabilitySet) -> Self {
        self.permitted = set;
        self
    }

    /// Replaces the effective set: what is in force.
    #[must_use]
    pub const fn with_effective(mut self, set: CapabilitySet) -> Self {
        self.effective = set;
        self
    }

    /// Replaces the inheritable set: what files with inheritable capabilities may gain.
    #[must_use]
    pub const fn with_inheritable(mut self, set: CapabilitySet) -> Self {
        self.inheritable = set;
        self
    }

    /// Replaces the ambient set: what programs of a user other than root keep.
    #[must_use]
    pub const fn with_ambient(mut self, set: CapabilitySet) -> Self {
        self.ambient = set;
        self
    }

    /// What can be gained by `execve`.
    pub const fn bounding(&self) -> CapabilitySet {
        self.bounding
    }

    /// What can be made effective.
    pub const fn permitted(&self) -> CapabilitySet {
        self.permitted
    }

    /// What is in force.
    pub const fn effective(&self) -> CapabilitySet {
        self.effective
    }

    /// What files with inheritable capabilities may gain.
    pub const fn inheritable(&self) -> CapabilitySet {
        self.inheritable
    }

    /// What programs of a user other than root keep.
    pub const fn ambient(&self) -> CapabilitySet {
        self.ambient
    }

    /// Everything the process may come to hold: what gates system calls in the default seccomp profile.
    pub(crate) fn granted(&self) -> u64 {
        self.bounding.union(self.permitted).union(self.inheritable).bits()
    }

    /// The five sets cut down to `known`: the capabilities that the kernel has (bits 0 to `cap_last_cap`) and the
    /// caller can give.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a combination that the kernel would refuse.
    pub(crate) fn masks(&self, known: u64) -> Result<CapabilityMasks> {
        let excess = self.effective.difference(self.permitted);
        if !excess.is_empty() {
            return Err(Error::invalid(format!(
                "capabilities {excess} are effective but not permitted"
            )));
        }
        let excess = self.ambient.difference(self.permitted.intersection(self.inheritable));
        if !excess.is_empty() {
            return Err(Error::invalid(format!(
                "capabilities {excess} are ambient but not both permitted and inheritable"
            ))
            .with_hint("Capabilities::add_ambient adds to every set the kernel demands"));
        }
        Ok(CapabilityMasks {
            bounding: self.bounding.bits() & known,
            permitted: self.permitted.bits() & known,
            effective: self.effective.bits() & known,
            inheritable: self.inheritable.bits() & known,
            ambient: self.ambient.bits() & known,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn the_default_is_a_subset_of_dockers_with_nothing_to_inherit() {
        let masks = Capabilities::default().masks(u64::MAX).unwrap();
        // Docker's CapBnd, as /proc/self/status prints it there.
        let docker = 0xa804_25fb;
        assert_eq!(masks.bounding & !docker, 0);
        let left_out = [Capability::NetRaw, Capability::Mknod, Capability::AuditWrite];
        assert_eq!(docker & !masks.bounding, CapabilitySet::of(&left_out).bits());
        assert_eq!((masks.permitted, masks.effective), (masks.bounding, masks.bounding));
        assert_eq!((masks.inheritable, masks.ambient), (0, 0));
    }

    #[test]
    fn all_is_cut_down_to_what_the_kernel_knows() {
        let masks = Capabilities::all().masks((1 << 41) - 1).unwrap();
        assert_eq!(masks.bounding, 0x1ff_ffff_ffff);
        assert_eq!(masks.inheritable, 0);
        assert_eq!(Capabilities::none().masks(u64::MAX).unwrap().bounding, 0);
    }

    #[test]
    fn ambient_joins_every_set_and_drop_leaves_every_set() {
        let caps = Capabilities::none().add_ambient(Capability::NetBindService);
        let masks = caps.masks(u64::MAX).unwrap();
        let bit = 1 << 10;
        assert_eq!(
            masks,
            CapabilityMasks {
                bounding: bit,
                permitted: bit,
                effective: bit,
                inheritable: bit,
                ambient: bit
            }
        );
        assert_eq!(caps.drop(Capability::NetBindService), Capabilities::none());
    }

    #[test]
    fn combinations_the_kernel_refuses_are_refused_by_name() {
        let kill = CapabilitySet::from(Capability::Kill);
        for (caps, expected) in [
            (Capabilities::none().with_effective(kill), "CAP_KILL are effective but not permitted"),
            (Capabilities::of(kill).with_ambient(kill), "ambient but not both"),
            (
                Capabilities::none().with_inheritable(kill).with_ambient(kill),
                "ambient but not both",
            ),
        ] {
            let err = caps.masks(u64::MAX).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidInput);
            assert!(err.to_string().contains(expected), "{err}");
        }
        let caps = Capabilities::of(kill).with_inheritable(kill).with_ambient(kill);
        assert!(caps.masks(u64::MAX).is_ok());
    }
}
