/*
 * Connections between tasks of two hosts. The daemons make them and hand them to the tasks, so that
 * no task listens and nobody but a member of this virtual machine can be at the other end:
 *
 *	task A -> its daemon 1   CONNECT B
 *	1 -> 2                   DIRECT A B, on the encrypted link; the answer is a ticket: port, number, key
 *	1 -> 2                   a new TCP connection: number, MAC of it under the key
 *	2 -> 1                   on it: another MAC under the key
 *	2 -> B, 1 -> A           the descriptor, and whose it is
 *
 * A ticket is good for one connection within TICKET_MS. What tasks then send each other is not
 * encrypted and not signed: that would cost half of the bandwidth and a third party must be able to
 * forge TCP segments to use it. $PVM_NET=sealed keeps all messages on the encrypted links.
 *
 * Messages stay in order: what A sent by the daemons before is in B's socket before the descriptor
 * is. B may send on the same connection after it has asked the same way; the call goes behind its
 * own earlier messages, and A does not read from the connection before it is told to (NET_OPEN).
 *
 * Each daemon keeps a duplicate. When its task ends, in whatever way, it shuts the sending half and
 * reads on, so that nothing on the way is lost to a reset.
 */
#include <errno.h>
#include <pvm3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/tcp.h"
#include "pvm/pvmd/mpd.h"
#include "pvm/pvmd/mpd_addr.h"

enum {
	TICKET_MS = 5000,
	DIAL_MS = 2000,
	DIALS_MAX = 1024,
	LINGER_MS = 60000,
	AGAIN_MS = 60000, /* after a failure the host is left alone for so long */
	HELLO_LEN = 8 + MPD_MAC_LEN,
};

/* A connection that tasks use. */
struct direct {
	struct base_list link;
	struct mpd *pd;
	int32_t local, remote; /* local 0: that task has ended */
	int fd;
	struct base_watch watch; /* once it has */
	struct base_timer timer;
};

struct ticket {
	struct base_list link;
	uint64_t id;
	uint8_t key[MPD_KEY_LEN];
	int32_t caller, callee;
	int64_t until_ns;
};

/* A connection that is being made, by us (out) or to us. */
struct dial {
	struct base_list link;
	struct mpd *pd;
	struct base_watch watch;
	struct base_timer timer;
	bool out, connected;
	uint8_t buf[HELLO_LEN];
	size_t got;
	/* out */
	struct mpd_from from;
	int32_t remote;
	uint64_t id;
	uint8_t key[MPD_KEY_LEN];
};

/* What a call to another daemon is for. */
struct ask {
	struct mpd_from from;
	int32_t remote;
};

static void mac_of(const uint8_t key[MPD_KEY_LEN], uint64_t id, uint8_t side,
		   uint8_t out[MPD_MAC_LEN])
{
	uint8_t text[9];

	memcpy(text, &id, 8);
	text[8] = side;
	mpd_crypt_mac(key, text, sizeof(text), out);
}

static struct direct *direct_find(struct mpd *pd, int32_t local, int32_t remote)
{
	base_list_foreach (d, &pd->directs, struct direct, link)
		if (d->local == local && d->remote == remote)
			return d;
	return NULL;
}

static void direct_free(struct direct *d)
{
	base_list_del(&d->link);
	base_loop_timer_cancel(&d->timer);
	if (d->watch.loop)
		base_loop_remove(&d->watch);
	close(d->fd);
	free(d);
}

/* Takes the descriptor; without memory the tasks keep theirs, and only its last words are at risk. */
static void direct_keep(struct mpd *pd, int32_t local, int32_t remote, int fd)
{
	struct direct *d = calloc(1, sizeof(*d));

	if (!d) {
		close(fd);
		return;
	}
	d->pd = pd;
	d->local = local;
	d->remote = remote;
	d->fd = fd;
	base_list_add_tail(&pd->directs, &d->link);
}

static void linger_ready(struct base_watch *w, uint32_t events)
{
	struct direct *d = base_container_of(w, struct direct, watch);
	uint8_t waste[16384];
	ssize_t n = recv(d->fd, waste, sizeof(waste), MSG_DONTWAIT);

	(void)events;
	if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
		return;
	direct_free(d);
}

static void linger_over(struct base_timer *t)
{
	direct_free(base_container_of(t, struct direct, timer));
}

