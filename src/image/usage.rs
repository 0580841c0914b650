//! Disk usage by image.

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::{Add, AddAssign, Sub};

use super::digest::{ChainId, Digest};
use super::gc::{Known, Needed};
use super::image::Image;
use super::lease::Held;
use super::listing::Filter;
use super::store::Store;
use super::unpacked::Record;
use crate::error::{Context, Error, Result};
use crate::layers::LayerStore;

/// Bytes on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Space {
    /// Of blobs as they are stored: compressed, where they are.
    pub blobs: u64,
    /// Of layers that are unpacked, whichever drivers keep them. One that is a snapshot of another counts for what it has
    /// in addition, one that is a copy for all that it has.
    pub layers: u64,
}

impl Space {
    /// Of both.
    pub fn bytes(self) -> u64 {
        self.blobs + self.layers
    }
}

impl Add for Space {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { blobs: self.blobs + other.blobs, layers: self.layers + other.layers }
    }
}

impl AddAssign for Space {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Space {
    type Output = Self;

    /// Nothing where nothing is left.
    fn sub(self, other: Self) -> Self {
        Self {
            blobs: self.blobs.saturating_sub(other.blobs),
            layers: self.layers.saturating_sub(other.layers),
        }
    }
}

/// How the space of a store is used.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Usage {
    /// Each image, the newest first.
    pub images: Vec<ImageUsage>,
    /// Of all blobs and unpacked layers.
    pub total: Space,
    /// What removing every image that nothing uses would free.
    pub reclaimable: Space,
    /// What [`Store::collect_garbage`] would free at once, if no work is in progress.
    pub garbage: Space,
    /// Why an image could not be read, one for each.
    pub damaged: Vec<Error>,
}

/// What one image takes, with all the platforms that are here.
#[derive(Debug)]
#[non_exhaustive]
pub struct ImageUsage {
    /// The image.
    pub image: Image,
    /// All of it.
    pub size: Space,
    /// What it shares with other images.
    pub shared: Space,
    /// What it has for itself: what removing this image alone would free.
    pub unique: Space,
    /// The pins that keep it.
    pub pins: Vec<String>,
}

/// What is on the disk.
struct Found {
    blobs: HashMap<Digest, u64>,
    layers: HashMap<ChainId, u64>,
}

impl Found {
    fn total(&self) -> Space {
        Space { blobs: self.blobs.values().sum(), layers: self.layers.values().sum() }
    }

    /// How much of it is needed, as far as it meets the conditions.
    fn of(
        &self,
        needed: &Needed,
        blob: impl Fn(&Digest) -> bool,
        layer: impl Fn(&ChainId) -> bool,
    ) -> Space {
        Space {
            blobs: sum(&self.blobs, &needed.blobs, blob),
            layers: sum(&self.layers, &needed.chains, layer),
        }
    }

    fn all(&self, needed: &Needed) -> Space {
        self.of(needed, |_| true, |_| true)
    }
}

fn sum<'a, T: Hash + Eq + 'a>(
    sizes: &HashMap<T, u64>,
    keys: impl IntoIterator<Item = &'a T>,
    admit: impl Fn(&T) -> bool,
) -> u64 {
    keys.into_iter().filter(|key| admit(key)).filter_map(|key| sizes.get(key)).sum()
}

impl Store {
    /// How the space is used. Manifests and configurations are read, and the directories of unpacked layers.
    pub fn usage(&self) -> Result<Usage> {
        self.try_usage().context(|| format!("measure the image store {}", self.path().display()))
    }

    fn try_usage(&self) -> Result<Usage> {
        let listing = self.list(&Filter::new())?;
        let mut usage = Usage { damaged: listing.damaged, ..Usage::default() };
        let (pins, found) = (self.pinned()?, self.found_on_disk()?);
        let (mut known, mut images) = (Known::default(), Vec::new());
        let (mut blobs, mut layers) =
            (HashMap::<Digest, u64>::new(), HashMap::<ChainId, u64>::new());
        for image in listing.images {
            let mut needed = Needed::default();
            match known.of_document(self, image.digest(), true, &mut needed) {
                Ok(()) => {}
                // Removed meanwhile.
                Err(_) if !self.lists(image.digest())? => continue,
                Err(err) => {
                    usage.damaged.push(err.context(format!("measure the image {}", image.id())));
                }
            }
            needed.blobs.iter().for_each(|blob| *blobs.entry(*blob).or_default() += 1);
            needed.chains.iter().for_each(|chain| *layers.entry(*chain).or_default() += 1);
            images.push((image, needed));
        }
        // What is left of images that were removed by force counts for the pins that keep it.
        let mut kept = Needed::default();
        known.of_held(self, pins.iter().flat_map(|(_, held)| held), &mut kept)?;
        let mut needed = kept.clone();
        for (image, own) in images {
            let size = found.all(&own);
            let unique = found.of(&own, |blob| blobs[blob] == 1, |chain| layers[chain] == 1);
            let held = Held::Document(image.digest());
            let pins = pins.iter().filter(|(_, all)| all.contains(&held));
            let pins = pins.map(|(name, _)| name.clone()).collect();
            usage.images.push(ImageUsage { image, size, shared: size - unique, unique, pins });
            needed.extend(own);
        }
        usage.total = found.total();
        usage.garbage = usage.total - found.all(&needed);
        usage.reclaimable = found.all(&needed) - found.all(&kept);
        Ok(usage)
    }

    fn found_on_disk(&self) -> Result<Found> {
        let mut blobs = HashMap::new();
        for digest in self.blobs()?.into_iter().filter_map(|(_, digest)| digest) {
            let size = self.blob_path(&digest).symlink_metadata().map_or(0, |it| it.len());
            blobs.insert(digest, size);
        }
        let mut sizes = HashMap::new();
        for layers in self.layer_stores()? {
            for key in layers.keys()? {
                // Another key is not the store's.
                let Some(digest) = Digest::from_hex(key.as_bytes()) else { continue };
                *sizes.entry(ChainId(digest)).or_default() += unpacked_size(&layers, &key)?;
            }
        }
        Ok(Found { blobs, layers: sizes })
    }
}

/// What a layer has in addition to the one below it.
pub(super) fn unpacked_size(layers: &LayerStore, key: &str) -> Result<u64> {
    let parent = Record::of(layers, key)?.and_then(|record| record.parent);
    let parent = parent.map(|parent| parent.0.hex()).filter(|parent| layers.contains(parent));
    match layers.usage(key, parent.as_deref()) {
        Ok(usage) => Ok(usage.bytes),
        // It has been collected meanwhile.
        Err(_) if !layers.contains(key) => Ok(0),
        Err(err) => Err(err),
    }
}
