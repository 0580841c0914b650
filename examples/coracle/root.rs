//! Where the store is.

use std::env;
use std::fs;
use std::path::PathBuf;

use clap::Args;
use coracle::image::{Image, Platform, Store};
use coracle::{Engine, ErrorKind};

use crate::failure::{Failure, Result};

#[derive(Args)]
pub struct Root {
    /// The directory of the store, an OCI image layout; by default $CORACLE_ROOT, /var/lib/coracle for root, for others
    /// $XDG_DATA_HOME/coracle or ~/.local/share/coracle
    #[arg(long = "root", value_name = "DIR", global = true, display_order = 900)]
    dir: Option<PathBuf>,
}

impl Root {
    /// The store. The usual one is made if it is missing; one that was named must be there, so that a slip of the
    /// fingers makes none.
    pub fn store(&self) -> Result<Store> {
        match self.named() {
            Some(dir) => Store::open_existing(dir).map_err(|err| {
                let missing = err.kind() == ErrorKind::NotFound;
                match Failure::from(err) {
                    failure if missing => failure.with_hint(
                        "`coracle load` and `coracle import` make a store, if one is wanted there",
                    ),
                    failure => failure,
                }
            }),
            None => self.new_store(),
        }
    }

    fn new_store(&self) -> Result<Store> {
        match self.named() {
            Some(dir) => Ok(Store::open(dir)?),
            None => {
                let dir = usual_place()?;
                // Store::open makes the last directory, with the rights that it wants.
                if let Some(parent) = dir.parent() {
                    fs::create_dir_all(parent).map_err(|err| {
                        Failure::new(format!("make the directory {}: {err}", parent.display()))
                    })?;
                }
                Ok(Store::open(dir)?)
            }
        }
    }

    /// The engine: the containers beside the images. What is done to images through its store is told as an event.
    pub fn engine(&self) -> Result<Engine> {
        Ok(Engine::with(self.store()?)?)
    }

    /// The engine, whose directory is made if it is missing.
    pub fn engine_to_fill(&self) -> Result<Engine> {
        Ok(Engine::with(self.new_store()?)?)
    }

    fn named(&self) -> Option<PathBuf> {
        let variable = || env::var_os("CORACLE_ROOT").filter(|dir| !dir.is_empty());
        self.dir.clone().or_else(|| variable().map(PathBuf::from))
    }

    /// An image in the store; of several platforms the given one, or the host's.
    pub fn image(&self, name: &str, platform: Option<&Platform>) -> Result<Image> {
        image(&self.store()?, name, platform)
    }

    /// The store, if this image is in it.
    pub fn store_with(&self, name: &str, platform: Option<&Platform>) -> Result<Store> {
        let store = self.store()?;
        image(&store, name, platform)?;
        Ok(store)
    }
}

fn image(store: &Store, name: &str, platform: Option<&Platform>) -> Result<Image> {
    Ok(match platform {
        Some(platform) => store.image_for(name, platform)?,
        None => store.image(name)?,
    })
}

fn usual_place() -> Result<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/coracle"));
    }
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
    let data = data.ok_or_else(|| {
        Failure::new("there is no $HOME to keep a store in: name a directory with --root")
    })?;
    Ok(data.join("coracle"))
}
