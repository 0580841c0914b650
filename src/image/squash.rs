//! Layers become one.

use std::time::SystemTime;

use super::changes::ConfigChanges;
use super::digest::ChainId;
use super::draft::Draft;
use super::image::Image;
use super::layer::{Layer, LayerWriter};
use super::lease::Work;
use super::platform::Platform;
use super::reference::Reference;
use super::unpacked::Record;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layers::{Compression, LayerStore, Pack};

/// An image about to be made of another one, with fewer layers; made by [`Image::squash`].
#[derive(Clone, Debug)]
#[must_use = "`run` makes the image"]
pub struct Squash<'a> {
    image: &'a Image,
    part: Part,
    name: Option<String>,
    changes: ConfigChanges,
    compression: Compression,
}

/// Which layers become one.
#[derive(Clone, Debug)]
enum Part {
    All,
    Top(usize),
    AboveImage(Image),
    AboveChain(ChainId),
}

impl Image {
    /// Makes an image with the same files and configuration, in which some of the layers are one: all of them, unless
    /// [`top`](Squash::top), [`above`](Squash::above) or [`above_chain`](Squash::above_chain) says which. What the
    /// other layers hide of each other is not in it any more.
    ///
    /// ```no_run
    /// use coracle::image::Store;
    ///
    /// # fn main() -> coracle::Result<()> {
    /// let store = Store::open("images/")?;
    /// let (base, app) = (store.image("debian:12")?, store.image("app:1")?);
    /// let small = app.squash().above(&base).name("app:1-small").run()?;
    /// assert_eq!(small.diff_ids().len(), base.diff_ids().len() + 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn squash(&self) -> Squash<'_> {
        Squash {
            image: self,
            part: Part::All,
            name: None,
            changes: ConfigChanges::new(),
            compression: Compression::Gzip,
        }
    }
}

impl Squash<'_> {
    /// Only so many layers from the top become one.
    pub fn top(mut self, layers: usize) -> Self {
        self.part = Part::Top(layers);
        self
    }

    /// Only the layers above those of `ancestor` become one, which the image begins with: what was built upon it.
    pub fn above(mut self, ancestor: &Image) -> Self {
        self.part = Part::AboveImage(ancestor.clone());
        self
    }

    /// Only the layers above one become one: `below` is one of the image's [chain ids](Image::chain_ids).
    pub fn above_chain(mut self, below: ChainId) -> Self {
        self.part = Part::AboveChain(below);
        self
    }

    /// Gives the new image a name. An image that bore it keeps no name, but stays.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// What the configuration says differently, and what the history says of the one layer: by itself that names the
    /// image and the number of layers that it was made of. What the other methods say comes after it.
    pub fn changes(mut self, changes: ConfigChanges) -> Self {
        self.changes = changes;
        self
    }

    /// When it was made, instead of now; no file of the one layer is younger either. With `SOURCE_DATE_EPOCH` the same
    /// image gives the same one, to the digest.
    pub fn timestamp(mut self, time: SystemTime) -> Self {
        self.changes = self.changes.created(time);
        self
    }

    /// How the layer is stored and transferred; [`Compression::Gzip`], which all tools read, unless said otherwise.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Makes the image. Layers that come to nothing together become none.
    ///
    /// The layers are unpacked if they are not yet; there may be any number. The history keeps the steps before those
    /// layers; one takes the place of the others.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if there are no such layers, for a name that is none, or a change that makes no sense; `Malformed`
    /// if a layer is damaged, `NotFound` if the image has been removed, `PermissionDenied` if the layers have devices
    /// that the caller may not make, `ResourceExhausted` if the disk is full. The store is as it was.
    pub fn run(self) -> Result<Image> {
        self.try_run().context(|| format!("squash the image {}", self.image.id().short()))
    }

    fn try_run(&self) -> Result<Image> {
        let name = self.name.as_deref().map(str::parse::<Reference>).transpose()?;
        let kept = self.kept()?;
        // What cannot be meant is said before any work is done.
        Draft::new(&Platform::host()).step(None, &self.changes, "")?;
        let work = self.image.store().work()?;
        work.hold(self.image)?;
        let layer = self.layer(&work, kept)?;
        let mut draft = Draft::on(self.image);
        draft.truncate(kept);
        let squashed = match self.image.diff_ids().len() - kept {
            1 => "1 layer".to_owned(),
            count => format!("{count} layers"),
        };
        draft.step(layer, &self.changes, &format!("squash {squashed} of {}", self.image.id()))?;
        draft.store(&work, name.as_ref())
    }

    /// How many layers stay.
    fn kept(&self) -> Result<usize> {
        let count = self.image.diff_ids().len();
        let kept = match &self.part {
            Part::All => 0,
            Part::Top(layers) => match count.checked_sub(*layers) {
                Some(kept) => kept,
                None => {
                    return Err(Error::invalid(format!("it has {count} layers, not {layers}")));
                }
            },
            Part::AboveImage(ancestor) => {
                let below = ancestor.diff_ids();
                if !self.image.diff_ids().starts_with(below) {
                    let ancestor = ancestor.id().short();
                    return Err(Error::invalid(format!(
                        "it does not begin with the layers of the image {ancestor}"
                    )));
                }
                below.len()
            }
            Part::AboveChain(below) => {
                let chains = self.image.chain_ids();
                match chains.iter().position(|chain| chain == below) {
                    Some(at) => at + 1,
                    None => {
                        return Err(Error::invalid(format!(
                            "it has no layer with the chain id {below}"
                        )));
                    }
                }
            }
        };
        if kept == count {
            return Err(Error::invalid("there are no layers to squash"));
        }
        Ok(kept)
    }

    /// The one layer would be without what those lack.
    fn nothing_left_out(&self, layers: &LayerStore, keys: &[&str]) -> Result<()> {
        let left_out =
            |key: &&str| Record::of(layers, key).map(|it| it.map_or(0, |it| it.left_out));
        match keys.iter().map(left_out).sum::<Result<u64>>()? {
            0 => Ok(()),
            count => Err(Error::new(
                ErrorKind::PermissionDenied,
                format!("its layers have {count} devices, which only root of the host may make"),
            )
            .with_hint("save the image, and let root load and squash it in a store of its own")),
        }
    }

    /// The one layer, unless the layers change nothing.
    fn layer(&self, work: &Work, kept: usize) -> Result<Option<Layer>> {
        let layers = work.store().layers()?;
        let keys = self.image.unpack(work, &layers)?;
        let keys: Vec<_> = keys.iter().map(String::as_str).collect();
        self.nothing_left_out(&layers, &keys[kept..])?;
        let view = layers.view(&keys)?;
        let mut pack = Pack::new();
        if let Some(time) = self.changes.fixed_time() {
            pack = pack.clamp_mtime(time);
        }
        let mut writer = LayerWriter::new(work, self.compression)?;
        if kept == 0 {
            pack.rootfs(&view, &mut writer)?;
        } else {
            let changes = layers.differences(&keys[..kept], &keys, true)?;
            if changes.is_empty() {
                return Ok(None);
            }
            pack.selected(&view, &changes, &mut writer)?;
        }
        writer.finish().map(Some)
    }
}
