//! Images from a registry into a store.

use std::collections::HashSet;
use std::convert::Infallible;
use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use oci_spec::image::Descriptor;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use super::client::Client;
use super::download::{Download, Sink};
use super::endpoint::Endpoint;
use super::flight;
use super::operation::{Operation, Running};
use super::progress::{Phase, Progress, Reporter};
use super::registry::Registry;
use super::resolve;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::{
    Blob, Config, Document, DocumentKind, Image, Index, Intake, MAX_DOCUMENT, Manifest, Named,
    Platform, Reference, Room, Store,
};

/// As many layers come at a time if nothing else is said; what skopeo and podman do.
const AT_ONCE: usize = 6;
/// Pieces that wait between a connection and the thread that stores them.
const PIECES: usize = 4;

/// Fetches an image; made by [`Registry::pull`]. It begins when it is awaited or [`blocking`](Self::blocking) is called.
///
/// - The name is that of a tag, or of a digest, in which case nobody is asked if the store has it. An image that the store has
///   as the tag now names it costs one request.
/// - The layers come side by side, and each passes once: to the disk, through its digest, the decompressor and the
///   digest of its content, and unpacked. What the store has is not fetched; a layer that another pull of this process
///   is fetching into the same store is waited for.
/// - A broken connection goes on where it broke. Answers like `429` and `503` are waited for, as long as they say; see
///   [`Builder::retries`](super::Builder::retries).
/// - The image shows once all of it is there. Until then, and if it is broken off, what is whole of it waits in the store
///   for the next attempt or [`collect_garbage`](Store::collect_garbage).
///
/// # Errors
///
/// `NotFound` if there is no such image, or none for the platform; `PermissionDenied` if the registry wants a login or
/// refuses it; `Unavailable` or `TimedOut` if it cannot be reached, or fails; `ResourceExhausted` if it allows no more
/// requests now, or the disk is full; `Malformed` if what comes is not what it should be; `SafetyViolation` if the registry leads
/// where credentials would be at risk.
#[derive(Debug)]
#[must_use = "nothing is fetched before it is awaited, or `blocking` is called"]
pub struct Pull {
    registry: Registry,
    work: Work,
}

#[derive(Debug)]
struct Work {
    client: Arc<Client>,
    name: String,
    store: Store,
    platforms: Platforms,
    unpack: bool,
    at_once: usize,
    reporter: Reporter,
}

#[derive(Clone, Debug, PartialEq)]
enum Platforms {
    One(Platform),
    All,
}

impl Pull {
    pub(super) fn new(registry: &Registry, name: &str, store: &Store) -> Self {
        let work = Work {
            client: Arc::clone(registry.client()),
            name: name.to_owned(),
            store: store.clone(),
            platforms: Platforms::One(Platform::host()),
            unpack: true,
            at_once: AT_ONCE,
            reporter: Reporter::default(),
        };
        Self { registry: registry.clone(), work }
    }

    /// Of an image that there is for several platforms, the one for this; the host's if it is not said.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.work.unpack &= platform == Platform::host();
        self.work.platforms = Platforms::One(platform);
        self
    }

    /// The images for all platforms that there are, and what stands beside them, such as attestations.
    pub fn all_platforms(mut self) -> Self {
        self.work.platforms = Platforms::All;
        self
    }

    /// Whether the layers are unpacked while they come, which takes little longer than fetching them; that is the
    /// default for the host's platform. If not, [`Image::rootfs`] unpacks them.
    pub fn unpack(mut self, unpack: bool) -> Self {
        self.work.unpack = unpack;
        self
    }

    /// How many layers are fetched side by side; 6 if it is not said.
    pub fn at_once(mut self, layers: usize) -> Self {
        self.work.at_once = layers.max(1);
        self
    }

    /// Tells how far it has come. `to` is called from threads of the client's own, which wait for it meanwhile.
    pub fn on_progress(mut self, to: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        self.work.reporter = Reporter::new(to);
        self
    }

    /// Fetches the image and waits for it. On a thread of an async runtime this blocks the thread.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn blocking(self) -> Result<Image> {
        self.operation().blocking()
    }

    fn operation(self) -> Operation<Image> {
        let Self { registry, work } = self;
        Operation::new(&registry, async move {
            let name = work.name.clone();
            work.run().await.map_err(suggest).context(|| format!("pull {name}"))
        })
    }
}

impl IntoFuture for Pull {
    type Output = Result<Image>;
    type IntoFuture = Running<Image>;

    fn into_future(self) -> Running<Image> {
        self.operation().into_future()
    }
}

