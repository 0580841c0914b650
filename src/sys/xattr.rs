//! Extended attributes of an open file, also one opened with `O_PATH`; see xattr(7).

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::mount::Fd;
use super::raw::{Errno, sys};
use crate::error::SyscallError;

/// The kernel's `XATTR_SIZE_MAX` and `XATTR_LIST_MAX`.
const LARGEST: usize = 64 << 10;

/// The value of an attribute; `None` where the file, or its file system, has none.
pub(crate) fn get(fd: BorrowedFd<'_>, name: &CStr) -> Result<Option<Vec<u8>>, SyscallError> {
    read(fd, |path, buffer| {
        // SAFETY: two NUL-terminated strings, and room for as many bytes as said.
        unsafe {
            sys!(SYS_getxattr, path.as_ptr(), name.as_ptr(), buffer.as_mut_ptr(), buffer.len())
        }
    })
    .map_err(|Errno(errno)| SyscallError::new(format!("getxattr({}, {name:?})", Fd(fd)), errno))
}

/// The names of all attributes that the caller may see, sorted.
pub(crate) fn list(fd: BorrowedFd<'_>) -> Result<Vec<CString>, SyscallError> {
    let names = read(fd, |path, buffer| {
        // SAFETY: a NUL-terminated string, and room for as many bytes as said.
        unsafe { sys!(SYS_listxattr, path.as_ptr(), buffer.as_mut_ptr(), buffer.len()) }
    })
    .map_err(|Errno(errno)| SyscallError::new(format!("listxattr({})", Fd(fd)), errno))?
    .unwrap_or_default();
    let mut names: Vec<CString> =
        names.split(|&byte| byte == 0).filter_map(|name| CString::new(name).ok()).collect();
    names.retain(|name| !name.is_empty());
    names.sort();
    Ok(names)
}

/// Sets an attribute.
pub(crate) fn set(fd: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> Result<(), SyscallError> {
    let (data, len) = (value.as_ptr(), value.len());
    // SAFETY: a NUL-terminated name and as many bytes as said, which the kernel only reads.
    let set = match unsafe { sys!(SYS_fsetxattr, fd.as_raw_fd(), name.as_ptr(), data, len, 0) } {
        // Open with O_PATH.
        Err(Errno(libc::EBADF)) => {
            let path = link_of(fd);
            // SAFETY: as above, and a NUL-terminated path.
            unsafe { sys!(SYS_setxattr, path.as_ptr(), name.as_ptr(), data, len, 0) }
        }
        set => set,
    };
    set.map(drop).map_err(|Errno(errno)| {
        let call = format!("fsetxattr({}, {name:?}, [{len} bytes])", Fd(fd));
        SyscallError::new(call, errno)
    })
}

/// Removes an attribute.
pub(crate) fn remove(fd: BorrowedFd<'_>, name: &CStr) -> Result<(), SyscallError> {
    // SAFETY: a NUL-terminated name, which the kernel only reads.
    let removed = match unsafe { sys!(SYS_fremovexattr, fd.as_raw_fd(), name.as_ptr()) } {
        // Open with O_PATH.
        Err(Errno(libc::EBADF)) => {
            let path = link_of(fd);
            // SAFETY: two NUL-terminated strings, which the kernel only reads.
            unsafe { sys!(SYS_removexattr, path.as_ptr(), name.as_ptr()) }
        }
        removed => removed,
    };
    removed.map(drop).map_err(|Errno(errno)| {
        SyscallError::new(format!("fremovexattr({}, {name:?})", Fd(fd)), errno)
    })
}

/// A name for an open file by which calls that want a path find it.
fn link_of(fd: BorrowedFd<'_>) -> CString {
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default()
}

fn read(
    fd: BorrowedFd<'_>,
    call: impl Fn(&CStr, &mut [u8]) -> Result<usize, Errno>,
) -> Result<Option<Vec<u8>>, Errno> {
    // fgetxattr(2) does not take O_PATH descriptors.
    let path = link_of(fd);
    let mut buffer = vec![0; 256];
    loop {
        match call(&path, &mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                return Ok(Some(buffer));
            }
            Err(Errno(libc::ENODATA | libc::EOPNOTSUPP)) => return Ok(None),
            Err(Errno(libc::ERANGE)) if buffer.len() < LARGEST => buffer.resize(LARGEST, 0),
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;
    use crate::machine::Missing;

    #[test]
    fn values_long_and_absent_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("f")).unwrap();
        if set(file.as_fd(), c"user.a", b"").is_err_and(|err| err.errno == libc::EOPNOTSUPP) {
            let why = "tmpfs has none before Linux 6.6";
            return Missing::new("attributes in the temporary directory", why).skip();
        }
        let long = vec![b'x'; 1000];
        for (name, value) in [(c"user.a", &b"1"[..]), (c"user.b", &long)] {
            set(file.as_fd(), name, value).unwrap();
            assert_eq!(get(file.as_fd(), name).unwrap().as_deref(), Some(value));
        }
        assert_eq!(get(file.as_fd(), c"user.c").unwrap(), None);
        set(file.as_fd(), c"user.d", b"").unwrap();
        remove(file.as_fd(), c"user.d").unwrap();
        let names = list(file.as_fd()).unwrap();
        let user = names.iter().filter(|name| name.as_bytes().starts_with(b"user."));
        assert_eq!(user.collect::<Vec<_>>(), [c"user.a", c"user.b"]);
    }
}
