//! Volumes: what they are filled with, and when they go.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use coracle::container::{Container, ContainerBuilder, MountSource, Output};
use coracle::image::{ConfigChanges, Import};
use coracle::namespaces::TerminalSize;
use coracle::{Engine, ErrorKind};

use crate::common::archive::Tar;
use crate::common::require;
use crate::{Scene, scene};

/// An image upon `box`, with these files too, and these volumes.
fn image(scene: &Scene, name: &str, volumes: &[&str], add: impl FnOnce(&mut Tar)) {
    let mut exported = Vec::new();
    scene.engine.store().image("box").unwrap().export(&mut exported).unwrap();
    let mut tar = Tar::new();
    add(&mut tar);
    let mut both = tar::Builder::new(Vec::new());
    for archive in [&exported[..], &tar.end()] {
        let mut archive = tar::Archive::new(archive);
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let (mut header, path) = (entry.header().clone(), entry.path().unwrap().into_owned());
            match entry.link_name().unwrap().map(|target| target.into_owned()) {
                Some(target) => both.append_link(&mut header, path, target).unwrap(),
                None => both.append_data(&mut header, path, &mut entry).unwrap(),
            }
        }
    }
    let changes = volumes.iter().fold(ConfigChanges::new(), |it, path| it.volume(*path));
    let archive = both.into_inner().unwrap();
    Import::new(scene.engine.store()).name(name).changes(changes).read(&archive[..]).unwrap();
}

/// What a script prints in a new container, which stays.
fn says(builder: ContainerBuilder, script: &str) -> (String, Container) {
    let container = builder.command(["sh", "-c", script]).create().unwrap();
    let attachment = container.start_attached(TerminalSize::default()).unwrap();
    let mut out = Vec::new();
    while let Output::Stdout(bytes) | Output::Stderr(bytes) = attachment.read().unwrap() {
        out.extend(bytes);
    }
    container.wait().unwrap();
    (String::from_utf8(out).unwrap(), container)
}

fn volumes(engine: &Engine) -> Vec<String> {
    engine.volumes().unwrap().iter().map(|it| it.name().to_owned()).collect()
}

#[test]
fn an_image_asks_for_volumes_and_what_it_has_there_is_in_them() {
    let scene = require!(scene("container-volumes"));
    let engine = &scene.engine;
    image(&scene, "db", &["/srv/db/", "srv/other/../more", "/new"], |tar| {
        tar.dir("srv/", 0o755);
        tar.entry(
            "srv/db/",
            tar::EntryType::Directory,
            |it| {
                it.set_uid(1000);
                it.set_gid(1000);
                it.set_mode(0o700);
            },
            b"",
        );
        tar.owned("srv/db/mine", 1000, 1000).file("srv/db/roots", "kept\n");
        tar.dir("srv/more/", 0o1777);
    });
    let script = "stat -c '%u:%g %a %n' /srv/db /srv/db/* /srv/more /new; cat /srv/db/roots; \
                  echo more >> /srv/db/roots";
    let (said, one) = says(engine.container("db"), script);
    let expected = "1000:1000 700 /srv/db\n1000:1000 644 /srv/db/mine\n0:0 644 /srv/db/roots\n\
                    0:0 1777 /srv/more\n0:0 755 /new\nkept\n";
    assert_eq!(said, expected);
    let config = one.config().unwrap();
    let targets: Vec<_> = config.mounts.iter().map(|it| it.target.display().to_string()).collect();
    assert_eq!(targets, ["/new", "/srv/db", "/srv/more"]);
    assert_eq!(volumes(engine).len(), 3);

    // Another container finds what is there, and what is mounted by name is not what the image asks for.
    let mut other =
        engine.container("db").volume("data", "/new").volume("empty", "/srv/more:nocopy");
    other.config_mut().mounts.push(config.mounts[1].clone());
    let (said, other) = says(other, "cat /srv/db/roots; stat -c %a /srv/more");
    assert_eq!(said, "kept\nmore\n755\n");
    assert_eq!(volumes(engine).len(), 5);
    let data = engine.find_volume("data").unwrap();
    assert_eq!(data.users().unwrap(), [other.id().short()]);
    assert_eq!(data.clone().remove().unwrap_err().kind(), ErrorKind::Busy);

    // Shared, and with a name, they stay; and without being asked all do.
    one.removal().volumes().run().unwrap();
    assert_eq!(volumes(engine).len(), 3);
    let third = engine.container("db").command(["true"]).create().unwrap();
    assert_eq!(volumes(engine).len(), 6);
    third.remove().unwrap();
    assert_eq!(volumes(engine).len(), 6);
    other.removal().force().volumes().run().unwrap();
    assert_eq!(volumes(engine).len(), 5);
    for volume in engine.volumes().unwrap() {
        volume.remove().unwrap();
    }
    let brief = engine.container("db").command(["true"]).remove_on_exit().start().unwrap();
    brief.wait().unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while !volumes(engine).is_empty() {
        assert!(Instant::now() < until, "{:?}", volumes(engine));
        std::thread::sleep(Duration::from_millis(1));
    }
    // One that is not made after all leaves none either.
    engine.container("db").name("taken").command(["true"]).create().unwrap();
    let again = engine.container("db").name("taken").command(["true"]).create().unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    assert_eq!(volumes(engine).len(), 3);
    let failed = engine.container("db").command(["/nonesuch"]).start().unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::NotFound, "{failed:#}");
    assert_eq!(volumes(engine).len(), 3);
}

