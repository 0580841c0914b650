//! Archives that become layers: what odd ones say is done, what hostile ones say is not.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use coracle::layers::{ArchiveLimits, Compression, Unpack, Unpacked};
use coracle::{Error, ErrorKind, Result};
use nix::unistd::geteuid;
use tar::EntryType;

use common::archive::{Attributes, Tar, attributes, tree};
use common::{Sandbox, require, setup};

/// A place to unpack to, beside which lies what must not be touched.
struct Target {
    dir: Sandbox,
    canary: Vec<String>,
}

impl Target {
    fn new(name: &str) -> Self {
        let dir = setup(&format!("archive-{name}"));
        dir.dir("layer");
        dir.dir("lower");
        dir.file("canary/secret", "untouched");
        dir.file("canary/below/file", "untouched");
        symlink("secret", dir.join("canary/link")).unwrap();
        let canary = tree(&dir.join("canary"));
        Self { dir, canary }
    }

    fn open(&self, name: &str) -> File {
        File::open(self.dir.join(name)).unwrap()
    }

    fn layer(&self) -> PathBuf {
        self.dir.join("layer")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join("layer").join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Unpacks as a layer above `lower`.
    fn unpack(&self, tar: &[u8]) -> Result<Unpacked> {
        let lower = self.open("lower").into();
        self.run(&Unpack::new().lower(&lower), tar)
    }

    /// Unpacks over files that are there.
    fn merge(&self, tar: &[u8]) -> Result<Unpacked> {
        self.run(&Unpack::new().overlay(false), tar)
    }

    fn run(&self, unpack: &Unpack<'_>, tar: impl Read + Send) -> Result<Unpacked> {
        let result = unpack.run(tar, self.open("layer"));
        assert_eq!(tree(&self.dir.join("canary")), self.canary, "outside of the target");
        let names = fs::read_dir(&*self.dir).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.count(), 3, "something was made beside the target");
        result
    }

    fn exists(&self, name: &str) -> bool {
        self.path(name).symlink_metadata().is_ok()
    }

    /// Whether overlays would see that it is deleted.
    fn is_whiteout(&self, name: &str) -> bool {
        self.path(name)
            .symlink_metadata()
            .is_ok_and(|meta| meta.file_type().is_char_device() && meta.rdev() == 0)
    }

    fn is_opaque(&self, name: &str) -> bool {
        let mark = if geteuid().is_root() { "trusted" } else { "user" };
        let path = self.path(name);
        attributes(&path).get(&format!("{mark}.overlay.opaque")).is_some_and(|value| value == b"y")
    }
}

