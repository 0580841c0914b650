//! Ids that the administrator has granted to users: /etc/subuid, /etc/subgid and the programs that map them.
//! See subuid(5) and newuidmap(1).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use nix::unistd::{User, getegid, geteuid};

use super::id_map::{IdExtent, IdMap};
use crate::error::{Context, Error, ErrorKind, Result};

const SUBUID: &str = "/etc/subuid";
const SUBGID: &str = "/etc/subgid";

/// A line of /etc/subuid or /etc/subgid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Granted<'a> {
    owner: &'a str,
    start: u32,
    pub(super) count: u32,
}

/// Consecutive ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    start: u32,
    count: u32,
}

impl Ids {
    pub(crate) fn overlaps(self, start: u32, count: u32) -> bool {
        self.start < start.saturating_add(count) && start < self.start.saturating_add(self.count)
    }
}

/// The lines `owner:start:count`; others, and ranges that are empty or too long, are skipped as newuidmap
/// does.
pub(super) fn parse(text: &str) -> impl Iterator<Item = Granted<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (owner, start, count) = (fields.next()?, fields.next()?, fields.next()?);
        let (start, count) = (start.parse::<u32>().ok()?, count.parse::<u32>().ok()?);
        let whole = fields.next().is_none() && !owner.is_empty() && !owner.starts_with('#');
        (whole && count > 0 && start.checked_add(count).is_some()).then_some(Granted {
            owner,
            start,
            count,
        })
    })
}

/// The ranges of a user, by name or by number.
fn of_user(text: &str, name: Option<&str>, uid: Option<u32>) -> Vec<Ids> {
    let number = uid.map(|uid| uid.to_string());
    parse(text)
        .filter(|line| Some(line.owner) == name || Some(line.owner) == number.as_deref())
        .map(|line| Ids { start: line.start, count: line.count })
        .collect()
}

/// What a file that has not changed still has: inode, size and time of the last change.
type Stamp = Option<(u64, u64, i64, i64)>;

struct Known {
    as_of: [Stamp; 2],
    ranges: Arc<[Ids]>,
}

