//! Paths of an image that lead to the host.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use coracle::ErrorKind;
use coracle::namespaces::{Mount, Sysctl, TerminalSize};

use super::common;
use super::common::require;
use super::image::{Image, assert_names, mount_points, output};

/// Mounting on the link's target would put a file system over a place of the host, or leave the container without.
fn a_link_is_refused(name: &str) {
    let image = Image::new(name);
    let inside = ["/usr", "etc", "/", "../usr"].map(Into::into);
    for link in image.ways_out().into_iter().chain(inside) {
        image.plant_link(name, &link);
        for mut command in image.scripts("true") {
            let err = command.spawn().expect_err(&format!("{name} -> {}", link.display()));
            assert_eq!(err.kind(), ErrorKind::SafetyViolation, "{}: {err:?}", link.display());
            assert_names(&err, &[&format!("/{name}"), "symbolic link"].map(|s| s)[..1]);
            assert!(err.hint().is_some_and(|hint| hint.contains("symbolic link")), "{err:?}");
        }
    }
    image.canary.assert_untouched();
    assert_eq!(fs::read_dir(image.root().join("etc")).unwrap().count(), 0, "made things in etc");
}

#[test]
fn cve_2019_19921_2023_27561_2025_54867_an_image_whose_proc_is_a_link() {
    require!(common::user_namespaces());
    a_link_is_refused("proc");
}

#[test]
fn cve_2023_28642_2025_54867_an_image_whose_sys_is_a_link() {
    require!(common::user_namespaces());
    a_link_is_refused("sys");
}

#[test]
fn cve_2026_41579_2026_47766_an_image_whose_dev_is_a_link() {
    require!(common::user_namespaces());
    a_link_is_refused("dev");
}

#[test]
fn cve_2025_31133_2025_62161_an_image_whose_dev_null_is_a_link() {
    require!(common::user_namespaces());
    let image = Image::new("null");
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        image.plant_link(&format!("dev/{name}"), image.host().join("proc/sys/kernel/core_pattern"));
    }
    // What covers a masked file must be the null device itself.
    let script =
        "stat -L -c '%n %t:%T' /dev/null /proc/keys /proc/timer_list; echo lost >/dev/null";
    for mut command in image.scripts(script) {
        let said = output(command.masked_paths(["/proc/keys", "/proc/timer_list"])).unwrap();
        assert_eq!(said, "/dev/null 1:3\n/proc/keys 1:3\n/proc/timer_list 1:3\n");
    }
    image.canary.assert_untouched();
}

/// What masks is the host's null device even where the caller brings a `/dev` that an attacker had.
#[test]
fn cve_2025_31133_a_volume_as_dev_whose_null_is_a_link() {
    require!(common::user_namespaces());
    let image = Image::new("null-volume");
    let dev = image.beside("dev");
    fs::create_dir(&dev).unwrap();
    symlink(image.host().join("etc/shadow"), dev.join("null")).unwrap();
    for mut command in image.scripts("stat -c '%n %t:%T' /proc/keys /proc/timer_list") {
        command.mount(Mount::bind(&dev, "/dev").host_ids());
        let said = output(command.masked_paths(["/proc/keys", "/proc/timer_list"])).unwrap();
        assert_eq!(said, "/proc/keys 1:3\n/proc/timer_list 1:3\n");
    }
    image.canary.assert_untouched();
}

#[test]
fn cve_2025_52565_an_image_whose_console_and_terminals_are_links() {
    require!(common::user_namespaces());
    let image = Image::new("console");
    for name in ["console", "ptmx", "pts", "shm", "mqueue", "fd", "stdin"] {
        image.plant_link(&format!("dev/{name}"), image.host().join("empty"));
    }
    let script = "tty; stat -L -f -c %T /dev/console /dev/pts /dev/shm; stat -c %F /dev/ptmx";
    for mut command in image.scripts(script) {
        command.terminal(TerminalSize { rows: 24, columns: 80 });
        let said = output(command.stdout(coracle::namespaces::Stdio::piped())).unwrap();
        assert!(said.ends_with("devpts\ndevpts\ntmpfs\nsymbolic link\n"), "{said}");
    }
    image.canary.assert_untouched();
}

