//! Manifests and indexes as a registry has them.

use oci_spec::image::Descriptor;

use super::client::Client;
use super::resolve;
use crate::error::{Context, Result};
use crate::image::{Digest, Document, DocumentKind, Index, Platform, Reference};

/// A manifest or index in a registry, byte by byte; see [`Registry::manifest`](super::Registry::manifest).
#[derive(Clone, Debug)]
pub struct RemoteManifest {
    reference: Reference,
    document: Document,
    /// `None` if it is no index.
    manifests: Option<Vec<Descriptor>>,
}

impl RemoteManifest {
    pub(super) async fn fetch(client: &Client, name: &str) -> Result<Self> {
        let reference: Reference = name.parse()?;
        let document = resolve::document(client, &reference, None).await?;
        let media_type = document.descriptor.media_type();
        let manifests = match DocumentKind::of(media_type) {
            Some(DocumentKind::Index) => {
                let index = Index::parse(&document.bytes, media_type);
                let index = index.context(|| format!("read the index {}", document.blob.digest))?;
                Some(index.manifests.into_iter().map(|(descriptor, _)| descriptor).collect())
            }
            _ => None,
        };
        Ok(Self { reference, document, manifests })
    }

    /// The name by which it was asked for.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// The digest of the bytes.
    pub fn digest(&self) -> Digest {
        self.document.blob.digest
    }

    /// Media type, digest and size.
    pub fn descriptor(&self) -> &Descriptor {
        &self.document.descriptor
    }

    /// The document as it stands. It is a JSON object; nothing else in it has been checked.
    pub fn bytes(&self) -> &[u8] {
        &self.document.bytes
    }

    /// Whether it is an index, which names other manifests.
    pub fn is_index(&self) -> bool {
        self.manifests.is_some()
    }

    /// What an index names, in its order; nothing if this is no index.
    pub fn manifests(&self) -> &[Descriptor] {
        self.manifests.as_deref().unwrap_or_default()
    }

    /// The platforms that an index has images for. `unknown/unknown` stands beside what is no image.
    pub fn platforms(&self) -> Vec<Platform> {
        let platforms = self.manifests().iter().filter_map(|it| it.platform().as_ref());
        platforms.map(Platform::from).collect()
    }
}
