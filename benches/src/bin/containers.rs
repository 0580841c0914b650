//! Measures what a container of the engine costs, from its creation to its removal, beside a process spawned in the same
//! isolation; what a program executed in it costs; what many of them take; and, as `logs`, how fast one can write to its
//! log. Needs root; see README.md.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use coracle::Engine;
use coracle::container::{LogConfig, LogDriver};
use coracle::layers::Pack;
use coracle_benches::contender::{self, Contender, Result, interleave, succeed, table, timed};
use coracle_benches::{Fixture, container, quiet};

/// How many run at once.
const MANY: usize = 1000;
const GIB: usize = 1 << 30;
/// How often the file of lines is written.
const TIMES: usize = 8;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", what, ref rest @ ..] => serve(what, rest),
        [] => compare(60),
        ["logs"] => logs(5, "/dev/shm"),
        ["logs", rounds] => logs(rounds.parse()?, "/dev/shm"),
        ["logs", rounds, directory] => logs(rounds.parse()?, directory),
        [rounds] => compare(rounds.parse()?),
        _ => Err("usage: containers [ROUNDS] | logs [ROUNDS [DIRECTORY]]".into()),
    }
}

/// The contender's side.
fn serve(what: &str, args: &[&str]) -> Result<()> {
    let [root] = args else { return Err("not a contender".into()) };
    if what == "pipe" {
        let script = format!("({}) | cat >/dev/null", print("bin/busybox dd", "data"));
        return contender::serve(|| {
            let mut sh = Command::new("sh");
            timed(|| succeed(sh.args(["-c", &script]).current_dir(root).status()?.success()))
        });
    }
    let engine = Engine::open(root)?;
    let mut task: Box<dyn FnMut() -> Result<()>> = match what {
        "bare" => {
            let scratch = PathBuf::from(root).join("scratch");
            Box::new(move || {
                let rootfs = engine.store().image("box")?.rootfs()?.writable(&scratch)?;
                let done = container("/bin/true", &rootfs).status()?.success();
                drop(rootfs);
                engine.store().layers()?.remove_writable(&scratch)?;
                succeed(done)
            })
        }
        "engine" => Box::new(move || {
            let builder = engine.container("box").command(["/bin/true"]).remove_on_exit();
            let builder = builder.memory(64 << 20).pids(64).cpus(1.5);
            succeed(builder.start()?.wait()?.success())
        }),
        "kept" => Box::new(move || {
            let builder = engine.container("box").command(["/bin/true"]);
            let made = builder.memory(64 << 20).pids(64).cpus(1.5).start()?;
            let done = made.wait()?.success();
            made.remove()?;
            succeed(done)
        }),
        "exec" | "exec-nothing" => {
            let made = engine.container("box").command(["/bin/sleep", "1000000"]).remove_on_exit();
            let made = made.start()?;
            let program = if what == "exec" { "/bin/true" } else { "/bin/nothing" };
            let command = quiet(coracle::namespaces::Command::new(program));
            Box::new(move || succeed(made.exec_command(command.clone())?.wait()?.success()))
        }
        "cri" | "json-file" | "none" => {
            let script = print("dd", "/data");
            let mut builder = engine.container("box").command(["sh", "-c", &script]);
            builder = builder.remove_on_exit();
            let log = &mut builder.config_mut().log;
            *log = LogConfig::json_file(64 << 20, 2);
            log.driver = match what {
                "cri" => LogDriver::Cri,
                "json-file" => LogDriver::JsonFile,
                _ => LogDriver::None,
            };
            Box::new(move || succeed(builder.clone().start()?.wait()?.success()))
        }
        _ => return Err("not a contender".into()),
    };
    contender::serve(|| timed(&mut task))
}

/// The script that prints a gigabyte of lines: by write(2), as `cat` of busybox only lends its pages to a pipe.
fn print(dd: &str, data: &str) -> String {
    let dd = format!("{dd} if={data} bs=8k 2>/dev/null");
    [dd.as_str(); TIMES].join("; ")
}

