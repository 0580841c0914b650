//! Asking containers whether they are well: by processes in them, one at a time, and alarms.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::epoll::EpollFlags;

use super::super::container::Container;
use super::super::files::{self, Durable};
use super::super::health::{Health, HealthCheck, HealthRecord, Probe};
use super::super::running::Running;
use super::super::state::{Phase, VERSION};
use super::lock_attempt::LockAttempt;
use super::poller::{Poller, Token};
use super::set_nonblocking;
use super::supervision::{Alarm, Supervision};
use super::task::{Slot, Task};
use crate::error::{Context, Result};
use crate::namespaces::{Child, Command, ExitStatus, Signal, Stdio};

/// What is kept of what a probe writes, in bytes.
const KEPT: usize = 4 << 10;
/// What is read at once.
const CHUNK: usize = 64 << 10;
/// Who was killed may have been so by the end of the container, which comes to light within this time.
const DOUBT: Duration = Duration::from_millis(250);

/// Asks one container.
#[derive(Debug)]
pub(super) struct Prober {
    check: HealthCheck,
    command: Command,
    since: Instant,
    health: Health,
    asking: Option<Asking>,
    /// How many were begun.
    count: u32,
}

/// A probe that runs.
#[derive(Debug)]
struct Asking {
    child: Child,
    output: Option<io::PipeReader>,
    kept: Vec<u8>,
    started: SystemTime,
    /// It was killed for taking too long.
    late: bool,
}

impl Prober {
    pub(super) fn new(check: HealthCheck, command: Command) -> Self {
        let health = Health::default();
        Self { check, command, since: Instant::now(), health, asking: None, count: 0 }
    }

    fn is_start(&self) -> bool {
        self.check.is_start(&self.health, self.since.elapsed())
    }

    fn begin(
        &mut self,
        running: &Running,
        poller: &Poller,
        token: impl Fn(Slot) -> Token,
    ) -> Result<()> {
        let (output, writer) = io::pipe().context(|| "make a pipe")?;
        set_nonblocking(&output)?;
        let second = writer.try_clone().context(|| "duplicate a pipe")?;
        let mut command = self.command.clone();
        command.stdin(Stdio::null()).stdout(OwnedFd::from(writer)).stderr(OwnedFd::from(second));
        let started = SystemTime::now();
        let child = running.exec(&mut command)?;
        poller.add(&child, EpollFlags::EPOLLIN, token(Slot::Probe))?;
        poller.add(&output, EpollFlags::EPOLLIN, token(Slot::ProbeOutput))?;
        let output = Some(output);
        self.asking = Some(Asking { child, output, kept: Vec::new(), started, late: false });
        self.count = self.count.wrapping_add(1);
        Ok(())
    }

    /// Takes a result. True: the status has changed.
    fn judge(&mut self, started: SystemTime, exit_code: i32, output: String) -> bool {
        let is_start = self.is_start();
        let probe = Probe { started, ended: SystemTime::now(), exit_code, output };
        self.check.judge(&mut self.health, probe, is_start)
    }

    /// Lets go of a probe, as its container has ended.
    pub(super) fn end(&mut self, poller: &Poller) {
        if let Some(asking) = self.asking.take() {
            asking.unwatch(poller);
        }
    }
}

impl Asking {
    fn unwatch(&self, poller: &Poller) {
        poller.remove(&self.child);
        self.output.iter().for_each(|output| poller.remove(output));
    }

    /// Reads once. False: there is nothing now.
    fn read(&mut self, poller: &Poller, buffer: &mut [u8]) -> bool {
        let Some(output) = &mut self.output else { return false };
        match output.read(&mut buffer[..CHUNK]) {
            Err(err) if err.kind() == io::ErrorKind::Interrupted => true,
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => false,
            Ok(0) | Err(_) => {
                poller.remove(&*output);
                self.output = None;
                false
            }
            Ok(length) => {
                self.kept.extend_from_slice(&buffer[length.saturating_sub(KEPT)..length]);
                let excess = self.kept.len().saturating_sub(KEPT);
                self.kept.drain(..excess);
                true
            }
        }
    }
}

impl Task {
    fn ask(&mut self, poller: &Poller) -> Result<()> {
        let (running, number) = (self.running.clone(), self.number);
        match &mut self.prober {
            Some(prober) => prober.begin(&running, poller, |slot| Token { task: number, slot }),
            None => Ok(()),
        }
    }
}

impl Supervision {
    /// Begins to ask a container that has just been started.
    pub(super) fn begin_probing(&mut self, number: u32) {
        let Some(Task { container, prober: Some(prober), .. }) = self.tasks.get(&number) else {
            return;
        };
        save(container, &prober.health);
        let pause = prober.check.pause(prober.is_start());
        self.alarm(pause, Alarm::Probe(number));
    }

