//! The entries of a tar stream.
//!
//! The crate `tar` knows the fields of a header; the order of headers is followed here. Its own iterator
//! holds every extended header in memory whatever its length, and loses those whose values contain a newline, which
//! file capabilities may.

use std::ffi::CString;
use std::fmt;
use std::io::{self, BufRead};

use tar::{EntryType, GnuExtSparseHeader, Header};

use super::acl;
use super::limits::ArchiveLimits;
use super::pax::{Records, Time, malformed};
use crate::error::{Context, Error, ErrorKind, Result};

const BLOCK: u64 = 512;
const BLOCK_LEN: usize = 512;

/// Where the content of a sparse file belongs: offset and length, in order.
pub(crate) type Regions = Vec<(u64, u64)>;

/// What an entry is, apart from the attributes that every one has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    /// To the file of this path in the archive.
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    Fifo,
    Character(u32, u32),
    Block(u32, u32),
}

/// An entry; if it is a file, its content is read from the [`Reader`] next.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// As it stands in the archive.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Permissions, with the three special bits.
    pub(super) mode: u32,
    pub(super) mtime: Time,
    pub(super) xattrs: Vec<(CString, Vec<u8>)>,
    /// How long the file is, with its holes.
    pub(crate) size: u64,
    /// If it is sparse.
    pub(crate) regions: Option<Regions>,
}

impl Entry {
    /// For messages.
    pub(crate) fn name(&self) -> String {
        self.path.escape_ascii().to_string()
    }
}

/// Reads a tar stream in the formats v7, ustar, pax and GNU. Sparse files may be in that of GNU or in any of the
/// three of pax.
pub(crate) struct Reader<R> {
    source: R,
    limits: ArchiveLimits,
    entries: u64,
    bytes: u64,
    /// Content of the current entry that is still to be read, and what fills its last block.
    left: u64,
    padding: u64,
    /// How much of the current entry's headers may still come.
    budget: u64,
    global: Records,
}

/// What the headers before the entry's own say about it.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: Option<Records>,
}

impl<R: BufRead> Reader<R> {
    pub(crate) fn new(source: R, limits: ArchiveLimits) -> Self {
        Self {
            source,
            limits,
            entries: 0,
            bytes: 0,
            left: 0,
            padding: 0,
            budget: 0,
            global: Records::default(),
        }
    }

