//! Measures images side by side: loading and unpacking beside `gunzip | tar` and umoci, commits of images of several sizes
//! in stores of several sizes, opening, and compression on one core and on all. Prints medians and ratios. Needs root; see
//! README.md.

use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use coracle::image::{Import, Store};
use coracle::layers::{Compression, Rootfs};
use coracle_benches::contender::{self, Contender, Result, interleave, succeed, table, timed};
use coracle_benches::docker::Docker;
use coracle_benches::{debian, sh};

/// The name of the image that is measured.
const NAME: &str = "debian";
const USAGE: &str = "usage: images [ROUNDS [DIRECTORY]]";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", what, ref rest @ ..] => serve(what, rest),
        [] => compare(10, "/dev/shm"),
        [rounds] => compare(rounds.parse()?, "/dev/shm"),
        [rounds, directory] => compare(rounds.parse()?, directory),
        _ => Err(USAGE.into()),
    }
}

/// The contender's side. None counts what it takes to clear up.
fn serve(what: &str, args: &[&str]) -> Result<()> {
    match (what, args) {
        ("load", [archive, dir]) => {
            let path = Path::new(dir).join("store");
            contender::serve(|| {
                let took = load(&path, archive);
                fs::remove_dir_all(&path)?;
                took
            })
        }
        ("script", [script, dir, args @ ..]) => contender::serve(|| {
            let mut command = Command::new("sh");
            command.args(["-ec", script, dir]).args(args).stdin(Stdio::null());
            let took = timed(|| succeed(command.status()?.success()));
            fs::remove_dir_all(dir)?;
            took
        }),
        ("commit", [store, name]) => {
            let mut committing = Committing::new(store, name)?;
            contender::serve(|| committing.commit())
        }
        ("docker-commit", [client @ .., container]) => {
            let docker = |args: &[&str]| {
                let mut command = Command::new(client[0]);
                command.args(&client[1..]).args(args).stdin(Stdio::null()).stdout(Stdio::null());
                succeed(command.status()?.success())
            };
            contender::serve(|| {
                let took = timed(|| docker(&["commit", container, "committed"]));
                docker(&["rmi", "committed"])?;
                took
            })
        }
        ("changes", [store, name]) => {
            let mut committing = Committing::new(store, name)?;
            contender::serve(|| {
                committing.change()?;
                timed(|| succeed(committing.rootfs.changes()?.len() == 1))
            })
        }
        ("between", [store, name]) => {
            let mut committing = Committing::new(store, name)?;
            let base = committing.store.image(name)?;
            committing.change()?;
            let child = committing.store.commit(&committing.rootfs, "").parent(&base).run()?;
            // Unpacks it.
            child.changes_since(&base)?;
            contender::serve(|| timed(|| succeed(child.changes_since(&base)?.len() == 1)))
        }
        ("open", [store]) => contender::serve(|| timed(|| Store::open(store))),
        ("find", [store, name]) => contender::serve(|| timed(|| Store::open(store)?.image(name))),
        ("compress", [compression, file]) => {
            let compression = match *compression {
                "gzip" => Compression::Gzip,
                _ => Compression::Zstd,
            };
            contender::serve(|| {
                let mut from = BufReader::new(File::open(file)?);
                let mut encoder = compression.encoder(std::io::sink())?;
                timed(|| {
                    std::io::copy(&mut from, &mut encoder)?;
                    encoder.finish()
                })
            })
        }
        _ => Err("not a contender".into()),
    }
}

/// Into an empty store, until a process could be started on it.
fn load(path: &Path, archive: &str) -> Result<Duration> {
    timed(|| -> Result<_> {
        let store = Store::open(path)?;
        let loaded = store.load(File::open(archive)?)?;
        let image = &loaded.first().ok_or("an empty archive")?.image;
        Ok(image.rootfs()?.read_only()?)
    })
}

/// A root filesystem on which a file changes again and again.
struct Committing {
    store: Store,
    name: String,
    rootfs: Rootfs,
    _scratch: tempfile::TempDir,
    count: u64,
}

