//! The archive of a root file system becomes an image of one layer.

use std::io::{self, BufReader, Read, Write};
use std::thread;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::blobs::{BlobWriter, StagedBlob};
use crate::image::changes::ConfigChanges;
use crate::image::content::{CHUNK, Content, fill};
use crate::image::digest::{DiffId, Digest, Hasher};
use crate::image::draft::Draft;
use crate::image::early::{Early, Unpacker};
use crate::image::growing::GrowingBlob;
use crate::image::image::Image;
use crate::image::json::malformed;
use crate::image::layer::Layer;
use crate::image::lease::Work;
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::image::store::Store;
use crate::layers::{ArchiveLimits, Compression, Kind, Reader};

/// Makes images of root file systems; [`Store::import`] is the short form.
///
/// ```no_run
/// use coracle::image::{ConfigChanges, Import, Store};
/// use coracle::layers::Compression;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = Store::open("images")?;
/// let image = Import::new(&store)
///     .name("debian:12")
///     .changes(ConfigChanges::new().cmd(["/bin/bash"]).message("made by mmdebstrap"))
///     .compress(Compression::Zstd)
///     .read(std::fs::File::open("debian.tar")?)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "it makes an image when it reads an archive"]
pub struct Import<'a> {
    store: &'a Store,
    name: Option<String>,
    changes: ConfigChanges,
    compression: Option<Compression>,
    limits: ArchiveLimits,
    unpack: bool,
}

impl Store {
    /// Makes an image of one layer of the archive of a root file system, as `export` of any tool or tar writes it: plain, or
    /// compressed with gzip or zstd. The archive is kept as it comes; the stream is read once, to its end.
    ///
    /// # Errors
    ///
    /// `Malformed` if it is no tar archive, damaged or cut short, `InvalidInput` for a bad name, `ResourceExhausted` if the
    /// disk is full. The store is as it was.
    pub fn import(&self, name: &str, archive: impl Read) -> Result<Image> {
        Import::new(self).name(name).read(archive)
    }
}

impl<'a> Import<'a> {
    /// Imports into `store`, without a name, for the host's platform.
    pub fn new(store: &'a Store) -> Self {
        let (changes, limits) = (ConfigChanges::new(), ArchiveLimits::new());
        Self { store, name: None, changes, compression: None, limits, unpack: true }
    }

    /// The name of the image.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// What its configuration says.
    pub fn changes(mut self, changes: ConfigChanges) -> Self {
        self.changes = changes;
        self
    }

    /// Compresses the layer in this way, however it comes.
    pub fn compress(mut self, compression: Compression) -> Self {
        self.compression = Some(compression);
        self
    }

