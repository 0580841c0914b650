//! Pins: images that are kept for longer than a process lives.

use std::fs;
use std::io;
#[cfg(feature = "container")]
use std::io::Write;
use std::path::PathBuf;

use super::digest::Digest;
use super::files;
use super::image::{Image, Wanted, references};
use super::index::Entry;
use super::lease::{self, Held, LEASES, PIN};
use super::manifest::DocumentKind;
use super::store::Store;
use crate::error::{Context, Error, ErrorKind, Result};

impl Store {
    /// Keeps all that `image` is made of in the store, under a name of the caller's: until [`unpin`](Self::unpin),
    /// beyond the life of the process. What a container runs on is pinned by its id: names of 64 hexadecimal digits are for
    /// containers alone.
    ///
    /// While a pin lasts the image is removed only by force, and its content stays even then. A pin of the same
    /// name is replaced.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a name other than of letters, digits, `_`, `.` and `-`; `NotFound` if part of the image is gone.
    pub fn pin(&self, name: &str, image: &Image) -> Result<()> {
        let attempt = || format!("pin the image {} for {name}", image.id());
        let (path, lines) = (self.pin_path(name)?, lines(image));
        let work = self.work().context(attempt)?;
        work.hold(image).context(attempt)?;
        let _lock = self.locked().context(attempt)?;
        files::replace(&path, &work.scratch_path(), lines.as_bytes()).context(attempt)?;
        files::sync_dir(&self.path().join(LEASES)).context(attempt)
    }

    /// [`pin`](Self::pin), for something that is of no use when the machine has failed, and new: nothing waits for the disk.
    #[cfg(feature = "container")]
    pub(crate) fn pin_briefly(&self, name: &str, image: &Image) -> Result<()> {
        let attempt = || format!("pin the image {} for {name}", image.id());
        let path = self.pin_path(name)?;
        let _lock = self.shared().context(attempt)?;
        image.check_present().context(attempt)?;
        let mut file = files::create(&path).context(attempt)?;
        let written = file.write_all(lines(image).as_bytes()).map_err(files::no_space);
        if written.is_err() {
            let _ = fs::remove_file(&path);
        }
        written.context(attempt)
    }

    /// Ends a pin, if there is one of this name.
    pub fn unpin(&self, name: &str) -> Result<()> {
        match self.remove_pin(name)? {
            true => files::sync_dir(&self.path().join(LEASES)),
            false => Ok(()),
        }
    }

    /// Ends a pin, if there is one of this name, and does not wait for the disk either.
    #[cfg(feature = "container")]
    pub(crate) fn unpin_briefly(&self, name: &str) -> Result<()> {
        self.remove_pin(name).map(drop)
    }

    /// Returns whether there was one.
    fn remove_pin(&self, name: &str) -> Result<bool> {
        let path = self.pin_path(name)?;
        let _lock = self.locked()?;
        match fs::remove_file(&path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
            removed => removed.map(|()| true).context(|| format!("end the pin {name}")),
        }
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
        let found = self.index().and_then(|index| self.find_pinned(pin, &index.entries));
        found.context(|| looking_up(pin))
    }

    /// [`pinned_image`](Self::pinned_image), without its names: however many images there are, that takes no longer.
    #[cfg(feature = "container")]
    pub(crate) fn pinned_content(&self, pin: &str) -> Result<Image> {
        self.find_pinned(pin, &[]).context(|| looking_up(pin))
    }

    fn find_pinned(&self, pin: &str, entries: &[Entry]) -> Result<Image> {
        let missing = |what: &str| Error::new(ErrorKind::NotFound, format!("there is no {what}"));
        let held = lease::read(&self.pin_path(pin)?, false)?.ok_or_else(|| missing("such pin"))?;
        let document = held.iter().find_map(|held| held.document());
        let digest = document.ok_or_else(|| missing("image in it"))?;
        let descriptor = match entries.iter().find(|entry| entry.blob.digest == digest) {
            Some(entry) => entry.descriptor.clone(),
            None => self.guess(digest)?.ok_or_else(|| missing("manifest of it"))?.0,
        };
        let platform = match DocumentKind::of(descriptor.media_type()) {
            // Of several platforms it is the one that was pinned.
            Some(DocumentKind::Index) => {
                let chains: Vec<_> = held.iter().filter_map(|held| held.chain()).collect();
                let platforms = self.images_of(&Entry::new(&descriptor, None)?).into_iter();
                let mut pinned = platforms.filter(|image| image.chain_ids() == chains);
                pinned.next().map(|image| image.platform())
            }
            _ => None,
        };
        let wanted = platform.as_ref().map_or(Wanted::Any, Wanted::For);
        Image::of_descriptor(self, &descriptor, &references(entries, digest), wanted)
    }
}

fn looking_up(pin: &str) -> String {
    format!("look up the image that {pin} is pinned to")
}

/// What is in the file of a pin.
fn lines(image: &Image) -> String {
    image.held().into_iter().map(Held::line).collect()
}
