//! Containers that have a name: `diff`, `commit`, `rm`. What one has written lies in a directory in the store, and a
//! pin of its name keeps its image. They run in the foreground only: see `run`.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use coracle::image::{Image, Store};
use coracle::layers::Rootfs;

use crate::changes::Changes;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::progress::Spinner;
use crate::root::Root;

/// A container with a name.
pub struct Container {
    store: Store,
    name: String,
    image: Image,
}

impl Container {
    /// A new one. Its name must be free.
    pub fn create(store: &Store, name: &str, image: &Image) -> Result<Self> {
        let known = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(known) {
            return Err(Failure::new(format!(
                "invalid container name {name:?}: it must begin with a letter or digit, and `_`, `.` and `-` may follow"
            )));
        }
        if store.pins()?.iter().any(|(other, _)| other == name) {
            return Err(Failure::new(format!("the container name {name:?} is already in use"))
                .with_hint(format!("`coracle rm {name}` removes that container")));
        }
        store.pin(name, image)?;
        Ok(Self { store: store.clone(), name: name.to_owned(), image: image.clone() })
    }

    pub fn open(root: &Root, name: &str) -> Result<Self> {
        let store = root.store()?;
        if !store.pins()?.iter().any(|(other, _)| other == name) {
            return Err(Failure::new(format!("no such container: {name}")));
        }
        let image = store.pinned_image(name)?;
        Ok(Self { store, name: name.to_owned(), image })
    }

    /// Its root filesystem, with all that it has written.
    pub fn rootfs(&self) -> Result<Rootfs> {
        let directory = self.directory();
        if let Some(parent) = directory.parent() {
            match DirBuilder::new().mode(0o700).create(parent) {
                Err(err) if err.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Failure::new(format!("make {}: {err}", parent.display())));
                }
                _ => {}
            }
        }
        Ok(self.image.rootfs()?.writable(directory)?)
    }

    fn directory(&self) -> PathBuf {
        self.store.path().join("containers").join(&self.name)
    }

    pub fn remove(self) -> Result<()> {
        self.store.layers()?.remove_writable(self.directory())?;
        Ok(self.store.unpin(&self.name)?)
    }
}

/// List what a container has changed in its root filesystem, or what is different in an image from another one
///
/// A line for each path: A added, C changed, D deleted.
#[derive(clap::Args)]
pub struct DiffArgs {
    /// The name that `run --name` gave it; or, if there are two, an older image
    #[arg(value_name = "CONTAINER|IMAGE")]
    old: String,
    /// The newer image
    #[arg(value_name = "IMAGE")]
    new: Option<String>,
}

impl DiffArgs {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        let changes = match &self.new {
            Some(new) => {
                let store = root.store()?;
                let (old, new) = (store.image(&self.old)?, store.image(new)?);
                new.changes_since(&old)?
            }
            None => Container::open(root, &self.old)?.rootfs()?.changes()?,
        };
        changes.iter().try_for_each(|change| out.line(&change.to_string()))
    }
}

/// Make an image of what a container has changed
///
/// The image has one layer more than the container's. Prints its id.
#[derive(clap::Args)]
pub struct CommitArgs {
    /// The name that `run --name` gave it
    container: String,
    /// The name of the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
    /// Who made it: a name, perhaps with an address
    #[arg(short, long)]
    author: Option<String>,
    #[command(flatten)]
    changes: Changes,
}

impl CommitArgs {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        let changes = self.changes.read()?;
        let container = Container::open(root, &self.container)?;
        let rootfs = container.rootfs()?;
        let name = self.name.unwrap_or_default();
        let mut commit = container.store.commit(&rootfs, &name).parent(&container.image);
        commit = commit.changes(changes);
        if let Some(author) = self.author {
            commit = commit.author(author);
        }
        if let Some(time) = crate::changes::source_date()? {
            commit = commit.timestamp(time);
        }
        let image = {
            let _spinner = Spinner::new("committing");
            commit.run()?
        };
        out.line(&image.id().to_string())
    }
}

/// Remove containers, with all that they have written
#[derive(clap::Args)]
pub struct RemoveArgs {
    /// The names that `run --name` gave them
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

impl RemoveArgs {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        let mut failed = false;
        for name in &self.containers {
            match Container::open(root, name).and_then(Container::remove) {
                Ok(()) => out.line(name)?,
                Err(failure) => {
                    out.flush()?;
                    failure.print();
                    failed = true;
                }
            }
        }
        if failed { Err(Failure::told()) } else { Ok(()) }
    }
}
