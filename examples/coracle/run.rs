//! `run`: a process on an image, in the foreground.

use std::env;
use std::error::Error;

use clap::ArgGroup;
use coracle::ErrorKind;
use coracle::image::{Image, Platform, Reference};
use coracle::layers::Rootfs;
use coracle::namespaces::{Command, ExitStatus, Signal, Stdio};

use crate::containers::Container;
use crate::failure::{Failure, Result, USAGE};
use crate::output::note;
use crate::progress::Spinner;
use crate::pull::Fetch;
use crate::registries::Registries;
use crate::root::Root;
use crate::transfers::Say;

/// Run a command on an image, isolated, and wait for its end
///
/// Without a command, what the image says. It sees the image's files, no network and no process of the host. What it
/// writes is gone with it (--rm; until then it is kept in memory), or kept under a name (--name) for `diff` and `commit`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
#[command(group = ArgGroup::new("what it writes").args(["rm", "name"]).required(true))]
pub struct Args {
    /// Forget what it writes
    #[arg(long)]
    rm: bool,
    /// Keep what it writes under this name
    #[arg(long)]
    name: Option<String>,
    /// Set a variable of its environment, or hand on the one of here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// The program, instead of the image's; the image's default arguments do not count then
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Its host name
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Run a small init that reaps orphans and passes signals on
    #[arg(long)]
    init: bool,
    /// Hand standard input on; without this it is empty
    #[arg(short, long)]
    interactive: bool,
    /// Of an image for several platforms, this one's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Fetch the image from a registry: if it is not here, in any case, or never
    #[arg(long, value_enum, default_value = "missing", value_name = "WHEN")]
    pull: When,
    /// Let it write nowhere but to volumes and temporary files
    #[arg(long)]
    read_only: bool,
    /// Its user, as name or number, and group
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Its working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// The image, by name, id or digest
    image: String,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum When {
    Missing,
    Always,
    Never,
}

const HELP: &str = "\
Exit status:
  that of the command, or 128 and the number of the signal that ended it
  125   it could not be started
  126   it is no program
  127   it was not found

Examples:
  coracle run --rm debian:12 cat /etc/debian_version
  coracle run --name work debian:12 sh -c 'date > /stamp'
  coracle diff work
  coracle commit work app:1";

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const NO_PROGRAM: u8 = 126;
const NOT_FOUND: u8 = 127;

impl Args {
    pub fn run(self, root: &Root, registries: &Registries) -> Result<()> {
        let status = self
            .status(root, registries)
            .map_err(|failure| failure.exiting_with_at_least(USAGE))?;
        match ended(status) {
            0 => Ok(()),
            code => Err(Failure::with_status(code, "")),
        }
    }

    fn status(&self, root: &Root, registries: &Registries) -> Result<ExitStatus> {
        let image = self.image(root, registries)?;
        let words = self.words(&image)?;
        let spinner = Spinner::new("unpacking");
        let (rootfs, container) = match &self.name {
            Some(name) => {
                let container = Container::create(image.store(), name, &image)?;
                (container.rootfs(), Some(container))
            }
            None => {
                (image.rootfs().and_then(|stack| stack.ephemeral()).map_err(Failure::from), None)
            }
        };
        drop(spinner);
        let done = rootfs.and_then(|rootfs| self.wait(&image, &rootfs, &words));
        match (done, container) {
            // Nothing has run that could have written anything.
            (Err(failure), Some(container)) => {
                container.remove()?;
                Err(failure)
            }
            (done, _) => done,
        }
    }

    /// The image, which may have to be fetched first. That is told on standard error: the output is the command's.
    fn image(&self, root: &Root, registries: &Registries) -> Result<Image> {
        let here = || root.image(&self.image, self.platform.as_ref());
        match self.pull {
            When::Never => return here(),
            When::Missing => match here() {
                Err(failure) if failure.is_not_found() => {}
                found => return found,
            },
            When::Always => {}
        }
        let reference: Reference = self.image.parse()?;
        if self.pull == When::Missing {
            note(&format!("Unable to find image '{}' locally", reference.familiar()));
        }
        let registry = registries.client(reference.registry())?;
        let (store, platform) = (root.store_to_fill()?, self.platform.clone());
        let fetch = Fetch { registry, store, platform, quiet: false };
        let say: Say = &mut |line| {
            note(line);
            Ok(())
        };
        let (image, newer) = fetch.run(&reference, say)?;
        say(&Fetch::status(&reference.familiar(), newer))?;
        Ok(image)
    }

    /// Program and arguments.
    fn words(&self, image: &Image) -> Result<Vec<String>> {
        let config = image.config().spec().config().as_ref();
        let of_image =
            |words: Option<&Option<Vec<String>>>| words.cloned().flatten().unwrap_or_default();
        let entrypoint = match &self.entrypoint {
            Some(program) if program.is_empty() => Vec::new(),
            Some(program) => vec![program.clone()],
            None => of_image(config.map(|config| config.entrypoint())),
        };
        let arguments = match (self.command.is_empty(), &self.entrypoint) {
            (true, None) => of_image(config.map(|config| config.cmd())),
            _ => self.command.clone(),
        };
        let words = [entrypoint, arguments].concat();
        match words.is_empty() {
            true => Err(Failure::new("no command specified")
                .with_hint("the image says none: name one behind the image")),
            false => Ok(words),
        }
    }

    fn wait(&self, image: &Image, rootfs: &Rootfs, words: &[String]) -> Result<ExitStatus> {
        let config = image.config().spec().config().as_ref();
        let said = |own: &Option<String>, image: Option<&Option<String>>| {
            let image = || image.cloned().flatten();
            own.clone().or_else(image).filter(|text| !text.is_empty())
        };
        let user = said(&self.user, config.map(|config| config.user()));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).rootfs(rootfs).parent_death_signal(Signal::KILL);
        command.env_clear().env("PATH", PATH);
        let is_root = user.as_deref().is_none_or(|user| matches!(user, "0" | "root"));
        command.env("HOME", if is_root { "/root" } else { "/" });
        let of_image = config.and_then(|config| config.env().clone()).unwrap_or_default();
        for variable in of_image.iter().chain(&self.env) {
            match (variable.split_once('='), env::var_os(variable)) {
                (Some((name, value)), _) => drop(command.env(name, value)),
                (None, Some(value)) => drop(command.env(variable, value)),
                (None, None) => {}
            }
        }
        if let Some(directory) = said(&self.workdir, config.map(|config| config.working_dir())) {
            command.current_dir(directory);
        }
        if let Some(user) = user {
            command.user(user);
        }
        if let Some(name) = &self.hostname {
            command.hostname(name);
        }
        if self.init {
            command.init();
        }
        if self.read_only {
            command.read_only_root();
        }
        if !self.interactive {
            command.stdin(Stdio::null());
        }
        command.status().map_err(|err| {
            let status = unstarted(&err);
            Failure::from(err).exiting_with_at_least(status)
        })
    }
}

/// The exit status for a command that could not be started.
fn unstarted(err: &coracle::Error) -> u8 {
    let mut cause: Option<&dyn Error> = Some(err);
    while let Some(it) = cause {
        if it.to_string().starts_with("execute ") {
            return if err.kind() == ErrorKind::NotFound { NOT_FOUND } else { NO_PROGRAM };
        }
        cause = it.source();
    }
    USAGE
}

fn ended(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| Some(128 + status.signal()?.number()));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
