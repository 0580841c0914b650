//! Directories become archives.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{OFlag, readlinkat};
use nix::sys::stat::{FileStat, SFlag, fstat, major, minor};
use tar::EntryType;

use super::attributes::{Attributes, Owners};
use super::lower::{attributes, mtime};
use super::pax::Time;
use super::selection::Selection;
use super::sparse;
use super::whiteout::{OPAQUE, PREFIX};
use super::writer::{Header, Writer};
use crate::GIB;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layers::Rootfs;
use crate::layers::access::Access;
use crate::layers::change::Change;
use crate::layers::cursor::{Cursor, file_type, is_directory, is_kernels};
use crate::layers::overlay::Ids;
use crate::namespaces::UserNamespace;

/// Makes a tar stream of a directory: of what a container has changed, as a layer, or of all that is there.
///
/// ```no_run
/// use std::fs::File;
/// use coracle::layers::{Compression, Pack, Rootfs};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let rootfs = Rootfs::stack(["base/"]).writable("scratch/")?;
/// // ... something runs on it ...
/// let mut layer = Compression::Gzip.encoder(File::create("changes.tar.gz")?)?;
/// Pack::new().changes(&rootfs, &mut layer)?;
/// layer.finish()?.sync_all()?;
/// # Ok(())
/// # }
/// ```
///
/// The same files give the same bytes: entries are ordered by path, a directory before what is in it, with ids
/// instead of names and no other time than that of the last modification, in nanoseconds. The format is pax, with
/// extended headers only where an entry needs one. Sockets, which an archive cannot hold, are left out.
/// Where half of a file or more are long runs of zeros, these may be written as holes, whether they take space on the
/// disk or not: see [`zeros`](Self::zeros).
///
/// The directory may be changed by a hostile container meanwhile: nothing outside of it is read, but what is
/// in the archive then is unclear. Stop or freeze its processes to know.
#[derive(Clone, Debug)]
#[must_use = "a method says what to pack"]
pub struct Pack<'a> {
    latest: Option<Time>,
    namespace: Option<&'a UserNamespace>,
    zeros: u64,
}

/// What an archive was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Packed {
    /// Files, directories, links and whiteouts.
    pub entries: u64,
    /// The length of the stream.
    pub bytes: u64,
}

