//! Telling that processes were killed because memory ran out: at once where it is limited, otherwise at the end.

use std::time::Duration;

use super::lock_attempt::LockAttempt;
use super::poller::{Poller, Token};
use super::supervision::{Alarm, Supervision};
use super::task::Slot;
use crate::cgroups::OomWatch;
use crate::error::Result;

/// On cgroup v1 the kernel tells before it kills, and first writes in its log, which may take a while. So it is looked again
/// after this time, and after pauses that are twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// Whoever is killed later is told of at the next notice, or at the end.
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// What is known of a container's want of memory.
#[derive(Debug, Default)]
pub(super) struct Memory {
    watch: Option<OomWatch>,
    /// How many had been killed when it was told the last time.
    pub(super) told: u64,
    pub(super) ran_out: bool,
    /// How often the kernel has said that memory has run out.
    notices: u32,
}

impl Memory {
    pub(super) fn watch(
        &mut self,
        watch: Option<OomWatch>,
        poller: &Poller,
        token: Token,
    ) -> Result<()> {
        if let Some(watch) = &watch {
            poller.add(watch, watch.flags(), token)?;
        }
        self.watch = watch;
        Ok(())
    }

    /// The number of one more notice.
    fn notice(&mut self) -> u32 {
        self.notices = self.notices.wrapping_add(1);
        self.notices
    }

    pub(super) fn end(&mut self, poller: &Poller) {
        if let Some(watch) = self.watch.take() {
            poller.remove(&watch);
        }
    }
}

impl Supervision {
    /// The kernel says that memory has run out.
    pub(super) fn memory_ran_out(&mut self, number: u32) {
        let Some(task) = self.tasks.get_mut(&number) else { return };
        let memory = &mut task.memory;
        match memory.watch.as_mut().map(OomWatch::has_happened) {
            Some(Ok(true)) => {
                let notice = memory.notice();
                self.look_for_killed(number, notice, FIRST_PAUSE);
            }
            Some(Err(_)) => memory.end(&self.poller),
            Some(Ok(false)) | None => {}
        }
    }

    /// Its limits were changed: its memory may be limited now.
    pub(super) fn limits_changed(&mut self, number: u32) {
        let Some(task) = self.tasks.get_mut(&number) else { return };
        let token = task.token(Slot::Memory);
        if task.memory.watch.is_some() {
            return;
        }
        if let Ok(watch) = task.running.watch_oom()
            && task.memory.watch(watch, &self.poller, token).is_ok()
        {
            // It may have happened before.
            let notice = task.memory.notice();
            self.look_for_killed(number, notice, FIRST_PAUSE);
        }
    }

    /// Tells of those who were killed, and looks for more after `pause` unless another notice comes.
    pub(super) fn look_for_killed(&mut self, number: u32, notice: u32, pause: Duration) {
        let Some(task) = self.tasks.get_mut(&number) else { return };
        if task.memory.notices != notice {
            return;
        }
        let kills = task.running.oom_kills();
        if kills > task.memory.told {
            match LockAttempt::lock(&task.container) {
                LockAttempt::Later(later) => {
                    return self.alarm(later, Alarm::LookForKilled(number, notice, pause));
                }
                LockAttempt::Locked(mut locked) => {
                    (task.memory.told, task.memory.ran_out) = (kills, true);
                    locked.ran_out_of_memory();
                }
                LockAttempt::Gone => return,
            }
        }
        if pause <= LAST_PAUSE {
            self.alarm(pause, Alarm::LookForKilled(number, notice, pause * 2));
        }
    }
}
