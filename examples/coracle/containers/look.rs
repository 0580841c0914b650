//! `diff`, `top` and `port`: a look into containers.

use std::process::Command;

use crate::failure::{Failure, Result};
use crate::format::tabulate;
use crate::output::Output;
use crate::root::Root;

/// List what a container has changed in its root filesystem, or what is different in an image from another one
///
/// A line for each path: A added, C changed, D deleted.
#[derive(clap::Args)]
pub struct DiffArgs {
    /// A container, by name or id; or, if there are two, an older image
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
            None => root.engine()?.find(&self.old)?.changes()?,
        };
        changes.iter().try_for_each(|change| out.line(&change.to_string()))
    }
}

/// List the processes of a container, as ps(1) of the host shows them
#[derive(clap::Args)]
#[command(after_help = "Example:\n  coracle top web -o pid,rss,args")]
pub struct TopArgs {
    /// The container, by name, id, or the beginning of its id
    container: String,
    /// Options of ps(1), -ef by default; its output must have the column PID
    #[arg(value_name = "OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

impl TopArgs {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        let container = root.engine()?.find(&self.container)?;
        let processes = container.processes()?;
        let mut ps = Command::new("ps");
        if self.options.is_empty() {
            ps.arg("-ef");
        } else {
            ps.args(&self.options);
        }
        let output = ps.output().map_err(|err| Failure::new(format!("run ps: {err}")))?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(Failure::new(format!("ps: {}", why.lines().next().unwrap_or("failed"))));
        }
        let mut lines = text.lines();
        let titles: Vec<_> = lines.next().unwrap_or_default().split_whitespace().collect();
        let column = titles.iter().position(|title| *title == "PID");
        let column = column.ok_or_else(|| Failure::new("the output of ps has no column PID"))?;
        let mut rows = vec![titles.join("\t")];
        for line in lines {
            // The last column may have blanks in it.
            let mut fields: Vec<_> = line.split_whitespace().collect();
            let pid = fields.get(column).and_then(|pid| pid.parse::<u32>().ok());
            if pid.is_some_and(|pid| processes.contains(&pid)) {
                let last = fields.split_off(fields.len().min(titles.len() - 1)).join(" ");
                fields.push(&last);
                rows.push(fields.join("\t"));
            }
        }
        out.line(&tabulate(rows.into_iter()))
    }
}

/// List the ports of a container that are published: none, as it has no network of its own yet
#[derive(clap::Args)]
pub struct PortArgs {
    /// The container, by name, id, or the beginning of its id
    container: String,
    /// Only this one
    #[arg(value_name = "PORT[/PROTOCOL]")]
    port: Option<String>,
}

impl PortArgs {
    pub fn run(self, root: &Root) -> Result<()> {
        let container = root.engine()?.find(&self.container)?;
        match self.port {
            Some(port) => Err(Failure::new(format!(
                "no public port '{port}' published for {}",
                container.name()?
            ))),
            None => Ok(()),
        }
    }
}
