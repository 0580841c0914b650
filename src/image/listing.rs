//! Lists of images, and pruning by them.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::SystemTime;

use super::digest::Digest;
use super::gc::Collected;
use super::image::{Image, Wanted};
use super::index::Entry;
use super::names::Removed;
use super::pattern;
use super::reference::Reference;
use super::store::Store;
use crate::error::{Context, Error, Result};

/// Which images are meant: those that meet every condition set here. Without one, all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    patterns: Vec<String>,
    dangling: Option<bool>,
    labels: Vec<Label>,
    unwanted_labels: Vec<Label>,
    before: Option<SystemTime>,
    after: Option<SystemTime>,
}

/// A name, and perhaps a value.
#[derive(Clone, Debug)]
struct Label(String, Option<String>);

impl Label {
    fn new(name: &str, value: Option<&str>) -> Self {
        Self(name.to_owned(), value.map(str::to_owned))
    }

    fn is_on(&self, image: &Image) -> bool {
        let found = image.config().label(&self.0);
        found.is_some() && (self.1.is_none() || found == self.1.as_deref())
    }
}

impl Filter {
    /// All images.
    pub fn new() -> Self {
        Self::default()
    }

    /// Those with a name like this: `app`, `app:1.*`, `team/*`. Either the familiar name, or that without the tag, must be
    /// matched whole; `*` matches no `/`. Given several times, one must match. Of such an image only the names
    /// that match are shown.
    pub fn reference(mut self, pattern: &str) -> Self {
        self.patterns.push(pattern.to_owned());
        self
    }

    /// Those without a name, or with `false` those with one.
    pub fn dangling(mut self, dangling: bool) -> Self {
        self.dangling = Some(dangling);
        self
    }

    /// Those with this label, of this value if one is given.
    pub fn label(mut self, name: &str, value: Option<&str>) -> Self {
        self.labels.push(Label::new(name, value));
        self
    }

    /// Those without this label, or with another value of it if one is given.
    pub fn without_label(mut self, name: &str, value: Option<&str>) -> Self {
        self.unwanted_labels.push(Label::new(name, value));
        self
    }

    /// Those made before this time: before another image was [created](Image::created), for example.
    pub fn created_before(mut self, time: SystemTime) -> Self {
        self.before = Some(time);
        self
    }

    /// Those made after this time.
    pub fn created_after(mut self, time: SystemTime) -> Self {
        self.after = Some(time);
        self
    }

    /// The image as the list shows it, if it does.
    fn admit(&self, image: Image) -> Option<Image> {
        let created = image.created();
        let admitted = self.dangling.is_none_or(|it| it == image.references().is_empty())
            && self.labels.iter().all(|label| label.is_on(&image))
            && !self.unwanted_labels.iter().any(|label| label.is_on(&image))
            && self.before.is_none_or(|time| created.is_some_and(|it| it < time))
            && self.after.is_none_or(|time| created.is_some_and(|it| it > time));
        if !admitted || self.patterns.is_empty() {
            return admitted.then_some(image);
        }
        let names: Vec<_> =
            image.references().iter().filter(|it| self.matches(it)).cloned().collect();
        (!names.is_empty()).then(|| image.with_references(names))
    }

    fn matches(&self, name: &Reference) -> bool {
        let forms = [name.familiar(), name.familiar_name()];
        self.patterns.iter().any(|pattern| forms.iter().any(|form| pattern::matches(pattern, form)))
    }
}

/// A list of images, and what kept others from being on it.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Listing {
    /// The newest first.
    pub images: Vec<Image>,
    /// Why an image could not be read, one for each. [`Store::verify`] says more.
    pub damaged: Vec<Error>,
}

/// What [`Store::prune`] has removed.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Pruned {
    /// The images.
    pub images: Vec<Removed>,
    /// The space it gave.
    pub collected: Collected,
}

/// An image as a list shows it, and all of its names.
type WithNames = (Image, Vec<Reference>);

