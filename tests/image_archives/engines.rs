//! Interchange with the tools of Debian: what we save they load and run, what they save we load, and it stays the same
//! image.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use coracle::image::{Image, Platform, Store};
use coracle::layers::Compression::{self, Gzip, None as Plain, Zstd};
use tar::EntryType;

use crate::common::engines::{Containers, Docker, run, to_file};
use crate::common::{self, Missing, Sandbox, require, setup};
use crate::fixture::{Entry, add, add_for, entry_for, name, open, save_to, set_index, sound, tar};

/// Prints what is in /data.
const LISTING: &str = r#"cd /; b=/bin/busybox
$b find data | $b sort | while read -r file; do
    case $($b stat -c %F "$file") in
        'symbolic link') $b stat -c '%N %u:%g' "$file" ;;
        *) $b stat -c '%n %a %u:%g %Y %s %F' "$file" | $b sed '/directory$/s/ [0-9]* directory/ directory/' ;;
    esac
done
[ data/one -ef data/same ] && $b stat -c '%h names' data/one"#;

const LISTED: &str = "\
data 1777 0:0 1000000000 directory
data/fifo 640 0:5 1000000000 0 fifo
data/kept 755 0:0 1000000000 directory
data/kept/new 644 1000:1000 1234567890 3 regular file
'data/link' -> '../bin/busybox' 0:0
data/one 600 70000:3000000 1000000000 3 regular file
data/opaque 700 0:0 1000000000 directory
data/opaque/upper 644 0:0 1000000000 5 regular file
data/same 600 70000:3000000 1000000000 3 regular file
data/set-ids 6755 12:34 1000000000 1 regular file
data/\u{e4} \u{20ac} 644 0:0 0 0 regular empty file
2 names
";

fn layers() -> [Vec<u8>; 2] {
    let busybox = fs::read("/bin/busybox").unwrap();
    let capability =
        b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let link = |path, kind, target| Entry::link(path, kind, target);
    let lower = tar(&[
        Entry::directory("bin/"),
        Entry::file("bin/busybox", busybox).mode(0o755),
        link("bin/sh", EntryType::Symlink, "busybox"),
        Entry::directory("data/").mode(0o1777),
        Entry::file("data/gone", "gone"),
        Entry::directory("data/kept/"),
        Entry::file("data/kept/gone", "gone"),
        link("data/link", EntryType::Symlink, "../bin/busybox"),
        Entry::file("data/one", "one")
            .mode(0o600)
            .owner(70_000, 3_000_000)
            .xattr("user.note", b"a\nb"),
        Entry::directory("data/opaque/"),
        Entry::file("data/opaque/lower", "lower"),
        link("data/same", EntryType::Link, "data/one").mode(0o600).owner(70_000, 3_000_000),
        Entry::file("data/set-ids", "x")
            .mode(0o6755)
            .owner(12, 34)
            .xattr("security.capability", capability),
        Entry::new("data/fifo", EntryType::Fifo).mode(0o640).owner(0, 5),
        Entry::file("data/\u{e4} \u{20ac}", "").mtime(0),
        Entry::directory("proc/"),
        Entry::directory("sys/"),
        Entry::directory("dev/"),
        Entry::directory("etc/"),
        Entry::directory("tmp/"),
    ]);
    let upper = tar(&[
        Entry::directory("data/").mode(0o1777),
        Entry::file("data/.wh.gone", ""),
        Entry::directory("data/kept/"),
        Entry::file("data/kept/.wh.gone", ""),
        Entry::file("data/kept/new", "new").owner(1000, 1000).mtime(1_234_567_890),
        Entry::directory("data/opaque/").mode(0o700),
        Entry::file("data/opaque/.wh..wh..opq", ""),
        Entry::file("data/opaque/upper", "upper"),
    ]);
    [lower, upper]
}

fn image(store: &Store, reference: &str, compressions: [Compression; 2]) -> Image {
    let layers: Vec<_> = layers().into_iter().zip(compressions).collect();
    add(store, reference, &layers, &["/bin/sh", "-c", LISTING])
}

