//! Garbage: what no image, no container and no work in progress needs.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;
use std::rc::Rc;

use super::config::Config;
use super::digest::{ChainId, Digest};
use super::files;
use super::index::{ASIDE, Entry};
use super::json;
use super::lease::Held;
use super::manifest::{self, Blob, DocumentKind, is_config};
use super::store::Store;
use super::usage::{Space, unpacked_size};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layers::{Driver, LayerStore};

/// What a collection has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collected {
    /// Blobs.
    pub blobs: u64,
    /// Unpacked layers.
    pub layers: u64,
    /// The space that both took.
    pub freed: Space,
}

/// What stays.
#[derive(Clone, Debug, Default)]
pub(super) struct Needed {
    pub(super) blobs: HashSet<Digest>,
    pub(super) chains: HashSet<ChainId>,
}

impl Needed {
    pub(super) fn extend(&mut self, other: Self) {
        self.blobs.extend(other.blobs);
        self.chains.extend(other.chains);
    }
}

/// What documents need, as far as they have been read. They never change, so it stays true.
#[derive(Debug, Default)]
pub(super) struct Known(HashMap<Digest, Rc<Links>>);

/// What one document leads to.
#[derive(Debug, Default)]
struct Links {
    blobs: Vec<Digest>,
    documents: Vec<Digest>,
    chains: Vec<ChainId>,
}

impl Known {
    /// Marks what the entries of the index need.
    ///
    /// Fails if a document is damaged or gone: what it needed is unknown.
    fn of_entries(&mut self, store: &Store, entries: &[Entry], needed: &mut Needed) -> Result<()> {
        for entry in entries {
            needed.blobs.insert(entry.blob.digest);
            if DocumentKind::of(entry.descriptor.media_type()).is_some() {
                self.of_document(store, entry.blob.digest, true, needed).map_err(|err| {
                    err.with_hint(
                        "nothing is removed while it is unknown what an image needs: `repair` drops what is damaged",
                    )
                })?;
            }
        }
        Ok(())
    }

    /// Marks what leases hold.
    pub(super) fn of_held<'a>(
        &mut self,
        store: &Store,
        held: impl IntoIterator<Item = &'a Held>,
        needed: &mut Needed,
    ) -> Result<()> {
        for held in held {
            match held {
                Held::Blob(digest) => drop(needed.blobs.insert(*digest)),
                Held::Chain(chain) => drop(needed.chains.insert(*chain)),
                Held::Document(digest) => self.of_document(store, *digest, false, needed)?,
            }
        }
        Ok(())
    }

    /// A document and all that it leads to. With a list instead of recursion: indexes may name indexes, any number of
    /// times.
    pub(super) fn of_document(
        &mut self,
        store: &Store,
        digest: Digest,
        must_exist: bool,
        needed: &mut Needed,
    ) -> Result<()> {
        let mut seen = HashSet::new();
        let mut next = vec![(digest, must_exist)];
        while let Some((digest, must_exist)) = next.pop() {
            needed.blobs.insert(digest);
            if !seen.insert(digest) {
                continue;
            }
            let attempt = || format!("find out what {digest} needs");
            let Some(links) = self.links(store, digest, must_exist).context(attempt)? else {
                continue;
            };
            needed.blobs.extend(&links.blobs);
            needed.chains.extend(&links.chains);
            // Of an index only some platforms may have been fetched.
            next.extend(links.documents.iter().map(|digest| (*digest, false)));
        }
        Ok(())
    }

    fn links(
        &mut self,
        store: &Store,
        digest: Digest,
        must_exist: bool,
    ) -> Result<Option<Rc<Links>>> {
        if let Some(links) = self.0.get(&digest) {
            return Ok(Some(links.clone()));
        }
        let size = match store.blob_path(&digest).symlink_metadata() {
            Err(err) if err.kind() == io::ErrorKind::NotFound && !must_exist => return Ok(None),
            found => found.context(|| format!("look at the blob {digest}"))?.len(),
        };
        let document = json::object(&store.document(&Blob { digest, size })?)?;
        let named = manifest::Links::of(&document)?;
        let mut links = Links::default();
        for (descriptor, blob) in &named.blobs {
            links.blobs.push(blob.digest);
            if is_config(descriptor.media_type()) {
                links.chains.extend(chains(store, blob));
            }
        }
        for (descriptor, blob) in &named.documents {
            match DocumentKind::of(descriptor.media_type()) {
                Some(_) => links.documents.push(blob.digest),
                None => links.blobs.push(blob.digest),
            }
        }
        let links = Rc::new(links);
        self.0.insert(digest, links.clone());
        Ok(Some(links))
    }
}

