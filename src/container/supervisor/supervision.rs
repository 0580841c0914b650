//! What the thread does.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};

use super::super::attach::{LIMITS, REQUEST};
use super::super::container::Container;
use super::super::id::ContainerId;
use super::super::launch::Launched;
use super::super::locked::Locked;
use super::super::process::ProcessId;
use super::super::remove;
use super::super::running::Running;
use super::super::state::{Exit, Phase};
use super::super::wait::Alert;
use super::client::Client;
use super::door::Door;
use super::health::Prober;
use super::lock_attempt::{LockAttempt, RETRY, RETRY_FULL, RETRY_SHORT, is_short};
use super::poller::{DOOR, Poller, Token, WAKE};
use super::scratch::Scratch;
use super::task::{Slot, Task};
use super::visitors::{self, Visitors};
use super::{First, Order, Start, Supervisor, When};
use crate::cgroups::Cgroup;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::namespaces::{Seccomp, TerminalSize};

/// How long a container waits for somebody who is attached and does not read.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one who is attached may take for the rest when it has ended: a pager, perhaps, that somebody reads.
const FAREWELL: Duration = Duration::from_secs(600);
/// The first pause before a container is started anew; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Who has run so long begins with the first pause again.
const WELL: Duration = Duration::from_secs(10);

/// What is to be done at a time.
#[derive(Debug)]
pub(super) enum Alarm {
    /// A container has ended, which could not be written down.
    Record(u32, Exit),
    /// It has waited long enough for those who are attached.
    Unchoke(u32),
    /// A client has had long enough to take the rest.
    Leave(u32),
    /// It is to be started anew.
    Restart(Container, u32),
    Wake(Weak<Alert>),
    /// Who has knocked could not be let in.
    Knocked,
    /// It is to be asked whether it is well.
    Probe(u32),
    /// The probe with this number has had the time that it may take.
    ProbeIsLate(u32, u32),
    /// Its probe was killed a while ago.
    ProbeWasKilled(u32),
    /// Somebody may be killed for want of memory, of which this was the so-manieth notice; and when to look again.
    LookForKilled(u32, u32, Duration),
}

impl Alarm {
    fn is_for_a_container(&self) -> bool {
        matches!(self, Self::Record(..) | Self::Restart(..))
    }
}

pub(in crate::container) struct Supervision {
    pub(super) poller: Arc<Poller>,
    pub(super) tasks: HashMap<u32, Task>,
    visitors: Visitors,
    alarms: BTreeMap<(Instant, u64), Alarm>,
    next: u32,
    next_alarm: u64,
    pub(super) scratch: Scratch,
    /// Goes last: by its mark others find what else is left of a process.
    supervisor: Arc<Supervisor>,
}

impl Supervision {
    pub(super) fn new(supervisor: Arc<Supervisor>, door: Door) -> Result<Self> {
        let poller = supervisor.poller.clone();
        poller.add(supervisor.wake.as_fd(), EpollFlags::EPOLLIN, WAKE)?;
        Ok(Self {
            visitors: Visitors::new(door, &poller)?,
            poller,
            tasks: HashMap::new(),
            alarms: BTreeMap::new(),
            next: 0,
            next_alarm: 0,
            scratch: Scratch::new(),
            supervisor,
        })
    }

    /// Until it is told to quit.
    pub(super) fn run(mut self) {
        // Meanwhile, its files are prepared by whoever starts the first container.
        Seccomp::warm_up();
        while self.turn() {}
    }

    /// Until there is no container any more to look after.
    pub(in crate::container) fn run_until_idle(mut self) {
        while self.is_needed() && self.turn() {}
    }

    fn is_needed(&self) -> bool {
        !self.tasks.is_empty()
            || self.visitors.are_leaving()
            || self.alarms.values().any(Alarm::is_for_a_container)
    }

    /// Waits for something to happen, and sees to it. False: it is to end.
    fn turn(&mut self) -> bool {
        let mut events = [EpollEvent::empty(); 64];
        let count = match self.poller.wait(&mut events, self.timeout()) {
            Err(Errno::EINTR) => 0,
            // The descriptor is this thread's own: nothing can go wrong with it.
            Err(_) => return false,
            Ok(count) => count,
        };
        if count == 0 {
            self.scratch.give_back();
        }
        for event in &events[..count] {
            let token = Token::of(event.data());
            match token {
                WAKE => {
                    let _ = self.supervisor.wake.read();
                    if !self.orders() {
                        return false;
                    }
                }
                DOOR => self.answer_the_door(),
                Token { task: 0, slot: Slot::Client(number) } => self.listen_to(number),
                Token { task: 0, slot } => self.visitors.ready(slot, &self.poller),
                _ => self.ready(token, event.events()),
            }
        }
        self.alarms_due();
        true
    }

