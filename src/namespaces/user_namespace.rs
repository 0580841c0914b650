//! User namespaces, made and mapped ahead of the processes that run in them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::unistd::{getegid, geteuid};

use super::id_map::{IdExtent, IdMap, format_extents, parse_extents};
use super::id_range::{self, IdRange};
use super::{Command, subordinate};
use crate::error::{Context, Error, ErrorKind, Result, SyscallError};
use crate::sys::dumpable::Dumpable;
use crate::sys::user_namespace::{
    Holder, effective_capabilities, in_initial_user_namespace, is_user_namespace,
};

/// Numbers of capabilities(7).
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SETFCAP: u32 = 31;

/// A user namespace with its [`IdMap`], for any number of processes to run in. See user_namespaces(7).
///
/// The value is a handle on the namespace, which exists as long as a handle or a process in it does; clones
/// are handles on the same one. It can be made ahead and used again: two containers that share a user
/// namespace share their ids, though.
///
/// ```no_run
/// use coracle::namespaces::{IdMap, UserNamespace};
///
/// # fn main() -> coracle::Result<()> {
/// let own = UserNamespace::automatic()?;
/// let fixed = UserNamespace::new(&IdMap::range(100_000, 65_536))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct UserNamespace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    map: Option<IdMap>,
    denies_setgroups: bool,
    /// Keeps the ids from being given to another namespace.
    _range: Option<IdRange>,
}

impl UserNamespace {
    /// Makes a user namespace with the ids of `map`.
    ///
    /// A caller with `CAP_SETUID` and `CAP_SETGID` may map any ids it has itself. Others may map their own
    /// effective ids ([`IdMap::single`]), and those granted to them in /etc/subuid and /etc/subgid if the
    /// programs newuidmap and newgidmap are installed.
    ///
    /// # Errors
    /// `InvalidInput` if the map is empty, overlaps or is too long, `PermissionDenied` if the caller may not
    /// have one of its ids, `ResourceExhausted` if the kernel's limit on user namespaces
    /// (/proc/sys/user/max_user_namespaces) is reached. The hint tells known causes apart.
    pub fn new(map: &IdMap) -> Result<Self> {
        Ok(Self::make(map, None)?.0)
    }

    /// Makes a user namespace with ids chosen for the caller.
    ///
    /// - A caller that may map any ids, such as root, gets 65,536 ids that no other process with the same
    ///   /run gets meanwhile, between 0x4000_0000 and 0x7ffe_0000 and outside what /etc/subuid and
    ///   /etc/subgid grant. They are locked through a file in /run/coracle for as long as a handle exists.
    ///   A caller that does not have such ids, because it runs in a user namespace itself, gets all the ids
    ///   it does have, as themselves.
    /// - Others get what rootless tools give them: root inside is the caller, and the ids from 1 on are
    ///   those granted to the caller in /etc/subuid and /etc/subgid. All containers of the user share them.
    /// - Where nothing is granted, newuidmap or newgidmap is not installed, or the caller runs with
    ///   `no_new_privs`, it is [`IdMap::single`].
    ///
    /// [`map`](Self::map) tells which it was.
    ///
    /// # Errors
    /// As [`new`](Self::new); `ResourceExhausted` if all ranges are in use, and `PermissionDenied` if
    /// /run/coracle cannot be made or belongs to another user.
    pub fn automatic() -> Result<Self> {
        Ok(Self::automatic_ahead()?.0)
    }

    /// As [`automatic`](Self::automatic), but the process that served to make it may still be there: it is
    /// gone when the second value is dropped.
    pub(crate) fn automatic_ahead() -> Result<(Self, Holder)> {
        if !may_map_any() {
            let map = subordinate::caller_map().unwrap_or_else(IdMap::single);
            return Self::make(&map, None);
        }
        let own = if in_initial_user_namespace() {
            every_id()
        } else {
            own_map().context(|| "read the id map of this process")?
        };
        match IdRange::allocate(&own)? {
            Some(range) => Self::make(&IdMap::range(range.base(), id_range::LENGTH), Some(range)),
            None => Self::make(&identity(&own), None),
        }
    }

