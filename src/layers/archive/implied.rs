//! Directories that an archive leads through and has no entries for: those of the lower layers, if there are such.

use super::finish::Metadata;
use super::tree::Tree;
use crate::error::Result;
use crate::layers::cursor::is_directory;

/// Of how many bytes of paths it is worth to know which directories are implied. Archives made by tools have few.
const MAX_BYTES: usize = 1 << 20;

/// What a layer that was unpacked without the lower ones has left open.
#[derive(Debug)]
pub(crate) struct Implied(Vec<Directory>);

#[derive(Debug)]
struct Directory {
    /// Empty for the top.
    path: Vec<u8>,
    /// Whether no entry that came later says what it looks like, or puts something else there.
    open: bool,
}

impl Implied {
    /// Whether the lower layers have no say in any directory but the top.
    pub(super) fn is_top_at_most(&self) -> bool {
        self.0.iter().all(|directory| directory.path.is_empty())
    }
}

impl Tree<'_> {
    /// Such directories of the archive that has been read. `None` if the lower layers have more of a say than that.
    pub(super) fn implied(&self) -> Option<Implied> {
        let bytes: usize = self.passed.iter().map(Vec::len).sum();
        if self.depends || bytes > MAX_BYTES {
            return None;
        }
        let open = |path: &[u8]| {
            matches!(self.metadata.get(path), Some(Metadata::Directory { implicit: true, .. }))
        };
        let top = (!self.has_top()).then(Vec::new);
        let paths = top.into_iter().chain(self.passed.iter().cloned());
        Some(Implied(paths.map(|path| Directory { open: open(&path), path }).collect()))
    }

    /// Makes of a layer that was unpacked without the lower ones what it would have become upon them. Returns whether
    /// it can be: not if the archive's paths would have led through something else than directories there.
    pub(super) fn settle(mut self, implied: &Implied) -> Result<bool> {
        let Some(lower) = &self.lower else { return Ok(true) };
        for Directory { path, open } in &implied.0 {
            let Some(found) = lower.find(path)? else { continue };
            if !is_directory(&found.stat) {
                return Ok(false);
            }
            if *open {
                let attributes = lower.attributes(&found, &self.owners)?;
                let metadata = Metadata::Directory { attributes, clean: false, implicit: true };
                self.metadata.insert(path.clone(), metadata);
            }
        }
        self.finish().map(|()| true)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, Permissions};
    use std::io;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;

    use nix::unistd::{getegid, geteuid};
    use tar::{Builder, EntryType, Header};
    use tempfile::tempdir;

    use super::super::attributes::Owners;
    use super::super::finish::Setter;
    use super::super::limits::ArchiveLimits;
    use super::super::lower::Lower;
    use super::super::reader::Reader;
    use super::super::unpack::unpack;
    use super::*;
    use crate::layers::access::Access;
    use crate::namespaces::IdMap;

    /// Files of mode 600 and, with a slash, directories of mode 750.
    fn archive(names: &[&str]) -> Vec<u8> {
        let mut archive = Builder::new(Vec::new());
        for name in names {
            let mut header = Header::new_gnu();
            let (kind, mode) = match name.ends_with('/') {
                true => (EntryType::Directory, 0o750),
                false => (EntryType::Regular, 0o600),
            };
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_size(0);
            header.set_mtime(5);
            archive.append_data(&mut header, name, io::empty()).unwrap();
        }
        archive.into_inner().unwrap()
    }

    /// A tree that a user without privilege can make, too.
    fn tree(directory: &Path, lower: Option<&Path>) -> Tree<'static> {
        let open = |path| File::open(path).unwrap().into();
        let map = IdMap::new().uid(0, geteuid().as_raw(), 1).gid(0, getegid().as_raw(), 1);
        let owners = Owners { map: Some(map), squash: false };
        let lower = lower.map(|lower| Lower::new(open(lower), Access(None)));
        let marks = Some(c"user.overlay.opaque");
        Tree::new(open(directory), lower, owners, Setter::Caller, marks).unwrap()
    }

    fn shown(directory: &Path) -> Vec<(String, u32, i64)> {
        let mut found = Vec::new();
        let mut ahead = vec![directory.to_owned()];
        while let Some(path) = ahead.pop() {
            let metadata = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(directory).unwrap().display().to_string();
            found.push((name, metadata.mode(), metadata.mtime()));
            if metadata.is_dir() {
                ahead.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        found.sort();
        found
    }

    #[test]
    fn a_layer_settles_on_the_lower_ones_unless_its_paths_lead_elsewhere() {
        let lower = tempdir().unwrap();
        let lower = lower.path();
        fs::create_dir_all(lower.join("dir/below")).unwrap();
        fs::create_dir(lower.join("other")).unwrap();
        fs::write(lower.join("file"), "").unwrap();
        symlink("dir", lower.join("link")).unwrap();
        for (path, mode) in [("dir", 0o711), ("dir/below", 0o1700), ("other", 0o705), ("", 0o751)] {
            fs::set_permissions(lower.join(path), Permissions::from_mode(mode)).unwrap();
            let time = nix::sys::time::TimeSpec::new(i64::from(mode), 9);
            let directory = File::open(lower.join(path)).unwrap();
            nix::sys::stat::futimens(&directory, &time, &time).unwrap();
        }
        let cases: [(&[&str], Option<bool>); 11] = [
            (&["top"], Some(true)),
            (&["./", "dir/", "dir/x"], Some(true)),
            (&["dir/x"], Some(true)),
            (&["dir/below/x", "missing/below/x"], Some(true)),
            (&["dir/below/x", "other/x", "dir/"], Some(true)),
            (&["dir/below/x", "dir"], Some(true)),
            (&["link/", "link/x"], Some(true)),
            (&["link/x"], Some(false)),
            (&["link/x", "link/"], Some(false)),
            (&["file/x", "file"], Some(false)),
            (&["dir/below/.wh.x", "dir/x"], None),
        ];
        for (names, expected) in cases {
            let archive = archive(names);
            let (early, later) = (tempdir().unwrap(), tempdir().unwrap());
            let read = |tree| unpack(&mut Reader::new(&archive[..], ArchiveLimits::new()), tree);
            let implied = read(tree(early.path(), None)).unwrap().1;
            let settled = implied.map(|it| tree(early.path(), Some(lower)).settle(&it).unwrap());
            assert_eq!(settled, expected, "{names:?}");
            if settled == Some(true) {
                read(tree(later.path(), Some(lower))).unwrap();
                assert_eq!(shown(early.path()), shown(later.path()), "{names:?}");
            }
        }
    }

    #[test]
    fn more_implied_directories_than_tools_leave_are_not_kept_in_memory() {
        let deep = format!("{}/", "d".repeat(200)).repeat(10);
        let names: Vec<_> = (0..600).map(|number| format!("{deep}{number}/x")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        for (count, expected) in [(400, true), (600, false)] {
            let directory = tempdir().unwrap();
            let archive = archive(&names[..count]);
            let mut reader = Reader::new(&archive[..], ArchiveLimits::new());
            let (_, implied) = unpack(&mut reader, tree(directory.path(), None)).unwrap();
            assert_eq!(implied.is_some(), expected, "{count}");
        }
    }
}
