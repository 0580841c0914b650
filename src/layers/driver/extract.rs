//! A directory out of layers, as one of its own.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::syncfs;

use super::attributes::Marks;
use super::copy::{Copier, make_directory, open_directory};
use super::remove::remove;
use super::store::LayerStore;
use super::usage::{Usage, measure};
use super::vfs::with_links;
use crate::error::{Context, Error, Result};
use crate::layers::access::Access;
use crate::layers::cursor::{file_type, names};
use crate::layers::directory::Directory;
use crate::layers::overlay::join;
use crate::layers::rootfs::Rootfs;
use crate::sys::root_dir::RootDir;
use crate::sys::worker::Worker;

impl LayerStore {
    /// Makes the directory `to` a copy of the one that the layers `keys`, the lowest first, show at `path`, with owners as
    /// on disk. Does nothing if they show no directory there, a symbolic link as its last name counting as none, or if
    /// something is in `to` already.
    ///
    /// The copy is made beside `to`, as `NAME.part`, and takes its place in one step; of a process that was killed at it
    /// the next call removes the rest. The caller sees to it that only one is made at a time. With `durable` it is on the
    /// disk by then.
    #[cfg_attr(not(feature = "container"), allow(dead_code, reason = "volumes are filled so"))]
    pub(crate) fn extract(
        &self,
        keys: &[&str],
        path: &Path,
        to: &Path,
        durable: bool,
    ) -> Result<()> {
        let attempt = || format!("copy {} of the image to {}", path.display(), to.display());
        self.try_extract(keys, path, to, durable).context(attempt)
    }

    /// Removes a directory and all that is in it, whoever of the caller's subordinate ids it belongs to. There may be none.
    #[cfg_attr(not(feature = "container"), allow(dead_code, reason = "volumes are removed so"))]
    pub(crate) fn remove_directory(&self, path: &Path) -> Result<()> {
        let attempt = || format!("remove {}", path.display());
        let namespace = self.user_namespace().context(attempt)?;
        let (parent, name) = split(path).context(attempt)?;
        remove(&parent, name, Access(namespace.as_ref())).context(attempt)
    }

    /// What a directory takes with all that is in it, whoever of the caller's subordinate ids it belongs to.
    #[cfg_attr(not(feature = "container"), allow(dead_code, reason = "volumes are measured so"))]
    pub(crate) fn usage_of(&self, path: &Path) -> Result<Usage> {
        let attempt = || format!("measure {}", path.display());
        let namespace = self.user_namespace().context(attempt)?;
        let access = Access(namespace.as_ref());
        let (parent, name) = split(path).context(attempt)?;
        let tree = access.open_directory(&parent, name).context(attempt)?;
        measure(tree, None, Vec::new(), access).context(attempt)
    }

    fn try_extract(&self, keys: &[&str], path: &Path, to: &Path, durable: bool) -> Result<()> {
        // A mount and a user namespace are much for finding out that there is nothing.
        if !self.may_show(keys, path)? {
            return Ok(());
        }
        let namespace = self.user_namespace()?;
        let access = Access(namespace.as_ref());
        let (parent, name) = split(to)?;
        let mut part = name.to_owned();
        part.push(".part");
        remove(&parent, &part, access)?;
        match access.open_directory(&parent, name) {
            Err(Errno::ENOENT) => {}
            there => {
                if !names(there.context(|| "open what is there")?)?.is_empty() {
                    return Ok(());
                }
            }
        }
        let view = self.view(keys)?;
        let Some(from) = find(&view, path, access)? else { return Ok(()) };
        let empty = names(from.try_clone().context(|| "duplicate a descriptor")?)?.is_empty();
        let copied = copy(from, &parent, &part, access).and_then(|()| {
            if durable && !empty {
                syncfs(open_directory(&parent, ".")?).context(|| "write it to the disk")?;
            }
            match renameat(&parent, part.as_os_str(), &parent, name) {
                // Somebody has put something there meanwhile.
                Err(Errno::ENOTEMPTY | Errno::EEXIST) => remove(&parent, &part, access),
                renamed => renamed.context(|| "rename the copy"),
            }
        });
        if copied.is_err() {
            let _ = remove(&parent, &part, access);
        }
        copied
    }

    /// Whether the layers `keys` may show something at `path`: one of them has something there, or a link on the way.
    fn may_show(&self, keys: &[&str], path: &Path) -> Result<bool> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut here = keys.iter().map(|key| self.tree(key)).collect::<Result<Vec<_>>>()?;
        for component in path.components() {
            let name = match component {
                Component::Normal(name) => name,
                Component::ParentDir => return Ok(true),
                _ => continue,
            };
            let mut found = Vec::new();
            for directory in &here {
                match openat(directory, name, flags, Mode::empty()) {
                    Ok(file) if is_link(&file)? => return Ok(true),
                    Ok(file) => found.push(file),
                    Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                    // Closed to the caller.
                    Err(_) => return Ok(true),
                }
            }
            here = found;
        }
        Ok(!here.is_empty())
    }
}

/// The directory that a path lies in, and its name there.
fn split(path: &Path) -> Result<(OwnedFd, &OsStr)> {
    let split = path.parent().zip(path.file_name());
    let (parent, name) = split.ok_or_else(|| Error::invalid("the directory has no name"))?;
    Ok((Directory::open(parent, "the directory above")?.fd, name))
}

