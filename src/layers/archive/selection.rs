//! The part of a tree that has changed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::layers::change::{Change, ChangeKind};

/// The paths of a list of changes, from the top and without the slash before it.
#[derive(Debug)]
pub(super) struct Selection {
    /// By directory.
    names: HashMap<Vec<u8>, BTreeSet<OsString>>,
    deleted: HashSet<Vec<u8>>,
}

impl Selection {
    /// Every directory on the way to a change must be one.
    pub(super) fn new(changes: &[Change]) -> Self {
        let mut selection = Self { names: HashMap::new(), deleted: HashSet::new() };
        for change in changes {
            let path = change.path().as_os_str().as_bytes();
            let path = path.strip_prefix(b"/").unwrap_or(path);
            // The root directory always has an entry.
            if path.is_empty() {
                continue;
            }
            let (above, name) = match path.iter().rposition(|&byte| byte == b'/') {
                Some(slash) => (&path[..slash], &path[slash + 1..]),
                None => (&path[..0], path),
            };
            let name = OsString::from_vec(name.to_vec());
            selection.names.entry(above.to_vec()).or_default().insert(name);
            if change.kind() == ChangeKind::Deleted {
                selection.deleted.insert(path.to_vec());
            }
        }
        selection
    }

    /// What has changed in a directory.
    pub(super) fn names(&self, directory: &[u8]) -> BTreeSet<OsString> {
        self.names.get(directory).cloned().unwrap_or_default()
    }

    pub(super) fn is_deleted(&self, path: &[u8]) -> bool {
        self.deleted.contains(path)
    }
}
