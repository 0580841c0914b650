//! A handle on an image in the store.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use oci_spec::image::Descriptor;

use super::blobs::no_such_image;
use super::config::Config;
use super::digest::{ChainId, DiffId, Digest};
use super::index::Entry;
use super::json::malformed;
use super::lease::Held;
use super::manifest::{Blob, DocumentKind, Index, Manifest};
use super::platform::Platform;
use super::reference::Reference;
use super::store::Store;
use crate::error::{Context, Error, ErrorKind, Result};

/// An image in a store: what its documents say, as they were when it was looked up.
///
/// The handle does not keep the image from being removed; [`Work::hold`](super::Work::hold) and
/// [`Store::pin`] do. Clones are cheap.
#[derive(Clone)]
pub struct Image(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    store: Store,
    root: Descriptor,
    root_blob: Blob,
    references: Vec<Reference>,
    manifest: Manifest,
    manifest_blob: Blob,
    config: Config,
}

/// Which image of an index is meant.
#[derive(Clone, Copy)]
pub(super) enum Wanted<'a> {
    /// For the host if there is one, else the first that is here.
    Any,
    For(&'a Platform),
}

impl Image {
    /// The id: the digest of the configuration. Images of the same id have the same files and settings.
    pub fn id(&self) -> Digest {
        self.0.manifest.config().digest
    }

    /// The digest that registries know the image by: of the manifest, or of the index if there are images for
    /// several platforms.
    pub fn digest(&self) -> Digest {
        self.0.root_blob.digest
    }

    /// How an index names the image; what [`Work::set_image`](super::Work::set_image) takes.
    pub fn descriptor(&self) -> &Descriptor {
        &self.0.root
    }

