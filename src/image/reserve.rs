//! Space kept back, so that an image can be removed from a full disk.

use std::fs;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use super::files;
use super::store::Store;

/// For an index of a few hundred images.
const LEAST: u64 = 64 << 10;

impl Store {
    fn reserve(&self) -> PathBuf {
        self.path().join("reserve")
    }

    /// Keeps enough back for an index of this length, if there is room. For holders of the exclusive lock.
    pub(super) fn keep_reserve(&self, length: u64) {
        let wanted = LEAST.max(length).next_power_of_two();
        let path = self.reserve();
        if path.symlink_metadata().is_ok_and(|metadata| metadata.len() >= wanted) {
            return;
        }
        let _ = fs::remove_file(&path);
        let Ok(file) = files::create(&path) else { return };
        let kept = match i64::try_from(wanted) {
            Ok(wanted) => fallocate(&file, FallocateFlags::empty(), 0, wanted),
            Err(_) => Err(Errno::EFBIG),
        };
        if kept.is_err() {
            let _ = fs::remove_file(&path);
        }
    }

    /// Gives the space back. Says whether there was any.
    pub(super) fn spend_reserve(&self) -> bool {
        fs::remove_file(self.reserve()).is_ok()
    }
}