    fn timeout(&self) -> EpollTimeout {
        let alarm = self.alarms.first_key_value();
        let alarm = alarm.map(|((at, _), _)| at.saturating_duration_since(Instant::now()));
        let Some(left) = alarm.into_iter().chain(self.scratch.patience()).min() else {
            return EpollTimeout::NONE;
        };
        // Rounded up, so that it is time when it wakes.
        EpollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(EpollTimeout::MAX)
    }

    pub(super) fn alarm(&mut self, after: Duration, alarm: Alarm) {
        self.next_alarm += 1;
        self.alarms.insert((Instant::now() + after, self.next_alarm), alarm);
    }

    fn alarms_due(&mut self) {
        while let Some(first) = self.alarms.first_entry() {
            if first.key().0 > Instant::now() {
                return;
            }
            match first.remove() {
                Alarm::Record(task, exit) => self.record(task, exit),
                Alarm::Unchoke(number) => {
                    if let Some(task) = self.tasks.get_mut(&number)
                        && task.choked.is_some_and(|since| since.elapsed() >= PATIENCE)
                    {
                        task.unchoke(&self.poller);
                    }
                }
                Alarm::Leave(number) => self.visitors.leave(number, &self.poller),
                Alarm::Restart(container, restarts) => self.restart(&container, restarts),
                Alarm::Wake(alert) => visitors::wake(&alert),
                Alarm::Knocked => self.answer_the_door(),
                Alarm::Probe(task) => self.probe(task),
                Alarm::ProbeIsLate(task, probe) => self.probe_is_late(task, probe),
                Alarm::ProbeWasKilled(task) => self.probe_was_killed(task),
                Alarm::LookForKilled(task, notice, pause) => {
                    self.look_for_killed(task, notice, pause);
                }
            }
        }
    }

    /// False: the thread is to end.
    fn orders(&mut self) -> bool {
        while let Some(order) = self.supervisor.next_order() {
            match order {
                Order::Quit => return false,
                Order::Work(job) => job.run(),
                Order::Start(start) => {
                    let Start { container, first, clients, reply } = *start;
                    let launched = match first {
                        First::Prepared(launch) => launch.spawn(),
                        First::Spawned(launched) => Ok(*launched),
                    };
                    let started =
                        launched.and_then(|it| self.look_after_new(&container, it, clients));
                    // Whoever asked may own the last handle: let him be the last.
                    drop(container);
                    let _ = reply.send(started);
                }
                Order::Attach { id, socket, reply } => self.attach(&id, socket, &reply),
                Order::Alert { alert, when: When::After(pause) } => {
                    self.alarm(pause, Alarm::Wake(alert));
                }
                Order::Alert { alert, when: When::Ended(pidfd) } => {
                    if let Err(alert) = self.visitors.alert(pidfd, alert, &self.poller) {
                        // It looks again.
                        self.alarm(RETRY, Alarm::Wake(alert));
                    }
                }
                Order::LookAgain { id } => self.record_waiting(&id),
                Order::ForgetAlerts => self.visitors.forget_alerts(&self.poller),
                Order::Watch { id, pidfd } => {
                    match self.task_of(&id).and_then(|number| self.tasks.get_mut(&number)) {
                        Some(task) => task.add_guest(pidfd, &self.poller),
                        None => self.poller.remove(&pidfd),
                    }
                }
            }
        }
        true
    }

    fn task_of(&self, id: &ContainerId) -> Option<u32> {
        let found = self.tasks.iter().find(|(_, task)| task.container.id() == id);
        found.map(|(number, _)| *number)
    }

    fn attach(&mut self, id: &ContainerId, socket: OwnedFd, reply: &SyncSender<Result<()>>) {
        let task = self.task_of(id).and_then(|number| self.tasks.get_mut(&number));
        let _ = reply.send(match task {
            Some(task) => task.add_client(socket, &self.poller),
            None => Err(Error::new(ErrorKind::InvalidState, "the container has ended")),
        });
    }

