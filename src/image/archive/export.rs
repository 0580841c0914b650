//! The files of an image as one flat archive.

use std::io::Write;

use crate::error::{Context, Result};
use crate::image::image::Image;
use crate::layers::{Pack, Packed};
use crate::sys::user_namespace::effective_capabilities;

/// From `linux/capability.h`.
const CAP_SYS_ADMIN: u64 = 1 << 21;

impl Image {
    /// Writes the image's root file system as one tar stream, without layers, history and configuration: what
    /// [`Store::import`](crate::image::Store::import) and `import` of any tool read. The same image gives the same bytes.
    ///
    /// The layers are unpacked if they are not yet. Of a running container, [`Pack::rootfs`] writes the same.
    ///
    /// # Errors
    ///
    /// As of [`rootfs`](Self::rootfs) and [`Pack::rootfs`].
    pub fn export(&self, writer: impl Write) -> Result<Packed> {
        let attempt = || format!("export the image {}", self.id().short());
        let stack = self.rootfs().context(attempt)?;
        // No user namespace of a container's has every id that a file may have.
        let stack = match effective_capabilities() & CAP_SYS_ADMIN {
            0 => stack,
            _ => stack.host_ids(),
        };
        let rootfs = stack.read_only().context(attempt)?;
        Pack::new().rootfs(&rootfs, writer).context(attempt)
    }
}
