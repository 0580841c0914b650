//! How a layer is compressed.

use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use flate2::bufread::MultiGzDecoder;

use crate::error::{Error, ErrorKind};

/// How the tar stream of a layer is compressed.
///
/// ```no_run
/// use std::fs::File;
/// use std::io::{self, Write};
/// use coracle::layers::Compression;
///
/// # fn main() -> io::Result<()> {
/// let mut layer = Compression::detect(File::open("layer.tar.gz")?)?;
/// let mut packed = Compression::Zstd.encoder(File::create("layer.tar.zst")?)?;
/// io::copy(&mut layer, &mut packed)?;
/// packed.finish()?.sync_all()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, RFC 1952; also as several members, one after the other.
    Gzip,
    /// Zstandard, RFC 8878; also as several frames.
    Zstd,
}

/// Members of a gzip stream are made of this much, so that every core can work on another.
const MEMBER: usize = 1 << 20;
const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;
const BUFFER: usize = 128 << 10;
/// What is looked at to tell the formats apart.
const MAGIC: usize = 6;

impl Compression {
    /// What a stream that begins with these bytes is compressed with.
    pub fn of_magic(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame: tools that make seekable streams may put one in front.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// What a layer of this media type is compressed with: those of OCI, with and without `nondistributable`, and of
    /// Docker schema 2. `None` for one that is no layer, or compressed in another way.
    ///
    /// ```
    /// use coracle::layers::Compression;
    ///
    /// let gzip = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// assert_eq!(Compression::of_media_type(gzip), Some(Compression::Gzip));
    /// let zstd = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// assert_eq!(Compression::of_media_type(zstd), Some(Compression::Zstd));
    /// assert_eq!(Compression::of_media_type("application/json"), None);
    /// ```
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        let oci = ["layer.v1.", "layer.nondistributable.v1."].iter().find_map(|kind| {
            media_type.strip_prefix("application/vnd.oci.image.")?.strip_prefix(kind)
        });
        let docker = ["diff.", "foreign.diff."].iter().find_map(|kind| {
            media_type.strip_prefix("application/vnd.docker.image.rootfs.")?.strip_prefix(kind)
        });
        match oci.or(docker)? {
            "tar" => Some(Self::None),
            "tar+gzip" | "tar.gzip" => Some(Self::Gzip),
            "tar+zstd" | "tar.zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The content of a stream, which may be compressed or not.
    ///
    /// # Errors
    ///
    /// What reading the first bytes gives. `Unsupported` as the [`io::Error`]'s kind, with an [`Error`](crate::Error)
    /// inside, for bzip2, xz and lz4.
    pub fn detect<R: Read>(reader: R) -> io::Result<Decoder<impl Read + use<R>>> {
        let mut reader = reader;
        let mut start = [0; MAGIC];
        let mut len = 0;
        while len < MAGIC {
            match reader.read(&mut start[len..]) {
                Ok(0) => break,
                Ok(n) => len += n,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
        let foreign = match &start[..len] {
            [b'B', b'Z', b'h', ..] => Some("bzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Some("xz"),
            [0x04, 0x22, 0x4d, 0x18, ..] => Some("lz4"),
            _ => None,
        };
        if let Some(name) = foreign {
            return Err(Error::unsupported(format!("the stream is compressed with {name}"))
                .with_hint(format!("decompress it first, with `{name} -d`"))
                .into());
        }
        let compression = Self::of_magic(&start[..len]);
        compression.decoder(io::Cursor::new(start).take(len as u64).chain(reader))
    }

    /// Decompresses what `reader` gives: all members or frames up to its end.
    ///
    /// # Errors
    ///
    /// If memory for it cannot be had.
    pub fn decoder<R: Read>(self, reader: R) -> io::Result<Decoder<R>> {
        let source = BufReader::with_capacity(BUFFER, Source { reader, failed: false });
        Ok(Decoder(match self {
            Self::None => Decoding::None(source),
            Self::Gzip => Decoding::Gzip(Box::new(MultiGzDecoder::new(source))),
            Self::Zstd => Decoding::Zstd(zstd::stream::read::Decoder::with_buffer(source)?),
        }))
    }

    /// Compresses what is written to `writer`, on all cores. What comes out depends on what goes in alone: not
    /// on the number of cores, nor on how it is cut into writes. gzip streams consist of members of 1 MiB.
    ///
    /// # Errors
    ///
    /// If memory for it cannot be had.
    pub fn encoder<W: Write>(self, writer: W) -> io::Result<Encoder<W>> {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        self.encoder_on(writer, cores)
    }

    fn encoder_on<W: Write>(self, writer: W, cores: usize) -> io::Result<Encoder<W>> {
        Ok(Encoder(match self {
            Self::None => Encoding::None(writer),
            Self::Gzip => Encoding::Gzip(Members::new(writer, cores.clamp(1, 32))),
            Self::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(writer, ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                // With no worker at all the result would be another one.
                encoder.multithread(u32::try_from(cores.clamp(1, 32)).unwrap_or(1))?;
                Encoding::Zstd(encoder)
            }
        }))
    }
}

/// `none`, `gzip` or `zstd`.
impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// Remembers whether a failure is the reader's own.
struct Source<R> {
    reader: R,
    failed: bool,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer);
        self.failed |= read.as_ref().is_err_and(|err| err.kind() != io::ErrorKind::Interrupted);
        read
    }
}

/// The content of a compressed stream; made by [`Compression::decoder`] and [`Compression::detect`].
///
/// What is wrong with the stream itself is an [`io::Error`] with an [`Error`](crate::Error) of kind `Malformed`
/// inside; what `R` reports comes through as it is. Memory is bounded whatever the stream says; what comes out of it is
/// not: see [`ArchiveLimits`](super::ArchiveLimits).
pub struct Decoder<R: Read>(Decoding<R>);

enum Decoding<R: Read> {
    None(BufReader<Source<R>>),
    Gzip(Box<MultiGzDecoder<BufReader<Source<R>>>>),
    Zstd(zstd::stream::read::Decoder<'static, BufReader<Source<R>>>),
}

impl<R: Read> Decoder<R> {
    /// What the stream is compressed with.
    pub fn compression(&self) -> Compression {
        match self.0 {
            Decoding::None(_) => Compression::None,
            Decoding::Gzip(_) => Compression::Gzip,
            Decoding::Zstd(_) => Compression::Zstd,
        }
    }

    fn source_failed(&self) -> bool {
        match &self.0 {
            Decoding::None(source) => source.get_ref().failed,
            Decoding::Gzip(decoder) => decoder.get_ref().get_ref().failed,
            Decoding::Zstd(decoder) => decoder.get_ref().get_ref().failed,
        }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.0 {
            Decoding::None(source) => source.read(buffer),
            Decoding::Gzip(decoder) => decoder.read(buffer),
            Decoding::Zstd(decoder) => decoder.read(buffer),
        };
        read.map_err(|err| {
            if err.kind() == io::ErrorKind::Interrupted || self.source_failed() {
                return err;
            }
            let what = match err.kind() {
                io::ErrorKind::UnexpectedEof => "is cut short".into(),
                _ => format!("is damaged: {err}"),
            };
            let name = self.compression();
            Error::new(ErrorKind::Malformed, format!("the {name} stream {what}")).into()
        })
    }
}

impl<R: Read> fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Decoder").field(&self.compression()).finish()
    }
}

/// Compresses what is written to it; made by [`Compression::encoder`]. Without [`finish`](Self::finish) the
/// stream is cut short.
#[must_use = "without `finish` the stream is cut short"]
pub struct Encoder<W: Write>(Encoding<W>);

enum Encoding<W: Write> {
    None(W),
    Gzip(Members<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    /// Writes what is left and gives the writer back. It is not flushed.
    ///
    /// # Errors
    ///
    /// What the writer reports.
    pub fn finish(self) -> io::Result<W> {
        match self.0 {
            Encoding::None(writer) => Ok(writer),
            Encoding::Gzip(members) => members.finish(),
            Encoding::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Encoding::None(writer) => writer.write(data),
            Encoding::Gzip(members) => members.write(data),
            Encoding::Zstd(encoder) => encoder.write(data),
        }
    }

    /// Flushes the writer, but keeps what is not yet compressed: where it were cut would show in the
    /// result.
    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Encoding::None(writer) => writer.flush(),
            Encoding::Gzip(members) => members.writer.flush(),
            Encoding::Zstd(encoder) => encoder.get_mut().flush(),
        }
    }
}

impl<W: Write> fmt::Debug for Encoder<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Encoder").finish_non_exhaustive()
    }
}