/// An image for the host and for another machine.
fn two_platforms(store: &Store, reference: &str) -> Image {
    let [one, two] = layers();
    let here = add(store, "here", &[(one, Gzip)], &["/bin/sh"]);
    let there = add_for(store, "there", &[(two, Gzip)], &[], "riscv64");
    let host = Platform::host();
    let entries = [entry_for(&here, host.architecture()), entry_for(&there, "riscv64")];
    set_index(store, reference, &entries)
}

/// Loads an archive that another tool has written of `image`, into a store of its own.
fn loads_the_same(dir: &Sandbox, archive: &Path, names: &[&str], image: &Image) {
    let store = Store::open(archive.with_extension("store")).unwrap();
    let loaded = store.load(File::open(archive).unwrap()).unwrap();
    assert!(archive.starts_with(dir.path()));
    let mut found: Vec<_> = loaded.iter().flat_map(|it| it.references.clone()).collect();
    found.sort();
    let mut expected: Vec<_> = names.iter().map(|text| name(text)).collect();
    expected.sort();
    assert_eq!(found, expected, "{}", archive.display());
    for loaded in loaded {
        assert_eq!(loaded.image.id(), image.id(), "{}", archive.display());
        assert_eq!(loaded.image.diff_ids(), image.diff_ids());
        assert_eq!(loaded.image.config().raw(), image.config().raw());
    }
    sound(&store);
}

fn busybox() -> Result<(), Missing> {
    match Path::new("/bin/busybox").exists() {
        true => Ok(()),
        false => Err(Missing::new("busybox", "there is no /bin/busybox")),
    }
}

#[test]
fn docker_takes_what_we_save_and_gives_back_the_same() {
    require!(busybox());
    let dir = setup("archives-docker");
    let docker = require!(Docker::start(&dir, "vfs"));
    let store = open(&dir, "store");
    let app = image(&store, "app:1", [Gzip, Zstd]);
    let plain = image(&store, "host:5000/team/plain:2", [Plain, Gzip]);
    assert_eq!(app.id(), plain.id());
    store.tag("app:1", "app:again").unwrap();
    let archive = dir.join("ours.tar");
    save_to(&store, &["app:1", "app:again", "host:5000/team/plain:2"], &archive);
    let told = docker.load(&archive);
    assert_eq!(told.lines().count(), 3, "{told}");
    for reference in ["app:1", "app:again", "host:5000/team/plain:2"] {
        let id = docker.run(&["image", "inspect", "--format", "{{.Id}}", reference]);
        assert_eq!(id.trim(), app.id().to_string());
    }
    assert_eq!(docker.run_image("app:1"), LISTED);

    let saved = dir.join("docker.tar");
    to_file(&mut docker.command(&["save", "app:1", "host:5000/team/plain:2"]), &saved);
    loads_the_same(&dir, &saved, &["app:1", "host:5000/team/plain:2"], &app);

    // A flat file system, there and back.
    let change = format!("CMD {}", serde_json::json!(["/bin/sh", "-c", LISTING]));
    let container = docker.run(&["create", "--network", "none", "app:1"]);
    let flat = dir.join("flat.tar");
    to_file(&mut docker.command(&["export", container.trim()]), &flat);
    docker.run(&["rm", container.trim()]);
    let changes = coracle::image::ConfigChanges::new().cmd(["/bin/sh", "-c", LISTING]);
    let import = coracle::image::Import::new(&store).name("flat:1").changes(changes);
    let imported = import.read(File::open(&flat).unwrap()).unwrap();
    let exported = dir.join("exported.tar");
    imported.export(File::create(&exported).unwrap()).unwrap();
    docker.run(&["import", "--change", &change, exported.to_str().unwrap(), "exported:1"]);
    assert_eq!(docker.run_image("exported:1"), LISTED);
    save_to(&store, &["flat:1"], &archive);
    docker.load(&archive);
    let id = docker.run(&["image", "inspect", "--format", "{{.Id}}", "flat:1"]);
    assert_eq!(id.trim(), imported.id().to_string());
    assert_eq!(docker.run_image("flat:1"), LISTED);

    docker.run(&["import", "--change", &change, flat.to_str().unwrap(), "theirs:1"]);
    to_file(&mut docker.command(&["save", "theirs:1"]), &saved);
    let loaded = store.load(File::open(&saved).unwrap()).unwrap();
    let id = docker.run(&["image", "inspect", "--format", "{{.Id}}", "theirs:1"]);
    assert_eq!(loaded[0].image.id().to_string(), id.trim());
    assert_eq!(loaded[0].image.diff_ids(), imported.diff_ids(), "both import the same layer");
    sound(&store);
}

