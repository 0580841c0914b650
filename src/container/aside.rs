//! A cgroup that is made while its container's root filesystem is.

use std::sync::mpsc::{Receiver, sync_channel};

use super::config::Config;
use super::id::ContainerId;
use super::launch;
use super::supervisor::{Job, Supervisor};
use crate::cgroups::Cgroup;
use crate::error::Result;

/// A cgroup that another thread is about to make, or has made. If nobody takes it, it goes again.
#[derive(Debug)]
pub(super) struct CgroupAside(Receiver<Result<Option<Cgroup>>>);

impl CgroupAside {
    /// `None` if the thread cannot do it.
    pub(super) fn begin(
        supervisor: &Supervisor,
        config: &Config,
        id: &ContainerId,
    ) -> Option<Self> {
        let (sender, made) = sync_channel(1);
        let (config, id) = (config.clone(), id.clone());
        let job = Job::new(move || {
            let _ = sender.send(launch::cgroup(&config, &id));
        });
        supervisor.work(job).ok().map(|()| Self(made))
    }

    /// Waits for it. `None` if the thread has ended.
    pub(super) fn take(self) -> Option<Result<Option<Cgroup>>> {
        self.0.recv().ok()
    }
}

impl Drop for CgroupAside {
    fn drop(&mut self) {
        // After `take` nothing comes any more.
        if let Ok(Ok(Some(cgroup))) = self.0.recv() {
            let paths = cgroup.paths();
            drop(cgroup);
            launch::remove_cgroups_above(&paths);
        }
    }
}
