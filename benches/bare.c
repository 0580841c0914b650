/*
 * What a container costs when a C program makes only the system calls it takes: the measure for Coracle.
 *
 * usage: bare ROOT SCRATCH FILTER_PID
 *
 * For every number n that it reads it starts /bin/true n times, one after the other, in a container of the
 * same make as Coracle's with the host's users (namespaces, mounts, devices, covered paths, limits, dropped
 * capabilities, system call filter), waits for its end, cleans up, and prints how many nanoseconds that took.
 * The root is ROOT below an overlay whose writable directory is in SCRATCH, or ROOT itself if SCRATCH is "-".
 * The filter is taken from the running process FILTER_PID, so that it is the very same.
 *
 * It cuts corners that a library cannot: it trusts ROOT, checks no path for links, never grows, has no other
 * threads or signal handlers, and a failure ends it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef PTRACE_SECCOMP_GET_FILTER
#define PTRACE_SECCOMP_GET_FILTER 0x420c
#endif

/* Docker's fourteen capabilities without AUDIT_WRITE, MKNOD and NET_RAW: Coracle's default. */
static const uint64_t KEPT = 1ull << CAP_CHOWN | 1ull << CAP_DAC_OVERRIDE | 1ull << CAP_FOWNER |
                             1ull << CAP_FSETID | 1ull << CAP_KILL | 1ull << CAP_SETGID |
                             1ull << CAP_SETUID | 1ull << CAP_SETPCAP | 1ull << CAP_NET_BIND_SERVICE |
                             1ull << CAP_SYS_CHROOT | 1ull << CAP_SETFCAP;

static const char *root, *overlay;
static struct sock_fprog filter;
static int tasks[3], unified, last_cap;

static void die(const char *what) {
	fprintf(stderr, "bare: %s: %s\n", what, strerror(errno));
	_exit(1);
}

#define CHECK(call) do { if ((call) < 0) die(#call); } while (0)

static void write_file(const char *path, const char *value) {
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, value, strlen(value)) < 0) die(path);
	close(fd);
}

static void cover(const char *path) {
	struct stat st;
	if (stat(path, &st) < 0) return;
	if (S_ISDIR(st.st_mode))
		CHECK(mount("tmpfs", path, "tmpfs", MS_RDONLY, "size=0"));
	else
		CHECK(mount("/dev/null", path, NULL, MS_BIND, NULL));
}

static void read_only(const char *path) {
	if (access(path, F_OK) < 0) return;
	CHECK(mount(path, path, NULL, MS_BIND | MS_REC, NULL));
	CHECK(mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
}

static void device(const char *path, int major, int minor) {
	CHECK(mknod(path, S_IFCHR | 0666, makedev(major, minor)));
}

static void drop_capabilities(void) {
	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	for (int cap = 0; cap <= last_cap; cap++)
		if (!(KEPT >> cap & 1)) prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2] = {
		{(uint32_t)KEPT, (uint32_t)KEPT, 0},
		{(uint32_t)(KEPT >> 32), (uint32_t)(KEPT >> 32), 0},
	};
	CHECK(syscall(SYS_capset, &header, data));
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
}

static void loopback(void) {
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	CHECK(ioctl(fd, SIOCSIFFLAGS, &request));
	close(fd);
}

static void file_systems(void) {
	const unsigned long safe = MS_NOSUID | MS_NODEV | MS_NOEXEC;
	CHECK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	if (overlay)
		CHECK(mount("overlay", root, "overlay", MS_NODEV, overlay));
	else
		CHECK(mount(root, root, NULL, MS_BIND | MS_REC, NULL));
	CHECK(chdir(root));
	CHECK(syscall(SYS_pivot_root, ".", "."));
	CHECK(umount2(".", MNT_DETACH));
	CHECK(chdir("/"));
	CHECK(mount("proc", "/proc", "proc", safe, NULL));
	CHECK(mount("tmpfs", "/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=64k"));
	CHECK(symlink("/proc/self/fd", "/dev/fd"));
	CHECK(symlink("/proc/self/fd/0", "/dev/stdin"));
	CHECK(symlink("/proc/self/fd/1", "/dev/stdout"));
	CHECK(symlink("/proc/self/fd/2", "/dev/stderr"));
	CHECK(symlink("pts/ptmx", "/dev/ptmx"));
	umask(0);
	device("/dev/null", 1, 3);
	device("/dev/zero", 1, 5);
	device("/dev/full", 1, 7);
	device("/dev/random", 1, 8);
	device("/dev/urandom", 1, 9);
	device("/dev/tty", 5, 0);
	CHECK(mkdir("/dev/pts", 0755));
	CHECK(mkdir("/dev/shm", 01777));
	CHECK(mkdir("/dev/mqueue", 0755));
	umask(022);
	CHECK(mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"));
	CHECK(mount("tmpfs", "/dev/shm", "tmpfs", safe, "mode=1777,size=64m"));
	CHECK(mount("mqueue", "/dev/mqueue", "mqueue", safe, NULL));
	CHECK(mount("sysfs", "/sys", "sysfs", safe | MS_RDONLY, NULL));
	static const char *covered[] = {
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	};
	for (size_t i = 0; i < sizeof covered / sizeof *covered; i++) cover(covered[i]);
	static const char *fixed[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
	for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++) read_only(fixed[i]);
}

static void __attribute__((noinline, noreturn)) child(void) {
	struct sigaction none = {.sa_handler = SIG_DFL};
	for (int signal = 1; signal < 65; signal++) sigaction(signal, &none, NULL);
	for (int i = 0; i < 3; i++)
		if (write(tasks[i], "0", 1) < 0) die("tasks");
	CHECK(unshare(CLONE_NEWCGROUP));
	setsid();
	loopback();
	file_systems();
	CHECK(sethostname("container", 9));
	CHECK(syscall(SYS_setgroups, 0, NULL));
	CHECK(syscall(SYS_setresgid, 0, 0, 0));
	CHECK(syscall(SYS_setresuid, 0, 0, 0));
	drop_capabilities();
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	CHECK(syscall(SYS_close_range, 3, ~0u, 4 /* CLOSE_RANGE_CLOEXEC */));
	for (int fd = 0; fd < 3; fd++) dup2(null, fd);
	CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter));
	char *const argv[] = {"/bin/true", NULL};
	char *const envp[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", NULL};
	execve(argv[0], argv, envp);
	die("execve");
	_exit(1);
}