impl Work {
    async fn run(self) -> Result<Image> {
        let reference: Reference = self.name.parse()?;
        let store = self.store.clone();
        let image = self.fetch(reference.clone()).await?;
        disk(move || {
            store.tell_transfer("pull", &reference, &image);
            Ok(image)
        })
        .await
    }

    async fn fetch(self, reference: Reference) -> Result<Image> {
        if let Some(image) = self.here(&reference) {
            let current = match reference.digest() {
                Some(digest) => Some(digest),
                None => resolve::digest(&self.client, &reference).await?,
            };
            if current == Some(image.digest()) {
                for layer in image.manifest().layers() {
                    self.reporter.tell(layer.digest, Phase::Present, layer.size, layer.size);
                }
                return Ok(image);
            }
        }
        let root = resolve::document(&self.client, &reference, None).await?;
        let store = self.store.clone();
        let (unpack, at_once) = (self.unpack, self.at_once);
        let intake = disk(move || Intake::new(&store, unpack, at_once)).await?;
        let (alive, mut ended) = mpsc::channel(1);
        let fetch = Fetch {
            alive,
            sources: self.client.sources(reference.registry()),
            reference,
            intake: Arc::new(intake),
            slots: Arc::new(Semaphore::new(self.at_once)),
            work: Arc::new(self),
        };
        let image = fetch.image(root).await;
        // Of those that were broken off nothing is left when this returns.
        let None = ended.recv().await;
        image
    }

    /// The image, if the store has all that is wanted of it.
    fn here(&self, reference: &Reference) -> Option<Image> {
        let Platforms::One(platform) = &self.platforms else { return None };
        let image = self.store.image_for(&reference.to_string(), platform).ok()?;
        image.check_present().ok()?;
        Some(image)
    }
}

/// Runs what waits for the disk.
pub(super) async fn disk<T: Send + 'static>(
    run: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let ended = || Error::new(ErrorKind::InvalidState, "its thread has ended");
    tokio::task::spawn_blocking(run).await.unwrap_or_else(|_| Err(ended()))
}

/// What a blob is to the image.
#[derive(Clone, Copy, Debug)]
enum Part {
    Layer,
    /// Of what stands beside the image in an index.
    Other,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Layer => "layer",
            Self::Other => "blob",
        })
    }
}

/// An image that is being fetched.
#[derive(Clone)]
struct Fetch {
    work: Arc<Work>,
    reference: Reference,
    sources: Vec<Endpoint>,
    intake: Arc<Intake>,
    slots: Arc<Semaphore>,
    /// Held by whoever works on it.
    alive: mpsc::Sender<Infallible>,
}

impl Fetch {
    async fn image(self, root: Document) -> Result<Image> {
        let mut room = Room::default();
        let manifests = self.manifests(&root, &mut room).await?;
        let (mut parts, mut beside) = (Vec::new(), Vec::new());
        for document in manifests {
            let attempt = || format!("read the manifest {}", document.blob.digest);
            let media_type = document.descriptor.media_type();
            let manifest = match Manifest::parse(&document.bytes, media_type) {
                // An attestation beside the images is none. The index cannot be passed on without it.
                Err(err)
                    if self.work.platforms == Platforms::All
                        && err.kind() == ErrorKind::Unsupported =>
                {
                    self.keep(&document).await?;
                    beside.extend(Named::of(&document.bytes).context(attempt)?.blobs);
                    continue;
                }
                manifest => manifest.context(attempt)?,
            };
            self.keep(&document).await?;
            let config = self.config(&manifest).await.context(attempt)?;
            room.take(&manifest.config()).context(attempt)?;
            parts.push((manifest, config));
        }
        self.blobs(&parts, &beside).await?;
        self.keep(&root).await?;
        let Self { reference, intake, .. } = self;
        disk(move || {
            let intake = Arc::into_inner(intake)
                .ok_or_else(|| Error::new(ErrorKind::InvalidState, "a layer is still coming"))?;
            intake.finish(Some(&reference), &root.descriptor, &parts)
        })
        .await
    }

