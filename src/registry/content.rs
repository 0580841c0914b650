//! The content of blobs as the body of a request: checked on the way, never whole in memory.

use std::fs::File;
use std::io::{ErrorKind as IoErrorKind, Read, Write};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll, ready};
use std::thread;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use reqwest::Body;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::client::{Client, Pulse, Streamed};
use super::download::{Download, Sink};
use super::endpoint::Endpoint;
use super::progress::{Phase, Reporter};
use super::pull::disk;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::{Blob, Checker, Reference, Store};

/// What is read of a file at a time.
const PIECE: u64 = 256 << 10;
/// Pieces that wait between a file and a connection.
const PIECES: usize = 4;

/// Where the content of a blob is.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    Memory(Bytes),
    File(PathBuf),
    Store(Store),
    Registry(Arc<Remote>),
}

/// A repository that blobs are copied from.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) client: Arc<Client>,
    sources: Vec<Endpoint>,
    repository: String,
}

/// The bytes of a blob on their way. The last of them come only if all are right.
#[derive(Debug)]
struct Stream {
    receiver: mpsc::Receiver<Result<Bytes>>,
    rest: Bytes,
    at: u64,
    download: Stopped,
}

/// A task that is ended with it.
#[derive(Debug, Default)]
struct Stopped(Option<AbortHandle>);

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

impl Origin {
    /// Opens the blob at an offset. Whatever comes before it is looked at too.
    fn open(&self, blob: Blob, at: u64) -> Result<Stream> {
        let checker = Checker::new(blob)?;
        let (sender, receiver) = mpsc::channel(PIECES);
        let mut stream = Stream { receiver, rest: Bytes::new(), at, download: Stopped(None) };
        match self {
            Self::Memory(bytes) => {
                let (bytes, sink) = (bytes.clone(), Checked { checker, skip: at, sender });
                in_thread(move || sink.read(&bytes[..]))?;
            }
            Self::File(path) => {
                let attempt = || format!("read {}", path.display());
                let file = File::open(path).context(attempt)?;
                let sink = Checked { checker, skip: at, sender };
                in_thread(move || sink.read(file))?;
            }
            Self::Store(store) => {
                let (file, sink) =
                    (store.blob(&blob.digest)?, Checked { checker, skip: at, sender });
                in_thread(move || sink.read(file))?;
            }
            Self::Registry(remote) => {
                let (fetched, pieces) = mpsc::channel(PIECES);
                let sink = Checked { checker, skip: at, sender: sender.clone() };
                in_thread(move || sink.take(pieces))?;
                let remote = Arc::clone(remote);
                let download = tokio::spawn(async move {
                    let mut sink = Sink::Thread(fetched);
                    if let Err(err) = remote.fetch(blob, &mut sink).await {
                        let _ = sender.send(Err(err)).await;
                    }
                });
                stream.download = Stopped(Some(download.abort_handle()));
            }
        }
        Ok(stream)
    }
}

impl Remote {
    pub(super) fn new(client: &Arc<Client>, name: &Reference) -> Self {
        let (sources, repository) = (client.sources(name.registry()), name.repository().to_owned());
        Self { client: Arc::clone(client), sources, repository }
    }

    async fn fetch(&self, blob: Blob, sink: &mut Sink) -> Result<()> {
        let Self { client, sources, repository } = self;
        let reporter = Reporter::default();
        Download { client, sources, repository, blob, reporter: &reporter }.run(sink).await
    }
}

/// Writes a blob of a registry. The last bytes come only if all are right.
pub(super) async fn fetch(
    remote: Remote,
    blob: Blob,
    mut to: impl Write + Send + 'static,
) -> Result<()> {
    let mut stream = Origin::Registry(Arc::new(remote)).open(blob, 0)?;
    // Whoever waits no longer ends the download, and so the thread that writes.
    let _download = std::mem::take(&mut stream.download);
    disk(move || {
        let mut written = 0;
        while let Some(piece) = stream.receiver.blocking_recv() {
            let piece = piece?;
            to.write_all(&piece).context(|| "write it")?;
            written += piece.len() as u64;
        }
        match written == blob.size {
            true => to.flush().context(|| "write it"),
            false => Err(Error::new(ErrorKind::InvalidState, "it was broken off")),
        }
    })
    .await
}