    /// Opens an existing user namespace: `/proc/PID/ns/user`, or wherever one is bind-mounted.
    ///
    /// The map is known only in the first case.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied` if the caller may not trace the process, `InvalidInput` if it is
    /// another kind of file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let attempt = || format!("open user namespace {}", path.display());
        let process = path.ends_with("ns/user").then(|| path.ancestors().nth(2)).flatten();
        if let Some(process) = process {
            return Self::open_of_process(process).context(attempt);
        }
        let file = std::fs::File::open(path).context(attempt)?;
        Self::from_fd(file).context(attempt)
    }

    /// Takes a descriptor of a user namespace, however it came here. Its map stays unknown.
    ///
    /// # Errors
    /// `InvalidInput` if it is another kind of file.
    pub fn from_fd(fd: impl Into<OwnedFd>) -> Result<Self> {
        Self::with(fd.into(), None, false, None)
    }

    fn open_of_process(directory: &Path) -> Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        // A descriptor on the process's directory cannot come to mean another process.
        let process = open(directory, flags, Mode::empty())
            .context(|| format!("open {}", directory.display()))?;
        let file = |name: &str| {
            openat(&process, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
                .map(File::from)
                .context(|| format!("open {}/{name}", directory.display()))
        };
        let read = |name: &str| file(name).ok().and_then(|file| io::read_to_string(file).ok());
        let namespace = file("ns/user")?;
        let extents = |name: &str| parse_extents(&read(name)?);
        let map = extents("uid_map")
            .zip(extents("gid_map"))
            .map(|(uids, gids)| IdMap::from_extents(uids, gids));
        let denies_setgroups = read("setgroups").is_some_and(|text| text.trim() == "deny");
        // It may have entered another namespace before the maps were read.
        let inode = |file: &File| file.metadata().map(|m| m.ino()).ok();
        if file("ns/user").ok().and_then(|again| inode(&again)) != inode(&namespace) {
            return Self::from_fd(namespace);
        }
        Self::with(namespace.into(), map, denies_setgroups, None)
    }

    fn with(
        fd: OwnedFd,
        map: Option<IdMap>,
        denies_setgroups: bool,
        range: Option<IdRange>,
    ) -> Result<Self> {
        if !is_user_namespace(&fd).context(|| "ask for the kind of a namespace")? {
            return Err(Error::invalid("the file is not a user namespace"));
        }
        Ok(Self(Arc::new(Inner { fd, map, denies_setgroups, _range: range })))
    }

    /// Which ids it has, if that is known.
    pub fn map(&self) -> Option<&IdMap> {
        self.0.map.as_ref()
    }

    /// Whether processes inside are known to be unable to change their supplementary groups.
    pub(crate) fn denies_setgroups(&self) -> bool {
        self.0.denies_setgroups
    }

    fn make(map: &IdMap, range: Option<IdRange>) -> Result<(Self, Holder)> {
        map.validate()?;
        let attempt = || format!("make a user namespace with {map}");
        let mut holder = Holder::spawn()
            .context(|| "clone into a new user namespace")
            .map_err(explain_clone)
            .context(attempt)?;
        let (fd, denies_setgroups) = write_map(&holder, map).context(attempt)?;
        holder.kill();
        let inner = Inner { fd, map: Some(map.clone()), denies_setgroups, _range: range };
        Ok((Self(Arc::new(inner)), holder))
    }
}

/// The descriptor of the namespace: what setns(2), mount_setattr(2) and the like take.
impl AsFd for UserNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

fn has(capability: u32) -> bool {
    effective_capabilities() >> capability & 1 == 1
}

fn may_map_any() -> bool {
    has(CAP_SETUID) && has(CAP_SETGID)
}

/// The id map of the user namespace this process is in.
pub(crate) fn own_map() -> io::Result<IdMap> {
    let extents = |file| -> io::Result<Vec<IdExtent>> {
        parse_extents(&fs::read_to_string(file)?).ok_or_else(|| io::ErrorKind::InvalidData.into())
    };
    Ok(IdMap::from_extents(extents("/proc/self/uid_map")?, extents("/proc/self/gid_map")?))
}

/// What the initial user namespace has.
fn every_id() -> IdMap {
    let all = || vec![IdExtent { inside: 0, outside: 0, count: u32::MAX }];
    IdMap::from_extents(all(), all())
}

