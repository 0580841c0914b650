//! Measures pulls side by side: one layer and eight, gzip and zstd, beside docker, podman, skopeo and `gunzip` alone, from a
//! registry on this machine into empty stores. Prints medians and ratios. Needs root; see README.md.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use coracle::image::{Import, Store};
use coracle::layers::Compression;
use coracle::registry::Registry as Client;
use coracle_benches::contender::{self, Contender, Result, interleave_warm, succeed, table, timed};
use coracle_benches::docker::Docker;
use coracle_benches::registry::Registry;
use coracle_benches::{debian, sh};

const USAGE: &str = "usage: registry [ROUNDS [DIRECTORY [PART ...]]]";

/// What it measures, when none of it is named.
const PARTS: &[&str] = &["one", "eight", "zstd", "again", "pushes"];

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", what, ref rest @ ..] => serve(what, rest),
        [] => compare(5, "/dev/shm", PARTS),
        [rounds] => compare(rounds.parse()?, "/dev/shm", PARTS),
        [rounds, directory] => compare(rounds.parse()?, directory, PARTS),
        [rounds, directory, ref parts @ ..] if parts.iter().all(|part| PARTS.contains(part)) => {
            compare(rounds.parse()?, directory, parts)
        }
        _ => Err(USAGE.into()),
    }
}

/// The contender's side. None counts what it takes to clear up.
fn serve(what: &str, args: &[&str]) -> Result<()> {
    match (what, args) {
        // Until a process could be started on it.
        ("pull", [name, dir]) => {
            let client = Client::new()?;
            let path = Path::new(dir).join("store");
            contender::serve(|| {
                let took = timed(|| -> Result<_> {
                    let store = Store::open(&path)?;
                    let image = client.pull(name, &store).blocking()?;
                    Ok(image.rootfs()?.read_only()?)
                });
                fs::remove_dir_all(&path)?;
                took
            })
        }
        ("again", [name, dir]) => {
            let client = Client::new()?;
            let store = Store::open(Path::new(dir).join("again"))?;
            client.pull(name, &store).blocking()?;
            contender::serve(|| timed(|| client.pull(name, &store).blocking()))
        }
        ("push", [store, name, dir]) => {
            let (client, store) = (Client::new()?, Store::open(store)?);
            pushing(dir, |to| timed(|| client.push(&store, name, to).blocking()))
        }
        // The script finds where to push to in `$TO`.
        ("push-script", [before, script, dir]) => pushing(dir, |to| {
            let run = |script: &str| -> Result<()> {
                let mut command = Command::new("sh");
                command.args(["-ec", script]).env("TO", to).stdin(Stdio::null());
                command.stdout(Stdio::null()).stderr(Stdio::null());
                succeed(command.status()?.success())
            };
            run(before)?;
            timed(|| run(script))
        }),
        ("script", [script, after, args @ ..]) => {
            let run = |script: &str| -> Result<()> {
                let mut command = Command::new("sh");
                command.args(["-ec", script]).args(args).stdin(Stdio::null()).stdout(Stdio::null());
                succeed(command.stderr(Stdio::null()).status()?.success())
            };
            contender::serve(|| {
                let took = timed(|| run(script));
                run(after)?;
                took
            })
        }
        _ => Err("not a contender".into()),
    }
}

/// Serves pushes, each to a registry that is empty yet.
fn pushing(dir: &str, mut push: impl FnMut(&str) -> Result<Duration>) -> Result<()> {
    let dir = Path::new(dir);
    contender::serve(|| {
        let registry = Registry::start(dir)?;
        let took = push(&format!("{}/pushed:1", registry.address()))?;
        drop(registry);
        fs::remove_dir_all(dir)?;
        Ok(took)
    })
}

/// Where everything is.
struct Place {
    dir: PathBuf,
    address: String,
    docker: Option<Docker>,
}

