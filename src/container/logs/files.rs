//! The files of a log: their names, opening and removing them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::statfs::{Statfs, fstatfs};

use crate::error::{Context, Error, ErrorKind, Result};

pub(super) const NAME: &str = "container.log";
/// Where a new file is made before it takes the place of the old one.
pub(super) const NEW: &str = "container.log.new";

/// It takes the kernel longer to free a file of so many bytes than to make a thread.
const LARGE: u64 = 4 << 20;
/// A thread frees what a file held: there is never more than one in a process.
static FREEING: AtomicBool = AtomicBool::new(false);

/// The path of the file that has been rotated `age` times.
pub(super) fn path(dir: &Path, age: u32) -> PathBuf {
    match age {
        0 => dir.join(NAME),
        age => dir.join(format!("{NAME}.{age}")),
    }
}

/// How often files that are there have been rotated, the youngest first.
pub(super) fn ages(dir: &Path) -> Result<Vec<u32>> {
    let attempt = || format!("list the logs in {}", dir.display());
    let mut ages = Vec::new();
    for entry in fs::read_dir(dir).context(attempt)? {
        let name = entry.context(attempt)?.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(NAME)) else { continue };
        let age = match rest.strip_prefix('.') {
            None if rest.is_empty() => Some(0),
            None => None,
            // Otherwise `.01` would be a second name of `.1`.
            Some(digits) if digits.starts_with(['0', '+']) => None,
            Some(digits) => digits.parse().ok(),
        };
        ages.extend(age);
    }
    ages.sort_unstable();
    Ok(ages)
}

/// Makes the directory of a log, for its writers and readers only, if it is missing; its parent must exist.
pub(in crate::container) fn make_directory(dir: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(err) if err.kind() != io::ErrorKind::AlreadyExists => {
            Err(err).context(|| format!("make {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Opens a log file: never through a link, never anything but a file.
pub(in crate::container) fn open(options: &mut OpenOptions, path: &Path) -> Result<File> {
    let attempt = || format!("open the log {}", path.display());
    let file = options
        // Not to wait for the other end of a pipe that somebody has put there.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .mode(0o640)
        .open(path)
        .context(attempt)?;
    if !file.metadata().context(attempt)?.is_file() {
        return Err(Error::new(ErrorKind::SafetyViolation, "it is not a regular file"))
            .context(attempt);
    }
    Ok(file)
}

/// Whether there was nothing to do it to.
pub(in crate::container) fn missing_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Removes a file of the log, if it is there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    // Nothing is freed while it is open.
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    let held = OpenOptions::new().read(true).custom_flags(flags).open(path);
    missing_is_fine(fs::remove_file(path))?;
    if let Ok(held) = held {
        let_go(held);
    }
    Ok(())
}

/// Closes a file that goes with it, without waiting until all that it held is free: 6 ms for 64 MiB, in which a container
/// would have to wait that prints without a pause.
pub(super) fn let_go(file: File) {
    close(file, thread::Builder::new().name("coracle-free".into()).stack_size(64 << 10));
}

/// Whether that takes long, and as much room is left for what is written meanwhile.
fn is_better_freed_later(file: &File) -> bool {
    let Ok(metadata) = file.metadata() else { return false };
    let is_left = |fs: Statfs| {
        let block = u64::try_from(fs.block_size()).unwrap_or(0);
        fs.blocks_available().saturating_mul(block) >= metadata.len()
    };
    metadata.nlink() == 0 && metadata.len() >= LARGE && fstatfs(file).is_ok_and(is_left)
}

/// Closes it in a thread if that is better, and if there can be one.
fn close(file: File, thread: thread::Builder) {
    struct Turn;
    impl Drop for Turn {
        fn drop(&mut self) {
            FREEING.store(false, Ordering::Release);
        }
    }
    if is_better_freed_later(&file) && !FREEING.swap(true, Ordering::Acquire) {
        // In this order, also where no thread can be made.
        let both = (file, Turn);
        let _ = thread.spawn(move || drop(both));
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// A file without a name, and that name.
    fn removed(size: u64) -> (File, PathBuf) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        let (file, path) = file.into_parts();
        (file, path.to_path_buf())
    }

    fn is_open(path: &Path) -> bool {
        let deleted = format!("{} (deleted)", path.display());
        let open = fs::read_dir("/proc/self/fd").unwrap();
        open.flatten()
            .filter_map(|it| fs::read_link(it.path()).ok())
            .any(|it| it == Path::new(&deleted))
    }

    #[test]
    fn a_removed_file_is_closed_with_a_thread_and_without() {
        let begin = Instant::now();
        let (file, path) = removed(LARGE);
        assert!(is_open(&path));
        let_go(file);
        while is_open(&path) || FREEING.load(Ordering::Acquire) {
            assert!(begin.elapsed() < Duration::from_secs(60), "it stays open");
            thread::yield_now();
        }

        let no_thread = || thread::Builder::new().stack_size(1 << 60);
        let (file, path) = removed(LARGE);
        close(file, no_thread());
        assert!(!is_open(&path) && !FREEING.load(Ordering::Acquire));

        FREEING.store(true, Ordering::Release);
        let (file, path) = removed(LARGE);
        let_go(file);
        assert!(!is_open(&path) && FREEING.load(Ordering::Acquire));
        FREEING.store(false, Ordering::Release);

        // One that has a name, or is small, is closed at once.
        let (file, path) = removed(LARGE - 1);
        let_go(file);
        assert!(!is_open(&path));
        let named = tempfile::NamedTempFile::new().unwrap();
        named.as_file().set_len(LARGE).unwrap();
        close(named.reopen().unwrap(), thread::Builder::new());
        assert!(!FREEING.load(Ordering::Acquire));
    }
}
