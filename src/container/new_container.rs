//! A container that is about to be started by who has made it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::attach::Attachment;
use super::container::Container;
use super::files::Held;
use super::home::Home;
use super::id::ContainerId;
use super::locked::Locked;
use super::state::{Identity, Record};
use crate::error::{Context, Result};
use crate::image::Image;
use crate::namespaces::TerminalSize;

/// A container that has just been made, and that nobody else gets at until it is started; made by
/// [`ContainerBuilder::make`](super::ContainerBuilder::make).
///
/// What was found out to make it need not be found out again to start it. Dropped without being started it stays as
/// [`create`](super::ContainerBuilder::create) would have made it.
#[derive(Debug)]
#[must_use = "`start` it"]
pub struct NewContainer {
    container: Container,
    /// Until it is started.
    made: Option<Made>,
}

/// What is known of a container that was just made.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) lock: Held,
    pub(super) identity: Identity,
    pub(super) record: Record,
    pub(super) image: Image,
}

impl NewContainer {
    pub(super) fn new(home: Arc<Home>, id: ContainerId, made: Made) -> Self {
        Self { container: Container::new(home, id), made: Some(made) }
    }

    /// A handle on it. What changes it waits until it is started.
    pub fn container(&self) -> &Container {
        &self.container
    }

    /// Starts it. If that fails it is removed again.
    ///
    /// # Errors
    ///
    /// As of [`Container::start`].
    pub fn start(self) -> Result<Container> {
        self.start_with(TerminalSize::default(), None)
    }

    /// Starts it, with an attachment that misses nothing of what it writes. If that fails it is removed again.
    ///
    /// `terminal` is the size of its terminal, if it has one.
    ///
    /// # Errors
    ///
    /// As of [`Container::start`].
    pub fn start_attached(self, terminal: TerminalSize) -> Result<(Container, Attachment)> {
        let (ours, theirs) = Attachment::pair()?;
        Ok((self.start_with(terminal, Some(theirs))?, ours))
    }

    fn start_with(mut self, terminal: TerminalSize, client: Option<OwnedFd>) -> Result<Container> {
        let (container, made) = (self.container.clone(), self.made.take());
        let started = container.home().supervisor().and_then(|supervisor| {
            let locked = match made {
                Some(made) => Locked::of_new(container.home(), container.id(), made),
                None => container.lock_to_start()?,
            };
            container.start_locked(&supervisor, locked, terminal, client.into_iter().collect())
        });
        match started.context(|| container.says("start")) {
            Ok(()) => Ok(container),
            Err(err) => {
                let _ = container.removal().force().volumes().run();
                Err(err)
            }
        }
    }
}

impl Drop for NewContainer {
    fn drop(&mut self) {
        let Some(mut made) = self.made.take() else { return };
        let (home, id) = (self.container.home(), self.container.id());
        made.record = Record::new(home.boot());
        // What else it says is put right by who starts it, or when this process has ended.
        let _ = Locked::of_new(home, id, made).save();
    }
}
