//! Users and groups as an image names them: its /etc/passwd and /etc/group, never the host's.
//!
//! The files are whatever the maker of the image wrote. They are read through the image's root directory,
//! and lines that are not as passwd(5) and group(5) say are passed over.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys::root_dir::RootDir;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
/// Far above any real file.
const MAX_FILE: u64 = 10 << 20;
/// The kernel's limit on supplementary groups (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65_536;
/// 4294967295 means "no id" to the kernel.
const MAX_ID: u32 = u32::MAX - 1;

/// Who a process is to be, in the ids of its user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// All groups, `gid` first: without it among them a process could shed a group that a file denies
    /// something to (CVE-2022-36109).
    pub(crate) groups: Vec<u32>,
    /// An absolute path, if the image has an entry for the user that names one.
    pub(crate) home: Option<PathBuf>,
    /// The user's name, if the image has an entry for the user.
    pub(crate) name: Option<String>,
}

impl Identity {
    /// Root, in no other group.
    pub(crate) fn root() -> Self {
        Self { uid: 0, gid: 0, groups: vec![0], home: None, name: None }
    }

    /// Finds the user `user`, `uid`, `user:group`, `uid:gid` or a mixture of these in the image at `root`.
    ///
    /// As with Docker, a user without a group has the groups that the image gives it, and a uid that the
    /// image does not know has group 0; with a group it has that group only. A number is a number even if
    /// the image calls a user so (CVE-2016-3697).
    ///
    /// # Errors
    /// `InvalidInput` if it is none of these forms (CVE-2026-30892: `""`, `0x`, `1:`, `-1`, `1.5`),
    /// `NotFound` if the image has no user or group of that name, `Malformed` if one of its files is not
    /// a regular file, or too long.
    pub(crate) fn find(user: &str, root: &RootDir) -> Result<Self> {
        let spec = Spec::parse(user)?;
        let resolve = || spec.resolve(&read(root, PASSWD)?, &read(root, GROUP)?);
        resolve().map_err(|err| err.context(format!("find user {user} in the image")))
    }

    /// Adds the groups of these names and numbers, as the image at `root` has them.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub(crate) fn join(&mut self, names: &[String], root: &RootDir) -> Result<()> {
        let attempt = || format!("find the groups {} in the image", names.join(", "));
        let who = names.iter().map(|name| Who::parse(name, name)).collect::<Result<Vec<_>>>();
        let who = who.context(attempt)?;
        let named = who.iter().any(|who| matches!(who, Who::Name(_)));
        let file = if named { read(root, GROUP).context(attempt)? } else { Vec::new() };
        for who in who {
            let gid = find_group(who, &file).context(attempt)?;
            if !self.groups.contains(&gid) {
                self.groups.push(gid);
            }
        }
        Ok(())
    }

    /// The same, in files that have been read.
    #[cfg(any(fuzzing, test))]
    pub(crate) fn in_files(user: &str, passwd: &[u8], group: &[u8]) -> Result<Self> {
        Spec::parse(user)?.resolve(passwd, group)
    }
}

/// A user or group by number or name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who<'a> {
    Id(u32),
    Name(&'a str),
}

impl<'a> Who<'a> {
    fn parse(text: &'a str, whole: &str) -> Result<Self> {
        let invalid = |why: &str| Err(Error::invalid(format!("user {whole:?}: {why}")));
        if text.is_empty() {
            return invalid("the name or number of user or group is missing");
        }
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return match text.parse() {
                Ok(id) if id <= MAX_ID => Ok(Self::Id(id)),
                _ => invalid("an id is at most 4294967294"),
            };
        }
        if text.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '-' | '+')) {
            return invalid(
                "a name does not begin with a digit or sign, and a number has digits only",
            );
        }
        if text.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ',')) {
            return invalid("a name has no spaces, control characters, slashes or commas");
        }
        Ok(Self::Name(text))
    }

    /// Whether an entry of the file with this name and number is meant.
    fn is(self, name: &[u8], id: u32) -> bool {
        match self {
            Self::Id(own) => own == id,
            Self::Name(own) => own.as_bytes() == name,
        }
    }
}

/// What the caller asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spec<'a> {
    user: Who<'a>,
    group: Option<Who<'a>>,
}

impl<'a> Spec<'a> {
    fn parse(text: &'a str) -> Result<Self> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        if group.is_some_and(|group| group.contains(':')) {
            return Err(Error::invalid(format!("user {text:?} has more than one colon")));
        }
        Ok(Self {
            user: Who::parse(user, text)?,
            group: group.map(|group| Who::parse(group, text)).transpose()?,
        })
    }

    fn resolve(self, passwd: &[u8], group: &[u8]) -> Result<Identity> {
        let entry = users(passwd).find(|user| self.user.is(user.name, user.uid));
        let uid = match (entry, self.user) {
            (Some(entry), _) => entry.uid,
            (None, Who::Id(uid)) => uid,
            (None, Who::Name(name)) => {
                let message = format!("no user {name} in the image's {PASSWD}");
                return Err(Error::new(ErrorKind::NotFound, message));
            }
        };
        let (gid, groups) = match self.group {
            Some(who) => {
                let gid = find_group(who, group)?;
                (gid, vec![gid])
            }
            None => match entry {
                Some(entry) => (entry.gid, memberships(entry, group)?),
                None => (0, vec![0]),
            },
        };
        let home = entry.map(|entry| entry.home).filter(|home| is_path(home));
        Ok(Identity {
            uid,
            gid,
            groups,
            home: home.map(|home| OsStr::from_bytes(home).into()),
            name: entry.and_then(|entry| str::from_utf8(entry.name).ok()).map(str::to_owned),
        })
    }
}

