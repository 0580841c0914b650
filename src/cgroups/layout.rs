//! Which cgroup hierarchies there are and where this process stands in each: pure v2, pure v1, or the
//! hybrid of both, found out from `/proc/self/cgroup` and `/proc/self/mountinfo`
//! ([cgroups(7)](https://man7.org/linux/man-pages/man7/cgroups.7.html),
//! [proc_pid_mountinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, fstatfs};

use super::controller::Controllers;
use super::dir::Dir;
use crate::error::{Context, Error, Result};

/// What this process can reach.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) unified: Option<Hierarchy>,
    pub(super) legacy: Vec<Hierarchy>,
    /// Controllers whose hierarchy exists, but is mounted nowhere that this process can reach.
    pub(super) unreachable: Controllers,
    pub(super) parent: Mutex<Parent>,
}

/// The v2 cgroup `coracle` in which this process makes others.
#[derive(Debug, Default)]
pub(super) struct Parent {
    /// What it hands down, while a cgroup of ours is in it.
    pub(super) alive: Option<(Controllers, Weak<Dir>)>,
    /// The cgroup above it, known to hand these down.
    pub(super) above: Option<(Controllers, String)>,
}

/// One mounted hierarchy.
#[derive(Debug)]
pub(super) struct Hierarchy {
    pub(super) controllers: Controllers,
    /// The top of what is mounted.
    pub(super) root: Arc<Dir>,
    /// The cgroup of this process.
    pub(super) own: Arc<Dir>,
    /// Where `own` is below `root`; empty if it is the same.
    pub(super) own_path: String,
}

impl Layout {
    /// The layout as it was when first asked for.
    pub(super) fn current() -> Result<Arc<Self>> {
        let mut cached = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layout) = cached.as_ref() {
            return Ok(layout.clone());
        }
        let layout = Arc::new(Self::detect()?);
        *cached = Some(layout.clone());
        Ok(layout)
    }

    /// Looks again next time, after this process has been moved.
    pub(super) fn forget() {
        *CACHE.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn detect() -> Result<Self> {
        let read = |path: &str| {
            std::fs::read(path).context(|| format!("find the cgroups of this process in {path}"))
        };
        let membership = read("/proc/self/cgroup")?;
        let mounts = read("/proc/self/mountinfo")?;
        let found =
            locate(&String::from_utf8_lossy(&membership), &String::from_utf8_lossy(&mounts));
        let mut layout = Self {
            unified: None,
            legacy: Vec::new(),
            unreachable: Controllers::empty(),
            parent: Mutex::default(),
        };
        for place in found {
            match open(&place) {
                Some(hierarchy) if place.v2 => layout.unified = Some(hierarchy),
                Some(hierarchy) => layout.legacy.push(hierarchy),
                None => layout.unreachable |= place.controllers,
            }
        }
        if layout.unified.is_none() && layout.legacy.is_empty() {
            return Err(Error::unsupported("find a mounted cgroup hierarchy").with_hint(
                "mount one: mount -t cgroup2 none /sys/fs/cgroup (a chroot or container may hide \
                 the host's; bind it in)",
            ));
        }
        Ok(layout)
    }

    /// The v1 hierarchy that carries `controller`.
    pub(super) fn legacy(&self, controller: Controllers) -> Option<&Hierarchy> {
        self.legacy.iter().find(|h| h.controllers.contains(controller))
    }
}

static CACHE: Mutex<Option<Arc<Layout>>> = Mutex::new(None);

/// The first mount point at which the hierarchy really is: a later mount may cover an earlier one.
fn open(place: &Place) -> Option<Hierarchy> {
    let magic = if place.v2 { CGROUP2_SUPER_MAGIC } else { CGROUP_SUPER_MAGIC };
    place.mounts.iter().rev().find_map(|(point, below)| {
        let root = Dir::open(point).ok()?;
        if fstatfs(root.fd()).ok()?.filesystem_type() != magic {
            return None;
        }
        let root = Arc::new(root);
        let own =
            if below.is_empty() { root.clone() } else { Arc::new(root.open_dir(below).ok()?) };
        let controllers = if place.v2 {
            Controllers::from_names(root.read("cgroup.controllers").ok()?.split_whitespace())
        } else {
            place.controllers
        };
        Some(Hierarchy { controllers, root, own, own_path: below.clone() })
    })
}

/// A hierarchy this process is in, and where it is mounted.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    v2: bool,
    controllers: Controllers,
    /// The mount points from which the own cgroup can be reached, with the way from there.
    mounts: Vec<(PathBuf, String)>,
}

/// Brings together `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn locate(membership: &str, mountinfo: &str) -> Vec<Place> {
    let mounts: Vec<Mount> = mountinfo.lines().filter_map(Mount::parse).collect();
    membership
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (id, names, own) = (fields.next()?, fields.next()?, fields.next()?);
            let v2 = id == "0" && names.is_empty();
            let reachable = mounts
                .iter()
                .filter(|m| m.v2 == v2 && (v2 || names.split(',').all(|n| m.has(n))))
                .filter_map(|m| Some((m.point.clone(), below(own, &m.root)?.to_owned())))
                .collect();
            let controllers = Controllers::from_names(names.split(','));
            // A named v1 hierarchy such as name=systemd only tracks; it limits nothing.
            (v2 || !controllers.is_empty()).then_some(Place { v2, controllers, mounts: reachable })
        })
        .collect()
}

