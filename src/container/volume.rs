//! Volumes: directories that outlive containers, and that several share.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::config::{Config, MountConfig, MountSource};
use super::files::{self, Durable, Held, gone};
use super::home::{Home, entries};
use super::id::{ContainerId, check_name};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::Image;

/// A directory that containers mount by its name.
#[derive(Clone, Debug)]
pub struct Volume {
    home: Arc<Home>,
    name: String,
}

/// Where its files are. What else may have to be kept of it lies beside.
const DATA: &str = "data";

impl Volume {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory with its files.
    pub fn path(&self) -> PathBuf {
        directory(&self.home, &self.name).join(DATA)
    }

    /// Bytes of disk that it takes. All of its files are looked at.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn size(&self) -> Result<u64> {
        let usage = self.home.store().layers().and_then(|it| it.usage_of(&self.path()));
        usage.map(|usage| usage.bytes).context(|| format!("measure the volume {}", self.name))
    }

    /// The short ids of the containers that mount it, those included that are just being made, and without those whose
    /// files cannot be read, of which nobody knows it.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn users(&self) -> Result<Vec<String>> {
        let users = self.everybody()?.users;
        Ok(users.iter().map(|id| id.short().to_owned()).collect())
    }

    /// Those included that are just being made.
    fn everybody(&self) -> Result<Containers> {
        let staged = self.home.staged()?;
        let mut all = self.containers()?;
        let mounted = staged.iter().filter(|(_, identity)| mounts(&identity.config, &self.name));
        all.users.extend(
            mounted.filter_map(|(path, _)| path.file_name()?.to_str()?.parse::<ContainerId>().ok()),
        );
        Ok(all)
    }

    fn containers(&self) -> Result<Containers> {
        let mut found = Containers::default();
        for id in self.home.ids()? {
            match self.home.identity(&id) {
                Ok(it) if mounts(&it.config, &self.name) => found.users.push(id),
                Ok(_) => {}
                Err(_) if !self.home.directory(&id).exists() => {}
                Err(err) => {
                    let what = format!("nobody knows whether the container {} uses it", id.short());
                    found.unknown.get_or_insert(err.context(what));
                }
            }
        }
        Ok(found)
    }

    /// Gives it what the image has at `target`, unless there is something in it.
    fn fill(&self, image: &Image, target: &Path, durable: Durable) -> Result<()> {
        let _lock = self.lock()?;
        // What was filled may be closed to the caller.
        if fs::read_dir(self.path()).map_or(true, |mut files| files.next().is_some()) {
            return Ok(());
        }
        // The copy takes the place of a directory that must not be mounted.
        let Containers { users, unknown } = self.containers()?;
        files::if_readable(unknown.map_or(Ok(()), Err))?;
        for id in users {
            if self.home.record(&id).is_ok_and(|record| record.supervisor.is_some()) {
                return Ok(());
            }
        }
        image.extract(target, &self.path(), durable == Durable::Yes)
    }

    /// Held while it is filled. Who is to start a container on it says so in the container's state, and then waits for this.
    fn lock(&self) -> Result<Held> {
        files::lock_directory(&directory(&self.home, &self.name))
    }

    /// Removes it with all that is in it.
    ///
    /// # Errors
    ///
    /// `Busy` if a container mounts it, running or not; `Malformed` or `Unsupported` if the files of a container cannot be
    /// read, which may mount it.
    pub fn remove(self) -> Result<()> {
        let attempt = || format!("remove the volume {}", self.name);
        let _names = self.home.lock_names().context(attempt)?;
        let Containers { users, unknown } = self.everybody().context(attempt)?;
        if !users.is_empty() {
            let users: Vec<_> = users.iter().map(ContainerId::short).collect();
            let message = format!("it is in use by {}", users.join(", "));
            return Err(Error::new(ErrorKind::Busy, message)
                .with_hint("remove those containers first")
                .context(attempt()));
        }
        if let Some(err) = unknown {
            return Err(err.with_hint("remove that container by force first").context(attempt()));
        }
        discard(&self.home, &self.name).context(attempt)
    }
}

/// Who mounts a volume.
#[derive(Debug, Default)]
struct Containers {
    users: Vec<ContainerId>,
    /// Why nobody knows it of one.
    unknown: Option<Error>,
}

fn mounts(config: &Config, volume: &str) -> bool {
    let of_it =
        |source: &MountSource| matches!(source, MountSource::Volume { name, .. } if name == volume);
    config.mounts.iter().any(|mount| of_it(&mount.source))
}

