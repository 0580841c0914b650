//! Root filesystems of images: layers unpacked once and shared by all that are made of them.
//!
//! An unpacked layer is a copy of what its blob holds, and can be made again. So it is not written to the disk at once:
//! after a restart of the machine, a layer that was unpacked before and not synced since is not trusted.

use std::fs::File;
use std::io::BufRead;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use nix::unistd::syncfs;
use serde_json::json;

use super::digest::{ChainId, DiffId, Digest};
use super::early::Early;
use super::files;
use super::hashed::Hashed;
use super::image::Image;
use super::json::{self, malformed};
use super::lease::Work;
use super::manifest::Blob;
use super::store::Store;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layers::{
    Ahead, ArchiveLimits, Change, Compression, Implied, LayerStore, Owner, Stack, Staging, Unpack,
    Unpacked,
};

/// What is known of an unpacked layer, beside its tree.
const RECORD: &str = "layer.json";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const MAX_RECORD: u64 = 64 << 10;

impl Owner for Work {}

impl Store {
    /// The unpacked layers, each under the hexadecimal digits of its [`ChainId`].
    ///
    /// # Errors
    ///
    /// As [`LayerStore::open`].
    pub fn layers(&self) -> Result<LayerStore> {
        LayerStore::open(self.path().join("layers"))
    }

    /// Writes the unpacked layers to the disk, so that they need not be unpacked anew after a restart of the machine.
    /// Everything else is there already.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn sync_layers(&self) -> Result<()> {
        let attempt = || "write the unpacked layers to the disk";
        let layers = self.layers().context(attempt)?;
        let boot = boot_id().context(attempt)?;
        let keys = layers.keys().context(attempt)?;
        let fresh: Vec<_> = keys
            .into_iter()
            .map(|key| layers.path(&key).join(RECORD))
            .filter_map(|path| Some((Record::read(&path).ok()??, path)))
            .filter(|(record, _)| record.made_in.as_ref() == Some(&boot))
            .collect();
        let directory = File::open(self.path().join("layers")).context(attempt)?;
        syncfs(&directory).context(attempt)?;
        let work = self.work().context(attempt)?;
        for (record, path) in fresh {
            let durable = Record { made_in: None, ..record };
            match files::replace(&path, &work.scratch_path(), &durable.to_json()) {
                // It has been collected meanwhile.
                Err(err) if err.kind() == ErrorKind::NotFound => {}
                done => done.context(attempt)?,
            }
        }
        Ok(())
    }
}

impl Image {
    /// Begins a root filesystem of the image's layers, which are unpacked if they are not yet.
    ///
    /// What it is made of stays in the store as long as the root filesystem or a process on it, even if the image is
    /// removed. Device nodes that the caller may not make are left out: a container gets its devices with its `/dev`,
    /// and can open none of an image.
    ///
    /// ```no_run
    /// use coracle::image::Store;
    /// use coracle::namespaces::Command;
    ///
    /// # fn main() -> coracle::Result<()> {
    /// let image = Store::open("images/")?.image("debian:12")?;
    /// let rootfs = image.rootfs()?.ephemeral()?;
    /// Command::new("/bin/sh").rootfs(&rootfs).status()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `NotFound` if part of the image is gone; `Malformed` if a layer is damaged, and others as of
    /// [`Unpack::run`]; `ResourceExhausted` if the disk is full or a layer passes the
    /// [limits](Store::layer_limits).
    pub fn rootfs(&self) -> Result<Stack> {
        self.try_rootfs()
            .context(|| format!("make a root filesystem of the image {}", self.id().short()))
    }

    fn try_rootfs(&self) -> Result<Stack> {
        let work = self.store().work()?;
        work.hold(self)?;
        let layers = self.store().layers()?;
        let keys = self.unpack(&work, &layers)?;
        let keys: Vec<_> = keys.iter().map(String::as_str).collect();
        Ok(layers.stack(&keys)?.owned_by(Arc::new(work)))
    }

