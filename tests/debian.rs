//! A real Debian root file system under the default isolation: what people run works.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command as HostCommand;

use coracle::layers::Rootfs;
use coracle::namespaces::{Command, Output};

use common::{require, setup};

fn run(rootfs: &Rootfs, script: &str) -> Output {
    Command::new("sh").args(["-euc", script]).rootfs(rootfs).output().expect("spawn")
}

fn ok(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn changes(rootfs: &Rootfs) -> Vec<String> {
    rootfs.changes().expect("changes").iter().map(ToString::to_string).collect()
}

#[test]
fn python_writes_a_file_and_the_change_list_names_just_that() {
    require!(common::stacks_in_memory());
    let debian = require!(common::debian_rootfs());
    let dir = setup("debian-python");
    dir.file("app/srv/data", "from the app layer");
    let rootfs =
        Rootfs::stack([debian.as_path(), &dir.path().join("app")]).ephemeral().expect("stack");
    let output = Command::new("/usr/bin/python3")
        .args(["-c", "open('/new', 'w').write(open('/srv/data').read())"])
        .rootfs(&rootfs)
        .output()
        .expect("spawn");
    ok(&output);
    assert_eq!(changes(&rootfs), ["A /new"]);
}

#[test]
fn apt_get_installs_a_package_with_its_scripts_and_owners() {
    require!(common::stacks_in_memory());
    let debian = require!(common::debian_rootfs());
    require!(common::program("dpkg-deb"));
    let dir = setup("debian-apt");
    dir.file(
        "deb/DEBIAN/control",
        "Package: probe\nVersion: 1\nArchitecture: all\nMaintainer: T <t@localhost>\nDescription: probe\n",
    );
    dir.file(
        "deb/DEBIAN/postinst",
        "#!/bin/sh\nset -e\nadduser --system --group --no-create-home probe >/dev/null 2>&1 || \
         useradd --system --user-group probe\nchown probe:probe /var/lib/probe\nln -s /usr/share/probe /var/lib/probe/link\n",
    );
    dir.file("deb/usr/share/probe/data", "packaged");
    dir.file("deb/var/lib/probe/keep", "");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(dir.path().join("deb/DEBIAN/postinst"), executable).expect("chmod");
    fs::create_dir_all(dir.path().join("app/root")).expect("mkdir");
    let deb = dir.path().join("app/root/probe.deb");
    let built = HostCommand::new("dpkg-deb")
        .args(["--root-owner-group", "--build"])
        .args([dir.path().join("deb"), deb])
        .output()
        .expect("dpkg-deb");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));

    let rootfs =
        Rootfs::stack([debian.as_path(), &dir.path().join("app")]).ephemeral().expect("stack");
    let script =
        "apt-get install -y /root/probe.deb >/tmp/log 2>&1 || { cat /tmp/log >&2; exit 1; }
        stat -c '%U:%G' /var/lib/probe
        cat /var/lib/probe/link/data
        dpkg-query -W -f '${Status}' probe";
    let said = ok(&run(&rootfs, script));
    assert_eq!(said, "probe:probe\npackagedinstall ok installed");
    let changes = changes(&rootfs);
    for expected in ["A /usr/share/probe/data", "A /var/lib/probe/link", "C /etc/passwd"] {
        assert!(changes.iter().any(|change| change == expected), "{expected} of {changes:#?}");
    }
}

#[test]
fn everyday_work_of_root_and_users_goes_through() {
    require!(common::stacks_in_memory());
    let debian = require!(common::debian_rootfs());
    let rootfs = Rootfs::stack([&debian]).ephemeral().expect("stack");
    let said = ok(&run(
        &rootfs,
        "useradd --create-home alice
         su alice -c 'id -un; echo hers > ~/file'
         stat -c %U /home/alice/file
         install -o alice -m 4755 /bin/true /usr/local/bin/suid && stat -c %a /usr/local/bin/suid
         mkfifo /tmp/fifo && (echo through > /tmp/fifo &) && cat /tmp/fifo
         tar -C / -cf - etc | tar -C /tmp -xf - && cmp /etc/passwd /tmp/etc/passwd && echo tar
         perl -e 'use Socket; socket(S, PF_INET, SOCK_STREAM, 0); bind(S, sockaddr_in(80, INADDR_LOOPBACK)) or die; print \"port 80\\n\"'
         sleep 0.01 & wait && echo jobs
         ls /dev/pts /dev/shm >/dev/null && : > /dev/shm/x && echo shm",
    ));
    let expected = ["alice", "alice", "4755", "through", "tar", "port 80", "jobs", "shm"];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_link_in_the_way_of_proc_is_refused_and_the_host_untouched() {
    require!(common::stacks_in_memory());
    let debian = require!(common::debian_rootfs());
    let dir = setup("debian-proc-link");
    fs::create_dir_all(dir.path().join("evil")).expect("mkdir");
    // The upper layer's link hides the directory of the lower one.
    symlink("/etc", dir.path().join("evil/proc")).expect("symlink");
    let rootfs =
        Rootfs::stack([debian.as_path(), &dir.path().join("evil")]).ephemeral().expect("stack");
    let err = Command::new("true").rootfs(&rootfs).spawn().expect_err("a hostile image");
    assert!(format!("{err:#}").contains("mount proc on the directory /proc"), "{err:?}");
    assert!(err.hint().is_some_and(|hint| hint.contains("symbolic link")), "{err:?}");
    assert!(Path::new("/etc/passwd").exists());
}
