//! Which descriptors the program finds open, and how many it may have.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;

use nix::sys::resource::{Resource as Raw, getrlimit};

use super::Builder;
use crate::error::{Context, Result};
use crate::namespaces::{Resource, Rlimit};
use crate::sys::plan::{Slot, Step};
use crate::sys::spawn::close_range_missing;

impl Builder<'_> {
    /// What a later step takes away is raised here, where that is allowed: a hard limit above the host's.
    ///
    /// The limit itself has to wait until the host's descriptors are to be closed: the child has a copy of them all,
    /// and while there are more than the limit allows it could open nothing.
    pub(super) fn raise_descriptor_limit(&mut self, limit: Rlimit) -> Result<()> {
        let (soft, hard) =
            getrlimit(Raw::RLIMIT_NOFILE).context(|| "read the limit on descriptors")?;
        if limit.hard > hard {
            self.limit_descriptors(Rlimit { soft: soft.min(limit.hard), hard: limit.hard });
        }
        Ok(())
    }

    fn limit_descriptors(&mut self, limit: Rlimit) {
        self.steps.push(Step::Rlimit {
            resource: Resource::Nofile.raw(),
            soft: limit.soft,
            hard: limit.hard,
            name: Resource::Nofile.to_string(),
        });
    }

    /// The descriptors of `map` at their numbers, and no others.
    pub(super) fn descriptors(&mut self, map: Vec<(Slot, i32)>) -> Result<()> {
        let list = self.list_of_descriptors()?;
        let keep = self.init.into_iter().chain(self.listener_sender).collect();
        self.steps.push(Step::Descriptors { map, keep, list });
        if let Some(limit) = self.command.rlimits.get(&Resource::Nofile) {
            self.limit_descriptors(*limit);
        }
        Ok(())
    }

    /// Where the kernel cannot mark all descriptors at once, the child lists its own. It opens the list first of
    /// all and by way of the host's `/proc`: later, what lies at that path could be an image's.
    fn list_of_descriptors(&mut self) -> Result<Option<Slot>> {
        if !self.filter_stops_close_range && !close_range_missing() {
            return Ok(None);
        }
        let proc = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open("/proc")
            .context(|| "open /proc to find open descriptors, as is done before Linux 5.11")?;
        let (proc, list) = (self.fds.own(proc.into()), self.fds.empty());
        self.steps.insert(0, Step::ListDescriptors { proc, list });
        Ok(Some(list))
    }
}
