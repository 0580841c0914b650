//! What a container has mounted, and where.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::config::{MountConfig, MountSource};
use super::etc;
use super::locked::Locked;
use super::volume;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layers::{Branch, Rootfs, View};
use crate::namespaces::{Command, Mount};

/// Has all of it mounted by the process that is to be the container's first.
pub(super) fn add(
    command: &mut Command,
    locked: &Locked<'_>,
    rootfs: &Rootfs,
    hostname: &str,
) -> Result<()> {
    let config = &locked.identity.config;
    let view = view(rootfs)?;
    if let Some(size) = config.shm_size {
        command.mount(Mount::tmpfs("/dev/shm").size(size).mode(0o1777));
    }
    let mut all = Vec::new();
    for mount in &config.mounts {
        all.push((point(&view, &mount.target)?, mount));
    }
    // One is not to cover another that lies below it.
    all.sort_by_key(|(target, _)| target.components().count());
    for (target, MountConfig { source, read_only, .. }) in &all {
        let mut mount = match source {
            MountSource::Bind { path } => Mount::bind(path, target),
            MountSource::Tmpfs { size, mode } => {
                let mount = Mount::tmpfs(target).mode(mode.unwrap_or(0o1777));
                size.map_or(mount.clone(), |size| mount.size(size))
            }
            MountSource::Volume { name, .. } => {
                Mount::bind(volume::mounted(locked.home(), name)?, target)
            }
        };
        if *read_only {
            mount = mount.read_only();
        }
        command.mount(mount);
    }
    for (file, target) in etc::files(&locked.directory(), config, hostname)? {
        let target = resolved(&view, Path::new(target))?;
        if all.iter().all(|(other, _)| *other != target) {
            command.mount(Mount::bind(file, target).read_only());
        }
    }
    Ok(())
}

/// The files of a container before anything is mounted among them.
pub(super) fn view(rootfs: &Rootfs) -> Result<View> {
    let directory = rootfs.as_fd().try_clone_to_owned().context(|| "duplicate a descriptor")?;
    let users = rootfs.user_namespace().cloned();
    Ok(View { root: Branch { directory, users, read_only: None }, mounts: Vec::new() })
}

/// Where in a container it is mounted what is to be mounted at `target`: links in the image lead to what it has there,
/// as /var/run does to /run. A link to nothing stays, and nothing can be mounted on that.
pub(super) fn point(view: &View, target: &Path) -> Result<PathBuf> {
    let real = resolved(view, target)?;
    let exists = || view.find(&real, false).is_ok_and(|spot| spot.found.is_some());
    if real == target || exists() { Ok(real) } else { Ok(target.to_owned()) }
}

/// The same, even where links lead to what is missing.
fn resolved(view: &View, target: &Path) -> Result<PathBuf> {
    let real = view.resolve(target)?;
    let kernels = ["/proc", "/sys", "/dev"].into_iter().find(|it| real.starts_with(it));
    if kernels.is_some_and(|place| !target.starts_with(place)) {
        let message = format!(
            "the mount point {} is a link to {}, which is no place for it",
            target.display(),
            real.display()
        );
        return Err(Error::new(ErrorKind::SafetyViolation, message));
    }
    Ok(real)
}
