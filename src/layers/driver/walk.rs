//! Two trees side by side: what is found in one is brought into the other.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::error::Result;
use crate::layers::cursor::Cursor;

/// What is done on the way.
pub(super) trait Visitor {
    /// For messages: what it does to a path.
    const VERB: &'static str;

    /// Looks at an entry of the directory that both cursors are at. Returns whether it is a directory, which both
    /// have entered then.
    fn visit(&mut self, from: &mut Cursor<'_>, name: &OsStr, to: &mut Cursor<'_>) -> Result<bool>;

    /// Ends a directory, after all that is in it.
    fn leave(&mut self, from: &OwnedFd, to: OwnedFd) -> Result<()>;
}

/// Visits everything below `from`, names in byte order, at any depth with few descriptors and no recursion.
pub(super) fn walk<V: Visitor>(
    visitor: &mut V,
    mut from: Cursor<'_>,
    mut to: Cursor<'_>,
) -> Result<()> {
    let mut path = PathBuf::from("/");
    let mut frames: Vec<BTreeSet<OsString>> = vec![from.names()?];
    while let Some(names) = frames.last_mut() {
        let step = match names.pop_first() {
            Some(name) => {
                path.push(&name);
                visitor.visit(&mut from, &name, &mut to).and_then(|entered| {
                    if entered {
                        frames.push(from.names()?);
                    }
                    Ok(!entered)
                })
            }
            None if frames.len() > 1 => {
                frames.pop();
                from.ascend()
                    .and_then(|original| visitor.leave(&original, to.ascend()?))
                    .map(|()| true)
            }
            None => break,
        };
        let done = step.map_err(|err| err.context(format!("{} {}", V::VERB, path.display())))?;
        if done {
            path.pop();
        }
    }
    visitor.leave(&from.here, to.here)
}
