//! Archives on their way there and back: through GNU tar, and from a stack to a layer of the same stack.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use coracle::ErrorKind;
use coracle::layers::{Pack, Rootfs, Unpack};
use coracle::namespaces::UserNamespace;
use nix::unistd::geteuid;

use common::archive::tree;
use common::{Sandbox, require, setup};

fn open(path: &Path) -> File {
    File::open(path).unwrap()
}

fn sh(dir: &Path, script: &str) {
    let output = Command::new("sh").args(["-euc", script]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
}

/// Files of every kind that an ordinary user can make. Times are whole seconds unless `exact`.
fn sample(dir: &Sandbox, exact: bool, long: bool) -> PathBuf {
    let top = dir.dir("sample");
    dir.file("sample/etc/hosts", "127.0.0.1 localhost\n");
    let sparse = File::create(top.join("sparse")).unwrap();
    sparse.write_all_at(b"middle", 5 << 20).unwrap();
    sparse.set_len(9 << 20).unwrap();
    sh(
        &top,
        "mkdir -p a/b/c empty; echo x >a/b/c/file; ln a/b/c/file a/link; ln -s ../nowhere a/s; mkfifo p
         echo setuid >setuid; chmod 4711 setuid; chmod 1777 empty; chmod 0640 a/link
         ln a/s a/s2; : >'sp ace'; : >\"$(printf 'new\\nline')\"; : >\"$(printf '\\303\\251\\377')\"",
    );
    if long {
        let name = "n".repeat(200);
        dir.file(format!("sample/{name}/{name}/{name}"), "long");
        symlink(format!("{name}/{name}"), top.join("long-link")).unwrap();
    }
    if exact {
        sh(
            &top,
            "setfattr -n user.note -v 0x0a3d00ff a/link; setfattr -n user.empty etc
             setfacl -m m::rwx setuid; setfacl -d -m u::rwx,m::r-x etc",
        );
    }
    if geteuid().is_root() {
        sh(
            &top,
            "mknod null c 1 3; mknod disk b 7 300; chown 33:42 a/link; chown -h 5:6 a/s; chown 2000000:3 etc",
        );
        if exact {
            // Without privilege these would be other users outside.
            sh(&top, "setfacl -m u:4007:rw,g:4009:r setuid; setfacl -d -m u:4007:rwx etc");
            sh(&top, "setfattr -n security.capability -v 0x0100000200200000000a00000000000000000000 null || true
                      echo x >ping; setfattr -n security.capability -v 0x010000020020000000000000000000000a000000 ping");
        }
    }
    let time = if exact { "2001-02-03 04:05:06.123456789" } else { "2001-02-03 04:05:06" };
    sh(&top, &format!("find . -depth -exec touch -h -d '{time}' {{}} +"));
    top
}

/// Ids as in an archive of the caller's: for an ordinary user, root's.
fn as_root(lines: Vec<String>) -> Vec<String> {
    let (uid, gid) = (geteuid().as_raw(), nix::unistd::getegid().as_raw());
    lines.into_iter().map(|line| line.replace(&format!(" {uid}:{gid} "), " 0:0 ")).collect()
}

#[test]
fn what_gnu_tar_packs_is_unpacked_alike() {
    for (format, exact, long) in [
        ("v7", false, false),
        ("ustar", false, false),
        ("oldgnu", false, true),
        ("gnu", false, true),
        ("pax", true, true),
    ] {
        let dir = setup("archive-gnu");
        let top = sample(&dir, exact, long);
        if ["v7", "ustar"].contains(&format) && geteuid().is_root() {
            sh(&top, "chown 200000:3 etc");
        }
        let mut command = Command::new("tar");
        command.arg(format!("--format={format}")).args(["--numeric-owner", "--sort=name"]);
        if format == "v7" {
            // It knows none of these.
            sh(&top, "rm -f p null disk; touch -d '2001-02-03 04:05:06' .");
        }
        let sparse = !["v7", "ustar"].contains(&format);
        if sparse {
            command.arg("--sparse");
        }
        if exact {
            command.args(["--xattrs", "--xattrs-include=*", "--acls"]);
        }
        if !geteuid().is_root() {
            command.args(["--owner=0", "--group=0"]);
        }
        let packed = command.arg("-cC").arg(&top).arg(".").output().unwrap();
        assert!(packed.status.success(), "{format}: {packed:?}");
        let layer = dir.dir("layer");
        Unpack::new().run(packed.stdout.as_slice(), open(&layer)).unwrap();
        assert_eq!(tree(&layer), tree(&top), "{format}");
        if sparse {
            assert!(fs::metadata(layer.join("sparse")).unwrap().blocks() < 1000, "{format}");
        }
        // Every version of the format for sparse files.
        for version in ["0.0", "0.1", "1.0"].iter().filter(|_| format == "pax") {
            let mut command = Command::new("tar");
            command.args([
                "--format=pax",
                "--sparse",
                "-c",
                &format!("--sparse-version={version}"),
            ]);
            let packed = command.arg("-C").arg(&top).arg("sparse").output().unwrap();
            let layer = dir.dir(format!("sparse-{version}"));
            let unpack = Unpack::new().squash_ids(true).run(packed.stdout.as_slice(), open(&layer));
            unpack.unwrap();
            assert!(
                fs::read(layer.join("sparse")).unwrap() == fs::read(top.join("sparse")).unwrap()
            );
            assert!(fs::metadata(layer.join("sparse")).unwrap().blocks() < 1000, "{version}");
        }
    }
}

#[test]
fn what_is_packed_gnu_tar_unpacks_alike() {
    let dir = setup("archive-to-gnu");
    let top = sample(&dir, true, true);
    let namespace = UserNamespace::automatic().unwrap();
    let pack = match geteuid().is_root() {
        true => Pack::new().zeros(0),
        false => Pack::new().zeros(0).user_namespace(&namespace),
    };
    let archive = dir.join("archive.tar");
    let packed = pack.tree(open(&top), File::create(&archive).unwrap()).unwrap();
    assert_eq!(packed.bytes, fs::metadata(&archive).unwrap().len());
    assert!(packed.bytes < 1 << 20, "holes take {} bytes", packed.bytes);
    let out = dir.dir("out");
    let mut command = Command::new("tar");
    command.args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf"]).arg(&archive);
    let unpacked = command.arg("-C").arg(&out).output().unwrap();
    assert!(unpacked.status.success() && unpacked.stderr.is_empty(), "{unpacked:?}");
    let without_lists = |lines: Vec<String>| -> Vec<String> {
        // GNU tar keeps these elsewhere.
        let cut = |line: &String| line.split(" system.posix_acl").next().unwrap().to_owned();
        lines.iter().map(cut).collect()
    };
    assert_eq!(without_lists(tree(&out)), without_lists(tree(&top)));
    // And the same bytes come from what it has unpacked to.
    let layer = dir.dir("layer");
    Unpack::new().run(open(&archive), open(&layer)).unwrap();
    assert_eq!(tree(&layer), tree(&top));
    let mut again = Vec::new();
    pack.tree(open(&layer), &mut again).unwrap();
    assert!(again == fs::read(&archive).unwrap(), "another archive");
    assert_eq!(as_root(tree(&layer)), as_root(tree(&top)));
}

#[test]
fn zeros_are_written_up_to_a_limit_and_what_is_more_of_them_are_holes() {
    let dir = setup("archive-zeros");
    let top = dir.dir("top");
    for name in ["a", "b", "c"] {
        File::create(top.join(name)).unwrap().set_len(3 << 20).unwrap();
    }
    let mut number = 0;
    let mut pack = |pack: Pack<'_>| {
        let mut archive = Vec::new();
        pack.tree(open(&top), &mut archive).unwrap();
        // What belongs to a subordinate id afterwards is for `dir` to remove.
        number += 1;
        let out = dir.dir(format!("out-{number}"));
        Unpack::new().run(archive.as_slice(), open(&out)).unwrap();
        assert!(
            ["a", "b", "c"]
                .iter()
                .all(|name| fs::read(out.join(name)).unwrap() == vec![0; 3 << 20])
        );
        archive.len() >> 20
    };
    assert_eq!([0, 3, 7, 9].map(|mib| pack(Pack::new().zeros(mib << 20))), [0, 3, 6, 9]);
    assert_eq!(pack(Pack::new()), 9, "docker cannot give back an archive with holes");
    File::create(top.join("b")).unwrap().set_len(2 << 30).unwrap();
    let mut archive = Vec::new();
    Pack::new().tree(open(&top), &mut archive).unwrap();
    assert_eq!(archive.len() >> 20, 6, "the one that is too large");
}

#[test]
fn no_time_is_later_than_asked_for() {
    let dir = setup("archive-clamp");
    let top = sample(&dir, true, false);
    let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(900_000_000);
    let pack = |latest| {
        let mut archive = Vec::new();
        Pack::new().clamp_mtime(latest).tree(open(&top), &mut archive).unwrap();
        archive
    };
    let archive = pack(epoch);
    sh(&top, "touch etc/hosts a empty");
    assert!(pack(epoch) == archive, "times after the limit show");
    for entry in tar::Archive::new(archive.as_slice()).entries().unwrap() {
        assert_eq!(entry.unwrap().header().mtime().unwrap(), 900_000_000);
    }
    assert!(pack(SystemTime::now()) != archive);
}

const LIST: &str = "cd /; find . -xdev ! -path './proc*' ! -path './dev*' ! -path './sys*' \
    -printf '%p %y %m %U:%G %T@ %s %n %l\\n' | sort; cat /etc/new /usr/share/doc/new; \
    find etc usr/share srv -type f | sort | xargs -d '\\n' sha256sum";

fn listing(rootfs: &Rootfs) -> String {
    let output = coracle::namespaces::Command::new("/bin/sh")
        .args(["-euc", LIST])
        .rootfs(rootfs)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The issue's promise: applied on the same stack, the layer gives the same tree.
#[test]
fn changes_packed_and_unpacked_show_the_same_tree() {
    require!(common::stacks());
    let debian = require!(common::debian_rootfs());
    let dir = setup("archive-round");
    dir.file("base/srv/kept", "x");
    dir.file("base/srv/hidden", "x");
    dir.file("base/srv/dir/a", "x");
    dir.file("base/srv/merged/a", "x");
    sh(&dir, "ln base/srv/kept base/srv/kept2");
    let layers = [debian, dir.join("base")];
    let namespace = UserNamespace::automatic().unwrap();
    let stack = |paths: &[PathBuf]| Rootfs::stack(paths).user_namespace(&namespace);
    let rootfs = stack(&layers).writable(dir.join("scratch")).unwrap();
    let mut script = String::from(
        "rm -rf /usr/share/doc; mkdir /usr/share/doc; echo new >/usr/share/doc/new; echo new >/etc/new
         rm /etc/hostname /etc/debian_version || true; rm /srv/hidden; rm -r /srv/dir; mkdir /srv/dir
         : >/srv/dir/b; : >/srv/merged/b; rm /srv/merged/a; ln /srv/kept /srv/kept3; chmod 4755 /bin/true
         mv /usr/share/bash-completion /srv/moved || true; rm -r /usr/share/zoneinfo || true
         ln -s /etc/new /srv/link; mkfifo /srv/fifo; truncate -s 50M /srv/sparse; : >/srv/'a b'
         rm -r /opt; ln -s srv /opt; rm /etc/issue; mkdir /etc/issue; echo y >/etc/issue/y
         touch -d '2001-02-03 04:05:06.789' /srv/kept; chmod 1777 /srv/merged
         d=/srv/deep; for i in 1 2 3 4 5 6 7 8 9; do d=$d/\"$(printf '%0200d' $i)\"; done; mkdir -p $d; : >$d/f\n",
    );
    if common::subordinate_ids().is_ok() {
        script +=
            "mkdir -m 700 /srv/own; : >/srv/own/f; chown -R 33:42 /srv/own; chown 7 /srv/link -h\n";
    }
    let status = coracle::namespaces::Command::new("/bin/sh")
        .args(["-euc", &script])
        .rootfs(&rootfs)
        .status()
        .unwrap();
    assert!(status.success());
    let mut layer = Vec::new();
    let pack = Pack::new().zeros(0);
    pack.changes(&rootfs, &mut layer).unwrap();
    let mut again = Vec::new();
    pack.changes(&rootfs, &mut again).unwrap();
    assert!(layer == again, "the same changes give other bytes");
    assert!(layer.len() < 40 << 20, "{} bytes", layer.len());
    // The lower layers as they lie on the disk.
    let lower = stack(&layers);
    let lower = if geteuid().is_root() { Rootfs::stack(&layers).host_ids() } else { lower };
    let lower = lower.read_only().unwrap();
    let merged: OwnedFd = open(&PathBuf::from(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsFd::as_fd(&lower).as_raw_fd()
    )))
    .into();
    let top = dir.dir("top");
    let unpack = Unpack::new().lower(&merged);
    let unpack = if geteuid().is_root() { unpack } else { unpack.user_namespace(&namespace) };
    unpack.run(layer.as_slice(), open(&top)).unwrap();
    let copy = stack(&[layers[0].clone(), layers[1].clone(), top.clone()]).read_only().unwrap();
    let (expected, found) = (listing(&rootfs), listing(&copy));
    let differ = expected.lines().zip(found.lines()).find(|(expected, found)| expected != found);
    assert!(expected == found, "{differ:?}");
    // The layer that was made is the same layer.
    let mut third = Vec::new();
    let pack = if geteuid().is_root() {
        Pack::new().zeros(0)
    } else {
        Pack::new().zeros(0).user_namespace(&namespace)
    };
    pack.layer(open(&top), &mut third).unwrap();
    assert!(third == layer, "unpacked and packed again it is another layer");
    // Flat, too.
    let (mut flat, mut copied) = (Vec::new(), Vec::new());
    Pack::new().rootfs(&rootfs, &mut flat).unwrap();
    Pack::new().rootfs(&copy, &mut copied).unwrap();
    assert!(flat == copied, "the stacks differ in what their listing does not show");
}

#[test]
fn a_container_cannot_write_whiteouts_of_its_own() {
    let dir = setup("archive-wh");
    dir.file("upper/d/.wh.passwd", "");
    let err = Pack::new().layer(open(&dir.join("upper")), Vec::new()).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidInput);
    assert!(format!("{err:#}").contains("d/.wh.passwd") && err.hint().is_some(), "{err:?}");
}

