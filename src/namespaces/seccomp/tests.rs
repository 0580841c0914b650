//! Runs compiled filters in a small interpreter of classic BPF.

use super::*;
use crate::ErrorKind;
use crate::namespaces::{Capabilities, Capability, CapabilitySet};

const ALLOW: u32 = 0x7fff_0000;
const fn errno(errno: i32) -> u32 {
    0x0005_0000 | errno.cast_unsigned()
}
const EPERM: u32 = errno(libc::EPERM);
const ENOSYS: u32 = errno(libc::ENOSYS);
const EAFNOSUPPORT: u32 = errno(libc::EAFNOSUPPORT);

/// The answer to a call, and how many instructions it took.
fn run(program: &[sock_filter], audit: u32, nr: u32, args: [u64; 6]) -> (u32, usize) {
    let mut data = Vec::with_capacity(64);
    data.extend(nr.to_ne_bytes());
    data.extend(audit.to_ne_bytes());
    data.extend(0x1234_5678_9abc_u64.to_ne_bytes());
    data.extend(args.iter().flat_map(|arg| arg.to_ne_bytes()));
    let (mut pc, mut acc) = (0, 0);
    for steps in 1.. {
        let sock_filter { code, jt, jf, k } = program[pc];
        let taken = match code {
            0x20 => {
                assert!(k % 4 == 0 && k < 64, "load at {k}");
                acc = u32::from_ne_bytes(data[k as usize..][..4].try_into().unwrap());
                0
            }
            0x54 => {
                acc &= k;
                0
            }
            0x05 => k,
            0x15 => u32::from(if acc == k { jt } else { jf }),
            0x25 => u32::from(if acc > k { jt } else { jf }),
            0x35 => u32::from(if acc >= k { jt } else { jf }),
            0x06 => return (k, steps),
            _ => panic!("instruction {code:#x} at {pc}"),
        };
        pc += 1 + taken as usize;
    }
    unreachable!()
}

/// As the kernel checks a program before it takes it, and that no instruction is there for nothing.
fn assert_sound(program: &[sock_filter]) {
    assert!(!program.is_empty() && program.len() <= 4096, "{} instructions", program.len());
    assert_eq!(program.last().unwrap().code, 0x06);
    let mut reached = vec![false; program.len()];
    reached[0] = true;
    for (pc, instruction) in program.iter().enumerate() {
        let next: Vec<usize> = match instruction.code {
            0x06 => vec![],
            0x05 => vec![instruction.k as usize],
            0x15 | 0x25 | 0x35 => vec![instruction.jt.into(), instruction.jf.into()],
            _ => vec![0],
        };
        for offset in next {
            assert!(pc + 1 + offset < program.len(), "jump out of the program at {pc}");
            reached[pc + 1 + offset] |= reached[pc];
        }
    }
    let dead = reached.iter().filter(|r| !**r).count();
    assert!(
        dead * 10 <= program.len(),
        "{dead} of {} instructions are never reached",
        program.len()
    );
}

struct Filter(Vec<sock_filter>);

impl Filter {
    fn new(seccomp: &Seccomp, caps: u64) -> Self {
        let program = seccomp.compile(caps).unwrap();
        assert_sound(&program);
        Self(program)
    }

    fn default_with(caps: &[Capability]) -> Self {
        Self::new(&Seccomp::default_profile(), CapabilitySet::of(caps).bits())
    }

    fn call(&self, arch: Arch, name: &str, args: &[u64]) -> u32 {
        let nr = arch.number(name).unwrap_or_else(|| panic!("{arch:?} lacks {name}"));
        self.number(arch.audit(), nr, args)
    }

    fn number(&self, audit: u32, nr: u32, args: &[u64]) -> u32 {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        run(&self.0, audit, nr, all).0
    }

    fn native(&self, name: &str, args: &[u64]) -> u32 {
        self.call(Arch::native().unwrap(), name, args)
    }
}

fn default_caps() -> u64 {
    Capabilities::default().granted()
}

