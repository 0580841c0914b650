//! Containers that outlive the process that starts them: each has a small process, the host's program started anew, that
//! looks after it.
//!
//! ```no_run
//! fn main() -> coracle::Result<()> {
//!     // First of all, before threads are started or arguments read.
//!     coracle::monitor::run_if_requested();
//!     let engine = coracle::Engine::open_default()?;
//!     engine.find("web")?.start_detached()?;
//!     Ok(()) // and "web" goes on
//! }
//! ```

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{PipeReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::container::Container;
use super::home::Home;
use super::supervisor::Supervisor;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::Store;
use crate::namespaces::{Command, Stdio, TerminalSize};
use crate::sys;

/// The name by which the program is called that is to be a monitor.
const NAME: &str = "coracle-monitor";
/// Where a monitor says how the start went.
const REPLY: i32 = 3;
/// Where the first client of its container is.
const CLIENT: i32 = 4;
/// What of the environment a monitor gets.
const ENVIRONMENT: [&str; 6] =
    ["PATH", "HOME", "TMPDIR", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "RUST_BACKTRACE"];

/// Whether this program would become a monitor if it were started as one.
static READY: AtomicBool = AtomicBool::new(false);

/// Makes this process a monitor if it has been started to be one, and does not return then.
///
/// A host that starts containers [detached](Container::start_detached) calls it first of all in `main`: while there is one
/// thread, and before it looks at its arguments.
pub fn run_if_requested() {
    READY.store(true, Ordering::Relaxed);
    let mut args = std::env::args_os();
    if args.next().as_deref() != Some(OsStr::new(NAME)) {
        return;
    }
    // Whoever calls it so by hand learns nothing and breaks nothing.
    let status = Request::read(args).and_then(|request| run(&request));
    #[allow(clippy::exit, reason = "it is this process's only purpose")]
    exit(status.unwrap_or(2));
}

/// What a monitor is to do, as its arguments say.
#[derive(Debug)]
struct Request {
    root: PathBuf,
    id: String,
    terminal: TerminalSize,
    /// The container has a client from the start.
    attached: bool,
}

impl Request {
    fn arguments(&self) -> [OsString; 5] {
        let TerminalSize { columns, rows } = self.terminal;
        let attached = u8::from(self.attached);
        let numbers = [columns, rows, attached.into()].map(|number| number.to_string().into());
        let [columns, rows, attached] = numbers;
        [self.root.clone().into(), self.id.clone().into(), columns, rows, attached]
    }

    fn read(args: impl Iterator<Item = OsString>) -> Option<Self> {
        let args: Vec<_> = args.collect();
        let [root, id, columns, rows, attached] = args.as_slice() else { return None };
        let number = |text: &OsString| text.to_str()?.parse::<u16>().ok();
        Some(Self {
            root: root.into(),
            id: id.to_str()?.to_owned(),
            terminal: TerminalSize::new(number(columns)?, number(rows)?),
            attached: number(attached)? == 1,
        })
    }
}

/// What a monitor says of the start.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Reply {
    kind: usize,
    /// The outermost first.
    messages: Vec<String>,
    hint: Option<String>,
}

/// All of them, to be told by their place.
const KINDS: [ErrorKind; 13] = [
    ErrorKind::Os,
    ErrorKind::NotFound,
    ErrorKind::PermissionDenied,
    ErrorKind::InvalidInput,
    ErrorKind::Unsupported,
    ErrorKind::AlreadyExists,
    ErrorKind::Busy,
    ErrorKind::ResourceExhausted,
    ErrorKind::TimedOut,
    ErrorKind::InvalidState,
    ErrorKind::SafetyViolation,
    ErrorKind::Malformed,
    ErrorKind::Unavailable,
];

impl From<&Error> for Reply {
    fn from(err: &Error) -> Self {
        let mut messages = vec![err.to_string()];
        let mut cause = std::error::Error::source(err);
        while let Some(err) = cause {
            messages.push(err.to_string());
            cause = err.source();
        }
        let kind = KINDS.iter().position(|kind| *kind == err.kind()).unwrap_or(0);
        Self { kind, messages, hint: err.hint().map(str::to_owned) }
    }
}

impl Reply {
    fn into_error(self) -> Error {
        let kind = KINDS.get(self.kind).copied().unwrap_or(ErrorKind::Os);
        let mut messages = self.messages.into_iter().rev();
        let err = Error::new(kind, messages.next().unwrap_or_default());
        let err = self.hint.into_iter().fold(err, Error::with_hint);
        messages.fold(err, Error::context)
    }
}

/// The life of a monitor.
fn run(request: &Request) -> Option<i32> {
    let mut reply = File::from(sys::process::inherited(REPLY)?);
    let client = request.attached.then(|| sys::process::inherited(CLIENT)).flatten();
    // The host need not reap it.
    if !sys::process::leave_parent().ok()? {
        return Some(0);
    }
    let begun = Store::open_existing(&request.root).and_then(Home::open).and_then(|home| {
        let container = home.find(&request.id)?;
        let (_, mut supervision) = Supervisor::open(&home)?;
        supervision.begin(&container, request.terminal, client.into_iter().collect())?;
        Ok(supervision)
    });
    let answer = begun.as_ref().err().map(Reply::from);
    let answer = serde_json::to_vec(&answer).ok()?;
    // The host may have given up.
    let _ = reply.write_all(&answer);
    drop(reply);
    let supervision = begun.ok()?;
    // What it took to begin is of no use any more, and there may be thousands of these processes.
    sys::process::give_memory_back();
    supervision.run_until_idle();
    Some(0)
}

/// Starts a monitor that starts the container.
pub(super) fn start(
    container: &Container,
    terminal: TerminalSize,
    client: Option<OwnedFd>,
) -> Result<()> {
    if !READY.load(Ordering::Relaxed) {
        let message = "this program cannot be the monitor of a container";
        return Err(Error::new(ErrorKind::InvalidState, message)
            .with_hint("call coracle::monitor::run_if_requested() first of all in main"));
    }
    let (reader, writer) = std::io::pipe().context(|| "make a pipe")?;
    let mut command = Command::new("/proc/self/exe");
    let request = Request {
        root: container.home().store().path().into(),
        id: container.id().to_string(),
        terminal,
        attached: client.is_some(),
    };
    command.arg0(NAME).args(request.arguments());
    command.env_clear().current_dir("/");
    for name in ENVIRONMENT {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).fd(REPLY, writer);
    if let Some(client) = client {
        command.fd(CLIENT, client);
    }
    let mut monitor = command.spawn().context(|| "start the monitor of the container")?;
    // It holds the other end of the pipe too.
    drop(command);
    monitor.wait().context(|| "wait for the monitor of the container to begin")?;
    hear(reader)
}

fn hear(mut reader: PipeReader) -> Result<()> {
    const LONGEST: u64 = 1 << 20;
    let mut answer = Vec::new();
    let attempt = || "hear from the monitor of the container";
    reader.by_ref().take(LONGEST).read_to_end(&mut answer).context(attempt)?;
    let answer: Option<Reply> = serde_json::from_slice(&answer).map_err(|_| {
        Error::new(ErrorKind::InvalidState, "it ended without a word").context(attempt())
    })?;
    answer.map_or(Ok(()), |reply| Err(reply.into_error()))
}
