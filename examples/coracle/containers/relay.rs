//! Streams between this program and a process in a container.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use coracle::container::{Attachment, Container, Output};
use coracle::namespaces::{Child, Signal, Terminal, TerminalSize};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::signal::{
    SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH,
};
use signal_hook::iterator::{Handle, Signals};

use super::keys::Keys;
use super::terminal::{self, Raw};
use crate::failure::{Failure, Result};
use crate::output::note;

/// The container's ends of the streams.
pub trait Far: Send + Sync + 'static {
    fn read(&self) -> coracle::Result<Output>;
    fn write(&self, bytes: &[u8]) -> coracle::Result<()>;
    fn close_input(&self) -> coracle::Result<()>;
    fn resize(&self, size: TerminalSize) -> coracle::Result<()>;
}

impl Far for Attachment {
    fn read(&self) -> coracle::Result<Output> {
        self.read()
    }

    fn write(&self, bytes: &[u8]) -> coracle::Result<()> {
        self.write(bytes)
    }

    fn close_input(&self) -> coracle::Result<()> {
        self.close_input()
    }

    fn resize(&self, size: TerminalSize) -> coracle::Result<()> {
        self.resize(size)
    }
}

/// The terminal of a process that is executed in a container.
pub struct Screen {
    terminal: Terminal,
    process: OwnedFd,
}

impl Screen {
    pub fn new(terminal: Terminal, child: &Child) -> Result<Self> {
        Ok(Self { terminal, process: child.as_fd().try_clone_to_owned()? })
    }
}

impl Far for Screen {
    fn read(&self) -> coracle::Result<Output> {
        // When it has ended, others that it started may have the terminal open yet: what they write is not waited for.
        let mut fds = [self.terminal.as_fd(), self.process.as_fd()]
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
        if fds[0].any() != Some(true) {
            return Ok(Output::Ended);
        }
        let mut buffer = vec![0; 32 << 10];
        let length = match Read::read(&mut &self.terminal, &mut buffer) {
            // EIO: nobody has the other side open any more.
            Ok(0) | Err(_) => return Ok(Output::Ended),
            Ok(length) => length,
        };
        buffer.truncate(length);
        Ok(Output::Stdout(buffer))
    }

    fn write(&self, bytes: &[u8]) -> coracle::Result<()> {
        // It may be gone, as reading tells.
        let _ = (&mut &self.terminal).write_all(bytes);
        Ok(())
    }

    fn close_input(&self) -> coracle::Result<()> {
        self.write(&[4])
    }

    fn resize(&self, size: TerminalSize) -> coracle::Result<()> {
        self.terminal.resize(size)
    }
}

/// Which streams, and how.
pub struct Relay {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
    pub keys: Keys,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    Ended,
    /// The keys that leave it were typed.
    Detached,
}

enum Event {
    Output(coracle::Result<Output>),
    Detached,
    Signal(i32),
}