    /// How many entries there were, and bytes of archive.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.entries, self.bytes)
    }

    /// The next entry. At the end of the archive everything that follows is read, too, for whoever listens.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        self.skip(self.left.saturating_add(self.padding))?;
        (self.left, self.padding) = (0, 0);
        self.budget = self.limits.header_bytes;
        let mut extensions = Extensions::default();
        loop {
            let Some(header) = self.header()? else {
                if extensions.is_some() {
                    return Err(malformed(
                        "the archive ends after the extended header of an entry",
                    ));
                }
                self.drain()?;
                return Ok(None);
            };
            let size = header.entry_size().map_err(|err| field("size", &err))?;
            match header.entry_type() {
                EntryType::GNULongName => extensions.path = Some(self.long_name(size)?),
                EntryType::GNULongLink => extensions.link = Some(self.long_name(size)?),
                EntryType::XHeader => {
                    let data = self.extended(size)?;
                    let records = extensions.records.get_or_insert_with(|| self.global.clone());
                    records.parse(&data)?;
                }
                EntryType::XGlobalHeader => {
                    let data = self.extended(size)?;
                    self.global.parse(&data)?;
                    if self.global.len() > self.limits.header_bytes {
                        return Err(self.too_much_header());
                    }
                }
                // Solaris's extended header, and a label of GNU's.
                other if matches!(other.as_byte(), b'X' | b'V') => drop(self.extended(size)?),
                kind => {
                    let records = extensions.records.take().unwrap_or_else(|| self.global.clone());
                    return self.entry(&header, kind, size, extensions, &records).map(Some);
                }
            }
        }
    }

    /// Some of the current file's content; nothing at its end.
    pub(crate) fn data(&mut self) -> Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        // What would pass the limit is not given out.
        let room = self.limits.bytes.saturating_sub(self.bytes).min(self.left);
        if room == 0 {
            return Err(self.too_long());
        }
        let data = fill(&mut self.source)?;
        if data.is_empty() {
            return Err(cut_short());
        }
        Ok(&data[..data.len().min(usize::try_from(room).unwrap_or(usize::MAX))])
    }

    /// Goes on behind `len` bytes of what [`data`](Self::data) gave.
    pub(crate) fn advance(&mut self, len: usize) -> Result<()> {
        self.left -= len as u64;
        self.count(len as u64)?;
        self.source.consume(len);
        Ok(())
    }

    fn entry(
        &mut self,
        header: &Header,
        kind: EntryType,
        size: u64,
        extensions: Extensions,
        records: &Records,
    ) -> Result<Entry> {
        self.entries += 1;
        let path = records
            .path("GNU.sparse.name")?
            .or(records.path("path")?)
            .map(<[u8]>::to_vec)
            .or(extensions.path)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let named = path.escape_ascii().to_string();
        let attempt = || format!("read the entry {named}");
        if self.entries > self.limits.entries {
            let most = self.limits.entries;
            let err = Error::new(
                ErrorKind::ResourceExhausted,
                format!("the archive has more than {most} entries"),
            );
            return Err(err.with_hint("raise the limit on its entries if it is to be trusted"))
                .context(attempt);
        }
        self.describe(header, kind, size, path, extensions.link, records).context(attempt)
    }

    fn describe(
        &mut self,
        header: &Header,
        kind: EntryType,
        size: u64,
        path: Vec<u8>,
        link: Option<Vec<u8>>,
        records: &Records,
    ) -> Result<Entry> {
        let mut size = records.number("size")?.unwrap_or(size);
        let link = || {
            let path = records.path("linkpath")?.map(<[u8]>::to_vec).or(link);
            let path = path.or_else(|| header.link_name_bytes().map(Into::into));
            path.filter(|path| !path.is_empty()).ok_or_else(|| malformed("it is a link to nothing"))
        };
        let device = || {
            let number = |part: io::Result<Option<u32>>| {
                part.map_err(|err| field("device number", &err)).and_then(|part| {
                    part.ok_or_else(|| malformed("it is a device without a number"))
                })
            };
            Ok::<_, Error>((number(header.device_major())?, number(header.device_minor())?))
        };
        let mut old_sparse = false;
        let kind = match kind {
            // What older archives say of directories.
            EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::GNUSparse => {
                old_sparse = true;
                Kind::File
            }
            EntryType::Link => Kind::HardLink(link()?),
            EntryType::Symlink => Kind::Symlink(link()?),
            EntryType::Directory => Kind::Directory,
            EntryType::Fifo => Kind::Fifo,
            EntryType::Char => device().map(|(major, minor)| Kind::Character(major, minor))?,
            EntryType::Block => device().map(|(major, minor)| Kind::Block(major, minor))?,
            other => {
                let letter = other.as_byte().escape_ascii();
                return Err(Error::unsupported(format!(
                    "its type '{letter}' is none of a layer's"
                )));
            }
        };
        if kind != Kind::File && size != 0 {
            // Some readers take what follows for its content, others for the next header.
            return Err(malformed("it has a content, though it is no file"));
        }
        let id = |name: &'static str, own: io::Result<u64>| {
            let id = match records.number(name)? {
                Some(id) => id,
                None => own.map_err(|err| field(name, &err))?,
            };
            match u32::try_from(id) {
                Ok(id) if id != u32::MAX => Ok(id),
                _ => Err(malformed(format!("its {name} {id} is none that Linux has"))),
            }
        };
        let mode = or_blank(header.mode(), &header.as_old().mode)
            .map_err(|err| field("mode", &err))?
            & 0o7777;
        let mtime = match records.time("mtime")? {
            Some(mtime) => mtime,
            None => {
                let seconds = or_blank(header.mtime(), &header.as_old().mtime);
                let seconds = seconds.map_err(|err| field("time", &err))?;
                // Numbers in base 256 may be negative, in two's complement.
                Time { seconds: seconds.cast_signed(), nanoseconds: 0 }
            }
        };
        (self.left, self.padding) = (size, size.wrapping_neg() % BLOCK);
        let mut regions = None;
        if old_sparse {
            let map = self.gnu_map(header)?;
            let real = header.as_gnu().map(|gnu| gnu.real_size()).transpose();
            let real = real.map_err(|err| field("size", &err))?;
            size = real.ok_or_else(|| malformed("it is sparse, but not in GNU's format"))?;
            regions = Some(map);
        } else if kind == Kind::File
            && let Some((map, real)) = self.pax_map(records)?
        {
            size = real;
            regions = Some(map);
        }
        if let Some(regions) = &regions {
            check_regions(regions, size, self.left)?;
        }
        let old = header.as_old();
        let uid = id("uid", or_blank(header.uid(), &old.uid))?;
        let gid = id("gid", or_blank(header.gid(), &old.gid))?;
        Ok(Entry { path, kind, uid, gid, mode, mtime, xattrs: xattrs(records)?, size, regions })
    }

    /// The map of a sparse file in GNU's own format: in the header and in blocks after it.
    fn gnu_map(&mut self, header: &Header) -> Result<Regions> {
        let gnu =
            header.as_gnu().ok_or_else(|| malformed("it is sparse, but not in GNU's format"))?;
        let mut map = Vec::new();
        let mut add = |part: &tar::GnuSparseHeader| -> Result<()> {
            if !part.is_empty() {
                let number = |part: io::Result<u64>| part.map_err(|err| field("map", &err));
                map.push((number(part.offset())?, number(part.length())?));
            }
            Ok(())
        };
        gnu.sparse.iter().try_for_each(&mut add)?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            if !self.block(block.as_mut_bytes())? {
                return Err(cut_short());
            }
            block.sparse().iter().try_for_each(&mut add)?;
            more = block.is_extended();
        }
        Ok(map)
    }

    /// The map of a sparse file in a format of pax, and how long the file is.
    fn pax_map(&mut self, records: &Records) -> Result<Option<(Regions, u64)>> {
        let bad = || malformed("the map of the sparse file is damaged");
        let pairs = |numbers: Vec<u64>| {
            let pairs = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
            numbers.len().is_multiple_of(2).then_some(pairs).ok_or_else(bad)
        };
        let parse = |text: &[u8]| {
            let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
            number.ok_or_else(bad)
        };
        if records.number("GNU.sparse.major")? == Some(1) {
            let size = records.number("GNU.sparse.realsize")?.ok_or_else(bad)?;
            return Ok(Some((pairs(self.map_in_content()?)?, size)));
        }
        let size = match records.number("GNU.sparse.size")? {
            Some(size) => size,
            None => match records.get("GNU.sparse.realsize") {
                None => return Ok(None),
                Some(_) => return Err(Error::unsupported("its format of sparse files is unknown")),
            },
        };
        let numbers: Result<Vec<u64>> = match records.get("GNU.sparse.map") {
            Some(map) => map.split(|&byte| byte == b',').map(parse).collect(),
            None => records
                .iter()
                .filter(|(key, _)| matches!(*key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes"))
                .map(|(_, value)| parse(value))
                .collect(),
        };
        Ok(Some((pairs(numbers?)?, size)))
    }

    /// Version 1.0: numbers, a line each, before the content; their count comes first.
    fn map_in_content(&mut self) -> Result<Vec<u64>> {
        let bad = || malformed("the map of the sparse file is damaged");
        let (mut numbers, mut wanted, mut number) = (Vec::new(), None, None::<u64>);
        while wanted != Some(numbers.len()) {
            let mut block = [0; BLOCK_LEN];
            self.left = self.left.checked_sub(BLOCK).ok_or_else(bad)?;
            if !self.block(&mut block)? {
                return Err(cut_short());
            }
            for byte in block {
                match (byte, number) {
                    (b'0'..=b'9', _) => {
                        let so_far = number.unwrap_or(0).checked_mul(10).ok_or_else(bad)?;
                        number = Some(so_far.checked_add(u64::from(byte - b'0')).ok_or_else(bad)?);
                    }
                    (b'\n', Some(done)) => {
                        number = None;
                        if wanted.is_some() {
                            numbers.push(done);
                        } else {
                            let count = done.checked_mul(2).and_then(|n| usize::try_from(n).ok());
                            wanted = Some(count.ok_or_else(bad)?);
                        }
                        if wanted == Some(numbers.len()) {
                            break;
                        }
                    }
                    _ => return Err(bad()),
                }
            }
        }
        Ok(numbers)
    }

    /// `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        if !self.block(header.as_mut_bytes())? {
            return Err(malformed("the archive ends without its end mark: it is cut short"));
        }
        if header.as_bytes().iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let sum = |value: fn(u8) -> i64| {
            let bytes = header.as_bytes();
            let fields = bytes[..148].iter().chain(&bytes[156..]);
            fields.map(|&byte| value(byte)).sum::<i64>() + 8 * i64::from(b' ')
        };
        let expected = header.cksum().map(i64::from).ok();
        // Some old writers took bytes for signed.
        let sums = [sum(i64::from), sum(|byte| byte.cast_signed().into())];
        if !expected.is_some_and(|expected| sums.contains(&expected)) {
            return Err(malformed(
                "a header of the archive has a wrong checksum, or this is no tar archive",
            ));
        }
        Ok(Some(header))
    }

    /// Returns whether there was one.
    fn block(&mut self, block: &mut [u8]) -> Result<bool> {
        self.budget = self.budget.checked_sub(BLOCK).ok_or_else(|| self.too_much_header())?;
        let mut len = 0;
        while len < block.len() {
            let data = fill(&mut self.source)?;
            match data.len() {
                0 if len == 0 => return Ok(false),
                0 => return Err(cut_short()),
                n => {
                    let n = n.min(block.len() - len);
                    block[len..len + n].copy_from_slice(&data[..n]);
                    self.source.consume(n);
                    len += n;
                }
            }
        }
        self.count(len as u64)?;
        Ok(true)
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>> {
        let mut name = self.extended(size)?;
        if let Some(end) = name.iter().position(|&byte| byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    /// The content of a header that says more about an entry.
    fn extended(&mut self, size: u64) -> Result<Vec<u8>> {
        let blocks = size.div_ceil(BLOCK);
        let room = blocks.checked_mul(BLOCK).filter(|room| *room <= self.budget);
        let room = room.ok_or_else(|| self.too_much_header())?;
        let too_much = |_| self.too_much_header();
        let mut content = vec![0; usize::try_from(room).map_err(too_much)?];
        for block in content.chunks_mut(BLOCK_LEN) {
            if !self.block(block)? {
                return Err(cut_short());
            }
        }
        content.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        Ok(content)
    }

    fn skip(&mut self, mut len: u64) -> Result<()> {
        while len > 0 {
            let data = fill(&mut self.source)?;
            if data.is_empty() {
                return Err(cut_short());
            }
            let n = data.len().min(usize::try_from(len).unwrap_or(usize::MAX));
            self.count(n as u64)?;
            self.source.consume(n);
            len -= n as u64;
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        loop {
            let len = fill(&mut self.source)?.len();
            if len == 0 {
                return Ok(());
            }
            self.count(len as u64)?;
            self.source.consume(len);
        }
    }

    fn count(&mut self, bytes: u64) -> Result<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes <= self.limits.bytes {
            return Ok(());
        }
        Err(self.too_long())
    }

    fn too_long(&self) -> Error {
        let most = self.limits.bytes;
        let err = format!("the archive is longer than {most} bytes");
        Error::new(ErrorKind::ResourceExhausted, err)
            .with_hint("raise the limit on its bytes if it is to be trusted")
    }

    fn too_much_header(&self) -> Error {
        let most = self.limits.header_bytes;
        let err = format!("the headers of an entry are longer than {most} bytes");
        Error::new(ErrorKind::ResourceExhausted, err)
            .with_hint("raise the limit on header bytes if the archive is to be trusted")
    }
}

impl Extensions {
    fn is_some(&self) -> bool {
        self.path.is_some() || self.link.is_some() || self.records.is_some()
    }
}

impl<R> fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("entries", &self.entries).finish_non_exhaustive()
    }
}