fn refused(result: Result<Unpacked>, kind: ErrorKind, words: &[&str]) -> Error {
    let err = result.unwrap_err();
    let text = format!("{err:#}");
    assert_eq!(err.kind(), kind, "{err:?}");
    for word in words {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    err
}

#[test]
fn files_get_what_the_archive_says_to_the_nanosecond() {
    let target = Target::new("plain");
    let mut tar = Tar::new();
    tar.pax(&[("mtime", b"1234567890.123456789")]).dir("d", 0o1777);
    tar.pax(&[("mtime", b"-1.5")]).file("d/f", "content").pax(&[("mtime", b"9999999999")]);
    tar.link("d/s", "../nowhere").hard_link("d/h", "./d/f").fifo("d/p");
    tar.entry("d/setuid", EntryType::Regular, |header| header.set_mode(0o6755), b"x");
    let unpacked = target.unpack(&tar.end()).unwrap();
    assert_eq!(unpacked.entries, 6);
    let meta = |name: &str| target.path(name).symlink_metadata().unwrap();
    assert_eq!((meta("d").mtime(), meta("d").mtime_nsec()), (1_234_567_890, 123_456_789));
    assert_eq!(meta("d").mode() & 0o7777, 0o1777);
    assert_eq!((meta("d/f").mtime(), meta("d/f").mtime_nsec()), (-2, 500_000_000));
    assert_eq!(meta("d/f").ino(), meta("d/h").ino());
    assert_eq!(meta("d/f").nlink(), 2);
    assert_eq!(meta("d/s").mtime(), 9_999_999_999);
    assert_eq!(fs::read_link(target.path("d/s")).unwrap(), Path::new("../nowhere"));
    assert!(meta("d/p").file_type().is_fifo());
    assert_eq!(meta("d/setuid").mode() & 0o7777, 0o6755);
    assert_eq!(target.text("d/f"), "content");
}

#[test]
fn parents_come_before_after_or_not_at_all() {
    let target = Target::new("parents");
    let mut tar = Tar::new();
    tar.file("late/a/f", "1").dir("late/a", 0o700).dir("late", 0o711);
    tar.file("never/b/f", "2");
    tar.file("//./twice//f", "3").file("twice/f", "4").dir("twice/", 0o750).dir("twice", 0o705);
    target.unpack(&tar.end()).unwrap();
    let mode = |name: &str| fs::metadata(target.path(name)).unwrap().mode() & 0o7777;
    assert_eq!(
        (mode("late"), mode("late/a"), mode("never"), mode("never/b")),
        (0o711, 0o700, 0o755, 0o755)
    );
    assert_eq!((mode("twice"), target.text("twice/f")), (0o705, "4".into()));
    assert_eq!(target.text("never/b/f"), "2");
}

#[test]
fn the_last_of_equal_names_counts() {
    let target = Target::new("equal");
    let mut tar = Tar::new();
    tar.dir("x", 0o755).file("x/deep/er", "1").file("x", "2");
    tar.file("y", "1").dir("y", 0o755).file("y/z", "2");
    tar.link("l", "y").dir("l", 0o700).file("l/own", "3");
    tar.file("h", "old").hard_link("h2", "h").file("h", "new");
    tar.fifo("p").link("p", "q").file("p", "4");
    tar.file("same", "5").hard_link("same", "same");
    target.unpack(&tar.end()).unwrap();
    assert_eq!(target.text("x"), "2");
    assert_eq!(target.text("y/z"), "2");
    assert_eq!((target.text("l/own"), target.exists("y/own")), ("3".into(), false));
    assert_eq!((target.text("h"), target.text("h2")), ("new".into(), "old".into()));
    assert_eq!((target.text("p"), target.text("same")), ("4".into(), "5".into()));
}

#[test]
fn names_that_lead_up_are_refused() {
    for name in ["../canary/secret", "..", "a/../../canary/secret", "/../canary/new", "a/.."] {
        let target = Target::new("up");
        let mut tar = Tar::new();
        tar.raw(name, EntryType::Regular, b"evil");
        refused(target.unpack(&tar.end()), ErrorKind::SafetyViolation, &[name, "leads out"]);
        let mut tar = Tar::new();
        tar.raw_link("x", name, EntryType::Link);
        refused(target.unpack(&tar.end()), ErrorKind::SafetyViolation, &["unpack x", name]);
        let mut tar = Tar::new();
        tar.pax(&[("path", name.as_bytes())]).raw("x", EntryType::Directory, b"");
        refused(target.merge(&tar.end()), ErrorKind::SafetyViolation, &[name]);
    }
}

#[test]
fn absolute_names_mean_the_target() {
    let target = Target::new("absolute");
    let secret = target.dir.join("canary/secret");
    let name = secret.to_str().unwrap();
    let mut tar = Tar::new();
    tar.pax(&[("path", name.as_bytes())]).raw("x", EntryType::Regular, b"inside");
    tar.pax(&[("linkpath", name.as_bytes())]).raw_link("y", "z", EntryType::Link);
    target.unpack(&tar.end()).unwrap();
    assert_eq!(target.text(name.trim_start_matches('/')), "inside");
    assert_eq!(target.text("y"), "inside");
}

/// As in a chroot.
#[test]
fn links_are_followed_inside_the_target() {
    let target = Target::new("links");
    let canary = target.dir.join("canary");
    let mut tar = Tar::new();
    tar.link("abs", canary.to_str().unwrap()).file("abs/secret", "inside");
    tar.link("up", "../../../../canary").file("up/secret", "inside too");
    tar.dir("real", 0o755).link("chain", "hop").link("hop", "real/../real/.").file("chain/f", "1");
    tar.link("magic", "/proc/self/fd").file("magic/3", "2");
    target.unpack(&tar.end()).unwrap();
    let inside = canary.strip_prefix("/").unwrap().join("secret");
    assert_eq!(target.text(inside.to_str().unwrap()), "inside");
    assert_eq!(target.text("canary/secret"), "inside too");
    assert_eq!((target.text("real/f"), target.text("proc/self/fd/3")), ("1".into(), "2".into()));
    // The last component is replaced, not followed.
    let mut tar = Tar::new();
    tar.link("out", canary.join("secret").to_str().unwrap()).file("out", "replaced");
    tar.link("file", canary.join("new").to_str().unwrap()).dir("file", 0o755);
    target.unpack(&tar.end()).unwrap();
    assert_eq!(target.text("out"), "replaced");
    // Round and round.
    let mut tar = Tar::new();
    tar.link("a", "b").link("b", "a").file("a/f", "");
    let err = refused(target.unpack(&tar.end()), ErrorKind::SafetyViolation, &["a/f"]);
    assert_eq!(err.raw_os_error(), Some(libc::ELOOP));
}

#[test]
fn nothing_is_linked_from_outside() {
    let target = Target::new("hard");
    let secret = target.dir.join("canary/secret");
    let mut tar = Tar::new();
    tar.link("to", secret.to_str().unwrap()).hard_link("h", "to").file("h", "over");
    tar.link("dir", target.dir.join("canary").to_str().unwrap());
    target.unpack(&tar.end()).unwrap();
    assert_eq!(target.text("h"), "over");
    for (link, kind) in [
        (secret.to_str().unwrap(), ErrorKind::Malformed),
        ("dir/secret", ErrorKind::Malformed),
        ("missing", ErrorKind::Malformed),
        ("", ErrorKind::Malformed),
        ("/", ErrorKind::Malformed),
        (".", ErrorKind::Malformed),
    ] {
        let mut tar = Tar::new();
        tar.raw_link("x", link, EntryType::Link);
        refused(target.unpack(&tar.end()), kind, &["x"]);
    }
    let mut tar = Tar::new();
    tar.dir("d", 0o755).hard_link("x", "d");
    refused(target.unpack(&tar.end()), ErrorKind::Malformed, &["unpack x", "d is a directory"]);
}

#[test]
fn whiteouts_delete_from_the_lower_layers_alone() {
    for order in [false, true] {
        let target = Target::new("whiteouts");
        for name in ["gone", "kept", "dir/a", "dir/b", "opaque/a", "sub/x", "replaced/old"] {
            target.dir.file(format!("lower/{name}"), "lower");
        }
        let mut first = Tar::new();
        first.file(".wh.gone", "").file(".wh.kept", "").file(".wh.dir", "");
        first.file(".wh.nothing", "").file("missing/.wh.x", "").file("sub/.wh.x", "");
        first.file("opaque/.wh..wh..opq", "").file(".wh.replaced", "").file(".wh..wh.plnk", "");
        let mut second = Tar::new();
        second.file("kept", "upper").file("dir/new", "upper").file("opaque/b", "upper");
        second.dir("replaced", 0o700).file("replaced/new", "upper");
        let (first, second) = (first.entries(), second.entries());
        let tar = if order { [second, first].concat() } else { [first, second].concat() };
        target.unpack(&[&tar[..], &[0; 1024]].concat()).unwrap();
        assert!(target.is_whiteout("gone") && target.is_whiteout("sub/x"), "{order}");
        assert_eq!(target.text("kept"), "upper");
        assert_eq!(target.text("dir/new"), "upper");
        for dir in ["dir", "opaque", "replaced"] {
            assert!(target.is_opaque(dir), "{dir} {order}");
        }
        assert!(!target.is_opaque("sub"));
        for name in ["nothing", "missing", "dir/a", ".wh..wh.plnk", ".wh.gone"] {
            assert!(!target.exists(name), "{name} {order}");
        }
    }
}

#[test]
fn a_layer_tells_whether_the_lower_ones_have_a_say() {
    let cases: [(&str, &[&str], bool, bool); 7] = [
        ("nothing", &[], true, false),
        ("entries for all", &["d/", "d/x", "y"], true, false),
        ("and for the top", &["./", "d/", "d/x"], true, true),
        ("a directory passed", &["d/x", "d/"], false, false),
        ("a deletion", &["d/", "d/.wh.x"], false, false),
        ("an opaque directory", &["d/", "d/.wh..wh..opq"], false, false),
        ("notes of an old driver", &[".wh..wh.plnk", "x"], true, false),
    ];
    for (what, entries, stands_alone, has_top) in cases {
        let target = Target::new("stands-alone");
        let mut tar = Tar::new();
        for name in entries {
            match name.strip_suffix('/') {
                Some(name) => tar.dir(name, 0o755),
                None => tar.file(name, "x"),
            };
        }
        let unpacked = target.run(&Unpack::new(), &tar.end()[..]).unwrap();
        assert_eq!((unpacked.stands_alone, unpacked.has_top), (stands_alone, has_top), "{what}");
    }
    let target = Target::new("stands-alone");
    target.dir.file("lower/lower", "lower");
    let mut tar = Tar::new();
    tar.raw_link("linked", "lower", EntryType::Link);
    assert!(!target.unpack(&tar.end()).unwrap().stands_alone);
}

#[test]
fn whiteouts_delete_what_is_there_but_not_what_the_archive_made() {
    for order in [false, true] {
        let target = Target::new("deletes");
        for name in
            ["gone", "kept", "dir/a", "dir/b/c", "opaque/a/b/c", "opaque/keep/x", "sub/x", "sub/y"]
        {
            target.dir.file(format!("layer/{name}"), "lower");
        }
        let mut first = Tar::new();
        first.file(".wh.gone", "").file(".wh.kept", "").file(".wh.dir", "");
        first.file(".wh.nothing", "").file("missing/.wh.x", "").file("sub/.wh.x", "");
        first.file("opaque/.wh..wh..opq", "").file(".wh..wh.plnk", "");
        let mut second = Tar::new();
        second.file("kept", "upper").file("dir/b/new", "upper").file("opaque/keep/new", "upper");
        let (first, second) = (first.entries(), second.entries());
        let tar = if order { [second, first].concat() } else { [first, second].concat() };
        target.merge(&[&tar[..], &[0; 1024]].concat()).unwrap();
        let names: Vec<_> = tree(&target.layer())
            .iter()
            .map(|line| line.split(' ').next().unwrap().to_owned())
            .collect();
        assert_eq!(
            names,
            [
                ".",
                "dir",
                "dir/b",
                "dir/b/new",
                "kept",
                "opaque",
                "opaque/keep",
                "opaque/keep/new",
                "sub",
                "sub/y"
            ],
            "{order}"
        );
    }
}

#[test]
fn an_opaque_root_hides_everything() {
    for order in [false, true] {
        let target = Target::new("opaque-root");
        target.dir.file("lower/a", "");
        target.dir.file("lower/b/c", "");
        target.dir.file("lower/d/e", "");
        let mut first = Tar::new();
        first.file(".wh..wh..opq", "");
        let mut second = Tar::new();
        second.file("b/new", "").file("a", "upper");
        let (first, second) = (first.entries(), second.entries());
        let tar = if order { [second, first].concat() } else { [first, second].concat() };
        target.unpack(&[&tar[..], &[0; 1024]].concat()).unwrap();
        assert!(target.is_opaque("b") && target.is_whiteout("d"), "{order}");
        assert_eq!(target.text("a"), "upper");
    }
}

#[test]
fn whiteouts_lead_nowhere() {
    let target = Target::new("whiteout-out");
    let canary = target.dir.join("canary");
    let mut tar = Tar::new();
    tar.link("l", canary.to_str().unwrap());
    tar.file("l/.wh.secret", "").file("l/.wh..wh..opq", "");
    target.unpack(&tar.end()).unwrap();
    target.merge(&tar.end()).unwrap();
    for name in [".wh.", ".wh..", ".wh...", "d/.wh.."] {
        let mut tar = Tar::new();
        tar.raw(name, EntryType::Regular, b"");
        refused(target.unpack(&tar.end()), ErrorKind::Malformed, &[name]);
        refused(target.merge(&tar.end()), ErrorKind::Malformed, &[name]);
    }
    // A whiteout is no directory, whatever its type.
    for (name, kind) in [(".wh.x/y", EntryType::Regular), (".wh.x/", EntryType::Directory)] {
        let mut tar = Tar::new();
        tar.raw(name, kind, b"").file("f", "");
        match target.unpack(&tar.end()) {
            Ok(_) => assert!(!target.exists(".wh.x")),
            Err(err) => assert_eq!(err.kind(), ErrorKind::Malformed),
        }
    }
    let mut tar = Tar::new();
    tar.raw_link("z", ".wh..wh..opq", EntryType::Link);
    refused(target.unpack(&tar.end()), ErrorKind::Malformed, &["unpack z"]);
}

/// Ancestors that only the lower layers have keep their attributes; links that they have are followed.
#[test]
fn missing_parents_come_from_the_lower_layers() {
    let target = Target::new("lower-parents");
    target.dir.file("lower/private/old", "");
    fs::set_permissions(target.dir.join("lower/private"), fs::Permissions::from_mode(0o2750))
        .unwrap();
    let time = fs::metadata(target.dir.join("lower/private")).unwrap().mtime_nsec();
    target.dir.dir("lower/usr/bin");
    symlink("usr/bin", target.dir.join("lower/bin")).unwrap();
    symlink(target.dir.join("canary"), target.dir.join("lower/evil")).unwrap();
    target.dir.file("lower/file", "");
    let mut tar = Tar::new();
    tar.file("private/new", "").file("bin/sh", "").file("evil/secret", "x");
    target.unpack(&tar.end()).unwrap();
    let meta = fs::metadata(target.path("private")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime_nsec()), (0o2750, time));
    assert!(target.exists("usr/bin/sh") && !target.exists("bin"));
    let mut tar = Tar::new();
    tar.file("file/below", "");
    let err = refused(target.unpack(&tar.end()), ErrorKind::InvalidInput, &["file/below"]);
    assert_eq!(err.raw_os_error(), Some(libc::ENOTDIR));
}

