//! The descriptors that the thread waits for, and what they are to it.

use std::os::fd::AsFd;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::task::Slot;
use crate::error::{Context, Result};

/// Which descriptor of which container; task 0 is the thread's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) task: u32,
    pub(super) slot: Slot,
}

/// Orders have come.
pub(super) const WAKE: Token = Token { task: 0, slot: Slot::Process };
/// Somebody knocks.
pub(super) const DOOR: Token = Token { task: 0, slot: Slot::Input };

/// The upper half of a token's word is the task, the lower half the slot: its kind in four bits, and a number in these.
pub(super) const NUMBER: u32 = 0x0fff_ffff;
const MASK: u64 = NUMBER as u64;

impl From<Token> for u64 {
    fn from(token: Token) -> Self {
        let (kind, number) = match token.slot {
            Slot::Process => (0, 0),
            Slot::Source(index) => (1, index as u64),
            Slot::Input => (2, 0),
            Slot::Guest(number) => (3, u64::from(number)),
            Slot::Client(number) => (4, u64::from(number)),
            Slot::Probe => (5, 0),
            Slot::ProbeOutput => (6, 0),
            Slot::Alert(number) => (7, u64::from(number)),
            Slot::Memory => (8, 0),
        };
        u64::from(token.task) << 32 | kind << NUMBER.count_ones() | number & MASK
    }
}

impl Token {
    pub(super) fn of(word: u64) -> Self {
        let number = (word & MASK) as u32;
        let slot = match word >> NUMBER.count_ones() & 15 {
            0 => Slot::Process,
            1 => Slot::Source(number as usize),
            2 => Slot::Input,
            3 => Slot::Guest(number),
            4 => Slot::Client(number),
            5 => Slot::Probe,
            6 => Slot::ProbeOutput,
            7 => Slot::Alert(number),
            _ => Slot::Memory,
        };
        Self { task: (word >> 32) as u32, slot }
    }
}

/// The descriptors that are watched.
#[derive(Debug)]
pub(super) struct Poller(Epoll);

impl Poller {
    pub(super) fn new() -> Result<Self> {
        Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map(Self).context(|| "epoll_create1")
    }

    pub(super) fn wait(
        &self,
        events: &mut [EpollEvent],
        timeout: EpollTimeout,
    ) -> nix::Result<usize> {
        self.0.wait(events, timeout)
    }

    pub(super) fn add(&self, fd: impl AsFd, flags: EpollFlags, token: Token) -> Result<()> {
        self.0.add(fd, EpollEvent::new(flags, token.into())).context(|| "watch a descriptor")
    }

    pub(super) fn change(&self, fd: impl AsFd, flags: EpollFlags, token: Token) {
        let _ = self.0.modify(fd, &mut EpollEvent::new(flags, token.into()));
    }

    /// Watches one that need not be watched yet, until it is ready.
    pub(super) fn watch_once(&self, fd: impl AsFd, flags: EpollFlags, token: Token) {
        let flags = flags | EpollFlags::EPOLLONESHOT;
        if self.0.add(&fd, EpollEvent::new(flags, token.into())).is_err() {
            self.change(fd, flags, token);
        }
    }

    pub(super) fn remove(&self, fd: impl AsFd) {
        let _ = self.0.delete(fd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_kernel() {
        let slots = [
            Slot::Process,
            Slot::Source(1),
            Slot::Input,
            Slot::Guest(NUMBER),
            Slot::Client(NUMBER),
            Slot::Probe,
            Slot::ProbeOutput,
            Slot::Alert(NUMBER),
            Slot::Memory,
        ];
        for token in
            [0, u32::MAX].into_iter().flat_map(|task| slots.map(|slot| Token { task, slot }))
        {
            assert_eq!(Token::of(token.into()), token);
        }
    }
}
