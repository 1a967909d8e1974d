/*
 * Transport over TCP. xp_dial.c makes the connections; xp_link.c keeps what the peer has not
 * acknowledged and replays it over the next connection.
 *
 * Threads: one. Descriptors: an epoll that holds the listener and all connections.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "proto/xp_dial.h"
#include "proto/xp_link.h"

#define DIRECT_PEERS  3 /* up to so many connections are tried without asking epoll */
#define EPOLL_EVERY   64
#define QUEUE_LIMIT   (256u << 20)
#define SCRATCH_BYTES (256u << 10)

struct tcp {
	struct xp xp;
	unsigned polls;
	struct xp_link link[XP_NODE_MAX];
	struct xp_dial dial;
};

static struct tcp *of(const struct xp *xp)
{
	return (struct tcp *)xp;
}

static void write_out(struct tcp *t, struct xp_conn *c)
{
	struct xp_link *l = &t->link[c->peer->node];
	struct xp_dial *d = &t->dial;
	struct iovec iov[2];
	int count;

	while (c->state == CONN_UP && (count = xp_link_pending(l, iov)) > 0) {
		struct msghdr m = {.msg_iov = iov, .msg_iovlen = (size_t)count};
		ssize_t n = sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n > 0) {
			xp_link_sent(l, (size_t)n);
			c->peer->last_out_ns = d->now_ns;
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN && !xp_conn_watch(d, c, EPOLLIN | EPOLLOUT))
			return;
		xp_dial_lost(d, c);
		return;
	}
	if (c->state == CONN_UP && c->events != EPOLLIN && xp_conn_watch(d, c, EPOLLIN))
		xp_dial_lost(d, c);
}

/* ---- what the connections ask ---- */

static uint64_t on_received(void *ctx, uint8_t node)
{
	return ((struct tcp *)ctx)->link[node].seq_in;
}

static int on_ready(void *ctx, struct xp_conn *c, const struct xp_dial_link *link)
{
	struct tcp *t = ctx;
	struct xp_link *l = &t->link[c->peer->node];
	int err = 0;

	if (link->resumed)
		err = xp_link_rewind(l, link->received);
	else if (t->dial.encrypt)
		err = xp_link_keys(l, link->tx, link->rx, link->aes);
	if (!err)
		xp_dial_up(&t->dial, c);
	return err;
}

static ssize_t on_bytes(void *ctx, struct xp_conn *c, const uint8_t *data, size_t len,
			unsigned *count)
{
	uint8_t plain[WIRE_LENGTH_MAX];
	struct tcp *t = ctx;
	struct xp_peer *p = c->peer;
	struct xp_frame f = {0};
	ssize_t n = xp_link_take(&t->link[p->node], data, len, plain, &f, &p->bye);

	if (n <= 0 || !f.type)
		return n;
	(*count)++;
	int err = t->dial.handler->frame(t->dial.ctx, p->node, &f);

	return err < 0 ? err : n;
}

static void on_writable(void *ctx, struct xp_conn *c)
{
	write_out(ctx, c);
}

static void on_lost(void *ctx, struct xp_conn *c)
{
	/* The link waits, with its frames. */
}

static int on_tick(void *ctx, struct xp_conn *c)
{
	struct tcp *t = ctx;
	struct xp_link *l = &t->link[c->peer->node];
	int64_t quiet = t->dial.dead_ms * BASE_NS_PER_MS;
	int err = xp_link_ack(l, true);

	if (!err && t->dial.now_ns - c->peer->last_out_ns > quiet / 4)
		err = xp_link_put(l, &(struct xp_out){.type = WIRE_TYPE_PING, .body = ""});
	if (!err)
		write_out(t, c);
	return err;
}

static const struct xp_dial_ops dial_ops = {
	.received = on_received,
	.ready = on_ready,
	.take = on_bytes,
	.writable = on_writable,
	.lost = on_lost,
	.tick = on_tick,
};

/* ---- the interface ---- */

/* Connections that come up or that wait for room are epoll's business. */
static bool needs_epoll(struct tcp *t)
{
	for (uint8_t n = 0; n < XP_NODE_MAX; n++) {
		const struct xp_conn *c = xp_dial_conn(&t->dial, n);

		if (t->dial.peers & 1u << n && !t->dial.peer[n].down &&
		    (!c || c->events != EPOLLIN))
			return true;
	}
	return false;
}

static unsigned poll_direct(struct tcp *t)
{
	unsigned count = 0;

	for (uint8_t n = 0; n < XP_NODE_MAX && !t->dial.stopped; n++) {
		struct xp_conn *c = xp_dial_conn(&t->dial, n);

		if (c)
			count += xp_dial_receive(&t->dial, c);
	}
	return count;
}

