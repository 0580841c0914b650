//! Landlock's system calls and structures (`linux/landlock.h`), see `landlock(7)`.

use std::sync::OnceLock;

use super::raw;

/// `landlock_create_ruleset` flag: answer with the version of the interface.
const CREATE_RULESET_VERSION: usize = 1;

/// `landlock_add_rule` type for [`PathBeneathAttr`].
pub(crate) const RULE_PATH_BENEATH: u32 = 1;
/// `landlock_add_rule` type for [`NetPortAttr`].
pub(crate) const RULE_NET_PORT: u32 = 2;

/// What a ruleset denies where no rule allows it. Kernels that know a shorter structure take this one as long as
/// what they do not know is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct RulesetAttr {
    pub(crate) handled_access_fs: u64,
    /// Since version 4.
    pub(crate) handled_access_net: u64,
    /// Since version 6.
    pub(crate) scoped: u64,
}

/// A rule that allows access to a file, or to everything beneath a directory.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed)]
pub(crate) struct PathBeneathAttr {
    pub(crate) allowed_access: u64,
    pub(crate) parent_fd: i32,
}

/// A rule that allows a TCP port.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct NetPortAttr {
    pub(crate) allowed_access: u64,
    /// In host byte order.
    pub(crate) port: u64,
}

const _: () = {
    assert!(size_of::<RulesetAttr>() == 24);
    assert!(size_of::<PathBeneathAttr>() == 12);
    assert!(size_of::<NetPortAttr>() == 16);
};

/// The version of the kernel's interface, asked once; 0 without Landlock, before Linux 5.13 or where it is
/// switched off at boot.
pub(crate) fn abi() -> u32 {
    static ABI: OnceLock<u32> = OnceLock::new();
    *ABI.get_or_init(|| {
        // SAFETY: with this flag the kernel takes a null pointer and a size of 0, and reads no memory.
        let version = unsafe {
            raw::syscall(libc::SYS_landlock_create_ruleset, [0, 0, CREATE_RULESET_VERSION, 0, 0, 0])
        };
        version.map_or(0, |version| version as u32)
    })
}
