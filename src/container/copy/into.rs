//! From the host to a container.

use std::io::{BufReader, Read};
use std::path::Path;

use super::host::{self, HostFile, endings};
use super::rules::{Goal, To, goal};
use super::tree::Tree;
use super::{Copied, Request, pour};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layers::{Compression, NewOwner, Pack, Place, Spot};

/// Files to be copied into a container; made by [`Container::copy_in`](crate::container::Container::copy_in).
///
/// The path begins at the container's root, with a slash or without; links in it are followed, inside the container.
///
/// Everything is done as root of the container: it can be led nowhere, by whatever the processes do meanwhile, that it could not go by itself.
/// A container that does not run cannot be started meanwhile. Into volumes, and directories and files of the host that
/// it mounts, copies go also when it does not run.
#[derive(Clone, Debug)]
#[must_use = "say what is copied: `from` or `tar`"]
pub struct CopyIn<'a>(pub(super) Request<'a>);

impl CopyIn<'_> {
    /// Copies what a link at the end of the host's path leads to, and not the link.
    pub fn follow_link(mut self, follow: bool) -> Self {
        self.0.follow = follow;
        self
    }

    /// Gives the copies to the users, of the container, with the numbers that the originals' owners have. If not, they are
    /// root's, of the container.
    pub fn keep_ids(mut self, keep: bool) -> Self {
        self.0.keep_ids = keep;
        self
    }

    /// Copies from a path of the host.
    ///
    /// As cp(1) does, see [`CopyOut::to`](super::CopyOut::to).
    ///
    /// # Errors
    ///
    /// As [`CopyOut::to`](super::CopyOut::to); `PermissionDenied` where the container has it read-only, `InvalidState` in a memory file system of one that
    /// does not run.
    pub fn from(&self, path: impl AsRef<Path>) -> Result<Copied> {
        let path = path.as_ref();
        self.try_from(path).context(|| self.says(&format!("copy {} to", path.display())))
    }

    fn try_from(&self, path: &Path) -> Result<Copied> {
        let HostFile { directory, name, from } = host::source(path, self.0.follow)?;
        let tree = Tree::of(self.0.container, true)?;
        let spot = tree.view.find(&self.0.path, true)?;
        let to = match spot.found {
            None => To::Nothing,
            Some(_) if spot.is_directory() => To::Directory,
            Some(_) if spot.is_file() => To::File,
            Some(_) => To::Special,
        };
        let attempt = || format!("copy to {} of the container", self.0.path.display());
        let goal = goal(&from, to, endings(&self.0.path).0).context(attempt)?;
        let (into, shown) = match goal {
            Goal::Into(name) => (spot.open()?, name),
            Goal::As => (
                spot.directory.try_clone().context(|| "duplicate a descriptor")?,
                spot.name.clone(),
            ),
        };
        self.may_write(&spot)?;
        let copied = pour(&Pack::new(), (&directory, &name), &shown, &self.place(&spot), into)?;
        self.0.tell("extract-to-dir");
        Ok(copied)
    }

    /// Copies from a tar archive, which may be compressed (gzip or zstd), into a directory that is there.
    ///
    /// # Errors
    ///
    /// As [`from`](Self::from); `Malformed` or `SafetyViolation` for an archive that is damaged or whose names lead up, and what
    /// `reader` reports.
    pub fn tar(&self, reader: impl Read) -> Result<Copied> {
        self.try_tar(reader).context(|| self.says("copy an archive to"))
    }

    fn try_tar(&self, reader: impl Read) -> Result<Copied> {
        // Whoever makes the archive may look into this container first, which nobody can while it is written to.
        let archive = Compression::detect(reader).context(|| "read the archive")?;
        let tree = Tree::of(self.0.container, true)?;
        let spot = tree.existing(&self.0.path, true)?;
        if !spot.is_directory() {
            let message = format!("{} of the container is no directory", self.0.path.display());
            return Err(Error::invalid(message));
        }
        self.may_write(&spot)?;
        let placed = self.place(&spot).run(BufReader::new(archive), spot.open()?)?;
        self.0.tell("extract-to-dir");
        Ok(placed.into())
    }

    fn place<'s>(&self, spot: &'s Spot) -> Place<'s> {
        let owner = if self.0.keep_ids { NewOwner::Kept } else { NewOwner::Root };
        Place { namespace: spot.users.as_ref(), owner }
    }

    fn may_write(&self, spot: &Spot) -> Result<()> {
        match spot.read_only {
            None => Ok(()),
            Some(why) => Err(Error::new(ErrorKind::PermissionDenied, why)),
        }
    }

    fn says(&self, what: &str) -> String {
        self.0.container.says(&format!("{what} {} of", self.0.path.display()))
    }
}
