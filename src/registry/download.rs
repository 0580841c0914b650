//! Blobs, over as many connections as it takes.

use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, HeaderValue, RANGE};
use tokio::sync::mpsc;

use super::auth::Scope;
use super::client::{Ask, Client};
use super::endpoint::Endpoint;
use super::failure::Failure;
use super::progress::{Phase, Reporter};
use crate::error::{Error, ErrorKind, Result};
use crate::image::Blob;

/// A blob that is being fetched.
pub(super) struct Download<'a> {
    pub(super) client: &'a Client,
    pub(super) sources: &'a [Endpoint],
    pub(super) repository: &'a str,
    pub(super) blob: Blob,
    pub(super) reporter: &'a Reporter,
}

/// Who takes the pieces of a blob.
pub(super) enum Sink {
    /// Another thread. It says itself why it takes no more.
    Thread(mpsc::Sender<Bytes>),
    Memory(Vec<u8>),
}

impl Sink {
    async fn take(&mut self, piece: Bytes) -> Result<()> {
        match self {
            Self::Thread(sender) => sender.send(piece).await.map_err(|_| {
                Error::new(ErrorKind::InvalidState, "the thread that stores it has ended")
            }),
            Self::Memory(bytes) => {
                bytes.extend_from_slice(&piece);
                Ok(())
            }
        }
    }
}

/// Where a transfer was broken off.
enum Broken {
    /// By the other side.
    Source(Failure),
    /// By whoever takes the pieces.
    Sink(Error),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Source(failure)
    }
}

impl Download<'_> {
    /// Fetches the blob and hands on its pieces in order. What is there when a connection breaks is not fetched again.
    ///
    /// The length is checked, the digest is not.
    pub(super) async fn run(&self, sink: &mut Sink) -> Result<()> {
        let (mut at, mut source, mut attempt) = (0, 0, 0);
        loop {
            let begun = at;
            let failure = match self.stream(&self.sources[source], &mut at, sink).await {
                Ok(()) => return Ok(()),
                Err(Broken::Sink(err)) => return Err(err),
                Err(Broken::Source(failure)) => failure,
            };
            if at > begun {
                attempt = 0;
            }
            attempt += 1;
            self.reporter.tell(self.blob.digest, Phase::Retrying, at, self.blob.size);
            if let Err(err) = self.client.pause(attempt, failure).await {
                if source + 1 == self.sources.len() {
                    return Err(err);
                }
                (source, attempt) = (source + 1, 0);
            }
        }
    }

    async fn stream(&self, source: &Endpoint, at: &mut u64, sink: &mut Sink) -> Result<(), Broken> {
        let Blob { digest, size } = self.blob;
        let path = format!("/v2/{}/blobs/{digest}", self.repository);
        let scope = Scope::pull(self.repository);
        let mut ask = Ask::get(&path, &scope);
        if *at > 0 {
            let range = HeaderValue::try_from(format!("bytes={at}-"));
            ask.headers.insert(RANGE, range.map_err(|_| unlike("a range")).map_err(Failure::from)?);
        }
        let mut answer = self.client.once(source, &ask).await?;
        let mut skip = match answer.status() {
            StatusCode::PARTIAL_CONTENT => {
                let from = answer.header(CONTENT_RANGE).unwrap_or_default();
                if !from.starts_with(&format!("bytes {at}-")) {
                    let message = format!("it was asked for bytes from {at} and sends {from:?}");
                    return Err(Failure::from(unlike(message)).into());
                }
                0
            }
            // It cannot begin in the middle.
            _ => {
                if let Some(length) = answer.length().filter(|length| *length != size) {
                    return Err(Failure::from(self.wrong_size(length)).into());
                }
                *at
            }
        };
        self.reporter.tell(digest, Phase::Transferring, *at, size);
        let reading = || format!("read what {} sends for {path}", source.name);
        while let Some(mut piece) = answer.piece().await.map_err(|it| it.context(reading))? {
            if skip > 0 {
                let skipped = piece.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
                skip -= piece.split_to(skipped).len() as u64;
            }
            if piece.is_empty() {
                continue;
            }
            let reached = *at + piece.len() as u64;
            if reached > size {
                return Err(Failure::from(self.wrong_size(reached)).into());
            }
            sink.take(piece).await.map_err(Broken::Sink)?;
            *at = reached;
            self.reporter.tell(digest, Phase::Transferring, *at, size);
        }
        match *at {
            at if at == size => Ok(()),
            at => {
                let message =
                    format!("{} sent {at} of {size} bytes of the blob {digest}", source.name);
                Err(Failure::again(unlike(message)).into())
            }
        }
    }

    fn wrong_size(&self, found: u64) -> Error {
        let Blob { digest, size } = self.blob;
        unlike(format!(
            "the blob {digest} has {found} bytes or more there, the manifest says {size}"
        ))
    }
}

fn unlike(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Malformed, message)
}
