//! `save` and `load`: images out of the store and into one.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use coracle::ErrorKind;
use coracle::image::{Reference, Store};
use tempfile::NamedTempFile;

use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::progress::Bytes;
use crate::root::Root;

/// Save images to one tar archive, on standard output without --output
///
/// docker, podman, skopeo and others load it, and so does `coracle load`. A repository without a tag saves all of its
/// tags. The same images give the same bytes.
#[derive(clap::Args)]
pub struct SaveArgs {
    /// Images, by name, id or digest
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Write to this file; it is there once it is complete
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl SaveArgs {
    pub fn run(self, root: &Root) -> Result<()> {
        let engine = root.engine()?;
        let store = engine.store();
        let images = with_all_tags(store, &self.images)?;
        write_archive(self.output.as_deref(), |file| {
            store.save(&images, Bytes::new("saving", None, file))
        })
    }
}

/// The names, and instead of a repository all of its images.
fn with_all_tags(store: &Store, names: &[String]) -> Result<Vec<String>> {
    let images = store.images()?;
    let known = || images.iter().flat_map(|image| image.references());
    let mut all = Vec::new();
    for name in names {
        let tags = known().filter(|known| known.familiar_name() == *name || known.name() == *name);
        let tags: Vec<_> = tags.map(Reference::to_string).collect();
        match tags.is_empty() {
            true => all.push(name.clone()),
            false => all.extend(tags),
        }
    }
    Ok(all)
}

/// Writes to a file, which others see when it is complete, or to standard output.
fn write_archive(
    to: Option<&Path>,
    write: impl FnOnce(&mut dyn Write) -> coracle::Result<()>,
) -> Result<()> {
    let Some(path) = to else {
        let stdout = io::stdout();
        if stdout.is_terminal() {
            return Err(Failure::new("cowardly refusing to write an archive to a terminal")
                .with_hint("use the -o flag or redirect"));
        }
        // Past std's buffer, which is for lines.
        let mut file = File::from(stdout.as_fd().try_clone_to_owned()?);
        return Ok(write(&mut file)?);
    };
    let attempt = |err: io::Error| Failure::new(format!("write {}: {err}", path.display()));
    // A pipe or a device is written to, a file replaced.
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        let mut file = File::options().write(true).open(path).map_err(attempt)?;
        return Ok(write(&mut file)?);
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let mut file = NamedTempFile::new_in(directory.unwrap_or(Path::new("."))).map_err(attempt)?;
    write(&mut file)?;
    file.persist(path).map_err(|err| attempt(err.error))?;
    Ok(())
}

/// Export the files of a container or an image as one flat tar archive, on standard output without --output
///
/// Without layers, history and settings; `import` of any tool makes an image of it. The same files give the same bytes.
#[derive(clap::Args)]
pub struct ExportArgs {
    /// A container, by name or id; else an image, by name, id or digest
    #[arg(value_name = "CONTAINER|IMAGE")]
    name: String,
    /// Write to this file; it is there once it is complete
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl ExportArgs {
    pub fn run(self, root: &Root) -> Result<()> {
        let engine = root.engine()?;
        let container = match engine.find(&self.name) {
            Err(err) if err.kind() == ErrorKind::NotFound => None,
            other => Some(other?),
        };
        if let Some(container) = container {
            return write_archive(self.output.as_deref(), |file| {
                container.export(Bytes::new("exporting", None, file))
            });
        }
        let image = engine.store().image(&self.name)?;
        write_archive(self.output.as_deref(), |file| {
            image.export(Bytes::new("exporting", None, file)).map(drop)
        })
    }
}

/// Load images from a tar archive, of standard input without --input
///
/// What `docker save`, podman, buildah and skopeo write is read, compressed with gzip or zstd or not. Images get the names
/// that they have there. Nothing is loaded unless the archive is whole and each layer is what it should be.
#[derive(clap::Args)]
pub struct LoadArgs {
    /// Read this file
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

impl LoadArgs {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        let (archive, length) = open_archive(self.input.as_deref())?;
        let engine = root.engine_to_fill()?;
        let store = engine.store();
        let loaded = match self.quiet {
            true => store.load(archive)?,
            false => store.load(Bytes::new("loading", length, archive))?,
        };
        for loaded in loaded {
            if loaded.references.is_empty() {
                out.line(&format!("Loaded image ID: {}", loaded.image.id()))?;
            }
            for name in &loaded.references {
                out.line(&format!("Loaded image: {}", name.familiar()))?;
            }
        }
        Ok(())
    }
}

/// A file, or standard input, and how long it is if that is known.
pub fn open_archive(from: Option<&Path>) -> Result<(Box<dyn Read>, Option<u64>)> {
    let Some(path) = from else {
        let stdin = io::stdin().lock();
        if stdin.is_terminal() {
            return Err(Failure::new(
                "an archive is wanted on standard input, but that is a terminal",
            )
            .with_hint("name a file, or redirect"));
        }
        return Ok((Box::new(stdin), None));
    };
    let attempt = |err: io::Error| Failure::new(format!("read {}: {err}", path.display()));
    let file = File::open(path).map_err(attempt)?;
    let found = file.metadata().map_err(attempt)?;
    Ok((Box::new(file), found.is_file().then_some(found.len())))
}
