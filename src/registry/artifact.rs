//! What is kept in registries beside images: signatures, bills of materials, anything.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use oci_spec::image::{Descriptor, ImageManifestBuilder, MediaType};

use super::client::Client;
use super::content::Origin;
use super::destination::{Destination, Parcel};
use super::pull::disk;
use super::push::{Pushed, check_name};
use super::referrers;
use super::resolve;
use crate::error::{Error, Result};
use crate::image::{Blob, Document, Reference, blob_of};

/// What stands where a configuration must, or a layer, and there is none.
const EMPTY: &[u8] = b"{}";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
const TITLE: &str = "org.opencontainers.image.title";

/// Something else than an image, to be kept in a registry: see [`Registry::push_artifact`](super::Registry::push_artifact)
/// and [`Registry::attach`](super::Registry::attach).
///
/// ```
/// use coracle::registry::Artifact;
///
/// let bill = Artifact::new("application/spdx+json")
///     .blob("application/spdx+json", br#"{"spdxVersion":"SPDX-2.3"}"#.to_vec())
///     .annotation("org.example.tool", "1.2");
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Artifact {
    artifact_type: String,
    parts: Vec<Part>,
    annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
struct Part {
    media_type: String,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Memory(Bytes),
    File(PathBuf),
}

impl Artifact {
    /// An artifact of this type, a media type, without content as yet.
    pub fn new(artifact_type: impl Into<String>) -> Self {
        let artifact_type = artifact_type.into();
        Self { artifact_type, parts: Vec::new(), annotations: BTreeMap::new() }
    }

    /// Adds these bytes.
    pub fn blob(mut self, media_type: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        let content = Content::Memory(Bytes::from(bytes.into()));
        self.parts.push(Part { media_type: media_type.into(), content });
        self
    }

    /// Adds a file, with its name as title. It is read when the artifact is pushed, however long it is.
    pub fn file(mut self, media_type: impl Into<String>, path: impl AsRef<Path>) -> Self {
        let content = Content::File(path.as_ref().to_owned());
        self.parts.push(Part { media_type: media_type.into(), content });
        self
    }

    /// Says something of it.
    pub fn annotation(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(name.into(), value.into());
        self
    }

    /// Pushes it under a name.
    pub(super) async fn push(self, client: &Arc<Client>, to: &str) -> Result<Pushed> {
        let reference: Reference = to.parse()?;
        self.send(client, reference, None).await
    }

    /// Pushes it beside what a name means.
    pub(super) async fn attach(self, client: &Arc<Client>, to: &str) -> Result<Pushed> {
        let reference: Reference = to.parse()?;
        let subject = resolve::document(client, &reference, None).await?;
        self.send(client, reference, Some(&subject.descriptor)).await
    }

    async fn send(
        self,
        client: &Arc<Client>,
        to: Reference,
        subject: Option<&Descriptor>,
    ) -> Result<Pushed> {
        let destination = Arc::new(Destination::new(client, to.registry(), to.repository()));
        let about = self.annotations.clone();
        let artifact_type = MediaType::from(&*self.artifact_type);
        let of = subject.cloned();
        let (document, parcels) = disk(move || self.prepare(of.as_ref())).await?;
        if subject.is_none() {
            check_name(&to, &document)?;
        }
        destination.blobs(parcels).await?;
        let Some(subject) = subject else {
            destination.document(&document, to.tag()).await?;
            return Ok(Pushed::new(to, &document));
        };
        let answer = destination.document(&document, None).await?;
        if !referrers::are_kept(&answer) {
            let mut listed = document.descriptor.clone();
            listed.set_artifact_type(Some(artifact_type));
            listed.set_annotations((!about.is_empty()).then(|| about.into_iter().collect()));
            referrers::list(&destination, &to, subject, &listed).await?;
        }
        let name = format!("{}@{}", to.name(), document.blob.digest);
        Ok(Pushed::new(name.parse()?, &document))
    }

    /// Makes the manifest, and finds out what is in the files.
    fn prepare(self, subject: Option<&Descriptor>) -> Result<(Document, Vec<Parcel>)> {
        let empty = Part {
            media_type: EMPTY_TYPE.to_owned(),
            content: Content::Memory(Bytes::from_static(EMPTY)),
        };
        let (config, config_parcel) = empty.clone().prepare()?;
        let mut parcels = vec![config_parcel];
        let mut layers = Vec::new();
        let none = self.parts.is_empty().then_some(empty);
        for part in self.parts.into_iter().chain(none) {
            let (layer, parcel) = part.prepare()?;
            layers.push(layer);
            if parcels.iter().all(|it| it.blob != parcel.blob) {
                parcels.push(parcel);
            }
        }
        let mut manifest = ImageManifestBuilder::default()
            .schema_version(2_u32)
            .media_type(MediaType::ImageManifest)
            .artifact_type(MediaType::from(&*self.artifact_type))
            .config(config)
            .layers(layers);
        if let Some(subject) = subject {
            manifest = manifest.subject(subject.clone());
        }
        if !self.annotations.is_empty() {
            let annotations: HashMap<_, _> = self.annotations.into_iter().collect();
            manifest = manifest.annotations(annotations);
        }
        let manifest = manifest.build().map_err(|err| Error::invalid(err.to_string()))?;
        // Through a map, whose fields are sorted: the same artifact has the same digest.
        let bytes = serde_json::to_value(&manifest).and_then(|it| serde_json::to_vec(&it));
        let bytes = bytes.map_err(|err| Error::invalid(err.to_string()))?;
        let blob = Blob::of(&bytes);
        let descriptor = blob.descriptor(MediaType::ImageManifest);
        Ok((Document { descriptor, blob, bytes }, parcels))
    }
}

impl Part {
    fn prepare(self) -> Result<(Descriptor, Parcel)> {
        let (blob, origin, title) = match self.content {
            Content::Memory(bytes) => (Blob::of(&bytes), Origin::Memory(bytes), None),
            Content::File(path) => {
                let title = path.file_name().map(|name| name.to_string_lossy().into_owned());
                (blob_of(&path)?, Origin::File(path), title)
            }
        };
        let mut descriptor = blob.descriptor(MediaType::from(&*self.media_type));
        if let Some(title) = title {
            descriptor.set_annotations(Some(HashMap::from([(TITLE.to_owned(), title)])));
        }
        Ok((descriptor, Parcel { blob, origin, holders: Vec::new() }))
    }
}
