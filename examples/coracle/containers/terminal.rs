//! The terminal that this program runs on.

use std::io::{self, IsTerminal};

use coracle::namespaces::TerminalSize;
use nix::sys::termios::{self, SetArg, Termios};

use crate::failure::{Failure, Result};

/// Hands every key on as it is typed, until this is dropped.
pub struct Raw(Termios);

impl Raw {
    pub fn new() -> Result<Self> {
        let failed = |err| Failure::new(format!("set the terminal up: {err}"));
        let before = termios::tcgetattr(io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(io::stdin(), SetArg::TCSANOW, &raw).map_err(failed)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.0);
    }
}

/// Its size, or the usual one if there is none.
pub fn size() -> TerminalSize {
    let size = TerminalSize::of(io::stdout()).or_else(|_| TerminalSize::of(io::stdin()));
    size.ok().filter(|size| size.rows > 0 && size.columns > 0).unwrap_or_default()
}

/// What a container's terminal is to be typed on must be one.
pub fn must_be_input() -> Result<()> {
    match io::stdin().is_terminal() {
        true => Ok(()),
        false => Err(Failure::new("the input device is not a TTY")
            .with_hint("leave -t out where there is no terminal")),
    }
}
