//! What a failed plan means to the one who asked for it.

use std::ffi::{CStr, CString};
use std::path::Path;

use super::Builder;
use crate::error::{Context, Error, ErrorKind, SyscallError};
use crate::namespaces::{Command, Signal};
use crate::sys::plan::{Filesystem, Kind, Step, Target};
use crate::sys::spawn::{At, Failed};

/// The error of a plan that came to nothing.
pub(super) fn explain(command: &Command, builder: &Builder<'_>, failed: &Failed<'_>) -> Error {
    let attempt = match failed.at {
        At::Start => "prepare the process".to_owned(),
        At::Clone if builder.unshared.is_empty() => "make the process".to_owned(),
        At::Clone => format!("make the process in new namespaces {}", builder.unshared),
        At::Step(step) => describe(step),
        At::Exec => format!("execute {}", command.program.display()),
    };
    if let Some(signal) = failed.killed {
        return killed(signal).context(attempt);
    }
    let call = SyscallError::new(failed.call, failed.errno);
    let err = match Err::<(), _>(call).context(|| attempt) {
        Err(err) => err,
        Ok(()) => Error::new(ErrorKind::Os, "the plan failed"),
    };
    let err = match (failed.at_kind(), failed.errno) {
        (Where::Program, libc::ELOOP) => err.with_kind(ErrorKind::SafetyViolation),
        _ => err,
    };
    match hint(command, builder, failed) {
        Some(hint) => err.with_hint(hint),
        None => err,
    }
}

/// The process met a signal on its way to the program.
fn killed(signal: i32) -> Error {
    if signal == libc::SIGSTOP {
        return Error::new(ErrorKind::Os, "the process was stopped by somebody, so it was killed")
            .with_hint(
                "the container may be hostile: its processes may signal what is executed in it",
            );
    }
    let name = Signal::from_number(signal).map_or_else(|_| signal.to_string(), |s| s.to_string());
    let err = Error::new(ErrorKind::Os, format!("the process was killed by signal {name}"));
    match signal {
        libc::SIGSYS => err.with_kind(ErrorKind::PermissionDenied).with_hint(
            "the system call filter must allow what starts the program, at least execve",
        ),
        libc::SIGKILL => err.with_kind(ErrorKind::ResourceExhausted).with_hint(
            "the memory limit of its cgroup may be too small to start in, or somebody killed it",
        ),
        _ => err,
    }
}

#[derive(PartialEq, Eq)]
enum Where {
    Program,
    Elsewhere,
}

impl Failed<'_> {
    fn at_kind(&self) -> Where {
        match self.at {
            At::Exec | At::Step(Step::RefuseProgram { .. }) => Where::Program,
            _ => Where::Elsewhere,
        }
    }
}

/// The step as a sentence: what was attempted, on what.
fn describe(step: &Step) -> String {
    match step {
        Step::JoinCgroup { .. } | Step::JoinCgroupDir { .. } => "join the cgroup".into(),
        Step::SetNs { what, .. } | Step::WriteFile { what, .. } | Step::Attributes { what, .. } => {
            what.clone()
        }
        Step::Unshare { what, .. } => format!("make a namespace of its own: {what}"),
        Step::NewSession => "start a session".into(),
        Step::Prctl { what, .. } => (*what).into(),
        Step::HostAlive { .. } => "look whether the host is alive".into(),
        Step::SetIds { uid, gid, groups } => match groups {
            Some(groups) => format!("become uid {uid}, gid {gid}, groups {groups:?}"),
            None => format!("become uid {uid}, gid {gid}"),
        },
        Step::Propagation { .. } => "keep mounts from propagating to the host".into(),
        Step::OpenTree { source, .. } => format!("open {}", shown(source)),
        Step::EnterNewRoot { .. } => "move into the root file system".into(),
        Step::DetachOldRoot { .. } => "detach the host's root".into(),
        Step::Loopback => "bring up the loopback device".into(),
        Step::Mount { fs, target: Some(target), .. } => {
            format!("mount {} on {}", file_system(fs), at(target))
        }
        Step::Mount { fs, target: None, .. } => format!("mount {}", file_system(fs)),
        Step::MakeDirectory { target } => format!("make the directory {}", at(target)),
        Step::Attach { target, .. } => format!("mount on {}", at(target)),
        Step::Bind { target, .. } => format!("bind to {}", at(target)),
        Step::Open { name, .. } => format!("open {}", shown(name)),
        Step::Node { name, .. } => format!("make the device node {}", shown(name)),
        Step::Directory { name, .. } => format!("make the directory {}", shown(name)),
        Step::Symlink { name, target, .. } => {
            format!("make the link {} to {}", shown(name), shown(target))
        }
        Step::Mask { target, .. } => format!("mask {}", shown(&target.path)),
        Step::ReadOnlyPath { target, .. } => format!("make {} read-only", shown(&target.path)),
        Step::HostName { name } => format!("set the host name {}", name.escape_ascii()),
        Step::DomainName { name } => format!("set the domain name {}", name.escape_ascii()),
        Step::Rlimit { soft, hard, name, .. } => format!("set {name} to {soft}:{hard}"),
        Step::Nice { value } => format!("set the nice value to {value}"),
        Step::Scheduler { .. } => "set the scheduling policy".into(),
        Step::IoPriority { .. } => "set the I/O priority".into(),
        Step::Umask { mask } => format!("set the umask to {mask:#o}"),
        Step::OpenTerminal { .. } => "open a terminal in /dev/pts".into(),
        Step::ControllingTerminal { .. } => "make it the controlling terminal".into(),
        Step::ListDescriptors { .. } => "list the open file descriptors".into(),
        Step::Descriptors { .. } => "arrange the file descriptors".into(),
        Step::Chdir { path, .. } => format!("enter the working directory {}", shown(path)),
        Step::Bounding { .. } => "limit the capability bounding set".into(),
        Step::Capabilities { .. } => "set the capabilities".into(),
        Step::Landlock { rules } => match rules.paths.as_slice() {
            [] => "restrict it with Landlock".into(),
            paths => {
                let paths: Vec<_> = paths.iter().map(|p| shown(&p.path)).collect();
                format!("restrict it with Landlock to {}", paths.join(", "))
            }
        },
        Step::Seccomp { .. } => "load the system call filter".into(),
        Step::RefuseProgram { .. } => "look at the program".into(),
    }
}

