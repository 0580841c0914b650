//! A process that another process, or this one's forerunner, has started.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::child::{OnEnd, OwnCgroup, Process, is_ending};
use super::root::Source;
use super::{Child, ExitStatus, Namespaces, Root, UserNamespace};
use crate::cgroups::Cgroup;
use crate::error::{Context, Error, ErrorKind, Result};

impl Child {
    /// A handle on a running process that is no child of this one: to signal it, and to execute others in its namespaces.
    /// It goes on when the handle is dropped. Only Linux 6.15 can tell such a handle how the process ended.
    ///
    /// `pidfd` must be of the process `pid`. Where that ends meanwhile, what is found here is no other's: it is looked up in
    /// its own directory in `/proc`.
    ///
    /// # Errors
    ///
    /// `InvalidState` if it has ended.
    pub(crate) fn adopt(pid: i32, pidfd: OwnedFd, cgroup: Option<&Cgroup>) -> Result<Self> {
        let found = Found::of(Path::new(&format!("/proc/{pid}"))).map_err(|err| {
            // What goes wrong with one on its way out depends on how far it has come, and on who asks.
            match is_ending(pid, &pidfd) {
                true => Error::new(ErrorKind::InvalidState, "it has ended"),
                false => err,
            }
        });
        let Found { name, namespaces, user_namespace, root } =
            found.context(|| format!("look at process {pid}"))?;
        let cgroup = cgroup.map(|cgroup| {
            let oom_kills = cgroup.oom_kills().unwrap_or(0);
            OwnCgroup { cgroup: cgroup.handle(), owned: false, oom_kills }
        });
        Ok(Self {
            stdin: None,
            stdout: None,
            stderr: None,
            terminal: None,
            seccomp_listener: None,
            process: Process {
                pid,
                pidfd,
                program: name.trim_end().to_owned(),
                status: None,
                deadline: None,
                timed_out: false,
                cgroup,
                user_namespace,
                namespaces,
                root: Some(Arc::new(root)),
                _made_of: Root(Source::Host),
                kill_on_drop: false,
                guests: Arc::default(),
                guest: None,
                on_end: None,
            },
        })
    }

    /// Has somebody told how it ended, once this handle knows: when it was waited for, or dropped and so killed.
    pub(crate) fn on_end(&mut self, tell: impl FnOnce(&ExitStatus) + Send + Sync + 'static) {
        self.process.on_end = Some(OnEnd(Box::new(tell)));
    }
}

/// What `/proc` says of a process.
struct Found {
    name: String,
    namespaces: Namespaces,
    /// If it is not this process's own.
    user_namespace: Option<UserNamespace>,
    root: OwnedFd,
}

impl Found {
    fn of(process: &Path) -> Result<Self> {
        let namespaces = namespaces_of(process)?;
        let user_namespace = match namespaces.contains(Namespaces::USER) {
            true => Some(UserNamespace::open(process.join("ns/user"))?),
            false => None,
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(&process.join("root"), flags, Mode::empty())
            .context(|| "open its root directory")?;
        let name = fs::read_to_string(process.join("comm")).context(|| "read its name")?;
        Ok(Self { name, namespaces, user_namespace, root })
    }
}

/// The namespaces that are not this process's own.
fn namespaces_of(process: &Path) -> Result<Namespaces> {
    let inode = |process: &Path, name: &str| -> Result<u64> {
        let path = process.join("ns").join(name);
        let file = File::open(&path).context(|| format!("open {}", path.display()))?;
        Ok(file.metadata().context(|| format!("stat {}", path.display()))?.ino())
    };
    let mut found = Namespaces::empty();
    for (name, kind) in Namespaces::all().file_names() {
        match inode(Path::new("/proc/self"), name) {
            Ok(own) if own != inode(process, name)? => found |= kind,
            Ok(_) => {}
            // Time namespaces are younger than this crate's oldest kernel.
            Err(_) if kind == Namespaces::TIME => {}
            Err(err) => return Err(err),
        }
    }
    Ok(found)
}
