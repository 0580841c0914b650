//! What is reported as done is on disk: content before its name, names before the index, the index before the report.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use coracle::image::Store;

use crate::common::{program, require, setup};
use crate::fixture::add;

/// Every change there is, each reported by a line.
fn change(dir: &Path) {
    let done = || {
        let mut out = std::io::stdout().lock();
        out.write_all(b"\n@done\n").unwrap();
        out.flush().unwrap();
    };
    let store = Store::open(dir.join("images")).unwrap();
    done();
    let image = add(&store, "app:1", &["base", "one"]);
    done();
    add(&store, "app:2", &["base", "two"]);
    done();
    store.tag("app:1", "app").unwrap();
    done();
    store.pin("box", &image).unwrap();
    done();
    store.remove("app:2").unwrap();
    done();
    store.unpin("box").unwrap();
    done();
}

/// The path that strace shows for the first descriptor, or the quoted paths.
fn paths(line: &str) -> Vec<&str> {
    match line.split_once('<') {
        Some((_, rest)) if !line.contains('"') => vec![rest.split('>').next().unwrap()],
        _ => line.split('"').skip(1).step_by(2).collect(),
    }
}

#[test]
fn content_is_synced_before_it_is_named_and_names_before_a_change_is_reported() {
    const MARK: &str = "CORACLE_TEST_TRACED";
    if let Some(dir) = std::env::var_os(MARK) {
        return change(Path::new(&dir));
    }
    let strace = require!(program("strace"));
    let dir = setup("image-durable");
    let log = dir.join("strace.log");
    let test =
        "durability::content_is_synced_before_it_is_named_and_names_before_a_change_is_reported";
    let output = Command::new(strace)
        .args([
            "-f",
            "-y",
            "-s",
            "4096",
            "-e",
            "trace=fsync,fdatasync,rename,renameat,renameat2,unlink,write",
        ])
        .arg("-o")
        .arg(&log)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--test-threads=1", "--nocapture"])
        .env(MARK, &*dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let top = dir.join("images");
    let (mut synced, mut unsynced) = (HashSet::new(), HashSet::<String>::new());
    let (mut blobs, mut indexes, mut reports) = (0, 0, 0);
    let log = std::fs::read_to_string(log).unwrap();
    for line in log.lines() {
        let paths = paths(line);
        if line.contains("fsync(") || line.contains("fdatasync(") {
            synced.insert(paths[0].to_owned());
            unsynced.remove(paths[0]);
        } else if line.contains("rename") && line.contains(top.to_str().unwrap()) {
            let (from, to) = (paths[0], paths[1]);
            assert!(synced.contains(from), "{line}: not synced");
            let parent = Path::new(to).parent().unwrap().to_str().unwrap();
            if to.ends_with("/index.json") {
                let blobs = top.join("blobs/sha256");
                assert!(
                    !unsynced.contains(blobs.to_str().unwrap()),
                    "{line}: blobs have no lasting names"
                );
                indexes += 1;
            }
            blobs += usize::from(to.contains("/blobs/"));
            unsynced.insert(parent.to_owned());
        } else if line.contains("unlink") && line.contains("/leases/pin-") {
            unsynced.insert(top.join("leases").to_str().unwrap().to_owned());
        } else if line.contains("@done") {
            assert!(unsynced.is_empty(), "report {reports}: {unsynced:?} not synced");
            reports += 1;
        }
    }
    // Manifest, configuration and layers; the first index is the empty one.
    assert_eq!((blobs, indexes, reports), (7, 5, 7), "{log}");
}