fn at(target: &Target) -> String {
    let kind = match target.kind {
        Kind::Directory => "the directory",
        Kind::File => "the file",
    };
    format!("{kind} {}", shown(&target.path))
}

/// `tmpfs (size=64m, mode=1777)`.
fn file_system(fs: &Filesystem) -> String {
    let option = |(key, value): &(CString, Option<CString>)| match value {
        Some(value) => format!("{}={}", shown(key), shown(value)),
        None => shown(key),
    };
    let options: Vec<String> = fs.options.iter().map(option).collect();
    match options.as_slice() {
        [] => shown(&fs.fstype),
        _ => format!("{} ({})", shown(&fs.fstype), options.join(", ")),
    }
}

fn shown(path: &CStr) -> String {
    let text = path.to_string_lossy();
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}... ({} bytes)", &text[..end], path.count_bytes()),
        None => text.into_owned(),
    }
}

/// What users run into.
fn hint(command: &Command, builder: &Builder<'_>, failed: &Failed<'_>) -> Option<String> {
    let errno = failed.errno;
    match failed.at {
        At::Clone => match errno {
            libc::EPERM if builder.users.is_none() => Some(
                "new namespaces take CAP_SYS_ADMIN; a user namespace (UserNamespace::automatic) gives it".into(),
            ),
            libc::EAGAIN => Some(
                "a limit on processes is reached: the pids limit of the cgroup, RLIMIT_NPROC, or kernel.pid_max".into(),
            ),
            libc::ENOSPC | libc::EUSERS => {
                Some("a limit on namespaces is reached: see /proc/sys/user".into())
            }
            libc::ENOMEM => Some("the memory limit of the cgroup may be too small to start in".into()),
            libc::EINVAL => Some("this kernel may lack one of the namespaces: see /proc/self/ns".into()),
            _ => None,
        },
        At::Exec => exec_hint(command, builder, errno),
        At::Step(step) => step_hint(step, failed),
        At::Start => None,
    }
}

fn exec_hint(command: &Command, builder: &Builder<'_>, errno: i32) -> Option<String> {
    let program = Path::new(&command.program);
    let searched = !command.program.as_encoded_bytes().contains(&b'/');
    match errno {
        libc::ENOENT if searched => {
            Some(format!("no directory in the PATH of the process has {}", program.display()))
        }
        libc::ENOENT if builder.image_root.is_some() => Some(
            "the program, its #! interpreter or its dynamic linker is missing in the root file system".into(),
        ),
        libc::ENOENT => Some("if it is there, its #! interpreter or dynamic linker is not".into()),
        libc::EACCES => Some(
            "it is not executable for the user, or on a file system mounted noexec, or no regular file".into(),
        ),
        libc::ENOEXEC => Some(
            "it is neither a program for this machine's architecture nor a script with a #! line".into(),
        ),
        libc::ELOOP => Some("it is a symbolic link that leads to itself".into()),
        libc::ENOMEM => Some("the memory limit may be too small to start the program".into()),
        libc::E2BIG => Some(
            "arguments and environment together are larger than a quarter of the stack limit, or one alone is over \
             128 KiB"
                .into(),
        ),
        _ => None,
    }
}