impl Default for Pack<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Pack<'a> {
    /// Times and ids as they are.
    pub fn new() -> Self {
        Self { latest: None, namespace: None, zeros: GIB }
    }

    /// How many bytes of long runs of zeros are written, in the order of the files, before the rest of them are
    /// left out as holes; [`GIB`] if it is not said.
    ///
    /// An archive with holes is read by tar(1), docker, podman and others, but docker and podman cannot save or push an
    /// image any more that has such a layer: they put its archive together again from the files, without the holes.
    /// Without a limit, a container could make an archive of any size of nothing.
    pub fn zeros(mut self, bytes: u64) -> Self {
        self.zeros = bytes;
        self
    }

    /// No time is later than this one: what `SOURCE_DATE_EPOCH` says. A time before 1970 counts as 1970.
    pub fn clamp_mtime(mut self, latest: SystemTime) -> Self {
        let since = latest.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        self.latest = Some(Time::after(since));
        self
    }

    /// The files have ids of this user namespace, as the caller sees them from outside; in the archive they have those
    /// inside. Where the caller may not read, root of the namespace does. Not needed for a [`Rootfs`].
    pub fn user_namespace(mut self, namespace: &'a UserNamespace) -> Self {
        self.namespace = Some(namespace);
        self
    }

    /// Writes the layer that changes the lower layers of the stack into what it shows. A read-only one has no changes.
    ///
    /// Only the writable layer is read, unless it is a whole tree: the size of the others does not matter.
    ///
    /// # Errors
    ///
    /// `Busy` if a file is cut or a directory moved meanwhile, `InvalidInput` for a file whose name is that of a
    /// whiteout, `PermissionDenied` for one that may not be read, and what `writer` reports.
    pub fn changes(&self, rootfs: &Rootfs, writer: impl Write) -> Result<Packed> {
        let attempt = || format!("pack the changes of {}", rootfs.name());
        let Some(upper) = rootfs.upper() else {
            return Writer::new(writer).finish().context(attempt);
        };
        let pack = self.with(rootfs.upper_ids());
        if rootfs.is_whole_tree() {
            let selection = Selection::new(&rootfs.changes()?);
            return pack.run(upper, writer, Part::Changed(selection)).context(attempt);
        }
        let made = match rootfs.has_mount_points() {
            true => rootfs.found()?.mount_points,
            false => Vec::new(),
        };
        let relative = |path: PathBuf| path.into_os_string().into_vec().split_off(1);
        let left_out = made.into_iter().map(relative).collect();
        pack.run(upper, writer, Part::Layer { left_out }).context(attempt)
    }

    /// Writes the layer of these changes, with what the stack shows at each of the paths.
    #[cfg_attr(not(feature = "image"), allow(dead_code, reason = "for squashed images"))]
    pub(crate) fn selected(
        &self,
        rootfs: &Rootfs,
        changes: &[Change],
        writer: impl Write,
    ) -> Result<Packed> {
        let part = Part::Changed(Selection::new(changes));
        let pack = self.with(rootfs.ids());
        pack.run(rootfs, writer, part).context(|| format!("pack changes of {}", rootfs.name()))
    }

    /// Writes all that the stack shows, without layers.
    ///
    /// # Errors
    ///
    /// As [`changes`](Self::changes).
    pub fn rootfs(&self, rootfs: &Rootfs, writer: impl Write) -> Result<Packed> {
        self.with(rootfs.ids()).tree(rootfs, writer).context(|| format!("pack {}", rootfs.name()))
    }

    /// Writes the layer that a directory is: one that an overlay was writing to, or that
    /// [`Unpack`](super::Unpack) has made, with the marks of overlays for what is deleted.
    ///
    /// # Errors
    ///
    /// As [`changes`](Self::changes).
    pub fn layer(&self, directory: impl AsFd, writer: impl Write) -> Result<Packed> {
        self.run(directory, writer, Part::Layer { left_out: HashSet::new() })
    }

    /// Writes all that is in a directory.
    ///
    /// # Errors
    ///
    /// As [`changes`](Self::changes).
    pub fn tree(&self, directory: impl AsFd, writer: impl Write) -> Result<Packed> {
        self.run(directory, writer, Part::All)
    }

    /// Writes what has this name in a directory, and all below it, as `shown`; or as the top, if that is empty. It is in
    /// use: file systems mounted in it are entered, but for the kernel's own, such as proc, whose directories are shown empty.
    #[cfg(feature = "container")]
    pub(crate) fn live(
        &self,
        directory: &OwnedFd,
        name: &OsStr,
        shown: &[u8],
        writer: impl Write,
    ) -> Result<Packed> {
        let handle = directory.try_clone().context(|| "duplicate a descriptor")?;
        let cursor = Cursor::new(handle, Access(self.namespace)).across_mounts();
        let mut walk = self.walk(cursor, writer, Part::Live)?;
        walk.path = shown.to_vec();
        let attempt = || format!("pack {}", name.as_bytes().escape_ascii());
        walk.visit(name).and_then(|_| walk.rest()).context(attempt)?;
        walk.writer.finish()
    }

    fn with<'b>(&self, ids: &'b Ids) -> Pack<'b> {
        Pack { namespace: ids.namespace(), latest: self.latest, zeros: self.zeros }
    }

    fn run(&self, directory: impl AsFd, writer: impl Write, part: Part) -> Result<Packed> {
        let access = Access(self.namespace);
        let handle = directory.as_fd().try_clone_to_owned().context(|| "duplicate a descriptor")?;
        let root = access
            .open_directory(&handle, OsStr::new("."))
            .context(|| "open the directory to pack")?;
        let mut walk = self.walk(Cursor::new(root, access), writer, part)?;
        walk.all()?;
        walk.writer.finish()
    }

    fn walk<'b, W: Write>(&self, cursor: Cursor<'b>, writer: W, part: Part) -> Result<Walk<'b, W>> {
        let map = self.namespace.map(|namespace| {
            let unknown = || Error::invalid("the ids of the user namespace are not known");
            namespace.map().cloned().ok_or_else(unknown)
        });
        Ok(Walk {
            owners: Owners { map: map.transpose()?, squash: false },
            cursor,
            latest: self.latest,
            zeros: self.zeros,
            part,
            writer: Writer::new(writer),
            path: Vec::new(),
            frames: Vec::new(),
            links: HashMap::new(),
        })
    }
}

/// What there is to pack.
#[derive(Debug)]
enum Part {
    All,
    /// All, but for some paths; some of it are the marks of what is deleted.
    Layer {
        left_out: HashSet<Vec<u8>>,
    },
    Changed(Selection),
    /// All, of a tree that is in use.
    #[cfg(feature = "container")]
    Live,
}

impl Part {
    fn is_live(&self) -> bool {
        #[cfg(feature = "container")]
        return matches!(self, Self::Live);
        #[cfg(not(feature = "container"))]
        false
    }
}

