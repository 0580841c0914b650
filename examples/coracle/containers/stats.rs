//! `stats`: what containers use.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use coracle::cgroups::Stats;
use coracle::container::Container;

use super::list::all;
use crate::failure::{Failure, Result};
use crate::format::{Row, View};
use crate::human;
use crate::output::Output;
use crate::root::Root;
use crate::template;

/// Show what containers use, again and again
#[derive(clap::Args)]
#[command(after_help = format!("{}\n  The fields: .ID .Name .CPUPerc .MemUsage .MemPerc .NetIO .BlockIO .PIDs\n\nExample:\n  coracle stats --no-stream --format json", template::HELP))]
pub struct Args {
    /// Those that do not run, too
    #[arg(short, long)]
    all: bool,
    /// How to print it, see below
    #[arg(long)]
    format: Option<String>,
    /// Once only
    #[arg(long)]
    no_stream: bool,
    /// Print ids in full
    #[arg(long)]
    no_trunc: bool,
    /// Containers, by name, id, or the beginning of an id; by default all that run
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

const VIEW: View = View {
    fields: &[
        ("ID", "CONTAINER ID"),
        ("Name", "NAME"),
        ("CPUPerc", "CPU %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("MemPerc", "MEM %"),
        ("NetIO", "NET I/O"),
        ("BlockIO", "BLOCK I/O"),
        ("PIDs", "PIDS"),
    ],
    default: "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}",
};

/// What a container used at a moment, if it ran.
struct Sample {
    container: Container,
    name: String,
    at: Instant,
    stats: Option<Stats>,
}

impl Sample {
    fn of(container: Container) -> coracle::Result<Self> {
        let name = container.name()?;
        let stats = match container.status()?.phase.is_alive() {
            true => Some(container.stats()?),
            false => None,
        };
        Ok(Self { container, name, at: Instant::now(), stats })
    }
}

impl Args {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        const PAUSE: Duration = Duration::from_secs(1);
        let engine = root.engine()?;
        // Those that were named must be there.
        for name in &self.containers {
            engine.find(name)?;
        }
        let sample = || -> Result<Vec<Sample>> {
            let containers: Vec<_> = match self.containers.is_empty() {
                true => all(&engine)?.0.into_iter().map(|it| it.container).collect(),
                false => self.containers.iter().filter_map(|name| engine.find(name).ok()).collect(),
            };
            let mut samples = Vec::new();
            for container in containers {
                match Sample::of(container) {
                    Ok(sample) => samples.push(sample),
                    // It has ended meanwhile.
                    Err(err)
                        if matches!(
                            err.kind(),
                            coracle::ErrorKind::NotFound | coracle::ErrorKind::InvalidState
                        ) => {}
                    Err(err) => return Err(err.into()),
                }
            }
            let shown = self.all || !self.containers.is_empty();
            samples.retain(|sample| shown || sample.stats.is_some());
            Ok(samples)
        };
        let memory = memory_of_machine()?;
        let mut before = sample()?;
        loop {
            thread::sleep(PAUSE);
            let now = sample()?;
            let rows = now.iter().map(|it| row(it, &before, memory, self.no_trunc)).collect();
            if !self.no_stream {
                out.clear_screen()?;
            }
            VIEW.print(self.format.as_deref(), rows, out)?;
            out.flush()?;
            if self.no_stream {
                return Ok(());
            }
            before = now;
        }
    }
}

fn row(it: &Sample, before: &[Sample], machine: u64, whole: bool) -> Row {
    let id = it.container.id();
    let unknown = || "--".to_owned();
    let both = |a: Option<String>, b: Option<String>| {
        format!("{} / {}", a.unwrap_or_else(unknown), b.unwrap_or_else(unknown))
    };
    let stats = it.stats.as_ref();
    let earlier = before.iter().find(|old| old.container.id() == id);
    let cpu = earlier.and_then(|old| {
        let used = stats?.cpu.usage?.checked_sub(old.stats.as_ref()?.cpu.usage?)?;
        Some(percent(used.as_secs_f64(), (it.at - old.at).as_secs_f64()))
    });
    let memory = stats.and_then(|it| it.memory.current);
    let limit = stats.map(|it| it.memory.limit.unwrap_or(machine).min(machine));
    #[allow(clippy::cast_precision_loss, reason = "two digits of it are shown")]
    let share = memory.zip(limit).map(|(used, limit)| percent(used as f64, limit as f64));
    let disk = |bytes: fn(&coracle::cgroups::IoStats) -> u64| {
        stats.map(|it| human::size(it.io.iter().map(bytes).sum(), 3))
    };
    vec![
        if whole { id.as_str() } else { id.short() }.to_owned(),
        it.name.clone(),
        cpu.unwrap_or_else(unknown),
        both(memory.map(human::memory), limit.map(human::memory)),
        share.unwrap_or_else(unknown),
        // There is nothing but the loopback device.
        both(None, None),
        both(disk(|it| it.read_bytes), disk(|it| it.written_bytes)),
        stats.and_then(|it| it.pids.current).map_or_else(unknown, |pids| pids.to_string()),
    ]
}

fn percent(part: f64, whole: f64) -> String {
    format!("{:.2}%", if whole > 0.0 { part * 100.0 / whole } else { 0.0 })
}

/// In bytes.
pub fn memory_of_machine() -> Result<u64> {
    const PATH: &str = "/proc/meminfo";
    let text =
        fs::read_to_string(PATH).map_err(|err| Failure::new(format!("read {PATH}: {err}")))?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map(|kib| kib << 10)
        .ok_or_else(|| Failure::new(format!("{PATH} does not say how much there is")))
}
