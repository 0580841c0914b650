//! Root filesystems seen from the host, by a descriptor of their root directory.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::unistd::{Gid, Uid, geteuid, setfsgid, setfsuid};

/// The root directory as a path of this process.
pub fn root(rootfs: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", rootfs.as_fd().as_raw_fd()))
}

/// Runs `body` on the root directory with the file-system ids of the container's root.
pub fn inside<T: Send>(rootfs: &impl AsFd, body: impl FnOnce(&Path) -> T + Send) -> T {
    let root = root(rootfs);
    let owner = fs::metadata(&root).expect("stat the root directory");
    thread::scope(|scope| {
        let as_root = scope.spawn(|| {
            if geteuid().is_root() {
                setfsgid(Gid::from_raw(owner.gid()));
                setfsuid(Uid::from_raw(owner.uid()));
            }
            body(&root)
        });
        as_root.join().expect("run it with other ids")
    })
}
