//! Containers and images without a daemon: a command line like docker's on the library.
//!
//!     cargo run --example coracle -- run -it --rm debian:12
//!
//! `--help`, of every command too, tells the rest.

mod archives;
mod changes;
mod completion;
mod containers;
mod failure;
mod filter;
mod format;
mod history;
mod human;
mod images;
mod import;
mod inspect;
mod login;
mod manifest;
mod names;
mod output;
mod progress;
mod prompt;
mod prune;
mod pull;
mod push;
mod registries;
mod retired;
mod root;
mod search;
mod squash;
mod system;
mod template;
mod transfers;
mod tree;
mod usage;
mod verify;

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use containers::{
    attach, commit, copy, events, exec, info, life, list, logs, look, remove, run, stats, update,
    volumes,
};
use failure::{Failure, Result, USAGE};
use output::Output;
use registries::Registries;
use root::Root;

/// Containers and images, in a directory of your own and without a daemon
///
/// The commands, their options and what they print are docker's. An image is named as there: `debian` is
/// docker.io/library/debian:latest, and an id or a digest may be cut short where it stays unmistakable.
#[derive(Parser)]
#[command(version, max_term_width = 100, override_usage = "coracle [OPTIONS] <COMMAND>")]
#[command(after_help = AFTER_HELP, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    root: Root,
    #[command(flatten)]
    registries: Registries,
    /// Docker's of old: be the daemon.
    #[arg(short, hide = true)]
    daemon: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

const AFTER_HELP: &str = "\
Examples:
  coracle run -it --rm debian:12                a shell in a container; ctrl-p ctrl-q leaves it running
  coracle run -d --name web nginx:1             one in the background
  coracle ps -a                                 what there is, and how it ended
  coracle exec -it web sh                       another command in it
  coracle stop web && coracle rm web
  coracle pull debian:12                        fetch an image from a registry
  docker save app:1 | coracle load              or from docker, or from an archive
  coracle images --tree                         what there is, and what was made of what
  coracle history app:1                         how an image came about
  coracle inspect -f '{{json .Config}}' app:1   what it runs
  coracle tag app:1 app:stable
  coracle push registry.example/team/app:1      send one to a registry
  coracle rmi app:1
  coracle system df                             what takes the space
  coracle prune                                 make room
  coracle verify                                is everything as it was stored?

Exit status:
  0     all went well
  1     something failed: a line on stderr tells what, often with a hint
  64    the template of inspect makes no sense
  126   the command is no program (run, exec)
  127   the command was not found (run, exec)
  125   an option makes no sense, or a command could not be run
  141   whoever read the output went away";

#[derive(Subcommand)]
#[command(defer = true)]
enum Command {
    #[command(flatten)]
    Same(Same),
    Ps(list::Args),
    Inspect(inspect::Args),
    Rm(remove::Args),
    Images(images::Args),
    Pull(pull::Args),
    Push(push::Args),
    Login(login::LoginArgs),
    Logout(login::LogoutArgs),
    Search(search::Args),
    History(history::Args),
    Tag(names::TagArgs),
    Rmi(names::RemoveArgs),
    Save(archives::SaveArgs),
    Load(archives::LoadArgs),
    Import(import::Args),
    Squash(squash::Args),
    Prune(prune::Args),
    Verify(verify::Args),
    Repair(verify::RepairArgs),
    Events(events::Args),
    Info(info::InfoArgs),
    Version(info::VersionArgs),
    Completion(completion::Args),
    #[command(hide = true)]
    Insert(retired::Arguments),
    /// Manage containers: the same commands under docker's other names
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Container(ContainerCommand),
    /// Manage images: the same commands under docker's other names
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Image(ImageCommand),
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Volume(volumes::Command),
    /// Look at manifests in registries
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Manifest(ManifestCommand),
    /// Manage everything together
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    System(SystemCommand),
}

#[derive(Subcommand)]
#[command(defer = true)]
enum ContainerCommand {
    #[command(visible_aliases = ["list", "ps"])]
    Ls(list::Args),
    Inspect(inspect::Args),
    #[command(visible_alias = "remove")]
    Rm(remove::Args),
    Prune(remove::PruneArgs),
    #[command(flatten)]
    Same(Same),
}