    fn look_after_new(
        &mut self,
        container: &Container,
        launched: Launched,
        clients: Vec<OwnedFd>,
    ) -> Result<ProcessId> {
        let Launched { child, cgroup, oom, config, rootfs, log, health } = launched;
        let process = ProcessId::of(child.id().cast_signed())?;
        self.next = self.next.wrapping_add(1).max(1);
        let number = self.next;
        let pidfd = child.as_fd().try_clone_to_owned().context(|| "duplicate a pidfd")?;
        let mut task = Task::new(number, container.clone(), &config, log, child, |child| {
            Arc::new(Running::new(child, pidfd, cgroup.map(Cgroup::keep), rootfs))
        })?;
        task.prober = health.map(|(check, command)| Box::new(Prober::new(check, command)));
        task.memory.watch(oom, &self.poller, task.token(Slot::Memory))?;
        for client in clients {
            task.add_client(client, &self.poller)?;
        }
        task.watch(&self.poller)?;
        container.home().roster().add(container.id(), &task.running);
        self.tasks.insert(number, task);
        self.begin_probing(number);
        Ok(process)
    }

    fn ready(&mut self, token: Token, flags: EpollFlags) {
        let Some(task) = self.tasks.get_mut(&token.task) else { return };
        let was_choked = task.choked.is_some();
        task.ready(token.slot, flags, &mut self.scratch, &self.poller);
        if task.choked.is_some() && !was_choked {
            self.alarm(PATIENCE, Alarm::Unchoke(token.task));
        }
        if matches!(token.slot, Slot::Process | Slot::Guest(_) | Slot::Probe) {
            self.look_after(token.task);
        }
        if matches!(token.slot, Slot::Probe | Slot::ProbeOutput) {
            self.probe_ready(token.task, token.slot);
        }
        if token.slot == Slot::Memory {
            self.memory_ran_out(token.task);
        }
    }

    fn answer_the_door(&mut self) {
        if !self.visitors.answer_the_door(&self.poller) {
            self.alarm(RETRY_SHORT, Alarm::Knocked);
        }
    }

    /// Asks whether it has ended.
    fn look_after(&mut self, number: u32) {
        let Some(task) = self.tasks.get_mut(&number) else { return };
        let exit = match task.running.try_wait() {
            Ok(None) => return,
            Ok(Some(status)) => Exit::of(&status),
            // The host reaps all children, and this kernel cannot tell any more.
            Err(_) => Exit { status: 255 << 8, out_of_memory: false },
        };
        self.poller.remove(&*task.running);
        task.drain(&mut self.scratch, &self.poller);
        for client in task.end(exit, &self.poller) {
            self.see_off(client);
        }
        self.record(number, exit);
    }

    /// Writes down that it has ended, and does what is to be done then.
    fn record(&mut self, number: u32, mut exit: Exit) {
        let Some(task) = self.tasks.get_mut(&number) else { return };
        let container = task.container.clone();
        let locked = match LockAttempt::lock(&container) {
            LockAttempt::Later(_) => {
                task.running.want_lock();
                LockAttempt::lock(&container)
            }
            other => other,
        };
        let struck_out = match locked {
            LockAttempt::Later(pause) => return self.alarm(pause, Alarm::Record(number, exit)),
            LockAttempt::Locked(mut locked) => {
                let running = task.running.clone();
                // Or it has been here before, and could not be written down.
                if running.exit.get().is_none() {
                    if running.oom_kills() > task.memory.told {
                        task.memory.ran_out = true;
                        locked.ran_out_of_memory();
                    }
                    // Whoever was killed before, it was ended by somebody's SIGKILL.
                    exit.out_of_memory &= !locked.record.stopping;
                    // The processes first, then what they used.
                    let _ = running.exit.set(exit);
                    running.end();
                    locked.tell_end(exit);
                }
                // On a full disk it could not be written down when it happened.
                locked.record.out_of_memory |= task.memory.ran_out;
                if !task.close_log() {
                    return self.alarm(RETRY_SHORT, Alarm::Record(number, exit));
                }
                let restart = locked.is_to_be_restarted(exit);
                if task.since.elapsed() >= WELL {
                    locked.record.restarts = 0;
                }
                locked.record.ended(Some(exit), None);
                let restarts = locked.record.restarts;
                if restart {
                    self.note_restart(&mut locked);
                }
                let written = match locked.identity.config.remove && !restart {
                    true => remove::finish(&mut locked),
                    false => locked.save(),
                };
                if is_short(&written) {
                    return self.alarm(RETRY_FULL, Alarm::Record(number, exit));
                }
                // Where the disk fails, whoever opens it next finds the supervisor dead.
                self.tasks.remove(&number);
                if restart {
                    self.restart_later(&container, restarts);
                }
                // Under the lock: whoever takes it next finds nothing of it running.
                let struck_out = container.home().roster().remove(container.id());
                drop(locked);
                struck_out
            }
            LockAttempt::Gone => {
                if let Some(task) = self.tasks.remove(&number) {
                    let _ = task.running.exit.set(exit);
                    task.running.end();
                }
                container.home().roster().remove(container.id())
            }
        };
        let (roster, id) = (container.home().roster().clone(), container.id().clone());
        // Who waits may have the last handle then, and end this thread in good order.
        drop(container);
        roster.tell_end(&id, struck_out.as_deref());
    }

