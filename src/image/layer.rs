//! A layer on its way into the store.

use std::io::{self, Write};

use oci_spec::image::{Descriptor, MediaType};

use super::blobs::BlobWriter;
use super::digest::{DiffId, Hasher};
use super::lease::Work;
use super::manifest::Blob;
use crate::error::{Context, Result};
use crate::layers::{Compression, Encoder};

/// Takes the tar stream of a layer, compresses it and stores it; both digests are taken on the way.
pub(super) struct LayerWriter {
    encoder: Encoder<BlobWriter>,
    hasher: Hasher,
    compression: Compression,
}

/// A layer that is in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) diff_id: DiffId,
    pub(super) blob: Blob,
    pub(super) compression: Compression,
}

impl LayerWriter {
    pub(super) fn new(work: &Work, compression: Compression) -> Result<Self> {
        let encoder = compression.encoder(work.writer(None)?).context(|| "begin to compress")?;
        Ok(Self { encoder, hasher: Hasher::default(), compression })
    }

    pub(super) fn finish(self) -> Result<Layer> {
        let blob = self.encoder.finish().context(|| "compress the layer")?.commit()?;
        let diff_id = DiffId(self.hasher.finish());
        Ok(Layer { diff_id, blob, compression: self.compression })
    }
}

impl Write for LayerWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.encoder.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.encoder.flush()
    }
}

impl Layer {
    pub(super) fn descriptor(&self) -> Descriptor {
        self.blob.descriptor(layer_type(self.compression))
    }
}

/// What OCI calls a layer that is compressed so.
pub(super) fn layer_type(compression: Compression) -> MediaType {
    match compression {
        Compression::None => MediaType::ImageLayer,
        Compression::Gzip => MediaType::ImageLayerGzip,
        Compression::Zstd => MediaType::ImageLayerZstd,
    }
}
