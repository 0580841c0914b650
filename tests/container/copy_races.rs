//! Containers that change under the hands of those who copy: CVE-2018-15664, and its kin of other tools.

use std::env;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use coracle::container::Container;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::common::archive::Tar;
use crate::common::attack::Canary;
use crate::common::require;
use crate::scene;

const ROUNDS: usize = 60;
const RACER: &str = "CORACLE_TEST_RACER";

/// The program of the hostile container, which nothing tells to begin elsewhere: exchanges two names for ever, as fast as it can.
#[test]
fn racer() {
    let Ok(names) = env::var(RACER) else { return };
    let [one, other, target] = names.split(':').collect::<Vec<_>>()[..] else { panic!("{names}") };
    loop {
        for _ in 0..100 {
            // One of them may be missing while it is being replaced.
            let _ = renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE);
        }
        // The link may have been what was replaced.
        if fs::read_link(one).is_err() && fs::read_link(other).is_err() {
            let _ = fs::remove_file(other);
            let _ = symlink(target, other);
        }
    }
}

/// A container in which `good` and a link to `target` take turns.
fn hostile(scene: &crate::Scene, good: &str, target: &Path) -> Container {
    // Not this program itself, which no container gets hold of.
    let program = scene.dir.join("racer");
    if !program.exists() {
        fs::copy(env::current_exe().unwrap(), &program).unwrap();
    }
    let names = format!("/race/{good}:/race/evil:{}", target.display());
    let mut builder = scene.engine.container("box").command([
        "/racer",
        "--exact",
        "copy_races::racer",
        "--nocapture",
    ]);
    for (source, target) in
        [("/usr", "/usr:ro"), ("/usr/lib", "/lib:ro"), ("/usr/lib64", "/lib64:ro")]
    {
        if Path::new(source).exists() {
            builder = builder.volume(source, target);
        }
    }
    let container = builder.volume(program, "/racer:ro").env(RACER, names).create().unwrap();
    let mut tar = Tar::new();
    tar.dir("race/", 0o755).dir("race/top/", 0o755).dir("race/top/etc/", 0o755);
    tar.file("race/top/etc/passwd", "inside").file("race/passwd", "inside");
    tar.link("race/evil", target.to_str().unwrap());
    container.copy_in("/").tar(&*tar.end()).unwrap();
    container.start().unwrap();
    container
}

/// Copies while `good` and a link to what is `beyond` on the host take turns. Returns how often it could.
fn race(
    name: &str,
    good: &str,
    beyond: &str,
    copy: impl Fn(&Container, &Path) -> coracle::Result<()>,
) {
    let scene = require!(scene(name));
    let canary = Canary::plant(scene.dir.join("host"));
    open_up(canary.path());
    let canary = Canary::watch(canary.path());
    let host = canary.path().join(beyond);
    let up = Path::new("../../../../../../../..").join(host.strip_prefix("/").unwrap());
    let (mut went, mut failed) = (0, 0);
    for target in [host.as_path(), &up, &Path::new("/proc/self/root").join(&up)] {
        let container = hostile(&scene, good, target);
        for round in 0..ROUNDS {
            let out = scene.dir.join(format!("out-{round}"));
            match copy(&container, &out) {
                Ok(()) => went += 1,
                Err(_) => failed += 1,
            }
            inspect(&out);
            let _ = fs::remove_dir_all(&out).or_else(|_| fs::remove_file(&out));
        }
        // It was at it all the time.
        assert_eq!(
            container.status().unwrap().phase,
            coracle::container::Phase::Running,
            "{target:?}"
        );
        container.remove_forced().unwrap();
    }
    canary.assert_untouched();
    assert!(went > 0, "never, of {failed} times");
}

/// Lets everybody write there, so that nothing but the way is in the way.
fn open_up(path: &Path) {
    let found = path.symlink_metadata().unwrap();
    if found.is_symlink() {
        return;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    if found.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| open_up(&entry.unwrap().path()));
    }
}

/// That nothing of what was copied out is the host's.
fn inspect(path: &Path) {
    let Ok(found) = path.symlink_metadata() else { return };
    if found.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| inspect(&entry.unwrap().path()));
    } else if found.is_file() {
        assert_eq!(fs::read_to_string(path).unwrap(), "inside", "{}", path.display());
    }
}

#[test]
fn cve_2018_15664_a_directory_on_the_way_out_is_swapped() {
    race("copy-race-out", "top", "", |container, out| {
        container.copy_out("/race/top/etc/passwd").to(out).map(drop)
    });
}

#[test]
fn cve_2018_15664_a_directory_is_swapped_while_it_is_read() {
    race("copy-race-tree", "top", "", |container, out| {
        container.copy_out("/race").to(out).map(drop)
    });
}

#[test]
fn cve_2018_15664_a_file_is_swapped() {
    race("copy-race-file", "passwd", "etc/passwd", |container, out| {
        container.copy_out("/race/passwd").follow_link(true).to(out).map(drop)
    });
}

#[test]
fn cve_2018_15664_a_directory_on_the_way_in_is_swapped() {
    let archive = Tar::new().file("passwd", "inside").link("link", "x").fifo("fifo").end();
    race("copy-race-in", "top", "", |container, _| {
        container.copy_in("/race/top/etc").tar(&*archive).map(drop)
    });
}

#[test]
fn cve_2018_15664_a_directory_is_swapped_while_it_is_written() {
    let archive = Tar::new()
        .dir("top/", 0o777)
        .dir("top/etc/", 0o777)
        .file("top/etc/passwd", "inside")
        .link("top/etc/link", "x")
        .hard_link("top/etc/twin", "top/etc/passwd")
        .file("top/bin/sh", "inside")
        .end();
    race("copy-race-into", "top", "", |container, _| {
        container.copy_in("/race").keep_ids(true).tar(&*archive).map(drop)
    });
}

#[test]
fn cve_2018_15664_a_file_that_is_replaced_is_swapped() {
    let archive = Tar::new().file("passwd", "inside").end();
    race("copy-race-over", "passwd", "etc/passwd", |container, _| {
        container.copy_in("/race").tar(&*archive).map(drop)
    });
}
