//! Blobs on their way into a store: one pull of this process fetches each, others wait for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::image::Digest;

type Turn = tokio::sync::Mutex<()>;

static FLIGHTS: Mutex<BTreeMap<(PathBuf, Digest), Weak<Turn>>> = Mutex::new(BTreeMap::new());

/// What to lock to be the one who fetches a blob. Whoever waited for it looks into the store first: the one before may
/// have been broken off.
pub(super) fn of(store: &Path, digest: Digest) -> Arc<Turn> {
    let mut flights = FLIGHTS.lock().unwrap_or_else(PoisonError::into_inner);
    flights.retain(|_, turn| turn.strong_count() > 0);
    let place = flights.entry((store.to_owned(), digest)).or_default();
    place.upgrade().unwrap_or_else(|| {
        let turn = Arc::new(Turn::default());
        *place = Arc::downgrade(&turn);
        turn
    })
}
