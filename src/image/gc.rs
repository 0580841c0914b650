//! Garbage: what no image, no container and no work in progress needs.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::config::Config;
use super::digest::{ChainId, Digest};
use super::files;
use super::index::Entry;
use super::json;
use super::lease::{Held, Leases};
use super::manifest::{Blob, DocumentKind, Links, is_config};
use super::store::Store;
use crate::error::{Context, Error, ErrorKind, Result};

/// What a collection has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collected {
    /// Blobs.
    pub blobs: u64,
    /// The bytes of these blobs.
    pub bytes: u64,
    /// Unpacked layers.
    pub layers: u64,
}

/// What stays.
#[derive(Debug, Default)]
pub(super) struct Needed {
    pub(super) blobs: HashSet<Digest>,
    pub(super) chains: HashSet<ChainId>,
    documents: HashSet<Digest>,
}

impl Needed {
    /// Marks what the entries of the index need.
    ///
    /// Fails if a document is damaged or gone: what it needed is unknown.
    pub(super) fn of_entries(&mut self, store: &Store, entries: &[Entry]) -> Result<()> {
        for entry in entries {
            self.blobs.insert(entry.blob.digest);
            if DocumentKind::of(entry.descriptor.media_type()).is_some() {
                self.of_document(store, entry.blob.digest, true).map_err(|err| {
                    err.with_hint(
                        "nothing is removed while it is unknown what an image needs: `repair` drops what is damaged",
                    )
                })?;
            }
        }
        Ok(())
    }

    fn of_leases(&mut self, store: &Store, leases: &Leases) -> Result<()> {
        for held in &leases.held {
            match held {
                Held::Blob(digest) => drop(self.blobs.insert(*digest)),
                Held::Chain(chain) => drop(self.chains.insert(*chain)),
                Held::Document(digest) => self.of_document(store, *digest, false)?,
            }
        }
        Ok(())
    }

    /// A document and all that it leads to. With a list instead of recursion: indexes may name indexes, any number of
    /// times.
    fn of_document(&mut self, store: &Store, digest: Digest, must_exist: bool) -> Result<()> {
        let mut next = vec![(digest, must_exist)];
        while let Some((digest, must_exist)) = next.pop() {
            self.blobs.insert(digest);
            if !self.documents.insert(digest) {
                continue;
            }
            let attempt = || format!("find out what {digest} needs");
            let Some(bytes) = read(store, digest, must_exist).context(attempt)? else { continue };
            let document = json::object(&bytes).context(attempt)?;
            let links = Links::of(&document).context(attempt)?;
            self.blobs.extend(links.blobs.iter().map(|(_, blob)| blob.digest));
            let configs = links.blobs.iter().filter(|(it, _)| is_config(it.media_type()));
            // Unpacked layers can be made again: a damaged configuration loses no more than time.
            self.chains.extend(configs.flat_map(|(_, blob)| chains(store, blob)));
            for (descriptor, blob) in links.documents {
                self.blobs.insert(blob.digest);
                // Of an index only some platforms may have been fetched.
                if DocumentKind::of(descriptor.media_type()).is_some() {
                    next.push((blob.digest, false));
                }
            }
        }
        Ok(())
    }
}

fn read(store: &Store, digest: Digest, must_exist: bool) -> Result<Option<Vec<u8>>> {
    let size = match store.blob_path(&digest).symlink_metadata() {
        Err(err) if err.kind() == io::ErrorKind::NotFound && !must_exist => return Ok(None),
        found => found.context(|| format!("look at the blob {digest}"))?.len(),
    };
    store.document(&Blob { digest, size }).map(Some)
}

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
        let collected = self.sweep().context(attempt)?;
        self.empty_trash().context(attempt)?;
        let _lock = self.locked().context(attempt)?;
        let length = self.path().join("index.json").metadata().map_or(0, |it| it.len());
        self.keep_reserve(length);
        Ok(collected)
    }

    fn sweep(&self) -> Result<Collected> {
        let _lock = self.locked()?;
        let index = self.index()?;
        let leases = self.leases()?;
        let mut needed = Needed::default();
        needed.of_entries(self, &index.entries)?;
        needed.of_leases(self, &leases)?;

        let mut collected = Collected::default();
        for (name, digest) in self.blobs()? {
            if digest.is_some_and(|digest| !needed.blobs.contains(&digest)) {
                let path = self.path().join("blobs/sha256").join(&name);
                collected.bytes += path.symlink_metadata().map_or(0, |metadata| metadata.len());
                collected.blobs += 1;
                self.discard(&path, &name)?;
            }
        }
        collected.layers = self.sweep_layers(&needed)?;
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
        ["index.json.new", "oci-layout.new"]
            .iter()
            .try_for_each(|name| files::remove(&self.path().join(name)))?;
        Ok(collected)
    }

    fn sweep_layers(&self, needed: &Needed) -> Result<u64> {
        let mut removed = 0;
        for driver in entries(&self.path().join("layers"))? {
            if !driver.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
                continue;
            }
            let kind = driver.file_name().unwrap_or_default().to_owned();
            for path in entries(&driver)? {
                let name = path.file_name().unwrap_or_default();
                // Anything else is the driver's own.
                let Some(digest) = Digest::from_hex(name.as_bytes()) else { continue };
                if !needed.chains.contains(&ChainId(digest)) {
                    let mut trash = kind.clone();
                    trash.push("-");
                    trash.push(name);
                    self.discard(&path, &trash)?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
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

pub(super) fn entries(dir: &Path) -> Result<Vec<std::path::PathBuf>> {
    let attempt = || format!("list {}", dir.display());
    let entries = fs::read_dir(dir).context(attempt)?;
    entries.map(|entry| Ok(entry.context(attempt)?.path())).collect()
}
