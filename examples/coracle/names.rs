//! `tag` and `rmi`: giving images names and taking them away.

use coracle::image::{Digest, Filter, Image, Reference, Removed, Store, Tree};

use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::retired::{Retired, retired};
use crate::root::Root;

/// Give an image another name
///
/// The name may be another image's until now, which keeps its other names.
#[derive(clap::Args)]
pub struct TagArgs {
    #[arg(short, long, hide = true, num_args = 0..=1, default_missing_value = "", require_equals = true, value_parser = retired("a name that another image has is given to this one anyway"))]
    force: Option<Retired>,
    /// The image, by name, id or digest
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    source: String,
    /// The new name; without a tag `latest`
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    target: String,
}

impl TagArgs {
    pub fn run(self, root: &Root) -> Result<()> {
        root.engine()?.store().tag(&self.source, &self.target)?;
        Ok(())
    }
}

/// Remove images
///
/// Takes the name away; with its last name the image goes, and the layers that no other image has. Images without a
/// name that it was built upon go too, if nothing else is built upon them.
#[derive(clap::Args)]
pub struct RemoveArgs {
    /// Images, by name, id or digest
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Remove what is in use, and by its id what has several names; do not fail if an image is missing
    #[arg(short, long)]
    force: bool,
    /// Keep the images without a name that it was built upon
    #[arg(long)]
    no_prune: bool,
}

impl RemoveArgs {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        let engine = root.engine()?;
        let store = engine.store();
        let mut failed = false;
        for name in &self.images {
            if let Err(failure) = self.remove(store, name, out) {
                out.flush()?;
                failure.print();
                failed |= !(self.force && failure.is_not_found());
            }
        }
        store.collect_garbage()?;
        if failed { Err(Failure::told()) } else { Ok(()) }
    }

    fn remove(&self, store: &Store, name: &str, out: &mut Output) -> Result<()> {
        // What is damaged can be removed, too.
        let image = store.image(name).ok();
        let below = match (&image, self.no_prune) {
            (Some(image), false) => ancestors(store, image)?,
            _ => Vec::new(),
        };
        let removed = if self.force { store.remove_forced(name) } else { store.remove(name) }?;
        let gone = removed.image.is_some();
        print(&removed, image.map(|image| image.id()), "Untagged", "Deleted", out)?;
        for parent in below.into_iter().take_while(|_| gone) {
            // Whoever uses it keeps it, as another image built upon it does.
            if !leaf(store, &parent)? {
                break;
            }
            let Ok(removed) = store.remove(&parent.digest().to_string()) else { break };
            print(&removed, Some(parent.id()), "Untagged", "Deleted", out)?;
        }
        Ok(())
    }
}

/// Tells what has been removed, of an image of this id if it could be read.
pub fn print(
    removed: &Removed,
    id: Option<Digest>,
    untagged: &str,
    deleted: &str,
    out: &mut Output,
) -> Result<()> {
    for name in removed.references.iter().map(Reference::familiar) {
        out.line(&format!("{untagged}: {name}"))?;
    }
    match removed.image {
        Some(digest) => out.line(&format!("{deleted}: {}", id.unwrap_or(digest))),
        None => Ok(()),
    }
}

/// The images without a name that an image is built upon, the nearest first, up to one with a name.
fn ancestors(store: &Store, image: &Image) -> Result<Vec<Image>> {
    fn path<'a>(trees: &'a [Tree], image: &Image) -> Option<Vec<&'a Image>> {
        trees.iter().find_map(|tree| {
            if tree.image == *image {
                return Some(Vec::new());
            }
            let mut path = path(&tree.children, image)?;
            path.push(&tree.image);
            Some(path)
        })
    }
    let trees = Tree::of(&store.list(&Filter::new())?.images);
    let above = path(&trees, image).unwrap_or_default().into_iter();
    Ok(above.take_while(|it| it.references().is_empty()).cloned().collect())
}

/// Whether no image is built upon this one.
fn leaf(store: &Store, image: &Image) -> Result<bool> {
    let images = store.list(&Filter::new())?.images;
    let upon = |other: &Image| other != image && other.diff_ids().starts_with(image.diff_ids());
    Ok(!images.iter().any(upon))
}
