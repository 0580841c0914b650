//! A pid 1 of a few hundred bytes: starts the program, passes signals on to it, reaps orphans, and exits as it
//! does.
//!
//! It is a whole ELF program, assembled into the host and executed from a memory file, so that it
//! shares nothing with the host: no page of memory, no descriptor, no file on disk.

use std::io;
use std::os::fd::OwnedFd;

/// The program file, open for execution only. It reports a failed execve on fd `report` (four bytes, the
/// error number) and closes that fd otherwise.
#[cfg(target_arch = "x86_64")]
pub(crate) fn program(report: i32) -> io::Result<OwnedFd> {
    use std::fs::{File, OpenOptions};
    use std::io::Write;
    use std::os::fd::{AsRawFd, FromRawFd};
    use std::os::unix::fs::OpenOptionsExt;

    const MFD_EXEC: u32 = 0x10;
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: a C string. MFD_EXEC is Linux 6.3.
    let mut fd = unsafe { libc::memfd_create(c"init".as_ptr(), flags | MFD_EXEC) };
    if fd < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) {
        // SAFETY: a C string.
        fd = unsafe { libc::memfd_create(c"init".as_ptr(), flags) };
    }
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh fd of ours.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(&elf(code(), report))?;
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: takes no pointer.
    if unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // A file that is open for writing cannot be executed.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let program = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?;
    Ok(program.into())
}

/// See the x86-64 version.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn program(_report: i32) -> io::Result<OwnedFd> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

/// Wraps position-independent code, whose last four bytes are the report fd, into an ELF file.
#[cfg(target_arch = "x86_64")]
fn elf(code: &[u8], report: i32) -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    const PT_GNU_STACK: u32 = 0x6474_e551;
    let size = HEADERS + code.len() as u64;
    let mut file = Vec::with_capacity(size as usize);
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [libc::ET_DYN, libc::EM_X86_64] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    file.extend_from_slice(&1u32.to_le_bytes());
    // Entry, program headers, section headers.
    for word in [HEADERS, 64, 0] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(&0u32.to_le_bytes());
    for half in [64u16, 56, 2, 64, 0, 0] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    let headers = [
        (libc::PT_LOAD, libc::PF_R | libc::PF_X, size, 0x1000),
        (PT_GNU_STACK, libc::PF_R | libc::PF_W, 0, 16),
    ];
    for (kind, flags, size, align) in headers {
        file.extend_from_slice(&kind.to_le_bytes());
        file.extend_from_slice(&flags.to_le_bytes());
        // Offset, virtual and physical address, size in the file and in memory, alignment.
        for word in [0, 0, 0, size, size, align] {
            file.extend_from_slice(&u64::to_le_bytes(word));
        }
    }
    file.extend_from_slice(code);
    let at = file.len() - 4;
    file[at..].copy_from_slice(&report.to_le_bytes());
    file
}

#[cfg(target_arch = "x86_64")]
fn code() -> &'static [u8] {
    unsafe extern "C" {
        static coracle_init_start: u8;
        static coracle_init_end: u8;
    }
    let (start, end) = (&raw const coracle_init_start, &raw const coracle_init_end);
    // SAFETY: both symbols bound the read-only bytes of the assembly below.
    unsafe { std::slice::from_raw_parts(start, end.offset_from(start) as usize) }
}

