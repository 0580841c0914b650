//! Blobs: files named by the digest of their content.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;

use super::digest::{Digest, Hasher};
use super::files;
use super::json::{MAX_DOCUMENT, malformed};
use super::lease::Work;
use super::manifest::Blob;
use super::store::Store;
use crate::error::{Context, Error, ErrorKind, Result};

const BUFFER: usize = 256 << 10;

impl Store {
    /// Opens a blob for reading. Its content is not checked: who reads it all can.
    ///
    /// # Errors
    ///
    /// `NotFound` if the store does not have it.
    pub fn blob(&self, digest: &Digest) -> Result<File> {
        let path = self.blob_path(digest);
        files::open(&path).context(|| format!("open the blob {digest}")).map_err(|err| {
            match err.kind() {
                ErrorKind::NotFound => err.with_hint(
                    "`verify` tells which images are damaged; load or pull such an image again",
                ),
                _ => err,
            }
        })
    }

    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path().join("blobs/sha256").join(digest.hex())
    }

    /// Whether the blob is here, as long as it should be.
    pub(super) fn has(&self, blob: &Blob) -> Result<bool> {
        match self.blob_path(&blob.digest).symlink_metadata() {
            Ok(metadata) => Ok(metadata.is_file() && metadata.len() == blob.size),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(err) => Err(err).context(|| format!("look for the blob {}", blob.digest)),
        }
    }

    /// Says what is wrong with a blob that should be here.
    pub(super) fn check_present(&self, blob: &Blob) -> Result<()> {
        let found = self.blob(&blob.digest)?.metadata();
        let found = found.context(|| format!("look at the blob {}", blob.digest))?.len();
        check_size(blob, found)
    }

    /// Reads a document whole, and believes it only if it has its digest and size.
    pub(super) fn document(&self, blob: &Blob) -> Result<Vec<u8>> {
        let attempt = || format!("read the blob {}", blob.digest);
        if blob.size > MAX_DOCUMENT {
            let message =
                format!("it has {} bytes: no document has over {MAX_DOCUMENT}", blob.size);
            return Err(malformed(message)).context(attempt);
        }
        let bytes = files::read_past(self.blob(&blob.digest)?, blob.size).context(attempt)?;
        let read = bytes.len() as u64;
        if read != blob.size {
            let found = self.blob_path(&blob.digest).symlink_metadata();
            check_size(blob, found.map_or(read, |metadata| read.max(metadata.len())))?;
        }
        check_digest(blob.digest, Digest::of(&bytes))?;
        Ok(bytes)
    }

    /// The blobs that are here.
    pub(super) fn blobs(&self) -> Result<Vec<(std::ffi::OsString, Option<Digest>)>> {
        use std::os::unix::ffi::OsStrExt;
        let attempt = || "list the blobs";
        let mut found = Vec::new();
        for entry in fs::read_dir(self.path().join("blobs/sha256")).context(attempt)? {
            let name = entry.context(attempt)?.file_name();
            let digest = Digest::from_hex(name.as_bytes());
            found.push((name, digest));
        }
        found.sort();
        Ok(found)
    }
}

pub(super) fn check_size(blob: &Blob, found: u64) -> Result<()> {
    if found == blob.size {
        return Ok(());
    }
    let Blob { digest, size } = blob;
    let how = if found < *size { "is truncated" } else { "is too long" };
    Err(malformed(format!("the blob {digest} {how}: it has {found} bytes and should have {size}")))
}

pub(super) fn check_digest(expected: Digest, found: Digest) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(malformed(format!("the blob {expected} is damaged: its content has the digest {found}")))
}

/// A blob being written; made by [`Work::writer`]. Dropped without [`commit`](Self::commit) it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    work: Work,
    path: PathBuf,
    file: BufWriter<File>,
    hasher: Hasher,
    written: u64,
    limit: Option<Blob>,
    done: bool,
}