/// Every id of `own` as itself.
fn identity(own: &IdMap) -> IdMap {
    let same = |extents: &[IdExtent]| {
        extents.iter().map(|extent| IdExtent { outside: extent.inside, ..*extent }).collect()
    };
    IdMap::from_extents(same(own.uids()), same(own.gids()))
}

/// Maps the namespace of `holder` and opens it. Returns also whether it denies setgroups.
fn write_map(holder: &Holder, map: &IdMap) -> Result<(OwnedFd, bool)> {
    let pid = holder.pid();
    // While another thread's spawn holds the dumpable flag at 0, only root may touch the child's files.
    let _undisturbed = if geteuid().is_root() && has(CAP_SYS_PTRACE) {
        None
    } else {
        Some(Dumpable::exclude().context(|| "wait for the dumpable flag")?)
    };
    let direct = may_map_any();
    let single = map.is_only(geteuid().as_raw(), getegid().as_raw());
    if direct || single {
        if !direct {
            // CVE-2014-8989: else a group that is denied something could be dropped.
            write_once(pid, "setgroups", "deny").map_err(|err| explain_write(err, map))?;
        }
        for (file, extents) in [("uid_map", map.uids()), ("gid_map", map.gids())] {
            write_once(pid, file, &format_extents(extents))
                .map_err(|err| explain_write(err, map))?;
        }
    } else {
        for (program, extents) in [("newuidmap", map.uids()), ("newgidmap", map.gids())] {
            run_helper(program, &subordinate::arguments(pid, extents))
                .map_err(|err| explain_helper(err, program))?;
        }
    }
    let namespace = match holder.namespace() {
        Some(namespace) => namespace,
        None => open_file(&format!("/proc/{pid}/ns/user"), false)
            .context(|| "open the new namespace")
            .map_err(|err| explain_write(err, map))?
            .into(),
    };
    // Denied just now, or in the caller's own namespace, which the initial one cannot.
    let denied = !(direct && in_initial_user_namespace())
        && fs::read_to_string(format!("/proc/{pid}/setgroups"))
            .is_ok_and(|text| text.trim() == "deny");
    Ok((namespace, denied))
}

/// The kernel takes these files in one write only.
fn write_once(pid: i32, file: &str, text: &str) -> Result<()> {
    let path = format!("/proc/{pid}/{file}");
    let write = || -> Result<(), SyscallError> {
        let mut file = open_file(&path, true)?;
        let written = loop {
            match file.write(text.as_bytes()) {
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let errno = match written {
            Ok(n) if n == text.len() => return Ok(()),
            Ok(_) => Errno::EIO as i32,
            Err(err) => err.raw_os_error().unwrap_or(0),
        };
        let shown: String = text.chars().take(64).collect();
        let more = if shown.len() < text.len() { "..." } else { "" };
        Err(SyscallError::new(format!("write({path:?}, {shown:?}{more})"), errno))
    };
    write().context(|| format!("write its {file}"))
}

fn open_file(path: &str, write: bool) -> Result<File, SyscallError> {
    File::options().read(!write).write(write).open(path).map_err(|err| {
        let mode = if write { "O_WRONLY" } else { "O_RDONLY" };
        SyscallError::new(format!("open({path:?}, {mode})"), err.raw_os_error().unwrap_or(0))
    })
}

/// Runs newuidmap or newgidmap.
fn run_helper(name: &str, args: &[String]) -> Result<()> {
    let program = subordinate::program(name).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("the program {name} is not installed"))
    })?;
    // This crate's own command: std's cannot tell how it ended where the host ignores SIGCHLD.
    let output = Command::new(&program).args(args).env_clear().current_dir("/").output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(
        ErrorKind::PermissionDenied,
        format!("{} failed, {}: {}", program.display(), output.status, said.trim()),
    ))
}

/// Why the kernel makes no user namespace.
fn explain_clone(err: Error) -> Error {
    let setting = |file: &str| Some(fs::read_to_string(file).ok()?.trim().to_owned());
    match err.raw_os_error().and_then(|errno| clone_hint(errno, setting)) {
        Some((kind, hint)) => err.with_kind(kind).with_hint(hint),
        None => err,
    }
}

