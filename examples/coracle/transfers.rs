//! What is told of layers on their way, in docker's words: bars on a terminal, lines elsewhere.

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::sync::mpsc::{self, Sender};
use std::thread;

use coracle::image::Digest;
use coracle::registry::{Phase, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::failure::Result;

/// Takes a line that is to be seen at once.
pub type Say<'a> = &'a mut dyn FnMut(&str) -> Result<()>;

#[derive(Clone, Copy, PartialEq)]
pub enum Direction {
    Pull,
    Push,
}

/// Layers, and what has been told of them.
pub struct Transfer {
    direction: Direction,
    quiet: bool,
    bars: Option<MultiProgress>,
    /// What comes first, once it is known that there is something to tell of.
    title: Option<String>,
    layers: HashMap<Digest, (Phase, Option<ProgressBar>)>,
    /// What was here, to be told if anything else is.
    held: Vec<String>,
}

impl Transfer {
    pub fn new(direction: Direction, quiet: bool, title: Option<String>) -> Self {
        // Bars that lines of the same run cut through are none.
        let terminal = !quiet && io::stdout().is_terminal() && io::stderr().is_terminal();
        let bars = terminal.then(MultiProgress::new);
        Self { direction, quiet, bars, title, layers: HashMap::new(), held: Vec::new() }
    }

    /// Runs `work` on another thread, and tells of what it sends.
    pub fn watch<T: Send>(
        &mut self,
        say: Say,
        work: impl FnOnce(Sender<Progress>) -> coracle::Result<T> + Send,
    ) -> Result<T> {
        let (sender, receiver) = mpsc::channel();
        let (told, done) = thread::scope(|scope| {
            let working = scope.spawn(move || work(sender));
            let mut told = Ok(());
            for progress in receiver {
                told = told.and_then(|()| self.tell(&progress, say));
            }
            (told, working.join())
        });
        let done = done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        told.and_then(|()| self.begin(say)).map(|()| done)
    }

    fn begin(&mut self, say: Say) -> Result<()> {
        match self.title.take().filter(|_| !self.quiet) {
            Some(title) => say(&title),
            None => Ok(()),
        }
    }

    /// Tells of the layers that were here, once another comes that was not.
    fn release(&mut self, say: Say) -> Result<()> {
        self.held.drain(..).try_for_each(|line| say(&line))
    }

    fn tell(&mut self, progress: &Progress, say: Say) -> Result<()> {
        let (layer, phase) = (progress.digest, progress.phase);
        if self.quiet {
            return Ok(());
        }
        self.begin(say)?;
        let known = self.layers.get(&layer).map(|(phase, _)| *phase);
        if let Some(bars) = &self.bars {
            let (_, bar) = self.layers.entry(layer).or_insert_with(|| {
                let bar = ProgressBar::new(progress.size).with_prefix(layer.short());
                (phase, Some(bars.add(bar)))
            });
            if let Some(bar) = bar {
                draw(bar, self.direction, known, progress);
            }
        }
        self.layers.entry(layer).or_insert((phase, None)).0 = phase;
        if known == Some(phase) || self.bars.is_some() {
            return Ok(());
        }
        let Some(word) = line(self.direction, phase) else { return Ok(()) };
        let line = format!("{}: {word}", layer.short());
        if self.direction == Direction::Pull && phase == Phase::Present {
            self.held.push(line);
            return Ok(());
        }
        self.release(say)?;
        say(&line)
    }
}

/// What a line says when a layer gets into a phase.
fn line(direction: Direction, phase: Phase) -> Option<&'static str> {
    Some(match (direction, phase) {
        (Direction::Pull, Phase::Transferring) => "Pulling fs layer",
        (Direction::Pull, Phase::Unpacking) => "Download complete",
        (Direction::Pull, Phase::Present) => "Already exists",
        (Direction::Pull, Phase::Complete) => "Pull complete",
        (Direction::Push, Phase::Waiting) => "Preparing",
        (Direction::Push, Phase::Present) => "Layer already exists",
        (Direction::Push, Phase::Mounted) => "Mounted from another repository",
        (Direction::Push, Phase::Complete) => "Pushed",
        (_, Phase::Retrying) => "Retrying",
        _ => return None,
    })
}

fn draw(bar: &ProgressBar, direction: Direction, known: Option<Phase>, progress: &Progress) {
    bar.set_position(progress.bytes);
    if known == Some(progress.phase) {
        return;
    }
    let (word, moving) = match (direction, progress.phase) {
        (Direction::Pull, Phase::Transferring) => ("Downloading", true),
        (Direction::Push, Phase::Transferring) => ("Pushing", true),
        (Direction::Pull, Phase::Unpacking) => ("Extracting", false),
        (_, Phase::Waiting) => ("Waiting", false),
        (direction, phase) => (line(direction, phase).unwrap_or_default(), false),
    };
    let template = match moving {
        true => "{prefix}: {msg} [{bar:50}] {decimal_bytes}/{decimal_total_bytes}",
        false => "{prefix}: {msg}",
    };
    let style = ProgressStyle::with_template(template).expect("the templates above are right");
    bar.set_style(style.progress_chars("=> "));
    bar.set_message(word);
    if matches!(progress.phase, Phase::Present | Phase::Mounted | Phase::Complete) {
        bar.abandon();
    }
}
