//! Kernel parameters of a container's own namespaces.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::Namespaces;
use crate::error::{Error, Result};

/// A kernel parameter (`sysctl(8)`) that belongs to a namespace, so that setting it inside a container leaves
/// the host as it is.
///
/// | names | namespace the container must have of its own |
/// |-------|-----|
/// | `net.*` | network |
/// | `kernel.msg*`, `kernel.sem*`, `kernel.shm*`, `fs.mqueue.*` | IPC |
///
/// All other names are refused. As with `sysctl(8)`, a name whose first separator is a slash has slashes
/// throughout, so that an interface name can hold a dot: `net/ipv4/conf/eth0.1/forwarding`. Parses from `name=value`.
///
/// ```
/// use coracle::namespaces::Sysctl;
///
/// let sysctl: Sysctl = "net.ipv4.ip_unprivileged_port_start=0".parse()?;
/// assert_eq!(sysctl.path(), std::path::Path::new("/proc/sys/net/ipv4/ip_unprivileged_port_start"));
/// assert!(Sysctl::new("kernel.core_pattern", "|/bin/sh").is_err());
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sysctl {
    /// The components of the name.
    parts: Vec<String>,
    value: String,
    namespace: SysctlNamespace,
}

/// The namespace that holds a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SysctlNamespace {
    Ipc,
    Network,
}

impl SysctlNamespace {
    pub(crate) fn kind(self) -> Namespaces {
        match self {
            Self::Ipc => Namespaces::IPC,
            Self::Network => Namespaces::NETWORK,
        }
    }
}

/// The parameters of an IPC namespace under `kernel`.
const IPC_KERNEL: &[&str] = &[
    "auto_msgmni",
    "msg_next_id",
    "msgmax",
    "msgmnb",
    "msgmni",
    "sem",
    "sem_next_id",
    "shm_next_id",
    "shm_rmid_forced",
    "shmall",
    "shmmax",
    "shmmni",
];

impl Sysctl {
    /// A parameter and its value.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the parameter is not one of a namespace, and for a name or
    /// value with anything in it that could make it mean another one.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Result<Self> {
        let (name, value) = (name.into(), value.into());
        let parts = split(&name)?;
        let namespace = namespace(&name, &parts)?;
        // A '+' separated further parameters where the value went through another tool (CVE-2022-0811); no
        // parameter of a namespace takes one.
        if let Some(bad) =
            value.chars().find(|c| !matches!(c, '\t' | ' '..='~') || matches!(c, '+' | '='))
        {
            return Err(Error::invalid(format!(
                "{bad:?} in the value of sysctl {name}: {value:?}"
            )));
        }
        Ok(Self { parts: parts.into_iter().map(str::to_owned).collect(), value, namespace })
    }

    /// The file that holds the parameter, as the container sees it.
    pub fn path(&self) -> PathBuf {
        Path::new("/proc/sys").join(self.relative_path())
    }

    /// What is written to it.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// The path below `/proc/sys`.
    pub(crate) fn relative_path(&self) -> OsString {
        self.parts.join("/").into()
    }

    /// The namespace that must not be the host's.
    pub(crate) fn namespace(&self) -> SysctlNamespace {
        self.namespace
    }
}

fn split(name: &str) -> Result<Vec<&str>> {
    let separator = name.chars().find(|c| matches!(c, '.' | '/')).unwrap_or('.');
    let parts: Vec<&str> = name.split(separator).collect();
    let sound = |part: &&str| {
        !part.is_empty()
            && *part != "."
            && *part != ".."
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:@".contains(&b))
    };
    if parts.len() < 2 || name.len() > 255 || !parts.iter().all(sound) {
        return Err(Error::invalid(format!("sysctl name {:?}", shorten(name)))
            .with_hint("write it as net.ipv4.ip_forward or net/ipv4/ip_forward"));
    }
    Ok(parts)
}

fn namespace(name: &str, parts: &[&str]) -> Result<SysctlNamespace> {
    match parts {
        ["net", _, ..] => Ok(SysctlNamespace::Network),
        ["kernel", key] if IPC_KERNEL.contains(key) => Ok(SysctlNamespace::Ipc),
        ["fs", "mqueue", _] => Ok(SysctlNamespace::Ipc),
        ["kernel", "hostname"] => Err(refused(name)
            .with_hint("the hostname setter names the container and its UTS namespace")),
        ["kernel", "domainname"] => Err(refused(name)
            .with_hint("the domain name setter names the container and its UTS namespace")),
        _ => Err(refused(name).with_hint(
            "the parameter is the whole machine's; those of a namespace are net.*, kernel.msg*, kernel.sem*, kernel.shm* and fs.mqueue.*",
        )),
    }
}

