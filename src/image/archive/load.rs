//! Archives of images, as `save` of any tool writes them, into the store.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::thread;

use oci_spec::image::{Descriptor, ImageManifestBuilder, MediaType};
use serde::Deserialize;

use super::bundle::{Bundle, blob_name};
use super::entries::inner_path;
use crate::GIB;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::config::Config;
use crate::image::content::{Examiners, check_diff_id};
use crate::image::digest::Digest;
use crate::image::early::Unpacker;
use crate::image::image::Image;
use crate::image::index;
use crate::image::json::{self, malformed};
use crate::image::layer::layer_type;
use crate::image::lease::Work;
use crate::image::manifest::{Blob, DocumentKind, Index, Links, Manifest};
use crate::image::reference::Reference;
use crate::image::store::Store;
use crate::layers::Compression;

/// Holds the whole name, where `org.opencontainers.image.ref.name` may be a tag alone.
pub(super) const CONTAINERD_NAME: &str = "io.containerd.image.name";
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The list of images in an archive of Docker's.
pub(super) const DOCKER_LIST: &str = "manifest.json";
pub(super) const OCI_INDEX: &str = "index.json";
pub(super) const OCI_LAYOUT: &str = "oci-layout";

/// An image that [`Store::load`] found in an archive.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Loaded {
    /// The image, now in the store.
    pub image: Image,
    /// The names that the archive gave it; it may have had others before.
    pub references: Vec<Reference>,
}

/// Reads archives of images into a store; [`Store::load`] is the short form.
#[derive(Clone, Debug)]
pub struct Load<'a> {
    store: &'a Store,
    layer_bytes: u64,
    unpack: bool,
}

/// The names of an image, under its descriptor in the order of the archive.
type Images = Vec<(Descriptor, Vec<Reference>)>;

impl Store {
    /// Reads an archive of images: of `docker save`, old or new, or an OCI layout as podman, buildah and skopeo write it;
    /// as a whole it may be compressed with gzip or zstd. The images get the names that they have there, and are
    /// what they were: blobs are kept as they come.
    ///
    /// The stream is read once, from front to back, and to its end. No image shows before all of the archive is read,
    /// and every layer is what its configuration says; threads of their own check and [unpack](Load::unpack) the
    /// layers while the stream goes on.
    ///
    /// # Errors
    ///
    /// `Malformed` if anything in the archive is not what it should be, with its name; `ResourceExhausted` if
    /// the disk is full. The store is as it was.
    ///
    /// ```no_run
    /// # fn main() -> coracle::Result<()> {
    /// let store = coracle::image::Store::open("images")?;
    /// for loaded in store.load(std::io::stdin())? {
    ///     println!("{} {:?}", loaded.image.id(), loaded.references);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn load(&self, archive: impl Read) -> Result<Vec<Loaded>> {
        Load::new(self).read(archive)
    }
}

impl<'a> Load<'a> {
    /// Loads into `store`.
    pub fn new(store: &'a Store) -> Self {
        Self { store, layer_bytes: 256 * GIB, unpack: true }
    }

    /// How many bytes each layer may have after decompression; 256 GiB if it is not said.
    #[must_use]
    pub fn layer_bytes(mut self, bytes: u64) -> Self {
        self.layer_bytes = bytes;
        self
    }

    /// Whether the layers of the host's platform are unpacked while the archive is read, which takes little longer than
    /// reading it; that is the default. If not, or where it fails, [`Image::rootfs`] unpacks them.
    #[must_use]
    pub fn unpack(mut self, unpack: bool) -> Self {
        self.unpack = unpack;
        self
    }

