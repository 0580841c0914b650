//! Images from and to archives.

use std::fs;
use std::process::{Command, Stdio};

use coracle::image::Store;

use crate::common::setup;
use crate::fixture::{add, sound, store};
use crate::{command, fails, family, finish, lines};

#[test]
fn archives_carry_images_with_names_from_store_to_store() {
    let dir = setup("cli-archives");
    let (store, [base, middle, app, _]) = family(&dir);
    let archive = dir.join("images.tar");
    let file = archive.to_str().unwrap();
    store.tag("base:1", "base:2").unwrap();
    let id = middle.id().to_string();
    // A repository stands for all of its tags.
    assert!(lines(&store, &["save", "-o", file, "base", "app", &id]).is_empty());
    assert_eq!(fs::read_dir(&*dir).unwrap().count(), 2, "no temporary file");
    let names = |prefix: &str| {
        let mut names = ["app:latest", "base:1", "base:2"].map(|name| format!("{prefix}: {name}"));
        names.sort();
        names.to_vec()
    };
    let new = dir.join("new");
    let root = new.to_str().unwrap();
    let mut said = lines(&store, &["--root", root, "load", "--quiet", "--input", file]);
    said.sort();
    let nameless = format!("Loaded image ID: {id}");
    assert_eq!(said, [&[nameless][..], &names("Loaded image")].concat());
    let loaded = Store::open_existing(&new).unwrap();
    assert_eq!(loaded.image("app").unwrap(), app);
    assert_eq!(loaded.image("base:2").unwrap(), base);
    sound(&loaded);
    // From standard output to standard input.
    let mut save = command(&["image", "save", "app"]);
    save.env("CORACLE_ROOT", store.path()).stdout(Stdio::piped());
    let mut save = save.spawn().unwrap();
    let mut load = command(&["image", "load"]);
    let piped = dir.join("piped");
    let ran = finish(load.env("CORACLE_ROOT", &piped).stdin(save.stdout.take().unwrap()));
    assert!(save.wait().unwrap().success());
    assert_eq!((ran.out.as_str(), ran.status), ("Loaded image: app:latest\n", 0), "{ran:?}");
}

#[test]
fn a_root_filesystem_is_imported_with_what_it_is_to_run() {
    let dir = setup("cli-import");
    let root = dir.dir("root/etc");
    fs::write(root.join("motd"), "hello").unwrap();
    let archive = dir.join("root.tar");
    let tar = Command::new("tar")
        .arg("-C")
        .arg(dir.join("root"))
        .arg("-cf")
        .arg(&archive)
        .arg(".")
        .status();
    assert!(tar.unwrap().success());
    let path = dir.join("images");
    let store = || Store::open_existing(&path).unwrap();
    let import = |arguments: &[&str], epoch: &str| {
        let mut command = command(&["import"]);
        command.args(arguments).env("CORACLE_ROOT", &path).env("SOURCE_DATE_EPOCH", epoch);
        finish(command.stdin(fs::File::open(&archive).unwrap()))
    };
    let file = archive.to_str().unwrap();
    let arguments = ["-c", "CMD [\"sh\"]", "--change", "ENV A=b", "-m", "from tar", file, "root:1"];
    let ran = import(&arguments, "1000000000");
    let id = ran.out.trim().to_owned();
    assert!(ran.status == 0 && ran.err.is_empty() && id.starts_with("sha256:"), "{ran:?}");
    let format = "{{.Id}} {{.Config.Cmd}} {{.Config.Env}} {{.Created}} {{.Comment}} {{.Os}}";
    let said = lines(&store(), &["inspect", "-f", format, "root:1"]);
    assert!(said[0].starts_with(&format!("{id} [sh] [")) && said[0].contains("A=b"), "{said:?}");
    assert!(said[0].ends_with("2001-09-09T01:46:40Z from tar linux"), "{said:?}");
    // The same from standard input, without a name and for another machine.
    assert_eq!(import(&["-"], "1").out, import(&["-"], "1").out);
    let other = import(&["--platform", "linux/arm64", "-"], "1").out;
    let architecture = lines(&store(), &["inspect", "-f", "{{.Architecture}}", other.trim()]);
    assert_eq!(architecture, ["arm64"]);
    for (arguments, epoch, why) in [
        (&["-c", "FROM x", "-"][..], "1", "FROM"),
        (&["-", "UPPER"], "1", "UPPER"),
        (&["/no/such.tar"], "1", "/no/such.tar"),
        (&["-"], "yesterday", "SOURCE_DATE_EPOCH is yesterday"),
    ] {
        let ran = import(arguments, epoch);
        assert!(ran.status == 1 && ran.err.contains(why), "{ran:?}");
    }
    assert_eq!(lines(&store(), &["images", "-aq"]).len(), 3);
    sound(&store());
}

#[test]
fn an_archive_that_cannot_be_written_or_read_whole_is_none() {
    let dir = setup("cli-no-archive");
    let store = store(&dir);
    add(&store, "app", &["app"]);
    let file = dir.file("old.tar", "old");
    let old = file.to_str().unwrap();
    fails(&store, &["save", "-o", old, "app", "nobody"], 1, &["no such image: nobody"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "old", "what was there stays");
    let nowhere = dir.join("no/where.tar");
    let nowhere = nowhere.to_str().unwrap();
    fails(&store, &["save", "-o", nowhere, "app"], 1, &[nowhere, "No such file"]);
    let ran = fails(&store, &["save", "-o", "/dev/full", "app"], 1, &["ENOSPC"]);
    assert!(!ran.err.contains("of the store: remove images"), "it is another disk's: {ran:?}");
    fails(&store, &["save"], 1, &["IMAGE"]);
    fails(&store, &["load", "-i", nowhere], 1, &[nowhere, "No such file"]);
    fails(&store, &["load", "-i", old], 1, &["load an archive"]);
    // Nothing on standard input.
    fails(&store, &["load"], 1, &["load an archive"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut save = command(&["save", "app"]);
    save.env("CORACLE_ROOT", store.path()).stdout(writer).stderr(Stdio::piped());
    let output = save.spawn().unwrap().wait_with_output().unwrap();
    assert!(output.status.code() == Some(141) && output.stderr.is_empty(), "{output:?}");
    sound(&store);
}
