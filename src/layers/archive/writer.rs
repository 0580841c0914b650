//! Entries of a tar stream in the format of pax, the same bytes for the same entries.

use std::io::{self, Read, Write};

use tar::{Builder, EntryType};

use super::attributes::Attributes;
use super::pack::Packed;
use crate::error::{Context, Result};

/// The longest name and the largest numbers that a header has room for.
const NAME: usize = 100;
const ID: u64 = 0o7_777_777;
const LARGEST: u64 = 0o77_777_777_777;
const BLOCK: usize = 512;

/// An entry's header, with the extended one before it.
pub(super) struct Header {
    header: tar::Header,
    records: Vec<(String, Vec<u8>)>,
    /// What stands before the content of a sparse file.
    map: Vec<u8>,
}

impl Header {
    pub(super) fn new(kind: EntryType, path: &[u8], attributes: &Attributes) -> Self {
        let mut new =
            Self { header: tar::Header::new_ustar(), records: Vec::new(), map: Vec::new() };
        new.header.set_entry_type(kind);
        new.header.set_mode(attributes.mode);
        if path.len() > NAME {
            new.record("path", path);
        }
        if let Some(ustar) = new.header.as_ustar_mut() {
            fill(&mut ustar.name, path);
        }
        let Attributes { uid, gid, mtime, .. } = *attributes;
        let (uid, gid) = (new.number("uid", uid.into(), ID), new.number("gid", gid.into(), ID));
        new.header.set_uid(uid);
        new.header.set_gid(gid);
        let seconds = u64::try_from(mtime.seconds).ok().filter(|seconds| *seconds <= LARGEST);
        if seconds.is_none() || mtime.nanoseconds != 0 {
            new.record("mtime", mtime.to_text().as_bytes());
        }
        new.header.set_mtime(seconds.unwrap_or(0));
        new.header.set_size(0);
        for (name, value) in &attributes.xattrs {
            let name = String::from_utf8_lossy(name.to_bytes());
            let name = name.replace('%', "%25").replace('=', "%3D");
            new.record(&format!("SCHILY.xattr.{name}"), value);
        }
        new
    }

    /// Where a link leads.
    pub(super) fn target(mut self, target: &[u8]) -> Self {
        if target.len() > NAME {
            self.record("linkpath", target);
        }
        if let Some(ustar) = self.header.as_ustar_mut() {
            fill(&mut ustar.linkname, target);
        }
        self
    }

    pub(super) fn device(mut self, major: u64, minor: u64) -> Self {
        let number = |part| u32::try_from(part).unwrap_or(u32::MAX);
        // Only other formats than this one have no room for them.
        let _ = self.header.set_device_major(number(major));
        let _ = self.header.set_device_minor(number(minor));
        self
    }

    pub(super) fn size(mut self, size: u64) -> Self {
        let size = self.number("size", size, LARGEST);
        self.header.set_size(size);
        self
    }

    /// A file of which only `regions` follow: version 1.0 of the format for sparse files.
    pub(super) fn sparse(mut self, size: u64, regions: &[(u64, u64)]) -> Self {
        let mut map = format!("{}\n", regions.len());
        for (offset, len) in regions {
            map += &format!("{offset}\n{len}\n");
        }
        self.map = map.into_bytes();
        self.map.resize(self.map.len().next_multiple_of(BLOCK), 0);
        let path = match self.records.iter().position(|(key, _)| key == "path") {
            Some(long) => self.records.remove(long).1,
            None => self.header.path_bytes().into_owned(),
        };
        self.record("GNU.sparse.major", b"1");
        self.record("GNU.sparse.minor", b"0");
        self.record("GNU.sparse.name", &path);
        self.record("GNU.sparse.realsize", size.to_string().as_bytes());
        let content: u64 = regions.iter().map(|(_, len)| len).sum();
        let whole = content + self.map.len() as u64;
        self.size(whole)
    }

    fn record(&mut self, key: &str, value: &[u8]) {
        self.records.push((key.to_owned(), value.to_vec()));
    }

    /// What the header says of a number, which an extended one says if it is too large.
    fn number(&mut self, key: &str, number: u64, largest: u64) -> u64 {
        if number <= largest {
            return number;
        }
        self.record(key, number.to_string().as_bytes());
        0
    }
}

fn fill(field: &mut [u8], value: &[u8]) {
    let len = value.len().min(field.len());
    field[..len].copy_from_slice(&value[..len]);
}

/// Writes an archive.
pub(super) struct Writer<W: Write> {
    archive: Builder<Counter<W>>,
    entries: u64,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(writer: W) -> Self {
        Self { archive: Builder::new(Counter { writer, bytes: 0 }), entries: 0 }
    }

    pub(super) fn write(&mut self, entry: Header, content: impl Read) -> Result<()> {
        let Header { mut header, mut records, map } = entry;
        records.sort();
        let attempt = || "write the archive";
        let records = records.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        self.archive.append_pax_extensions(records).context(attempt)?;
        header.set_cksum();
        self.archive.append(&header, map.as_slice().chain(content)).context(attempt)?;
        self.entries += 1;
        Ok(())
    }

    /// Writes the end mark.
    pub(super) fn finish(self) -> Result<Packed> {
        let Counter { bytes, mut writer } =
            self.archive.into_inner().context(|| "write the end of the archive")?;
        writer.flush().context(|| "write the end of the archive")?;
        Ok(Packed { entries: self.entries, bytes })
    }
}

struct Counter<W> {
    writer: W,
    bytes: u64,
}

impl<W: Write> Write for Counter<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = self.writer.write(data)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}