fn refused(name: &str) -> Error {
    Error::invalid(format!("sysctl {name} cannot be set for a container"))
}

/// For messages about names of any length.
fn shorten(name: &str) -> String {
    name.chars().take(64).collect()
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dotted = self.parts.iter().any(|part| part.contains('.'));
        write!(f, "{}={}", self.parts.join(if dotted { "/" } else { "." }), self.value)
    }
}

impl FromStr for Sysctl {
    type Err = Error;

    /// # Errors
    ///
    /// As [`new`](Self::new), and for text without `=`.
    fn from_str(s: &str) -> Result<Self> {
        let (name, value) = s.split_once('=').ok_or_else(|| {
            Error::invalid(format!("sysctl {:?} without a value", shorten(s)))
                .with_hint("write it as net.ipv4.ip_forward=1")
        })?;
        Self::new(name, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn parameters_of_namespaces() {
        use SysctlNamespace::{Ipc, Network};
        for (text, path, value, namespace) in [
            ("net.ipv4.ip_forward=1", "net/ipv4/ip_forward", "1", Network),
            ("net/ipv4/conf/eth0.1/forwarding=0", "net/ipv4/conf/eth0.1/forwarding", "0", Network),
            (
                "net.ipv4.ping_group_range=0 2147483647",
                "net/ipv4/ping_group_range",
                "0 2147483647",
                Network,
            ),
            (
                "net.ipv4.ip_local_port_range=1024\t65000",
                "net/ipv4/ip_local_port_range",
                "1024\t65000",
                Network,
            ),
            ("net.core.somaxconn=", "net/core/somaxconn", "", Network),
            ("kernel.shmmax=68719476736", "kernel/shmmax", "68719476736", Ipc),
            ("kernel.sem=250 32000 32 128", "kernel/sem", "250 32000 32 128", Ipc),
            ("kernel.msgmnb=65536", "kernel/msgmnb", "65536", Ipc),
            ("fs.mqueue.msg_max=100", "fs/mqueue/msg_max", "100", Ipc),
            ("fs/mqueue/msg_max=100", "fs/mqueue/msg_max", "100", Ipc),
        ] {
            let sysctl: Sysctl = text.parse().unwrap();
            assert_eq!(sysctl.path(), Path::new("/proc/sys").join(path), "{text}");
            assert_eq!((sysctl.value(), sysctl.namespace()), (value, namespace), "{text}");
            assert_eq!(sysctl.to_string().parse::<Sysctl>().unwrap(), sysctl);
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let long = format!("net.{}=1", "a".repeat(70_000));
        for text in [
            "kernel.core_pattern=|/bin/sh",
            "kernel.shm_rmid_forced=1+kernel.core_pattern=|/evil",
            "kernel.shm_rmid_forced=1+kernel.core_pattern",
            "kernel.shmmax.extra=1",
            "kernel.semantics=1",
            "kernel.hostname=a",
            "kernel/hostname=a",
            "kernel.domainname=a",
            "vm.swappiness=1",
            "fs.file-max=1",
            "fs.mqueue=1",
            "user.max_user_namespaces=1",
            "net=1",
            "net.=1",
            "net..ipv4=1",
            ".net.ipv4=1",
            "net/../kernel/core_pattern=x",
            "net/./ipv4=1",
            "net.ipv4/../../kernel/core_pattern=x",
            "/net/ipv4/ip_forward=1",
            "net/ipv4/ip_forward/=1",
            "net.ipv4.ip_forward\0=1",
            "net.ipv4.ip_forward\n=1",
            "net.ipv4.ip forward=1",
            "net.ipv4.ip_forward=1\nkernel.core_pattern",
            "net.ipv4.ip_forward=1\0",
            "net.ipv4.ip_forward=1\r",
            "net.ipv4.ip_forward=\u{e9}",
            "net.ipv4.ip_forward",
            "",
            "=1",
            &long,
        ] {
            let err = text.parse::<Sysctl>().unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidInput, "{text}");
            assert!(err.to_string().len() < 300, "{}", err.to_string().len());
        }
        let err = Sysctl::new("kernel.hostname", "a").unwrap_err();
        assert!(err.hint().unwrap().contains("hostname setter"));
    }
}
