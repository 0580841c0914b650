//! From a container to the host.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::host::{self, endings};
use super::rules::From;
use super::tree::Tree;
use super::{Copied, Request, pour};
use crate::error::{Context, Result};
use crate::layers::{NewOwner, Pack, Place, Spot};

/// Files of a container to be copied; made by [`Container::copy_out`](crate::container::Container::copy_out).
///
/// The path begins at the container's root, with a slash or without. Links on the way are followed inside the
/// container; one at the end is copied as a link, unless [`follow_link`](Self::follow_link) is said or the path ends in a slash.
/// `DIR/.` means what is in a directory.
///
/// A running container is seen as its processes see it, with volumes and memory file systems. Of one that does not run
/// the volumes, and directories and files of the host that it mounts, are there if the path leads into them, not if they lie
/// below it. File systems of the kernel, such as /proc, are not copied: their directories are empty.
///
/// # Safety
///
/// Nothing but files of the container is read, whatever its processes do meanwhile: no path is resolved by the host but
/// name by name, from descriptor to descriptor, and no program of the container is run. Files that change while they are read are copied
/// as they come; [pause](crate::container::Container::pause) it to know.
#[derive(Clone, Debug)]
#[must_use = "say where they go: `to` or `tar`"]
pub struct CopyOut<'a>(pub(super) Request<'a>);

impl CopyOut<'_> {
    /// Copies what a link at the end of the path leads to, and not the link.
    pub fn follow_link(mut self, follow: bool) -> Self {
        self.0.follow = follow;
        self
    }

    /// Gives copies on the host to the users that own the files in the container, by number, with all that they have:
    /// set-id bits, capabilities, access control lists, devices. Beware of programs with such bits: they work on the host.
    ///
    /// If not, the copies are the caller's, and have nothing of all this.
    pub fn keep_ids(mut self, keep: bool) -> Self {
        self.0.keep_ids = keep;
        self
    }

    /// Copies to a path of the host.
    ///
    /// As cp(1) does: into a directory that is there, by the same name; to another name if nothing or a file is there.
    /// What is in `DIR/.` goes into a directory that is there. Files are replaced; directories are merged.
    ///
    /// # Errors
    ///
    /// `NotFound` if either path is missing; `InvalidInput` for a directory onto a file; `AlreadyExists` where a file and a
    /// directory have the same name; `Busy` if the container changes what is read; `PermissionDenied`, `ResourceExhausted`.
    /// What was copied until then stays.
    pub fn to(&self, path: impl AsRef<Path>) -> Result<Copied> {
        let path = path.as_ref();
        self.try_to(path).context(|| format!("{} to {}", self.says(), path.display()))
    }

    fn try_to(&self, path: &Path) -> Result<Copied> {
        let (_tree, spot, from) = self.find()?;
        let (directory, name) = host::destination(path, &from)?;
        let owner = if self.0.keep_ids { NewOwner::Kept } else { NewOwner::Caller };
        let place = Place { namespace: None, owner };
        let pack = Pack::new();
        let pack = spot.users.iter().fold(pack, Pack::user_namespace);
        self.0.tell("archive-path");
        pour(&pack, (&spot.directory, &spot.name), &name, &place, directory)
    }

    /// Writes a tar archive. Its entries begin with the last name of the path, those of `DIR/.` and of the root with `.`. Owners
    /// are as the container sees them.
    ///
    /// # Errors
    ///
    /// As [`to`](Self::to), and what `writer` reports.
    pub fn tar(&self, writer: impl Write) -> Result<Copied> {
        let write = || {
            let (_tree, spot, from) = self.find()?;
            let nameless = from.contents || from.name.is_empty();
            let shown = if nameless { b"." } else { from.name.as_slice() };
            let pack = spot.users.iter().fold(Pack::new(), Pack::user_namespace);
            self.0.tell("archive-path");
            pack.live(&spot.directory, OsStr::from_bytes(&spot.name), shown, writer)
        };
        let packed = write().context(|| self.says())?;
        Ok(Copied { entries: packed.entries, bytes: packed.bytes, left_out: 0 })
    }

    fn find(&self) -> Result<(Tree<'_>, Spot, From)> {
        let tree = Tree::of(self.0.container, false)?;
        let spot = tree.existing(&self.0.path, self.0.follow)?;
        let name = self.0.path.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
        let from = From { name, directory: spot.is_directory(), contents: endings(&self.0.path).1 };
        Ok((tree, spot, from))
    }

    fn says(&self) -> String {
        self.0.container.says(&format!("copy {} out of", self.0.path.display()))
    }
}
