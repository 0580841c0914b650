//! An image is the same image everywhere: in a store, in docker, podman and skopeo, and after squashing.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use coracle::image::{ConfigChanges, Image, Import, Store, Tree};
use coracle::layers::Rootfs;
use coracle::namespaces::{Command as Contained, Output};

use crate::common::engines::{Containers, Docker, run, to_file};
use crate::common::{self, Missing, Sandbox, require, setup_in_memory};

const CHANGE: &str = include_str!("change.py");
const LIST: &str = include_str!("list.py");
const PYTHON: &str = "/usr/bin/python3";
/// As list.py prints that there is no content.
const EMPTY: &str = "sha256=e3b0c44298fc1c149afbf4c8996fb924";

/// A Debian image that three commands have changed, and lists itself when it is run.
struct Made {
    dir: Sandbox,
    store: Store,
    image: Image,
    listing: Listing,
}

impl Made {
    fn save(&self, names: &[&str]) -> PathBuf {
        let archive = self.dir.join("ours.tar");
        self.store.save(names, File::create(&archive).unwrap()).unwrap();
        archive
    }

    /// The listing of an image of fewer layers: only an overlay counts the names that other layers hide.
    fn in_one_layer(&self) -> Listing {
        let mut listing = self.listing.clone();
        listing.replace("/srv/all/links/one", "names=4", "names=2");
        listing.replace("/srv/all/three", "names=4", "names=2");
        listing
    }
}

fn made(name: &str) -> Result<Made, Missing> {
    common::stacks_in_memory()?;
    common::containers()?;
    let debian = common::debian_rootfs()?;
    // On a disk it takes minutes.
    let dir = setup_in_memory(name);
    let store = Store::open(dir.join("images")).unwrap();
    let base = import(&store, &debian);
    let (mut image, mut listing) = (base, Listing(BTreeMap::new()));
    for number in ["1", "2", "3"] {
        let scratch = dir.join(format!("scratch-{number}"));
        let rootfs = change(&image, number, &scratch);
        let commit = store.commit(&rootfs, &format!("app:{number}")).parent(&image);
        let commit = commit.message(format!("layer {number}")).author("everywhere");
        image = commit.cmd([PYTHON, "-c", LIST]).run().unwrap();
        let top = if number == "3" { "/" } else { "/srv" };
        listing = Listing::on(&rootfs, top);
        if number == "2" && common::root().is_err() {
            // An ordinary user's overlay can note nothing on a fifo, and forgets that it has copied this one.
            listing.replace("/srv/all/links/fifo", "names=2", "names=2 same=/srv/all/fifo");
        }
        drop(rootfs);
        Listing::on(&image.rootfs().unwrap().read_only().unwrap(), top).is(&listing);
        store.layers().unwrap().remove_writable(&scratch).unwrap();
    }
    let history = image.history().unwrap();
    let comments: Vec<_> = history.iter().map(|step| step.comment.as_str()).collect();
    assert_eq!(comments[..3], ["layer 3", "layer 2", "layer 1"]);
    let layers: Vec<_> = history.iter().rev().map(|step| step.layer.unwrap()).collect();
    assert_eq!(layers, image.diff_ids());
    check_tree(&store);
    image.squash().name("squashed").run().unwrap();
    Ok(Made { dir, store, image, listing })
}

/// Each image stands on the one that it was made of.
fn check_tree(store: &Store) {
    let mut trees = Tree::of(&store.images().unwrap());
    for name in ["debian", "app:1", "app:2", "app:3"] {
        assert_eq!(trees.len(), 1, "{name}");
        let Tree { image, children, .. } = trees.remove(0);
        assert_eq!(image, store.image(name).unwrap());
        trees = children;
    }
    assert!(trees.is_empty());
}

fn import(store: &Store, debian: &Path) -> Image {
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(debian).args(["--format=posix", "--xattrs", "--xattrs-include=*"]);
    if common::root().is_err() {
        tar.args(["--owner=0", "--group=0"]);
    }
    let mut tar = tar.args(["-cf", "-", "."]).stdout(Stdio::piped()).spawn().unwrap();
    let changes = ConfigChanges::new().cmd(["/bin/sh"]).env("LANG", "C.UTF-8");
    let import = Import::new(store).name("debian").changes(changes);
    let image = import.read(tar.stdout.take().unwrap()).unwrap();
    assert!(tar.wait().unwrap().success());
    image
}

