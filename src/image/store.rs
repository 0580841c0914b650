//! The store: one directory with everything that images are made of.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files;
use super::json;
use super::lock::Lock;
use super::observer::Observer;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layers::ArchiveLimits;

/// Images with what they are made of, in one directory.
///
/// The directory is an OCI image layout, which other tools read in place: `skopeo inspect
/// oci:DIR:docker.io/library/app:1`. Beside it lie unpacked layers and work in progress. See
/// <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>.
///
/// Opening is cheap, and clones are handles on the same store. Any number of processes and threads may use
/// one at once. Every change is atomic and durable: what a method reports as done survives a crash of the
/// machine; a process that is killed leaves what was there before, and garbage that
/// [`collect_garbage`](Store::collect_garbage) removes. No special rights are needed.
///
/// ```
/// use coracle::image::Store;
///
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("images");
/// let store = Store::open(path)?; // made if it is missing
/// for image in store.images()? {
///     println!("{} {:?}", image.id().short(), image.references());
/// }
/// assert!(store.verify()?.is_sound());
/// # Ok::<(), coracle::Error>(())
/// ```
///
/// # Locks
///
/// The file `lock` is held (flock) for moments: shared to add content, exclusive to change names or to sweep
/// garbage. A file in `leases/` tells what a [`Work`](super::Work) in progress needs, and is locked as long as the
/// work lives.
#[derive(Clone, Debug)]
pub struct Store {
    path: Arc<PathBuf>,
    limits: ArchiveLimits,
    observer: Option<Arc<dyn Observer>>,
}

/// What marks the directory, and the one version there is.
const LAYOUT: &str = "oci-layout";
const LAYOUT_VERSION: &str = "1.0.0";
/// Directories of the store; below them nothing is for other users.
const DIRECTORIES: [&str; 6] = ["blobs", "blobs/sha256", "layers", "ingest", "leases", "trash"];

impl Store {
    /// Opens the store in the directory `path`, which is made if it is missing (its parent must exist).
    ///
    /// A layout that another tool made is a store too. The index of images is not read yet.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if the directory holds other things; `Unsupported` if it is a layout of another version.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let attempt = || format!("open the image store {}", path.display());
        match DirBuilder::new().mode(0o700).create(path) {
            Err(err) if err.kind() != io::ErrorKind::AlreadyExists => {
                Err(files::no_space(err)).context(|| "make the directory").context(attempt)
            }
            _ => Self::open_existing(path),
        }
    }

    /// Opens the store in the directory `path`, which must be there.
    ///
    /// # Errors
    ///
    /// As of [`open`](Self::open), and `NotFound` if there is no such directory.
    pub fn open_existing(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let attempt = || format!("open the image store {}", path.display());
        let absolute = path.canonicalize().context(attempt)?;
        let (path, limits) = (Arc::new(absolute), ArchiveLimits::new());
        let store = Self { path, limits, observer: None };
        store.prepare().context(attempt)?;
        Ok(store)
    }

    /// Sets what a layer may ask for at most when it is unpacked, for this handle and the images that it finds: a small
    /// blob could fill the disk.
    ///
    /// ```
    /// use coracle::image::Store;
    /// use coracle::layers::ArchiveLimits;
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("images");
    /// let limits = ArchiveLimits::new().bytes(2 * coracle::GIB).entries(100_000);
    /// let store = Store::open(path)?.layer_limits(limits);
    /// # Ok::<(), coracle::Error>(())
    /// ```
    #[must_use]
    pub fn layer_limits(mut self, limits: ArchiveLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Has somebody told what is done to images through this handle.
    #[cfg(feature = "container")]
    pub(crate) fn observed_by(self, observer: Arc<dyn Observer>) -> Self {
        Self { observer: Some(observer), ..self }
    }

    pub(super) fn observer(&self) -> Option<&dyn Observer> {
        self.observer.as_deref()
    }

    pub(super) fn limits(&self) -> ArchiveLimits {
        self.limits
    }

    /// The directory, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn locked(&self) -> Result<Lock> {
        Lock::exclusive(&self.path)
    }

    pub(super) fn shared(&self) -> Result<Lock> {
        Lock::shared(&self.path)
    }

    fn prepare(&self) -> Result<()> {
        let made = match self.check_layout()? {
            true => false,
            false => {
                self.check_empty()?;
                true
            }
        };
        for name in DIRECTORIES {
            let path = self.path.join(name);
            // A stat is cheaper than a failing mkdir, and works on a file system that is read-only.
            if !path.is_dir() {
                let mode = if name.starts_with("blobs") { 0o755 } else { 0o700 };
                match DirBuilder::new().mode(mode).create(&path) {
                    Err(err) if err.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(files::no_space(err)).context(|| format!("make {name}"));
                    }
                    _ => {}
                }
            }
        }
        if made { self.found() } else { Ok(()) }
    }

    /// Whether the directory is a layout.
    fn check_layout(&self) -> Result<bool> {
        let path = self.path.join(LAYOUT);
        let bytes = match files::read(&path, json::MAX_DOCUMENT) {
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(false),
            bytes => bytes?,
        };
        let damaged = || format!("read {}", path.display());
        let layout = json::object(&bytes).context(damaged)?;
        match layout.get("imageLayoutVersion").and_then(|version| version.as_str()) {
            Some(LAYOUT_VERSION) => Ok(true),
            other => {
                let message = format!("the layout has the version {other:?}, not {LAYOUT_VERSION}");
                Err(Error::unsupported(message)).context(damaged)
            }
        }
    }

    /// A directory with anything else in it is none to fill. What a killed process has begun is.
    fn check_empty(&self) -> Result<()> {
        for entry in fs::read_dir(&*self.path).context(|| "list it")? {
            let name = entry.context(|| "list it")?.file_name();
            let name = name.to_string_lossy();
            let ours =
                [LAYOUT, "index.json", "lock", "reserve"].iter().any(|own| name.starts_with(own));
            if !ours && !DIRECTORIES.contains(&&*name) {
                return Err(Error::invalid(format!("it holds {name}, and is no image store"))
                    .with_hint("name an empty directory, or one that does not exist"));
            }
        }
        Ok(())
    }

    /// Writes the two files of an empty layout, the one that marks it last.
    fn found(&self) -> Result<()> {
        let _lock = self.locked()?;
        if self.check_layout()? {
            return Ok(());
        }
        self.found_index()?;
        let layout = format!(r#"{{"imageLayoutVersion":"{LAYOUT_VERSION}"}}"#);
        let aside = self.path.join("oci-layout.new");
        files::replace(&self.path.join(LAYOUT), &aside, layout.as_bytes())?;
        files::sync_dir(&self.path.join("blobs"))?;
        files::sync_dir(&self.path)?;
        self.path.parent().map_or(Ok(()), files::sync_dir)
    }
}