/* The task has ended: what it sent still goes out, what it gets is read and dropped. */
static void direct_linger(struct direct *d)
{
	d->local = 0;
	shutdown(d->fd, SHUT_WR);
	d->watch = (struct base_watch){.fd = d->fd, .events = EPOLLIN, .ready = linger_ready};
	d->timer.fire = linger_over;
	if (base_loop_add(d->pd->loop, &d->watch)) {
		direct_free(d);
		return;
	}
	base_loop_timer(d->pd->loop, &d->timer, base_clock_ns() + LINGER_MS * BASE_NS_PER_MS);
}

void mpd_direct_task_gone(struct mpd *pd, int32_t tid)
{
	uint32_t v[2] = {(uint32_t)tid, 1};

	base_list_foreach_safe (d, &pd->directs, struct direct, link)
		if (d->local == tid) {
			mpd_route_ctl(pd, d->remote, MP_C_NET_GONE, v, sizeof(v));
			direct_linger(d);
		}
}

void mpd_direct_remote_gone(struct mpd *pd, int32_t local, int32_t remote)
{
	base_list_foreach_safe (d, &pd->directs, struct direct, link)
		if (d->local == local && d->remote == remote)
			direct_free(d);
}

void mpd_direct_host_gone(struct mpd *pd, int host)
{
	base_list_foreach_safe (d, &pd->directs, struct direct, link) {
		uint32_t v[2] = {(uint32_t)d->remote, 0};

		if (mp_tid_host(d->remote) != host)
			continue;
		if (d->local)
			mpd_route_ctl(pd, d->local, MP_C_NET_GONE, v, sizeof(v));
		direct_free(d);
	}
}

static int dial_free(struct dial *d)
{
	int fd = d->watch.fd;

	base_list_del(&d->link);
	base_loop_timer_cancel(&d->timer);
	base_loop_remove(&d->watch);
	explicit_bzero(d->key, sizeof(d->key));
	free(d);
	return fd;
}

static void dial_fail(struct dial *d, int err)
{
	struct mpd_from from = d->from;
	struct mpd *pd = d->pd;
	bool out = d->out;
	struct mpd_host *h = out ? mpd_host_get(pd, mp_tid_host(d->remote)) : NULL;

	close(dial_free(d));
	if (!out) {
		log_debug("a connection for a task came to nothing: %s", strerror(-err));
		return;
	}
	if (h) {
		h->no_direct_ns = base_clock_ns() + AGAIN_MS * BASE_NS_PER_MS;
		mpd_log(pd, "no connection between tasks to host %s (%s): by the daemons", h->name,
			strerror(-err));
	}
	mpd_call_reply(pd, &from, PvmNoHost, NULL, -1);
}

static void dial_timeout(struct base_timer *t)
{
	dial_fail(base_container_of(t, struct dial, timer), -ETIMEDOUT);
}

/* Takes the descriptor. */
static struct dial *dial_new(struct mpd *pd, int fd, uint32_t events,
			     void (*ready)(struct base_watch *w, uint32_t events))
{
	struct dial *d = calloc(1, sizeof(*d));

	if (!d)
		goto err;
	d->pd = pd;
	d->watch = (struct base_watch){.fd = fd, .events = events, .ready = ready};
	if (base_loop_add(pd->loop, &d->watch))
		goto err;
	d->timer.fire = dial_timeout;
	base_loop_timer(pd->loop, &d->timer, base_clock_ns() + DIAL_MS * BASE_NS_PER_MS);
	base_list_add_tail(&pd->dials, &d->link);
	return d;
err:
	free(d);
	close(fd);
	return NULL;
}

/* 1: `len` bytes are there; 0: not yet; else -errno. */
static int dial_read(struct dial *d, size_t len)
{
	ssize_t n = recv(d->watch.fd, d->buf + d->got, len - d->got, MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n == 0)
		return -ECONNRESET;
	d->got += (size_t)n;
	return d->got == len;
}

/* The calling side */

static int dial_hello(struct dial *d)
{
	uint8_t hello[HELLO_LEN];
	socklen_t len = sizeof(int);
	int err = 0;

	if (getsockopt(d->watch.fd, SOL_SOCKET, SO_ERROR, &err, &len) || err)
		return err ? -err : -errno;
	base_tcp_keep_unpaced(d->watch.fd);
	memcpy(hello, &d->id, 8);
	mac_of(d->key, d->id, 1, hello + 8);
	if (send(d->watch.fd, hello, sizeof(hello), MSG_DONTWAIT | MSG_NOSIGNAL) !=
	    (ssize_t)sizeof(hello))
		return -EIO;
	d->connected = true;
	return base_loop_modify(&d->watch, EPOLLIN);
}