    /// [`rootfs`](Self::rootfs) for as long as a [pin](Store::pin) keeps the image: where its layers are unpacked, that
    /// takes no lease besides.
    #[cfg(feature = "container")]
    pub(crate) fn pinned_rootfs(&self) -> Result<Stack> {
        let layers = self.store().layers()?;
        let stack = UnpackedStack::of(self, &layers)?;
        for at in 0..stack.keys.len() {
            if !is_whole(&layers, &stack.keys[at], &stack.boot)? {
                return self.rootfs();
            }
        }
        let keys: Vec<_> = stack.keys.iter().map(String::as_str).collect();
        layers.stack(&keys)
    }

    /// What is different in the files of this image from those of `older`, as [`Rootfs::changes`] lists it: an
    /// [`Added`](crate::layers::ChangeKind::Added) one is only in this image, a
    /// [`Deleted`](crate::layers::ChangeKind::Deleted) one only in `older`. Files differ by type, content, mode, owner,
    /// time of modification, extended attributes, link target or device number; directories by the same but time.
    ///
    /// Both images are unpacked if they are not yet. Of layers that both begin with, only what the others touch is looked
    /// at; where the [`Driver`](crate::layers::Driver) keeps whole trees, and where no layer is shared, both are
    /// read whole.
    ///
    /// [`Rootfs::changes`]: crate::layers::Rootfs::changes
    ///
    /// # Errors
    ///
    /// As [`rootfs`](Self::rootfs); `InvalidInput` for images of two stores.
    pub fn changes_since(&self, older: &Self) -> Result<Vec<Change>> {
        let attempt =
            || format!("compare the images {} and {}", older.id().short(), self.id().short());
        self.try_changes_since(older).context(attempt)
    }

    fn try_changes_since(&self, older: &Self) -> Result<Vec<Change>> {
        let (store, other) = (self.store(), older.store());
        if store.path() != other.path() {
            let (one, two) = (store.path().display(), other.path().display());
            return Err(Error::invalid(format!("one is in the store {one}, the other in {two}"))
                .with_hint("save one of the images and load it into the other store"));
        }
        let work = store.work()?;
        work.hold(self)?;
        work.hold(older)?;
        let layers = store.layers()?;
        let (new, old) = (self.unpack(&work, &layers)?, older.unpack(&work, &layers)?);
        let (new, old): (Vec<_>, Vec<_>) =
            (new.iter().map(String::as_str).collect(), old.iter().map(String::as_str).collect());
        layers.changes(&old, &new)
    }

    /// Makes the directory `to`, unless something is in it, a copy of the one that the image has at `path`, if there is one:
    /// see [`LayerStore::extract`].
    #[cfg(feature = "container")]
    pub(crate) fn extract(&self, path: &Path, to: &Path, durable: bool) -> Result<()> {
        let work = self.store().work()?;
        work.hold(self)?;
        let layers = self.store().layers()?;
        let keys = self.unpack(&work, &layers)?;
        let keys: Vec<_> = keys.iter().map(String::as_str).collect();
        layers.extract(&keys, path, to, durable)
    }

    /// Unpacks what is not unpacked yet. Returns the keys of the layers, the lowest first.
    pub(super) fn unpack(&self, work: &Work, layers: &LayerStore) -> Result<Vec<String>> {
        self.unpack_or_take(work, layers, |_| None)
    }

    /// [`unpack`](Self::unpack), with layers that have been unpacked early, as `early` has them by their blobs.
    pub(super) fn unpack_or_take(
        &self,
        work: &Work,
        layers: &LayerStore,
        mut early: impl FnMut(&Digest) -> Option<Early>,
    ) -> Result<Vec<String>> {
        let stack = UnpackedStack::of(self, layers)?;
        for (at, blob) in self.manifest().layers().iter().enumerate() {
            if stack.has(at)? {
                continue;
            }
            let (below, chain) = (stack.below(at), stack.chains[at]);
            work.hold_chain(chain)?;
            let (staging, left_out) = match early(&blob.digest).and_then(|early| early.upon(&below))
            {
                Some(early) => early,
                None => {
                    let staging = layers.prepare(&below);
                    let staging = staging.context(|| format!("unpack the layer {chain}"))?;
                    let left_out = unpack_layer(self, at, &staging)?;
                    (staging, left_out)
                }
            };
            stack.put(at, staging, left_out)?;
        }
        Ok(stack.keys)
    }
}

