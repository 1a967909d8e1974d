#include "node/vmm/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/if_tun.h>
#include <linux/landlock.h>
#include <pwd.h>
#include <sched.h>
#include <seccomp.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

enum { NOBODY = 65534 };

static int sandbox_fail(char *why, size_t cap, const char *what)
{
	int rc = errno ? -errno : -EPERM;

	snprintf(why, cap, "the sandbox cannot be set up: %s: %s", what, strerror(-rc));
	return rc;
}

/* ---- as root: namespaces and user ---- */

/* An empty tmpfs becomes the root; the old tree is let go, so no path leads anywhere. */
static int sandbox_empty_root(char *why, size_t cap)
{
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return sandbox_fail(why, cap, "mount private");
	if (mount("none", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,mode=555"))
		return sandbox_fail(why, cap, "mount of the empty root on /tmp");
	if (chdir("/tmp"))
		return sandbox_fail(why, cap, "the empty root");
	if (syscall(SYS_pivot_root, ".", ".") == 0) {
		if (umount2(".", MNT_DETACH) || chdir("/"))
			return sandbox_fail(why, cap, "umount of the old root");
	} else {
		/* The root of an initramfs cannot be let go; it can be covered. */
		if (errno != EINVAL || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") ||
		    chdir("/"))
			return sandbox_fail(why, cap, "pivot_root");
	}
	if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
		return sandbox_fail(why, cap, "read-only root");
	return 0;
}

static int sandbox_as_root(struct vmm_sandbox *s, char *why, size_t cap)
{
	/* Looked up while /etc is still there. */
	struct passwd *pw = s->user ? getpwnam(s->user) : NULL;
	uid_t uid = pw ? pw->pw_uid : NOBODY;
	gid_t gid = pw ? pw->pw_gid : NOBODY;
	int rc;

	/* A container may refuse namespaces; Landlock and seccomp then still hold. */
	if (!unshare(CLONE_NEWNS | CLONE_NEWIPC | (s->network ? 0 : CLONE_NEWNET))) {
		rc = sandbox_empty_root(why, cap);
		if (rc)
			return rc;
		s->namespaces = 1;
	} else if (errno != EPERM) {
		return sandbox_fail(why, cap, "unshare");
	}
	if (s->keep_user)
		return 0;
	if (setgroups(0, NULL) || setresgid(gid, gid, gid) || setresuid(uid, uid, uid))
		return sandbox_fail(why, cap, "change of user");
	s->user_changed = 1;
	return 0;
}

/* ---- as anyone ---- */

/* A ruleset without rules: every access to files that is handled is refused. */
static int sandbox_landlock(struct vmm_sandbox *s, char *why, size_t cap)
{
	struct landlock_ruleset_attr attr = {.handled_access_fs = (UINT64_C(1) << 13) - 1};
	int abi =
		(int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	BASE_AUTO_FD int fd = -1;

	if (abi < 1 || s->keep_user)
		return 0;
	fd = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);
	if (fd < 0 || syscall(SYS_landlock_restrict_self, fd, 0))
		return sandbox_fail(why, cap, "landlock");
	s->landlock = 1;
	return 0;
}

static const int calls_plain[] = {
	SCMP_SYS(read),
	SCMP_SYS(write),
	SCMP_SYS(readv),
	SCMP_SYS(writev),
	SCMP_SYS(pread64),
	SCMP_SYS(pwrite64),
	SCMP_SYS(preadv),
	SCMP_SYS(pwritev),
	SCMP_SYS(preadv2),
	SCMP_SYS(pwritev2),
	SCMP_SYS(recvmsg),
	SCMP_SYS(sendmsg),
	SCMP_SYS(recvfrom),
	SCMP_SYS(sendto),
	SCMP_SYS(recvmmsg),
	SCMP_SYS(sendmmsg),
	SCMP_SYS(accept4),
	SCMP_SYS(accept),
	SCMP_SYS(shutdown),
	SCMP_SYS(getsockname),
	SCMP_SYS(getpeername),
	SCMP_SYS(getsockopt),
	SCMP_SYS(setsockopt),
	SCMP_SYS(epoll_wait),
	SCMP_SYS(epoll_pwait),
	SCMP_SYS(epoll_pwait2),
	SCMP_SYS(epoll_ctl),
	SCMP_SYS(epoll_create1),
	SCMP_SYS(poll),
	SCMP_SYS(ppoll),
	SCMP_SYS(select),
	SCMP_SYS(pselect6),
	SCMP_SYS(eventfd2),
	SCMP_SYS(pipe2),
	SCMP_SYS(futex),
	SCMP_SYS(futex_waitv),
	SCMP_SYS(clock_gettime),
	SCMP_SYS(clock_getres),
	SCMP_SYS(clock_nanosleep),
	SCMP_SYS(nanosleep),
	SCMP_SYS(gettimeofday),
	SCMP_SYS(time),
	SCMP_SYS(timer_create),
	SCMP_SYS(timer_settime),
	SCMP_SYS(timer_gettime),
	SCMP_SYS(timer_delete),
	SCMP_SYS(timer_getoverrun),
	SCMP_SYS(timerfd_create),
	SCMP_SYS(timerfd_settime),
	SCMP_SYS(timerfd_gettime),
	SCMP_SYS(munmap),
	SCMP_SYS(mremap),
	SCMP_SYS(madvise),
	SCMP_SYS(mincore),
	SCMP_SYS(brk),
	SCMP_SYS(mlock),
	SCMP_SYS(munlock),
	SCMP_SYS(fallocate),
	SCMP_SYS(fdatasync),
	SCMP_SYS(fsync),
	SCMP_SYS(sync_file_range),
	SCMP_SYS(fadvise64),
	SCMP_SYS(ftruncate),
	SCMP_SYS(lseek),
	SCMP_SYS(fstat),
	SCMP_SYS(close),
	SCMP_SYS(close_range),
	SCMP_SYS(dup),
	SCMP_SYS(dup2),
	SCMP_SYS(dup3),
	SCMP_SYS(fcntl),
	SCMP_SYS(rt_sigaction),
	SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn),
	SCMP_SYS(rt_sigtimedwait),
	SCMP_SYS(rt_sigpending),
	SCMP_SYS(sigaltstack),
	SCMP_SYS(tgkill),
	SCMP_SYS(gettid),
	SCMP_SYS(getpid),
	SCMP_SYS(getuid),
	SCMP_SYS(geteuid),
	SCMP_SYS(getgid),
	SCMP_SYS(getegid),
	SCMP_SYS(exit),
	SCMP_SYS(exit_group),
	SCMP_SYS(set_robust_list),
	SCMP_SYS(rseq),
	SCMP_SYS(sched_yield),
	SCMP_SYS(sched_getaffinity),
	SCMP_SYS(sched_setaffinity),
	SCMP_SYS(sched_getparam),
	SCMP_SYS(sched_getscheduler),
	SCMP_SYS(getrandom),
	SCMP_SYS(getrusage),
	SCMP_SYS(times),
	SCMP_SYS(membarrier),
	SCMP_SYS(restart_syscall),
	SCMP_SYS(io_uring_enter),
	SCMP_SYS(wait4),
	SCMP_SYS(waitid),
	SCMP_SYS(uname),
	SCMP_SYS(sysinfo),
	SCMP_SYS(getcpu),
	SCMP_SYS(memfd_create),
};

/* KVM (0xae) and userfaultfd (0xaa) by their type byte; the others one by one. */
static int allow_ioctls(scmp_filter_ctx f)
{
	static const unsigned types[] = {0xae, 0xaa};
	static const unsigned long single[] = {
		FIONREAD,      FIONBIO, 0x1277 /* BLKDISCARD */, 0x127f /* BLKZEROOUT */,
		TUNSETOFFLOAD, /* virtio-net, when the guest's driver starts */
		TUNSETQUEUE,
	};
	int rc = 0;

	for (size_t i = 0; i < BASE_ARRAY_LEN(types) && !rc; i++)
		rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				      SCMP_A1(SCMP_CMP_MASKED_EQ, 0xff00, types[i] << 8));
	for (size_t i = 0; i < BASE_ARRAY_LEN(single) && !rc; i++)
		rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				      SCMP_A1(SCMP_CMP_EQ, single[i], 0));
	return rc;
}

