//! What a container has changed becomes an image.

use std::time::SystemTime;

use super::changes::ConfigChanges;
use super::draft::Draft;
use super::image::Image;
use super::layer::{Layer, LayerWriter};
use super::lease::Work;
use super::platform::Platform;
use super::reference::Reference;
use super::store::Store;
use crate::error::{Context, Error, Result};
use crate::layers::{Compression, Pack, Rootfs};

/// An image about to be made of a root filesystem; made by [`Store::commit`].
#[derive(Clone, Debug)]
#[must_use = "`run` makes the image"]
pub struct Commit<'a> {
    store: &'a Store,
    rootfs: &'a Rootfs,
    name: Option<String>,
    parent: Option<Image>,
    changes: ConfigChanges,
    compression: Compression,
}

impl Store {
    /// Makes an image of `rootfs`: with [`parent`](Commit::parent), of what has changed in its writable layer, else of
    /// all that it shows.
    ///
    /// ```no_run
    /// use coracle::image::Store;
    ///
    /// # fn main() -> coracle::Result<()> {
    /// let store = Store::open("images/")?;
    /// let base = store.image("debian:12")?;
    /// let rootfs = base.rootfs()?.writable("scratch/")?;
    /// // ... something runs on it ...
    /// let image = store
    ///     .commit(&rootfs, "app:1")
    ///     .parent(&base)
    ///     .message("add app")
    ///     .entrypoint(["/srv/app"])
    ///     .run()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn commit<'a>(&'a self, rootfs: &'a Rootfs, name: &str) -> Commit<'a> {
        Commit {
            store: self,
            rootfs,
            name: (!name.is_empty()).then(|| name.to_owned()),
            parent: None,
            changes: ConfigChanges::new(),
            compression: Compression::Gzip,
        }
    }
}

impl Commit<'_> {
    /// The image whose layers the root filesystem stands on, which [`Image::rootfs`] has made of it.
    pub fn parent(mut self, parent: &Image) -> Self {
        self.parent = Some(parent.clone());
        self
    }

    /// What the configuration says differently from the parent's. What the other methods say comes after it.
    pub fn changes(mut self, changes: ConfigChanges) -> Self {
        self.changes = changes;
        self
    }

    /// What the history says of it.
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.changes = self.changes.message(message);
        self
    }

    /// Who made it: a name, perhaps with an address.
    pub fn author(mut self, author: impl Into<String>) -> Self {
        self.changes = self.changes.author(author);
        self
    }

    /// The command that made the changes, for the history.
    pub fn created_by(mut self, command: impl Into<String>) -> Self {
        self.changes = self.changes.created_by(command);
        self
    }

    /// The program that is always run, with its first arguments. Takes the parent's default arguments away.
    pub fn entrypoint<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.changes = self.changes.entrypoint(words);
        self
    }

    /// The default arguments; the default program where there is no entrypoint.
    pub fn cmd<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.changes = self.changes.cmd(words);
        self
    }

    /// A variable of the environment.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.changes = self.changes.env(name, value);
        self
    }

    /// A label of the image.
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.changes = self.changes.label(name, value);
        self
    }

    /// When it was made, instead of now; no file is younger either. With `SOURCE_DATE_EPOCH` the same files give the
    /// same image, to the digest.
    pub fn timestamp(mut self, time: SystemTime) -> Self {
        self.changes = self.changes.created(time);
        self
    }

    /// How the layer is stored and transferred; [`Compression::Gzip`], which all tools read, unless said otherwise.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Makes the image. If nothing has changed it has no layer more than its parent.
    ///
    /// Only the writable layer is read, so that the size of the parent does not matter. Processes that still write
    /// meanwhile may leave files half written in the image: stop or freeze them before.
    ///
    /// # Errors
    ///
    /// As [`Pack::changes`]; `InvalidInput` for a parent whose layers the root filesystem does not stand on, a name that is none or a change that makes no sense, `NotFound` if the
    /// parent has been removed, `ResourceExhausted` if the disk is full. The store is as it was.
    pub fn run(self) -> Result<Image> {
        let attempt = || format!("commit {}", self.name.as_deref().unwrap_or("an image"));
        self.try_run().context(attempt)
    }

    fn try_run(&self) -> Result<Image> {
        let name = self.name.as_deref().map(str::parse::<Reference>).transpose()?;
        let work = self.store.work()?;
        let mut draft = match &self.parent {
            Some(parent) => {
                check_parent(self.rootfs, parent)?;
                work.hold(parent)?;
                Draft::on(parent)
            }
            None => Draft::new(&Platform::host()),
        };
        // What cannot be meant is said before any work is done.
        Draft::new(&Platform::host()).step(None, &self.changes, "")?;
        draft.step(self.layer(&work)?, &self.changes, "")?;
        draft.store(&work, name.as_ref())
    }

    fn layer(&self, work: &Work) -> Result<Option<Layer>> {
        let mut writer = LayerWriter::new(work, self.compression)?;
        let mut pack = Pack::new();
        if let Some(time) = self.changes.fixed_time() {
            pack = pack.clamp_mtime(time);
        }
        let packed = match self.parent {
            Some(_) => pack.changes(self.rootfs, &mut writer)?,
            None => pack.rootfs(self.rootfs, &mut writer)?,
        };
        // The root directory, which may have changed itself, and those that only had to be copied for what was made to
        // mount something there.
        const FEW: u64 = 8;
        if packed.entries <= FEW && self.rootfs.changes()?.is_empty() {
            return Ok(None);
        }
        writer.finish().map(Some)
    }
}

/// On other layers the same changes would make something else.
fn check_parent(rootfs: &Rootfs, parent: &Image) -> Result<()> {
    let keys = parent.chain_ids().into_iter().map(|chain| chain.0.hex());
    if rootfs.layers().is_some_and(|layers| keys.eq(layers.iter().cloned())) {
        return Ok(());
    }
    let id = parent.id().short();
    Err(Error::invalid(format!("the root filesystem does not stand on the image {id}")).with_hint(
        "a root filesystem that is to be committed upon an image is made by `rootfs` of that image; without a \
         parent all that it shows becomes the new image",
    ))
}
