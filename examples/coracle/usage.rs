//! `system df`: what takes the space.

use coracle::image::{ImageUsage, Usage};

use crate::failure::Result;
use crate::format::{Row, View};
use crate::human;
use crate::images::{complain, id, names};
use crate::output::Output;
use crate::root::Root;
use crate::template;

/// Show what takes the space
///
/// Images that share layers are counted once. Layers are unpacked for the first container that needs them, beside the
/// images. RECLAIMABLE is what removing all images that nothing uses would free; garbage is what the next `prune` frees
/// anyway.
#[derive(clap::Args)]
#[command(after_help = format!("{}\n  The fields: .Type .TotalCount .Active .Size .Reclaimable", template::HELP))]
pub struct Args {
    /// How to print it, see below
    #[arg(long, conflicts_with = "verbose")]
    format: Option<String>,
    /// Show every image: what it shares, and what it has for itself
    #[arg(short, long)]
    verbose: bool,
}

const SUMMARY: View = View {
    fields: &[
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ],
    default: "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
};

const DETAILS: View = View {
    fields: &[
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("ID", "IMAGE ID"),
        ("CreatedSince", "CREATED"),
        ("Size", "SIZE"),
        ("UnpackedSize", "UNPACKED"),
        ("SharedSize", "SHARED SIZE"),
        ("UniqueSize", "UNIQUE SIZE"),
        ("Containers", "CONTAINERS"),
    ],
    default: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.UnpackedSize}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}",
};

impl Args {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        let usage = root.store()?.usage()?;
        if self.verbose {
            out.line("Images space usage:\n")?;
            DETAILS.print(None, usage.images.iter().flat_map(details).collect(), out)?;
        } else {
            SUMMARY.print(self.format.as_deref(), summary(&usage), out)?;
        }
        complain(usage.damaged, out)
    }
}

fn summary(usage: &Usage) -> Vec<Row> {
    let active = usage.images.iter().filter(|image| !image.pins.is_empty()).count();
    let needed = usage.total - usage.garbage;
    let row = |kind: &str, count: Option<[usize; 2]>, size: u64, reclaimable: u64| {
        let [total, active] =
            count.map_or(["-".to_owned(), "-".to_owned()], |count| count.map(|it| it.to_string()));
        vec![kind.to_owned(), total, active, human::size(size, 4), share(reclaimable, size)]
    };
    let garbage = usage.garbage.bytes();
    vec![
        row("Images", Some([usage.images.len(), active]), needed.blobs, usage.reclaimable.blobs),
        row("Unpacked layers", None, needed.layers, usage.reclaimable.layers),
        row("Garbage", None, garbage, garbage),
    ]
}

fn details(usage: &ImageUsage) -> Vec<Row> {
    let row = |(repository, tag)| {
        vec![
            repository,
            tag,
            id(&usage.image, false),
            human::since(usage.image.created()),
            human::size(usage.size.blobs, 3),
            human::size(usage.size.layers, 3),
            human::size(usage.shared.bytes(), 3),
            human::size(usage.unique.bytes(), 3),
            usage.pins.len().to_string(),
        ]
    };
    names(&usage.image).into_iter().map(row).collect()
}

fn share(part: u64, of: u64) -> String {
    let percent = (part * 100).checked_div(of);
    let bytes = human::size(part, 4);
    percent.map_or(bytes.clone(), |percent| format!("{bytes} ({percent}%)"))
}
