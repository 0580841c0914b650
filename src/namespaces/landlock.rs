//! Landlock: a process gives up access to files, ports and other processes.

use std::ffi::CString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::spawner::PATH_MAX;
use crate::error::{Error, Result};
use crate::sys::landlock::{RulesetAttr, abi};

bitflags::bitflags! {
    /// What can be done with files, for [`Landlock::rule`]; see `landlock(7)`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct FsAccess: u64 {
        /// Execute a file.
        const EXECUTE = 1 << 0;
        /// Open a file for writing.
        const WRITE_FILE = 1 << 1;
        /// Open a file for reading.
        const READ_FILE = 1 << 2;
        /// List a directory.
        const READ_DIR = 1 << 3;
        /// Remove or rename an empty directory.
        const REMOVE_DIR = 1 << 4;
        /// Remove or rename a file.
        const REMOVE_FILE = 1 << 5;
        /// Make a character device.
        const MAKE_CHAR = 1 << 6;
        /// Make a directory.
        const MAKE_DIR = 1 << 7;
        /// Make a regular file.
        const MAKE_REG = 1 << 8;
        /// Make a UNIX socket.
        const MAKE_SOCK = 1 << 9;
        /// Make a named pipe.
        const MAKE_FIFO = 1 << 10;
        /// Make a block device.
        const MAKE_BLOCK = 1 << 11;
        /// Make a symbolic link.
        const MAKE_SYM = 1 << 12;
        /// Link or rename from one directory to another (Linux 5.19; before, always denied).
        const REFER = 1 << 13;
        /// Cut a file short (Linux 6.2; before, never denied).
        const TRUNCATE = 1 << 14;
        /// Control a device with `ioctl` (Linux 6.10; before, never denied).
        const IOCTL_DEV = 1 << 15;
    }
}

impl FsAccess {
    /// Read files and list directories.
    pub const READ: Self = Self::READ_FILE.union(Self::READ_DIR);

    /// [`READ`](Self::READ), and execute.
    pub const READ_EXECUTE: Self = Self::READ.union(Self::EXECUTE);

    /// All but execute files and make device nodes.
    pub const READ_WRITE: Self = Self::all()
        .difference(Self::EXECUTE)
        .difference(Self::MAKE_CHAR)
        .difference(Self::MAKE_BLOCK);

    /// What makes sense for something that is not a directory; the kernel refuses a rule with more.
    const FILE: Self = Self::EXECUTE
        .union(Self::WRITE_FILE)
        .union(Self::READ_FILE)
        .union(Self::TRUNCATE)
        .union(Self::IOCTL_DEV);

    /// What a version of the kernel's interface can deny.
    fn known_to(abi: u32) -> Self {
        let mut known = Self::all();
        for (since, right) in [(2, Self::REFER), (3, Self::TRUNCATE), (5, Self::IOCTL_DEV)] {
            if abi < since {
                known.remove(right);
            }
        }
        if abi == 0 { Self::empty() } else { known }
    }
}

impl fmt::Display for FsAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, _)) in self.iter_names().enumerate() {
            write!(f, "{}{}", if i == 0 { "" } else { ", " }, name.to_lowercase())?;
        }
        Ok(())
    }
}

const BIND_TCP: u64 = 1 << 0;
const CONNECT_TCP: u64 = 1 << 1;
/// The version that brought TCP ports.
const NET_ABI: u32 = 4;

const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1 << 0;
const SCOPE_SIGNAL: u64 = 1 << 1;
/// The version that brought scopes.
const SCOPE_ABI: u32 = 6;

/// Access that a process, and all its children, keep; everything else of the kind is denied.
///
/// The first rule for a path denies all other access to files, the first for a port that use of all other TCP
/// ports. Access through descriptors that are open already stays. Paths are those the new process sees, inside its
/// root; each rule covers what is beneath. Rules for one path add up. The program itself, its loader and libraries need
/// [`read_execute`](Self::read_execute).
///
/// ```
/// use coracle::namespaces::Landlock;
///
/// Landlock::new().read_execute("/usr").read("/etc").read_write("/tmp").tcp_connect(443);
/// ```
///
/// Needs Linux 5.13, and later ones for some rights (see [`FsAccess`]; TCP ports 6.7; scopes 6.12). If the kernel
/// cannot deny all that was asked for, spawning fails, unless [`best_effort`](Self::best_effort) says to go on.
/// Only TCP is restricted, neither UDP nor other protocols.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Landlock {
    /// What is denied without a rule; `None` for all there is, if there is a rule.
    files: Option<FsAccess>,
    paths: Vec<(PathBuf, FsAccess)>,
    tcp: u64,
    ports: Vec<(u16, u64)>,
    scoped: u64,
    best_effort: bool,
}

