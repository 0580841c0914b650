//! Somebody who is attached to a container, as the supervisor sees him.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::MsgFlags;

use super::super::attach::{LARGEST, LOST, STDERR, STDOUT, receive, send_packet};

/// What may wait for him, in bytes, before the container has to.
const PATIENCE: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Client {
    socket: OwnedFd,
    waiting: VecDeque<(u8, Vec<u8>)>,
    bytes: usize,
    /// Bytes that he has missed and not been told of yet.
    lost: u64,
    /// He has not read for too long, and misses what comes until he does.
    pub(super) lagging: bool,
    pub(super) gone: bool,
}

impl Client {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, waiting: VecDeque::new(), bytes: 0, lost: 0, lagging: false, gone: false }
    }

    pub(super) fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Whether so much waits for him that the container has to.
    pub(super) fn is_full(&self) -> bool {
        self.bytes > PATIENCE && !self.lagging
    }

    /// Whether something waits for him.
    pub(super) fn is_behind(&self) -> bool {
        !self.waiting.is_empty() || self.lost > 0
    }

    /// Lets him miss what waits for him.
    pub(super) fn give_up_on(&mut self) {
        self.lost += self.waiting.drain(..).map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
        self.bytes = 0;
        self.lagging = true;
    }

    pub(super) fn send(&mut self, kind: u8, bytes: &[u8]) {
        if bytes.is_empty() {
            return self.send_one(kind, bytes);
        }
        for chunk in bytes.chunks(LARGEST) {
            self.send_one(kind, chunk);
        }
    }

    fn send_one(&mut self, kind: u8, bytes: &[u8]) {
        if self.gone {
            return;
        }
        if self.lagging && matches!(kind, STDOUT | STDERR) {
            self.lost += bytes.len() as u64;
            return;
        }
        if !self.is_behind() && self.try_send(kind, bytes) {
            return;
        }
        self.bytes += bytes.len();
        self.waiting.push_back((kind, bytes.to_vec()));
    }

    /// Sends what waits, as far as he takes it.
    pub(super) fn flush(&mut self) {
        if self.lost > 0 {
            let lost = self.lost.to_le_bytes();
            if !self.try_send(LOST, &lost) {
                return;
            }
            self.lost = 0;
            self.lagging = false;
        }
        while let Some((kind, bytes)) = self.waiting.pop_front() {
            if !self.try_send(kind, &bytes) {
                self.waiting.push_front((kind, bytes));
                return;
            }
            self.bytes -= bytes.len();
        }
    }

    /// False: not now.
    fn try_send(&mut self, kind: u8, bytes: &[u8]) -> bool {
        match send_packet(self.socket.as_fd(), kind, bytes) {
            Err(err)
                if matches!(err.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
            {
                false
            }
            Err(_) => {
                self.gone = true;
                true
            }
            Ok(()) => true,
        }
    }

    /// The next packet from him: its kind and how many bytes it put into `buffer`.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Option<(u8, usize)> {
        match receive(&self.socket, buffer, MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN | Errno::EINTR) => None,
            Ok(0) | Err(_) => {
                self.gone = true;
                None
            }
            Ok(length) => {
                let kind = buffer[0];
                buffer.copy_within(1..length, 0);
                Some((kind, length - 1))
            }
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
