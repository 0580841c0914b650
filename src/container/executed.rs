//! Further processes in a container, as events tell of them.

use std::ffi::OsStr;
use std::sync::Arc;

use super::container::Container;
use super::home::Home;
use super::id::ContainerId;
use super::state::Identity;
use crate::error::Result;
use crate::namespaces::{Child, Command};

/// One of them.
#[derive(Debug)]
pub(super) struct Executed {
    home: Arc<Home>,
    container: ContainerId,
    identity: Identity,
    words: String,
    id: ContainerId,
}

impl Executed {
    /// Tells that it is to be executed.
    pub(super) fn create(
        container: &Container,
        identity: Identity,
        command: &Command,
    ) -> Result<Self> {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
        let (home, id) = (container.home().clone(), ContainerId::random()?);
        let container = container.id().clone();
        let executed = Self { home, container, identity, words: words.join(" "), id };
        executed.tell(&format!("exec_create: {}", executed.words), &[]);
        Ok(executed)
    }

    /// Tells that it runs, and how it ends, once somebody has waited for that.
    pub(super) fn start(self, child: &mut Child) {
        self.tell(&format!("exec_start: {}", self.words), &[]);
        child.on_end(move |status| {
            self.tell("exec_die", &[("exitCode", &status.shell_code().to_string())]);
        });
    }

    fn tell(&self, action: &str, more: &[(&str, &str)]) {
        let more = [&[("execID", self.id.as_str())], more].concat();
        self.home.tell(&self.container, &self.identity, action, &more);
    }
}
