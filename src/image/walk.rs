//! The way through documents that name documents.

use std::collections::HashSet;

use oci_spec::image::Descriptor;

use super::digest::Digest;
use super::manifest::Blob;

/// Leads to a document and all that it names: each is entered once, and left after those that it names. With a list
/// instead of recursion, since whoever made an index says how deep others lie in it.
#[derive(Debug)]
pub(crate) struct Walk<T> {
    /// The documents on the way to where it is, each with those that it names and that are still to come, the next one last.
    open: Vec<(T, Vec<(Descriptor, Blob)>)>,
    root: Option<(Descriptor, Blob)>,
    seen: HashSet<Digest>,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one at a time is looked at, and none kept")]
pub(crate) enum Step<T> {
    /// The next document; it is passed over unless [`Walk::enter`] is called.
    Enter(Descriptor, Blob),
    /// All that it names has been left.
    Leave(T),
}

impl<T> Walk<T> {
    pub(crate) fn new(root: Descriptor, blob: Blob) -> Self {
        Self { open: Vec::new(), root: Some((root, blob)), seen: HashSet::new() }
    }

    /// Goes into the document that was stepped to.
    pub(crate) fn enter(&mut self, document: T, mut named: Vec<(Descriptor, Blob)>) {
        named.reverse();
        self.open.push((document, named));
    }

    pub(crate) fn step(&mut self) -> Option<Step<T>> {
        loop {
            let next = match self.open.last_mut() {
                None => Some(self.root.take()?),
                Some((_, named)) => named.pop(),
            };
            match next {
                Some((descriptor, blob)) if self.seen.insert(blob.digest) => {
                    return Some(Step::Enter(descriptor, blob));
                }
                Some(_) => {}
                None => return self.open.pop().map(|(document, _)| Step::Leave(document)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::manifest::DocumentKind;

    fn named(name: usize) -> (Descriptor, Blob) {
        let blob = Blob::of(name.to_string().as_bytes());
        (blob.descriptor(DocumentKind::Index.media_type().into()), blob)
    }

    /// The order in which documents are left, of which each names those that `names` says.
    fn left(names: impl Fn(usize) -> Vec<usize>, all: usize) -> Vec<usize> {
        let (root, blob) = named(0);
        let (mut walk, mut left) = (Walk::new(root, blob), Vec::new());
        while let Some(step) = walk.step() {
            match step {
                Step::Enter(_, blob) => {
                    let document = (0..all).find(|name| named(*name).1 == blob).unwrap();
                    walk.enter(document, names(document).into_iter().map(named).collect());
                }
                Step::Leave(document) => left.push(document),
            }
        }
        left
    }

    #[test]
    fn each_document_comes_once_and_after_those_that_it_names() {
        let names = [vec![1, 2, 1], vec![3], vec![3, 1, 4], vec![], vec![]];
        assert_eq!(left(|name| names[name].clone(), 5), [3, 1, 4, 2, 0]);
    }
}
