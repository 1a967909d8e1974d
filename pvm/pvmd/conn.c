#include "pvm/pvmd/conn.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/clock.h"
#include "base/log.h"

enum { IN_MIN = 64 * 1024, RAW_CAP = MPD_RECORD_MAX + MPD_RECORD_EXTRA, IOV_BATCH = 64 };

struct mpd_chunk {
	struct base_list link;
	size_t len, off;
	int fd;
	bool borrowed; /* the caller's, until it has to wait in the queue */
	uint8_t data[];
};

static void conn_free(void *arg)
{
	struct mpd_conn *c = arg;

	free(c->in);
	free(c->raw);
	free(c);
}

static void chunk_drop_fd(struct mpd_chunk *k)
{
	if (k->fd >= 0 && !k->borrowed)
		close(k->fd);
	k->fd = -1;
}

static void chunk_free(struct mpd_chunk *k)
{
	base_list_del(&k->link);
	chunk_drop_fd(k);
	free(k);
}

void mpd_conn_close(struct mpd_conn *c)
{
	if (c->dead)
		return;
	c->dead = true;
	base_loop_remove(&c->watch);
	close(c->watch.fd);
	c->watch.fd = -1;
	base_list_foreach_safe (k, &c->out, struct mpd_chunk, link)
		chunk_free(k);
	while (c->nfds > 0)
		close(c->fds[--c->nfds]);
	if (c->crypt)
		mpd_crypt_free(c->crypt);
	c->crypt = NULL;
	/* A caller up the stack may still hold it. Where the queue is full it leaks: 65536 closes.
	 */
	if (base_loop_post(c->loop, conn_free, c))
		return;
}

static void conn_fail(struct mpd_conn *c, int err)
{
	if (c->dead)
		return;
	mpd_conn_close(c);
	c->ops->closed(c, err);
}

static void conn_events(struct mpd_conn *c)
{
	uint32_t ev = (c->paused ? 0 : (uint32_t)EPOLLIN) |
		      (base_list_empty(&c->out) ? 0 : (uint32_t)EPOLLOUT);

	if (!c->dead && base_loop_modify(&c->watch, ev))
		conn_fail(c, -EIO);
}

static void conn_written(struct mpd_conn *c, size_t n)
{
	c->out_bytes -= n;
	while (n > 0) {
		struct mpd_chunk *k = base_list_entry(c->out.next, struct mpd_chunk, link);
		size_t part = BASE_MIN(n, k->len - k->off);

		k->off += part;
		n -= part;
		if (k->off == k->len)
			chunk_free(k);
	}
}

/* One sendmsg; 0 or -errno. A chunk with a descriptor goes alone, so that they stay together. */
static int conn_write_once(struct mpd_conn *c)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} ctl;
	struct iovec iov[IOV_BATCH];
	struct msghdr m = {.msg_iov = iov};
	ssize_t n;

	base_list_foreach (k, &c->out, struct mpd_chunk, link) {
		if (m.msg_iovlen == IOV_BATCH || (k->fd >= 0 && m.msg_iovlen > 0))
			break;
		iov[m.msg_iovlen++] = (struct iovec){k->data + k->off, k->len - k->off};
		if (k->fd >= 0) {
			m.msg_control = ctl.bytes;
			m.msg_controllen = sizeof(ctl.bytes);
			*CMSG_FIRSTHDR(&m) = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)),
							      .cmsg_level = SOL_SOCKET,
							      .cmsg_type = SCM_RIGHTS};
			memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), &k->fd, sizeof(int));
			break;
		}
	}
	n = sendmsg(c->watch.fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0)
		return -errno;
	if (m.msg_control && n > 0) {
		struct mpd_chunk *k = base_list_entry(c->out.next, struct mpd_chunk, link);

		chunk_drop_fd(k);
	}
	conn_written(c, (size_t)n);
	return 0;
}

/* What is queued goes nowhere. Whoever sends may still hold the owner, so reading ends it. */
static void conn_break(struct mpd_conn *c)
{
	c->broken = true;
	base_list_foreach_safe (k, &c->out, struct mpd_chunk, link)
		chunk_free(k);
	c->out_bytes = 0;
}

