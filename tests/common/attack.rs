//! The harness for attacks on path handling: a racer that swaps a path under the code's feet, and a
//! tree that stands for the host and must come out untouched.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

/// Exchanges two paths, mostly a directory and a symbolic link out of the root, in an endless loop.
///
/// ```ignore
/// symlink("/", root.join("evil"));
/// let racer = Racer::start(root.join("good"), root.join("evil"));
/// for _ in 0..1000 { /* what must stay inside */ }
/// racer.stop();
/// canary.assert_untouched();
/// ```
#[derive(Debug)]
pub struct Racer {
    stop: Arc<AtomicBool>,
    swaps: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Racer {
    pub fn start(one: impl Into<PathBuf>, other: impl Into<PathBuf>) -> Self {
        let (one, other) = (one.into(), other.into());
        let stop = Arc::new(AtomicBool::new(false));
        let swaps = Arc::new(AtomicU64::new(0));
        let (stopped, count) = (stop.clone(), swaps.clone());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // Fails while the code under attack holds one of them; that is part of the race.
                if renameat2(AT_FDCWD, &one, AT_FDCWD, &other, RenameFlags::RENAME_EXCHANGE).is_ok()
                {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        while swaps.load(Ordering::Relaxed) == 0 && !thread.is_finished() {
            thread::yield_now();
        }
        Self { stop, swaps, thread: Some(thread) }
    }

    /// How often it has swapped.
    pub fn swaps(&self) -> u64 {
        self.swaps.load(Ordering::Relaxed)
    }

    /// Ends the race and returns the number of swaps.
    pub fn stop(mut self) -> u64 {
        self.join();
        self.swaps()
    }

    fn join(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Racer {
    fn drop(&mut self) {
        self.join();
    }
}

/// A small tree that looks like a host worth attacking, and what it looked like when it was planted.
#[derive(Debug)]
pub struct Canary {
    dir: PathBuf,
    before: BTreeMap<PathBuf, Trace>,
}

/// All that a write, create, remove, chmod, chown, link, rename or touch would change.
#[derive(Debug, PartialEq, Eq)]
struct Trace {
    inode: (u64, u64),
    mode: u32,
    owner: (u32, u32),
    links: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    content: Vec<u8>,
}

impl Canary {
    /// Plants a tree in the directory `dir`, which must not exist.
    pub fn plant(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        for name in ["etc", "bin", "dev", "proc/sys/kernel", "home/user", "empty"] {
            fs::create_dir_all(dir.join(name)).expect("plant a directory");
        }
        for (name, mode) in [
            ("etc/passwd", 0o644),
            ("etc/shadow", 0o600),
            ("bin/sh", 0o4755),
            ("dev/null", 0o666),
            ("proc/sys/kernel/core_pattern", 0o644),
            ("home/user/.profile", 0o644),
        ] {
            let file = dir.join(name);
            fs::write(&file, format!("the host's {name}\n")).expect("plant a file");
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("set its mode");
        }
        symlink("passwd", dir.join("etc/link")).expect("plant a link");
        fs::hard_link(dir.join("bin/sh"), dir.join("bin/bash")).expect("plant a hard link");
        Self::watch(dir)
    }

    /// Watches a directory that is there already. Sockets, fifos and devices are watched by their inode.
    pub fn watch(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        let mut before = BTreeMap::new();
        record(&dir, &mut before);
        Self { dir, before }
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Panics and names every file that is not as it was.
    #[track_caller]
    pub fn assert_untouched(&self) {
        let mut after = BTreeMap::new();
        record(&self.dir, &mut after);
        let mut damage = Vec::new();
        for (path, trace) in &self.before {
            match after.remove(path) {
                None => damage.push(format!("{} is gone", path.display())),
                Some(now) if now != *trace => {
                    damage.push(format!("{} was {trace:?} and is {now:?}", path.display()));
                }
                Some(_) => {}
            }
        }
        damage.extend(after.keys().map(|path| format!("{} is new", path.display())));
        assert!(damage.is_empty(), "the host was reached:\n{}", damage.join("\n"));
    }
}

fn record(path: &Path, traces: &mut BTreeMap<PathBuf, Trace>) {
    let meta = fs::symlink_metadata(path).expect("look at the canary");
    let kind = meta.file_type();
    let content = if kind.is_file() {
        fs::read(path).unwrap_or_default()
    } else if kind.is_symlink() {
        fs::read_link(path).expect("read a link").into_os_string().into_encoded_bytes()
    } else {
        Vec::new()
    };
    let trace = Trace {
        inode: (meta.dev(), meta.ino()),
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        links: meta.nlink(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
        content,
    };
    traces.insert(path.to_owned(), trace);
    if kind.is_dir() {
        for entry in fs::read_dir(path).expect("list the canary").flatten() {
            record(&entry.path(), traces);
        }
    }
}
