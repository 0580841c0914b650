//! A running process.

use std::fmt;
use std::io::{PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::exit_status::{Cause, ResourceUsage};
use super::guests::{Guest, Guests};
use super::seccomp::Listener;
use super::{Command, ExitStatus, Namespaces, Root, Signal, Stdio, Terminal, UserNamespace};
use crate::cgroups::Cgroup;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys;

/// A process that this crate started, held by its pidfd: it cannot be mistaken for another that got its
/// number.
///
/// **Dropping it kills the process**, with everything in its pid namespace and in the cgroup that its limits
/// made, and reaps it. [`detach`](Child::detach) lets it live on.
///
/// The fd of [`AsFd`] becomes readable when the process has ended, so an event loop can wait for it:
///
/// ```no_run
/// # async fn run() -> std::io::Result<()> {
/// use std::os::fd::AsFd;
///
/// use coracle::namespaces::Command;
/// use tokio::io::unix::AsyncFd;
///
/// let mut child = Command::new("sleep").arg("1").spawn()?;
/// let pidfd = child.as_fd().try_clone_to_owned()?;
/// // SAFETY: an OwnedFd names one open descriptor for as long as it lives. Before tokio 1.54: AsyncFd::new(pidfd).
/// let pidfd = unsafe { AsyncFd::register(pidfd) }?;
/// pidfd.readable().await?.retain_ready();
/// let status = child.try_wait()?.expect("it has ended");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Child {
    /// The writing end of standard input, if it was [`Stdio::piped`].
    pub stdin: Option<PipeWriter>,
    /// The reading end of standard output, if it was [`Stdio::piped`].
    pub stdout: Option<PipeReader>,
    /// The reading end of standard error, if it was [`Stdio::piped`].
    pub stderr: Option<PipeReader>,
    /// The host's side of the terminal, if [`Command::terminal`] asked for one.
    pub terminal: Option<Terminal>,
    /// Where the kernel asks for the answers to system calls, if the seccomp filter notifies.
    pub seccomp_listener: Option<Listener>,
    pub(super) process: Process,
}

/// What the handle keeps to control the process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) program: String,
    pub(super) status: Option<ExitStatus>,
    pub(super) deadline: Option<(Instant, Duration)>,
    pub(super) timed_out: bool,
    pub(super) cgroup: Option<OwnCgroup>,
    /// Keeps the id range taken while the process may live.
    pub(super) user_namespace: Option<UserNamespace>,
    /// The namespaces that are not the host's.
    pub(super) namespaces: Namespaces,
    pub(super) root: Option<Arc<OwnedFd>>,
    /// Keeps what a stack writes to from being given to another while the process may write.
    pub(super) _made_of: Root,
    pub(super) kill_on_drop: bool,
    /// Those executed in its namespaces, it included if it is one.
    pub(super) guests: Arc<Guests>,
    pub(super) guest: Option<Arc<Guest>>,
    pub(super) on_end: Option<OnEnd>,
}

/// Who is to be told how a process ended.
pub(super) struct OnEnd(pub(super) Box<dyn FnOnce(&ExitStatus) + Send + Sync>);

impl fmt::Debug for OnEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnEnd")
    }
}

/// The cgroup a process runs in.
#[derive(Debug)]
pub(super) struct OwnCgroup {
    pub(super) cgroup: Cgroup,
    /// Made for this process alone.
    pub(super) owned: bool,
    pub(super) oom_kills: u64,
}

/// What a process wrote, and how it ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
}

impl Child {
    /// The process id as the host sees it. Only good for display while the process runs: ids are reused.
    pub fn id(&self) -> u32 {
        self.process.pid.unsigned_abs()
    }

