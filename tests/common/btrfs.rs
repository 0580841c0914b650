//! A btrfs file system for one test, in a mount namespace that is gone with it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::machine::{Missing, program, rerun, root};
use super::sandbox::setup;

/// Tells the second run of a test where its file system is.
const MOUNT: &str = "CORACLE_TEST_BTRFS";

/// The machine can make, and root may mount, a btrfs file system in a file.
pub fn btrfs() -> Result<(), Missing> {
    root()?;
    program("mkfs.btrfs")?;
    let known = fs::read_to_string("/proc/filesystems").expect("read the list of file systems");
    let known = known.lines().any(|line| line.trim() == "btrfs")
        || Command::new("modprobe").arg("btrfs").status().is_ok_and(|status| status.success());
    if !known {
        return Err(Missing::new("btrfs", "the kernel has no such file system"));
    }
    if !Path::new("/dev/loop-control").exists() {
        return Err(Missing::new("btrfs", "there are no loop devices"));
    }
    Ok(())
}

/// In a run by [`on_btrfs`]: an empty directory on btrfs.
pub fn btrfs_directory() -> Option<PathBuf> {
    std::env::var_os(MOUNT).map(PathBuf::from)
}

/// Runs the calling test once more, in a process of its own, with [`btrfs_directory`].
///
/// The file system and its loop device go away with the last process of that run, however it ends; its file has
/// no name any more by then.
pub fn on_btrfs() {
    let dir = setup("btrfs");
    // Every snapshot waits for the disk: memory is the better one.
    let memory = tempfile::Builder::new().prefix("coracle-btrfs-").tempdir_in("/dev/shm");
    let image = memory.as_ref().map_or(dir.path(), tempfile::TempDir::path).join("image");
    File::create(&image)
        .and_then(|file| file.set_len(1 << 30))
        .expect("make a file for the file system");
    let made = Command::new("mkfs.btrfs").arg("-q").arg(&image).output().expect("run mkfs.btrfs");
    assert!(made.status.success(), "mkfs.btrfs: {}", String::from_utf8_lossy(&made.stderr));
    let mount = dir.dir("mount");
    let script =
        "mount -o loop \"$1\" \"$2\" && rm \"$1\" && chmod 755 \"$2\" && shift 2 && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-euc", script, "sh"]);
    command.arg(&image).arg(&mount).env(MOUNT, &mount);
    rerun(command);
}
