//! The files of a container as it sees them, whether it runs or not and whoever runs it.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::container::Container;
use crate::container::config::{MountConfig, MountSource};
use crate::container::container::open as open_process;
use crate::container::launch;
use crate::container::locked::Locked;
use crate::container::mounts;
use crate::container::state::Phase;
use crate::container::volume;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layers::{Branch, Mounted, Rootfs, Source, Spot, View, names};
use crate::namespaces::Child;

/// Its files, to be read or to be written.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    pub(super) view: View,
    /// Nobody can start it while its files are written from here.
    _locked: Option<Locked<'a>>,
    _rootfs: Option<Rootfs>,
}

const READ_ONLY_ROOT: &str = "the root file system of the container is read-only";
const READ_ONLY_MOUNT: &str = "it is mounted read-only in the container";

impl<'a> Tree<'a> {
    pub(super) fn of(container: &'a Container, write: bool) -> Result<Self> {
        let locked = container.locked_when_recorded()?;
        if matches!(locked.record.phase, Phase::Running | Phase::Paused) {
            return running(&locked);
        }
        let image = launch::image_of(&locked)?;
        let rootfs = match write {
            true => launch::rootfs(&locked, &image)?,
            false => launch::rootfs_as_it_is(&locked, &image)?,
        };
        let config = &locked.identity.config;
        let mut view = mounts::view(&rootfs)?;
        view.root.read_only = config.read_only.then_some(READ_ONLY_ROOT);
        for mount in &config.mounts {
            add(&mut view, mount, &locked)?;
        }
        Ok(Self { view, _locked: write.then_some(locked), _rootfs: Some(rootfs) })
    }

    /// What is there at a path.
    pub(super) fn existing(&self, path: &Path, follow: bool) -> Result<Spot> {
        let spot = self.view.find(path, follow)?;
        match spot.found {
            Some(_) => Ok(spot),
            None => {
                let message = format!("there is no {} in the container", path.display());
                Err(Error::new(ErrorKind::NotFound, message))
            }
        }
    }
}

/// The mount namespace of a running one has it all.
fn running<'a>(locked: &Locked<'_>) -> Result<Tree<'a>> {
    let ended = || Error::new(ErrorKind::InvalidState, "it has ended meanwhile");
    let process = locked.record.process.ok_or_else(ended)?;
    let child = Child::adopt(process.pid, open_process(&locked.record)?, None)?;
    let directory = duplicate(child.root().ok_or_else(ended)?)?;
    let users = child.user_namespace().cloned();
    // What was found by its number was its own: it has had that until now.
    if !process.is_alive()? {
        return Err(ended());
    }
    let root = Branch { directory, users, read_only: None };
    Ok(Tree { view: View { root, mounts: Vec::new() }, _locked: None, _rootfs: None })
}

/// What it will have mounted when it runs.
fn add(view: &mut View, mount: &MountConfig, locked: &Locked<'_>) -> Result<()> {
    let MountConfig { source, target, read_only } = mount;
    let source = match source {
        MountSource::Tmpfs { .. } => {
            Err(Error::new(ErrorKind::InvalidState, "it is memory, there only while it runs"))
        }
        MountSource::Volume { name, .. } => {
            let volume = volume::mounted(locked.home(), name)?;
            of_host(&volume, view, *read_only)
        }
        MountSource::Bind { path } => of_host(path, view, *read_only),
    };
    // Whoever does not want to go there need not know.
    let source = source.map_err(|err| format!("{err:#}"));
    let point = mounts::point(view, target).unwrap_or_else(|_| target.clone());
    let target = names(point.as_os_str().as_bytes()).make_contiguous().join(&b'/');
    view.mounts.push(Mounted { target, source });
    Ok(())
}

/// Mounted it will have the ids of the container; to root of the host it has those on disk.
fn of_host(path: &Path, view: &View, read_only: bool) -> Result<Source> {
    let attempt = || format!("open {}, which the container mounts", path.display());
    let privileged = nix::unistd::geteuid().is_root();
    let is_directory = path.metadata().context(attempt)?.is_dir();
    let real = path.canonicalize().context(attempt)?;
    let (directory, file) = match (is_directory, real.parent().zip(real.file_name())) {
        (false, Some((parent, name))) => (parent, Some(name.as_bytes().to_vec())),
        _ => (real.as_path(), None),
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let branch = Branch {
        directory: open(directory, flags, Mode::empty()).context(attempt)?,
        users: view.root.users.clone().filter(|_| !privileged),
        read_only: read_only.then_some(READ_ONLY_MOUNT),
    };
    Ok(Source { branch, file })
}

fn duplicate(fd: &impl std::os::fd::AsFd) -> Result<OwnedFd> {
    fd.as_fd().try_clone_to_owned().context(|| "duplicate a descriptor")
}
