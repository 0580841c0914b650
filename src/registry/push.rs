//! Images from a store into a registry.

use std::future::IntoFuture;
use std::sync::Arc;

use oci_spec::image::Descriptor;

use super::content::Origin;
use super::destination::{Destination, Parcel};
use super::operation::{Operation, Running};
use super::progress::{Progress, Reporter};
use super::pull::disk;
use super::registry::Registry;
use crate::error::{Context, Error, Result};
use crate::image::{Digest, Document, Extent, Outgoing, Platform, Reference, Store, holders};

/// Sends an image; made by [`Registry::push`]. It begins when it is awaited or [`blocking`](Self::blocking) is called.
///
/// - Only those blobs are sent that the registry does not have, side by side, and as they are stored, so that every digest
///   stays. What the store knows to be in another repository of the same registry is taken from there without being
///   sent (a *mount*), if the user may read it.
/// - A broken upload goes on where the registry says that it broke, or begins anew. Answers like `429` and `503` are waited for,
///   as long as they say; see [`Builder::retries`](super::Builder::retries).
/// - Manifests come last, and the tag with the last of them: until then, and if it is broken off, the registry shows what
///   it had.
/// - Of an image that there is for several platforms all are sent if the store has all. If it has one only, that one is sent and
///   [`Pushed::left_out`] names the others; if it has some, say which by [`platform`](Self::platform).
/// - Layers that must not be passed on (*non-distributable*, of Windows) are not: the manifest says where to get them.
///
/// # Errors
///
/// `NotFound` if the store has no such image, or lacks part of it; `Malformed` if what it has is damaged, or if the registry
/// stores something else than it was sent; `PermissionDenied` if the registry wants a login or refuses it;
/// `Unavailable` or `TimedOut` if it cannot be reached, or fails; `ResourceExhausted` if it allows no more requests now.
#[derive(Debug)]
#[must_use = "nothing is sent before it is awaited, or `blocking` is called"]
pub struct Push {
    registry: Registry,
    store: Store,
    name: String,
    to: String,
    extent: Extent,
    at_once: Option<usize>,
    chunk: Option<u64>,
    reporter: Reporter,
}

/// What a registry has been sent.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Pushed {
    /// What it is called there.
    pub reference: Reference,
    /// The digest that it can be pulled by.
    pub digest: Digest,
    /// Media type, digest and size of its manifest or index.
    pub descriptor: Descriptor,
    /// The platforms of the image that were not sent, because the store does not have them.
    pub left_out: Vec<Platform>,
}

impl Pushed {
    pub(super) fn new(reference: Reference, root: &Document) -> Self {
        let (digest, descriptor) = (root.blob.digest, root.descriptor.clone());
        Self { reference, digest, descriptor, left_out: Vec::new() }
    }
}

impl Push {
    pub(super) fn new(registry: &Registry, store: &Store, name: &str, to: &str) -> Self {
        Self {
            registry: registry.clone(),
            store: store.clone(),
            name: name.to_owned(),
            to: to.to_owned(),
            extent: Extent::Here,
            at_once: None,
            chunk: None,
            reporter: Reporter::default(),
        }
    }

    /// Of an image that there is for several platforms, sends the one for this.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.extent = Extent::For(platform);
        self
    }

    /// Sends the images for all platforms that there are, or none.
    pub fn all_platforms(mut self) -> Self {
        self.extent = Extent::All;
        self
    }

    /// How many blobs are sent side by side; 6 if it is not said.
    pub fn at_once(mut self, blobs: usize) -> Self {
        self.at_once = Some(blobs.max(1));
        self
    }

    /// Sends blobs in pieces of so many bytes, where something on the way takes no long ones. That is found out where it is
    /// said (`413`). Registries that have got part of a piece mostly want the blob from its beginning.
    pub fn chunked(mut self, bytes: u64) -> Self {
        self.chunk = Some(bytes.max(1));
        self
    }

    /// Tells how far it has come. `to` is called from threads of the client's own, which wait for it meanwhile.
    pub fn on_progress(mut self, to: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        self.reporter = Reporter::new(to);
        self
    }

    /// Sends the image and waits for it. On a thread of an async runtime this blocks the thread.
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
            let (name, to) = (self.name.clone(), self.to.clone());
            self.run().await.context(|| format!("push {name} to {to}"))
        })
    }

    async fn run(self) -> Result<Pushed> {
        let reference: Reference = self.to.parse()?;
        let mut to =
            Destination::new(self.registry.client(), reference.registry(), reference.repository());
        (to.reporter, to.chunk) = (self.reporter, self.chunk);
        to.at_once = self.at_once.unwrap_or(to.at_once);
        let to = Arc::new(to);
        let (store, name, extent) = (self.store.clone(), self.name.clone(), self.extent);
        let target = reference.clone();
        let (outgoing, mut holders) = disk(move || {
            let outgoing = Outgoing::new(&store, &name, &extent)?;
            let root = outgoing.root().blob.digest;
            let holders = holders(&store, &target, root, &outgoing.blobs);
            Ok((outgoing, holders))
        })
        .await?;
        check_name(&reference, outgoing.root())?;
        let parcels = outgoing.blobs.iter().map(|blob| Parcel {
            blob: *blob,
            origin: Origin::Store(self.store.clone()),
            holders: holders.remove(&blob.digest).unwrap_or_default(),
        });
        to.blobs(parcels.collect()).await?;
        to.documents(&outgoing.documents, &reference).await?;
        let (store, name, target) = (self.store, self.name, reference.clone());
        disk(move || {
            // It may be gone by now.
            if let Ok(image) = store.image(&name) {
                store.tell_transfer("push", &target, &image);
            }
            Ok(())
        })
        .await?;
        let left_out = outgoing.left_out.clone();
        Ok(Pushed { left_out, ..Pushed::new(reference, outgoing.root()) })
    }
}

impl IntoFuture for Push {
    type Output = Result<Pushed>;
    type IntoFuture = Running<Pushed>;

    fn into_future(self) -> Running<Pushed> {
        self.operation().into_future()
    }
}

/// A name with a digest is that of one image only.
pub(super) fn check_name(name: &Reference, root: &Document) -> Result<()> {
    match name.digest().filter(|digest| *digest != root.blob.digest) {
        None => Ok(()),
        Some(digest) => Err(Error::invalid(format!(
            "the name has the digest {digest}, the image {}",
            root.blob.digest
        ))),
    }
}
