//! The files of a container as a whole: what it has changed, an archive of it.

use std::io::Write;

use super::container::Container;
use super::launch;
use crate::error::{Context, Result};
use crate::layers::{Change, Pack, Rootfs};

/// How large a container is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Size {
    /// In the files that it has made or changed.
    pub written: u64,
    /// What the unpacked layers of its image occupy, which it shares with others.
    pub image: u64,
}

impl Container {
    /// How large it is, running or not. Its files, and all of its image's, are looked at.
    ///
    /// # Errors
    ///
    /// Those of [`Rootfs::changed_bytes`] and of [`LayerStore::usage`](crate::layers::LayerStore::usage).
    pub fn size(&self) -> Result<Size> {
        let size = || -> Result<Size> {
            let written = self.rootfs()?.changed_bytes()?;
            let layers = self.home.store().layers()?;
            let (mut image, mut below) = (0, None);
            for chain in self.image()?.chain_ids() {
                let key = chain.0.hex();
                image += layers.usage(&key, below.as_deref())?.bytes;
                below = Some(key);
            }
            Ok(Size { written, image })
        };
        size().context(|| self.says("measure"))
    }

    /// What it has changed in its root filesystem, running or not.
    ///
    /// # Errors
    ///
    /// Those of [`Rootfs::changes`].
    pub fn changes(&self) -> Result<Vec<Change>> {
        self.rootfs()
            .and_then(|rootfs| rootfs.changes())
            .context(|| self.says("list the changes of"))
    }

    /// Its root filesystem as it is, to be read: to commit it, pack it, or look into it. What is mounted in it does not show.
    ///
    /// Of one that this process runs, it keeps the container from being removed as long as somebody has it: that fails with
    /// `Busy` then, and the next engine that is opened removes what is left.
    ///
    /// # Errors
    ///
    /// As of [`Image::rootfs`](crate::image::Image::rootfs).
    pub fn rootfs(&self) -> Result<Rootfs> {
        if let Some(running) = self.home.running_here(&self.id)
            && let Ok(rootfs) = running.rootfs()
        {
            return Ok(rootfs);
        }
        // It does not run, or its end is being written down.
        let locked = self.locked()?;
        launch::rootfs_as_it_is(&locked, &launch::image_of(&locked)?)
    }

    /// Writes all of its files as a tar archive.
    ///
    /// # Errors
    ///
    /// As of [`Pack::rootfs`].
    pub fn export(&self, writer: impl Write) -> Result<()> {
        let rootfs = self.rootfs();
        rootfs
            .and_then(|rootfs| Pack::new().rootfs(&rootfs, writer))
            .context(|| self.says("export"))?;
        self.home.tell_of(&self.id, "export", &[]);
        Ok(())
    }
}
