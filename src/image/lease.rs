//! Leases: what garbage collection must leave alone although no image names it.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::Flock;
use oci_spec::image::{Descriptor, ImageManifest, MediaType};

use super::blobs::{self, BlobWriter};
use super::digest::{ChainId, Digest};
use super::files;
use super::image::{Image, Wanted, references};
use super::json::malformed;
use super::lock::try_lock;
use super::manifest::Blob;
use super::reference::Reference;
use super::store::Store;
use crate::error::{Context, Error, ErrorKind, Result};

/// A file of a lease is small; this much is read of one.
const MAX_LEASE: u64 = 64 << 20;
pub(super) const LEASES: &str = "leases";
const WORK: &str = "work-";
pub(super) const PIN: &str = "pin-";

/// Something that a lease holds. In its file a line each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Held {
    Blob(Digest),
    /// A manifest or index, with everything that it names.
    Document(Digest),
    /// An unpacked stack of layers.
    Chain(ChainId),
}

impl Held {
    /// The digest, if it is a document.
    pub(super) fn document(self) -> Option<Digest> {
        match self {
            Self::Document(digest) => Some(digest),
            _ => None,
        }
    }

    /// The stack, if it is one.
    pub(super) fn chain(self) -> Option<ChainId> {
        match self {
            Self::Chain(chain) => Some(chain),
            _ => None,
        }
    }

    pub(super) fn line(self) -> String {
        match self {
            Self::Blob(digest) => format!("blob {digest}\n"),
            Self::Document(digest) => format!("document {digest}\n"),
            Self::Chain(chain) => format!("chain {chain}\n"),
        }
    }

    fn parse(line: &str) -> Result<Self> {
        let unknown = || malformed(format!("the line {line:?} is unknown"));
        let (kind, digest) = line.split_once(' ').ok_or_else(unknown)?;
        let digest = Digest::in_document(digest)?;
        match kind {
            "blob" => Ok(Self::Blob(digest)),
            "document" => Ok(Self::Document(digest)),
            "chain" => Ok(Self::Chain(ChainId(digest))),
            _ => Err(unknown()),
        }
    }

    fn parse_all(text: &str) -> Result<Vec<Self>> {
        text.lines().map(Self::parse).collect()
    }
}