/// The layers of an image as they are, or come to be, among the unpacked ones.
struct UnpackedStack<'a> {
    image: &'a Image,
    layers: &'a LayerStore,
    chains: Vec<ChainId>,
    keys: Vec<String>,
    boot: String,
}

impl<'a> UnpackedStack<'a> {
    fn of(image: &'a Image, layers: &'a LayerStore) -> Result<Self> {
        let chains = image.chain_ids();
        let keys = chains.iter().map(|chain| chain.0.hex()).collect();
        Ok(Self { image, layers, chains, keys, boot: boot_id()? })
    }

    /// The keys of those below one.
    fn below(&self, at: usize) -> Vec<&str> {
        self.keys[..at].iter().map(String::as_str).collect()
    }

    /// Whether the layer is there. One that may not be whole is removed.
    fn has(&self, at: usize) -> Result<bool> {
        let key = &self.keys[at];
        let is_whole = || is_whole(self.layers, key, &self.boot);
        if is_whole()? {
            return Ok(true);
        }
        // Another who unpacks it may be done by now.
        self.layers.remove_if(key, || is_whole().map(|whole| !whole))?;
        is_whole()
    }

    /// Keeps a layer that has been unpacked, but for so many devices.
    fn put(&self, at: usize, staging: Staging, left_out: u64) -> Result<()> {
        let attempt = || format!("keep the layer {}", self.chains[at]);
        let record = Record {
            diff_id: self.image.diff_ids()[at],
            parent: at.checked_sub(1).map(|below| self.chains[below]),
            made_in: Some(self.boot.clone()),
            left_out,
        };
        let path = staging.directory().join(RECORD);
        std::fs::write(path, record.to_json()).map_err(files::no_space).context(attempt)?;
        staging.commit(&self.keys[at]).context(attempt)?;
        Ok(())
    }
}

/// Whether the layer is there, and all of it was written. Where that cannot be told, for want of descriptors say, it is no
/// layer to be removed.
pub(super) fn is_whole(layers: &LayerStore, key: &str, boot: &str) -> Result<bool> {
    if !layers.has(key)? {
        return Ok(false);
    }
    let record = Record::of(layers, key)?;
    Ok(record.is_some_and(|record| record.made_in.is_none_or(|made_in| made_in == boot)))
}

/// Unpacks a layer of an image, counted from the lowest. Returns how many devices the caller may not make.
pub(super) fn unpack_layer(image: &Image, at: usize, staging: &Staging) -> Result<u64> {
    let manifest = image.manifest();
    let (Some(blob), Some(diff_id)) = (manifest.layers().get(at), image.diff_ids().get(at)) else {
        return Err(malformed(format!("the image {} lacks a layer", image.id())));
    };
    let media_type = manifest.spec().layers()[at].media_type().to_string();
    let unpacked = unpack_blob(image.store(), blob, &media_type, *diff_id, staging);
    unpacked.context(|| format!("unpack the layer {}", blob.digest))
}

fn unpack_blob(
    store: &Store,
    blob: &Blob,
    media_type: &str,
    diff_id: DiffId,
    staging: &Staging,
) -> Result<u64> {
    let Some(compression) = Compression::of_media_type(media_type) else {
        return Err(Error::unsupported(format!("unpack a layer of the type {media_type}")));
    };
    let decoder =
        compression.decoder(store.blob(&blob.digest)?).context(|| "begin to decompress")?;
    let filled = thread::scope(|scope| {
        let ahead = Ahead::of(scope, decoder).context(|| "start a thread")?;
        let mut hashed = Hashed::new(ahead, u64::MAX);
        let (unpacked, _) = fill(staging, &mut hashed, store.limits())?;
        let found = hashed.finish().context(|| "read it to its end")?;
        Ok((found, unpacked.left_out))
    });
    let ((found, _), left_out) = filled?;
    if found != diff_id.0 {
        return Err(malformed(format!("its content has the digest {found}, not {diff_id}")));
    }
    Ok(left_out)
}

