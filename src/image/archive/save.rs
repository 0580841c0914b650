//! Images out of the store, as one archive that every tool loads.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};

use oci_spec::image::Descriptor;
use serde_json::{Value, json};
use tar::{EntryType, Header};

use super::bundle::blob_name;
use super::load::{CONTAINERD_NAME, DOCKER_LIST, OCI_INDEX, OCI_LAYOUT, REF_NAME};
use crate::error::{Context, Error, Result};
use crate::image::content::{CHUNK, Content, check_diff_id, fill};
use crate::image::digest::{Digest, Hasher};
use crate::image::image::Image;
use crate::image::json::{self, malformed};
use crate::image::manifest::{Blob, DocumentKind, Links};
use crate::image::reference::Reference;
use crate::image::store::Store;
use crate::layers::Compression;

const BLOCK: u64 = 512;

impl Store {
    /// Writes images, each by a name or id, to one archive: an OCI image layout that has the list of `docker save` too.
    /// docker, podman, buildah, skopeo and umoci read it, and so does [`load`](Self::load), here or elsewhere.
    ///
    /// The stream is written from front to back, and the same images give the same bytes. Blobs are written once and
    /// as they are, so ids and digests stay; a layer that is compressed with zstd is there a second time, uncompressed, for
    /// the readers of Docker's list: docker 20.10 would not take it. What is given by a name gets that name alone,
    /// what is given by an id gets none. Of an image for several platforms, all that the store has are written.
    ///
    /// # Errors
    ///
    /// As of [`image`](Self::image); `Malformed` if a blob is damaged: the archive has no end then, and nobody loads
    /// it.
    ///
    /// ```no_run
    /// # fn main() -> coracle::Result<()> {
    /// let store = coracle::image::Store::open("images")?;
    /// let file = std::fs::File::create("app.tar").unwrap();
    /// store.save(["app:1", "debian:12"], &file)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn save<N: AsRef<str>>(
        &self,
        names: impl IntoIterator<Item = N>,
        writer: impl Write,
    ) -> Result<()> {
        let names: Vec<_> = names.into_iter().collect();
        let names: Vec<_> = names.iter().map(AsRef::as_ref).collect();
        let attempt = || format!("save {}", names.join(", "));
        if names.is_empty() {
            return Err(Error::invalid("save no image at all"));
        }
        let work = self.work().context(attempt)?;
        let mut plan = Plan::default();
        for name in &names {
            let image = self.image(name).context(attempt)?;
            work.hold(&image).context(attempt)?;
            plan.add(image, name).context(attempt)?;
        }
        plan.write(self, writer).context(attempt)?;
        plan.images.iter().for_each(|(image, _)| self.tell("save", image));
        Ok(())
    }
}

/// What an archive will consist of.
#[derive(Default)]
struct Plan {
    images: Vec<(Image, Vec<Reference>)>,
    blobs: BTreeMap<Digest, Source>,
    /// The layers of Docker's list that are not those of the manifest.
    instead: HashMap<Digest, Digest>,
}

/// Where the bytes of a blob come from.
#[derive(Clone, Copy)]
enum Source {
    Blob(u64),
    /// The decompressed content of another, so long.
    Content(Digest, u64),
}

impl Plan {
    fn add(&mut self, image: Image, name: &str) -> Result<()> {
        let own = |reference: &Reference| image.references().contains(reference);
        let name = name.parse::<Reference>().ok().filter(own);
        let known = self.images.iter_mut().find(|(other, _)| *other == image);
        if let Some((_, names)) = known {
            names.extend(name);
            names.sort();
            names.dedup();
            return Ok(());
        }
        let store = image.store();
        let root = Blob::try_from(image.descriptor())?;
        self.document(store, image.descriptor(), root)?;
        for (layer, id) in image.manifest().layers().iter().zip(image.diff_ids()) {
            if store.has(layer)? {
                let file = store.blob(&layer.digest)?;
                self.layer(file, *layer, id.0)
                    .context(|| format!("read the layer {}", layer.digest))?;
            }
        }
        self.images.push((image, name.into_iter().collect()));
        Ok(())
    }

    /// Takes a manifest or index with all that it leads to and that is here.
    fn document(&mut self, store: &Store, descriptor: &Descriptor, blob: Blob) -> Result<()> {
        let mut next = vec![(descriptor.clone(), blob)];
        while let Some((descriptor, blob)) = next.pop() {
            let seen = self.blobs.insert(blob.digest, Source::Blob(blob.size));
            if seen.is_some() || DocumentKind::of(descriptor.media_type()).is_none() {
                continue;
            }
            let links = Links::of(&json::object(&store.document(&blob)?)?)?;
            for (descriptor, blob) in links.documents {
                if store.has(&blob)? {
                    next.push((descriptor, blob));
                }
            }
            for (_, blob) in links.blobs {
                if store.has(&blob)? {
                    self.blobs.insert(blob.digest, Source::Blob(blob.size));
                }
            }
        }
        Ok(())
    }

