//! Manifests and indexes, of OCI and of Docker (schema 2).

use std::collections::HashSet;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};

use super::digest::Digest;
use super::json::{self, Object, malformed};
use super::platform::Platform;
use super::room::{Room, bomb};
use crate::error::{Context, Error, ErrorKind, Result};

/// The content of a file in the store: its name and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blob {
    /// The digest of the content.
    pub digest: Digest,
    /// The length in bytes.
    pub size: u64,
}

impl Blob {
    /// The blob that holds `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self { digest: Digest::of(bytes), size: bytes.len() as u64 }
    }

    /// How a manifest names the blob.
    pub fn descriptor(&self, media_type: MediaType) -> Descriptor {
        let digest: oci_spec::image::Digest =
            self.digest.to_string().parse().expect("a digest that was read is one");
        Descriptor::new(media_type, self.size, digest)
    }
}

impl TryFrom<&Descriptor> for Blob {
    type Error = Error;

    fn try_from(descriptor: &Descriptor) -> Result<Self> {
        let digest = Digest::in_document(descriptor.digest().as_ref())?;
        Ok(Self { digest, size: descriptor.size() })
    }
}

/// What a document, or a descriptor that leads to it, says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DocumentKind {
    Manifest,
    Index,
}

const MANIFEST_TYPES: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const INDEX_TYPES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const CONFIG_TYPES: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// And with `+gzip`, `+zstd`, `.gzip` or `.zstd` behind.
const LAYER_TYPES: [&str; 4] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];

/// How many indexes may lie in each other below the first. Tools that nest any nest one.
const DEEPEST_INDEX: usize = 4;
/// How many manifests there may be then.
const MOST_NESTED: usize = 4096;
/// How many indexes there may be below the first: each costs a request.
const MOST_INDEXES: usize = 256;

impl DocumentKind {
    /// What a descriptor of this type leads to, if it is a document that names further blobs.
    pub(crate) fn of(media_type: &MediaType) -> Option<Self> {
        match media_type.as_ref() {
            known if MANIFEST_TYPES.contains(&known) => Some(Self::Manifest),
            known if INDEX_TYPES.contains(&known) => Some(Self::Index),
            _ => None,
        }
    }

    /// What the fields of a document make it.
    pub(super) fn by_fields(document: &Object) -> Option<Self> {
        let has = |field| document.contains_key(field);
        match (has("manifests"), has("config") || has("layers")) {
            (true, false) => Some(Self::Index),
            (false, true) => Some(Self::Manifest),
            _ => None,
        }
    }

    /// What a document of this kind is that does not say it itself: Docker's do.
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Manifest => MANIFEST_TYPES[0],
            Self::Index => INDEX_TYPES[0],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Index => "index",
        }
    }
}

/// Reads a document that a descriptor of `media_type` led to, and refuses one that could be read as something
/// else as well.
pub(super) fn document(bytes: &[u8], media_type: &MediaType) -> Result<(DocumentKind, Object)> {
    let Some(kind) = DocumentKind::of(media_type) else {
        return Err(unknown_type("an image", media_type));
    };
    let document = json::object(bytes)?;
    match document.get("mediaType") {
        Some(serde_json::Value::String(own)) if own != media_type.as_ref() => {
            return Err(malformed(format!("it calls itself {own}, but was named as {media_type}")));
        }
        _ => {}
    }
    if DocumentKind::by_fields(&document) != Some(kind) {
        return Err(malformed(format!("its fields are not those of {} alone", kind.name())));
    }
    if document.get("schemaVersion").and_then(serde_json::Value::as_u64) != Some(2) {
        return Err(malformed("its schemaVersion is not 2"));
    }
    Ok((kind, document))
}

