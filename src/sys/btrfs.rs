//! Subvolumes of btrfs; see <https://btrfs.readthedocs.io/en/latest/btrfs-ioctl.html>.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::mount::Fd;
use super::raw::{Errno, sys};
use crate::error::SyscallError;

type Result<T> = std::result::Result<T, SyscallError>;

/// `BTRFS_SUBVOL_NAME_MAX` and the NUL after it.
const NAME_SIZE: usize = 4040;
/// `BTRFS_PATH_NAME_MAX` and the NUL after it.
const OLD_NAME_SIZE: usize = 4088;

/// `_IOW(0x94, 14, struct btrfs_ioctl_vol_args)`.
const SUBVOL_CREATE: usize = 0x5000_940e;
/// `_IOW(0x94, 15, struct btrfs_ioctl_vol_args)`.
const SNAP_DESTROY: usize = 0x5000_940f;
/// `_IOW(0x94, 23, struct btrfs_ioctl_vol_args_v2)`.
const SNAP_CREATE_V2: usize = 0x5000_9417;

/// The inode number of the root directory of every subvolume.
const ROOT_INODE: u64 = 256;

/// The kernel's `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolArgs {
    fd: i64,
    name: [u8; OLD_NAME_SIZE],
}

/// The kernel's `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct VolArgsV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; NAME_SIZE],
}

// The sizes are part of the numbers above.
const _: () = assert!(size_of::<VolArgs>() == 4096 && size_of::<VolArgsV2>() == 4096);

/// Makes an empty subvolume.
pub(crate) fn create_subvolume(dir: impl AsFd, name: &CStr) -> Result<()> {
    old_call(dir.as_fd(), SUBVOL_CREATE, "BTRFS_IOC_SUBVOL_CREATE", name)
}

/// Makes a writable snapshot of the subvolume that `source` is the root of.
pub(crate) fn snapshot(source: impl AsFd, dir: impl AsFd, name: &CStr) -> Result<()> {
    let (source, dir) = (source.as_fd(), dir.as_fd());
    let call = || {
        format!(
            "ioctl({}, BTRFS_IOC_SNAP_CREATE_V2, {{fd={}, name={name:?}}})",
            Fd(dir),
            Fd(source)
        )
    };
    let mut args = VolArgsV2 {
        fd: i64::from(source.as_raw_fd()),
        transid: 0,
        flags: 0,
        unused: [0; 4],
        name: field(name).ok_or_else(|| SyscallError::new(call(), libc::ENAMETOOLONG))?,
    };
    // SAFETY: a whole btrfs_ioctl_vol_args_v2 with a NUL in its name, which the kernel only reads but for
    // `transid`, which it may write.
    let made = unsafe { sys!(SYS_ioctl, dir.as_raw_fd(), SNAP_CREATE_V2, &raw mut args) };
    made.map(drop).map_err(|Errno(errno)| SyscallError::new(call(), errno))
}

/// Removes a subvolume with all that is in it, other than subvolumes in it. Needs `CAP_SYS_ADMIN`, or a file
/// system mounted with `user_subvol_rm_allowed`.
pub(crate) fn destroy_subvolume(dir: impl AsFd, name: &CStr) -> Result<()> {
    old_call(dir.as_fd(), SNAP_DESTROY, "BTRFS_IOC_SNAP_DESTROY", name)
}

/// Whether `inode`, of a directory on btrfs, is the root of a subvolume.
pub(crate) fn is_subvolume(inode: u64) -> bool {
    inode == ROOT_INODE
}

fn old_call(
    dir: BorrowedFd<'_>,
    request: usize,
    request_name: &'static str,
    name: &CStr,
) -> Result<()> {
    let call = || format!("ioctl({}, {request_name}, {{name={name:?}}})", Fd(dir));
    let name = field(name).ok_or_else(|| SyscallError::new(call(), libc::ENAMETOOLONG))?;
    let args = VolArgs { fd: 0, name };
    // SAFETY: both requests take a whole btrfs_ioctl_vol_args with a NUL in its name, which the kernel only
    // reads.
    let done = unsafe { sys!(SYS_ioctl, dir.as_raw_fd(), request, &raw const args) };
    done.map(drop).map_err(|Errno(errno)| SyscallError::new(call(), errno))
}

/// The name and at least one NUL.
fn field<const N: usize>(name: &CStr) -> Option<[u8; N]> {
    let bytes = name.to_bytes_with_nul();
    let mut field = [0; N];
    field.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(field)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn another_file_system_refuses_and_the_call_is_named() {
        let dir = File::open("/proc").unwrap();
        let err = create_subvolume(&dir, c"x").unwrap_err();
        assert_eq!(err.errno, libc::ENOTTY);
        assert!(err.call.ends_with("</proc>, BTRFS_IOC_SUBVOL_CREATE, {name=\"x\"})"), "{err}");
        let err = snapshot(&dir, &dir, c"x").unwrap_err();
        assert!(err.call.contains("BTRFS_IOC_SNAP_CREATE_V2, {fd="), "{err}");
    }

    #[test]
    fn a_name_that_does_not_fit_is_refused_before_the_kernel_sees_it() {
        let long = std::ffi::CString::new(vec![b'x'; OLD_NAME_SIZE]).unwrap();
        let dir = File::open("/proc").unwrap();
        assert_eq!(destroy_subvolume(&dir, &long).unwrap_err().errno, libc::ENAMETOOLONG);
    }
}
