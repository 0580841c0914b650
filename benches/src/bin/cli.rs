//! Measures the command line beside docker's and podman's: /bin/true in a new container, and in one that runs. Prints
//! medians and ratios. Needs root and the release build of the example `coracle`; see README.md.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use coracle::layers::Pack;
use coracle_benches::Fixture;
use coracle_benches::contender::{self, Contender, Result, interleave, succeed, table, timed};
use coracle_benches::docker::Docker;

const USAGE: &str = "usage: cli [ROUNDS [DIRECTORY]]";
/// Podman sets the most that there can be, which not every root may.
const PODMAN_LIMITS: [&str; 4] = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"];
/// crun refuses a second hierarchy beside those of version 1.
const ONE_HIERARCHY: &str =
    "if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi; exec \"$@\"";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", program, ref args @ ..] => {
            contender::serve(|| timed(|| succeed(quiet(Command::new(program).args(args))?)))
        }
        [] => compare(10, "/var/tmp"),
        [rounds] => compare(rounds.parse()?, "/var/tmp"),
        [rounds, directory] => compare(rounds.parse()?, directory),
        _ => Err(USAGE.into()),
    }
}

fn quiet(command: &mut Command) -> std::io::Result<bool> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command.status()?.success())
}

/// Command lines that each begin a run of a program in a container.
struct Place {
    dir: tempfile::TempDir,
    docker: Option<Docker>,
}

impl Place {
    fn coracle(&self) -> Result<Vec<String>> {
        let program = std::env::current_exe()?.with_file_name("examples").join("coracle");
        if !program.exists() {
            return Err("build it first: cargo build --release --example coracle".into());
        }
        Ok(vec![text(&program), "--root".into(), text(&self.dir.path().join("coracle"))])
    }

    fn podman(&self) -> Option<Vec<String>> {
        let at = |name: &str| text(&self.dir.path().join(name));
        let options = ["--storage-driver", "overlay", "--cgroup-manager", "cgroupfs"];
        let words = ["podman", "--root", &at("podman"), "--runroot", &at("run")];
        let words = words.iter().chain(&options).map(|word| (*word).to_owned()).collect();
        Path::new("/usr/bin/podman").exists().then_some(words)
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// A process that runs the words again and again.
fn contender(name: &str, words: &[String], more: &[&str]) -> Result<Contender> {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-euc", ONE_HIERARCHY, "sh"]);
    command.arg(std::env::current_exe()?).arg("serve").args(words).args(more);
    Contender::start(name, &mut command)
}

fn run(words: &[String], more: &[&str]) -> Result<()> {
    let done = quiet(Command::new(&words[0]).args(&words[1..]).args(more))?;
    if done { Ok(()) } else { Err(format!("{} {} failed", words.join(" "), more.join(" ")).into()) }
}

fn compare(rounds: usize, directory: &str) -> Result<()> {
    println!(
        "{rounds} rounds in {directory}, load {}",
        fs::read_to_string("/proc/loadavg")?.trim()
    );
    let fixture = Fixture::new()?;
    let archive: PathBuf = fixture.path().join("box.tar");
    Pack::new().tree(File::open(fixture.root())?, File::create(&archive)?)?;
    let archive = text(&archive);
    let dir = tempfile::Builder::new().prefix("coracle-cli-").tempdir_in(directory)?;
    let docker = Docker::start_bridged(dir.path())?;
    let place = Place { dir, docker };

    let ours = place.coracle()?;
    run(&ours, &["import", &archive, "box"])?;
    run(&ours, &["run", "-d", "--name", "up", "box", "sleep", "1000000"])?;
    let mut runs = vec![contender("coracle", &ours, &["run", "--rm", "box", "true"])?];
    let mut execs = vec![contender("coracle", &ours, &["exec", "up", "true"])?];
    if let Some(docker) = &place.docker {
        let docker = docker.client();
        run(&docker, &["import", &archive, "box"])?;
        let options = ["run", "--network", "none"];
        run(&docker, &[&options[..], &["-d", "--name", "up", "box", "sleep", "1000000"]].concat())?;
        let rm = ["--rm", "box", "true"];
        runs.push(contender("docker", &docker, &[&["run"], &rm[..]].concat())?);
        runs.push(contender("docker, --network none", &docker, &[&options[..], &rm].concat())?);
        execs.push(contender("docker", &docker, &["exec", "up", "true"])?);
    }
    if let Some(podman) = place.podman() {
        run(&podman, &["import", &archive, "box"])?;
        let options = [&["run", "--network", "none"], &PODMAN_LIMITS[..]].concat();
        let rm = [&options[..], &["--rm", "box", "true"]].concat();
        runs.push(contender("podman, --network none", &podman, &rm)?);
    }
    interleave(&mut runs, rounds)?;
    table("run --rm of /bin/true", &runs, 0);
    interleave(&mut execs, rounds)?;
    table("exec of /bin/true", &execs, 0);
    drop((runs, execs));
    run(&ours, &["rm", "-f", "up"])?;
    if let Some(docker) = &place.docker {
        run(&docker.client(), &["rm", "-f", "up"])?;
    }
    Ok(())
}