static void tcp_flush(struct xp *xp)
{
	struct tcp *t = of(xp);

	for (uint8_t n = 0; n < XP_NODE_MAX; n++) {
		struct xp_peer *p = &t->dial.peer[n];

		if (!(t->dial.peers & 1u << n) || p->down)
			continue;
		struct xp_conn *c = xp_dial_conn(&t->dial, n);

		if (xp_link_ack(&t->link[n], false))
			xp_dial_down(&t->dial, p, -ENOBUFS);
		else if (c && t->link[n].head != t->link[n].sent && c->events == EPOLLIN)
			write_out(t, c);
	}
}

static unsigned tcp_poll(struct xp *xp, int64_t now_ns)
{
	struct tcp *t = of(xp);

	if (t->dial.stopped)
		return 0;
	xp_dial_time(&t->dial, now_ns);
	bool all = t->polls++ % EPOLL_EVERY == 0 ||
		   __builtin_popcount(t->dial.peers) > DIRECT_PEERS || needs_epoll(t);
	unsigned count = all ? xp_dial_poll(&t->dial) : poll_direct(t);

	tcp_flush(xp);
	return count;
}

static int tcp_send(struct xp *xp, uint8_t peer, const struct xp_out *o)
{
	struct tcp *t = of(xp);
	struct xp_peer *p = &t->dial.peer[peer];
	struct xp_link *l = &t->link[peer];

	if (t->dial.stopped || p->down || !p->up)
		return -ENOTCONN;
	int err = xp_link_put(l, o);
	struct xp_conn *c = xp_dial_conn(&t->dial, peer);

	if (!err && l->head - l->sent >= SCRATCH_BYTES && c && c->events == EPOLLIN)
		write_out(t, c);
	return err;
}

static int tcp_fd(const struct xp *xp)
{
	return of(xp)->dial.epoll_fd;
}

static int64_t tcp_next_ns(const struct xp *xp)
{
	return of(xp)->dial.next_ns;
}

static void tcp_counters(const struct xp *xp, uint8_t peer, struct xp_counters *out)
{
	*out = of(xp)->link[peer].counters;
	out->reconnects = of(xp)->dial.peer[peer].reconnects;
}

static void tcp_break(struct xp *xp, uint8_t peer)
{
	struct xp_conn *c = xp_dial_conn(&of(xp)->dial, peer);

	if (c)
		xp_dial_lost(&of(xp)->dial, c);
}

static void say_goodbye(struct tcp *t, uint8_t peer)
{
	struct xp_conn *c = xp_dial_conn(&t->dial, peer);

	if (c && !xp_link_put(&t->link[peer], &(struct xp_out){.type = WIRE_TYPE_BYE, .body = ""}))
		write_out(t, c);
}

static int tcp_admit(struct xp *xp, uint8_t node, const char *address, uint64_t group)
{
	struct tcp *t = of(xp);
	int err = xp_dial_admit(&t->dial, node, address, group);

	if (err)
		return err;
	xp_link_fini(&t->link[node]);
	xp_link_init(&t->link[node], QUEUE_LIMIT);
	return 0;
}

static void tcp_drop(struct xp *xp, uint8_t peer)
{
	say_goodbye(of(xp), peer);
	xp_dial_drop(&of(xp)->dial, peer);
}

static void tcp_stop(struct xp *xp)
{
	struct tcp *t = of(xp);

	if (t->dial.stopped)
		return;
	for (uint8_t n = 0; n < XP_NODE_MAX; n++)
		say_goodbye(t, n);
	xp_dial_stop(&t->dial);
}

static void tcp_fini(struct xp *xp)
{
	struct tcp *t = of(xp);

	tcp_stop(xp);
	xp_dial_fini(&t->dial);
	for (unsigned n = 0; n < XP_NODE_MAX; n++)
		xp_link_fini(&t->link[n]);
	free(t);
}

static int tcp_open(const struct xp_config *c, struct xp **out)
{
	struct tcp *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->xp.ops = &xp_tcp;
	for (unsigned n = 0; n < XP_NODE_MAX; n++)
		xp_link_init(&t->link[n], QUEUE_LIMIT);
	int err = xp_dial_open(&t->dial, c, &dial_ops, t);

	if (err) {
		free(t);
		return err;
	}
	*out = &t->xp;
	return 0;
}

const struct xp_ops xp_tcp = {
	.name = "tcp",
	.caps = XP_CAP_ENCRYPTS | XP_CAP_REMOTE,
	.open = tcp_open,
	.send = tcp_send,
	.flush = tcp_flush,
	.poll = tcp_poll,
	.fd = tcp_fd,
	.next_ns = tcp_next_ns,
	.counters = tcp_counters,
	.break_link = tcp_break,
	.admit = tcp_admit,
	.drop = tcp_drop,
	.stop = tcp_stop,
	.fini = tcp_fini,
};
