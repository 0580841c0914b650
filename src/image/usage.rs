//! Disk usage by image.

use std::collections::{HashMap, HashSet};

use super::digest::Digest;
use super::image::Image;
use super::listing::Filter;
use super::manifest::Blob;
use super::store::Store;
use crate::error::{Context, Error, Result};

/// How the space of a store is used, in bytes of blobs as they are stored: compressed, where they are.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Usage {
    /// Each image, the newest first.
    pub images: Vec<ImageUsage>,
    /// Of all blobs.
    pub total: u64,
    /// What removing every image that nothing uses would free.
    pub reclaimable: u64,
    /// What [`Store::collect_garbage`] would free at once, if no work is in progress.
    pub garbage: u64,
    /// Why an image could not be read, one for each.
    pub damaged: Vec<Error>,
}

/// What one image takes.
#[derive(Debug)]
#[non_exhaustive]
pub struct ImageUsage {
    /// The image.
    pub image: Image,
    /// All of it.
    pub size: u64,
    /// What it shares with other images.
    pub shared: u64,
    /// What it has for itself: what removing this image alone would free.
    pub unique: u64,
    /// The pins that keep it.
    pub pins: Vec<String>,
}

impl Store {
    /// How the space is used. Manifests and configurations are read, no layers.
    pub fn usage(&self) -> Result<Usage> {
        let attempt = || format!("measure the image store {}", self.path().display());
        let listing = self.list(&Filter::new()).context(attempt)?;
        let mut usage = Usage { damaged: listing.damaged, ..Usage::default() };
        let blobs = |image: &Image| image.blobs().collect::<HashSet<Blob>>();
        let all: Vec<_> = listing.images.into_iter().map(|it| (blobs(&it), it)).collect();
        let mut users = HashMap::<Digest, u64>::new();
        for blob in all.iter().flat_map(|(blobs, _)| blobs) {
            *users.entry(blob.digest).or_default() += 1;
        }
        let mut kept = HashSet::new();
        for (blobs, image) in all {
            let pins = self.users(image.digest()).context(attempt)?;
            let size = blobs.iter().map(|blob| blob.size).sum();
            let own = blobs.iter().filter(|blob| users[&blob.digest] == 1);
            let unique = own.map(|blob| blob.size).sum();
            if !pins.is_empty() {
                kept.extend(blobs.iter().map(|blob| blob.digest));
            }
            usage.images.push(ImageUsage { image, size, shared: size - unique, unique, pins });
        }
        for digest in self.blobs().context(attempt)?.into_iter().filter_map(|(_, it)| it) {
            let size = self.blob_path(&digest).symlink_metadata().map_or(0, |it| it.len());
            usage.total += size;
            if !users.contains_key(&digest) {
                usage.garbage += size;
            } else if !kept.contains(&digest) {
                usage.reclaimable += size;
            }
        }
        Ok(usage)
    }
}