impl Committing {
    fn new(store: &str, name: &str) -> Result<Self> {
        let scratch = tempfile::tempdir_in(Path::new(store).parent().ok_or("no parent")?)?;
        let store = Store::open(store)?;
        let rootfs = store.image(name)?.rootfs()?.host_ids().writable(scratch.path().join("0"))?;
        Ok(Self { store, name: name.into(), rootfs, _scratch: scratch, count: 0 })
    }

    fn change(&mut self) -> Result<()> {
        use std::os::fd::{AsFd, AsRawFd};
        self.count += 1;
        let root = self.rootfs.as_fd().as_raw_fd();
        Ok(fs::write(format!("/proc/self/fd/{root}/changed"), self.count.to_string())?)
    }

    fn commit(&mut self) -> Result<Duration> {
        self.change()?;
        let base = self.store.image(&self.name)?;
        let took = timed(|| self.store.commit(&self.rootfs, "committed").parent(&base).run());
        self.store.remove("committed")?;
        took
    }
}

fn compare(rounds: usize, directory: &str) -> Result<()> {
    let cache = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/tests");
    fs::create_dir_all(&cache)?;
    let plain = debian(&cache.canonicalize()?)?;
    let layer = plain.with_extension("tar.gz");
    if !layer.exists() {
        sh("gzip -c \"$0\" >\"$1.part\" && mv \"$1.part\" \"$1\"", &[&plain, &layer])?;
    }
    let length = |path: &Path| -> Result<u64> { Ok(path.metadata()?.len() / 1_000_000) };
    println!(
        "{rounds} rounds in {directory}, a layer of {} MB, {} MB compressed; load {}",
        length(&plain)?,
        length(&layer)?,
        fs::read_to_string("/proc/loadavg")?.trim()
    );
    let dir = tempfile::Builder::new().prefix("coracle-images-").tempdir_in(directory)?;
    loading(rounds, dir.path(), &layer)?;
    committing(rounds, dir.path())?;
    beside_docker(rounds, dir.path())?;
    compressing(rounds, &plain)
}

fn loading(rounds: usize, dir: &Path, layer: &Path) -> Result<()> {
    let path = dir.join("source");
    let store = Store::open(&path)?;
    Import::new(&store).name(NAME).read(File::open(layer)?)?;
    let archive = dir.join("image.tar");
    store.save([NAME], File::create(&archive)?)?;
    // Umoci reads a store in place, but would change it.
    let layout = dir.join("layout");
    sh("mkdir \"$1\" && tar -xf \"$0\" -C \"$1\"", &[&archive, &layout])?;
    let text = |path: &Path| path.display().to_string();
    let image = format!("{}:{}", text(&layout), store.image(NAME)?.references()[0]);
    let [ours, tar, umoci] = ["ours", "tar", "umoci"].map(|name| text(&dir.join(name)));
    fs::create_dir(&ours)?;
    let extract = "mkdir \"$0\"; gunzip -c \"$1\" | tar -x -C \"$0\"";
    let unpack = "umoci unpack --image \"$1\" \"$0\" 2>/dev/null >/dev/null";
    let mut all = vec![
        Contender::of_ourselves("gunzip \\| tar", &["script", extract, &tar, &text(layer)])?,
        Contender::of_ourselves("coracle: load, unpack", &["load", &text(&archive), &ours])?,
        Contender::of_ourselves("umoci unpack", &["script", unpack, &umoci, &image])?,
    ];
    interleave(&mut all, rounds)?;
    table("One layer, until its files are there", &all, 0);
    let ratio = all[2].median() / all[1].median();
    let memory = all[1].peak_memory()? / 1024;
    println!("\numoci takes {ratio:.2} times as long as coracle, which has had {memory} MiB");
    Ok(())
}

/// Makes an image of `files` files in the store.
fn image(store: &Store, dir: &Path, name: &str, files: usize) -> Result<()> {
    let root = dir.join(name);
    for file in 0..files {
        let parent = root.join(format!("{}", file / 100));
        fs::create_dir_all(&parent)?;
        fs::write(parent.join(file.to_string()), file.to_string())?;
    }
    let archive = dir.join("files.tar");
    sh("tar -cf \"$1\" -C \"$0\" .", &[&root, &archive])?;
    store.import(name, File::open(&archive)?)?;
    Ok(())
}

