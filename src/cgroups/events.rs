//! What happens to a group, as descriptors to poll.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};

use super::cgroup::Cgroup;
use super::controller::Controllers;
use super::oom::OomWatch;
use super::stats::field;
use crate::error::{Context, Error, Result, SyscallError};

/// Something that happened to a [`Cgroup`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// Memory ran out, and the kernel kills a process for it. How many it were, says
    /// [`MemoryStats::oom_kills`](super::MemoryStats::oom_kills): several may be one event. (On v1 also if memory ran
    /// out in a cgroup above, whichever process is killed for it.)
    Oom,
    /// The last process in it, and in the cgroups below it, has ended.
    Empty,
    /// Every process stands still.
    Frozen,
    /// The processes go on.
    Thawed,
    /// It was removed: nothing comes any more.
    Removed,
}

/// The events of a [`Cgroup`] from the moment [`Cgroup::events`] was called.
///
/// Readable, as `poll` and `epoll` call it, when [`try_next`](Self::try_next) has something to say: it works with
/// tokio's `AsyncFd` or any event loop, and needs no thread.
///
/// ```no_run
/// # use std::time::Duration;
/// # use coracle::cgroups::{Cgroup, Event, Limits};
/// # let cgroup = Cgroup::create("doc", &Limits::new())?;
/// let mut events = cgroup.events()?;
/// while let Some(event) = events.wait_timeout(Duration::from_secs(60))? {
///     match event {
///         Event::Oom => eprintln!("out of memory"),
///         Event::Empty => break,
///         _ => {}
///     }
/// }
/// # Ok::<(), coracle::Error>(())
/// ```
///
/// Out of memory is only reported where memory is limited or [counted](super::Limits::accounting). On pure v1, which cannot
/// report the rest, a timer makes it readable ten times a second to look.
#[derive(Debug)]
pub struct Events {
    epoll: Epoll,
    /// Of the v2 directory.
    state: Option<Watched>,
    oom: Option<OomWatch>,
    /// On pure v1.
    timer: Option<Poller>,
    /// The v1 directory, whose removal the kernel reports through `oom`.
    procs: Option<File>,
    ready: VecDeque<Event>,
    removed: bool,
}

/// A file whose change the kernel reports.
#[derive(Debug)]
struct Watched {
    file: File,
    last: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    populated: bool,
    frozen: bool,
}

impl State {
    pub(super) fn parse(text: &str) -> Self {
        let is = |name| field(text, name) == Some(1);
        Self { populated: is("populated"), frozen: is("frozen") }
    }
}

#[derive(Debug)]
struct Poller {
    timer: TimerFd,
    procs: Vec<File>,
    freezer: Option<File>,
    last: State,
}

impl Cgroup {
    /// Begins to watch for [`Event`]s. Two to four descriptors, close-on-exec.
    ///
    /// # Errors
    /// `ResourceExhausted` without a descriptor left, `NotFound` once the cgroup has been removed.
    pub fn events(&self) -> Result<Events> {
        self.watch().context(|| format!("watch cgroup {}", self.name()))
    }

    fn watch(&self) -> Result<Events> {
        let epoll =
            Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context(|| "make an epoll instance")?;
        let mut events = Events {
            epoll,
            state: None,
            oom: None,
            timer: None,
            procs: None,
            ready: VecDeque::new(),
            removed: false,
        };
        let opening = |file: &'static str| move || format!("open {file}");
        if let Some(node) = self.unified() {
            let file = node.open_file("cgroup.events", OFlag::O_RDONLY);
            let file = File::from(file.context(opening("cgroup.events"))?);
            let last = State::parse(&reread(&file).context(opening("cgroup.events"))?);
            events.register(&file, EpollFlags::EPOLLPRI)?;
            events.state = Some(Watched { file, last });
        } else {
            events.timer = Some(self.poller()?);
            if let Some(poller) = &events.timer {
                events
                    .epoll
                    .add(&poller.timer, EpollEvent::new(EpollFlags::EPOLLIN, 0))
                    .context(|| "watch a timer")?;
            }
        }
        if let Some(node) = self.legacy(Controllers::MEMORY) {
            let procs = node.open_file("cgroup.procs", OFlag::O_RDONLY);
            events.procs = Some(procs.context(opening("cgroup.procs"))?.into());
        }
        if let Some(oom) = self.watch_oom()? {
            events.register(&oom, oom.flags())?;
            events.oom = Some(oom);
        }
        Ok(events)
    }