static int allow_with_arguments(scmp_filter_ctx f)
{
	int rc = allow_ioctls(f);

	/* fstat(3) of this C library, but no paths. */
	if (!rc)
		rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(newfstatat), 1,
				      SCMP_A3(SCMP_CMP_MASKED_EQ, AT_EMPTY_PATH, AT_EMPTY_PATH));
	/* Memory, but never executable. */
	if (!rc)
		rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
				      SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (!rc)
		rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
				      SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	/* Threads, but no processes and no namespaces. clone3 hides its flags: the C library takes
	 * clone when it is told that there is none. */
	if (!rc)
		rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
				      SCMP_A0(SCMP_CMP_MASKED_EQ,
					      CLONE_THREAD | CLONE_NEWUSER | CLONE_NEWNS |
						      CLONE_NEWNET | CLONE_NEWPID,
					      CLONE_THREAD));
	if (!rc)
		rc = seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	if (!rc)
		rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
				      SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME, 0));
	return rc;
}

/* What threads that others wait for ask of the scheduler for themselves (base/sched.h). */
static int allow_sched(scmp_filter_ctx f)
{
	int rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(sched_setattr), 1,
				  SCMP_A0(SCMP_CMP_EQ, 0, 0));

	if (!rc)
		rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(sched_getattr), 1,
				      SCMP_A0(SCMP_CMP_EQ, 0, 0));
	return rc ? rc : seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(getpriority), 0);
}

