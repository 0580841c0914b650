//! Ranges of ids that no other container on the machine has at the same time.

use std::fs::{DirBuilder, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open, openat};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;

use super::id_map::{IdExtent, IdMap};
use super::subordinate;
use crate::error::{Context, Error, ErrorKind, Result};

/// Ids in a range: those of a whole 16-bit system, `nobody` (65534) included.
pub(crate) const LENGTH: u32 = 1 << 16;

/// The ranges lie below this id, counted downwards. `0x7ffe_0000` and above are systemd's and, from
/// 2^31 on, trouble for programs that think ids are signed.
const TOP: u32 = 0x7ffe_0000;
/// Ranges down to `0x7739_0000`, which neither systemd (containers of its own end at `0x6fff_ffff`) nor
/// SSSD's default for directory users (up to 2,000,200,000) assign.
const PREFERRED: u32 = (TOP - 0x7739_0000) / LENGTH;
/// When those are all taken: ranges down to `0x4000_0000`.
const ALL: u32 = (TOP - 0x4000_0000) / LENGTH;

const DIRECTORY: &str = "/run/coracle";
/// Byte `n` of file `n` modulo this is locked while range `n` is in use. The kernel drops the lock with the last
/// descriptor, so a crashed host frees its ranges, and nothing is ever written to the files.
///
/// Many files because whoever closes one of `m` descriptors, as each new process does with its copies, has the
/// kernel look through the locks of the file: a thousand ranges in one file would cost each spawn a million steps.
const FILES: u32 = 64;

/// 65,536 ids that are nobody else's as long as this value exists.
#[derive(Debug)]
pub(crate) struct IdRange {
    base: u32,
    _lock: File,
}

impl IdRange {
    /// Takes a free range out of those that `own`, the id map of this process, has and that are not
    /// promised to a user in /etc/subuid or /etc/subgid. `None` if `own` has no such range.
    pub(crate) fn allocate(own: &IdMap) -> Result<Option<Self>> {
        Self::first_free(candidates(), own)
    }

    fn first_free(candidates: impl Iterator<Item = u32>, own: &IdMap) -> Result<Option<Self>> {
        let promised = subordinate::all_ranges();
        let usable = |n: u32| {
            let base = base(n);
            let within = |extents: &[IdExtent]| {
                extents.iter().any(|extent| {
                    let Some(offset) = base.checked_sub(extent.inside) else { return false };
                    extent.count.checked_sub(offset).is_some_and(|rest| rest >= LENGTH)
                })
            };
            within(own.uids())
                && within(own.gids())
                && !promised.iter().any(|range| range.overlaps(base, LENGTH))
        };
        let mut any = false;
        for n in candidates.filter(|n| usable(*n)) {
            any = true;
            let name = file_name(n);
            let file = open_locks(&name)
                .context(|| format!("open {DIRECTORY}/{name} for the locks on id ranges"))
                .map_err(no_lock_file)?;
            if try_lock(&file, n).context(|| format!("lock an id range in {DIRECTORY}/{name}"))? {
                return Ok(Some(Self { base: base(n), _lock: file }));
            }
        }
        if !any {
            return Ok(None);
        }
        Err(Error::new(
            ErrorKind::ResourceExhausted,
            format!("all {ALL} id ranges for containers are in use on this machine"),
        )
        .with_hint("containers that may share ids can be given an explicit id map"))
    }

    /// The first of the [`LENGTH`] ids.
    pub(crate) fn base(&self) -> u32 {
        self.base
    }
}

fn base(n: u32) -> u32 {
    TOP - (n + 1) * LENGTH
}

/// All ranges, each once. A process begins at a random one, so that two rarely try the same, and goes on
/// from there, so that a range that was given back rests for as long as possible.
fn candidates() -> impl Iterator<Item = u32> {
    static NEXT: OnceLock<AtomicU32> = OnceLock::new();
    let next = NEXT.get_or_init(|| {
        let [a, b, c, d, ..] = RandomState::new().hash_one(()).to_ne_bytes();
        AtomicU32::new(u32::from_ne_bytes([a, b, c, d]) % PREFERRED)
    });
    // Wraps at 2^32, which only shifts the order.
    let first = next.fetch_add(1, Ordering::Relaxed) % PREFERRED;
    (first..PREFERRED).chain(0..first).chain(PREFERRED..ALL)
}