/// A gigabyte of lines, into a pipe that another reads, and in a container that keeps a log.
fn logs(rounds: usize, directory: &str) -> Result<()> {
    println!(
        "{rounds} rounds in {directory}, load {}",
        fs::read_to_string("/proc/loadavg")?.trim()
    );
    for length in [100, 1000] {
        let fixture = Fixture::new()?;
        let root = fixture.root();
        let mut line = b"abcdefgh".repeat(length / 8 + 1);
        line.truncate(length - 1);
        line.push(b'\n');
        fs::write(root.join("data"), line.repeat((GIB / TIMES) / length))?;
        std::os::unix::fs::symlink("busybox", root.join("bin/dd"))?;
        let kept = tempfile::Builder::new().prefix("coracle-logs-").tempdir_in(directory)?;
        let store = kept.path().join("engine").display().to_string();
        let engine = Engine::open(&store)?;
        let mut tar = Vec::new();
        Pack::new().tree(fs::File::open(&root)?, &mut tar)?;
        coracle::image::Import::new(engine.store()).name("box").read(&tar[..])?;
        drop((engine, tar));
        let directory = root.display().to_string();
        let mut all = vec![
            Contender::of_ourselves("a pipe to cat", &["pipe", &directory])?,
            Contender::of_ourselves("a container without a log", &["none", &store])?,
            Contender::of_ourselves("a container, CRI", &["cri", &store])?,
            Contender::of_ourselves("a container, json-file", &["json-file", &store])?,
        ];
        interleave(&mut all, rounds)?;
        table(&format!("1 GiB in lines of {length} bytes"), &all, 0);
    }
    Ok(())
}

fn compare(rounds: usize) -> Result<()> {
    let fixture = Fixture::new()?;
    println!("{rounds} rounds, load {}", fs::read_to_string("/proc/loadavg")?.trim());
    let mut roots = Vec::new();
    for name in ["bare", "engine", "kept", "exec", "exec-nothing", "many"] {
        let root = fixture.path().join(format!("engine-{name}"));
        let engine = Engine::open(&root)?;
        let mut tar = Vec::new();
        Pack::new().tree(fs::File::open(fixture.root())?, &mut tar)?;
        coracle::image::Import::new(engine.store()).name("box").read(&tar[..])?;
        roots.push(root.display().to_string());
    }
    let [bare, engine, kept, exec, nothing, many] = &roots[..] else {
        return Err("no roots".into());
    };
    let mut all = vec![
        Contender::of_ourselves("a process spawned on the image", &["bare", bare])?,
        Contender::of_ourselves("a container that goes with its end", &["engine", engine])?,
        Contender::of_ourselves("a container, removed", &["kept", kept])?,
        Contender::of_ourselves("exec in one", &["exec", exec])?,
    ];
    if cfg!(target_arch = "x86_64") {
        all.push(Contender::of_ourselves(
            "exec of a program without a libc",
            &["exec-nothing", nothing],
        )?);
    }
    interleave(&mut all, rounds)?;
    table("/bin/true from creation to removal", &all, 0);
    drop(all);
    // Whoever opens it finds that one has not ended by itself, and puts its cgroup away.
    drop((Engine::open(exec)?, Engine::open(nothing)?));
    alive(many)
}

/// What many containers take that do nothing.
fn alive(root: &str) -> Result<()> {
    let engine = Engine::open(root)?;
    let builder = engine.container("box").command(["/bin/sleep", "1000000"]).remove_on_exit();
    builder.clone().start()?.remove_forced()?;
    let before = (memory()?, descriptors()?);
    let all = (0..MANY).map(|_| builder.clone().start()).collect::<coracle::Result<Vec<_>>>()?;
    let now = (memory()?, descriptors()?);
    println!(
        "\n{MANY} containers alive: {:.1} KiB of this process's memory each, {:.2} descriptors each",
        (now.0 - before.0) as f64 / MANY as f64,
        (now.1 - before.1) as f64 / MANY as f64
    );
    all.into_iter().try_for_each(coracle::container::Container::remove_forced)?;
    println!(
        "after their removal: {} KiB, {} descriptors more",
        memory()?.saturating_sub(before.0),
        descriptors()?.saturating_sub(before.1)
    );
    Ok(())
}

/// In KiB, this process's own.
fn memory() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    Ok(line.ok_or("no RssAnon")?.trim().trim_end_matches(" kB").parse()?)
}

fn descriptors() -> Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}