/// The way from the directory a mount shows as its top to the cgroup `own`.
fn below<'a>(own: &'a str, root: &str) -> Option<&'a str> {
    // `/..` means that it lies outside of the reader's cgroup namespace: there is no name for the way.
    if own.starts_with("/..") || root.starts_with("/..") {
        return None;
    }
    let rest = own.strip_prefix(root.trim_end_matches('/'))?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
}

/// The line of a cgroup mount in mountinfo.
#[derive(Debug)]
pub(super) struct Mount {
    v2: bool,
    root: String,
    point: PathBuf,
    options: String,
}

impl Mount {
    pub(super) fn parse(line: &str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let v2 = match right.next()? {
            "cgroup2" => true,
            "cgroup" => false,
            _ => return None,
        };
        let mut left = left.split(' ').skip(3);
        let root = String::from_utf8(unescape(left.next()?)).ok()?;
        let point = PathBuf::from(OsString::from_vec(unescape(left.next()?)));
        Path::new(&root).is_absolute().then_some(())?;
        Some(Self { v2, root, point, options: right.nth(1).unwrap_or_default().to_owned() })
    }

    fn has(&self, controller: &str) -> bool {
        self.options.split(',').any(|option| option == controller)
    }
}

/// Undoes the `\040` in which mountinfo writes blanks and backslashes.
fn unescape(field: &str) -> Vec<u8> {
    let bytes = field.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match octal {
            Some(byte) if bytes[at] == b'\\' => {
                plain.push(byte);
                at += 4;
            }
            _ => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each hierarchy as `v2 or controllers: mount point + way`.
    fn summary(membership: &str, mountinfo: &str) -> Vec<String> {
        locate(membership, mountinfo)
            .into_iter()
            .map(|place| {
                let name = if place.v2 { "v2".to_owned() } else { place.controllers.to_enable() };
                let mounts: Vec<_> = place
                    .mounts
                    .iter()
                    .map(|(point, way)| format!("{} + {way:?}", point.display()))
                    .collect();
                format!("{name}: {}", mounts.join(", "))
            })
            .collect()
    }

    #[test]
    fn layouts_met_in_the_field() {
        let table: [(&str, &str, &str, &[&str]); 9] = [
            (
                "pure v2, a systemd login session",
                "0::/user.slice/user-1000.slice/session-2.scope\n",
                "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
                &["v2: /sys/fs/cgroup + \"user.slice/user-1000.slice/session-2.scope\""],
            ),
            (
                "hybrid: controllers on v1, each alone, and a bare v2",
                "9:name=systemd:/\n8:pids:/\n4:memory:/jobs/7\n0::/\n",
                "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                 35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                 39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n\
                 40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                 41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
                &[
                    "+pids: /sys/fs/cgroup/pids + \"\"",
                    "+memory: /sys/fs/cgroup/memory + \"jobs/7\"",
                    "v2: /sys/fs/cgroup/unified + \"\"",
                ],
            ),
            (
                "pure v1 with two controllers on one mount",
                "4:cpu,cpuacct:/a\n2:net_cls,net_prio:/\n1:name=systemd:/x\n",
                "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                 33 25 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n",
                &["+cpu +cpuacct: /sys/fs/cgroup/cpu,cpuacct + \"a\""],
            ),
            (
                "a v1 container without a cgroup namespace: the mount shows the own cgroup as its top",
                "3:memory:/docker/0f\n",
                "900 899 0:32 /docker/0f /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory\n",
                &["+memory: /sys/fs/cgroup/memory + \"\""],
            ),
            (
                "and a cgroup further down in it",
                "3:memory:/docker/0f/inner/1\n",
                "900 899 0:32 /docker/0f /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
                &["+memory: /sys/fs/cgroup/memory + \"inner/1\""],
            ),
            (
                "a name that only begins like the mount's",
                "3:memory:/docker/0f0f\n",
                "900 899 0:32 /docker/0f /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
                &["+memory: "],
            ),
            (
                "a cgroup namespace below the mount: no name for the way",
                "0::/\n",
                "29 23 0:26 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
                &["v2: "],
            ),
            (
                "joined from outside of the cgroup namespace",
                "0::/../other\n",
                "29 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
                &["v2: "],
            ),
            (
                "blanks in the mount point, colons in the name, optional fields, twice mounted",
                "0::/a:b\n",
                "1 0 0:26 / /mnt/my\\040cgroups rw - cgroup2 none rw\n\
                 2 0 0:26 / /sys/fs/cgroup rw master:2 propagate_from:3 - cgroup2 none rw\n",
                &["v2: /mnt/my cgroups + \"a:b\", /sys/fs/cgroup + \"a:b\""],
            ),
        ];
        for (what, membership, mountinfo, expected) in table {
            assert_eq!(summary(membership, mountinfo), expected, "{what}");
        }
    }

    #[test]
    fn lines_that_make_no_sense_are_passed_over() {
        for line in ["", "x", " - ", "1 2 3 - cgroup2", "1 2 0:1 rel /m rw - cgroup2 n rw"] {
            assert!(Mount::parse(line).is_none(), "{line:?}");
        }
        assert!(locate("0:\n\n:::\n7\n", "").is_empty());
    }

    #[test]
    fn escapes_are_undone_only_where_complete() {
        assert_eq!(unescape(r"a\040b\134\1"), b"a b\\\\1");
        assert_eq!(unescape(r"\999\777"), br"\999\777");
    }

    #[test]
    fn this_machine_has_hierarchies() {
        let layout = Layout::current().unwrap();
        assert!(layout.unified.is_some() || !layout.legacy.is_empty());
    }
}
