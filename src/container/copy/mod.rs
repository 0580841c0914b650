//! Copying files out of and into containers.

mod host;
mod into;
mod out;
mod rules;
mod tree;

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;

pub use self::into::CopyIn;
pub use self::out::CopyOut;
use super::Container;
use crate::error::{Context, Result};
use crate::layers::{Ahead, Pack, Place, Placed};

impl Container {
    /// Copies files out of it, whether it runs or not: to the host, or as a tar archive.
    ///
    /// ```no_run
    /// # let engine = coracle::Engine::open_default()?;
    /// let web = engine.find("web")?;
    /// web.copy_out("/etc/nginx/nginx.conf").to("nginx.conf")?;
    /// web.copy_out("/var/log/nginx").tar(std::io::stdout())?;
    /// # Ok::<(), coracle::Error>(())
    /// ```
    pub fn copy_out(&self, path: impl AsRef<Path>) -> CopyOut<'_> {
        CopyOut(Request::new(self, path.as_ref()))
    }

    /// Copies files into it, whether it runs or not: from the host, or from a tar archive.
    ///
    /// ```no_run
    /// # let engine = coracle::Engine::open_default()?;
    /// let web = engine.find("web")?;
    /// web.copy_in("/usr/share/nginx/html").from("site/.")?;
    /// web.copy_in("/srv").tar(std::fs::File::open("data.tar.gz")?)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn copy_in(&self, path: impl AsRef<Path>) -> CopyIn<'_> {
        CopyIn(Request::new(self, path.as_ref()))
    }
}

/// What has been copied.
///
/// ```no_run
/// # let engine = coracle::Engine::open_default()?;
/// let copied = engine.find("web")?.copy_out("/etc").to("etc")?;
/// println!("{} files and directories", copied.entries);
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Copied {
    /// Files, directories and links.
    pub entries: u64,
    /// The length of them all as a tar archive.
    pub bytes: u64,
    /// Devices that were left out: root of the container may not make them, or they are not to be on the host.
    pub left_out: u64,
}

impl From<Placed> for Copied {
    fn from(placed: Placed) -> Self {
        let Placed { entries, bytes, left_out } = placed;
        Self { entries, bytes, left_out }
    }
}

/// What is to be copied, and how.
#[derive(Clone, Debug)]
struct Request<'a> {
    container: &'a Container,
    path: PathBuf,
    follow: bool,
    keep_ids: bool,
}

impl<'a> Request<'a> {
    fn new(container: &'a Container, path: &Path) -> Self {
        Self { container, path: path.into(), follow: false, keep_ids: false }
    }

    /// Says what has been done to the container.
    fn tell(&self, action: &str) {
        self.container.home().tell_of(self.container.id(), action, &[]);
    }
}

/// Packs what has a name in a directory, as `shown`, on a thread of its own, and places it.
fn pour(
    pack: &Pack<'_>,
    (directory, name): (&OwnedFd, &[u8]),
    shown: &[u8],
    place: &Place<'_>,
    into: OwnedFd,
) -> Result<Copied> {
    thread::scope(|scope| {
        let archive = Ahead::of_writer(scope, |writer| {
            Ok(pack.live(directory, OsStr::from_bytes(name), shown, writer).map(drop)?)
        });
        place.run(archive.context(|| "start a thread")?, into).map(Copied::from)
    })
}