fn fill(source: &mut impl BufRead) -> Result<&[u8]> {
    loop {
        match source.fill_buf() {
            // Asked for once more below: a borrow cannot be returned out of a loop.
            Ok(_) => break,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err).context(|| "read the archive"),
        }
    }
    source.fill_buf().context(|| "read the archive")
}

fn cut_short() -> Error {
    malformed("the archive is cut short")
}

fn field(name: &str, err: &io::Error) -> Error {
    malformed(format!("its {name} is damaged: {err}"))
}

/// A number that was left out, as some tools do and all read it.
fn or_blank<T: Default>(read: io::Result<T>, field: &[u8]) -> io::Result<T> {
    match field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        true => Ok(T::default()),
        false => read,
    }
}

fn check_regions(regions: &[(u64, u64)], size: u64, content: u64) -> Result<()> {
    let (mut end, mut total) = (0, 0u64);
    for (i, &(offset, len)) in regions.iter().enumerate() {
        let next = offset.checked_add(len).filter(|next| *next <= size);
        // Only the last may end within a block: readers differ in what they make of another.
        let whole = len % BLOCK == 0 || regions[i + 1..].iter().all(|(_, len)| *len == 0);
        match next {
            Some(next) if offset >= end && whole => end = next,
            _ => return Err(malformed("the map of the sparse file is damaged")),
        }
        total = total.saturating_add(len);
    }
    if total != content {
        return Err(malformed("the map of the sparse file does not fit its content"));
    }
    Ok(())
}