    fn poller(&self) -> Result<Poller> {
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK,
        )
        .context(|| "make a timer")?;
        let tick = TimeSpec::from_duration(Duration::from_millis(100));
        timer
            .set(Expiration::Interval(tick), TimerSetTimeFlags::empty())
            .context(|| "start a timer")?;
        let open = |node: Option<&super::node::Node>, name: &'static str| match node {
            Some(node) => {
                let file = node.open_file(name, OFlag::O_RDONLY);
                file.map(|fd| Some(File::from(fd))).context(|| format!("open {name}"))
            }
            None => Ok(None),
        };
        let freezer = self.legacy(Controllers::FREEZER);
        let mut poller = Poller {
            timer,
            procs: Vec::from_iter(open(self.nodes().next(), "cgroup.procs")?),
            freezer: open(freezer, "freezer.state")?,
            last: State { populated: false, frozen: false },
        };
        poller.last = poller.look().context(|| "look at the processes")?;
        Ok(poller)
    }

    /// Reports when the processes wait too long for `resource`: by at least `threshold` within `window`, which the kernel wants
    /// between 500 ms and 10 s, and in multiples of 2 s from callers without `CAP_SYS_RESOURCE`.
    ///
    /// # Errors
    /// `Unsupported` without cgroup v2 (beside v1 is enough) or without PSI in the kernel (Linux 5.2, boot option
    /// `psi=1`), `InvalidInput` for times the kernel does not take.
    pub fn psi(
        &self,
        resource: Resource,
        threshold: Threshold,
        window: Duration,
    ) -> Result<PsiTrigger> {
        let what = || format!("watch the {} pressure of cgroup {}", resource.name(), self.name());
        let hint = "needs cgroup v2, and a kernel with PSI switched on (boot option psi=1)";
        let Some(node) = self.unified() else {
            return Err(Error::unsupported(what()).with_hint(hint));
        };
        let file = format!("{}.pressure", resource.name());
        let fd = node.open_file(&file, OFlag::O_RDWR | OFlag::O_NONBLOCK).map_err(|err| {
            let missing = matches!(err.errno, libc::ENOENT | libc::EOPNOTSUPP);
            match Err::<(), _>(err).context(what) {
                Err(err) if missing => err.with_kind(crate::ErrorKind::Unsupported).with_hint(hint),
                Err(err) => err,
                Ok(()) => Error::unsupported(what()),
            }
        })?;
        let (kind, stall) = match threshold {
            Threshold::Some(stall) => ("some", stall),
            Threshold::Full(stall) => ("full", stall),
        };
        // The kernel wants the NUL.
        let line = format!("{kind} {} {}\0", stall.as_micros(), window.as_micros());
        nix::unistd::write(&fd, line.as_bytes())
            .map_err(|errno| {
                let shown = line.trim_end_matches('\0');
                SyscallError::new(format!("write({file:?}, {shown:?})"), errno as i32)
            })
            .context(what)
            .map_err(|err| match err.raw_os_error() {
                Some(libc::EINVAL) => err.with_hint(
                    "the window must be 500 ms to 10 s and longer than the threshold; without CAP_SYS_RESOURCE a \
                     multiple of 2 s",
                ),
                Some(libc::EOPNOTSUPP) => err.with_hint(hint),
                _ => err,
            })?;
        Ok(PsiTrigger { fd })
    }
}

impl Events {
    fn register(&self, fd: impl AsFd, flags: EpollFlags) -> Result<()> {
        self.epoll.add(fd, EpollEvent::new(flags, 0)).context(|| "watch a cgroup file")
    }

    /// The next event, if there is one already.
    ///
    /// # Errors
    /// If the kernel fails to say what happened.
    pub fn try_next(&mut self) -> Result<Option<Event>> {
        if self.ready.is_empty() && !self.removed {
            self.collect().context(|| "read the events of a cgroup")?;
        }
        Ok(self.ready.pop_front())
    }

    /// Waits for the next event; `None` if `timeout` passes first, or after [`Event::Removed`].
    ///
    /// # Errors
    /// As [`try_next`](Self::try_next).
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<Event>> {
        let until = Instant::now().checked_add(timeout);
        loop {
            if let Some(event) = self.try_next()? {
                return Ok(Some(event));
            }
            if self.removed {
                return Ok(None);
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            let milliseconds = left.map_or(-1, |left| {
                i32::try_from(left.as_millis().saturating_add(1)).unwrap_or(i32::MAX)
            });
            let timeout = EpollTimeout::try_from(milliseconds).unwrap_or(EpollTimeout::NONE);
            match self.epoll.wait(&mut [EpollEvent::empty(); 4], timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).context(|| "wait for the events of a cgroup"),
            }
        }
    }

