//! The buffer between lines and files.

use crate::sys::process::give_pages_back;

/// A buffer that [`LogWriter`](super::LogWriter)s gather lines in, to write many at once.
///
/// It is empty between calls, so one is enough for all writers of a thread, and a writer costs no memory while its
/// container is quiet. At most 2.1 MiB, and as much of it as has been used.
#[derive(Default)]
pub struct Batch {
    /// All of it, to write records without asking for room byte by byte.
    pub(super) bytes: Vec<u8>,
    /// How much of it is used.
    pub(super) filled: usize,
}

impl Batch {
    /// It goes to the file when it has grown to this: what is read at once makes one write then, as a file system takes a
    /// few long ones faster than more short ones.
    pub(super) const ENOUGH: usize = 2 << 20;
    /// With room for the longest record.
    const CAPACITY: usize = Self::ENOUGH + (128 << 10);

    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn prepare(&mut self) {
        if self.bytes.is_empty() {
            // Memory that is zero as it comes takes nothing until it is used.
            self.bytes = vec![0; Self::CAPACITY];
        }
        self.filled = 0;
    }

    /// Gives the memory back that it has used.
    pub(in crate::container) fn give_back(&mut self) {
        give_pages_back(&mut self.bytes);
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("capacity", &self.bytes.len()).finish()
    }
}