/// Runs a step of change.py on the image.
fn change(image: &Image, number: &str, scratch: &Path) -> Rootfs {
    let stack = image.rootfs().unwrap();
    // Device nodes are the host's root's to make.
    let devices = number == "3" && common::root().is_ok();
    let stack = if devices { stack.host_ids() } else { stack };
    let rootfs = stack.writable(scratch).unwrap();
    let mut command = Contained::new(PYTHON);
    command.args(["-c", CHANGE, number]).rootfs(&rootfs);
    if devices {
        command.host_users().privileged().env("DEVICES", "yes");
    }
    ok(command.output().unwrap());
    rootfs
}

fn ok(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// A line of list.py for each path.
#[derive(Clone, PartialEq, Eq)]
struct Listing(BTreeMap<String, String>);

impl Listing {
    fn parse(text: &str) -> Self {
        let lines = text.lines().map(|line| line.split_once(' ').unwrap());
        Self(lines.map(|(path, rest)| (path.to_owned(), rest.to_owned())).collect())
    }

    /// What the image's own command prints.
    fn of(image: &Image) -> Self {
        Self::on(&image.rootfs().unwrap().read_only().unwrap(), "/")
    }

    fn on(rootfs: &Rootfs, top: &str) -> Self {
        let output = Contained::new(PYTHON).args(["-c", LIST, top]).rootfs(rootfs).output();
        Self::parse(&ok(output.unwrap()))
    }

    fn add(&mut self, path: &str, line: &str) {
        assert_eq!(self.0.insert(path.to_owned(), line.to_owned()), None, "{path}");
    }

    fn remove(&mut self, path: &str) {
        assert!(self.0.remove(path).is_some(), "{path}");
    }

    fn replace(&mut self, path: &str, from: &str, to: &str) {
        let line = self.0.get_mut(path).unwrap();
        let parts: Vec<_> = line.split(from).collect();
        assert_eq!(parts.len(), 2, "{from} of {path} {line}");
        *line = parts.join(to);
    }

    /// Takes the time of the last change away from some.
    fn timeless(&mut self, paths: &[&str]) {
        for path in paths {
            let line = &self.0[*path];
            let time = line.split(' ').find(|word| word.starts_with("time=")).unwrap();
            let without = line.replace(time, "time=?");
            self.0.insert((*path).to_owned(), without);
        }
    }

    #[track_caller]
    fn is(&self, expected: &Self) {
        let differ = |(path, line): &(&String, &String), other: &Self| {
            other.0.get(*path).is_none_or(|found| found != *line)
        };
        let show = |one: &Self, other: &Self| {
            let lines = one.0.iter().filter(|line| differ(line, other));
            lines.map(|(path, line)| format!("\n  {path} {line}")).collect::<String>()
        };
        let (found, wanted) = (show(self, expected), show(expected, self));
        assert!(self == expected, "found:{found}\nexpected:{wanted}");
    }
}

/// Loads an archive into an empty store.
fn loaded(archive: &Path, name: &str) -> Image {
    let store = Store::open(archive.with_extension("store")).unwrap();
    let image = store.load(File::open(archive).unwrap()).unwrap().remove(0).image;
    assert_eq!(store.image(name).unwrap(), image);
    assert!(store.verify().unwrap().is_sound());
    image
}

#[track_caller]
fn same(found: &Image, expected: &Image) {
    assert_eq!(found.diff_ids(), expected.diff_ids());
    assert_eq!(found.config().raw(), expected.config().raw());
    assert_eq!(found.history().unwrap().len(), expected.history().unwrap().len());
}

fn skopeo(dir: &Sandbox, from: &str, to: &str) {
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["copy", "--quiet", "--insecure-policy", from, to]).env("TMPDIR", dir.path());
    run(skopeo.current_dir(dir.path()));
}

