//! Images from registry to registry.

use std::future::IntoFuture;
use std::sync::Arc;

use super::content::{Origin, Remote};
use super::destination::{AT_ONCE, Destination, Parcel};
use super::operation::{Operation, Running};
use super::progress::{Progress, Reporter};
use super::push::{Pushed, check_name};
use super::registry::Registry;
use super::resolve;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::{Document, DocumentKind, Graph, Index, Platform, Reference};

/// Copies an image from registry to registry; made by [`Registry::copy`]. It begins when it is awaited or
/// [`blocking`](Self::blocking) is called.
///
/// - Nothing is stored on the way, and no blob is held in memory: its bytes pass from one connection to the other, and
///   the last of them only if all of them have the digest.
/// - The image goes for all platforms that there are, with whatever else an index names, unless
///   [`platform`](Self::platform) says otherwise; artifacts go too. What the target has is not sent, and within one registry
///   blobs are taken from the other repository without being sent.
/// - What breaks is tried again as by [`Pull`](super::Pull) and [`Push`](super::Push).
///
/// # Errors
///
/// Those of [`Pull`](super::Pull) and [`Push`](super::Push).
#[derive(Debug)]
#[must_use = "nothing is copied before it is awaited, or `blocking` is called"]
pub struct Transfer {
    registry: Registry,
    from: String,
    to: String,
    platform: Option<Platform>,
    at_once: usize,
    reporter: Reporter,
}

impl Transfer {
    pub(super) fn new(registry: &Registry, from: &str, to: &str) -> Self {
        Self {
            registry: registry.clone(),
            from: from.to_owned(),
            to: to.to_owned(),
            platform: None,
            at_once: AT_ONCE,
            reporter: Reporter::default(),
        }
    }

    /// Tells how far it has come. `to` is called from threads of the client's own, which wait for it meanwhile.
    pub fn on_progress(mut self, to: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        self.reporter = Reporter::new(to);
        self
    }

    /// How many blobs are copied side by side; 6 if it is not said.
    pub fn at_once(mut self, blobs: usize) -> Self {
        self.at_once = blobs.max(1);
        self
    }

    /// Of an image that there is for several platforms, copies the one for this.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }

    /// Copies the image and waits for it. On a thread of an async runtime this blocks the thread.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn blocking(self) -> Result<Pushed> {
        self.operation().blocking()
    }

    fn operation(self) -> Operation<Pushed> {
        let registry = self.registry.clone();
        Operation::new(&registry, async move {
            let (from, to) = (self.from.clone(), self.to.clone());
            self.run().await.context(|| format!("copy {from} to {to}"))
        })
    }

    async fn run(self) -> Result<Pushed> {
        let (from, to): (Reference, Reference) = (self.from.parse()?, self.to.parse()?);
        let client = self.registry.client();
        let mut target = Destination::new(client, to.registry(), to.repository());
        (target.reporter, target.at_once) = (self.reporter, self.at_once);
        let source = Source(Arc::new(Remote::new(client, &from)));
        let root = source.root(&from, self.platform.as_ref()).await?;
        check_name(&to, &root)?;
        let Graph { documents, blobs, .. } = source.graph(&from, root).await?;
        let remote = source.0;
        let same = from.registry() == to.registry() && from.repository() != to.repository();
        let parcels = blobs.into_iter().map(|blob| Parcel {
            blob,
            origin: Origin::Registry(Arc::clone(&remote)),
            holders: same.then(|| from.repository().to_owned()).into_iter().collect(),
        });
        let target = Arc::new(target);
        target.blobs(parcels.collect()).await?;
        target.documents(&documents, &to).await?;
        let root = documents.last().ok_or_else(|| Error::invalid("there is nothing to copy"))?;
        Ok(Pushed::new(to, root))
    }
}

impl IntoFuture for Transfer {
    type Output = Result<Pushed>;
    type IntoFuture = Running<Pushed>;

    fn into_future(self) -> Running<Pushed> {
        self.operation().into_future()
    }
}

/// A repository that is copied from.
struct Source(Arc<Remote>);

impl Source {
    /// What is to be copied: the image for a platform, or all that the name means.
    async fn root(&self, from: &Reference, platform: Option<&Platform>) -> Result<Document> {
        let root = resolve::document(&self.0.client, from, None).await?;
        let media_type = root.descriptor.media_type();
        match (platform, DocumentKind::of(media_type)) {
            (Some(platform), Some(DocumentKind::Index)) => {
                let attempt = || format!("read the index {}", root.blob.digest);
                let index = Index::parse(&root.bytes, media_type).context(attempt)?;
                let (descriptor, blob) = index.choose(platform).context(attempt)?;
                let client = &self.0.client;
                let chosen = resolve::document(client, from, Some(blob.digest)).await?;
                Ok(Document { descriptor: descriptor.clone(), ..chosen })
            }
            _ => Ok(root),
        }
    }

    async fn graph(&self, from: &Reference, root: Document) -> Result<Graph> {
        let mut graph = Graph::new(root.descriptor.clone(), root.blob);
        let mut root = Some(root);
        while let Some((_, blob)) = graph.next() {
            let document = match root.take() {
                Some(root) => root,
                None => resolve::document(&self.0.client, from, Some(blob.digest)).await?,
            };
            if document.blob != blob {
                let message = format!(
                    "the manifest {} has {} bytes, the index says {}",
                    blob.digest, document.blob.size, blob.size
                );
                return Err(Error::new(ErrorKind::Malformed, message));
            }
            graph.add(document)?;
        }
        Ok(graph)
    }
}