#[test]
fn a_file_of_the_lower_layers_is_copied_to_be_linked() {
    let target = Target::new("copy-up");
    let lower = target.dir.file("lower/dir/file", "content");
    fs::set_permissions(&lower, fs::Permissions::from_mode(0o751)).unwrap();
    symlink("file", target.dir.join("lower/dir/link")).unwrap();
    let mut tar = Tar::new();
    tar.hard_link("h", "dir/file").hard_link("l", "dir/link");
    target.unpack(&tar.end()).unwrap();
    let meta = |name: &str| target.path(name).symlink_metadata().unwrap();
    assert_eq!(meta("h").ino(), meta("dir/file").ino());
    assert_eq!(meta("l").ino(), meta("dir/link").ino());
    let from = fs::metadata(&lower).unwrap();
    assert_eq!(
        (meta("h").mode(), meta("h").mtime_nsec(), target.text("h").as_str()),
        (from.mode(), from.mtime_nsec(), "content")
    );
    // What has been deleted is not there to be linked.
    let mut tar = Tar::new();
    tar.file("dir/.wh.other", "").file(".wh.gone", "").hard_link("x", "gone");
    target.dir.file("lower/gone", "");
    refused(target.unpack(&tar.end()), ErrorKind::Malformed, &["unpack x", "gone"]);
}

