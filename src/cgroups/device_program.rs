//! Device rules as an eBPF program of the type `BPF_PROG_TYPE_CGROUP_DEVICE`
//! ([bpf(2)](https://man7.org/linux/man-pages/man2/bpf.2.html); the instruction set is RFC 9669).
//!
//! The kernel calls it with a `struct bpf_cgroup_dev_ctx { u32 access_type, major, minor }` in register 1, where
//! `access_type` is `access << 16 | kind`, and lets the access pass if it returns 1.

use super::devices::{DeviceKind, DeviceRule, DeviceRules};
use crate::sys::bpf::Instruction;

// Registers: the argument, then what it holds.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

// Opcodes of RFC 9669: class, source and operation.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbf;
const MOVE_IMMEDIATE: u8 = 0xb7;
const AND_IMMEDIATE: u8 = 0x57;
const SHIFT_RIGHT_IMMEDIATE: u8 = 0x77;
/// Compares the low 32 bits only, so that a device number above 2^31 is not taken for a negative one.
const JUMP_NOT_EQUAL_32: u8 = 0x56;
const EXIT: u8 = 0x95;

const KIND_BLOCK: i32 = 1;
const KIND_CHAR: i32 = 2;
const EVERY_ACCESS: i32 = 7;

/// Assembles the program: one block for each rule that answers 1 if the rule allows all of what is asked.
pub(super) fn assemble(rules: &DeviceRules) -> Vec<Instruction> {
    let mut program = vec![
        load(KIND, 0),
        copy(ACCESS, KIND),
        immediate(AND_IMMEDIATE, KIND, 0xffff),
        immediate(SHIFT_RIGHT_IMMEDIATE, ACCESS, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in &rules.allowed {
        program.extend(block(rule));
    }
    program.push(immediate(MOVE_IMMEDIATE, RESULT, 0));
    program.push(exit());
    program
}

fn block(rule: &DeviceRule) -> Vec<Instruction> {
    let kind = match rule.kind {
        DeviceKind::Block => KIND_BLOCK,
        DeviceKind::Char => KIND_CHAR,
    };
    let mut tests = vec![immediate(JUMP_NOT_EQUAL_32, KIND, kind)];
    let denied = EVERY_ACCESS & !i32::from(rule.access.bits());
    if denied != 0 {
        tests.push(copy(SCRATCH, ACCESS));
        tests.push(immediate(AND_IMMEDIATE, SCRATCH, denied));
        tests.push(immediate(JUMP_NOT_EQUAL_32, SCRATCH, 0));
    }
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(number) = number {
            tests.push(immediate(JUMP_NOT_EQUAL_32, register, number.cast_signed()));
        }
    }
    tests.push(immediate(MOVE_IMMEDIATE, RESULT, 1));
    tests.push(exit());
    // A test that fails jumps behind the block; the offset counts from the instruction after the jump.
    let length = tests.len();
    for (at, instruction) in tests.iter_mut().enumerate() {
        if instruction.opcode == JUMP_NOT_EQUAL_32 {
            instruction.offset = i16::try_from(length - at - 1).unwrap_or(i16::MAX);
        }
    }
    tests
}

fn load(register: u8, offset: i16) -> Instruction {
    Instruction::new(LOAD_WORD, register, CONTEXT, offset, 0)
}

fn copy(to: u8, from: u8) -> Instruction {
    Instruction::new(MOVE, to, from, 0, 0)
}

fn immediate(opcode: u8, register: u8, value: i32) -> Instruction {
    Instruction::new(opcode, register, 0, 0, value)
}

fn exit() -> Instruction {
    Instruction::new(EXIT, 0, 0, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroups::devices::DeviceAccess;

    /// What the kernel would do with the program.
    fn run(program: &[Instruction], kind: i32, access: u8, major: u32, minor: u32) -> bool {
        let context = [(u32::from(access) << 16) | kind.cast_unsigned(), major, minor];
        let mut registers = [0u64; 11];
        let mut at = 0;
        loop {
            let i = program[at];
            let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            at += 1;
            match i.opcode {
                LOAD_WORD => {
                    assert_eq!(from, usize::from(CONTEXT));
                    registers[to] = u64::from(context[usize::try_from(i.offset).unwrap() / 4]);
                }
                MOVE => registers[to] = registers[from],
                MOVE_IMMEDIATE => registers[to] = i64::from(i.immediate).cast_unsigned(),
                AND_IMMEDIATE => registers[to] &= i64::from(i.immediate).cast_unsigned(),
                SHIFT_RIGHT_IMMEDIATE => registers[to] >>= i.immediate,
                JUMP_NOT_EQUAL_32 => {
                    if registers[to] & 0xffff_ffff != u64::from(i.immediate.cast_unsigned()) {
                        at += usize::try_from(i.offset).unwrap();
                    }
                }
                EXIT => return registers[0] == 1,
                other => panic!("opcode {other:#x}"),
            }
        }
    }

    #[test]
    fn the_default_allows_what_a_container_needs() {
        let program = assemble(&DeviceRules::default());
        let read_write = (DeviceAccess::READ | DeviceAccess::WRITE).bits();
        assert!(run(&program, KIND_CHAR, read_write, 1, 3), "/dev/null");
        assert!(run(&program, KIND_CHAR, read_write, 136, 77), "/dev/pts/77");
        assert!(run(&program, KIND_BLOCK, DeviceAccess::MKNOD.bits(), 8, 0), "mknod of a disk");
        assert!(!run(&program, KIND_BLOCK, DeviceAccess::READ.bits(), 8, 0), "reading a disk");
        assert!(!run(&program, KIND_CHAR, DeviceAccess::READ.bits(), 1, 1), "/dev/mem");
        assert!(!run(&program, KIND_BLOCK, read_write, 1, 3), "block 1:3 is not /dev/null");
        let with_mknod = DeviceAccess::all().bits();
        assert!(!run(&program, KIND_CHAR, with_mknod, 10, 229), "mknod does not bring the rest");
    }

    #[test]
    fn all_and_none() {
        let (all, none) = (assemble(&DeviceRules::all()), assemble(&DeviceRules::none()));
        for kind in [KIND_BLOCK, KIND_CHAR] {
            assert!(run(&all, kind, 7, 250, 1 << 20));
            assert!(!run(&none, kind, 1, 1, 3));
        }
    }

    #[test]
    fn partial_access_and_numbers_above_the_sign_bit() {
        let big = 0xffff_fffe;
        let rules = DeviceRules::none().allow(DeviceKind::Char, big, None, DeviceAccess::READ);
        let program = assemble(&rules);
        assert!(run(&program, KIND_CHAR, DeviceAccess::READ.bits(), big, 0));
        assert!(!run(&program, KIND_CHAR, DeviceAccess::WRITE.bits(), big, 0));
        assert!(!run(&program, KIND_CHAR, DeviceAccess::READ.bits(), big - 1, 0));
    }
}