/// What the child does: create a ruleset, add the rules, restrict itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LandlockPlan {
    pub(crate) ruleset: RulesetAttr,
    pub(crate) paths: Vec<LandlockPath>,
    /// Port and access.
    pub(crate) ports: Vec<(u16, u64)>,
}

/// To be opened with `O_PATH` in the new root, not through magic links, which may lead out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LandlockPath {
    pub(crate) path: CString,
    pub(crate) access: u64,
    /// What is left of it if the path is not a directory: the kernel answers EINVAL to more.
    pub(crate) file_access: u64,
}

impl Landlock {
    /// No restriction yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows to read files and list directories.
    #[must_use]
    pub fn read(self, path: impl AsRef<Path>) -> Self {
        self.rule(path, FsAccess::READ)
    }

    /// Allows to read, list and execute.
    #[must_use]
    pub fn read_execute(self, path: impl AsRef<Path>) -> Self {
        self.rule(path, FsAccess::READ_EXECUTE)
    }

    /// Allows everything but to execute and to make device nodes.
    #[must_use]
    pub fn read_write(self, path: impl AsRef<Path>) -> Self {
        self.rule(path, FsAccess::READ_WRITE)
    }

    /// Allows `access` to a file, or to everything beneath a directory.
    #[must_use]
    pub fn rule(mut self, path: impl AsRef<Path>, access: FsAccess) -> Self {
        self.paths.push((path.as_ref().to_owned(), access));
        self
    }

    /// Denies only these kinds of access where no rule allows them, rather than all; also without any rule.
    #[must_use]
    pub fn restrict_files(mut self, access: FsAccess) -> Self {
        self.files = Some(access);
        self
    }

    /// Denies to bind and to connect TCP sockets where no rule allows it; also without any rule.
    #[must_use]
    pub fn restrict_tcp(mut self) -> Self {
        self.tcp |= BIND_TCP | CONNECT_TCP;
        self
    }

    /// Allows to bind a TCP socket to this port, and to no port without such a rule. 0 stands for one that the
    /// kernel picks.
    #[must_use]
    pub fn tcp_bind(mut self, port: u16) -> Self {
        self.tcp |= BIND_TCP;
        self.ports.push((port, BIND_TCP));
        self
    }

    /// Allows to connect a TCP socket to this port, and to no port without such a rule.
    #[must_use]
    pub fn tcp_connect(mut self, port: u16) -> Self {
        self.tcp |= CONNECT_TCP;
        self.ports.push((port, CONNECT_TCP));
        self
    }

    /// Denies to connect to abstract UNIX sockets of processes that are not restricted in the same way
    /// (Linux 6.12).
    #[must_use]
    pub fn scope_abstract_sockets(mut self) -> Self {
        self.scoped |= SCOPE_ABSTRACT_UNIX_SOCKET;
        self
    }

    /// Denies to send signals to processes that are not restricted in the same way (Linux 6.12).
    #[must_use]
    pub fn scope_signals(mut self) -> Self {
        self.scoped |= SCOPE_SIGNAL;
        self
    }

    /// Whether to go on, with less restriction, where the kernel cannot deny all that was asked for; without
    /// Landlock, with none.
    #[must_use]
    pub fn best_effort(mut self, yes: bool) -> Self {
        self.best_effort = yes;
        self
    }

    /// What the child has to do on this kernel; `None` if nothing.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a path that cannot be meant, `Unsupported` if the kernel cannot deny all.
    pub(crate) fn compile(&self) -> Result<Option<LandlockPlan>> {
        self.compile_for(abi())
    }

    fn compile_for(&self, abi: u32) -> Result<Option<LandlockPlan>> {
        // What cannot be meant is said first, whatever the kernel can do.
        let rules = self.compile_paths()?;
        let default = if self.paths.is_empty() { FsAccess::empty() } else { FsAccess::all() };
        let files = self.files.unwrap_or(default);
        if files.is_empty() && self.tcp == 0 && self.scoped == 0 {
            return Ok(None);
        }
        if abi == 0 {
            return if self.best_effort {
                Ok(None)
            } else {
                Err(Error::unsupported("Landlock is not available on this kernel").with_hint(
                    "it needs Linux 5.13 with `landlock` in the lsm= list; best_effort(true) goes without",
                ))
            };
        }
        let handled = files & FsAccess::known_to(abi);
        if !self.best_effort {
            self.require(abi, files)?;
        }
        let plan = LandlockPlan {
            ruleset: RulesetAttr {
                handled_access_fs: handled.bits(),
                handled_access_net: if abi < NET_ABI { 0 } else { self.tcp },
                scoped: if abi < SCOPE_ABI { 0 } else { self.scoped },
            },
            paths: rules.into_iter().filter_map(|rule| rule.of(handled)).collect(),
            ports: if abi < NET_ABI { Vec::new() } else { self.ports.clone() },
        };
        Ok((plan.ruleset != RulesetAttr::default()).then_some(plan))
    }