/* clone3 as vfork does it: the child borrows memory and stack. */
static pid_t start(int cgroup, int *pidfd) {
	struct clone_args args = {
		.flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_INTO_CGROUP | CLONE_NEWNS | CLONE_NEWUTS |
		         CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET,
		.pidfd = (uintptr_t)pidfd,
		.exit_signal = SIGCHLD,
		.cgroup = cgroup,
	};
	long pid;
	__asm__ volatile("syscall" : "=a"(pid)
	                 : "a"(SYS_clone3), "D"(&args), "S"(sizeof args)
	                 : "rcx", "r11", "memory");
	if (pid == 0) child();
	return pid;
}

static const char *hierarchies[] = {"cpu", "memory", "pids"};
static char dirs[3][256], unified_dir[256];

static void own_cgroup(const char *name, char *dir, int count) {
	char line[512], path[400] = "/";
	FILE *file = fopen("/proc/self/cgroup", "r");
	while (file && fgets(line, sizeof line, file)) {
		char *names = strchr(line, ':') + 1, *own = strchr(names, ':');
		*own++ = 0;
		own[strcspn(own, "\n")] = 0;
		if (!strcmp(names, name)) strcpy(path, own);
	}
	if (file) fclose(file);
	const char *top = *name ? name : "unified";
	snprintf(dir, count, "/sys/fs/cgroup/%s%s/bare-%d", top, strcmp(path, "/") ? path : "", getpid());
}

static void limit(const char *dir, const char *file, const char *value) {
	char path[800];
	snprintf(path, sizeof path, "%s/%s", dir, file);
	write_file(path, value);
}

static void container(void) {
	for (int i = 0; i < 3; i++) CHECK(mkdir(dirs[i], 0755));
	CHECK(mkdir(unified_dir, 0755));
	limit(dirs[0], "cpu.cfs_quota_us", "150000");
	limit(dirs[1], "memory.limit_in_bytes", "67108864");
	limit(dirs[1], "memory.memsw.limit_in_bytes", "67108864");
	limit(dirs[2], "pids.max", "64");
	for (int i = 0; i < 3; i++) {
		char path[800];
		snprintf(path, sizeof path, "%s/tasks", dirs[i]);
		CHECK(tasks[i] = open(path, O_WRONLY | O_CLOEXEC));
	}
	CHECK(unified = open(unified_dir, O_PATH | O_DIRECTORY | O_CLOEXEC));
	int pidfd = -1;
	pid_t pid = start(unified, &pidfd);
	CHECK(pid);
	for (int i = 0; i < 3; i++) close(tasks[i]);
	close(unified);
	siginfo_t info;
	CHECK(waitid(P_PIDFD, pidfd, &info, WEXITED));
	if (info.si_code != CLD_EXITED || info.si_status) {
		fprintf(stderr, "bare: the program failed\n");
		_exit(1);
	}
	close(pidfd);
	CHECK(rmdir(unified_dir));
	for (int i = 0; i < 3; i++) CHECK(rmdir(dirs[i]));
}

static void take_filter(pid_t pid) {
	CHECK(ptrace(PTRACE_SEIZE, pid, 0, 0));
	CHECK(ptrace(PTRACE_INTERRUPT, pid, 0, 0));
	CHECK(waitpid(pid, NULL, __WALL));
	long count = ptrace(PTRACE_SECCOMP_GET_FILTER, pid, 0, NULL);
	CHECK(count);
	filter.len = count;
	filter.filter = calloc(count, sizeof *filter.filter);
	CHECK(ptrace(PTRACE_SECCOMP_GET_FILTER, pid, 0, filter.filter));
	ptrace(PTRACE_DETACH, pid, 0, 0);
}

int main(int argc, char **argv) {
	if (argc != 4) return 2;
	char options[4096], line[64];
	root = argv[1];
	if (strcmp(argv[2], "-")) {
		snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s/upper,workdir=%s/work", root, argv[2], argv[2]);
		overlay = options;
	}
	take_filter(atoi(argv[3]));
	while (prctl(PR_CAPBSET_READ, last_cap + 1, 0, 0, 0) >= 0) last_cap++;
	for (int i = 0; i < 3; i++) own_cgroup(hierarchies[i], dirs[i], sizeof dirs[i]);
	own_cgroup("", unified_dir, sizeof unified_dir);
	while (fgets(line, sizeof line, stdin)) {
		struct timespec start, end;
		clock_gettime(CLOCK_MONOTONIC, &start);
		for (int n = atoi(line); n > 0; n--) container();
		clock_gettime(CLOCK_MONOTONIC, &end);
		printf("%lld\n", (end.tv_sec - start.tv_sec) * 1000000000ll + end.tv_nsec - start.tv_nsec);
		fflush(stdout);
	}
	return 0;
}