    /// Looks at every source: none of them is expensive.
    fn collect(&mut self) -> Result<()> {
        match self.oom.as_mut().map(OomWatch::has_happened) {
            // v1 also tells so that the cgroup goes away.
            Some(Ok(true)) => match self.procs.as_ref().map(reread) {
                Some(Err(Errno::ENODEV)) => self.removed = true,
                _ => self.ready.push_back(Event::Oom),
            },
            Some(Err(err)) if err.raw_os_error() == Some(libc::ENODEV) => self.removed = true,
            Some(Err(err)) => return Err(err),
            Some(Ok(false)) | None => {}
        }
        if let Some(watched) = &mut self.state
            && changed(&watched.file)?
        {
            match reread(&watched.file) {
                Ok(text) => {
                    let (last, now) = (watched.last, State::parse(&text));
                    report(last, now, &mut self.oom, &mut self.ready);
                    // Changed and the same: somebody came and went.
                    if last == now && !now.populated {
                        self.ready.push_back(Event::Empty);
                    }
                    watched.last = now;
                }
                Err(Errno::ENODEV) => self.removed = true,
                Err(errno) => return Err(errno).context(|| "read cgroup.events"),
            }
        }
        if let Some(poller) = &mut self.timer {
            _ = poller.timer.wait();
            match poller.look() {
                Ok(now) => {
                    report(poller.last, now, &mut self.oom, &mut self.ready);
                    poller.last = now;
                }
                Err(Errno::ENODEV) => self.removed = true,
                Err(errno) => return Err(errno).context(|| "read cgroup.procs"),
            }
        }
        if self.removed {
            self.ready.push_back(Event::Removed);
        }
        Ok(())
    }
}

fn report(last: State, now: State, oom: &mut Option<OomWatch>, ready: &mut VecDeque<Event>) {
    if last.frozen != now.frozen {
        ready.push_back(if now.frozen { Event::Frozen } else { Event::Thawed });
    }
    if last.populated && !now.populated {
        // What has killed the last of them comes first, also if the kernel tells later.
        if oom.as_mut().is_some_and(|oom| oom.look().unwrap_or(false)) {
            ready.push_back(Event::Oom);
        }
        ready.push_back(Event::Empty);
    }
}

impl Poller {
    fn look(&self) -> nix::Result<State> {
        let mut state = State { populated: false, frozen: false };
        for file in &self.procs {
            state.populated |= !reread(file)?.is_empty();
        }
        if let Some(file) = &self.freezer {
            state.frozen = reread(file)?.trim() == "FROZEN";
        }
        Ok(state)
    }
}

/// Whether the kernel has reported a change since the file was last read.
pub(super) fn changed(file: &File) -> Result<bool> {
    loop {
        match poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLPRI)], PollTimeout::ZERO) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context(|| "poll a cgroup file"),
        }
    }
}

/// The text from the beginning, all these files being short; reading also acknowledges the change.
pub(super) fn reread(file: &File) -> nix::Result<String> {
    let mut text = [0; 1024];
    let length = file
        .read_at(&mut text, 0)
        .map_err(|err| Errno::from_raw(err.raw_os_error().unwrap_or(libc::EIO)))?;
    Ok(String::from_utf8_lossy(&text[..length]).into_owned())
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

/// What processes can have to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// A cpu.
    Cpu,
    /// Memory to be reclaimed or paged in.
    Memory,
    /// Disks.
    Io,
}

impl Resource {
    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Io => "io",
        }
    }
}

/// The waiting time from which on it is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Threshold {
    /// At least one process had to wait this long.
    Some(Duration),
    /// All processes had to wait at the same time this long.
    Full(Duration),
}

/// Reports when processes wait too long; made by [`Cgroup::psi`]
/// ([PSI](https://docs.kernel.org/accounting/psi.html), "Monitoring for pressure thresholds").
///
/// Poll its descriptor for *priority* data (`POLLPRI`, tokio's `Interest::PRIORITY`), directly and not through an epoll
/// instance inside another one: the kernel takes the event back as soon as anybody has looked. At most one in a window.
#[derive(Debug)]
pub struct PsiTrigger {
    fd: OwnedFd,
}

impl PsiTrigger {
    /// Waits until the threshold is passed; `false` if `timeout` passes first.
    ///
    /// # Errors
    /// `NotFound` when the cgroup has been removed.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<bool> {
        let until = Instant::now().checked_add(timeout);
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let wait = left.map_or(PollTimeout::NONE, |left| {
                PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX)
            });
            let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLPRI)];
            match poll(&mut fds, wait) {
                Ok(0) if left.is_some_and(|left| left.as_millis() > 0) => {}
                Ok(0) => return Ok(false),
                Ok(_) => {
                    let seen = fds[0].revents().unwrap_or(PollFlags::empty());
                    if seen.contains(PollFlags::POLLERR) {
                        return Err(Error::new(
                            crate::ErrorKind::NotFound,
                            "watch the pressure of a cgroup that has been removed",
                        ));
                    }
                    return Ok(true);
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).context(|| "wait for pressure"),
            }
        }
    }
}

impl AsFd for PsiTrigger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_told_by_its_lines() {
        let state = State::parse("populated 1\nfrozen 0\n");
        assert_eq!(state, State { populated: true, frozen: false });
        assert_eq!(State::parse("populated 0\n"), State { populated: false, frozen: false });
    }

    #[test]
    fn only_the_way_to_empty_is_an_event() {
        let (full, empty) =
            (State { populated: true, frozen: false }, State { populated: false, frozen: true });
        let mut ready = VecDeque::new();
        report(empty, full, &mut None, &mut ready);
        report(full, empty, &mut None, &mut ready);
        report(empty, empty, &mut None, &mut ready);
        assert_eq!(ready, [Event::Thawed, Event::Frozen, Event::Empty]);
    }
}