/// What a document is for which a registry gives the type `said`: what it calls itself, before that.
#[cfg(feature = "registry")]
pub(crate) fn media_type(bytes: &[u8], said: Option<&str>) -> Result<MediaType> {
    let document = json::object(bytes)?;
    let said = said.map(MediaType::from).filter(|said| DocumentKind::of(said).is_some());
    match (document.get("mediaType").and_then(serde_json::Value::as_str), said) {
        (Some(own), Some(said)) if own != said.as_ref() => {
            Err(malformed(format!("it calls itself {own}, but was given as {said}")))
        }
        (Some(own), _) => Ok(own.into()),
        (None, Some(said)) => Ok(said),
        (None, None) => match DocumentKind::by_fields(&document) {
            Some(kind) => Ok(kind.media_type().into()),
            None => Err(malformed("it is neither a manifest nor an index")),
        },
    }
}

fn unknown_type(what: &str, media_type: &MediaType) -> Error {
    let message = format!("{:?} is no media type of {what}", media_type.as_ref());
    Error::new(ErrorKind::Unsupported, message)
}

/// What one image is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    spec: ImageManifest,
    config: Blob,
    layers: Vec<Blob>,
}

impl Manifest {
    /// Reads a manifest that a descriptor of `media_type` led to.
    pub(crate) fn parse(bytes: &[u8], media_type: &MediaType) -> Result<Self> {
        let (DocumentKind::Manifest, object) = document(bytes, media_type)? else {
            return Err(malformed("it is an index where a manifest is needed"));
        };
        let spec: ImageManifest = json::typed(&object, &["layers"])?;
        let config_type = spec.config().media_type();
        if !is_config(config_type) {
            return Err(unknown_type("an image's configuration", config_type)
                .with_hint("this is something else than an image, kept in a registry like one"));
        }
        let config =
            Blob::try_from(spec.config()).context(|| "read the descriptor of its config")?;
        let layer = |(number, layer): (usize, &Descriptor)| {
            let attempt = || format!("read the descriptor of its layer {}", number + 1);
            if !is_layer(layer.media_type()) {
                return Err(unknown_type("a layer", layer.media_type())).context(attempt);
            }
            Blob::try_from(layer).context(attempt)
        };
        let layers = spec.layers().iter().enumerate().map(layer).collect::<Result<_>>()?;
        Ok(Self { spec, config, layers })
    }

    /// The manifest in the specification's words.
    pub fn spec(&self) -> &ImageManifest {
        &self.spec
    }

    /// The blob of the configuration; its digest is the image's id.
    pub fn config(&self) -> Blob {
        self.config
    }

    /// The blobs of the layers, the lowest first.
    pub fn layers(&self) -> &[Blob] {
        &self.layers
    }

    /// Whether a layer may be missing.
    pub(crate) fn may_lack(&self, layer: usize) -> bool {
        self.spec.layers().get(layer).is_some_and(|layer| may_be_missing(layer.media_type()))
    }
}

/// Whether a layer need not be in a store, because it must not be passed on: base layers of Windows.
pub(super) fn may_be_missing(media_type: &MediaType) -> bool {
    let name = media_type.as_ref();
    name.contains(".nondistributable.") || name.contains(".foreign.")
}

/// Whether it is the configuration of an image, and not of something else.
pub(super) fn is_config(media_type: &MediaType) -> bool {
    CONFIG_TYPES.contains(&media_type.as_ref())
}

fn is_layer(media_type: &MediaType) -> bool {
    let name = media_type.as_ref();
    LAYER_TYPES.iter().any(|known| {
        name.strip_prefix(known)
            .is_some_and(|end| ["", "+gzip", "+zstd", ".gzip", ".zstd"].contains(&end))
    })
}

/// The manifests of one image for several platforms.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    /// With those that are no image for any platform: attestations.
    pub(crate) manifests: Vec<(Descriptor, Blob)>,
    /// The indexes that were taken out of it.
    taken: HashSet<Digest>,
    room: Room,
}

impl Index {
    pub(crate) fn parse(bytes: &[u8], media_type: &MediaType) -> Result<Self> {
        let (DocumentKind::Index, object) = document(bytes, media_type)? else {
            return Err(malformed("it is a manifest where an index is needed"));
        };
        let spec: ImageIndex = json::typed(&object, &["manifests"])?;
        let blob = |descriptor: &Descriptor| Ok((descriptor.clone(), Blob::try_from(descriptor)?));
        let manifests = spec.manifests().iter().map(blob).collect::<Result<_>>()?;
        Ok(Self { manifests, taken: HashSet::new(), room: Room::default() })
    }

