//! Where a process's standard streams lead.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::fcntl::OFlag;

use crate::error::{Context, Result};

/// What standard input, output or error of a new process is, as [`std::process::Stdio`].
#[derive(Clone, Debug)]
pub struct Stdio(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Inherit,
    Null,
    Piped,
    Fd(Arc<OwnedFd>),
}

/// A stream made ready for a child: its end, and ours.
pub(crate) struct Prepared {
    /// `None` leaves the host's own.
    pub(crate) child: Option<Arc<OwnedFd>>,
    pub(crate) parent: Option<OwnedFd>,
}

impl Stdio {
    /// The host's own stream.
    pub fn inherit() -> Self {
        Self(Kind::Inherit)
    }

    /// `/dev/null`.
    pub fn null() -> Self {
        Self(Kind::Null)
    }

    /// A new pipe; the host's end appears in [`Child`](super::Child).
    pub fn piped() -> Self {
        Self(Kind::Piped)
    }

    /// For stream `number`, 0 to 2.
    pub(crate) fn prepare(&self, number: i32) -> Result<Prepared> {
        let input = number == 0;
        match &self.0 {
            Kind::Inherit => Ok(Prepared { child: None, parent: None }),
            Kind::Null => {
                let null = OpenOptions::new().read(input).write(!input).open("/dev/null");
                let null = null.context(|| "open /dev/null")?;
                Ok(Prepared { child: Some(Arc::new(null.into())), parent: None })
            }
            Kind::Piped => {
                let (reader, writer) =
                    nix::unistd::pipe2(OFlag::O_CLOEXEC).context(|| "make a pipe")?;
                let (child, parent) = if input { (reader, writer) } else { (writer, reader) };
                Ok(Prepared { child: Some(Arc::new(child)), parent: Some(parent) })
            }
            Kind::Fd(fd) => Ok(Prepared { child: Some(Arc::clone(fd)), parent: None }),
        }
    }

    /// A stream that is an open file already, duplicated.
    pub fn from_fd(fd: impl AsFd) -> Result<Self> {
        let fd = fd.as_fd().try_clone_to_owned().context(|| "duplicate a file descriptor")?;
        Ok(fd.into())
    }
}

impl From<OwnedFd> for Stdio {
    fn from(fd: OwnedFd) -> Self {
        Self(Kind::Fd(Arc::new(fd)))
    }
}

impl From<File> for Stdio {
    fn from(file: File) -> Self {
        OwnedFd::from(file).into()
    }
}

macro_rules! from_stream {
    ($($stream:ty),*) => { $(
        impl From<$stream> for Stdio {
            fn from(stream: $stream) -> Self {
                OwnedFd::from(stream).into()
            }
        }
    )* };
}
from_stream!(
    std::io::PipeReader,
    std::io::PipeWriter,
    std::net::TcpStream,
    std::os::unix::net::UnixStream,
    std::process::ChildStdin,
    std::process::ChildStdout,
    std::process::ChildStderr
);
