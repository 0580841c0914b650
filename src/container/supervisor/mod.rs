//! The thread that looks after the containers which this process has started: reads what they write, notes how they
//! end, and starts them anew.

mod client;
mod door;
mod health;
mod lock_attempt;
mod memory;
mod poller;
mod scratch;
mod supervision;
mod task;
mod visitors;

use std::collections::VecDeque;
use std::fmt;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::EpollFlags;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::{getpid, gettid};

use self::door::Door;
pub(super) use self::door::knock;
use self::poller::{Poller, WAKE};
pub(super) use self::supervision::Supervision;
use super::container::Container;
use super::files::{self, Held};
use super::home::Home;
use super::id::ContainerId;
use super::launch::{Launch, Launched};
use super::process::ProcessId;
use super::wait::Alert;
use crate::error::{Context, Error, ErrorKind, Result};

/// How other threads talk to it.
///
/// It lives as long as a handle of the engine or a container that it looks after. The kernel kills the containers when
/// the thread ends, and it ends with the process.
#[derive(Debug)]
pub(super) struct Supervisor {
    orders: Mutex<VecDeque<Order>>,
    wake: EventFd,
    poller: Arc<Poller>,
    pub(super) identity: ProcessId,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Tells, by being locked, that this process lives.
    mark: PathBuf,
    _alive: Held,
}

/// What the thread is asked to do.
#[derive(Debug)]
enum Order {
    Start(Box<Start>),
    /// Does something meanwhile for who is to start a container.
    Work(Job),
    /// Hands it a client of a container.
    Attach {
        id: ContainerId,
        socket: OwnedFd,
        reply: SyncSender<Result<()>>,
    },
    /// Looks after the end of a process that was executed in a container.
    Watch {
        id: ContainerId,
        pidfd: OwnedFd,
    },
    /// Wakes a task.
    Alert {
        alert: Weak<Alert>,
        when: When,
    },
    /// Some of those tasks do not wait any more.
    ForgetAlerts,
    /// The lock of a container that has ended is free.
    LookAgain {
        id: ContainerId,
    },
    Quit,
}

/// When a task is to be woken.
#[derive(Debug)]
pub(super) enum When {
    /// When the process of this pidfd has ended.
    Ended(OwnedFd),
    After(Duration),
}

/// A container to start.
#[derive(Debug)]
struct Start {
    container: Container,
    first: First,
    clients: Vec<OwnedFd>,
    reply: SyncSender<Result<ProcessId>>,
}

/// The first process of a container.
#[derive(Debug)]
enum First {
    /// For the thread to spawn.
    Prepared(Box<Launch>),
    Spawned(Box<Launched>),
}

impl Supervisor {
    /// With a thread of its own.
    pub(super) fn start(home: &Arc<Home>) -> Result<Arc<Self>> {
        let attempt = || "start the thread that looks after containers";
        let (supervisor, supervision) = Self::open(home).context(attempt)?;
        let thread = std::thread::Builder::new().name("coracle".into()).stack_size(256 << 10);
        let thread = thread.spawn(move || supervision.run()).context(attempt)?;
        *supervisor.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(supervisor)
    }