#[test]
fn the_table_is_sorted_and_agrees_with_libc() {
    let rows = syscalls::TABLE;
    assert!(rows.is_sorted_by(|a, b| a.0 < b.0));
    for arch in [Arch::X86_64, Arch::X86, Arch::Aarch64] {
        let mut numbers: Vec<u32> = arch.numbers().collect();
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), count, "{arch:?} has a number twice");
        assert!(count > 300);
    }
    let native = Arch::native().unwrap();
    macro_rules! same {
        ($($name:ident $number:ident;)*) => {
            $(assert_eq!(
                native.number(stringify!($name)).map(i64::from),
                Some(libc::$number),
                stringify!($name)
            );)*
        };
    }
    same! {
        read SYS_read; write SYS_write; close SYS_close; mmap SYS_mmap; brk SYS_brk; ioctl SYS_ioctl;
        socket SYS_socket; clone SYS_clone; execve SYS_execve; exit SYS_exit; ptrace SYS_ptrace;
        mount SYS_mount; umount2 SYS_umount2; reboot SYS_reboot; futex SYS_futex; openat SYS_openat;
        unshare SYS_unshare; setns SYS_setns; bpf SYS_bpf; seccomp SYS_seccomp; statx SYS_statx;
        execveat SYS_execveat; userfaultfd SYS_userfaultfd; keyctl SYS_keyctl; add_key SYS_add_key;
        request_key SYS_request_key; io_uring_setup SYS_io_uring_setup; clone3 SYS_clone3;
        openat2 SYS_openat2; open_tree SYS_open_tree; move_mount SYS_move_mount; fsopen SYS_fsopen;
        mount_setattr SYS_mount_setattr; landlock_create_ruleset SYS_landlock_create_ruleset;
        perf_event_open SYS_perf_event_open; personality SYS_personality; kexec_load SYS_kexec_load;
        init_module SYS_init_module; finit_module SYS_finit_module; delete_module SYS_delete_module;
        process_vm_readv SYS_process_vm_readv; rseq SYS_rseq; futex_waitv SYS_futex_waitv;
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_32_bit_and_arm_numbers_are_those_of_their_headers() {
    for (name, x86, arm) in [
        ("read", 3, 63),
        ("clone", 120, 220),
        ("mount", 21, 40),
        ("ptrace", 26, 117),
        ("socket", 359, 198),
        ("unshare", 310, 97),
        ("clone3", 435, 435),
    ] {
        assert_eq!(Arch::X86.number(name), Some(x86), "{name}");
        assert_eq!(Arch::Aarch64.number(name), Some(arm), "{name}");
    }
    assert_eq!(Arch::X86.number("socketcall"), Some(102));
    assert_eq!(Arch::X86_64.number("socketcall"), None);
    assert_eq!(Arch::Aarch64.number("open"), None);
}

#[test]
fn every_name_in_the_profile_is_a_system_call_and_is_there_once() {
    let mut seen = std::collections::BTreeSet::new();
    for name in profile::all_names() {
        assert!(syscalls::find(name).is_some(), "{name}");
    }
    for rule in profile::rules(0).iter().filter(|rule| rule.args.is_empty()) {
        assert!(seen.insert(rule.name.clone()), "{} twice", rule.name);
    }
}

#[test]
fn the_default_profile_answers() {
    let filter = Filter::new(&Seccomp::default_profile(), default_caps());
    let high = 0xdead_beef_0000_0000;
    let cases: &[(&str, &[u64], u32)] = &[
        ("read", &[], ALLOW),
        ("execve", &[], ALLOW),
        ("openat", &[], ALLOW),
        ("exit_group", &[], ALLOW),
        ("ptrace", &[], ALLOW),
        ("chroot", &[], ALLOW),
        ("setgroups", &[], ALLOW),
        ("mount", &[], EPERM),
        ("umount2", &[], EPERM),
        ("setns", &[], EPERM),
        ("fsopen", &[], EPERM),
        ("open_tree", &[], EPERM),
        ("sethostname", &[], EPERM),
        ("open_by_handle_at", &[], EPERM),
        ("bpf", &[], EPERM),
        ("perf_event_open", &[], EPERM),
        ("keyctl", &[], EPERM),
        ("add_key", &[], EPERM),
        ("request_key", &[], EPERM),
        ("io_uring_setup", &[], EPERM),
        ("io_uring_enter", &[], EPERM),
        ("io_uring_register", &[], EPERM),
        ("userfaultfd", &[], EPERM),
        ("kexec_load", &[], EPERM),
        ("init_module", &[], EPERM),
        ("swapon", &[], EPERM),
        ("settimeofday", &[], EPERM),
        ("reboot", &[], EPERM),
        ("pidfd_getfd", &[], EPERM),
        ("clone3", &[], ENOSYS),
        // A thread, a fork, and each namespace.
        ("clone", &[0x003d_0f00], ALLOW),
        ("clone", &[0x11], ALLOW),
        ("clone", &[high | 0x11], ALLOW),
        ("clone", &[0x1000_0000 | 0x11], EPERM),
        ("clone", &[high | 0x1000_0000], EPERM),
        ("clone", &[0x0002_0000], EPERM),
        ("clone", &[0x0200_0000], EPERM),
        ("clone", &[0x0400_0000], EPERM),
        ("clone", &[0x0800_0000], EPERM),
        ("clone", &[0x2000_0000], EPERM),
        ("clone", &[0x4000_0000], EPERM),
        ("unshare", &[0x400], ALLOW),
        ("unshare", &[0x1000_0000], EPERM),
        ("unshare", &[0x80], EPERM),
        ("personality", &[0], ALLOW),
        ("personality", &[8], ALLOW),
        ("personality", &[0x2_0000], ALLOW),
        ("personality", &[0x2_0008], ALLOW),
        ("personality", &[0xffff_ffff], ALLOW),
        ("personality", &[u64::MAX], ALLOW),
        ("personality", &[0x4_0000], EPERM),
        ("personality", &[0x40_0000], EPERM),
        ("ioctl", &[0, 0x5401], ALLOW),
        ("ioctl", &[0x5412, 0x5401], ALLOW),
        ("ioctl", &[0, 0x5412], EPERM),
        ("ioctl", &[0, high | 0x5412], EPERM),
        ("ioctl", &[0, 0x541c], EPERM),
        ("ioctl", &[0, 0x5411], ALLOW),
        ("ioctl", &[0, 0x5413], ALLOW),
        ("socket", &[1], ALLOW),
        ("socket", &[2], ALLOW),
        ("socket", &[10], ALLOW),
        ("socket", &[16], ALLOW),
        ("socket", &[17], ALLOW),
        ("socket", &[38], EAFNOSUPPORT),
        ("socket", &[high | 38], EAFNOSUPPORT),
        ("socket", &[high | 2], ALLOW),
        ("socket", &[40], EAFNOSUPPORT),
        ("socket", &[u64::MAX], EAFNOSUPPORT),
    ];
    for (name, args, expected) in cases {
        let answer = filter.native(name, args);
        assert_eq!(answer, *expected, "{name}{args:x?}: {answer:#x}");
    }
    let audit = Arch::native().unwrap().audit();
    for nr in [400, 500, 0x3fff_ffff, u32::MAX] {
        assert_eq!(filter.number(audit, nr, &[]), ENOSYS, "number {nr:#x}");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn other_interfaces_are_no_way_around_the_default_profile() {
    let filter = Filter::new(&Seccomp::default_profile(), default_caps());
    for (name, args, expected) in [
        ("read", &[][..], ALLOW),
        ("mmap2", &[], ALLOW),
        ("mount", &[], EPERM),
        ("umount", &[], EPERM),
        ("keyctl", &[], EPERM),
        ("vm86", &[], EPERM),
        ("clone", &[0x1000_0000], EPERM),
        ("clone3", &[], ENOSYS),
        ("socket", &[40], EAFNOSUPPORT),
        ("socket", &[2], ALLOW),
        ("socketcall", &[1], ENOSYS),
        ("socketcall", &[0x1_0000_0001], ENOSYS),
        ("socketcall", &[3], ALLOW),
        ("ipc", &[1], ALLOW),
    ] {
        assert_eq!(filter.call(Arch::X86, name, args), expected, "i386 {name}{args:x?}");
    }
    // x32, an unknown interface, and arm64 on x86-64.
    assert_eq!(filter.number(Arch::X86_64.audit(), X32_BIT, &[]), ENOSYS);
    assert_eq!(filter.number(Arch::X86_64.audit(), X32_BIT | 59, &[]), ENOSYS);
    assert_eq!(filter.number(0xc000_00b7, 63, &[]), ENOSYS);
    assert_eq!(filter.number(0, 0, &[]), ENOSYS);

    let only_native =
        Filter::new(&Seccomp::default_profile().architectures([Arch::X86_64]), default_caps());
    assert_eq!(only_native.native("read", &[]), ALLOW);
    assert_eq!(only_native.call(Arch::X86, "read", &[]), ENOSYS);
}

#[test]
fn capabilities_open_the_calls_they_are_for() {
    for (cap, name, args) in [
        (Capability::SysAdmin, "mount", &[][..]),
        (Capability::SysAdmin, "clone3", &[]),
        (Capability::SysAdmin, "clone", &[0x1000_0000]),
        (Capability::SysAdmin, "unshare", &[0x1000_0000]),
        (Capability::SysAdmin, "bpf", &[]),
        (Capability::Bpf, "bpf", &[]),
        (Capability::Perfmon, "perf_event_open", &[]),
        (Capability::DacReadSearch, "open_by_handle_at", &[]),
        (Capability::SysChroot, "chroot", &[]),
        (Capability::SysBoot, "reboot", &[]),
        (Capability::SysModule, "finit_module", &[]),
        (Capability::SysTime, "clock_settime", &[]),
        (Capability::SysNice, "mbind", &[]),
        (Capability::SysPtrace, "pidfd_getfd", &[]),
        (Capability::Syslog, "syslog", &[]),
    ] {
        assert_eq!(Filter::default_with(&[cap]).native(name, args), ALLOW, "{cap} {name}");
        assert_ne!(Filter::default_with(&[]).native(name, args), ALLOW, "{name} without {cap}");
    }
    // Full privilege still does not open what no capability is named for.
    let all = Filter::new(&Seccomp::default_profile(), u64::MAX);
    for name in ["keyctl", "io_uring_setup", "userfaultfd", "kexec_load"] {
        assert_eq!(all.native(name, &[]), EPERM, "{name}");
    }
}

/// Whether a condition holds, as the documentation says it.
fn holds(arg: &Arg, args: [u64; 6]) -> bool {
    let mut actual = args[usize::from(arg.index)];
    if arg.width == arg::Width::Bits32 {
        actual &= 0xffff_ffff;
    }
    match arg.op {
        Op::Eq => actual == arg.value,
        Op::Ne => actual != arg.value,
        Op::Lt => actual < arg.value,
        Op::Le => actual <= arg.value,
        Op::Gt => actual > arg.value,
        Op::Ge => actual >= arg.value,
        Op::MaskedEq(mask) => actual & mask == arg.value,
    }
}

#[test]
fn the_program_says_of_every_number_what_the_rules_say() {
    let native = Arch::native().unwrap();
    let samples = [0, 1, 2, 8, 38, 0x5412, 0x1000_0011, 0x2_0008, u64::MAX];
    for caps in [0, default_caps(), u64::MAX] {
        let filter = Filter::new(&Seccomp::default_profile(), caps);
        let rules = profile::rules(caps);
        for arch in [native].into_iter().chain(Seccomp::default_profile().foreign(native)) {
            let known: std::collections::BTreeSet<u32> = arch.numbers().collect();
            let by_number: Vec<(u32, &Rule)> =
                rules.iter().filter_map(|rule| Some((arch.number(&rule.name)?, rule))).collect();
            for nr in 0..600 {
                let default = if known.contains(&nr) { EPERM } else { ENOSYS };
                for value in samples {
                    let args = [value; 6];
                    let expected = by_number
                        .iter()
                        .filter(|(number, _)| *number == nr)
                        .find(|(_, rule)| rule.args.iter().all(|arg| holds(arg, args)))
                        .map_or(default, |(_, rule)| rule.action.value());
                    let (answer, _) = run(&filter.0, arch.audit(), nr, args);
                    assert_eq!(answer, expected, "{arch:?} {nr} with {value:#x}, {caps:#x}");
                }
            }
        }
    }
}

#[test]
fn the_cached_profile_is_the_compiled_one() {
    for caps in [0, default_caps(), u64::MAX, CapabilitySet::from(Capability::SysAdmin).bits()] {
        let profile = Seccomp::default_profile();
        let fresh = profile.assemble(caps).unwrap();
        for _ in 0..2 {
            let cached = profile.compile(caps).unwrap();
            let same = cached
                .iter()
                .zip(&fresh)
                .all(|(a, b)| (a.code, a.jt, a.jf, a.k) == (b.code, b.jt, b.jf, b.k));
            assert!(same && cached.len() == fresh.len(), "{caps:#x}");
        }
    }
}

#[test]
fn a_call_takes_few_instructions() {
    let program = Seccomp::default_profile().compile(default_caps()).unwrap();
    let native = Arch::native().unwrap();
    // The number of mmap lies deeper in the search on ARM.
    let most = if native == Arch::Aarch64 { 12 } else { 11 };
    for name in ["read", "write", "close", "openat", "futex", "mmap", "epoll_pwait", "newfstatat"] {
        let (answer, steps) = run(&program, native.audit(), native.number(name).unwrap(), [0; 6]);
        assert_eq!(answer, ALLOW);
        assert!(steps <= most, "{name} takes {steps} instructions");
    }
}

#[test]
fn rules_in_front_of_the_profile_win() {
    let filter = Filter::new(
        &Seccomp::default_profile()
            .allow("perf_event_open")
            .deny("ptrace", libc::EACCES)
            .rule("socket", Action::Allow, &[Arg::int(0, Op::Eq, libc::AF_VSOCK)])
            .allow("socketcall"),
        default_caps(),
    );
    assert_eq!(filter.native("perf_event_open", &[]), ALLOW);
    assert_eq!(filter.native("ptrace", &[]), errno(libc::EACCES));
    assert_eq!(filter.native("socket", &[40]), ALLOW);
    assert_eq!(filter.native("socket", &[38]), EAFNOSUPPORT);
    assert_eq!(filter.native("mount", &[]), EPERM);
    #[cfg(target_arch = "x86_64")]
    assert_eq!(filter.call(Arch::X86, "socketcall", &[1]), ALLOW);
}

#[test]
fn a_call_passes_if_it_is_made_whatever_its_arguments() {
    let profile = Seccomp::default_profile;
    let first = Arg::new(0, Op::Eq, 1);
    for (seccomp, passes) in [
        (Seccomp::allow_all(), true),
        (profile(), true),
        (Seccomp::deny_all(Action::Errno(1)), false),
        (Seccomp::deny_all(Action::Errno(1)).allow("sendmsg"), true),
        (profile().deny("sendmsg", 1), false),
        (profile().rule("sendmsg", Action::Log, &[]), true),
        (profile().rule("sendmsg", Action::Notify, &[]), false),
        (profile().rule("sendmsg", Action::Errno(1), &[first]), false),
        (Seccomp::deny_all(Action::Errno(1)).rule("sendmsg", Action::Allow, &[first]), false),
        (profile().deny("sendto", 1), true),
    ] {
        assert_eq!(seccomp.permits("sendmsg", 0), passes, "{seccomp:?}");
    }
}

#[test]
fn every_comparison_on_64_and_32_bits() {
    let values: [u64; 9] = [
        0,
        1,
        0xffff_ffff,
        0x1_0000_0000,
        0x1_0000_0001,
        0x1_ffff_ffff,
        0x2_0000_0000,
        0x2_0000_0001,
        u64::MAX,
    ];
    for value in values {
        for arg in values {
            for (op, holds) in [
                (Op::Eq, arg == value),
                (Op::Ne, arg != value),
                (Op::Lt, arg < value),
                (Op::Le, arg <= value),
                (Op::Gt, arg > value),
                (Op::Ge, arg >= value),
                (Op::MaskedEq(u64::MAX), arg == value),
                (Op::MaskedEq(value), arg & value == value),
                (Op::MaskedEq(value | 0xff), arg & (value | 0xff) == value),
            ] {
                let filter = Filter::new(
                    &Seccomp::allow_all().rule("read", Action::Errno(7), &[Arg::new(2, op, value)]),
                    0,
                );
                let expected = if holds { errno(7) } else { ALLOW };
                let answer = filter.native("read", &[5, 6, arg]);
                assert_eq!(answer, expected, "{arg:#x} {op:?} {value:#x}");
            }
        }
        let low = u32::try_from(value & 0xffff_ffff).unwrap();
        for (op, arg, holds) in [
            (Op::Eq, u64::from(low), true),
            (Op::Eq, u64::from(low) | 7 << 32, true),
            (Op::Ne, u64::from(low) | 7 << 32, false),
            (Op::Ge, u64::from(low) | 7 << 32, true),
            (Op::Gt, u64::from(low) | 7 << 32, false),
            (Op::Le, u64::from(low) | 7 << 32, true),
            (Op::Lt, u64::from(low) | 7 << 32, false),
            (Op::Eq, u64::from(low ^ 1), false),
        ] {
            let arg_rule = Arg::int(5, op, low.cast_signed());
            let filter =
                Filter::new(&Seccomp::allow_all().rule("read", Action::Trap, &[arg_rule]), 0);
            let expected = if holds { Action::Trap.value() } else { ALLOW };
            assert_eq!(filter.native("read", &[0, 0, 0, 0, 0, arg]), expected, "{op:?} {low:#x}");
        }
    }
}

#[test]
fn conditions_are_anded_and_rules_tried_in_order() {
    let filter = Filter::new(
        &Seccomp::deny_all(Action::KillProcess)
            .rule("fcntl", Action::Allow, &[Arg::int(0, Op::Eq, 3), Arg::int(1, Op::Lt, 2)])
            .rule("fcntl", Action::Trace(9), &[Arg::int(0, Op::Eq, 3)])
            .rule("fcntl", Action::Log, &[Arg::int(1, Op::Eq, 1)])
            .rules(["read", "write"], Action::Allow, &[])
            .deny("read", 5),
        0,
    );
    for (args, expected) in
        [([3, 1], ALLOW), ([3, 2], 0x7ff0_0009), ([4, 1], 0x7ffc_0000), ([4, 2], 0x8000_0000)]
    {
        assert_eq!(filter.native("fcntl", &args), expected, "{args:?}");
    }
    assert_eq!(filter.native("read", &[]), ALLOW);
    assert_eq!(filter.native("write", &[]), ALLOW);
    assert_eq!(filter.native("close", &[]), 0x8000_0000);
    // Newer than the table: as the default, but an error number becomes ENOSYS.
    let audit = Arch::native().unwrap().audit();
    assert_eq!(filter.number(audit, 9999, &[]), 0x8000_0000);
    let errno_filter = Filter::new(&Seccomp::deny_all(Action::Errno(1)).allow("read"), 0);
    assert_eq!(errno_filter.number(audit, 9999, &[]), ENOSYS);
    assert_eq!(errno_filter.native("close", &[]), EPERM);
    let open = Filter::new(&Seccomp::allow_all().deny("ptrace", 1), 0);
    assert_eq!(open.number(audit, 9999, &[]), ALLOW);
    assert_eq!(open.native("ptrace", &[]), EPERM);
    let closed = Filter::new(&Seccomp::allow_all().unknown(Action::KillThread), 0);
    assert_eq!(closed.number(audit, 9999, &[]), 0);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn multi_calls_follow_the_rules_for_what_they_carry() {
    let open = Filter::new(
        &Seccomp::allow_all()
            .deny("connect", 13)
            .deny("shmat", 13)
            .rule("socket", Action::Errno(97), &[Arg::int(0, Op::Eq, 40)])
            .deny("send", 13),
        0,
    );
    for (name, args, expected) in [
        ("connect", &[][..], errno(13)),
        ("socketcall", &[3], errno(13)),
        ("socketcall", &[9], errno(13)),
        // Which family it is cannot be seen: refused.
        ("socketcall", &[1], errno(97)),
        ("socketcall", &[2], ALLOW),
        ("ipc", &[21], errno(13)),
        ("ipc", &[0x1_0015], errno(13)),
        ("ipc", &[22], ALLOW),
    ] {
        assert_eq!(open.call(Arch::X86, name, args), expected, "{name}{args:x?}");
    }
    let closed = Filter::new(
        &Seccomp::deny_all(Action::Errno(1)).allow("connect").rule(
            "socket",
            Action::Allow,
            &[Arg::int(0, Op::Eq, 1)],
        ),
        0,
    );
    assert_eq!(closed.call(Arch::X86, "socketcall", &[3]), ALLOW);
    assert_eq!(closed.call(Arch::X86, "socketcall", &[1]), EPERM);
}

#[test]
fn far_jumps_reach_their_targets() {
    // A different answer for each call, and long chains of conditions, push every target out of the
    // reach of a conditional jump.
    let native = Arch::native().unwrap();
    let names: Vec<&str> = syscalls::names().filter(|n| native.number(n).is_some()).collect();
    let mut seccomp = Seccomp::deny_all(Action::KillProcess).architectures([]);
    for (i, name) in names.iter().enumerate() {
        let i = u16::try_from(i).unwrap();
        seccomp = seccomp
            .rule(*name, Action::Errno(i32::from(i) + 1), &[Arg::new(0, Op::Eq, 7 << 32)])
            .rule(*name, Action::Trace(i), &[]);
    }
    let filter = Filter::new(&seccomp, 0);
    assert!(filter.0.len() > 1500, "{}", filter.0.len());
    assert!(filter.0.iter().any(|instruction| instruction.code == 0x05), "no far jump");
    for (i, name) in names.iter().enumerate() {
        let i = u32::try_from(i).unwrap();
        assert_eq!(filter.native(name, &[7 << 32]), 0x0005_0000 | (i + 1), "{name}");
        assert_eq!(filter.native(name, &[7]), 0x7ff0_0000 | i, "{name}");
    }
    assert_eq!(filter.number(native.audit(), 9999, &[]), 0x8000_0000);
    assert_eq!(filter.number(1, 0, &[]), ENOSYS);

    // One call with so many alternatives that both ways out of its conditions are far.
    let mut seccomp = Seccomp::deny_all(Action::Errno(1)).architectures([]);
    for i in 0..300 {
        seccomp = seccomp.rule(
            "read",
            Action::Trace(i % 3),
            &[Arg::new(0, Op::Ge, u64::from(i) * 10), Arg::new(0, Op::Le, u64::from(i) * 10 + 4)],
        );
    }
    let filter = Filter::new(&seccomp, 0);
    for (i, data) in (0..300_u64).zip([0, 1, 2].into_iter().cycle()) {
        let expected = 0x7ff0_0000 | data;
        assert_eq!(filter.native("read", &[i * 10]), expected);
        assert_eq!(filter.native("read", &[i * 10 + 4]), expected);
        assert_eq!(filter.native("read", &[i * 10 + 5]), EPERM);
    }
}

#[test]
fn mistakes_are_named() {
    let mut long = Seccomp::allow_all();
    for i in 0..2000 {
        long = long.rule("read", Action::Errno(1), &[Arg::new(0, Op::Eq, i << 20)]);
    }
    for (seccomp, expected, hint) in [
        (Seccomp::allow_all().deny("ptraec", 1), "\"ptraec\"", Some("ptrace")),
        (Seccomp::allow_all().deny("", 1), "\"\"", None),
        (Seccomp::default_profile().allow("mount\0"), "\"mount\\0\"", Some("mount")),
        (Seccomp::allow_all().deny("read", 4096), "error number 4096", Some("4095")),
        (Seccomp::allow_all().deny("read", -1), "error number -1", Some("4095")),
        (Seccomp::deny_all(Action::Notify), "notifies by default", Some("name the calls")),
        (Seccomp::allow_all().unknown(Action::Notify), "notifies by default", Some("name")),
        (
            Seccomp::allow_all().rule("execve", Action::Notify, &[]),
            "notifies of execve",
            Some("before anyone"),
        ),
        (
            Seccomp::allow_all().rule("read", Action::Allow, &[Arg::new(6, Op::Eq, 0)]),
            "argument 6",
            None,
        ),
        (
            Seccomp::allow_all().rule("read", Action::Trap, &[Arg::new(0, Op::MaskedEq(1), 2)]),
            "never be true",
            None,
        ),
        (long, "the kernel takes 4096", None),
    ] {
        let err = seccomp.compile(0).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidInput, "{err}");
        assert!(err.to_string().contains(expected), "{err}");
        match hint {
            Some(hint) => assert!(err.hint().unwrap_or("").contains(hint), "{:?}", err.hint()),
            None => assert!(err.hint().is_none(), "{:?}", err.hint()),
        }
    }
}

#[test]
fn flags_and_notification() {
    let notify = Seccomp::allow_all().rule("mount", Action::Notify, &[]);
    assert!(notify.notifies() && !Seccomp::default_profile().notifies());
    assert_eq!(notify.flags(), 8);
    assert_eq!(notify.clone().log(true).wait_killable(true).flags(), 2 | 8 | 32);
    assert_eq!(Seccomp::default_profile().wait_killable(true).flags(), 0);
    assert_eq!(Filter::new(&notify, 0).native("mount", &[]), 0x7fc0_0000);
    let unconfined = Seccomp::unconfined().rule("mount", Action::Notify, &[]);
    assert!(unconfined.is_unconfined() && !unconfined.notifies());
    assert!(unconfined.compile(0).unwrap().is_empty());
}
