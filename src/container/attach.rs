//! The way between a container's streams and those who look at it: packets on a socket, from this process or another.
//!
//! The first byte of a packet tells what it is. To the client: 1 and 2 are output, 3 how many bytes of it he has missed
//! (little-endian, 8 bytes), 4 the end, with the status of wait(2) (4 bytes). From the client: 0 is input, 5 a size of the terminal (columns, rows), 6 the end of
//! the input; and first of all, on a socket that was connected, 7: the id of the container,
//! which comes back empty; or 8, the id of one whose limits were changed, and nothing more.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, sendmsg, socketpair};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::namespaces::{ExitStatus, TerminalSize};
use crate::sys;

/// The most bytes of output or input in one packet.
pub(super) const LARGEST: usize = 32 << 10;

pub(super) const INPUT: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
pub(super) const LOST: u8 = 3;
pub(super) const ENDED: u8 = 4;
pub(super) const RESIZE: u8 = 5;
pub(super) const END_OF_INPUT: u8 = 6;
/// The id of the container that a client wants; and, empty, that he has got it.
pub(super) const REQUEST: u8 = 7;
/// The id of a container whose limits the supervisor should look at anew.
pub(super) const LIMITS: u8 = 8;

/// What comes from a container that one is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// It wrote to standard output, or to its terminal.
    Stdout(Vec<u8>),
    /// It wrote to standard error.
    Stderr(Vec<u8>),
    /// So many bytes were left out here, as they were not read for ten seconds. The log has them.
    Lost(u64),
    /// It has ended, or the attachment has been taken away.
    Ended,
}

/// A hold on the streams of a running container. Several may be attached at once: each sees what is written from then on.
///
/// Reading slowly slows the container down, but no longer than for ten seconds. Dropping it detaches.
///
/// ```no_run
/// use coracle::Engine;
/// use coracle::container::Output;
///
/// let engine = Engine::open_default()?;
/// let attachment = engine.find("web")?.attach()?;
/// attachment.write(b"hello\n")?;
/// loop {
///     match attachment.read()? {
///         Output::Stdout(bytes) => println!("{}", String::from_utf8_lossy(&bytes)),
///         Output::Ended => break,
///         _ => {}
///     }
/// }
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Debug)]
pub struct Attachment {
    socket: OwnedFd,
    status: OnceLock<ExitStatus>,
}

impl Attachment {
    /// Both ends: the client's and the supervisor's, which does not block.
    pub(super) fn pair() -> Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .context(|| "make a pair of sockets")?;
        super::supervisor::set_nonblocking(&theirs)?;
        Ok((Self::of(ours), theirs))
    }

    pub(super) fn of(socket: OwnedFd) -> Self {
        Self { socket, status: OnceLock::new() }
    }

    /// Waits for what comes next.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn read(&self) -> Result<Output> {
        let mut buffer = vec![0; LARGEST + 1];
        let attempt = || "read the output of the container";
        let length = loop {
            match receive(&self.socket, &mut buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                // The supervisor is gone.
                Ok(0) => return Ok(Output::Ended),
                other => break other.context(attempt)?,
            }
        };
        buffer.truncate(length);
        let kind = buffer.remove(0);
        match kind {
            STDOUT => Ok(Output::Stdout(buffer)),
            STDERR => Ok(Output::Stderr(buffer)),
            LOST => {
                let number = buffer.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
                Ok(Output::Lost(number))
            }
            ENDED => {
                if let Some(status) = buffer.first_chunk() {
                    let _ =
                        self.status.set(ExitStatus::recorded(i32::from_le_bytes(*status), None));
                }
                Ok(Output::Ended)
            }
            other => {
                let message = format!("a packet of the unknown kind {other} came");
                Err(Error::new(ErrorKind::Malformed, message).context(attempt()))
            }
        }
    }

    /// How the container ended, once [`Ended`](Output::Ended) has been read: even if it is removed by then. `None` if that
    /// is not known, as when the attachment has been taken away.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.status.get().cloned()
    }

    /// [`read`](Self::read), but no longer than `timeout`: `None` if nothing has come.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn read_timeout(&self, timeout: Duration) -> Result<Option<Output>> {
        let ready = sys::wait::poll(&self.socket, Some(timeout));
        match ready.context(|| "wait for output of the container")? {
            true => self.read().map(Some),
            false => Ok(None),
        }
    }

    /// Writes to the container's standard input, or types on its terminal. What a container without an open standard
    /// input is sent is lost.
    ///
    /// # Errors
    ///
    /// `InvalidState` if it has ended.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        bytes.chunks(LARGEST).try_for_each(|chunk| self.send(INPUT, chunk))
    }

    /// Ends the container's standard input.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn close_input(&self) -> Result<()> {
        self.send(END_OF_INPUT, &[])
    }

    /// Gives the terminal another size.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn resize(&self, size: TerminalSize) -> Result<()> {
        let [a, b] = size.columns.to_le_bytes();
        let [c, d] = size.rows.to_le_bytes();
        self.send(RESIZE, &[a, b, c, d])
    }

    /// Whether the request was granted.
    pub(super) fn is_welcome(&self) -> Result<bool> {
        let mut kind = [0];
        match receive(&self.socket, &mut kind, MsgFlags::empty()) {
            Ok(0) => Ok(false),
            other => {
                other.map(|_| kind == [REQUEST]).context(|| "wait for the supervisor's answer")
            }
        }
    }

    pub(super) fn send(&self, kind: u8, bytes: &[u8]) -> Result<()> {
        loop {
            match send_packet(self.socket.as_fd(), kind, bytes) {
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) if matches!(err.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET)) => {
                    let message = "it has ended, or nobody holds its streams any more";
                    return Err(Error::new(ErrorKind::InvalidState, message)
                        .context("write to the container"));
                }
                other => return other.context(|| "write to the container"),
            }
        }
    }
}

/// Readable when something has come.
impl AsFd for Attachment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Receives one packet; none will come any more if it has the length 0.
pub(super) fn receive(
    socket: &impl AsRawFd,
    buffer: &mut [u8],
    flags: MsgFlags,
) -> nix::Result<usize> {
    match recv(socket.as_raw_fd(), buffer, flags) {
        // The other side has closed without reading all that it was sent, which is told once, and before what it had to
        // say itself.
        Err(Errno::ECONNRESET) => recv(socket.as_raw_fd(), buffer, flags),
        other => other,
    }
}

/// Sends one packet, or none of it.
pub(super) fn send_packet(socket: BorrowedFd<'_>, kind: u8, bytes: &[u8]) -> io::Result<()> {
    let parts = [IoSlice::new(std::slice::from_ref(&kind)), IoSlice::new(bytes)];
    sendmsg::<()>(socket.as_raw_fd(), &parts, &[], MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}
