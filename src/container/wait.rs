//! Waiting for the end of a container, in a thread or in a task.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::config::Config;
use super::container::Container;
use super::running::Running;
use super::state::{Exit, Phase};
use super::supervisor::When;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::namespaces::ExitStatus;
use crate::sys;

/// How soon it is looked again whether the supervisor of a process that is gone has written that down.
const SOON: Duration = Duration::from_millis(2);
/// How soon it is looked again at one that waits to be started anew.
const LATER: Duration = Duration::from_millis(50);

impl Container {
    /// Waits until it has ended, and is not to be started anew. At once if it does not run.
    ///
    /// # Errors
    ///
    /// `NotFound` if it has been removed, unless this process has started it; `InvalidState` if it has never run.
    pub fn wait(&self) -> Result<ExitStatus> {
        self.wait_for(None).context(|| self.says("wait for"))?.ok_or_else(|| {
            Error::new(ErrorKind::TimedOut, "the time is up").context(self.says("wait for"))
        })
    }

    /// [`wait`](Self::wait), but no longer than `timeout`: `None` if it still runs.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<ExitStatus>> {
        self.wait_for(Some(timeout)).context(|| self.says("wait for"))
    }

    /// [`wait`](Self::wait) for tasks, under any executor: `let status = web.exited().await?`.
    ///
    /// The engine's thread wakes the task. Dropping the future gives up waiting, and does nothing to the container.
    ///
    /// ```no_run
    /// # async fn example() -> coracle::Result<()> {
    /// let engine = coracle::Engine::open_default()?;
    /// let job = engine.container("debian:12").command(["make"]).start()?;
    /// println!("it ended: {}", job.exited().await?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn exited(&self) -> Exited {
        Exited { end: End::of(self), alert: Arc::default(), elsewhere: false }
    }

    fn wait_for(&self, timeout: Option<Duration>) -> Result<Option<ExitStatus>> {
        const REFRESH: Duration = Duration::from_millis(500);
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let end = End::of(self);
        loop {
            let prospect = match end.look()? {
                Prospect::Ended(status) => return Ok(Some(status)),
                prospect => prospect,
            };
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            let patience = left.unwrap_or(REFRESH).min(REFRESH);
            match prospect {
                Prospect::Ended(_) => {}
                Prospect::Here(running) => running.wait_until_recorded(patience),
                Prospect::Elsewhere(pidfd) => {
                    sys::wait::poll(&pidfd, Some(patience)).context(|| "wait for its end")?;
                }
                Prospect::Later(pause) => std::thread::sleep(patience.min(pause)),
            }
        }
    }
}

/// The end of a container, for a task to wait for: see [`Container::exited`].
#[derive(Debug)]
#[must_use = "it does nothing until it is awaited"]
pub struct Exited {
    end: End,
    alert: Arc<Alert>,
    /// The engine's thread was asked to look at a process that it does not look after.
    elsewhere: bool,
}

impl Future for Exited {
    type Output = Result<ExitStatus>;

    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let polled = self.try_poll(context);
        polled.map(|status| status.context(|| self.end.container.says("wait for")))
    }
}

impl Exited {
    fn try_poll(&mut self, context: &mut std::task::Context<'_>) -> Poll<Result<ExitStatus>> {
        let container = self.end.container.clone();
        // Before it looks: what comes in between wakes it.
        if self.alert.serve(context.waker()) {
            container.home.roster().alert_at_end(&container.id, &self.alert);
        }
        let when = match self.end.look()? {
            Prospect::Ended(status) => return Poll::Ready(Ok(status)),
            Prospect::Here(_) => return Poll::Pending,
            // The engine's thread has it to do already.
            _ if !self.alert.arm() => return Poll::Pending,
            Prospect::Elsewhere(pidfd) => When::Ended(pidfd),
            Prospect::Later(pause) => When::After(pause),
        };
        self.elsewhere = true;
        container.home.supervisor()?.alert(Arc::downgrade(&self.alert), when)?;
        Poll::Pending
    }
}

impl Drop for Exited {
    fn drop(&mut self) {
        if self.elsewhere {
            self.alert = Arc::default();
            let _ = self.end.container.home.supervisor().and_then(|it| it.forget_alerts());
        }
    }
}

/// Wakes a task.
#[derive(Debug, Default)]
pub(super) struct Alert {
    waker: Mutex<Option<Waker>>,
    /// The engine's thread has it to do.
    armed: AtomicBool,
}

impl Alert {
    /// Wakes this task from now on. True: it had none before.
    fn serve(&self, waker: &Waker) -> bool {
        let mut mine = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        mine.replace(waker.clone()).is_none()
    }

    /// False: it was already.
    fn arm(&self) -> bool {
        !self.armed.swap(true, Ordering::AcqRel)
    }

    pub(super) fn wake(&self) {
        self.armed.store(false, Ordering::Release);
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// What one waits for, with what is known of it even when the container is gone.
#[derive(Debug)]
struct End {
    container: Container,
    started: Option<Arc<OnceLock<Exit>>>,
    config: Config,
}

/// How to go on waiting.
enum Prospect {
    Ended(ExitStatus),
    /// This process's supervisor tells.
    Here(Arc<Running>),
    /// When this process has ended.
    Elsewhere(OwnedFd),
    /// It changes within a moment, or is to be started anew.
    Later(Duration),
}

impl End {
    fn of(container: &Container) -> Self {
        let started = container.started.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let here = || Some(container.home.running_here(&container.id)?.exit.clone());
        Self {
            started: started.or_else(here),
            config: container.config().unwrap_or_default(),
            container: container.clone(),
        }
    }

    fn look(&self) -> Result<Prospect> {
        let container = &self.container;
        let status = match container.status() {
            Err(err) if err.kind() == ErrorKind::NotFound => {
                // It goes with its end, and this process's supervisor is at it still.
                if let Some(running) = container.home.running_here(&container.id) {
                    return Ok(Prospect::Here(running));
                }
                let ended = self.started.as_ref().and_then(|exit| exit.get());
                return ended.map(|it| Prospect::Ended(it.status(&self.config))).ok_or(err);
            }
            other => other?,
        };
        if !matches!(status.phase, Phase::Running | Phase::Paused | Phase::Restarting) {
            let never = || Error::new(ErrorKind::InvalidState, "it has never run");
            return status.exit.map(Prospect::Ended).ok_or_else(never);
        }
        if let Some(running) = container.home.running_here(&container.id) {
            return Ok(Prospect::Here(running));
        }
        let record = container.home.record(&container.id).ok();
        let process = record.map_or(Ok(None), |record| record.open_process())?;
        let pause = if status.phase == Phase::Restarting { LATER } else { SOON };
        Ok(process.map_or(Prospect::Later(pause), Prospect::Elsewhere))
    }
}