    /// The names, sorted. An image without is *dangling*.
    pub fn references(&self) -> &[Reference] {
        &self.0.references
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// The manifest. Its layers are as many as the configuration's, and in the same order.
    pub fn manifest(&self) -> &Manifest {
        &self.0.manifest
    }

    /// The blob of the manifest.
    pub fn manifest_blob(&self) -> Blob {
        self.0.manifest_blob
    }

    /// The layers as uncompressed archives, the lowest first.
    pub fn diff_ids(&self) -> &[DiffId] {
        self.0.config.diff_ids()
    }

    /// The stack up to each layer, the lowest first; the last is the image's root file system.
    pub fn chain_ids(&self) -> Vec<ChainId> {
        self.0.config.chain_ids()
    }

    /// The machine that it is for.
    pub fn platform(&self) -> Platform {
        self.0.config.platform()
    }

    /// When it was made, if it says so.
    pub fn created(&self) -> Option<SystemTime> {
        self.0.config.created()
    }

    /// The bytes of manifest, configuration and layers, as they are stored and transferred.
    pub fn size(&self) -> u64 {
        self.blobs().map(|blob| blob.size).sum()
    }

    /// The store that it lies in.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Manifest, configuration, layers, and the index if there is one.
    pub(super) fn blobs(&self) -> impl Iterator<Item = Blob> {
        let Inner { root_blob, manifest, manifest_blob, .. } = &*self.0;
        let index = (root_blob != manifest_blob).then_some(*root_blob);
        let own = index.into_iter().chain([*manifest_blob, manifest.config()]);
        own.chain(manifest.layers().iter().copied())
    }

    pub(super) fn held(&self) -> Vec<Held> {
        let chains = self.chain_ids().into_iter().map(Held::Chain);
        std::iter::once(Held::Document(self.digest())).chain(chains).collect()
    }

    /// What a descriptor leads to.
    pub(super) fn of_descriptor(
        store: &Store,
        root: &Descriptor,
        references: &[Reference],
        wanted: Wanted<'_>,
    ) -> Result<Self> {
        let root_blob = Blob::try_from(root)?;
        let (descriptor, manifest_blob) = match DocumentKind::of(root.media_type()) {
            Some(DocumentKind::Index) => choose(store, root, root_blob, wanted)?,
            _ => (root.clone(), root_blob),
        };
        let (manifest, config) = documents(store, &descriptor, manifest_blob)?;
        let (store, root, references) = (store.clone(), root.clone(), references.to_vec());
        let inner = Inner { store, root, root_blob, references, manifest, manifest_blob, config };
        Ok(Self(Arc::new(inner)))
    }

    /// The same image, showing these names.
    pub(super) fn with_references(&self, references: Vec<Reference>) -> Self {
        Self(Arc::new(Inner { references, ..(*self.0).clone() }))
    }

    /// Whether every blob is here, of whichever platforms there are.
    pub(crate) fn check_present(&self) -> Result<()> {
        let Inner { store, root, root_blob, .. } = &*self.0;
        if self.0.root_blob == self.0.manifest_blob {
            return check_layers(store, &self.0.manifest, self.0.manifest_blob);
        }
        for (descriptor, blob) in index(store, root, *root_blob)?.manifests {
            let is_manifest =
                DocumentKind::of(descriptor.media_type()) == Some(DocumentKind::Manifest);
            if is_manifest && store.has(&blob)? {
                let bytes = store.document(&blob)?;
                // An attestation beside the images is none.
                match Manifest::parse(&bytes, descriptor.media_type()) {
                    Err(err) if err.kind() == ErrorKind::Unsupported => {}
                    manifest => check_layers(store, &manifest.context(|| reading(&blob))?, blob)?,
                }
            }
        }
        Ok(())
    }
}

fn reading(blob: &Blob) -> String {
    format!("read the manifest {}", blob.digest)
}

/// What an index names, and what the indexes name that it names and that are here.
fn index(store: &Store, descriptor: &Descriptor, blob: Blob) -> Result<Index> {
    let mut index = one_index(store, descriptor, blob)?;
    let attempt = || format!("read what the index {} names", blob.digest);
    for depth in 1.. {
        let nested = index.take_nested().context(attempt)?;
        if nested.is_empty() {
            break;
        }
        for (descriptor, blob) in nested {
            if store.has(&blob)? {
                let nested = one_index(store, &descriptor, blob).context(attempt)?;
                index.add_nested(nested, depth).context(attempt)?;
            }
        }
    }
    Ok(index)
}

fn one_index(store: &Store, descriptor: &Descriptor, blob: Blob) -> Result<Index> {
    let attempt = || format!("read the index {}", blob.digest);
    let bytes = store.document(&blob).context(attempt)?;
    Index::parse(&bytes, descriptor.media_type()).context(attempt)
}

fn choose(
    store: &Store,
    root: &Descriptor,
    blob: Blob,
    wanted: Wanted<'_>,
) -> Result<(Descriptor, Blob)> {
    let index = index(store, root, blob)?;
    let chosen = match wanted {
        Wanted::For(platform) => index.choose(platform),
        Wanted::Any => {
            index.choose(&Platform::host()).and_then(|found| match store.has(&found.1)? {
                true => Ok(found),
                false => Err(Error::new(ErrorKind::NotFound, "the host's is not here")),
            })
        }
    };
    match (chosen, wanted) {
        (Ok(found), _) => Ok(found.clone()),
        (Err(err), Wanted::For(_)) => {
            Err(err).context(|| format!("choose of the index {}", blob.digest))
        }
        (Err(err), Wanted::Any) => {
            for (descriptor, blob) in index.manifests {
                if store.has(&blob)? && documents(store, &descriptor, blob).is_ok() {
                    return Ok((descriptor, blob));
                }
            }
            Err(err).context(|| format!("choose of the index {}", blob.digest))
        }
    }
}

/// Reads manifest and configuration, and checks that they agree.
fn documents(store: &Store, descriptor: &Descriptor, blob: Blob) -> Result<(Manifest, Config)> {
    let attempt = || reading(&blob);
    let bytes = store.document(&blob).context(attempt)?;
    let manifest = Manifest::parse(&bytes, descriptor.media_type()).context(attempt)?;
    let id = manifest.config();
    let attempt = || format!("read the configuration {}", id.digest);
    let config = Config::parse(&store.document(&id).context(attempt)?).context(attempt)?;
    let (layers, ids) = (manifest.layers().len(), config.diff_ids().len());
    if layers != ids {
        let message = format!(
            "the manifest {} has {layers} layers, but its configuration {} names {ids}",
            blob.digest, id.digest
        );
        return Err(malformed(message));
    }
    Ok((manifest, config))
}

fn check_layers(store: &Store, manifest: &Manifest, blob: Blob) -> Result<()> {
    let attempt = || format!("look for the blobs of the manifest {}", blob.digest);
    store.check_present(&manifest.config()).context(attempt)?;
    for (number, layer) in manifest.layers().iter().enumerate() {
        match store.check_present(layer) {
            Err(err) if err.kind() == ErrorKind::NotFound && manifest.may_lack(number) => {}
            other => other.context(attempt)?,
        }
    }
    Ok(())
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut image = f.debug_struct("Image");
        image.field("id", &self.id()).field("digest", &self.digest());
        image.field("references", &self.references()).finish_non_exhaustive()
    }
}