#[test]
fn attributes_of_the_host_never_come_from_an_archive() {
    let target = Target::new("xattrs");
    let long = vec![b'\n'; 1000];
    let mut tar = Tar::new();
    tar.pax(&[
        ("SCHILY.xattr.user.plain", b"\0\n=\n"),
        ("SCHILY.xattr.user.a%3Db%25", &long),
        ("SCHILY.xattr.user.overlay.redirect", b"/canary"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.other", b"y"),
        ("SCHILY.xattr.security.selinux", b"label"),
        ("LIBARCHIVE.xattr.user.other", b"eA"),
    ]);
    let records = tar.take_records();
    tar.records(&records).file("f", "x").records(&records).dir("d", 0o755);
    // A mode that takes the right to write away comes after the attributes.
    tar.records(&records).entry("ro", EntryType::Regular, |header| header.set_mode(0o444), b"");
    target.unpack(&tar.end()).unwrap();
    for name in ["f", "d", "ro"] {
        let expected: Attributes =
            [("user.plain".into(), b"\0\n=\n".to_vec()), ("user.a=b%".into(), long.clone())].into();
        assert_eq!(attributes(&target.path(name)), expected, "{name}");
    }
}

#[test]
fn capabilities_and_lists_are_kept() {
    require!(common::subordinate_ids());
    let target = Target::new("capabilities");
    // Effective and permitted: net_raw; with a line feed, which ends no record.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut tar = Tar::new();
    tar.pax(&[("SCHILY.xattr.security.capability", &capability)]).file("ping", "x");
    tar.pax(&[("SCHILY.acl.access", b"user::rw-,user:5:rw-,group::r--,mask::rw-,other::r--")]);
    tar.entry("list", EntryType::Regular, |header| header.set_mode(0o664), b"x");
    tar.pax(&[(
        "SCHILY.acl.default",
        b"user::rwx\nuser:www:r-x:33\ngroup::r-x\nmask::r-x\nother::---\n",
    )]);
    tar.dir("d", 0o750).file("d/none", "");
    target.unpack(&tar.end()).unwrap();
    let found = attributes(&target.path("ping"));
    let found = found.get("security.capability").unwrap();
    // To who is outside of its user namespace the kernel names its root.
    assert_eq!(found[4..20], capability[4..]);
    assert_eq!(found.len(), if geteuid().is_root() { 20 } else { 24 });
    assert!(attributes(&target.path("list")).contains_key("system.posix_acl_access"));
    assert_eq!(fs::metadata(target.path("list")).unwrap().mode() & 0o7777, 0o664);
    assert!(attributes(&target.path("d")).contains_key("system.posix_acl_default"));
    assert_eq!(attributes(&target.path("d/none")), Attributes::new());
    let mut tar = Tar::new();
    tar.pax(&[(
        "SCHILY.acl.access",
        b"user::rw-,user:www-data:rw-,group::r--,mask::rw-,other::r--",
    )]);
    tar.file("named", "");
    let err = refused(target.unpack(&tar.end()), ErrorKind::Unsupported, &["named", "www-data"]);
    assert!(err.hint().unwrap().contains("--no-acls"));
}

#[test]
fn numbers_that_are_left_blank_are_zero() {
    let target = Target::new("blank");
    for blank in [0, b' '] {
        let mut tar = Tar::new();
        tar.entry(
            "f",
            EntryType::Regular,
            |header| {
                let old = header.as_old_mut();
                (old.mode, old.mtime) = ([blank; 8], [blank; 12]);
                (old.uid, old.gid) = ([blank; 8], [blank; 8]);
            },
            b"x",
        );
        target.unpack(&tar.end()).unwrap();
        let meta = fs::metadata(target.path("f")).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0, 0));
        if geteuid().is_root() {
            assert_eq!((meta.uid(), meta.gid()), (0, 0));
        }
    }
}