#[test]
fn what_an_image_has_in_place_of_a_directory_leads_nowhere() {
    let scene = require!(scene("container-volumes-hostile"));
    let engine = &scene.engine;
    let secret = scene.dir.dir("secret");
    fs::write(secret.join("key"), "of the host").unwrap();
    image(&scene, "hostile", &[], |tar| {
        tar.link("link", secret.to_str().unwrap()).link("up", "../../../../../../../..");
        tar.file("file", "no directory").dir("in/", 0o755).link("in/out", "/../data");
    });
    for target in ["/link", "/file"] {
        let container = engine.container("hostile").volume("v", target).command(["true"]);
        let container = container.create().unwrap();
        assert_eq!(fs::read_dir(engine.find_volume("v").unwrap().path()).unwrap().count(), 0);
        container.start().unwrap_err();
        container.remove().unwrap();
    }
    // Links further up lead to what they mean inside.
    let below = format!("/up{}", secret.display());
    let (_, container) = says(engine.container("hostile").volume("v", below), "true");
    assert_eq!(fs::read_dir(engine.find_volume("v").unwrap().path()).unwrap().count(), 0);
    container.remove().unwrap();
    for (volume, word) in [("/", "root directory"), ("x/../..", "root directory")] {
        image(&scene, "root", &[volume], |_| {});
        let err = engine.container("root").command(["true"]).create().unwrap_err();
        assert!(format!("{err:#}").contains(word), "{err:#}");
        assert_eq!(volumes(engine), ["v"]);
    }
}