impl PartialEq for Image {
    /// The same documents; the names do not matter.
    fn eq(&self, other: &Self) -> bool {
        (self.digest(), self.manifest_blob()) == (other.digest(), other.manifest_blob())
    }
}

impl Eq for Image {}

impl Store {
    /// Looks an image up by a name (`app:1`, `host/team/app@sha256:...`), its id, its digest, or the beginning of one of
    /// these. Of several platforms it is the host's.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is none, `InvalidInput` if that begins several ids, `Malformed` if its documents are damaged.
    pub fn image(&self, name: &str) -> Result<Image> {
        self.find(name, Wanted::Any)
    }

    /// [`image`](Self::image), for another platform.
    ///
    /// # Errors
    ///
    /// As there; `NotFound` too if the image is not made for that platform.
    pub fn image_for(&self, name: &str, platform: &Platform) -> Result<Image> {
        let image = self.find(name, Wanted::For(platform))?;
        match platform.suits(&image.platform()) {
            Some(_) => Ok(image),
            None => {
                let message =
                    format!("the image {name} is for {}, not {platform}", image.platform());
                Err(Error::new(ErrorKind::NotFound, message))
            }
        }
    }

    fn find(&self, name: &str, wanted: Wanted<'_>) -> Result<Image> {
        let attempt = || format!("look up the image {name}");
        let index = self.index().context(attempt)?;
        let entry = self.find_entry(&index.entries, name, |reference| index.find(reference));
        let entry = entry.context(attempt)?;
        let references = references(&index.entries, entry.blob.digest);
        Image::of_descriptor(self, &entry.descriptor, &references, wanted).context(attempt)
    }

    /// The entry that a name or id means.
    pub(super) fn find_entry<'a>(
        &self,
        entries: &'a [Entry],
        name: &str,
        by_reference: impl FnOnce(&Reference) -> Option<&'a Entry>,
    ) -> Result<&'a Entry> {
        let parsed = name.parse::<Reference>();
        if let Ok(reference) = &parsed
            && let Some(entry) = by_reference(reference)
        {
            return Ok(entry);
        }
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if !(4..=64).contains(&hex.len()) || !hex.bytes().all(is_hex) {
            return Err(parsed.err().unwrap_or_else(|| no_such_image(name, self)));
        }
        let mut found: Option<(&Entry, Digest)> = None;
        for entry in entries {
            let own = entry.blob.digest;
            let id = match own.hex().starts_with(hex) {
                true => own,
                // What cannot be read has no id; who wants it by name is told why.
                false => match Image::of_descriptor(self, &entry.descriptor, &[], Wanted::Any) {
                    Ok(image) if image.id().hex().starts_with(hex) => image.id(),
                    _ => continue,
                },
            };
            match found {
                Some((_, other)) if other != id => {
                    return Err(Error::invalid(format!("{name} begins the ids of several images")));
                }
                Some(_) => {}
                None => found = Some((entry, id)),
            }
        }
        found.map(|(entry, _)| entry).ok_or_else(|| no_such_image(name, self))
    }
}

/// The names of an image, sorted.
pub(super) fn references(entries: &[Entry], digest: Digest) -> Vec<Reference> {
    let named = entries.iter().filter(|entry| entry.blob.digest == digest);
    let mut names: Vec<_> = named.filter_map(|entry| entry.reference.clone()).collect();
    names.sort();
    names
}