/// Digests take longer than connections should wait.
fn in_thread(run: impl FnOnce() + Send + 'static) -> Result<()> {
    let started = thread::Builder::new().name("coracle-blob".into()).spawn(run);
    started.map(drop).context(|| "start a thread")
}

/// Passes on what is right.
struct Checked {
    checker: Checker,
    skip: u64,
    sender: mpsc::Sender<Result<Bytes>>,
}

impl Checked {
    fn read(mut self, mut from: impl Read) {
        let read = loop {
            let mut piece = Vec::new();
            match Read::by_ref(&mut from).take(PIECE).read_to_end(&mut piece) {
                Ok(0) => break self.checker.end(),
                Ok(_) => match self.pass(piece.into()) {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(err) => break Err(err),
                },
                Err(err) if err.kind() == IoErrorKind::Interrupted => {}
                Err(err) => break Err(err).context(|| "read the blob"),
            }
        };
        if let Err(err) = read {
            let _ = self.sender.blocking_send(Err(err));
        }
    }

    fn take(mut self, mut pieces: mpsc::Receiver<Bytes>) {
        while let Some(piece) = pieces.blocking_recv() {
            match self.pass(piece) {
                Ok(true) => {}
                Ok(false) => return,
                Err(err) => return drop(self.sender.blocking_send(Err(err))),
            }
        }
    }

    /// Whether there is still somebody who wants it.
    fn pass(&mut self, mut piece: Bytes) -> Result<bool> {
        self.checker.pass(&piece)?;
        let skipped = self.skip.min(piece.len() as u64);
        self.skip -= skipped;
        drop(piece.split_to(usize::try_from(skipped).unwrap_or(piece.len())));
        Ok(piece.is_empty() || self.sender.blocking_send(Ok(piece)).is_ok())
    }
}

/// A blob that bodies of requests are made of, one after another, as often as it takes.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) origin: Origin,
    pub(super) blob: Blob,
    pub(super) reporter: Reporter,
    pub(super) state: Arc<Mutex<State>>,
}

/// What one body leaves to the next.
#[derive(Debug, Default)]
pub(super) struct State {
    stream: Option<Stream>,
    failure: Option<Error>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Content {
    /// The body that consists of so many bytes from that offset.
    pub(super) fn section(&self, at: u64, length: u64) -> Result<Streamed> {
        if length == 0 {
            return Ok(Bytes::new().into());
        }
        let parked = lock(&self.state).stream.take();
        let stream = match parked {
            Some(stream) if stream.at == at => stream,
            _ => self.origin.open(self.blob, at)?,
        };
        let pulse = Pulse::default();
        let section = Section {
            stream: Some(stream),
            left: length,
            blob: self.blob,
            pulse: pulse.clone(),
            reporter: self.reporter.clone(),
            state: Arc::clone(&self.state),
        };
        Ok(Streamed { body: Body::wrap(section), pulse })
    }

    /// Why the content cannot be had, if that is what has broken a request.
    pub(super) fn failure(&self) -> Option<Error> {
        lock(&self.state).failure.take()
    }
}

/// A body. One that is still on its way when the next is made has a stream of its own.
struct Section {
    stream: Option<Stream>,
    left: u64,
    blob: Blob,
    pulse: Pulse,
    reporter: Reporter,
    state: Arc<Mutex<State>>,
}

impl http_body::Body for Section {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        let this = &mut *self;
        let Some(stream) = this.stream.as_mut().filter(|_| this.left > 0) else {
            return Poll::Ready(None);
        };
        if stream.rest.is_empty() {
            match ready!(stream.receiver.poll_recv(context)) {
                Some(Ok(piece)) => stream.rest = piece,
                failed => {
                    let broken = || Error::new(ErrorKind::InvalidState, "its thread has ended");
                    let err = failed.and_then(Result::err).unwrap_or_else(broken);
                    lock(&this.state).failure = Some(err);
                    let message = "the content cannot be had";
                    return Poll::Ready(Some(Err(Error::new(ErrorKind::Malformed, message))));
                }
            }
        }
        let length = usize::try_from(this.left).unwrap_or(usize::MAX).min(stream.rest.len());
        let piece = stream.rest.split_to(length);
        this.left -= length as u64;
        stream.at += length as u64;
        this.pulse.beat();
        this.reporter.tell(this.blob.digest, Phase::Transferring, stream.at, this.blob.size);
        if this.left == 0 {
            lock(&this.state).stream = this.stream.take();
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