/* We cannot send what we must: the connection is of no use any more. */
static void conn_give_up(struct mpd_conn *c, int err)
{
	if (c->dead || c->broken)
		return;
	log_warn("a connection is given up: %s", strerror(-err));
	conn_break(c);
	c->paused = false;
	shutdown(c->watch.fd, SHUT_RDWR);
	conn_events(c);
}

static void conn_write(struct mpd_conn *c)
{
	int rc = 0;

	while (!rc && !base_list_empty(&c->out))
		rc = conn_write_once(c);
	if (rc && rc != -EAGAIN && rc != -EINTR) {
		/* The peer is gone, but its last words may be there to read. */
		conn_break(c);
	}
	conn_events(c);
	if (!c->dead && c->high && c->out_bytes < MPD_CONN_LOW) {
		c->high = false;
		if (c->ops->drained)
			c->ops->drained(c);
	}
}

static void conn_queue(struct mpd_conn *c, struct mpd_chunk *k)
{
	bool idle = base_list_empty(&c->out);

	if (c->broken) {
		chunk_free(k);
		return;
	}
	base_list_add_tail(&c->out, &k->link);
	c->out_bytes += k->len;
	if (c->out_bytes > MPD_CONN_HIGH)
		c->high = true;
	/* Written at once: the usual case, and it saves a turn of the loop. */
	if (idle && !c->writing) {
		c->writing = true;
		conn_write(c);
		c->writing = false;
	}
}

static struct mpd_chunk *chunk_new(size_t len, int fd)
{
	struct mpd_chunk *k = malloc(sizeof(*k) + len);

	if (!k)
		return NULL;
	base_list_init(&k->link);
	k->len = len;
	k->off = 0;
	k->fd = fd;
	k->borrowed = true;
	return k;
}

/*
 * What could not be written at once waits with a descriptor of its own. The usual case needs none, and so
 * it works where there is none.
 */
static int conn_own_fds(struct mpd_conn *c)
{
	base_list_foreach (k, &c->out, struct mpd_chunk, link) {
		if (k->fd < 0 || !k->borrowed)
			continue;
		k->fd = fcntl(k->fd, F_DUPFD_CLOEXEC, 0);
		k->borrowed = false;
		if (k->fd < 0)
			return -errno;
	}
	return 0;
}

/* A link cuts what it sends into records; the reader joins them again. */
static int conn_send_sealed(struct mpd_conn *c, const struct iovec iov[2])
{
	size_t total = iov[0].iov_len + iov[1].iov_len, max = MPD_RECORD_MAX;
	BASE_AUTO_FREE uint8_t *plain = malloc(total);

	if (!plain)
		return -ENOMEM;
	memcpy(plain, iov[0].iov_base, iov[0].iov_len);
	if (iov[1].iov_len)
		memcpy(plain + iov[0].iov_len, iov[1].iov_base, iov[1].iov_len);
	for (size_t off = 0; off < total;) {
		size_t part = BASE_MIN(total - off, max);
		struct mpd_chunk *k = chunk_new(part + MPD_RECORD_EXTRA, -1);

		if (!k)
			return -ENOMEM;
		k->len = mpd_crypt_seal(c->crypt, plain + off, part, k->data);
		conn_queue(c, k);
		if (c->dead)
			return 0;
		off += part;
	}
	return 0;
}

void mpd_conn_send(struct mpd_conn *c, const void *hdr, size_t hdr_len, const void *body,
		   size_t len, int fd)
{
	struct mpd_chunk *k;
	int rc;

	if (c->dead)
		return;
	if (c->secure) {
		const struct iovec iov[2] = {{(void *)hdr, hdr_len}, {(void *)body, len}};

		rc = c->hello_done ? conn_send_sealed(c, iov) : -ENOTCONN;
		if (rc)
			conn_give_up(c, rc);
		return;
	}
	k = chunk_new(hdr_len + len, fd);
	if (!k) {
		conn_give_up(c, -ENOMEM);
		return;
	}
	memcpy(k->data, hdr, hdr_len);
	if (len)
		memcpy(k->data + hdr_len, body, len);
	conn_queue(c, k);
	rc = fd < 0 || c->dead ? 0 : conn_own_fds(c);
	if (rc)
		conn_give_up(c, rc);
}