impl Relay {
    /// Hands everything on until the process ends, or has been left. `send` are the signals, caught since before it was
    /// started.
    pub fn run(self, far: Arc<impl Far>, signals: Caught) -> Result<End> {
        let raw = match self.tty && self.stdin && io::stdin().is_terminal() {
            true => Some(Raw::new()?),
            false => None,
        };
        let (sender, events) = sync_channel(16);
        if self.stdin {
            let (far, sender, keys) = (far.clone(), sender.clone(), self.keys.clone());
            // With a terminal only: what comes from elsewhere is not typed.
            let keys = self.tty.then_some(keys);
            thread::spawn(move || type_in(&*far, keys, &sender));
        }
        let _signals = signals.handle(far.clone(), sender.clone(), self.tty);
        thread::spawn(move || {
            loop {
                let output = far.read();
                let last =
                    !matches!(output, Ok(Output::Stdout(_) | Output::Stderr(_) | Output::Lost(_)));
                if sender.send(Event::Output(output)).is_err() || last {
                    return;
                }
            }
        });
        // Past std's buffers: these are bytes, not lines.
        let mut stdout = self.stdout.then(|| own(io::stdout().as_fd())).transpose()?;
        let mut stderr = self.stderr.then(|| own(io::stderr().as_fd())).transpose()?;
        for event in events {
            let (stream, bytes) = match event {
                Event::Detached => {
                    drop(raw);
                    // Docker's words, which also end the line of its prompt.
                    note("read escape sequence");
                    return Ok(End::Detached);
                }
                Event::Signal(number) => {
                    drop(raw);
                    let code = u8::try_from(128 + number).unwrap_or(u8::MAX);
                    return Err(Failure::with_status(code, ""));
                }
                Event::Output(output) => match output? {
                    Output::Stdout(bytes) => (&mut stdout, bytes),
                    Output::Stderr(bytes) => (&mut stderr, bytes),
                    Output::Lost(bytes) => {
                        note(&format!(
                            "{bytes} bytes were not read for too long, and are left out"
                        ));
                        continue;
                    }
                    _ => return Ok(End::Ended),
                },
            };
            if let Some(stream) = stream {
                stream.write_all(&bytes)?;
            }
        }
        Ok(End::Ended)
    }
}

fn own(stream: BorrowedFd<'_>) -> Result<File> {
    Ok(stream.try_clone_to_owned()?.into())
}

/// Hands standard input on, up to its end or to the keys.
fn type_in(far: &impl Far, keys: Option<Keys>, sender: &SyncSender<Event>) {
    let mut watch = keys.as_ref().map(Keys::watch);
    let mut buffer = [0; 16 << 10];
    let mut stdin = io::stdin().lock();
    loop {
        let length = match stdin.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let sent = match &mut watch {
            None => far.write(&buffer[..length]),
            Some(watch) => {
                let (through, left) = watch.typed(&buffer[..length]);
                let sent = far.write(&through);
                if left {
                    let _ = sender.send(Event::Detached);
                    return;
                }
                sent
            }
        };
        // It has ended, which is told where its output is read.
        if sent.is_err() {
            return;
        }
    }
    let rest = watch.map(|mut watch| watch.rest()).unwrap_or_default();
    let _ = far.write(&rest).and_then(|()| far.close_input());
}

/// Signals to this program, which wait to be handled from now on.
pub struct Caught {
    signals: Signals,
    proxy: Option<Container>,
}

impl Caught {
    /// With a terminal the window's size is followed, and signals that end this program set its own terminal right first.
    /// Without one they are sent to the container, if that is given.
    pub fn new(tty: bool, proxy: Option<Container>) -> Result<Self> {
        let proxy = proxy.filter(|_| !tty);
        let signals: &[i32] = match (tty, &proxy) {
            (true, _) => &[SIGWINCH, SIGTERM, SIGHUP, SIGINT, SIGQUIT],
            (false, Some(_)) => &[SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM],
            (false, None) => &[],
        };
        let signals =
            Signals::new(signals).map_err(|err| Failure::new(format!("catch signals: {err}")))?;
        Ok(Self { signals, proxy })
    }

    fn handle(self, far: Arc<impl Far>, sender: SyncSender<Event>, tty: bool) -> Handled {
        let Self { mut signals, proxy } = self;
        let handle = signals.handle();
        let thread = thread::spawn(move || {
            for number in signals.forever() {
                match (number, &proxy) {
                    (SIGWINCH, _) if tty => drop(far.resize(terminal::size())),
                    // It may have ended already.
                    (number, Some(container)) => {
                        if let Ok(signal) = Signal::from_number(number) {
                            let _ = container.kill(signal);
                        }
                    }
                    (number, None) => drop(sender.send(Event::Signal(number))),
                }
            }
        });
        Handled { handle, thread: Some(thread) }
    }
}

/// The thread that handles signals, which ends when this is dropped.
struct Handled {
    handle: Handle,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Handled {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
