//! The files of an archive of images while it is loaded: small ones in memory, others written aside.

use std::collections::HashMap;
use std::io::Read;
use std::thread::Scope;

use super::entries::{Entries, Kind};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::blobs::StagedBlob;
use crate::image::content::{CHUNK, Content, Examiners, Examining, fill};
use crate::image::digest::Digest;
use crate::image::early::Early;
use crate::image::growing::GrowingBlob;
use crate::image::json::{MAX_DOCUMENT, malformed};
use crate::image::lease::Work;
use crate::image::manifest::Blob;
use crate::layers::Compression;

/// Files up to this length are kept in memory: documents, and much that is not needed in the end.
const SMALL: u64 = 64 << 10;
/// All of them together.
const MAX_MEMORY: u64 = 64 << 20;
/// A link may lead to a link. Docker's lead to files.
const MAX_LINKS: usize = 8;

const BLOBS: &str = "blobs/sha256/";

/// The name under which OCI's layout keeps a blob.
pub(super) fn blob_name(digest: Digest) -> String {
    format!("{BLOBS}{}", digest.hex())
}

/// Everything in the archive, by its name there.
#[derive(Debug)]
pub(super) struct Bundle<'s> {
    work: Work,
    files: HashMap<String, File<'s>>,
    links: HashMap<String, String>,
    memory: u64,
    limit: u64,
}

#[derive(Debug)]
struct File<'s> {
    blob: Blob,
    place: Place,
    content: Known<'s>,
}

#[derive(Debug)]
enum Place {
    Memory(Vec<u8>),
    Aside(StagedBlob),
    /// In the store.
    Committed,
}

/// What is known of a file's content, if it is a layer.
#[derive(Debug)]
enum Known<'s> {
    Nothing,
    Soon(Examining<'s>),
    All(Content, Option<Early>),
}

impl<'s> Bundle<'s> {
    pub(super) fn new(work: Work, limit: u64) -> Self {
        Self { work, files: HashMap::new(), links: HashMap::new(), memory: 0, limit }
    }

    /// Reads the whole archive.
    pub(super) fn read(
        &mut self,
        archive: impl Read,
        scope: &'s Scope<'s, '_>,
        examiners: &'s Examiners,
    ) -> Result<()> {
        let mut entries = Entries::new(archive);
        while let Some(entry) = entries.next()? {
            let attempt = || format!("read {}", entry.name);
            if self.files.contains_key(&entry.name) || self.links.contains_key(&entry.name) {
                return Err(malformed(format!("{} is there twice", entry.name)));
            }
            match entry.kind {
                Kind::Directory => {}
                Kind::Link(target) => drop(self.links.insert(entry.name, target)),
                Kind::File(size) => {
                    let file = match size <= SMALL && self.memory + size <= MAX_MEMORY {
                        true => self.keep(&mut entries, size),
                        false => self.put_aside(&entry.name, &mut entries, scope, examiners),
                    };
                    let file = file.context(attempt)?;
                    check_name(&entry.name, file.blob.digest)?;
                    self.files.insert(entry.name, file);
                }
            }
        }
        Ok(())
    }

