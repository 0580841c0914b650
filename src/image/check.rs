//! Whether unpacked layers are what their blobs hold.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::digest::{ChainId, Digest};
use super::image::{Image, Wanted};
use super::index::Entry;
use super::json::{self, malformed};
use super::lease::{Held, Work};
use super::listing::shown;
use super::manifest::{DocumentKind, Links};
use super::reference::Reference;
use super::store::Store;
use super::unpacked::{boot_id, is_whole, unpack_layer};
use super::verify::{Damage, Verified};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::layers::{Change, ChangeKind, LayerStore, Staging};

/// So many files are named of a layer in which many differ.
const NAMED: usize = 3;

/// Makes unpacked layers anew, one at a time, and compares.
///
/// What a layer is depends on those below: whiteouts are written for what is there, and some drivers keep whole trees.
/// So a second making of a damaged layer stands in for it as long as those above are checked.
struct LayerCheck<'a> {
    work: &'a Work,
    layers: LayerStore,
    boot: String,
    known: HashMap<ChainId, State>,
    /// Layers that have been compared.
    checked: u64,
    /// Layers that could not be, with the reason.
    unchecked: Vec<Error>,
}

enum State {
    Sound,
    Spoiled {
        made: Staging,
        damage: Damage,
        spoiled: Spoiled,
    },
    /// It is not there, but one above it is.
    Missing {
        made: Staging,
    },
    /// It could not be made anew.
    Unknown,
}

/// An unpacked layer that is not as its blob says.
pub(super) struct Spoiled {
    layers: LayerStore,
    chain: ChainId,
    inode: u64,
}

impl Spoiled {
    /// Takes the layer away, unless another has come in its place.
    pub(super) fn remove(&self) -> Result<bool> {
        let key = self.chain.0.hex();
        let is_it = || inode(&self.layers.path(&key)).is_ok_and(|inode| inode == self.inode);
        self.layers.remove_if(&key, || Ok(is_it()))
    }
}

impl<'a> LayerCheck<'a> {
    fn new(work: &'a Work, layers: LayerStore) -> Result<Self> {
        let (boot, known, unchecked) = (boot_id()?, HashMap::new(), Vec::new());
        Ok(Self { work, layers, boot, known, checked: 0, unchecked })
    }

    /// Checks the layers of an image that are unpacked. `is_damaged` says whether that is known of a blob: what it was
    /// unpacked to is not to be compared with it.
    fn image(
        &mut self,
        image: &Image,
        name: &str,
        is_damaged: impl Fn(usize) -> bool,
    ) -> Result<()> {
        let chains = image.chain_ids();
        let held: Vec<_> = chains.iter().copied().map(Held::Chain).collect();
        {
            let _lock = self.work.store().shared()?;
            self.work.record(&held)?;
        }
        let Some(last) = chains.iter().rposition(|chain| self.is_there(*chain)) else {
            return Ok(());
        };
        let mut below: Vec<String> = Vec::new();
        for (at, chain) in chains[..=last].iter().enumerate() {
            if !self.known.contains_key(chain) {
                let state = match is_damaged(at) {
                    true => State::Unknown,
                    false => self.layer(image, at, *chain, &below),
                };
                self.known.insert(*chain, state);
            }
            match self.known.get_mut(chain) {
                Some(State::Sound) => below.push(chain.0.hex()),
                Some(State::Spoiled { made, damage, .. }) => {
                    damage.images.push(name.to_owned());
                    below.push(made.name().to_owned());
                }
                Some(State::Missing { made }) => below.push(made.name().to_owned()),
                Some(State::Unknown) | None => return Ok(()),
            }
        }
        Ok(())
    }

    /// What is not will be unpacked anew before it is used.
    fn is_there(&self, chain: ChainId) -> bool {
        is_whole(&self.layers, &chain.0.hex(), &self.boot).unwrap_or(false)
    }

    fn layer(&mut self, image: &Image, at: usize, chain: ChainId, below: &[String]) -> State {
        let state = self.try_layer(image, at, chain, below);
        state.unwrap_or_else(|err| {
            // It may have been collected or repaired meanwhile.
            if self.is_there(chain) {
                let what = format!("check the unpacked layer {chain} of the image {}", image.id());
                self.unchecked.push(err.context(what));
            }
            State::Unknown
        })
    }

    fn try_layer(
        &mut self,
        image: &Image,
        at: usize,
        chain: ChainId,
        below: &[String],
    ) -> Result<State> {
        let key = chain.0.hex();
        let inode = inode(&self.layers.path(&key)).ok().filter(|_| self.is_there(chain));
        let below: Vec<_> = below.iter().map(String::as_str).collect();
        let made = self.layers.prepare_upon(&below)?;
        unpack_layer(image, at, &made)?;
        let Some(inode) = inode else { return Ok(State::Missing { made }) };
        let changes = self.layers.differs_from(&key, &made)?;
        self.checked += 1;
        if changes.is_empty() {
            return Ok(State::Sound);
        }
        let reason =
            malformed(format!("the unpacked layer {chain} is damaged: {}", told(&changes)));
        let damage = Damage { blob: None, layer: Some(chain), reason, images: Vec::new() };
        let spoiled = Spoiled { layers: self.layers.clone(), chain, inode };
        Ok(State::Spoiled { made, damage, spoiled })
    }