    /// # Errors
    ///
    /// `Unsupported`, naming what this version cannot deny.
    fn require(&self, abi: u32, files: FsAccess) -> Result<()> {
        let mut missing = files - FsAccess::known_to(abi);
        // Without support for it the kernel always denies REFER: only who grants it misses something.
        if !self.paths.iter().any(|(_, access)| access.contains(FsAccess::REFER)) {
            missing.remove(FsAccess::REFER);
        }
        let what = if !missing.is_empty() {
            missing.to_string()
        } else if self.tcp != 0 && abi < NET_ABI {
            "TCP ports".to_owned()
        } else if self.scoped != 0 && abi < SCOPE_ABI {
            "abstract sockets and signals".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::unsupported(format!(
            "Landlock version {abi} of this kernel has no control over {what}"
        ))
        .with_hint("restrict_files(..) asks for less, best_effort(true) takes what there is"))
    }

    fn compile_paths(&self) -> Result<Vec<LandlockPath>> {
        let mut paths = Vec::with_capacity(self.paths.len());
        for (path, access) in &self.paths {
            let invalid =
                |why: String| Error::invalid(format!("Landlock rule for {path:?}: {why}"));
            if !path.is_absolute() {
                return Err(invalid("the path is relative".into())
                    .with_hint("paths are those inside the new process's root"));
            }
            if access.is_empty() {
                return Err(invalid("it allows nothing".into()));
            }
            let length = path.as_os_str().len();
            if length >= PATH_MAX {
                return Err(invalid(format!(
                    "{length} bytes, and a path has less than {PATH_MAX}"
                )));
            }
            let path = CString::new(path.as_os_str().as_bytes())
                .map_err(|_| invalid("the path has a NUL in it".into()))?;
            let file_access = (*access & FsAccess::FILE).bits();
            paths.push(LandlockPath { path, access: access.bits(), file_access });
        }
        Ok(paths)
    }
}