    /// Reads an archive.
    ///
    /// # Errors
    ///
    /// As of [`Store::load`].
    pub fn read(&self, archive: impl Read) -> Result<Vec<Loaded>> {
        // Whoever makes a root filesystem is told why layers cannot be unpacked.
        let early = self.unpack.then(|| Unpacker::new(self.store).ok()).flatten();
        let examiners = Examiners::new(self.layer_bytes, early);
        let loaded = thread::scope(|scope| {
            let archive = Compression::detect(archive).context(|| "decompress it")?;
            let work = self.store.work()?;
            let mut bundle = Bundle::new(work.clone(), self.layer_bytes);
            bundle.read(archive, scope, &examiners)?;
            let mut finding = Finding { bundle, by_config: HashMap::new(), needed: Vec::new() };
            let images = finding.images()?;
            finding.commit(&work, images, examiners.early())
        });
        loaded.context(|| "load an archive of images")
    }
}

/// An image of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Finds the images in an archive that has been read.
struct Finding<'s> {
    bundle: Bundle<'s>,
    /// The image that has a configuration.
    by_config: HashMap<Digest, Descriptor>,
    /// What the images need, by its name in the archive or as the manifests that are made here.
    needed: Vec<Needed>,
}

enum Needed {
    File(String),
    Made(Vec<u8>),
}

