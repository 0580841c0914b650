//! The content of layers: what their blobs unpack to, found out while they are being written.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::num::NonZero;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};

use super::digest::Digest;
use super::early::{Early, Unpacker, lock};
use super::growing::{Follower, Growth};
use super::hashed::Hashed;
use super::json::malformed;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layers::{Ahead, Compression};

/// What passes from thread to thread at a time.
pub(super) const CHUNK: usize = 256 << 10;
/// Shorter streams are hashed where they are read: a thread would cost more.
const WORTH_A_THREAD: u64 = 1 << 20;

/// What a stream unpacks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) compression: Compression,
    /// Of the decompressed bytes: the diff id, if it is a layer.
    pub(super) digest: Digest,
    /// How many these are.
    pub(super) size: u64,
}

impl Content {
    /// Reads a stream that may be compressed, to its end. More than `limit` bytes after decompression are an error.
    pub(super) fn of(reader: impl Read + Send, limit: u64) -> Result<Self> {
        let mut decoder = Compression::detect(reader).context(|| "decompress it")?;
        let compression = decoder.compression();
        let (digest, size) = digest_of(&mut decoder, limit).context(|| "decompress it")?;
        Ok(Self { compression, digest, size })
    }

    /// As [`of`](Self::of), and unpacks it as a layer. `None` if it cannot be: what is wrong must be found out
    /// anew then, from the stream's beginning.
    pub(super) fn unpack(
        reader: impl Read + Send,
        limit: u64,
        unpacker: &Unpacker,
    ) -> Option<(Self, Early)> {
        let decoder = Compression::detect(reader).ok()?;
        let compression = decoder.compression();
        thread::scope(|scope| {
            let mut hashed = Hashed::new(Ahead::of(scope, decoder).ok()?, limit);
            let early = unpacker.unpack(&mut hashed).ok()?;
            let (digest, size) = hashed.finish().ok()?;
            Some((Self { compression, digest, size }, early))
        })
    }
}

/// The digest and length of a stream. A long one is read by a thread of its own, if there is one to be had.
fn digest_of(reader: &mut (dyn Read + Send), limit: u64) -> Result<(Digest, u64)> {
    let mut beginning = Vec::new();
    let read = (&mut *reader).take(WORTH_A_THREAD).read_to_end(&mut beginning);
    if read.context(|| "read it")? as u64 == WORTH_A_THREAD {
        let threaded = thread::scope(|scope| {
            let ahead = Ahead::of(scope, &mut *reader).ok()?;
            Some(Hashed::new(beginning.chain(ahead), limit).finish())
        });
        if let Some(found) = threaded {
            return found.context(|| "read it");
        }
    }
    let all = BufReader::with_capacity(CHUNK, beginning.chain(reader));
    Hashed::new(all, limit).finish().context(|| "read it")
}

/// Reads until the buffer is full or the stream ends.
pub(super) fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err).context(|| "read it"),
        }
    }
    Ok(filled)
}

/// Finds out what blobs unpack to, each in a thread of its own, as many at a time as there are processors.
#[derive(Debug)]
pub(super) struct Examiners {
    free: Mutex<usize>,
    freed: Condvar,
    limit: u64,
    /// For those that are layers, as most are.
    early: Option<Unpacker>,
}

/// What there is to know of a blob, and its files, if it could be unpacked.
type Found = (Content, Option<Early>);

impl Examiners {
    pub(super) fn new(limit: u64, early: Option<Unpacker>) -> Self {
        let free = thread::available_parallelism().map_or(1, NonZero::get);
        Self { free: Mutex::new(free), freed: Condvar::new(), limit, early }
    }

    /// As many at a time as this.
    #[cfg(feature = "registry")]
    pub(super) fn at_once(mut self, count: usize) -> Self {
        self.free = Mutex::new(count.max(1));
        self
    }

    /// What unpacks layers, if that is wanted.
    pub(super) fn early(&self) -> Option<&Unpacker> {
        self.early.as_ref()
    }

