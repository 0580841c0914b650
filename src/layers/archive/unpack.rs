//! Archives become directories.

use std::fs::File;
use std::io::{BufRead, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::ahead::Ahead;
use super::attributes::Owners;
use super::finish::Setter;
use super::implied::Implied;
use super::limits::ArchiveLimits;
use super::lower::Lower;
use super::reader::{Entry, Reader};
use super::tree::{Made, Tree};
use crate::error::{Context, Error, Result};
use crate::namespaces::UserNamespace;
use crate::sys::user_namespace::{effective_capabilities, in_initial_user_namespace};

/// Unpacks the tar stream of a layer to a directory.
///
/// ```no_run
/// use std::fs::{self, File};
/// use coracle::layers::{Compression, Unpack};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// fs::create_dir("base")?;
/// let layer = Compression::detect(File::open("base.tar.gz")?)?;
/// let unpacked = Unpack::new().run(layer, File::open("base")?)?;
/// println!("{} entries", unpacked.entries);
/// # Ok(())
/// # }
/// ```
///
/// # What is unpacked
///
/// The formats v7, ustar, pax and GNU, sparse files in all their formats included; owners, permissions, times in
/// nanoseconds, hard links, devices and fifos, extended attributes with file capabilities and access control
/// lists. Left out are attributes that mean something to the host: `trusted.*`, `security.selinux` and those of
/// overlays. Of entries with the same name the last counts; a directory keeps what is in it. Directories that no
/// entry names are those of the lower layers, or get mode 755 and root as owner.
///
/// Whiteouts (`.wh.name`, `.wh..wh..opq`, and character devices 0:0) delete from the lower layers alone, wherever in
/// the archive they stand.
///
/// # Safety
///
/// Whatever the archive says, nothing outside of the directory is touched: names with `..` are refused, a leading
/// `/` means the directory itself, and so does that of a symbolic link in it, which is followed as in a
/// chroot. Nobody else may change the directory meanwhile, and nobody less trusted should be able to reach it:
/// it holds programs with special bits. [`ArchiveLimits`] bound what comes out of it.
///
/// # Without privilege
///
/// A caller that may not give files away (`CAP_CHOWN`) writes everything as its own, and lets root of a user
/// namespace give it to the users of this namespace in the end. The directory's files can then be removed only in
/// that namespace.
#[derive(Clone, Debug)]
#[must_use = "`run` does it"]
pub struct Unpack<'a> {
    limits: ArchiveLimits,
    lower: Option<&'a OwnedFd>,
    lowest: bool,
    namespace: Option<&'a UserNamespace>,
    squash: bool,
    overlay: bool,
    skip_devices: bool,
}

/// What an archive was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unpacked {
    /// Files, directories, links and whiteouts.
    pub entries: u64,
    /// The length of the stream.
    pub bytes: u64,
    /// Whether the layer is the same on any lower ones, as it neither deletes nor links to what is there and has an
    /// entry for every directory, but perhaps for the top. Of an overlay, such a layer can be unpacked before those.
    pub stands_alone: bool,
    /// Whether it has an entry for the top, which else is that of the lower layers.
    pub has_top: bool,
    /// Devices that the caller may not make, where they are [skipped](Unpack::skip_devices).
    pub left_out: u64,
}

impl<'a> Unpack<'a> {
    /// With the default limits, for a stack of overlays.
    pub fn new() -> Self {
        Self {
            limits: ArchiveLimits::new(),
            lower: None,
            lowest: false,
            namespace: None,
            squash: false,
            overlay: true,
            skip_devices: false,
        }
    }

    /// What the archive may ask for at most.
    pub fn limits(mut self, limits: ArchiveLimits) -> Self {
        self.limits = limits;
        self
    }

    /// The lower layers merged, a directory with the same owners as the one unpacked to. From there come directories that the archive does not have an entry for, and files that it
    /// links to; and what is not there needs no whiteout.
    ///
    /// Without it such directories are root's, such links an error, and all whiteouts written.
    pub fn lower(mut self, lower: &'a OwnedFd) -> Self {
        self.lower = Some(lower);
        self
    }

    /// Whether there are no lower layers, and so nothing that a whiteout could hide: none is written.
    pub fn lowest(mut self, lowest: bool) -> Self {
        self.lowest = lowest;
        self
    }

    /// The ids of the archive are those of this user namespace. Its map must be known.
    ///
    /// Without it, a caller with `CAP_CHOWN` leaves them as they are, and for others it is
    /// [`UserNamespace::automatic`].
    pub fn user_namespace(mut self, namespace: &'a UserNamespace) -> Self {
        self.namespace = Some(namespace);
        self
    }

    /// Gives files of ids that the user namespace does not have to its root, instead of failing.
    pub fn squash_ids(mut self, squash: bool) -> Self {
        self.squash = squash;
        self
    }

    /// Whether the directory is to be a layer of an overlay (the default), in which deletions are written down as
    /// overlays do. It should be empty.
    ///
    /// If not, it holds a copy of the lower layers' files, which are deleted.
    pub fn overlay(mut self, overlay: bool) -> Self {
        self.overlay = overlay;
        self
    }

    /// Leaves devices out that the caller may not make (`CAP_MKNOD`), instead of failing. Nothing is in their place, nor
    /// seen there of the lower layers.
    pub fn skip_devices(mut self, skip: bool) -> Self {
        self.skip_devices = skip;
        self
    }

