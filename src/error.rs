//! The one error type of the crate.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong: what was attempted and on what, with the causes behind it as
/// [`source`](StdError::source)s, down to the system call.
///
/// `{err}` prints the outermost sentence, `{err:#}` the whole chain on one line, and `{err:?}` (what
/// `unwrap` and `fn main() -> Result` print) the chain on a line each, with the [`hint`](Error::hint).
///
/// ```
/// let err = coracle::namespaces::Command::new("/no/such/program").spawn().unwrap_err();
/// assert_eq!(err.kind(), coracle::ErrorKind::NotFound);
/// assert!(format!("{err:#}").contains("/no/such/program"));
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The class of an [`Error`], to match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file, program, user or other named thing does not exist.
    NotFound,
    /// The kernel or a file mode refused it; see [`Error::hint`].
    PermissionDenied,
    /// The request itself cannot be meant: a NUL in a string, an unknown name, a value out of range.
    InvalidInput,
    /// This kernel, machine or build cannot do it.
    Unsupported,
    /// A name is taken already.
    AlreadyExists,
    /// The thing is in use.
    Busy,
    /// A quota, a kernel limit, memory or disk space ran out.
    ResourceExhausted,
    /// A time limit passed.
    TimedOut,
    /// The thing is in a state in which this cannot be asked of it.
    InvalidState,
    /// The request would have followed a path out of the root it belongs to, or touched the host.
    SafetyViolation,
    /// A file read from elsewhere is not what it should be.
    Malformed,
    /// Another machine cannot be reached, or fails.
    Unavailable,
    /// Another failure that the operating system reported; see [`Error::raw_os_error`].
    Os,
}

impl ErrorKind {
    /// The class a Linux error number falls into.
    pub(crate) fn from_errno(errno: i32) -> Self {
        match errno {
            libc::ENOENT | libc::ESRCH | libc::ENXIO | libc::ENODEV => Self::NotFound,
            libc::EPERM | libc::EACCES | libc::EROFS => Self::PermissionDenied,
            libc::EINVAL
            | libc::ENAMETOOLONG
            | libc::ENOTDIR
            | libc::EISDIR
            | libc::ENOEXEC
            | libc::E2BIG
            | libc::ERANGE => Self::InvalidInput,
            libc::ENOSYS | libc::EOPNOTSUPP => Self::Unsupported,
            libc::EEXIST | libc::ENOTEMPTY => Self::AlreadyExists,
            libc::EBUSY | libc::ETXTBSY => Self::Busy,
            libc::ENOMEM
            | libc::ENOSPC
            | libc::EAGAIN
            | libc::EMFILE
            | libc::ENFILE
            | libc::EDQUOT
            | libc::EUSERS => Self::ResourceExhausted,
            libc::ETIMEDOUT => Self::TimedOut,
            libc::ELOOP | libc::EXDEV => Self::SafetyViolation,
            _ => Self::Os,
        }
    }
}