/// What is called the same under `container`.
#[derive(Subcommand)]
#[command(defer = true)]
enum Same {
    Run(Box<run::RunArgs>),
    Create(Box<run::CreateArgs>),
    Start(attach::StartArgs),
    /// Ask containers to end, by SIGTERM or what they have in its place, and kill those that do not
    Stop(life::StopArgs),
    /// Stop containers that run, and start them again, in the background
    Restart(life::StopArgs),
    Kill(life::KillArgs),
    Attach(attach::AttachArgs),
    Exec(exec::Args),
    Logs(logs::Args),
    Top(look::TopArgs),
    Stats(stats::Args),
    Port(look::PortArgs),
    /// Wait for the end of containers, and print their exit statuses
    Wait(life::Names),
    /// Let all processes of containers stand still
    Pause(life::Names),
    /// Let the processes of paused containers go on
    Unpause(life::Names),
    Rename(life::RenameArgs),
    Update(update::Args),
    Diff(look::DiffArgs),
    Commit(commit::Args),
    Cp(copy::Args),
    Export(archives::ExportArgs),
}

#[derive(Subcommand)]
#[command(defer = true)]
enum ImageCommand {
    #[command(visible_alias = "list")]
    Ls(images::Args),
    History(history::Args),
    Inspect(inspect::Args),
    Tag(names::TagArgs),
    #[command(visible_alias = "remove")]
    Rm(names::RemoveArgs),
    Save(archives::SaveArgs),
    Load(archives::LoadArgs),
    Import(import::Args),
    Prune(prune::Args),
    Pull(pull::Args),
    Push(push::Args),
}

#[derive(Subcommand)]
#[command(defer = true)]
enum ManifestCommand {
    Inspect(manifest::InspectArgs),
}

#[derive(Subcommand)]
#[command(defer = true)]
enum SystemCommand {
    Df(usage::Args),
    Events(events::Args),
    Info(info::InfoArgs),
    Prune(system::PruneArgs),
}

impl Same {
    fn run(self, root: &Root, registries: &Registries, out: &mut Output) -> Result<()> {
        match self {
            Self::Run(args) => args.run(root, registries, out),
            Self::Create(args) => args.run(root, registries, out),
            Self::Start(args) => args.run(root, out),
            Self::Stop(args) => args.stop(root, out),
            Self::Restart(args) => args.restart(root, out),
            Self::Kill(args) => args.run(root, out),
            Self::Attach(args) => args.run(root),
            Self::Exec(args) => args.run(root),
            Self::Logs(args) => args.run(root),
            Self::Top(args) => args.run(root, out),
            Self::Stats(args) => args.run(root, out),
            Self::Port(args) => args.run(root),
            Self::Wait(args) => args.wait(root, out),
            Self::Pause(args) => args.pause(root, out),
            Self::Unpause(args) => args.unpause(root, out),
            Self::Rename(args) => args.run(root),
            Self::Update(args) => args.run(root, out),
            Self::Diff(args) => args.run(root, out),
            Self::Commit(args) => args.run(root, out),
            Self::Cp(args) => args.run(root),
            Self::Export(args) => args.run(root),
        }
    }
}

