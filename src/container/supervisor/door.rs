//! Where other processes knock who want to attach to a container.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};

use super::super::files::gone;
use crate::error::{Context, Result};
use crate::sys;

/// A listening socket, which only the owner of its directory can reach.
#[derive(Debug)]
pub(super) struct Door {
    path: PathBuf,
    socket: OwnedFd,
}

impl Door {
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        let attempt = || format!("listen on {}", path.display());
        gone(fs::remove_file(&path)).context(attempt)?;
        let socket = seqpacket(SockFlag::SOCK_NONBLOCK).context(attempt)?;
        with_address(&path, |address| bind(socket.as_raw_fd(), address)).context(attempt)?;
        listen(&socket, Backlog::MAXCONN).context(attempt)?;
        Ok(Self { path, socket })
    }

    /// The next who has knocked. Fails where he cannot be let in, for want of descriptors say, and stays there.
    pub(super) fn accept(&self) -> io::Result<Option<OwnedFd>> {
        loop {
            return match sys::socket::accept_nonblocking(&self.socket) {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => Ok(None),
                // He has gone away again.
                Err(err) if err.raw_os_error() == Some(libc::ECONNABORTED) => continue,
                accepted => accepted.map(Some),
            };
        }
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Knocks at the door of another process.
pub(in crate::container) fn knock(path: &Path) -> Result<OwnedFd> {
    let attempt = || format!("connect to {}", path.display());
    let socket = seqpacket(SockFlag::empty()).context(attempt)?;
    with_address(path, |address| connect(socket.as_raw_fd(), address)).context(attempt)?;
    Ok(socket)
}

fn seqpacket(flags: SockFlag) -> Result<OwnedFd> {
    let flags = flags | SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).context(|| "make a socket")
}

/// Addresses are short, and paths may be long: it is named through a descriptor of its directory.
fn with_address(path: &Path, call: impl FnOnce(&UnixAddr) -> nix::Result<()>) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut options = File::options();
    let dir = options.read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(dir)?;
    let short = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    Ok(call(&UnixAddr::new(&short)?)?)
}