#[test]
fn podman_takes_what_we_save_and_gives_back_the_same() {
    require!(common::root());
    require!(busybox());
    require!(common::program("podman"));
    let dir = setup("archives-podman");
    let podman = Containers::new(&dir, "vfs");
    let store = open(&dir, "store");
    let app = image(&store, "app:1", [Gzip, Zstd]);
    store.tag("app:1", "host:5000/team/app:2").unwrap();
    let archive = dir.join("ours.tar");
    let load = |names: &[&str]| {
        save_to(&store, names, &archive);
        podman.run("podman", &["load", "--quiet", "--input", "ours.tar"]);
        for reference in names {
            let id = podman.id(&name(reference).to_string());
            assert_eq!(id, app.id().to_string());
        }
    };
    let save = |file: &str, options: &[&str], names: &[&str]| {
        podman.run("podman", &[&["save", "--quiet", "--output", file], options, names].concat());
        loads_the_same(&dir, &dir.join(file), names, &app);
    };
    // It reads a single image as an OCI layout, and several as docker's list.
    let both = ["docker.io/library/app:1", "host:5000/team/app:2"];
    load(&both[..1]);
    assert_eq!(podman.run_image(both[0]), LISTED);
    save("oci.tar", &["--format", "oci-archive"], &both[..1]);
    // Docker's manifests have no word for zstd: of these it saves what it has read as such.
    load(&both);
    save("docker.tar", &["--format", "docker-archive"], &both[..1]);
    save("several.tar", &["--multi-image-archive"], &both);
}

#[test]
fn buildah_goes_on_from_what_we_save_and_we_from_what_it_makes() {
    require!(common::root());
    require!(busybox());
    require!(common::program("buildah"));
    let dir = setup("archives-buildah");
    let buildah = Containers::new(&dir, "vfs");
    let store = open(&dir, "store");
    let app = image(&store, "app:1", [Gzip, Gzip]);
    save_to(&store, &["app:1"], &dir.join("ours.tar"));
    for (transport, file) in [("docker-archive", "docker.tar"), ("oci-archive", "oci.tar")] {
        let from = format!("{transport}:{}", dir.join("ours.tar").display());
        let container = buildah.run("buildah", &["from", &from]);
        let container = container.trim();
        let script = "echo more >/data/more";
        buildah.run(
            "buildah",
            &["run", "--isolation", "chroot", container, "--", "/bin/sh", "-c", script],
        );
        let to = format!("{transport}:{}:made:1", dir.join(file).display());
        buildah.run("buildah", &["commit", "--quiet", container, &to]);
        buildah.run("buildah", &["rm", container]);
        let loaded = store.load(File::open(dir.join(file)).unwrap()).unwrap();
        assert_eq!(loaded[0].references, [name("made:1")], "{transport}");
        let made = &loaded[0].image;
        assert_eq!(made.diff_ids()[..2], *app.diff_ids());
        assert_eq!((made.diff_ids().len(), made.history().unwrap().len()), (3, 3));
        sound(&store);
    }
}

#[test]
fn skopeo_copies_out_of_and_into_our_archives() {
    require!(busybox());
    require!(common::program("skopeo"));
    let dir = setup("archives-skopeo");
    let store = open(&dir, "store");
    let app = image(&store, "app:1", [Gzip, Plain]);
    let ours = dir.join("ours.tar");
    save_to(&store, &["app:1"], &ours);
    let skopeo = |from: &str, to: &str| {
        let mut command = Command::new("skopeo");
        command.args(["copy", "--quiet", "--insecure-policy", from, to]).current_dir(dir.path());
        run(command.env("TMPDIR", dir.path()));
    };
    let canonical = "docker.io/library/app:1";
    let in_place = format!("oci:{}:{canonical}", store.path().display());
    for (number, from) in
        ["docker-archive:ours.tar", &format!("oci-archive:ours.tar:{canonical}"), &in_place]
            .iter()
            .enumerate()
    {
        for transport in ["docker-archive", "oci-archive"] {
            let file = format!("{transport}-{number}.tar");
            skopeo(from, &format!("{transport}:{file}:app:1"));
            if (number, transport) == (0, "oci-archive") {
                // It writes the configuration anew, in OCI's words: without the check of its health.
                let loaded = store.load(File::open(dir.join(&file)).unwrap()).unwrap();
                assert_eq!(loaded[0].image.diff_ids(), app.diff_ids());
                assert_eq!(loaded[0].image.history().unwrap().len(), 2);
                store.tag(&app.id().to_string(), "app:1").unwrap();
            } else {
                loads_the_same(&dir, &dir.join(&file), &["app:1"], &app);
            }
        }
    }
}

