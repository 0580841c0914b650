//! What is told of containers, images and volumes.

use std::collections::BTreeMap;

use super::super::home::Home;
use super::super::id::ContainerId;
use super::super::state::Identity;
use super::event::EventKind;
use super::events::Events;
use super::journal::Journal;
use crate::image::Observer;

impl Home {
    /// The events of all that is in here.
    pub(crate) fn events(&self) -> Events {
        Events::new(self.journal().dir().to_owned())
    }

    /// Tells of a container, with attributes beyond those that all of its events have.
    pub(in crate::container) fn tell(
        &self,
        id: &ContainerId,
        identity: &Identity,
        action: &str,
        more: &[(&str, &str)],
    ) {
        let Identity { name, image_labels, config, .. } = identity;
        let mut attributes = image_labels.clone();
        attributes.extend(config.labels.clone());
        let own = [("image", config.image.as_str()), ("name", name)];
        attributes.extend(pairs(own.iter().chain(more)));
        let (action, id) = (action.to_owned(), id.to_string());
        self.journal().note(EventKind::Container, action, id, attributes);
    }

    /// The same of one whose files have to be read first. Nothing, if it is gone.
    pub(in crate::container) fn tell_of(
        &self,
        id: &ContainerId,
        action: &str,
        more: &[(&str, &str)],
    ) {
        if let Ok(identity) = self.identity(id) {
            self.tell(id, &identity, action, more);
        }
    }

    pub(in crate::container) fn tell_volume(
        &self,
        name: &str,
        action: &str,
        more: &[(&str, &str)],
    ) {
        let attributes = pairs([("driver", "local")].iter().chain(more)).collect();
        self.journal().note(EventKind::Volume, action.to_owned(), name.to_owned(), attributes);
    }

    /// Tells that all of a kind have gone that nobody used.
    pub(in crate::container) fn tell_prune(&self, kind: EventKind, reclaimed: u64) {
        let attributes = [("reclaimed".to_owned(), reclaimed.to_string())].into();
        self.journal().note(kind, "prune".to_owned(), String::new(), attributes);
    }
}

impl Observer for Journal {
    fn note_image(&self, action: &str, id: String, attributes: BTreeMap<String, String>) {
        self.note(EventKind::Image, action.to_owned(), id, attributes);
    }
}

fn pairs<'a>(
    pairs: impl Iterator<Item = &'a (&'a str, &'a str)>,
) -> impl Iterator<Item = (String, String)> {
    pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
}
