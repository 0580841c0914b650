//! Questions on the terminal.

use std::io::{self, Read, Write};

use nix::sys::termios::{self, LocalFlags, SetArg, Termios};

use crate::failure::{Failure, Result};
use crate::output::Output;

const INTERRUPTED: u8 = 130;

fn failed(err: impl std::fmt::Display) -> Failure {
    Failure::new(format!("read the answer: {err}"))
}

fn ask(question: &str) -> Result<()> {
    let mut stderr = io::stderr();
    stderr.write_all(question.as_bytes()).and_then(|()| stderr.flush()).map_err(failed)
}

/// Asks for a line.
pub fn line(question: &str) -> Result<String> {
    ask(question)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(failed)?;
    Ok(answer.trim().to_owned())
}

/// Whether the user wants what he is warned of.
pub fn agreed(warning: &str, out: &mut Output) -> Result<bool> {
    out.text(&format!("{warning}\nAre you sure you want to continue? [y/N] "))?;
    out.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(failed)?;
    if answer.is_empty() {
        out.line("")?;
    }
    Ok(matches!(answer.trim(), "y" | "Y"))
}

/// Asks for a line that is not to be seen.
pub fn secret(question: &str) -> Result<String> {
    // What is typed ahead is forgotten, so this comes first.
    let hidden = Hidden::new()?;
    ask(question)?;
    let answer = hidden.read();
    drop(hidden);
    ask("\n")?;
    answer
}

/// The terminal, which shows nothing and obeys no keys until this is dropped.
struct Hidden(Termios);

impl Hidden {
    fn new() -> Result<Self> {
        let before = termios::tcgetattr(io::stdin()).map_err(failed)?;
        let mut hidden = before.clone();
        // An interrupt must not leave it so.
        hidden.local_flags &= !(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG);
        termios::tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &hidden).map_err(failed)?;
        Ok(Self(before))
    }

    fn read(&self) -> Result<String> {
        let mut typed = Vec::new();
        for byte in io::stdin().lock().bytes() {
            match byte.map_err(failed)? {
                b'\n' | b'\r' | 4 => break,
                3 => return Err(Failure::with_status(INTERRUPTED, "")),
                8 | 0x7f => {
                    // A letter may have several bytes, of which the first is the last to go.
                    while typed.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
                }
                0x15 => typed.clear(),
                byte => typed.push(byte),
            }
        }
        String::from_utf8(typed).map_err(|_| failed("it is no text"))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSANOW, &self.0);
    }
}