#[test]
fn skopeo_copies_an_index_with_all_its_platforms_both_ways() {
    require!(common::program("skopeo"));
    let dir = setup("archives-skopeo-all");
    let store = open(&dir, "store");
    let both = two_platforms(&store, "both:1");
    save_to(&store, &["both:1"], &dir.join("ours.tar"));
    let riscv = "linux/riscv64".parse().unwrap();
    let other = store.image_for("both:1", &riscv).unwrap();
    let copy = |from: &str, to: &str| {
        let mut command = Command::new("skopeo");
        command.args(["copy", "--quiet", "--all", "--insecure-policy", from, to]);
        run(command.env("TMPDIR", dir.path()).current_dir(dir.path()));
    };
    let canonical = "docker.io/library/both:1";
    let in_place = format!("oci:{}:{canonical}", store.path().display());
    for (number, from) in
        [&format!("oci-archive:ours.tar:{canonical}"), &in_place].into_iter().enumerate()
    {
        // Into a layout, out of it, and into ours again.
        let file = format!("theirs-{number}.tar");
        copy(from, &format!("oci:layout-{number}:both:1"));
        copy(&format!("oci:layout-{number}:both:1"), &format!("oci-archive:{file}:both:1"));
        loads_the_same(&dir, &dir.join(&file), &["both:1"], &both);
        let loaded = open(&dir, &format!("theirs-{number}.store"));
        assert_eq!(loaded.image("both:1").unwrap().digest(), both.digest());
        assert_eq!(loaded.image_for("both:1", &riscv).unwrap().id(), other.id());
    }
}

#[test]
fn umoci_unpacks_what_we_save_and_we_load_what_it_adds() {
    require!(common::root());
    require!(busybox());
    require!(common::program("umoci"));
    let dir = setup("archives-umoci");
    let store = open(&dir, "store");
    // It knows no zstd.
    let app = image(&store, "app:1", [Gzip, Plain]);
    let ours = dir.join("ours.tar");
    save_to(&store, &["app:1"], &ours);
    let layout = dir.dir("layout");
    run(Command::new("tar").arg("-C").arg(&layout).arg("-xf").arg(&ours));
    let reference = format!("{}:docker.io/library/app:1", layout.display());
    let umoci = |args: &[&str]| run(Command::new("umoci").args(args).current_dir(dir.path()));
    assert_eq!(umoci(&["list", "--layout", "layout"]).trim(), "docker.io/library/app:1");
    umoci(&["unpack", "--image", &reference, "bundle"]);
    let rootfs = dir.join("bundle/rootfs");
    assert_eq!(run(Command::new("chroot").arg(&rootfs).args(["/bin/sh", "-c", LISTING])), LISTED);
    let attributes = |file: &str| {
        run(Command::new("getfattr")
            .args(["-d", "-m", "-", "-e", "hex", file])
            .current_dir(&rootfs))
    };
    assert!(attributes("data/one").contains("user.note=0x610a62"), "{}", attributes("data/one"));
    assert!(attributes("data/set-ids").contains("security.capability=0x0100000200040000"));

    fs::write(rootfs.join("data/more"), "more").unwrap();
    umoci(&["repack", "--image", &format!("{}:made", layout.display()), "bundle"]);
    let theirs = dir.join("theirs.tar");
    run(Command::new("tar").arg("-C").arg(&layout).arg("-cf").arg(&theirs).arg("."));
    let loaded = store.load(File::open(&theirs).unwrap()).unwrap();
    let made = loaded.iter().find(|it| it.references == [name("made")]).unwrap();
    assert_eq!(made.image.diff_ids()[..2], *app.diff_ids());
    assert_eq!(made.image.diff_ids().len(), 3);
    sound(&store);
}
