//! Calls that make and remove files, and set and read what they have besides their content.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{Arg, At, Out, Slot, VALUE_SIZE, Value, Worker};

impl<'a> Worker<'a> {
    pub(crate) fn mkdir(&mut self, dir: impl Into<At<'a>>, path: CString, mode: u32) {
        let args = [Arg::At(dir.into()), Arg::Text(path), Arg::Number(mode.into())];
        self.call("mkdirat", libc::SYS_mkdirat, args);
    }

    /// Makes a file that must not exist yet, to be written. Its mode is subject to the umask.
    #[cfg_attr(not(feature = "container"), allow(dead_code, reason = "containers get files so"))]
    pub(crate) fn create(&mut self, dir: impl Into<At<'a>>, name: CString, mode: u32) -> Slot {
        const FLAGS: i32 =
            libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let flags = Arg::Flag(FLAGS as u64, "O_WRONLY|O_CREAT|O_EXCL|O_NOFOLLOW|O_CLOEXEC");
        let args = [Arg::At(dir.into()), Arg::Text(name), flags, Arg::Number(mode.into())];
        self.open_call("openat", libc::SYS_openat, args)
    }

    /// Makes a fifo or device: `mode` has its type.
    #[cfg_attr(not(feature = "container"), allow(dead_code, reason = "containers get files so"))]
    pub(crate) fn mknod(
        &mut self,
        dir: impl Into<At<'a>>,
        name: CString,
        mode: u32,
        device: libc::dev_t,
    ) {
        let args = [
            Arg::At(dir.into()),
            Arg::Text(name),
            Arg::Number(mode.into()),
            Arg::Number(device.cast_signed()),
        ];
        self.call("mknodat", libc::SYS_mknodat, args);
    }

    /// Removes a name of anything but a directory.
    #[cfg_attr(not(feature = "container"), allow(dead_code, reason = "containers get files so"))]
    pub(crate) fn unlink(&mut self, dir: impl Into<At<'a>>, name: CString) {
        let args = [Arg::At(dir.into()), Arg::Text(name), Arg::Number(0)];
        self.call("unlinkat", libc::SYS_unlinkat, args);
    }

    pub(crate) fn symlink(&mut self, target: CString, dir: impl Into<At<'a>>, path: CString) {
        let args = [Arg::Text(target), Arg::At(dir.into()), Arg::Text(path)];
        self.call("symlinkat", libc::SYS_symlinkat, args);
    }

    /// Reads an extended attribute of a file, which may be open with `O_PATH`.
    pub(crate) fn get_attribute(&mut self, file: BorrowedFd<'_>, name: &CStr) -> Value {
        let value = Value(self.values);
        self.values += 1;
        let args = [
            Arg::Text(link_of(file)),
            Arg::Text(name.into()),
            Arg::Value(value),
            Arg::Number(VALUE_SIZE as i64),
        ];
        self.push("getxattr", libc::SYS_getxattr, args, Out::Length(value), false);
        value
    }

    /// The owner of a file, which may be open with `O_PATH`.
    pub(crate) fn set_owner(&mut self, file: BorrowedFd<'a>, uid: u32, gid: u32) {
        let args = [
            Arg::At(file.into()),
            Arg::Text(CString::default()),
            Arg::Number(uid.into()),
            Arg::Number(gid.into()),
            Arg::Flag(libc::AT_EMPTY_PATH as u64, "AT_EMPTY_PATH"),
        ];
        self.call("fchownat", libc::SYS_fchownat, args);
    }

    /// The permissions of a file, which may be open with `O_PATH`.
    pub(crate) fn set_mode(&mut self, file: BorrowedFd<'_>, mode: u32) {
        let args = [Arg::At(At::Cwd), Arg::Text(link_of(file)), Arg::Number(mode.into())];
        self.call("fchmodat", libc::SYS_fchmodat, args);
    }

    /// Both times of a file, which may be open with `O_PATH` (Linux 5.8).
    pub(crate) fn set_times(&mut self, file: BorrowedFd<'a>, seconds: i64, nanoseconds: u32) {
        let args = [
            Arg::At(file.into()),
            Arg::Text(CString::default()),
            Arg::Times([seconds, nanoseconds.into(), seconds, nanoseconds.into()]),
            Arg::Flag(libc::AT_EMPTY_PATH as u64, "AT_EMPTY_PATH"),
        ];
        self.call("utimensat", libc::SYS_utimensat, args);
    }

    /// Sets an extended attribute of a file, which may be open with `O_PATH`.
    pub(crate) fn set_attribute(&mut self, file: BorrowedFd<'_>, name: &CStr, value: &[u8]) {
        let args = [
            Arg::Text(link_of(file)),
            Arg::Text(name.into()),
            Arg::Bytes(value.into()),
            Arg::Number(value.len() as i64),
            Arg::Number(0),
        ];
        self.call("setxattr", libc::SYS_setxattr, args);
    }

    /// Removes an extended attribute of a file, which may be open with `O_PATH`.
    pub(crate) fn remove_attribute(&mut self, file: BorrowedFd<'_>, name: &CStr) {
        let args = [Arg::Text(link_of(file)), Arg::Text(name.into())];
        self.call("removexattr", libc::SYS_removexattr, args);
    }

    /// Makes another name for a file that is no directory; a symbolic link is not followed.
    pub(crate) fn link(
        &mut self,
        dir: impl Into<At<'a>>,
        name: CString,
        new_dir: impl Into<At<'a>>,
        new_name: CString,
    ) {
        let args = [
            Arg::At(dir.into()),
            Arg::Text(name),
            Arg::At(new_dir.into()),
            Arg::Text(new_name),
            Arg::Number(0),
        ];
        self.call("linkat", libc::SYS_linkat, args);
    }
}

/// A name for an open file by which calls that want a path find it.
fn link_of(file: BorrowedFd<'_>) -> CString {
    CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_default()
}
