//! Which user and group ids a user namespace has, and what they are outside of it.

use std::fmt::{self, Write};

use nix::unistd::{getegid, geteuid};

use crate::error::{Error, Result};

/// The kernel's limit on the lines of a map (`UID_GID_MAP_MAX_EXTENTS`; 5 before Linux 4.15).
const MAX_EXTENTS: usize = 340;
/// A map must be shorter than one page, and 4 KiB is the smallest there is.
const MAX_BYTES: usize = 4095;

/// `count` consecutive ids: `inside`, `inside + 1`, ... in the user namespace are `outside`,
/// `outside + 1`, ... in that of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct IdExtent {
    /// The first id as the user namespace has it.
    pub inside: u32,
    /// The first id as the caller has it.
    pub outside: u32,
    /// How many ids.
    pub count: u32,
}

impl IdExtent {
    /// The id that is `id` inside, as the caller has it.
    fn to_outside(self, id: u32) -> Option<u32> {
        let offset = id.checked_sub(self.inside).filter(|offset| *offset < self.count)?;
        self.outside.checked_add(offset)
    }

    fn to_inside(self, id: u32) -> Option<u32> {
        self.inverted().to_outside(id)
    }

    fn inverted(self) -> Self {
        Self { inside: self.outside, outside: self.inside, count: self.count }
    }

    /// The last id inside. The extent must be valid.
    fn last(self) -> u32 {
        self.inside.saturating_add(self.count.saturating_sub(1))
    }
}

/// The id map of a user namespace: which user and group ids exist inside, and what they are outside, in
/// the user namespace of the caller. See user_namespaces(7).
///
/// A map is a plain value; [`UserNamespace::new`](super::UserNamespace::new) checks it and makes a
/// namespace of it.
///
/// ```
/// use coracle::namespaces::IdMap;
///
/// // 65,536 ids from 100,000 on, the container's root first.
/// let map = IdMap::range(100_000, 65_536);
/// assert_eq!(map.host_uid(0), Some(100_000));
/// assert_eq!(map.inside_uid(100_007), Some(7));
/// assert_eq!(map.host_uid(65_536), None);
///
/// // The same, but user 1000 is user 1000 of the host.
/// let map = IdMap::new()
///     .uid(0, 100_000, 1000)
///     .uid(1000, 1000, 1)
///     .uid(1001, 101_001, 64_535)
///     .gid(0, 100_000, 65_536);
/// assert_eq!(map.host_uid(1000), Some(1000));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct IdMap {
    uids: Vec<IdExtent>,
    gids: Vec<IdExtent>,
}

impl IdMap {
    /// A map without any id. A user namespace needs at least one user and one group.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only the caller's own effective ids, which become root inside. Needs no privilege and no
    /// configuration. Supplementary groups cannot be changed inside.
    #[must_use]
    pub fn single() -> Self {
        Self::caller_as(0, 0)
    }

    /// Only the caller's own effective ids, seen inside as `uid` and `gid`. Needs no privilege, as
    /// [`single`](Self::single).
    #[must_use]
    pub fn caller_as(uid: u32, gid: u32) -> Self {
        Self::new().uid(uid, geteuid().as_raw(), 1).gid(gid, getegid().as_raw(), 1)
    }

    /// Users and groups `0..count` inside are `base..base + count` outside.
    #[must_use]
    pub fn range(base: u32, count: u32) -> Self {
        Self::new().uid(0, base, count).gid(0, base, count)
    }

    /// Adds `count` users: `inside` and those that follow are `outside` and those that follow it.
    #[must_use]
    pub fn uid(mut self, inside: u32, outside: u32, count: u32) -> Self {
        self.uids.push(IdExtent { inside, outside, count });
        self
    }

    /// Adds `count` groups: `inside` and those that follow are `outside` and those that follow it.
    #[must_use]
    pub fn gid(mut self, inside: u32, outside: u32, count: u32) -> Self {
        self.gids.push(IdExtent { inside, outside, count });
        self
    }