/* TCP, and RDMA: its ioctls have the type 0x1b; a connection that comes back is a new queue pair. */
static int allow_network(scmp_filter_ctx f)
{
	static const int families[] = {AF_INET, AF_INET6};
	int rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(connect), 0);

	if (!rc)
		rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				      SCMP_A1(SCMP_CMP_MASKED_EQ, 0xff00, 0x1b00));
	if (!rc)
		rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
				      SCMP_A0(SCMP_CMP_EQ, PR_SET_TIMERSLACK, 0));

	for (size_t i = 0; i < BASE_ARRAY_LEN(families) && !rc; i++)
		rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(socket), 2,
				      SCMP_A0(SCMP_CMP_EQ, (uint64_t)families[i], 0),
				      SCMP_A1(SCMP_CMP_MASKED_EQ, 0xf, SOCK_STREAM));
	return rc;
}

static int sandbox_seccomp(const struct vmm_sandbox *s, char *why, size_t cap)
{
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	int rc = f ? 0 : -ENOMEM;

	for (size_t i = 0; i < BASE_ARRAY_LEN(calls_plain) && !rc; i++)
		rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, calls_plain[i], 0);
	if (!rc)
		rc = allow_with_arguments(f);
	if (!rc)
		rc = allow_sched(f);
	if (!rc && s->network)
		rc = allow_network(f);
	/* A tree of comparisons instead of a list: every exit to user space makes system calls. */
	if (!rc)
		(void)!seccomp_attr_set(f, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	/* Threads of devices exist already. */
	if (!rc)
		rc = seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1);
	if (!rc)
		rc = seccomp_load(f);
	if (f)
		seccomp_release(f);
	errno = -rc;
	return rc ? sandbox_fail(why, cap, "seccomp") : 0;
}

int vmm_sandbox_enter(struct vmm_sandbox *s, char *why, size_t cap)
{
	int rc = 0;

	s->namespaces = s->landlock = s->user_changed = 0;
	if (geteuid() == 0)
		rc = sandbox_as_root(s, why, cap);
	if (!rc && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		rc = sandbox_fail(why, cap, "no_new_privs");
	/* Other processes of this user may not look into the guest's memory. */
	if (!rc && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
		rc = sandbox_fail(why, cap, "dumpable");
	if (!rc)
		rc = sandbox_landlock(s, why, cap);
	if (!rc)
		rc = sandbox_seccomp(s, why, cap);
	return rc;
}