/// As in Debian, where /var/run is one, and wherever systemd looks names up.
#[test]
fn links_in_an_image_lead_to_where_something_is_mounted() {
    let scene = require!(scene("container-volumes-links"));
    let engine = &scene.engine;
    let stub = "../run/systemd/resolve/stub-resolv.conf";
    image(&scene, "links", &[], |tar| {
        tar.dir("run/", 0o755).dir("var/", 0o755).link("var/run", "/run").link("var/lock", "run");
        tar.dir("etc/", 0o755).link("etc/resolv.conf", stub);
    });
    let mut builder = engine.container("links").volume("a", "/var/lock").volume("b", "/var/run/b");
    builder.config_mut().names.dns = vec!["192.0.2.1".into()];
    let own = scene.dir.file("own", "own\n");
    builder = builder.volume(&own, "/etc/hosts:ro");
    let script = "grep -o ' /[a-z/.-]*run[a-z/.-]* ' /proc/self/mountinfo | sort -u; \
                  grep nameserver /etc/resolv.conf; cat /etc/hosts; : > /var/run/b/new";
    let (said, container) = says(builder, script);
    let run = " /run \n /run/b \n";
    let file = " /run/systemd/resolve/stub-resolv.conf \n";
    assert_eq!(said, format!("{run}{file}nameserver 192.0.2.1\nown\n"));
    assert!(engine.find_volume("b").unwrap().path().join("new").exists());
    // Also for whoever copies.
    let mut archive = Vec::new();
    container.copy_out("/run/b/new").tar(&mut archive).unwrap();
    container.remove().unwrap();

    for (link, to) in [
        ("etc/hosts", "/proc/sys/kernel/core_pattern"),
        ("etc/hostname", "../sys/x"),
        ("etc/resolv.conf", "/dev/shm"),
    ] {
        image(&scene, "kernels", &[], |tar| {
            tar.link(link, to);
        });
        let err = engine.container("kernels").command(["true"]).start().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::SafetyViolation, "{err:#}");
        let place = format!("/{link} is a link to /{}", to.trim_start_matches(['.', '/']));
        assert!(format!("{err:#}").contains(&place), "{err:#}");
    }
    image(&scene, "circle", &[], |tar| {
        tar.link("etc/hosts", "hosts");
    });
    let err = engine.container("circle").command(["true"]).start().unwrap_err();
    assert!(format!("{err:#}").contains("/etc/hosts"), "{err:#}");
}

#[test]
fn a_volume_that_is_mounted_is_not_taken_from_under_a_container() {
    let scene = require!(scene("container-volumes-mounted"));
    let engine = &scene.engine;
    let waits = "while ! test -e /v/go; do sleep 0.01; done";
    let runs = engine.container("box").volume("v", "/v").command(["sh", "-c", waits]);
    let runs = runs.start().unwrap();
    let inode = || engine.find_volume("v").unwrap().path().metadata().unwrap().ino();
    let before = inode();
    let (said, other) =
        says(engine.container("box").volume("v", "/data"), "ls /data; : > /data/go");
    assert_eq!((said.as_str(), inode()), ("", before));
    assert!(runs.wait().unwrap().success());
    runs.remove().unwrap();
    other.remove().unwrap();
    fs::remove_file(engine.find_volume("v").unwrap().path().join("go")).unwrap();
    let (said, _) = says(engine.container("box").volume("v", "/data"), "ls /data");
    assert_eq!(said, "of-the-image\n");
}

