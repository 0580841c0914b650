//! `index.json`: the images of a store and their names.

use std::collections::BTreeMap;
use std::fs;

use oci_spec::image::Descriptor;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::files;
use super::json::{self, Object, malformed};
use super::manifest::Blob;
use super::reference::Reference;
use super::store::Store;
use crate::error::{Context, Error, ErrorKind, Result};

/// Holds the canonical name.
const NAME: &str = "org.opencontainers.image.ref.name";
/// Enough for 200,000 images.
const MAX_INDEX: u64 = 64 << 20;

const INDEX: &str = "index.json";
/// Where the next one is written.
pub(super) const ASIDE: &str = "index.json.new";
/// What `index.json` was before the last change.
pub(super) const PREVIOUS: &str = "index.json.previous";

/// The images of a store.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// Fields beside the list, as another tool may have written them.
    fields: BTreeMap<String, Box<RawValue>>,
    pub(super) entries: Vec<Entry>,
}

/// One name of an image, or an image without one.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// As it stands in the file: of a thousand entries a change leaves all but one or two alone.
    raw: Box<RawValue>,
    pub(super) descriptor: Descriptor,
    pub(super) blob: Blob,
    pub(super) reference: Option<Reference>,
}

impl Entry {
    pub(super) fn new(descriptor: &Descriptor, reference: Option<&Reference>) -> Result<Self> {
        let value = serde_json::to_value(descriptor).map_err(|err| malformed(err.to_string()))?;
        let Value::Object(mut raw) = value else {
            return Err(malformed("a descriptor is no object"));
        };
        let annotations = raw.entry("annotations").or_insert_with(|| Object::new().into());
        if let Value::Object(annotations) = annotations {
            annotations.remove(NAME);
            if let Some(reference) = reference {
                annotations.insert(NAME.to_owned(), reference.to_string().into());
            }
            if annotations.is_empty() {
                raw.remove("annotations");
            }
        }
        Self::parse(&to_raw_value(&raw).map_err(|err| malformed(err.to_string()))?)
    }

    fn parse(raw: &RawValue) -> Result<Self> {
        // Most can be read as they stand; what another tool wrote may hold a `null` or name a field twice.
        let descriptor = match serde_json::from_str(raw.get()) {
            Ok(descriptor) => descriptor,
            Err(_) => json::typed(&json::own_object(raw.get().as_bytes())?, &[])?,
        };
        let blob = Blob::try_from(&descriptor)?;
        let name = descriptor.annotations().as_ref().and_then(|all| all.get(NAME));
        // Another tool may use it for what is no name.
        let reference = name.and_then(|name| name.parse().ok());
        Ok(Self { raw: raw.to_owned(), descriptor, blob, reference })
    }
}

impl Index {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let wrong = |err: serde_json::Error| malformed(format!("it is no JSON object: {err}"));
        let mut raw: BTreeMap<String, &RawValue> = serde_json::from_slice(bytes).map_err(wrong)?;
        let list = raw.remove("manifests").map_or("", RawValue::get);
        let Ok(entries) = serde_json::from_str::<Option<Vec<&RawValue>>>(list) else {
            return Err(malformed("it has no list of manifests"));
        };
        let entry =
            |(number, raw)| Entry::parse(raw).context(|| format!("read its entry {}", number + 1));
        let entries = entries.unwrap_or_default().into_iter().enumerate().map(entry);
        let fields = raw.into_iter().map(|(name, field)| (name, field.to_owned())).collect();
        Ok(Self { fields, entries: entries.collect::<Result<_>>()? })
    }

    fn to_bytes(&self) -> Result<Vec<u8>> {
        let wrong = |err: serde_json::Error| malformed(err.to_string());
        let mut fields = self.fields.clone();
        let mut add = |name: &str, value: Box<RawValue>| {
            fields.entry(name.to_owned()).or_insert(value);
        };
        add("schemaVersion", to_raw_value(&2).map_err(wrong)?);
        let media_type = "application/vnd.oci.image.index.v1+json";
        add("mediaType", to_raw_value(media_type).map_err(wrong)?);
        let entries: Vec<_> = self.entries.iter().map(|entry| &entry.raw).collect();
        add("manifests", to_raw_value(&entries).map_err(wrong)?);
        serde_json::to_vec(&fields).map_err(wrong)
    }

    /// Gives an image the name, or keeps it without one. The image that had the name stays, without it if need be.
    pub(super) fn set(&mut self, descriptor: &Descriptor, name: Option<&Reference>) -> Result<()> {
        let new = Entry::new(descriptor, name)?;
        let same = |entry: &Entry| entry.blob.digest == new.blob.digest;
        if name.is_none() && self.entries.iter().any(same) {
            return Ok(());
        }
        if let Some(at) = name.and_then(|name| self.position(name)) {
            if same(&self.entries[at]) {
                return Ok(());
            }
            let old = self.entries.remove(at);
            if !self.entries.iter().any(|entry| entry.blob.digest == old.blob.digest) {
                self.entries.push(Entry::new(&old.descriptor, None)?);
            }
        }
        self.entries.retain(|entry| !same(entry) || entry.reference.is_some());
        self.entries.push(new);
        Ok(())
    }

    /// The entry that bears exactly this name.
    pub(super) fn position(&self, name: &Reference) -> Option<usize> {
        self.entries.iter().position(|entry| entry.reference.as_ref() == Some(name))
    }

    /// The entry that is meant: with a digest, one of the repository that has it.
    pub(super) fn find(&self, name: &Reference) -> Option<&Entry> {
        let named = self.position(name).map(|at| &self.entries[at]);
        named.or_else(|| {
            let digest = name.digest()?;
            self.entries.iter().find(|entry| {
                let own = entry.reference.as_ref().map(Reference::name);
                entry.blob.digest == digest && own.is_some_and(|own| own == name.name())
            })
        })
    }
}

