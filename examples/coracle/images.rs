//! `images`: what there is.

use std::collections::HashSet;

use coracle::Error;
use coracle::image::{Digest, Filter, Image, Reference, Tree};

use crate::failure::{Failure, Result};
use crate::filter::{self, Condition};
use crate::format::{Row, View};
use crate::human;
use crate::output::Output;
use crate::retired::{Retired, retired};
use crate::root::Root;
use crate::template;
use crate::tree;

/// List images
///
/// An image of several names is listed by each, one without a name as <none>. SIZE is that of what is stored
/// and transferred: layers are compressed.
#[derive(clap::Args)]
#[command(after_help = format!("{}\n\n{}\n  The fields: .ID .Repository .Tag .Digest .CreatedSince .CreatedAt .Size", filter::HELP, template::HELP))]
pub struct Args {
    /// Only images of this name; `*` stands for anything but a slash
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pattern: Option<String>,
    /// Show all images: those without a name, too, upon which others are built
    #[arg(short, long)]
    all: bool,
    /// Show digests, which registries know images by
    #[arg(long)]
    digests: bool,
    /// Only images that meet this condition, see below
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = Condition::parse)]
    filter: Vec<Condition>,
    /// How to print it, see below
    #[arg(long, conflicts_with = "tree")]
    format: Option<String>,
    /// Print ids in full
    #[arg(long)]
    no_trunc: bool,
    /// Print ids only
    #[arg(short, long, conflicts_with = "tree")]
    quiet: bool,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "", value_parser = retired("--tree shows the same"))]
    viz: Option<Retired>,
    /// Show which image is built upon which
    #[arg(long)]
    tree: bool,
}

const VIEW: View = View {
    fields: &[
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("Digest", "DIGEST"),
        ("ID", "IMAGE ID"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("Size", "SIZE"),
    ],
    default: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
};
const WITH_DIGESTS: View = View {
    default: "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
    ..VIEW
};

impl Args {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        let store = root.store()?;
        let mut filter = Filter::new();
        for condition in &self.filter {
            filter = condition.add_to(filter, &store)?;
        }
        if let Some(pattern) = &self.pattern {
            filter = filter.reference(pattern);
        }
        let mut listing = store.list(&filter)?;
        if self.tree {
            tree::print(&Tree::of(&listing.images), self.no_trunc, out)?;
            return complain(listing.damaged, out);
        }
        if !self.all && !self.filter.iter().any(|it| it.is("dangling")) {
            let between = intermediate(&store.list(&Filter::new())?.images);
            listing.images.retain(|image| !between.contains(&image.digest()));
        }
        let rows = listing.images.iter().flat_map(|image| rows(image, self.no_trunc)).collect();
        match (self.quiet, self.digests) {
            (true, _) => VIEW.print(Some("{{.ID}}"), rows, out)?,
            (_, true) => WITH_DIGESTS.print(self.format.as_deref(), rows, out)?,
            (_, false) => VIEW.print(self.format.as_deref(), rows, out)?,
        }
        complain(listing.damaged, out)
    }
}

/// Tells of the images that could not be listed.
pub fn complain(damaged: Vec<Error>, out: &mut Output) -> Result<()> {
    if damaged.is_empty() {
        return Ok(());
    }
    out.flush()?;
    damaged.into_iter().for_each(|err| Failure::from(err).print());
    Err(Failure::new("the list is not complete")
        .with_hint("`coracle verify` tells what is damaged, `coracle repair` drops it"))
}

/// Images without a name that others are built upon.
fn intermediate(images: &[Image]) -> HashSet<Digest> {
    fn collect(trees: &[Tree], found: &mut HashSet<Digest>) {
        for tree in trees {
            if tree.image.references().is_empty() && !tree.children.is_empty() {
                found.insert(tree.image.digest());
            }
            collect(&tree.children, found);
        }
    }
    let mut found = HashSet::new();
    collect(&Tree::of(images), &mut found);
    found
}

/// A line for each name.
fn rows(image: &Image, whole: bool) -> Vec<Row> {
    let row = |(repository, tag)| {
        vec![
            repository,
            tag,
            image.digest().to_string(),
            id(image, whole),
            human::since(image.created()),
            human::time(image.created()),
            human::size(image.size(), 3),
        ]
    };
    names(image).into_iter().map(row).collect()
}

/// Repository and tag of each name; of an image without, of what stands for it.
pub fn names(image: &Image) -> Vec<(String, String)> {
    let none = || "<none>".to_owned();
    let parts =
        |name: &Reference| (name.familiar_name(), name.tag().map_or_else(none, str::to_owned));
    match image.references() {
        [] => vec![(none(), none())],
        names => names.iter().map(parts).collect(),
    }
}

/// The id, in the twelve digits that are usually enough or in full.
pub fn id(image: &Image, whole: bool) -> String {
    if whole { image.id().to_string() } else { image.id().short() }
}