fn step_hint(step: &Step, failed: &Failed<'_>) -> Option<String> {
    let errno = failed.errno;
    match step {
        Step::Mount { fs, .. } if errno == libc::EPERM && fs.fstype.as_c_str() == c"proc" => Some(
            "a user namespace may mount /proc only where the host's /proc is fully visible; some container \
             engines mask it"
                .into(),
        ),
        Step::Mount { fs, .. } if failed.call == "fsopen" && errno == libc::ENODEV => {
            Some(format!("this kernel has no file system {}: see /proc/filesystems", shown(&fs.fstype)))
        }
        Step::Mount { .. } if failed.call.starts_with("fsconfig") && errno == libc::EINVAL => {
            Some("the file system does not know one of the options, or not that value".into())
        }
        Step::Mount { target: Some(_), .. } | Step::Attach { .. } | Step::Bind { .. } => match errno {
            libc::ELOOP => Some(
                "the mount point is a symbolic link, which a hostile image could aim at the host".into(),
            ),
            libc::EXDEV => Some(
                "a symbolic link on the way leads it into /proc; what covers parts of /proc can make security settings \
                 go to the wrong file"
                    .into(),
            ),
            libc::ENOTDIR | libc::EISDIR => Some(
                "a directory goes onto a directory, anything else onto a file; what is missing on the way is made"
                    .into(),
            ),
            libc::ENOENT => Some("in the host's root nothing is made: the mount point must exist".into()),
            libc::EROFS => Some("the mount point is missing and the root is read-only".into()),
            libc::ENOSYS => Some("detached mounts need Linux 5.2".into()),
            _ => None,
        },
        Step::Chdir { .. } => match errno {
            libc::ENOENT => Some("the directory must exist in the root file system".into()),
            libc::EACCES => Some(
                "it is not open to the user of the container, who is another than the host's; \
                 Mount::bind(dir, dir) of a privileged host gives it to the container's root, Command::host_users \
                 keeps the host's ids"
                    .into(),
            ),
            libc::ELOOP => Some(
                "it leads through a link of /proc, or out of the root (CVE-2024-21626)".into(),
            ),
            _ => None,
        },
        Step::RefuseProgram { .. } => Some(
            "it is the host's own executable, which a container must not get hold of (CVE-2019-5736)".into(),
        ),
        Step::Seccomp { .. } if errno == libc::EBUSY => {
            Some("another filter of this process tree already notifies".into())
        }
        Step::Rlimit { .. } if errno == libc::EPERM => {
            Some("raising a hard limit takes CAP_SYS_RESOURCE".into())
        }
        Step::Nice { .. } | Step::Scheduler { .. } | Step::IoPriority { .. }
            if matches!(errno, libc::EPERM | libc::EACCES) =>
        {
            Some("a higher priority takes CAP_SYS_NICE".into())
        }
        Step::WriteFile { path, .. }
            if errno == libc::EACCES && path.as_c_str() == c"/proc/self/oom_score_adj" =>
        {
            Some("lowering it takes CAP_SYS_RESOURCE".into())
        }
        Step::WriteFile { path, .. } if path.to_bytes().starts_with(b"/proc/self/attr/") => match errno {
            libc::ENOENT if failed.call == "openat" => {
                Some("the kernel, or what is mounted over its /proc, has no such file".into())
            }
            libc::ENOENT => Some("no such profile is loaded: apparmor_parser --replace FILE loads one".into()),
            libc::EINVAL => Some("the security module's policy knows no such label".into()),
            libc::EACCES | libc::EPERM => {
                Some("the policy that confines the host does not let it change to this label".into())
            }
            _ => None,
        },
        Step::SetNs { .. } if errno == libc::EINVAL => {
            Some("joining namespaces by pidfd needs Linux 5.8".into())
        }
        Step::Attributes { .. } | Step::ReadOnlyPath { .. } if errno == libc::ENOSYS => {
            Some("recursive mount attributes need Linux 5.12".into())
        }
        Step::Landlock { .. } if errno == libc::EPERM => {
            Some("Landlock needs no_new_privileges, or CAP_SYS_ADMIN".into())
        }
        _ => None,
    }
}
