//! A scratch directory that cleans itself, and fails the test that leaves a mount in it.

use std::fs;
use std::io::Write;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::audit::mounts_below;

/// A scratch directory, removed on drop whatever lies in it.
///
/// Dropping it panics if a mount was left inside: removing through a bind mount would reach the host.
#[derive(Debug)]
pub struct Sandbox(PathBuf);

/// Makes the scratch directory of the test `name`.
pub fn setup(name: &str) -> Sandbox {
    setup_in(name, &std::env::temp_dir())
}

/// [`setup`], in memory, where a disk would take too long.
pub fn setup_in_memory(name: &str) -> Sandbox {
    setup_in(name, Path::new("/dev/shm"))
}

fn setup_in(name: &str, place: &Path) -> Sandbox {
    let dir = tempfile::Builder::new()
        .prefix(&format!("coracle-{name}-"))
        .tempdir_in(place)
        .expect("make a scratch directory")
        .keep();
    // tempfile makes it 0700; the ids of a user namespace must be able to pass.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("open it to other users");
    Sandbox(dir.canonicalize().expect("resolve the scratch directory"))
}

impl Sandbox {
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes a directory, with its parents, and returns its path.
    pub fn dir(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(&path).expect("make a directory");
        path
    }

    /// Writes a file, with its parents, and returns its path.
    pub fn file(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("a file has a parent")).expect("make its parent");
        fs::write(&path, content).expect("write a file");
        path
    }
}

impl Deref for Sandbox {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for Sandbox {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let mounts = mounts_below(&self.0);
        for mount in mounts.iter().rev() {
            let _ = nix::mount::umount2(mount, nix::mount::MntFlags::MNT_DETACH);
        }
        if mounts_below(&self.0).is_empty() {
            remove(&self.0);
        }
        let complaint = if !mounts.is_empty() {
            format!("the test left mounts behind: {mounts:?}")
        } else if self.0.symlink_metadata().is_ok() {
            format!("{} cannot be removed", self.0.display())
        } else {
            return;
        };
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "{complaint}");
        } else {
            panic!("{complaint}");
        }
    }
}

fn remove(dir: &Path) {
    if fs::remove_dir_all(dir).is_ok() {
        return;
    }
    // An overlay's work directory is mode 000, which stops an ordinary user.
    open_up(dir);
    if fs::remove_dir_all(dir).is_ok() {
        return;
    }
    // Files of subordinate ids: only a user namespace that holds them may remove them.
    let _ = Command::new("unshare")
        .args(["--map-auto", "--map-root-user", "rm", "-rf", "--"])
        .arg(dir)
        .status();
}

fn open_up(dir: &Path) {
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}
