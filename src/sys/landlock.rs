//! Landlock's system calls and structures (`linux/landlock.h`), see `landlock(7)`.

use std::sync::OnceLock;

use super::raw;

/// The three calls, which have the same numbers on every architecture.
pub(crate) const SYS_LANDLOCK_CREATE_RULESET: i64 = 444;
#[allow(dead_code, reason = "spawning makes these two calls")]
pub(crate) const SYS_LANDLOCK_ADD_RULE: i64 = 445;
#[allow(dead_code, reason = "spawning makes these two calls")]
pub(crate) const SYS_LANDLOCK_RESTRICT_SELF: i64 = 446;

/// `landlock_create_ruleset` flag: answer with the version of the interface.
const CREATE_RULESET_VERSION: usize = 1;

/// `landlock_add_rule` type for [`PathBeneathAttr`].
#[allow(dead_code, reason = "spawning makes these two calls")]
pub(crate) const RULE_PATH_BENEATH: u32 = 1;
/// `landlock_add_rule` type for [`NetPortAttr`].
#[allow(dead_code, reason = "spawning makes these two calls")]
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
#[allow(dead_code, reason = "spawning fills these in")]
pub(crate) struct PathBeneathAttr {
    pub(crate) allowed_access: u64,
    pub(crate) parent_fd: i32,
}

/// A rule that allows a TCP port.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(dead_code, reason = "spawning fills these in")]
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
            raw::syscall(
                SYS_LANDLOCK_CREATE_RULESET as std::ffi::c_long,
                [0, 0, CREATE_RULESET_VERSION, 0, 0, 0],
            )
        };
        version.map_or(0, |version| version as u32)
    })
}
