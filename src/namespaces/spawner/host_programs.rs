//! The root of `Command::isolated`: the host's programs in a memory file system.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};

use super::Builder;
use super::environment::{c_path, c_string};
use super::filesystem::kind_of;
use crate::error::{Context, Result};
use crate::namespaces::Mount;
use crate::namespaces::mount::Propagation;
use crate::namespaces::root::Source;
use crate::sys::mount::MountAttr;
use crate::sys::plan::{Slot, Step};

/// What of the host's `/etc` its programs need to run, beside libraries: none of it is secret.
const ETC: [&str; 7] =
    ["alternatives", "group", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "passwd"];

/// Where the working directory is not the host's but what is there already.
const OWN: [&str; 4] = ["/usr", "/proc", "/sys", "/dev"];

impl Builder<'_> {
    /// Fills the memory file system `root`.
    pub(super) fn host_programs(&mut self, root: Slot) -> Result<()> {
        if !matches!(self.command.root.0, Source::HostPrograms) {
            return Ok(());
        }
        for (name, mode) in [("etc", 0o755), ("tmp", 0o1777), ("var", 0o755), ("run", 0o755)] {
            let name = c_string("directory", name)?;
            self.steps.push(Step::Directory { dir: root, name, mode });
        }
        for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
            let path = Path::new("/").join(name);
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_symlink() => {
                    let to = fs::read_link(&path).context(|| format!("read {}", path.display()))?;
                    let (name, target) = (c_string("link", name)?, c_path("link", &to)?);
                    self.steps.push(Step::Symlink { dir: root, name, target });
                }
                Ok(found) if found.is_dir() => self.host_tree(&path, &found)?,
                _ => {}
            }
        }
        let mut paths = vec![PathBuf::from("/usr")];
        paths.extend(ETC.iter().map(|name| Path::new("/etc").join(name)));
        for path in paths {
            if let Ok(found) = fs::metadata(&path) {
                self.host_tree(&path, &found)?;
            }
        }
        self.fresh(&Mount::tmpfs("/tmp").mode(0o1777), true)?;
        Ok(())
    }

    pub(super) fn mounts_below_working_tree(&self) -> Result<bool> {
        let dir = self.working_directory()?.unwrap_or_default();
        Ok(self.command.mounts.iter().any(|m| m.target != dir && m.target.starts_with(&dir)))
    }

    /// The host's working directory.
    pub(super) fn working_tree(&mut self) -> Result<()> {
        if !matches!(self.command.root.0, Source::HostPrograms) {
            return Ok(());
        }
        let Some(dir) = self.working_directory()? else { return Ok(()) };
        let own = |path: &Path| {
            path == Path::new("/")
                || path == Path::new("/tmp")
                || OWN.iter().any(|own| path.starts_with(own))
                || self.command.mounts.iter().any(|m| m.target == path)
        };
        if own(&dir) || !dir.is_absolute() {
            return Ok(());
        }
        let found = fs::metadata(&dir)
            .context(|| format!("use the working directory {}", dir.display()))?;
        self.host_tree(&dir, &found)
    }

    fn host_tree(&mut self, path: &Path, found: &Metadata) -> Result<()> {
        let slot = self.tree(path, true, None)?;
        let target = self.target(path, kind_of(found), true)?;
        self.steps.push(Step::Attach { mount: slot, target });
        let set = MountAttr::READ_ONLY | MountAttr::NO_DEV;
        let name = path.display().to_string();
        self.attributes(slot, set.bits(), Propagation::Private, true, &name);
        Ok(())
    }
}
