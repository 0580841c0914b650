//! What long work shows on a terminal, and nowhere else.

use std::io::{self, IsTerminal, Read, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Something that turns while the work goes on. It goes away when dropped.
pub struct Spinner(ProgressBar);

impl Spinner {
    pub fn new(work: &'static str) -> Self {
        Self(bar(None, "{spinner} {msg} ({elapsed})", work))
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A stream, and how much of it has passed.
pub struct Bytes<T> {
    stream: T,
    bar: ProgressBar,
}

impl<T> Bytes<T> {
    pub fn new(work: &'static str, length: Option<u64>, stream: T) -> Self {
        let style = match length {
            Some(_) => "{msg} [{bar:40}] {decimal_bytes}/{decimal_total_bytes} {eta}",
            None => "{spinner} {msg} {decimal_bytes} {decimal_bytes_per_sec}",
        };
        Self { stream, bar: bar(length, style, work) }
    }
}

impl<T: Read> Read for Bytes<T> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(into)?;
        self.bar.inc(read as u64);
        Ok(read)
    }
}

impl<T: Write> Write for Bytes<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.stream.write(bytes)?;
        self.bar.inc(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl<T> Drop for Bytes<T> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn bar(length: Option<u64>, style: &str, work: &'static str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = length.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    let style = ProgressStyle::with_template(style).expect("the templates above are right");
    bar.enable_steady_tick(Duration::from_millis(100));
    bar.with_style(style).with_message(work)
}
