//! Layers as differences, stacked by the kernel.

use std::ffi::OsStr;
use std::fs::read_to_string;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{Mode, SFlag, mknodat};

use super::attributes::Marks;
use super::copy::open_directory;
use super::merge::Merge;
use super::name::Driver;
use super::remove::remove;
use super::staging::Staging;
use super::store::LayerStore;
use super::vfs::{create, with_links};
use super::{Storage, TREE};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layers::access::Access;
use crate::layers::rootfs::Rootfs;
use crate::layers::stack::Stack;
use crate::sys::xattr;

/// Begins the name of a layer merged with all below it, which lies beside it.
pub(super) const MERGED: &str = "merged-";

/// So many layers are stacked as they are. The kernel would take 500, but each takes some 30 µs at the
/// start of a container, which lasts 2 ms.
const MOST: usize = 16;
/// From then on the lower ones are merged, as many as this divides: images that grow by a layer at a time share
/// what is merged.
const STEP: usize = 8;

#[derive(Debug)]
pub(super) struct Overlay;

impl Storage for Overlay {
    fn driver(&self) -> Driver {
        Driver::Overlay
    }

    fn check(&self, store: &LayerStore) -> Result<()> {
        let (one, two) = (store.prepare(&[])?, store.prepare(&[])?);
        let namespace = store.user_namespace()?;
        let stack = Rootfs::stack([one.tree(), two.tree()]);
        let stack = match &namespace {
            Some(namespace) => stack.user_namespace(namespace),
            None => stack.host_ids(),
        };
        stack.read_only().map_err(|err| err.with_kind(ErrorKind::Unsupported))?;
        let Some(dir) = one.fd() else { return Ok(()) };
        check_marks(dir, Access(namespace.as_ref()))
    }

    fn keeps_differences(&self) -> bool {
        true
    }

    fn create(
        &self,
        parent: Option<OwnedFd>,
        dir: &OwnedFd,
        name: &OsStr,
        access: Access<'_>,
    ) -> Result<()> {
        create(parent, dir, name, access, Marks::Keep)
    }

    fn remove(&self, dir: &OwnedFd, name: &OsStr, access: Access<'_>) -> Result<()> {
        remove(dir, name, access)
    }

    fn stack(&self, store: &LayerStore, keys: &[&str]) -> Result<Stack> {
        let merged = match keys.len() {
            0..=MOST => 0,
            deep => (deep - 1) / STEP * STEP,
        };
        let (lower, upper) = keys.split_at(merged);
        let mut paths = Vec::new();
        if !lower.is_empty() {
            paths.push(merge(store, lower)?);
        }
        for key in upper {
            store.tree(key)?;
            paths.push(store.path(key).join(TREE));
        }
        Ok(Rootfs::stack(paths))
    }
}

/// The directory's file system can hold what tells a layer from a tree.
fn check_marks(dir: &OwnedFd, access: Access<'_>) -> Result<()> {
    let mark = match access.0 {
        Some(_) => c"user.overlay.coracle",
        None => c"trusted.overlay.coracle",
    };
    let unsupported = |err: Error| err.with_kind(ErrorKind::Unsupported);
    xattr::set(dir.as_fd(), mark, b"y").context(|| "set an attribute").map_err(|err| {
        unsupported(err).with_hint(
            "the file system has no extended attributes: ext4, xfs and btrfs have, tmpfs since Linux 6.6 for \
             who is not root",
        )
    })?;
    mknodat(dir, "whiteout", SFlag::S_IFCHR, Mode::empty(), 0)
        .context(|| "make a whiteout")
        .map_err(|err| {
            unsupported(err).with_hint(
                "the file system cannot hold whiteouts: ext4, xfs, btrfs and tmpfs can, an overlay, and so a \
                 container's root filesystem, cannot; the driver vfs needs none",
            )
        })
}

/// The directory that shows what the layers `keys` together do.
fn merge(store: &LayerStore, keys: &[&str]) -> Result<PathBuf> {
    let Some(top) = keys.last() else { return Err(Error::invalid("nothing to merge")) };
    let attempt = || format!("merge {} layers", keys.len());
    let name = merged_name().context(attempt)?;
    let path = store.path(top).join(&name);
    let dir = open_directory(&store.directory().fd, top)
        .context(|| format!("find the layer {top}"))
        .context(attempt)?;
    if open_directory(&dir, &name).is_ok() {
        return Ok(path);
    }
    // Others who want it wait.
    let _lock = lock(&dir).context(attempt)?;
    if open_directory(&dir, &name).is_ok() {
        return Ok(path);
    }
    let namespace = store.user_namespace()?;
    let access = Access(namespace.as_ref());
    let staging = Staging::new(store, &[], |_| Ok(None)).context(attempt)?;
    let Some(work) = staging.fd() else { return Ok(path) };
    let into = open_directory(work, TREE)?;
    with_links(work, access, |links| {
        let mut merge = Merge::new(access, into, links);
        // Of what an image that this one begins with has merged.
        let base = (1..keys.len() / STEP).rev().map(|n| n * STEP).find_map(|count| {
            let dir = open_directory(&store.directory().fd, keys[count - 1]).ok()?;
            open_directory(&dir, &name).ok().map(|merged| (count, merged))
        });
        let mut rest = keys;
        if let Some((count, merged)) = base {
            merge.add(merged)?;
            rest = &keys[count..];
        }
        rest.iter().try_for_each(|key| {
            let layer = store.tree(key)?;
            merge.add(layer).context(|| format!("merge the layer {key}"))
        })
    })
    .context(attempt)?;
    staging.finish(OsStr::new(TREE), &dir, OsStr::new(&name)).context(attempt)?;
    Ok(path)
}

/// The name holds until the machine is restarted: nothing makes sure that what is merged has reached the disk.
pub(super) fn merged_name() -> Result<String> {
    const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
    let boot = read_to_string(BOOT_ID).context(|| format!("read {BOOT_ID}"))?;
    Ok(format!("{MERGED}{}", boot.trim()))
}

fn lock(dir: &OwnedFd) -> Result<Flock<OwnedFd>> {
    let mut fd = open_directory(dir, ".")?;
    loop {
        match Flock::lock(fd, FlockArg::LockExclusive) {
            Ok(lock) => return Ok(lock),
            Err((again, Errno::EINTR)) => fd = again,
            Err((_, errno)) => return Err(errno).context(|| "lock the layer"),
        }
    }
}