    /// The extents of user ids, in the order in which they were added.
    pub fn uids(&self) -> &[IdExtent] {
        &self.uids
    }

    /// The extents of group ids, in the order in which they were added.
    pub fn gids(&self) -> &[IdExtent] {
        &self.gids
    }

    /// What user `inside` is to the caller, if the map has it.
    pub fn host_uid(&self, inside: u32) -> Option<u32> {
        self.uids.iter().find_map(|extent| extent.to_outside(inside))
    }

    /// What group `inside` is to the caller, if the map has it.
    pub fn host_gid(&self, inside: u32) -> Option<u32> {
        self.gids.iter().find_map(|extent| extent.to_outside(inside))
    }

    /// What the caller's user `outside` is inside, if the map has it.
    pub fn inside_uid(&self, outside: u32) -> Option<u32> {
        self.uids.iter().find_map(|extent| extent.to_inside(outside))
    }

    /// What the caller's group `outside` is inside, if the map has it.
    pub fn inside_gid(&self, outside: u32) -> Option<u32> {
        self.gids.iter().find_map(|extent| extent.to_inside(outside))
    }

    /// What user `inside` is to the caller, or an error that names the user and the map.
    pub(crate) fn check_uid(&self, inside: u32) -> Result<u32> {
        self.host_uid(inside).ok_or_else(|| outside_the_map("user", inside, &self.uids))
    }

    /// What group `inside` is to the caller, or an error that names the group and the map.
    pub(crate) fn check_gid(&self, inside: u32) -> Result<u32> {
        self.host_gid(inside).ok_or_else(|| outside_the_map("group", inside, &self.gids))
    }

    /// Refuses what the kernel would answer with a bare `EINVAL`.
    pub(crate) fn validate(&self) -> Result<()> {
        validate("user", &self.uids)?;
        validate("group", &self.gids)
    }

    /// Whether the kernel lets a caller with these effective ids write the map without privilege.
    pub(crate) fn is_only(&self, uid: u32, gid: u32) -> bool {
        let only = |extents: &[IdExtent], id| matches!(extents, [IdExtent { outside, count: 1, .. }] if *outside == id);
        only(&self.uids, uid) && only(&self.gids, gid)
    }
}

/// `users 0-65535 = 100000-165535, groups ...`, ids inside first.
impl fmt::Display for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("users ")?;
        describe(f, &self.uids)?;
        f.write_str("; groups ")?;
        describe(f, &self.gids)
    }
}

fn describe(f: &mut impl Write, extents: &[IdExtent]) -> fmt::Result {
    /// Longer maps are cut: this is read by people.
    const SHOWN: usize = 8;
    if extents.is_empty() {
        f.write_str("none")?;
    }
    for (i, extent) in extents.iter().take(SHOWN).enumerate() {
        let separator = if i == 0 { "" } else { ", " };
        let outside = extent.inverted();
        match extent.count {
            1 => write!(f, "{separator}{} = {}", extent.inside, outside.inside)?,
            _ => write!(
                f,
                "{separator}{}-{} = {}-{}",
                extent.inside,
                extent.last(),
                outside.inside,
                outside.last()
            )?,
        }
    }
    if extents.len() > SHOWN {
        write!(f, " and {} more ranges", extents.len() - SHOWN)?;
    }
    Ok(())
}

fn outside_the_map(kind: &str, id: u32, extents: &[IdExtent]) -> Error {
    let mut map = String::new();
    // A String takes everything.
    let _ = describe(&mut map, extents);
    Error::invalid(format!("{kind} id {id} is not in the id map of the user namespace ({map})"))
}

/// The lines for `/proc/PID/uid_map`, to be written in one piece.
pub(crate) fn format_extents(extents: &[IdExtent]) -> String {
    extents.iter().fold(String::new(), |mut text, IdExtent { inside, outside, count }| {
        // A String takes everything.
        let _ = writeln!(text, "{inside} {outside} {count}");
        text
    })
}

