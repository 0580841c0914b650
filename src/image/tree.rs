//! Images upon images.

use super::image::Image;

/// An image, with those that were made by adding layers to it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tree {
    /// The image.
    pub image: Image,
    /// Those that begin with its layers, and with those of none of the others below it.
    pub children: Vec<Tree>,
}

impl Tree {
    /// Sorts images by the layers that they share: the parent of an image is the one with the most of its layers,
    /// and no others. Of images with the same layers, the one with the shorter history is the parent.
    pub fn of(images: &[Image]) -> Vec<Self> {
        let steps = |image: &Image| image.config().spec().history().as_ref().map_or(0, Vec::len);
        let mut sorted: Vec<_> = images.iter().collect();
        sorted.sort_by_cached_key(|it| (it.diff_ids().len(), steps(it), it.created(), it.digest()));
        let parent = |at: usize| {
            let layers = sorted[at].diff_ids();
            let is_parent = |other: &&Image| {
                !other.diff_ids().is_empty() && layers.starts_with(other.diff_ids())
            };
            sorted[..at].iter().rposition(is_parent)
        };
        let parents: Vec<_> = (0..sorted.len()).map(parent).collect();
        let mut trees: Vec<_> = sorted
            .into_iter()
            .map(|image| Some(Self { image: image.clone(), children: Vec::new() }))
            .collect();
        let mut roots = Vec::new();
        // Children come after their parents in the list.
        for at in (0..trees.len()).rev() {
            let Some(tree) = trees[at].take() else { continue };
            match parents[at].and_then(|parent| trees[parent].as_mut()) {
                Some(parent) => parent.children.insert(0, tree),
                None => roots.insert(0, tree),
            }
        }
        roots
    }
}
