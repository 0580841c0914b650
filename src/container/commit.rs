//! What a container has changed becomes an image.

use super::container::Container;
use crate::error::{Context, ErrorKind, Result};
use crate::image::{ConfigChanges, Image, Reference};
use crate::layers::Compression;

/// An image about to be made of a container; made by [`Container::commit`].
#[derive(Clone, Debug)]
#[must_use = "`run` makes the image"]
pub struct Commit<'a> {
    container: &'a Container,
    name: &'a str,
    changes: ConfigChanges,
    compression: Compression,
    pause: bool,
}

impl Container {
    /// Begins to make an image of what it has changed, upon its own, with the name `name`, if that is not empty.
    ///
    /// ```no_run
    /// # fn main() -> coracle::Result<()> {
    /// use coracle::Engine;
    /// use coracle::image::ConfigChanges;
    ///
    /// let work = Engine::open_default()?.find("work")?;
    /// let changes = ConfigChanges::new().message("add app").cmd(["/srv/app"]);
    /// let image = work.commit("app:1").changes(changes).run()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn commit<'a>(&'a self, name: &'a str) -> Commit<'a> {
        Commit {
            container: self,
            name,
            changes: ConfigChanges::new(),
            compression: Compression::Gzip,
            pause: true,
        }
    }
}

impl Commit<'_> {
    /// What the configuration says differently from its image's, who made it, when, and what the history says.
    pub fn changes(mut self, changes: ConfigChanges) -> Self {
        self.changes = changes;
        self
    }

    /// How the layer is stored and transferred; [`Compression::Gzip`], which all tools read, unless said otherwise.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Whether its processes stand still meanwhile, where it has a cgroup to hold them in; they do unless said otherwise.
    /// If not, files that are being written may be half written in the image.
    pub fn pause(mut self, pause: bool) -> Self {
        self.pause = pause;
        self
    }

    /// Makes the image, of a container that runs or not.
    ///
    /// # Errors
    ///
    /// As of [`image::Commit::run`](crate::image::Commit::run).
    pub fn run(self) -> Result<Image> {
        self.try_run().context(|| self.container.says("commit"))
    }

    fn try_run(&self) -> Result<Image> {
        let still = self.pause && self.set_paused(true)?;
        let image = self.make();
        if still {
            // It may have been killed, or gone on by another's order.
            self.set_paused(false)?;
        }
        image
    }

    /// False: it does not run, or not like this, or cannot be held.
    fn set_paused(&self, paused: bool) -> Result<bool> {
        use ErrorKind::{InvalidState, NotFound, Unsupported};
        match self.container.set_paused(paused) {
            Err(err) if matches!(err.kind(), InvalidState | NotFound | Unsupported) => Ok(false),
            set => set.map(|()| true),
        }
    }

    fn make(&self) -> Result<Image> {
        let Container { home, id, .. } = self.container;
        let rootfs = self.container.rootfs()?;
        let commit = home.store().commit(&rootfs, self.name).parent(&self.container.image()?);
        let image = commit.changes(self.changes.clone()).compression(self.compression).run()?;
        let name = match self.name {
            "" => String::new(),
            name => name.parse::<Reference>()?.familiar(),
        };
        let attributes = [
            ("comment", self.changes.comment()),
            ("imageID", &image.id().to_string()),
            ("imageRef", &name),
        ];
        home.tell_of(id, "commit", &attributes);
        Ok(image)
    }
}
