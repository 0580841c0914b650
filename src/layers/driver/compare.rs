//! What some layers show that others do not.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};

use super::staging::Staging;
use super::store::{LayerStore, check_keys};
use crate::error::{Context, Result};
use crate::layers::access::Access;
use crate::layers::change::Change;
use crate::layers::diff::{differences, layer_differences};
use crate::layers::rootfs::Rootfs;
use crate::layers::touched::Touched;

impl LayerStore {
    /// What the layers with the keys `new` show differently from those with the keys `old`, the lowest first: files by
    /// type, content, size, mode, owner, time of modification, extended attributes, link target and device number;
    /// directories by all that but times. Files that have become one count as modified. Ordered as
    /// [`Rootfs::changes`].
    ///
    /// Of layers that both begin with only what the others touch is looked at, if the driver
    /// [keeps differences](super::Staging::keeps_differences); else both trees are read whole.
    ///
    /// # Errors
    ///
    /// `NotFound` if a layer is missing; others as [`Stack::read_only`](crate::layers::Stack::read_only).
    pub fn changes(&self, old: &[&str], new: &[&str]) -> Result<Vec<Change>> {
        self.differences(old, new, false)
    }

    /// [`changes`](Self::changes); with `times` also directories that only have another time.
    pub(crate) fn differences(
        &self,
        old: &[&str],
        new: &[&str],
        times: bool,
    ) -> Result<Vec<Change>> {
        let (old, new) = (check_keys(old)?, check_keys(new)?);
        if old == new {
            return Ok(Vec::new());
        }
        self.compare(old, new, times).context(|| "compare layers")
    }

    fn compare(&self, old: &[&str], new: &[&str], times: bool) -> Result<Vec<Change>> {
        let namespace = self.user_namespace()?;
        let access = Access(namespace.as_ref());
        let common = old.iter().zip(new).take_while(|(old, new)| old == new).count();
        let touched = if common > 0 && self.storage().keeps_differences() {
            let mut touched = Touched::new();
            for key in old[common..].iter().chain(&new[common..]) {
                touched.add(self.tree(key)?, access).context(|| format!("read the layer {key}"))?;
            }
            Some(touched)
        } else {
            None
        };
        let (old, new) = (self.view(old)?, self.view(new)?);
        differences(top(&new, access)?, top(&old, access)?, times, touched.as_ref(), access)
    }

    /// How the layer of this key, as it lies on the disk, is not what `made` is, a second making of the same. Times of
    /// directories do not count.
    #[cfg_attr(not(feature = "image"), allow(dead_code, reason = "for who checks layers"))]
    pub(crate) fn differs_from(&self, key: &str, made: &Staging) -> Result<Vec<Change>> {
        let namespace = self.user_namespace()?;
        let layer = self.tree(key)?;
        let attempt = || format!("check the layer {key}");
        let made = self.tree(made.name()).context(attempt)?;
        layer_differences(layer, made, Access(namespace.as_ref())).context(attempt)
    }

    /// What the layers show, with owners as on disk.
    pub(crate) fn view(&self, keys: &[&str]) -> Result<Rootfs> {
        let stack = self.stack_of(keys)?;
        let stack = match self.user_namespace()? {
            Some(namespace) => stack.user_namespace(&namespace),
            None => stack.host_ids(),
        };
        stack.read_only()
    }
}

/// The root directory, open for reading.
fn top(rootfs: &Rootfs, access: Access<'_>) -> Result<OwnedFd> {
    let fd = rootfs.as_fd().try_clone_to_owned().context(|| "duplicate a descriptor")?;
    access.open_directory(&fd, OsStr::new(".")).context(|| "open the root directory")
}