#[test]
fn ids_large_and_small_are_those_of_the_archive() {
    require!(common::root());
    let target = Target::new("ids");
    let mut tar = Tar::new();
    tar.owned("a", 33, 42).owned("b", 4_294_967_294, 3_000_000_000);
    tar.pax(&[("uid", b"2097152"), ("gid", b"4000000000")]).file("c", "");
    target.unpack(&tar.end()).unwrap();
    for (name, uid, gid) in
        [("a", 33, 42), ("b", 4_294_967_294, 3_000_000_000), ("c", 2_097_152, 4_000_000_000)]
    {
        let meta = fs::metadata(target.path(name)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (uid, gid));
    }
    for uid in ["4294967295", "4294967296", "18446744073709551615"] {
        let mut tar = Tar::new();
        tar.pax(&[("uid", uid.as_bytes())]).file("x", "");
        refused(target.unpack(&tar.end()), ErrorKind::Malformed, &["entry x", uid]);
    }
}

#[test]
fn an_ordinary_user_gives_files_to_users_of_the_namespace() {
    require!(common::not_root());
    let target = Target::new("subordinate");
    let mut tar = Tar::new();
    tar.owned("a", 33, 42).owned("b", 1_000_000, 0);
    let err = refused(target.unpack(&tar.end()), ErrorKind::InvalidInput, &["unpack b", "1000000"]);
    assert!(err.hint().unwrap().contains("squash_ids"), "{err:?}");
    require!(common::subordinate_ids());
    let mut tar = Tar::new();
    tar.owned("a", 33, 42).dir("own", 0o755).hard_link("h", "a").owned("big", 1_000_000, 0);
    tar.entry(
        "d",
        EntryType::Directory,
        |header| {
            header.set_mode(0o2700);
            header.set_uid(33);
        },
        b"",
    );
    tar.entry(
        "d/setuid",
        EntryType::Regular,
        |header| {
            header.set_mode(0o4755);
            header.set_uid(7);
        },
        b"",
    );
    tar.link("d/s", "x").fifo("d/p");
    let target = Target::new("subordinate");
    let lower = target.open("lower").into();
    target.run(&Unpack::new().lower(&lower).squash_ids(true), &tar.end()[..]).unwrap();
    let me = geteuid().as_raw();
    let owner = |name: &str| target.path(name).symlink_metadata().unwrap().uid();
    assert_eq!((owner("own"), owner("big")), (me, me));
    let www = owner("a");
    assert!(www != me && owner("h") == www && owner("d") == www);
    assert_eq!(fs::metadata(target.path("d")).unwrap().mode() & 0o7777, 0o2700);
}