/// A gzip stream of members that are compressed side by side.
struct Members<W> {
    writer: W,
    cores: usize,
    /// Not yet compressed.
    pending: Vec<u8>,
    /// Whether there is a member in the stream.
    begun: bool,
}

impl<W: Write> Members<W> {
    fn new(writer: W, cores: usize) -> Self {
        Self { writer, cores, pending: Vec::new(), begun: false }
    }

    /// Twice as much as the cores can do at a time: so none waits long for another.
    fn batch(&self) -> usize {
        2 * self.cores * MEMBER
    }

    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.pending.len() >= self.batch() {
            self.compress()?;
        }
        let taken = data.len().min(self.batch() - self.pending.len());
        self.pending.extend_from_slice(&data[..taken]);
        Ok(taken)
    }

    fn finish(mut self) -> io::Result<W> {
        if !self.pending.is_empty() || !self.begun {
            self.compress()?;
        }
        Ok(self.writer)
    }

    fn compress(&mut self) -> io::Result<()> {
        let mut chunks: Vec<&[u8]> = self.pending.chunks(MEMBER).collect();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        let done: Vec<Mutex<Vec<u8>>> = chunks.iter().map(|_| Mutex::default()).collect();
        let next = AtomicUsize::new(0);
        let work = || -> io::Result<()> {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let (Some(chunk), Some(slot)) = (chunks.get(i), done.get(i)) else { return Ok(()) };
                let member = member(chunk)?;
                if let Ok(mut slot) = slot.lock() {
                    *slot = member;
                }
            }
        };
        let helpers = self.cores.min(chunks.len()).saturating_sub(1);
        thread::scope(|scope| {
            let helpers: Vec<_> = (0..helpers)
                // Where the kernel gives no thread, this one does it all.
                .filter_map(|_| thread::Builder::new().spawn_scoped(scope, work).ok())
                .collect();
            let mut result = work();
            for helper in helpers {
                let helped = helper.join().unwrap_or(Err(io::ErrorKind::Other.into()));
                result = result.and(helped);
            }
            result
        })?;
        for slot in done {
            self.writer.write_all(&slot.into_inner().unwrap_or_default())?;
        }
        self.pending.clear();
        self.begun = true;
        Ok(())
    }
}