    /// Begins with a file that is being written; `early` unpacks it, too.
    pub(super) fn begin<'s>(
        &'s self,
        scope: &'s Scope<'s, '_>,
        growth: &Growth,
        file: File,
        early: Option<&'s Unpacker>,
    ) -> Result<Examining<'s>> {
        let clone = || file.try_clone().context(|| "clone the descriptor of a blob");
        let (first, second, later) =
            (growth.follow_early(clone()?), growth.follow(clone()?), growth.follow(file));
        let mut free = lock(&self.free);
        while *free == 0 {
            free = self.freed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        drop(free);
        let work = move || {
            let unpacked = early.and_then(|early| Content::unpack(first, self.limit, early));
            let found = match unpacked {
                Some((content, early)) => Ok((content, Some(early))),
                None => Content::of(second, self.limit).map(|content| (content, None)),
            };
            *lock(&self.free) += 1;
            self.freed.notify_one();
            found
        };
        match thread::Builder::new().spawn_scoped(scope, work) {
            Ok(thread) => Ok(Examining::Running(thread)),
            Err(_) => {
                *lock(&self.free) += 1;
                Ok(Examining::Later(later, self.limit))
            }
        }
    }
}

/// A blob whose content is being found out.
#[derive(Debug)]
pub(super) enum Examining<'s> {
    Running(ScopedJoinHandle<'s, Result<Found>>),
    /// There was no thread to be had.
    Later(Follower, u64),
}

impl Examining<'_> {
    pub(super) fn finish(self) -> Result<Found> {
        match self {
            Self::Running(thread) => thread.join().unwrap_or_else(|_| Err(panicked())),
            Self::Later(follower, limit) => Ok((Content::of(follower, limit)?, None)),
        }
    }
}

fn panicked() -> Error {
    Error::new(ErrorKind::Os, "the thread that reads a layer has panicked")
}

/// Says that content is not what a configuration calls it.
pub(super) fn check_diff_id(what: &str, found: Digest, expected: Digest) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(malformed(format!(
        "{what} has the content {found}, but the configuration names it {expected}"
    )))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn compressed(bytes: &[u8], compression: Compression) -> Vec<u8> {
        let mut encoder = compression.encoder(Vec::new()).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_file_is_followed_while_it_grows() {
        let bytes: Vec<_> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let packed = compressed(&bytes, Compression::Gzip);
        let mut file = tempfile::tempfile().unwrap();
        let examiners = Examiners::new(1 << 30, None);
        let content = thread::scope(|scope| {
            let growth = Growth::default();
            let begun = examiners.begin(scope, &growth, file.try_clone().unwrap(), None).unwrap();
            let mut written = 0;
            for part in packed.chunks(100_000) {
                file.write_all(part).unwrap();
                written += part.len() as u64;
                growth.reached(written);
            }
            growth.complete();
            begun.finish().unwrap().0
        });
        let expected = Content {
            compression: Compression::Gzip,
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
        };
        assert_eq!(content, expected);
    }

    #[test]
    fn a_file_that_nobody_completes_is_no_whole_one() {
        let packed = compressed(&[7; 100_000], Compression::Zstd);
        let mut file = tempfile::tempfile().unwrap();
        let examiners = Examiners::new(1 << 30, None);
        let failed = thread::scope(|scope| {
            let growth = Growth::default();
            let begun = examiners.begin(scope, &growth, file.try_clone().unwrap(), None).unwrap();
            file.write_all(&packed).unwrap();
            growth.reached(packed.len() as u64);
            drop(growth);
            begun.finish()
        });
        assert!(failed.is_err());
    }

    #[test]
    fn content_has_its_limit_whatever_its_length() {
        for (len, limit) in [(1000, 999), (4 << 20, 3 << 20)] {
            for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
                let packed = compressed(&vec![0; len], compression);
                let fits = Content::of(&packed[..], len as u64).unwrap();
                assert_eq!((fits.size, fits.compression), (len as u64, compression));
                assert_eq!(fits.digest, Digest::of(vec![0; len]));
                let err = Content::of(&packed[..], limit).unwrap_err();
                assert_eq!(err.kind(), ErrorKind::ResourceExhausted);
            }
        }
    }
}