    /// Takes the indexes out that are named among the manifests, each once, to be replaced by what these name.
    pub(crate) fn take_nested(&mut self) -> Result<Vec<(Descriptor, Blob)>> {
        let nested = self.manifests.extract_if(.., |(descriptor, _)| {
            DocumentKind::of(descriptor.media_type()) == Some(DocumentKind::Index)
        });
        let nested: Vec<_> = nested.filter(|(_, blob)| self.taken.insert(blob.digest)).collect();
        if self.taken.len() > MOST_INDEXES {
            return Err(bomb(format!("it nests over {MOST_INDEXES} indexes")));
        }
        nested.iter().try_for_each(|(_, blob)| self.room.take(blob))?;
        Ok(nested)
    }

    /// Adds what a nested index names, `depth` indexes below this one.
    pub(crate) fn add_nested(&mut self, nested: Self, depth: usize) -> Result<()> {
        self.manifests.extend(nested.manifests);
        let (deep, long) = (depth > DEEPEST_INDEX, self.manifests.len() > MOST_NESTED);
        match (deep, long) {
            (true, _) => Err(bomb(format!("over {DEEPEST_INDEX} indexes lie in each other"))),
            (_, true) => Err(bomb(format!("nested indexes name over {MOST_NESTED} manifests"))),
            _ => Ok(()),
        }
    }

    /// The manifest that suits `platform` best. One without a platform suits any if it is the only one.
    pub(crate) fn choose(&self, platform: &Platform) -> Result<&(Descriptor, Blob)> {
        let suits =
            |descriptor: &Descriptor| platform.suits(&descriptor.platform().as_ref()?.into());
        let best = self.manifests.iter().rev().max_by_key(|(descriptor, _)| suits(descriptor));
        match best {
            Some(best) if suits(&best.0).is_some() => Ok(best),
            Some(best) if self.manifests.len() == 1 && best.0.platform().is_none() => Ok(best),
            _ => {
                let message = format!("there is no image for the platform {platform}");
                Err(Error::new(ErrorKind::NotFound, message).with_hint(self.offers()))
            }
        }
    }

    fn offers(&self) -> String {
        let platforms = self.manifests.iter().filter_map(|(descriptor, _)| {
            Some(Platform::from(descriptor.platform().as_ref()?).to_string())
        });
        let platforms: Vec<_> = platforms.take(20).collect();
        match platforms.is_empty() {
            true => "it names no platform".to_owned(),
            false => format!("it has {}", platforms.join(", ")),
        }
    }
}

/// What a document names, whatever else it is: what it needs stays in the store.
#[derive(Debug, Default)]
pub(super) struct Links {
    pub(super) documents: Vec<(Descriptor, Blob)>,
    pub(super) blobs: Vec<(Descriptor, Blob)>,
}

impl Links {
    pub(super) fn of(document: &Object) -> Result<Self> {
        let mut links = Self::default();
        for field in ["config", "layers", "blobs", "manifests"] {
            let found = match document.get(field) {
                None | Some(serde_json::Value::Null) => continue,
                Some(serde_json::Value::Array(items)) => items.as_slice(),
                Some(one) => std::slice::from_ref(one),
            };
            for item in found {
                let item =
                    item.as_object().ok_or_else(|| malformed("a descriptor is no object"))?;
                let descriptor: Descriptor = json::typed(item, &[])?;
                let blob = Blob::try_from(&descriptor)?;
                match field {
                    "manifests" => links.documents.push((descriptor, blob)),
                    _ => links.blobs.push((descriptor, blob)),
                }
            }
        }
        Ok(links)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
    const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

    fn descriptor(media_type: &str, content: &str) -> String {
        let Blob { digest, size } = Blob::of(content.as_bytes());
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
    }

    fn manifest(config: &str, layers: &[&str]) -> String {
        let layers: Vec<_> = layers.iter().map(|layer| descriptor(layer, layer)).collect();
        let config = descriptor(config, "config");
        format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, layers.join(","))
    }

