//! The buffer between lines and files.

/// A buffer that [`LogWriter`](super::LogWriter)s gather lines in, to write many at once.
///
/// It is empty between calls, so one is enough for all writers of a thread, and a writer costs no memory while its
/// container is quiet. 512 KiB from the first line on.
#[derive(Default)]
pub struct Batch {
    /// All of it, to write records without asking for room byte by byte.
    pub(super) bytes: Vec<u8>,
    /// How much of it is used.
    pub(super) filled: usize,
}

impl Batch {
    /// It goes to the file when it has grown to this: a system call has become cheap then, and the cache still holds it.
    pub(super) const ENOUGH: usize = 256 << 10;
    const CAPACITY: usize = 512 << 10;

    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn prepare(&mut self) {
        self.bytes.resize(Self::CAPACITY, 0);
        self.filled = 0;
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("capacity", &self.bytes.len()).finish()
    }
}