    /// Unpacks what `archive` gives, which is read to its end, on a thread of its own.
    ///
    /// # Errors
    ///
    /// `Malformed` for an archive that is cut short, damaged, or says what cannot be; `SafetyViolation` for names with
    /// `..`; `ResourceExhausted` if it passes a limit or the disk is full; `InvalidInput` or `PermissionDenied` for
    /// ids and devices that the caller cannot have; `Unsupported` for what the file system does not keep. Entry and
    /// reason are named. What has been unpacked until then stays: the directory is worth nothing. Before it
    /// comes back `archive` must, from the call of `read` that it is in.
    pub fn run(&self, archive: impl Read + Send, directory: impl AsFd) -> Result<Unpacked> {
        thread::scope(|scope| {
            let ahead = Ahead::of(scope, archive).context(|| "start a thread")?;
            self.run_here(ahead, directory).map(|(unpacked, _)| unpacked)
        })
    }

    /// [`run`](Self::run), without another thread. If all that the lower layers have a say in are directories that
    /// the archive has no entries for, these come with it.
    pub(crate) fn run_here(
        &self,
        archive: impl BufRead,
        directory: impl AsFd,
    ) -> Result<(Unpacked, Option<Implied>)> {
        self.with_tree(directory, |tree| unpack(&mut Reader::new(archive, self.limits), tree))
    }

    /// Makes of a directory that was unpacked to without the lower layers what it would have become upon them.
    /// Returns whether it can be, without an archive; if not it is worth nothing.
    #[cfg_attr(not(feature = "image"), allow(dead_code, reason = "for images"))]
    pub(crate) fn settle(&self, implied: &Implied, directory: impl AsFd) -> Result<bool> {
        self.with_tree(directory, |tree| tree.settle(implied))
    }

    fn with_tree<T>(
        &self,
        directory: impl AsFd,
        work: impl FnOnce(Tree<'_>) -> Result<T>,
    ) -> Result<T> {
        let automatic;
        let privileged = effective_capabilities() & CAP_CHOWN != 0;
        let namespace = match self.namespace {
            None if !privileged => {
                automatic = UserNamespace::automatic()?;
                Some(&automatic)
            }
            namespace => namespace,
        };
        let map =
            match namespace {
                Some(namespace) => Some(namespace.map().cloned().ok_or_else(|| {
                    Error::invalid("the ids of the user namespace are not known")
                })?),
                None => None,
            };
        let owners = Owners { map, squash: self.squash };
        let setter = match namespace {
            Some(namespace) if !privileged => Setter::Namespace(namespace),
            _ => Setter::Caller,
        };
        let lower = match self.lower.filter(|_| self.overlay) {
            Some(lower) => Some(Lower::new(reopen(lower)?, setter.access())),
            None => None,
        };
        let marks = self.overlay.then(|| match privileged && in_initial_user_namespace() {
            true => c"trusted.overlay.opaque",
            false => c"user.overlay.opaque",
        });
        let mut tree = Tree::new(reopen(directory)?, lower, owners, setter, marks)?;
        tree.skip_devices = self.skip_devices;
        tree.lowest = self.lowest;
        work(tree)
    }
}

const CAP_CHOWN: u64 = 1;

impl Default for Unpack<'_> {
    fn default() -> Self {
        Self::new()
    }
}

fn reopen(directory: impl AsFd) -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    match openat(&directory, ".", flags, Mode::empty()) {
        // Another user's, and closed: what is open already is open enough.
        Err(Errno::EACCES) => {
            directory.as_fd().try_clone_to_owned().context(|| "duplicate a descriptor")
        }
        opened => opened.context(|| "open the directory"),
    }
}

pub(super) fn unpack(
    archive: &mut Reader<impl BufRead>,
    mut tree: Tree<'_>,
) -> Result<(Unpacked, Option<Implied>)> {
    tree.begin()?;
    while let Some(entry) = archive.next()? {
        make(archive, &mut tree, &entry).map_err(|err| explain(err, &entry))?;
    }
    let (implied, has_top) = (tree.implied(), tree.has_top());
    let left_out = tree.left_out.len() as u64;
    tree.finish()?;
    let (entries, bytes) = archive.totals();
    let stands_alone = implied.as_ref().is_some_and(Implied::is_top_at_most);
    Ok((Unpacked { entries, bytes, stands_alone, has_top, left_out }, implied))
}

pub(super) fn explain(err: Error, entry: &Entry) -> Error {
    let err = match err.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) if err.hint().is_none() => {
            err.with_hint("the disk, or the quota on it, is full")
        }
        _ => err,
    };
    err.context(format!("unpack {}", entry.name()))
}

fn make(archive: &mut Reader<impl BufRead>, tree: &mut Tree<'_>, entry: &Entry) -> Result<()> {
    let Made::File(mut open) = tree.make(entry)? else { return Ok(()) };
    fill(archive, &mut open.file, entry)?;
    tree.close(open, entry)
}

/// Writes the content of an entry.
pub(super) fn fill(
    archive: &mut Reader<impl BufRead>,
    file: &mut File,
    entry: &Entry,
) -> Result<()> {
    let Some(regions) = &entry.regions else { return copy(archive, file, entry.size) };
    for &(offset, len) in regions {
        file.seek(SeekFrom::Start(offset)).context(|| "write the file")?;
        copy(archive, file, len)?;
    }
    file.set_len(entry.size).context(|| "set the length of the file")
}

fn copy(archive: &mut Reader<impl BufRead>, file: &mut File, mut len: u64) -> Result<()> {
    while len > 0 {
        let data = archive.data()?;
        let data = &data[..data.len().min(usize::try_from(len).unwrap_or(usize::MAX))];
        let n = match file.write(data) {
            Ok(n) => n,
            Err(err) if err.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(err) => return Err(err).context(|| "write the file"),
        };
        archive.advance(n)?;
        len -= n as u64;
    }
    Ok(())
}
