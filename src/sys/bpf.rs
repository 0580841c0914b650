//! [bpf(2)](https://man7.org/linux/man-pages/man2/bpf.2.html), as far as device rules of a cgroup need it.
//! Linux 4.15 brought `BPF_PROG_TYPE_CGROUP_DEVICE`, 5.1 the 32-bit jumps used; without them device rules on cgroup v2 are an error.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use crate::error::SyscallError;

/// One instruction, as RFC 9669 lays it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    pub(crate) opcode: u8,
    /// Destination in the low, source in the high half (of a little-endian machine).
    pub(crate) registers: u8,
    pub(crate) offset: i16,
    pub(crate) immediate: i32,
}

impl Instruction {
    pub(crate) fn new(opcode: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Self {
        Self { opcode, registers: from << 4 | to, offset, immediate }
    }
}

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const PROG_QUERY: libc::c_long = 16;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 1 << 1;

/// `union bpf_attr` for `BPF_PROG_LOAD`, up to `prog_name`.
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// For `BPF_PROG_ATTACH` and `BPF_PROG_DETACH`.
#[repr(C)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// For `BPF_PROG_QUERY`.
#[repr(C)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

/// For `BPF_PROG_GET_FD_BY_ID`.
#[repr(C)]
struct ById {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
}

/// # Safety
/// `attr` must be the layout that `command` takes, and every address in it valid for the call.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> Result<i32, i32> {
    // SAFETY: the kernel reads and writes `size_of::<T>()` bytes at `attr`, which is exclusively borrowed; the
    // caller vouches for the addresses in it.
    let ret =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    match i32::try_from(ret) {
        Ok(ret) if ret >= 0 => Ok(ret),
        _ => Err(nix::errno::Errno::last_raw()),
    }
}

/// Has the kernel verify and load a device program.
pub(crate) fn load_device_program(program: &[Instruction]) -> Result<OwnedFd, SyscallError> {
    // Only programs that call GPL helpers must be GPL.
    let license = c"MIT OR Apache-2.0";
    let mut attr = Load {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).unwrap_or(u32::MAX),
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: `Load` is what BPF_PROG_LOAD takes; the instructions and the license outlive the call.
    let fd = unsafe { bpf(PROG_LOAD, &mut attr) }.map_err(|errno| {
        let text = format!("bpf(BPF_PROG_LOAD, CGROUP_DEVICE, {} instructions)", program.len());
        SyscallError::new(text, errno)
    })?;
    // SAFETY: the kernel just made this descriptor (close-on-exec) for us; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a device program beside those the cgroup has: all of them must agree to an access.
pub(crate) fn attach_device_program(
    cgroup: impl AsFd,
    program: impl AsFd,
) -> Result<(), SyscallError> {
    attach(PROG_ATTACH, cgroup.as_fd(), program.as_fd(), ALLOW_MULTI)
        .map_err(|errno| SyscallError::new("bpf(BPF_PROG_ATTACH, CGROUP_DEVICE)", errno))
}

/// Takes a device program off again.
pub(crate) fn detach_device_program(
    cgroup: impl AsFd,
    program: impl AsFd,
) -> Result<(), SyscallError> {
    attach(PROG_DETACH, cgroup.as_fd(), program.as_fd(), 0)
        .map_err(|errno| SyscallError::new("bpf(BPF_PROG_DETACH, CGROUP_DEVICE)", errno))
}

fn attach(
    command: libc::c_long,
    cgroup: impl AsFd,
    program: impl AsFd,
    attach_flags: u32,
) -> Result<(), i32> {
    let mut attr = Attach {
        target_fd: cgroup.as_fd().as_raw_fd().cast_unsigned(),
        attach_bpf_fd: program.as_fd().as_raw_fd().cast_unsigned(),
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags,
    };
    // SAFETY: `Attach` is what both commands take; it holds no address.
    unsafe { bpf(command, &mut attr) }.map(drop)
}

/// The device programs attached to this very cgroup.
pub(crate) fn device_programs(cgroup: impl AsFd) -> Result<Vec<OwnedFd>, SyscallError> {
    let mut ids = [0u32; 64];
    let mut attr = Query {
        target_fd: cgroup.as_fd().as_raw_fd().cast_unsigned(),
        attach_type: ATTACH_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: 64,
        padding: 0,
    };
    // SAFETY: `Query` is what BPF_PROG_QUERY takes; the kernel writes at most `prog_cnt` numbers to `ids`,
    // which lives through the call.
    unsafe { bpf(PROG_QUERY, &mut attr) }
        .map_err(|errno| SyscallError::new("bpf(BPF_PROG_QUERY, CGROUP_DEVICE)", errno))?;
    let count = usize::try_from(attr.prog_cnt).unwrap_or(0).min(ids.len());
    ids[..count].iter().map(|id| by_id(*id)).collect()
}

fn by_id(prog_id: u32) -> Result<OwnedFd, SyscallError> {
    let mut attr = ById { prog_id, next_id: 0, open_flags: 0 };
    // SAFETY: `ById` is what BPF_PROG_GET_FD_BY_ID takes; it holds no address.
    let fd = unsafe { bpf(PROG_GET_FD_BY_ID, &mut attr) }.map_err(|errno| {
        SyscallError::new(format!("bpf(BPF_PROG_GET_FD_BY_ID, {prog_id})"), errno)
    })?;
    // SAFETY: the kernel just made this descriptor (close-on-exec) for us; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
