//! The test helpers themselves: an auditor that cannot fail would hide every leak.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::panic::catch_unwind;
use std::process::Command;

use common::attack::{Canary, Racer};
use common::{audit, require};

#[test]
fn a_sandbox_is_gone_after_the_test() {
    let path = {
        let sandbox = common::setup("gone");
        sandbox.file("a/b", "c");
        sandbox.to_owned()
    };
    assert!(!path.exists());
}

#[test]
fn a_mount_left_in_a_sandbox_is_found_and_undone() {
    require!(common::root());
    let sandbox = common::setup("mount");
    let path = sandbox.to_owned();
    let point = sandbox.dir("point");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&point).status().unwrap();
    assert!(mounted.success());
    catch_unwind(move || drop(sandbox)).expect_err("the mount went unnoticed");
    assert!(audit::mounts_below(&path).is_empty());
    assert!(!path.exists());
}

#[test]
fn a_child_a_descriptor_and_a_changed_directory_are_noticed() {
    common::alone(|| {
        audit::snapshot().assert_unchanged();

        let before = audit::children();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert_eq!(audit::children().difference(&before).count(), 1);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(audit::children(), before);

        let before = (audit::fds(), audit::inheritable_fds());
        let file = fs::File::open("/dev/null").unwrap();
        assert_eq!(audit::fds().difference(&before.0).count(), 1);
        assert_eq!(audit::inheritable_fds(), before.1, "std opens close-on-exec");
        drop(file);

        let before = audit::snapshot();
        std::env::set_current_dir("/").unwrap();
        catch_unwind(|| before.assert_unchanged()).expect_err("the change went unnoticed");
    });
}

#[test]
fn the_canary_sings_at_every_touch() {
    let attacks: [(&str, &str); 6] = [
        ("write", "echo x >> etc/passwd"),
        ("create", "> empty/new"),
        ("remove", "rm home/user/.profile"),
        ("chmod", "chmod 755 etc/shadow"),
        ("touch", "touch etc"),
        ("replace", "cp -p etc/passwd etc/p && mv etc/p etc/passwd"),
    ];
    for (name, attack) in attacks {
        let sandbox = common::setup("canary");
        let canary = Canary::plant(sandbox.join("host"));
        canary.assert_untouched();
        let status = Command::new("sh").args(["-euc", attack]).current_dir(canary.path()).status();
        assert!(status.unwrap().success(), "{name}");
        catch_unwind(|| canary.assert_untouched()).expect_err(name);
    }
}

#[test]
fn the_racer_swaps_until_it_is_stopped() {
    let sandbox = common::setup("racer");
    let good = sandbox.dir("good");
    symlink("/", sandbox.join("evil")).unwrap();
    let racer = Racer::start(&good, sandbox.join("evil"));
    let mut seen = [false; 2];
    while seen != [true; 2] {
        seen[usize::from(good.is_symlink())] = true;
    }
    assert!(racer.stop() > 0);
}