fn compare(rounds: usize, directory: &str, parts: &[&str]) -> Result<()> {
    let cache = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/tests");
    fs::create_dir_all(&cache)?;
    let plain = debian(&cache.canonicalize()?)?;
    let dir = tempfile::Builder::new().prefix("coracle-registry-").tempdir_in(directory)?;
    let registry = Registry::start(&dir.path().join("registry"))?;
    let place = Place {
        docker: Docker::start(dir.path())?,
        address: registry.address().to_owned(),
        dir: dir.path().to_owned(),
    };
    println!(
        "{rounds} rounds in {directory}, load {}",
        fs::read_to_string("/proc/loadavg")?.trim()
    );
    let source = Store::open(dir.path().join("source"))?;
    let one = place.offer(&source, "one", &plain, Compression::Gzip)?;
    for part in parts {
        match *part {
            "one" => place.pulls(rounds, part, &one, Some(&source.blob_file("one")?))?,
            "eight" => place.pulls(rounds, part, &place.eight(&plain)?, None)?,
            "zstd" => {
                let zstd = place.offer(&source, "zstd", &plain, Compression::Zstd)?;
                place.pulls(rounds, part, &zstd, None)?;
            }
            "again" => place.again(rounds, &one)?,
            _ => place.pushes(rounds, &one)?,
        }
    }
    Ok(())
}

/// The file of an image's first layer.
trait BlobFile {
    fn blob_file(&self, name: &str) -> Result<PathBuf>;
}

impl BlobFile for Store {
    fn blob_file(&self, name: &str) -> Result<PathBuf> {
        let layer = self.image(name)?.manifest().layers()[0];
        Ok(self.path().join("blobs/sha256").join(layer.digest.hex()))
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

impl Place {
    /// Puts an image of one layer into the registry.
    fn offer(&self, store: &Store, name: &str, tar: &Path, packing: Compression) -> Result<String> {
        Import::new(store).name(name).compress(packing).read(File::open(tar)?)?;
        self.push(store, name)
    }

    /// Puts an image of eight layers into the registry, each with an eighth of the files.
    fn eight(&self, tar: &Path) -> Result<String> {
        let tree = self.dir.join("tree");
        sh("mkdir \"$1\" && tar -xf \"$0\" -C \"$1\"", &[tar, &tree])?;
        let layout = self.dir.join("eight");
        // Each with the directories of its files, as tools make layers.
        let split = "cd \"$0\"; umoci init --layout \"$1\"; umoci new --image \"$1:eight\"; \
            find . -type f | sort | split -n r/8 - ../part.; \
            for part in ../part.*; do \
                awk -F/ '{ path = $1; for (i = 2; i <= NF; i++) { if (!seen[path]++) print path; path = path \"/\" $i } print }' \
                    \"$part\" >../list; \
                tar -cf ../layer.tar --no-recursion -T ../list; \
                umoci raw add-layer --image \"$1:eight\" ../layer.tar; \
            done";
        sh(&format!("exec >/dev/null 2>&1; {split}"), &[&tree, &layout])?;
        let name = format!("{}/eight:1", self.address);
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["copy", "-q", "--dest-tls-verify=false"]);
        skopeo.arg(format!("oci:{}:eight", layout.display())).arg(format!("docker://{name}"));
        succeed(skopeo.status()?.success())?;
        Ok(name)
    }

    fn push(&self, store: &Store, name: &str) -> Result<String> {
        let to = format!("{}/{name}:1", self.address);
        let from = store.image(name)?.references()[0].to_string();
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["copy", "-q", "--dest-tls-verify=false"]);
        skopeo.arg(format!("oci:{}:{from}", store.path().display())).arg(format!("docker://{to}"));
        succeed(skopeo.status()?.success())?;
        Ok(to)
    }

    fn podman(&self) -> String {
        let (root, run) = (self.dir.join("podman"), self.dir.join("podman-run"));
        format!(
            "podman --root {} --runroot {} --storage-driver overlay",
            root.display(),
            run.display()
        )
    }