#[test]
fn cve_2019_18837_2015_1335_a_mount_point_that_is_a_link() {
    require!(common::user_namespaces());
    let image = Image::new("target");
    let volume = image.beside("volume");
    fs::create_dir(&volume).unwrap();
    for link in image.ways_out().into_iter().chain(["/", "/etc", "usr"].map(Into::into)) {
        image.plant_link("data", &link);
        for mount in [Mount::bind(&volume, "/data").host_ids(), Mount::tmpfs("/data")] {
            for mut command in image.scripts("true") {
                let err = command.mount(mount.clone()).spawn().expect_err("a link");
                assert_eq!(err.kind(), ErrorKind::SafetyViolation, "{err:?}");
                assert_names(&err, &["/data"]);
            }
        }
    }
    image.canary.assert_untouched();
}

#[test]
fn cve_2021_30465_2024_45310_2026_87766_a_mount_point_below_a_link() {
    require!(common::user_namespaces());
    let image = Image::new("below");
    let _open: Vec<File> = (0..20).map(|_| File::open("/").unwrap()).collect();
    for link in image.ways_out().into_iter().chain(["/", "/tmp", ".."].map(Into::into)) {
        for target in ["/way/made/here", "/way/empty", "/way/tmp"] {
            image.plant_link("way", &link);
            for mut command in image.scripts("cat /proc/self/mountinfo") {
                let inside = match output(command.mount(Mount::tmpfs(target))) {
                    Ok(table) => table,
                    Err(err) => {
                        assert_names(&err, &[target]);
                        continue;
                    }
                };
                // `/way` was the root itself, or led back into it.
                let name = Path::new(target).strip_prefix("/way").unwrap();
                let found = mount_points(&inside)
                    .iter()
                    .any(|point| Path::new(point).ends_with(name) && !point.starts_with("/proc"));
                assert!(found, "{target} with way -> {}:\n{inside}", link.display());
            }
        }
    }
    image.canary.assert_untouched();
}

#[test]
fn cve_2019_16884_2015_3631_a_volume_over_proc() {
    require!(common::user_namespaces());
    let image = Image::new("over-proc");
    let volume = image.beside("volume");
    fs::create_dir_all(volume.join("self/attr")).unwrap();
    for target in ["/proc", "/proc/", "//proc", "/./proc", "/proc/self/attr", "/proc/sys/kernel"] {
        for mount in [Mount::bind(&volume, target).host_ids(), Mount::tmpfs(target)] {
            for mut command in image.scripts("true") {
                let err = command.mount(mount.clone()).spawn().expect_err(target);
                assert_eq!(err.kind(), ErrorKind::SafetyViolation, "{err:?}");
                assert_names(&err, &["/proc", "only proc"]);
            }
        }
    }
}