    /// What the archive may ask for.
    pub fn limits(mut self, limits: ArchiveLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Whether the layer is unpacked while the archive is read, which takes little longer than reading it; that is the
    /// default. If not, or where it fails, [`Image::rootfs`] unpacks it.
    pub fn unpack(mut self, unpack: bool) -> Self {
        self.unpack = unpack;
        self
    }

    /// Reads an archive.
    ///
    /// # Errors
    ///
    /// As of [`Store::import`].
    pub fn read(&self, archive: impl Read) -> Result<Image> {
        self.try_read(archive).context(|| match &self.name {
            Some(name) => format!("import {name}"),
            None => "import a root file system".to_owned(),
        })
    }

    fn try_read(&self, mut archive: impl Read) -> Result<Image> {
        let name = self.name.as_deref().map(str::parse::<Reference>).transpose()?;
        if let Some(name) = name.as_ref().filter(|name| name.digest().is_some()) {
            return Err(Error::invalid(format!("the name {name} has a digest")));
        }
        let work = self.store.work()?;
        // Whoever makes a root filesystem is told why the layer cannot be unpacked.
        let unpacker = self.unpack.then(|| Unpacker::new(self.store).ok()).flatten();
        let unpacker = unpacker.map(|unpacker| unpacker.limits(self.limits));
        let (layer, examined) = match self.compression {
            None => self.keep(&work, &mut archive, unpacker.as_ref())?,
            Some(compression) => self.recompress(&work, archive, compression)?,
        };
        let Examined { compression, digest, mut early } = examined;
        let diff_id = DiffId(digest);
        let layer = Layer { diff_id, blob: layer.commit()?, compression };
        let mut draft = Draft::new(&Platform::host());
        draft.step(Some(layer), &self.changes, "imported")?;
        let image = draft.store(&work, name.as_ref())?;
        self.store.tell("import", &image);
        if let Some(unpacker) = unpacker.filter(|unpacker| !unpacker.has_given_up()) {
            // The image is there, and what is not unpacked now will be when it is needed.
            let _ = image.unpack_or_take(&work, unpacker.layers(), |_| early.take());
        }
        Ok(image)
    }

    /// Stores the stream as it is. Another thread looks into it meanwhile.
    fn keep(
        &self,
        work: &Work,
        archive: &mut dyn Read,
        unpacker: Option<&Unpacker>,
    ) -> Result<(StagedBlob, Examined)> {
        let mut blob = GrowingBlob::new(work, None)?;
        thread::scope(|scope| {
            let first = blob.growth().follow_early(blob.file()?);
            let second = blob.growth().follow(blob.file()?);
            let again = blob.growth().follow(blob.file()?);
            let limits = self.limits;
            let examine = move || {
                let unpacked = unpacker.and_then(|it| Content::unpack(first, u64::MAX, it));
                unpacked.map_or_else(
                    || Examined::of(second, limits),
                    |(content, early)| Ok(Examined::unpacked(content, early)),
                )
            };
            let thread = thread::Builder::new().spawn_scoped(scope, examine).ok();
            let mut buffer = vec![0; CHUNK];
            loop {
                let read = fill(archive, &mut buffer).context(|| "read the archive")?;
                if read == 0 {
                    break;
                }
                blob.write(&buffer[..read], unpacker)?;
                if thread.as_ref().is_some_and(thread::ScopedJoinHandle::is_finished) {
                    // It has found a fault.
                    break;
                }
            }
            blob.complete();
            let examined = match thread {
                Some(thread) => thread.join().unwrap_or_else(|_| {
                    Err(Error::new(ErrorKind::Os, "the thread that reads the archive has panicked"))
                }),
                None => Examined::of(again, self.limits),
            };
            let examined = examined?;
            Ok((blob.stage()?, examined))
        })
    }

    fn recompress(
        &self,
        work: &Work,
        archive: impl Read,
        compression: Compression,
    ) -> Result<(StagedBlob, Examined)> {
        let encoder = compression.encoder(work.writer(None)?).context(|| "compress it")?;
        let decoder = Compression::detect(archive).context(|| "decompress it")?;
        let mut copy = Passing { source: decoder, hasher: Hasher::default(), copy: encoder };
        walk(&mut copy, self.limits)?;
        let digest = copy.hasher.finish();
        let writer: BlobWriter = copy.copy.finish().context(|| "compress it")?;
        Ok((writer.stage()?, Examined { compression, digest, early: None }))
    }
}

/// What a layer was found to be.
struct Examined {
    compression: Compression,
    /// Of the archive without compression.
    digest: Digest,
    early: Option<Early>,
}

impl Examined {
    fn unpacked(content: Content, early: Early) -> Self {
        let Content { compression, digest, .. } = content;
        Self { compression, digest, early: Some(early) }
    }

    fn of(stream: impl Read, limits: ArchiveLimits) -> Result<Self> {
        let decoder = Compression::detect(stream).context(|| "decompress it")?;
        let compression = decoder.compression();
        let mut passing = Passing { source: decoder, hasher: Hasher::default(), copy: io::sink() };
        walk(&mut passing, limits)?;
        Ok(Self { compression, digest: passing.hasher.finish(), early: None })
    }
}

/// Takes the digest of what is read, and copies it.
struct Passing<R, W> {
    source: R,
    hasher: Hasher,
    copy: W,
}

impl<R: Read, W: Write> Read for Passing<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.copy.write_all(&buffer[..read])?;
        Ok(read)
    }
}

/// Reads an archive to its end, and refuses what could never be unpacked.
fn walk(archive: &mut dyn Read, limits: ArchiveLimits) -> Result<()> {
    let mut reader = Reader::new(BufReader::with_capacity(CHUNK, archive), limits);
    while let Some(entry) = reader.next()? {
        let leads_out = |path: &[u8]| path.split(|byte| *byte == b'/').any(|part| part == b"..");
        let link = match &entry.kind {
            Kind::HardLink(target) => leads_out(target),
            _ => false,
        };
        if link || leads_out(&entry.path) {
            let message = format!("the entry {} leads out of the archive", entry.name());
            return Err(malformed(message));
        }
    }
    Ok(())
}
