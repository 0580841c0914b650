//! `verify` and `repair`: whether everything is as it was stored.

use coracle::image::{Store, Verified};

use crate::failure::{Failure, Result};
use crate::human;
use crate::output::Output;
use crate::progress::Spinner;
use crate::root::Root;

/// Read everything in the store, and tell what is damaged
///
/// A line for each damage, with the images that need what is damaged. Unpacked layers are unpacked once more, and compared.
/// Nothing is changed. The exit status is 1 if anything is damaged.
#[derive(clap::Args)]
pub struct Args {
    /// Print nothing but damages
    #[arg(short, long)]
    quiet: bool,
}

/// Drop what is damaged, and only that
///
/// Images that cannot be without it go with it; loading one again brings it back. An unpacked layer is unpacked again when it
/// is needed.
#[derive(clap::Args)]
pub struct RepairArgs {}

impl Args {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        let store = root.store()?;
        let verified = {
            let _spinner = Spinner::new("reading everything");
            store.verify()?
        };
        list(&verified, out)?;
        if !self.quiet {
            out.line(&summary(&store, &verified))?;
        }
        if verified.is_sound() {
            return Ok(());
        }
        out.flush()?;
        let count = verified.damage.len();
        Err(Failure::new(format!("the store is damaged in {count} {}", places(count)))
            .with_hint("`coracle repair` drops what is damaged, and only that"))
    }
}

impl RepairArgs {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        let store = root.store()?;
        let repaired = {
            let _spinner = Spinner::new("reading everything");
            store.repair()?
        };
        list(&repaired.found, out)?;
        for image in &repaired.images {
            out.line(&format!("Deleted: {image}"))?;
        }
        if repaired.layers > 0 {
            out.line(&format!("Deleted unpacked layers: {}", repaired.layers))?;
        }
        if let Some(name) = &repaired.kept_index {
            out.line(&format!("The damaged index is kept as {name}"))?;
        }
        out.line(&summary(&store, &repaired.found))
    }
}

fn list(verified: &Verified, out: &mut Output) -> Result<()> {
    verified.damage.iter().try_for_each(|damage| out.line(&format!("Damaged: {damage}")))?;
    verified.unchecked.iter().try_for_each(|err| out.line(&format!("Not checked: {err:#}")))
}

fn summary(store: &Store, verified: &Verified) -> String {
    let found = match verified.damage.len() {
        0 => "all is well".to_owned(),
        count => format!("damage in {count} {}", places(count)),
    };
    let Verified { blobs, bytes, images, layers, .. } = verified;
    let (bytes, path) = (human::size(*bytes, 4), store.path().display());
    let layers = match layers {
        0 => String::new(),
        layers => format!(", {layers} unpacked layers"),
    };
    format!("{path}: {images} images, {blobs} blobs, {bytes} read{layers}: {found}")
}

fn places(count: usize) -> &'static str {
    if count == 1 { "place" } else { "places" }
}
