//! `cp`: files out of and into containers.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use coracle::Engine;
use coracle::container::Copied;

use crate::failure::{Failure, Result};
use crate::human;
use crate::output::note;
use crate::root::Root;

/// Copy files between a container and the host
///
/// The container may run or not. A directory is copied with all that is in it: into one that is there, or to a new name;
/// `DIR/.` means only what is in it. Instead of a path of the host, `-` reads a tar archive from standard input, or writes one to
/// standard output. What is copied out is yours, what is copied in is root's.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Keep the ids of owners. Of files of containers, this keeps set-id bits too
    #[arg(short, long)]
    archive: bool,
    /// Copy what a symbolic link at SRC leads to, and not the link
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Do not say how much was copied, which is only said on a terminal
    #[arg(short, long)]
    quiet: bool,
    /// CONTAINER:PATH, a path of the host, or `-`
    #[arg(value_name = "SRC")]
    source: OsString,
    /// The other of both
    #[arg(value_name = "DEST")]
    destination: OsString,
}

const EXAMPLES: &str = "\
Examples:
  coracle cp web:/etc/nginx/nginx.conf .
  coracle cp site/. web:/usr/share/nginx/html
  coracle cp web:/var/log - | tar -t";

/// What an argument names.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// The path in a container.
    Container(String, OsString),
    Host(OsString),
}

impl Place {
    /// As docker: a colon makes a container of what is before it, unless that begins like a path.
    fn parse(argument: OsString) -> Self {
        let bytes = argument.as_bytes();
        let colon = bytes.iter().position(|&byte| byte == b':');
        let Some(colon) = colon.filter(|_| !bytes.starts_with(b"/") && !bytes.starts_with(b"."))
        else {
            return Self::Host(argument);
        };
        let name = String::from_utf8_lossy(&bytes[..colon]).into_owned();
        Self::Container(name, OsString::from_vec(bytes[colon + 1..].to_vec()))
    }
}

impl Args {
    pub fn run(self, root: &Root) -> Result<()> {
        let shown = self.destination.to_string_lossy().into_owned();
        let quiet = self.quiet || !io::stdout().is_terminal();
        for (argument, which) in [(&self.source, "source"), (&self.destination, "destination")] {
            if argument.is_empty() {
                return Err(Failure::new(format!("{which} can not be empty")));
            }
        }
        let engine = || root.engine();
        let (keep, follow) = (self.archive, self.follow_link);
        let copied = match (Place::parse(self.source), Place::parse(self.destination)) {
            (Place::Container(name, path), Place::Host(to)) => {
                out(&engine()?, &name, Path::new(&path), &to, (keep, follow))?
            }
            (Place::Host(from), Place::Container(name, path)) => {
                into(&engine()?, &name, Path::new(&path), &from, (keep, follow))?
            }
            (Place::Container(..), Place::Container(..)) => {
                return Err(Failure::new("copying between containers is not supported").with_hint(
                    "copy to the host first, or through a pipe: cp ONE:PATH - | cp - OTHER:PATH",
                ));
            }
            (Place::Host(_), Place::Host(_)) => {
                return Err(Failure::new("must specify at least one container source")
                    .with_hint("write CONTAINER:PATH for what is in a container"));
            }
        };
        if copied.left_out > 0 {
            note(&format!("{} devices were left out", copied.left_out));
        }
        if !quiet {
            let size = human::size(copied.bytes, 3);
            note(&format!("Successfully copied {size} to {shown}"));
        }
        Ok(())
    }
}

fn out(
    engine: &Engine,
    name: &str,
    path: &Path,
    to: &OsString,
    (keep, follow): (bool, bool),
) -> Result<Copied> {
    let container = engine.find(name)?;
    let copy = container.copy_out(path).keep_ids(keep).follow_link(follow);
    Ok(match to.as_bytes() {
        b"-" => copy.tar(io::stdout())?,
        _ => copy.to(to)?,
    })
}

fn into(
    engine: &Engine,
    name: &str,
    path: &Path,
    from: &OsString,
    (keep, follow): (bool, bool),
) -> Result<Copied> {
    let container = engine.find(name)?;
    let copy = container.copy_in(path).keep_ids(keep).follow_link(follow);
    Ok(match from.as_bytes() {
        b"-" => copy.tar(io::stdin())?,
        _ => copy.from(from)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_makes_a_container_unless_it_is_a_path() {
        let container = |name: &str, path: &str| Place::Container(name.into(), path.into());
        for (argument, expected) in [
            ("web:/etc", container("web", "/etc")),
            ("web:", container("web", "")),
            ("web:a:b", container("web", "a:b")),
            ("./web:/etc", Place::Host("./web:/etc".into())),
            ("/a:b", Place::Host("/a:b".into())),
            ("file", Place::Host("file".into())),
            ("-", Place::Host("-".into())),
        ] {
            assert_eq!(Place::parse(argument.into()), expected, "{argument}");
        }
    }
}
