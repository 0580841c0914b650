//! The program at the end of the plan.

use std::ffi::CStr;

use super::{Done, Failure, close, fail, open, stat};
use crate::sys::plan::{Exec, Fds};
use crate::sys::raw::{Errno, sys};

/// Executes the first candidate that can be, as execvp(3) does. Returns only on failure.
pub(super) fn execute(exec: &Exec, fds: &Fds) -> Failure {
    unblock_signals();
    let mut worst = Failure { call: "execve", errno: libc::ENOENT };
    let (mut next, mut busy) = (0, 0);
    while let Some(candidate) = exec.candidates.get(next) {
        let result = match exec.init {
            Some(init) => {
                // The init always starts: look first whether this is one it can execute.
                // SAFETY: a C string.
                let found =
                    unsafe { sys!(SYS_faccessat, libc::AT_FDCWD, candidate.as_ptr(), libc::X_OK) };
                if let Err(Errno(errno)) = found {
                    if errno == libc::EACCES {
                        worst.errno = errno;
                    }
                    next += 1;
                    continue;
                }
                exec.argv.set_first(candidate);
                // SAFETY: a C string, and null-terminated arrays that live in the plan.
                unsafe {
                    sys!(
                        SYS_execveat,
                        fds.get(init),
                        c"".as_ptr(),
                        exec.argv.as_ptr(),
                        exec.envp.as_ptr(),
                        libc::AT_EMPTY_PATH
                    )
                }
            }
            // SAFETY: a C string, and null-terminated arrays that live in the plan.
            None => unsafe {
                sys!(SYS_execve, candidate.as_ptr(), exec.argv.as_ptr(), exec.envp.as_ptr())
            },
        };
        match result {
            // Another thread of the host that forked while the file was being written has it open until its
            // child executes.
            Err(Errno(libc::ETXTBSY)) if busy < BUSY_RETRIES => {
                busy += 1;
                pause();
                continue;
            }
            Err(Errno(libc::ENOENT | libc::ENOTDIR)) => {}
            // As execvp: remember that it was there, look further.
            Err(Errno(libc::EACCES)) => worst.errno = libc::EACCES,
            Err(Errno(errno)) => return Failure { call: "execve", errno },
            Ok(_) => {}
        }
        next += 1;
    }
    worst
}

/// A file that is open for writing is tried again for as long as another thread's spawn may take.
const BUSY_RETRIES: u32 = 50;

fn pause() {
    // One millisecond: a struct timespec.
    let time = [0u64, 1_000_000];
    // SAFETY: the kernel reads one timespec.
    let _ = unsafe { sys!(SYS_nanosleep, time.as_ptr(), 0usize) };
}

fn unblock_signals() {
    let none = 0u64;
    // SAFETY: the kernel reads one 8-byte signal set.
    let _ = unsafe { sys!(SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, 0usize, 8usize) };
}

/// `#!` chains as deep as the kernel follows them.
const MAX_INTERPRETERS: usize = 5;

/// Until execve, `/proc/self/exe` of this process names the host's program; an image could have it executed
/// and then opened for writing (CVE-2019-5736).
pub(super) fn refuse_host_program(exec: &Exec, device: u64, inode: u64) -> Done {
    for candidate in &exec.candidates {
        check(candidate, device, inode, MAX_INTERPRETERS)?;
    }
    Ok(())
}

fn check(program: &CStr, device: u64, inode: u64, depth: usize) -> Done {
    let Ok(fd) = open(libc::AT_FDCWD, program, libc::O_PATH) else {
        // execve will say why.
        return Ok(());
    };
    let found = stat(fd, c"");
    close(fd);
    let Ok(found) = found else { return Ok(()) };
    let here = u64::from(found.stx_dev_major) << 32 | u64::from(found.stx_dev_minor);
    if here == device && found.stx_ino == inode {
        return fail("execve(host program)", libc::ELOOP);
    }
    if u32::from(found.stx_mode) & libc::S_IFMT != libc::S_IFREG || depth == 0 {
        return Ok(());
    }
    let Ok(fd) = open(libc::AT_FDCWD, program, libc::O_RDONLY | libc::O_NONBLOCK) else {
        return Ok(());
    };
    let mut buffer = [0u8; HEAD];
    let interpreter = interpreter(fd, &mut buffer);
    close(fd);
    match interpreter {
        Some(path) => check(path, device, inode, depth - 1),
        None => Ok(()),
    }
}

/// Enough for the program headers of most programs, which stand right behind the ELF header.
const HEAD: usize = 1024;

/// The path in a `#!` line or an ELF PT_INTERP header.
fn interpreter(fd: i32, buffer: &mut [u8; HEAD]) -> Option<&CStr> {
    let read = read_at(fd, buffer, 0)?;
    let head = buffer.get(..read)?;
    let range = if head.starts_with(b"#!") {
        let start = 2 + head.get(2..)?.iter().position(|b| !matches!(b, b' ' | b'\t'))?;
        let length = head
            .get(start..)?
            .iter()
            .position(|b| matches!(b, b' ' | b'\t' | b'\n' | 0))
            .unwrap_or(read.saturating_sub(start));
        start..start.checked_add(length)?
    } else if head.starts_with(b"\x7fELF") {
        let (offset, size) = program_interpreter(fd, head)?;
        let size = size.min(buffer.len() - 1);
        let read = read_at(fd, buffer.get_mut(..size)?, offset)?;
        0..buffer.get(..read)?.iter().position(|b| *b == 0).unwrap_or(read)
    } else {
        return None;
    };
    *buffer.get_mut(range.end)? = 0;
    CStr::from_bytes_until_nul(buffer.get(range.start..)?).ok()
}

/// Offset and size of PT_INTERP's contents, of 64-bit and 32-bit files.
fn program_interpreter(fd: i32, head: &[u8]) -> Option<(u64, usize)> {
    let wide = *head.get(4)? == 2;
    let word = |bytes: &[u8], at: usize| -> Option<u64> {
        Some(if wide {
            u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?)
        } else {
            u64::from(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
        })
    };
    let half = |at: usize| Some(u16::from_ne_bytes(*head.get(at..)?.first_chunk()?));
    let table = word(head, if wide { 32 } else { 28 })?;
    let entry_size = u64::from(half(if wide { 54 } else { 42 })?);
    let count = u64::from(half(if wide { 56 } else { 44 })?);
    for index in 0..count.min(64) {
        let mut entry = [0u8; 56];
        let wanted = if wide { 56 } else { 32 };
        let at = table.checked_add(index.checked_mul(entry_size)?)?;
        match head.get(at as usize..).and_then(|rest| rest.get(..wanted)) {
            Some(known) => entry.get_mut(..wanted)?.copy_from_slice(known),
            None if read_at(fd, entry.get_mut(..wanted)?, at)? < wanted => return None,
            None => {}
        }
        if u32::from_ne_bytes(*entry.first_chunk()?) == libc::PT_INTERP {
            let (offset, size) = if wide { (8, 32) } else { (4, 16) };
            return Some((word(&entry, offset)?, word(&entry, size)? as usize));
        }
    }
    None
}

fn read_at(fd: i32, buffer: &mut [u8], offset: u64) -> Option<usize> {
    // SAFETY: the kernel writes at most the buffer's bytes.
    unsafe { sys!(SYS_pread64, fd, buffer.as_mut_ptr(), buffer.len(), offset) }.ok()
}
