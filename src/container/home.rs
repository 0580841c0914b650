//! The directory that containers are kept in, shared by all processes that use it.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::container::Container;
use super::events::Journal;
use super::files::{self, Durable, Held, gone};
use super::health::{Health, HealthRecord};
use super::id::{ContainerId, is_hex};
use super::locked::Locked;
use super::process::ProcessId;
use super::remove;
use super::roster::Roster;
use super::running::Running;
use super::state::{Identity, Record, VERSION};
use super::supervisor::Supervisor;
use super::volume;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::{Image, Store, boot_id, sync_dir};
use crate::sys;

/// The containers of one root directory:
///
/// - `containers/by-id/ID/`, locked by who works with it: `config.json`, `state.json`, what it has written, its log;
/// - `containers/names/NAME`: a symbolic link to the id, in [letters](ContainerId::link_target);
/// - `containers/staging`, `trash`: what is being made or removed;
/// - `containers/mount-points`: a layer that all stand on, see [`etc`](super::etc);
/// - `containers/supervisors`: a locked file for each process that has started containers;
/// - `containers/events`: what has happened to them, see [`events`](super::events).
#[derive(Debug)]
pub(crate) struct Home {
    store: Store,
    dir: PathBuf,
    boot: String,
    roster: Arc<Roster>,
    supervisor: Mutex<Option<Arc<Supervisor>>>,
    journal: Arc<Journal>,
}

const DIRECTORIES: [&str; 6] = ["by-id", "names", "staging", "trash", "supervisors", "sockets"];

impl Home {
    /// Opens the containers beside an image store, and puts in order what dead processes have left.
    pub(crate) fn open(store: Store) -> Result<Arc<Self>> {
        let dir = store.path().join("containers");
        let attempt = || format!("open the containers in {}", dir.display());
        for name in [""].iter().chain(&DIRECTORIES) {
            match DirBuilder::new().mode(0o700).create(dir.join(name)) {
                Err(err) if err.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(err).context(attempt);
                }
                _ => {}
            }
        }
        // Without it nobody can tell who is alive.
        let pidfd = sys::wait::open(std::process::id().cast_signed()).context(|| "pidfd_open");
        pidfd
            .map_err(|err| {
                err.with_hint("it takes pidfd_open(2): Linux 5.3, and a sandbox that allows it")
            })
            .context(attempt)?;
        let boot = boot_id().context(attempt)?;
        let journal = Arc::new(Journal::open(dir.join("events")).context(attempt)?);
        let home = Arc::new(Self {
            store: store.observed_by(journal.clone()),
            boot,
            roster: Arc::default(),
            supervisor: Mutex::default(),
            journal,
            dir,
        });
        home.recover().context(|| format!("open the containers in {}", home.dir.display()))?;
        Ok(home)
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn journal(&self) -> &Journal {
        &self.journal
    }

    pub(super) fn boot(&self) -> &str {
        &self.boot
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(super) fn directory(&self, id: &ContainerId) -> PathBuf {
        self.dir.join("by-id").join(id.as_str())
    }

    /// The lock of all names and of what comes and goes, held for moments. Taken after a container's own.
    pub(super) fn lock_names(&self) -> Result<Held> {
        files::lock(&self.dir.join("lock"))
    }

    pub(super) fn supervisor(self: &Arc<Self>) -> Result<Arc<Supervisor>> {
        let mut supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(supervisor) = supervisor.as_ref() {
            return Ok(supervisor.clone());
        }
        let new = Supervisor::start(self)?;
        *supervisor = Some(new.clone());
        Ok(new)
    }

    /// Whether a process lives that looks after containers. Of this one that is known.
    pub(super) fn is_alive(&self, supervisor: ProcessId) -> Result<bool> {
        let own = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner);
        match own.as_ref() {
            Some(own) if own.identity == supervisor => Ok(true),
            _ => supervisor.is_alive(),
        }
    }

    /// What this process runs.
    pub(super) fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    /// The container as this process runs it.
    pub(super) fn running_here(&self, id: &ContainerId) -> Option<Arc<Running>> {
        self.roster.get(id)
    }

