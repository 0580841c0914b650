//! CVE-2019-5736 and its kin: until it executes, a process is the host's program, and `/proc/self/exe` says so.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use coracle::ErrorKind;

use super::common::attack::Racer;
use super::common::{self, require};
use super::image::{Image, assert_names};

/// Size, owner, times and content of the host's program.
fn fingerprint() -> (u64, i64, i64, Vec<u8>) {
    let mut file = File::open("/proc/self/exe").unwrap();
    let found = file.metadata().unwrap();
    let mut content = Vec::new();
    file.read_to_end(&mut content).unwrap();
    (found.len(), found.mtime_nsec(), found.ctime_nsec(), content)
}

fn executable(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A copy of `true` whose ELF interpreter is `path`, no longer than the real one.
fn with_interpreter(path: &str) -> Vec<u8> {
    let mut elf = fs::read("/bin/true").unwrap();
    let word = |at: usize, elf: &[u8]| {
        usize::try_from(u64::from_ne_bytes(elf[at..at + 8].try_into().unwrap())).unwrap()
    };
    let table = word(32, &elf);
    let header = (0..64)
        .map(|index| table + 56 * index)
        .find(|at| elf[*at..*at + 4] == 3u32.to_ne_bytes())
        .expect("a dynamic program");
    let (offset, size) = (word(header + 8, &elf), word(header + 32, &elf));
    assert!(path.len() < size);
    elf[offset..offset + size].fill(0);
    elf[offset..offset + path.len()].copy_from_slice(path.as_bytes());
    elf
}

#[test]
fn cve_2019_5736_2019_8308_the_hosts_program_is_refused() {
    require!(common::user_namespaces());
    let before = fingerprint();
    let image = Image::new("exe");
    let root = image.root();
    for (name, to) in [
        ("link", "/proc/self/exe"),
        ("thread", "/proc/thread-self/exe"),
        ("one", "/proc/1/exe"),
        ("relative", "proc/self/exe"),
        ("chain", "link"),
        ("climbing", "../../../proc/self/exe"),
    ] {
        symlink(to, root.join(name)).unwrap();
    }
    executable(&root.join("script"), b"#!/proc/self/exe\n");
    executable(&root.join("argument"), b"#! \t/link --flag\n");
    executable(&root.join("nested"), b"#!/script\n");
    executable(&root.join("no-newline"), b"#!/proc/self/exe");
    executable(&root.join("interpreted"), &with_interpreter("/proc/self/exe"));
    executable(&root.join("linked"), &with_interpreter("/link"));
    executable(&root.join("both"), b"#!/interpreted\n");
    let direct = ["/proc/self/exe", "/proc/thread-self/exe", "/proc/1/exe"];
    let planted = [
        "/link",
        "/thread",
        "/one",
        "/relative",
        "/chain",
        "/climbing",
        "/script",
        "/argument",
        "/nested",
        "/no-newline",
        "/interpreted",
        "/linked",
        "/both",
    ];
    for program in direct.into_iter().chain(planted) {
        for mut command in image.scripts("true") {
            let mut attack = image.command(program);
            std::mem::swap(&mut command, &mut attack);
            let err = command.spawn().expect_err(program);
            assert_eq!(err.kind(), ErrorKind::SafetyViolation, "{program}: {err:?}");
            assert_names(&err, &[program]);
            assert!(
                err.hint().is_some_and(|hint| hint.contains("host's own executable")),
                "{err:?}"
            );
        }
    }
    // Found through PATH, it is no better.
    let mut command = image.command("link");
    let err = command.env("PATH", "/").spawn().expect_err("through PATH");
    assert_eq!(err.kind(), ErrorKind::SafetyViolation, "{err:?}");
    assert!(fingerprint() == before, "the host's program has changed");
}

#[test]
fn cve_2019_5736_a_program_swapped_for_the_hosts_is_not_run() {
    require!(common::user_namespaces());
    let before = fingerprint();
    let image = Image::new("exe-race");
    fs::copy("/bin/true", image.root().join("good")).unwrap();
    symlink("/proc/self/exe", image.root().join("evil")).unwrap();
    let racer = Racer::start(image.root().join("good"), image.root().join("evil"));
    let (mut ran, mut refused) = (0, 0);
    for _ in 0..300 {
        // libtest would print something, whatever it is asked.
        match image.command("/good").output() {
            Ok(output) => {
                ran += 1;
                assert_eq!(String::from_utf8_lossy(&output.stdout), "");
            }
            Err(err) => {
                refused += 1;
                assert_names(&err, &["/good"]);
                let kind = err.kind();
                assert!(
                    matches!(kind, ErrorKind::SafetyViolation | ErrorKind::NotFound),
                    "{err:?}"
                );
            }
        }
    }
    assert!(racer.stop() > 0);
    assert!(ran > 0 && refused > 0, "{ran} ran, {refused} were refused: no race");
    assert!(fingerprint() == before, "the host's program has changed");
}
