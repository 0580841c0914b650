//! Images on their way out of a store: what there is of one, and its bytes as they pass.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::Path;

use oci_spec::image::Descriptor;

use super::blobs::{check_digest, check_size, digest_of};
use super::digest::{Digest, Hasher};
use super::image::Image;
use super::json;
use super::lease::Work;
use super::manifest::{Blob, DocumentKind, Links, Manifest, may_be_missing};
use super::platform::Platform;
use super::reference::Reference;
use super::store::Store;
use crate::error::{Context, Error, ErrorKind, Result};

/// How many repositories are named that may hold a blob.
const HOLDERS: usize = 3;

/// How much is wanted of an image that there is for several platforms.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Extent {
    /// All if it is here, else the one that is.
    Here,
    All,
    For(Platform),
}

/// A manifest or index.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) descriptor: Descriptor,
    pub(crate) blob: Blob,
    pub(crate) bytes: Vec<u8>,
}

/// What is to be passed on of an image. It stays in the store meanwhile.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// Each after those that it names; the last one is what the image is known by.
    pub(crate) documents: Vec<Document>,
    pub(crate) blobs: Vec<Blob>,
    /// The platforms that the store has no image for.
    pub(crate) left_out: Vec<Platform>,
    _work: Work,
}

impl Outgoing {
    pub(crate) fn new(store: &Store, name: &str, extent: &Extent) -> Result<Self> {
        let work = store.work()?;
        let image = match extent {
            Extent::For(platform) => store.image_for(name, platform)?,
            Extent::Here | Extent::All => store.image(name)?,
        };
        work.hold(&image)?;
        let mut found = Found::default();
        let mut left_out = Vec::new();
        match extent {
            Extent::For(_) => found.add(store, &manifest_of(store, &image)?)?,
            Extent::All => found.add(store, image.descriptor())?,
            Extent::Here => {
                found.add(store, image.descriptor())?;
                if !found.missing.is_empty() {
                    left_out = platforms(&found.missing);
                    let chosen = only_image(store, &found)?;
                    found = Found::default();
                    found.add(store, &chosen)?;
                }
            }
        }
        if !found.missing.is_empty() {
            return Err(incomplete(&found.missing));
        }
        Ok(Self { documents: found.documents, blobs: found.blobs, left_out, _work: work })
    }

    /// What is passed on last.
    pub(crate) fn root(&self) -> &Document {
        self.documents.last().expect("an image has a manifest")
    }
}

/// The descriptor of the manifest that was chosen of an index.
fn manifest_of(store: &Store, image: &Image) -> Result<Descriptor> {
    let (root, wanted) = (image.descriptor(), image.manifest_blob());
    if Blob::try_from(root)? == wanted {
        return Ok(root.clone());
    }
    let named = Links::of(&json::object(&store.document(&Blob::try_from(root)?)?)?)?.documents;
    let chosen = named.into_iter().find(|(_, blob)| *blob == wanted);
    chosen.map(|(descriptor, _)| descriptor).ok_or_else(|| json::malformed("it names it no more"))
}

/// The one image of an index of which others are missing.
fn only_image(store: &Store, found: &Found) -> Result<Descriptor> {
    let is_image = |document: &&Document| {
        let manifest = Manifest::parse(&document.bytes, document.descriptor.media_type());
        manifest.is_ok_and(|it| store.has(&it.config()).unwrap_or(false))
    };
    let images: Vec<_> = found.documents.iter().filter(is_image).collect();
    match images[..] {
        [one] => Ok(one.descriptor.clone()),
        _ => Err(incomplete(&found.missing)),
    }
}

fn platforms(missing: &[Descriptor]) -> Vec<Platform> {
    missing.iter().filter_map(|it| it.platform().as_ref()).map(Platform::from).collect()
}

fn incomplete(missing: &[Descriptor]) -> Error {
    let names: Vec<_> = missing
        .iter()
        .take(20)
        .map(|it| match it.platform() {
            Some(platform) => Platform::from(platform).to_string(),
            None => it.digest().to_string(),
        })
        .collect();
    let message = format!("the store lacks what the image names for {}", names.join(", "));
    Error::new(ErrorKind::NotFound, message)
        .with_hint("name the platform that is meant, or pull the image for all platforms first")
}

/// What hangs together below a descriptor.
#[derive(Debug, Default)]
struct Found {
    documents: Vec<Document>,
    blobs: Vec<Blob>,
    missing: Vec<Descriptor>,
    seen: HashSet<Digest>,
}

