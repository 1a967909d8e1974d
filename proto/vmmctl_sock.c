/*
 * Sockets of the VMM control protocol. A connection sends at once and queues what the kernel does
 * not take; the queue is bounded, and a peer that lets it fill up is dropped.
 */
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/clock.h"
#include "base/log.h"
#include "proto/vmmctl.h"

enum { MAX_QUEUED = 64, MAX_CLIENTS = 32, MAX_CALLS = 64, MAX_FDS = 4 };

static int socket_address(const char *dir, const char *name, struct sockaddr_un *out)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int n = snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/%s", dir, name);

	if (n < 0 || (size_t)n >= sizeof(sa.sun_path))
		return -ENAMETOOLONG;
	*out = sa;
	return 0;
}

int vmmctl_listen(const char *dir, const char *name, int type)
{
	BASE_AUTO_FD int fd = -1;
	struct sockaddr_un sa;
	struct stat st;
	int rc = socket_address(dir, name, &sa), out;

	if (rc)
		return rc;
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (!lstat(sa.sun_path, &st) && S_ISSOCK(st.st_mode))
		unlink(sa.sun_path);
	/* The mode of the descriptor becomes that of the file: no moment with a wider one. */
	if (fchmod(fd, 0600) || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) || listen(fd, 16))
		return -errno;
	out = fd;
	fd = -1;
	return out;
}

int vmmctl_connect(const char *dir, const char *name, int type)
{
	BASE_AUTO_FD int fd = -1;
	struct sockaddr_un sa;
	int rc = socket_address(dir, name, &sa), out;

	if (rc)
		return rc;
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof(sa)))
		return -errno;
	out = fd;
	fd = -1;
	return out;
}

/* ---- connections ---- */

struct packet {
	struct base_list link;
	int fd; /* sent along; -1: none */
	size_t len;
	uint8_t data[];
};

struct conn {
	struct base_watch watch;
	struct base_list queue;
	unsigned queued;
};

static int packet_send(int sock, const void *data, size_t len, int fd)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fd >= 0) {
		struct cmsghdr *c;

		mh.msg_control = control.bytes;
		mh.msg_controllen = sizeof(control.bytes);
		c = CMSG_FIRSTHDR(&mh);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	}
	return sendmsg(sock, &mh, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static void packet_free(struct packet *p)
{
	base_list_del(&p->link);
	if (p->fd >= 0)
		close(p->fd);
	free(p);
}

static int conn_queue(struct conn *c, const void *data, size_t len, int fd)
{
	struct packet *p;

	if (c->queued >= MAX_QUEUED)
		return -ENOBUFS;
	p = malloc(sizeof(*p) + len);
	if (!p)
		return -ENOMEM;
	p->fd = -1;
	if (fd >= 0) {
		p->fd = dup(fd);
		if (p->fd < 0) {
			free(p);
			return -errno;
		}
	}
	p->len = len;
	memcpy(p->data, data, len);
	base_list_add_tail(&c->queue, &p->link);
	c->queued++;
	return base_loop_modify(&c->watch, EPOLLIN | EPOLLOUT);
}

static int conn_send(struct conn *c, const struct vmmctl_msg *m, int fd)
{
	BASE_AUTO_FREE uint8_t *data = malloc(VMMCTL_MAX_BYTES);
	size_t len;
	int rc;

	if (!data)
		return -ENOMEM;
	rc = vmmctl_encode(m, data, &len);
	if (rc)
		return rc;
	if (base_list_empty(&c->queue)) {
		rc = packet_send(c->watch.fd, data, len, fd);
		if (rc != -EAGAIN && rc != -ENOBUFS)
			return rc;
	}
	return conn_queue(c, data, len, fd);
}

static int conn_flush(struct conn *c)
{
	while (!base_list_empty(&c->queue)) {
		struct packet *p = base_list_entry(c->queue.next, struct packet, link);
		int rc = packet_send(c->watch.fd, p->data, p->len, p->fd);

		if (rc == -EAGAIN || rc == -ENOBUFS)
			return 0;
		if (rc)
			return rc;
		packet_free(p);
		c->queued--;
	}
	return base_loop_modify(&c->watch, EPOLLIN);
}

/* The first descriptor to *fd, the others are closed; false when there was more than one. */
static bool take_fds(struct msghdr *mh, int *fd)
{
	bool ok = true;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
		size_t count;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int got;

			memcpy(&got, CMSG_DATA(c) + i * sizeof(int), sizeof(got));
			if (*fd < 0) {
				*fd = got;
			} else {
				close(got);
				ok = false;
			}
		}
	}
	return ok;
}

