//! Where trees can differ that have most of their layers in common.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;

use super::access::Access;
use super::cursor::{Cursor, is_directory};
use crate::error::Result;

/// The paths that layers say something about, whatever it is. Takes memory for their names alone, at any depth.
#[derive(Debug)]
pub(super) struct Touched(Vec<Entry>);

/// One of the paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Node(usize);

#[derive(Debug, Default)]
struct Entry {
    names: BTreeMap<OsString, usize>,
    /// Whether all that is below may differ: a layer hides it.
    whole: bool,
}

impl Touched {
    /// The root directory.
    pub(super) const TOP: Node = Node(0);

    pub(super) fn new() -> Self {
        Self(vec![Entry::default()])
    }

    /// Adds what is in a layer of an overlay.
    pub(super) fn add(&mut self, layer: OwnedFd, access: Access<'_>) -> Result<()> {
        let mut cursor = Cursor::new(layer, access);
        let mut frames = vec![(Self::TOP.0, cursor.names()?)];
        while let Some((at, names)) = frames.last_mut() {
            let at = *at;
            let Some(name) = names.pop_first() else {
                frames.pop();
                if !frames.is_empty() {
                    cursor.ascend()?;
                }
                continue;
            };
            let below = self.entry(at, &name);
            let is_directory = cursor.stat(&name)?.is_some_and(|stat| is_directory(&stat));
            if is_directory && cursor.descend(&name)? {
                self.0[below].whole |= cursor.is_opaque()?;
                frames.push((below, cursor.names()?));
            } else {
                self.0[below].whole = true;
            }
        }
        Ok(())
    }

    fn entry(&mut self, at: usize, name: &OsStr) -> usize {
        if let Some(&known) = self.0[at].names.get(name) {
            return known;
        }
        let new = self.0.len();
        self.0.push(Entry::default());
        self.0[at].names.insert(name.to_owned(), new);
        new
    }

    /// What may differ in a directory.
    pub(super) fn names(&self, directory: Node) -> BTreeSet<OsString> {
        self.0[directory.0].names.keys().cloned().collect()
    }

    /// A directory in this one; none if all that is in it may differ.
    pub(super) fn below(&self, directory: Node, name: &OsStr) -> Option<Node> {
        let below = *self.0[directory.0].names.get(name)?;
        (!self.0[below].whole).then_some(Node(below))
    }
}