fn clone_hint(
    errno: i32,
    setting: impl Fn(&str) -> Option<String>,
) -> Option<(ErrorKind, &'static str)> {
    let is = |file, value| setting(file).is_some_and(|set| set == value);
    Some(match errno {
        libc::ENOSPC | libc::EUSERS if is("/proc/sys/user/max_user_namespaces", "0") => (
            ErrorKind::Unsupported,
            "user namespaces are switched off here: /proc/sys/user/max_user_namespaces is 0",
        ),
        libc::ENOSPC | libc::EUSERS => (
            ErrorKind::ResourceExhausted,
            "the limit in /proc/sys/user/max_user_namespaces, or 32 nested user namespaces, is reached",
        ),
        libc::EPERM if is("/proc/sys/kernel/unprivileged_userns_clone", "0") => (
            ErrorKind::PermissionDenied,
            "only root may make user namespaces here: set the sysctl kernel.unprivileged_userns_clone to 1",
        ),
        libc::EPERM | libc::EACCES
            if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") =>
        {
            (ErrorKind::PermissionDenied, APPARMOR)
        }
        libc::EPERM => (
            ErrorKind::PermissionDenied,
            "the kernel refuses it in a chroot and to ids that the caller's user namespace does not map; \
             a seccomp filter, such as that of a container this runs in, may refuse it as well",
        ),
        libc::EINVAL => (
            ErrorKind::Unsupported,
            "this kernel seems to be built without user namespaces (CONFIG_USER_NS)",
        ),
        _ => return None,
    })
}

const APPARMOR: &str = "AppArmor keeps programs without a profile from using user namespaces: give the program \
     one that allows `userns`, or set the sysctl kernel.apparmor_restrict_unprivileged_userns to 0";

/// Why a map cannot be written.
fn explain_write(err: Error, map: &IdMap) -> Error {
    let restricted = fs::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
        .is_ok_and(|text| text.trim() == "1");
    let facts = WriteFacts {
        dumpable: Dumpable::get() == 1,
        root: geteuid().is_root(),
        restricted,
        maps_root: map.inside_uid(0).is_some() && !has(CAP_SETFCAP),
        extents: map.uids().len().max(map.gids().len()),
    };
    match err.raw_os_error().and_then(|errno| write_hint(errno, &facts)) {
        Some(hint) => err.with_hint(hint),
        None => err,
    }
}

struct WriteFacts {
    dumpable: bool,
    root: bool,
    restricted: bool,
    maps_root: bool,
    extents: usize,
}

fn write_hint(errno: i32, facts: &WriteFacts) -> Option<&'static str> {
    Some(match errno {
        libc::ENOENT => "the host must see its own processes: mount a proc file system on /proc",
        libc::EACCES | libc::EPERM if !facts.dumpable && !facts.root => {
            "this process is not dumpable (PR_SET_DUMPABLE, or its file is not readable), so its \
             children's files in /proc belong to root"
        }
        libc::EPERM if facts.maps_root => {
            "mapping user 0 of the host needs CAP_SETFCAP, which the caller lacks"
        }
        libc::EPERM | libc::EACCES if facts.restricted && !facts.root => APPARMOR,
        libc::EPERM => {
            "every id outside must be one of the caller's own user namespace (/proc/self/uid_map, \
             /proc/self/gid_map)"
        }
        libc::EINVAL if facts.extents > 5 => "before Linux 4.15 a map has at most 5 ranges",
        _ => return None,
    })
}

