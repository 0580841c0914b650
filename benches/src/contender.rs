//! Contenders in a comparison: processes that do the thing when asked, and say how long it took.

use std::error::Error;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// What the programs here return.
pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Fails if a program has.
pub fn succeed(success: bool) -> Result<()> {
    if success { Ok(()) } else { Err("the program failed".into()) }
}

/// How long it takes to do something; not counted is what it takes to drop the outcome.
pub fn timed<T, E: Into<Box<dyn Error>>>(
    task: impl FnOnce() -> std::result::Result<T, E>,
) -> Result<Duration> {
    let start = Instant::now();
    let outcome = task();
    let took = start.elapsed();
    outcome.map(|_| took).map_err(Into::into)
}

/// The contender's side: answers each number that it reads by doing `task` so often, and by how long that took in
/// nanoseconds.
pub fn serve(mut task: impl FnMut() -> Result<Duration>) -> Result<()> {
    for line in std::io::stdin().lines() {
        let count: u32 = line?.parse()?;
        let mut took = Duration::ZERO;
        for _ in 0..count {
            took += task()?;
        }
        println!("{}", took.as_nanos());
    }
    Ok(())
}

/// Our side of one.
#[derive(Debug)]
pub struct Contender {
    /// What the table calls it.
    pub name: String,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    child: Child,
    /// Microseconds.
    pub times: Vec<f64>,
}

impl Contender {
    /// Starts a program that serves.
    pub fn start(name: &str, command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = Some(child.stdin.take().ok_or("no pipe")?);
        let stdout = BufReader::new(child.stdout.take().ok_or("no pipe")?);
        Ok(Self { name: name.into(), stdin, stdout, child, times: Vec::new() })
    }

    /// Starts this program with the argument `serve` and others.
    pub fn of_ourselves(name: &str, args: &[&str]) -> Result<Self> {
        Self::start(name, Command::new(std::env::current_exe()?).arg("serve").args(args))
    }

    /// Microseconds for each of `count` times.
    fn ask(&mut self, count: u32) -> Result<f64> {
        writeln!(self.stdin.as_mut().ok_or("it has ended")?, "{count}")?;
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        let nanoseconds: f64 = line.trim().parse().map_err(|_| format!("{} gave up", self.name))?;
        Ok(nanoseconds / 1000.0 / f64::from(count))
    }

    /// The median of what it took, in microseconds.
    pub fn median(&self) -> f64 {
        let mut times = self.times.clone();
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// The least that it took, in microseconds.
    pub fn minimum(&self) -> f64 {
        self.times.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The most memory that the process itself has had, in KiB.
    pub fn peak_memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        Ok(line.ok_or("no VmHWM")?.trim().trim_end_matches(" kB").parse()?)
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        // At the end of its input it ends by itself, and takes its containers along.
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// Asks each in turn, `rounds` times after five to warm up.
pub fn interleave(contenders: &mut [Contender], rounds: usize) -> Result<()> {
    interleave_warm(contenders, 5, rounds)
}

/// Asks each in turn, `rounds` times after a few to warm up; in random order, as the kernel takes apart what one
/// leaves behind while the next is at it, and with a pause for the same reason.
pub fn interleave_warm(contenders: &mut [Contender], warm: usize, rounds: usize) -> Result<()> {
    let mut order: Vec<usize> = (0..contenders.len()).collect();
    for round in 0..warm + rounds {
        order.sort_by_cached_key(|_| RandomState::new().hash_one(()));
        for &i in &order {
            std::thread::sleep(Duration::from_millis(10));
            let time = contenders[i].ask(1)?;
            if round >= warm {
                contenders[i].times.push(time);
            }
        }
    }
    Ok(())
}

/// Prints medians and minima, with their ratios to those of `base`.
pub fn table(title: &str, contenders: &[Contender], base: usize) {
    println!("\n{title}\n");
    println!("| | median | minimum | ratio of medians | of minima |\n|---|--:|--:|--:|--:|");
    for contender in contenders {
        let milliseconds = |us: f64| format!("{:.2} ms", us / 1000.0);
        println!(
            "| {} | {} | {} | {:.2} | {:.2} |",
            contender.name,
            milliseconds(contender.median()),
            milliseconds(contender.minimum()),
            contender.median() / contenders[base].median(),
            contender.minimum() / contenders[base].minimum(),
        );
    }
}