impl Found {
    fn add(&mut self, store: &Store, descriptor: &Descriptor) -> Result<()> {
        let blob = Blob::try_from(descriptor)?;
        if !self.seen.insert(blob.digest) {
            return Ok(());
        }
        if !store.has(&blob)? {
            self.missing.push(descriptor.clone());
            return Ok(());
        }
        let attempt = || format!("read the manifest {}", blob.digest);
        let bytes = store.document(&blob).context(attempt)?;
        let named = Named::of(&bytes).context(attempt)?;
        for layer in named.blobs {
            if self.seen.insert(layer.digest) {
                store.check_present(&layer).context(attempt)?;
                self.blobs.push(layer);
            }
        }
        for named in named.documents {
            match DocumentKind::of(named.media_type()) {
                Some(_) => self.add(store, &named)?,
                // Nobody knows what else would be missing.
                None => self.missing.push(named),
            }
        }
        let descriptor = descriptor.clone();
        self.documents.push(Document { descriptor, blob, bytes });
        Ok(())
    }
}

/// What a manifest or index names, of whatever kind.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) documents: Vec<Descriptor>,
    /// Without what must not be passed on: whoever wants that follows the addresses in the manifest.
    pub(crate) blobs: Vec<Blob>,
}

impl Named {
    pub(crate) fn of(bytes: &[u8]) -> Result<Self> {
        let Links { documents, blobs } = Links::of(&json::object(bytes)?)?;
        let documents = documents.into_iter().map(|(descriptor, _)| descriptor).collect();
        let blobs = blobs.into_iter().filter(|(named, _)| !may_be_missing(named.media_type()));
        Ok(Self { documents, blobs: blobs.map(|(_, blob)| blob).collect() })
    }
}

/// Repositories of the same registry that hold the blobs as well, by the names that images have in the store: the nearest
/// first. It is a guess.
pub(crate) fn holders(
    store: &Store,
    to: &Reference,
    root: Digest,
    blobs: &[Blob],
) -> HashMap<Digest, Vec<String>> {
    let mut holders: HashMap<_, Vec<String>> =
        blobs.iter().map(|blob| (blob.digest, Vec::new())).collect();
    let entries = store.index().map(|index| index.entries).unwrap_or_default();
    let elsewhere =
        |name: &Reference| name.registry() == to.registry() && name.repository() != to.repository();
    let mut named: Vec<_> = entries
        .iter()
        .rev()
        .filter_map(|entry| Some((entry, entry.reference.as_ref().filter(|it| elsewhere(it))?)))
        .collect();
    named.sort_by_key(|(entry, _)| entry.blob.digest != root);
    for (entry, name) in named {
        let mut found = Found::default();
        // Whatever is damaged of it concerns others.
        let _ = found.add(store, &entry.descriptor);
        for blob in found.blobs {
            let Some(known) = holders.get_mut(&blob.digest) else { continue };
            let repository = name.repository();
            if known.len() < HOLDERS && known.iter().all(|it| it != repository) {
                known.push(repository.to_owned());
            }
        }
    }
    holders
}

/// Looks at the bytes of a blob as they pass, and fails at the last of them if they are others.
#[derive(Debug)]
pub(crate) struct Checker {
    blob: Blob,
    hasher: Option<Hasher>,
    passed: u64,
}

impl Checker {
    pub(crate) fn new(blob: Blob) -> Result<Self> {
        let mut checker = Self { blob, hasher: Some(Hasher::default()), passed: 0 };
        checker.pass(&[])?;
        Ok(checker)
    }

    pub(crate) fn pass(&mut self, piece: &[u8]) -> Result<()> {
        self.passed += piece.len() as u64;
        if self.passed > self.blob.size {
            check_size(&self.blob, self.passed)?;
        }
        let Some(hasher) = &mut self.hasher else { return Ok(()) };
        hasher.update(piece);
        if self.passed == self.blob.size
            && let Some(hasher) = self.hasher.take()
        {
            check_digest(self.blob.digest, hasher.finish())?;
        }
        Ok(())
    }

    /// No more comes.
    pub(crate) fn end(&self) -> Result<()> {
        check_size(&self.blob, self.passed)
    }
}

/// Reads a file of anybody's to its end, to name it.
pub(crate) fn blob_of(path: &Path) -> Result<Blob> {
    let attempt = || format!("read {}", path.display());
    digest_of(&mut File::open(path).context(attempt)?).context(attempt)
}
