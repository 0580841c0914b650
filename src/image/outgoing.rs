//! Images on their way out of a store: what there is of one, and its bytes as they pass.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use oci_spec::image::Descriptor;

use super::blobs::{check_digest, check_size, digest_of};
use super::digest::{Digest, Hasher};
use super::graph::{Document, Graph};
use super::image::Image;
use super::json;
use super::lease::Work;
use super::manifest::{Blob, DocumentKind, Links, Manifest};
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
        let mut left_out = Vec::new();
        let found = match extent {
            Extent::For(_) => Found::whole(store, &manifest_of(store, &image)?)?,
            Extent::All => Found::whole(store, image.descriptor())?,
            Extent::Here => match Found::whole(store, image.descriptor())? {
                found if found.missing.is_empty() => found,
                found => {
                    left_out = platforms(&found.missing);
                    Found::whole(store, &only_image(store, &found)?)?
                }
            },
        };
        if !found.missing.is_empty() {
            return Err(incomplete(&found.missing));
        }
        let Graph { documents, blobs, .. } = found.graph;
        Ok(Self { documents, blobs, left_out, _work: work })
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
    let images: Vec<_> = found.graph.documents.iter().filter(is_image).collect();
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

/// What of a graph is in a store.
#[derive(Debug)]
struct Found {
    graph: Graph,
    missing: Vec<Descriptor>,
}

impl Found {
    fn below(root: &Descriptor) -> Result<Self> {
        let graph = Graph::new(root.clone(), Blob::try_from(root)?);
        Ok(Self { graph, missing: Vec::new() })
    }

    fn whole(store: &Store, root: &Descriptor) -> Result<Self> {
        let mut found = Self::below(root)?;
        found.fill(store)?;
        Ok(found)
    }

    fn fill(&mut self, store: &Store) -> Result<()> {
        while let Some((descriptor, blob)) = self.graph.next() {
            // Of another type, nobody knows what else would be missing.
            if DocumentKind::of(descriptor.media_type()).is_none() || !store.has(&blob)? {
                self.missing.push(descriptor);
                continue;
            }
            let attempt = || format!("read the manifest {}", blob.digest);
            let bytes = store.document(&blob).context(attempt)?;
            for named in self.graph.add(Document { descriptor, blob, bytes })? {
                store.check_present(named).context(attempt)?;
            }
        }
        Ok(())
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
        let Ok(mut found) = Found::below(&entry.descriptor) else { continue };
        // Whatever is damaged of it concerns others.
        let _ = found.fill(store);
        for blob in found.graph.blobs {
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const DEEP: usize = 5_000;

    /// A document that names others, in the store.
    fn document(store: &Store, named: &[Descriptor], padding: usize) -> Descriptor {
        let text = serde_json::json!({ "manifests": named, "padding": " ".repeat(padding) });
        let text = text.to_string();
        let blob = Blob::of(text.as_bytes());
        fs::write(store.blob_path(&blob.digest), text).unwrap();
        blob.descriptor(DocumentKind::Manifest.media_type().into())
    }

    #[test]
    fn documents_may_lie_deep_in_each_other_but_be_only_so_long() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let mut root = document(&store, &[], 0);
        for _ in 1..DEEP {
            root = document(&store, &[root], 0);
        }
        let found = Found::whole(&store, &root).unwrap();
        assert_eq!(found.graph.documents.len(), DEEP);
        assert_eq!(found.graph.documents.last().unwrap().descriptor, root);
        assert!(found.missing.is_empty());

        let long: Vec<_> =
            (0..17).map(|more| document(&store, &[], (4 << 20) - 100 - more)).collect();
        let err = Found::whole(&store, &document(&store, &long, 0)).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Malformed);
        assert!(err.to_string().contains("its manifests have over 67108864 bytes"), "{err}");
    }
}
