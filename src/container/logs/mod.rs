//! What containers print, in files that other programs know.
//!
//! [`LogWriter`] writes the chunks that come out of a container's streams as lines with time and stream, and begins new
//! files by size ([`Rotation`]); [`Logs`] reads them: by time, by stream, the last ones, and those to come.
//!
//! ```
//! use std::time::SystemTime;
//! use coracle::container::logs::{Batch, Format, Logs, LogWriter, Rotation, Stream};
//!
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path();
//! let mut writer = LogWriter::open(dir, Format::Cri, Rotation::new().max_size(coracle::MIB).max_files(3))?;
//! writer.write(&mut Batch::new(), Stream::Stdout, SystemTime::now(), b"one\ntwo\nthree\n")?;
//! let last: Vec<String> =
//!     Logs::open(dir).tail(2).into_iter().map(|line| Ok(line?.to_string())).collect::<coracle::Result<_>>()?;
//! assert_eq!(last, ["two", "three"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # On disk
//!
//! A directory holds `container.log`, which grows, and `container.log.1`, `container.log.2` ..., the older the higher. A line is never
//! written in two files, and never in part but by a crash. Readers tell the [`Format`] by what they read, so
//! files of both may lie beside each other.

mod batch;
mod encode;
mod files;
mod format;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod line;
mod lines;
#[allow(clippy::module_inception, reason = "a file is named for its main type")]
mod logs;
mod record;
mod rotation;
mod seek;
mod sink;
mod source;
mod watch;
mod writer;

pub use batch::Batch;
pub(super) use files::{make_directory, missing_is_fine, open as open_file};
pub use format::{Format, Stream};
pub use line::Line;
pub use lines::Lines;
pub use logs::Logs;
pub(super) use logs::items;
pub use rotation::Rotation;
pub(super) use source::Source;
pub(super) use watch::Watch;
pub use writer::LogWriter;

/// A longer line is written in pieces of this many bytes, as docker and containerd do.
const LONGEST_PIECE: usize = 16 << 10;
/// The times in a file never go back further than this behind one that was written before: where the clock does, a new
/// file is begun. It is what makes it possible to search a file by time.
const MOST_DISORDER: std::time::Duration = std::time::Duration::from_secs(60);
