//! Which containers this process runs, and who waits for their ends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::id::ContainerId;
use super::running::Running;
use super::wait::Alert;

/// The containers that this process has started and that have not ended.
#[derive(Debug, Default)]
pub(super) struct Roster {
    running: Mutex<HashMap<ContainerId, Arc<Running>>>,
    /// How many have been [told](Self::tell_end) to have ended.
    ends: AtomicU64,
    /// Tasks that wait for that.
    alerts: Mutex<HashMap<ContainerId, Vec<Weak<Alert>>>>,
}

impl Roster {
    fn running(&self) -> MutexGuard<'_, HashMap<ContainerId, Arc<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The container as this process runs it.
    pub(super) fn get(&self, id: &ContainerId) -> Option<Arc<Running>> {
        self.running().get(id).cloned()
    }

    pub(super) fn add(&self, id: &ContainerId, running: &Arc<Running>) {
        self.running().insert(id.clone(), running.clone());
    }

    /// Strikes out one that has ended, which is written down.
    pub(super) fn remove(&self, id: &ContainerId) -> Option<Arc<Running>> {
        self.running().remove(id)
    }

    /// How many ends have been told. As long as that grows, the engine's thread goes on.
    pub(super) fn ends(&self) -> u64 {
        self.ends.load(Ordering::Relaxed)
    }

    /// Tells those who wait that a container has ended, and is [struck out](Self::remove).
    pub(super) fn tell_end(&self, id: &ContainerId, struck_out: Option<&Running>) {
        self.ends.fetch_add(1, Ordering::Relaxed);
        if let Some(running) = struck_out {
            running.tell_recorded();
        }
        let mut alerts = self.alerts.lock().unwrap_or_else(PoisonError::into_inner);
        // It may be started anew, and who waits goes on doing so.
        let waiting = alerts.get(id).cloned().unwrap_or_default();
        alerts.retain(|_, alerts| {
            alerts.retain(|alert| alert.strong_count() > 0);
            !alerts.is_empty()
        });
        drop(alerts);
        waiting.iter().filter_map(Weak::upgrade).for_each(|alert| alert.wake());
    }

    /// Has a task woken whenever the container has ended that this process looks after.
    pub(super) fn alert_at_end(&self, id: &ContainerId, alert: &Arc<Alert>) {
        let mut alerts = self.alerts.lock().unwrap_or_else(PoisonError::into_inner);
        let alerts = alerts.entry(id.clone()).or_default();
        alerts.retain(|alert| alert.strong_count() > 0);
        alerts.push(Arc::downgrade(alert));
    }
}
