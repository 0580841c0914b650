//! Conditions on the arguments of a system call.

use crate::error::{Error, Result};

/// A condition on one argument of a system call, for [`Seccomp::rule`](super::Seccomp::rule).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Arg {
    pub(super) index: u8,
    pub(super) op: Op,
    pub(super) value: u64,
    pub(super) width: Width,
}

/// How an argument is compared, unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Op {
    /// The argument is the value.
    Eq,
    /// The argument is not the value.
    Ne,
    /// The argument is less than the value.
    Lt,
    /// The argument is the value or less.
    Le,
    /// The argument is greater than the value.
    Gt,
    /// The argument is the value or greater.
    Ge,
    /// The argument's bits that are set in this mask make up the value.
    MaskedEq(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Width {
    Bits32,
    Bits64,
}

impl Arg {
    /// Compares all 64 bits of argument `index`, 0 to 5.
    ///
    /// For an argument that the kernel declares as `int` or `unsigned int` use [`int`](Self::int): the kernel
    /// ignores the upper half of the register, so a caller that fills it slips past a comparison of the whole
    /// (CVE-2019-7303, CVE-2023-28100).
    pub const fn new(index: u8, op: Op, value: u64) -> Self {
        Self { index, op, value, width: Width::Bits64 }
    }

    /// Compares the lower 32 bits of argument `index`, which is all the kernel looks at in an `int`.
    pub const fn int(index: u8, op: Op, value: i32) -> Self {
        Self { index, op, value: value.cast_unsigned() as u64, width: Width::Bits32 }
    }

    /// # Errors
    ///
    /// `InvalidInput` for an index that no call has, and for a masked comparison that can never be true.
    pub(super) fn validate(&self) -> Result<()> {
        if self.index > 5 {
            return Err(Error::invalid(format!(
                "seccomp condition on argument {}, a system call has 0 to 5",
                self.index
            )));
        }
        if let Op::MaskedEq(mask) = self.op
            && self.value & !mask != 0
        {
            return Err(Error::invalid(format!(
                "seccomp condition argument {} & {mask:#x} == {:#x} can never be true",
                self.index, self.value
            )));
        }
        Ok(())
    }
}
