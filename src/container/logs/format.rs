//! The formats of log files, and whose output is in them.

use std::fmt;

/// How lines are written to a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// Kubernetes' [CRI](https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md):
    /// `2026-01-01T00:00:00.000000000Z stdout F text`, with `P` instead of `F` for a piece of a line that goes on. Any byte
    /// comes back as it was.
    #[default]
    Cri,
    /// Docker's `json-file`: `{"log":"text\n","stream":"stdout","time":"2026-01-01T00:00:00Z"}`, without the `\n` for a piece of a
    /// line that goes on. What is not UTF-8 is replaced by U+FFFD.
    JsonFile,
}

/// One of the two streams that a program prints to. A terminal has only [`Stdout`](Self::Stdout).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// `stdout` or `stderr`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    pub(super) fn from_name(name: &[u8]) -> Option<Self> {
        match name {
            b"stdout" => Some(Self::Stdout),
            b"stderr" => Some(Self::Stderr),
            _ => None,
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
