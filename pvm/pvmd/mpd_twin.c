#include "pvm/pvmd/mpd_twin.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/loop.h"
#include "pvm/wire/mp_twin.h"

enum { ASKED_MAX = 16 };

struct mpd_twin {
	struct base_watch watch;
	struct base_timer late;
	struct base_loop *loop;
	const struct mpd_twin_ops *ops;
	void *owner;
	const char *path;
	char env[64];
	int task_fd;
	pid_t pid;
	bool serves, over;
	unsigned asked; /* and not made yet */
};

static void twin_close(struct mpd_twin *t)
{
	t->over = true;
	t->serves = false;
	base_loop_timer_cancel(&t->late);
	if (t->watch.fd < 0)
		return;
	base_loop_remove(&t->watch);
	close(t->watch.fd);
	t->watch.fd = -1;
}

static void twin_gone(struct mpd_twin *t, const char *why)
{
	log_debug("twin %d: %s", (int)t->pid, why);
	twin_close(t);
	t->ops->gone(t->owner);
}

static bool hello_take(struct mpd_twin *t, const uint8_t *b, size_t n)
{
	size_t len = strlen(t->path);
	struct mp_twin_hello h;

	if (n != sizeof(h) + len)
		return false;
	memcpy(&h, b, sizeof(h));
	/* Not a script's interpreter, nor a program that another one started. */
	return h.magic == MP_TWIN_MAGIC && h.pid == t->pid && !memcmp(b + sizeof(h), t->path, len);
}

static void late_arm(struct mpd_twin *t)
{
	if (t->asked)
		base_loop_timer(t->loop, &t->late,
				base_clock_ns() + MP_TWIN_WAIT_MS * BASE_NS_PER_MS);
	else
		base_loop_timer_cancel(&t->late);
}

/* One packet; false when there is none or the twin is gone. */
static bool packet_take(struct mpd_twin *t, bool *alive)
{
	uint8_t b[sizeof(struct mp_twin_hello) + MP_TWIN_PATH_MAX];
	ssize_t n = t->over ? -1 : recv(t->watch.fd, b, sizeof(b), MSG_DONTWAIT | MSG_TRUNC);
	struct mp_twin_made made;

	if (t->over || (n < 0 && (errno == EAGAIN || errno == EINTR)))
		return false;
	if (n > 0 && !t->serves && (size_t)n <= sizeof(b) && hello_take(t, b, (size_t)n)) {
		t->serves = true;
		return true;
	}
	if (n != sizeof(made) || !t->serves || !t->asked) {
		/* It may be freed in this. */
		*alive = false;
		twin_gone(t, n > 0 ? "not one that makes copies" : "its end");
		return false;
	}
	memcpy(&made, b, sizeof(made));
	t->asked--;
	late_arm(t);
	*alive = t->ops->made(t->owner, made.seq, made.pid);
	return *alive;
}

bool mpd_twin_look(struct mpd_twin *t)
{
	bool alive = true;

	while (packet_take(t, &alive))
		continue;
	return alive;
}

static void twin_ready(struct base_watch *w, uint32_t events)
{
	(void)events;
	mpd_twin_look(base_container_of(w, struct mpd_twin, watch));
}

static void twin_late(struct base_timer *timer)
{
	twin_gone(base_container_of(timer, struct mpd_twin, late), "silent");
}

int mpd_twin_new(struct mpd_twin **out, struct base_loop *loop, const char *path,
		 const struct mpd_twin_ops *ops, void *owner)
{
	struct mpd_twin *t = calloc(1, sizeof(*t));
	struct stat st;
	int fds[2], rc;

	if (!t)
		return -ENOMEM;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds)) {
		rc = -errno;
		free(t);
		return rc;
	}
	t->watch = (struct base_watch){.fd = fds[0], .events = EPOLLIN, .ready = twin_ready};
	rc = fstat(fds[1], &st) ? -errno : base_loop_add(loop, &t->watch);
	if (rc) {
		close(fds[0]);
		close(fds[1]);
		free(t);
		return rc;
	}
	snprintf(t->env, sizeof(t->env), MP_ENV_TWIN "=%d:%" PRIu64, fds[1], (uint64_t)st.st_ino);
	t->task_fd = fds[1];
	t->late.fire = twin_late;
	t->loop = loop;
	t->ops = ops;
	t->owner = owner;
	t->path = path;
	*out = t;
	return 0;
}

void mpd_twin_free(struct mpd_twin *t)
{
	if (!t)
		return;
	twin_close(t);
	if (t->task_fd >= 0)
		close(t->task_fd);
	free(t);
}

int mpd_twin_task_fd(const struct mpd_twin *t)
{
	return t->task_fd;
}

char *mpd_twin_env(struct mpd_twin *t)
{
	return t->env;
}

void mpd_twin_started(struct mpd_twin *t, pid_t pid)
{
	t->pid = pid;
	close(t->task_fd);
	t->task_fd = -1;
}

bool mpd_twin_serves(const struct mpd_twin *t)
{
	return t && t->serves;
}

bool mpd_twin_full(const struct mpd_twin *t)
{
	return t->asked >= ASKED_MAX;
}

int mpd_twin_ask(struct mpd_twin *t, uint32_t seq, uint32_t cookie, int out_fd)
{
	struct mp_twin_ask ask = {.seq = seq, .cookie = cookie};
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} ctl = {.align = {.cmsg_len = CMSG_LEN(sizeof(int)),
			   .cmsg_level = SOL_SOCKET,
			   .cmsg_type = SCM_RIGHTS}};
	struct iovec iov = {&ask, sizeof(ask)};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = ctl.bytes,
			   .msg_controllen = sizeof(ctl.bytes)};

	memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), &out_fd, sizeof(out_fd));
	if (sendmsg(t->watch.fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof(ask)) {
		int rc = -errno;

		twin_close(t);
		return rc;
	}
	t->asked++;
	late_arm(t);
	return 0;
}