    /// For the calling thread to [run](Supervision::run).
    pub(super) fn open(home: &Arc<Home>) -> Result<(Arc<Self>, Supervision)> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let identity = ProcessId::myself()?;
        let name = format!("{identity}-{}", COUNTER.fetch_add(1, Ordering::Relaxed));
        let mark = home.path("supervisors").join(&name);
        let alive = claim(&mark)?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = EventFd::from_flags(flags).context(|| "eventfd")?;
        let door = Door::open(home.path("sockets").join(&name))?;
        let poller = Arc::new(Poller::new()?);
        let supervisor = Arc::new(Self {
            orders: Mutex::default(),
            wake,
            poller,
            identity,
            thread: Mutex::default(),
            mark,
            _alive: alive,
        });
        let supervision = Supervision::new(supervisor.clone(), door)?;
        Ok((supervisor, supervision))
    }

    /// Starts a container. Returns its first process.
    ///
    /// The kernel kills that when the thread ends which has spawned it. The first thread of a process spawns it itself, and
    /// need not wait until this one awakes.
    pub(super) fn launch(
        &self,
        container: &Container,
        launch: Launch,
        clients: Vec<OwnedFd>,
    ) -> Result<ProcessId> {
        let (reply, answer) = sync_channel(1);
        let container = container.clone();
        let first = match on_first_thread() {
            true => First::Spawned(Box::new(launch.spawn()?)),
            false => First::Prepared(Box::new(launch)),
        };
        self.order(Order::Start(Box::new(Start { container, first, clients, reply })))?;
        answer.recv().unwrap_or_else(|_| Err(gone()))
    }

    /// Does something in this thread.
    pub(super) fn work(&self, job: Job) -> Result<()> {
        self.order(Order::Work(job))
    }

    /// Attaches a client to a container that this thread looks after.
    pub(super) fn attach(&self, id: &ContainerId, socket: OwnedFd) -> Result<()> {
        let (reply, answer) = sync_channel(1);
        self.order(Order::Attach { id: id.clone(), socket, reply })?;
        answer.recv().unwrap_or_else(|_| Err(gone()))
    }

    /// Has the process reaped that was executed in a container, when it ends.
    pub(super) fn watch(&self, id: &ContainerId, pidfd: impl AsFd) -> Result<()> {
        let pidfd = pidfd.as_fd().try_clone_to_owned().context(|| "duplicate a pidfd")?;
        // It is not woken for this, but by the end of the process, if nothing else has woken it before.
        self.poller.watch_once(&pidfd, EpollFlags::EPOLLIN, WAKE);
        self.push(Order::Watch { id: id.clone(), pidfd });
        Ok(())
    }

    /// Has a task woken.
    pub(super) fn alert(&self, alert: Weak<Alert>, when: When) -> Result<()> {
        self.order(Order::Alert { alert, when })
    }

    /// Lets go of the alerts of tasks that do not wait any more.
    pub(super) fn forget_alerts(&self) -> Result<()> {
        self.order(Order::ForgetAlerts)
    }

    /// Has the end of a container written down, whose lock was not free.
    pub(super) fn look_again(&self, id: &ContainerId) -> Result<()> {
        self.order(Order::LookAgain { id: id.clone() })
    }

    /// Ends the thread, which looks after no container any more.
    pub(super) fn quit(&self) {
        let _ = self.order(Order::Quit);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The last handle may be one that the thread itself had.
        if let Some(thread) = thread.filter(|it| it.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }

    fn push(&self, order: Order) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).push_back(order);
    }

    fn order(&self, order: Order) -> Result<()> {
        self.push(order);
        self.wake.write(1).map(drop).context(|| "wake the thread that looks after containers")
    }

    fn next_order(&self) -> Option<Order> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.mark);
    }
}

/// Whether the caller is the first thread of the process: one that lasts as long as that. What it starts, it can start itself,
/// and leave to the thread of the supervisor what can be done meanwhile; of others there may be many at once, and that
/// thread has enough to do.
pub(super) fn on_first_thread() -> bool {
    gettid() == getpid()
}

/// Something to be done in another thread.
pub(super) struct Job(Box<dyn FnOnce() + Send>);

impl Job {
    pub(super) fn new(job: impl FnOnce() + Send + 'static) -> Self {
        Self(Box::new(job))
    }

    fn run(self) {
        (self.0)();
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Job")
    }
}

/// Makes the file of a process that looks after containers, and locks it. Who puts things in order at this very moment may
/// take it for a dead one's in between, and remove it.
fn claim(mark: &Path) -> Result<Held> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let until = Instant::now() + PATIENCE;
    loop {
        match files::try_lock(mark)? {
            Some(held) if held.is_at(mark) => return Ok(held),
            _ if Instant::now() > until => {
                return Err(Error::new(ErrorKind::Busy, format!("{} is locked", mark.display())));
            }
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::InvalidState, "the thread that looks after containers has ended")
}

pub(super) fn set_nonblocking(fd: impl AsFd) -> Result<()> {
    let attempt = || "make a descriptor non-blocking";
    let flags = fcntl(&fd, FcntlArg::F_GETFL).context(attempt)?;
    let flags = OFlag::from_bits_truncate(flags) | OFlag::O_NONBLOCK;
    fcntl(&fd, FcntlArg::F_SETFL(flags)).map(drop).context(attempt)
}