/// Cuts the middle out of a sentence with an absurdly long path or name in it, and writes control characters, which a
/// hostile image may have put into a name to command the terminal, as escapes.
fn shown(message: impl Into<Cow<'static, str>>) -> Cow<'static, str> {
    const KEPT: usize = 400;
    let message = message.into();
    if message.len() <= 3 * KEPT {
        return escaped(message);
    }
    let boundary = |at: usize| (at..).find(|at| message.is_char_boundary(*at)).unwrap_or(at);
    let head = &message[..boundary(KEPT)];
    let tail = &message[boundary(message.len() - KEPT)..];
    let left_out = message.len() - head.len() - tail.len();
    escaped(format!("{head}[... {left_out} bytes ...]{tail}").into())
}

fn escaped(message: Cow<'static, str>) -> Cow<'static, str> {
    if !message.contains(char::is_control) {
        return message;
    }
    let mut clean = String::with_capacity(message.len() + 8);
    for c in message.chars() {
        if c.is_control() {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    clean.into()
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner { kind, message: shown(message), hint: None, source: None }))
    }

    fn caused_by(
        source: impl StdError + Send + Sync + 'static,
        kind: ErrorKind,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        let source: Box<dyn StdError + Send + Sync> = Box::new(source);
        Self(Box::new(Inner { kind, message: shown(message), hint: None, source: Some(source) }))
    }

    pub(crate) fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    pub(crate) fn unsupported(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// Puts a sentence that says what was attempted in front of this error, keeping kind and hint.
    pub(crate) fn context(self, message: impl Into<Cow<'static, str>>) -> Self {
        let kind = self.0.kind;
        Self::caused_by(self, kind, message)
    }

    /// Says what the user can do about it.
    pub(crate) fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    pub(crate) fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether it tells of what was opened that it is not there, or is something else than belongs there, rather than
    /// that it could not be looked at.
    #[cfg_attr(not(feature = "image"), allow(dead_code, reason = "for images"))]
    pub(crate) fn says_missing(&self) -> bool {
        use ErrorKind::{InvalidInput, NotFound, SafetyViolation};
        matches!(self.kind(), NotFound | InvalidInput | SafetyViolation)
    }

    /// What to do about it, where this is a known trap.
    pub fn hint(&self) -> Option<&str> {
        let given = self.chain().find_map(|e| e.0.hint.as_deref());
        given.or_else(|| match self.raw_os_error() {
            Some(libc::EMFILE) => Some(
                "the process has as many descriptors as it may, and a container takes about ten: raise RLIMIT_NOFILE (`ulimit -n`)",
            ),
            Some(libc::ENFILE) => {
                Some("all processes together have as many files open as may be: see fs.file-max of sysctl(8)")
            }
            _ => None,
        })
    }

    /// The Linux error number at the root of it, if a system call failed.
    pub fn raw_os_error(&self) -> Option<i32> {
        let mut source: Option<&(dyn StdError + 'static)> = Some(self);
        while let Some(err) = source {
            if let Some(call) = err.downcast_ref::<SyscallError>() {
                return Some(call.errno);
            }
            source = err.source();
        }
        None
    }

    fn chain(&self) -> impl Iterator<Item = &Error> {
        std::iter::successors(Some(self), |e| {
            e.0.source.as_deref().and_then(|s| s.downcast_ref::<Error>())
        })
    }

    fn sources(&self) -> impl Iterator<Item = &(dyn StdError + 'static)> {
        let mut next = self.source();
        std::iter::from_fn(move || {
            let current = next?;
            next = current.source();
            Some(current)
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if f.alternate() {
            for source in self.sources() {
                write!(f, ": {source}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        for source in self.sources() {
            write!(f, "\n  caused by: {source}")?;
        }
        if let Some(hint) = self.hint() {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}

/// So that `?` works in functions that return [`io::Result`]; the error stays the inner one.
impl From<Error> for io::Error {
    fn from(err: Error) -> Self {
        let kind = match err.kind() {
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
            ErrorKind::InvalidInput => io::ErrorKind::InvalidInput,
            ErrorKind::Malformed => io::ErrorKind::InvalidData,
            ErrorKind::Unsupported => io::ErrorKind::Unsupported,
            ErrorKind::AlreadyExists => io::ErrorKind::AlreadyExists,
            ErrorKind::Busy => io::ErrorKind::ResourceBusy,
            ErrorKind::TimedOut => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, err)
    }
}

/// A system call that failed, as strace would print it: `fsmount("proc", nosuid): EPERM`.
/// Without a call, as from std, which does not tell it: `EPERM`.
#[derive(Debug, thiserror::Error)]
#[error("{call}{}{}", if .call.is_empty() { "" } else { ": " }, describe_errno(*.errno))]
pub(crate) struct SyscallError {
    pub(crate) call: Cow<'static, str>,
    pub(crate) errno: i32,
}

impl SyscallError {
    pub(crate) fn new(call: impl Into<Cow<'static, str>>, errno: i32) -> Self {
        Self { call: call.into(), errno }
    }
}

/// `EPERM (Operation not permitted)`.
fn describe_errno(errno: i32) -> String {
    let errno = nix::errno::Errno::from_raw(errno);
    format!("{errno:?} ({})", errno.desc())
}

/// Turns the failures of the layers below into an [`Error`] that says what was attempted.
pub(crate) trait Context<T> {
    /// `message` says what was attempted, on what; it is only built on failure.
    fn context<M: Into<Cow<'static, str>>>(self, message: impl FnOnce() -> M) -> Result<T>;
}

impl<T> Context<T> for Result<T, Error> {
    fn context<M: Into<Cow<'static, str>>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|err| err.context(message()))
    }
}

impl<T> Context<T> for Result<T, SyscallError> {
    fn context<M: Into<Cow<'static, str>>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|err| {
            let kind = ErrorKind::from_errno(err.errno);
            Error::caused_by(err, kind, message())
        })
    }
}

impl<T> Context<T> for io::Result<T> {
    fn context<M: Into<Cow<'static, str>>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|err| {
            let err = match err.downcast::<Error>() {
                Ok(own) => return own.context(message()),
                Err(err) => err,
            };
            match (err.raw_os_error(), err.kind()) {
                (Some(errno), _) => {
                    let call = SyscallError::new("", errno);
                    Error::caused_by(call, ErrorKind::from_errno(errno), message())
                }
                // std's own, mostly of a NUL in a path.
                (None, io::ErrorKind::InvalidInput) => {
                    Error::caused_by(err, ErrorKind::InvalidInput, message())
                }
                _ => Error::caused_by(err, ErrorKind::Os, message()),
            }
        })
    }
}

impl<T> Context<T> for nix::Result<T> {
    fn context<M: Into<Cow<'static, str>>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(io::Error::from).context(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Error {
        let call = SyscallError::new("fsmount(\"proc\", nosuid)", libc::EPERM);
        Err::<(), _>(call)
            .context(|| "mount proc on /proc")
            .context(|| "spawn /srv/app")
            .map_err(|e| e.with_hint("look at the host's /proc"))
            .unwrap_err()
    }

    #[test]
    fn display_is_the_outermost_sentence_and_alternate_the_chain() {
        let err = sample();
        assert_eq!(err.to_string(), "spawn /srv/app");
        assert_eq!(
            format!("{err:#}"),
            "spawn /srv/app: mount proc on /proc: fsmount(\"proc\", nosuid): EPERM (Operation not permitted)"
        );
    }

    #[test]
    fn kind_errno_and_hint_come_through_every_layer_of_context() {
        let err = sample().context("run the job");
        assert_eq!(err.kind(), ErrorKind::PermissionDenied);
        assert_eq!(err.raw_os_error(), Some(libc::EPERM));
        assert_eq!(err.hint(), Some("look at the host's /proc"));
        assert!(format!("{err:?}").ends_with("hint: look at the host's /proc"));
    }

    #[test]
    fn who_has_no_descriptor_left_is_told_of_the_limit() {
        let err = Err::<(), _>(nix::errno::Errno::EMFILE).context(|| "open it").unwrap_err();
        assert_eq!(err.kind(), ErrorKind::ResourceExhausted);
        assert!(err.hint().is_some_and(|hint| hint.contains("ulimit -n")), "{err:?}");
    }

    #[test]
    fn an_absurdly_long_message_keeps_both_ends() {
        let text =
            Error::invalid(format!("open {}: it is too long", "ä/".repeat(35_000))).to_string();
        assert!(text.starts_with("open ä/ä") && text.ends_with("/: it is too long"), "{text}");
        assert!(text.contains(" bytes ...]") && text.len() < 1000, "{text}");
    }

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
        let err = Error::invalid("user \u{1b}[2J\0\n\u{e9}");
        assert_eq!(err.to_string(), "user \\u{1b}[2J\\u{0}\\n\u{e9}");
    }

    #[test]
    fn errors_of_std_keep_number_and_kind_and_ours_come_back_out() {
        let missing = std::fs::metadata("/no/such").context(|| "look").unwrap_err();
        assert_eq!(format!("{missing:#}"), "look: ENOENT (No such file or directory)");
        assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
        let nul = std::fs::metadata("a\0b").context(|| "look").unwrap_err();
        assert_eq!(nul.kind(), ErrorKind::InvalidInput);
        let ours = Err::<(), _>(io::Error::from(sample())).context(|| "run").unwrap_err();
        assert_eq!((ours.kind(), ours.hint().is_some()), (ErrorKind::PermissionDenied, true));
    }

    #[test]
    fn an_error_is_one_word_wide() {
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }
}