impl Store {
    /// The images as they are now. What is read stays as it was, whatever others do.
    pub(super) fn index(&self) -> Result<Index> {
        self.index_file().map(|(index, _)| index)
    }

    fn index_file(&self) -> Result<(Index, Vec<u8>)> {
        let path = self.path().join(INDEX);
        let read = files::read(&path, MAX_INDEX).and_then(|bytes| {
            let index = Index::parse(&bytes).context(|| format!("read {}", path.display()))?;
            Ok((index, bytes))
        });
        read.map_err(|err| match err.kind() {
            ErrorKind::Malformed | ErrorKind::NotFound => {
                err.with_kind(ErrorKind::Malformed).with_hint(
                    "the list of images is damaged; nothing has been removed. `repair` keeps the file and makes a new one of the images that are whole",
                )
            }
            _ => err,
        })
    }

    /// Changes the images under the exclusive lock: all of the change happens, and lasts, or nothing.
    pub(super) fn change_index<T>(
        &self,
        change: impl FnOnce(&mut Index) -> Result<T>,
    ) -> Result<T> {
        let _lock = self.locked()?;
        let (mut index, before) = self.index_file()?;
        let answer = change(&mut index)?;
        let after = index.to_bytes()?;
        if before == after {
            return Ok(answer);
        }
        match self.write_index(&after) {
            // Whoever removes an image wants to make room: that must not need room.
            Err(err)
                if err.kind() == ErrorKind::ResourceExhausted
                    && after.len() <= before.len()
                    && self.spend_reserve() =>
            {
                self.write_index(&after)?;
            }
            written => written?,
        }
        self.keep_reserve(after.len() as u64);
        Ok(answer)
    }

    /// For holders of the exclusive lock.
    fn write_index(&self, bytes: &[u8]) -> Result<()> {
        let (path, previous) = (self.path().join(INDEX), self.path().join(PREVIOUS));
        let keep = || {
            // For `repair` only: nothing depends on it.
            let _ = fs::remove_file(&previous);
            let _ = fs::hard_link(&path, &previous);
        };
        files::replace_after(&path, &self.path().join(ASIDE), bytes, keep)?;
        files::sync_dir(self.path())
    }

    /// Replaces a damaged index, which is kept under another name, for holders of the exclusive lock.
    pub(super) fn replace_index(&self, index: &Index) -> Result<Option<String>> {
        let path = self.path().join(INDEX);
        let mut kept = None;
        if path.symlink_metadata().is_ok() {
            let free =
                |number: &u32| !self.path().join(format!("index.json.damaged-{number}")).exists();
            let number = (1..1000).find(free).ok_or_else(|| {
                let message = "there are a thousand damaged indexes already";
                Error::new(ErrorKind::ResourceExhausted, message)
            })?;
            let name = format!("index.json.damaged-{number}");
            let copied = fs::hard_link(&path, self.path().join(&name));
            copied.map_err(files::no_space).context(|| "keep the damaged index.json")?;
            kept = Some(name);
        }
        // The previous one stays: it may be needed again if this process is killed here.
        files::replace(&path, &self.path().join(ASIDE), &index.to_bytes()?)?;
        files::sync_dir(self.path())?;
        Ok(kept)
    }

    /// Writes the index of a store without images, unless there is one.
    pub(super) fn found_index(&self) -> Result<()> {
        if self.path().join(INDEX).symlink_metadata().is_ok() {
            return Ok(());
        }
        let bytes = Index::default().to_bytes()?;
        self.write_index(&bytes)?;
        self.keep_reserve(bytes.len() as u64);
        Ok(())
    }
}

#[cfg(any(fuzzing, test))]
pub(super) fn reads_what_it_writes(bytes: &[u8]) {
    let Ok(index) = Index::parse(bytes) else { return };
    let written = index.to_bytes().expect("what was JSON is JSON");
    let read = Index::parse(&written).expect("an index that was accepted");
    assert_eq!(read.to_bytes().expect("the same"), written);
    assert_eq!(read.entries.len(), index.entries.len());
}
