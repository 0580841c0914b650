//! Layers as whole trees, each a copy of the one below.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;

use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::attributes::Marks;
use super::copy::{Copier, make_directory, open_directory};
use super::name::Driver;
use super::remove::remove;
use super::store::LayerStore;
use super::tree_stack::TreeStack;
use super::{LINKS, Storage};
use crate::error::{Context, Result};
use crate::layers::access::Access;
use crate::layers::stack::Stack;

#[derive(Debug)]
pub(super) struct Vfs;

impl Storage for Vfs {
    fn driver(&self) -> Driver {
        Driver::Vfs
    }

    fn check(&self, _: &LayerStore) -> Result<()> {
        Ok(())
    }

    fn keeps_differences(&self) -> bool {
        false
    }

    fn create(
        &self,
        parent: Option<OwnedFd>,
        dir: &OwnedFd,
        name: &OsStr,
        access: Access<'_>,
    ) -> Result<()> {
        create(parent, dir, name, access, Marks::Drop)
    }

    fn remove(&self, dir: &OwnedFd, name: &OsStr, access: Access<'_>) -> Result<()> {
        remove(dir, name, access)
    }

    fn stack(&self, store: &LayerStore, keys: &[&str]) -> Result<Stack> {
        TreeStack::stack(store, keys)
    }
}

/// Makes a directory, empty or a copy of `parent`.
pub(super) fn create(
    parent: Option<OwnedFd>,
    dir: &OwnedFd,
    name: &OsStr,
    access: Access<'_>,
    marks: Marks,
) -> Result<()> {
    make_directory(dir, name)?;
    let made = open_directory(dir, name)?;
    let Some(parent) = parent else {
        return fchmod(&made, Mode::from_bits_truncate(0o755)).context(|| "set its mode");
    };
    with_links(dir, access, |links| Copier::new(access, marks, links).tree(parent, made))
}

/// Lends a directory for links to whoever copies into `dir`.
pub(super) fn with_links<T>(
    dir: &OwnedFd,
    access: Access<'_>,
    body: impl FnOnce(OwnedFd) -> Result<T>,
) -> Result<T> {
    let name = OsStr::new(LINKS);
    // Of somebody who died.
    remove(dir, name, access)?;
    make_directory(dir, name)?;
    let done = body(open_directory(dir, name)?)?;
    match unlinkat(dir, name, UnlinkatFlags::RemoveDir) {
        // Of a file with names outside the tree there still is a link.
        Err(_) => remove(dir, name, access).map(|()| done),
        Ok(()) => Ok(done),
    }
}
