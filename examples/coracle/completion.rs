//! `completion`: what a shell needs to know to complete command lines.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::failure::Result;
use crate::output::Output;

/// Print what a shell needs to complete command lines
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  source <(coracle completion bash)\n  coracle completion zsh > \"${fpath[1]}/_coracle\"\n  coracle completion fish > ~/.config/fish/completions/coracle.fish"
)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Which,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Which {
    Bash,
    Zsh,
    Fish,
}

impl Args {
    pub fn run(self, out: &mut Output) -> Result<()> {
        let shell = match self.shell {
            Which::Bash => Shell::Bash,
            Which::Zsh => Shell::Zsh,
            Which::Fish => Shell::Fish,
        };
        let mut script = Vec::new();
        generate(shell, &mut crate::Cli::command(), "coracle", &mut script);
        out.text(&String::from_utf8_lossy(&script))
    }
}