impl Store {
    /// All images, the newest first.
    ///
    /// # Errors
    ///
    /// If an image is damaged; [`list`](Self::list) goes on.
    pub fn images(&self) -> Result<Vec<Image>> {
        let listing = self.list(&Filter::new())?;
        match listing.damaged.into_iter().next() {
            Some(err) => Err(err).context(|| "list the images"),
            None => Ok(listing.images),
        }
    }

    /// The images that the filter admits, the newest first. Manifests and configurations are read, no layers.
    pub fn list(&self, filter: &Filter) -> Result<Listing> {
        let (found, damaged) = self.listed(filter).context(|| "list the images")?;
        let images = found.into_iter().map(|(image, _)| image).collect();
        Ok(Listing { images, damaged })
    }

    /// The images that the filter admits, each with all of its names, and what could not be read.
    fn listed(&self, filter: &Filter) -> Result<(Vec<WithNames>, Vec<Error>)> {
        let mut images = Vec::new();
        let mut damaged = Vec::new();
        for (entry, names) in by_image(self.index()?.entries) {
            match Image::of_descriptor(self, &entry.descriptor, &names, Wanted::Any) {
                Ok(image) => images.extend(filter.admit(image).map(|image| (image, names))),
                // Removed while the list was made.
                Err(_) if !self.lists(entry.blob.digest)? => {}
                Err(err) => {
                    damaged.push(err.context(format!("read the image {}", shown(&entry, &names))));
                }
            }
        }
        images.sort_by_cached_key(|(image, names)| {
            (Reverse(image.created()), names.first().cloned(), image.digest())
        });
        Ok((images, damaged))
    }

    /// Whether this is an image now.
    pub(super) fn lists(&self, digest: Digest) -> Result<bool> {
        Ok(self.index()?.entries.iter().any(|entry| entry.blob.digest == digest))
    }

    /// Removes the images that the filter admits and nothing uses, with all their names, and collects the garbage. An
    /// image stays if the filter admits but some of its names.
    ///
    /// `Filter::new().dangling(true)` prunes as `docker image prune` does, an empty filter as with `--all`.
    pub fn prune(&self, filter: &Filter) -> Result<Pruned> {
        let attempt = || "prune images";
        let (listed, _) = self.listed(filter).context(attempt)?;
        let images = self.change_index(|index| {
            let mut removed = Vec::new();
            for (image, names) in listed {
                if names.len() == image.references().len() {
                    let taken = self.take_unchanged(index, &image, &names)?;
                    removed.extend(taken.map(|taken| (taken, image)));
                }
            }
            Ok(removed)
        });
        let images = images.context(attempt)?;
        for (removed, image) in &images {
            self.tell_removed(removed, image.digest(), Some(image));
        }
        let collected = self.collect_garbage().context(attempt)?;
        self.tell_as("prune", "", None, ("reclaimed", &collected.freed.bytes().to_string()));
        Ok(Pruned { images: images.into_iter().map(|(removed, _)| removed).collect(), collected })
    }
}

/// One entry of each image, with all of its names, sorted.
pub(super) fn by_image(entries: Vec<Entry>) -> Vec<(Entry, Vec<Reference>)> {
    let mut found: Vec<(Entry, Vec<Reference>)> = Vec::new();
    let mut places = HashMap::new();
    for entry in entries {
        let place = *places.entry(entry.blob.digest).or_insert(found.len());
        let reference = entry.reference.clone();
        if place == found.len() {
            found.push((entry, Vec::new()));
        }
        found[place].1.extend(reference);
    }
    found.iter_mut().for_each(|(_, names)| names.sort());
    found
}

/// How a message names an image.
pub(super) fn shown(entry: &Entry, names: &[Reference]) -> String {
    match names {
        [] => entry.blob.digest.to_string(),
        names => names.iter().map(Reference::familiar).collect::<Vec<_>>().join(", "),
    }
}
