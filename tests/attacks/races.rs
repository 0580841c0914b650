//! Paths that change while they are used.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use coracle::namespaces::{Command, Mount, Stdio, TerminalSize};

use super::common::attack::Racer;
use super::common::{self, require};
use super::image::{Image, mount_points};

const ROUNDS: usize = 25;

/// Spawns while `good` below the root and a link out take turns. What runs has its mounts where `inside` says.
fn race(name: &str, good: &str, change: impl Fn(&mut Command), inside: impl Fn(&str)) {
    let image = Image::new(name);
    let (one, other) = (image.root().join(good), image.beside("evil"));
    fs::create_dir_all(&one).unwrap();
    let up = Path::new("../../../../../../../..").join(image.host().strip_prefix("/").unwrap());
    let (mut ran, mut refused) = (0, 0);
    for link in [
        up.as_path(),
        image.host(),
        Path::new("/"),
        Path::new("/proc/self/root"),
        Path::new("/proc/self"),
    ] {
        symlink(link, &other).unwrap();
        let racer = Racer::start(&one, &other);
        for _ in 0..ROUNDS {
            for mut command in image.scripts("cat /proc/self/mountinfo") {
                change(&mut command);
                // Whatever was swapped may be gone again when the program looks for it.
                let result = command
                    .output()
                    .map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
                match result {
                    Ok(table) => {
                        ran += 1;
                        assert!(!table.contains("/host"), "a mount of the host's: {table}");
                        inside(&table);
                    }
                    Err(_) => refused += 1,
                }
            }
        }
        assert!(racer.stop() > 0);
        // The racer may have left either where the other was.
        for path in [&one, &other] {
            if path.is_symlink() {
                fs::remove_file(path).unwrap();
            }
        }
        fs::create_dir_all(&one).unwrap();
        let _ = fs::remove_dir_all(&other);
    }
    assert!(ran + refused > 0);
    assert!(ran > 0, "{good}: never ran, {refused} refused");
    image.canary.assert_untouched();
}

#[test]
fn cve_2021_30465_a_mount_point_swapped_for_a_link() {
    require!(common::user_namespaces());
    race(
        "race-last",
        "data",
        |c| {
            c.mount(Mount::tmpfs("/data"));
        },
        |table| {
            let there = mount_points(table).into_iter().filter(|point| *point == "/data").count();
            // It may have been renamed out of the root since, never to elsewhere in it.
            assert!(there <= 1, "{table}");
        },
    );
}

#[test]
fn cve_2024_45310_a_parent_of_a_mount_point_swapped_for_a_link() {
    require!(common::user_namespaces());
    race(
        "race-parent",
        "data",
        |c| {
            c.mount(Mount::tmpfs("/data/made/in/turn"));
        },
        |table| {
            assert!(!table.contains(" /proc/self/made"), "{table}");
        },
    );
}

#[test]
fn cve_2019_19921_proc_swapped_for_a_link() {
    require!(common::user_namespaces());
    race(
        "race-proc",
        "proc",
        |_| {},
        |table| {
            let mut procs = table.lines().filter(|line| line.contains(" - proc "));
            assert!(procs.all(|line| line.contains(" /proc")), "{table}");
        },
    );
}

#[test]
fn cve_2026_41579_2025_52565_dev_swapped_for_a_link() {
    require!(common::user_namespaces());
    let size = TerminalSize { rows: 24, columns: 80 };
    race(
        "race-dev",
        "dev",
        |c| {
            c.terminal(size).stdout(Stdio::piped());
        },
        |_| {},
    );
}

#[test]
fn ghsa_3q8j_pf29_vwv8_a_masked_path_swapped_for_a_link() {
    require!(common::user_namespaces());
    let mask = |c: &mut Command| {
        c.masked_paths(["/data/secret"]).read_only_paths(["/data/fixed"]);
    };
    race("race-mask", "data/secret", mask, |table| {
        let allowed = ["/data/secret", "/data/fixed"];
        // Nothing else was covered: a second mount on any point would be.
        let mut points = mount_points(table);
        points.sort_unstable();
        let twice =
            points.windows(2).find(|pair| pair[0] == pair[1] && !allowed.contains(&pair[0]));
        assert_eq!(twice, None, "{table}");
    });
}