void mpd_conn_frame(struct mpd_conn *c, enum mp_frame_type type, uint32_t req,
		    const struct base_wbuf *b, int fd)
{
	struct mp_frame f = {.type = type, .req = req, .len = b->len};
	uint8_t hdr[MP_FRAME_HDR];

	if (b->error || b->len > MP_FRAME_MAX) {
		conn_give_up(c, b->error ? b->error : -E2BIG);
		return;
	}
	mp_frame_put(hdr, &f);
	mpd_conn_send(c, hdr, sizeof(hdr), b->data, b->len, fd);
}

void mpd_conn_pause(struct mpd_conn *c, bool pause)
{
	if (c->dead || c->paused == pause)
		return;
	c->paused = pause;
	conn_events(c);
}

int mpd_conn_take_fd(struct mpd_conn *c)
{
	int fd;

	if (c->nfds == 0)
		return -1;
	fd = c->fds[0];
	memmove(c->fds, c->fds + 1, (size_t)--c->nfds * sizeof(int));
	return fd;
}

static void conn_keep_fds(struct mpd_conn *c, struct msghdr *m)
{
	for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
		size_t n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof(fd));
			if (c->nfds < MPD_CONN_FDS)
				c->fds[c->nfds++] = fd;
			else
				close(fd);
		}
	}
}

static ssize_t conn_recv(struct mpd_conn *c, uint8_t *p, size_t len)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * MPD_CONN_FDS)];
	} ctl;
	struct iovec iov = {p, len};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	if (!c->secure) {
		m.msg_control = ctl.bytes;
		m.msg_controllen = sizeof(ctl.bytes);
	}
	n = recvmsg(c->watch.fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n > 0 && m.msg_controllen)
		conn_keep_fds(c, &m);
	return n < 0 ? -errno : n;
}

static int conn_room(struct mpd_conn *c, size_t cap)
{
	uint8_t *p;

	if (c->in_cap >= cap)
		return 0;
	p = realloc(c->in, cap);
	if (!p)
		return -ENOMEM;
	c->in = p;
	c->in_cap = cap;
	return 0;
}

/* Hands out every whole frame in `in`. 0 or -errno; stops early when the connection died. */
static int conn_parse(struct mpd_conn *c)
{
	size_t pos = 0;
	int rc = 0;

	while (!c->dead && c->in_len - pos >= MP_FRAME_HDR) {
		struct mp_frame f;
		size_t whole;

		rc = mp_frame_get(c->in + pos, &f);
		if (rc)
			return rc;
		whole = MP_FRAME_HDR + (size_t)f.len;
		if (c->in_len - pos < whole) {
			rc = pos ? 0 : conn_room(c, whole);
			break;
		}
		c->ops->frame(c, &f, c->in + pos + MP_FRAME_HDR);
		pos += whole;
	}
	if (c->dead)
		return 0;
	memmove(c->in, c->in + pos, c->in_len - pos);
	c->in_len -= pos;
	return rc;
}

static int conn_hello(struct mpd_conn *c)
{
	int rc;

	if (c->raw_len < MPD_HELLO_LEN)
		return 0;
	rc = mpd_crypt_hello(c->crypt, c->raw);
	if (rc)
		return rc;
	c->raw_len -= MPD_HELLO_LEN;
	memmove(c->raw, c->raw + MPD_HELLO_LEN, c->raw_len);
	c->hello_done = true;
	if (c->ops->secured)
		c->ops->secured(c);
	return 0;
}

static int conn_decrypt(struct mpd_conn *c)
{
	size_t pos = 0;
	int rc = 0;

	if (!c->hello_done) {
		rc = conn_hello(c);
		if (rc || c->dead || !c->hello_done)
			return rc;
	}
	for (;;) {
		size_t used = 0, len = 0;

		rc = conn_room(c, c->in_len + MPD_RECORD_MAX);
		if (rc)
			return rc;
		rc = mpd_crypt_open(c->crypt, c->raw + pos, c->raw_len - pos, &used,
				    c->in + c->in_len, &len);
		if (rc <= 0)
			break;
		pos += used;
		c->in_len += len;
		rc = conn_parse(c);
		if (rc || c->dead)
			return rc;
	}
	memmove(c->raw, c->raw + pos, c->raw_len - pos);
	c->raw_len -= pos;
	return rc;
}

