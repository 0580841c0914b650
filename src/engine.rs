//! One handle that ties a root directory together.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::container::events::Events;
use crate::container::{Config, Container, ContainerBuilder, Home, Pruned, Volume};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::Store;

/// Images, containers and volumes of one root directory, which several processes may have open at once.
///
/// Opening is cheap; clones are handles on the same engine. The first container that is started starts a thread, which
/// looks after all of them and ends with the last handle.
///
/// A container that runs has about ten descriptors of the process. Most systems allow 1024 (`ulimit -n`): a host of more
/// than a hundred raises that with setrlimit(2), which is not for a library to do. Where none is left, what is asked for
/// fails with `ResourceExhausted`, and containers go on.
///
/// ```no_run
/// use std::time::Duration;
/// use coracle::{Engine, MIB};
///
/// let engine = Engine::open_default()?;
/// let web = engine.container("nginx:1").name("web").memory(128 * MIB).start()?;
/// println!("{:?}", web.stats()?.memory.current);
/// web.exec(["nginx", "-s", "reload"])?.wait()?;
/// web.stop(Duration::from_secs(10))?;
/// web.remove()?;
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Engine {
    home: Arc<Home>,
}

impl Engine {
    /// Opens the engine whose root directory is `root`, which is made if it is missing (its parent must exist): an image
    /// [`Store`], with containers and volumes beside. What processes have left that were killed is put in order.
    ///
    /// # Errors
    ///
    /// As [`Store::open`].
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        Self::with(Store::open(root)?)
    }

    /// The engine of a store.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn with(store: Store) -> Result<Self> {
        Ok(Self { home: Home::open(store)? })
    }

    /// Opens the engine in `/var/lib/coracle` for root, for others in `$XDG_DATA_HOME/coracle` or
    /// `~/.local/share/coracle`.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); `InvalidInput` if there is no home directory.
    pub fn open_default() -> Result<Self> {
        let root = default_root()?;
        if let Some(parent) = root.parent() {
            fs::create_dir_all(parent).context(|| format!("make {}", parent.display()))?;
        }
        Self::open(root)
    }

    /// The images. What is done to them through this handle and its clones, [events](Self::events) tell.
    pub fn store(&self) -> &Store {
        self.home.store()
    }

    /// Begins a container of an image that is in the store, by its name, id or digest.
    pub fn container(&self, image: impl Into<String>) -> ContainerBuilder {
        self.container_of(Config { image: image.into(), ..Config::default() })
    }

    /// Begins a container of all of its settings.
    pub fn container_of(&self, config: Config) -> ContainerBuilder {
        ContainerBuilder::new(self.home.clone(), config)
    }

    /// Finds a container by its name, its id, or the beginning of that.
    ///
    /// # Errors
    ///
    /// `NotFound`; `InvalidInput` if several ids begin so.
    pub fn find(&self, name: &str) -> Result<Container> {
        self.home.find(name)
    }

    /// All containers, running or not, in no order.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn containers(&self) -> Result<Vec<Container>> {
        let ids = self.home.ids()?;
        Ok(ids.into_iter().map(|id| Container::new(self.home.clone(), id)).collect())
    }

    /// Those that their [restart policies](crate::container::Restart) want to run and that do not, as their supervisor has died or the
    /// machine was restarted. The engine starts none of its own accord: a host does that when it comes up.
    ///
    /// ```no_run
    /// let engine = coracle::Engine::open_default()?;
    /// for container in engine.due()? {
    ///     container.start()?;
    /// }
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of the file system. One that is being removed meanwhile is left out.
    pub fn due(&self) -> Result<Vec<Container>> {
        let mut due = Vec::new();
        for container in self.containers()? {
            match container.is_due() {
                Ok(true) => due.push(container),
                Ok(false) => {}
                Err(err) if err.kind() == ErrorKind::NotFound => {}
                Err(err) => return Err(err),
            }
        }
        Ok(due)
    }

    /// Removes the containers that are `wanted` and do not run, as [`Container::remove`] does. Those that are just being
    /// started or removed are none of its business.
    ///
    /// ```no_run
    /// let engine = coracle::Engine::open_default()?;
    /// let pruned = engine.prune_containers(|it| it.config().is_ok_and(|it| it.labels.contains_key("ci")))?;
    /// println!("{} are gone, with {} bytes", pruned.removed.len(), pruned.reclaimed);
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the containers cannot be listed. Why one of them stays is in the result.
    pub fn prune_containers(&self, wanted: impl Fn(&Container) -> bool) -> Result<Pruned> {
        self.home.prune_containers(wanted)
    }

    /// Removes the volumes that are `wanted` and no container mounts.
    ///
    /// # Errors
    ///
    /// If the volumes, or the containers that may mount them, cannot be listed. Why one of them stays is in the result.
    pub fn prune_volumes(&self, wanted: impl Fn(&Volume) -> bool) -> Result<Pruned> {
        self.home.prune_volumes(wanted)
    }

    /// What happens to containers, images and volumes, whichever process does it: [`events`](crate::container::events) shows how to read it.
    pub fn events(&self) -> Events {
        self.home.events()
    }

    /// The volume `name`, which is made if it is missing.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a name that is not allowed, and those of the file system.
    pub fn volume(&self, name: &str) -> Result<Volume> {
        self.home.make_volume(name).map(|(volume, _)| volume)
    }

    /// Finds a volume.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    pub fn find_volume(&self, name: &str) -> Result<Volume> {
        self.home.find_volume(name)
    }

    /// All volumes, by name.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn volumes(&self) -> Result<Vec<Volume>> {
        self.home.all_volumes()
    }
}

fn default_root() -> Result<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/coracle"));
    }
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
    let data = data.ok_or_else(|| {
        Error::invalid("find the engine's directory: there is no $HOME")
            .with_hint("name one: Engine::open")
    })?;
    Ok(data.join("coracle"))
}