static void dial_done(struct dial *d)
{
	struct mpd_from from = d->from;
	struct mpd *pd = d->pd;
	int32_t remote = d->remote;
	struct mpd_task *t = mpd_task_get(pd, from.tid);
	int fd = dial_free(d);

	if (!t || t->serial != from.serial) {
		close(fd);
		return;
	}
	direct_keep(pd, from.tid, remote, fd);
	mpd_call_reply(pd, &from, 0, NULL, fd);
}

static void dial_out_ready(struct base_watch *w, uint32_t events)
{
	struct dial *d = base_container_of(w, struct dial, watch);
	uint8_t mac[MPD_MAC_LEN];
	int rc;

	(void)events;
	rc = d->connected ? dial_read(d, MPD_MAC_LEN) : dial_hello(d);
	if (rc < 0) {
		dial_fail(d, rc);
		return;
	}
	if (!rc)
		return;
	mac_of(d->key, d->id, 2, mac);
	if (mpd_crypt_equal(mac, d->buf))
		dial_done(d);
	else
		dial_fail(d, -EPERM);
}

static void ticket_answer(struct mpd *pd, void *arg, int rc, struct base_rbuf *b)
{
	struct ask *a = arg;
	struct mpd_host *h = mpd_host_get(pd, mp_tid_host(a->remote));
	uint16_t port = base_rbuf_u16(b);
	uint64_t id = base_rbuf_u64(b);
	uint8_t key[MPD_KEY_LEN];
	struct dial *d = NULL;
	int fd;

	base_rbuf_bytes(b, key, sizeof(key));
	if (rc >= 0 && (b->error || !h))
		rc = PvmNoHost;
	if (rc >= 0) {
		fd = mpd_addr_connect(h->ip, port);
		if (fd >= 0)
			d = dial_new(pd, fd, EPOLLOUT, dial_out_ready);
		rc = d ? 0 : PvmNoHost;
	}
	if (d) {
		d->out = true;
		d->from = a->from;
		d->remote = a->remote;
		d->id = id;
		memcpy(d->key, key, sizeof(key));
	} else {
		mpd_call_reply(pd, &a->from, rc, NULL, -1);
	}
	explicit_bzero(key, sizeof(key));
	free(a);
}

static void reverse_answer(struct mpd *pd, void *arg, int rc, struct base_rbuf *b)
{
	struct ask *a = arg;

	(void)b;
	mpd_call_reply(pd, &a->from, rc < 0 ? rc : 1, NULL, -1);
	free(a);
}

void mpd_direct_connect(struct mpd *pd, const struct mpd_from *from, int32_t tid)
{
	struct mpd_host *h = mpd_host_get(pd, mp_tid_host(tid));
	uint32_t v[2] = {(uint32_t)tid, direct_find(pd, from->tid, tid) != NULL};
	struct ask *a = NULL;

	if (h && !pd->config.sealed && base_clock_ns() >= h->no_direct_ns)
		a = calloc(1, sizeof(*a));
	if (!a) {
		mpd_call_reply(pd, from, PvmNoHost, NULL, -1);
		return;
	}
	a->from = *from;
	a->remote = tid;
	mpd_call_host(pd, h->id, MP_OP_DIRECT, from->tid, v, sizeof(v),
		      v[1] ? reverse_answer : ticket_answer, a);
}

/* The called side */

static void dial_in_hello(struct dial *d)
{
	struct mpd *pd = d->pd;
	struct ticket *t = NULL;
	uint8_t mac[MPD_MAC_LEN];
	struct mpd_task *to;
	int32_t caller;
	uint64_t id;
	int fd;

	memcpy(&id, d->buf, 8);
	base_list_foreach (o, &pd->tickets, struct ticket, link)
		if (o->id == id)
			t = o;
	if (t)
		mac_of(t->key, id, 1, mac);
	if (!t || !mpd_crypt_equal(mac, d->buf + 8)) {
		dial_fail(d, -EPERM);
		return;
	}
	mac_of(t->key, id, 2, mac);
	to = mpd_task_get(pd, t->callee);
	caller = t->caller;
	base_list_del(&t->link);
	explicit_bzero(t, sizeof(*t));
	free(t);
	/* The socket is empty, so this does not block. */
	if (!to || !to->conn ||
	    send(d->watch.fd, mac, sizeof(mac), MSG_DONTWAIT | MSG_NOSIGNAL) != MPD_MAC_LEN) {
		dial_fail(d, -ESRCH);
		return;
	}
	fd = dial_free(d);
	direct_keep(pd, to->tid, caller, fd);
	mpd_task_ctl(to, MP_C_NET, &caller, sizeof(caller), fd);
}

