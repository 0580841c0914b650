//! Paths inside a root directory, resolved so that nothing in it can lead out.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat};

use crate::error::{Context, Error, ErrorKind, Result, SyscallError};

/// As the kernel: symbolic links followed in one resolution.
const MAX_LINKS: usize = 40;
/// How often a rename or mount elsewhere on the machine may disturb openat2 before it counts as an attack.
const MAX_RETRIES: usize = 128;

/// A directory that is the root of all paths resolved through it: an absolute path or link begins there, and
/// `..` does not leave it, whatever other processes do to the tree meanwhile.
#[derive(Debug)]
pub(crate) struct RootDir {
    fd: OwnedFd,
}

impl RootDir {
    /// Takes a descriptor of a directory, `O_PATH` or other.
    #[allow(dead_code, reason = "layers and Command give the root of an image")]
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Opens a directory of the host.
    #[allow(dead_code, reason = "layers and Command give the root of an image")]
    pub(crate) fn open_host(path: &Path) -> Result<Self, SyscallError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        open(path, flags, Mode::empty()).map(|fd| Self { fd }).map_err(|errno| {
            SyscallError::new(format!("open({path:?}, O_PATH|O_DIRECTORY)"), errno as i32)
        })
    }

    /// Opens what `path` means inside the root, close-on-exec. `O_CREAT` is not taken.
    ///
    /// A final symbolic link is followed unless `O_NOFOLLOW` is given. Uses `openat2` (Linux 5.6) with
    /// `RESOLVE_IN_ROOT` and `RESOLVE_NO_MAGICLINKS`, or a walk that opens one component at a time.
    pub(crate) fn open(
        &self,
        path: impl AsRef<Path>,
        flags: OFlag,
    ) -> Result<OwnedFd, SyscallError> {
        let path = path.as_ref();
        let failed = |call: &str, errno| {
            let fd = self.fd.as_raw_fd();
            SyscallError::new(format!("{call}({fd}, {path:?}, {flags:?})"), errno as i32)
        };
        if flags.contains(OFlag::O_CREAT) {
            return Err(failed("openat2", Errno::EINVAL));
        }
        let flags = flags | OFlag::O_CLOEXEC;
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(flags).resolve(resolve);
        for _ in 0..MAX_RETRIES {
            match openat2(&self.fd, path, how) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(Errno::ENOSYS) => {
                    return self.walk(path, flags).map_err(|errno| failed("openat", errno));
                }
                other => return other.map_err(|errno| failed("openat2", errno)),
            }
        }
        Err(failed("openat2", Errno::EAGAIN))
    }

    /// Reads the regular file at `path`, of at most `limit` bytes.
    ///
    /// Nothing else is even opened: opening a device can have effects, and opening a fifo can hang.
    pub(crate) fn read_file(&self, path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>> {
        let path = path.as_ref();
        let attempt = || format!("read {} of the image", path.display());
        let found = self.open(path, OFlag::O_PATH).context(attempt)?;
        if file_type(&found).context(attempt)? != SFlag::S_IFREG {
            let message = format!("{} of the image is not a regular file", path.display());
            return Err(Error::new(ErrorKind::Malformed, message));
        }
        let again = format!("/proc/thread-self/fd/{}", found.as_raw_fd());
        let mut content = Vec::new();
        File::open(again)
            .and_then(|file| file.take(limit + 1).read_to_end(&mut content))
            .context(attempt)?;
        if content.len() as u64 > limit {
            let message = format!("{} of the image is longer than {limit} bytes", path.display());
            return Err(Error::new(ErrorKind::Malformed, message));
        }
        Ok(content)
    }

    /// What `openat2` does, one component at a time. The directories passed stay open, so `..` needs no
    /// help of the kernel, which would follow a directory that was moved out of the root.
    fn walk(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let bytes = path.as_os_str().as_bytes();
        if bytes.is_empty() {
            return Err(Errno::ENOENT);
        }
        let flags = match bytes.ends_with(b"/") {
            true => flags | OFlag::O_DIRECTORY,
            false => flags,
        };
        let mut passed: Vec<OwnedFd> = Vec::new();
        let mut ahead = components(bytes);
        let mut links = 0;
        let step = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        while let Some(name) = ahead.pop_front() {
            if name == b".." {
                passed.pop();
                continue;
            }
            let parent = passed.last().unwrap_or(&self.fd).as_fd();
            let last = ahead.is_empty();
            if last && flags.contains(OFlag::O_NOFOLLOW) {
                return openat(parent, name.as_slice(), flags, Mode::empty());
            }
            let fd = openat(parent, name.as_slice(), step, Mode::empty())?;
            match file_type(&fd)? {
                SFlag::S_IFLNK => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::ELOOP);
                    }
                    let target = readlinkat(&fd, "")?.into_vec();
                    if target.starts_with(b"/") {
                        passed.clear();
                    }
                    let mut replaced = components(&target);
                    replaced.append(&mut ahead);
                    ahead = replaced;
                }
                _ if last => {
                    let flags = flags | OFlag::O_NOFOLLOW;
                    match openat(parent, name.as_slice(), flags, Mode::empty()) {
                        // It has become a link since.
                        Err(Errno::ELOOP) if links < MAX_LINKS => {
                            links += 1;
                            ahead.push_front(name);
                        }
                        other => return other,
                    }
                }
                SFlag::S_IFDIR => passed.push(fd),
                _ => return Err(Errno::ENOTDIR),
            }
        }
        openat(passed.last().unwrap_or(&self.fd), ".", flags, Mode::empty())
    }
}

