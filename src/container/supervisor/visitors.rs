//! Those who have to do with the thread, and with none of its containers: not yet, not any more, or not at all.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::result;
use std::sync::Weak;

use nix::sys::epoll::EpollFlags;

use super::super::attach::{LIMITS, REQUEST};
use super::super::id::ContainerId;
use super::super::wait::Alert;
use super::client::Client;
use super::door::Door;
use super::poller::{DOOR, NUMBER, Poller, Token};
use super::task::Slot;
use crate::error::Result;

#[derive(Debug)]
pub(super) struct Visitors {
    door: Door,
    /// Those who have knocked and not said yet what they want.
    callers: HashMap<u32, Client>,
    /// Those who have not taken yet all that an ended container has written.
    leaving: HashMap<u32, Client>,
    /// Who waits for the end of a process that is another's to look after.
    alerts: HashMap<u32, (OwnedFd, Weak<Alert>)>,
    next: u32,
}

impl Visitors {
    pub(super) fn new(door: Door, poller: &Poller) -> Result<Self> {
        poller.add(&door, EpollFlags::EPOLLIN, DOOR)?;
        let (callers, leaving, alerts) = (HashMap::new(), HashMap::new(), HashMap::new());
        Ok(Self { door, callers, leaving, alerts, next: 0 })
    }

    fn number(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1);
        self.next & NUMBER
    }

    /// Returns whether all who have knocked were let in. If not, nobody is heard until it is tried again.
    pub(super) fn answer_the_door(&mut self, poller: &Poller) -> bool {
        loop {
            let socket = match self.door.accept() {
                Ok(Some(socket)) => socket,
                Ok(None) => {
                    poller.change(&self.door, EpollFlags::EPOLLIN, DOOR);
                    return true;
                }
                Err(_) => {
                    poller.change(&self.door, EpollFlags::empty(), DOOR);
                    return false;
                }
            };
            let number = self.number();
            let token = Token { task: 0, slot: Slot::Client(number) };
            if poller.add(&socket, EpollFlags::EPOLLIN, token).is_ok() {
                self.callers.insert(number, Client::new(socket));
            }
        }
    }

    /// What a caller wants, and of which container. Who says anything else is let go.
    pub(super) fn request(
        &mut self,
        number: u32,
        buffer: &mut [u8],
        poller: &Poller,
    ) -> Option<(u8, ContainerId, Client)> {
        let mut caller = self.callers.remove(&number)?;
        poller.remove(&caller);
        let (kind @ (REQUEST | LIMITS), length) = caller.receive(buffer)? else { return None };
        let id = std::str::from_utf8(&buffer[..length]).ok()?.parse().ok()?;
        Some((kind, id, caller))
    }

    /// Something happened to the descriptor of one who leaves, or whose process is looked at for him.
    pub(super) fn ready(&mut self, slot: Slot, poller: &Poller) {
        match slot {
            Slot::Guest(number) => self.go_on_seeing_off(number, poller),
            Slot::Alert(number) => {
                if let Some((pidfd, alert)) = self.alerts.remove(&number) {
                    poller.remove(&pidfd);
                    wake(&alert);
                }
            }
            _ => {}
        }
    }

    pub(super) fn are_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Has a client take the rest of what was written by a container that has ended.
    pub(super) fn see_off(&mut self, client: Client, poller: &Poller) -> Option<u32> {
        let number = self.number();
        let token = Token { task: 0, slot: Slot::Guest(number) };
        poller.add(&client, EpollFlags::EPOLLOUT, token).ok()?;
        self.leaving.insert(number, client);
        Some(number)
    }

    fn go_on_seeing_off(&mut self, number: u32, poller: &Poller) {
        let Some(client) = self.leaving.get_mut(&number) else { return };
        client.flush();
        if client.gone || !client.is_behind() {
            self.leave(number, poller);
        }
    }

    pub(super) fn leave(&mut self, number: u32, poller: &Poller) {
        if let Some(client) = self.leaving.remove(&number) {
            poller.remove(&client);
        }
    }

    /// Has a task woken when a process ends. It comes back if that cannot be.
    pub(super) fn alert(
        &mut self,
        pidfd: OwnedFd,
        alert: Weak<Alert>,
        poller: &Poller,
    ) -> result::Result<(), Weak<Alert>> {
        let number = self.number();
        let token = Token { task: 0, slot: Slot::Alert(number) };
        if poller.add(&pidfd, EpollFlags::EPOLLIN, token).is_err() {
            return Err(alert);
        }
        self.alerts.insert(number, (pidfd, alert));
        Ok(())
    }

    /// Lets go of those who do not wait any more.
    pub(super) fn forget_alerts(&mut self, poller: &Poller) {
        self.alerts.retain(|_, (pidfd, alert)| {
            let waits = alert.strong_count() > 0;
            if !waits {
                poller.remove(pidfd);
            }
            waits
        });
    }
}

pub(super) fn wake(alert: &Weak<Alert>) {
    if let Some(alert) = alert.upgrade() {
        alert.wake();
    }
}