impl LandlockPath {
    /// What is left of the rule where only `handled` is denied: the kernel refuses rules for more.
    fn of(self, handled: FsAccess) -> Option<Self> {
        let access = self.access & handled.bits();
        let file_access = self.file_access & handled.bits();
        (access != 0).then_some(Self { access, file_access, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn plan(landlock: &Landlock, abi: u32) -> LandlockPlan {
        landlock.compile_for(abi).unwrap().unwrap()
    }

    #[test]
    fn rights_by_version_are_those_of_the_kernels_documentation() {
        for (abi, mask) in [
            (0, 0),
            (1, 0x1fff),
            (2, 0x3fff),
            (3, 0x7fff),
            (4, 0x7fff),
            (5, 0xffff),
            (6, 0xffff),
            (9, 0xffff),
        ] {
            assert_eq!(FsAccess::known_to(abi).bits(), mask, "version {abi}");
        }
    }

    #[test]
    fn the_first_rule_denies_everything_else_of_its_kind() {
        assert_eq!(Landlock::new().compile_for(6).unwrap(), None);
        let read = plan(&Landlock::new().read("/usr"), 6);
        assert_eq!(
            read.ruleset,
            RulesetAttr { handled_access_fs: 0xffff, handled_access_net: 0, scoped: 0 }
        );
        assert_eq!(
            read.paths,
            [LandlockPath { path: c"/usr".to_owned(), access: 0b1100, file_access: 0b100 }]
        );
        let bind = plan(&Landlock::new().tcp_bind(80), 6);
        assert_eq!((bind.ruleset.handled_access_fs, bind.ruleset.handled_access_net), (0, 1));
        assert_eq!(bind.ports, [(80, 1)]);
        let connect = plan(&Landlock::new().tcp_connect(443), 6);
        assert_eq!((connect.ruleset.handled_access_net, &connect.ports[..]), (2, &[(443, 2)][..]));
        let tcp = plan(&Landlock::new().restrict_tcp(), 4);
        assert_eq!((tcp.ruleset.handled_access_net, tcp.ports.len()), (3, 0));
        let scoped = plan(&Landlock::new().scope_signals().scope_abstract_sockets(), 6);
        assert_eq!(scoped.ruleset.scoped, 3);
        let nothing = plan(&Landlock::new().restrict_files(FsAccess::all()), 6);
        assert_eq!((nothing.ruleset.handled_access_fs, nothing.paths.len()), (0xffff, 0));
    }

    #[test]
    fn access_that_is_not_denied_needs_no_rule() {
        let landlock = Landlock::new()
            .restrict_files(FsAccess::WRITE_FILE | FsAccess::READ_FILE)
            .read("/a")
            .rule("/b", FsAccess::EXECUTE)
            .read_write("/c");
        let plan = plan(&landlock, 6);
        assert_eq!(plan.ruleset.handled_access_fs, 0b110);
        let paths: Vec<_> =
            plan.paths.iter().map(|p| (p.path.to_str().unwrap(), p.access)).collect();
        assert_eq!(paths, [("/a", 0b100), ("/c", 0b110)]);
    }

    #[test]
    fn what_the_kernel_cannot_deny_is_an_error_or_best_effort() {
        let files = Landlock::new().read("/usr");
        let moves = Landlock::new()
            .restrict_files(FsAccess::WRITE_FILE | FsAccess::REFER)
            .rule("/tmp", FsAccess::REFER);
        let tcp = Landlock::new().tcp_bind(80);
        let scope = Landlock::new().scope_signals();
        for (landlock, abi, named) in [
            (&files, 0, "not available"),
            (&files, 1, "control over truncate, ioctl_dev"),
            (&files, 2, "version 2 of this kernel has no control over truncate, ioctl_dev"),
            (&files, 4, "control over ioctl_dev"),
            (&moves, 1, "control over refer"),
            (&tcp, 3, "TCP ports"),
            (&scope, 5, "abstract sockets and signals"),
        ] {
            let err = landlock.compile_for(abi).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Unsupported);
            assert!(err.to_string().contains(named), "{err}");
            assert!(err.hint().unwrap().contains("best_effort"));
            assert!(landlock.clone().best_effort(true).compile_for(abi).is_ok());
        }
        // A kernel that always denies what was to be denied does as asked.
        let no_moves = Landlock::new().restrict_files(FsAccess::WRITE_FILE | FsAccess::REFER);
        assert_eq!(plan(&no_moves, 1).ruleset.handled_access_fs, 0b10);

        let best =
            Landlock::new().read_write("/tmp").tcp_bind(80).scope_signals().best_effort(true);
        let old = plan(&best, 1);
        assert_eq!(
            old.ruleset,
            RulesetAttr { handled_access_fs: 0x1fff, handled_access_net: 0, scoped: 0 }
        );
        assert_eq!(old.paths[0].access & !0x1fff, 0);
        assert!(old.ports.is_empty());
        assert_eq!(best.compile_for(0).unwrap(), None);
        assert_eq!(tcp.best_effort(true).compile_for(3).unwrap(), None);
    }

    #[test]
    fn paths_that_cannot_be_meant_are_named() {
        for (landlock, expected) in [
            (Landlock::new().read("usr"), "\"usr\": the path is relative"),
            (Landlock::new().read(""), "\"\": the path is relative"),
            (Landlock::new().read("/a\0b"), "\"/a\\0b\": the path has a NUL"),
            (Landlock::new().rule("/a", FsAccess::empty()), "allows nothing"),
            (Landlock::new().read("/long".repeat(820)), "/long"),
            (Landlock::new().read("/long".repeat(820)), "4100 bytes"),
        ] {
            // Whatever the kernel can deny.
            for abi in [0, 2, 6] {
                for landlock in [landlock.clone(), landlock.clone().best_effort(true)] {
                    let err = landlock.compile_for(abi).unwrap_err();
                    assert_eq!(err.kind(), ErrorKind::InvalidInput);
                    assert!(err.to_string().contains(expected), "{err}");
                }
            }
        }
        let longest = Landlock::new().read("/long".repeat(819));
        assert_eq!(plan(&longest, 6).paths[0].path.count_bytes(), 4095);
    }

    #[test]
    fn ready_made_sets() {
        assert_eq!(FsAccess::READ.to_string(), "read_file, read_dir");
        assert!(
            !FsAccess::READ_WRITE
                .intersects(FsAccess::EXECUTE | FsAccess::MAKE_CHAR | FsAccess::MAKE_BLOCK)
        );
        assert!(
            FsAccess::READ_WRITE
                .contains(FsAccess::REFER | FsAccess::TRUNCATE | FsAccess::MAKE_REG)
        );
    }
}