/// Deeper than a path of the kernel's, and than there are descriptors.
#[test]
fn trees_of_any_depth_go_there_and_back() {
    let dir = setup("archive-deep");
    let top = dir.dir("top");
    let (flags, mode) = (nix::fcntl::OFlag::O_DIRECTORY, nix::sys::stat::Mode::S_IRWXU);
    let mut here: OwnedFd = open(&top).into();
    for _ in 0..1500 {
        nix::sys::stat::mkdirat(&here, "deep", mode).unwrap();
        here = nix::fcntl::openat(&here, "deep", flags, nix::sys::stat::Mode::empty()).unwrap();
    }
    drop(here);
    let (mut one, mut two) = (Vec::new(), Vec::new());
    let namespace = UserNamespace::automatic().unwrap();
    let pack = match geteuid().is_root() {
        true => Pack::new(),
        false => Pack::new().user_namespace(&namespace),
    };
    pack.tree(open(&top), &mut one).unwrap();
    let unpack = Unpack::new();
    unpack.run(one.as_slice(), open(&dir.dir("copy"))).unwrap();
    // Replaced by a file it goes at once.
    let mut tar = common::archive::Tar::new();
    tar.file("deep", "shallow");
    let both = [&one[..one.len() - 1024], &tar.end()[..]].concat();
    unpack.run(both.as_slice(), open(&dir.dir("replaced"))).unwrap();
    assert_eq!(fs::read_to_string(dir.join("replaced/deep")).unwrap(), "shallow");
    pack.tree(open(&dir.join("copy")), &mut two).unwrap();
    assert!(one == two);
    sh(&dir, "rm -rf top copy");
}

