//! A handle on one container.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::attach::{Attachment, REQUEST};
use super::builder;
use super::config::{Config, LogDriver, Resources, Restart};
use super::home::Home;
use super::id::{ContainerId, check_name};
use super::launch;
use super::locked::Locked;
use super::logs::Logs;
use super::monitor;
use super::process::ProcessId;
use super::remove;
use super::state::{Exit, Phase, Record, Status};
use super::supervisor::knock;
use crate::cgroups::{Cgroup, Stats};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::{ConfigChanges, Image};
use crate::layers::{Change, Pack, Rootfs};
use crate::namespaces::{Child, Command, ExitStatus, Signal, TerminalSize};
use crate::sys;

/// A container: made of an image, with a name, settings, and what it has written; running or not.
///
/// It lasts until it is [removed](Self::remove), beyond the life of the process that made it. Clones are handles on the
/// same container; other processes may have handles on it too, and all see the same.
///
/// # Supervision
///
/// The process that starts a container looks after it, in one thread for all of them: reads what it writes, notes how it
/// ends, starts it anew where its [restart policy](super::Restart) says so. When that process ends, in whatever way, so
/// do the containers that it has started; dropping a handle, or the engine, does not end them. One that is started
/// [detached](Self::start_detached) has a process for itself that does this, and goes on.
#[derive(Clone, Debug)]
pub struct Container {
    home: Arc<Home>,
    id: ContainerId,
    /// How it ends that was started through this handle: there even if the container is gone by then.
    started: Arc<Mutex<Option<Arc<OnceLock<Exit>>>>>,
}

/// How long those may take to die who were sent SIGKILL.
const DYING: Duration = Duration::from_secs(10);
/// How long containers are given to end by themselves, if nothing else is said.
const GRACE: Duration = Duration::from_secs(10);

impl Container {
    pub(crate) fn new(home: Arc<Home>, id: ContainerId) -> Self {
        Self { home, id, started: Arc::default() }
    }

    pub(super) fn home(&self) -> &Arc<Home> {
        &self.home
    }

    /// What tells it from all others, now and later.
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// Its name.
    ///
    /// # Errors
    ///
    /// `NotFound` if it has been removed.
    pub fn name(&self) -> Result<String> {
        Ok(self.home.identity(&self.id)?.name)
    }

    /// What it was asked to be.
    ///
    /// # Errors
    ///
    /// `NotFound` if it has been removed.
    pub fn config(&self) -> Result<Config> {
        Ok(self.home.identity(&self.id)?.config)
    }

    /// The image it is made of.
    ///
    /// # Errors
    ///
    /// `NotFound` if it has been removed.
    pub fn image(&self) -> Result<Image> {
        launch::image_of(&self.locked()?)
    }

    /// The program that it runs and its arguments: its own, or the image's.
    ///
    /// # Errors
    ///
    /// `NotFound` if it has been removed.
    pub fn command_line(&self) -> Result<Vec<String>> {
        let locked = self.locked()?;
        launch::words(&locked.identity.config, &launch::image_of(&locked)?)
    }

    /// How it is now.
    ///
    /// # Errors
    ///
    /// `NotFound` if it has been removed.
    pub fn status(&self) -> Result<Status> {
        let record = self.home.record(&self.id)?;
        // What a dead supervisor has left must be put in order first.
        let dead = record.supervisor.is_some_and(|supervisor| !supervisor.is_alive());
        if dead || record.boot != self.home.boot() {
            let locked = self.locked()?;
            return Ok(locked.record.status(&locked.identity));
        }
        Ok(record.status(&self.home.identity(&self.id)?))
    }