/// A file of the image; empty if it is missing.
fn read(root: &RootDir, file: &str) -> Result<Vec<u8>> {
    match root.read_file(file, MAX_FILE) {
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

fn find_group(who: Who<'_>, group: &[u8]) -> Result<u32> {
    let name = match who {
        Who::Id(gid) => return Ok(gid),
        Who::Name(name) => name,
    };
    let found = groups(group).find(|group| group.name == name.as_bytes());
    found.map(|group| group.gid).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("no group {name} in the image's {GROUP}"))
    })
}

fn is_path(home: &[u8]) -> bool {
    home.starts_with(b"/") && !home.contains(&0)
}

/// The user's group and all that list the user as a member, each once.
fn memberships(user: User<'_>, group: &[u8]) -> Result<Vec<u32>> {
    let mut all = vec![user.gid];
    let mut seen = BTreeSet::from([user.gid]);
    for group in groups(group) {
        let member = group.members.split(|byte| *byte == b',').any(|member| member == user.name);
        if member && seen.insert(group.gid) {
            all.push(group.gid);
        }
    }
    if all.len() > MAX_GROUPS {
        let message = format!("the image's {GROUP} has the user in more than {MAX_GROUPS} groups");
        return Err(Error::new(ErrorKind::Malformed, message));
    }
    Ok(all)
}

/// A line of /etc/passwd.
#[derive(Clone, Copy, Debug)]
struct User<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

fn users(passwd: &[u8]) -> impl Iterator<Item = User<'_>> {
    lines(passwd).filter_map(|mut fields| {
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (id(fields.next()?)?, id(fields.next()?)?);
        let home = fields.nth(1).unwrap_or_default();
        (!name.is_empty()).then_some(User { name, uid, gid, home })
    })
}

/// A line of /etc/group.
#[derive(Clone, Copy, Debug)]
struct Group<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

fn groups(group: &[u8]) -> impl Iterator<Item = Group<'_>> {
    lines(group).filter_map(|mut fields| {
        let (name, _password) = (fields.next()?, fields.next()?);
        let (gid, members) = (id(fields.next()?)?, fields.next().unwrap_or_default());
        (!name.is_empty()).then_some(Group { name, gid, members })
    })
}

fn lines(text: &[u8]) -> impl Iterator<Item = impl Iterator<Item = &[u8]>> {
    text.split(|byte| *byte == b'\n').map(|line| line.split(|byte| *byte == b':'))
}

