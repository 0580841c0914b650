//! Why a command did not do what was asked, and the exit status that tells it.

use std::fmt::Display;
use std::io::{self, Write};

use coracle::{Error, ErrorKind};

pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// For an option that makes no sense.
pub const USAGE: u8 = 125;
/// For a template that makes no sense, of `inspect`.
pub const TEMPLATE: u8 = 64;
/// What a shell shows of a program that SIGPIPE has ended.
const BROKEN_PIPE: u8 = 128 + 13;

/// A failure; without a message if all has been said.
#[derive(Debug)]
pub struct Failure {
    status: u8,
    message: String,
    hint: Option<String>,
    kind: Option<ErrorKind>,
}

impl Failure {
    pub fn new(message: impl Display) -> Self {
        Self::with_status(1, message)
    }

    pub fn with_status(status: u8, message: impl Display) -> Self {
        Self { status, message: message.to_string(), hint: None, kind: None }
    }

    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The same with this exit status, unless it has one that says more.
    pub fn exiting_with_at_least(self, status: u8) -> Self {
        Self { status: self.status.max(status), ..self }
    }

    /// The user knows already.
    pub fn told() -> Self {
        Self::new("")
    }

    pub fn status(&self) -> u8 {
        self.status
    }

    pub fn is_not_found(&self) -> bool {
        self.kind == Some(ErrorKind::NotFound)
    }

    /// Says it on stderr, with what can be done about it.
    pub fn print(&self) {
        if self.message.is_empty() {
            return;
        }
        let mut stderr = io::stderr().lock();
        // There is nobody left to tell if this fails.
        let _ = writeln!(stderr, "Error: {}", self.message);
        if let Some(hint) = &self.hint {
            let _ = writeln!(stderr, "Hint: {hint}");
        }
    }

    fn broken_pipe() -> Self {
        Self::with_status(BROKEN_PIPE, "")
    }
}

/// What the library hints at, in words of this command line.
fn as_option(hint: &str) -> String {
    let words = [
        ("Registry::login, or `docker login`", "`coracle login`"),
        ("Builder::plain_http", "--insecure-registry"),
        ("Builder::certificate_authority", "a ca.crt in --cert-dir"),
        ("Builder::client_certificate", "client.cert and client.key in --cert-dir"),
        // Nothing of this command line's.
        ("Registry::tags lists what there is; ", ""),
        ("; Builder::retries sets how often that happens by itself", ""),
        ("Builder::read_timeout and connect_timeout set how long is waited", "try again later"),
        (
            "Builder::trust_token_server allows it by name",
            "there is no way around that here, but one in the library",
        ),
    ];
    words.iter().fold(hint.to_owned(), |hint, (library, here)| hint.replace(library, here))
}

impl From<Error> for Failure {
    fn from(err: Error) -> Self {
        if err.raw_os_error() == Some(nix::libc::EPIPE) {
            return Self::broken_pipe();
        }
        let hint = err.hint().map(as_option);
        Self { hint, kind: Some(err.kind()), ..Self::new(format!("{err:#}")) }
    }
}

impl From<io::Error> for Failure {
    /// Of writing to stdout: everything else is the library's to do.
    fn from(err: io::Error) -> Self {
        match err.kind() {
            io::ErrorKind::BrokenPipe => Self::broken_pipe(),
            _ => Self::new(format!("write to standard output: {err}")),
        }
    }
}
