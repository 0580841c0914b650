//! The default profile: what a container may call.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use libc::sock_filter;

use super::{Action, Arg, NOT_THERE, Op, Rule};
use crate::error::Result;
use crate::namespaces::capability::{Capability, CapabilitySet};

/// Calls that any container may make.
const ALLOWED: &str = "
    accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown
    chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
    clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old
    eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate
    fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync
    fgetxattr file_getattr file_setattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64
    fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait
    futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64
    getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid
    getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit
    getrusage getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents
    io_pgetevents io_pgetevents_time64 io_setup io_submit ioprio_get ioprio_set ipc kill
    landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat
    listen listmount listns listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat
    lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod
    mknodat mlock mlock2 mlockall mmap mmap2 modify_ldt mprotect mq_getsetattr mq_notify mq_open
    mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl
    msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect
    open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect
    poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv
    process_vm_writev pselect6 pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead readlink
    readlinkat readv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat
    rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask
    rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo
    sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
    sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr
    sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop
    semtimedop_time64 sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area
    set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer
    setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32
    setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown
    sigaction sigaltstack signal signalfd signalfd4 sigpending sigprocmask sigreturn sigsuspend socketpair
    splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo
    tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime
    timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times
    tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat
    utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev
";

/// Calls that one of the granted capabilities is for. The kernel checks the capability as well, but only in the
/// call; without it a container has no business in that code.
const GATED: &[(Capability, &str)] = &[
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree open_tree_attr
         perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module finit_module init_module"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise"),
    (Capability::SysRawio, "ioperm iopl"),
    (Capability::SysTime, "clock_settime clock_settime64 settimeofday stime"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::SysNice, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// The flags of `clone` that make namespaces. `CLONE_NEWTIME` is not among them: in `clone` its bit is part of the
/// exit signal.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;
/// The flags of `unshare` that make namespaces, time namespaces included.
const UNSHARE_NAMESPACES: u64 = CLONE_NAMESPACES | 0x80;

/// `PER_LINUX` and `PER_LINUX32`, plain or with the release number kept at 2.6 (`UNAME26`), and the query.
const PERSONALITIES: [i32; 5] = [0, 0x8, 0x2_0000, 0x2_0008, -1];

/// Address families of sockets: UNIX, IPv4, IPv6, netlink, packet.
const FAMILIES: [i32; 5] =
    [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET];

const TIOCSTI: i32 = 0x5412;
const TIOCLINUX: i32 = 0x541c;

/// `socketcall`'s number for `socket`.
const SYS_SOCKET: i32 = 1;

/// The profile for a process that can come to hold these capabilities.
pub(super) fn rules(granted_caps: u64) -> Vec<Rule> {
    let mut rules = Vec::with_capacity(420);
    let mut add = |name: &'static str, action, args: &[Arg]| {
        rules.push(Rule { name: name.into(), action, args: args.to_vec() });
    };
    let mut allow_each = |names: &'static str| {
        for name in names.split_ascii_whitespace() {
            add(name, Action::Allow, &[]);
        }
    };
    allow_each(ALLOWED);
    for (cap, names) in GATED {
        if granted_caps & cap.bit() != 0 {
            allow_each(names);
        }
    }

    // Behind the gated ones: with CAP_SYS_ADMIN these are allowed already.
    add("clone", Action::Allow, &[Arg::new(0, Op::MaskedEq(CLONE_NAMESPACES), 0)]);
    add("unshare", Action::Allow, &[Arg::new(0, Op::MaskedEq(UNSHARE_NAMESPACES), 0)]);
    add("clone3", NOT_THERE, &[]);

    for persona in PERSONALITIES {
        add("personality", Action::Allow, &[Arg::int(0, Op::Eq, persona)]);
    }
    for request in [TIOCSTI, TIOCLINUX] {
        add("ioctl", Action::Errno(libc::EPERM), &[Arg::int(1, Op::Eq, request)]);
    }
    add("ioctl", Action::Allow, &[]);
    for family in FAMILIES {
        add("socket", Action::Allow, &[Arg::int(0, Op::Eq, family)]);
    }
    add("socket", Action::Errno(libc::EAFNOSUPPORT), &[]);
    // ENOSYS lets a C library that has both ways take the other one.
    add("socketcall", NOT_THERE, &[Arg::int(0, Op::Eq, SYS_SOCKET)]);
    add("socketcall", Action::Allow, &[]);
    rules
}

/// The compiled profile, made once for each set of capabilities that makes a difference to it.
pub(super) fn cached(
    granted_caps: u64,
    compile: impl FnOnce() -> Result<Vec<sock_filter>>,
) -> Result<Vec<sock_filter>> {
    /// Hosts use a few sets; one that tries thousands pays for compiling, not with memory.
    const MAX_ENTRIES: usize = 32;
    static CACHE: OnceLock<Mutex<BTreeMap<u64, Vec<sock_filter>>>> = OnceLock::new();

    let gates = GATED.iter().map(|(cap, _)| *cap).collect::<CapabilitySet>().bits();
    let key = granted_caps & gates;
    let cache = CACHE.get_or_init(Mutex::default);
    if let Some(program) = cache.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
        return Ok(program.clone());
    }
    let program = compile()?;
    let mut entries = cache.lock().unwrap_or_else(PoisonError::into_inner);
    if entries.len() < MAX_ENTRIES {
        entries.insert(key, program.clone());
    }
    Ok(program)
}

#[cfg(test)]
pub(super) fn all_names() -> impl Iterator<Item = &'static str> {
    let gated = GATED.iter().flat_map(|(_, names)| names.split_ascii_whitespace());
    ALLOWED.split_ascii_whitespace().chain(gated)
}
