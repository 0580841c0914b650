//! What is asked of containers, seen from inside.

use std::fs;
use std::path::{Path, PathBuf};

use coracle::cgroups::IoLimit;
use coracle::container::{Config, Output, Resources};
use coracle::namespaces::TerminalSize;
use coracle::{ErrorKind, MIB};

use crate::common::{Missing, cgroup_controller, require};
use crate::{Scene, scene};

/// What a shell script prints in a container with these settings.
fn says(scene: &Scene, script: &str, set: impl FnOnce(&mut Config)) -> String {
    let mut builder = scene.engine.container("box").command(["sh", "-c", script]).remove_on_exit();
    set(builder.config_mut());
    let container = builder.create().unwrap();
    let attachment = container.start_attached(TerminalSize::default()).unwrap();
    let mut out = Vec::new();
    while let Output::Stdout(bytes) | Output::Stderr(bytes) = attachment.read().unwrap() {
        out.extend(bytes);
    }
    container.wait().unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn it_is_as_it_was_asked_to_be() {
    let scene = require!(scene("container-settings"));
    let text = |value: &str| Some(value.to_owned());
    assert_eq!(says(&scene, "pwd", |it| it.working_dir = text("/new/dir")), "/new/dir\n");
    assert_eq!(says(&scene, "hostname", |it| it.hostname = text("web")), "web\n");
    assert_eq!(says(&scene, "id -u; id -g", |it| it.user = text("anna")), "1000\n1000\n");
    assert_eq!(says(&scene, "echo $A-$HOME", |it| it.env = vec!["A=b c".into()]), "b c-/root\n");
    let written = says(&scene, "touch /x 2>&1; touch /tmp/x 2>&1", |it| it.read_only = true);
    assert_eq!(written.matches("Read-only file system").count(), 2, "{written}");
    let pid = says(&scene, "echo $$", |it| it.init = true);
    assert!(pid.trim().parse::<u32>().unwrap() > 1, "{pid}");
    let hosts = says(&scene, "cat /etc/hosts", |it| {
        it.names.hosts = vec![("db".into(), "192.0.2.9".into())];
        it.hostname = text("web");
    });
    assert!(hosts.contains("192.0.2.9\tdb\n") && hosts.contains("\tweb\n"), "{hosts}");
    let resolv = says(&scene, "cat /etc/resolv.conf; echo x > /etc/resolv.conf", |it| {
        it.names.dns = vec!["192.0.2.1".into()];
    });
    assert!(
        resolv.starts_with("nameserver 192.0.2.1\n") && resolv.contains("Read-only"),
        "{resolv}"
    );
    let no_caps =
        says(&scene, "grep CapEff /proc/self/status", |it| it.cap_drop = vec!["ALL".into()]);
    assert!(no_caps.contains("0000000000000000"), "{no_caps}");
    let few = says(&scene, "grep CapEff /proc/self/status", |it| {
        it.cap_drop = vec!["all".into()];
        it.cap_add = vec!["NET_BIND_SERVICE".into()];
    });
    assert!(few.contains("0000000000000400"), "{few}");
    let limit = says(&scene, "ulimit -n", |it| it.ulimits = vec!["nofile=77:88".into()]);
    assert_eq!(limit, "77\n");
    // Its network is its own, and so are the ports: all users may serve on them.
    let first_port = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start";
    assert_eq!(says(&scene, first_port, |_| {}), "0\n");
    let changed = says(&scene, first_port, |it| {
        it.sysctls = vec!["net.ipv4.ip_unprivileged_port_start=80".into()];
    });
    assert_eq!(changed, "80\n");
    let of_host = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    assert_eq!(says(&scene, first_port, |it| it.share.network = true), of_host);
    let pinging = "cat /proc/sys/net/ipv4/ping_group_range";
    let groups = says(&scene, pinging, |_| {});
    let last: u32 = groups.trim().strip_prefix("0\t").unwrap().parse().unwrap();
    assert!(last >= 1000, "{groups:?}");
    let privileged = says(&scene, pinging, |it| it.privileged = true);
    let all = if nix::unistd::geteuid().is_root() { "0\t2147483647\n" } else { &groups };
    assert_eq!(privileged, all);
    let shm = says(&scene, "mount | grep /dev/shm", |it| it.shm_size = Some(1 << 20));
    assert!(shm.contains("size=1024k"), "{shm}");
}

#[test]
fn directories_and_volumes_are_mounted() {
    let scene = require!(scene("container-mounts"));
    let host = scene.dir.join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("file"), "of the host").unwrap();
    let start = |script: &str, target: &str| {
        let builder = scene.engine.container("box").command(["sh", "-c", script]);
        let container = builder.volume(&host, target).volume("store", "/store").start().unwrap();
        let code = container.wait().unwrap().code();
        container.remove().unwrap();
        code
    };
    assert_eq!(
        start(
            "test \"$(cat /x/file)\" = 'of the host' && echo y > /x/new && echo 1 > /store/1",
            "/x"
        ),
        Some(0)
    );
    assert_eq!(fs::read_to_string(host.join("new")).unwrap(), "y\n");
    assert_eq!(start("cat /store/1 && ! touch /x/other", "/x:ro"), Some(0));
    assert!(!host.join("other").exists());
    let volume = scene.engine.find_volume("store").unwrap();
    assert_eq!(fs::read_to_string(volume.path().join("1")).unwrap(), "1\n");
    let user =
        scene.engine.container("box").command(["true"]).volume("store", "/store").create().unwrap();
    let err = volume.clone().remove().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Busy);
    assert!(format!("{err:#}").contains(user.id().short()), "{err:#}");
    user.remove().unwrap();
    volume.remove().unwrap();
    assert!(scene.engine.volumes().unwrap().is_empty());
    let missing = scene.engine.container("box").command(["true"]).volume("/no/such", "/x").create();
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn its_limits_hold_and_can_be_changed() {
    let scene = require!(scene("container-limits"));
    require!(cgroup_controller("memory"));
    require!(cgroup_controller("pids"));
    let builder = scene.engine.container("box").memory(32 << 20).pids(20);
    let container = builder.clone().command(["sleep", "600"]).start().unwrap();
    assert_eq!(container.stats().unwrap().memory.limit, Some(32 << 20));
    let mut more = Resources::default();
    more.memory = Some(64 << 20);
    container.update(&more).unwrap();
    assert_eq!(container.stats().unwrap().memory.limit, Some(64 << 20));
    assert_eq!(container.config().unwrap().resources.pids, Some(20));
    assert!(!container.processes().unwrap().is_empty());
    container.remove_forced().unwrap();
    let hog = builder.command(["sh", "-c", "x=$(yes | head -c 200000000)"]).start().unwrap();
    let status = hog.wait().unwrap();
    assert!(status.out_of_memory(), "{status}");
    assert!(hog.status().unwrap().exit.unwrap().out_of_memory());
    hog.remove().unwrap();
}