/// Reads what the kernel shows in `/proc/PID/uid_map`; `None` if it is not that.
pub(crate) fn parse_extents(text: &str) -> Option<Vec<IdExtent>> {
    text.lines()
        .map(|line| {
            let mut numbers = line.split_ascii_whitespace().map(str::parse);
            let mut next = || numbers.next()?.ok();
            let extent = IdExtent { inside: next()?, outside: next()?, count: next()? };
            numbers.next().is_none().then_some(extent)
        })
        .collect()
}

impl IdMap {
    /// A map with these extents, as read from the kernel.
    pub(crate) fn from_extents(uids: Vec<IdExtent>, gids: Vec<IdExtent>) -> Self {
        Self { uids, gids }
    }
}

fn validate(kind: &str, extents: &[IdExtent]) -> Result<()> {
    if extents.is_empty() {
        return Err(Error::invalid(format!("the id map has no {kind} ids")));
    }
    if extents.len() > MAX_EXTENTS {
        return Err(Error::invalid(format!(
            "the id map has {} ranges of {kind} ids; the kernel takes {MAX_EXTENTS}",
            extents.len()
        )));
    }
    for IdExtent { inside, outside, count } in extents {
        if *count == 0 {
            return Err(Error::invalid(format!(
                "the id map's range of {kind} ids from {inside} is empty"
            )));
        }
        // The kernel wants the sum to fit, which also keeps 4294967295, "no id", out.
        for first in [inside, outside] {
            if first.checked_add(*count).is_none() {
                return Err(Error::invalid(format!(
                    "the id map's {count} {kind} ids from {first} go beyond 4294967294"
                )));
            }
        }
    }
    overlap(extents.iter().copied(), kind, "inside")?;
    overlap(extents.iter().map(|extent| extent.inverted()), kind, "outside")?;
    let bytes = format_extents(extents).len();
    if bytes > MAX_BYTES {
        return Err(Error::invalid(format!(
            "the id map's {} ranges of {kind} ids are {bytes} bytes long; the kernel takes {MAX_BYTES}",
            extents.len()
        )));
    }
    Ok(())
}