    /// The cgroup it runs in, if [`Command::limits`] or [`Command::cgroup`] gave it one.
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.process.cgroup.as_ref().map(|own| &own.cgroup)
    }

    /// The user namespace it runs in, if not the host's.
    pub fn user_namespace(&self) -> Option<&UserNamespace> {
        self.process.user_namespace.as_ref()
    }

    /// Its root directory, in its own mount namespace.
    #[cfg(feature = "container")]
    pub(crate) fn root(&self) -> Option<&OwnedFd> {
        self.process.root.as_deref()
    }

    /// Waits until it has ended. Standard input is closed first, so that it cannot wait for us.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        drop(self.stdin.take());
        loop {
            if let Some(status) = self.process.collect(self.process.deadline.is_none())? {
                return Ok(status);
            }
            self.process.poll_until(self.process.deadline.map(|(at, _)| at))?;
        }
    }

    /// The exit status, if it has ended.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.process.collect(false)
    }

    /// Waits until it has ended, but no longer than `timeout`.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<ExitStatus>> {
        let until = Instant::now().checked_add(timeout);
        loop {
            if let Some(status) = self.process.collect(false)? {
                return Ok(Some(status));
            }
            if until.is_some_and(|until| until <= Instant::now()) {
                return Ok(None);
            }
            let deadline = self.process.deadline.map(|(at, _)| at);
            self.process.poll_until([until, deadline].into_iter().flatten().min())?;
        }
    }

    /// Reads what it writes to pipes until both are closed, and waits for it.
    ///
    /// Once it ran out of time ([`Command::timeout`]), what is in the pipes is read and no more.
    pub fn wait_with_output(mut self) -> Result<Output> {
        drop(self.stdin.take());
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        self.drain(&mut stdout, &mut stderr)
            .context(|| format!("read the output of {}", self.process.program))?;
        let status = self.wait()?;
        Ok(Output { status, stdout, stderr })
    }

    fn drain(&mut self, stdout: &mut Vec<u8>, stderr: &mut Vec<u8>) -> std::io::Result<()> {
        let (mut out, mut err) = (self.stdout.take(), self.stderr.take());
        let mut killed = false;
        while out.is_some() || err.is_some() {
            let timeout = match self.process.deadline {
                _ if killed => PollTimeout::ZERO,
                Some((at, _)) => PollTimeout::try_from(sys::wait::milliseconds_until(at))
                    .unwrap_or(PollTimeout::MAX),
                None => PollTimeout::NONE,
            };
            let open: Vec<BorrowedFd<'_>> =
                [&out, &err].into_iter().flatten().map(AsFd::as_fd).collect();
            let mut polled: Vec<PollFd<'_>> =
                open.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
            let ready = match nix::poll::poll(&mut polled, timeout) {
                Err(nix::errno::Errno::EINTR) => continue,
                other => other?,
            };
            if ready == 0 {
                if killed {
                    break;
                }
                if self.process.time_is_up() {
                    self.process.time_out().map_err(std::io::Error::from)?;
                    self.process.wait_dead();
                    killed = true;
                }
                continue;
            }
            let readable: Vec<bool> =
                polled.iter().map(|p| p.revents().is_some_and(|r| !r.is_empty())).collect();
            let mut readable = readable.into_iter();
            for (pipe, buffer) in [(&mut out, &mut *stdout), (&mut err, &mut *stderr)] {
                if let Some(reader) = pipe
                    && readable.next() == Some(true)
                    && read_some(reader, buffer)? == 0
                {
                    *pipe = None;
                }
            }
        }
        Ok(())
    }

    /// Kills it, with all in its pid namespace and in the cgroup that its limits made.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill_all()
    }

    /// Sends a signal to the process itself.
    ///
    /// # Errors
    ///
    /// [`InvalidState`](ErrorKind::InvalidState) if it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal.number()).map_err(|err| {
            let ended = err.raw_os_error() == Some(libc::ESRCH);
            let kind = if ended { ErrorKind::InvalidState } else { err.kind() };
            err.context(format!("send {signal} to {}", self.process.program)).with_kind(kind)
        })
    }

    /// Runs another process in the namespaces, root, cgroup and restrictions of this one.
    ///
    /// Of `command`'s own settings those apply that make no new namespace or mount: arguments, environment,
    /// streams, user, working directory, rlimits, further restrictions.
    ///
    /// ```no_run
    /// # use coracle::namespaces::Command;
    /// let child = Command::new("sleep").arg("60").isolated().spawn()?;
    /// let ps = child.exec(Command::new("ls").arg("/proc"))?.wait_with_output()?;
    /// # Ok::<(), coracle::Error>(())
    /// ```
    ///
    /// The first process of a pid namespace counts as ended, and its pidfd becomes readable, only once all others in it are
    /// reaped. [`wait`](Child::wait) and its kin, and dropping, see to that; an event loop has to watch both.
    ///
    /// # Errors
    ///
    /// As [`Command::spawn`]; Linux 5.8 is needed to join namespaces by pidfd.
    /// [`InvalidState`](ErrorKind::InvalidState) if it has ended or its cgroup is frozen; frozen during the call, the
    /// calling thread waits for [`Cgroup::thaw`](crate::cgroups::Cgroup::thaw).
    pub fn exec(&self, command: &mut Command) -> Result<Child> {
        super::spawner::spawn(
            command,
            Some(&self.process),
            [Stdio::inherit(), Stdio::inherit(), Stdio::inherit()],
        )
    }

    /// Lets the process live on without this handle, and returns its pidfd. A cgroup made for it stays until
    /// somebody removes it.
    pub fn detach(mut self) -> Result<OwnedFd> {
        self.process.kill_on_drop = false;
        if let Some(own) = self.process.cgroup.take_if(|own| own.owned) {
            drop(own.cgroup.keep());
        }
        self.process.pidfd.try_clone().context(|| "duplicate a pidfd")
    }
}

