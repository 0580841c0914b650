//! The controllers, and which name each goes by in which version.

use bitflags::bitflags;

bitflags! {
    /// A set of controllers.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(super) struct Controllers: u16 {
        const CPU = 1;
        /// v1 only; v2 counts cpu time in every cgroup.
        const CPUACCT = 1 << 1;
        const CPUSET = 1 << 2;
        const MEMORY = 1 << 3;
        const PIDS = 1 << 4;
        /// `blkio` on v1.
        const IO = 1 << 5;
        const HUGETLB = 1 << 6;
        /// A hierarchy on v1, an eBPF program on v2.
        const DEVICES = 1 << 7;
        /// v1 only; every v2 cgroup can be frozen.
        const FREEZER = 1 << 8;
        const RDMA = 1 << 9;
        const MISC = 1 << 10;
    }
}

impl Controllers {
    /// The set that a list of names means, v1 or v2; names not known here are left out.
    pub(super) fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        names.into_iter().filter_map(Self::from_v1_or_v2).collect()
    }

    fn from_v1_or_v2(name: &str) -> Option<Self> {
        Some(match name {
            "cpu" => Self::CPU,
            "cpuacct" => Self::CPUACCT,
            "cpuset" => Self::CPUSET,
            "memory" => Self::MEMORY,
            "pids" => Self::PIDS,
            "io" | "blkio" => Self::IO,
            "hugetlb" => Self::HUGETLB,
            "devices" => Self::DEVICES,
            "freezer" => Self::FREEZER,
            "rdma" => Self::RDMA,
            "misc" => Self::MISC,
            _ => return None,
        })
    }

    /// The controller a v2 file name such as `memory.oom.group` belongs to; none for `cgroup.*`.
    pub(super) fn of_key(key: &str) -> Self {
        key.split_once('.').map_or(Self::empty(), |(name, _)| Self::from_names([name]))
    }

    /// The names, as v2 spells them.
    pub(super) fn names(self) -> impl Iterator<Item = &'static str> {
        self.iter().map(|one| match one {
            Self::CPU => "cpu",
            Self::CPUACCT => "cpuacct",
            Self::CPUSET => "cpuset",
            Self::MEMORY => "memory",
            Self::PIDS => "pids",
            Self::IO => "io",
            Self::HUGETLB => "hugetlb",
            Self::DEVICES => "devices",
            Self::FREEZER => "freezer",
            Self::RDMA => "rdma",
            _ => "misc",
        })
    }

    /// `memory and pids`.
    pub(super) fn list(self) -> String {
        self.names().collect::<Vec<_>>().join(" and ")
    }

    /// `+memory +pids`, the form `cgroup.subtree_control` takes.
    pub(super) fn to_enable(self) -> String {
        let mut text = String::new();
        for name in self.names() {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push('+');
            text.push_str(name);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_both_versions_are_understood() {
        assert_eq!(Controllers::from_names(["blkio"]), Controllers::from_names(["io"]));
        assert_eq!(
            Controllers::from_names("cpuset cpu perf_event pids".split(' ')),
            Controllers::CPUSET | Controllers::CPU | Controllers::PIDS
        );
    }

    #[test]
    fn a_key_names_its_controller() {
        assert_eq!(Controllers::of_key("memory.oom.group"), Controllers::MEMORY);
        assert_eq!(Controllers::of_key("cgroup.max.depth"), Controllers::empty());
    }

    #[test]
    fn the_set_is_spelled_for_subtree_control() {
        assert_eq!((Controllers::MEMORY | Controllers::PIDS).to_enable(), "+memory +pids");
        assert_eq!(Controllers::empty().to_enable(), "");
    }
}
