//! `volume`: directories that containers share, and that outlive them.

use coracle::container::Volume;
use coracle::{Engine, ErrorKind};
use serde_json::{Value, json};

use super::each_name;
use super::process::digits;
use crate::failure::{Failure, Result};
use crate::filter::Condition;
use crate::format::{Row, View};
use crate::human;
use crate::inspect;
use crate::output::Output;
use crate::prompt;
use crate::prune::{print_pruned, reclaimed_space};
use crate::root::Root;
use crate::template;

/// Manage volumes: directories that containers share, and that outlive them
#[derive(clap::Subcommand)]
pub enum Command {
    /// Make a volume, unless it is there, and print its name
    Create(CreateArgs),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Show all that there is to know about volumes, as a JSON array
    Inspect(InspectArgs),
    /// Remove volumes that no container mounts
    #[command(visible_alias = "remove")]
    Rm(RemoveArgs),
    /// Remove all volumes without a name that no container mounts
    Prune(PruneArgs),
}

#[derive(clap::Args)]
pub struct CreateArgs {
    /// Its name; by default it has none, but digits
    #[arg(value_name = "VOLUME")]
    name: Option<String>,
}

#[derive(clap::Args)]
#[command(after_help = format!("Filters: name=PART, dangling=true|false\n\n{}\n  The fields: .Driver .Name .Mountpoint .Scope", template::HELP))]
pub struct ListArgs {
    /// Only volumes that meet this condition, see below
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = Condition::parse)]
    filter: Vec<Condition>,
    /// How to print it, see below
    #[arg(long)]
    format: Option<String>,
    /// Print names only
    #[arg(short, long)]
    quiet: bool,
}

#[derive(clap::Args)]
pub struct InspectArgs {
    /// How to print it; 'json' prints JSON on one line
    #[arg(short, long)]
    format: Option<String>,
    /// Volumes, by name
    #[arg(value_name = "VOLUME", required = true)]
    volumes: Vec<String>,
}

#[derive(clap::Args)]
pub struct RemoveArgs {
    /// Do not fail if one is missing
    #[arg(short, long)]
    force: bool,
    /// Volumes, by name
    #[arg(value_name = "VOLUME", required = true)]
    volumes: Vec<String>,
}

#[derive(clap::Args)]
pub struct PruneArgs {
    /// Those with a name, too
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

const VIEW: View = View {
    fields: &[
        ("Driver", "DRIVER"),
        ("Name", "VOLUME NAME"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Scope", "SCOPE"),
    ],
    default: "{{.Driver}}\t{{.Name}}",
};

impl Command {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        let engine = root.engine()?;
        match self {
            Self::Create(CreateArgs { name }) => {
                let name = name.map_or_else(digits, Ok)?;
                out.line(engine.volume(&name)?.name())
            }
            Self::Ls(args) => args.run(&engine, out),
            Self::Inspect(args) => {
                let (mut found, mut missing) = (Vec::new(), Vec::new());
                for name in &args.volumes {
                    match engine.find_volume(name) {
                        Ok(volume) => found.push(described(&volume)),
                        Err(err) => missing.push(err.into()),
                    }
                }
                inspect::print(args.format.as_deref(), &found, &missing, out)
            }
            Self::Rm(args) => args.run(&engine, out),
            Self::Prune(args) => {
                let question = match args.all {
                    true => "WARNING! This will remove all volumes that no container mounts.",
                    false => {
                        "WARNING! This will remove anonymous volumes that no container mounts."
                    }
                };
                if !args.force && !prompt::agreed(question, out)? {
                    return Ok(());
                }
                let reclaimed = prune(&engine, args.all, out)?;
                reclaimed_space(reclaimed, out)
            }
        }
    }
}

impl ListArgs {
    fn run(self, engine: &Engine, out: &mut Output) -> Result<()> {
        let mut volumes = engine.volumes()?;
        for condition in &self.filter {
            match condition.parts() {
                ("name", part) => volumes.retain(|it| it.name().contains(part)),
                ("dangling", value @ ("true" | "1" | "false" | "0")) => {
                    let wanted = matches!(value, "true" | "1");
                    let mut kept = Vec::new();
                    for volume in volumes {
                        if volume.users()?.is_empty() == wanted {
                            kept.push(volume);
                        }
                    }
                    volumes = kept;
                }
                (name, value) => {
                    return Err(Failure::new(format!("invalid filter '{name}={value}'")));
                }
            }
        }
        let row = |it: &Volume| -> Row {
            let path = it.path().display().to_string();
            vec!["local".to_owned(), it.name().to_owned(), path, "local".to_owned()]
        };
        let format = if self.quiet { Some("{{.Name}}") } else { self.format.as_deref() };
        VIEW.print(format, volumes.iter().map(row).collect(), out)
    }
}

fn described(volume: &Volume) -> Value {
    let path = volume.path();
    let made = path.metadata().and_then(|it| it.modified()).ok();
    json!({
        "Name": volume.name(),
        "Driver": "local",
        "Mountpoint": path.display().to_string(),
        "CreatedAt": human::rfc3339(made),
        "Labels": null,
        "Options": null,
        "Scope": "local",
    })
}

impl RemoveArgs {
    fn run(self, engine: &Engine, out: &mut Output) -> Result<()> {
        each_name(&self.volumes, out, |name| {
            match engine.find_volume(name).and_then(Volume::remove) {
                Err(err) if self.force && err.kind() == ErrorKind::NotFound => Ok(None),
                removed => Ok(removed.map(|()| Some(name.to_owned()))?),
            }
        })
    }
}

/// Removes those that nobody mounts, and prints their names. Returns the bytes that they took.
pub fn prune(engine: &Engine, all: bool, out: &mut Output) -> Result<u64> {
    let nameless = |name: &str| name.len() == 64 && name.bytes().all(|it| it.is_ascii_hexdigit());
    let pruned = engine.prune_volumes(|it| all || nameless(it.name()))?;
    print_pruned("Deleted Volumes:", pruned, out)
}