/// A copy of the lower layers may hold directories that an ordinary user cannot look into.
#[test]
fn layers_are_merged_into_directories_of_other_users() {
    require!(common::subordinate_ids());
    let dir = setup("archive-merge");
    let mut base = common::archive::Tar::new();
    let owner = |mode| {
        move |header: &mut tar::Header| {
            header.set_uid(33);
            header.set_gid(42);
            header.set_mode(mode);
        }
    };
    use tar::EntryType::{Directory, Regular};
    base.pax(&[("SCHILY.acl.default", b"user::rwx,user:5:r-x,group::---,mask::r-x,other::---")]);
    base.entry("p", Directory, owner(0o2700), b"").entry("p/q", Directory, owner(0o500), b"");
    base.entry("p/q/old", Regular, owner(0o600), b"old").entry(
        "p/q/gone",
        Regular,
        owner(0o600),
        b"",
    );
    base.entry("r", Directory, owner(0o700), b"").entry("r/s", Directory, owner(0o700), b"");
    base.entry("r/s/f", Regular, owner(0o600), b"").entry("t", Directory, owner(0o755), b"");
    let target = dir.dir("target");
    let unpack = Unpack::new().overlay(false);
    unpack.run(base.end().as_slice(), open(&target)).unwrap();
    let mut next = common::archive::Tar::new();
    next.file("p/q/new", "new")
        .file("p/q/.wh.gone", "")
        .hard_link("link", "p/q/old")
        .file(".wh.r", "");
    next.dir("t", 0o711).file("t/in", "").file("p/q/old2", "").hard_link("p/l", "p/q/old");
    unpack.run(next.end().as_slice(), open(&target)).unwrap();
    let namespace = UserNamespace::automatic().unwrap();
    let pack = Pack::new();
    let pack = if geteuid().is_root() { pack } else { pack.user_namespace(&namespace) };
    let mut flat = Vec::new();
    pack.tree(open(&target), &mut flat).unwrap();
    let mut found = Vec::new();
    for entry in tar::Archive::new(flat.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let lists = entry.pax_extensions().unwrap().map_or(0, |records| {
            records.filter(|record| record.as_ref().unwrap().key().unwrap().contains("acl")).count()
        });
        let header = entry.header();
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        found.push(format!(
            "{path} {:o} {}:{} {} {lists}",
            header.mode().unwrap(),
            header.uid().unwrap(),
            header.gid().unwrap(),
            header.mtime().unwrap()
        ));
    }
    let expected = [
        "link 600 33:42 1000000000 0",
        "p/ 2700 33:42 1000000000 1",
        "p/l 600 33:42 1000000000 0",
        "p/q/ 500 33:42 1000000000 0",
        "p/q/new 644 0:0 1000000000 0",
        "p/q/old 600 33:42 1000000000 0",
        "p/q/old2 644 0:0 1000000000 0",
        "t/ 711 0:0 1000000000 0",
        "t/in 644 0:0 1000000000 0",
    ];
    assert_eq!(found[1..], expected);
}
