//! The same command lines as docker's, side by side with Debian's.

use std::path::Path;
use std::time::{Duration, SystemTime};

use coracle::image::{ConfigChanges, Import, Store};

use crate::common::archive::Tar;
use crate::common::engines::Docker;
use crate::common::http::Response;
use crate::common::registry::Registry;
use crate::common::server::Scripted;
use crate::common::stack::inside;
use crate::common::{require, setup};
use crate::remote::scene;
use crate::{finish, run};

/// All but sizes, which are docker's of files and ours of blobs, and digests, which docker has of pulled images alone.
const FIELDS: &str = "{{.Repository}}|{{.Tag}}|{{.ID}}|{{.CreatedSince}}|{{.CreatedAt}}";
/// Nor the ids of the images below, which docker forgets when it loads one.
const STEPS: &str = "{{.CreatedSince}}|{{.CreatedAt}}|{{.CreatedBy}}|{{.Comment}}";
const DETAILS: &str = "{{.Id}} {{.RepoTags}} {{.Created}} {{.Author}} {{.Comment}} {{.Architecture}} {{.Os}} \
    {{json .RootFS.Layers}} {{json .Config.Cmd}} {{json .Config.Entrypoint}} {{json .Config.Env}} \
    {{json .Config.Labels}} {{json .Config.ExposedPorts}} {{json .Config.Volumes}} {{.Config.WorkingDir}} {{.Config.User}}";

