//! `push`: images into a registry.

use coracle::image::{Platform, Reference, Store};
use coracle::registry::Registry;

use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::pull::has_tag;
use crate::registries::Registries;
use crate::root::Root;
use crate::transfers::{Direction, Say, Transfer};

/// Send an image to the registry that its name names
///
/// Only what the registry does not have is sent. The tag comes last, so that the registry never shows half an image.
#[derive(clap::Args)]
pub struct Args {
    /// Send all tags of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Show no progress, and print the name only
    #[arg(short, long)]
    quiet: bool,
    /// Of an image for several platforms, only this one's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// The image, by its name
    #[arg(value_name = "NAME[:TAG]")]
    name: String,
}

impl Args {
    pub fn run(self, root: &Root, registries: &Registries, out: &mut Output) -> Result<()> {
        let reference: Reference = self.name.parse()?;
        let named = has_tag(&self.name, &reference);
        if self.all_tags && named {
            return Err(Failure::new("tag can't be used with --all-tags/-a"));
        }
        let registry = registries.client(reference.registry())?;
        let store = root.engine()?.store().clone();
        let say: Say = &mut |line| {
            out.line(line)?;
            out.flush()
        };
        if !self.quiet {
            if !named && !self.all_tags {
                say("Using default tag: latest")?;
            }
            say(&format!("The push refers to repository [{}]", reference.name()))?;
        }
        match self.all_tags {
            false => self.send(&registry, &store, &reference, say)?,
            true => {
                let tags = all_tags(&store, &reference)?;
                tags.iter().try_for_each(|tag| self.send(&registry, &store, tag, say))?;
            }
        }
        match (self.quiet, self.all_tags) {
            (true, true) => say(&reference.name()),
            (true, false) => say(&reference.to_string()),
            (false, _) => Ok(()),
        }
    }

    fn send(
        &self,
        registry: &Registry,
        store: &Store,
        reference: &Reference,
        say: Say,
    ) -> Result<()> {
        let name = reference.to_string();
        let mut transfer = Transfer::new(Direction::Push, self.quiet, None);
        let pushed = transfer.watch(say, |progress| {
            let mut push = registry.push(store, &name, &name);
            if let Some(platform) = &self.platform {
                push = push.platform(platform.clone());
            }
            push.on_progress(move |told| {
                let _ = progress.send(*told);
            })
            .blocking()
        })?;
        if self.quiet {
            return Ok(());
        }
        for platform in &pushed.left_out {
            say(&format!("{platform}: not here, and not pushed"))?;
        }
        let (which, size) = (reference.tag().unwrap_or_default(), pushed.descriptor.size());
        say(&format!("{which}: digest: {} size: {size}", pushed.digest))
    }
}

/// All that the store has of a repository.
fn all_tags(store: &Store, reference: &Reference) -> Result<Vec<Reference>> {
    let images = store.images()?;
    let names = images.iter().flat_map(|image| image.references());
    let names = names.filter(|it| it.name() == reference.name() && it.tag().is_some());
    let mut names: Vec<_> = names.cloned().collect();
    names.sort();
    match names.is_empty() {
        false => Ok(names),
        true => Err(Failure::new(format!(
            "an image does not exist locally with the tag: {}",
            reference.familiar_name()
        ))),
    }
}