// In: the stack of a new program: argc, argv (the program's path, then its argv), 0, envp. r13 is argv, r14 envp, ebx
// the program's pid. [rsp] a signal set, +8 the error of execve, +16 a status, +24 an empty set, +64 a siginfo.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .rodata.coracle_init,\"a\",@progbits",
    ".hidden coracle_init_start",
    ".globl coracle_init_start",
    ".hidden coracle_init_end",
    ".globl coracle_init_end",
    "coracle_init_start:",
    "mov rax, [rsp]",
    "lea r13, [rsp + 8]",
    "lea r14, [r13 + rax * 8 + 8]",
    "sub rsp, 256",
    "and rsp, -16",
    // rt_sigprocmask(SIG_BLOCK, all): signals are fetched, never delivered.
    "mov qword ptr [rsp], -1",
    "mov eax, 14",
    "xor edi, edi",
    "mov rsi, rsp",
    "xor edx, edx",
    "mov r10d, 8",
    "syscall",
    "mov dword ptr [rsp + 8], 0",
    // fcntl(report, F_SETFD, FD_CLOEXEC)
    "mov eax, 72",
    "mov edi, [rip + 90f]",
    "mov esi, 2",
    "mov edx, 1",
    "syscall",
    // vfork
    "mov eax, 58",
    "syscall",
    "test eax, eax",
    "js 20f",
    "jnz 30f",
    // The child: setpgid(0, 0), ioctl(0, TIOCSPGRP, own pid), so that the terminal's signals reach it alone.
    "mov eax, 109",
    "xor edi, edi",
    "xor esi, esi",
    "syscall",
    "mov eax, 39",
    "syscall",
    "mov [rsp + 16], eax",
    "mov eax, 16",
    "xor edi, edi",
    "mov esi, 0x5410",
    "lea rdx, [rsp + 16]",
    "syscall",
    // rt_sigprocmask(SIG_SETMASK, none)
    "mov qword ptr [rsp + 24], 0",
    "mov eax, 14",
    "mov edi, 2",
    "lea rsi, [rsp + 24]",
    "xor edx, edx",
    "mov r10d, 8",
    "syscall",
    // execve
    "mov eax, 59",
    "mov rdi, [r13]",
    "lea rsi, [r13 + 8]",
    "mov rdx, r14",
    "syscall",
    "neg eax",
    "mov [rsp + 8], eax",
    "mov eax, 60",
    "mov edi, 127",
    "syscall",
    "ud2",
    // vfork failed: report its error as if it were execve's.
    "20:",
    "neg eax",
    "mov [rsp + 8], eax",
    "30:",
    "mov ebx, eax",
    "cmp dword ptr [rsp + 8], 0",
    "je 40f",
    // write(report, &error, 4); exit_group(127)
    "mov eax, 1",
    "mov edi, [rip + 90f]",
    "lea rsi, [rsp + 8]",
    "mov edx, 4",
    "syscall",
    "mov edi, 127",
    "jmp 80f",
    // close_range(0, ~0, 0): the program's streams are its own, their ends are seen when it closes them.
    "40:",
    "mov eax, 3",
    "mov edi, [rip + 90f]",
    "syscall",
    "mov eax, 436",
    "xor edi, edi",
    "mov esi, -1",
    "xor edx, edx",
    "syscall",
    // rt_sigtimedwait(all, &info, NULL)
    "50:",
    "mov eax, 128",
    "mov rdi, rsp",
    "lea rsi, [rsp + 64]",
    "xor edx, edx",
    "mov r10d, 8",
    "syscall",
    "test eax, eax",
    "js 50b",
    "cmp eax, 17",
    "je 60f",
    // kill(program, signal)
    "mov esi, eax",
    "mov edi, ebx",
    "mov eax, 62",
    "syscall",
    "jmp 50b",
    // wait4(-1, &status, WNOHANG | __WALL, NULL)
    "60:",
    "mov eax, 61",
    "mov edi, -1",
    "lea rsi, [rsp + 16]",
    "mov edx, 0x40000001",
    "xor r10d, r10d",
    "syscall",
    "test eax, eax",
    "jle 50b",
    "cmp eax, ebx",
    "jne 60b",
    // The exit code, or 128 and the signal.
    "mov eax, [rsp + 16]",
    "mov edi, eax",
    "and edi, 0x7f",
    "jz 70f",
    "add edi, 128",
    "jmp 80f",
    "70:",
    "mov edi, eax",
    "shr edi, 8",
    "and edi, 255",
    // exit_group
    "80:",
    "mov eax, 231",
    "syscall",
    "ud2",
    "90:",
    ".long 0",
    "coracle_init_end:",
    ".popsection",
);

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_a_small_elf_file_with_the_report_fd_at_its_end() {
        let file = elf(code(), 77);
        assert!(file.len() < 1024, "{}", file.len());
        assert_eq!(file[..4], *b"\x7fELF");
        assert_eq!(file[file.len() - 4..], 77i32.to_le_bytes());
    }
}