fn is_link(file: &OwnedFd) -> Result<bool> {
    let stat = fstat(file).context(|| "stat a file of a layer")?;
    Ok(file_type(&stat) == SFlag::S_IFLNK)
}

fn copy(from: OwnedFd, parent: &OwnedFd, part: &OsString, access: Access<'_>) -> Result<()> {
    make_directory(parent, part)?;
    let to = open_directory(parent, part)?;
    with_links(parent, access, |links| Copier::new(access, Marks::Drop, links).tree(from, to))
}

/// The directory at `path`, which nothing in the layers can lead out of them, open for reading.
fn find(view: &Rootfs, path: &Path, access: Access<'_>) -> Result<Option<OwnedFd>> {
    // A slash behind the last name would follow a link.
    let path: PathBuf = path.components().collect();
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let root = view.as_fd().try_clone_to_owned().context(|| "duplicate a descriptor")?;
    let opened = match (RootDir::new(root).open(&path, flags), access.0) {
        (Err(err), Some(namespace)) if err.errno == libc::EACCES => {
            let mut worker = Worker::new();
            join(&mut worker, namespace)?;
            let name = CString::new(path.as_os_str().as_bytes())
                .map_err(|_| Error::invalid("the path contains a NUL byte"))?;
            let slot = worker.open_in_root(view.as_fd(), name, flags.bits());
            worker.run().map(|mut opened| opened.take(slot))
        }
        (opened, _) => opened.map(Some),
    };
    match opened {
        Err(err) if matches!(err.errno, libc::ENOENT | libc::ENOTDIR | libc::ELOOP) => Ok(None),
        opened => opened.context(|| "open it"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is test code")]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;
    use crate::machine::{require, stacks};

    /// A layer whose `data` has something in it, and links that lead to it and out.
    fn layers(dir: &Path) -> LayerStore {
        let layers = LayerStore::open_with(dir.join("layers"), super::super::Driver::Vfs).unwrap();
        let staging = layers.prepare(&[]).unwrap();
        let tree = staging.tree();
        fs::create_dir_all(tree.join("data/deep")).unwrap();
        fs::write(tree.join("data/file"), "kept").unwrap();
        fs::hard_link(tree.join("data/file"), tree.join("data/deep/again")).unwrap();
        fs::set_permissions(tree.join("data"), fs::Permissions::from_mode(0o1751)).unwrap();
        symlink("data", tree.join("link")).unwrap();
        symlink("/../data", tree.join("up")).unwrap();
        fs::write(tree.join("file"), "no directory").unwrap();
        staging.commit("base").unwrap();
        layers
    }

    #[test]
    fn a_directory_is_copied_once_whatever_is_left_of_earlier_ones() {
        require!(stacks());
        let dir = tempfile::tempdir().unwrap();
        let layers = layers(dir.path());
        let to = dir.path().join("to");
        let extract = |path: &str| layers.extract(&["base"], Path::new(path), &to, true);
        for path in ["/link", "/link/", "/file", "/file/x", "/nowhere", "/../../nowhere"] {
            extract(path).unwrap();
            assert!(!to.exists(), "{path}");
        }
        // Of a process that was killed.
        fs::create_dir(dir.path().join("to.part")).unwrap();
        fs::write(dir.path().join("to.part/file"), "ke").unwrap();
        fs::create_dir(dir.path().join("links")).unwrap();
        fs::create_dir(&to).unwrap();
        extract("/data/").unwrap();
        assert_eq!(fs::read_to_string(to.join("file")).unwrap(), "kept");
        let inode = |path: &str| to.join(path).metadata().unwrap().ino();
        assert_eq!(inode("file"), inode("deep/again"));
        assert_eq!(to.metadata().unwrap().mode() & 0o7777, 0o1751);
        fs::write(to.join("file"), "changed").unwrap();
        extract("/data").unwrap();
        assert_eq!(fs::read_to_string(to.join("file")).unwrap(), "changed");
        let left = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut left: Vec<_> = left.collect();
        left.sort();
        assert_eq!(left, ["layers", "to"]);
        // A link above the last name is followed inside.
        let below = dir.path().join("below");
        layers.extract(&["base"], Path::new("/up/deep"), &below, false).unwrap();
        assert_eq!(fs::read_to_string(below.join("again")).unwrap(), "kept");
    }

    #[test]
    fn what_no_layer_has_needs_no_mount_to_be_found_missing() {
        let dir = tempfile::tempdir().unwrap();
        let layers = layers(dir.path());
        let staging = layers.prepare(&[]).unwrap();
        fs::create_dir_all(staging.tree().join("data/above")).unwrap();
        staging.commit("top").unwrap();
        for (path, expected) in [
            ("/data", true),
            ("/data/deep/again", true),
            ("/data/above/", true),
            ("/link", true),
            ("/link/x", true),
            ("/nowhere/../data", true),
            ("/", true),
            ("/nowhere", false),
            ("/data/nowhere/x", false),
            ("/data/above/again", false),
            ("/file/x", false),
        ] {
            let found = layers.may_show(&["base", "top"], Path::new(path)).unwrap();
            assert_eq!(found, expected, "{path}");
        }
    }
}
