//! Which containers this process runs, and who waits for their ends.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::id::ContainerId;
use super::running::Running;
use super::wait::Alert;

/// The containers that this process has started and that have not ended.
#[derive(Debug, Default)]
pub(super) struct Roster {
    running: Mutex<HashMap<ContainerId, Arc<Running>>>,
    /// One of those has ended.
    ended: Condvar,
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
    pub(super) fn remove(&self, id: &ContainerId) {
        self.running().remove(id);
    }

    /// Tells those who wait that a container has ended, and is [struck out](Self::remove).
    pub(super) fn tell_end(&self, id: &ContainerId) {
        self.ended.notify_all();
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

    /// Waits until one of them has ended, or for a moment; not at all if this one has.
    pub(super) fn wait_for_end(&self, id: &ContainerId, patience: Duration) {
        let running = self.running();
        if running.contains_key(id) {
            let _ = self.ended.wait_timeout(running, patience);
        }
    }
}
