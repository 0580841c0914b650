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
    const IDS: [u32; 4] = [0, 33, 1000, 65533];
    let scene = require!(Scene::new("files"));
    let make = "cd /data && for id in $IDS; do : > $id && chown $id:$id $id; done && cp -a /data /srv/copy";
    let ids = format!("IDS={}", IDS.map(|id| id.to_string()).join(" "));
    let volume = ["-v", "files:/data"];
    scene.says(
        &[&["run", "--name", "files", "-e", &ids], &volume[..], &[IMAGE, "sh", "-c", make]]
            .concat(),
    );
    let expected = IDS.map(|id| format!("{id} {id}:{id}")).join("\n");
    // In another container.
    let list = ["sh", "-c", "cd /data && stat -c '%n %u:%g' $(ls | sort -n)"];
    assert_eq!(scene.says(&[&["run", "--rm"], &volume[..], &[IMAGE], &list].concat()), expected);

    let file = scene.dir.join("files.tar");
    scene.says(&["export", "-o", file.to_str().unwrap(), "files"]);
    let mut archive = tar::Archive::new(fs::File::open(file).unwrap());
    let entries = archive.entries().unwrap().map(Result::unwrap);
    let archived: BTreeSet<_> = entries
        .filter_map(|entry| {
            let path = entry.path().unwrap();
            let id: u64 = path.strip_prefix("srv/copy").ok()?.to_str()?.parse().ok()?;
            Some([id, entry.header().uid().unwrap(), entry.header().gid().unwrap()])
        })
        .collect();
    assert_eq!(archived, IDS.map(|id| [u64::from(id); 3]).into());

    let data = scene.says(&["volume", "inspect", "-f", "{{.Mountpoint}}", "files"]);
    let root = common::root().is_ok();
    for id in IDS {
        // Without privilege the files are the user's, and of those ids that the user has been given.
        let on_disk = match id {
            id if root => id,
            0 => nix::unistd::geteuid().as_raw(),
            id => subordinate_ids() + id - 1,
        };
        assert_eq!(fs::metadata(format!("{data}/{id}")).unwrap().uid(), on_disk, "{id}");
    }
}

/// The first of the user's.
fn subordinate_ids() -> u32 {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap();
    let all = fs::read_to_string("/etc/subuid").unwrap();
    let mine = all.lines().find_map(|line| line.strip_prefix(&format!("{}:", user.name)));
    mine.and_then(|range| range.split(':').next()?.parse().ok()).unwrap()
}