fn id(field: &[u8]) -> Option<u32> {
    let digits = !field.is_empty() && field.iter().all(u8::is_ascii_digit);
    let id = str::from_utf8(field).ok().filter(|_| digits)?.parse().ok()?;
    (id <= MAX_ID).then_some(id)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const PASSWD_FILE: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        # comment\n\
        +nis::::::\n\
        bad:x:-1:0::/:\n\
        bad:x:0x0:0::/:\n\
        bad:x:4294967295:0::/:\n\
        bad:x:99999999999999999999:0::/:\n\
        bad:x\n\
        :x:5:5::/:\n\
        1000:x:0:0:numeric name:/evil:/bin/sh\n\
        app:x:1000:1000:App,,,:/home/app:/bin/sh\n\
        app:x:0:0:second:/root:/bin/sh\n\
        twin:x:1000:7:same id:/twin:/bin/sh\n\
        short:x:12:13\n\
        rel:x:14:14::relative:\n\
        nul:x:15:15::/a\0b:\n\
        \xff\xfe:x:16:16::/\xff:\n";
    const GROUP_FILE: &[u8] = b"root:x:0:\n\
        1000:x:0:\n\
        app:x:1000:\n\
        wheel:x:10:root,app\n\
        bad:x:-5:app\n\
        dup:x:10:app\n\
        apps:x:20:xapp,appx,app\n\
        own:x:1000:app\n\
        nothing:x:30\n";

    fn resolve(spec: &str) -> Result<Identity> {
        Identity::in_files(spec, PASSWD_FILE, GROUP_FILE)
    }

    #[test]
    fn every_form_of_user_and_group_is_resolved() {
        for (spec, uid, groups, home, name) in [
            ("root", 0, &[0, 10][..], Some("/root"), Some("root")),
            ("app", 1000, &[1000, 10, 20], Some("/home/app"), Some("app")),
            ("1000", 1000, &[1000, 10, 20], Some("/home/app"), Some("app")),
            ("001000", 1000, &[1000, 10, 20], Some("/home/app"), Some("app")),
            ("twin", 1000, &[7], Some("/twin"), Some("twin")),
            ("app:wheel", 1000, &[10], Some("/home/app"), Some("app")),
            ("app:0", 1000, &[0], Some("/home/app"), Some("app")),
            ("1000:1000", 1000, &[1000], Some("/home/app"), Some("app")),
            ("4000:apps", 4000, &[20], None, None),
            ("4000", 4000, &[0], None, None),
            ("4294967294:4294967294", 4_294_967_294, &[4_294_967_294], None, None),
            ("short", 12, &[13], None, Some("short")),
            ("rel", 14, &[14], None, Some("rel")),
            ("nul", 15, &[15], None, Some("nul")),
            ("0:nothing", 0, &[30], Some("/root"), Some("root")),
        ] {
            let identity = Identity {
                uid,
                gid: groups[0],
                groups: groups.to_vec(),
                home: home.map(PathBuf::from),
                name: name.map(str::to_owned),
            };
            assert_eq!(resolve(spec).unwrap(), identity, "{spec}");
        }
        let foreign = resolve("16").unwrap();
        assert_eq!((foreign.gid, foreign.name), (16, None));
        assert_eq!(foreign.home.unwrap().as_os_str().as_bytes(), b"/\xff");
    }

    /// The image calls a user with id 0 "1000".
    #[test]
    fn cve_2016_3697_a_number_is_never_a_name() {
        assert_eq!(resolve("1000").unwrap().uid, 1000);
        assert_eq!(resolve("app:1000").unwrap().gid, 1000);
        let unknown = Spec::parse("4000").unwrap();
        let identity = unknown.resolve(b"4000:x:0:0::/:\n", b"4000:x:0:\n").unwrap();
        assert_eq!((identity.uid, identity.home), (4000, None));
    }

    #[test]
    fn cve_2026_30892_what_is_no_user_is_refused() {
        for spec in [
            "",
            ":",
            "1:",
            ":1",
            "app:",
            ":app",
            "1:2:3",
            "::",
            "-1",
            "+1",
            "0x",
            "0x10",
            "1.5",
            "1e3",
            "1 ",
            " 1",
            "a b",
            "1a",
            "a/b",
            "a,b",
            "a\0",
            "a\n",
            "4294967295",
            "4294967296",
            "99999999999999999999",
            "-",
            "1:-1",
            "1:0x",
            "1:4294967295",
            "app:1.5",
            "\u{a0}",
        ] {
            let err = resolve(spec).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidInput, "{spec:?}: {err}");
            assert!(err.to_string().contains(&format!("{spec:?}")), "{err}");
        }
        // Digits of other scripts are no number, and no user of this image.
        assert_eq!(resolve("٣").unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn unknown_names_are_told_with_the_file() {
        for (spec, message) in [
            ("eve", "no user eve in the image's /etc/passwd"),
            ("bad", "no user bad in the image's /etc/passwd"),
            ("app:eve", "no group eve in the image's /etc/group"),
            ("app:bad", "no group bad in the image's /etc/group"),
        ] {
            let err = resolve(spec).unwrap_err();
            assert_eq!((err.kind(), err.to_string().as_str()), (ErrorKind::NotFound, message));
        }
    }

    #[test]
    fn a_user_in_too_many_groups_is_refused() {
        let group: String = (0..70_000).map(|gid| format!("g{gid}:x:{gid}:app\n")).collect();
        let err = Spec::parse("app").unwrap().resolve(PASSWD_FILE, group.as_bytes()).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Malformed);
    }

    #[test]
    fn only_the_files_of_the_image_are_asked() {
        let dir = tempfile::tempdir().unwrap();
        let root = RootDir::open_host(dir.path()).unwrap();
        let etc = dir.path().join("etc");
        // An image without files knows numbers only.
        assert_eq!(Identity::find("7:8", &root).unwrap().groups, [8]);
        let err = Identity::find("root", &root).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::NotFound);
        assert_eq!(
            format!("{err:#}"),
            "find user root in the image: no user root in the image's /etc/passwd"
        );
        // Not the host's /etc, which has a root: the link leads to itself in here.
        symlink("/etc", &etc).unwrap();
        assert_eq!(Identity::find("root", &root).unwrap_err().kind(), ErrorKind::SafetyViolation);
        fs::remove_file(&etc).unwrap();
        // A link to a place that only the image has.
        symlink("/only-in-image", &etc).unwrap();
        let inside = dir.path().join("only-in-image");
        fs::create_dir(&inside).unwrap();
        fs::write(inside.join("passwd"), PASSWD_FILE).unwrap();
        symlink("/etc/passwd", inside.join("group")).unwrap();
        assert_eq!(Identity::find("app", &root).unwrap().uid, 1000);
        fs::remove_file(inside.join("passwd")).unwrap();
        nix::unistd::mkfifo(&inside.join("passwd"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let err = Identity::find("0", &root).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Malformed, "{err:?}");
    }
}
