/*
 * Before main(): makes the other tasks of a spawn as copies of this one, see wire/mp_twin.h. Only where
 * that is the same as starting them: nothing of the program has run, there is one thread, and this library
 * came with the program and not by dlopen(3).
 */
#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <link.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "pvm/wire/mp_ops.h"
#include "pvm/wire/mp_twin.h"

extern char **environ;
/* A program that is profiled: its timers would not run in a copy. */
extern void profiled(void) __asm__("__gmon_start__") __attribute__((weak));

struct self {
	int fd;
	char *epid;   /* the digits of $PVMEPID in the environment */
	void *tid_at; /* where the C library keeps the thread's number */
	void *robust; /* its list of robust mutexes */
	size_t robust_size;
};

struct order {
	uintptr_t loader;
	bool ours_first;
};

static bool has_address(const struct dl_phdr_info *o, uintptr_t at)
{
	for (int i = 0; i < o->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &o->dlpi_phdr[i];

		if (p->p_type == PT_LOAD && at - o->dlpi_addr - p->p_vaddr < p->p_memsz)
			return true;
	}
	return false;
}

static int order_look(struct dl_phdr_info *o, size_t size, void *arg)
{
	struct order *order = arg;

	(void)size;
	order->ours_first = has_address(o, (uintptr_t)order_look);
	return order->ours_first || o->dlpi_addr == order->loader;
}

/* What dlopen(3) brings comes behind the loader in the list of objects. */
static bool came_with_program(void)
{
	struct order order = {.loader = getauxval(AT_BASE)};

	return order.loader && dl_iterate_phdr(order_look, &order) && order.ours_first;
}

static bool alone(void)
{
	struct stat st;

	/* ".", ".." and one thread */
	return !stat("/proc/self/task", &st) && st.st_nlink == 3;
}

static bool socket_find(const char *s, int *fd)
{
	uint64_t inode;
	struct stat st;

	/* A program between the daemon and us may have put something else there. */
	if (sscanf(s, "%d:%" SCNu64, fd, &inode) != 2 || *fd < 0 || fstat(*fd, &st) ||
	    !S_ISSOCK(st.st_mode) || st.st_ino != inode)
		return false;
	return true;
}

static bool self_find(struct self *me)
{
	me->epid = getenv(MP_ENV_EPID);
	return me->epid && strlen(me->epid) == MP_TWIN_COOKIE_DIGITS && !profiled &&
	       came_with_program() && alone() && !prctl(PR_GET_TID_ADDRESS, &me->tid_at) &&
	       me->tid_at && !syscall(SYS_get_robust_list, 0, &me->robust, &me->robust_size);
}

static bool hello(const struct self *me)
{
	const char *path = (const char *)getauxval(AT_EXECFN);
	uint8_t b[sizeof(struct mp_twin_hello) + MP_TWIN_PATH_MAX];
	struct mp_twin_hello h = {.magic = MP_TWIN_MAGIC, .pid = getpid()};
	size_t n = path ? strlen(path) : 0;

	if (!n || n > MP_TWIN_PATH_MAX)
		return false;
	memcpy(b, &h, sizeof(h));
	memcpy(b + sizeof(h), path, n);
	return send(me->fd, b, sizeof(h) + n, MSG_NOSIGNAL) == (ssize_t)(sizeof(h) + n);
}

static bool ask_take(const struct self *me, struct mp_twin_ask *ask, int *out)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} ctl;
	struct iovec iov = {ask, sizeof(*ask)};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = ctl.bytes,
			   .msg_controllen = sizeof(ctl.bytes)};
	struct pollfd p = {.fd = me->fd, .events = POLLIN};
	struct cmsghdr *c;
	ssize_t n;

	if (poll(&p, 1, MP_TWIN_WAIT_MS) != 1)
		return false;
	n = recvmsg(me->fd, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
	if (!c || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int)))
		return false;
	memcpy(out, CMSG_DATA(c), sizeof(*out));
	if (n == sizeof(*ask))
		return true;
	close(*out);
	return false;
}

/*
 * As fork(2) of the C library, but the daemon is the parent. The handlers of pthread_atfork(3) do not run:
 * for what they know the copy has always been there.
 */
static long copy(const struct self *me)
{
	long pid = syscall(SYS_clone,
			   CLONE_PARENT | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD, 0,
			   NULL, me->tid_at, 0);

	if (pid == 0)
		syscall(SYS_set_robust_list, me->robust, me->robust_size);
	return pid < 0 ? -errno : pid;
}

static void become(const struct self *me, uint32_t cookie, int out)
{
	char digits[MP_TWIN_COOKIE_DIGITS + 1];
	void *seed = (void *)getauxval(AT_RANDOM);

	close(me->fd);
	snprintf(digits, sizeof(digits), "%0*u", MP_TWIN_COOKIE_DIGITS, cookie);
	memcpy(me->epid, digits, MP_TWIN_COOKIE_DIGITS);
	/* Some libraries make random numbers of these. */
	if (seed)
		(void)!getrandom(seed, 16, 0);
	dup2(out, 1);
	dup2(out, 2);
	if (out > 2)
		close(out);
}

/* Returns in this process, and in each copy. */
static void serve(const struct self *me)
{
	struct mp_twin_ask ask;
	int out;

	while (ask_take(me, &ask, &out)) {
		struct mp_twin_made made = {.seq = ask.seq, .pid = (int32_t)copy(me)};

		if (made.pid == 0) {
			become(me, ask.cookie, out);
			return;
		}
		close(out);
		if (send(me->fd, &made, sizeof(made), MSG_NOSIGNAL) != sizeof(made))
			break;
	}
	close(me->fd);
}

__attribute__((constructor)) static void before_main(void)
{
	const char *s = getenv(MP_ENV_TWIN);
	struct self me;

	if (!s || !environ)
		return;
	if (!socket_find(s, &me.fd)) {
		unsetenv(MP_ENV_TWIN);
		return;
	}
	unsetenv(MP_ENV_TWIN);
	if (self_find(&me) && hello(&me))
		serve(&me);
	else
		close(me.fd);
}
