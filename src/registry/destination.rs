//! A repository that is pushed to.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::answer::Answer;
use super::auth::Scope;
use super::client::{Ask, Client, Content};
use super::content::Origin;
use super::endpoint::Endpoint;
use super::progress::{Phase, Reporter};
use super::resolve::CONTENT_DIGEST;
use super::upload::Upload;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::{Blob, Digest, Document, Reference};

/// As many blobs go at a time if nothing else is said.
pub(super) const AT_ONCE: usize = 6;

/// A repository, and how it is pushed to.
#[derive(Debug)]
pub(super) struct Destination {
    pub(super) client: Arc<Client>,
    pub(super) endpoint: Endpoint,
    pub(super) repository: String,
    pub(super) reporter: Reporter,
    /// In pieces of how many bytes blobs are sent, if not whole.
    pub(super) chunk: Option<u64>,
    pub(super) at_once: usize,
    /// Repositories out of which nothing may be taken.
    closed: Mutex<HashSet<String>>,
}

/// A blob that is to be there.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) blob: Blob,
    pub(super) origin: Origin,
    /// Repositories of the same registry that may have it.
    pub(super) holders: Vec<String>,
}

impl Destination {
    pub(super) fn new(client: &Arc<Client>, registry: &str, repository: &str) -> Self {
        Self {
            client: Arc::clone(client),
            endpoint: Endpoint::registry(registry),
            repository: repository.to_owned(),
            reporter: Reporter::default(),
            chunk: None,
            at_once: AT_ONCE,
            closed: Mutex::default(),
        }
    }

    pub(super) fn scope(&self) -> Scope {
        Scope::push(&self.repository)
    }

    pub(super) fn is_closed(&self, holder: &str) -> bool {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).contains(holder)
    }

    pub(super) fn close(&self, holder: &str) {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).insert(holder.to_owned());
    }

    /// Sends what is missing, side by side. The first failure breaks all off.
    pub(super) async fn blobs(self: &Arc<Self>, parcels: Vec<Parcel>) -> Result<()> {
        let slots = Arc::new(Semaphore::new(self.at_once));
        let mut going = JoinSet::new();
        for parcel in parcels {
            let Blob { digest, size } = parcel.blob;
            self.reporter.tell(digest, Phase::Waiting, 0, size);
            let (to, slots) = (Arc::clone(self), Arc::clone(&slots));
            going.spawn(async move {
                let _slot = slots.acquire().await;
                let sent = Upload::new(&to, parcel).run().await;
                sent.context(|| format!("send the blob {digest}"))
            });
        }
        let ended = |_| Err(Error::new(ErrorKind::InvalidState, "a blob was broken off"));
        while let Some(sent) = going.join_next().await {
            sent.unwrap_or_else(ended)?;
        }
        Ok(())
    }

    /// Stores manifests and indexes, each after those that it names; the last one gets the name.
    pub(super) async fn documents(&self, documents: &[Document], name: &Reference) -> Result<()> {
        let Some((root, before)) = documents.split_last() else { return Ok(()) };
        for document in before {
            self.document(document, None).await?;
        }
        self.document(root, name.tag()).await.map(drop)
    }

    /// Stores a manifest or index, once all that it names is there.
    pub(super) async fn document(&self, document: &Document, tag: Option<&str>) -> Result<Answer> {
        let Document { descriptor, blob, bytes } = document;
        let attempt = || format!("send the manifest {}", blob.digest);
        let which = tag.map_or_else(|| blob.digest.to_string(), str::to_owned);
        let (path, scope) = (format!("/v2/{}/manifests/{which}", self.repository), self.scope());
        let mut ask = Ask::new(Method::PUT, &path, &scope);
        let media_type = HeaderValue::from_str(descriptor.media_type().as_ref());
        let media_type = media_type
            .map_err(|_| Error::new(ErrorKind::Malformed, "its media type cannot be sent"));
        ask.headers.insert(CONTENT_TYPE, media_type.context(attempt)?);
        let bytes = Bytes::from(bytes.clone());
        ask.body = Content::Bytes(&bytes);
        let answer = self.client.send(&self.endpoint, &ask).await.context(attempt)?;
        check_digest(&answer, blob.digest).context(attempt)?;
        Ok(answer)
    }
}

/// Takes offence at a registry that has stored something else than it was sent.
pub(super) fn check_digest(answer: &Answer, expected: Digest) -> Result<()> {
    let said = answer.header(CONTENT_DIGEST).and_then(|it| it.parse::<Digest>().ok());
    match said.filter(|said| *said != expected) {
        None => Ok(()),
        Some(said) => {
            let message = format!("the registry says that it has stored {said}, not {expected}");
            Err(Error::new(ErrorKind::Malformed, message))
        }
    }
}