    fn locked(&self) -> Result<Locked<'_>> {
        Locked::of(&self.home, &self.id)
    }

    fn says(&self, what: &str) -> String {
        format!(
            "{what} the container {}",
            self.name().unwrap_or_else(|_| self.id.short().to_owned())
        )
    }

    /// Starts it, the first time or again.
    ///
    /// # Errors
    ///
    /// `InvalidState` if it runs; otherwise as [`Command::spawn`], and as of [`Cgroup::create`] for its limits.
    pub fn start(&self) -> Result<()> {
        self.start_with(TerminalSize::default(), Vec::new()).context(|| self.says("start"))
    }

    /// Starts it, with an attachment that misses nothing of what it writes.
    ///
    /// `terminal` is the size of its terminal, if it has one.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_attached(&self, terminal: TerminalSize) -> Result<Attachment> {
        let (ours, theirs) = Attachment::pair()?;
        self.start_with(terminal, vec![theirs]).context(|| self.says("start"))?;
        Ok(ours)
    }

    /// Starts it so that it goes on when this process ends: a process of its own, this program started anew, looks after it.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start); `InvalidState` if the program has not called
    /// [`run_if_requested`](super::monitor::run_if_requested).
    pub fn start_detached(&self) -> Result<()> {
        monitor::start(self, TerminalSize::default(), None).context(|| self.says("start"))
    }

    /// [`start_detached`](Self::start_detached), with an attachment that misses nothing of what it writes.
    ///
    /// # Errors
    ///
    /// As [`start_detached`](Self::start_detached).
    pub fn start_detached_attached(&self, terminal: TerminalSize) -> Result<Attachment> {
        let (ours, theirs) = Attachment::pair()?;
        monitor::start(self, terminal, Some(theirs)).context(|| self.says("start"))?;
        Ok(ours)
    }

    fn start_with(&self, terminal: TerminalSize, clients: Vec<OwnedFd>) -> Result<()> {
        let supervisor = self.home.supervisor()?;
        let mut locked = self.lock_to_start()?;
        let started = locked.start(supervisor.identity, terminal, |launch| {
            supervisor.launch(self, launch, clients)
        });
        // It cannot be gone yet: its end is written down under the lock.
        if let Some(running) = self.home.running_here(&self.id) {
            if started.is_err() {
                // It runs, and that could not be written down.
                let _ = sys::spawn::send_signal(&*running, libc::SIGKILL);
            }
            let mut exit = self.started.lock().unwrap_or_else(PoisonError::into_inner);
            *exit = Some(running.exit.clone());
        }
        started
    }

    /// The lock, to start it by hand.
    pub(super) fn lock_to_start(&self) -> Result<Locked<'_>> {
        let mut locked = self.locked_when_recorded()?;
        if locked.record.phase.is_alive() {
            let message = format!("it is {} already", locked.record.phase);
            return Err(Error::new(ErrorKind::InvalidState, message));
        }
        locked.record.restarts = 0;
        Ok(locked)
    }

    /// The lock, when the end of a process that is gone has been written down.
    fn locked_when_recorded(&self) -> Result<Locked<'_>> {
        let until = Instant::now() + DYING;
        loop {
            let locked = self.locked()?;
            let process = locked.record.process.filter(|_| locked.record.phase.is_alive());
            if process.is_none_or(ProcessId::is_alive) {
                return Ok(locked);
            }
            if Instant::now() > until {
                let message = "its supervisor has not noted that it has ended";
                return Err(Error::new(ErrorKind::TimedOut, message));
            }
            drop(locked);
            self.home.wait_for_end(&self.id, Duration::from_millis(2));
        }
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// `InvalidState` if it does not run.
    pub fn kill(&self, signal: Signal) -> Result<()> {
        self.try_kill(signal).context(|| self.says(&format!("send {signal} to")))
    }

    fn try_kill(&self, signal: Signal) -> Result<()> {
        let mut locked = self.locked()?;
        locked.must_be_alive("send a signal")?;
        if signal == Signal::KILL && !locked.record.stopping {
            // Who kills it does not want it back.
            locked.record.stopping = true;
            locked.save()?;
        }
        let pidfd = open(&locked.record)?;
        sys::spawn::send_signal(&pidfd, signal.number()).context(|| "pidfd_send_signal")?;
        if signal == Signal::KILL && locked.record.phase == Phase::Paused {
            // On cgroup v1 the frozen do not even die.
            cgroup(&locked.record)?.thaw()?;
        }
        Ok(())
    }

    /// Asks it to end, with its stop signal; kills it when it has not after `grace`, or after what it was configured with,
    /// or ten seconds. Fine if it does not run.
    ///
    /// # Errors
    ///
    /// `TimedOut` if not even SIGKILL ends it.
    pub fn stop(&self, grace: impl Into<Option<Duration>>) -> Result<()> {
        self.try_stop(grace.into()).context(|| self.says("stop"))
    }

    fn try_stop(&self, grace: Option<Duration>) -> Result<()> {
        let mut locked = self.locked()?;
        if locked.record.phase == Phase::Restarting {
            locked.record.ended(locked.record.exit, None);
        }
        locked.record.stopping = true;
        locked.save()?;
        if !locked.record.phase.is_alive() {
            return Ok(());
        }
        let config = &locked.identity.config;
        let of_image = || {
            let image = launch::image_of(&locked).ok()?;
            image.config().spec().config().as_ref()?.stop_signal().clone()
        };
        let signal = config.stop_signal.clone().or_else(of_image).filter(|it| !it.is_empty());
        let signal = signal.map_or(Ok(Signal::TERM), |signal| signal.parse())?;
        let grace = grace.or_else(|| config.stop_timeout.map(Duration::from_secs)).unwrap_or(GRACE);
        let Some(pidfd) = locked.record.process.and_then(ProcessId::open) else {
            drop(locked);
            return self.wait_until_recorded();
        };
        let _ = sys::spawn::send_signal(&pidfd, signal.number());
        if locked.record.phase == Phase::Paused {
            cgroup(&locked.record)?.thaw()?;
            locked.record.phase = Phase::Running;
            locked.save()?;
        }
        drop(locked);
        let ended = sys::wait::poll(&pidfd, Some(grace)).context(|| "wait for its end")?;
        if !ended {
            let _ = sys::spawn::send_signal(&pidfd, libc::SIGKILL);
            if !sys::wait::poll(&pidfd, Some(DYING)).context(|| "wait for its end")? {
                return Err(Error::new(ErrorKind::TimedOut, "it does not die, even by SIGKILL"));
            }
        }
        self.wait_until_recorded()
    }

    /// Waits until its supervisor has written down that it has ended.
    fn wait_until_recorded(&self) -> Result<()> {
        match self.locked_when_recorded() {
            // It was to go with its end.
            Err(err) if err.kind() == ErrorKind::NotFound => Ok(()),
            other => other.map(drop),
        }
    }

    /// Stops it, if it runs, and starts it again.
    ///
    /// # Errors
    ///
    /// As [`stop`](Self::stop) and [`start`](Self::start).
    pub fn restart(&self, grace: impl Into<Option<Duration>>) -> Result<()> {
        self.try_stop(grace.into())
            .and_then(|()| self.start_with(TerminalSize::default(), Vec::new()))
            .context(|| self.says("restart"))
    }

    /// Waits until it has ended, and is not to be started anew. At once if it does not run.
    ///
    /// # Errors
    ///
    /// `NotFound` if it has been removed, unless this process has started it; `InvalidState` if it has never run.
    pub fn wait(&self) -> Result<ExitStatus> {
        self.try_wait_for(None).context(|| self.says("wait for"))?.ok_or_else(|| {
            Error::new(ErrorKind::TimedOut, "the time is up").context(self.says("wait for"))
        })
    }

    /// [`wait`](Self::wait), but no longer than `timeout`: `None` if it still runs.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<ExitStatus>> {
        self.try_wait_for(Some(timeout)).context(|| self.says("wait for"))
    }

    fn try_wait_for(&self, timeout: Option<Duration>) -> Result<Option<ExitStatus>> {
        const REFRESH: Duration = Duration::from_millis(500);
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        // Before the state is read: it may go with the container.
        let started = self.started.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let started = started.or_else(|| Some(self.home.running_here(&self.id)?.exit.clone()));
        let config = self.config().unwrap_or_default();
        loop {
            match self.status() {
                Ok(status)
                    if !matches!(
                        status.phase,
                        Phase::Running | Phase::Paused | Phase::Restarting
                    ) =>
                {
                    return match status.exit {
                        Some(status) => Ok(Some(status)),
                        None => Err(Error::new(ErrorKind::InvalidState, "it has never run")),
                    };
                }
                Ok(_) => {}
                Err(err) if err.kind() == ErrorKind::NotFound => {
                    let ended = started.as_ref().and_then(|exit| exit.get());
                    return ended.map(|ended| Some(ended.status(&config))).ok_or(err);
                }
                Err(err) => return Err(err),
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            let patience = left.unwrap_or(REFRESH).min(REFRESH);
            if self.home.running_here(&self.id).is_some() {
                self.home.wait_for_end(&self.id, patience);
                continue;
            }
            // Another process's.
            let process = self.home.record(&self.id).ok().and_then(|record| record.process?.open());
            match process {
                Some(pidfd) => {
                    sys::wait::poll(&pidfd, Some(patience)).context(|| "wait for its end")?;
                }
                None => std::thread::sleep(patience.min(Duration::from_millis(2))),
            }
        }
    }

    /// Lets all of its processes stand still.
    ///
    /// # Errors
    ///
    /// `InvalidState` if it does not run; `Unsupported` without a freezer.
    pub fn pause(&self) -> Result<()> {
        self.set_paused(true).context(|| self.says("pause"))
    }

    /// Lets them go on.
    ///
    /// # Errors
    ///
    /// `InvalidState` if it is not paused.
    pub fn unpause(&self) -> Result<()> {
        self.set_paused(false).context(|| self.says("unpause"))
    }

    fn set_paused(&self, paused: bool) -> Result<()> {
        let mut locked = self.locked()?;
        let (from, to) = match paused {
            true => (Phase::Running, Phase::Paused),
            false => (Phase::Paused, Phase::Running),
        };
        if locked.record.phase != from {
            let message = format!("it is {}", locked.record.phase);
            return Err(Error::new(ErrorKind::InvalidState, message));
        }
        let cgroup = cgroup(&locked.record)?;
        if paused { cgroup.freeze() } else { cgroup.thaw() }?;
        locked.record.phase = to;
        locked.save()
    }

    /// Changes what it may use, running or not. What `resources` leaves open stays as it is.
    ///
    /// # Errors
    ///
    /// As [`Cgroup::set`]; nothing is changed then.
    pub fn update(&self, resources: &Resources) -> Result<()> {
        let attempt = || self.says("update");
        let mut locked = self.locked().context(attempt)?;
        if locked.record.phase.is_alive() {
            cgroup(&locked.record).and_then(|it| it.set(&resources.limits())).context(attempt)?;
        }
        locked.identity.config.resources = resources.over(&locked.identity.config.resources);
        locked.save_identity().context(attempt)
    }

    /// Changes what is done when it ends.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a policy other than [`No`](Restart::No) if it is removed when it ends.
    pub fn set_restart(&self, policy: Restart) -> Result<()> {
        let set = || {
            let mut locked = self.locked()?;
            locked.identity.config.restart = policy;
            builder::check_restart(&locked.identity.config)?;
            locked.save_identity()
        };
        set().context(|| self.says("change the restart policy of"))
    }

    /// Gives it another name.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` if another container has the name; `InvalidInput` for one that is not allowed.
    pub fn rename(&self, name: &str) -> Result<()> {
        self.try_rename(name).context(|| format!("{} to {name}", self.says("rename")))
    }

    fn try_rename(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let mut locked = self.locked()?;
        let _names = self.home.lock_names()?;
        self.home.claim_name(name, &self.id)?;
        let old = std::mem::replace(&mut locked.identity.name, name.to_owned());
        if let Err(err) = locked.save_identity() {
            self.home.release_name(name, &self.id)?;
            return Err(err);
        }
        if old != name {
            self.home.release_name(&old, &self.id)?;
        }
        Ok(())
    }

    /// Removes it, with all that it has written, and volumes that have no name.
    ///
    /// # Errors
    ///
    /// `InvalidState` if it runs.
    pub fn remove(self) -> Result<()> {
        self.try_remove(false).context(|| self.says("remove"))
    }

    /// [`remove`](Self::remove), killing it first if it runs.
    ///
    /// # Errors
    ///
    /// `TimedOut` if not even SIGKILL ends it.
    pub fn remove_forced(self) -> Result<()> {
        self.try_remove(true).context(|| self.says("remove"))
    }

    fn try_remove(&self, force: bool) -> Result<()> {
        loop {
            let mut locked = match self.locked_when_recorded() {
                Err(err)
                    if force
                        && matches!(err.kind(), ErrorKind::Malformed | ErrorKind::Unsupported) =>
                {
                    return remove::damaged(&self.home, &self.id);
                }
                other => other?,
            };
            if !locked.record.phase.is_alive() {
                locked.record.phase = Phase::Removing;
                locked.record.supervisor = None;
                locked.save()?;
                return remove::finish(&mut locked);
            }
            if !force {
                let message = format!("it is {}", locked.record.phase);
                return Err(Error::new(ErrorKind::InvalidState, message)
                    .with_hint("stop it first, or remove it by force"));
            }
            drop(locked);
            match self.try_stop(Some(Duration::ZERO)) {
                Err(err) if err.kind() == ErrorKind::NotFound => return Ok(()),
                other => other?,
            }
            if !self.home.directory(&self.id).exists() {
                return Ok(());
            }
        }
    }

    /// Runs another process in it, with its environment, user and restrictions. The streams are this process's own.
    ///
    /// ```no_run
    /// # let engine = coracle::Engine::open_default()?;
    /// engine.find("web")?.exec(["nginx", "-s", "reload"])?.wait()?;
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `InvalidState` if it does not run or is paused; otherwise as [`Child::exec`].
    pub fn exec<S: AsRef<std::ffi::OsStr>>(
        &self,
        words: impl IntoIterator<Item = S>,
    ) -> Result<Child> {
        let mut words = words.into_iter();
        let program = words.next().ok_or_else(|| Error::invalid("no program is given"))?;
        let mut command = Command::new(program);
        command.args(words);
        self.exec_command(command)
    }

    /// [`exec`](Self::exec) with streams, a terminal, a user, a working directory and variables of its own: what `command`
    /// says counts more than what the container was configured with.
    ///
    /// # Errors
    ///
    /// As [`exec`](Self::exec).
    pub fn exec_command(&self, command: Command) -> Result<Child> {
        self.try_exec(command).context(|| self.says("execute a program in"))
    }

    fn try_exec(&self, mut command: Command) -> Result<Child> {
        let locked = self.locked()?;
        locked.must_be_alive("execute a program")?;
        if locked.record.phase == Phase::Paused {
            return Err(
                Error::new(ErrorKind::InvalidState, "it is paused").with_hint("unpause it first")
            );
        }
        let image = launch::image_of(&locked)?;
        let mut base = Command::new("");
        launch::restrict(&mut base, &locked.identity.config, &image)?;
        launch::enter_working_dir(&mut base, &locked.identity.config, &image);
        command.fill_from(base);
        let record = locked.record.clone();
        drop(locked);
        if let Some(running) = self.home.running_here(&self.id) {
            let child = running.exec(&mut command)?;
            // Its first process counts as ended only when all others are reaped.
            self.home.supervisor()?.watch(&self.id, &child)?;
            return Ok(child);
        }
        let cgroup = Cgroup::at_paths(&record.cgroup).ok();
        let process =
            record.process.ok_or_else(|| Error::new(ErrorKind::InvalidState, "it has ended"))?;
        Child::adopt(process.pid, open(&record)?, cgroup.as_ref())?.exec(&mut command)
    }

    /// Takes hold of its streams, from now on.
    ///
    /// # Errors
    ///
    /// `InvalidState` if it does not run.
    pub fn attach(&self) -> Result<Attachment> {
        self.try_attach().context(|| self.says("attach to"))
    }

    fn try_attach(&self) -> Result<Attachment> {
        let record = {
            let locked = self.locked()?;
            locked.must_be_alive("attach")?;
            locked.record.clone()
        };
        if self.home.running_here(&self.id).is_some() {
            let (ours, theirs) = Attachment::pair()?;
            self.home.supervisor()?.attach(&self.id, theirs)?;
            return Ok(ours);
        }
        let supervisor =
            record.supervisor.ok_or_else(|| Error::new(ErrorKind::InvalidState, "it has ended"))?;
        // A process may have several, one for each engine that it has open.
        for socket in self.home.sockets_of(supervisor)? {
            let Ok(socket) = knock(&socket) else { continue };
            let attachment = Attachment::of(socket);
            attachment.send(REQUEST, self.id.as_str().as_bytes())?;
            if attachment.is_welcome()? {
                return Ok(attachment);
            }
        }
        Err(Error::new(ErrorKind::InvalidState, "its supervisor does not answer, or it has ended"))
    }

    /// What it has written, to be read: `web.logs()?.follow().since(time)`. Following ends with the container.
    ///
    /// # Errors
    ///
    /// `NotFound` if it has been removed; `Unsupported` if it keeps no log.
    pub fn logs(&self) -> Result<Logs> {
        let attempt = || self.says("read the log of");
        let config = self.config().context(attempt)?;
        if config.log.driver == LogDriver::None {
            return Err(
                Error::unsupported("it keeps none: its log driver is none").context(attempt())
            );
        }
        let directory = launch::log_directory(&self.home, &self.id);
        // One that has not been started yet has written nothing.
        launch::make_log_directory(&directory).context(attempt)?;
        let this = self.clone();
        let finished = move || {
            let going_on =
                |phase| matches!(phase, Phase::Running | Phase::Paused | Phase::Restarting);
            !this.status().is_ok_and(|status| going_on(status.phase))
        };
        Ok(Logs::open(directory).until_finished(finished))
    }

    /// What it uses.
    ///
    /// # Errors
    ///
    /// `InvalidState` if it does not run; `Unsupported` if it has no cgroup.
    pub fn stats(&self) -> Result<Stats> {
        let stats = || {
            let locked = self.locked()?;
            locked.must_be_alive("measure it")?;
            cgroup(&locked.record)?.stats()
        };
        stats().context(|| self.says("measure"))
    }

    /// The ids of its processes, as the host sees them.
    ///
    /// # Errors
    ///
    /// `InvalidState` if it does not run.
    pub fn processes(&self) -> Result<Vec<u32>> {
        let processes = || {
            let locked = self.locked()?;
            locked.must_be_alive("list its processes")?;
            cgroup(&locked.record)?.processes()
        };
        processes().context(|| self.says("list the processes of"))
    }

    /// What it has changed in its root filesystem, running or not.
    ///
    /// # Errors
    ///
    /// Those of [`Rootfs::changes`].
    pub fn changes(&self) -> Result<Vec<Change>> {
        self.rootfs()
            .and_then(|rootfs| rootfs.changes())
            .context(|| self.says("list the changes of"))
    }

    /// Its root filesystem as it is, to be read: to commit it, pack it, or look into it. What is mounted in it does not show.
    ///
    /// # Errors
    ///
    /// As of [`Image::rootfs`].
    pub fn rootfs(&self) -> Result<Rootfs> {
        if let Some(running) = self.home.running_here(&self.id) {
            return running.rootfs();
        }
        let locked = self.locked()?;
        launch::rootfs_as_it_is(&locked, &launch::image_of(&locked)?)
    }

    /// Makes an image of what it has changed, upon its own, with the name `name`, if that is not empty. Its processes stand
    /// still meanwhile, where it has a cgroup to hold them in.
    ///
    /// For more of a choice: `engine.store().commit(&container.rootfs()?, name)`.
    ///
    /// # Errors
    ///
    /// As of [`Commit::run`](crate::image::Commit::run).
    pub fn commit(&self, name: &str, changes: ConfigChanges) -> Result<Image> {
        let commit = || {
            let still = match self.set_paused(true) {
                Ok(()) => true,
                Err(err)
                    if matches!(err.kind(), ErrorKind::InvalidState | ErrorKind::Unsupported) =>
                {
                    false
                }
                Err(err) => return Err(err),
            };
            let image = self.rootfs().and_then(|rootfs| {
                let commit = self.home.store().commit(&rootfs, name);
                commit.parent(&self.image()?).changes(changes).run()
            });
            if still {
                self.set_paused(false)?;
            }
            image
        };
        commit().context(|| self.says("commit"))
    }

    /// Writes all of its files as a tar archive.
    ///
    /// # Errors
    ///
    /// As of [`Pack::rootfs`].
    pub fn export(&self, writer: impl Write) -> Result<()> {
        let rootfs = self.rootfs();
        rootfs
            .and_then(|rootfs| Pack::new().rootfs(&rootfs, writer))
            .map(drop)
            .context(|| self.says("export"))
    }
}

/// The pidfd of its first process.
fn open(record: &Record) -> Result<OwnedFd> {
    let pidfd = record.process.and_then(ProcessId::open);
    pidfd.ok_or_else(|| Error::new(ErrorKind::InvalidState, "it has ended"))
}

fn cgroup(record: &Record) -> Result<Cgroup> {
    if record.cgroup.is_empty() {
        return Err(Error::unsupported("it has no cgroup").with_hint(
            "whoever started it could make none: run it as root, or in a delegated cgroup (systemd-run --user --scope)",
        ));
    }
    Cgroup::at_paths(&record.cgroup)
}