/* -EAGAIN: nothing there. -ECONNRESET: closed. -EBADMSG and the like: the peer is no good. */
static int conn_receive(struct conn *c, struct vmmctl_msg **out, int *out_fd)
{
	BASE_AUTO_FREE uint8_t *data = malloc(VMMCTL_MAX_BYTES);
	BASE_AUTO_FD int fd = -1;
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * MAX_FDS)];
	} control;
	struct iovec iov = {.iov_base = data, .iov_len = VMMCTL_MAX_BYTES};
	struct msghdr mh = {.msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = control.bytes,
			    .msg_controllen = sizeof(control.bytes)};
	ssize_t n;
	int rc;

	if (!data)
		return -ENOMEM;
	n = recvmsg(c->watch.fd, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	if (!take_fds(&mh, &fd) || (mh.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
		return -EBADMSG;
	if (n == 0)
		return -ECONNRESET;
	rc = vmmctl_decode(data, (size_t)n, out);
	if (rc)
		return rc;
	*out_fd = fd;
	fd = -1;
	return 0;
}

static int conn_init(struct conn *c, struct base_loop *loop, int fd,
		     void (*ready)(struct base_watch *, uint32_t))
{
	base_list_init(&c->queue);
	c->queued = 0;
	c->watch = (struct base_watch){.fd = fd, .events = EPOLLIN, .ready = ready};
	return base_loop_add(loop, &c->watch);
}

static void conn_fini(struct conn *c)
{
	base_loop_remove(&c->watch);
	close(c->watch.fd);
	base_list_foreach_safe (p, &c->queue, struct packet, link)
		packet_free(p);
}

/* ---- server ---- */

struct vmmctl_server {
	struct base_watch watch;
	const struct vmmctl_server_ops *ops;
	void *ctx;
	struct base_list peers;
	unsigned peer_count;
};

struct peer {
	struct conn conn;
	struct base_list link;
	struct base_list calls;
	unsigned call_count;
	struct vmmctl_server *server;
};

struct vmmctl_call {
	struct base_list link;
	struct peer *peer; /* NULL once it is gone */
	uint64_t id;
};

static void peer_drop(struct peer *p, int error)
{
	if (error != -ECONNRESET)
		log_warn("control connection dropped: %s", strerror(-error));
	base_list_foreach_safe (call, &p->calls, struct vmmctl_call, link) {
		base_list_del(&call->link);
		call->peer = NULL;
	}
	base_list_del(&p->link);
	p->server->peer_count--;
	conn_fini(&p->conn);
	free(p);
}

static int peer_request(struct peer *p, const struct vmmctl_msg *m, int fd)
{
	struct vmmctl_call *call;

	if (m->kind != VMMCTL_REQUEST || (fd >= 0) != vmmctl_op_has_fd(m->request.op)) {
		if (fd >= 0)
			close(fd);
		return -EBADMSG;
	}
	call = p->call_count < MAX_CALLS ? malloc(sizeof(*call)) : NULL;
	if (!call) {
		if (fd >= 0)
			close(fd);
		return -ENOBUFS;
	}
	call->peer = p;
	call->id = m->id;
	base_list_add(&p->calls, &call->link);
	p->call_count++;
	p->server->ops->request(p->server->ctx, call, &m->request, fd);
	return 0;
}

/* One packet a turn: the handler may drop this peer or the whole server. */
static void peer_ready(struct base_watch *w, uint32_t events)
{
	struct peer *p = base_container_of(w, struct peer, conn.watch);
	struct vmmctl_msg *m;
	int fd = -1, rc = 0;

	if (events & EPOLLOUT)
		rc = conn_flush(&p->conn);
	if (!rc)
		rc = conn_receive(&p->conn, &m, &fd);
	if (!rc) {
		rc = peer_request(p, m, fd);
		free(m);
	}
	if (rc && rc != -EAGAIN)
		peer_drop(p, rc);
}

static bool peer_allowed(int fd)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len))
		return false;
	return cred.uid == 0 || cred.uid == geteuid();
}

