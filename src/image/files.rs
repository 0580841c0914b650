//! Files of the store, read and written so that neither a crash nor a hostile directory does harm.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::error::{Context, Error, ErrorKind, Result};

/// Opens a regular file for reading, and nothing else: a link would lead out of the store, a fifo hang.
pub(super) fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY);
    let attempt = || format!("open {}", path.display());
    let file = options.open(path).context(attempt)?;
    if file.metadata().context(attempt)?.is_file() {
        return Ok(file);
    }
    Err(Error::new(ErrorKind::Malformed, format!("{} is no regular file", path.display())))
}

/// Reads a file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let bytes = read_past(open(path)?, limit).context(|| format!("read {}", path.display()))?;
    if bytes.len() as u64 > limit {
        let message = format!("{} is longer than {limit} bytes", path.display());
        return Err(Error::new(ErrorKind::Malformed, message));
    }
    Ok(bytes)
}

/// `None` for what is damaged, or not there. What fails for another reason, for want of descriptors say, tells nothing of the
/// file.
pub(super) fn if_readable<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Err(err) if err.says_missing() || err.kind() == ErrorKind::Malformed => Ok(None),
        read => read.map(Some),
    }
}

/// Reads a file, and a byte more than `limit` of one that is longer, by one read and another that finds the end.
pub(super) fn read_past(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len().min(limit) + 1;
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    file.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A new file, the caller's only, with a name that begins with `prefix`. It is gone when it is dropped.
pub(crate) fn temporary(directory: &Path, prefix: &str) -> io::Result<NamedTempFile> {
    // What tempfile opens by itself fails without the number that tells why.
    let open = |path: &Path| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600).open(path)
    };
    tempfile::Builder::new().prefix(prefix).rand_bytes(12).make_in(directory, open)
}

/// Replaces `path` by way of the new file `aside`: the old content or the new is there, whole, whatever happens.
/// The directory is the caller's to sync.
pub(super) fn replace(path: &Path, aside: &Path, bytes: &[u8]) -> Result<()> {
    replace_after(path, aside, bytes, || {})
}

/// [`replace`], with something to do when the new content is on disk.
pub(super) fn replace_after(
    path: &Path,
    aside: &Path,
    bytes: &[u8],
    then: impl FnOnce(),
) -> Result<()> {
    let written = write_new(aside, bytes).and_then(|()| {
        then();
        fs::rename(aside, path).context(|| format!("rename {}", aside.display()))
    });
    if written.is_err() {
        let _ = fs::remove_file(aside);
    }
    written.context(|| format!("write {}", path.display()))
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let attempt = || format!("write {}", path.display());
    // What a process left that was killed here.
    let _ = fs::remove_file(path);
    let mut file = create(path)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(no_space).context(attempt)
}

/// Makes a file that is not there yet.
pub(super) fn create(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o644);
    options.open(path).map_err(no_space).context(|| format!("create {}", path.display()))
}

/// Makes the entries of a directory last.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    let synced = File::open(path).and_then(|dir| dir.sync_all());
    match synced {
        // Some file systems of user space cannot.
        Err(err) if err.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        other => other.map_err(no_space).context(|| format!("sync {}", path.display())),
    }
}

/// Says what to do about a full disk.
pub(super) fn no_space(err: io::Error) -> io::Error {
    let hint = match err.raw_os_error() {
        Some(libc::ENOSPC) => {
            "no space is left on the file system of the store: remove images and collect garbage"
        }
        Some(libc::EDQUOT) => "the disk quota is used up: remove images and collect garbage",
        Some(libc::EROFS) => "the file system of the store is mounted read-only",
        _ => return err,
    };
    let failed = Err::<(), _>(err).context(|| "write to disk").expect_err("it is an error");
    failed.with_hint(hint).into()
}

/// Removes a file or a whole directory, if it is there.
pub(super) fn remove(path: &Path) -> Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(err) => Err(err),
    };
    match removed {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.context(|| format!("remove {}", path.display())),
    }
}
