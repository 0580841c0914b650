//! What is done to images, for whoever keeps a record of it.

use std::collections::BTreeMap;
use std::fmt::Debug;

use super::digest::Digest;
use super::image::Image;
use super::names::Removed;
use super::reference::Reference;
use super::store::Store;

/// Is told what is done to the images of a store through one handle and its clones.
pub(crate) trait Observer: Debug + Send + Sync {
    /// After it is done. The attributes are the labels of the image and more, as docker has them.
    fn note_image(&self, action: &str, id: String, attributes: BTreeMap<String, String>);
}

impl Store {
    /// Tells of an image by its id.
    pub(super) fn tell(&self, action: &str, image: &Image) {
        let id = image.id().to_string();
        self.tell_as(action, &id, Some(image), ("name", &id));
    }

    /// Tells of an image that has got a name.
    pub(super) fn tell_tag(&self, image: &Image, name: &Reference) {
        let id = image.id().to_string();
        self.tell_as("tag", &id, Some(image), ("name", &name.familiar()));
    }

    /// Tells of an image that has come or gone under a name.
    #[cfg(feature = "registry")]
    pub(crate) fn tell_transfer(&self, action: &str, name: &Reference, image: &Image) {
        self.tell_as(action, &name.familiar(), Some(image), ("name", &name.familiar_name()));
    }

    /// Tells of names that are gone, and of the image that may have gone with them. What cannot be read has no id but its digest.
    pub(super) fn tell_removed(&self, removed: &Removed, digest: Digest, image: Option<&Image>) {
        let id = image.map_or(digest, Image::id).to_string();
        for _ in &removed.references {
            self.tell_as("untag", &id, image, ("name", &id));
        }
        if removed.image.is_some() {
            // Its labels have gone with it.
            self.tell_as("delete", &id, None, ("name", &id));
        }
    }

    pub(super) fn tell_as(
        &self,
        action: &str,
        id: &str,
        image: Option<&Image>,
        (key, value): (&str, &str),
    ) {
        let Some(observer) = self.observer() else { return };
        let config = image.and_then(|image| image.config().spec().config().as_ref());
        let labels = config.and_then(|config| config.labels().clone()).unwrap_or_default();
        let mut attributes: BTreeMap<_, _> = labels.into_iter().collect();
        attributes.insert(key.to_owned(), value.to_owned());
        observer.note_image(action, id.to_owned(), attributes);
    }
}