/// Work in progress on a store: whatever comes into the store through it, or is looked up by it, stays there until the
/// last clone is dropped, even if no image names it yet.
///
/// A process that is killed ends its work; [`collect_garbage`](Store::collect_garbage) then removes what is
/// left. Threads may share one.
///
/// ```
/// use coracle::image::{Blob, Store};
///
/// # let dir = tempfile::tempdir().unwrap();
/// # let store = Store::open(dir.path().join("images"))?;
/// let work = store.work()?;
/// let blob = work.ingest(&b"content"[..], None)?;
/// assert_eq!(blob, Blob::of(b"content"));
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Work(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    path: PathBuf,
    name: String,
    scratch: AtomicU64,
    lease: Mutex<Flock<OwnedFd>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Store {
    /// Begins work that adds to the store.
    pub fn work(&self) -> Result<Work> {
        let attempt = || format!("begin work on the image store {}", self.path().display());
        // Keeps the collector from taking the file for a dead process's before it is locked.
        let _lock = self.shared().context(attempt)?;
        let made = files::temporary(&self.path().join(LEASES), WORK);
        let (file, path) = made.map_err(files::no_space).context(attempt)?.into_parts();
        let lease = try_lock(file.into()).context(attempt)?;
        let lease = lease
            .ok_or_else(|| Error::new(ErrorKind::Busy, "the new lease is locked"))
            .context(attempt)?;
        let path = path.keep().map_err(|err| err.error).context(attempt)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (store, lease) = (self.clone(), Mutex::new(lease));
        Ok(Work(Arc::new(Inner { store, path, name, scratch: AtomicU64::new(0), lease })))
    }
}

impl Work {
    /// The store that it adds to.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Reads a stream to its end and keeps it as a blob.
    ///
    /// With `expected`, reading stops where the stream gets longer than that.
    ///
    /// # Errors
    ///
    /// `Malformed` if it is not the blob that was expected, `ResourceExhausted` if the disk is full. The store is
    /// as it was.
    pub fn ingest(&self, mut from: impl Read, expected: Option<Blob>) -> Result<Blob> {
        let mut writer = self.writer(expected)?;
        blobs::copy(&mut from, &mut writer).context(|| match expected {
            Some(blob) => format!("store the blob {}", blob.digest),
            None => "store a blob".to_owned(),
        })?;
        writer.commit()
    }

    /// A blob to be written piece by piece.
    pub fn writer(&self, expected: Option<Blob>) -> Result<BlobWriter> {
        BlobWriter::new(self, expected).context(|| "begin a blob")
    }

    /// Whether the store has the blob, as long as it should be; if so it stays.
    pub fn has(&self, blob: &Blob) -> Result<bool> {
        let _lock = self.store().shared()?;
        self.record(&[Held::Blob(blob.digest)])?;
        self.store().has(blob)
    }

    /// Keeps all that `image` is made of, unpacked layers included.
    ///
    /// # Errors
    ///
    /// `NotFound` if part of it is gone already.
    pub fn hold(&self, image: &Image) -> Result<()> {
        let attempt = || format!("hold the image {}", image.id());
        let _lock = self.store().shared().context(attempt)?;
        self.record(&image.held()).context(attempt)?;
        image.check_present().context(attempt)
    }

    /// Keeps an unpacked stack of layers, whether it is there yet or not.
    pub fn hold_chain(&self, chain: ChainId) -> Result<()> {
        let _lock = self.store().shared()?;
        self.record(&[Held::Chain(chain)])
    }

    /// Stores a manifest that was made here. The answer is what [`set_image`](Self::set_image) takes.
    pub fn add_manifest(&self, manifest: &ImageManifest) -> Result<Descriptor> {
        let bytes = serde_json::to_vec(manifest).map_err(|err| malformed(err.to_string()))?;
        let blob = self.ingest(&bytes[..], None)?;
        let media_type = manifest.media_type().clone().unwrap_or(MediaType::ImageManifest);
        Ok(blob.descriptor(media_type))
    }

    /// Makes an image of what has been stored: of a manifest, or of an index of several platforms, with all that it names.
    ///
    /// An image that bore the name keeps no name, but stays. Without a name the image is a dangling one.
    /// When this returns, the image and all of its blobs are on disk.
    ///
    /// # Errors
    ///
    /// `Malformed` or `NotFound` if a blob is missing or not what it should be, `Unsupported` if this is no image,
    /// `InvalidInput` for a name with a digest that is not this image's.
    pub fn set_image(&self, name: Option<&Reference>, manifest: &Descriptor) -> Result<Image> {
        let attempt = || match name {
            Some(name) => format!("store the image {}", name.familiar()),
            None => format!("store the image {}", manifest.digest()),
        };
        self.try_set_image(name, manifest).context(attempt)
    }

    fn try_set_image(&self, name: Option<&Reference>, manifest: &Descriptor) -> Result<Image> {
        let (store, blob) = (self.store(), Blob::try_from(manifest)?);
        if let Some(digest) = name.and_then(Reference::digest)
            && digest != blob.digest
        {
            return Err(Error::invalid(format!(
                "the name has the digest {digest}, the image {}",
                blob.digest
            )));
        }
        {
            let _lock = store.shared()?;
            self.record(&[Held::Document(blob.digest)])?;
        }
        let image = Image::of_descriptor(store, manifest, &[], Wanted::Any)?;
        image.check_present()?;
        files::sync_dir(&store.path().join("blobs/sha256"))?;
        let names = store.change_index(|index| {
            index.set(manifest, name)?;
            Ok(references(&index.entries, blob.digest))
        })?;
        Ok(image.with_references(names))
    }

    /// A path on the store's file system that nothing else uses: for layers being unpacked. Whoever makes something
    /// there removes it; after a crash the collector does.
    pub fn scratch_path(&self) -> PathBuf {
        let number = self.0.scratch.fetch_add(1, Ordering::Relaxed);
        self.store().path().join("ingest").join(format!("{}.{number}", self.0.name))
    }

    /// Notes what is held, for holders of the shared lock.
    pub(super) fn record(&self, held: &[Held]) -> Result<()> {
        let lines: String = held.iter().map(|held| held.line()).collect();
        let mut lease = self.0.lease.lock().unwrap_or_else(PoisonError::into_inner);
        append(&mut lease, &lines).context(|| format!("write the lease {}", self.0.path.display()))
    }
}

/// All of the lines, or none.
fn append(lease: &mut Flock<OwnedFd>, lines: &str) -> Result<()> {
    let mut file = File::from(lease.try_clone().context(|| "clone the descriptor")?);
    let end = file.seek(SeekFrom::End(0)).context(|| "find its end")?;
    let written = file.write_all(lines.as_bytes()).map_err(files::no_space);
    if written.is_err() {
        file.set_len(end).context(|| "take back half a line")?;
    }
    written.context(|| "append to it")
}

/// What is in use, for the collector.
#[derive(Debug, Default)]
pub(super) struct Leases {
    /// The names of works that are alive.
    pub(super) works: Vec<String>,
    /// What they and the pins hold.
    pub(super) held: Vec<Held>,
    /// The files of works that have ended.
    pub(super) stale: Vec<PathBuf>,
}

impl Store {
    /// For holders of the exclusive lock: a new lease is locked under the shared one.
    pub(super) fn leases(&self) -> Result<Leases> {
        let pinned = self.pinned()?.into_iter().flat_map(|(_, held)| held);
        let mut leases = Leases { held: pinned.collect(), ..Leases::default() };
        for (name, path) in self.lease_files(WORK)? {
            match read(&path, true)? {
                Some(held) => {
                    leases.held.extend(held);
                    leases.works.push(name);
                }
                None => leases.stale.push(path),
            }
        }
        Ok(leases)
    }

    /// The pins by their names, sorted, with what they hold.
    pub(super) fn pinned(&self) -> Result<Vec<(String, Vec<Held>)>> {
        let mut pins = Vec::new();
        for (name, path) in self.lease_files(PIN)? {
            if let Some(held) = read(&path, false)? {
                pins.push((name[PIN.len()..].to_owned(), held));
            }
        }
        pins.sort();
        Ok(pins)
    }

    fn lease_files(&self, prefix: &str) -> Result<Vec<(String, PathBuf)>> {
        let dir = self.path().join(LEASES);
        let attempt = || format!("list {}", dir.display());
        let mut files = Vec::new();
        for entry in fs::read_dir(&dir).context(attempt)? {
            let entry = entry.context(attempt)?;
            match entry.file_name().into_string() {
                Ok(name) if name.starts_with(prefix) => files.push((name, entry.path())),
                _ => {}
            }
        }
        Ok(files)
    }
}

/// What a lease holds. With `owned`, nothing if its owner is gone.
pub(super) fn read(path: &Path, owned: bool) -> Result<Option<Vec<Held>>> {
    let attempt = || format!("read the lease {}", path.display());
    let mut file = match files::open(path) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.context(attempt)?,
    };
    if owned && try_lock(file.try_clone().context(attempt)?.into()).context(attempt)?.is_some() {
        return Ok(None);
    }
    let mut text = String::new();
    Read::by_ref(&mut file).take(MAX_LEASE).read_to_string(&mut text).context(attempt)?;
    Held::parse_all(&text).map(Some).context(attempt).map_err(|err| {
        err.with_hint("nothing is removed from a store while it is unknown what is needed: remove the file if you know that nothing is")
    })
}