fn overlap(extents: impl Iterator<Item = IdExtent>, kind: &str, side: &str) -> Result<()> {
    let mut sorted: Vec<_> = extents.collect();
    sorted.sort_unstable_by_key(|extent| extent.inside);
    for pair in sorted.windows(2) {
        if let [low, high] = pair
            && low.last() >= high.inside
        {
            return Err(Error::invalid(format!(
                "the id map has {kind} id {} twice {side} the namespace",
                high.inside
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn lookups_go_both_ways_and_stop_at_the_edges() {
        let map = IdMap::new().uid(0, 1000, 1).uid(1, 100_000, 10).gid(5, 4_294_967_290, 5);
        for (inside, outside) in
            [(0, Some(1000)), (1, Some(100_000)), (10, Some(100_009)), (11, None), (u32::MAX, None)]
        {
            assert_eq!(map.host_uid(inside), outside, "{inside}");
            if let Some(outside) = outside {
                assert_eq!(map.inside_uid(outside), Some(inside));
            }
        }
        for (outside, inside) in [(999, None), (1001, None), (99_999, None), (100_010, None)] {
            assert_eq!(map.inside_uid(outside), inside, "{outside}");
        }
        assert_eq!(map.host_gid(9), Some(4_294_967_294));
        assert_eq!(map.inside_gid(4_294_967_294), Some(9));
        assert_eq!(map.host_gid(10), None);
        assert_eq!(map.host_gid(4), None);
    }

    #[test]
    fn an_id_outside_the_map_is_refused_by_name() {
        let map = IdMap::range(100_000, 65_536);
        assert_eq!(map.check_uid(65_535).unwrap(), 165_535);
        let err = map.check_uid(65_536).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidInput);
        assert_eq!(
            err.to_string(),
            "user id 65536 is not in the id map of the user namespace (0-65535 = 100000-165535)"
        );
        let err = IdMap::new().gid(0, 7, 1).check_gid(1).unwrap_err();
        assert_eq!(
            err.to_string(),
            "group id 1 is not in the id map of the user namespace (0 = 7)"
        );
    }

    #[test]
    fn validation_says_what_is_wrong() {
        let many = |n: u32, step: u32| {
            (0..n).fold(IdMap::new().gid(0, 0, 1), |map, i| map.uid(i * step, i * step, 1))
        };
        let gid = |map: IdMap| map.gid(0, 0, 1);
        for (map, error) in [
            (IdMap::new(), "the id map has no user ids"),
            (IdMap::new().uid(0, 0, 1), "the id map has no group ids"),
            (gid(IdMap::new().uid(3, 0, 0)), "the id map's range of user ids from 3 is empty"),
            (
                gid(IdMap::new().uid(0, 4_294_967_295, 1)),
                "the id map's 1 user ids from 4294967295 go beyond 4294967294",
            ),
            (
                gid(IdMap::new().uid(1, 0, u32::MAX)),
                "the id map's 4294967295 user ids from 1 go beyond 4294967294",
            ),
            (
                gid(IdMap::new().uid(0, 0, 10).uid(9, 100, 1)),
                "the id map has user id 9 twice inside the namespace",
            ),
            (
                gid(IdMap::new().uid(20, 109, 1).uid(0, 100, 10)),
                "the id map has user id 109 twice outside the namespace",
            ),
            (
                IdMap::new().uid(0, 0, 1).gid(0, 5, 1).gid(0, 6, 1),
                "the id map has group id 0 twice inside the namespace",
            ),
            (many(341, 1), "the id map has 341 ranges of user ids; the kernel takes 340"),
            (
                many(340, 10_000_000),
                "the id map's 340 ranges of user ids are 7926 bytes long; the kernel takes 4095",
            ),
        ] {
            let err = map.validate().unwrap_err();
            assert_eq!((err.kind(), err.to_string().as_str()), (ErrorKind::InvalidInput, error));
        }
        for map in [
            gid(IdMap::new().uid(0, 0, u32::MAX)),
            gid(IdMap::new().uid(0, 0, 10).uid(10, 100, 1).uid(11, 10, 1)),
            many(340, 1),
            IdMap::single(),
            IdMap::range(0x7000_0000, 65_536),
        ] {
            map.validate().unwrap();
        }
    }

    #[test]
    fn only_the_callers_own_ids_need_no_privilege() {
        for (map, only) in [
            (IdMap::new().uid(0, 7, 1).gid(0, 8, 1), true),
            (IdMap::new().uid(500, 7, 1).gid(600, 8, 1), true),
            (IdMap::new().uid(0, 7, 2).gid(0, 8, 1), false),
            (IdMap::new().uid(0, 8, 1).gid(0, 8, 1), false),
            (IdMap::new().uid(0, 7, 1).uid(1, 8, 1).gid(0, 8, 1), false),
            (IdMap::new().uid(0, 7, 1), false),
        ] {
            assert_eq!(map.is_only(7, 8), only, "{map}");
        }
    }

    #[test]
    fn kernel_text_is_read_and_written() {
        let extents = [(0, 1000, 1), (1, 100_000, 65_536)]
            .map(|(inside, outside, count)| IdExtent { inside, outside, count });
        assert_eq!(format_extents(&extents), "0 1000 1\n1 100000 65536\n");
        let shown = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(parse_extents(shown).as_deref(), Some(&extents[..]));
        assert_eq!(parse_extents(""), Some(vec![]));
        for bad in ["0 1", "0 1 2 3", "a 1 2", "-1 0 1", "0 0 4294967296"] {
            assert_eq!(parse_extents(bad), None, "{bad}");
        }
    }

    #[test]
    fn long_maps_are_described_in_short() {
        let map = (0..10).fold(IdMap::new(), |map, i| map.uid(i, i + 100, 1));
        assert_eq!(
            map.to_string(),
            "users 0 = 100, 1 = 101, 2 = 102, 3 = 103, 4 = 104, 5 = 105, 6 = 106, 7 = 107 \
             and 2 more ranges; groups none"
        );
    }
}