impl AsFd for RootDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn components(path: &[u8]) -> VecDeque<Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

fn file_type(fd: &OwnedFd) -> nix::Result<SFlag> {
    let mode = fstat(fd)?.st_mode;
    Ok(SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    /// A root with links that lead to, or try to leave for, what lies beside it.
    fn sample() -> (tempfile::TempDir, RootDir) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("etc/deep")).unwrap();
        fs::create_dir_all(root.join("root/etc")).unwrap();
        fs::write(dir.path().join("secret"), "outside").unwrap();
        fs::write(root.join("secret"), "inside").unwrap();
        fs::write(root.join("etc/file"), "file").unwrap();
        for (target, link) in [
            ("/secret", "absolute"),
            ("../../../secret", "etc/up"),
            ("../etc/./deep/../file", "etc/round"),
            ("etc", "dir"),
            ("loop", "loop"),
            ("/", "etc/top"),
            ("nowhere", "dangling"),
            ("/proc/self/root", "magic"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        nix::unistd::mkfifo(&root.join("fifo"), Mode::S_IRWXU).unwrap();
        let root = RootDir::open_host(&root).unwrap();
        (dir, root)
    }

    #[test]
    fn both_ways_of_resolving_agree_and_stay_inside() {
        let (_dir, root) = sample();
        let read = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        for (path, flags, expected) in [
            ("secret", read, Ok("inside")),
            ("/secret", read, Ok("inside")),
            ("../secret", read, Ok("inside")),
            ("etc/../../../secret", read, Ok("inside")),
            ("absolute", read, Ok("inside")),
            ("etc/up", read, Ok("inside")),
            ("etc/round", read, Ok("file")),
            ("dir/file", read, Ok("file")),
            ("etc/top/etc/top/secret", read, Ok("inside")),
            ("./etc//file", read, Ok("file")),
            ("", read, Err(Errno::ENOENT)),
            ("loop", read, Err(Errno::ELOOP)),
            ("loop/x", read, Err(Errno::ELOOP)),
            ("dangling", read, Err(Errno::ENOENT)),
            ("magic", read, Err(Errno::ENOENT)),
            ("secret/x", read, Err(Errno::ENOTDIR)),
            ("etc/file/", read, Err(Errno::ENOTDIR)),
            ("absolute", read | OFlag::O_NOFOLLOW, Err(Errno::ELOOP)),
            ("dir/file", read | OFlag::O_NOFOLLOW, Ok("file")),
            ("a\0b", read, Err(Errno::EINVAL)),
        ] {
            let content = |fd| io::read_to_string(File::from(fd)).unwrap();
            let walked = root.walk(Path::new(path), flags).map(content);
            assert_eq!(walked.as_deref(), expected.as_ref().map(|text| *text), "walk {path:?}");
            let opened = root.open(path, flags).map(content).map_err(|err| err.errno);
            let expected = expected.map(str::to_owned).map_err(|errno| errno as i32);
            assert_eq!(opened, expected, "open {path:?}");
        }
    }

    #[test]
    fn the_root_itself_can_be_opened() {
        let (_dir, root) = sample();
        let inode = |fd| File::from(fd).metadata().unwrap().ino();
        let itself = fstat(&root).unwrap().st_ino;
        for path in ["/", ".", "..", "etc/..", "etc/top", "/../.."] {
            for flags in [OFlag::O_PATH, OFlag::O_RDONLY | OFlag::O_DIRECTORY] {
                assert_eq!(inode(root.open(path, flags).unwrap()), itself, "{path}");
                assert_eq!(inode(root.walk(Path::new(path), flags).unwrap()), itself, "{path}");
            }
        }
    }

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let (_dir, root) = sample();
        assert_eq!(root.read_file("absolute", 6).unwrap(), b"inside");
        for (path, limit, kind, word) in [
            ("secret", 5, ErrorKind::Malformed, "longer than 5 bytes"),
            ("fifo", 5, ErrorKind::Malformed, "not a regular file"),
            ("etc", 5, ErrorKind::Malformed, "not a regular file"),
            ("dangling", 5, ErrorKind::NotFound, "dangling"),
            ("loop", 5, ErrorKind::SafetyViolation, "loop"),
        ] {
            let err = root.read_file(path, limit).unwrap_err();
            assert_eq!(err.kind(), kind, "{err:?}");
            assert!(err.to_string().contains(word), "{err}");
        }
        assert!(root.open("new", OFlag::O_CREAT | OFlag::O_WRONLY).is_err());
    }
}