#[test]
fn cve_2025_52881_2025_62596_a_volume_over_proc_through_a_link() {
    require!(common::user_namespaces());
    let image = Image::new("through");
    let volume = image.beside("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(image.beside("file"), "").unwrap();
    for (link, target) in [
        ("/proc", "/way/sys"),
        ("/proc/self", "/way/attr"),
        ("/proc/thread-self", "/way/attr"),
        ("/proc/sys", "/way/kernel"),
        ("/proc/sys/net", "/way/core"),
        ("proc", "/way/irq"),
        ("../proc/..//proc", "/way/self"),
    ] {
        image.plant_link("way", link);
        for mount in [Mount::bind(&volume, target).host_ids(), Mount::tmpfs(target)] {
            for mut command in image.scripts("cat /proc/self/mountinfo") {
                let err = command.mount(mount.clone()).spawn().expect_err(link);
                assert_eq!(err.kind(), ErrorKind::SafetyViolation, "{err:?}");
                assert_names(&err, &[target]);
            }
        }
    }
    image.plant_link("way", "/proc");
    let file = Mount::bind(image.beside("file"), "/way/version").host_ids();
    let err = image.command("true").mount(file).spawn().expect_err("a file of /proc");
    assert_eq!(err.kind(), ErrorKind::SafetyViolation, "{err:?}");
}

/// Two mounts, the second through a link that the first one brought.
#[test]
fn cve_2019_19921_a_volume_with_a_link_to_proc() {
    require!(common::user_namespaces());
    let image = Image::new("volume-link");
    let volume = image.beside("volume");
    fs::create_dir(&volume).unwrap();
    for link in image.ways_out().into_iter().chain(["/proc/self".into(), "/proc/sys".into()]) {
        let _ = fs::remove_file(volume.join("link"));
        symlink(&link, volume.join("link")).unwrap();
        for target in ["/vol/link", "/vol/link/kernel", "/vol/link/attr"] {
            for mut command in image.scripts("cat /proc/self/mountinfo") {
                command.mount(Mount::bind(&volume, "/vol").host_ids()).mount(Mount::tmpfs(target));
                match output(&mut command) {
                    Err(err) => assert_names(&err, &[target]),
                    // A relative link that stays below the volume.
                    Ok(table) => {
                        assert!(!table.contains("/proc/self/attr"), "{table}");
                        assert!(!table.contains("/proc/sys/kernel "), "{table}");
                    }
                }
            }
        }
    }
    image.canary.assert_untouched();
}

#[test]
fn cve_2025_52881_a_sysctl_is_written_to_no_other_file() {
    require!(common::root());
    let image = Image::new("sysctl");
    image.plant_link("etc/core_pattern", image.host().join("proc/sys/kernel/core_pattern"));
    let before = fs::read("/proc/sys/kernel/core_pattern").unwrap();
    for mut command in image.scripts("cat /proc/sys/net/ipv4/ip_default_ttl") {
        command.sysctl(Sysctl::new("net.ipv4.ip_default_ttl", "55").unwrap());
        assert_eq!(output(&mut command).unwrap(), "55\n");
    }
    assert_eq!(fs::read("/proc/sys/kernel/core_pattern").unwrap(), before);
    image.canary.assert_untouched();
}

#[test]
fn cve_2024_21626_a_working_directory_through_an_open_directory() {
    require!(common::user_namespaces());
    let image = Image::new("cwd");
    // A host that has directories open.
    let _open: Vec<File> = (0..30).map(|_| File::open("/").unwrap()).collect();
    let mut dirs: Vec<String> =
        ["self", "thread-self", "1"].map(|pid| format!("/proc/{pid}/cwd")).into();
    dirs.extend(["/proc/self/root", "/proc/1/root/tmp"].map(Into::into));
    for fd in 0..if common::emulated() { 8 } else { 64 } {
        dirs.push(format!("/proc/self/fd/{fd}"));
        dirs.push(format!("/proc/self/fd/{fd}/../../.."));
        dirs.push(format!("/proc/thread-self/fd/{fd}/tmp"));
        image.plant_link(&format!("links/{fd}"), format!("/proc/self/fd/{fd}"));
        dirs.push(format!("/links/{fd}"));
    }
    let mut sleeper = image.command("sleep");
    let target = sleeper.arg("1000").spawn().unwrap();
    for dir in &dirs {
        let mut command = image.command("pwd");
        let err = command.current_dir(dir).spawn().expect_err(dir);
        assert_names(&err, &["working directory", dir]);
        let mut exec = coracle::namespaces::Command::new("pwd");
        let err = target.exec(exec.current_dir(dir)).expect_err(dir);
        assert_names(&err, &["working directory", dir]);
    }
    // An ordinary link is followed, and stays inside.
    image.plant_link("links/up", "../../../../../../tmp");
    let said = output(image.command("/bin/pwd").current_dir("/links/up")).unwrap();
    assert_eq!(said, "/tmp\n");
}