impl Command {
    fn run(self, root: &Root, registries: &Registries, out: &mut Output) -> Result<()> {
        match self {
            Self::Container(ContainerCommand::Same(same)) | Self::Same(same) => {
                same.run(root, registries, out)
            }
            Self::Ps(args) | Self::Container(ContainerCommand::Ls(args)) => args.run(root, out),
            Self::Rm(args) | Self::Container(ContainerCommand::Rm(args)) => args.run(root, out),
            Self::Container(ContainerCommand::Prune(args)) => args.run(root, out),
            Self::Container(ContainerCommand::Inspect(args)) => args.containers(root, out),
            Self::Image(ImageCommand::Inspect(args)) => args.images(root, out),
            Self::Inspect(args) => args.run(root, out),
            Self::Pull(args) | Self::Image(ImageCommand::Pull(args)) => {
                args.run(root, registries, out)
            }
            Self::Push(args) | Self::Image(ImageCommand::Push(args)) => {
                args.run(root, registries, out)
            }
            Self::Login(args) => args.run(registries, out),
            Self::Logout(args) => args.run(registries, out),
            Self::Search(args) => args.run(registries, out),
            Self::Manifest(ManifestCommand::Inspect(args)) => args.run(registries, out),
            Self::Squash(args) => args.run(root, out),
            Self::Images(args) | Self::Image(ImageCommand::Ls(args)) => args.run(root, out),
            Self::History(args) | Self::Image(ImageCommand::History(args)) => args.run(root, out),
            Self::Tag(args) | Self::Image(ImageCommand::Tag(args)) => args.run(root),
            Self::Rmi(args) | Self::Image(ImageCommand::Rm(args)) => args.run(root, out),
            Self::Save(args) | Self::Image(ImageCommand::Save(args)) => args.run(root),
            Self::Load(args) | Self::Image(ImageCommand::Load(args)) => args.run(root, out),
            Self::Import(args) | Self::Image(ImageCommand::Import(args)) => args.run(root, out),
            Self::Prune(args) | Self::Image(ImageCommand::Prune(args)) => args.run(root, out),
            Self::Verify(args) => args.run(root, out),
            Self::Repair(args) => args.run(root, out),
            Self::Volume(command) => command.run(root, out),
            Self::System(SystemCommand::Df(args)) => args.run(root, out),
            Self::System(SystemCommand::Events(args)) | Self::Events(args) => args.run(root, out),
            Self::System(SystemCommand::Info(args)) | Self::Info(args) => args.run(root, out),
            Self::System(SystemCommand::Prune(args)) => args.run(root, out),
            Self::Version(args) => args.run(out),
            Self::Completion(args) => args.run(out),
            Self::Insert(_) => retired::insert(),
        }
    }
}

fn run() -> Result<()> {
    let mut out = Output::new();
    let cli = match parse() {
        Ok(cli) => cli,
        Err(err) => return misused(&err, &mut out),
    };
    if cli.daemon {
        return Err(retired::daemon());
    }
    let Some(command) = cli.command else { return misused(&no_command(), &mut out) };
    let done = command.run(&cli.root, &cli.registries, &mut out);
    // What was printed before a failure is seen before it.
    let flushed = out.flush();
    done.and(flushed)
}

/// Of the commands, only the one that is used has its arguments made; what is told of a mistake, and help, wants them all.
fn parse() -> std::result::Result<Cli, clap::Error> {
    Cli::try_parse().or_else(|_| {
        let mut all = Cli::command();
        all.build();
        Cli::from_arg_matches(&all.try_get_matches()?)
    })
}

fn no_command() -> clap::Error {
    Cli::command().error(ErrorKind::MissingSubcommand, "a command is missing")
}

/// Help that was asked for, or a command line that makes no sense.
fn misused(err: &clap::Error, out: &mut Output) -> Result<()> {
    use ErrorKind as Kind;
    let text = err.render().to_string();
    let value = match err.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(value)) => value.as_str(),
        _ => "",
    };
    let status = match err.kind() {
        Kind::DisplayHelp
        | Kind::DisplayVersion
        | Kind::DisplayHelpOnMissingArgumentOrSubcommand => {
            out.text(&text)?;
            return out.flush();
        }
        // As docker has it: 125 for options, 1 for what is no command or not the number of arguments.
        Kind::InvalidSubcommand | Kind::MissingSubcommand | Kind::MissingRequiredArgument => 1,
        Kind::UnknownArgument if !value.starts_with('-') => 1,
        _ => USAGE,
    };
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    Err(Failure::with_status(status, text.trim_end()))
}

fn main() -> ExitCode {
    // Does not return in the process that looks after a container.
    coracle::monitor::run_if_requested();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            failure.status().into()
        }
    }
}