struct Walk<'a, W: Write> {
    owners: Owners,
    cursor: Cursor<'a>,
    latest: Option<Time>,
    /// How many more are written.
    zeros: u64,
    part: Part,
    writer: Writer<W>,
    /// From the top; empty there.
    path: Vec<u8>,
    /// What is left to look at in the directories on the way.
    frames: Vec<BTreeSet<OsString>>,
    /// The first names of files that have several.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> Walk<'_, W> {
    fn all(&mut self) -> Result<()> {
        self.enter().context(|| "pack the root directory")?;
        self.rest()
    }

    /// What is left to look at.
    fn rest(&mut self) -> Result<()> {
        while let Some(names) = self.frames.last_mut() {
            let Some(name) = names.pop_first() else {
                self.frames.pop();
                if !self.frames.is_empty() {
                    self.cursor.ascend()?;
                    self.shorten();
                }
                continue;
            };
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend(name.as_bytes());
            let entered = self
                .visit(&name)
                .map_err(|err| err.context(format!("pack {}", self.path.escape_ascii())))?;
            if !entered {
                self.shorten();
            }
        }
        Ok(())
    }

    fn shorten(&mut self) {
        let slash = self.path.iter().rposition(|&byte| byte == b'/');
        self.path.truncate(slash.unwrap_or(0));
    }

    /// Writes the directory that the cursor has been moved to.
    fn enter(&mut self) -> Result<()> {
        let stat = fstat(&self.cursor.here).context(|| "stat the directory")?;
        let attributes = self.attributes(&self.cursor.here, &stat)?;
        let path = match self.path.as_slice() {
            [] => b"./".to_vec(),
            path => [path, b"/"].concat(),
        };
        self.writer.write(Header::new(EntryType::Directory, &path, &attributes), io::empty())?;
        if matches!(self.part, Part::Layer { .. }) && self.cursor.is_opaque()? {
            self.white_out(OPAQUE.to_vec())?;
        }
        self.frames.push(match &self.part {
            Part::Changed(selection) => selection.names(&self.path),
            part if part.is_live() && is_kernels(&self.cursor.here)? => BTreeSet::new(),
            _ => self.cursor.names()?,
        });
        Ok(())
    }

    /// Writes an entry. Returns whether it is a directory, now the current one.
    fn visit(&mut self, name: &OsStr) -> Result<bool> {
        if let Part::Changed(selection) = &self.part
            && selection.is_deleted(&self.path)
        {
            return self.white_out_here(name).map(|()| false);
        }
        if let Part::Layer { left_out } = &self.part
            && left_out.contains(&self.path)
        {
            return Ok(false);
        }
        // It may have gone meanwhile.
        let Some(stat) = self.cursor.stat(name)? else { return Ok(false) };
        if matches!(self.part, Part::Layer { .. }) && self.cursor.is_whiteout(name, &stat)? {
            self.white_out_here(name)?;
            return Ok(false);
        }
        if name.as_bytes().starts_with(PREFIX) && !self.part.is_live() {
            return Err(Error::invalid("its name would be that of a whiteout in the archive")
                .with_hint(
                    "a layer cannot hold files whose names begin with `.wh.`: rename or remove it",
                ));
        }
        if is_directory(&stat) {
            if !self.cursor.descend(name)? {
                return Ok(false);
            }
            self.enter()?;
            return Ok(true);
        }
        let identity = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1
            && let Some(first) = self.links.get(&identity)
        {
            let (uid, gid) = self.owners.inside(stat.st_uid, stat.st_gid);
            let (mode, mtime) = (stat.st_mode & 0o7777, self.clamp(mtime(&stat)));
            let attributes = Attributes { uid, gid, mode, mtime, xattrs: Vec::new() };
            let header = Header::new(EntryType::Link, &self.path, &attributes);
            self.writer.write(header.target(first), io::empty())?;
            return Ok(false);
        }
        let written = match file_type(&stat) {
            SFlag::S_IFREG => self.file(name)?,
            SFlag::S_IFLNK => self.other(name, EntryType::Symlink)?,
            SFlag::S_IFIFO => self.other(name, EntryType::Fifo)?,
            SFlag::S_IFCHR => self.other(name, EntryType::Char)?,
            SFlag::S_IFBLK => self.other(name, EntryType::Block)?,
            _ => false,
        };
        if written && stat.st_nlink > 1 {
            self.links.insert(identity, self.path.clone());
        }
        Ok(false)
    }

    /// Writes a whiteout for the file that the path names.
    fn white_out_here(&mut self, name: &OsStr) -> Result<()> {
        let whole = self.path.clone();
        self.path.truncate(self.path.len() - name.len());
        if self.path.last() == Some(&b'/') {
            self.path.pop();
        }
        self.white_out([PREFIX, name.as_bytes()].concat())?;
        self.path = whole;
        Ok(())
    }

    /// Writes a whiteout into the directory that the path names. When something was deleted is not kept.
    fn white_out(&mut self, name: Vec<u8>) -> Result<()> {
        let path = match self.path.as_slice() {
            [] => name,
            above => [above, b"/", &name].concat(),
        };
        let mtime = Time::default();
        let attributes = Attributes { uid: 0, gid: 0, mode: 0, mtime, xattrs: Vec::new() };
        self.writer.write(Header::new(EntryType::Regular, &path, &attributes), io::empty())
    }

    fn file(&mut self, name: &OsStr) -> Result<bool> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
        let mut file = match self.cursor.access.open(&self.cursor.here, name, flags) {
            Err(Errno::ENOENT | Errno::ELOOP | Errno::ENXIO) => return Ok(false),
            file => File::from(file.context(|| "open the file")?),
        };
        let fd = file.try_clone().context(|| "duplicate a descriptor")?.into();
        let stat = fstat(&fd).context(|| "stat the file")?;
        if file_type(&stat) != SFlag::S_IFREG {
            return Err(Error::new(ErrorKind::Busy, "it was replaced while it was read"));
        }
        let attributes = self.attributes(&fd, &stat)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let header = Header::new(EntryType::Regular, &self.path, &attributes);
        let regions = sparse::regions(&file, size).context(|| "read the file")?;
        let regions = regions.filter(|regions| {
            let data: u64 = regions.iter().map(|(_, len)| len).sum();
            let zeros = size.saturating_sub(data);
            let left = self.zeros.checked_sub(zeros);
            self.zeros = left.unwrap_or(self.zeros);
            left.is_none()
        });
        match regions {
            None => {
                file.rewind().context(|| "read the file")?;
                let content = Exact { left: size, file: &mut file };
                self.writer.write(header.size(size), content)?;
            }
            Some(regions) => {
                let content = Regions { file: &mut file, left: 0, ahead: regions.iter() };
                self.writer.write(header.sparse(size, &regions), content)?;
            }
        }
        Ok(true)
    }

    /// Writes anything but files and directories.
    fn other(&mut self, name: &OsStr, kind: EntryType) -> Result<bool> {
        let file = match self.cursor.access.open(&self.cursor.here, name, OFlag::O_PATH) {
            Err(Errno::ENOENT) => return Ok(false),
            file => file.context(|| "open it")?,
        };
        let stat = fstat(&file).context(|| "stat it")?;
        let attributes = self.attributes(&file, &stat)?;
        let header = Header::new(kind, &self.path, &attributes);
        match kind {
            EntryType::Symlink => {
                let target = readlinkat(&file, "").context(|| "read the link")?.into_vec();
                self.writer.write(header.target(&target), io::empty())?;
            }
            EntryType::Fifo => self.writer.write(header, io::empty())?,
            _ => {
                let header = header.device(major(stat.st_rdev), minor(stat.st_rdev));
                self.writer.write(header, io::empty())?;
            }
        }
        Ok(true)
    }

    fn attributes(&self, file: &OwnedFd, stat: &FileStat) -> Result<Attributes> {
        let mut attributes = attributes(file, stat, self.cursor.access, &self.owners)?;
        attributes.mtime = self.clamp(attributes.mtime);
        Ok(attributes)
    }

    fn clamp(&self, time: Time) -> Time {
        self.latest.map_or(time, |latest| time.min(latest))
    }
}

/// As much of a file as there was when its header was written.
struct Exact<'f> {
    file: &'f mut File,
    left: u64,
}

impl Read for Exact<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.file.read(&mut buffer[..most])?;
        if n == 0 && most > 0 {
            return Err(Error::new(ErrorKind::Busy, "it was cut while it was read")
                .with_hint("stop or freeze the processes that write there, and try again")
                .into());
        }
        self.left -= n as u64;
        Ok(n)
    }
}

/// The content of a sparse file without its holes.
struct Regions<'f, I> {
    file: &'f mut File,
    left: u64,
    ahead: I,
}

impl<'r, I: Iterator<Item = &'r (u64, u64)>> Read for Regions<'_, I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            let Some(&(offset, len)) = self.ahead.next() else { return Ok(0) };
            self.file.seek(SeekFrom::Start(offset))?;
            self.left = len;
        }
        let mut content = Exact { file: &mut *self.file, left: self.left };
        let n = content.read(buffer)?;
        self.left = content.left;
        Ok(n)
    }
}
