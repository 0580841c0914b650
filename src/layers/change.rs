//! One difference between a stack and its layers.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What the writable layer does to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ChangeKind {
    /// It was not there before. Prints as `A`.
    Added,
    /// Its content, owner, mode or extended attributes changed, it became another type of file, or
    /// something below it changed. Prints as `C`.
    Modified,
    /// It, with all below it, is gone. Prints as `D`.
    Deleted,
}

/// One line of a [list of changes](super::Rootfs::changes).
///
/// Prints as `A /stamp`. A backslash, a control character or a byte that is not UTF-8 prints as `\\`, `\n`,
/// `\u{1b}`, `\xff`: a line stays a line, and no name can look like another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Change {
    path: PathBuf,
    kind: ChangeKind,
}

impl Change {
    pub(super) fn new(kind: ChangeKind, path: PathBuf) -> Self {
        Self { path, kind }
    }

    /// What happened.
    pub fn kind(&self) -> ChangeKind {
        self.kind
    }

    /// To which path, as a process in the stack sees it: absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        for chunk in self.path.as_os_str().as_bytes().utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\\' => f.write_str("\\\\")?,
                    c if c.is_control() => write!(f, "{}", c.escape_debug())?,
                    c => write!(f, "{c}")?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for ChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Added => "A",
            Self::Modified => "C",
            Self::Deleted => "D",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn every_name_prints_on_one_line_and_unlike_any_other() {
        for (name, shown) in [
            (&b"/stamp"[..], "A /stamp"),
            (b"/with space: \xc3\xa9", "A /with space: \u{e9}"),
            (b"/a\nD /etc", "A /a\\nD /etc"),
            (b"/a\\nD", "A /a\\\\nD"),
            (b"/\x1b[31m\x7f", "A /\\u{1b}[31m\\u{7f}"),
            (b"/\xff\xc3", "A /\\xff\\xc3"),
        ] {
            let change = Change::new(ChangeKind::Added, OsStr::from_bytes(name).into());
            assert_eq!(change.to_string(), shown);
        }
    }
}