    fn pulls(&self, rounds: usize, what: &str, name: &str, layer: Option<&Path>) -> Result<()> {
        let ours = self.dir.join("ours");
        fs::create_dir_all(&ours)?;
        let podman = self.podman();
        let (pull, remove) =
            (format!("{podman} pull --tls-verify=false {name}"), format!("{podman} rmi {name}"));
        let skopeo = text(&self.dir.join("skopeo"));
        let copy = format!("skopeo copy --src-tls-verify=false docker://{name} oci:{skopeo}:x");
        let mut all = vec![
            Contender::of_ourselves("coracle", &["pull", name, &text(&ours)])?,
            Contender::of_ourselves("podman", &["script", &pull, &remove])?,
            Contender::of_ourselves(
                "skopeo, not unpacked",
                &["script", &copy, &format!("rm -r {skopeo}")],
            )?,
        ];
        if let Some(docker) = &self.docker {
            let docker = docker.client().join(" ");
            let (pull, remove) = (format!("{docker} pull {name}"), format!("{docker} rmi {name}"));
            match sh(&format!("({pull} && {remove}) >/dev/null 2>&1"), &[]) {
                Ok(()) => all.push(Contender::of_ourselves("docker", &["script", &pull, &remove])?),
                Err(_) => println!("\ndocker cannot pull {what}"),
            }
        }
        if let Some(layer) = layer {
            let gunzip = format!("gunzip -c {} >/dev/null", layer.display());
            all.push(Contender::of_ourselves("gunzip alone", &["script", &gunzip, "true"])?);
        }
        interleave_warm(&mut all, 1, rounds)?;
        table(&format!("Pull of {what}, until a process could be started on it"), &all, 0);
        println!("\ncoracle has had {} MiB", all[0].peak_memory()? / 1024);
        Ok(())
    }

    fn pushes(&self, rounds: usize, name: &str) -> Result<()> {
        let at = |name: &str| text(&self.dir.join(format!("{name}-target")));
        let source = text(&self.dir.join("source"));
        let podman = self.podman();
        let push = format!("{podman} push --tls-verify=false {name} docker://$TO");
        sh(&format!("{podman} pull --tls-verify=false {name} >/dev/null 2>&1"), &[])?;
        let from = Store::open(&source)?.image("one")?.references()[0].to_string();
        let copy = format!("skopeo copy --dest-tls-verify=false oci:{source}:{from} docker://$TO");
        let mut all = vec![
            Contender::of_ourselves("coracle", &["push", &source, "one", &at("coracle")])?,
            Contender::of_ourselves("podman", &["push-script", "true", &push, &at("podman")])?,
            Contender::of_ourselves("skopeo", &["push-script", "true", &copy, &at("skopeo")])?,
        ];
        if let Some(docker) = &self.docker {
            let docker = docker.client().join(" ");
            sh(&format!("{docker} pull {name} >/dev/null 2>&1"), &[])?;
            let (tag, push) = (format!("{docker} tag {name} $TO"), format!("{docker} push $TO"));
            all.push(Contender::of_ourselves(
                "docker",
                &["push-script", &tag, &push, &at("docker")],
            )?);
        }
        interleave_warm(&mut all, 1, rounds)?;
        table("Push of one layer to an empty registry", &all, 0);
        println!("\ncoracle has had {} MiB", all[0].peak_memory()? / 1024);
        Ok(())
    }

    fn again(&self, rounds: usize, name: &str) -> Result<()> {
        let podman = format!("{} pull --tls-verify=false {name}", self.podman());
        let mut all = vec![
            Contender::of_ourselves("coracle", &["again", name, &text(&self.dir)])?,
            Contender::of_ourselves("podman", &["script", &podman, "true"])?,
        ];
        if let Some(docker) = &self.docker {
            let pull = format!("{} pull {name}", docker.client().join(" "));
            all.push(Contender::of_ourselves("docker", &["script", &pull, "true"])?);
        }
        interleave_warm(&mut all, 1, rounds)?;
        table("Pull of what is here", &all, 0);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Podman keeps a mount there.
        let _ = Command::new("umount")
            .arg(self.dir.join("podman/overlay"))
            .stderr(Stdio::null())
            .status();
    }
}