/// Those that an archive may bring. The marks of overlays and of the host's security policy are not among them.
fn xattrs(records: &Records) -> Result<Vec<(CString, Vec<u8>)>> {
    let mut xattrs: Vec<(CString, Vec<u8>)> = Vec::new();
    let mut set = |name: CString, value: Vec<u8>| {
        xattrs.retain(|(other, _)| *other != name);
        xattrs.push((name, value));
    };
    for (key, value) in records.iter() {
        let acl = match key {
            b"SCHILY.acl.access" => c"system.posix_acl_access",
            b"SCHILY.acl.default" => c"system.posix_acl_default",
            _ => continue,
        };
        if !value.is_empty() {
            set(acl.to_owned(), acl::parse(value)?);
        }
    }
    for (key, value) in records.iter() {
        let Some(name) = key.strip_prefix(b"SCHILY.xattr.") else { continue };
        let name = unescape(name);
        if !is_foreign(&name) {
            let name =
                CString::new(name).map_err(|_| malformed("an attribute's name has a NUL byte"))?;
            set(name, value.to_vec());
        }
    }
    Ok(xattrs)
}

/// Attributes that mean something to the host, not to the container.
pub(super) fn is_foreign(name: &[u8]) -> bool {
    name.starts_with(b"trusted.")
        || name.starts_with(b"user.overlay.")
        || name == b"security.selinux"
}

/// GNU tar writes `=` as `%3D` in names.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut rest = name;
    let mut plain = Vec::with_capacity(name.len());
    while let Some((&byte, after)) = rest.split_first() {
        let (byte, after) = match (byte, after) {
            (b'%', [b'3', b'D', after @ ..]) => (b'=', after),
            (b'%', [b'2', b'5', after @ ..]) => (b'%', after),
            other => other,
        };
        plain.push(byte);
        rest = after;
    }
    plain
}
