//! One container, as the thread that looks after it has it.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::epoll::EpollFlags;
use nix::unistd::{geteuid, read, write};

use super::super::attach::{END_OF_INPUT, ENDED, INPUT, RESIZE, STDERR, STDOUT};
use super::super::config::Config;
use super::super::container::Container;
use super::super::logs::{LogWriter, Stream};
use super::super::running::Running;
use super::super::state::Exit;
use super::client::Client;
use super::health::Prober;
use super::memory::Memory;
use super::poller::{NUMBER, Poller, Token};
use super::scratch::Scratch;
use super::set_nonblocking;
use crate::error::Result;
use crate::namespaces::{Child, Terminal, TerminalSize};

/// What a pipe holds at first, in bytes.
const PIPE: usize = 64 << 10;
/// What the pipe of a container holds once it has been full.
const LARGE_PIPE: usize = 256 << 10;
/// What it holds once that has been full, too: each turn wakes the container and makes one write, so that larger ones take
/// less time. Only root has such pipes without end: of an ordinary user all new ones are tiny beyond 64 MiB.
const LARGEST_PIPE: usize = 1 << 20;
/// How often one source is read in a row while others wait, and until how many bytes.
const TURNS: usize = 8;
const MOST_IN_A_ROW: usize = 2 << 20;
/// What may wait to be read by a container, in bytes: beyond that its clients wait.
const MOST_INPUT: usize = 256 << 10;

/// What of a container a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Process,
    /// 0 standard output or the terminal, 1 standard error.
    Source(usize),
    Input,
    Guest(u32),
    Client(u32),
    /// The process that asks it whether it is well.
    Probe,
    ProbeOutput,
    /// A process of another's.
    Alert(u32),
    /// What tells that memory has run out.
    Memory,
}

#[derive(Debug)]
pub(super) struct Task {
    pub(super) number: u32,
    pub(super) container: Container,
    pub(super) running: Arc<Running>,
    pub(super) since: Instant,
    sources: [Option<OwnedFd>; 2],
    input: Option<OwnedFd>,
    typed: VecDeque<u8>,
    terminal: Option<Terminal>,
    log: Option<LogWriter>,
    stdin_once: bool,
    /// Nothing more will be typed.
    input_ends: bool,
    clients: Vec<(u32, Client)>,
    guests: Vec<(u32, OwnedFd)>,
    next: u32,
    /// Clients have to catch up first: since when it is not read.
    pub(super) choked: Option<Instant>,
    pub(super) prober: Option<Box<Prober>>,
    pub(super) memory: Memory,
}

impl Task {
    pub(super) fn new(
        number: u32,
        container: Container,
        config: &Config,
        log: Option<LogWriter>,
        mut child: Child,
        running: impl FnOnce(Child) -> Arc<Running>,
    ) -> Result<Self> {
        let terminal = child.terminal.take();
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (sources, input) = match &terminal {
            Some(terminal) => (
                [Some(terminal.try_clone()?.into_fd()), None],
                Some(terminal.try_clone()?.into_fd()),
            ),
            None => {
                ([stdout.map(OwnedFd::from), stderr.map(OwnedFd::from)], stdin.map(OwnedFd::from))
            }
        };
        for fd in sources.iter().flatten().chain(&input) {
            set_nonblocking(fd)?;
        }
        Ok(Self {
            number,
            container,
            running: running(child),
            since: Instant::now(),
            sources,
            input,
            typed: VecDeque::new(),
            terminal,
            log,
            stdin_once: config.stdin_once,
            input_ends: false,
            clients: Vec::new(),
            guests: Vec::new(),
            next: 0,
            choked: None,
            prober: None,
            memory: Memory::default(),
        })
    }

    pub(super) fn token(&self, slot: Slot) -> Token {
        Token { task: self.number, slot }
    }

    /// Has everything watched.
    pub(super) fn watch(&self, poller: &Poller) -> Result<()> {
        poller.add(&*self.running, EpollFlags::EPOLLIN, self.token(Slot::Process))?;
        for (index, source) in self.sources.iter().enumerate() {
            if let Some(source) = source {
                poller.add(source, EpollFlags::EPOLLIN, self.token(Slot::Source(index)))?;
            }
        }
        Ok(())
    }

    pub(super) fn add_client(&mut self, socket: OwnedFd, poller: &Poller) -> Result<()> {
        let number = self.number();
        poller.add(&socket, EpollFlags::EPOLLIN, self.token(Slot::Client(number)))?;
        self.clients.push((number, Client::new(socket)));
        Ok(())
    }