    /// What is damaged, in the order of the chain ids.
    fn spoiled(self) -> Vec<(Damage, Spoiled)> {
        let spoiled = self.known.into_values().filter_map(|state| match state {
            State::Spoiled { damage, spoiled, .. } => Some((damage, spoiled)),
            _ => None,
        });
        let mut spoiled: Vec<_> = spoiled.collect();
        spoiled.sort_by_key(|(damage, _)| damage.layer);
        spoiled
    }
}

impl Store {
    /// Adds the unpacked layers that are not what their blobs hold.
    pub(super) fn check_layers(
        &self,
        entries: &[(Entry, Vec<Reference>)],
        is_damaged: impl Fn(Digest) -> bool,
        verified: &mut Verified,
    ) -> Result<Vec<Spoiled>> {
        let mut all = Vec::new();
        let stores = self.layer_stores()?;
        if stores.is_empty() {
            return Ok(all);
        }
        let mut images = Vec::new();
        for (entry, names) in entries {
            images.extend(self.images_of(entry).into_iter().map(|it| (it, shown(entry, names))));
        }
        // What is left of images that were removed by force.
        for (pin, held) in self.pinned().unwrap_or_default() {
            for digest in held.into_iter().filter_map(Held::document) {
                if let Some((descriptor, _)) = self.guess(digest)? {
                    let kept = self.images_of(&Entry::new(&descriptor, None)?);
                    images.extend(kept.into_iter().map(|it| (it, format!("the pin {pin}"))));
                }
            }
        }
        let work = match self.work() {
            // What is on a full disk can be read all the same.
            Err(err) if err.kind() == ErrorKind::ResourceExhausted => {
                verified.unchecked.push(err.context("check the unpacked layers"));
                return Ok(all);
            }
            other => other?,
        };
        for layers in stores {
            let mut check = LayerCheck::new(&work, layers)?;
            for (image, name) in &images {
                let blobs = image.manifest().layers();
                let checked = check
                    .image(image, name, |at| blobs.get(at).is_none_or(|it| is_damaged(it.digest)));
                match checked {
                    Err(err) if err.kind() == ErrorKind::ResourceExhausted => {
                        let what = format!("check the unpacked layers of {name}");
                        check.unchecked.push(err.context(what));
                    }
                    other => other?,
                }
            }
            verified.layers += check.checked;
            verified.unchecked.append(&mut check.unchecked);
            let (damage, mut spoiled): (Vec<_>, Vec<_>) = check.spoiled().into_iter().unzip();
            verified.damage.extend(damage);
            all.append(&mut spoiled);
        }
        Ok(all)
    }

    /// The image, or those for each platform, as far as they can be read.
    pub(super) fn images_of(&self, entry: &Entry) -> Vec<Image> {
        let image = |of: &oci_spec::image::Descriptor| {
            Image::of_descriptor(self, of, &[], Wanted::Any).ok()
        };
        if DocumentKind::of(entry.descriptor.media_type()) != Some(DocumentKind::Index) {
            return image(&entry.descriptor).into_iter().collect();
        }
        let document = self.document(&entry.blob).and_then(|bytes| json::object(&bytes));
        let links = document.and_then(|document| Links::of(&document)).unwrap_or_default();
        links.documents.iter().filter_map(|(descriptor, _)| image(descriptor)).collect()
    }
}

/// Names files that differ. Directories only have, where something below them has.
fn told(changes: &[Change]) -> String {
    let mut own = changes.iter().enumerate().filter(|(at, change)| {
        let next = changes.get(at + 1);
        change.kind() != ChangeKind::Modified
            || !next.is_some_and(|next| next.path().starts_with(change.path()))
    });
    let mut told: Vec<_> = own.by_ref().take(NAMED).map(|(_, change)| sentence(change)).collect();
    match own.count() {
        0 => {}
        more => told.push(format!("and {more} more")),
    }
    told.join(", ")
}

fn sentence(change: &Change) -> String {
    let path = change.path().display();
    match change.kind() {
        ChangeKind::Added => format!("{path} has been added"),
        ChangeKind::Deleted => format!("{path} is missing"),
        ChangeKind::Modified => format!("{path} is not what it was"),
    }
}

fn inode(path: &Path) -> Result<u64> {
    let metadata = path.symlink_metadata().context(|| format!("look at {}", path.display()))?;
    Ok(metadata.ino())
}