/// Unpacked layers can be made again: a damaged configuration loses no more than time.
fn chains(store: &Store, config: &Blob) -> Vec<ChainId> {
    let config = store.document(config).and_then(|bytes| Config::parse(&bytes));
    config.map(|config| config.chain_ids()).unwrap_or_default()
}

impl Store {
    /// Removes what no image, pin or [`Work`](super::Work) in progress needs: blobs, unpacked layers, and what killed
    /// processes left half done.
    ///
    /// The store is locked while it is found out what is needed; the removal itself goes on beside other work.
    ///
    /// # Errors
    ///
    /// `Malformed` if the index, a manifest or a lease is damaged: then nothing is removed. Where a single removal
    /// fails the others go on, and the next collection tries again.
    pub fn collect_garbage(&self) -> Result<Collected> {
        let attempt = || format!("collect the garbage of {}", self.path().display());
        let mut collected = Collected::default();
        loop {
            let before = collected;
            match self.sweep_and_empty(&mut collected) {
                // Even a rename may need room, and this makes some: for itself too.
                Err(err)
                    if err.raw_os_error() == Some(libc::ENOSPC)
                        && (self.spend_reserve() || collected != before) => {}
                done => break done.context(attempt)?,
            }
        }
        let _lock = self.locked().context(attempt)?;
        let length = self.path().join("index.json").metadata().map_or(0, |it| it.len());
        self.keep_reserve(length);
        Ok(collected)
    }

    /// Whatever fails, the rest is tried: room for the next attempt is what is wanted most.
    fn sweep_and_empty(&self, collected: &mut Collected) -> Result<()> {
        let swept = self.sweep(collected);
        let emptied = self.empty_trash();
        let removed = self
            .layer_stores()
            .and_then(|stores| stores.iter().try_for_each(|layers| layers.collect().map(drop)));
        swept.and(emptied).and(removed)
    }

