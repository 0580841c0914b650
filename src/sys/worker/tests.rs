//! What a worker does, and that nothing of it stays.

use std::fs::{File, read_dir, read_link, read_to_string};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use super::*;
use crate::machine::{alone, require, root, system_calls};

#[test]
fn descriptors_stay_in_the_host_and_the_first_failure_is_named() {
    let dir = File::open("/proc/self").unwrap();
    let mut worker = Worker::new();
    worker.fchdir(dir.as_fd());
    let slot = worker.open(At::Cwd, c"exe".into(), libc::O_PATH);
    let mut opened = worker.run().unwrap();
    let fd = opened.take(slot).unwrap();
    let exe = read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
    assert_eq!(exe, read_link("/proc/self/exe").unwrap());

    let unique = tempfile::tempdir().unwrap();
    let path = CString::new(unique.path().as_os_str().as_bytes()).unwrap();
    let mut worker = Worker::new();
    worker.open(At::Cwd, path.clone(), libc::O_PATH);
    worker.mkdir(At::Fd(dir.as_fd()), c"x".into(), 0o700);
    worker.open(At::Cwd, path, libc::O_PATH);
    let err = worker.run().unwrap_err();
    assert_eq!(err.call, format!("mkdirat({}, \"x\", 448)", Fd(dir.as_fd())));
    assert!(err.errno == libc::ENOENT || err.errno == libc::EACCES, "{err}");
    let fds = read_dir("/proc/self/fd").unwrap();
    let links = fds.filter_map(|fd| read_link(fd.unwrap().path()).ok());
    assert_eq!(links.filter(|link| link == unique.path()).count(), 0);
}

#[test]
fn the_host_keeps_its_mounts_directory_ids_and_dumpable_flag() {
    require!(root());
    require!(system_calls(&["fsopen", "fsmount", "move_mount"]));
    alone(|| {
        let host = || {
            let status = read_to_string("/proc/thread-self/status").unwrap();
            let keep = |line: &&str| {
                // But SigQ, which counts what waits for all processes of the user.
                let all = ["Uid", "Gid", "Cap", "SigPnd", "SigBlk", "SigIgn", "SigCgt", "Groups"];
                all.iter().any(|k| line.starts_with(k))
            };
            let status: Vec<_> = status.lines().filter(keep).map(str::to_owned).collect();
            let namespace = read_link("/proc/thread-self/ns/mnt").unwrap();
            (status, namespace, read_link("/proc/thread-self/cwd").unwrap(), Dumpable::get())
        };
        let mounts = || read_to_string("/proc/self/mountinfo").unwrap();
        let before = (host(), mounts());
        let mut worker = Worker::new();
        worker.unshare_mounts();
        let context = worker.fsopen(c"tmpfs");
        worker.fs_string(context, c"mode", c"755".into());
        worker.fs_create(context);
        let tmpfs = worker.fsmount(context, MountAttr::empty());
        worker.move_mount(tmpfs, At::Cwd, c"/".into());
        worker.fchdir(tmpfs);
        worker.fs_ids(4242, 4243);
        worker.mkdir(At::Cwd, c"d".into(), 0o755);
        worker.leave_root();
        let list = worker.open(At::Cwd, c"/d".into(), libc::O_RDONLY);
        let mut opened = worker.run().unwrap();
        let made = nix::sys::stat::fstat(opened.take(list).unwrap()).unwrap();
        assert_eq!((made.st_uid, made.st_gid), (4242, 4243));
        assert_eq!((host(), mounts()), before);
    });
}