#[test]
fn stores_skopeo_and_squashing_keep_every_file() {
    require!(common::program("skopeo"));
    let made = require!(made("everywhere-stores"));
    let Made { dir, store, image, listing } = &made;
    let archive = made.save(&["app:3"]);
    let copy = loaded(&archive, "app:3");
    assert_eq!((copy.id(), copy.digest()), (image.id(), image.digest()));
    Listing::of(&copy).is(listing);

    let mut back = None;
    for (number, from) in ["docker-archive:ours.tar", "oci-archive:ours.tar"].iter().enumerate() {
        let layout = format!("layout-{number}");
        skopeo(dir, from, &format!("oci:{layout}:app:3"));
        let packed = dir.join(format!("{layout}.tar"));
        run(Command::new("tar").arg("-C").arg(dir.join(&layout)).arg("-cf").arg(&packed).arg("."));
        same(&loaded(&packed, "app:3"), image);
        let archive = format!("back-{number}.tar");
        skopeo(dir, &format!("oci:{layout}:app:3"), &format!("docker-archive:{archive}:app:3"));
        let copy = loaded(&dir.join(archive), "app:3");
        same(&copy, image);
        back = Some(copy);
    }
    Listing::of(&back.unwrap()).is(listing);

    let base = store.image("debian").unwrap();
    let above = image.squash().above(&base).run().unwrap();
    for (squashed, layers) in [(store.image("squashed").unwrap(), 1), (above, 2)] {
        assert_eq!(squashed.diff_ids().len(), layers);
        Listing::of(&squashed).is(&made.in_one_layer());
    }
    assert!(store.verify().unwrap().is_sound());
}

/// What the archive library of Go, which docker and podman use, has no words for.
fn lose_as_go_does(listing: &mut Listing) {
    listing.replace("/srv/all/attributes/note", " user.empty=empty", "");
    listing.replace("/srv/all/times/-1500000000", "time=-1500000000", "time=0");
}

#[test]
fn docker_lists_the_same_files() {
    let daemon = setup_in_memory("everywhere-dockerd");
    let docker = require!(Docker::start(&daemon, "overlay2"));
    let made = require!(made("everywhere-docker"));
    docker.load(&made.save(&["app:3", "squashed"]));
    for (name, listing) in [("app:3", &made.listing), ("squashed", &made.in_one_layer())] {
        let image = made.store.image(name).unwrap();
        let id = docker.run(&["image", "inspect", "--format", "{{.Id}}", name]);
        assert_eq!(id.trim(), image.id().to_string());
        let mut expected = listing.clone();
        lose_as_go_does(&mut expected);
        // Its own files lie upon the image's, which it mounts some of these over.
        expected.remove("/etc/hostname");
        expected.remove("/etc/resolv.conf");
        expected.add("/.dockerenv", &format!("100755 0:0 time=? size=0 {EMPTY} names=1"));
        expected.replace("/etc/mtab", "to=../proc/self/mounts", "to=/proc/mounts");
        let mut found = Listing::parse(&docker.run_image(name));
        expected.timeless(&["/", "/etc", "/etc/mtab"]);
        found.timeless(&["/", "/etc", "/etc/mtab", "/.dockerenv"]);
        found.is(&expected);
    }
    let saved = made.dir.join("docker.tar");
    to_file(&mut docker.command(&["save", "app:3"]), &saved);
    let back = loaded(&saved, "app:3");
    assert_eq!(back.id(), made.image.id());
    Listing::of(&back).is(&made.listing);
}

#[test]
fn podman_lists_the_same_files() {
    require!(common::root());
    require!(common::program("podman"));
    let made = require!(made("everywhere-podman"));
    let podman = Containers::new(&made.dir, "overlay");
    for (name, listing) in [("app:3", &made.listing), ("squashed", &made.in_one_layer())] {
        let image = made.store.image(name).unwrap();
        made.save(&[name]);
        podman.run("podman", &["load", "--quiet", "--input", "ours.tar"]);
        assert_eq!(podman.id(name), image.id().to_string());
        let mut expected = listing.clone();
        lose_as_go_does(&mut expected);
        expected.remove("/etc/hostname");
        // So is the root directory of all images that its overlay driver shows.
        expected.replace("/", "40755 ", "40555 ");
        let mut found = Listing::parse(&podman.run_image(name));
        let touched = ["/", "/etc", "/run"];
        expected.timeless(&touched);
        found.timeless(&touched);
        found.is(&expected);
    }
    for (format, file) in [("docker-archive", "docker.tar"), ("oci-archive", "oci.tar")] {
        let args = ["save", "--quiet", "--format", format, "--output", file, "app:3"];
        podman.run("podman", &args);
        same(&loaded(&made.dir.join(file), "app:3"), &made.image);
    }
}
