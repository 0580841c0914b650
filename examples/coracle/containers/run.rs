//! `run` and `create`.

use std::sync::Arc;

use coracle::container::{Config, Container};
use coracle::namespaces::ExitStatus;

use super::keys::Keys;
use super::options::Options;
use super::relay::{Caught, End, Relay};
use super::{ended, gone, terminal, unstarted};
use crate::failure::{Failure, Result, USAGE};
use crate::output::Output;
use crate::registries::Registries;
use crate::root::Root;

/// Run a command in a new container
///
/// Without a command, what the image says. It sees the image's files, no network and no process of the host. It stays,
/// with what it has written, until it is removed: `diff`, `commit` and `start` go on with it; --rm removes it at once.
/// Whatever becomes of this program, it goes on, but with --rm and without -it it ends too.
#[derive(clap::Args)]
#[command(after_help = HELP, disable_help_flag = true)]
pub struct RunArgs {
    /// Print its id and leave it running
    #[arg(short, long, conflicts_with = "attach")]
    detach: bool,
    /// Hand on stdin, stdout or stderr only
    #[arg(short, long, value_enum, value_name = "STREAM", ignore_case = true)]
    attach: Vec<Stream>,
    /// Hand signals on to it (not with -t)
    #[arg(long, default_value_t = true, default_missing_value = "true", num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set, value_name = "true|false")]
    sig_proxy: bool,
    /// The keys that leave it running (with -t)
    #[arg(long, default_value = "ctrl-p,ctrl-q", value_parser = Keys::parse, value_name = "KEYS")]
    detach_keys: Keys,
    #[command(flatten)]
    options: Options,
}

/// Make a container without starting it, and print its id
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  coracle create --name work -it debian:12 && coracle start -ai work",
    disable_help_flag = true
)]
pub struct CreateArgs {
    /// Taken as docker takes it, where `start -a` hands on all streams in any case
    #[arg(short, long, value_enum, value_name = "STREAM", ignore_case = true)]
    attach: Vec<Stream>,
    #[command(flatten)]
    options: Options,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Stream {
    Stdin,
    Stdout,
    Stderr,
}

const HELP: &str = "\
Exit status:
  that of the command, or 128 and the number of the signal that ended it
  125   it could not be made or started
  126   it is no program
  127   it was not found

Examples:
  coracle run --rm debian:12 cat /etc/debian_version
  coracle run -it --rm debian:12                     a shell; ctrl-p ctrl-q leaves it running
  coracle run -d --name web --restart always nginx:1 in the background
  coracle run --rm -v \"$PWD:/src:ro\" -w /src -m 512m --cpus 1.5 gcc:13 make -o /tmp/out
  coracle run --rm -i --network host alpine sh < script
  coracle run --name work debian:12 sh -c 'date > /stamp' && coracle diff work";

impl RunArgs {
    pub fn run(self, root: &Root, registries: &Registries, out: &mut Output) -> Result<()> {
        let code = self.code(root, registries, out);
        match code.map_err(|failure| failure.exiting_with_at_least(USAGE))? {
            0 => Ok(()),
            code => Err(Failure::with_status(code, "")),
        }
    }

    fn code(self, root: &Root, registries: &Registries, out: &mut Output) -> Result<u8> {
        let process = &self.options.process;
        let (tty, interactive, remove) = (process.tty, process.interactive, process.rm);
        let all = self.attach.is_empty();
        let attach = |stream| all || self.attach.contains(&stream);
        let stdin = interactive && attach(Stream::Stdin) && !self.detach;
        if tty && stdin {
            terminal::must_be_input()?;
        }
        let change = |config: &mut Config| config.stdin_once = stdin;
        if self.detach {
            let container = self.options.create(root, registries, change)?;
            start(&container, remove, Container::start_detached)?;
            out.line(container.id().as_str())?;
            return Ok(0);
        }
        let relay = Relay {
            stdin,
            stdout: attach(Stream::Stdout),
            stderr: attach(Stream::Stderr),
            tty,
            keys: self.detach_keys,
        };
        let size = terminal::size();
        let catch =
            |container: &Container| Caught::new(tty, self.sig_proxy.then(|| container.clone()));
        // It cannot be left, and is to leave nothing: it needs nobody else to look after it.
        let ours = remove && !(tty && stdin);
        let (container, attachment, signals) = if ours {
            let made = self.options.make(root, registries, change)?;
            let signals = catch(made.container())?;
            let (container, attachment) = made.start_attached(size).map_err(failed_to_start)?;
            (container, attachment, signals)
        } else {
            let container = self.options.create(root, registries, change)?;
            let signals = catch(&container)?;
            let begin = |it: &Container| it.start_detached_attached(size);
            let attachment = start(&container, remove, begin)?;
            (container, attachment, signals)
        };
        let attachment = Arc::new(attachment);
        if relay.run(attachment.clone(), signals)? == End::Detached {
            return Ok(0);
        }
        let status = attachment.exit_status();
        let code = code(&container, status)?;
        if remove {
            gone(&container)?;
        }
        Ok(code)
    }
}

/// How a container has ended, which it may not tell itself any more.
pub fn code(container: &Container, told: Option<ExitStatus>) -> Result<u8> {
    let status = container.wait();
    match (status, told) {
        (Ok(status), _) | (Err(_), Some(status)) => Ok(ended(&status)),
        (Err(err), None) => Err(err.into()),
    }
}

/// Starts a new container. One that was to be removed at its end is removed if it has none.
fn start<T>(
    container: &Container,
    remove: bool,
    start: impl FnOnce(&Container) -> coracle::Result<T>,
) -> Result<T> {
    start(container).map_err(|err| {
        if remove {
            let _ = container.clone().remove_forced();
        }
        failed_to_start(err)
    })
}

fn failed_to_start(err: coracle::Error) -> Failure {
    let status = unstarted(&err);
    Failure::from(err).exiting_with_at_least(status)
}

impl CreateArgs {
    pub fn run(self, root: &Root, registries: &Registries, out: &mut Output) -> Result<()> {
        let stdin = self.options.process.interactive;
        let container = self.options.create(root, registries, |config| config.stdin_once = stdin);
        out.line(container?.id().as_str())
    }
}
