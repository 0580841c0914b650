//! When a new file is begun, and how many are kept.

/// How large log files become and how many are kept. By default there is one, which grows without end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rotation {
    pub(super) max_size: Option<u64>,
    pub(super) max_files: Option<u32>,
}

impl Rotation {
    /// One file that grows without end.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a new file before a line that would make this one larger than so many bytes. A single line may.
    pub fn max_size(mut self, bytes: u64) -> Self {
        self.max_size = Some(bytes);
        self
    }

    /// Keeps so many files, at least the one that grows: with 3, `container.log`, `container.log.1` and `container.log.2`. Otherwise all
    /// are kept.
    pub fn max_files(mut self, count: u32) -> Self {
        self.max_files = Some(count);
        self
    }
}
