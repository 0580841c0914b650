//! How much an archive may ask for.

use crate::{GIB, MIB};

/// What an archive may ask for at most, so that a small one cannot fill the disk or the memory.
///
/// The defaults let everything pass that images are made of, and still end every archive. A caller that knows
/// more, such as the size that a manifest claims, sets them lower.
///
/// ```
/// use coracle::layers::ArchiveLimits;
///
/// let limits = ArchiveLimits::new().entries(100_000).bytes(2 * coracle::GIB);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchiveLimits {
    pub(super) entries: u64,
    pub(super) bytes: u64,
    pub(super) header_bytes: u64,
}

impl ArchiveLimits {
    /// 4,194,304 entries, 256 GiB of archive after decompression, 1 MiB of headers for each entry.
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: 4 << 20, bytes: 256 * GIB, header_bytes: MIB }
    }

    /// How many files, directories, links and whiteouts there may be. Each takes an inode, and some hundred
    /// bytes of memory while the archive is read.
    #[must_use]
    pub const fn entries(mut self, entries: u64) -> Self {
        self.entries = entries;
        self
    }

    /// How many bytes the archive may have, after decompression, with all headers and padding. The
    /// holes of sparse files do not count, as they take no space.
    #[must_use]
    pub const fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = bytes;
        self
    }

    /// How many bytes all headers of one entry may have together: long names, extended attributes, maps of
    /// sparse files. They are held in memory.
    #[must_use]
    pub const fn header_bytes(mut self, bytes: u64) -> Self {
        self.header_bytes = bytes;
        self
    }

    /// The lower of each.
    #[cfg(feature = "image")]
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            entries: self.entries.min(other.entries),
            bytes: self.bytes.min(other.bytes),
            header_bytes: self.header_bytes.min(other.header_bytes),
        }
    }
}

impl Default for ArchiveLimits {
    fn default() -> Self {
        Self::new()
    }
}
