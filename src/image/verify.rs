//! Finding what is damaged, and dropping it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::io;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use oci_spec::image::Descriptor;

use super::blobs::digest_of;
use super::check::Spoiled;
use super::digest::{ChainId, Digest};
use super::files;
use super::image::{Image, Wanted};
use super::index::{Entry, Index, PREVIOUS};
use super::json;
use super::listing::{by_image, shown};
use super::manifest::{Blob, DocumentKind, Links, may_be_missing};
use super::reference::Reference;
use super::store::Store;
use super::walk::{Step, Walk};
use crate::error::{Context, Error, ErrorKind, Result};

/// What [`Store::verify`] has found.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Verified {
    /// Blobs that were read.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Images in the index.
    pub images: u64,
    /// Unpacked layers that were compared with their blobs.
    pub layers: u64,
    /// Why an unpacked layer could not be compared, one for each: for want of space, say.
    pub unchecked: Vec<Error>,
    /// What is wrong.
    pub damage: Vec<Damage>,
}

impl Verified {
    /// Nothing is damaged, as far as it could be looked at.
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty()
    }
}

/// Something in a store that is not as it should be.
#[derive(Debug)]
#[non_exhaustive]
pub struct Damage {
    /// The blob, if it is one.
    pub blob: Option<Digest>,
    /// The unpacked layer, if it is one.
    pub layer: Option<ChainId>,
    /// What is wrong.
    pub reason: Error,
    /// The images that need it, by name or digest.
    pub images: Vec<String>,
}

impl Damage {
    fn new(blob: Option<Digest>, reason: Error, images: Vec<String>) -> Self {
        Self { blob, layer: None, reason, images }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.reason)?;
        match self.images.is_empty() {
            true => Ok(()),
            false => write!(f, " (needed by {})", self.images.join(", ")),
        }
    }
}

/// What [`Store::repair`] has done.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Repaired {
    /// What was wrong.
    pub found: Verified,
    /// The names, or the digest, of the images that are gone.
    pub images: Vec<String>,
    /// The name in the store's directory under which a damaged `index.json` was kept.
    pub kept_index: Option<String>,
    /// Unpacked layers that are gone. They are unpacked again when they are needed.
    pub layers: u64,
}

type Damages = BTreeMap<Digest, Damage>;

impl Store {
    /// Reads every blob, and finds what is damaged or missing. Blobs are read by as many threads as there are processors.
    ///
    /// Layers that are unpacked are unpacked once more, one at a time, and compared: files by type, content, mode, owner, time
    /// of modification, extended attributes and names that they share. That takes time and space on the disk.
    ///
    /// Others may use the store meanwhile.
    ///
    /// # Errors
    ///
    /// If the store cannot be read; damage is no error.
    pub fn verify(&self) -> Result<Verified> {
        let verified = self.try_verify().map(|(verified, _)| verified);
        verified.context(|| format!("verify the image store {}", self.path().display()))
    }

    fn try_verify(&self) -> Result<(Verified, Vec<Spoiled>)> {
        let mut verified = Verified::default();
        let entries = match self.index() {
            Ok(index) => index.entries,
            Err(err) if err.kind() == ErrorKind::Malformed => {
                verified.damage.push(Damage::new(None, err, Vec::new()));
                Vec::new()
            }
            Err(err) => return Err(err),
        };
        let mut damages = self.hash_all(&mut verified)?;
        let images = by_image(entries);
        verified.images = images.len() as u64;
        for (entry, names) in &images {
            self.check_image(entry, names, &mut damages, &mut verified)?;
        }
        if let Err(err) = self.pinned() {
            verified.damage.push(Damage::new(None, err, Vec::new()));
        }
        let spoiled =
            self.check_layers(&images, |blob| damages.contains_key(&blob), &mut verified)?;
        verified.damage.extend(damages.into_values());
        // What could not be looked at, for want of descriptors say, is not known to be damaged.
        let unknown = |damage: &Damage| damage.reason.kind() == ErrorKind::ResourceExhausted;
        match verified.damage.iter().position(unknown) {
            Some(at) => Err(verified.damage.swap_remove(at).reason),
            None => Ok((verified, spoiled)),
        }
    }

