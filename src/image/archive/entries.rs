//! The files of an archive of images, one after the other.

use std::fmt;
use std::io::{self, BufReader, Read};

use crate::error::{Context, Result};
use crate::image::content::CHUNK;
use crate::image::json::malformed;
use crate::layers::{self, ArchiveLimits, Reader};

/// What a name may take in extended headers.
const MAX_EXTENDED: u64 = 64 << 10;
/// Archives of images have some files for a layer.
const MAX_ENTRIES: u64 = 200_000;

/// What lies at a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// So many bytes, which are read from [`Entries`] next.
    File(u64),
    Directory,
    /// To a name in the archive.
    Link(String),
}

/// A file of the archive, under its name without `./`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// Reads a tar stream from front to back. [`Read`] gives the content of the current file.
pub(super) struct Entries<R>(Reader<BufReader<R>>);

impl<R: Read> Entries<R> {
    pub(super) fn new(source: R) -> Self {
        let limits = ArchiveLimits::new().entries(MAX_ENTRIES).header_bytes(MAX_EXTENDED);
        Self(Reader::new(BufReader::with_capacity(CHUNK, source), limits))
    }

    /// The next file, or nothing: then the whole stream has been read.
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        let Some(entry) = self.0.next()? else { return Ok(None) };
        let attempt = || format!("read the entry {}", entry.name());
        let name = inner_path("", text(&entry.path).context(attempt)?).context(attempt)?;
        let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
        let kind = match &entry.kind {
            layers::Kind::Directory => Kind::Directory,
            layers::Kind::File if entry.regions.is_none() => Kind::File(entry.size),
            layers::Kind::Symlink(target) => Kind::Link(link(parent, target).context(attempt)?),
            layers::Kind::HardLink(target) => Kind::Link(link("", target).context(attempt)?),
            _ => {
                return Err(malformed("no archive of images has entries of its type"))
                    .context(attempt);
            }
        };
        if name.is_empty() && kind != Kind::Directory {
            return Err(malformed("it has no name")).context(attempt);
        }
        Ok(Some(Entry { name, kind }))
    }
}

fn text(path: &[u8]) -> Result<&str> {
    std::str::from_utf8(path).map_err(|_| malformed("its name is no text"))
}

fn link(base: &str, target: &[u8]) -> Result<String> {
    inner_path(base, text(target)?)
}

impl<R: Read> Read for Entries<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let data = self.0.data()?;
        let len = data.len().min(buffer.len());
        buffer[..len].copy_from_slice(&data[..len]);
        self.0.advance(len)?;
        Ok(len)
    }
}

impl<R> fmt::Debug for Entries<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries").finish_non_exhaustive()
    }
}

/// Where `path` leads from the directory `base`, both of the archive, which it must not leave.
pub(super) fn inner_path(base: &str, path: &str) -> Result<String> {
    if path.starts_with('/') {
        return Err(malformed(format!("{path:?} is an absolute path")));
    }
    if path.contains('\0') {
        return Err(malformed(format!("{path:?} has a NUL in it")));
    }
    let mut parts: Vec<_> = base.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            // In a name, not in a link's target, it can only be meant ill.
            ".." if !base.is_empty() && !parts.is_empty() => drop(parts.pop()),
            ".." => return Err(malformed(format!("{path:?} leads out of the archive"))),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use tar::{EntryType, Header};

    use super::*;
    use crate::error::ErrorKind;

    fn entry(kind: EntryType, name: &str, link: &str, content: &[u8]) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        let mut bytes = [header.as_bytes().as_slice(), content].concat();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<Entry>> {
        let end: &[u8] = if bytes.len().is_multiple_of(512) { &[0; 1024] } else { &[] };
        let ended = [bytes, end].concat();
        let mut entries = Entries::new(&ended[..]);
        let mut found = Vec::new();
        while let Some(entry) = entries.next()? {
            found.push(entry);
        }
        Ok(found)
    }

    #[test]
    fn links_lead_where_tools_mean_them_to() {
        let bytes = [
            entry(EntryType::Regular, "./a", "", b"content"),
            entry(EntryType::Regular, "b/", "", b""),
            entry(EntryType::Symlink, "b/layer.tar", "../c/layer.tar", b""),
            entry(EntryType::Link, "b/d", "a", b""),
        ]
        .concat();
        let found: Vec<_> =
            read(&bytes).unwrap().into_iter().map(|it| (it.name, it.kind)).collect();
        let link = |target: &str| Kind::Link(target.to_owned());
        let expected = [
            ("a", Kind::File(7)),
            ("b", Kind::Directory),
            ("b/layer.tar", link("c/layer.tar")),
            ("b/d", link("a")),
        ];
        assert_eq!(found, expected.map(|(name, kind)| (name.to_owned(), kind)));
    }

    #[test]
    fn names_of_any_length_and_sizes_beyond_the_header_are_read() {
        let long = "x/".repeat(300) + "y";
        // With its own length in front: three digits, a space, `path=` and the end of the line.
        let pax = format!("{} path={long}\n10 size=5\n", 10 + long.len());
        let gnu = [
            entry(EntryType::GNULongName, "././@LongLink", "", format!("{long}\0").as_bytes()),
            entry(EntryType::Regular, "x", "", b"12345"),
        ];
        let pax = [
            entry(EntryType::XGlobalHeader, "g", "", b"6 a=b\n"),
            entry(EntryType::XHeader, "p", "", pax.as_bytes()),
            entry(EntryType::Regular, "x", "", b"12345"),
        ];
        for bytes in [gnu.concat(), pax.concat()] {
            let found = read(&bytes).unwrap();
            assert_eq!(found, [Entry { name: long.clone(), kind: Kind::File(5) }]);
        }
    }

    #[test]
    fn what_leads_out_lies_or_breaks_off_is_refused() {
        let file = |name: &str| entry(EntryType::Regular, name, "", b"12345");
        let link = |target: &str| entry(EntryType::Symlink, "a/b", target, b"");
        let mut lies = file("a");
        lies[124..136].copy_from_slice(b"00000010000\0");
        let huge = |mut bytes: Vec<u8>| {
            let mut header = Header::new_old();
            header.as_mut_bytes().copy_from_slice(&bytes[..512]);
            header.set_size(1 << 40);
            header.set_cksum();
            bytes[..512].copy_from_slice(header.as_bytes());
            bytes
        };
        for (bytes, why) in [
            (file("/etc/passwd"), "absolute path"),
            (file("../up"), "leads out"),
            (file("a/../b"), "leads out"),
            (link("/etc/passwd"), "absolute path"),
            (link("../../up"), "leads out"),
            (entry(EntryType::Link, "a", "../up", b""), "leads out"),
            (entry(EntryType::Link, "a", "b", b"content"), "though it is no file"),
            (entry(EntryType::Fifo, "a", "", b""), "its type"),
            (lies, "wrong checksum"),
            (huge(file("a")), "cut short"),
            (file("a")[..700].to_vec(), "cut short"),
            (file("a")[..300].to_vec(), "cut short"),
            (b"PK\x03\x04".repeat(200), "no tar archive"),
        ] {
            let err = read(&bytes).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Malformed, "{err:#}");
            assert!(format!("{err:#}").contains(why), "{err:#} does not say {why:?}");
        }
        let err = read(&huge(entry(EntryType::GNULongName, "a", "", b""))).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::ResourceExhausted);
    }
}