fn file_name(n: u32) -> String {
    format!("ids.{:02}.lock", n % FILES)
}

fn open_locks(name: &str) -> io::Result<File> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let directory = match open(DIRECTORY, flags, Mode::empty()) {
        Err(Errno::ENOENT) => {
            match DirBuilder::new().mode(0o700).create(DIRECTORY) {
                Err(err) if err.kind() != io::ErrorKind::AlreadyExists => return Err(err),
                _ => {}
            }
            open(DIRECTORY, flags, Mode::empty())?
        }
        other => other?,
    };
    let directory = File::from(directory);
    let metadata = directory.metadata()?;
    if metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
        return Err(Errno::EPERM.into());
    }
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(File::from(openat(&directory, name, flags, Mode::from_bits_truncate(0o600))?))
}

fn no_lock_file(err: Error) -> Error {
    err.with_hint(format!(
        "unique id ranges need {DIRECTORY} as a directory that belongs to the caller and that no other \
         user may write to; or give an explicit id map"
    ))
}

/// An open-file-description lock (Linux 3.15), which belongs to the descriptor and not to the process; see
/// fcntl_locking(2).
fn try_lock(file: &File, n: u32) -> nix::Result<bool> {
    #[allow(clippy::cast_possible_truncation, reason = "small constants of the C library")]
    let lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: n.into(),
        l_len: 1,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&lock)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_ranges_are_disjoint_and_in_the_documented_region() {
        let all: BTreeSet<_> = candidates().map(base).collect();
        assert_eq!(all.len(), ALL as usize);
        assert_eq!(all.first(), Some(&0x4000_0000));
        assert_eq!(all.last(), Some(&(TOP - LENGTH)));
        assert!(all.iter().all(|base| base % LENGTH == 0));
        let first: BTreeSet<_> = candidates().take(PREFERRED as usize).map(base).collect();
        assert_eq!(first.first(), Some(&0x7739_0000));
    }

    #[test]
    fn a_range_is_locked_until_its_last_descriptor_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("locks");
        let open =
            || File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let (one, other) = (open().unwrap(), open().unwrap());
        assert_eq!(try_lock(&one, 7), Ok(true));
        assert_eq!(try_lock(&other, 7), Ok(false));
        assert_eq!(try_lock(&other, 8), Ok(true));
        drop(one);
        assert_eq!(try_lock(&other, 7), Ok(true));
    }

    #[test]
    fn a_range_is_given_once_and_again_after_it_is_dropped() {
        let own = IdMap::range(0, u32::MAX);
        // The last ones, which no other process wants.
        let take = || IdRange::first_free(ALL - 2..ALL, &own);
        let one = take();
        if !geteuid().is_root() {
            let err = one.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::PermissionDenied, "{err:?}");
            assert!(err.hint().is_some_and(|hint| hint.contains(DIRECTORY)), "{err:?}");
            return;
        }
        let one = one.unwrap().unwrap();
        let other = take().unwrap().unwrap();
        assert_eq!((one.base(), other.base()), (0x4001_0000, 0x4000_0000));
        let err = take().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::ResourceExhausted);
        drop(one);
        assert_eq!(take().unwrap().unwrap().base(), 0x4001_0000);
    }

    #[test]
    fn a_process_without_such_ids_gets_none() {
        for (own, what) in [
            (IdMap::single(), "one id"),
            (IdMap::range(0, 0x4000_0000), "all below"),
            (IdMap::range(TOP, 1 << 16), "all above"),
            (IdMap::new().uid(0x4000_0000, 0, 1 << 20).gid(0x5000_0000, 0, 1 << 20), "elsewhere"),
        ] {
            assert!(IdRange::allocate(&own).unwrap().is_none(), "{what}");
        }
    }
}
