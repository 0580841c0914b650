//! A connection to a D-Bus daemon for a few calls
//! ([the specification](https://dbus.freedesktop.org/doc/dbus-specification.html)).
//!
//! zbus makes and reads the messages, but does not carry them: each of its own ways to do so starts threads that stay
//! in the process for good. Here the calling thread writes and reads, and nothing is left when it is done.

use std::collections::VecDeque;
use std::fmt::Write;
use std::future::Future;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use nix::sys::socket::{MsgFlags, send};
use zbus::Message;
use zbus::address::Transport;
use zbus::address::transport::UnixSocket;
use zbus::connection::socket::ReadHalf;
use zbus::message::Type;

/// Where a bus listens, as far as this library can reach it.
pub(super) fn socket_address(address: &zbus::Address) -> io::Result<SocketAddr> {
    match address.transport() {
        Transport::Unix(unix) => match unix.path() {
            UnixSocket::File(path) => SocketAddr::from_pathname(path),
            UnixSocket::Abstract(name) => SocketAddr::from_abstract_name(name.as_bytes()),
            _ => Err(ErrorKind::Unsupported.into()),
        },
        _ => Err(ErrorKind::Unsupported.into()),
    }
}

/// An open connection. Every wait for the other end ends at the deadline, with `TimedOut`.
#[derive(Debug)]
pub(super) struct Connection {
    link: Link,
    /// Signals that came while an answer was awaited.
    signals: VecDeque<Message>,
}

#[derive(Debug)]
struct Link {
    stream: UnixStream,
    deadline: Instant,
}

impl Connection {
    /// Connects, proves to be this user, and says hello.
    pub(super) fn open(address: &SocketAddr, patience: Duration) -> zbus::Result<Self> {
        let stream = UnixStream::connect_addr(address)?;
        let mut link = Link { stream, deadline: Instant::now() + patience };
        // The user id in decimal digits, and those in hexadecimal. The kernel tells it to the daemon.
        let mut id = String::new();
        for digit in nix::unistd::geteuid().to_string().bytes() {
            _ = write!(id, "{digit:02x}");
        }
        link.write(format!("\0AUTH EXTERNAL {id}\r\n").as_bytes())?;
        let answer = link.read_line()?;
        if !answer.starts_with("OK ") {
            return Err(zbus::Error::Handshake(answer));
        }
        link.write(b"BEGIN\r\n")?;
        let mut connection = Self { link, signals: VecDeque::new() };
        let bus = "org.freedesktop.DBus";
        let hello = Message::method_call("/org/freedesktop/DBus", "Hello")?;
        connection.call(&hello.destination(bus)?.interface(bus)?.build(&())?)?;
        Ok(connection)
    }

    /// Asks to be sent the signals that the rule matches.
    pub(super) fn add_match(&mut self, rule: &str) -> zbus::Result<()> {
        let bus = "org.freedesktop.DBus";
        let call = Message::method_call("/org/freedesktop/DBus", "AddMatch")?;
        self.call(&call.destination(bus)?.interface(bus)?.build(&rule)?).map(drop)
    }

    /// Sends the call and waits for its answer; an answer that is an error becomes `MethodError`.
    pub(super) fn call(&mut self, call: &Message) -> zbus::Result<Message> {
        self.link.write(call.data())?;
        let serial = call.primary_header().serial_num();
        loop {
            let message = self.link.read()?;
            let header = message.header();
            let answers = header.reply_serial() == Some(serial);
            match message.message_type() {
                Type::MethodReturn if answers => return Ok(message),
                Type::Error if answers => return Err(message.into()),
                Type::Signal => self.signals.push_back(message),
                _ => {}
            }
        }
    }

    /// The next signal, of those that came during a call the oldest.
    pub(super) fn signal(&mut self) -> zbus::Result<Message> {
        if let Some(signal) = self.signals.pop_front() {
            return Ok(signal);
        }
        loop {
            let message = self.link.read()?;
            if message.message_type() == Type::Signal {
                return Ok(message);
            }
        }
    }
}

impl Link {
    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
    }

    /// Without a SIGPIPE for the host if the daemon has closed its end.
    fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.set_write_timeout(Some(self.left()?))?;
            match send(self.stream.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(nix::errno::Errno::EINTR | nix::errno::Errno::EAGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.stream.set_read_timeout(Some(self.left()?))?;
            match self.stream.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Err(err)
                    if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                other => return other,
            }
        }
    }

    /// A line of the handshake. Byte by byte, as messages may follow it.
    fn read_line(&mut self) -> io::Result<String> {
        const LONGEST: usize = 1 << 14;
        let mut line = Vec::new();
        let mut byte = [0];
        while !line.ends_with(b"\r\n") && line.len() < LONGEST {
            self.read_some(&mut byte)?;
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    fn read(&mut self) -> zbus::Result<Message> {
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        let message = pin!(self.receive_message(0, &mut bytes, &mut fds));
        match message.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(message) => message,
            Poll::Pending => Err(zbus::Error::Failure("a read that blocks is pending".into())),
        }
    }
}

/// Its futures are ready at the first poll.
#[async_trait]
impl ReadHalf for Link {
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        Ok((self.read_some(buffer)?, Vec::new()))
    }
}
