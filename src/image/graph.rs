//! What hangs together below a manifest or index that is passed on.

use std::collections::HashSet;

use oci_spec::image::Descriptor;

use super::digest::Digest;
use super::json;
use super::manifest::{Blob, Links, may_be_missing};
use super::room::Room;
use super::walk::{Step, Walk};
use crate::error::{Context, Result};

/// A manifest or index.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) descriptor: Descriptor,
    pub(crate) blob: Blob,
    pub(crate) bytes: Vec<u8>,
}

/// Documents and blobs below a descriptor, as far as they have been found.
#[derive(Debug)]
pub(crate) struct Graph {
    /// Each after those that it names.
    pub(crate) documents: Vec<Document>,
    pub(crate) blobs: Vec<Blob>,
    walk: Walk<Document>,
    seen: HashSet<Digest>,
    room: Room,
}

impl Graph {
    pub(crate) fn new(root: Descriptor, blob: Blob) -> Self {
        let (documents, blobs) = (Vec::new(), Vec::new());
        let walk = Walk::new(root, blob);
        Self { documents, blobs, walk, seen: HashSet::new(), room: Room::default() }
    }

    /// What is to be [added](Self::add) next, or left out.
    pub(crate) fn next(&mut self) -> Option<(Descriptor, Blob)> {
        loop {
            match self.walk.step()? {
                Step::Enter(descriptor, blob) => return Some((descriptor, blob)),
                Step::Leave(document) => self.documents.push(document),
            }
        }
    }

    /// Adds a document. Returns the blobs that came with it.
    pub(crate) fn add(&mut self, document: Document) -> Result<&[Blob]> {
        self.room.take(&document.blob)?;
        let attempt = || format!("read the manifest {}", document.blob.digest);
        let Named { documents, blobs } = Named::of(&document.bytes).context(attempt)?;
        let before = self.blobs.len();
        self.blobs.extend(blobs.into_iter().filter(|blob| self.seen.insert(blob.digest)));
        self.walk.enter(document, documents);
        Ok(&self.blobs[before..])
    }
}

/// What a manifest or index names, of whatever kind.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) documents: Vec<(Descriptor, Blob)>,
    /// Without what must not be passed on: whoever wants that follows the addresses in the manifest.
    pub(crate) blobs: Vec<Blob>,
}

impl Named {
    pub(crate) fn of(bytes: &[u8]) -> Result<Self> {
        let Links { documents, blobs } = Links::of(&json::object(bytes)?)?;
        let blobs = blobs.into_iter().filter(|(named, _)| !may_be_missing(named.media_type()));
        Ok(Self { documents, blobs: blobs.map(|(_, blob)| blob).collect() })
    }
}