#[test]
fn devices_are_made_by_root_and_refused_or_left_out_for_others() {
    let target = Target::new("devices");
    let mut tar = Tar::new();
    tar.device("null", EntryType::Char, 1, 3)
        .device("disk", EntryType::Block, 7, 300)
        .file("f", "");
    if geteuid().is_root() {
        target.unpack(&tar.end()).unwrap();
        let meta = fs::metadata(target.path("disk")).unwrap();
        assert!(meta.file_type().is_block_device());
        assert_eq!(meta.rdev(), nix::sys::stat::makedev(7, 300));
        assert_eq!(fs::metadata(target.path("null")).unwrap().rdev(), 0x103);
    } else {
        let err = refused(target.unpack(&tar.end()), ErrorKind::PermissionDenied, &["unpack null"]);
        assert!(err.hint().unwrap().contains("skip_devices"));
        target.dir.file("lower/null", "of the lower layers");
        let lower = target.open("lower").into();
        // Another name of one that is left out is left out too, and hides what another layer has there.
        tar.hard_link("twin", "null").device("late", EntryType::Char, 1, 3).file("late", "file");
        let skipping = Unpack::new().skip_devices(true);
        let unpacked = target.run(&skipping.clone().lower(&lower), &tar.end()[..]).unwrap();
        assert_eq!(unpacked.left_out, 4);
        assert!(target.exists("f") && target.is_whiteout("null") && !target.exists("twin"));
        assert_eq!(target.text("late"), "file");
        // Where the lower layers' files are those in the directory.
        let other = Target::new("devices-merged");
        other.dir.file("layer/null", "of the lower layers");
        other.run(&skipping.overlay(false), &tar.end()[..]).unwrap();
        assert!(other.exists("f") && !other.exists("null"));
    }
    // What would hide a file of the lower layers is no device.
    target.dir.file("lower/zero", "");
    let mut tar = Tar::new();
    tar.device("zero", EntryType::Char, 0, 0).device("none", EntryType::Char, 0, 0);
    target.unpack(&tar.end()).unwrap();
    assert!(target.is_whiteout("zero") && !target.exists("none"));
}

#[test]
fn every_prefix_of_an_archive_is_refused() {
    let mut tar = Tar::new();
    tar.pax(&[("mtime", b"1.5")])
        .file(&"long/".repeat(60), "")
        .file("f", "content")
        .dir("d", 0o755);
    let tar = tar.end();
    let target = Target::new("cut");
    for len in (0..tar.len() - 1024).step_by(64) {
        let err = target.unpack(&tar[..len]).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Malformed, "{len}: {err:?}");
    }
    target.unpack(&tar[..tar.len() - 512]).unwrap();
    for packed in [Compression::Gzip, Compression::Zstd] {
        let mut encoder = packed.encoder(Vec::new()).unwrap();
        encoder.write_all(&tar).unwrap();
        let whole = encoder.finish().unwrap();
        for len in (0..whole.len()).step_by(11) {
            let layer = Compression::detect(&whole[..len]).unwrap();
            let err = target.run(&Unpack::new(), layer).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Malformed, "{packed} {len}: {err:?}");
        }
    }
}

#[test]
fn damaged_headers_are_named() {
    let target = Target::new("damaged");
    let mut good = Tar::new();
    good.file("f", "content");
    let good = good.end();
    for at in (0..500).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        refused(target.unpack(&bad), ErrorKind::Malformed, &["checksum"]);
    }
    refused(
        target.unpack(b"not a tar archive at all, and long enough"),
        ErrorKind::Malformed,
        &["cut short"],
    );
    refused(target.unpack(&[b'x'; 2048]), ErrorKind::Malformed, &["no tar archive"]);
    refused(target.unpack(b""), ErrorKind::Malformed, &["end mark"]);
    for (kind, content, words) in [
        (EntryType::Symlink, &b""[..], &["unpack x", "link to nothing"][..]),
        (EntryType::Link, b"", &["link to nothing"]),
        (EntryType::Directory, b"content", &["no file"]),
        (EntryType::Fifo, b"content", &["no file"]),
        (EntryType::XHeader, b"nonsense", &["extended header"]),
        (EntryType::XHeader, b"99999 path=x\n", &["extended header"]),
        (EntryType::XHeader, b"10 path=x\n", &["ends after"]),
        (EntryType::GNULongName, b"x", &["ends after"]),
    ] {
        let mut tar = Tar::new();
        tar.raw("x", kind, content);
        let err = target.unpack(&tar.end()).unwrap_err();
        let text = format!("{err:#}");
        assert_eq!(err.kind(), ErrorKind::Malformed, "{text}");
        assert!(words.iter().all(|word| text.contains(word) || *word == "unpack x"), "{text}");
    }
    let mut tar = Tar::new();
    tar.raw("x", EntryType::new(b'M'), b"");
    refused(target.unpack(&tar.end()), ErrorKind::Unsupported, &["entry x", "'M'"]);
    for (key, value) in [
        ("path", &b"a\0b"[..]),
        ("size", b"x"),
        ("size", b"-1"),
        ("mtime", b"now"),
        ("uid", b"root"),
    ] {
        let mut tar = Tar::new();
        tar.pax(&[(key, value)]).file("x", "");
        refused(target.unpack(&tar.end()), ErrorKind::Malformed, &[key]);
    }
}

