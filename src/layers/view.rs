//! The tree that a container sees, looked into from outside.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, readlinkat};
use nix::sys::stat::{FileStat, SFlag, fstat};

use super::access::Access;
use super::cursor::{file_type, is_directory, is_kernels};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::namespaces::UserNamespace;

/// As the kernel: symbolic links followed in one resolution.
const MAX_LINKS: usize = 40;

/// A root directory, and what counts as mounted below it.
///
/// Paths are resolved one name at a time from descriptor to descriptor: links are read and followed here, those of /proc as
/// the text that they show, and lead nowhere but into the tree, whatever its processes do to it meanwhile.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) root: Branch,
    pub(crate) mounts: Vec<Mounted>,
}

/// A tree of files that have the same owner of ids.
#[derive(Debug)]
pub(crate) struct Branch {
    /// Open with `O_PATH`.
    pub(crate) directory: OwnedFd,
    /// Whose ids the files have, if not the host's.
    pub(crate) users: Option<UserNamespace>,
    /// Why nothing may be written.
    pub(crate) read_only: Option<&'static str>,
}

/// What the container will have mounted when it runs.
#[derive(Debug)]
pub(crate) struct Mounted {
    /// Where, without a leading slash, and without links.
    pub(crate) target: Vec<u8>,
    /// What, or why it is not there.
    pub(crate) source: std::result::Result<Source, String>,
}

/// The directory, or the file in it if it has a name.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) branch: Branch,
    pub(crate) file: Option<Vec<u8>>,
}

/// Where a path leads.
#[derive(Debug)]
pub(crate) struct Spot {
    /// The directory that it lies in, open with `O_PATH`; or itself, by the name `.`.
    pub(crate) directory: OwnedFd,
    pub(crate) name: Vec<u8>,
    pub(crate) users: Option<UserNamespace>,
    pub(crate) read_only: Option<&'static str>,
    /// Unless there is nothing of this name in the directory.
    pub(crate) found: Option<FileStat>,
}

impl Spot {
    pub(crate) fn is_directory(&self) -> bool {
        self.found.is_some_and(|stat| is_directory(&stat))
    }

    pub(crate) fn is_file(&self) -> bool {
        self.found.is_some_and(|stat| file_type(&stat) == SFlag::S_IFREG)
    }

    /// The directory itself that it is.
    pub(crate) fn open(&self) -> Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        Access(self.users.as_ref())
            .open(&self.directory, OsStr::from_bytes(&self.name), flags)
            .context(|| "open the directory")
    }
}

/// A name that a path has led through.
struct Passed<'v> {
    name: Vec<u8>,
    /// None if it is missing, or something else at the end of the path.
    directory: Option<(OwnedFd, &'v Branch)>,
}

/// What a path has led through, without links, and what is at its end if that is no directory.
type Way<'v> = (Vec<Passed<'v>>, Option<Spot>);

/// What becomes of names that are not there, but for the last.
#[derive(Clone, Copy, PartialEq)]
enum Missing {
    Fails,
    Stays,
}

impl View {
    /// Looks a path up. A link at its end is followed if `follow`, or if the path ends in a slash; the last name may be missing.
    ///
    /// # Errors
    ///
    /// `NotFound`, `InvalidInput` where a file is in the way, `SafetyViolation` for links in a circle, `Unsupported` on file systems of the kernel such as
    /// proc.
    pub(crate) fn find(&self, path: &Path, follow: bool) -> Result<Spot> {
        let path_bytes = path.as_os_str().as_bytes();
        let found = self.walk(path_bytes, follow, Missing::Fails).and_then(|(mut passed, end)| {
            match (end, passed.pop().and_then(|step| step.directory)) {
                (Some(end), _) => Ok(end),
                (None, Some((directory, branch))) => spot(directory, b".".to_vec(), branch),
                (None, None) => spot(duplicate(&self.root.directory)?, b".".to_vec(), &self.root),
            }
        });
        found.context(|| resolving(path))
    }

    /// The path that one leads to, through no link and with a leading slash. Of what is missing the names stay.
    ///
    /// # Errors
    ///
    /// Those of [`find`](Self::find).
    pub(crate) fn resolve(&self, path: &Path) -> Result<PathBuf> {
        // A slash at its end says nothing.
        let path_bytes = path.components().as_path().as_os_str().as_bytes();
        let way = self.walk(path_bytes, true, Missing::Stays).context(|| resolving(path))?;
        Ok(Path::new("/").join(OsStr::from_bytes(&path_of(&way.0))))
    }

