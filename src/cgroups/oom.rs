//! Processes that the kernel kills because memory has run out.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::fcntl::OFlag;
use nix::sys::epoll::EpollFlags;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::cgroup::Cgroup;
use super::controller::Controllers;
use super::events::{changed, reread};
use super::node::Node;
use super::stats::field;
use crate::error::{Context, Result};

/// Is told by the kernel that memory has run out in a cgroup. One descriptor, close-on-exec.
#[derive(Debug)]
pub(crate) enum OomWatch {
    /// v1, which tells before it kills, also if memory has run out in a cgroup above, and when the cgroup is removed.
    Legacy(EventFd),
    /// `memory.events` of v2, and how many it has killed.
    Unified(File, u64),
}

impl Cgroup {
    /// Begins to watch for it. Nothing where memory is neither limited nor counted.
    pub(crate) fn watch_oom(&self) -> Result<Option<OomWatch>> {
        let Some(node) = self.node(Controllers::MEMORY) else { return Ok(None) };
        let watch = if node.v2 { OomWatch::unified(node) } else { OomWatch::legacy(node) };
        watch.map(Some)
    }

    /// How many processes in it were killed because memory ran out; 0 where memory is not limited.
    pub(crate) fn oom_kills(&self) -> Result<u64> {
        let Some(node) = self.node(Controllers::MEMORY) else { return Ok(0) };
        let file = if node.v2 { "memory.events" } else { "memory.oom_control" };
        let text = node.read(file).context(|| format!("count the OOM kills of {}", self.name()))?;
        Ok(kills(&text))
    }
}

fn kills(text: &str) -> u64 {
    field(text, "oom_kill").unwrap_or_default()
}

impl OomWatch {
    fn legacy(node: &Node) -> Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let told = EventFd::from_value_and_flags(0, flags).context(|| "make an eventfd")?;
        // The kernel does not need it any more once it has understood.
        let control = node.open_file("memory.oom_control", OFlag::O_RDONLY);
        let control = control.context(|| "open memory.oom_control")?;
        let line = format!("{} {}", told.as_fd().as_raw_fd(), control.as_raw_fd());
        let asked = node.write("cgroup.event_control", &line);
        asked.context(|| "ask for out-of-memory events").map_err(|err| {
            err.with_hint("memory.oom_control of cgroup v1 reports only with CONFIG_MEMCG_V1")
        })?;
        Ok(Self::Legacy(told))
    }

    fn unified(node: &Node) -> Result<Self> {
        let opening = || "open memory.events";
        let file = node.open_file("memory.events", OFlag::O_RDONLY);
        let file = File::from(file.context(opening)?);
        let text = reread(&file).context(opening)?;
        Ok(Self::Unified(file, kills(&text)))
    }

    /// What its descriptor is to be polled for.
    pub(crate) fn flags(&self) -> EpollFlags {
        match self {
            Self::Legacy(_) => EpollFlags::EPOLLIN,
            Self::Unified(..) => EpollFlags::EPOLLPRI,
        }
    }

    /// Whether it has happened since the last time.
    ///
    /// # Errors
    /// On v2 `ENODEV` once the cgroup has been removed: its descriptor stays ready then.
    pub(crate) fn has_happened(&mut self) -> Result<bool> {
        match self {
            Self::Legacy(told) => Ok(told.read().is_ok()),
            Self::Unified(file, _) => match changed(file)? {
                true => self.look(),
                false => Ok(false),
            },
        }
    }

    /// [`has_happened`](Self::has_happened), also if the kernel has not told yet, which on v2 it does every 10 ms at most. On v1
    /// it tells before it kills.
    ///
    /// # Errors
    /// As there.
    pub(super) fn look(&mut self) -> Result<bool> {
        match self {
            Self::Legacy(_) => Ok(false),
            Self::Unified(file, last) => {
                let now = kills(&reread(file).context(|| "read memory.events")?);
                Ok(now > std::mem::replace(last, now))
            }
        }
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Legacy(told) => told.as_fd(),
            Self::Unified(file, _) => file.as_fd(),
        }
    }
}
