//! A container to be.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::config::{Config, MountConfig, MountSource, Restart};
use super::container::Container;
use super::health::HealthCheck;
use super::home::Home;
use super::id::{ContainerId, check_name, random_name};
use super::launch;
use super::link::Links;
use super::new_container::{Made, NewContainer};
use super::state::{Identity, Record, VERSION};
use super::volume;
use crate::cgroups::IoLimit;
use crate::error::{Context, Error, ErrorKind, Result};

/// What a container is to be; made by [`Engine::container`](crate::Engine::container).
///
/// What there is no method for is set in its [`config_mut`](Self::config_mut).
#[derive(Clone, Debug)]
#[must_use = "`create` or `start` it"]
pub struct ContainerBuilder {
    home: Arc<Home>,
    name: Option<String>,
    config: Config,
    failed: Option<String>,
}

impl ContainerBuilder {
    pub(crate) fn new(home: Arc<Home>, config: Config) -> Self {
        Self { home, name: None, config, failed: None }
    }

    /// Its name, which must be free. By default it is made up.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// All that it is to be.
    pub fn config_mut(&mut self) -> &mut Config {
        &mut self.config
    }

    /// The arguments of the image's entrypoint or, if it has none, the command line.
    pub fn command<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.config.command = words.into_iter().map(Into::into).collect();
        self
    }

    /// The program, instead of the image's.
    pub fn entrypoint<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.config.entrypoint = Some(words.into_iter().map(Into::into).collect());
        self
    }

    /// A variable of its environment.
    pub fn env(mut self, name: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        self.config.env.push(format!("{}={}", name.as_ref(), value.as_ref()));
        self
    }

    /// A label, to find it by.
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.labels.insert(name.into(), value.into());
        self
    }

    /// The most memory it may use, in bytes.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.config.resources.memory = Some(bytes);
        self
    }

    /// How many cpus it may use: 0.5 is half of one.
    pub fn cpus(mut self, cpus: f64) -> Self {
        self.config.resources.cpus = Some(cpus);
        self
    }

    /// How many processes and threads it may have.
    pub fn pids(mut self, count: u64) -> Self {
        self.config.resources.pids = Some(count);
        self
    }

    /// How fast it may read and write a disk; may be called for several.
    ///
    /// ```no_run
    /// use coracle::{MIB, cgroups::IoLimit};
    ///
    /// # let engine = coracle::Engine::open_default()?;
    /// let slow = IoLimit::of_disk("/dev/sda")?.rbps(10 * MIB).wbps(10 * MIB);
    /// engine.container("debian:12").io_limit(slow).start()?;
    /// # Ok::<(), coracle::Error>(())
    /// ```
    pub fn io_limit(mut self, limit: IoLimit) -> Self {
        self.config.resources.limit_io(limit);
        self
    }

    /// A directory or file of the host, or a volume by its name, at `target`, which may end in `:ro` or `:rw`, and for a
    /// volume in `:nocopy` or `:ro,nocopy`: it stays empty, whatever the image has there.
    ///
    /// What has a slash in it, or is `.` or `..`, is a path; a relative one counts from the working directory of now.
    pub fn volume(mut self, source: impl AsRef<Path>, target: impl AsRef<str>) -> Self {
        let (source, target) = (source.as_ref(), target.as_ref());
        let known =
            |options: &str| options.split(',').all(|it| matches!(it, "ro" | "rw" | "nocopy"));
        let (target, options) =
            target.rsplit_once(':').filter(|(_, options)| known(options)).unwrap_or((target, ""));
        let has = |wanted| options.split(',').any(|option| option == wanted);
        let (read_only, no_copy) = (has("ro"), has("nocopy"));
        let text = source.to_str().unwrap_or("/");
        let source = match text.contains('/') || text == "." || text == ".." {
            false => MountSource::Volume { name: text.to_owned(), anonymous: false, no_copy },
            true => match std::path::absolute(source) {
                Ok(path) => MountSource::Bind { path },
                Err(err) => {
                    self.failed = Some(format!("find the absolute path of {text}: {err}"));
                    return self;
                }
            },
        };
        self.config.mounts.push(MountConfig { source, target: PathBuf::from(target), read_only });
        self
    }

    /// What is done when it ends.
    pub fn restart(mut self, policy: Restart) -> Self {
        self.config.restart = policy;
        self
    }

    /// How long it is given to end by itself when it is stopped.
    pub fn stop_timeout(mut self, grace: Duration) -> Self {
        self.config.stop_timeout = Some(grace.as_secs());
        self
    }

    /// How it is asked whether it is well.
    pub fn health_check(mut self, check: HealthCheck) -> Self {
        self.config.health = Some(check);
        self
    }

    /// It is not asked whether it is well, whatever the image says.
    pub fn no_health_check(self) -> Self {
        self.health_check(HealthCheck::none())
    }

    /// It goes when it has ended, with all that it has written.
    pub fn remove_on_exit(mut self) -> Self {
        self.config.remove = true;
        self
    }

    /// Makes the container, without starting it.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such image; `AlreadyExists` if another container has its name; `InvalidInput` for settings
    /// that cannot be meant.
    pub fn create(self) -> Result<Container> {
        let home = self.home.clone();
        let (id, _) = self.made(false)?;
        Ok(Container::new(home, id))
    }

    /// Makes the container for the caller to start: `engine.container("app").make()?.start_attached(size)?`.
    ///
    /// # Errors
    ///
    /// As of [`create`](Self::create).
    pub fn make(self) -> Result<NewContainer> {
        let home = self.home.clone();
        let (id, made) = self.made(true)?;
        Ok(NewContainer::new(home, id, made))
    }

    /// Makes the container and starts it. One that cannot be started is removed again.
    ///
    /// # Errors
    ///
    /// As of [`create`](Self::create) and [`Container::start`].
    pub fn start(self) -> Result<Container> {
        self.make()?.start()
    }

    fn made(self, to_be_started: bool) -> Result<(ContainerId, Made)> {
        let image = self.config.image.clone();
        self.try_make(to_be_started).context(|| format!("create a container of the image {image}"))
    }

    fn try_make(self, to_be_started: bool) -> Result<(ContainerId, Made)> {
        let Self { home, name, mut config, failed } = self;
        if let Some(failed) = failed {
            return Err(Error::invalid(failed));
        }
        check(&config)?;
        if let Some(name) = &name {
            check_name(name)?;
        }
        let image = match &config.platform {
            Some(platform) => home.store().image_for(&config.image, &platform.parse()?)?,
            None => home.store().image(&config.image)?,
        };
        launch::words(&config, &image)?;
        volume::add_those_of(&image, &mut config)?;
        let links = Links::find(&home, &config.links)?;
        // What was asked for counts more.
        let env = std::mem::take(&mut config.env);
        let id = ContainerId::random()?;
        let labels = image.config().spec().config().as_ref().and_then(|it| it.labels().clone());
        let mut identity = Identity {
            version: VERSION,
            name: String::new(),
            created: Timestamp::now(),
            image: image.digest().to_string(),
            health: HealthCheck::resolve(&config, &image)?,
            image_labels: labels.into_iter().flatten().collect(),
            config,
        };
        let mut record = Record::new(home.boot());
        if to_be_started {
            record.set_starter(home.supervisor()?.identity, &id);
        }
        let mut attempts = 0;
        loop {
            identity.name = match &name {
                Some(name) => name.clone(),
                None => random_name()?,
            };
            identity.config.env = [links.environment(&identity.name), env.clone()].concat();
            match home.add(&id, &identity, &record, &image) {
                // Made up, and taken already.
                Err(err)
                    if err.kind() == ErrorKind::AlreadyExists
                        && name.is_none()
                        && attempts < 20 => {}
                lock => {
                    let lock = lock?;
                    home.tell(&id, &identity, "create", &[]);
                    return Ok((id, Made { lock, identity, record, image }));
                }
            }
            attempts += 1;
        }
    }
}

/// Finds what would only fail at the start.
fn check(config: &Config) -> Result<()> {
    check_restart(config)?;
    launch::check(config)
}

pub(super) fn check_restart(config: &Config) -> Result<()> {
    match config.remove && config.restart != Restart::No {
        true => {
            Err(Error::invalid("a container that is removed when it ends cannot be started anew"))
        }
        false => Ok(()),
    }
}
