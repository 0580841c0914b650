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