    /// Writes down an end that had to wait for the lock.
    fn record_waiting(&mut self, id: &ContainerId) {
        let Some(number) = self.task_of(id) else { return };
        let waiting = self.alarms.iter().find_map(|(at, alarm)| match alarm {
            Alarm::Record(task, exit) if *task == number => Some((*at, *exit)),
            _ => None,
        });
        if let Some((at, exit)) = waiting {
            self.alarms.remove(&at);
            self.record(number, exit);
        }
    }

    fn note_restart(&self, locked: &mut Locked<'_>) {
        locked.record.phase = Phase::Restarting;
        locked.record.supervisor = Some(self.supervisor.identity);
    }

    /// Lets some time pass first, the more the oftener it was.
    fn restart_later(&mut self, container: &Container, restarts: u32) {
        let pause = FIRST_PAUSE.saturating_mul(1 << restarts.min(10)).min(LONGEST_PAUSE);
        self.alarm(pause, Alarm::Restart(container.clone(), restarts));
    }

    fn restart(&mut self, container: &Container, restarts: u32) {
        let mut locked = match LockAttempt::lock(container) {
            LockAttempt::Locked(locked) => locked,
            LockAttempt::Later(pause) => {
                return self.alarm(pause, Alarm::Restart(container.clone(), restarts));
            }
            LockAttempt::Gone => return,
        };
        // Stopped, removed or started by hand meanwhile.
        if locked.record.phase != Phase::Restarting
            || locked.record.supervisor != Some(self.supervisor.identity)
        {
            return;
        }
        locked.record.restarts = restarts + 1;
        let started =
            self.begin_locked(container, &mut locked, TerminalSize::default(), Vec::new());
        if started.is_err() && locked.is_to_be_restarted(Exit::killed()) {
            self.note_restart(&mut locked);
            let _ = locked.save();
            self.restart_later(container, restarts + 1);
        }
    }

    /// Starts a container from this thread.
    pub(in crate::container) fn begin(
        &mut self,
        container: &Container,
        terminal: TerminalSize,
        clients: Vec<OwnedFd>,
    ) -> Result<()> {
        let mut locked = container.lock_to_start()?;
        if !clients.is_empty() {
            locked.tell("attach", &[]);
        }
        self.begin_locked(container, &mut locked, terminal, clients)
    }

    fn begin_locked(
        &mut self,
        container: &Container,
        locked: &mut Locked<'_>,
        terminal: TerminalSize,
        clients: Vec<OwnedFd>,
    ) -> Result<()> {
        let identity = self.supervisor.identity;
        locked.start(identity, terminal, None, |launch| {
            self.look_after_new(container, launch.spawn()?, clients)
        })
    }

    /// Has a client take the rest of what was written by a container that has ended.
    fn see_off(&mut self, client: Client) {
        if let Some(number) = self.visitors.see_off(client, &self.poller) {
            self.alarm(FAREWELL, Alarm::Leave(number));
        }
    }

    /// Hears what a caller wants: to be attached to a container, or to tell that its limits were changed.
    fn listen_to(&mut self, number: u32) {
        let request = self.visitors.request(number, &mut self.scratch.buffer, &self.poller);
        let Some((kind, id, mut caller)) = request else { return };
        let task = self.task_of(&id);
        if let (LIMITS, Some(number)) = (kind, task) {
            self.limits_changed(number);
        } else if let Some(task) = task.and_then(|number| self.tasks.get_mut(&number)) {
            caller.send(REQUEST, &[]);
            let _ = task.add_client(caller.into_socket(), &self.poller);
        }
        // Anybody else sees the connection end.
    }
}