    fn layer(&mut self, mut file: File, layer: Blob, diff_id: Digest) -> Result<()> {
        let mut start = [0; 4];
        let len = fill(&mut file, &mut start)?;
        if Compression::of_magic(&start[..len]) != Compression::Zstd
            || self.instead.contains_key(&layer.digest)
        {
            return Ok(());
        }
        // A header of tar has the length in front of the content.
        let content = Content::of((&start[..len]).chain(file), u64::MAX)?;
        check_diff_id("it", content.digest, diff_id)?;
        self.blobs.entry(diff_id).or_insert(Source::Content(layer.digest, content.size));
        self.instead.insert(layer.digest, diff_id);
        Ok(())
    }

    fn write(&self, store: &Store, writer: impl Write) -> Result<()> {
        let mut archive = Archive(writer);
        archive.document(OCI_LAYOUT, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.document(OCI_INDEX, &self.oci_index()?)?;
        archive.document(DOCKER_LIST, &self.docker_list(store)?)?;
        archive.directory("blobs/")?;
        archive.directory("blobs/sha256/")?;
        for (digest, source) in &self.blobs {
            let attempt = || format!("write the blob {digest}");
            match *source {
                Source::Blob(size) => {
                    let mut file = store.blob(digest).context(attempt)?;
                    archive.blob(Blob { digest: *digest, size }, &mut file).context(attempt)?;
                }
                Source::Content(of, size) => {
                    let file = store.blob(&of).context(attempt)?;
                    let mut content = Compression::detect(file).context(attempt)?;
                    archive.blob(Blob { digest: *digest, size }, &mut content).context(attempt)?;
                }
            }
        }
        archive.end()
    }

    fn oci_index(&self) -> Result<Vec<u8>> {
        let mut manifests = Vec::new();
        for (image, names) in &self.images {
            let descriptor = serde_json::to_value(image.descriptor());
            let mut descriptor = descriptor.map_err(|err| malformed(err.to_string()))?;
            if let Value::Object(fields) = &mut descriptor {
                fields.remove("annotations");
            }
            if names.is_empty() {
                manifests.push(descriptor.clone());
            }
            for name in names {
                let name = name.to_string();
                descriptor["annotations"] = json!({ REF_NAME: name, CONTAINERD_NAME: name });
                manifests.push(descriptor.clone());
            }
        }
        document(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests,
        }))
    }

    fn docker_list(&self, store: &Store) -> Result<Vec<u8>> {
        let mut list = Vec::new();
        for (image, names) in &self.images {
            let mut layers = Vec::new();
            for layer in image.manifest().layers() {
                // Docker has no word for a layer that must not be passed on.
                if store.has(layer)? {
                    layers
                        .push(blob_name(*self.instead.get(&layer.digest).unwrap_or(&layer.digest)));
                }
            }
            if layers.len() != image.diff_ids().len() {
                continue;
            }
            let tags = names.iter().filter(|name| name.tag().is_some() && name.digest().is_none());
            let tags: Vec<_> = tags.map(Reference::familiar).collect();
            let tags = if tags.is_empty() { Value::Null } else { tags.into() };
            let config = blob_name(image.id());
            list.push(json!({ "Config": config, "RepoTags": tags, "Layers": layers }));
        }
        document(&list.into())
    }
}

fn document(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|err| malformed(err.to_string()))
}

/// A tar stream of root's files from the beginning of time.
struct Archive<W>(W);

impl<W: Write> Archive<W> {
    fn header(&mut self, name: &str, kind: EntryType, mode: u32, size: u64) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_path(name).context(|| format!("name an entry {name}"))?;
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.put(header.as_bytes())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).context(|| "write the archive")
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let padding = usize::try_from(size.wrapping_neg() % BLOCK).unwrap_or(0);
        self.put(&[0; 512][..padding])
    }

    fn directory(&mut self, name: &str) -> Result<()> {
        self.header(name, EntryType::Directory, 0o755, 0)
    }

    fn document(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.header(name, EntryType::Regular, 0o644, bytes.len() as u64)?;
        self.put(bytes)?;
        self.pad(bytes.len() as u64)
    }

    /// What was damaged since it came into the store is found here, and not by who loads it.
    fn blob(&mut self, blob: Blob, content: &mut dyn Read) -> Result<()> {
        self.header(&blob_name(blob.digest), EntryType::Regular, 0o644, blob.size)?;
        let mut hasher = Hasher::default();
        let mut left = blob.size;
        let mut buffer = vec![0; CHUNK];
        while left > 0 {
            let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = fill(content, &mut buffer[..wanted])?;
            if read == 0 {
                return Err(malformed(format!("the blob is truncated: it lacks {left} bytes")));
            }
            hasher.update(&buffer[..read]);
            self.put(&buffer[..read])?;
            left -= read as u64;
        }
        let found = hasher.finish();
        if found != blob.digest {
            return Err(malformed(format!(
                "the blob is damaged: its content has the digest {found}"
            )));
        }
        self.pad(blob.size)
    }

    fn end(mut self) -> Result<()> {
        self.put(&[0; 1024])?;
        self.0.flush().context(|| "write the archive")
    }
}
