//! Whose the processes and files of a container are on the host.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::common::{self, require};
use crate::{IMAGE, Scene};

/// Whose a process is on the host.
fn uid(pid: &str) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    let ids: BTreeSet<u32> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
    assert_eq!(ids.len(), 1, "{line}");
    *ids.first().unwrap()
}

/// The lines of a map: ids inside, ids outside, and how many.
fn map(pid: &str, name: &str) -> Vec<[u32; 3]> {
    let map = fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
    let line = |line: &str| {
        let numbers: Vec<_> = line.split_whitespace().map(|it| it.parse().unwrap()).collect();
        <[u32; 3]>::try_from(numbers).unwrap()
    };
    map.lines().map(line).collect()
}

fn outside(map: &[[u32; 3]], id: u32) -> u32 {
    let found = map.iter().find(|[inside, _, count]| (*inside..inside + count).contains(&id));
    let [inside, outside, _] = found.unwrap();
    outside + (id - inside)
}

#[test]
fn root_of_a_container_is_not_root_of_the_host() {
    let scene = require!(Scene::new("ids"));
    scene.starts(&[], &["sleep", "600"]);
    scene.says(&["run", "-d", "--name", "ids-other", "-u", "www-data", IMAGE, "sleep", "600"]);
    let pid = |name: &str| scene.says(&["container", "inspect", "-f", "{{.State.Pid}}", name]);
    let (root, other) = (pid("ids"), pid("ids-other"));
    for ids in ["uid_map", "gid_map"].map(|name| map(&root, name)) {
        assert!(ids.iter().all(|[_, outside, _]| *outside > 0), "{ids:?}");
        assert!(ids.iter().map(|[_, _, count]| count).sum::<u32>() >= 65535, "{ids:?}");
    }
    assert_eq!(scene.exec(&[], &["id", "-u"]), "0");
    let (users, others) = (map(&root, "uid_map"), map(&other, "uid_map"));
    assert_eq!(uid(&root), outside(&users, 0));
    assert_eq!(uid(&other), outside(&others, 33));
    if common::root().is_ok() {
        // An ordinary user has but one range to give.
        assert!(outside(&users, 0).abs_diff(outside(&others, 0)) >= 65536, "{users:?} {others:?}");
    }
}

#[test]
fn files_keep_plain_ids_in_volumes_and_archives() {
    let scene = require!(Scene::new("files"));
    let script = "cd /data && for id in 0 33 1000 65533; do : > $id && chown $id:$id $id; done
        cp -a /data /srv/copy";
    let volume = ["-v", "files:/data"];
    scene.says(&[&["run", "--name", "files"], &volume[..], &[IMAGE, "sh", "-c", script]].concat());
    let stat = ["sh", "-c", "stat -c %n:%u:%g /data/*"];
    let expected = "/data/0:0:0\n/data/1000:1000:1000\n/data/33:33:33\n/data/65533:65533:65533";
    let again = [&["run", "--rm"], &volume[..], &[IMAGE], &stat].concat();
    assert_eq!(scene.says(&again), expected, "in another container");
    let data = scene.says(&["volume", "inspect", "-f", "{{.Mountpoint}}", "files"]);
    let range = if common::root().is_ok() { None } else { Some(subordinate_ids()) };
    let archive = scene.dir.join("files.tar");
    scene.says(&["export", "-o", archive.to_str().unwrap(), "files"]);
    let mut archive = tar::Archive::new(fs::File::open(archive).unwrap());
    let mut archived: Vec<_> = (archive.entries().unwrap().map(Result::unwrap))
        .filter_map(|entry| {
            let name = entry.path().unwrap().strip_prefix("srv/copy").ok()?.display().to_string();
            let header = entry.header();
            (!name.is_empty()).then(|| (name, header.uid().unwrap(), header.gid().unwrap()))
        })
        .collect();
    archived.sort_by_key(|(_, uid, _)| *uid);
    let ids = [0, 33, 1000, 65533];
    assert_eq!(archived, ids.map(|id| (id.to_string(), u64::from(id), u64::from(id))));
    for id in ids {
        let meta = fs::metadata(format!("{data}/{id}")).unwrap();
        // Without privilege they are the user's, and those that the user has been given.
        let on_disk = match range {
            None => id,
            Some(_) if id == 0 => nix::unistd::geteuid().as_raw(),
            Some(first) => first + id - 1,
        };
        assert_eq!(meta.uid(), on_disk, "{id}");
    }
}

/// The first of the caller's.
fn subordinate_ids() -> u32 {
    let name = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
    let all = fs::read_to_string("/etc/subuid").unwrap();
    let range = all.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).unwrap();
    range.split(':').next().unwrap().parse().unwrap()
}
