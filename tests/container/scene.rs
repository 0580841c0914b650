//! An engine of the test's own, with an image that has busybox in it.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use coracle::Engine;
use coracle::container::ContainerBuilder;
use coracle::image::Import;
use tar::EntryType;

use crate::common::archive::Tar;
use crate::common::{Missing, Sandbox, containers, program, setup, stacks};

/// An engine and what it lies in.
#[derive(Debug)]
pub struct Scene {
    pub engine: Engine,
    /// After the engine, and before its directory goes.
    _quiet: Quiet,
    pub dir: Sandbox,
}

/// Waits for threads of engines that had the last handle of their own, and so are waited for by nobody.
#[derive(Debug)]
struct Quiet {
    supervisors: PathBuf,
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let own = format!("{}-", std::process::id());
        let is_own = |name: OsString| name.to_string_lossy().starts_with(&own);
        let until = Instant::now() + Duration::from_secs(10);
        let names = || fs::read_dir(&self.supervisors).into_iter().flatten().flatten();
        while names().any(|it| is_own(it.file_name())) && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The programs of the image.
const APPLETS: &[&str] = &[
    "sh", "cat", "echo", "env", "false", "grep", "head", "hostname", "id", "kill", "ls", "mkdir",
    "ps", "pwd", "rm", "seq", "sleep", "sync", "test", "touch", "tr", "true", "uname", "wc", "yes",
    "dd", "stty", "tty", "mount", "stat",
];

/// An engine with the image `box`.
pub fn scene(name: &str) -> Result<Scene, Missing> {
    stacks()?;
    containers()?;
    let busybox = program("busybox")?;
    let dir = setup(name);
    let engine = Engine::open(dir.join("root")).unwrap();
    let mut tar = Tar::new();
    for name in ["bin/", "etc/", "proc/", "sys/", "dev/", "tmp/", "data/"] {
        tar.dir(name, 0o755);
    }
    let executable = |header: &mut tar::Header| header.set_mode(0o755);
    tar.entry("bin/busybox", EntryType::Regular, executable, &fs::read(busybox).unwrap());
    for applet in APPLETS {
        tar.link(&format!("bin/{applet}"), "busybox");
    }
    tar.file("etc/passwd", "root:x:0:0::/root:/bin/sh\nanna:x:1000:1000::/home/anna:/bin/sh\n");
    tar.file("etc/group", "root:x:0:\nanna:x:1000:\n");
    tar.file("data/of-the-image", "kept");
    let archive = tar.end();
    Import::new(engine.store()).name("box").read(&archive[..]).unwrap();
    let quiet = Quiet { supervisors: dir.join("root/containers/supervisors") };
    Ok(Scene { engine, _quiet: quiet, dir })
}

impl Scene {
    /// Does once what opens descriptors that stay: those of the cgroup hierarchies.
    pub fn warm_up(&self) {
        self.warm_up_with(|builder| builder);
    }

    /// [`warm_up`](Self::warm_up), with a container that has a cgroup also where an ordinary user's has none without limits.
    pub fn warm_up_with(&self, set: impl FnOnce(ContainerBuilder) -> ContainerBuilder) {
        let threads = || fs::read_dir("/proc/self/task").unwrap().count();
        let before = threads();
        let engine = Engine::open(self.dir.join("root")).unwrap();
        let container = set(engine.container("box").command(["true"]).remove_on_exit());
        container.start().unwrap().wait().unwrap();
        drop(engine);
        // Its thread, if it had the last handle, ends a moment later.
        while threads() > before {
            thread::sleep(Duration::from_millis(1));
        }
    }
}