/// Everything granted to anybody in either file. Every container asks, so that the answer is kept.
pub(crate) fn all_ranges() -> Arc<[Ids]> {
    static KNOWN: Mutex<Option<Known>> = Mutex::new(None);
    // A missing file grants nothing.
    let stamps = [SUBUID, SUBGID].map(|file| {
        let found = fs::metadata(file).ok()?;
        Some((found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
    });
    if let Ok(known) = KNOWN.try_lock()
        && let Some(known) = known.as_ref()
        && known.as_of == stamps
    {
        return Arc::clone(&known.ranges);
    }
    let mut ranges = Vec::new();
    for file in [SUBUID, SUBGID] {
        let text = fs::read_to_string(file).unwrap_or_default();
        ranges.extend(parse(&text).map(|line| Ids { start: line.start, count: line.count }));
    }
    let ranges: Arc<[Ids]> = ranges.into();
    if let Ok(mut known) = KNOWN.try_lock() {
        *known = Some(Known { as_of: stamps, ranges: Arc::clone(&ranges) });
    }
    ranges
}

/// Maps `first..` inside to the ranges, one after the other.
fn extents(first: u32, ranges: &[Ids]) -> Vec<IdExtent> {
    let mut inside = first;
    let mut extents = Vec::new();
    for Ids { start, count } in ranges {
        // No more than there are ids.
        let count = (*count).min(u32::MAX - inside);
        if count > 0 {
            extents.push(IdExtent { inside, outside: *start, count });
        }
        inside += count;
    }
    extents
}

/// Root inside is the caller, and the ids from 1 on are those granted to the caller. `None` without both a
/// user and a group range.
fn map_of_caller(uid: u32, gid: u32, users: &[Ids], groups: &[Ids]) -> Option<IdMap> {
    let all = |own: u32, ranges: &[Ids]| {
        // A range that holds the caller's own id would map that twice.
        let ranges: Vec<_> = ranges.iter().copied().filter(|r| !r.overlaps(own, 1)).collect();
        let mut all = vec![IdExtent { inside: 0, outside: own, count: 1 }];
        all.extend(extents(1, &ranges));
        (all.len() > 1).then_some(all)
    };
    Some(IdMap::from_extents(all(uid, users)?, all(gid, groups)?))
}

/// The map that rootless tools give the caller, if ids are granted and the programs to map them installed.
pub(crate) fn caller_map() -> Option<IdMap> {
    if no_new_privileges() || program("newuidmap").is_none() || program("newgidmap").is_none() {
        return None;
    }
    let (uid, gid) = (geteuid(), getegid());
    let user = User::from_uid(uid).ok().flatten();
    let name = user.as_ref().map(|user| user.name.as_str());
    let ranges = |file| {
        let text = fs::read_to_string(file).unwrap_or_default();
        of_user(&text, name, Some(uid.as_raw()))
    };
    map_of_caller(uid.as_raw(), gid.as_raw(), &ranges(SUBUID), &ranges(SUBGID))
}

impl IdMap {
    /// All ids granted to `user`, a name or a number, in /etc/subuid and /etc/subgid, from 0 inside on. The
    /// caller must be allowed to map them, as root is.
    ///
    /// # Errors
    /// `NotFound` if nothing is granted to `user` in one of the files.
    pub fn subordinate(user: &str) -> Result<Self> {
        // A number stays a number, whatever users are called.
        let number = user.parse().ok();
        let by_name = match number {
            Some(_) => None,
            None => User::from_name(user).context(|| format!("look up user {user}"))?,
        };
        let uid = number.or_else(|| by_name.map(|user| user.uid.as_raw()));
        let name = match number {
            Some(uid) => User::from_uid(uid.into()).ok().flatten().map(|user| user.name),
            // An owner need not be a user of this machine.
            None => Some(user.to_owned()),
        };
        let ranges = |file: &str| -> Result<Vec<IdExtent>> {
            let text = fs::read_to_string(file).context(|| format!("read {file}"))?;
            let granted = of_user(&text, name.as_deref(), uid);
            if granted.is_empty() {
                let message = format!("{file} grants no ids to {user}");
                return Err(Error::new(ErrorKind::NotFound, message)
                    .with_hint(format!("add a line such as {user}:100000:65536 to {file}")));
            }
            Ok(extents(0, &granted))
        };
        Ok(Self::from_extents(ranges(SUBUID)?, ranges(SUBGID)?))
    }
}

/// Set-user-id programs run without their privilege then.
fn no_new_privileges() -> bool {
    fs::read_to_string("/proc/thread-self/status")
        .is_ok_and(|status| status.lines().any(|line| line.trim_end() == "NoNewPrivs:\t1"))
}

/// Where a program is: in $PATH or where distributions put it.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/bin", "/bin", "/usr/local/bin"].map(PathBuf::from))
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.is_file() && nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok()
}

/// The arguments of newuidmap or newgidmap.
pub(crate) fn arguments(pid: i32, extents: &[IdExtent]) -> Vec<String> {
    let numbers = extents.iter().flat_map(|e| [e.inside, e.outside, e.count]);
    std::iter::once(pid.to_string()).chain(numbers.map(|n| n.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# comment\n\
        ada:100000:65536\n\
        bob:165536:65536\n\
        1000:300000:10\n\
        ada:400000:5\n\
        bad\n:1:2\nada:x:1\nada:1:0\nada:4294967295:1\nada:-1:5\nada:1:2:3\n";

    fn ids(list: &[(u32, u32)]) -> Vec<Ids> {
        list.iter().map(|&(start, count)| Ids { start, count }).collect()
    }

    #[test]
    fn lines_of_a_user_are_found_by_name_and_number_and_bad_ones_skipped() {
        for (name, uid, expected) in [
            (Some("ada"), 1000, ids(&[(100_000, 65_536), (300_000, 10), (400_000, 5)])),
            (Some("bob"), 7, ids(&[(165_536, 65_536)])),
            (None, 1000, ids(&[(300_000, 10)])),
            (Some("eve"), 8, ids(&[])),
        ] {
            assert_eq!(of_user(FILE, name, Some(uid)), expected, "{name:?} {uid}");
        }
        assert_eq!(parse(FILE).count(), 4);
    }

    #[test]
    fn the_caller_is_root_and_the_granted_ids_follow() {
        let map = map_of_caller(1000, 1001, &ids(&[(100_000, 10), (200_000, 5)]), &ids(&[(7, 3)]));
        let expected = IdMap::new()
            .uid(0, 1000, 1)
            .uid(1, 100_000, 10)
            .uid(11, 200_000, 5)
            .gid(0, 1001, 1)
            .gid(1, 7, 3);
        assert_eq!(map, Some(expected));
        // The whole id space granted still leaves a valid map.
        let everything = ids(&[(2000, u32::MAX - 2000), (0, 10)]);
        map_of_caller(1000, 1001, &everything, &everything).unwrap().validate().unwrap();
        // Ids that are the caller's own are not mapped twice, and nothing else is left here.
        assert_eq!(map_of_caller(1000, 1000, &ids(&[(900, 200)]), &ids(&[(1, 1)])), None);
        assert_eq!(map_of_caller(1000, 1000, &ids(&[]), &ids(&[(1, 1)])), None);
        assert_eq!(map_of_caller(1000, 1000, &ids(&[(1, 1)]), &ids(&[])), None);
    }

    #[test]
    fn overlaps_are_found_at_the_edges() {
        let granted = Ids { start: 100, count: 10 };
        for (start, count, overlaps) in [
            (90, 10, false),
            (90, 11, true),
            (105, 1, true),
            (109, 5, true),
            (110, 5, false),
            (0, u32::MAX, true),
        ] {
            assert_eq!(granted.overlaps(start, count), overlaps, "{start} {count}");
        }
    }

    #[test]
    fn helper_arguments_are_the_pid_and_triples() {
        let extents = extents(1, &ids(&[(100_000, 10), (5, 2)]));
        assert_eq!(arguments(42, &extents), ["42", "1", "100000", "10", "11", "5", "2"]);
    }
}