    fn sweep(&self, collected: &mut Collected) -> Result<()> {
        let mut known = Known::default();
        // Most of the reading is done before the lock is taken. What fails now may be gone by then.
        let mut expected = Needed::default();
        let _ = known.of_entries(self, &self.index()?.entries, &mut expected);
        let sizes = self.sizes_without(&expected)?;
        let _lock = self.locked()?;
        let index = self.index()?;
        let leases = self.leases()?;
        let mut needed = Needed::default();
        known.of_entries(self, &index.entries, &mut needed)?;
        known.of_held(self, &leases.held, &mut needed)?;

        for (name, digest) in self.blobs()? {
            if digest.is_some_and(|digest| !needed.blobs.contains(&digest)) {
                let path = self.path().join("blobs/sha256").join(&name);
                let bytes = path.symlink_metadata().map_or(0, |metadata| metadata.len());
                self.discard(&path, &name)?;
                collected.freed.blobs += bytes;
                collected.blobs += 1;
            }
        }
        self.sweep_layers(&needed, &sizes, collected)?;
        for path in entries(&self.path().join("ingest"))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let owner = name.split('.').next().unwrap_or_default();
            if !leases.works.iter().any(|work| work == owner) {
                self.discard(&path, OsStr::new(&name))?;
            }
        }
        for path in &leases.stale {
            files::remove(path)?;
        }
        // Of a process that was killed while it held the lock.
        [ASIDE, "oci-layout.new"].iter().try_for_each(|name| files::remove(&self.path().join(name)))
    }

    /// Unpacked layers, whichever drivers they were unpacked with.
    pub(super) fn layer_stores(&self) -> Result<Vec<LayerStore>> {
        let directory = self.path().join("layers");
        let names = entries(&directory)?.into_iter().filter_map(|path| {
            path.file_name().and_then(OsStr::to_str).and_then(|name| name.parse::<Driver>().ok())
        });
        names.map(|driver| LayerStore::open_with(&directory, driver)).collect()
    }

    /// What the unpacked layers take that are not needed, each by its driver and key.
    fn sizes_without(&self, needed: &Needed) -> Result<HashMap<(Driver, String), u64>> {
        let mut sizes = HashMap::new();
        for layers in self.layer_stores()? {
            for key in unneeded(&layers, needed)? {
                // One that cannot be measured can be removed.
                let size = unpacked_size(&layers, &key).unwrap_or(0);
                sizes.insert((layers.driver(), key), size);
            }
        }
        Ok(sizes)
    }

    fn sweep_layers(
        &self,
        needed: &Needed,
        sizes: &HashMap<(Driver, String), u64>,
        collected: &mut Collected,
    ) -> Result<()> {
        for layers in self.layer_stores()? {
            for key in unneeded(&layers, needed)? {
                if layers.retire(&key)? {
                    collected.layers += 1;
                    let size = sizes.get(&(layers.driver(), key)).copied();
                    collected.freed.layers += size.unwrap_or(0);
                }
            }
        }
        Ok(())
    }

    /// Takes something out of the way at once, to be removed later.
    pub(super) fn discard(&self, path: &Path, name: &OsStr) -> Result<()> {
        let trash = self.path().join("trash");
        let attempt = || format!("discard {}", path.display());
        for number in 0..1000 {
            let mut free = name.to_owned();
            free.push(format!(".{number}"));
            match fs::rename(path, trash.join(free)) {
                Ok(()) => return Ok(()),
                Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
                // A directory that another process is still removing.
                Err(err)
                    if matches!(
                        err.raw_os_error(),
                        Some(libc::ENOTEMPTY | libc::EEXIST | libc::EISDIR | libc::ENOTDIR)
                    ) => {}
                Err(err) => return Err(files::no_space(err)).context(attempt),
            }
        }
        let message = "the trash is full of its like";
        Err(Error::new(ErrorKind::ResourceExhausted, message)).context(attempt)
    }

    /// Removes what was discarded, by this process or another.
    pub(super) fn empty_trash(&self) -> Result<()> {
        let all = entries(&self.path().join("trash"))?;
        let failures: Vec<_> = all.iter().filter_map(|path| files::remove(path).err()).collect();
        match failures.len() {
            0 => Ok(()),
            number => {
                let first = failures.into_iter().next().map_or(Ok(()), Err);
                first.context(|| format!("remove {number} of {} things in the trash", all.len()))
            }
        }
    }
}

/// The keys of the store's layers that are not needed. Other keys are not the store's.
fn unneeded(layers: &LayerStore, needed: &Needed) -> Result<Vec<String>> {
    let is_needed = |key: &str| {
        Digest::from_hex(key.as_bytes()).is_none_or(|it| needed.chains.contains(&ChainId(it)))
    };
    Ok(layers.keys()?.into_iter().filter(|key| !is_needed(key)).collect())
}

pub(super) fn entries(dir: &Path) -> Result<Vec<std::path::PathBuf>> {
    let attempt = || format!("list {}", dir.display());
    let entries = fs::read_dir(dir).context(attempt)?;
    entries.map(|entry| Ok(entry.context(attempt)?.path())).collect()
}
