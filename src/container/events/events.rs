//! Which events are wanted.

use std::path::PathBuf;
use std::time::SystemTime;

use super::super::logs;
use super::event::{Event, EventKind};
use super::stream::EventStream;
use crate::error::Result;

/// The events of an engine, to be read; made by [`Engine::events`](crate::Engine::events).
///
/// Without [`since`](Self::since) they are those from now on. Of several conditions of one kind any must be met, of several kinds all, and of
/// [labels](Self::label) all.
///
/// Iterating begins to listen; an error in doing so is the only item. [`listen`](Self::listen) tells it at once, and decides when "now"
/// is.
#[derive(Clone, Debug)]
#[must_use = "iterate over it, or `listen`"]
pub struct Events {
    pub(super) dir: PathBuf,
    pub(super) filter: Filter,
}

/// Which events are wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    pub(super) since: Option<SystemTime>,
    pub(super) until: Option<SystemTime>,
    kinds: Vec<EventKind>,
    actions: Vec<String>,
    containers: Vec<String>,
    images: Vec<String>,
    volumes: Vec<String>,
    labels: Vec<(String, Option<String>)>,
}

impl Events {
    pub(in crate::container) fn new(dir: PathBuf) -> Self {
        Self { dir, filter: Filter::default() }
    }

    /// From this time on, as far back as events are kept.
    pub fn since(mut self, time: SystemTime) -> Self {
        self.filter.since = Some(time);
        self
    }

    /// Up to this time; then they end. One that has passed ends them with what there is.
    pub fn until(mut self, time: SystemTime) -> Self {
        self.filter.until = Some(time);
        self
    }

    /// Only those of this kind of thing.
    pub fn kind(mut self, kind: EventKind) -> Self {
        self.filter.kinds.push(kind);
        self
    }

    /// Only this: `die`. One without details, `exec_start`, stands for any.
    pub fn action(mut self, action: impl Into<String>) -> Self {
        self.filter.actions.push(action.into());
        self
    }

    /// Only those of the container with this name, or whose id begins so.
    pub fn container(mut self, name: impl Into<String>) -> Self {
        self.filter.containers.push(name.into());
        self
    }

    /// Only those of this image, by its name or id, and of containers of it, as it was named; a name without a tag stands for any.
    pub fn image(mut self, name: impl Into<String>) -> Self {
        self.filter.images.push(name.into());
        self
    }

    /// Only those of the volume with this name.
    pub fn volume(mut self, name: impl Into<String>) -> Self {
        self.filter.volumes.push(name.into());
        self
    }

    /// Only those of containers with this label, and if it is given with this value.
    pub fn label<'a>(mut self, name: impl Into<String>, value: impl Into<Option<&'a str>>) -> Self {
        let value = value.into().map(str::to_owned);
        self.filter.labels.push((name.into(), value));
        self
    }

    /// Begins to listen: what happens after this call is told.
    ///
    /// # Errors
    ///
    /// Those of the file system; `ResourceExhausted` without an inotify instance or a descriptor left, of which it takes two.
    pub fn listen(self) -> Result<EventStream> {
        EventStream::open(self)
    }
}

impl IntoIterator for Events {
    type Item = Result<Event>;
    type IntoIter = Box<dyn Iterator<Item = Result<Event>> + Send>;

    fn into_iter(self) -> Self::IntoIter {
        logs::items(self.listen())
    }
}

impl Filter {
    pub(super) fn wants(&self, event: &Event) -> bool {
        let Self { since, until, kinds, actions, containers, images, volumes, labels } = self;
        let attribute = |name: &str| event.attributes.get(name).map(String::as_str);
        let any = |wanted: &[String], is: &dyn Fn(&str) -> bool| {
            wanted.is_empty() || wanted.iter().any(|it| is(it))
        };
        let of = |kind| event.kind == kind;
        since.is_none_or(|since| event.time >= since)
            && until.is_none_or(|until| event.time <= until)
            && (kinds.is_empty() || kinds.contains(&event.kind))
            && any(actions, &|it| event.action == it || event.verb() == it)
            && any(containers, &|it| {
                of(EventKind::Container)
                    && (event.id.starts_with(it) || attribute("name") == Some(it))
            })
            && any(images, &|it| match event.kind {
                EventKind::Image => [Some(&*event.id), attribute("name")]
                    .into_iter()
                    .flatten()
                    .any(|id| is_image(id, it)),
                _ => attribute("image").is_some_and(|image| is_image(image, it)),
            })
            && any(volumes, &|it| of(EventKind::Volume) && event.id == it)
            && labels.iter().all(|(name, value)| match value {
                None => attribute(name).is_some(),
                Some(value) => attribute(name) == Some(value),
            })
    }
}

/// `app:1` is `app:1` and `app`.
fn is_image(image: &str, wanted: &str) -> bool {
    let rest = image.strip_prefix(wanted);
    // What follows a colon may be a port and a path.
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '@']) && !rest.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_matched_with_and_without_tag() {
        for (image, wanted, matched) in [
            ("app:1", "app:1", true),
            ("app:1", "app", true),
            ("app", "app", true),
            ("app@sha256:0", "app", true),
            ("apple:1", "app", false),
            ("app:1", "app:11", false),
            ("app:11", "app:1", false),
            ("host:5000/app", "host", false),
            ("host:5000/app:2", "host:5000/app", true),
        ] {
            assert_eq!(is_image(image, wanted), matched, "{image} {wanted}");
        }
    }
}