#[test]
fn bombs_go_off_at_the_limit() {
    let target = Target::new("bombs");
    let run = |limits: ArchiveLimits, tar: &[u8]| {
        let layer = Compression::detect(tar).unwrap();
        target.run(&Unpack::new().limits(limits), layer)
    };
    // 64 MiB of zeros, packed to a few KiB.
    let mut tar = Tar::new();
    tar.file("zeros", &"\0".repeat(64 << 20));
    for packed in [Compression::Gzip, Compression::Zstd] {
        let mut encoder = packed.encoder(Vec::new()).unwrap();
        encoder.write_all(&tar.end()).unwrap();
        let bomb = encoder.finish().unwrap();
        assert!(bomb.len() < 200 << 10, "{}", bomb.len());
        let limits = ArchiveLimits::new().bytes(1 << 20);
        let err = refused(run(limits, &bomb), ErrorKind::ResourceExhausted, &["zeros", "1048576"]);
        assert!(err.hint().is_some());
        assert!(fs::metadata(target.path("zeros")).unwrap().len() <= 1 << 20);
    }
    let mut tar = Tar::new();
    for i in 0..20 {
        tar.file(&format!("f{i}"), "");
    }
    let err = run(ArchiveLimits::new().entries(10), &tar.end());
    refused(err, ErrorKind::ResourceExhausted, &["f10", "10 entries"]);
    run(ArchiveLimits::new().entries(20), &tar.end()).unwrap();
    // Headers without an end: long names, extended, global, and one that claims to be endless.
    let long = "x".repeat(100 << 10);
    let limits = ArchiveLimits::new().header_bytes(64 << 10);
    for kind in [
        EntryType::GNULongName,
        EntryType::GNULongLink,
        EntryType::XHeader,
        EntryType::XGlobalHeader,
    ] {
        let mut tar = Tar::new();
        tar.raw("x", kind, long.as_bytes()).file("y", "");
        refused(run(limits, &tar.end()), ErrorKind::ResourceExhausted, &["65536"]);
        let mut tar = Tar::new();
        tar.entry("x", kind, |header| header.set_size(u64::MAX / 2), b"");
        refused(run(limits, &tar.end()), ErrorKind::ResourceExhausted, &["65536"]);
        let mut tar = Tar::new();
        for _ in 0..1000 {
            tar.raw("x", kind, b"9 path=x\n");
        }
        refused(run(limits, &tar.file("y", "").end()), ErrorKind::ResourceExhausted, &["65536"]);
    }
    // Global records add up.
    let record = format!("{} comment={}\n", 60_000, "x".repeat(60_000 - 15));
    assert_eq!(record.len(), 60_000);
    let mut tar = Tar::new();
    for i in 0..3 {
        tar.raw("g", EntryType::XGlobalHeader, record.as_bytes()).file(&format!("{i}"), "");
    }
    refused(run(limits, &tar.end()), ErrorKind::ResourceExhausted, &["headers"]);
}

