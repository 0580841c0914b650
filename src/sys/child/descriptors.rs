//! Which file descriptors the program sees.

use super::{Done, Named, close};
use crate::sys::plan::{Fds, Slot};
use crate::sys::raw::sys;

/// Puts each fd of `map` at its number and marks everything else above 2 close-on-exec.
pub(super) fn arrange(fds: &Fds, map: &[(Slot, i32)], keep: &[Slot], list: Option<i32>) -> Done {
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
    match list {
        Some(list) => one_by_one(3, list)?,
        // SAFETY: takes no pointer. CLOSE_RANGE_CLOEXEC is Linux 5.11.
        None => unsafe { sys!(SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) }
            .named("close_range")
            .map(drop)?,
    }
    for (slot, target) in map {
        // SAFETY: takes no pointer. Source and target differ, so dup3 leaves close-on-exec off.
        unsafe { sys!(SYS_dup3, fds.get(*slot), *target, 0) }.named("dup3")?;
    }
    Ok(())
}

/// Marks all of `list`, an open `/proc/self/fd`, from `first` on, and closes it.
fn one_by_one(first: i32, list: i32) -> Done {
    let mut buffer = [0u64; 256];
    loop {
        // SAFETY: the kernel writes at most the buffer's bytes.
        let read = unsafe { sys!(SYS_getdents64, list, buffer.as_mut_ptr(), size_of_val(&buffer)) }
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
    close(list);
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
