//! Ids, capabilities, Landlock and seccomp.

use std::sync::atomic::Ordering;

use super::{Done, Failure, Named, Report, close, fail, mounts, stat, terminal};
use crate::sys::landlock::{
    NetPortAttr, PathBeneathAttr, RULE_NET_PORT, RULE_PATH_BENEATH, RulesetAttr,
};
use crate::sys::plan::{CapabilitySets, Filter, LandlockPath, LandlockRules};
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

pub(super) fn landlock(rules: &LandlockRules) -> Done {
    // SAFETY: the kernel reads one RulesetAttr.
    let fd = unsafe {
        sys!(SYS_landlock_create_ruleset, &raw const rules.ruleset, size_of::<RulesetAttr>(), 0)
    }
    .named("landlock_create_ruleset")? as i32;
    for rule in &rules.paths {
        let parent_fd = mounts::open_no_magic(&rule.path).named("openat2(landlock path)")?;
        let added = allow_beneath(fd, parent_fd, rule);
        close(parent_fd);
        added?;
    }
    for (port, access) in &rules.ports {
        let rule = NetPortAttr { allowed_access: *access, port: u64::from(*port) };
        // SAFETY: the kernel reads one NetPortAttr.
        unsafe { sys!(SYS_landlock_add_rule, fd, RULE_NET_PORT, &raw const rule, 0) }
            .named("landlock_add_rule(LANDLOCK_RULE_NET_PORT)")?;
    }
    // SAFETY: takes no pointer.
    unsafe { sys!(SYS_landlock_restrict_self, fd, 0) }.named("landlock_restrict_self").map(drop)
}

fn allow_beneath(ruleset: i32, parent_fd: i32, rule: &LandlockPath) -> Done {
    let found = stat(parent_fd, c"").named("statx")?;
    let is_dir = u32::from(found.stx_mode) & libc::S_IFMT == libc::S_IFDIR;
    let allowed_access = if is_dir { rule.access } else { rule.file_access };
    let rule = PathBeneathAttr { allowed_access, parent_fd };
    // SAFETY: the kernel reads one PathBeneathAttr.
    unsafe { sys!(SYS_landlock_add_rule, ruleset, RULE_PATH_BENEATH, &raw const rule, 0) }
        .named("landlock_add_rule(LANDLOCK_RULE_PATH_BENEATH)")
        .map(drop)
}

#[repr(C)]
struct SockFprog {
    len: u16,
    filter: *const libc::sock_filter,
}

pub(super) fn seccomp(filter: &Filter, sender: Option<i32>, report: &Report) -> Done {
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
                if let Some(sender) = sender {
                    // The parent has made sure that the filter lets this call pass.
                    return terminal::send_fd(sender, fd as i32);
                }
                // A store, not a system call: the filter may stop any of those now.
                report.listener.store(fd as i32 + 1, Ordering::Release);
                return wait_until_taken(report);
            }
            Ok(())
        }
        Err(Errno(errno)) => Err(Failure { call: "seccomp(SECCOMP_SET_MODE_FILTER)", errno }),
    }
}

/// The notification fd is gone with execve, so the parent, which looks every millisecond, must have it before. Any call to
/// wait with could be one that the filter stops.
fn wait_until_taken(report: &Report) -> Done {
    // Some seconds, in case the parent was killed.
    for _ in 0..1u64 << 28 {
        if report.listener_taken.load(Ordering::Acquire) != 0 {
            return Ok(());
        }
        std::hint::spin_loop();
    }
    fail("seccomp(SECCOMP_FILTER_FLAG_NEW_LISTENER)", libc::ETIMEDOUT)
}
