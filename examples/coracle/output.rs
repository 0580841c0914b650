//! What goes to standard output.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use crate::failure::Result;

/// Standard output, in large pieces. Nothing of an image's own text reaches the terminal as a command to it.
pub struct Output(BufWriter<StdoutLock<'static>>);

impl Output {
    pub fn new() -> Self {
        Self(BufWriter::new(io::stdout().lock()))
    }

    pub fn line(&mut self, line: &str) -> Result<()> {
        self.text(line)?;
        self.text("\n")
    }

    /// Lines that end themselves.
    pub fn text(&mut self, text: &str) -> Result<()> {
        Ok(self.0.write_all(harmless(text).as_bytes())?)
    }

    /// Empties the screen, if it is one, for what comes next.
    pub fn clear_screen(&mut self) -> Result<()> {
        match io::stdout().is_terminal() {
            true => Ok(self.0.write_all(b"\x1b[2J\x1b[H")?),
            false => Ok(()),
        }
    }

    pub fn flush(&mut self) -> Result<()> {
        Ok(self.0.flush()?)
    }
}

/// Says something beside the output.
pub fn note(line: &str) {
    // Where nobody listens, nobody misses it.
    let _ = writeln!(io::stderr(), "{}", harmless(line));
}

/// The text with control characters as escapes (of JSON, which stays JSON), but for line ends and tabs.
fn harmless(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => clean.push(c),
            c if c.is_control() => clean.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => clean.push(c),
        }
    }
    clean
}
