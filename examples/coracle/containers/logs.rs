//! `logs`: what containers have written.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, BorrowedFd};

use coracle::container::logs::Stream;

use crate::failure::{Failure, Result};
use crate::filter::moment;
use crate::root::Root;

/// Print what a container has written, standard output and standard error where they belong
#[derive(clap::Args)]
#[command(after_help = "\
Times are 2026-01-31, 2026-01-31T12:00:00Z, seconds since 1970, or how long ago: 10m.

Examples:
  coracle logs -f -n 20 web
  coracle logs --since 10m -t web 2> /dev/null")]
pub struct Args {
    /// Go on with what it writes, until it ends
    #[arg(short, long)]
    follow: bool,
    /// Say when each line was written
    #[arg(short, long)]
    timestamps: bool,
    /// Only what was written since then
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only what was written until then
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only so many of the last lines
    #[arg(short = 'n', long, value_name = "LINES|all", default_value = "all", value_parser = tail, allow_hyphen_values = true)]
    tail: Tail,
    /// The container, by name, id, or the beginning of its id
    container: String,
}

/// How many lines; `None` for all.
#[derive(Clone, Copy)]
struct Tail(Option<usize>);

/// As docker has it, anything but a number means all of them, and so does one below zero.
fn tail(text: &str) -> Result<Tail, String> {
    match text.parse::<i64>() {
        Ok(count) => Ok(Tail(usize::try_from(count).ok())),
        Err(_) if text == "all" => Ok(Tail(None)),
        Err(_) => Err("a number of lines is wanted, or all".into()),
    }
}

impl Args {
    pub fn run(self, root: &Root) -> Result<()> {
        let time = |text: &String| {
            moment(text).ok_or_else(|| Failure::new(format!("{text:?} is no time, see --help")))
        };
        let (since, until) = (
            self.since.as_ref().map(time).transpose()?,
            self.until.as_ref().map(time).transpose()?,
        );
        let mut logs = root.engine()?.find(&self.container)?.logs()?;
        if self.follow {
            logs = logs.follow();
        }
        if let Some(since) = since {
            logs = logs.since(since);
        }
        if let Some(until) = until {
            logs = logs.until(until);
        }
        if let Tail(Some(count)) = self.tail {
            logs = logs.tail(count);
        }
        let (mut out, mut err) = (own(io::stdout().as_fd())?, own(io::stderr().as_fd())?);
        let mut begun = [false; 2];
        for line in logs.lines()? {
            let line = line?;
            let (own, other) = match line.stream {
                Stream::Stderr => (&mut err, &mut out),
                _ => (&mut out, &mut err),
            };
            // On a terminal both are one, and have to come in order.
            other.flush()?;
            let begun = &mut begun[usize::from(line.stream == Stream::Stderr)];
            if self.timestamps && !*begun {
                write!(own, "{} ", line.timestamp())?;
            }
            own.write_all(&line.bytes)?;
            if !line.partial {
                own.write_all(b"\n")?;
            }
            *begun = line.partial;
            if self.follow {
                own.flush()?;
            }
        }
        out.flush()?;
        Ok(err.flush()?)
    }
}

fn own(stream: BorrowedFd<'_>) -> Result<BufWriter<File>> {
    Ok(BufWriter::with_capacity(64 << 10, stream.try_clone_to_owned()?.into()))
}