impl Finding<'_> {
    fn images(&mut self) -> Result<Images> {
        let oci = self.bundle.has(OCI_INDEX) && self.bundle.has(OCI_LAYOUT);
        let docker = self.bundle.has(DOCKER_LIST);
        let mut images = Images::new();
        if oci {
            images.extend(self.oci_images().context(|| format!("read {OCI_INDEX}"))?);
        }
        if docker {
            images.extend(self.docker_images().context(|| format!("read {DOCKER_LIST}"))?);
        }
        if !oci && !docker {
            let message = format!("it has neither {DOCKER_LIST} nor {OCI_INDEX} with {OCI_LAYOUT}");
            return Err(malformed(message).with_hint(
                "it may be the archive of a root file system, which `import` reads; or of a docker before 1.10",
            ));
        }
        Ok(images)
    }

    fn oci_images(&mut self) -> Result<Images> {
        let layout = json::object(&self.bundle.document(OCI_LAYOUT)?)
            .context(|| format!("read {OCI_LAYOUT}"))?;
        match layout.get("imageLayoutVersion").and_then(|version| version.as_str()) {
            Some("1.0.0") => {}
            other => {
                return Err(Error::unsupported(format!("the layout has the version {other:?}")));
            }
        }
        let index = index::Index::parse(&self.bundle.document(OCI_INDEX)?)?;
        let mut images = Images::new();
        for entry in index.entries {
            let name = name_of(&entry.descriptor, entry.reference)?;
            if let Some(digest) = name.as_ref().and_then(Reference::digest)
                && digest != entry.blob.digest
            {
                return Err(malformed(format!("it names {} by another digest", entry.blob.digest)));
            }
            let mut root = entry.blob.descriptor(entry.descriptor.media_type().clone());
            root.set_platform(entry.descriptor.platform().clone());
            self.oci_image(&root, entry.blob)?;
            images.push((root, name.into_iter().collect()));
        }
        Ok(images)
    }

    /// Checks an image of OCI's layout, for one or several platforms.
    fn oci_image(&mut self, root: &Descriptor, blob: Blob) -> Result<()> {
        if DocumentKind::of(root.media_type()) != Some(DocumentKind::Index) {
            return self.oci_manifest(root, root, blob);
        }
        let attempt = || format!("read the index {}", blob.digest);
        self.bundle.check_blob(blob).context(attempt)?;
        let bytes = self.bundle.document(&blob_name(blob.digest)).context(attempt)?;
        let mut found = 0;
        for (descriptor, child) in
            Index::parse(&bytes, root.media_type()).context(attempt)?.manifests
        {
            // Of several platforms, not all need be saved.
            if self.bundle.has(&blob_name(child.digest)) {
                match self.oci_manifest(root, &descriptor, child) {
                    Ok(()) => found += 1,
                    // An attestation beside the images is none.
                    Err(err) if err.kind() == ErrorKind::Unsupported => self.oci_other(child)?,
                    Err(err) => return Err(err).context(attempt),
                }
            }
        }
        if found == 0 {
            return Err(malformed("none of its images is in the archive")).context(attempt);
        }
        self.needed.push(Needed::File(blob_name(blob.digest)));
        Ok(())
    }

    fn oci_manifest(
        &mut self,
        root: &Descriptor,
        descriptor: &Descriptor,
        blob: Blob,
    ) -> Result<()> {
        let attempt = || format!("read the manifest {}", blob.digest);
        self.bundle.check_blob(blob).context(attempt)?;
        let name = blob_name(blob.digest);
        let bytes = self.bundle.document(&name).context(attempt)?;
        let manifest = Manifest::parse(&bytes, descriptor.media_type()).context(attempt)?;
        let config = manifest.config();
        self.bundle.check_blob(config).context(attempt)?;
        let config_name = blob_name(config.digest);
        let layers: Vec<_> =
            manifest.layers().iter().map(|layer| blob_name(layer.digest)).collect();
        let mut needed = Vec::new();
        for (number, (layer, name)) in manifest.layers().iter().zip(&layers).enumerate() {
            if !manifest.may_lack(number) || self.bundle.has(name) {
                self.bundle.check_blob(*layer).context(attempt)?;
                needed.push(number);
            }
        }
        self.check_layers(&config_name, &layers, |number| needed.contains(&number))
            .context(attempt)?;
        self.needed.extend(needed.into_iter().map(|number| Needed::File(layers[number].clone())));
        self.needed.extend([config_name, name].map(Needed::File));
        self.by_config.insert(config.digest, root.clone());
        Ok(())
    }

    /// What lies beside the images of an index.
    fn oci_other(&mut self, blob: Blob) -> Result<()> {
        let name = blob_name(blob.digest);
        let links = Links::of(&json::object(&self.bundle.document(&name)?)?)?;
        for (_, blob) in links.blobs {
            if self.bundle.has(&blob_name(blob.digest)) {
                self.bundle.check_blob(blob)?;
                self.needed.push(Needed::File(blob_name(blob.digest)));
            }
        }
        self.needed.push(Needed::File(name));
        Ok(())
    }

    /// Checks that layers are what a configuration says.
    fn check_layers(
        &mut self,
        config: &str,
        layers: &[String],
        is_here: impl Fn(usize) -> bool,
    ) -> Result<()> {
        let attempt = || format!("read the configuration {config}");
        let parsed = Config::parse(&self.bundle.document(config)?).context(attempt)?;
        let diff_ids = parsed.diff_ids();
        if layers.len() != diff_ids.len() {
            let (layers, ids) = (layers.len(), diff_ids.len());
            return Err(malformed(format!(
                "the image has {layers} layers, but its configuration {config} names {ids}"
            )));
        }
        for (number, (layer, id)) in layers.iter().zip(diff_ids).enumerate() {
            if is_here(number) {
                let content = self.bundle.content(layer)?;
                check_diff_id(&format!("the layer {layer}"), content.digest, id.0)?;
            }
        }
        Ok(())
    }

    fn docker_images(&mut self) -> Result<Images> {
        let bytes = self.bundle.document(DOCKER_LIST)?;
        let list: Vec<DockerImage> = serde_json::from_slice(&bytes)
            .map_err(|err| malformed(format!("it is no list of images: {err}")))?;
        let mut images = Images::new();
        for image in list {
            let names = image.repo_tags.iter().flatten().map(|name| name.parse::<Reference>());
            let names = names.collect::<Result<Vec<_>>>()?;
            if let Some(name) = names.iter().find(|name| name.digest().is_some()) {
                return Err(malformed(format!("the name {name} has a digest")));
            }
            let attempt = || format!("read the image {}", image.config);
            let descriptor = self.docker_image(&image).context(attempt)?;
            images.push((descriptor, names));
        }
        Ok(images)
    }

    fn docker_image(&mut self, image: &DockerImage) -> Result<Descriptor> {
        let config = inner_path("", &image.config)?;
        let blob = self.bundle.blob(&config)?;
        if let Some(descriptor) = self.by_config.get(&blob.digest) {
            return Ok(descriptor.clone());
        }
        let stem = config.rsplit('/').next().unwrap_or_default();
        let named = Digest::from_hex(stem.strip_suffix(".json").unwrap_or(stem).as_bytes());
        if named.is_some_and(|named| named != blob.digest) {
            let found = blob.digest;
            return Err(malformed(format!(
                "{config} is damaged: its content has the digest {found}"
            )));
        }
        let layers = image.layers.iter().flatten().map(|layer| inner_path("", layer));
        let layers = layers.collect::<Result<Vec<_>>>()?;
        self.check_layers(&config, &layers, |_| true)?;
        let mut descriptors = Vec::new();
        for layer in &layers {
            let media_type = layer_type(self.bundle.content(layer)?.compression);
            descriptors.push(self.bundle.blob(layer)?.descriptor(media_type));
        }
        let manifest = ImageManifestBuilder::default()
            .schema_version(2_u32)
            .media_type(MediaType::ImageManifest)
            .config(blob.descriptor(MediaType::ImageConfig))
            .layers(descriptors)
            .build()
            .map_err(|err| malformed(err.to_string()))?;
        let bytes = serde_json::to_vec(&manifest).map_err(|err| malformed(err.to_string()))?;
        let descriptor = Blob::of(&bytes).descriptor(MediaType::ImageManifest);
        self.needed.extend(layers.into_iter().map(Needed::File));
        self.needed.extend([Needed::File(config), Needed::Made(bytes)]);
        self.by_config.insert(blob.digest, descriptor.clone());
        Ok(descriptor)
    }

    /// Puts all that is needed into the store, and names the images.
    fn commit(
        mut self,
        work: &Work,
        images: Images,
        early: Option<&Unpacker>,
    ) -> Result<Vec<Loaded>> {
        let mut names = BTreeMap::new();
        for (descriptor, references) in &images {
            for name in references {
                let other = names.insert(name.clone(), descriptor.digest().clone());
                if other.is_some_and(|other| other != *descriptor.digest()) {
                    return Err(malformed(format!("several images have the name {name}")));
                }
            }
        }
        for needed in std::mem::take(&mut self.needed) {
            match needed {
                Needed::File(name) => self.bundle.commit(&name)?,
                Needed::Made(bytes) => drop(work.ingest(&bytes[..], None)?),
            }
        }
        let mut loaded: Vec<Loaded> = Vec::new();
        for (descriptor, references) in images {
            let mut image = match references.is_empty() {
                true => Some(work.set_image(None, &descriptor)?),
                false => None,
            };
            for name in &references {
                image = Some(work.set_image(Some(name), &descriptor)?);
            }
            let Some(image) = image else { continue };
            match loaded.iter_mut().find(|other| other.image.digest() == image.digest()) {
                None => loaded.push(Loaded { image, references }),
                Some(other) => {
                    other.image = image;
                    other.references.extend(references);
                }
            }
        }
        for loaded in &mut loaded {
            loaded.references.sort();
            loaded.references.dedup();
            work.store().tell("load", &loaded.image);
        }
        if let Some(unpacker) = early.filter(|unpacker| !unpacker.has_given_up()) {
            let mut early = self.bundle.into_early();
            for loaded in &loaded {
                // The images are there, and what is not unpacked now will be when it is needed.
                let _ =
                    loaded.image.unpack_or_take(work, unpacker.layers(), |blob| early.remove(blob));
            }
        }
        Ok(loaded)
    }
}

/// The name that an index gives an image. Containerd's annotation spells out what OCI's may shorten to a tag; where
/// the two disagree it was left behind by a tool that knows only OCI's.
fn name_of(descriptor: &Descriptor, own: Option<Reference>) -> Result<Option<Reference>> {
    let annotations = descriptor.annotations().as_ref();
    let get = |name| annotations.and_then(|all| all.get(name)).map(String::as_str);
    let Some(long) = get(CONTAINERD_NAME) else { return Ok(own) };
    let long: Reference = long.parse()?;
    match get(REF_NAME) {
        Some(short) if own.as_ref() != Some(&long) && long.tag() != Some(short) => Ok(own),
        _ => Ok(Some(long)),
    }
}