static int conn_read(struct mpd_conn *c)
{
	ssize_t n;

	if (c->secure)
		n = conn_recv(c, c->raw + c->raw_len, RAW_CAP - c->raw_len);
	else
		n = conn_recv(c, c->in + c->in_len, c->in_cap - c->in_len);
	if (n < 0)
		return n == -EAGAIN || n == -EINTR ? 0 : (int)n;
	if (n == 0)
		return 1;
	c->last_in_ns = base_clock_ns();
	if (c->secure) {
		c->raw_len += (size_t)n;
		return conn_decrypt(c);
	}
	c->in_len += (size_t)n;
	return conn_parse(c);
}

static void conn_ready(struct base_watch *w, uint32_t events)
{
	struct mpd_conn *c = base_container_of(w, struct mpd_conn, watch);
	int rc;

	if (events & EPOLLOUT) {
		size_t before = c->out_bytes;

		conn_write(c);
		if (c->dead)
			return;
		if (c->out_bytes != before && c->ops->wrote)
			c->ops->wrote(c);
		if (c->dead)
			return;
	}
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
		/* The peer is gone: what it sent before is still read. */
		if (c->paused && !(events & (EPOLLHUP | EPOLLERR)))
			return;
		rc = conn_read(c);
		if (rc)
			conn_fail(c, rc > 0 ? 0 : rc);
	}
}

static int conn_secure(struct mpd_conn *c, const uint8_t *key, bool initiator)
{
	uint8_t hello[MPD_HELLO_LEN];
	struct mpd_chunk *k;
	int rc;

	c->secure = true;
	c->raw = malloc(RAW_CAP);
	k = chunk_new(sizeof(hello), -1);
	if (!c->raw || !k) {
		free(k);
		return -ENOMEM;
	}
	rc = mpd_crypt_new(&c->crypt, initiator, key, hello);
	if (rc) {
		free(k);
		return rc;
	}
	memcpy(k->data, hello, sizeof(hello));
	base_list_add_tail(&c->out, &k->link);
	c->out_bytes += k->len;
	return 0;
}

int mpd_conn_new(struct mpd_conn **out, struct base_loop *loop, int fd,
		 const struct mpd_conn_ops *ops, void *owner, const uint8_t *key, bool initiator)
{
	struct mpd_conn *c = calloc(1, sizeof(*c));
	int rc = -ENOMEM;

	if (!c)
		goto err_fd;
	base_list_init(&c->out);
	c->ops = ops;
	c->owner = owner;
	c->loop = loop;
	c->last_in_ns = base_clock_ns();
	c->watch = (struct base_watch){.fd = fd, .events = EPOLLIN, .ready = conn_ready};
	rc = conn_room(c, IN_MIN);
	if (!rc && key)
		rc = conn_secure(c, key, initiator);
	if (!rc && !base_list_empty(&c->out))
		c->watch.events |= EPOLLOUT;
	if (!rc)
		rc = base_loop_add(loop, &c->watch);
	if (rc)
		goto err_free;
	*out = c;
	return 0;
err_free:
	base_list_foreach_safe (k, &c->out, struct mpd_chunk, link)
		chunk_free(k);
	if (c->crypt)
		mpd_crypt_free(c->crypt);
	conn_free(c);
err_fd:
	close(fd);
	return rc;
}

void mpd_conn_flush(struct mpd_conn *c, int timeout_ms)
{
	int64_t end = base_clock_ns() + timeout_ms * BASE_NS_PER_MS;

	while (!c->dead && !base_list_empty(&c->out)) {
		struct pollfd p = {.fd = c->watch.fd, .events = POLLOUT};
		int64_t left = end - base_clock_ns();

		if (left <= 0 || poll(&p, 1, (int)(left / BASE_NS_PER_MS) + 1) <= 0)
			return;
		if (conn_write_once(c))
			return;
	}
}

bool mpd_conn_read_rest(struct mpd_conn *c)
{
	uint8_t peek;

	if (c->dead || recv(c->watch.fd, &peek, 1, MSG_PEEK | MSG_DONTWAIT) != 1)
		return false;
	if (conn_read(c)) {
		conn_fail(c, 0);
		return false;
	}
	return true;
}
