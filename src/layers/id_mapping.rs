//! Layers whose files keep plain ids on disk and have a container's ids in the stack.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

use super::directory::{Directory, HANDLE, Identity};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::namespaces::UserNamespace;
use crate::sys::mount::{SetAttr, clone_tree, mount_setattr};

/// A detached copy of a part of the host's mounts, through which owners appear mapped.
#[derive(Debug)]
pub(super) struct MappedTree {
    pub(super) root: PathBuf,
    pub(super) fd: OwnedFd,
}

/// Replaces the descriptor of each directory by one on an idmapped copy of its mount.
///
/// Directories of one file system share a copy where they can: taking a mount apart again costs the
/// kernel an RCU grace period, some 40 µs. The copies must be kept until the stack is made. Returned are
/// the copies, and for each directory which one it lies in.
pub(super) fn map_ids(
    directories: &mut [&mut Directory],
    namespace: &UserNamespace,
) -> Result<(Vec<MappedTree>, Vec<usize>)> {
    let mut trees = Vec::new();
    let mut found = vec![usize::MAX; directories.len()];
    for first in 0..directories.len() {
        if found[first] != usize::MAX {
            continue;
        }
        let device = directories[first].identity.device;
        let group: Vec<usize> = (first..directories.len())
            .filter(|&i| found[i] == usize::MAX && directories[i].identity.device == device)
            .collect();
        let ancestor = common_ancestor(group.iter().map(|&i| directories[i].path.as_path()));
        if let Some(tree) = shared_tree(&ancestor, device, group.len(), namespace)? {
            for &i in &group {
                // A mount in between, or a rename just now: then it gets a copy of its own.
                if let Some(fd) = find(&tree, directories[i])? {
                    directories[i].fd = fd;
                    found[i] = trees.len();
                }
            }
            trees.push(tree);
        }
        for &i in &group {
            if found[i] == usize::MAX {
                let directory = &mut *directories[i];
                let tree = MappedTree {
                    root: directory.path.clone(),
                    fd: mapped_copy(&directory.fd, &directory.path, namespace)?,
                };
                directory.fd = tree.fd.try_clone().context(|| "duplicate a descriptor")?;
                found[i] = trees.len();
                trees.push(tree);
            }
        }
    }
    Ok((trees, found))
}

fn common_ancestor<'a>(mut paths: impl Iterator<Item = &'a Path>) -> PathBuf {
    let first = paths.next().unwrap_or(Path::new("/")).to_owned();
    paths.fold(first, |common, path| {
        let same = common.components().zip(path.components()).take_while(|(a, b)| a == b);
        same.map(|(component, _)| component).collect()
    })
}

fn shared_tree(
    root: &Path,
    device: u64,
    users: usize,
    namespace: &UserNamespace,
) -> Result<Option<MappedTree>> {
    if users < 2 {
        return Ok(None);
    }
    // Not there, not readable or another file system: copies of the directories themselves serve as well.
    let Ok(fd) = open(root, HANDLE, Mode::empty()) else { return Ok(None) };
    if Identity::of(&fd).context(|| format!("stat {}", root.display()))?.device != device {
        return Ok(None);
    }
    let fd = mapped_copy(&fd, root, namespace)?;
    Ok(Some(MappedTree { root: root.to_owned(), fd }))
}

fn find(tree: &MappedTree, directory: &Directory) -> Result<Option<OwnedFd>> {
    let Ok(path) = directory.path.strip_prefix(&tree.root) else { return Ok(None) };
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let Ok(fd) = openat2(&tree.fd, path, how) else { return Ok(None) };
    let identity = Identity::of(&fd).context(|| format!("stat {}", directory.path.display()))?;
    Ok((identity == directory.identity).then_some(fd))
}

fn mapped_copy(fd: &OwnedFd, path: &Path, namespace: &UserNamespace) -> Result<OwnedFd> {
    let attr = SetAttr { user_namespace: Some(namespace.as_fd()), ..SetAttr::default() };
    detached_copy(fd, path, &attr)
}

/// A detached copy of the mount that a directory is on, with the directory as its root and with these attributes.
pub(super) fn detached_copy(fd: &OwnedFd, path: &Path, attr: &SetAttr<'_>) -> Result<OwnedFd> {
    let attempt = || match attr.user_namespace {
        Some(_) => format!("map the ids of {}", path.display()),
        None => format!("copy the mount of {}", path.display()),
    };
    let copy = clone_tree(fd).context(|| "copy its mount").context(attempt)?;
    mount_setattr(&copy, c"", attr).context(attempt).map_err(|err| match err.raw_os_error() {
        Some(libc::EINVAL) => unsupported(err).with_hint(
            "its file system cannot map ids on this kernel (ext4 and xfs can since Linux 5.12, btrfs 5.15, \
             tmpfs 6.3): use another one, or `host_ids()` for a container with the host's ids",
        ),
        Some(libc::ENOSYS) => unsupported(err).with_hint(
            "Linux 5.12 maps ids, 5.19 in a stack: `host_ids()` makes one with the host's ids",
        ),
        _ => err,
    })?;
    Ok(copy)
}

fn unsupported(err: Error) -> Error {
    err.with_kind(ErrorKind::Unsupported)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_ancestor_is_found_by_component() {
        for (paths, ancestor) in [
            (&["/a/b", "/a/c"][..], "/a"),
            (&["/a/b", "/a/bc", "/a/b/d"], "/a"),
            (&["/a/b", "/a/b"], "/a/b"),
            (&["/a", "/b"], "/"),
            (&["/a/b/c"], "/a/b/c"),
            (&["/", "/b"], "/"),
        ] {
            assert_eq!(common_ancestor(paths.iter().map(Path::new)), Path::new(ancestor));
        }
    }
}
