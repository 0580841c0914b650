//! Layers as subvolumes of btrfs, each a snapshot of the one below.

use std::ffi::{CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use nix::sys::stat::{Mode, fchmod, fstat};
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, fstatfs};

use super::Storage;
use super::copy::open_directory;
use super::name::Driver;
use super::remove::remove;
use super::store::LayerStore;
use super::tree_stack::TreeStack;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layers::access::Access;
use crate::layers::stack::Stack;
use crate::sys::btrfs::{create_subvolume, destroy_subvolume, is_subvolume, snapshot};

#[derive(Debug)]
pub(super) struct Btrfs;

impl Storage for Btrfs {
    fn driver(&self) -> Driver {
        Driver::Btrfs
    }

    fn check(&self, store: &LayerStore) -> Result<()> {
        let directory = &open_directory(&store.directory().fd, ".")?;
        let found = fstatfs(directory).context(|| "ask for its file system")?.filesystem_type();
        if found != BTRFS_SUPER_MAGIC {
            return Err(Error::unsupported("the directory is not on btrfs").with_hint(
                "put it on a btrfs file system, or use the driver overlay, which works on most",
            ));
        }
        let probe = c".new-probe";
        create_subvolume(directory, probe)
            .and_then(|()| destroy_subvolume(directory, probe))
            .context(|| "make and remove a subvolume")
            .map_err(|err| {
                let err = err.with_kind(ErrorKind::Unsupported);
                match err.raw_os_error() {
                    Some(libc::EPERM) => {
                        let _ = remove(directory, OsStr::new(".new-probe"), Access(None));
                        err.with_hint(
                            "only root may remove subvolumes, unless the file system is mounted with \
                             user_subvol_rm_allowed: use the driver overlay",
                        )
                    }
                    _ => err,
                }
            })
    }

    fn keeps_differences(&self) -> bool {
        false
    }

    fn create(
        &self,
        parent: Option<OwnedFd>,
        dir: &OwnedFd,
        name: &OsStr,
        _: Access<'_>,
    ) -> Result<()> {
        let c_name = c_string(name)?;
        let Some(parent) = parent else {
            create_subvolume(dir, &c_name).context(|| "make a subvolume")?;
            let made = open_directory(dir, name)?;
            return fchmod(&made, Mode::from_bits_truncate(0o755)).context(|| "set its mode");
        };
        if !is_subvolume(fstat(&parent).context(|| "stat the layer")?.st_ino) {
            return Err(Error::invalid("what a snapshot is to be made of is no subvolume"));
        }
        snapshot(&parent, dir, &c_name).context(|| "make a snapshot").map_err(|err| {
            match err.raw_os_error() {
                Some(libc::EXDEV | libc::ENOTTY) => err
                    .with_kind(ErrorKind::InvalidInput)
                    .with_hint("a snapshot must be on the same file system as the layers"),
                _ => err,
            }
        })
    }

    fn remove(&self, dir: &OwnedFd, name: &OsStr, access: Access<'_>) -> Result<()> {
        match destroy_subvolume(dir, &c_string(name)?) {
            Ok(()) => Ok(()),
            Err(err) if err.errno == libc::ENOENT => Ok(()),
            // It contains subvolumes, which a container may make, or the caller may only empty it.
            Err(_) => remove(dir, name, access),
        }
    }

    fn stack(&self, store: &LayerStore, keys: &[&str]) -> Result<Stack> {
        TreeStack::stack(store, keys)
    }
}

fn c_string(name: &OsStr) -> Result<CString> {
    CString::new(name.as_bytes()).map_err(|_| Error::invalid("a name with a NUL byte"))
}