    fn parse(text: &str, media_type: &str) -> Result<Manifest> {
        Manifest::parse(text.as_bytes(), &media_type.into())
    }

    #[test]
    fn manifests_of_oci_and_docker_are_read() {
        let text = manifest(CONFIG_TYPES[0], &["application/vnd.oci.image.layer.v1.tar+gzip"]);
        let read = parse(&text, OCI).unwrap();
        assert_eq!(read.config(), Blob::of(b"config"));
        assert_eq!(read.layers().len(), 1);
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        let text = manifest(
            CONFIG_TYPES[1],
            &[foreign, "application/vnd.docker.image.rootfs.diff.tar.gzip"],
        );
        let read = parse(&text, MANIFEST_TYPES[1]).unwrap();
        assert_eq!([0, 1, 2].map(|layer| read.may_lack(layer)), [true, false, false]);
        // Go writes an empty list so.
        let text = text.split("\"layers\"").next().unwrap().to_owned() + "\"layers\":null}";
        assert!(parse(&text, OCI).unwrap().layers().is_empty());
    }

    #[test]
    fn what_is_ambiguous_or_unknown_is_refused() {
        let layer = "application/vnd.oci.image.layer.v1.tar";
        let good = manifest(CONFIG_TYPES[0], &[layer]);
        for (text, media_type, why) in [
            (manifest("application/vnd.oci.empty.v1+json", &[layer]), OCI, "configuration"),
            (manifest(CONFIG_TYPES[0], &["text/plain"]), OCI, "its layer 1: \"text/plain\""),
            (good.replace("schemaVersion\":2", "schemaVersion\":1"), OCI, "schemaVersion"),
            (good.replacen('{', "{\"manifests\":[],", 1), OCI, "fields"),
            (good.clone(), OCI_INDEX, "fields"),
            (good.clone(), "text/plain", "no media type of an image"),
            (
                good.replacen('{', &format!("{{\"mediaType\":\"{OCI_INDEX}\","), 1),
                OCI,
                "calls itself",
            ),
            (good.replace("sha256:", "sha256:../"), OCI, "Invalid encoded value"),
            (good.replace("sha256:", "md5:"), OCI, "algorithm"),
            (good.replace("\"size\":", "\"size\":-"), OCI, "invalid value"),
        ] {
            let err = parse(&text, media_type).unwrap_err();
            assert!(format!("{err:#}").contains(why), "{err:#} does not say {why:?}");
        }
    }

    #[test]
    fn an_index_gives_the_image_for_the_platform_or_says_what_it_has() {
        let of = |os: &str, architecture: &str| {
            let one = descriptor(OCI, architecture);
            format!(
                r#"{},"platform":{{"os":"{os}","architecture":"{architecture}"}}}}"#,
                &one[..one.len() - 1]
            )
        };
        let entries =
            [of("linux", "amd64"), of("linux", "arm64"), of("unknown", "unknown")].join(",");
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{entries}]}}"#);
        let index = Index::parse(text.as_bytes(), &OCI_INDEX.into()).unwrap();
        let chosen = |platform: &str| index.choose(&platform.parse().unwrap()).map(|it| it.1);
        assert_eq!(chosen("linux/arm64").unwrap(), Blob::of(b"arm64"));
        let err = chosen("linux/riscv64").unwrap_err();
        assert_eq!(err.kind(), ErrorKind::NotFound);
        assert_eq!(err.hint(), Some("it has linux/amd64, linux/arm64, unknown/unknown"));
        let only = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, descriptor(OCI, "x"));
        let only = Index::parse(only.as_bytes(), &OCI_INDEX.into()).unwrap();
        assert_eq!(only.choose(&Platform::host()).unwrap().1, Blob::of(b"x"));
        assert_eq!(Links::of(&json::object(text.as_bytes()).unwrap()).unwrap().documents.len(), 3);
    }
}