    /// One that is [watched](super::Supervisor::watch) already.
    pub(super) fn add_guest(&mut self, pidfd: OwnedFd, poller: &Poller) {
        let number = self.number();
        poller.change(&pidfd, EpollFlags::EPOLLIN, self.token(Slot::Guest(number)));
        self.guests.push((number, pidfd));
    }

    fn number(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1) & NUMBER;
        self.next
    }

    /// Something happened to a descriptor.
    pub(super) fn ready(
        &mut self,
        slot: Slot,
        flags: EpollFlags,
        scratch: &mut Scratch,
        poller: &Poller,
    ) {
        match slot {
            // The supervision sees to them.
            Slot::Process | Slot::Probe | Slot::ProbeOutput | Slot::Alert(_) | Slot::Memory => {}
            Slot::Source(index) => self.read(index, scratch, poller, TURNS),
            Slot::Input => self.feed(poller),
            // It is reaped when the first process is asked for.
            Slot::Guest(number) => {
                if let Some(at) = self.guests.iter().position(|(other, _)| *other == number) {
                    poller.remove(&self.guests.swap_remove(at).1);
                }
            }
            Slot::Client(number) => {
                if flags.contains(EpollFlags::EPOLLOUT)
                    && let Some((_, client)) = self.clients.iter_mut().find(|(it, _)| *it == number)
                {
                    client.flush();
                }
                if flags
                    .intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR)
                {
                    self.hear(number, &mut scratch.buffer, poller);
                }
                self.settle_clients(poller);
            }
        }
    }

    /// Reads what it has written, and hands it on.
    fn read(&mut self, index: usize, scratch: &mut Scratch, poller: &Poller, turns: usize) {
        let mut taken = 0;
        for _ in 0..turns {
            let Some(source) = &self.sources[index] else { return };
            if self.choked.is_some() || taken >= MOST_IN_A_ROW {
                return;
            }
            // What waits for clients is kept in memory.
            let most = if self.clients.is_empty() { scratch.buffer.len() } else { LARGE_PIPE };
            match read(source, &mut scratch.buffer[..most]) {
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => {}
                // A terminal fails so when nobody has it open any more.
                Ok(0) | Err(_) => {
                    poller.remove(source);
                    self.sources[index] = None;
                    return;
                }
                Ok(length) => {
                    taken += length;
                    scratch.note(length);
                    enlarge(source, length);
                    let bytes = &scratch.buffer[..length];
                    let (kind, stream) = match index {
                        0 => (STDOUT, Stream::Stdout),
                        _ => (STDERR, Stream::Stderr),
                    };
                    if let Some(log) = &mut self.log {
                        // What it could not write it tells once it can again.
                        let _ = log.write(&mut scratch.batch, stream, SystemTime::now(), bytes);
                    }
                    for (_, client) in &mut self.clients {
                        client.send(kind, bytes);
                    }
                    if !self.clients.is_empty() {
                        self.settle_clients(poller);
                    }
                }
            }
        }
    }

    /// Reads all that is left, when it has ended: no more than its pipes hold.
    pub(super) fn drain(&mut self, scratch: &mut Scratch, poller: &Poller) {
        for index in 0..self.sources.len() {
            for _ in 0..TURNS {
                self.choked = None;
                // Who else has it open cannot keep this from ending.
                self.read(index, scratch, poller, TURNS);
            }
        }
    }

    /// Takes what a client sends.
    fn hear(&mut self, number: u32, buffer: &mut [u8], poller: &Poller) {
        for _ in 0..TURNS {
            let Some((_, client)) = self.clients.iter_mut().find(|(it, _)| *it == number) else {
                return;
            };
            if self.typed.len() > MOST_INPUT {
                break;
            }
            match client.receive(buffer) {
                None => break,
                Some((INPUT, length)) => {
                    if self.input.is_some() {
                        self.typed.extend(&buffer[..length]);
                    }
                }
                Some((END_OF_INPUT, _)) => self.input_ends = true,
                Some((RESIZE, 4)) => {
                    let number = |at: usize| u16::from_le_bytes([buffer[at], buffer[at + 1]]);
                    if let Some(terminal) = &self.terminal {
                        let (columns, rows) = (number(0), number(2));
                        let _ = terminal.resize(TerminalSize::new(columns, rows));
                        let (width, height) = (columns.to_string(), rows.to_string());
                        let size = [("width", width.as_str()), ("height", height.as_str())];
                        self.container.home().tell_of(self.container.id(), "resize", &size);
                    }
                }
                Some(_) => {}
            }
        }
        self.feed(poller);
    }

    /// Writes what was typed, as far as it is taken.
    fn feed(&mut self, poller: &Poller) {
        while let (Some(input), false) = (&self.input, self.typed.is_empty()) {
            match write(input, self.typed.as_slices().0) {
                Ok(length) => drop(self.typed.drain(..length)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    let token = self.token(Slot::Input);
                    return poller.watch_once(input, EpollFlags::EPOLLOUT, token);
                }
                Err(_) => self.typed.clear(),
            }
        }
        self.typed.clear();
        // A terminal is told of the end by a control character, which is the client's to type.
        if self.input_ends
            && self.terminal.is_none()
            && let Some(input) = self.input.take()
        {
            poller.remove(&input);
        }
    }

    /// Lets go of clients that have left, and has the container wait for those that read slowly.
    fn settle_clients(&mut self, poller: &Poller) {
        let before = self.clients.len();
        let (home, id) = (self.container.home(), self.container.id());
        self.clients.retain(|(_, client)| {
            if client.gone {
                poller.remove(client);
                home.tell_of(id, "detach", &[]);
            }
            !client.gone
        });
        if self.clients.len() < before && self.clients.is_empty() && self.stdin_once {
            self.input_ends = true;
            self.feed(poller);
        }
        for (number, client) in &self.clients {
            let mut flags = EpollFlags::EPOLLIN;
            flags.set(EpollFlags::EPOLLOUT, client.is_behind());
            poller.change(client, flags, self.token(Slot::Client(*number)));
        }
        let full = self.clients.iter().any(|(_, client)| client.is_full());
        match (full, self.choked) {
            (true, None) => {
                self.choked = Some(Instant::now());
                self.watch_sources(EpollFlags::empty(), poller);
            }
            (false, Some(_)) => {
                self.choked = None;
                self.watch_sources(EpollFlags::EPOLLIN, poller);
            }
            _ => {}
        }
    }

    /// The container has waited long enough.
    pub(super) fn unchoke(&mut self, poller: &Poller) {
        for (_, client) in &mut self.clients {
            if client.is_full() {
                client.give_up_on();
            }
        }
        self.settle_clients(poller);
    }

    fn watch_sources(&self, flags: EpollFlags, poller: &Poller) {
        for (index, source) in self.sources.iter().enumerate() {
            if let Some(source) = source {
                poller.change(source, flags, self.token(Slot::Source(index)));
            }
        }
    }

    /// Tells those who are attached that this was all, and has nothing watched any more: descriptors leave an epoll set by
    /// themselves only when nobody, such as a process just being made, has a copy of them. Returns those who have not taken
    /// everything yet.
    pub(super) fn end(&mut self, exit: Exit, poller: &Poller) -> Vec<Client> {
        let mut behind = Vec::new();
        for (_, mut client) in self.clients.drain(..) {
            client.send(ENDED, &exit.status.to_le_bytes());
            poller.remove(&client);
            if client.is_behind() && !client.gone {
                behind.push(client);
            }
        }
        self.sources.iter().flatten().chain(&self.input).for_each(|fd| poller.remove(fd));
        self.guests.iter().for_each(|(_, pidfd)| poller.remove(pidfd));
        self.memory.end(poller);
        if let Some(prober) = &mut self.prober {
            prober.end(poller);
        }
        // It may take a while until its end can be written down.
        (self.sources, self.input, self.terminal) = ([None, None], None, None);
        self.guests.clear();
        behind
    }

    /// Writes what of the log is still to be written. False: it is to be tried again, as it cannot be opened now.
    pub(super) fn close_log(&mut self) -> bool {
        let closed = self.log.as_mut().map_or(Ok(()), LogWriter::finish);
        let passes = |errno: i32| matches!(errno, libc::EMFILE | libc::ENFILE);
        if closed.is_err_and(|err| err.raw_os_error().is_some_and(passes)) {
            return false;
        }
        self.log = None;
        true
    }
}

/// Makes a pipe larger that has been full: whoever writes so much has to wait less often.
fn enlarge(pipe: &OwnedFd, read: usize) {
    let size = match read {
        PIPE => LARGE_PIPE,
        LARGE_PIPE if geteuid().is_root() => LARGEST_PIPE,
        _ => return,
    };
    // It may not be allowed.
    let _ = i32::try_from(size).map(|size| fcntl(pipe, FcntlArg::F_SETPIPE_SZ(size)));
}