    /// The manifests that are wanted of what the name means. Indexes that lie in it are kept.
    async fn manifests(&self, root: &Document, room: &mut Room) -> Result<Vec<Document>> {
        let media_type = root.descriptor.media_type();
        match DocumentKind::of(media_type) {
            Some(DocumentKind::Manifest) => return Ok(vec![root.clone()]),
            Some(DocumentKind::Index) => {}
            None => {
                return Err(Error::unsupported(format!("{media_type} is no type of an image"))
                    .with_hint(
                        "this is something else than an image, kept in a registry like one",
                    ));
            }
        }
        let attempt = || format!("read the index {}", root.blob.digest);
        let mut index = Index::parse(&root.bytes, media_type).context(attempt)?;
        for depth in 1.. {
            let nested = index.take_nested().context(attempt)?;
            if nested.is_empty() {
                break;
            }
            for (descriptor, blob) in nested {
                let document = self.named(descriptor, blob).await.context(attempt)?;
                let nested = Index::parse(&document.bytes, document.descriptor.media_type());
                let added = nested.and_then(|nested| index.add_nested(nested, depth));
                added.context(|| format!("read the index {}", blob.digest)).context(attempt)?;
                self.keep(&document).await?;
            }
        }
        let mut wanted = match &self.work.platforms {
            Platforms::One(platform) => vec![index.choose(platform).context(attempt)?.clone()],
            Platforms::All => index.manifests,
        };
        let mut seen = HashSet::new();
        wanted.retain(|(_, blob)| seen.insert(blob.digest));
        // All of them wait in memory.
        wanted.iter().try_for_each(|(_, blob)| room.take(blob)).context(attempt)?;
        let mut manifests = Vec::new();
        for (descriptor, blob) in wanted {
            manifests.push(self.named(descriptor, blob).await.context(attempt)?);
        }
        Ok(manifests)
    }

    /// Fetches what an index names.
    async fn named(&self, descriptor: Descriptor, blob: Blob) -> Result<Document> {
        let client = &self.work.client;
        let fetched = resolve::document(client, &self.reference, Some(blob.digest)).await?;
        if fetched.blob != blob {
            let message = format!(
                "the manifest {} has {} bytes, the index says {}",
                blob.digest, fetched.blob.size, blob.size
            );
            return Err(Error::new(ErrorKind::Malformed, message));
        }
        Ok(Document { descriptor, ..fetched })
    }

    async fn keep(&self, document: &Document) -> Result<()> {
        let (intake, Document { blob, bytes, .. }) = (Arc::clone(&self.intake), document.clone());
        disk(move || match intake.has(&blob)? {
            true => Ok(()),
            false => intake.document(blob, &bytes),
        })
        .await
    }

    async fn config(&self, manifest: &Manifest) -> Result<Config> {
        let blob = manifest.config();
        let attempt = || format!("read the configuration {}", blob.digest);
        if blob.size > MAX_DOCUMENT {
            let message =
                format!("it has {} bytes: no document has over {MAX_DOCUMENT}", blob.size);
            return Err(Error::new(ErrorKind::Malformed, message)).context(attempt);
        }
        let flight = flight::of(self.work.store.path(), blob.digest);
        let _alone = flight.lock().await;
        let intake = Arc::clone(&self.intake);
        let stored = disk(move || match intake.has(&blob)? {
            true => intake.stored_document(&blob).map(Some),
            false => Ok(None),
        });
        let bytes = match stored.await.context(attempt)? {
            Some(bytes) => bytes,
            None => {
                let mut sources = &*self.sources;
                loop {
                    match (self.fetch_document(blob, sources).await, sources) {
                        (Err(err), [_, others @ ..]) if is_damaged(&err, others) => {
                            sources = others;
                        }
                        (bytes, _) => break bytes.context(attempt)?,
                    }
                }
            }
        };
        let config = Config::parse(&bytes).context(attempt)?;
        let (layers, ids) = (manifest.layers().len(), config.diff_ids().len());
        if layers != ids {
            let message =
                format!("the manifest has {layers} layers, but its configuration names {ids}");
            return Err(Error::new(ErrorKind::Malformed, message));
        }
        Ok(config)
    }

    async fn fetch_document(&self, blob: Blob, sources: &[Endpoint]) -> Result<Vec<u8>> {
        let (reporter, mut sink) = (Reporter::default(), Sink::Memory(Vec::new()));
        self.download(blob, sources, &reporter).run(&mut sink).await?;
        let Sink::Memory(bytes) = sink else { return Err(broken_off()) };
        let intake = Arc::clone(&self.intake);
        disk(move || intake.document(blob, &bytes).map(|()| bytes)).await
    }