#[test]
fn a_volume_stays_as_long_as_nobody_knows_who_mounts_it() {
    let scene = require!(scene("container-volumes-unknown"));
    image(&scene, "asks", &["/asked"], |_| {});
    let engine = &scene.engine;
    let mounts =
        engine.container("box").volume("kept", "/data").command(["true"]).create().unwrap();
    let directory = scene.dir.join("root/containers/by-id").join(mounts.id().as_str());
    let config = directory.join("config.json");
    let whole = fs::read(&config).unwrap();
    let asks = engine.container("asks").command(["true"]).create().unwrap();
    let asked = volumes(engine).into_iter().find(|it| it != "kept").unwrap();
    // The last as any other failure to open it.
    for (content, kind) in [
        (None, ErrorKind::Malformed),
        (Some("{"), ErrorKind::Malformed),
        (Some(r#"{"version":99}"#), ErrorKind::Unsupported),
        (Some("link"), ErrorKind::SafetyViolation),
    ] {
        let _ = fs::remove_file(&config);
        match content {
            None => {}
            Some("link") => symlink("elsewhere", &config).unwrap(),
            Some(content) => fs::write(&config, content).unwrap(),
        }
        let err = engine.find_volume("kept").unwrap().remove().unwrap_err();
        assert_eq!(err.kind(), kind, "{err:?}");
        assert!(err.to_string().contains("kept") && err.hint().is_some(), "{err:?}");
        assert!(format!("{err:#}").contains(mounts.id().short()), "{err:?}");
        let pruned = engine.prune_volumes(|_| true).unwrap();
        assert!(pruned.removed.is_empty() && pruned.failed[0].kind() == kind, "{pruned:?}");
    }
    // That of another goes later, and is found by who prunes.
    asks.removal().volumes().run().unwrap();
    assert_eq!(volumes(engine).len(), 2);
    fs::remove_file(&config).unwrap();
    fs::write(&config, whole).unwrap();
    let pruned = engine.prune_volumes(|_| true).unwrap();
    assert_eq!(pruned.removed, [asked]);
    mounts.remove().unwrap();
    engine.find_volume("kept").unwrap().remove().unwrap();
}

/// A host that makes containers on a volume that takes a while to be filled.
fn filling(root: &Path) {
    let engine = Engine::open(root).unwrap();
    engine.container("large").volume("v", "/large").command(["true"]).create().unwrap();
    fs::write(root.join("filled"), "").unwrap();
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn a_volume_is_filled_wholly_whenever_a_host_is_killed_at_it() {
    const ROOT: &str = "CORACLE_TEST_FILLING_ROOT";
    const FILES: usize = 2000;
    if let Some(root) = std::env::var_os(ROOT) {
        return filling(root.as_ref());
    }
    let scene = require!(scene("container-volumes-killed"));
    let root = scene.dir.join("root");
    image(&scene, "large", &["/tmp"], |tar| {
        tar.dir("large/", 0o755);
        for number in 0..FILES {
            tar.file(&format!("large/{number}"), "content");
        }
    });
    // Unpacked already, so that nothing but copying is left to do.
    drop(scene.engine.store().image("large").unwrap().rootfs().unwrap());
    let name = std::thread::current().name().unwrap().to_owned();
    let volume = root.join("volumes/v");
    let entries = |name: &str| fs::read_dir(volume.join(name)).map_or(0, Iterator::count);
    let (mut halfway, mut rounds) = (0, 0);
    while halfway < 2 {
        rounds += 1;
        assert!(rounds < 100, "it is never killed in the middle");
        let _ = fs::remove_file(root.join("filled"));
        let mut host = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &name, "--nocapture"])
            .env(ROOT, &root)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while entries("data.part") < FILES / 10 && !root.join("filled").exists() {
            assert!(Instant::now() < until && host.try_wait().unwrap().is_none());
            std::thread::sleep(Duration::from_millis(1));
        }
        host.kill().unwrap();
        host.wait().unwrap();
        halfway += usize::from(entries("data.part") > 0);
        let copied = entries("data");
        assert!(copied == 0 || copied == FILES, "{copied}");
        let engine = Engine::open(&root).unwrap();
        let left = volumes(&engine).into_iter().filter(|name| name != "v").count();
        let containers = engine.containers().unwrap();
        assert_eq!(left, containers.len(), "one each of the image's");
        let again = engine.container("large").volume("v", "/large").command(["true"]);
        let again = again.create().unwrap();
        assert_eq!((entries("data"), fs::read_dir(&volume).unwrap().count()), (FILES, 1));
        for container in containers.into_iter().chain([again]) {
            container.removal().volumes().run().unwrap();
        }
        engine.find_volume("v").unwrap().remove().unwrap();
        assert!(volumes(&engine).is_empty());
    }
}

#[test]
fn volumes_of_another_are_mounted_as_they_are() {
    let scene = require!(scene("container-volumes-from"));
    let engine = &scene.engine;
    let made = engine.container("box").volume("v", "/data").command(["true"]).create().unwrap();
    let mut other = engine.container("box");
    for mut mount in made.config().unwrap().mounts {
        assert!(matches!(&mount.source, MountSource::Volume { name, .. } if name == "v"));
        mount.target = "/elsewhere/deep".into();
        other.config_mut().mounts.push(mount);
    }
    // The outer mount does not cover the inner one, whatever their order.
    let other = other.volume("outer", "/elsewhere");
    let (said, _) = says(other, "cat /elsewhere/deep/of-the-image");
    assert_eq!(said, "kept");
}