/// Adds the volumes that the image asks for, without names, where nothing else is to be mounted.
pub(super) fn add_those_of(image: &Image, config: &mut Config) -> Result<()> {
    let asked = image.config().spec().config().as_ref().and_then(|it| it.volumes().clone());
    let mut asked = asked.unwrap_or_default();
    asked.sort_unstable();
    for volume in asked {
        let mut target = PathBuf::from("/");
        for component in Path::new(&volume).components() {
            match component {
                Component::Normal(name) => target.push(name),
                Component::ParentDir => drop(target.pop()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        if target == Path::new("/") {
            let message = format!("the image asks for a volume at {volume:?}, the root directory");
            return Err(Error::new(ErrorKind::Malformed, message));
        }
        if config.mounts.iter().all(|mount| mount.target != target) {
            let name = ContainerId::random()?.as_str().to_owned();
            let source = MountSource::Volume { name, anonymous: true, no_copy: false };
            config.mounts.push(MountConfig { source, target, read_only: false });
        }
    }
    Ok(())
}

/// Makes the volumes of a container to be, which is among the staged, and fills those that are empty.
pub(super) fn prepare(
    home: &Arc<Home>,
    config: &Config,
    image: &Image,
    durable: Durable,
) -> Result<()> {
    for mount in &config.mounts {
        let MountSource::Volume { name, no_copy, .. } = &mount.source else { continue };
        let (volume, _) = {
            // Nobody removes it from now on.
            let _names = home.lock_names()?;
            home.make_volume(name)?
        };
        if !no_copy {
            let attempt = || format!("fill the volume {name}");
            volume.fill(image, &mount.target, durable).context(attempt)?;
        }
    }
    Ok(())
}

/// The directory of a volume that is to be mounted now, by a container whose state says that it is being started.
pub(super) fn mounted(home: &Arc<Home>, name: &str) -> Result<PathBuf> {
    let (volume, _) = home.make_volume(name)?;
    drop(volume.lock()?);
    Ok(volume.path())
}

impl Home {
    /// Makes a volume, if there is none of this name.
    pub(crate) fn make_volume(self: &Arc<Self>, name: &str) -> Result<(Volume, bool)> {
        check_name(name)?;
        let path = directory(self, name);
        let attempt = || format!("make the volume {name}");
        let mut new = false;
        let all = path.parent().unwrap_or(&path);
        for (dir, mode) in [(all, 0o711), (&path, 0o711), (&path.join(DATA), 0o755)] {
            match DirBuilder::new().mode(mode).create(dir) {
                Ok(()) => new = true,
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => new = false,
                Err(err) => return Err(err).context(attempt),
            }
        }
        if new {
            self.tell_volume(name, "create", &[]);
        }
        Ok((Volume { home: self.clone(), name: name.to_owned() }, new))
    }

    pub(crate) fn find_volume(self: &Arc<Self>, name: &str) -> Result<Volume> {
        check_name(name)?;
        match directory(self, name).join(DATA).is_dir() {
            true => Ok(Volume { home: self.clone(), name: name.to_owned() }),
            false => Err(Error::new(ErrorKind::NotFound, format!("no such volume: {name}"))),
        }
    }

    pub(crate) fn all_volumes(self: &Arc<Self>) -> Result<Vec<Volume>> {
        let dir = self.store().path().join("volumes");
        if !dir.exists() {
            return Ok(Vec::new());
        }
        let name = |path: PathBuf| path.file_name()?.to_str().map(str::to_owned);
        let mut names: Vec<_> = entries(&dir)?.into_iter().filter_map(name).collect();
        names.sort_unstable();
        Ok(names.into_iter().filter_map(|name| self.find_volume(&name).ok()).collect())
    }
}

/// Removes the volumes of a container that have no name of the user's, but for those that another has taken over. `path`
/// is where that container is.
pub(super) fn remove_anonymous(home: &Arc<Home>, config: &Config, path: &Path) -> Result<()> {
    for mount in &config.mounts {
        let MountSource::Volume { name, anonymous: true, .. } = &mount.source else { continue };
        let Ok(volume) = home.find_volume(name) else { continue };
        let _names = home.lock_names()?;
        let others = home.staged()?;
        let mut others = others.iter().filter(|(other, _)| other != path);
        let Containers { users, unknown } = volume.containers()?;
        if users.is_empty()
            && unknown.is_none()
            && !others.any(|(_, identity)| mounts(&identity.config, name))
        {
            discard(home, name)?;
        }
    }
    Ok(())
}

fn discard(home: &Home, name: &str) -> Result<()> {
    let path = directory(home, name);
    let layers = home.store().layers()?;
    // Files of subordinate ids are not the caller's to remove with rm(1).
    for name in [DATA, "data.part", "links"] {
        layers.remove_directory(&path.join(name))?;
    }
    gone(fs::remove_dir(&path)).context(|| format!("remove {}", path.display()))?;
    home.tell_volume(name, "destroy", &[]);
    Ok(())
}

fn directory(home: &Home, name: &str) -> PathBuf {
    home.store().path().join("volumes").join(name)
}