    fn download<'a>(
        &'a self,
        blob: Blob,
        sources: &'a [Endpoint],
        reporter: &'a Reporter,
    ) -> Download<'a> {
        let (client, repository) = (&*self.work.client, self.reference.repository());
        Download { client, sources, repository, blob, reporter }
    }

    /// Fetches all layers that are missing, and what else is named, side by side. The first failure breaks all off.
    async fn blobs(&self, parts: &[(Manifest, Config)], beside: &[Blob]) -> Result<()> {
        let mut seen = HashSet::new();
        let mut coming = JoinSet::new();
        let mut fetch = |blob: Blob, part: Part, may_lack: bool| {
            if !seen.insert(blob.digest) {
                return;
            }
            let fetch = self.clone();
            fetch.work.reporter.tell(blob.digest, Phase::Waiting, 0, blob.size);
            coming.spawn(async move {
                match fetch.blob(blob, part).await {
                    Err(err) if may_lack && err.kind() == ErrorKind::NotFound => Ok(()),
                    fetched => fetched.context(|| format!("fetch the {part} {}", blob.digest)),
                }
            });
        };
        for (manifest, _) in parts {
            for (number, layer) in manifest.layers().iter().enumerate() {
                fetch(*layer, Part::Layer, manifest.may_lack(number));
            }
        }
        beside.iter().for_each(|blob| fetch(*blob, Part::Other, false));
        let ended = |_| Err(Error::new(ErrorKind::InvalidState, "a layer was broken off"));
        while let Some(layer) = coming.join_next().await {
            layer.unwrap_or_else(ended)?;
        }
        Ok(())
    }

    async fn blob(&self, blob: Blob, part: Part) -> Result<()> {
        let reporter = &self.work.reporter;
        let flight = flight::of(self.work.store.path(), blob.digest);
        // Another pull may be fetching it.
        let _alone = flight.lock().await;
        let _slot = self.slots.acquire().await;
        let intake = Arc::clone(&self.intake);
        if disk(move || intake.has(&blob)).await? {
            reporter.tell(blob.digest, Phase::Present, blob.size, blob.size);
            return Ok(());
        }
        let mut sources = &*self.sources;
        loop {
            match (self.fetch_blob(blob, part, sources).await, sources) {
                (Err(err), [_, others @ ..]) if is_damaged(&err, others) => sources = others,
                (fetched, _) => return fetched,
            }
        }
    }

    async fn fetch_blob(&self, blob: Blob, part: Part, sources: &[Endpoint]) -> Result<()> {
        let reporter = &self.work.reporter;
        let (pieces, stored) = self.store(blob, part)?;
        let mut sink = Sink::Thread(pieces);
        let sent = self.download(blob, sources, reporter).run(&mut sink).await;
        drop(sink);
        if sent.is_ok() {
            reporter.tell(blob.digest, Phase::Unpacking, blob.size, blob.size);
        }
        match (sent, stored.await.unwrap_or_else(|_| Err(broken_off()))) {
            // Whoever did not break off says why it went wrong.
            (Err(err), Err(stored)) if stored.kind() == ErrorKind::InvalidState => return Err(err),
            (_, stored) => stored?,
        }
        reporter.tell(blob.digest, Phase::Complete, blob.size, blob.size);
        Ok(())
    }

    /// Begins a thread that takes in the pieces of a blob.
    fn store(
        &self,
        blob: Blob,
        part: Part,
    ) -> Result<(mpsc::Sender<Bytes>, oneshot::Receiver<Result<()>>)> {
        let (sender, mut receiver) = mpsc::channel::<Bytes>(PIECES);
        let (done, stored) = oneshot::channel();
        let (intake, alive) = (Arc::clone(&self.intake), self.alive.clone());
        let store = move || {
            let mut missing = blob.size;
            let next = || match receiver.blocking_recv() {
                Some(piece) => {
                    missing = missing.saturating_sub(piece.len() as u64);
                    Ok(Some(piece))
                }
                None if missing == 0 => Ok(None),
                None => Err(broken_off()),
            };
            let result = match part {
                Part::Layer => intake.layer(blob, next),
                Part::Other => intake.blob(blob, next),
            };
            drop((intake, alive));
            let _ = done.send(result);
        };
        let thread = thread::Builder::new().name("coracle-layer".into()).spawn(store);
        thread.context(|| "start a thread")?;
        Ok((sender, stored))
    }
}

/// Whether a source sent something else than it should, and others may not.
fn is_damaged(err: &Error, others: &[Endpoint]) -> bool {
    err.kind() == ErrorKind::Malformed && !others.is_empty()
}

/// Says what to try where something else came than should, and nothing is said yet.
fn suggest(err: Error) -> Error {
    match (err.kind(), err.hint()) {
        (ErrorKind::Malformed, None) => err.with_hint(
            "it is damaged there or on the way: pull again, and if that does not help, push the image anew",
        ),
        _ => err,
    }
}

fn broken_off() -> Error {
    Error::new(ErrorKind::InvalidState, "it was broken off")
}