static void server_accept(struct base_watch *w, uint32_t events)
{
	struct vmmctl_server *s = base_container_of(w, struct vmmctl_server, watch);
	BASE_AUTO_FD int fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct peer *p;

	if (fd < 0)
		return;
	if (!peer_allowed(fd)) {
		log_warn("control connection of another user refused");
		return;
	}
	p = s->peer_count < MAX_CLIENTS ? calloc(1, sizeof(*p)) : NULL;
	if (!p || conn_init(&p->conn, s->watch.loop, fd, peer_ready)) {
		log_warn("control connection refused: too many");
		free(p);
		return;
	}
	fd = -1;
	p->server = s;
	base_list_init(&p->calls);
	base_list_add_tail(&s->peers, &p->link);
	s->peer_count++;
}

int vmmctl_server_new(struct base_loop *loop, int listen_fd, const struct vmmctl_server_ops *ops,
		      void *ctx, struct vmmctl_server **out)
{
	struct vmmctl_server *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return -ENOMEM;
	s->ops = ops;
	s->ctx = ctx;
	base_list_init(&s->peers);
	s->watch = (struct base_watch){.fd = listen_fd, .events = EPOLLIN, .ready = server_accept};
	rc = base_loop_add(loop, &s->watch);
	if (rc) {
		free(s);
		return rc;
	}
	*out = s;
	return 0;
}

void vmmctl_server_free(struct vmmctl_server *s)
{
	if (!s)
		return;
	base_list_foreach_safe (p, &s->peers, struct peer, link)
		peer_drop(p, -ECONNRESET);
	base_loop_remove(&s->watch);
	close(s->watch.fd);
	free(s);
}

void vmmctl_server_event(struct vmmctl_server *s, const struct vmmctl_event *event)
{
	struct vmmctl_msg m = {.kind = VMMCTL_EVENT, .event = *event};

	base_list_foreach_safe (p, &s->peers, struct peer, link) {
		int rc = conn_send(&p->conn, &m, -1);

		if (rc)
			peer_drop(p, rc == -EPIPE ? -ECONNRESET : rc);
	}
}

void vmmctl_call_reply(struct vmmctl_call *call, const struct vmmctl_reply *reply)
{
	struct vmmctl_msg m = {.kind = VMMCTL_REPLY, .id = call->id, .reply = *reply};
	struct peer *p = call->peer;
	int rc;

	if (p) {
		base_list_del(&call->link);
		p->call_count--;
		rc = conn_send(&p->conn, &m, -1);
		/* Not dropped here: the caller may be inside peer_ready(). The socket's end shows.
		 */
		if (rc)
			shutdown(p->conn.watch.fd, SHUT_RDWR);
	}
	free(call);
}

void vmmctl_call_ok(struct vmmctl_call *call)
{
	vmmctl_call_reply(call, &(struct vmmctl_reply){0});
}

void vmmctl_call_fail(struct vmmctl_call *call, int error, const char *fmt, ...)
{
	char text[VMMCTL_REASON_MAX];
	va_list ap;

	assert(error < 0);
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	vmmctl_call_reply(call, &(struct vmmctl_reply){.error = error, .text = text});
}

/* ---- client ---- */

struct vmmctl_client {
	struct conn conn;
	struct base_loop *loop;
	const struct vmmctl_client_ops *ops;
	void *ctx;
	struct base_list pending;
	unsigned pending_count;
	uint64_t last_id;
	bool broken;
};

struct pending {
	struct base_list link;
	struct base_timer timer;
	struct vmmctl_client *client;
	uint64_t id;
	vmmctl_done *done;
	void *arg;
};

static void pending_finish(struct pending *p, const struct vmmctl_reply *reply)
{
	vmmctl_done *done = p->done;
	void *arg = p->arg;

	base_loop_timer_cancel(&p->timer);
	base_list_del(&p->link);
	p->client->pending_count--;
	free(p);
	done(arg, reply);
}