    fn hash_all(&self, verified: &mut Verified) -> Result<Damages> {
        let mut blobs = Vec::new();
        for (name, digest) in self.blobs()? {
            match digest {
                Some(digest) => blobs.push(digest),
                None => {
                    let reason =
                        json::malformed(format!("the file {name:?} among the blobs is none"));
                    verified.damage.push(Damage::new(None, reason, Vec::new()));
                }
            }
        }
        let next = AtomicUsize::new(0);
        let found = Mutex::new((0, 0, Damages::new()));
        let worker = || {
            while let Some(digest) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                // A damaged one may have been replaced or removed since.
                let hashed = self.hash(*digest).or_else(|_| self.hash(*digest));
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                let (number, bytes, damages) = &mut *found;
                match hashed {
                    Ok(size) => {
                        *number += u64::from(size.is_some());
                        *bytes += size.unwrap_or(0);
                    }
                    Err(reason) => {
                        *number += 1;
                        let damage = Damage::new(Some(*digest), reason, Vec::new());
                        damages.insert(*digest, damage);
                    }
                }
            }
        };
        let threads = thread::available_parallelism().map_or(1, usize::from).min(blobs.len());
        thread::scope(|scope| {
            for _ in 1..threads {
                // Without a thread more, this one does it all.
                let _ = thread::Builder::new().spawn_scoped(scope, worker);
            }
            worker();
        });
        let damages;
        (verified.blobs, verified.bytes, damages) =
            found.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(damages)
    }

    /// The size of a blob that is whole; nothing if it is gone.
    fn hash(&self, digest: Digest) -> Result<Option<u64>> {
        let attempt = || format!("read the blob {digest}");
        let mut file = match files::open(&self.blob_path(&digest)) {
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.context(attempt)?,
        };
        let found = digest_of(&mut file).context(attempt)?;
        if found.digest == digest {
            return Ok(Some(found.size));
        }
        Err(json::malformed(format!(
            "the blob {digest} is damaged: its {} bytes have the digest {}",
            found.size, found.digest
        )))
    }

    /// Adds what an image lacks.
    fn check_image(
        &self,
        entry: &Entry,
        names: &[Reference],
        damages: &mut Damages,
        verified: &mut Verified,
    ) -> Result<()> {
        let name = shown(entry, names);
        let mut lacks = Vec::new();
        for (blob, optional) in self.needs(entry, damages) {
            if let Some(damage) = damages.get_mut(&blob.digest) {
                damage.images.push(name.clone());
            } else if !(self.has(&blob)? || optional && !self.has_file(blob.digest)?) {
                let reason = self.check_present(&blob);
                lacks.extend(reason.err().map(|reason| (blob.digest, reason)));
            }
        }
        let sound = lacks.is_empty() && !damages.values().any(|it| it.images.contains(&name));
        let disagree = match Image::of_descriptor(self, &entry.descriptor, &[], Wanted::Any) {
            // What is no image may lie here too.
            Err(err) if sound && err.kind() != ErrorKind::Unsupported => Some(err),
            _ => None,
        };
        // Removed meanwhile, with its blobs.
        if (lacks.is_empty() && disagree.is_none())
            || !self.index()?.entries.iter().any(|other| other.blob == entry.blob)
        {
            return Ok(());
        }
        for (digest, reason) in lacks {
            let damage = Damage::new(Some(digest), reason, Vec::new());
            damages.entry(digest).or_insert(damage).images.push(name.clone());
        }
        verified.damage.extend(disagree.map(|reason| {
            let reason = reason.context("an image's documents disagree");
            Damage::new(Some(entry.blob.digest), reason, vec![name])
        }));
        Ok(())
    }

    fn has_file(&self, digest: Digest) -> Result<bool> {
        match self.blob_path(&digest).symlink_metadata() {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
            found => found.map(|_| true).context(|| format!("look at the blob {digest}")),
        }
    }

    /// Every blob that an entry leads to by documents that are whole, and whether it may be missing.
    fn needs(&self, entry: &Entry, damages: &Damages) -> Vec<(Blob, bool)> {
        let mut needs = vec![(entry.blob, false)];
        let mut next = vec![(entry.descriptor.clone(), entry.blob)];
        let mut seen = HashSet::new();
        while let Some((descriptor, blob)) = next.pop() {
            let known = DocumentKind::of(descriptor.media_type()).is_some();
            if !known || damages.contains_key(&blob.digest) || !seen.insert(blob.digest) {
                continue;
            }
            let read = self.document(&blob).and_then(|bytes| json::object(&bytes));
            let Ok(links) = read.and_then(|document| Links::of(&document)) else { continue };
            needs.extend(
                links.blobs.iter().map(|(it, blob)| (*blob, may_be_missing(it.media_type()))),
            );
            // Of an index only some platforms may have been fetched.
            needs.extend(links.documents.iter().map(|(_, blob)| (*blob, true)));
            next.extend(links.documents);
        }
        needs
    }

    /// Drops what is damaged, and only that: blobs that are not what their names say, and the images that cannot be
    /// without them. Of an image for several platforms only the damaged ones go.
    ///
    /// An unpacked layer that is damaged is unpacked again when it is needed. Root filesystems that stand on it lose its
    /// files: stop what runs on them before.
    ///
    /// A damaged `index.json` is kept under another name. The new one has the images that are whole: under the names
    /// that they had before the last change, or without a name where that is not known.
    ///
    /// Loading or pulling an image again brings back what is missing.
    pub fn repair(&self) -> Result<Repaired> {
        self.try_repair().context(|| format!("repair the image store {}", self.path().display()))
    }

    fn try_repair(&self) -> Result<Repaired> {
        let (found, spoiled) = self.try_verify()?;
        let mut repaired = Repaired { found, ..Repaired::default() };
        if repaired.found.is_sound() {
            return Ok(repaired);
        }
        if repaired.found.damage.iter().any(|damage| damage.layer.is_none()) {
            self.repair_content(&mut repaired)?;
        }
        for layer in &spoiled {
            repaired.layers += u64::from(layer.remove()?);
        }
        Ok(repaired)
    }

    fn repair_content(&self, repaired: &mut Repaired) -> Result<()> {
        {
            let _lock = self.locked()?;
            for digest in repaired.found.damage.iter().filter_map(|damage| damage.blob) {
                match self.hash(digest) {
                    Err(err) if err.kind() == ErrorKind::ResourceExhausted => return Err(err),
                    Err(_) => self.discard(&self.blob_path(&digest), digest.hex().as_ref())?,
                    Ok(_) => {}
                }
            }
            match self.index() {
                Err(err) if err.kind() == ErrorKind::Malformed => {
                    let index = self.rebuilt()?;
                    repaired.kept_index = self.replace_index(&index)?;
                }
                index => drop(index?),
            }
        }
        repaired.images = self.change_index(|index| {
            let mut gone = Vec::new();
            for (entry, names) in by_image(index.entries.clone()) {
                if !self.keep_whole(&entry)? {
                    index.entries.retain(|other| other.blob.digest != entry.blob.digest);
                    gone.push(shown(&entry, &names));
                }
            }
            Ok(gone)
        })?;
        self.empty_trash()?;
        Ok(())
    }

    /// Drops the platforms of an image that are not whole. Says whether anything is left.
    fn keep_whole(&self, entry: &Entry) -> Result<bool> {
        let mut walk = Walk::new(entry.descriptor.clone(), entry.blob);
        let mut whole = false;
        while let Some(step) = walk.step() {
            match step {
                Step::Enter(descriptor, blob) => {
                    if blob == entry.blob || self.has_file(blob.digest)? {
                        let child = Entry::new(&descriptor, None)?;
                        let named = files::if_readable(self.named_by(&child))?;
                        walk.enter((child, named.is_some()), named.unwrap_or_default());
                    }
                }
                Step::Leave((child, is_read)) => {
                    whole = is_read && self.is_whole(&child)?;
                    let digest = child.blob.digest;
                    if !whole && child.blob != entry.blob {
                        self.discard(&self.blob_path(&digest), digest.hex().as_ref())?;
                    }
                }
            }
        }
        Ok(whole)
    }

    /// What it names, if it is an index.
    fn named_by(&self, entry: &Entry) -> Result<Vec<(Descriptor, Blob)>> {
        match DocumentKind::of(entry.descriptor.media_type()) {
            Some(DocumentKind::Index) => {
                let document = json::object(&self.document(&entry.blob)?)?;
                Ok(Links::of(&document)?.documents)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Whether an image is whole for one platform at least, or something else is.
    fn is_whole(&self, entry: &Entry) -> Result<bool> {
        let complete = Image::of_descriptor(self, &entry.descriptor, &[], Wanted::Any)
            .and_then(|image| image.check_present());
        match complete {
            Ok(()) => Ok(true),
            // Not an image: it is whole if everything is there.
            Err(err) if err.kind() == ErrorKind::Unsupported => {
                let needs = self.needs(entry, &Damages::new()).into_iter();
                needs
                    .filter(|(_, optional)| !optional)
                    .try_fold(true, |all, (blob, _)| Ok(all && self.has(&blob)?))
            }
            Err(err) if matches!(err.kind(), ErrorKind::Malformed | ErrorKind::NotFound) => {
                Ok(false)
            }
            Err(err) => Err(err),
        }
    }

    /// An index of what is there: as it was before the last change, and every image that it does not have.
    fn rebuilt(&self) -> Result<Index> {
        let previous = files::read(&self.path().join(PREVIOUS), 64 << 20);
        let mut index = previous.and_then(|bytes| Index::parse(&bytes)).unwrap_or_default();
        let mut documents = HashMap::new();
        let mut linked = HashSet::new();
        for digest in self.blobs()?.into_iter().filter_map(|(_, digest)| digest) {
            let Some((descriptor, links)) = self.guess(digest)? else { continue };
            linked.extend(links.documents.iter().map(|(_, blob)| blob.digest));
            documents.insert(digest, descriptor);
        }
        documents.retain(|digest, _| !linked.contains(digest));
        let mut documents: Vec<_> = documents.into_iter().collect();
        documents.sort_by_key(|(digest, _)| *digest);
        for (_, descriptor) in documents {
            if self.keep_whole(&Entry::new(&descriptor, None)?)? {
                index.set(&descriptor, None)?;
            }
        }
        Ok(index)
    }

    /// What a blob is, if it looks like a manifest or an index.
    pub(super) fn guess(&self, digest: Digest) -> Result<Option<(Descriptor, Links)>> {
        let size = match self.blob_path(&digest).symlink_metadata() {
            Ok(metadata) if metadata.len() <= json::MAX_DOCUMENT => metadata.len(),
            _ => return Ok(None),
        };
        let blob = Blob { digest, size };
        let read = self.document(&blob).and_then(|bytes| json::object(&bytes));
        let Some(document) = files::if_readable(read)? else { return Ok(None) };
        let (Some(kind), Ok(links)) = (DocumentKind::by_fields(&document), Links::of(&document))
        else {
            return Ok(None);
        };
        let own = document.get("mediaType").and_then(|it| it.as_str());
        let media_type = own.unwrap_or_else(|| kind.media_type()).into();
        Ok(Some((blob.descriptor(media_type), links)))
    }
}
