//! `search`: what there is in a registry.

use coracle::registry::{Search, SearchResult};

use crate::failure::{Failure, Result};
use crate::filter::Condition;
use crate::format::{Row, View};
use crate::output::Output;
use crate::registries::Registries;
use crate::retired::{Retired, retired};
use crate::template;

/// Look for images on Docker Hub, or in the registry that the term begins with
///
/// In a registry that cannot search, like most of today's, the names of its repositories are looked through.
#[derive(clap::Args)]
#[command(after_help = format!("{HELP}\n\n{}\n  The fields: .Name .Description .StarCount .IsOfficial .IsAutomated", template::HELP))]
pub struct Args {
    /// Only images that meet this condition, see below
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = Condition::parse)]
    filter: Vec<Condition>,
    /// How to print it, see below
    #[arg(long)]
    format: Option<String>,
    /// So many at the most, from 1 to 100
    #[arg(long, value_name = "N", default_value_t = 25)]
    limit: usize,
    /// Print descriptions in full
    #[arg(long)]
    no_trunc: bool,
    #[arg(short, long, hide = true, value_parser = retired("say --filter stars=N"))]
    stars: Option<Retired>,
    #[arg(short, long, alias = "automated", hide = true, num_args = 0..=1, default_missing_value = "", require_equals = true, value_parser = retired("say --filter is-automated=true or is-official=true"))]
    trusted: Option<Retired>,
    /// What to look for
    #[arg(value_name = "[REGISTRY/]TERM")]
    term: String,
}

const HELP: &str = "\
Filters (several of them must all be met):
  stars=N                  that so many users like
  is-official=true|false   official, or not
  is-automated=true|false  built by the registry, or not";

const VIEW: View = View {
    fields: &[
        ("Name", "NAME"),
        ("Description", "DESCRIPTION"),
        ("StarCount", "STARS"),
        ("IsOfficial", "OFFICIAL"),
        ("IsAutomated", "AUTOMATED"),
    ],
    default: "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}\t{{.IsAutomated}}",
};

/// So much of a description is shown.
const SHOWN: usize = 45;

impl Args {
    pub fn run(self, registries: &Registries, out: &mut Output) -> Result<()> {
        let registry = self.term.split_once('/').map_or("docker.io", |(first, _)| first);
        let mut search = registries.client(registry)?.search(&self.term).limit(self.limit);
        for condition in &self.filter {
            search = narrowed(search, condition)?;
        }
        let mut found = search.blocking()?;
        found.sort_by_key(|found| std::cmp::Reverse(found.stars));
        let rows = found.iter().map(|found| self.row(found)).collect();
        VIEW.print(self.format.as_deref(), rows, out)
    }

    fn row(&self, found: &SearchResult) -> Row {
        let description = found.description.replace(['\n', '\r', '\t'], " ");
        let mark = |yes| if yes { "[OK]".to_owned() } else { String::new() };
        vec![
            found.name.replace(['\n', '\r', '\t'], " "),
            if self.no_trunc { description } else { shortened(&description) },
            found.stars.to_string(),
            mark(found.official),
            mark(found.automated),
        ]
    }
}

fn shortened(text: &str) -> String {
    match text.chars().count() > SHOWN {
        true => text.chars().take(SHOWN - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

fn narrowed(search: Search, condition: &Condition) -> Result<Search> {
    let (name, value) = condition.parts();
    let wrong = || Failure::new(format!("invalid filter '{name}={value}'"));
    let yes = || match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(wrong()),
    };
    Ok(match name {
        "stars" => search.stars(value.parse().map_err(|_| wrong())?),
        "is-official" => search.official(yes()?),
        "is-automated" => search.automated(yes()?),
        _ => return Err(Failure::new(format!("invalid filter '{name}'"))),
    })
}
