//! What a layer occupies.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::os::fd::OwnedFd;

use nix::sys::stat::{FileStat, fstat};

use crate::error::{Context, Result};
use crate::layers::access::Access;
use crate::layers::cursor::{Cursor, is_directory};

/// What a layer occupies on its disk, as du(1) counts: a file with several names once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Bytes of disk blocks. What files share of their content counts for each.
    pub bytes: u64,
    /// Files of all types.
    pub inodes: u64,
}

impl Usage {
    fn add(&mut self, stat: &FileStat) {
        self.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        self.inodes += 1;
    }
}

/// Snapshots keep inode numbers, and the time of the last change unless there was another.
type State = (u64, i64, i64);

fn state(stat: &FileStat) -> State {
    (stat.st_ino, stat.st_ctime, stat.st_ctime_nsec)
}

/// What is below `tree`, and itself, without what a `parent` that it is a snapshot of has as well; and what was `merged`
/// for it, in which files with several names are those of layers.
pub(super) fn measure(
    tree: OwnedFd,
    parent: Option<OwnedFd>,
    merged: Vec<OwnedFd>,
    access: Access<'_>,
) -> Result<Usage> {
    let mut known = HashSet::new();
    if let Some(parent) = parent {
        walk(parent, access, |stat| {
            known.insert(state(stat));
        })?;
    }
    let mut usage = Usage::default();
    let mut counted = HashSet::new();
    walk(tree, access, |stat| {
        let again = has_several_names(stat) && !counted.insert((stat.st_dev, stat.st_ino));
        if !again && !known.contains(&state(stat)) {
            usage.add(stat);
        }
    })?;
    for tree in merged {
        walk(tree, access, |stat| {
            if !has_several_names(stat) {
                usage.add(stat);
            }
        })?;
    }
    Ok(usage)
}

fn has_several_names(stat: &FileStat) -> bool {
    !is_directory(stat) && stat.st_nlink > 1
}

fn walk(tree: OwnedFd, access: Access<'_>, mut visit: impl FnMut(&FileStat)) -> Result<()> {
    let mut cursor = Cursor::new(tree, access);
    let mut frames: Vec<BTreeSet<OsString>> = Vec::new();
    let mut entered = true;
    loop {
        if entered {
            visit(&fstat(&cursor.here).context(|| "stat a directory")?);
            frames.push(cursor.names()?);
            entered = false;
        }
        let Some(names) = frames.last_mut() else { return Ok(()) };
        let Some(name) = names.pop_first() else {
            frames.pop();
            if !frames.is_empty() {
                cursor.ascend()?;
            }
            continue;
        };
        let Some(stat) = cursor.stat(&name)? else { continue };
        if is_directory(&stat) {
            entered = cursor.descend(&name)?;
        } else {
            visit(&stat);
        }
    }
}