static void pending_timeout(struct base_timer *t)
{
	struct pending *p = base_container_of(t, struct pending, timer);

	pending_finish(p, &(struct vmmctl_reply){.error = -ETIMEDOUT,
						 .text = "the VM's process does not answer"});
}

static void client_fail_all(struct vmmctl_client *c, int error)
{
	struct vmmctl_reply reply = {.error = error, .text = "the VM's process is gone"};

	c->broken = true;
	while (!base_list_empty(&c->pending))
		pending_finish(base_list_entry(c->pending.next, struct pending, link), &reply);
}

static int client_message(struct vmmctl_client *c, const struct vmmctl_msg *m)
{
	if (m->kind == VMMCTL_EVENT) {
		c->ops->event(c->ctx, &m->event);
		return 0;
	}
	if (m->kind != VMMCTL_REPLY)
		return -EBADMSG;
	base_list_foreach (p, &c->pending, struct pending, link) {
		if (p->id == m->id) {
			pending_finish(p, &m->reply);
			return 0;
		}
	}
	/* It came after its time was up. */
	return 0;
}

/* One packet a turn: a callback may free the client. */
static void client_ready(struct base_watch *w, uint32_t events)
{
	struct vmmctl_client *c = base_container_of(w, struct vmmctl_client, conn.watch);
	struct vmmctl_msg *m;
	int fd = -1, rc = 0;

	if (events & EPOLLOUT)
		rc = conn_flush(&c->conn);
	if (!rc)
		rc = conn_receive(&c->conn, &m, &fd);
	if (!rc) {
		if (fd >= 0)
			close(fd);
		if (m->kind != VMMCTL_REQUEST) {
			/* The client may be gone after this. */
			if (client_message(c, m))
				log_warn("a VM's process sent what it should not");
			free(m);
			return;
		}
		free(m);
		rc = -EBADMSG;
	}
	if (rc == -EAGAIN)
		return;
	base_loop_remove(&c->conn.watch);
	client_fail_all(c, -ECONNRESET);
	c->ops->closed(c->ctx, rc);
}

int vmmctl_client_new(struct base_loop *loop, const char *dir, const struct vmmctl_client_ops *ops,
		      void *ctx, struct vmmctl_client **out)
{
	int fd = vmmctl_connect(dir, VMMCTL_SOCKET, SOCK_SEQPACKET), rc;
	struct vmmctl_client *c;

	if (fd < 0)
		return fd;
	c = calloc(1, sizeof(*c));
	rc = c ? conn_init(&c->conn, loop, fd, client_ready) : -ENOMEM;
	if (rc) {
		free(c);
		close(fd);
		return rc;
	}
	c->loop = loop;
	c->ops = ops;
	c->ctx = ctx;
	base_list_init(&c->pending);
	*out = c;
	return 0;
}

void vmmctl_client_free(struct vmmctl_client *c)
{
	if (!c)
		return;
	client_fail_all(c, -ECANCELED);
	conn_fini(&c->conn);
	free(c);
}

int vmmctl_client_call(struct vmmctl_client *c, const struct vmmctl_request *req, int fd,
		       int timeout_ms, vmmctl_done *done, void *arg)
{
	struct vmmctl_msg m = {.kind = VMMCTL_REQUEST, .id = c->last_id + 1, .request = *req};
	struct pending *p;
	int rc;

	if (c->broken)
		return -ENOTCONN;
	if (c->pending_count >= MAX_CALLS)
		return -EAGAIN;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	rc = conn_send(&c->conn, &m, fd);
	if (rc) {
		free(p);
		return rc == -EPIPE ? -ENOTCONN : rc;
	}
	c->last_id++;
	*p = (struct pending){.client = c, .id = m.id, .done = done, .arg = arg};
	p->timer.fire = pending_timeout;
	base_loop_timer(c->loop, &p->timer, base_clock_ns() + timeout_ms * BASE_NS_PER_MS);
	base_list_add_tail(&c->pending, &p->link);
	c->pending_count++;
	return 0;
}
