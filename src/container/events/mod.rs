//! What happens to the containers, images and volumes of an engine, for every process that has its root directory open.
//!
//! [`Engine::events`](crate::Engine::events) reads and follows them:
//!
//! ```no_run
//! use coracle::Engine;
//!
//! let engine = Engine::open_default()?;
//! for event in engine.events().action("die").label("tier", "web") {
//!     let event = event?;
//!     println!("{} ended with {:?}", event.attributes["name"], event.exit_code());
//! }
//! # Ok::<(), coracle::Error>(())
//! ```
//!
//! Of images is told what is done through the engine's own [store](crate::Engine::store), and handles cloned from it.
//!
//! # On disk
//!
//! Events are lines of JSON in `containers/events/NUMBER`. A file is named for the number of its first event, counted from the first that
//! ever was, so that a reader who comes late knows how many he has missed. All of them are written by append and under one
//! lock, `containers/events.lock`; a file of a mebibyte gets a successor, and the last four are kept: at least the last
//! ten thousand events, unless they have large labels. Nothing is flushed to the disk: a failure of the machine takes the last ones along, the death of a
//! process does not.

mod event;
#[allow(clippy::module_inception, reason = "a file is named for its main type")]
mod events;
mod journal;
mod stream;
mod tell;

pub use event::{Event, EventKind};
pub use events::Events;
pub(super) use journal::Journal;
pub use stream::EventStream;
