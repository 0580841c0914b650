//! An engine of the test's own, with an image that has busybox in it.

use std::fs;

use coracle::Engine;
use coracle::image::Import;
use tar::EntryType;

use crate::common::archive::Tar;
use crate::common::{Missing, Sandbox, containers, program, setup, stacks};

/// An engine and what it lies in.
#[derive(Debug)]
pub struct Scene {
    pub engine: Engine,
    pub dir: Sandbox,
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
    Ok(Scene { engine, dir })
}

impl Scene {
    /// Does once what opens descriptors that stay: those of the cgroup hierarchies.
    pub fn warm_up(&self) {
        let threads = || fs::read_dir("/proc/self/task").unwrap().count();
        let before = threads();
        let engine = Engine::open(self.dir.join("root")).unwrap();
        let container = engine.container("box").command(["true"]).remove_on_exit();
        container.start().unwrap().wait().unwrap();
        drop(engine);
        // Its thread, if it had the last handle, ends a moment later.
        while threads() > before {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}
