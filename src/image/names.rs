//! Giving images names and taking them away.

use super::blobs::no_such_image;
use super::digest::Digest;
use super::image::{Image, Wanted, references};
use super::index::Index;
use super::lease::Held;
use super::reference::Reference;
use super::store::Store;
use crate::error::{Context, Error, ErrorKind, Result};

/// What [`Store::remove`] has done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removed {
    /// The names that are gone.
    pub references: Vec<Reference>,
    /// The [`digest`](Image::digest) of the image, if its last name has gone and the image with it. What it alone
    /// needed lies there until [`collect_garbage`](Store::collect_garbage).
    pub image: Option<Digest>,
}

impl Store {
    /// Gives the image `name` another name, which may be another image's until now.
    ///
    /// # Errors
    ///
    /// As of [`image`](Self::image), and `InvalidInput` if the new name is none or has a digest.
    pub fn tag(&self, name: &str, new: &str) -> Result<Image> {
        let attempt = || format!("give the image {name} the name {new}");
        let new = new.parse::<Reference>().context(attempt)?;
        if new.digest().is_some() {
            let message = "only a tag can be given: the digest follows from the content";
            return Err(Error::invalid(message)).context(attempt);
        }
        let tagged = self.change_index(|index| {
            let entry = self.find_entry(&index.entries, name, |it| index.find(it))?;
            let descriptor = entry.descriptor.clone();
            let image = Image::of_descriptor(self, &descriptor, &[], Wanted::Any)?;
            index.set(&descriptor, Some(&new))?;
            let names = references(&index.entries, image.digest());
            Ok(image.with_references(names))
        });
        let image = tagged.context(attempt)?;
        self.tell_tag(&image, &new);
        Ok(image)
    }

    /// Takes the name away from its image; with its last name, or by its id, the image goes.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such image; `Busy` if the image would go but a [pin](Self::pin) keeps it, or if the id is
    /// given of an image that has several names.
    pub fn remove(&self, name: &str) -> Result<Removed> {
        self.remove_unless(name, false)
    }

    /// [`remove`](Self::remove), whatever uses the image, and with all of its names if its id is given.
    ///
    /// What a pin keeps stays on disk until the pin is gone.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such image.
    pub fn remove_forced(&self, name: &str) -> Result<Removed> {
        self.remove_unless(name, true)
    }

    fn remove_unless(&self, name: &str, force: bool) -> Result<Removed> {
        let removed = self.change_index(|index| self.take(index, name, force));
        let (removed, digest, image) = removed.context(|| format!("remove the image {name}"))?;
        self.tell_removed(&removed, digest, image.as_ref());
        Ok(removed)
    }

    /// What has been removed of which image, which is read if somebody is to be told of it.
    fn take(
        &self,
        index: &mut Index,
        name: &str,
        force: bool,
    ) -> Result<(Removed, Digest, Option<Image>)> {
        let mut exact = None;
        let entry = self.find_entry(&index.entries, name, |reference| {
            let entry = index.find(reference)?;
            exact = entry.reference.clone();
            Some(entry)
        })?;
        let digest = entry.blob.digest;
        let read = || Image::of_descriptor(self, &entry.descriptor, &[], Wanted::Any).ok();
        let image = self.observer().and_then(|_| read());
        let names = references(&index.entries, digest);
        let gone: Vec<_> = match exact {
            Some(one) => vec![one],
            None => names.clone(),
        };
        if gone.len() > 1 && !force {
            let names: Vec<_> = names.iter().map(Reference::familiar).collect();
            let message = format!("it has several names: {}", names.join(", "));
            return Err(Error::new(ErrorKind::Busy, message)
                .with_hint("remove the names one by one, or remove it by force"));
        }
        let all = gone.len() == names.len();
        if all && !force {
            self.check_unused(digest)?;
        }
        index.entries.retain(|entry| {
            entry.blob.digest != digest
                || !(all || entry.reference.as_ref().is_some_and(|it| gone.contains(it)))
        });
        Ok((Removed { references: gone, image: all.then_some(digest) }, digest, image))
    }

    fn check_unused(&self, digest: Digest) -> Result<()> {
        let users: Vec<_> = self.users(digest)?;
        if users.is_empty() {
            return Ok(());
        }
        let message = format!("it is in use by {}", users.join(", "));
        Err(Error::new(ErrorKind::Busy, message)
            .with_hint("remove what uses it first, or remove it by force"))
    }

    /// The names of the pins that keep an image.
    pub(super) fn users(&self, digest: Digest) -> Result<Vec<String>> {
        let pins = self.pinned()?.into_iter();
        Ok(pins
            .filter(|(_, held)| held.contains(&Held::Document(digest)))
            .map(|(name, _)| name)
            .collect())
    }

    /// Takes an image away that still has just these names and is not in use.
    pub(super) fn take_unchanged(
        &self,
        index: &mut Index,
        image: &Image,
        names: &[Reference],
    ) -> Result<Option<Removed>> {
        let digest = image.digest();
        let same = references(&index.entries, digest) == names
            && index.entries.iter().any(|entry| entry.blob.digest == digest);
        if !same || !self.users(digest)?.is_empty() {
            return Ok(None);
        }
        index.entries.retain(|entry| entry.blob.digest != digest);
        Ok(Some(Removed { references: names.to_vec(), image: Some(digest) }))
    }

    /// Looks an image up by exactly this name.
    pub fn image_named(&self, name: &Reference) -> Result<Image> {
        let index = self.index()?;
        let entry = index.find(name).ok_or_else(|| no_such_image(&name.familiar(), self))?;
        let names = references(&index.entries, entry.blob.digest);
        Image::of_descriptor(self, &entry.descriptor, &names, Wanted::Any)
    }
}
