//! Which file descriptors the program sees.

use super::{Done, Named, close, fail};
use crate::sys::plan::{Fds, Slot};
use crate::sys::raw::{Errno, sys};

/// Puts each fd of `map` at its number and marks everything else above 2 close-on-exec.
pub(super) fn arrange(fds: &Fds, map: &[(Slot, i32)], keep: &[Slot]) -> Done {
    // Sources may sit where targets go: lift them out of the way first.
    let above = map.iter().map(|(_, target)| *target).max().unwrap_or(2).max(2).saturating_add(1);
    for slot in map.iter().map(|(slot, _)| *slot).chain(keep.iter().copied()) {
        let fd = fds.get(slot);
        if fd < above {
            // SAFETY: takes no pointer.
            let lifted = unsafe { sys!(SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, above) }
                .named("fcntl(F_DUPFD_CLOEXEC)")?;
            fds.set(slot, lifted as i32);
        }
    }
    close_on_exec_from(3)?;
    for (slot, target) in map {
        // SAFETY: takes no pointer. Source and target differ, so dup3 leaves close-on-exec off.
        unsafe { sys!(SYS_dup3, fds.get(*slot), *target, 0) }.named("dup3")?;
    }
    Ok(())
}

fn close_on_exec_from(first: i32) -> Done {
    // SAFETY: takes no pointer. CLOSE_RANGE_CLOEXEC is Linux 5.11.
    match unsafe { sys!(SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } {
        Err(Errno(libc::ENOSYS | libc::EINVAL | libc::EPERM)) => one_by_one(first),
        other => other.named("close_range").map(drop),
    }
}

/// Without close_range: every number up to the limit. The fd table can hold none above it but those that
/// were open when the limit was lowered, so the limit is never taken from the new process.
fn one_by_one(first: i32) -> Done {
    let mut limit = [0u64; 2];
    // SAFETY: the kernel writes one struct rlimit64, two u64.
    unsafe { sys!(SYS_prlimit64, 0, libc::RLIMIT_NOFILE, 0usize, limit.as_mut_ptr()) }
        .named("prlimit64")?;
    let Some(dir) = super::open(libc::AT_FDCWD, c"/proc/self/fd", libc::O_RDONLY).ok() else {
        let Ok(last) = i32::try_from(limit[0].min(1 << 20)) else {
            return fail("prlimit64", libc::EOVERFLOW);
        };
        for fd in first..last {
            set_close_on_exec(fd);
        }
        return Ok(());
    };
    let mut buffer = [0u64; 256];
    loop {
        // SAFETY: the kernel writes at most the buffer's bytes.
        let read = unsafe { sys!(SYS_getdents64, dir, buffer.as_mut_ptr(), size_of_val(&buffer)) }
            .named("getdents64(/proc/self/fd)")?;
        if read == 0 {
            break;
        }
        // SAFETY: the kernel filled `read` bytes of the buffer.
        let bytes = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), read) };
        let mut entry = bytes;
        // struct linux_dirent64: u64 inode, i64 offset, u16 length, u8 type, name.
        while let (Some(length), Some(name)) = (entry.get(16..18), entry.get(19..)) {
            if let Some(fd) = parse_number(name)
                && fd >= first
            {
                set_close_on_exec(fd);
            }
            let length = usize::from(length[0]) | usize::from(length[1]) << 8;
            entry = entry.get(length.max(20)..).unwrap_or_default();
        }
    }
    close(dir);
    Ok(())
}

fn parse_number(name: &[u8]) -> Option<i32> {
    let mut value = None;
    for byte in name {
        match byte {
            b'0'..=b'9' => {
                let digit = i32::from(byte - b'0');
                value = Some(value.unwrap_or(0i32).checked_mul(10)?.checked_add(digit)?);
            }
            0 => return value,
            _ => return None,
        }
    }
    value
}

fn set_close_on_exec(fd: i32) {
    // SAFETY: takes no pointer; a closed number answers EBADF, which is as good.
    let _ = unsafe { sys!(SYS_fcntl, fd, libc::F_SETFD, libc::FD_CLOEXEC) };
}
