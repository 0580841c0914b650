//! Ids, capabilities, Landlock and seccomp.

use std::sync::atomic::Ordering;

use super::{Done, Failure, Named, Report, fail};
use crate::sys::plan::{CapabilitySets, Fds, Filter, LandlockRules, Slot};
use crate::sys::raw::{Errno, sys};

/// Real, effective, saved and file-system ids at once; raw, because libc would do it on every thread of
/// the host.
pub(super) fn set_ids(uid: u32, gid: u32, groups: Option<&[u32]>) -> Done {
    if let Some(groups) = groups {
        // SAFETY: the kernel reads `len` group ids.
        match unsafe { sys!(SYS_setgroups, groups.len(), groups.as_ptr()) } {
            // A user namespace that an unprivileged user made for himself may not drop groups (user_namespaces(7)).
            Err(Errno(libc::EPERM)) if groups.is_empty() => {}
            other => other.named("setgroups").map(drop)?,
        }
    }
    // SAFETY: takes no pointer.
    unsafe { sys!(SYS_setresgid, gid, gid, gid) }.named("setresgid")?;
    // SAFETY: takes no pointer.
    unsafe { sys!(SYS_setresuid, uid, uid, uid) }.named("setresuid")?;
    Ok(())
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// The bounding set, which needs CAP_SETPCAP, must have been dropped before: see [`drop_bounding`].
pub(super) fn set_capabilities(sets: &CapabilitySets) -> Done {
    let low = |set: u64| set as u32;
    let high = |set: u64| (set >> 32) as u32;
    let header = CapHeader { version: LINUX_CAPABILITY_VERSION_3, pid: 0 };
    let data = [
        CapData {
            effective: low(sets.effective),
            permitted: low(sets.permitted),
            inheritable: low(sets.inheritable),
        },
        CapData {
            effective: high(sets.effective),
            permitted: high(sets.permitted),
            inheritable: high(sets.inheritable),
        },
    ];
    // SAFETY: header and two data structs, as version 3 wants.
    unsafe { sys!(SYS_capset, &raw const header, data.as_ptr()) }.named("capset")?;
    let ambient = libc::PR_CAP_AMBIENT;
    // SAFETY: integer arguments only.
    unsafe { sys!(SYS_prctl, ambient, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) }
        .named("prctl(PR_CAP_AMBIENT_CLEAR_ALL)")?;
    for capability in 0..=sets.last {
        if sets.ambient & 1 << capability != 0 {
            // SAFETY: integer arguments only.
            unsafe { sys!(SYS_prctl, ambient, libc::PR_CAP_AMBIENT_RAISE, capability, 0, 0) }
                .named("prctl(PR_CAP_AMBIENT_RAISE)")?;
        }
    }
    Ok(())
}

pub(super) fn drop_bounding(keep: u64, last: u32) -> Done {
    for capability in 0..=last {
        if keep & 1 << capability == 0 {
            // SAFETY: integer arguments only.
            match unsafe { sys!(SYS_prctl, libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } {
                // Dropped already by whoever runs the host.
                Err(Errno(libc::EPERM)) if !in_bounding_set(capability) => {}
                other => other.named("prctl(PR_CAPBSET_DROP)").map(drop)?,
            }
        }
    }
    Ok(())
}

fn in_bounding_set(capability: u32) -> bool {
    // SAFETY: integer arguments only.
    let read = unsafe { sys!(SYS_prctl, libc::PR_CAPBSET_READ, capability, 0, 0, 0) };
    read == Ok(1)
}

pub(super) fn landlock(rules: &LandlockRules, fds: &Fds, slot: Slot) -> Done {
    let attr = &rules.attributes;
    // SAFETY: the kernel reads `size` bytes of attributes, an array of u64.
    let fd = unsafe { sys!(SYS_landlock_create_ruleset, attr.as_ptr(), rules.size, 0) }
        .named("landlock_create_ruleset")? as i32;
    fds.set(slot, fd);
    for (path, access) in &rules.paths {
        let parent =
            super::open(libc::AT_FDCWD, path, libc::O_PATH).named("open(landlock path)")?;
        // The packed struct landlock_path_beneath_attr: u64 access, i32 fd.
        let mut rule = [0u8; 12];
        let (access_part, fd_part) = rule.split_at_mut(8);
        access_part.copy_from_slice(&access.to_ne_bytes());
        fd_part.copy_from_slice(&parent.to_ne_bytes());
        // SAFETY: 1 is LANDLOCK_RULE_PATH_BENEATH, which reads the 12 bytes.
        let added = unsafe { sys!(SYS_landlock_add_rule, fd, 1, rule.as_ptr(), 0) };
        super::close(parent);
        added.named("landlock_add_rule")?;
    }
    for (port, access) in &rules.ports {
        let rule = [*access, u64::from(*port)];
        // SAFETY: 2 is LANDLOCK_RULE_NET_PORT, which reads two u64.
        unsafe { sys!(SYS_landlock_add_rule, fd, 2, rule.as_ptr(), 0) }
            .named("landlock_add_rule")?;
    }
    // SAFETY: takes no pointer.
    unsafe { sys!(SYS_landlock_restrict_self, fd, 0) }.named("landlock_restrict_self").map(drop)
}

#[repr(C)]
struct SockFprog {
    len: u16,
    filter: *const libc::sock_filter,
}

pub(super) fn seccomp(filter: &Filter, report: &Report) -> Done {
    let Ok(len) = u16::try_from(filter.instructions.len()) else {
        return fail("seccomp", libc::EINVAL);
    };
    let program = SockFprog { len, filter: filter.instructions.as_ptr() };
    // SAFETY: the program lives in the plan; the kernel copies it.
    let loaded = unsafe {
        sys!(SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, filter.flags, &raw const program)
    };
    match loaded {
        Ok(fd) => {
            if filter.flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 {
                // A store, not a system call: the filter may stop any of those now.
                report.listener.store(fd as i32 + 1, Ordering::Release);
            }
            Ok(())
        }
        Err(Errno(errno)) => Err(Failure { call: "seccomp(SECCOMP_SET_MODE_FILTER)", errno }),
    }
}
