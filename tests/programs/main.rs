//! Real programs of Debian in containers under the default isolation, by the demo command line: all of them
//! work, and nothing of them is the host's root.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../common/mod.rs"]
mod common;

mod ids;
mod packages;
mod servers;
mod work;

use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use common::command_line::{Ran, finish, on};
use common::tmux::Tmux;
use common::{Missing, Sandbox, setup};

const IMAGE: &str = "debian";

/// The store of the tests that run, which the first of them makes and the last one removes.
static STORE: Mutex<Weak<Sandbox>> = Mutex::new(Weak::new());

fn store() -> Result<Arc<Sandbox>, Missing> {
    let archive = common::programs_archive()?;
    let mut shared = STORE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(store) = shared.upgrade() {
        return Ok(store);
    }
    let store = Arc::new(setup("programs"));
    let imported = finish(&mut on(&store, &["import", archive.to_str().unwrap(), IMAGE]));
    assert!(imported.status == 0 && imported.err.is_empty(), "{imported:?}");
    *shared = Arc::downgrade(&store);
    Ok(store)
}

/// A test's own containers of the image. Their names begin with that of the scene.
struct Scene {
    name: &'static str,
    store: Arc<Sandbox>,
    dir: Sandbox,
}

impl Scene {
    fn new(name: &'static str) -> Result<Self, Missing> {
        common::stacks()?;
        common::containers()?;
        common::subordinate_ids()?;
        Ok(Self { name, store: store()?, dir: setup(name) })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        on(&self.store, arguments)
    }

    fn ran(&self, arguments: &[&str]) -> Ran {
        finish(&mut self.command(arguments))
    }

    /// What it prints, which must succeed.
    fn says(&self, arguments: &[&str]) -> String {
        let ran = self.ran(arguments);
        assert_eq!(ran.status, 0, "{arguments:?}: {}{}", ran.out, ran.err);
        ran.out.trim_end().to_owned()
    }

    /// Starts the scene's container, with these options.
    fn starts(&self, options: &[&str], command: &[&str]) {
        self.says(&[&["run", "-d", "--name", self.name], options, &[IMAGE], command].concat());
    }

    /// Runs it beside that.
    fn exec(&self, options: &[&str], command: &[&str]) -> String {
        self.says(&[&["exec"], options, &[self.name], command].concat())
    }

    /// Waits until that succeeds.
    fn until(&self, command: &[&str]) {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let ran = self.ran(&[&["exec", self.name], command].concat());
            if ran.status == 0 {
                return;
            }
            let logs = || self.ran(&["logs", self.name]);
            assert!(Instant::now() < end, "{command:?}: {ran:?}, the container: {:?}", logs());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What a template picks of the container.
    fn picked(&self, template: &str) -> String {
        self.says(&["container", "inspect", "-f", template, self.name])
    }

    fn terminal(&self) -> Result<Tmux, Missing> {
        Tmux::start(&self.dir, &self.store)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let all = self.ran(&["ps", "-a", "--format", "{{.Names}}"]).out;
        for mine in all.lines().filter(|it| it.starts_with(self.name)) {
            self.ran(&["rm", "-f", mine]);
        }
    }
}