/// `base:1`, and `app`, one layer and some settings more, under two names.
fn images(store: &Store, scratch: &Path) {
    let tar = Tar::new().dir("./", 0o755).file("hello", "hello").end();
    let ago = |hours: u64| SystemTime::now() - Duration::from_secs(hours * 3600);
    let changes =
        ConfigChanges::new().created(ago(50)).cmd(["/hello"]).env("A", "b c").message("the base");
    let base = Import::new(store).name("base:1").changes(changes).read(&tar[..]).unwrap();
    let rootfs = base.rootfs().unwrap().writable(scratch).unwrap();
    inside(&rootfs, |root| std::fs::write(root.join("more"), "more").unwrap());
    let changes = ConfigChanges::new()
        .created(ago(3))
        .created_by("a command\tof many words, and longer than what a column has room for")
        .entrypoint(["/more", "of it"])
        .label("tier", "top")
        .instruction("EXPOSE 80")
        .unwrap()
        .working_dir("/srv")
        .user("1:2")
        .author("somebody")
        .message("more");
    store.commit(&rootfs, "app").parent(&base).changes(changes).run().unwrap();
    store.tag("app", "registry.example:5000/team/app:two").unwrap();
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn commands_print_and_end_as_dockers_do() {
    require!(crate::common::stacks());
    let dir = setup("cli-docker");
    let docker = require!(Docker::start(&dir, "overlay2"));
    let store = Store::open(dir.join("images")).unwrap();
    images(&store, &dir.join("scratch"));
    let archive = dir.join("archive.tar");
    let archive = archive.to_str().unwrap();
    let names = ["base:1", "app", "registry.example:5000/team/app:two"];
    let save = [&["save", "-o", archive][..], &names].concat();
    assert_eq!(run(&store, &save).status, 0);

    let same = |arguments: &[&str]| {
        let theirs = finish(docker.command(arguments).env("TZ", "UTC"));
        let ours = run(&store, arguments);
        let told = format!("{arguments:?}: {theirs:?} {ours:?}");
        assert_eq!(ours.status, theirs.status, "{told}");
        // The names of one image come in any order from docker.
        match arguments[0] {
            "images" => assert_eq!(sorted(&ours.out), sorted(&theirs.out), "{told}"),
            _ => assert_eq!(ours.out, theirs.out, "{told}"),
        }
        assert_eq!(ours.err.is_empty(), theirs.err.is_empty(), "{told}");
        ours
    };
    let id = store.image("app").unwrap().id();
    let (id, short) = (id.to_string(), id.short());
    for arguments in [
        &["load", "-i", archive][..],
        &["load", "--quiet", "--input", archive],
        &["images", "-q"],
        &["images", "-aq", "--no-trunc"],
        &["images", "--format", FIELDS],
        &["images", "--format", "table {{.ID}}\t{{.Repository}}\t{{.Tag}}"],
        &["images", "--format", "table {{.ID}}\t{{.CreatedSince}}", "--no-trunc"],
        &["images", "--format", FIELDS, "app"],
        &["images", "--format", FIELDS, "app:latest"],
        &["images", "--format", FIELDS, "registry.example:5000/team/*"],
        &["images", "-q", "nothing"],
        &["images", "-q", "--filter", "label=tier"],
        &["images", "-q", "--filter", "label=tier=low"],
        &["images", "-q", "--filter", "before=app"],
        &["images", "-q", "--filter", "since=base:1"],
        &["images", "-q", "--filter", "reference=*a*:*1"],
        &["images", "-q", "--filter", "dangling=true"],
        &["image", "ls", "-q"],
        &["history", "-q", "base:1"],
        &["history", "-q", "--no-trunc", "base:1"],
        &["history", "--format", STEPS, "app"],
        &["history", "--no-trunc", "--format", STEPS, "app"],
        &["history", "-H=false", "--format", STEPS, "app"],
        &["history", "--format", "table {{.CreatedBy}}\t{{.Comment}}", &short],
        &["inspect", "-f", DETAILS, "app"],
        &["inspect", "-f", "{{.Id}} {{json .Config.Cmd}} {{json .Config.Env}}", "base:1", "app"],
        &["image", "inspect", "-f", DETAILS, &id],
        &["inspect", "-f", "{{.Id}}", &short[..8]],
        &["tag", "app", "app:again"],
        &["tag", &short, "other"],
        &["images", "--format", FIELDS],
        &["rmi", "app:again"],
        &["rmi", "other", "app"],
    ] {
        same(arguments);
    }

    // What fails, with an exit status and with words on standard error. Ours are our own, docker's lead nowhere at times.
    for arguments in [
        &["images", "--bogus"][..],
        &["images", "one", "two"],
        &["images", "--filter", "bogus=1"],
        &["images", "--filter", "dangling=maybe"],
        &["images", "--filter", "before=missing"],
        &["images", "--format", "{{.Bogus}}"],
        &["images", "--format", "{{.ID"],
        &["history"],
        &["history", "missing"],
        &["history", "app", "base:1"],
        &["inspect"],
        &["inspect", "missing"],
        &["inspect", "-f", "{{.Id}}", "base:1", "missing"],
        &["tag", "base:1"],
        &["tag", "missing", "x"],
        &["tag", "base:1", "Upper"],
        &["tag", "base:1", "name@sha256:1234"],
        &["rmi"],
        &["rmi", "missing"],
        &["rmi", "missing", "also/missing:1"],
        &["save"],
        &["save", "missing", "-o", "/nonexistent/file"],
        &["load", "-i", "/nonexistent/file"],
        &["load", "-i", "/etc/passwd"],
        &["import"],
        &["import", "/nonexistent/file", "x"],
        &["import", "--change", "BOGUS x", archive, "x"],
        &["bogus"],
    ] {
        let ran = same(arguments);
        assert_ne!(ran.status, 0, "{arguments:?}");
    }
}

/// Of what a pull prints, what comes in any order or only at times.
fn settled(out: &str) -> Vec<&str> {
    let lines = sorted(out).into_iter();
    lines
        .filter(|line| !line.ends_with("Verifying Checksum") && !line.ends_with("Waiting"))
        .collect()
}

#[test]
fn registries_are_spoken_of_as_docker_does() {
    let server = require!(Registry::builder().htpasswd("anna", "sesame").start());
    let scene = require!(scene("cli-docker-registry", server));
    let docker = require!(Docker::start(&scene.dir, "overlay2"));
    let (host, name) = (scene.server.address(), scene.server.name("app:1"));
    let config = scene.dir.join("theirs");
    let different = std::cell::RefCell::new(Vec::new());
    let same = |arguments: &[&str], input: &str| {
        let input = || std::fs::File::open(scene.dir.file("stdin", input)).unwrap();
        let mut theirs = docker.command(arguments);
        let theirs = finish(theirs.env("DOCKER_CONFIG", &config).stdin(input()));
        let ours = finish(scene.command(arguments).stdin(input()));
        let alike = ours.status == theirs.status
            && settled(&ours.out) == settled(&theirs.out)
            && ours.err.is_empty() == theirs.err.is_empty();
        if !alike {
            different.borrow_mut().push((format!("{arguments:?}"), theirs, ours));
        }
    };
    let repository = scene.server.name("app");
    let at = format!("{repository}@{}", scene.digest);
    same(&["pull", &name], "");
    let login = ["login", "-u", "anna", "--password-stdin", host];
    same(&login, "wrong");
    same(&login, "sesame");
    same(&["login", host], "");
    for arguments in [
        &["pull", &name][..],
        &["pull", &name],
        &["pull", "--quiet", &name],
        &["pull", &at],
        &["image", "pull", "-a", &repository],
        &["pull", "-q", "-a", &repository],
        &["rmi", &scene.server.name("app:2")],
        &["pull", &scene.server.name("app:2")],
        &["pull", &repository],
        &["pull", "-a", &name],
        &["pull", &scene.server.name("nobody:1")],
        &["pull", "127.0.0.1:1/app"],
        &["pull", "registry.invalid/app"],
        &["pull", "UPPER"],
        &["pull"],
        &["pull", &name, &name],
        &["pull", "--bogus", &name],
        &["push"],
        &["push", &scene.server.name("nobody:1")],
        &["push", "--quiet", &name],
        // A second time docker says the same, though there is nothing to remove.
        &["logout", host],
        &["login", host],
        &["login", "--password-stdin", host],
        &["login", "-u", "anna", "-p", "x", "--password-stdin", host],
        &["login", "-u", "anna", "-p", "wrong", host],
        &["login", "-u", "anna", "-p", "sesame", host],
        &["login", "-u", "anna", "-p", "sesame", "127.0.0.1:1"],
        &["login", "a", "b"],
        &["search"],
        &["search", "--limit", "0", "x"],
        &["search", "--limit", "x", "x"],
        &["manifest", "inspect", &scene.server.name("nobody:1")],
        &["manifest", "inspect"],
    ] {
        same(arguments, "");
    }

    let found = r#"{"results":[{"name":"a","description":"one\ntwo","star_count":7},
        {"name":"b","description":"So much of it that it does not fit into the column that there is.","star_count":9,"is_official":true}]}"#;
    let index = Scripted::start(move |request| match request.path() {
        "/v1/search" => Response::json(found),
        "/v1/_ping" => Response::json(r#"{"standalone":true}"#),
        _ => Response::new(404),
    });
    let term = format!("{}/x", index.address());
    const FOUND: &str = "{{.Description}}|{{.StarCount}}|{{.IsOfficial}}|{{.IsAutomated}}";
    for arguments in [
        &["search", "--format", FOUND, &term][..],
        &["search", "--no-trunc", "--format", FOUND, &term],
        &["search", "--format", "table {{.StarCount}}\t{{.Description}}", &term],
        &["search", "--filter", "is-official=true", "--format", FOUND, &term],
        &["search", "--filter", "stars=8", "--format", FOUND, &term],
        &["search", "--filter", "bogus=8", &term],
    ] {
        same(arguments, "");
    }
    // What is kept and not taken any more.
    let stale = serde_json::json!({ "auths": { host: { "auth": "YW5uYTpzdGFsZQ==" } } });
    for place in [&config, &scene.dir.join("docker")] {
        std::fs::create_dir_all(place).unwrap();
        std::fs::write(place.join("config.json"), stale.to_string()).unwrap();
    }
    same(&["login", host], "");
    let different = different.into_inner();
    assert!(different.is_empty(), "{different:#?}");
}
