//! Why the kernel refuses a stack, as far as it can be found out.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{
    CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, FUSE_SUPER_MAGIC, FsType, MSDOS_SUPER_MAGIC,
    NFS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs,
};

use super::directory::Directory;
use super::overlay::{Ids, Top};
use crate::error::{Error, ErrorKind, Result};

/// Refuses what the kernel would answer with a bare ELOOP: a layer that is there twice, or that lies in
/// another layer or in what is written. What is written may lie in a layer, `/` for example.
pub(super) fn check_overlap(lowers: &[Directory], top: &Top) -> Result<()> {
    let mut roles: BTreeMap<PathBuf, &str> = BTreeMap::new();
    if let Top::Scratch(scratch) = top {
        for name in ["upper", "work"] {
            roles.insert(scratch.directory.path.join(name), "the writable layer");
        }
    }
    for lower in lowers {
        if let Some(role) = roles.insert(lower.path.clone(), "the layer") {
            let path = lower.path.display();
            return Err(Error::invalid(match role {
                "the layer" => format!("the layer {path} is there twice"),
                _ => format!("{path} cannot be a layer and the writable layer at once"),
            }));
        }
    }
    for lower in lowers {
        let above = lower.path.ancestors().skip(1).find_map(|path| roles.get_key_value(path));
        if let Some((path, role)) = above {
            return Err(Error::invalid(format!(
                "the layer {} lies inside {role} {}",
                lower.path.display(),
                path.display()
            ))
            .with_hint("the kernel stacks only directories that do not contain one another"));
        }
    }
    Ok(())
}

/// Adds what may be the cause to a failure of the kernel's.
pub(super) fn explain(err: Error, lowers: &[Directory], top: &Top, ids: &Ids) -> Error {
    let refused = (err.raw_os_error() == Some(libc::EINVAL))
        .then(|| refused_file_system(lowers, top))
        .flatten();
    if err.hint().is_some() && refused.is_none() {
        return err;
    }
    let (kind, hint) = match err.raw_os_error() {
        Some(libc::EPERM) if matches!(ids, Ids::Host) => (
            ErrorKind::PermissionDenied,
            "with the host's ids only root (CAP_SYS_ADMIN) may mount: leave out `host_ids()`".into(),
        ),
        Some(libc::EPERM) if matches!(ids, Ids::Joined(_)) => (
            ErrorKind::PermissionDenied,
            "overlay in a user namespace needs Linux 5.11, and a user who may enter the namespace".into(),
        ),
        Some(libc::ENODEV) => (
            ErrorKind::Unsupported,
            "this kernel has no overlay file system: load its module with `modprobe overlay`".into(),
        ),
        Some(libc::ENOSYS) => (
            ErrorKind::Unsupported,
            "stacks need the mount calls of Linux 5.2, which this kernel or a seccomp filter refuses".into(),
        ),
        Some(libc::EMFILE) => (
            ErrorKind::ResourceExhausted,
            "every layer takes a descriptor for a moment: raise the limit (RLIMIT_NOFILE)".into(),
        ),
        Some(libc::ELOOP) => (
            ErrorKind::InvalidInput,
            "two of the directories are the same, or one contains another, by way of a bind mount".into(),
        ),
        Some(libc::EINVAL) => match refused {
            Some(hint) => (ErrorKind::InvalidInput, hint),
            None if matches!(ids, Ids::Mapped(_)) => (
                ErrorKind::Unsupported,
                "before Linux 5.19 the kernel stacks no layers whose ids it maps: `host_ids()` makes a stack \
                 with the host's ids"
                    .into(),
            ),
            None => return err,
        },
        _ => return err,
    };
    err.with_kind(kind).with_hint(hint)
}

fn refused_file_system(lowers: &[Directory], top: &Top) -> Option<String> {
    let never = [
        (PROC_SUPER_MAGIC, "proc"),
        (SYSFS_MAGIC, "sysfs"),
        (CGROUP_SUPER_MAGIC, "cgroup"),
        (CGROUP2_SUPER_MAGIC, "cgroup"),
    ];
    let lower_only = [
        (OVERLAYFS_SUPER_MAGIC, "an overlay"),
        (NFS_SUPER_MAGIC, "nfs"),
        (FUSE_SUPER_MAGIC, "fuse"),
        (MSDOS_SUPER_MAGIC, "vfat"),
    ];
    let name = |fd: &OwnedFd, names: &[(FsType, &'static str)]| {
        let found = fstatfs(fd).ok()?.filesystem_type();
        names.iter().find(|(magic, _)| *magic == found).map(|(_, name)| *name)
    };
    if let Top::Scratch(scratch) = top {
        let fd = &scratch.directory.fd;
        if let Some(name) = name(fd, &never).or_else(|| name(fd, &lower_only)) {
            return Some(format!(
                "the writable directory is on {name}, which cannot hold changes: use one on ext4, xfs, btrfs or tmpfs"
            ));
        }
    }
    lowers.iter().find_map(|lower| {
        let name = name(&lower.fd, &never)?;
        Some(format!("the layer {} is on {name}, which cannot be stacked", lower.path.display()))
    })
}

/// `base+app`.
pub(super) fn name(lowers: &[PathBuf]) -> String {
    let name = |path: &PathBuf| {
        let name = path.file_name().map_or(path.as_path(), Path::new).to_string_lossy();
        let mut short: String = name.chars().take(64).flat_map(char::escape_debug).collect();
        if name.chars().nth(64).is_some() {
            short += "...";
        }
        short
    };
    match lowers {
        [first, .., last] if lowers.len() > 4 => {
            format!("{}+({} layers)+{}", name(first), lowers.len() - 2, name(last))
        }
        few => few.iter().map(name).collect::<Vec<_>>().join("+"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_named_for_its_layers() {
        let long = "x".repeat(100);
        for (layers, expected) in [
            (&["/a/base"][..], "base"),
            (&["base/", "./app"], "base+app"),
            (&["a", "b", "c", "d", "e"], "a+(3 layers)+e"),
            (&["/", "a\nb"], "/+a\\nb"),
            (&[long.as_str()], &format!("{}...", "x".repeat(64))),
        ] {
            let layers: Vec<_> = layers.iter().map(PathBuf::from).collect();
            assert_eq!(name(&layers), expected);
        }
    }
}
