//! A `/dev` whose device nodes the host makes, for a container that may not.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, mknodat};
use nix::unistd::geteuid;

use crate::namespaces::UserNamespace;
use crate::sys::mount::{FsContext, MountAttr, SetAttr, mount_setattr};

/// A device node to be made.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: CString,
    /// File type and permissions.
    pub(super) mode: u32,
    pub(super) device: u64,
}

/// A detached memory file system with `nodes`, which belong to the root of `users`. One mount instead of one for
/// each device, and files of the container's own instead of the host's.
///
/// `None` if that cannot be done here: before Linux 6.3, which maps the ids of no tmpfs, and in a user
/// namespace, where the kernel lets nobody make a device.
pub(super) fn make<'n>(
    users: &UserNamespace,
    options: &[(CString, Option<CString>)],
    attributes: MountAttr,
    nodes: impl Iterator<Item = &'n Node>,
) -> Option<OwnedFd> {
    // The files are to belong to the user that is the namespace's root on an idmapped mount.
    if !geteuid().is_root() {
        return None;
    }
    let context = FsContext::open(c"tmpfs").ok()?;
    for (key, value) in options {
        match value {
            Some(value) => context.set_string(key, value).ok()?,
            None => context.set_flag(key).ok()?,
        }
    }
    context.create().ok()?;
    let tree = context.mount(attributes).ok()?;
    for node in nodes {
        make_node(&tree, node).ok()?;
    }
    // Last, since the host's own ids are not in the map.
    let attr = SetAttr { user_namespace: Some(users.as_fd()), ..SetAttr::default() };
    mount_setattr(&tree, c"", &attr).ok()?;
    Some(tree)
}

fn make_node(dir: &OwnedFd, node: &Node) -> nix::Result<()> {
    let name: &CStr = &node.name;
    let mode = Mode::from_bits_truncate(node.mode);
    mknodat(dir, name, SFlag::from_bits_truncate(node.mode), mode, node.device)?;
    // The host's umask has taken bits away.
    fchmodat(dir, name, mode, FchmodatFlags::FollowSymlink)
}