fn committing(rounds: usize, dir: &Path) -> Result<()> {
    let [few, many] = ["few", "many"].map(|name| dir.join(name));
    let empty = Command::new("tar").args(["-cf", "-", "-T", "/dev/null"]).output()?.stdout;
    for path in [&few, &many] {
        let store = Store::open(path)?;
        image(&store, dir, "small", 10)?;
        image(&store, dir, "large", 10_000)?;
    }
    let store = Store::open(&many)?;
    let base = store.import("many:0", &empty[..])?;
    // Two there are already, and one is committed.
    for number in 1..998 {
        let rootfs = base.rootfs()?.read_only()?;
        let commit = store.commit(&rootfs, &format!("many:{number}")).parent(&base);
        commit.message(format!("number {number}")).run()?;
    }
    println!("\n{} images in a store", store.images()?.len());
    std::io::stdout().flush()?;
    let [few, many] = [few, many].map(|path| path.display().to_string());
    for (what, title) in [
        ("commit", "Commit of one changed file"),
        ("changes", "Changes of a root filesystem with one"),
        ("between", "Difference of two images of one"),
    ] {
        let mut all = vec![
            Contender::of_ourselves("10 files, store of 2 images", &[what, &few, "small"])?,
            Contender::of_ourselves("10,000 files, 2 images", &[what, &few, "large"])?,
            Contender::of_ourselves("10 files, 1,000 images", &[what, &many, "small"])?,
            Contender::of_ourselves("10,000 files, 1,000 images", &[what, &many, "large"])?,
        ];
        interleave(&mut all, rounds * 5)?;
        table(title, &all, 0);
    }
    let mut all = vec![
        Contender::of_ourselves("2 images", &["open", &few])?,
        Contender::of_ourselves("1,000 images", &["open", &many])?,
        Contender::of_ourselves("2 images, and find one", &["find", &few, "large"])?,
        Contender::of_ourselves("1,000 images, and find one", &["find", &many, "large"])?,
    ];
    interleave(&mut all, rounds * 5)?;
    table("Opening a store", &all, 0);
    Ok(())
}

/// Docker's client and daemon have to talk to each other, which is part of what its users wait for.
fn beside_docker(rounds: usize, dir: &Path) -> Result<()> {
    let Some(docker) = Docker::start(dir)? else {
        println!("\nno docker here to commit beside");
        return Ok(());
    };
    let [archive, changed] = ["files.tar", "changed"].map(|name| dir.join(name));
    fs::write(&changed, "changed")?;
    let text = |path: &Path| path.display().to_string();
    docker.run(&["import", &text(&archive), "large"])?;
    docker.run(&["create", "--name", "changing", "large", "/bin/true"])?;
    docker.run(&["cp", &text(&changed), "changing:/changed"])?;
    let [program, option, socket] = docker.client();
    let theirs = ["docker-commit", &program, &option, &socket, "changing"];
    let mut all = vec![
        Contender::of_ourselves("coracle", &["commit", &text(&dir.join("few")), "large"])?,
        Contender::of_ourselves("docker", &theirs)?,
    ];
    interleave(&mut all, rounds)?;
    table("Commit of one changed file among 10,000, beside docker", &all, 0);
    Ok(())
}

fn compressing(rounds: usize, plain: &Path) -> Result<()> {
    let program = std::env::current_exe()?;
    let file = plain.display().to_string();
    for compression in ["gzip", "zstd"] {
        let one = || {
            let mut command = Command::new("taskset");
            command.args(["-c", "0"]).arg(&program).args(["serve", "compress", compression, &file]);
            Contender::start("one core", &mut command)
        };
        let all_cores = Contender::of_ourselves("all cores", &["compress", compression, &file]);
        let mut all = vec![one()?, all_cores?];
        interleave(&mut all, (rounds / 3).max(1))?;
        table(&format!("Compressing a layer with {compression}"), &all, 0);
    }
    Ok(())
}