#[test]
fn sparse_files_of_any_format_keep_their_holes() {
    let target = Target::new("sparse");
    let block = [b'x'; 512];
    let content = [&block[..], b"tail"].concat();
    let map = ["0", "512", "1048576", "4"];
    let mut tar = Tar::new();
    let common = [("GNU.sparse.name", &b"v01"[..]), ("GNU.sparse.size", b"1048580")];
    tar.pax(&[common[0], common[1], ("GNU.sparse.map", b"0,512,1048576,4")]);
    tar.raw("GNUSparseFile.1/v01", EntryType::Regular, &content);
    tar.pax(&[
        ("GNU.sparse.size", b"1048580"),
        ("GNU.sparse.numblocks", b"2"),
        ("GNU.sparse.offset", b"0"),
        ("GNU.sparse.numbytes", b"512"),
        ("GNU.sparse.offset", b"1048576"),
        ("GNU.sparse.numbytes", b"4"),
    ]);
    tar.raw("v00", EntryType::Regular, &content);
    let mut with_map = format!("2\n{}\n", map.join("\n")).into_bytes();
    with_map.resize(512, 0);
    tar.pax(&[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"v10"),
        ("GNU.sparse.realsize", b"1048580"),
    ]);
    tar.raw("x", EntryType::Regular, &[&with_map[..], &content].concat());
    target.unpack(&tar.end()).unwrap();
    for name in ["v00", "v01", "v10"] {
        let found = fs::read(target.path(name)).unwrap();
        assert!(
            found.len() == 1_048_580 && found[..512] == block && found.ends_with(b"\0tail"),
            "{name}"
        );
        let meta = fs::metadata(target.path(name)).unwrap();
        assert!(meta.blocks() < 1000, "{name} has {} blocks", meta.blocks());
    }
    // Maps that lie.
    for map in [
        "0,512,0,4",
        "512,512,0,4",
        "0,512,1048577,4",
        "0,512,18446744073709551615,4",
        "0,512",
        "0,512,9",
        "0,500,1048576,16",
        "0,512,1048576,5",
        "x",
        "0,512,,",
        "1048580,516",
    ] {
        let mut tar = Tar::new();
        tar.pax(&[common[0], common[1], ("GNU.sparse.map", map.as_bytes())]);
        tar.raw("x", EntryType::Regular, &content);
        refused(target.unpack(&tar.end()), ErrorKind::Malformed, &["v01", "map"]);
    }
    // A file of eight exabytes that takes no space, should the file system allow it.
    let mut tar = Tar::new();
    tar.pax(&[("GNU.sparse.size", b"9223372036854775807"), ("GNU.sparse.map", b"0,0")]);
    tar.raw("huge", EntryType::Regular, b"");
    if let Err(err) = target.unpack(&tar.end()) {
        assert!(format!("{err:#}").contains("huge"), "{err:?}");
    }
}

#[test]
fn content_that_cannot_be_read_is_the_readers_error() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(libc::EIO))
        }
    }
    let target = Target::new("broken");
    let mut tar = Tar::new();
    tar.file("f", "content");
    let tar = tar.end();
    let err = target.run(&Unpack::new(), tar[..600].chain(Broken)).unwrap_err();
    assert_eq!((err.kind(), err.raw_os_error()), (ErrorKind::Os, Some(libc::EIO)), "{err:?}");
    // Everything is read to the end, and no further.
    let mut rest = [&tar[..], &[1; 10_000]].concat();
    rest.extend([0; 5]);
    let unpacked = target.run(&Unpack::new(), rest.as_slice()).unwrap();
    assert_eq!(unpacked.bytes, rest.len() as u64);
}

#[test]
fn what_is_left_of_names_reaches_the_disk_as_it_is() {
    let target = Target::new("names");
    let names: [&[u8]; 5] = [b"a\nb", b"\xff\xfe", b" ", b"a\\b", "\u{e9}\u{1f980}".as_bytes()];
    let mut tar = Tar::new();
    for name in names {
        tar.raw_bytes(name, EntryType::Regular, b"x");
    }
    let long = "n".repeat(255);
    let deep = format!("{}/{long}", vec![long.as_str(); 14].join("/"));
    tar.pax(&[("path", deep.as_bytes())]).file("x", "deep");
    tar.gnu_long(&format!("{long}/gnu"), "", EntryType::Regular).gnu_long(
        "s",
        &deep,
        EntryType::Symlink,
    );
    let unpacked = target.unpack(&tar.end()).unwrap();
    assert_eq!(unpacked.entries, 8);
    for name in names {
        assert!(target.layer().join(std::ffi::OsStr::from_bytes(name)).is_file());
    }
    assert!(target.exists(&format!("{long}/gnu")));
    assert_eq!(fs::read_link(target.path("s")).unwrap().as_os_str().len(), deep.len());
    let mut tar = Tar::new();
    tar.pax(&[("path", "n".repeat(256).as_bytes())]).file("x", "");
    let err = refused(target.unpack(&tar.end()), ErrorKind::InvalidInput, &["nnn"]);
    assert_eq!(err.raw_os_error(), Some(libc::ENAMETOOLONG));
}

#[test]
fn lists_and_groups_of_the_targets_own_directory_are_not_inherited() {
    let target = Target::new("inherit");
    let acl = std::process::Command::new("setfacl")
        .args(["-d", "-m", "u:7:rwx"])
        .arg(target.layer())
        .status();
    let Ok(status) = acl else {
        return common::Missing::new("setfacl", "not installed").skip();
    };
    assert!(status.success());
    fs::set_permissions(target.layer(), fs::Permissions::from_mode(0o2755)).unwrap();
    let mut tar = Tar::new();
    tar.file("f", "").dir("d", 0o755).file("d/e/f", "").fifo("p");
    for merge in [true, false] {
        if merge { target.merge(&tar.end()) } else { target.unpack(&tar.end()) }.unwrap();
        for name in ["f", "d", "d/e", "d/e/f", "p"] {
            assert_eq!(attributes(&target.path(name)), Attributes::new(), "{name} {merge}");
            assert_eq!(fs::metadata(target.path(name)).unwrap().mode() & 0o6000, 0, "{name}");
        }
    }
}