    fn walk(&self, path: &[u8], follow: bool, missing: Missing) -> Result<Way<'_>> {
        let directory_meant = path.ends_with(b"/") || path.ends_with(b"/.");
        let mut passed: Vec<Passed<'_>> = Vec::new();
        let mut ahead = names(path);
        let (mut end, mut links) = (None, 0);
        while let Some(name) = ahead.pop_front() {
            if name == b".." {
                passed.pop();
                continue;
            }
            let last = ahead.is_empty();
            let above = match passed.last() {
                Some(step) => {
                    step.directory.as_ref().map(|(directory, branch)| (directory, *branch))
                }
                None => Some((&self.root.directory, &self.root)),
            };
            let Some((here, branch)) = above else {
                passed.push(Passed { name, directory: None });
                continue;
            };
            if let Some(mount) = self.mounted(&passed, &name) {
                let Source { branch, file } = mount.source.as_ref().map_err(|why| {
                    Error::new(ErrorKind::InvalidState, why.clone()).context(shown(&name))
                })?;
                let source = duplicate(&branch.directory)?;
                let directory = match file {
                    None => Some((source, branch)),
                    Some(file) if last && !directory_meant => {
                        end = Some(spot(source, file.clone(), branch)?);
                        None
                    }
                    Some(_) => return Err(Errno::ENOTDIR).context(|| shown(&name)),
                };
                passed.push(Passed { name, directory });
                continue;
            }
            let access = Access(branch.users.as_ref());
            let found = match access.open(here, OsStr::from_bytes(&name), OFlag::O_PATH) {
                Err(Errno::ENOENT) if last || missing == Missing::Stays => {
                    end = Some(spot(duplicate(here)?, name.clone(), branch)?);
                    passed.push(Passed { name, directory: None });
                    continue;
                }
                found => found.context(|| shown(&name))?,
            };
            let stat = fstat(&found).context(|| shown(&name))?;
            let directory = match file_type(&stat) {
                SFlag::S_IFLNK if !last || follow || directory_meant => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::ELOOP).context(|| shown(&name));
                    }
                    let target = readlinkat(&found, "").context(|| shown(&name))?.into_vec();
                    if target.starts_with(b"/") {
                        passed.clear();
                    }
                    let mut way = names(&target);
                    way.append(&mut ahead);
                    ahead = way;
                    continue;
                }
                SFlag::S_IFDIR => {
                    if is_kernels(&found)? {
                        let message = "it is on a file system of the kernel, such as proc";
                        return Err(Error::unsupported(message)
                            .with_hint("what is there are no files: read it with a program in the container")
                            .context(shown(&name)));
                    }
                    Some((found, branch))
                }
                _ if last && !directory_meant => {
                    end = Some(spot(duplicate(here)?, name.clone(), branch)?);
                    None
                }
                _ => return Err(Errno::ENOTDIR).context(|| shown(&name)),
            };
            passed.push(Passed { name, directory });
        }
        Ok((passed, end))
    }

    fn mounted(&self, passed: &[Passed<'_>], name: &[u8]) -> Option<&Mounted> {
        if self.mounts.is_empty() {
            return None;
        }
        let path = [path_of(passed).as_slice(), name].join(&b'/');
        let path = path.strip_prefix(b"/").unwrap_or(&path);
        self.mounts.iter().rev().find(|mount| mount.target == path)
    }
}

fn path_of(passed: &[Passed<'_>]) -> Vec<u8> {
    passed.iter().map(|step| step.name.as_slice()).collect::<Vec<_>>().join(&b'/')
}

fn spot(directory: OwnedFd, name: Vec<u8>, branch: &Branch) -> Result<Spot> {
    let users = branch.users.clone();
    let found = match Access(users.as_ref()).stat(&directory, OsStr::from_bytes(&name)) {
        Ok(stat) => Some(stat),
        Err(Errno::ENOENT) => None,
        Err(errno) => return Err(errno).context(|| shown(&name)),
    };
    Ok(Spot { directory, name, users, read_only: branch.read_only, found })
}

/// The names of a path that mean something.
pub(crate) fn names(path: &[u8]) -> VecDeque<Vec<u8>> {
    path.split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

fn resolving(path: &Path) -> String {
    format!("find {} in the container", Path::new("/").join(path).display())
}

fn shown(name: &[u8]) -> String {
    format!("look up {}", name.escape_ascii())
}

fn duplicate(fd: &OwnedFd) -> Result<OwnedFd> {
    fd.try_clone().context(|| "duplicate a descriptor")
}
