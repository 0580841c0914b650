//! From start to end: starting, signalling, stopping, pausing a container, and waiting for it.

use std::os::fd::OwnedFd;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::attach::Attachment;
use super::config::Restart;
use super::container::{Container, cgroup, open};
use super::launch;
use super::locked::Locked;
use super::monitor;
use super::process::ProcessId;
use super::state::{Identity, Phase};
use super::supervisor::{self, Supervisor};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::namespaces::{Signal, TerminalSize};
use crate::sys;

/// How long those may take to die who were sent SIGKILL.
const DYING: Duration = Duration::from_secs(10);
/// Who waits for an end to be written down is told; should that fail, it is looked again so soon.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How long containers are given to end by themselves, if nothing else is said.
const GRACE: Duration = Duration::from_secs(10);

impl Container {
    /// Starts it, the first time or again.
    ///
    /// # Errors
    ///
    /// `InvalidState` if it runs; otherwise as [`Command::spawn`](crate::namespaces::Command::spawn), and as of
    /// [`Cgroup::create`](crate::cgroups::Cgroup::create) for its limits.
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
        self.start_locked(&supervisor, self.lock_to_start()?, terminal, clients)
    }

    pub(super) fn start_locked(
        &self,
        supervisor: &Supervisor,
        mut locked: Locked<'_>,
        terminal: TerminalSize,
        clients: Vec<OwnedFd>,
    ) -> Result<()> {
        if !clients.is_empty() {
            locked.tell("attach", &[]);
        }
        let helper = supervisor::on_first_thread().then_some(supervisor);
        let started = locked.start(supervisor.identity, terminal, helper, |launch| {
            supervisor.launch(self, launch, clients)
        });
        // It cannot be gone yet: its end is written down under the lock.
        if let Some(running) = self.home.running_here(&self.id) {
            if started.is_err() {
                // It runs, and that could not be written down.
                let _ = sys::spawn::send_signal(&*running, libc::SIGKILL);
            }
            *self.started.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(running.exit.clone());
            drop(locked);
            if running.is_lock_wanted() {
                // It has ended already.
                let _ = supervisor.look_again(&self.id);
            }
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
    pub(super) fn locked_when_recorded(&self) -> Result<Locked<'_>> {
        let roster = self.home.roster();
        let (mut until, mut ends) = (Instant::now() + DYING, roster.ends());
        loop {
            let locked = self.locked()?;
            let process = locked.record.process.filter(|_| locked.record.phase.is_alive());
            if process.map_or(Ok(true), ProcessId::is_alive)? {
                return Ok(locked);
            }
            if Instant::now() > until {
                let message = "its supervisor has not noted that it has ended";
                return Err(Error::new(ErrorKind::TimedOut, message));
            }
            drop(locked);
            match self.home.running_here(&self.id) {
                Some(running) => running.wait_until_recorded(LOOK_AGAIN),
                None => std::thread::sleep(Duration::from_millis(2)),
            }
            // Where many end at once, it is one after the other that is written down.
            if ends != roster.ends() {
                (until, ends) = (Instant::now() + DYING, roster.ends());
            }
        }
    }

    /// Whether its restart policy wants it to run, and it does not.
    pub(crate) fn is_due(&self) -> Result<bool> {
        let locked = self.locked()?;
        let record = &locked.record;
        if record.phase != Phase::Exited {
            return Ok(false);
        }
        Ok(match locked.identity.config.restart {
            Restart::Always => true,
            _ => record.exit.is_some_and(|exit| locked.is_to_be_restarted(exit)),
        })
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
        locked.tell("kill", &[("signal", &signal.number().to_string())]);
        if signal == Signal::KILL && locked.record.phase == Phase::Paused {
            // On cgroup v1 the frozen do not even die.
            cgroup(&locked.record)?.thaw()?;
        }
        Ok(())
    }

    /// Asks it to end, with its stop signal; kills it when it has not after `grace`, or after what it was configured with,
    /// or ten seconds. Fine if it does not run, or was started through this handle and has gone with its end.
    ///
    /// # Errors
    ///
    /// `TimedOut` if not even SIGKILL ends it; `NotFound` if it has been removed.
    pub fn stop(&self, grace: impl Into<Option<Duration>>) -> Result<()> {
        self.try_stop(None, grace.into()).context(|| self.says("stop"))
    }

    /// [`stop`](Self::stop), with this signal instead of its own.
    ///
    /// # Errors
    ///
    /// As [`stop`](Self::stop).
    pub fn stop_with(&self, signal: Signal, grace: impl Into<Option<Duration>>) -> Result<()> {
        self.try_stop(Some(signal), grace.into()).context(|| self.says("stop"))
    }

    pub(super) fn try_stop(&self, signal: Option<Signal>, grace: Option<Duration>) -> Result<()> {
        let mut locked = match self.locked() {
            // Who can't know whether it has ended yet, can't know whether it has gone with its end.
            Err(err) if err.kind() == ErrorKind::NotFound && self.has_ended_here() => {
                return self.wait_until_recorded();
            }
            locked => locked?,
        };
        if locked.record.phase == Phase::Restarting {
            locked.record.ended(locked.record.exit, None);
            locked.tell("stop", &[]);
        }
        locked.record.stopping = true;
        locked.save()?;
        if !locked.record.phase.is_alive() {
            return Ok(());
        }
        let signal = signal.map_or_else(|| stop_signal(&locked), Ok)?;
        let config = &locked.identity.config;
        let grace = grace.or_else(|| config.stop_timeout.map(Duration::from_secs)).unwrap_or(GRACE);
        let Some(pidfd) = locked.record.open_process()? else {
            drop(locked);
            return self.wait_until_recorded();
        };
        let kill = |identity: &Identity, signal: i32| {
            let _ = sys::spawn::send_signal(&pidfd, signal);
            self.home.tell(&self.id, identity, "kill", &[("signal", &signal.to_string())]);
        };
        kill(&locked.identity, signal.number());
        if locked.record.phase == Phase::Paused {
            cgroup(&locked.record)?.thaw()?;
            locked.record.phase = Phase::Running;
            locked.save()?;
            locked.tell("unpause", &[]);
        }
        let identity = locked.identity.clone();
        drop(locked);
        let ended = sys::wait::poll(&pidfd, Some(grace)).context(|| "wait for its end")?;
        if !ended {
            kill(&identity, libc::SIGKILL);
            if !sys::wait::poll(&pidfd, Some(DYING)).context(|| "wait for its end")? {
                return Err(Error::new(ErrorKind::TimedOut, "it does not die, even by SIGKILL"));
            }
        }
        self.wait_until_recorded()?;
        self.home.tell(&self.id, &identity, "stop", &[]);
        Ok(())
    }

    /// Whether one that was started through this handle has ended.
    fn has_ended_here(&self) -> bool {
        let started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.as_ref().is_some_and(|exit| exit.get().is_some())
    }

    /// Waits until its supervisor has written down that it has ended.
    fn wait_until_recorded(&self) -> Result<()> {
        loop {
            // Without the lock, which its supervisor needs.
            let running = self.home.running_here(&self.id);
            if let Some(running) = &running {
                running.wait_until_recorded(LOOK_AGAIN);
            }
            match self.locked_when_recorded() {
                // It was to go with its end, and does so for as long as it counts as running.
                Err(err) if err.kind() == ErrorKind::NotFound => {
                    if running.is_none() {
                        return Ok(());
                    }
                }
                other => return other.map(drop),
            }
        }
    }

    /// Stops it, if it runs, and starts it again.
    ///
    /// # Errors
    ///
    /// As [`stop`](Self::stop) and [`start`](Self::start).
    pub fn restart(&self, grace: impl Into<Option<Duration>>) -> Result<()> {
        self.restart_with(grace.into(), || self.start_with(TerminalSize::default(), Vec::new()))
    }

    /// Stops it, if it runs, and starts it again [detached](Self::start_detached).
    ///
    /// # Errors
    ///
    /// As [`stop`](Self::stop) and [`start_detached`](Self::start_detached).
    pub fn restart_detached(&self, grace: impl Into<Option<Duration>>) -> Result<()> {
        self.restart_with(grace.into(), || monitor::start(self, TerminalSize::default(), None))
    }

    fn restart_with(
        &self,
        grace: Option<Duration>,
        start: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let started = self.try_stop(None, grace).and_then(|()| match start() {
            // It has been stopped, and somebody else was faster to start it.
            Err(err) if err.kind() == ErrorKind::InvalidState && self.is_alive() => Ok(()),
            started => started,
        });
        started.context(|| self.says("restart"))?;
        self.home.tell_of(&self.id, "restart", &[]);
        Ok(())
    }

    fn is_alive(&self) -> bool {
        self.status().is_ok_and(|status| status.phase.is_alive())
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

    pub(super) fn set_paused(&self, paused: bool) -> Result<()> {
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
        locked.save()?;
        locked.tell(if paused { "pause" } else { "unpause" }, &[]);
        Ok(())
    }
}

/// The signal that asks a container to end: its own, or else the image's.
fn stop_signal(locked: &Locked<'_>) -> Result<Signal> {
    let of_image = || {
        let image = launch::image_of(locked).ok()?;
        image.config().spec().config().as_ref()?.stop_signal().clone()
    };
    let own = locked.identity.config.stop_signal.clone();
    let signal = own.or_else(of_image).filter(|it| !it.is_empty());
    signal.map_or(Ok(Signal::TERM), |signal| signal.parse())
}
