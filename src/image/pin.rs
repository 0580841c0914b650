//! Pins: images that are kept for longer than a process lives.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use super::digest::{ChainId, Digest};
use super::files;
use super::image::{Image, Wanted, references};
use super::index::Entry;
use super::lease::{Held, LEASES, PIN};
use super::store::Store;
use crate::error::{Context, Error, ErrorKind, Result};

impl Store {
    /// Keeps all that `image` is made of in the store, under a name of the caller's: until [`unpin`](Self::unpin),
    /// beyond the life of the process. What a container runs on is pinned by its id.
    ///
    /// While a pin lasts the image is removed only by force, and its content stays even then. A pin of the same
    /// name is replaced.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a name other than of letters, digits, `_`, `.` and `-`; `NotFound` if part of the image is gone.
    pub fn pin(&self, name: &str, image: &Image) -> Result<()> {
        let attempt = || format!("pin the image {} for {name}", image.id());
        let path = self.pin_path(name)?;
        let lines = image.held().iter().fold(String::new(), |mut lines, held| {
            let _ = lines.write_str(&held.line());
            lines
        });
        let work = self.work().context(attempt)?;
        work.hold(image).context(attempt)?;
        let _lock = self.locked().context(attempt)?;
        files::replace(&path, &work.scratch_path(), lines.as_bytes()).context(attempt)?;
        files::sync_dir(&self.path().join(LEASES)).context(attempt)
    }

    /// Ends a pin, if there is one of this name.
    pub fn unpin(&self, name: &str) -> Result<()> {
        let path = self.pin_path(name)?;
        let _lock = self.locked()?;
        if path.symlink_metadata().is_err_and(|err| err.kind() == io::ErrorKind::NotFound) {
            return Ok(());
        }
        files::remove(&path).context(|| format!("end the pin {name}"))?;
        files::sync_dir(&self.path().join(LEASES))
    }

    /// The names of the pins, sorted, each with the digests of the images that it keeps.
    pub fn pins(&self) -> Result<Vec<(String, Vec<Digest>)>> {
        let images = |held: Vec<Held>| held.into_iter().filter_map(Held::document).collect();
        Ok(self.pinned()?.into_iter().map(|(name, held)| (name, images(held))).collect())
    }

    fn pin_path(&self, name: &str) -> Result<PathBuf> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if name.is_empty() || name.len() > 200 || !name.bytes().all(known) {
            return Err(Error::invalid(format!(
                "the name {name:?} of a pin must consist of up to 200 letters, digits, `_`, `.` and `-`"
            )));
        }
        Ok(self.path().join(LEASES).join(format!("{PIN}{name}")))
    }
    /// The image that this pin keeps, even if it has been removed by force and no name leads to it any more.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such pin; others as of [`image`](Self::image).
    pub fn pinned_image(&self, pin: &str) -> Result<Image> {
        self.try_pinned_image(pin).context(|| format!("look up the image that {pin} is pinned to"))
    }

    fn try_pinned_image(&self, pin: &str) -> Result<Image> {
        let missing = |what: &str| Error::new(ErrorKind::NotFound, format!("there is no {what}"));
        let held = self.pinned()?.into_iter().find(|(name, _)| name == pin);
        let (_, held) = held.ok_or_else(|| missing("such pin"))?;
        let document = held.iter().find_map(|held| held.document());
        let digest = document.ok_or_else(|| missing("image in it"))?;
        let entries = self.index()?.entries;
        let descriptor = match entries.iter().find(|entry| entry.blob.digest == digest) {
            Some(entry) => entry.descriptor.clone(),
            None => self.guess(digest)?.ok_or_else(|| missing("manifest of it"))?.0,
        };
        // Of several platforms it is the one that was pinned.
        let chains = |chain: &ChainId| held.contains(&Held::Chain(*chain));
        let platforms = self.images_of(&Entry::new(&descriptor, None)?).into_iter();
        let mut pinned = platforms.filter(|image| image.chain_ids().iter().all(chains));
        let platform = pinned.next().map(|image| image.platform());
        let wanted = platform.as_ref().map_or(Wanted::Any, Wanted::For);
        Image::of_descriptor(self, &descriptor, &references(&entries, digest), wanted)
    }
}