    fn keep(&mut self, content: &mut dyn Read, size: u64) -> Result<File<'s>> {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).context(|| "read it")?;
        self.memory += size;
        Ok(File { blob: Blob::of(&bytes), place: Place::Memory(bytes), content: Known::Nothing })
    }

    fn put_aside(
        &self,
        name: &str,
        content: &mut dyn Read,
        scope: &'s Scope<'s, '_>,
        examiners: &'s Examiners,
    ) -> Result<File<'s>> {
        // What the store has already is unpacked, most likely.
        let there = digest_in(name).is_some_and(|it| self.work.store().blob_path(&it).exists());
        let early = examiners.early().filter(|_| !there);
        let mut blob = GrowingBlob::new(&self.work, None)?;
        let mut known = Known::Nothing;
        let mut buffer = vec![0; CHUNK];
        let mut begins = true;
        loop {
            let read = fill(content, &mut buffer)?;
            if read == 0 {
                break;
            }
            let packed = Compression::of_magic(&buffer[..read]) != Compression::None;
            if begins && (packed || early.is_some() && is_tar(&buffer[..read])) {
                known = Known::Soon(examiners.begin(scope, blob.growth(), blob.file()?, early)?);
            }
            begins = false;
            // Those of other blobs may have to go, too.
            blob.write(&buffer[..read], examiners.early())?;
        }
        let staged = blob.stage()?;
        Ok(File { blob: staged.blob(), place: Place::Aside(staged), content: known })
    }

    /// Whether there is a file of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.resolve(name).is_ok_and(|name| self.files.contains_key(name))
    }

    /// What the links make of a name.
    fn resolve<'a>(&'a self, name: &'a str) -> Result<&'a str> {
        let mut at = name;
        for _ in 0..=MAX_LINKS {
            match self.links.get(at) {
                None => return Ok(at),
                Some(target) => at = target,
            }
        }
        Err(malformed(format!("{name} is a link over more than {MAX_LINKS} links")))
    }

    fn find(&mut self, name: &str) -> Result<&mut File<'s>> {
        let resolved = self.resolve(name)?.to_owned();
        self.files.get_mut(&resolved).ok_or_else(|| {
            let missing = match resolved == name {
                true => format!("{name} is not in the archive"),
                false => format!("{name} is a link to {resolved}, which is not in the archive"),
            };
            malformed(missing)
        })
    }

    /// The digest and length of a file.
    pub(super) fn blob(&mut self, name: &str) -> Result<Blob> {
        Ok(self.find(name)?.blob)
    }

    /// Looks for a blob of OCI's layout.
    pub(super) fn check_blob(&mut self, blob: Blob) -> Result<()> {
        let name = blob_name(blob.digest);
        let found = self.blob(&name)?.size;
        if found == blob.size {
            return Ok(());
        }
        let size = blob.size;
        Err(malformed(format!("{name} has {found} bytes, and should have {size}")))
    }

    /// A document, whole.
    pub(super) fn document(&mut self, name: &str) -> Result<Vec<u8>> {
        let file = self.find(name)?;
        let attempt = || format!("read {name}");
        if file.blob.size > MAX_DOCUMENT {
            let size = file.blob.size;
            let message = format!("it has {size} bytes: no document has over {MAX_DOCUMENT}");
            return Err(malformed(message)).context(attempt);
        }
        match &file.place {
            Place::Memory(bytes) => Ok(bytes.clone()),
            Place::Aside(staged) => {
                let mut bytes = Vec::new();
                let mut reader = staged.open()?.take(MAX_DOCUMENT);
                reader.read_to_end(&mut bytes).context(attempt)?;
                Ok(bytes)
            }
            Place::Committed => {
                let blob = file.blob;
                self.work.store().document(&blob)
            }
        }
    }

    /// What a layer unpacks to.
    pub(super) fn content(&mut self, name: &str) -> Result<Content> {
        let limit = self.limit;
        let file = self.find(name)?;
        let content = match std::mem::replace(&mut file.content, Known::Nothing) {
            Known::All(content, early) => Ok((content, early)),
            Known::Soon(examining) => examining.finish(),
            Known::Nothing => match &file.place {
                Place::Memory(bytes) => {
                    Content::of(&bytes[..], limit).map(|content| (content, None))
                }
                Place::Aside(staged) => plain(staged, limit).map(|content| (content, None)),
                Place::Committed => {
                    Err(Error::new(ErrorKind::InvalidState, "it is in the store already"))
                }
            },
        };
        let (content, early) = content.context(|| format!("read the layer {name}"))?;
        file.content = Known::All(content, early);
        Ok(content)
    }

    /// The layers that could be unpacked, by their blobs.
    pub(super) fn into_early(self) -> HashMap<Digest, Early> {
        let files = self.files.into_values();
        files
            .filter_map(|file| match file.content {
                Known::All(_, Some(early)) => Some((file.blob.digest, early)),
                _ => None,
            })
            .collect()
    }

    /// Puts a file into the store.
    pub(super) fn commit(&mut self, name: &str) -> Result<()> {
        let work = self.work.clone();
        let file = self.find(name)?;
        match std::mem::replace(&mut file.place, Place::Committed) {
            Place::Memory(bytes) => work.ingest(&bytes[..], Some(file.blob)).map(drop),
            Place::Aside(staged) => staged.commit().map(drop),
            Place::Committed => Ok(()),
        }
    }
}

/// A file that began like no compressed one.
fn plain(staged: &StagedBlob, limit: u64) -> Result<Content> {
    let Blob { digest, size } = staged.blob();
    // Refuses the compressions that are not read.
    let decoder = Compression::detect(staged.open()?).context(|| "decompress it")?;
    if size > limit {
        let message = format!("it has {size} bytes, more than the {limit} that are allowed");
        return Err(Error::new(ErrorKind::ResourceExhausted, message));
    }
    Ok(Content { compression: decoder.compression(), digest, size })
}

/// Whether a file begins like a tar archive of POSIX or GNU.
fn is_tar(beginning: &[u8]) -> bool {
    beginning.get(257..262) == Some(b"ustar")
}

/// The digest that a file is named by.
fn digest_in(name: &str) -> Option<Digest> {
    Digest::from_hex(name.strip_prefix(BLOBS)?.as_bytes())
}

/// A file that is named by its digest must have it.
fn check_name(name: &str, found: Digest) -> Result<()> {
    if !name.starts_with(BLOBS) {
        return Ok(());
    }
    match digest_in(name) {
        Some(digest) if digest == found => Ok(()),
        Some(_) => Err(malformed(format!("{name} is damaged: its content has the digest {found}"))),
        None => Err(malformed(format!("the name of {name} is no digest"))),
    }
}