fn member(data: &[u8]) -> io::Result<Vec<u8>> {
    let level = flate2::Compression::new(GZIP_LEVEL);
    // No time, no name, no system.
    let out = Vec::with_capacity(data.len() / 2 + 64);
    let mut encoder = flate2::GzBuilder::new().operating_system(255).write(out, level);
    encoder.write_all(data)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Compression; 3] = [Compression::None, Compression::Gzip, Compression::Zstd];

    /// Bytes that compress somewhat, of several members' length.
    fn sample() -> Vec<u8> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8 & 0x1f
        };
        (0..3 * MEMBER + 1234).map(|_| next()).collect()
    }

    fn pack(compression: Compression, data: &[u8], cores: usize, write: usize) -> Vec<u8> {
        let mut encoder = compression.encoder_on(Vec::new(), cores).unwrap();
        for part in data.chunks(write) {
            encoder.write_all(part).unwrap();
            encoder.flush().unwrap();
        }
        encoder.finish().unwrap()
    }

    fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut data = Vec::new();
        Compression::detect(packed)?.read_to_end(&mut data)?;
        Ok(data)
    }

    #[test]
    fn what_is_packed_comes_back() {
        for compression in ALL {
            for data in [&[][..], b"x", &sample()] {
                let packed = pack(compression, data, 2, 100_000);
                assert!(unpack(&packed).unwrap() == data, "{compression}");
                if !data.is_empty() || compression != Compression::None {
                    assert_eq!(Compression::of_magic(&packed), compression);
                }
            }
        }
    }

    #[test]
    fn the_bytes_depend_on_neither_cores_nor_writes() {
        let data = sample();
        for compression in ALL {
            let expected = pack(compression, &data, 1, data.len());
            for (cores, write) in [(1, 1000), (2, 77_777), (3, data.len()), (8, 1 << 20)] {
                assert!(
                    pack(compression, &data, cores, write) == expected,
                    "{compression} {cores}"
                );
            }
        }
    }

    #[test]
    fn every_member_and_frame_is_read() {
        for compression in [Compression::Gzip, Compression::Zstd] {
            let two = [pack(compression, b"one ", 1, 9), pack(compression, b"two", 1, 9)].concat();
            assert_eq!(unpack(&two).unwrap(), b"one two");
        }
        // A skippable frame of four bytes in front.
        let mut skipped = b"\x50\x2a\x4d\x18\x04\0\0\0abcd".to_vec();
        skipped.extend(pack(Compression::Zstd, b"x", 1, 9));
        assert_eq!(unpack(&skipped).unwrap(), b"x");
    }

    #[test]
    fn damage_is_told_from_failure_of_the_source() {
        let malformed = |packed: &[u8]| {
            let err = unpack(packed).unwrap_err();
            assert_eq!(err.kind(), io::ErrorKind::InvalidData, "{err:?}");
            let inner: &Error = err.get_ref().unwrap().downcast_ref().unwrap();
            assert_eq!(inner.kind(), ErrorKind::Malformed);
            inner.to_string()
        };
        for compression in [Compression::Gzip, Compression::Zstd] {
            let good = pack(compression, &sample(), 2, 1 << 20);
            for cut in [good.len() - 1, good.len() / 2, 12] {
                assert!(malformed(&good[..cut]).contains("cut short"), "{compression} {cut}");
            }
            let mut flipped = good.clone();
            flipped[good.len() / 2] ^= 1;
            assert!(malformed(&flipped).contains("damaged"));
            assert!(malformed(&[&good[..], &b"garbage".repeat(9)].concat()).contains("damaged"));
            struct Broken<'a>(&'a [u8]);
            impl Read for Broken<'_> {
                fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                    match self.0.read(buffer)? {
                        0 => Err(io::Error::from_raw_os_error(libc::EIO)),
                        n => Ok(n),
                    }
                }
            }
            let mut decoder = Compression::detect(Broken(&good[..good.len() / 2])).unwrap();
            let err = io::copy(&mut decoder, &mut io::sink()).unwrap_err();
            assert_eq!(err.raw_os_error(), Some(libc::EIO));
        }
    }

    #[test]
    fn formats_that_are_not_read_are_named() {
        for (start, name) in [(&b"BZh91AY"[..], "bzip2"), (b"\xfd7zXZ\0", "xz")] {
            let err = Compression::detect(start).unwrap_err();
            assert!(err.to_string().contains(name), "{err}");
        }
    }

    #[test]
    fn media_types_of_layers_are_known() {
        use Compression::{Gzip, None as Plain, Zstd};
        for (media_type, expected) in [
            ("application/vnd.oci.image.layer.v1.tar", Some(Plain)),
            ("application/vnd.oci.image.layer.v1.tar+gzip", Some(Gzip)),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Some(Zstd)),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Some(Gzip)),
            ("application/vnd.docker.image.rootfs.diff.tar", Some(Plain)),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Some(Gzip)),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Some(Gzip)),
            ("application/vnd.oci.image.layer.v1.tar+xz", None),
            ("application/vnd.oci.image.config.v1+json", None),
            ("", None),
        ] {
            assert_eq!(Compression::of_media_type(media_type), expected, "{media_type}");
        }
    }
}