static void dial_in_ready(struct base_watch *w, uint32_t events)
{
	struct dial *d = base_container_of(w, struct dial, watch);
	int rc = dial_read(d, HELLO_LEN);

	(void)events;
	if (rc < 0)
		dial_fail(d, rc);
	else if (rc)
		dial_in_hello(d);
}

static int dials_in(const struct mpd *pd)
{
	int n = 0;

	base_list_foreach (d, &pd->dials, struct dial, link)
		n += !d->out;
	return n;
}

static void direct_accept(struct base_watch *w, uint32_t events)
{
	struct mpd *pd = base_container_of(w, struct mpd, listen_direct);
	int fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE)
			mpd_fds_shed(pd, w->fd);
		return;
	}
	if (dials_in(pd) >= DIALS_MAX) {
		close(fd);
		return;
	}
	base_tcp_no_delay(fd);
	base_tcp_keep_unpaced(fd);
	if (!dial_new(pd, fd, EPOLLIN, dial_in_ready))
		log_warn("no memory for a connection of a task");
}

static int direct_listen(struct mpd *pd)
{
	int fd;

	if (pd->listen_direct.loop)
		return 0;
	fd = mpd_addr_listen(pd->hosts[pd->self]->ip, &pd->direct_port);
	if (fd < 0)
		return fd;
	pd->listen_direct =
		(struct base_watch){.fd = fd, .events = EPOLLIN, .ready = direct_accept};
	return base_loop_add(pd->loop, &pd->listen_direct);
}

static struct ticket *ticket_new(struct mpd *pd, int32_t caller, int32_t callee)
{
	int64_t now = base_clock_ns();
	struct ticket *t;

	base_list_foreach_safe (o, &pd->tickets, struct ticket, link)
		if (o->until_ns < now) {
			base_list_del(&o->link);
			free(o);
		}
	t = calloc(1, sizeof(*t));
	if (!t)
		return NULL;
	t->id = ++pd->next_ticket;
	t->caller = caller;
	t->callee = callee;
	t->until_ns = now + TICKET_MS * BASE_NS_PER_MS;
	mpd_crypt_random(t->key, sizeof(t->key));
	base_list_add_tail(&pd->tickets, &t->link);
	return t;
}

void mpd_op_direct(struct mpd *pd, const struct mpd_from *from, struct base_rbuf *b)
{
	struct mpd_task *to = mpd_task_get(pd, (int32_t)base_rbuf_u32(b));
	bool reverse = base_rbuf_u32(b) != 0;
	int32_t caller = from->tid;
	struct base_wbuf out;
	struct ticket *t;

	if (!to || !to->conn || pd->config.sealed || mp_tid_host(caller) != from->host) {
		mpd_call_reply(pd, from, to && !to->conn ? PvmNoData : PvmNoTask, NULL, -1);
		return;
	}
	if (reverse) {
		if (direct_find(pd, to->tid, caller))
			mpd_task_ctl(to, MP_C_NET_OPEN, &caller, sizeof(caller), -1);
		/* Its other end is not ready here yet: the caller asks again later. */
		mpd_call_reply(pd, from, direct_find(pd, to->tid, caller) ? 0 : PvmNoData, NULL,
			       -1);
		return;
	}
	t = direct_listen(pd) ? NULL : ticket_new(pd, caller, to->tid);
	base_wbuf_init(&out, 64);
	base_wbuf_u16(&out, pd->direct_port);
	base_wbuf_u64(&out, t ? t->id : 0);
	base_wbuf_bytes(&out, t ? t->key : out.data, t ? sizeof(t->key) : 0);
	mpd_call_reply(pd, from, t ? 0 : PvmOutOfRes, &out, -1);
	base_wbuf_fini(&out);
}