impl BlobWriter {
    pub(super) fn new(work: &Work, expected: Option<Blob>) -> Result<Self> {
        let path = work.scratch_path();
        let file = BufWriter::with_capacity(BUFFER, files::create(&path)?);
        let (work, hasher) = (work.clone(), Hasher::default());
        Ok(Self { work, path, file, hasher, written: 0, limit: expected, done: false })
    }

    /// Puts the blob into the store, durably, and holds it there as long as the work lasts.
    ///
    /// # Errors
    ///
    /// `Malformed` if it is not the blob that was expected, `ResourceExhausted` if the disk is full. The store is
    /// as it was.
    pub fn commit(self) -> Result<Blob> {
        self.stage()?.commit()
    }

    /// Ends the writing, and leaves it open whether the blob goes into the store. It is on disk then, unless the store has
    /// it already.
    pub(super) fn stage(mut self) -> Result<StagedBlob> {
        let hasher = std::mem::take(&mut self.hasher);
        let blob = Blob { digest: hasher.finish(), size: self.written };
        if let Some(expected) = self.limit {
            check_size(&expected, blob.size)?;
            check_digest(expected.digest, blob.digest)?;
        }
        let attempt = || format!("store the blob {}", blob.digest);
        let there = self.work.has(&blob).context(attempt)?;
        let flushed = self.file.flush();
        let flushed =
            flushed.and_then(|()| if there { Ok(()) } else { self.file.get_ref().sync_all() });
        flushed.map_err(files::no_space).context(attempt)?;
        self.done = true;
        Ok(StagedBlob { work: self.work.clone(), path: self.path.clone(), blob, done: false })
    }

    /// Another handle on what has been flushed so far, for reading at offsets.
    pub(super) fn written_part(&self) -> Result<File> {
        self.file.get_ref().try_clone().context(|| "clone the descriptor of a blob")
    }
}

/// A blob that has been written, but is not in the store yet. Dropped without [`commit`](Self::commit) it leaves nothing.
#[derive(Debug)]
pub(super) struct StagedBlob {
    work: Work,
    path: PathBuf,
    blob: Blob,
    done: bool,
}

impl StagedBlob {
    pub(super) fn blob(&self) -> Blob {
        self.blob
    }

    /// Opens it for reading.
    pub(super) fn open(&self) -> Result<File> {
        files::open(&self.path).context(|| format!("open the blob {}", self.blob.digest))
    }

    /// Puts it into the store and holds it there as long as the work lasts.
    pub(super) fn commit(mut self) -> Result<Blob> {
        let blob = self.blob;
        let attempt = || format!("store the blob {}", blob.digest);
        let store = self.work.store().clone();
        if self.work.has(&blob).context(attempt)? {
            return Ok(blob);
        }
        let _lock = store.shared().context(attempt)?;
        let renamed = fs::rename(&self.path, store.blob_path(&blob.digest));
        renamed.map_err(files::no_space).context(attempt)?;
        self.done = true;
        Ok(blob)
    }
}

impl Drop for StagedBlob {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(expected) = &self.limit
            && self.written + bytes.len() as u64 > expected.size
        {
            return Err(check_size(expected, self.written + bytes.len() as u64)
                .expect_err("it is longer")
                .into());
        }
        let written = self.file.write(bytes).map_err(files::no_space)?;
        self.hasher.update(&bytes[..written]);
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush().map_err(files::no_space)
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Copies a whole stream into a blob.
pub(super) fn copy(from: &mut dyn Read, to: &mut BlobWriter) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            Err(err) => return Err(err).context(|| "read the source"),
        };
        to.write_all(&buffer[..read]).context(|| "write the blob")?;
    }
}

/// The digest and length of a file, read to its end.
pub(super) fn digest_of(file: &mut File) -> io::Result<Blob> {
    let (mut hasher, mut size) = (Hasher::default(), 0);
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Blob { digest: hasher.finish(), size }),
            Ok(read) => {
                hasher.update(&buffer[..read]);
                size += read as u64;
            }
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
}

/// Says that a name is not in the store.
pub(super) fn no_such_image(name: &str, store: &Store) -> Error {
    let message = format!("no such image: {name} (in the store {})", store.path().display());
    Error::new(ErrorKind::NotFound, message)
}
