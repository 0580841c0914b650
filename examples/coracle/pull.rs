//! `pull`: images from a registry.

use coracle::image::{Image, Platform, Reference, Store};
use coracle::registry::Registry;

use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::registries::Registries;
use crate::retired::{Retired, retired};
use crate::root::Root;
use crate::transfers::{Direction, Say, Transfer};

/// Fetch an image from a registry, unless it is here as it is there now
///
/// The layers come side by side, those that are here stay, and a connection that breaks goes on where it broke. The image
/// is there once all of it is.
#[derive(clap::Args)]
pub struct Args {
    /// Fetch all tags of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Show no progress, and print the name only
    #[arg(short, long)]
    quiet: bool,
    /// Of an image for several platforms, this one's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    #[arg(short, long, hide = true, value_parser = retired("say NAME:TAG, or --all-tags"))]
    tag: Option<Retired>,
    /// The image, by its name in a registry
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
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
        let store = root.engine_to_fill()?.store().clone();
        let (quiet, platform) = (self.quiet, self.platform);
        let say: Say = &mut |line| {
            out.line(line)?;
            out.flush()
        };
        let tags = match self.all_tags {
            true => registry.tags(reference.name()).blocking()?,
            false => Vec::new(),
        };
        if !quiet && !named && !self.all_tags {
            say("Using default tag: latest")?;
        }
        let fetch = Fetch { registry, store, platform, quiet };
        let (mut newer, name) = match self.all_tags {
            true => (false, reference.familiar_name()),
            false => (fetch.run(&reference, say)?.1, reference.familiar()),
        };
        for tag in tags {
            newer |= fetch.run(&reference.with_tag(&tag)?, say)?.1;
        }
        if !quiet {
            say(&Fetch::status(&name, newer))?;
        }
        say(&if self.all_tags { reference.name() } else { reference.to_string() })
    }
}

/// Whether a tag or digest stands in the name.
pub fn has_tag(name: &str, reference: &Reference) -> bool {
    let last = name.rsplit('/').next().unwrap_or_default();
    reference.digest().is_some() || last.contains(':')
}

/// Into which store, from where, and what is said meanwhile.
pub struct Fetch {
    pub registry: Registry,
    pub store: Store,
    pub platform: Option<Platform>,
    pub quiet: bool,
}

impl Fetch {
    /// Fetches one image. Returns whether it is another than was here.
    pub fn run(&self, reference: &Reference, say: Say) -> Result<(Image, bool)> {
        let name = reference.to_string();
        let before = self.here(&name).map(|image| image.digest());
        let which = match (reference.digest(), reference.tag()) {
            (Some(_), _) => reference.familiar(),
            (None, tag) => tag.unwrap_or_default().to_owned(),
        };
        let title = format!("{which}: Pulling from {}", reference.repository());
        let mut transfer = Transfer::new(Direction::Pull, self.quiet, Some(title));
        let image = transfer.watch(say, |progress| {
            let mut pull = self.registry.pull(&name, &self.store);
            if let Some(platform) = &self.platform {
                pull = pull.platform(platform.clone());
            }
            pull.on_progress(move |told| {
                let _ = progress.send(*told);
            })
            .blocking()
        })?;
        let newer = before != Some(image.digest());
        if !self.quiet {
            say(&format!("Digest: {}", image.digest()))?;
        }
        Ok((image, newer))
    }

    /// The line that says whether there was anything to do.
    pub fn status(name: &str, newer: bool) -> String {
        match newer {
            true => format!("Status: Downloaded newer image for {name}"),
            false => format!("Status: Image is up to date for {name}"),
        }
    }

    fn here(&self, name: &str) -> Option<Image> {
        let found = match &self.platform {
            Some(platform) => self.store.image_for(name, platform),
            None => self.store.image(name),
        };
        found.ok()
    }
}