fn read_some(reader: &mut PipeReader, buffer: &mut Vec<u8>) -> std::io::Result<usize> {
    let mut chunk = [0; 16 << 10];
    loop {
        match reader.read(&mut chunk) {
            Err(err) if err.kind() == std::io::ErrorKind::Interrupted => {}
            result => {
                let read = result?;
                buffer.extend_from_slice(&chunk[..read]);
                return Ok(read);
            }
        }
    }
}

impl Process {
    fn poll_until(&self, until: Option<Instant>) -> Result<()> {
        let timeout = until.map(|at| at.saturating_duration_since(Instant::now()));
        let waited = match &self.guest {
            Some(_) => sys::wait::poll(&self.pidfd, timeout).map(drop),
            None => self.guests.wait_for(&self.pidfd, until),
        };
        waited.context(|| format!("wait for {}", self.program))
    }

    fn time_is_up(&self) -> bool {
        self.deadline.is_some_and(|(at, _)| at <= Instant::now())
    }

    /// The status if it has ended; kills it if its time is up.
    fn collect(&mut self, block: bool) -> Result<Option<ExitStatus>> {
        if let Some(status) = &self.status {
            return Ok(Some(status.clone()));
        }
        let mut ended = self.wait_pidfd(block)?;
        if ended.is_none() && self.time_is_up() {
            self.time_out()?;
            ended = self.wait_pidfd(true)?;
        }
        let Some(ended) = ended else { return Ok(None) };
        let cause = match self.deadline {
            // It may have ended by itself, and only its output was waited for.
            Some((_, limit)) if self.timed_out && libc::WIFSIGNALED(ended.status) => {
                Some(Cause::TimedOut { limit })
            }
            _ => self.out_of_memory(ended.status),
        };
        let status = ExitStatus::new(ended.status, cause, ended.usage.as_ref().map(usage));
        self.status = Some(status.clone());
        self.tell(&status);
        if let Some(own) = self.cgroup.take_if(|own| own.owned) {
            own.cgroup.delete()?;
        }
        Ok(Some(status))
    }

    fn tell(&mut self, status: &ExitStatus) {
        if let Some(OnEnd(tell)) = self.on_end.take() {
            tell(status);
        }
    }

