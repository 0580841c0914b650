//! Everything that can be seen of a tree of files, to compare two.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A line for each file below `root`, and for itself as `/`: type, mode, owner, time of the last change, device
/// number, extended attributes (needs the program getfattr), size and content or target, and the first of its names if it has several
/// there.
pub fn describe(root: &Path) -> BTreeMap<PathBuf, String> {
    let attributes = attributes(root);
    let mut described = BTreeMap::new();
    let mut names = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        let full = if path.as_os_str().is_empty() { root.join(".") } else { root.join(&path) };
        let stat = fs::symlink_metadata(&full).unwrap_or_else(|err| panic!("stat {path:?}: {err}"));
        if stat.is_dir() {
            let entries = fs::read_dir(&full).unwrap_or_else(|err| panic!("read {path:?}: {err}"));
            let mut below: Vec<_> =
                entries.map(|entry| path.join(entry.expect("read an entry").file_name())).collect();
            below.sort();
            left.extend(below.into_iter().rev());
        }
        let first = names.entry((stat.dev(), stat.ino())).or_insert_with(|| path.clone());
        let link = (!stat.is_dir() && *first != path).then(|| first.clone());
        let line = line(&full, &stat).unwrap_or_else(|err| panic!("look at {path:?}: {err}"));
        let line = link.map_or(line.clone(), |first| format!("{line} same as {}", first.display()));
        let path = Path::new("/").join(&path);
        let extended = attributes.get(&path).map(|lines| lines.join(" ")).unwrap_or_default();
        described.insert(path, format!("{line} {extended}"));
    }
    described
}

fn line(path: &Path, stat: &fs::Metadata) -> io::Result<String> {
    let kind = stat.file_type();
    let mut line = format!(
        "{:o} {}:{} {}.{:09}",
        stat.mode(),
        stat.uid(),
        stat.gid(),
        stat.mtime(),
        stat.mtime_nsec()
    );
    // Writing to a string cannot fail.
    let _ = if kind.is_file() {
        let content = fs::read(path)?;
        let hash = content.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
        write!(line, " {} bytes {hash:016x}", content.len())
    } else if kind.is_symlink() {
        write!(line, " -> {}", fs::read_link(path)?.display())
    } else if kind.is_char_device() || kind.is_block_device() {
        write!(line, " device {:x}", stat.rdev())
    } else {
        Ok(())
    };
    Ok(line)
}

/// The extended attributes by path below `root`, as getfattr(1) prints them, without the overlay's own.
fn attributes(root: &Path) -> BTreeMap<PathBuf, Vec<String>> {
    let output = Command::new("getfattr")
        .args(["--recursive", "--physical", "--no-dereference", "--dump", "--match=-"])
        .args(["--encoding=hex", "."])
        .current_dir(root)
        .output()
        .expect("run getfattr");
    assert!(output.status.success(), "getfattr: {}", String::from_utf8_lossy(&output.stderr));
    let mut found: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    let mut path = PathBuf::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some(name) = line.strip_prefix("# file: ") {
            path = Path::new("/").join(name);
        } else if !line.is_empty() && !line.contains(".overlay.") {
            found.entry(path.clone()).or_default().push(line.to_owned());
        }
    }
    found.values_mut().for_each(|lines| lines.sort());
    found
}
