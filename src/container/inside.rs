//! What runs in a container, seen from outside: executing programs, taking hold of streams, reading the log, measuring.

use super::attach::{Attachment, LIMITS, REQUEST};
use super::config::LogDriver;
use super::container::{Container, cgroup, open};
use super::executed::Executed;
use super::launch;
use super::locked::missing;
use super::logs::{self, Logs};
use super::state::{Phase, Record};
use super::supervisor::knock;
use crate::cgroups::{Cgroup, Stats};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::namespaces::{Child, Command};

impl Container {
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
        let executed = Executed::create(self, locked.identity.clone(), &command)?;
        drop(locked);
        let mut child = self.exec_in(&record, &mut command)?;
        executed.start(&mut child);
        Ok(child)
    }

    fn exec_in(&self, record: &Record, command: &mut Command) -> Result<Child> {
        if let Some(running) = self.home.running_here(&self.id) {
            let child = running.exec(command)?;
            // Its first process counts as ended only when all others are reaped.
            self.home.supervisor()?.watch(&self.id, &child)?;
            return Ok(child);
        }
        let cgroup = Cgroup::at_paths(&record.cgroup).ok();
        let process =
            record.process.ok_or_else(|| Error::new(ErrorKind::InvalidState, "it has ended"))?;
        Child::adopt(process.pid, open(record)?, cgroup.as_ref())?.exec(command)
    }

    /// Takes hold of its streams, from now on.
    ///
    /// # Errors
    ///
    /// `InvalidState` if it does not run.
    pub fn attach(&self) -> Result<Attachment> {
        let attachment = self.try_attach().context(|| self.says("attach to"))?;
        self.home.tell_of(&self.id, "attach", &[]);
        Ok(attachment)
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

    /// Has its supervisor look at its limits anew. Whatever one does not hear it only tells of later, when the container ends.
    pub(super) fn announce_limits(&self, record: &Record) {
        let sockets =
            record.supervisor.and_then(|supervisor| self.home.sockets_of(supervisor).ok());
        for socket in sockets.unwrap_or_default() {
            let _ = knock(&socket).and_then(|socket| {
                Attachment::of(socket).send(LIMITS, self.id.as_str().as_bytes())
            });
        }
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
        logs::make_directory(&directory).map_err(|err| missing(err, &self.id)).context(attempt)?;
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

    /// The ids of its processes, as the host sees them, the lowest first: which need not be
    /// [its first process](super::Status::pid), as numbers begin anew now and then.
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
}
