//! User namespaces: what the kernel shows of those that were made.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::thread;

use common::{audit, require};
use coracle::ErrorKind;
use coracle::namespaces::{IdMap, UserNamespace};
use nix::unistd::{getegid, geteuid};

/// What is mapped in a namespace, as a process that joined it reads it.
fn seen_inside(namespace: &UserNamespace) -> String {
    // Without close-on-exec, for nsenter to inherit.
    let fd = nix::unistd::dup(namespace).expect("duplicate the descriptor");
    let output = Command::new("nsenter")
        .arg("--preserve-credentials")
        .arg(format!("--user=/proc/self/fd/{}", fd.as_raw_fd()))
        .args(["cat", "/proc/self/uid_map", "/proc/self/gid_map", "/proc/self/setgroups"])
        .output()
        .expect("run nsenter");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("ids are ASCII");
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect()
}

#[test]
fn the_callers_own_ids_become_root() {
    require!(common::user_namespaces());
    let namespace = UserNamespace::new(&IdMap::single()).unwrap();
    let (uid, gid) = (geteuid(), getegid());
    let setgroups = if uid.is_root() { "allow" } else { "deny" };
    assert_eq!(seen_inside(&namespace), format!("0 {uid} 1\n0 {gid} 1\n{setgroups}\n"));
    assert_eq!(namespace.map(), Some(&IdMap::single()));
}

#[test]
fn root_maps_any_ranges_in_the_order_given() {
    require!(common::root());
    let map = IdMap::new().uid(0, 100_000, 1000).uid(1000, 1000, 1).gid(7, 5_000_000, 3);
    let namespace = UserNamespace::new(&map).unwrap();
    assert_eq!(seen_inside(&namespace), "0 100000 1000\n1000 1000 1\n7 5000000 3\nallow\n");
}

#[test]
fn a_map_of_340_ranges_is_taken() {
    require!(common::root());
    let map = (0..340).fold(IdMap::new(), |map, i| map.uid(i, 2 * i, 1).gid(i, 3 * i, 1));
    let namespace = UserNamespace::new(&map).unwrap();
    assert_eq!(seen_inside(&namespace).lines().count(), 681);
}

#[test]
fn an_existing_namespace_is_opened_with_its_map() {
    require!(common::user_namespaces());
    let namespace = UserNamespace::open("/proc/self/ns/user").unwrap();
    let own = fs::read_to_string("/proc/self/uid_map").unwrap();
    let extents = namespace.map().unwrap().uids();
    assert_eq!(extents.len(), own.lines().count());
    let inode = |fd: OwnedFd| fs::File::from(fd).metadata().unwrap().ino();
    assert_eq!(
        inode(namespace.as_fd().try_clone_to_owned().unwrap()),
        fs::metadata("/proc/self/ns/user").unwrap().ino()
    );
    for (path, kind) in [
        ("/proc/self/ns/net", ErrorKind::InvalidInput),
        ("/etc/passwd", ErrorKind::InvalidInput),
        ("/no/such/ns/user", ErrorKind::NotFound),
        ("/no/such/file", ErrorKind::NotFound),
    ] {
        let err = UserNamespace::open(path).unwrap_err();
        assert_eq!(err.kind(), kind, "{err:?}");
        assert!(err.to_string().contains(path), "{err}");
    }
}

#[test]
fn ids_that_the_caller_may_not_map_are_refused() {
    require!(common::not_root());
    require!(common::user_namespaces());
    let err = UserNamespace::new(&IdMap::range(0, 10)).unwrap_err();
    assert!(err.hint().is_some(), "{err:?}");
    assert!(format!("{err:#}").contains("users 0-9 = 0-9"), "{err:?}");
}

#[test]
fn automatic_ranges_of_64_threads_are_disjoint() {
    require!(common::root());
    let namespaces: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..64).map(|_| scope.spawn(UserNamespace::automatic)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
    });
    let bases: BTreeSet<_> =
        namespaces.iter().map(|namespace| namespace.map().unwrap().host_uid(0).unwrap()).collect();
    assert_eq!(bases.len(), 64);
    for base in bases {
        assert!(base % 65_536 == 0 && (0x4000_0000..0x7ffe_0000).contains(&base), "{base:#x}");
    }
}

#[test]
fn an_ordinary_user_gets_the_granted_ids() {
    require!(common::not_root());
    require!(common::subordinate_ids());
    let namespace = UserNamespace::automatic().unwrap();
    let map = namespace.map().unwrap();
    assert_eq!(
        (map.host_uid(0), map.host_gid(0)),
        (Some(geteuid().as_raw()), Some(getegid().as_raw()))
    );
    assert!(map.host_uid(1).is_some() && map.host_gid(1).is_some(), "{map}");
    let seen = seen_inside(&namespace);
    let lines = map.uids().iter().chain(map.gids());
    let lines = lines.map(|e| format!("{} {} {}\n", e.inside, e.outside, e.count));
    assert_eq!(seen, lines.collect::<String>() + "allow\n");
    // Ids granted to nobody or others.
    let err = UserNamespace::new(&IdMap::range(0, 10)).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::PermissionDenied, "{err:?}");
    assert!(err.hint().is_some_and(|hint| hint.contains("/etc/subuid")), "{err:?}");
}

