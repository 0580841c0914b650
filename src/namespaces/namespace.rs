//! The kinds of namespaces.

use std::fmt;

use bitflags::bitflags;

use crate::sys::clone::CLONE_NEWTIME;

bitflags! {
    /// A set of namespace kinds, see namespaces(7).
    ///
    /// ```
    /// use coracle::namespaces::Namespaces;
    /// let all_but_net = Namespaces::all() - Namespaces::NETWORK;
    /// assert!(all_but_net.contains(Namespaces::PID | Namespaces::MOUNT));
    /// ```
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Namespaces: u64 {
        /// Mounts (Linux 2.4.19), see mount_namespaces(7).
        const MOUNT = libc::CLONE_NEWNS as u64;
        /// Host and domain name (2.6.19), see uts_namespaces(7).
        const UTS = libc::CLONE_NEWUTS as u64;
        /// System V IPC and POSIX message queues (2.6.19), see ipc_namespaces(7).
        const IPC = libc::CLONE_NEWIPC as u64;
        /// Process ids (2.6.24), see pid_namespaces(7).
        const PID = libc::CLONE_NEWPID as u64;
        /// Network devices, addresses, ports (2.6.29), see network_namespaces(7).
        const NETWORK = libc::CLONE_NEWNET as u64;
        /// User and group ids, capabilities (3.8), see user_namespaces(7).
        const USER = libc::CLONE_NEWUSER as u64;
        /// The cgroup root (4.6), see cgroup_namespaces(7).
        const CGROUP = libc::CLONE_NEWCGROUP as u64;
        /// Boot and monotonic clocks (5.6), see time_namespaces(7).
        const TIME = CLONE_NEWTIME;
    }
}

impl Namespaces {
    /// The bits as setns(2) and unshare(2) take them.
    pub(crate) fn flags(self) -> i32 {
        // Every CLONE_NEW* fits: the highest is bit 30.
        i32::try_from(self.bits()).unwrap_or(0)
    }

    /// The names of the files in `/proc/PID/ns`.
    pub(crate) fn file_names(self) -> impl Iterator<Item = (&'static str, Self)> {
        const NAMES: [(&str, Namespaces); 8] = [
            ("user", Namespaces::USER),
            ("cgroup", Namespaces::CGROUP),
            ("ipc", Namespaces::IPC),
            ("uts", Namespaces::UTS),
            ("net", Namespaces::NETWORK),
            ("pid", Namespaces::PID),
            ("time", Namespaces::TIME),
            ("mnt", Namespaces::MOUNT),
        ];
        NAMES.into_iter().filter(move |(_, kind)| self.contains(*kind))
    }
}

impl fmt::Display for Namespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, _)) in self.file_names().enumerate() {
            write!(f, "{}{name}", if index == 0 { "" } else { "+" })?;
        }
        Ok(())
    }
}
