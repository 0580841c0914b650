//! `enosys NAME[,NAME..] PROGRAM [ARG..]` runs a program on a kernel that seems to lack system calls:
//! a seccomp filter answers ENOSYS for each one named, in the program and in all its descendants.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// Every call that Coracle may do without, or says so with an error. `enosys --list` prints the names.
/// Those of Linux 5.1 and older, like pidfd_send_signal, it takes for granted.
const CALLS: &[(&str, libc::c_long)] = &[
    ("clone3", libc::SYS_clone3),
    ("close_range", libc::SYS_close_range),
    ("faccessat2", libc::SYS_faccessat2),
    ("fsconfig", libc::SYS_fsconfig),
    ("fsmount", libc::SYS_fsmount),
    ("fsopen", libc::SYS_fsopen),
    ("landlock_create_ruleset", libc::SYS_landlock_create_ruleset),
    ("mount_setattr", libc::SYS_mount_setattr),
    ("move_mount", libc::SYS_move_mount),
    ("open_tree", libc::SYS_open_tree),
    ("openat2", libc::SYS_openat2),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("pidfd_open", libc::SYS_pidfd_open),
];

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let names = args.next().and_then(|names| names.into_string().ok()).unwrap_or_default();
    if names == "--list" {
        for (name, _) in CALLS {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    }
    let Some(program) = args.next() else {
        eprintln!("usage: enosys NAME[,NAME..] PROGRAM [ARG..] | enosys --list");
        return ExitCode::from(2);
    };
    let mut numbers = Vec::new();
    for name in names.split(',') {
        let Some((_, number)) = CALLS.iter().find(|(known, _)| *known == name) else {
            eprintln!("enosys: no such system call here: {name}");
            return ExitCode::from(2);
        };
        numbers.push(u32::try_from(*number).expect("system call numbers are small"));
    }
    if let Err(err) = hide(&numbers) {
        eprintln!("enosys: install the seccomp filter: {err}");
        return ExitCode::from(2);
    }
    let err = Command::new(&program).args(args).exec();
    eprintln!("enosys: run {}: {err}", program.display());
    ExitCode::from(127)
}

/// Makes the system calls of these numbers answer ENOSYS from now on.
fn hide(numbers: &[u32]) -> io::Result<()> {
    let mut code = vec![
        load(4), // the architecture
        jump_unless(ARCH, u8::try_from(numbers.len() * 2 + 1).expect("a short list")),
        load(0), // the number
    ];
    for number in numbers {
        code.push(jump_unless(*number, 1));
        code.push(answer(libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned()));
    }
    code.push(answer(libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog {
        len: u16::try_from(code.len()).expect("a short program"),
        filter: code.as_mut_ptr(),
    };
    // Root does without no_new_privs, so that set-user-id helpers work under the filter as without.
    // SAFETY: takes no pointer.
    if unsafe { libc::geteuid() } != 0 {
        // SAFETY: takes no pointer.
        check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    }
    // SAFETY: `program` and the `code` it points to live across the call, which copies them.
    check(unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn load(offset: u32) -> libc::sock_filter {
    libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: offset }
}

fn jump_unless(value: u32, skip: u8) -> libc::sock_filter {
    libc::sock_filter { code: 0x15, jt: 0, jf: skip, k: value }
}

fn answer(action: u32) -> libc::sock_filter {
    libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: action }
}
