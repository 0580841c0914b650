//! `history`: how an image came about.

use clap::ArgAction;
use coracle::image::{Filter, Image, Platform, Step, Store};

use crate::failure::Result;
use crate::format::{Row, View};
use crate::human;
use crate::images::id;
use crate::output::Output;
use crate::root::Root;
use crate::template;

/// Show the history of an image
///
/// A line for each step, the last first. IMAGE is the image as it was after that step, if the store has it. SIZE
/// is that of the layer as it is stored and transferred: compressed.
#[derive(clap::Args)]
#[command(after_help = format!("{}\n  The fields: .ID .CreatedSince .CreatedAt .CreatedBy .Size .Comment", template::HELP))]
pub struct Args {
    /// The image, by name, id or digest
    image: String,
    /// How to print it, see below
    #[arg(long)]
    format: Option<String>,
    /// Print sizes and times for people; `--human=false`: bytes and points in time
    #[arg(short = 'H', long, action = ArgAction::Set, default_value_t = true, value_name = "BOOL")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    human: bool,
    /// Print ids and commands in full
    #[arg(long)]
    no_trunc: bool,
    /// Of an image for several platforms, this one's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
}

const VIEW: View = View {
    fields: &[
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ],
    default: "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
};
const IN_FIGURES: View =
    View { default: "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}", ..VIEW };
const LONGEST_COMMAND: usize = 45;

impl Args {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        let image = root.image(&self.image, self.platform.as_ref())?;
        let steps = image.history()?;
        let ids = ids(image.store(), &image, &steps, self.no_trunc)?;
        let rows = steps.iter().zip(ids).map(|(step, id)| self.row(step, id)).collect();
        match (self.quiet, self.human) {
            (true, _) => VIEW.print(Some("{{.ID}}"), rows, out),
            (_, true) => VIEW.print(self.format.as_deref(), rows, out),
            (_, false) => IN_FIGURES.print(self.format.as_deref(), rows, out),
        }
    }

    fn row(&self, step: &Step, id: String) -> Row {
        let mut command = step.created_by.replace(['\t', '\n'], " ");
        if !self.no_trunc && command.chars().count() > LONGEST_COMMAND {
            command = command.chars().take(LONGEST_COMMAND - 1).chain(['…']).collect();
        }
        let time = human::rfc3339(step.created);
        let (since, size) = match self.human {
            true => (human::since(step.created), human::size(step.size, 3)),
            false => (time.clone(), step.size.to_string()),
        };
        vec![id, since, time, command, size, step.comment.replace(['\t', '\n'], " ")]
    }
}

/// For each step the id of the image that it ended in.
fn ids(store: &Store, image: &Image, steps: &[Step], whole: bool) -> Result<Vec<String>> {
    let images = store.list(&Filter::new())?.images;
    let past: Vec<_> = images
        .iter()
        .filter(|other| image.diff_ids().starts_with(other.diff_ids()))
        .filter_map(|other| Some((other.history().ok()?, other)))
        .collect();
    let after = |number: usize| match number {
        0 => id(image, whole),
        _ => match past.iter().find(|(history, _)| history == &steps[number..]) {
            Some((_, image)) => id(image, whole),
            None => "<missing>".to_owned(),
        },
    };
    Ok((0..steps.len()).map(after).collect())
}