/// Why a program that maps granted ids fails.
fn explain_helper(err: Error, program: &str) -> Error {
    let (file, ids) = match program {
        "newuidmap" => ("/etc/subuid", "user"),
        _ => ("/etc/subgid", "group"),
    };
    if err.kind() == ErrorKind::NotFound {
        return err.with_hint(
            "mapping more than one's own ids without privilege needs newuidmap and newgidmap \
             (package uidmap or shadow)",
        );
    }
    let mode = subordinate::program(program).and_then(|path| fs::metadata(path).ok());
    if mode.is_some_and(|mode| mode.permissions().mode() & 0o4000 == 0) {
        return err.with_hint(format!(
            "{program} works if it is set-user-ID root or has the file capability for it, and not with \
             no_new_privs; else see that the {ids} ids are granted to the caller in {file}"
        ));
    }
    err.with_hint(format!(
        "the {ids} ids must be the caller's own or granted to the caller in {file}"
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn clone_failures_are_explained_from_the_settings() {
        let with = |file: &'static str, value: &'static str| {
            move |asked: &str| (asked == file).then(|| value.to_owned())
        };
        let hint = |errno, file, value| clone_hint(errno, with(file, value));
        let limit = "/proc/sys/user/max_user_namespaces";
        let debian = "/proc/sys/kernel/unprivileged_userns_clone";
        let ubuntu = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
        for (errno, file, value, kind, word) in [
            (libc::ENOSPC, limit, "0", ErrorKind::Unsupported, "switched off"),
            (libc::ENOSPC, limit, "100", ErrorKind::ResourceExhausted, "limit"),
            (libc::EUSERS, limit, "0", ErrorKind::Unsupported, "switched off"),
            (libc::EPERM, debian, "0", ErrorKind::PermissionDenied, "unprivileged_userns_clone"),
            (libc::EPERM, debian, "1", ErrorKind::PermissionDenied, "chroot"),
            (libc::EPERM, ubuntu, "1", ErrorKind::PermissionDenied, "AppArmor"),
            (libc::EACCES, ubuntu, "1", ErrorKind::PermissionDenied, "AppArmor"),
            (libc::EINVAL, limit, "5", ErrorKind::Unsupported, "CONFIG_USER_NS"),
        ] {
            let (found, hint) = hint(errno, file, value).unwrap();
            assert_eq!(found, kind, "{errno} {file} {value}");
            assert!(hint.contains(word), "{hint}");
        }
        assert_eq!(hint(libc::ENOMEM, limit, "0"), None);
    }

    #[test]
    fn write_failures_are_explained_from_the_facts() {
        let facts = || WriteFacts {
            dumpable: true,
            root: false,
            restricted: false,
            maps_root: false,
            extents: 1,
        };
        for (errno, facts, word) in [
            (libc::ENOENT, facts(), "/proc"),
            (libc::EACCES, WriteFacts { dumpable: false, ..facts() }, "dumpable"),
            (libc::EPERM, WriteFacts { dumpable: false, root: true, ..facts() }, "own user"),
            (libc::EPERM, WriteFacts { maps_root: true, ..facts() }, "CAP_SETFCAP"),
            (libc::EPERM, WriteFacts { restricted: true, ..facts() }, "AppArmor"),
            (libc::EPERM, facts(), "own user namespace"),
            (libc::EINVAL, WriteFacts { extents: 6, ..facts() }, "4.15"),
        ] {
            let hint = write_hint(errno, &facts).unwrap();
            assert!(hint.contains(word), "{hint}");
        }
        assert_eq!(write_hint(libc::EINVAL, &facts()), None);
    }

    #[test]
    fn all_ids_of_the_caller_to_themselves() {
        let own = IdMap::new().uid(0, 1000, 1).uid(1, 100_000, 9).gid(0, 5, 2);
        assert_eq!(identity(&own), IdMap::new().uid(0, 0, 1).uid(1, 1, 9).gid(0, 0, 2));
    }

    /// Without the exclusion an ordinary user's write fails within a moment.
    #[test]
    fn maps_are_written_while_other_threads_hide_the_memory() {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let _hidden = Dumpable::hold_zero().unwrap();
                        thread::yield_now();
                    }
                });
            }
            let made: Result<Vec<_>> =
                (0..100).map(|_| UserNamespace::new(&IdMap::single())).collect();
            done.store(true, Ordering::Relaxed);
            made.unwrap();
        });
    }

    #[test]
    fn the_process_that_served_to_make_it_goes_with_the_second_value() {
        let (namespace, holder) = UserNamespace::automatic_ahead().unwrap();
        let process = format!("/proc/{}", holder.pid());
        drop(holder);
        assert!(!Path::new(&process).exists());
        assert!(is_user_namespace(&namespace.0.fd).unwrap());
    }
}
