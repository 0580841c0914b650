//! The host's side of a pseudo terminal.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::error::{Context, Result};
use crate::sys;

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

impl TerminalSize {
    /// `columns` by `rows`.
    pub const fn new(columns: u16, rows: u16) -> Self {
        Self { rows, columns }
    }

    /// The present size of a terminal that is open here.
    ///
    /// # Errors
    ///
    /// ENOTTY if it is none.
    pub fn of(terminal: impl AsFd) -> Result<Self> {
        let (rows, columns) =
            sys::terminal::size(terminal.as_fd()).context(|| "read the size of a terminal")?;
        Ok(Self { rows, columns })
    }
}

impl Default for TerminalSize {
    /// 80 by 24.
    fn default() -> Self {
        Self::new(80, 24)
    }
}

/// The host's side of a process's terminal: what is written is its keyboard, what is read its screen.
///
/// Reading fails with EIO once no process has the other side open.
#[derive(Debug)]
pub struct Terminal(File);

impl Terminal {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self(fd.into())
    }

    /// The descriptor.
    #[cfg(feature = "container")]
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0.into()
    }

    /// Changes the size; the foreground process gets SIGWINCH.
    pub fn resize(&self, size: TerminalSize) -> Result<()> {
        sys::terminal::set_size(&self.0, size.rows, size.columns)
            .context(|| format!("resize a terminal to {}x{}", size.columns, size.rows))
    }

    /// The present size.
    pub fn size(&self) -> Result<TerminalSize> {
        TerminalSize::of(&self.0)
    }

    /// Another handle on the same terminal, for a second thread.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self(self.0.try_clone().context(|| "duplicate a terminal")?))
    }
}

impl Read for Terminal {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Read for &Terminal {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(buffer)
    }
}

impl Write for Terminal {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for &Terminal {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        (&self.0).write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
