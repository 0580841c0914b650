//! The system call interfaces a filter can let through.

use super::syscalls::{self, NO, Row};

/// A system call interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Arch {
    /// 64-bit x86. The x32 variant is never let through: its calls answer `ENOSYS`.
    X86_64,
    /// 32-bit x86, which any process on an x86-64 kernel can use.
    X86,
    /// 64-bit ARM. The 32-bit variant is never let through: its calls answer `ENOSYS`.
    Aarch64,
}

impl Arch {
    /// The interface of the machine this crate was built for, if there is a table for it.
    pub(crate) const fn native() -> Option<Self> {
        if cfg!(target_arch = "x86_64") {
            Some(Self::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Self::Aarch64)
        } else {
            None
        }
    }

    /// The kernel's `AUDIT_ARCH_*`, as `seccomp_data.arch` holds it.
    pub(crate) const fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
        }
    }

    /// The number of a call, if this architecture has it.
    pub(crate) fn number(self, name: &str) -> Option<u32> {
        syscalls::find(name).and_then(|row| self.column(row))
    }

    /// The numbers of every call this architecture has.
    pub(crate) fn numbers(self) -> impl Iterator<Item = u32> {
        syscalls::TABLE.iter().filter_map(move |row| self.column(row))
    }

    fn column(self, row: &Row) -> Option<u32> {
        let number = match self {
            Self::X86_64 => row.1,
            Self::X86 => row.2,
            Self::Aarch64 => row.3,
        };
        (number != NO).then_some(u32::from(number))
    }
}
