//! Images that come in blob by blob, side by side, and are unpacked on the way.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Mutex;

use oci_spec::image::Descriptor;

use super::config::Config;
use super::content::{Content, Examiners, check_diff_id};
use super::digest::Digest;
use super::early::{Early, Unpacker, lock};
use super::growing::GrowingBlob;
use super::image::Image;
use super::lease::Work;
use super::manifest::{Blob, Manifest};
use super::reference::Reference;
use super::store::Store;
use crate::GIB;
use crate::error::{Context, Result};

/// How many bytes a layer may have after decompression.
const LAYER_BYTES: u64 = 256 * GIB;

/// An image on its way into a store. Blobs that are whole stay there until the collector comes, whatever becomes of the
/// image; the image shows when all of it is there.
#[derive(Debug)]
pub(crate) struct Intake {
    work: Work,
    examiners: Examiners,
    taken: Mutex<HashMap<Digest, (Content, Option<Early>)>>,
}

impl Intake {
    /// Takes in up to `at_once` layers at a time, and unpacks them if that is wanted.
    pub(crate) fn new(store: &Store, unpack: bool, at_once: usize) -> Result<Self> {
        // Whoever makes a root filesystem is told why layers cannot be unpacked.
        let early = unpack.then(|| Unpacker::new(store).ok()).flatten();
        let examiners = Examiners::new(LAYER_BYTES, early).at_once(at_once);
        Ok(Self { work: store.work()?, examiners, taken: Mutex::default() })
    }

    /// Whether the blob is there. If so it stays.
    pub(crate) fn has(&self, blob: &Blob) -> Result<bool> {
        self.work.has(blob)
    }

    /// Takes in a document.
    pub(crate) fn document(&self, blob: Blob, bytes: &[u8]) -> Result<()> {
        self.work.ingest(bytes, Some(blob)).map(drop)
    }

    /// A document that is there.
    pub(crate) fn stored_document(&self, blob: &Blob) -> Result<Vec<u8>> {
        self.work.store().document(blob)
    }

    /// Takes in a layer, piece by piece, until there is none. Other threads decompress and unpack it meanwhile.
    pub(crate) fn layer<B: AsRef<[u8]>>(
        &self,
        blob: Blob,
        mut next: impl FnMut() -> Result<Option<B>>,
    ) -> Result<()> {
        let found = std::thread::scope(|scope| {
            let mut growing = GrowingBlob::new(&self.work, Some(blob))?;
            let (early, file) = (self.examiners.early(), growing.file()?);
            let examining = self.examiners.begin(scope, growing.growth(), file, early)?;
            while let Some(piece) = next()? {
                growing.write(piece.as_ref(), early)?;
            }
            growing.stage()?.commit()?;
            examining.finish().context(|| format!("read the layer {}", blob.digest))
        });
        lock(&self.taken).insert(blob.digest, found?);
        Ok(())
    }

    /// Takes in a blob that is no layer, piece by piece.
    pub(crate) fn blob<B: AsRef<[u8]>>(
        &self,
        blob: Blob,
        mut next: impl FnMut() -> Result<Option<B>>,
    ) -> Result<()> {
        let mut writer = self.work.writer(Some(blob))?;
        while let Some(piece) = next()? {
            let written = writer.write_all(piece.as_ref());
            written.context(|| format!("store the blob {}", blob.digest))?;
        }
        writer.commit().map(drop)
    }

    /// The image is complete: checks that each layer taken in is what its configuration says, names the image and
    /// keeps what has been unpacked.
    pub(crate) fn finish(
        self,
        name: Option<&Reference>,
        root: &Descriptor,
        parts: &[(Manifest, Config)],
    ) -> Result<Image> {
        let mut taken = std::mem::take(&mut *lock(&self.taken));
        for (manifest, config) in parts {
            for (layer, diff_id) in manifest.layers().iter().zip(config.diff_ids()) {
                if let Some((content, _)) = taken.get(&layer.digest) {
                    let what = format!("the layer {}", layer.digest);
                    check_diff_id(&what, content.digest, diff_id.0)?;
                }
            }
        }
        let image = self.work.set_image(name, root)?;
        if let Some(unpacker) = self.examiners.early().filter(|it| !it.has_given_up()) {
            // The image is there, and what is not unpacked now will be when it is needed.
            let _ =
                image.unpack_or_take(&self.work, unpacker.layers(), |blob| taken.remove(blob)?.1);
        }
        Ok(image)
    }
}
