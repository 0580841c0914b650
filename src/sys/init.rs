//! A pid 1 of a few hundred bytes: starts the program, passes signals on to it, reaps orphans, and exits as it
//! does.
//!
//! It is a whole ELF program, assembled into the host and executed from a memory file, so that it
//! shares nothing with the host: no page of memory, no descriptor, no file on disk.

use std::io;
use std::os::fd::OwnedFd;

/// The program file, open for execution only. It reports a failed execve on fd `report` (four bytes, the
/// error number) and closes that fd otherwise.
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

/// Wraps position-independent code, whose last four bytes are the report fd, into an ELF file.
fn elf(code: &[u8], report: i32) -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    const PT_GNU_STACK: u32 = 0x6474_e551;
    let size = HEADERS + code.len() as u64;
    let mut file = Vec::with_capacity(size as usize);
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let machine = if cfg!(target_arch = "aarch64") { libc::EM_AARCH64 } else { libc::EM_X86_64 };
    for half in [libc::ET_DYN, machine] {
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

// The same, step by step: x19 is argv, x20 envp, w21 the program's pid, w22 the report fd.
#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".pushsection .rodata.coracle_init,\"a\",@progbits",
    ".balign 4",
    ".hidden coracle_init_start",
    ".globl coracle_init_start",
    ".hidden coracle_init_end",
    ".globl coracle_init_end",
    "coracle_init_start:",
    "ldr x9, [sp]",
    "add x19, sp, #8",
    "add x20, x19, x9, lsl #3",
    "add x20, x20, #8",
    "sub sp, sp, #256",
    "ldr w22, 90f",
    // rt_sigprocmask(SIG_BLOCK, all)
    "mov x9, #-1",
    "str x9, [sp]",
    "mov x8, #135",
    "mov x0, #0",
    "mov x1, sp",
    "mov x2, #0",
    "mov x3, #8",
    "svc #0",
    "str wzr, [sp, #8]",
    // fcntl(report, F_SETFD, FD_CLOEXEC)
    "mov x8, #25",
    "mov w0, w22",
    "mov x1, #2",
    "mov x2, #1",
    "svc #0",
    // clone(CLONE_VM | CLONE_VFORK | SIGCHLD, 0, 0, 0, 0)
    "mov x8, #220",
    "mov x0, #0x4111",
    "mov x1, #0",
    "mov x2, #0",
    "mov x3, #0",
    "mov x4, #0",
    "svc #0",
    "tbnz w0, #31, 20f",
    "cbnz w0, 30f",
    // The child: setpgid(0, 0), getpid(), ioctl(0, TIOCSPGRP, own pid)
    "mov x8, #154",
    "mov x0, #0",
    "mov x1, #0",
    "svc #0",
    "mov x8, #172",
    "svc #0",
    "str w0, [sp, #16]",
    "mov x8, #29",
    "mov x0, #0",
    "mov x1, #0x5410",
    "add x2, sp, #16",
    "svc #0",
    // rt_sigprocmask(SIG_SETMASK, none)
    "str xzr, [sp, #24]",
    "mov x8, #135",
    "mov x0, #2",
    "add x1, sp, #24",
    "mov x2, #0",
    "mov x3, #8",
    "svc #0",
    // execve
    "mov x8, #221",
    "ldr x0, [x19]",
    "add x1, x19, #8",
    "mov x2, x20",
    "svc #0",
    "neg w0, w0",
    "str w0, [sp, #8]",
    "mov x8, #93",
    "mov x0, #127",
    "svc #0",
    "brk #1",
    // clone failed
    "20:",
    "neg w0, w0",
    "str w0, [sp, #8]",
    "30:",
    "mov w21, w0",
    "ldr w9, [sp, #8]",
    "cbz w9, 40f",
    // write(report, &error, 4); exit_group(127)
    "mov x8, #64",
    "mov w0, w22",
    "add x1, sp, #8",
    "mov x2, #4",
    "svc #0",
    "mov w0, #127",
    "b 80f",
    // close(report), close_range(0, ~0, 0)
    "40:",
    "mov x8, #57",
    "mov w0, w22",
    "svc #0",
    "mov x8, #436",
    "mov x0, #0",
    "mov w1, #-1",
    "mov x2, #0",
    "svc #0",
    // rt_sigtimedwait(all, &info, NULL)
    "50:",
    "mov x8, #137",
    "mov x0, sp",
    "add x1, sp, #64",
    "mov x2, #0",
    "mov x3, #8",
    "svc #0",
    "tbnz w0, #31, 50b",
    "cmp w0, #17",
    "b.eq 60f",
    // kill(program, signal)
    "mov w1, w0",
    "mov w0, w21",
    "mov x8, #129",
    "svc #0",
    "b 50b",
    // wait4(-1, &status, WNOHANG | __WALL, NULL)
    "60:",
    "mov x8, #260",
    "mov x0, #-1",
    "add x1, sp, #16",
    "mov w2, #1",
    "movk w2, #0x4000, lsl #16",
    "mov x3, #0",
    "svc #0",
    "cmp w0, #0",
    "b.le 50b",
    "cmp w0, w21",
    "b.ne 60b",
    // The exit code, or 128 and the signal.
    "ldr w9, [sp, #16]",
    "ands w0, w9, #0x7f",
    "b.eq 70f",
    "add w0, w0, #128",
    "b 80f",
    "70:",
    "ubfx w0, w9, #8, #8",
    // exit_group
    "80:",
    "mov x8, #94",
    "svc #0",
    "brk #1",
    "90:",
    ".long 0",
    "coracle_init_end:",
    ".popsection",
);

#[cfg(test)]
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