/// A disk, and its numbers.
fn disk() -> Result<(PathBuf, String), Missing> {
    let read = |disk: &Path, file| fs::read_to_string(disk.join(file)).unwrap().trim().to_owned();
    let disks = fs::read_dir("/sys/block").unwrap().map(|disk| disk.unwrap().path());
    let mut disks = disks.filter(|disk| read(disk, "size") != "0");
    let found = disks.find_map(|disk| {
        let device = Path::new("/dev").join(disk.file_name()?);
        device.exists().then(|| (device, read(&disk, "dev")))
    });
    found.ok_or_else(|| Missing::new("a disk", "none of /sys/block is in /dev"))
}

#[test]
fn disks_are_limited() {
    let scene = require!(scene("container-disks"));
    let v1 = cgroup_controller("blkio").is_ok();
    if !v1 {
        require!(cgroup_controller("io"));
    }
    let (device, numbers) = require!(disk());
    let limit = IoLimit::of_disk(&device).unwrap();
    let builder = scene.engine.container("box").command(["sleep", "600"]);
    let container = builder.io_limit(limit.rbps(MIB)).io_limit(limit.wiops(50)).start().unwrap();
    let written = || {
        let pid = container.status().unwrap().pid.unwrap();
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let (mark, top) =
            if v1 { (":blkio:/", "/sys/fs/cgroup/blkio") } else { ("0::/", "/sys/fs/cgroup") };
        let group = groups.lines().find_map(|line| line.split_once(mark)).unwrap().1;
        let files = match v1 {
            true => &["blkio.throttle.read_bps_device", "blkio.throttle.write_iops_device"][..],
            false => &["io.max"],
        };
        let read = |file: &&str| fs::read_to_string(Path::new(top).join(group).join(file)).unwrap();
        files.iter().map(read).collect::<String>()
    };
    let expected = |reads: u64| match v1 {
        true => format!("{numbers} {reads}\n{numbers} 50\n"),
        false => format!("{numbers} rbps={reads} wbps=max riops=max wiops=50\n"),
    };
    assert_eq!(written(), expected(MIB));
    let mut more = Resources::default();
    more.limit_io(limit.rbps(2 * MIB));
    container.update(&more).unwrap();
    assert_eq!(written(), expected(2 * MIB));
    assert_eq!(container.config().unwrap().resources.io_limits, [limit.rbps(2 * MIB).wiops(50)]);
    container.remove_forced().unwrap();
}

#[test]
fn what_cannot_be_meant_is_an_error_before_anything_is_made() {
    let scene = require!(scene("container-nonsense"));
    let refuse = |set: &dyn Fn(&mut Config)| {
        let mut builder = scene.engine.container("box").command(["true"]);
        set(builder.config_mut());
        builder.create().unwrap_err()
    };
    let text = |value: &str| vec![value.to_owned()];
    let errors = [
        refuse(&|it| it.cap_add = text("FLY")),
        refuse(&|it| it.stop_signal = Some("SIGNOTHING".into())),
        refuse(&|it| it.ulimits = text("nofile")),
        refuse(&|it| it.ulimits = text("bogus=1")),
        refuse(&|it| it.sysctls = text("kernel.panic=1")),
        refuse(&|it| it.devices = text("null")),
        refuse(&|it| it.devices = text("/dev/null:/dev/x:q")),
        refuse(&|it| it.names.dns = text("somewhere")),
        refuse(&|it| it.names.hosts = vec![("a b".into(), "192.0.2.1".into())]),
    ];
    for err in errors {
        assert_eq!(err.kind(), ErrorKind::InvalidInput, "{err:#}");
    }
    assert!(scene.engine.containers().unwrap().is_empty());
    assert!(scene.engine.store().pins().unwrap().is_empty());
}