/// Unpacks the tar stream of a layer. What the lower layers have a say in comes back, if it is no more than that.
pub(super) fn fill(
    staging: &Staging,
    from: impl BufRead,
    limits: ArchiveLimits,
) -> Result<(Unpacked, Option<Implied>)> {
    onto(staging, |unpack, tree| unpack.limits(limits).run_here(from, tree))
}

/// Makes of a layer that was unpacked before the lower ones what it would have become upon them. Returns whether it
/// can be.
pub(super) fn settle(staging: &Staging, implied: &Implied) -> Result<bool> {
    onto(staging, |unpack, tree| unpack.settle(implied, tree))
}

fn onto<T>(staging: &Staging, work: impl FnOnce(Unpack<'_>, &OwnedFd) -> Result<T>) -> Result<T> {
    let tree = staging.open_tree().context(|| "open the new layer")?;
    let lower = match staging.lower()? {
        Some(lower) => {
            Some(lower.as_fd().try_clone_to_owned().context(|| "keep the lower layers")?)
        }
        None => None,
    };
    let mut unpack = Unpack::new().overlay(staging.keeps_differences()).skip_devices(true);
    match &lower {
        Some(lower) => unpack = unpack.lower(lower),
        // Or the driver keeps whole trees, in which no marks are left either.
        None => unpack = unpack.lowest(true),
    }
    work(unpack, &tree)
}

/// Where a layer comes from.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    diff_id: DiffId,
    pub(super) parent: Option<ChainId>,
    /// The boot of the machine that it was unpacked in, unless it has been synced.
    made_in: Option<String>,
    /// How many devices it lacks, as who unpacked it may make none.
    pub(super) left_out: u64,
}

impl Record {
    pub(super) fn of(layers: &LayerStore, key: &str) -> Result<Option<Self>> {
        Self::read(&layers.path(key).join(RECORD))
    }

    /// `None` for what is not there or cannot be believed.
    fn read(path: &Path) -> Result<Option<Self>> {
        let read = files::if_readable(files::read(path, MAX_RECORD))?;
        Ok(read.and_then(|bytes| Self::from_json(&bytes)))
    }

    fn from_json(bytes: &[u8]) -> Option<Self> {
        let object = json::object(bytes).ok()?;
        let digest = |field: &str| object.get(field)?.as_str()?.parse::<Digest>().ok();
        Some(Self {
            diff_id: DiffId(digest("diffId")?),
            parent: digest("parent").map(ChainId),
            made_in: match object.get("madeIn")? {
                serde_json::Value::Null => None,
                boot => Some(boot.as_str()?.to_owned()),
            },
            // Earlier versions left none out.
            left_out: object.get("leftOut").map_or(Some(0), serde_json::Value::as_u64)?,
        })
    }

    fn to_json(&self) -> Vec<u8> {
        let parent = self.parent.map(|chain| chain.0.to_string());
        let diff_id = self.diff_id.0.to_string();
        json!({"diffId": diff_id, "parent": parent, "madeIn": self.made_in, "leftOut": self.left_out})
            .to_string()
            .into_bytes()
    }
}

/// Which start of the machine this is.
pub(crate) fn boot_id() -> Result<String> {
    let id = files::read(Path::new(BOOT_ID), MAX_RECORD)?;
    Ok(String::from_utf8_lossy(&id).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(RECORD);
        for made_in in [None, Some("boot".to_owned())] {
            let record = Record {
                diff_id: DiffId(Digest::of("layer")),
                parent: Some(ChainId(Digest::of("below"))),
                made_in,
                left_out: 2,
            };
            std::fs::write(&path, record.to_json()).unwrap();
            assert_eq!(Record::read(&path).unwrap(), Some(record));
        }
        for other in ["", "{}", r#"{"diffId":"sha256:x","madeIn":null}"#] {
            std::fs::write(&path, other).unwrap();
            assert_eq!(Record::read(&path).unwrap(), None);
        }
    }
}
