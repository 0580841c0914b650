//! What `run` and `create` have in common: the image, and all that a container can be.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use coracle::Engine;
use coracle::container::{Config, Container, ContainerBuilder, NewContainer};
use coracle::image::{Platform, Reference};

use super::health::Checks;
use super::process::Process;
use super::resources::{Disks, Limits};
use super::restrictions::Restrictions;
use crate::failure::{Failure, Result};
use crate::output::note;
use crate::pull::Fetch;
use crate::registries::Registries;
use crate::root::Root;
use crate::transfers::Say;

#[derive(clap::Args)]
pub struct Options {
    /// Its name, which must be free; by default one is made up
    #[arg(long)]
    name: Option<String>,
    /// Write its id to this file, which must not be there yet
    #[arg(long, value_name = "FILE")]
    cidfile: Option<PathBuf>,
    /// Fetch the image from a registry: if it is not here, in any case, or never
    #[arg(long, value_enum, default_value = "missing", value_name = "WHEN")]
    pull: When,
    /// Say nothing of fetching it
    #[arg(short, long)]
    quiet: bool,
    /// Of an image for several platforms, this one's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    #[command(flatten)]
    pub process: Process,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    disks: Disks,
    #[command(flatten)]
    restrictions: Restrictions,
    #[command(flatten)]
    health: Checks,
    /// Print this
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// The image, by name, id or digest, and the command with its arguments instead of the image's
    // One list: whatever follows the image is the command's, even if it is an option of ours.
    #[arg(value_name = "IMAGE [COMMAND]", required = true, trailing_var_arg = true)]
    words: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum When {
    Missing,
    Always,
    Never,
}

impl Options {
    /// Fetches the image if need be, and makes the container, after what more there is to set.
    pub fn create(
        self,
        root: &Root,
        registries: &Registries,
        change: impl FnOnce(&mut Config),
    ) -> Result<Container> {
        self.made(root, registries, change, |builder| builder.create(), |made| made)
    }

    /// [`create`](Self::create), to be started at once.
    pub fn make(
        self,
        root: &Root,
        registries: &Registries,
        change: impl FnOnce(&mut Config),
    ) -> Result<NewContainer> {
        self.made(root, registries, change, |builder| builder.make(), NewContainer::container)
    }

    fn made<T>(
        self,
        root: &Root,
        registries: &Registries,
        change: impl FnOnce(&mut Config),
        make: impl FnOnce(ContainerBuilder) -> coracle::Result<T>,
        container: impl FnOnce(&T) -> &Container,
    ) -> Result<T> {
        let (image, command) = self.words.split_first().ok_or_else(|| Failure::new("no image"))?;
        let engine = self.engine(image, root, registries)?;
        let mut config = Config::default();
        config.resources = self.limits.resources()?;
        self.disks.apply(&mut config.resources)?;
        self.restrictions.apply(&mut config)?;
        self.process.apply(&engine, &mut config)?;
        config.health = self.health.check()?;
        config.image.clone_from(image);
        config.platform = self.platform.map(|platform| platform.to_string());
        config.command = command.to_vec();
        change(&mut config);
        let mut builder = engine.container_of(config);
        if let Some(name) = self.name {
            builder = builder.name(name);
        }
        let Some(path) = &self.cidfile else { return Ok(make(builder)?) };
        let mut file = OpenOptions::new().write(true).create_new(true).open(path);
        let file = file.as_mut().map_err(|err| cidfile(path, err))?;
        let made = make(builder).map_err(Failure::from);
        let written = made.and_then(|made| {
            file.write_all(container(&made).id().as_str().as_bytes())
                .map_err(|err| cidfile(path, &err))
                .map(|()| made)
        });
        if written.is_err() {
            let _ = std::fs::remove_file(path);
        }
        written
    }

    /// The engine, with the image in it. That it is fetched is told on standard error: the output is the command's.
    fn engine(&self, image: &str, root: &Root, registries: &Registries) -> Result<Engine> {
        match self.pull {
            When::Never => return root.engine(),
            When::Missing => match root.store_with(image, self.platform.as_ref()) {
                Err(failure) if failure.is_not_found() => {}
                store => return Ok(Engine::with(store?)?),
            },
            When::Always => {}
        }
        let reference: Reference = image.parse()?;
        if self.pull == When::Missing && !self.quiet {
            note(&format!("Unable to find image '{}' locally", reference.familiar()));
        }
        let registry = registries.client(reference.registry())?;
        let engine = root.engine_to_fill()?;
        let (store, platform) = (engine.store().clone(), self.platform.clone());
        let quiet = self.quiet;
        let fetch = Fetch { registry, store, platform, quiet };
        let say: Say = &mut |line| {
            note(line);
            Ok(())
        };
        let (_, newer) = fetch.run(&reference, say)?;
        if !quiet {
            say(&Fetch::status(&reference.familiar(), newer))?;
        }
        Ok(engine)
    }
}

fn cidfile(path: &Path, err: &std::io::Error) -> Failure {
    let failure = Failure::new(format!("write the id to {}: {err}", path.display()));
    match err.kind() {
        std::io::ErrorKind::AlreadyExists => failure
            .with_hint("another container may be known by it: remove that, and then the file"),
        _ => failure,
    }
}
