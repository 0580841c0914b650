//! Where the store is, who may use it, and what becomes of output and of command lines that make no sense.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use coracle::image::Store;

use crate::common::{self, require, setup};
use crate::fixture::{add, store};
use crate::{command, fails, finish, lines, program, run};

#[test]
fn the_option_goes_before_the_variable_and_both_must_name_a_store() {
    let dir = setup("cli-root");
    let store = store(&dir);
    add(&store, "here", &["here"]);
    let other = Store::open(dir.join("other")).unwrap();
    let path = other.path().to_str().unwrap();
    for arguments in [["--root", path, "images", "-q"], ["images", "-q", "--root", path]] {
        assert!(lines(&store, &arguments).is_empty());
    }
    assert_eq!(lines(&store, &["images", "-q"]).len(), 1);
    let missing = dir.join("missing");
    let root = missing.to_str().unwrap();
    fails(&store, &["--root", root, "images"], 1, &["open the image store", root, "Hint: "]);
    assert!(!missing.exists(), "a mistyped name makes no store");
    fails(
        &store,
        &["--root", dir.file("full/of", "things").parent().unwrap().to_str().unwrap(), "images"],
        1,
        &["no image store", "Hint: "],
    );
}

#[test]
fn an_ordinary_user_has_a_store_of_their_own() {
    require!(common::not_root());
    let dir = setup("cli-home");
    let home = dir.dir("home");
    let at = |variable: &str, value: &Path| {
        let mut command = command(&["images", "-q"]);
        command.env_remove("XDG_DATA_HOME").env("HOME", &home).env(variable, value);
        let ran = finish(&mut command);
        assert!(ran.status == 0 && ran.err.is_empty(), "{ran:?}");
    };
    at("HOME", &home);
    assert!(home.join(".local/share/coracle/oci-layout").exists());
    at("XDG_DATA_HOME", &dir.join("data"));
    assert!(dir.join("data/coracle/oci-layout").exists());
    let mut command = command(&["images"]);
    let ran = finish(command.env_remove("XDG_DATA_HOME").env_remove("HOME"));
    assert!(ran.status == 1 && ran.err.contains("--root"), "{ran:?}");
}

#[test]
fn a_store_that_cannot_be_written_can_be_read() {
    let dir = setup("cli-read-only");
    let store = store(&dir);
    add(&store, "app", &["app"]);
    let mode = |mode| {
        for name in ["", "leases", "ingest", "trash", "blobs/sha256"] {
            fs::set_permissions(store.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    // Modes do not stop root: a read-only mount does.
    let script = r#"mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@""#;
    let run = |arguments: &[&str]| match common::root() {
        Ok(()) => {
            let mut shell = Command::new("unshare");
            shell.args(["--mount", "sh", "-c", script]).arg(store.path()).arg(program());
            finish(shell.args(arguments).env("CORACLE_ROOT", store.path()))
        }
        Err(_) => run(&store, arguments),
    };
    mode(0o500);
    let read = [
        &["images", "-q"][..],
        &["history", "app"],
        &["inspect", "app"],
        &["system", "df"],
        &["verify"],
    ];
    let read = read.map(|arguments| (arguments, run(arguments)));
    let written = [&["tag", "app", "b"][..], &["rmi", "app"], &["prune", "-fa"]];
    let written = written.map(|arguments| (arguments, run(arguments)));
    mode(0o700);
    for (arguments, ran) in read {
        assert!(ran.status == 0 && ran.err.is_empty(), "{arguments:?}: {ran:?}");
    }
    for (arguments, ran) in written {
        assert!(ran.status == 1 && ran.err.starts_with("Error: "), "{arguments:?}: {ran:?}");
        assert!(ran.err.contains("EACCES") || ran.err.contains("EROFS"), "{arguments:?}: {ran:?}");
    }
    assert_eq!(lines(&store, &["images", "-q"]).len(), 1);
}

#[test]
fn whoever_stops_reading_hears_no_complaint() {
    let dir = setup("cli-pipe");
    let store = store(&dir);
    add(&store, "app", &["app"]);
    for arguments in [&["images"][..], &["inspect", "app"], &["images", "--help"], &["--version"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = command(arguments);
        command.env("CORACLE_ROOT", store.path()).stdout(writer).stderr(Stdio::piped());
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(141), "{arguments:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}");
    }
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = command(&["images"]);
    command.env("CORACLE_ROOT", store.path()).stdout(full).stderr(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"));
}

#[test]
fn a_wrong_command_line_ends_as_dockers_does() {
    let dir = setup("cli-usage");
    let store = store(&dir);
    for (arguments, status) in [
        (&["images", "--colour"][..], 125),
        (&["images", "-Z"], 125),
        (&["--colour"], 125),
        (&["history", "--human=perhaps", "app"], 125),
        (&["system", "df", "-v", "--format", "json"], 125),
        (&["imags"], 1),
        (&["image", "lss"], 1),
        (&["images", "a", "b"], 1),
        (&["inspect"], 1),
    ] {
        let ran = fails(&store, arguments, status, &["--help"]);
        assert!(ran.out.is_empty(), "{ran:?}");
    }
    for (arguments, words) in [
        (&[][..], &["Usage: coracle", "images", "Examples:", "Exit status:"][..]),
        (&["image"], &["Usage: coracle image"]),
        (&["system"], &["df"]),
        (&["images", "--help"], &["{{json .}}", "table TEMPLATE", ".CreatedSince", "until=TIME"]),
        (&["history", "--help"], &["{{json .}}", ".CreatedBy"]),
        (&["inspect", "--help"], &["{{index .RepoTags 0}}"]),
    ] {
        let help = lines(&store, arguments).join("\n");
        words.iter().for_each(|word| assert!(help.contains(word), "{word}: {help}"));
    }
}
