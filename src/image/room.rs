//! How much a document may lead to.

use super::json::{MAX_DOCUMENT, malformed};
use super::manifest::Blob;
use crate::error::{Error, Result};

/// All documents together have no more bytes than so many of the longest would have: they wait in memory.
const DOCUMENTS: u64 = 16;

/// How many bytes the documents have that are looked at together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Room(u64);

impl Room {
    /// Makes room for a document, unless all of them would have too many bytes.
    pub(crate) fn take(&mut self, blob: &Blob) -> Result<()> {
        const MOST: u64 = DOCUMENTS * MAX_DOCUMENT;
        self.0 = self.0.saturating_add(blob.size);
        match self.0 > MOST {
            true => Err(bomb(format!("its manifests have over {MOST} bytes"))),
            false => Ok(()),
        }
    }
}

/// An error for documents that name more than any tool makes.
pub(super) fn bomb(what: String) -> Error {
    malformed(what).with_hint(
        "no tool makes such an image, and it may be an attack: ask whoever made it, or name a single manifest in it by digest",
    )
}