    fn wait_pidfd(&self, block: bool) -> Result<Option<sys::wait::Ended>> {
        let waited = match &self.guest {
            Some(guest) => guest.wait(block),
            None if block => self
                .guests
                .wait_for(&self.pidfd, None)
                .and_then(|()| sys::wait::wait(&self.pidfd, true)),
            None => {
                self.guests.reap();
                sys::wait::wait(&self.pidfd, false)
            }
        };
        waited.context(|| format!("wait for {}", self.program)).map_err(|err| {
            match err.raw_os_error() {
                Some(libc::ECHILD) => err.with_kind(ErrorKind::InvalidState).with_hint(
                    "the host ignores SIGCHLD or reaps all children, so the kernel forgot the exit status; \
                     Linux 6.15 still knows it",
                ),
                _ => err,
            }
        })
    }

    fn out_of_memory(&self, status: i32) -> Option<Cause> {
        let own = self.cgroup.as_ref()?;
        let killed = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL;
        // A shell reports a killed child as 128 + 9.
        let reported = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 128 + libc::SIGKILL;
        if !killed && !reported {
            return None;
        }
        let kills = own.cgroup.oom_kills().ok()?;
        (kills > own.oom_kills).then(|| Cause::OutOfMemory { limit: own.cgroup.memory_limit() })
    }

    pub(super) fn signal(&self, signal: i32) -> Result<()> {
        if self.status.is_some() {
            return Err(Error::new(ErrorKind::InvalidState, "the process has ended"));
        }
        sys::spawn::send_signal(&self.pidfd, signal)
            .context(|| format!("pidfd_send_signal({})", self.pid))
    }

    fn kill_all(&self) -> Result<()> {
        if self.status.is_none() {
            match self.signal(libc::SIGKILL) {
                Err(err) if err.raw_os_error() == Some(libc::ESRCH) => {}
                other => other.context(|| format!("kill {}", self.program))?,
            }
        }
        match &self.cgroup {
            Some(own) if own.owned => own.cgroup.kill(),
            _ => Ok(()),
        }
    }

    fn time_out(&mut self) -> Result<()> {
        self.timed_out = true;
        self.kill_all()
    }

    fn wait_dead(&self) {
        let _ = self.poll_until(None);
    }

    /// Whether it has ended, seen or unseen.
    pub(super) fn has_ended(&self) -> bool {
        self.status.is_some() || sys::wait::poll(&self.pidfd, Some(Duration::ZERO)).unwrap_or(false)
    }

    /// Whether it has ended, or is about to.
    pub(super) fn is_ending(&self) -> bool {
        self.status.is_some() || is_ending(self.pid, &self.pidfd)
    }

    /// The pidfd, for those who join its namespaces.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Whether a process has ended, or is on its way out: it has lost its memory and its namespaces already, or is about to.
pub(super) fn is_ending(pid: i32, pidfd: &OwnedFd) -> bool {
    sys::spawn::exiting(pid) == Some(true)
        || sys::wait::poll(pidfd, Some(Duration::ZERO)).unwrap_or(false)
}

fn usage(raw: &libc::rusage) -> ResourceUsage {
    let time = |t: libc::timeval| {
        Duration::from_secs(u64::try_from(t.tv_sec).unwrap_or(0))
            + Duration::from_micros(u64::try_from(t.tv_usec).unwrap_or(0))
    };
    let count = |n: i64| u64::try_from(n).unwrap_or(0);
    ResourceUsage {
        user_time: time(raw.ru_utime),
        system_time: time(raw.ru_stime),
        max_rss: count(raw.ru_maxrss) * 1024,
        minor_faults: count(raw.ru_minflt),
        major_faults: count(raw.ru_majflt),
        blocks_read: count(raw.ru_inblock),
        blocks_written: count(raw.ru_oublock),
        voluntary_switches: count(raw.ru_nvcsw),
        involuntary_switches: count(raw.ru_nivcsw),
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.kill_on_drop && self.status.is_none() {
            let _ = self.kill_all();
            if let Ok(Some(ended)) = self.wait_pidfd(true) {
                self.tell(&ExitStatus::new(ended.status, None, None));
            }
        }
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.pidfd()
    }
}

impl std::os::fd::AsRawFd for Child {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.process.pidfd)
    }
}