    /// It is time to ask.
    pub(super) fn probe(&mut self, number: u32) {
        let Some(task) = self.tasks.get_mut(&number) else { return };
        let Some(prober) = task.prober.as_ref().filter(|it| it.asking.is_none()) else { return };
        let (pause, limit) = (prober.check.pause(prober.is_start()), prober.check.time_limit());
        let (container, started) = (task.container.clone(), SystemTime::now());
        // Under the lock nobody lets it stand still, and this thread with it.
        let asked = match LockAttempt::lock(&container) {
            LockAttempt::Later(later) => return self.alarm(later, Alarm::Probe(number)),
            LockAttempt::Locked(locked) if locked.record.phase == Phase::Running => {
                task.ask(&self.poller)
            }
            LockAttempt::Locked(_) => return self.alarm(pause, Alarm::Probe(number)),
            LockAttempt::Gone => return,
        };
        let count = task.prober.as_ref().map_or(0, |it| it.count);
        match asked {
            Ok(()) => self.alarm(limit, Alarm::ProbeIsLate(number, count)),
            Err(err) => self.conclude(number, started, -1, format!("{err:#}")),
        }
    }

    fn asking(&mut self, number: u32) -> Option<&mut Asking> {
        self.tasks.get_mut(&number)?.prober.as_mut()?.asking.as_mut()
    }

    /// A probe has had the time that it may take.
    pub(super) fn probe_is_late(&mut self, number: u32, count: u32) {
        let Some(task) = self.tasks.get_mut(&number) else { return };
        let Some(prober) = task.prober.as_mut().filter(|it| it.count == count) else { return };
        let limit = prober.check.time_limit();
        let Some(asking) = &mut prober.asking else { return };
        let record = task.container.home().record(task.container.id());
        if record.is_ok_and(|record| record.phase == Phase::Paused) {
            // It stands still, and so does its time.
            return self.alarm(limit, Alarm::ProbeIsLate(number, count));
        }
        if matches!(asking.child.try_wait(), Ok(None)) {
            asking.late = true;
            let _ = asking.child.kill();
        }
    }

    /// A probe has written something, or ended.
    pub(super) fn probe_ready(&mut self, number: u32, slot: Slot) {
        let mut buffer = std::mem::take(&mut self.scratch.buffer);
        let task = self.tasks.get_mut(&number);
        if let Some(Task { prober: Some(prober), .. }) = task
            && let Some(asking) = &mut prober.asking
        {
            match slot {
                Slot::ProbeOutput => {
                    asking.read(&self.poller, &mut buffer);
                }
                _ => self.probe_ended(number, false, &mut buffer),
            }
        }
        self.scratch.buffer = buffer;
    }

    /// A probe was killed a while ago, and its container has not ended since.
    pub(super) fn probe_was_killed(&mut self, number: u32) {
        let mut buffer = std::mem::take(&mut self.scratch.buffer);
        self.probe_ended(number, true, &mut buffer);
        self.scratch.buffer = buffer;
    }

    fn probe_ended(&mut self, number: u32, sure: bool, buffer: &mut [u8]) {
        /// Who else has its output open cannot keep this from ending.
        const MOST: usize = 64;
        let Some(asking) = self.asking(number) else { return };
        let status = match asking.child.try_wait() {
            Ok(None) => return,
            Ok(Some(status)) => Some(status),
            Err(_) => None,
        };
        let killed = status.as_ref().and_then(ExitStatus::signal) == Some(Signal::KILL);
        if killed && !asking.late && !sure {
            let child = asking.child.as_fd().try_clone_to_owned();
            child.iter().for_each(|child| self.poller.remove(child));
            return self.alarm(DOUBT, Alarm::ProbeWasKilled(number));
        }
        let Some(task) = self.tasks.get_mut(&number) else { return };
        let Some(mut asking) = task.prober.as_mut().and_then(|it| it.asking.take()) else { return };
        for _ in 0..MOST {
            if !asking.read(&self.poller, buffer) {
                break;
            }
        }
        asking.unwatch(&self.poller);
        let mut output = String::from_utf8_lossy(&asking.kept).into_owned();
        let mut exit_code = status.map_or(-1, |status| status.shell_code());
        if asking.late {
            exit_code = -1;
            let limit = task.prober.as_ref().map(|it| it.check.time_limit()).unwrap_or_default();
            output = format!("Health check exceeded timeout ({limit:?}): {output}");
        }
        self.conclude(number, asking.started, exit_code, output);
    }

    /// Notes a result, tells if it changes anything, and sees to the next.
    fn conclude(&mut self, number: u32, started: SystemTime, exit_code: i32, output: String) {
        let Some(Task { container, prober: Some(prober), .. }) = self.tasks.get_mut(&number) else {
            return;
        };
        let changed = prober.judge(started, exit_code, output);
        save(container, &prober.health);
        if changed {
            let action = format!("health_status: {}", prober.health.status);
            container.home().tell_of(container.id(), &action, &[]);
        }
        let pause = prober.check.pause(prober.is_start());
        self.alarm(pause, Alarm::Probe(number));
    }
}

/// Writes down what is known of a container's health. Nobody else does, so this takes no lock; and the next result makes up for a
/// failure.
fn save(container: &Container, health: &Health) {
    let path = container.home().health_file(container.id());
    let record = HealthRecord { version: VERSION, health: health.clone() };
    let _ = files::write_json(&path, &record, Durable::No);
}