    /// Waits, within reason, until nothing is left of a container that another thread or process removes.
    pub(super) fn wait_for_removal(&self, id: &ContainerId) {
        const PATIENCE: Duration = Duration::from_secs(10);
        let trash = self.dir.join("trash").join(id.as_str());
        let until = Instant::now() + PATIENCE;
        while trash.exists() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The ids of all containers.
    pub(crate) fn ids(&self) -> Result<Vec<ContainerId>> {
        let dir = self.dir.join("by-id");
        let attempt = || format!("list {}", dir.display());
        let mut ids = Vec::new();
        for entry in fs::read_dir(&dir).context(attempt)? {
            let name = entry.context(attempt)?.file_name();
            ids.extend(name.to_str().and_then(|name| name.parse::<ContainerId>().ok()));
        }
        Ok(ids)
    }

    /// The container with this name or id, or whose id begins so.
    pub(crate) fn find(self: &Arc<Self>, name: &str) -> Result<Container> {
        let id = self.find_id(name).context(|| format!("find the container {name}"))?;
        Ok(Container::new(self.clone(), id))
    }

    fn find_id(&self, name: &str) -> Result<ContainerId> {
        if let Ok(id) = name.parse::<ContainerId>()
            && self.directory(&id).is_dir()
        {
            return Ok(id);
        }
        if let Some(id) = self.named(name)? {
            return Ok(id);
        }
        let missing = || Error::new(ErrorKind::NotFound, format!("no such container: {name}"));
        if !is_hex(name) {
            return Err(missing());
        }
        let mut ids = self.ids()?.into_iter().filter(|id| id.as_str().starts_with(name));
        match (ids.next(), ids.next()) {
            (Some(id), None) => Ok(id),
            (None, _) => Err(missing()),
            (Some(one), Some(other)) => Err(Error::invalid(format!(
                "the ids of several containers begin with {name}: {}, {} ...",
                one.short(),
                other.short()
            ))
            .with_hint("give more digits")),
        }
    }

    /// Whose name this is.
    pub(super) fn named(&self, name: &str) -> Result<Option<ContainerId>> {
        if super::id::check_name(name).is_err() {
            return Ok(None);
        }
        let target = match fs::read_link(self.dir.join("names").join(name)) {
            Err(err) if matches!(err.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => {
                return Ok(None);
            }
            target => target.context(|| format!("look up the name {name}"))?,
        };
        let Some(id) = ContainerId::of_link_target(target.as_os_str().as_bytes()) else {
            return Ok(None);
        };
        // A process that was killed may have left a name of nobody's. What cannot be read keeps its own.
        let is_its = match files::if_readable(self.identity(&id))? {
            Some(identity) => identity.name == name,
            None => self.directory(&id).is_dir(),
        };
        Ok(is_its.then_some(id))
    }

    /// Gives a name to a container, under the [lock](Self::lock_names).
    pub(super) fn claim_name(&self, name: &str, id: &ContainerId) -> Result<()> {
        if let Some(other) = self.named(name)?.filter(|other| other != id) {
            let message = format!("the name {name} is taken by the container {}", other.short());
            return Err(Error::new(ErrorKind::AlreadyExists, message)
                .with_hint("remove or rename that one, or take another name"));
        }
        let path = self.dir.join("names").join(name);
        gone(fs::remove_file(&path))
            .and_then(|()| symlink(id.link_target(), &path))
            .context(|| format!("give the name {name}"))
    }

    /// Takes a name away, under the [lock](Self::lock_names).
    pub(super) fn release_name(&self, name: &str, id: &ContainerId) -> Result<()> {
        let path = self.dir.join("names").join(name);
        match fs::read_link(&path) {
            Ok(target) if target == Path::new(&id.link_target()) => {
                gone(fs::remove_file(&path)).context(|| format!("take the name {name} away"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn identity(&self, id: &ContainerId) -> Result<Identity> {
        self.read(id, "config.json")
    }

    /// What is known of those that have not come into being yet, and where.
    pub(super) fn staged(&self) -> Result<Vec<(PathBuf, Identity)>> {
        let paths = entries(&self.dir.join("staging"))?.into_iter();
        let known = |path: PathBuf| {
            let identity = files::read_json(&path.join("config.json"), VERSION);
            Ok(files::if_readable(identity)?.map(|identity| (path, identity)))
        };
        paths.filter_map(|path| known(path).transpose()).collect()
    }

    pub(super) fn record(&self, id: &ContainerId) -> Result<Record> {
        self.read(id, "state.json")
    }

    pub(super) fn health_file(&self, id: &ContainerId) -> PathBuf {
        self.directory(id).join("health.json")
    }

    /// What is known of its health; nothing if it has not been started yet.
    pub(super) fn health(&self, id: &ContainerId) -> Health {
        let record = files::read_json::<HealthRecord>(&self.health_file(id), VERSION);
        record.map(|record| record.health).unwrap_or_default()
    }

    fn read<T: serde::de::DeserializeOwned>(&self, id: &ContainerId, name: &str) -> Result<T> {
        files::read_json(&self.directory(id).join(name), VERSION).map_err(|err| match err.kind() {
            ErrorKind::NotFound if !self.directory(id).exists() => {
                Error::new(ErrorKind::NotFound, format!("no such container: {}", id.short()))
            }
            ErrorKind::NotFound | ErrorKind::Malformed => err.with_kind(ErrorKind::Malformed).with_hint(
                "the file is damaged; what the container has written is untouched, and removing it by force still works",
            ),
            _ => err,
        })
    }

    /// Makes a container of what was asked, and gives it its name.
    ///
    /// Returns its lock.
    pub(super) fn add(
        self: &Arc<Self>,
        id: &ContainerId,
        identity: &Identity,
        record: &Record,
        image: &Image,
    ) -> Result<Held> {
        let staging = self.dir.join("staging").join(id.as_str());
        let made = self.fill(id, &staging, identity, record, image);
        if made.is_err() {
            let _ = self.discard(&staging);
        }
        made
    }

    fn fill(
        self: &Arc<Self>,
        id: &ContainerId,
        staging: &Path,
        identity: &Identity,
        record: &Record,
        image: &Image,
    ) -> Result<Held> {
        // One that goes when it ends does not survive the machine either.
        let durable = if identity.config.remove { Durable::Never } else { Durable::Yes };
        let attempt = || format!("make {}", staging.display());
        let mine = {
            let _names = self.lock_names()?;
            DirBuilder::new().mode(0o700).create(staging).context(attempt)?;
            // Held until it is in its place, so that nobody takes it for a dead process's.
            files::lock_directory(staging)?
        };
        match durable {
            Durable::Yes => self.store.pin(id.as_str(), image)?,
            Durable::No | Durable::Never => self.store.pin_briefly(id.as_str(), image)?,
        }
        files::write_json(&staging.join("config.json"), identity, durable)?;
        files::write_json(&staging.join("state.json"), record, durable)?;
        volume::prepare(self, &identity.config, image, durable)?;
        let _names = self.lock_names()?;
        self.claim_name(&identity.name, id)?;
        let place = self.directory(id);
        if let Err(err) = fs::rename(staging, &place) {
            self.release_name(&identity.name, id)?;
            return Err(err).context(|| format!("move the new container to {}", place.display()));
        }
        if durable == Durable::Yes {
            sync_dir(&self.dir.join("by-id")).and_then(|()| sync_dir(&self.dir.join("names")))?;
        }
        Ok(mine)
    }

    /// Takes away what has not come into being.
    fn discard(self: &Arc<Self>, staging: &Path) -> Result<()> {
        let trash = {
            let _names = self.lock_names()?;
            self.move_away(staging)?
        };
        remove::empty(self, &trash)
    }

    /// Moves a container's directory to where what is left of containers is removed, at once for all who look for it. For
    /// holders of the lock of the names.
    pub(super) fn move_away(&self, directory: &Path) -> Result<PathBuf> {
        let trash = self.dir.join("trash").join(directory.file_name().unwrap_or_default());
        gone(fs::rename(directory, &trash))
            .context(|| format!("move {} away", directory.display()))?;
        Ok(trash)
    }

    /// Where a process can be reached that has started containers.
    pub(super) fn sockets_of(&self, supervisor: ProcessId) -> Result<Vec<PathBuf>> {
        let prefix = format!("{supervisor}-");
        let of_it = |path: &PathBuf| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|it| it.starts_with(&prefix))
        };
        Ok(entries(&self.dir.join("sockets"))?.into_iter().filter(of_it).collect())
    }

    /// Puts in order what processes have left that are dead.
    fn recover(self: &Arc<Self>) -> Result<()> {
        let dir = self.dir.join("supervisors");
        let mut dead = Vec::new();
        for path in entries(&dir)? {
            let lock = files::try_lock(&path)?;
            // A process that it was just making may have a copy of the lock for a moment longer than it lives.
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let is_alive = || ProcessId::named(name).map_or(Ok(true), ProcessId::is_alive);
            if lock.is_some() || !is_alive()? {
                dead.push((path, lock));
            }
        }
        let anybody_died = !dead.is_empty();
        if anybody_died {
            for id in self.ids()? {
                if self.has_not_survived(&id) {
                    remove::damaged(self, &id)?;
                    continue;
                }
                // One that cannot be read stays as it is; whoever asks for it is told.
                if files::if_readable(self.record(&id))?.is_some_and(|record| {
                    record.supervisor.is_some() || record.phase == super::Phase::Removing
                }) {
                    match Locked::of(self, &id) {
                        Ok(_) => {}
                        Err(err) if err.kind() == ErrorKind::NotFound => {}
                        Err(err) => return Err(err),
                    }
                }
            }
        }
        for (path, lock) in dead {
            let socket = path.file_name().map(|name| self.dir.join("sockets").join(name));
            // In this order: whoever finds its file gone may have made both anew.
            for path in [socket, Some(path)].into_iter().flatten() {
                gone(fs::remove_file(&path)).context(|| format!("remove {}", path.display()))?;
            }
            drop(lock);
        }
        // Of one that was killed while it took away both.
        for socket in entries(&self.dir.join("sockets"))? {
            let name = socket.file_name().unwrap_or_default();
            let process = name.to_str().and_then(ProcessId::named);
            if !dir.join(name).exists() && !process.map_or(Ok(false), ProcessId::is_alive)? {
                gone(fs::remove_file(&socket))
                    .context(|| format!("remove {}", socket.display()))?;
            }
        }
        if anybody_died {
            self.unpin_for_nobody()?;
        }
        for path in entries(&self.dir.join("staging"))? {
            if self.is_abandoned(&path)? {
                self.discard(&path)?;
            }
        }
        for path in entries(&self.dir.join("trash"))? {
            // Another process may be at it; what is left, the next who comes removes.
            let _ = remove::empty(self, &path);
        }
        Ok(())
    }

    /// Lets go of the images of containers of which nothing else has survived a failure of the machine.
    fn unpin_for_nobody(&self) -> Result<()> {
        for (name, _) in self.store.pins()? {
            let Ok(id) = name.parse::<ContainerId>() else { continue };
            let _names = self.lock_names()?;
            let places = ["by-id", "staging", "trash"].map(|place| self.dir.join(place));
            if !places.iter().any(|place| place.join(id.as_str()).exists()) {
                self.store.unpin(&name)?;
            }
        }
        Ok(())
    }

    /// Whether the machine has failed before its files were on disk, which those that go when they end do not wait for.
    fn has_not_survived(&self, id: &ContainerId) -> bool {
        let is_empty = |name| {
            let found = fs::symlink_metadata(self.directory(id).join(name));
            found.is_ok_and(|found| found.is_file() && found.len() == 0)
        };
        match self.identity(id) {
            Ok(identity) => identity.config.remove && is_empty("state.json"),
            Err(_) => is_empty("config.json"),
        }
    }

    /// Whether the maker of a container is dead.
    fn is_abandoned(&self, staging: &Path) -> Result<bool> {
        const PATIENCE: Duration = Duration::from_millis(250);
        let until = Instant::now() + PATIENCE;
        loop {
            {
                let _names = self.lock_names()?;
                match files::try_lock_directory(staging) {
                    // Moved to its place meanwhile, or taken away by another who puts things in order.
                    Err(err) if err.kind() == ErrorKind::NotFound => return Ok(false),
                    Ok(None) if Instant::now() < until => {}
                    lock => return Ok(lock?.is_some()),
                }
            }
            // Being made, which does not take long; or a process that its dead maker was just making has a copy of the lock.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let supervisor = self.supervisor.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(supervisor) = supervisor {
            supervisor.quit();
        }
    }
}

pub(super) fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let attempt = || format!("list {}", dir.display());
    let entries = fs::read_dir(dir).context(attempt)?;
    entries.map(|entry| Ok(entry.context(attempt)?.path())).collect()
}
