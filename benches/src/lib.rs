//! What the benches, `peers` and `images` share: a small root file system, the container they start in it, and
//! how contenders are compared.

pub mod contender;
pub mod docker;
pub mod registry;

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process;

use coracle::MIB;
use coracle::cgroups::Limits;
use coracle::namespaces::{Command, Root, Stdio};
use tempfile::TempDir;

use self::contender::{Result, succeed};

/// A root file system of one static program, busybox, with `/bin/true`, `/bin/sleep` and `/bin/sh` as its names; and
/// `/bin/nothing`.
#[derive(Debug)]
pub struct Fixture {
    dir: TempDir,
}

impl Fixture {
    /// Makes it in memory, in /dev/shm: a disk would be measured otherwise, since an overlay that goes away syncs the
    /// file system of its writable directory. Needs the package busybox-static.
    pub fn new() -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("coracle-benches-").tempdir_in("/dev/shm")?;
        let root = dir.path().join("root");
        for name in ["bin", "dev", "etc", "proc", "sys", "tmp", "root"] {
            fs::create_dir_all(root.join(name))?;
        }
        fs::copy("/bin/busybox", root.join("bin/busybox"))?;
        for name in ["true", "sleep", "sh"] {
            symlink("busybox", root.join("bin").join(name))?;
        }
        fs::write(root.join("bin/nothing"), nothing())?;
        fs::set_permissions(root.join("bin/nothing"), Permissions::from_mode(0o755))?;
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
        Ok(Self { dir })
    }

    /// The read-only directory.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// A place for whatever else a measurement needs, removed with the fixture.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// A program for x86-64 that only ends. What a C library does first, such as asking the processor what it can, which a
/// hypervisor answers, may take longer than to make the process.
fn nothing() -> Vec<u8> {
    const HEADERS: u64 = 64 + 56;
    const BASE: u64 = 0x40_0000;
    // exit_group(0)
    let code = [0xb8, 231, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05];
    let size = HEADERS + code.len() as u64;
    let mut program = b"\x7fELF\x02\x01\x01".to_vec();
    program.resize(16, 0);
    let mut put = |bytes: &[u8]| program.extend_from_slice(bytes);
    // elf(5): an executable for x86-64, version 1, and where it begins, its program headers are, and its sections.
    [2_u16, 62].iter().for_each(|it| put(&it.to_le_bytes()));
    put(&1_u32.to_le_bytes());
    [BASE + HEADERS, 64, 0].iter().for_each(|it| put(&it.to_le_bytes()));
    put(&0_u32.to_le_bytes());
    [64_u16, 56, 1, 0, 0, 0].iter().for_each(|it| put(&it.to_le_bytes()));
    // All of it is loaded, to be read and executed.
    [1_u32, 5].iter().for_each(|it| put(&it.to_le_bytes()));
    [0, BASE, BASE, size, size, 4096].iter().for_each(|it| put(&it.to_le_bytes()));
    put(&code);
    program
}

/// The limits that every contender sets.
pub fn limits() -> Limits {
    Limits::new().memory(64 * MIB).pids(64).cpus(1.5)
}

/// `program` in a container with all defaults and with limits.
pub fn container(program: &str, root: impl Into<Root>) -> Command {
    let mut command = Command::new(program);
    command.rootfs(root).limits(limits());
    quiet(command)
}

/// `command` without standard streams.
pub fn quiet(mut command: Command) -> Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// The archive of a root filesystem, made once: the one that the tests use too.
pub fn debian(cache: &Path) -> Result<PathBuf> {
    let mut command = process::Command::new("bash");
    command.args(["-euc", ". tests/lib.sh; logs=$0; debian_archive \"$0\""]).arg(cache);
    command
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stderr(process::Stdio::inherit());
    let output = command.output()?;
    succeed(output.status.success())?;
    Ok(String::from_utf8(output.stdout)?.trim_end().into())
}

/// Runs a script with arguments from `$0` on.
pub fn sh(script: &str, args: &[&Path]) -> Result<()> {
    succeed(process::Command::new("sh").args(["-ec", script]).args(args).status()?.success())
}
