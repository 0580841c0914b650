//! A hostile root file system, and how to look out of it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use coracle::namespaces::{Command, Mount};
use coracle::{Error, Result};

use super::common::attack::Canary;
use super::common::{self, Sandbox};

/// A root file system that an attacker has made, next to a tree that stands for the host.
#[derive(Debug)]
pub struct Image {
    // Before the sandbox, which removes what it watches.
    pub canary: Canary,
    sandbox: Sandbox,
    root: PathBuf,
}

impl Image {
    pub fn new(name: &str) -> Self {
        let sandbox = common::setup(name);
        let root = sandbox.dir("root");
        for dir in ["usr", "etc", "tmp", "proc", "sys", "dev"] {
            fs::create_dir(root.join(dir)).unwrap();
        }
        for dir in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{dir}"), root.join(dir)).unwrap();
        }
        let canary = Canary::plant(sandbox.join("host"));
        Self { canary, sandbox, root }
    }

    /// The root, as the host calls it.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The stand-in for the host.
    pub fn host(&self) -> &Path {
        self.canary.path()
    }

    /// A place beside the two.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.sandbox.join(name)
    }

    /// Puts a symbolic link where the attacker wants one, in place of what is there.
    pub fn plant_link(&self, at: &str, to: impl AsRef<Path>) {
        let path = self.root.join(at);
        if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            fs::remove_dir_all(&path).unwrap();
        } else {
            let _ = fs::remove_file(&path);
        }
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(to, path).unwrap();
    }

    /// Links that lead from `depth` directories below the root to the host if followed on the host's side, or
    /// through what the host left open.
    pub fn ways_out(&self) -> Vec<PathBuf> {
        let up = Path::new("../../../../../../../../../..");
        let mut ways = vec![
            self.host().to_owned(),
            up.join(self.host().strip_prefix("/").unwrap()),
            Path::new("..").join("host"),
            "/proc/self/root".into(),
            "/proc/self/cwd".into(),
            "/proc/1/root".into(),
            "/proc/1/cwd".into(),
        ];
        // One descriptor is like another, and a process in the emulator takes its time.
        let descriptors = if common::emulated() { 3..6 } else { 3..40 };
        ways.extend(descriptors.map(|fd| format!("/proc/self/fd/{fd}").into()));
        ways.push(format!("/proc/thread-self/fd/3{}", self.host().display()).into());
        ways
    }

    /// `program` in this root, with the host's `/usr`.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.rootfs(&self.root).mount(Mount::bind("/usr", "/usr").host_ids().read_only());
        command
    }

    /// A shell script in this root: in a user namespace and, where the caller may, with the host's users, which nothing
    /// but the handling of paths holds back.
    pub fn scripts(&self, script: &str) -> Vec<Command> {
        let mut command = self.command("/bin/sh");
        command.args(["-euc", script]);
        let mut commands = vec![command.clone()];
        if common::root().is_ok() {
            command.host_users();
            commands.push(command);
        }
        commands
    }
}

/// What the program writes; it has to succeed.
#[track_caller]
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}:\n{said}\n{complained}", output.status);
    Ok(said.into_owned())
}

/// What a shell script in the sandbox that any program gets writes to either stream.
#[track_caller]
pub fn isolated(script: &str) -> String {
    said_by(Command::new("sh").args(["-c", script]).isolated())
}

/// What it writes to either stream, however it ends.
#[track_caller]
pub fn said_by(command: &mut Command) -> String {
    let output = command.output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// The whole chain, which has to name everything in `names`.
#[track_caller]
pub fn assert_names(err: &Error, names: &[&str]) {
    let chain = format!("{err:#}");
    for name in names {
        assert!(chain.contains(name), "{name:?} is not in: {err:?}");
    }
}

/// The mount points in a mountinfo table.
pub fn mount_points(table: &str) -> Vec<&str> {
    table.lines().filter_map(|line| line.split(' ').nth(4)).collect()
}
