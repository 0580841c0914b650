//! An assembler for classic BPF that writes a program from its end to its start.
//!
//! Classic BPF only jumps forward, so when an instruction is written every place it can jump to is already
//! there and its distance known. Conditional jumps reach 255 instructions; where that is too short,
//! [`Assembler::branch`] puts a stepping stone right behind the branch.

use libc::sock_filter;

use super::arg::{Arg, Op, Width};

/// Offsets in `struct seccomp_data`.
const DATA_NR: u32 = 0;
const DATA_ARCH: u32 = 4;
const DATA_ARGS: u32 = 16;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQ: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_GT: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const JUMP_GE: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// A place in the program: how many instructions lie between it and the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

#[derive(Debug, Default)]
pub(super) struct Assembler {
    /// The last instruction of the program first.
    reversed: Vec<sock_filter>,
}

impl Assembler {
    /// The program from its first instruction on.
    pub(super) fn finish(mut self) -> Vec<sock_filter> {
        self.reversed.reverse();
        self.reversed
    }

    fn emit(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.reversed.push(sock_filter { code, jt, jf, k });
        Label(self.reversed.len() - 1)
    }

    /// How many instructions the next one written has to skip to reach `target`.
    fn distance(&self, target: Label) -> usize {
        self.reversed.len() - target.0 - 1
    }

    /// Ends the program with a `SECCOMP_RET_*` value.
    pub(super) fn ret(&mut self, value: u32) -> Label {
        self.emit(RETURN, 0, 0, value)
    }

    /// Goes to `target`, however far; a return is repeated instead, which is as short and one step faster.
    fn jump(&mut self, target: Label) -> Label {
        let instruction = self.reversed[target.0];
        if instruction.code == RETURN {
            return self.ret(instruction.k);
        }
        // A program has at most 4,096 instructions when it is used; a longer one is refused later.
        let distance = u32::try_from(self.distance(target)).unwrap_or(u32::MAX);
        self.emit(JUMP, 0, 0, distance)
    }

    /// Goes to `yes` if the accumulator compares so with `k`, else to `no`.
    fn branch(&mut self, code: u16, k: u32, mut yes: Label, mut no: Label) -> Label {
        loop {
            let (Ok(jt), Ok(jf)) =
                (u8::try_from(self.distance(yes)), u8::try_from(self.distance(no)))
            else {
                // A stepping stone is at distance 0, and at most 1 once the other is placed.
                if u8::try_from(self.distance(yes)).is_err() {
                    yes = self.jump(yes);
                } else {
                    no = self.jump(no);
                }
                continue;
            };
            return self.emit(code, jt, jf, k);
        }
    }

    /// Goes to `yes` if the call came through the interface with this `AUDIT_ARCH_*`, else to `no`. Does not
    /// load: see [`load_arch`](Self::load_arch).
    pub(super) fn if_arch(&mut self, audit: u32, yes: Label, no: Label) -> Label {
        self.branch(JUMP_EQ, audit, yes, no)
    }

    pub(super) fn load_arch(&mut self) -> Label {
        self.emit(LOAD, 0, 0, DATA_ARCH)
    }

    /// A search for the call's number among `starts`, sorted, the first of them 0: goes to the label of the last
    /// start that is not above the number.
    ///
    /// It is balanced by how many numbers lie on either side, not by how many ranges: when a filter is loaded the
    /// kernel runs it for every number, to remember which calls are always allowed (since Linux 5.11). Those
    /// instructions, and the length of the program, are what a filter costs at spawn.
    pub(super) fn dispatch(&mut self, starts: &[(u32, Label)]) -> Label {
        if let [(_, only)] = starts {
            self.jump(*only);
        } else {
            self.search(starts, u32::MAX);
        }
        self.emit(LOAD, 0, 0, DATA_NR)
    }

    /// `end` is where the last of `starts` ends.
    fn search(&mut self, starts: &[(u32, Label)], end: u32) -> Label {
        if let [(_, only)] = starts {
            return *only;
        }
        let first = starts[0].0;
        // Past the table's end lie four thousand million numbers that nobody calls.
        let end_that_counts = end.min(starts[starts.len() - 1].0.saturating_add(8));
        let middle = u64::from(first) + u64::from(end_that_counts);
        let above = (1..starts.len())
            .min_by_key(|at| (2 * u64::from(starts[*at].0)).abs_diff(middle))
            .unwrap_or(1);
        let (low, high) = starts.split_at(above);
        let at_or_above = self.search(high, end);
        let below = self.search(low, high[0].0);
        self.branch(JUMP_GE, high[0].0, at_or_above, below)
    }

    /// Goes to `yes` if the argument is as `arg` says, else to `no`.
    pub(super) fn if_arg(&mut self, arg: &Arg, yes: Label, no: Label) -> Label {
        let low = |v: u64| u32::try_from(v & 0xffff_ffff).unwrap_or(u32::MAX);
        let high = |v: u64| low(v >> 32);
        let (value_low, value_high) = (low(arg.value), high(arg.value));
        let offset = DATA_ARGS + 8 * u32::from(arg.index);
        let (at_low, at_high) = if cfg!(target_endian = "little") {
            (offset, offset + 4)
        } else {
            (offset + 4, offset)
        };
        let wide = arg.width == Width::Bits64;

        match arg.op {
            Op::Eq => self.equal(wide, at_low, at_high, arg.value, u64::MAX, yes, no),
            Op::Ne => self.equal(wide, at_low, at_high, arg.value, u64::MAX, no, yes),
            Op::MaskedEq(mask) => self.equal(wide, at_low, at_high, arg.value, mask, yes, no),
            // The lower words decide only where the upper ones are equal.
            Op::Gt | Op::Ge | Op::Lt | Op::Le => {
                let (code, above, not_above) = match arg.op {
                    Op::Gt => (JUMP_GT, yes, no),
                    Op::Le => (JUMP_GT, no, yes),
                    Op::Ge => (JUMP_GE, yes, no),
                    _ => (JUMP_GE, no, yes),
                };
                self.branch(code, value_low, above, not_above);
                let lower = self.emit(LOAD, 0, 0, at_low);
                if !wide {
                    return lower;
                }
                let tie = self.branch(JUMP_EQ, value_high, lower, not_above);
                self.branch(JUMP_GT, value_high, above, tie);
                self.emit(LOAD, 0, 0, at_high)
            }
        }
    }

    #[allow(clippy::too_many_arguments)] // one word and its twin
    fn equal(
        &mut self,
        wide: bool,
        at_low: u32,
        at_high: u32,
        value: u64,
        mask: u64,
        yes: Label,
        no: Label,
    ) -> Label {
        let words = [(at_low, 0), (at_high, 32)];
        let mut next = yes;
        for (at, shift) in words.into_iter().take(if wide { 2 } else { 1 }) {
            let word = |v: u64| u32::try_from((v >> shift) & 0xffff_ffff).unwrap_or(u32::MAX);
            let mask = word(mask);
            if mask == 0 {
                continue;
            }
            self.branch(JUMP_EQ, word(value), next, no);
            if mask != u32::MAX {
                self.emit(AND, 0, 0, mask);
            }
            next = self.emit(LOAD, 0, 0, at);
        }
        next
    }
}