#[test]
fn ids_granted_to_a_user_can_be_mapped_by_root() {
    require!(common::root());
    let text = fs::read_to_string("/etc/subuid").unwrap_or_default();
    let Some(line) = text.lines().find(|line| line.split(':').count() == 3) else {
        return common::Missing::new("ids granted in /etc/subuid", "nobody has any").skip();
    };
    let fields: Vec<_> = line.split(':').collect();
    let map = IdMap::subordinate(fields[0]).unwrap();
    assert_eq!(map.host_uid(0), fields[1].parse().ok());
    UserNamespace::new(&map).unwrap();
    let err = IdMap::subordinate("nobody-of-that-name").unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound);
    assert!(err.to_string().contains("nobody-of-that-name"), "{err}");
}

/// Runs the calling test again as root of a user namespace with only the caller's ids, after `prepare`, a
/// shell command.
fn inside_a_namespace(prepare: &str, body: impl FnOnce()) {
    const MARK: &str = "CORACLE_TEST_NESTED";
    if std::env::var_os(MARK).is_some() {
        return body();
    }
    // Not inside, where there may be none on purpose.
    require!(common::user_namespaces());
    let thread = thread::current();
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-c"])
        .arg(format!("{prepare} exec \"$@\""))
        .arg("sh")
        .arg(std::env::current_exe().expect("find the test binary"))
        .args(["--exact", thread.name().expect("libtest names its threads"), "--nocapture"])
        .env(MARK, "1")
        .output()
        .expect("run unshare");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn in_a_user_namespace_the_ids_that_are_there_are_passed_on() {
    inside_a_namespace("", || {
        let namespace = UserNamespace::automatic().unwrap();
        assert_eq!(namespace.map(), Some(&IdMap::range(0, 1)));
        // That `unshare` denies setgroups, and so does what is made in it.
        assert_eq!(seen_inside(&namespace), "0 0 1\n0 0 1\ndeny\n");
        let err = UserNamespace::new(&IdMap::range(5, 1)).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::PermissionDenied);
        assert!(err.hint().is_some_and(|hint| hint.contains("uid_map")), "{err:?}");
    });
}

#[test]
fn where_user_namespaces_are_switched_off_the_error_says_so() {
    inside_a_namespace("echo 0 >/proc/sys/user/max_user_namespaces;", || {
        let err = UserNamespace::automatic().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unsupported);
        assert!(err.hint().is_some_and(|hint| hint.contains("max_user_namespaces")), "{err:?}");
    });
}

#[test]
fn a_host_that_is_not_dumpable_learns_that_this_is_why() {
    require!(common::not_root());
    require!(common::user_namespaces());
    common::alone(|| {
        nix::sys::prctl::set_dumpable(false).unwrap();
        let err = UserNamespace::new(&IdMap::single()).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::PermissionDenied);
        assert!(err.hint().is_some_and(|hint| hint.contains("dumpable")), "{err:?}");
    });
}

/// A group that is denied something must not be dropped by someone who has no say over groups.
#[test]
fn cve_2014_8989_setgroups_is_denied_without_privilege() {
    require!(common::not_root());
    require!(common::user_namespaces());
    let namespace = UserNamespace::new(&IdMap::single()).unwrap();
    assert!(seen_inside(&namespace).ends_with("\ndeny\n"));
}

#[test]
fn cve_2021_43784_what_is_too_long_is_refused_and_not_cut() {
    let map = (0..5000).fold(IdMap::new(), |map, i| map.uid(i, i, 1).gid(i, i, 1));
    let err = UserNamespace::new(&map).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidInput);
    assert!(format!("{err:#}").contains("340"), "{err:?}");
    for path in ["/".repeat(70_000), "/proc/self/ns/user\0".to_owned()] {
        let err = UserNamespace::open(path).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidInput, "{err:?}");
    }
}

#[test]
fn nothing_is_left_behind() {
    require!(common::user_namespaces());
    common::alone(|| {
        // What is made once for the process.
        drop(UserNamespace::automatic().unwrap());
        let before = audit::snapshot();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        UserNamespace::automatic().unwrap();
                        UserNamespace::new(&IdMap::single()).unwrap();
                        UserNamespace::new(&IdMap::new()).unwrap_err();
                    }
                });
            }
        });
        before.assert_unchanged();
    });
}
