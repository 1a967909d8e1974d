/*
 * Transport over RDMA (RoCE). A TCP connection made by xp_dial.c authenticates the peers, carries the
 * ends of the RDMA connection and shows early when a process is gone; the frames go over RDMA:
 *
 *    connector                                    acceptor
 *       | hello, proof (xp_hello.h)                  |
 *       |<------------------------------------------>|
 *       | END{queue pair, region, received, hash}    |   each once its old queue pair is gone
 *       |<------------------------------------------>|
 *       | READY                                      |   each when its queue pair is connected
 *       |<------------------------------------------>|
 *       | frames: RDMA write of the page, then the message: header, acknowledgement, body
 *
 * A frame is kept until the peer has acknowledged it, and sent again over the next connection if it
 * was not received. Never twice: a page written again could fall on a newer one, so an end names what
 * it received only when nothing more can come over the connection before. At most XP_RDMA_SLOTS are unacknowledged, so that the peer always has a buffer.
 * A page in our region is not copied, not even to be sent again (see xp_out.page).
 *
 * Page data is not encrypted: nothing but the device touches it.
 */
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "proto/xp_dial.h"
#include "proto/xp_rdma.h"

#define QUEUE_MIN  256
#define QUEUE_MAX  (1u << 17) /* frames */
#define ACK_EVERY  (XP_RDMA_SLOTS / 4)
#define POLL_EVERY 64 /* polls between looks at the TCP connections */
#define EVENTS_MAX 64
#define DRAIN_MAX  4096 /* events of one poll */
#define PREFIX_LEN (WIRE_HEADER_LEN + 8)
#define END_LEN	   64
#define GOODBYE_NS (300 * BASE_NS_PER_MS)

struct out {
	uint8_t type, body_len;
	bool has_page;
	uint8_t body[WIRE_BODY_MAX];
	const uint8_t *page; /* in the region, or copy */
	uint8_t *copy;
	uint64_t at;
};

struct link {
	/* Frames acked+1 .. seq_out, frame n at n % cap; up to posted they were given to the device. */
	struct out *queue;
	uint32_t cap;
	uint64_t seq_out, posted, acked;
	uint64_t seq_in, seq_in_acked;
	bool connected; /* our end; the peer's READY or first frame makes it UP */
	bool live;	/* it is UP, or was when it broke */
	bool ack_due;
	uint64_t peer_region_len;
	struct xp_counters counters;
};

struct verbs {
	struct xp xp;
	struct xp_rdma *rdma;
	const uint8_t *region;
	size_t region_len;
	unsigned polls;
	bool draining;
	bool all_up;
	uint16_t room; /* nodes that the device has queues for; bits */
	struct link link[XP_NODE_MAX];
	struct xp_dial dial;
};

static struct verbs *of(const struct xp *xp)
{
	return (struct verbs *)xp;
}

/* ---- the queue ---- */

static int queue_room(struct link *l)
{
	uint64_t used = l->seq_out - l->acked;

	if (used < l->cap)
		return 0;
	uint32_t cap = l->cap ? l->cap * 2 : QUEUE_MIN;

	if (cap > QUEUE_MAX)
		return -ENOBUFS;
	struct out *q = calloc(cap, sizeof(*q));

	if (!q)
		return -ENOMEM;
	for (uint64_t n = l->acked + 1; n <= l->seq_out; n++)
		q[n % cap] = l->queue[n % l->cap];
	free(l->queue);
	l->queue = q;
	l->cap = cap;
	return 0;
}

static bool in_region(const struct verbs *v, const uint8_t *page)
{
	return v->region && page >= v->region && page < v->region + v->region_len;
}

static int queue_put(struct verbs *v, struct link *l, const struct xp_out *o)
{
	int err = queue_room(l);
	uint8_t *copy = NULL;

	if (!err && o->page && !in_region(v, o->page)) {
		copy = malloc(WIRE_PAGE_LEN);
		if (copy)
			memcpy(copy, o->page, WIRE_PAGE_LEN);
		else
			err = -ENOMEM;
	}
	if (err)
		return err;
	struct out *q = &l->queue[++l->seq_out % l->cap];

	*q = (struct out){.type = o->type,
			  .body_len = o->body_len,
			  .has_page = o->page,
			  .page = copy ? copy : o->page,
			  .copy = copy,
			  .at = o->page_offset};
	memcpy(q->body, o->body, o->body_len);
	l->counters.frames_out++;
	return 0;
}

/* The peer has all frames up to seq. */
static int acknowledged(struct link *l, uint64_t seq)
{
	if (seq > l->posted || seq < l->acked)
		return -EPROTO;
	while (l->acked < seq)
		free(l->queue[++l->acked % l->cap].copy);
	return 0;
}

static void link_fini(struct link *l)
{
	while (l->acked < l->seq_out)
		free(l->queue[++l->acked % l->cap].copy);
	free(l->queue);
}

/* ---- sending ---- */

static void prefix_put(struct link *l, uint8_t *head, const struct wire_header *h)
{
	uint64_t ack = htole64(l->seq_in);

	wire_header_put(head, h);
	memcpy(head + WIRE_HEADER_LEN, &ack, sizeof(ack));
	l->seq_in_acked = l->seq_in;
	l->ack_due = false;
}

static int push_frame(struct verbs *v, uint8_t node, uint64_t seq)
{
	struct link *l = &v->link[node];
	const struct out *q = &l->queue[seq % l->cap];
	bool place = q->has_page && l->peer_region_len;
	bool with = q->has_page && !place;
	unsigned n = (unsigned)(seq % XP_RDMA_SLOTS);
	uint8_t *head = xp_rdma_head(v->rdma, node, n);
	struct wire_header h = {.version = 1,
				.type = q->type,
				.flags = place	? WIRE_F_PLACED
					 : with ? WIRE_F_PAGE
						: 0,
				.length = (uint16_t)(q->body_len + (with ? WIRE_PAGE_LEN : 0)),
				.seq = seq};

	if (place && (q->at > l->peer_region_len || l->peer_region_len - q->at < WIRE_PAGE_LEN))
		return -EPROTO; /* the peer's region is not like ours */
	prefix_put(l, head, &h);
	memcpy(head + PREFIX_LEN, q->body, q->body_len);
	l->counters.bytes_out += PREFIX_LEN + q->body_len + (q->has_page ? WIRE_PAGE_LEN : 0u);
	return xp_rdma_push(v->rdma, node,
			    &(struct xp_rdma_out){.n = n,
						  .head_len = PREFIX_LEN + q->body_len,
						  .page = q->page,
						  .place = place,
						  .at = q->at});
}

/* Not in sequence, never sent again: acknowledgements and pings. */
static int push_own(struct verbs *v, uint8_t node, uint8_t type)
{
	struct wire_header h = {.version = 1, .type = type};

	prefix_put(&v->link[node], xp_rdma_head(v->rdma, node, XP_RDMA_SLOTS), &h);
	v->link[node].counters.bytes_out += PREFIX_LEN;
	int err = xp_rdma_push(v->rdma, node,
			       &(struct xp_rdma_out){.n = XP_RDMA_SLOTS, .head_len = PREFIX_LEN});

	return err ? err : xp_rdma_post(v->rdma, node);
}

/* Gives the device what the window allows. */
static void send_out(struct verbs *v, struct xp_conn *c)
{
	uint8_t node = c->peer->node;
	struct link *l = &v->link[node];
	uint64_t before = l->posted;
	int err = 0;

	while (!err && l->posted < l->seq_out && l->posted - l->acked < XP_RDMA_SLOTS) {
		err = push_frame(v, node, l->posted + 1);
		l->posted += !err;
	}
	if (err == -EPROTO) {
		xp_dial_down(&v->dial, c->peer, err);
		return;
	}
	if (err == -EAGAIN)
		err = 0; /* the device is busy; with the next poll */
	if (!err)
		err = xp_rdma_post(v->rdma, node);
	if (l->posted != before)
		c->peer->last_out_ns = v->dial.now_ns;
	if (err)
		xp_dial_lost(&v->dial, c);
}

static int send_ack(struct verbs *v, struct xp_conn *c, bool force)
{
	struct link *l = &v->link[c->peer->node];

	if (!l->ack_due || (!force && l->seq_in - l->seq_in_acked < ACK_EVERY))
		return 0;
	c->peer->last_out_ns = v->dial.now_ns;
	return push_own(v, c->peer->node, WIRE_TYPE_ACK);
}

/* ---- receiving ---- */

static int deliver(struct verbs *v, struct xp_peer *p, const struct wire_header *h,
		   const uint8_t *body)
{
	struct link *l = &v->link[p->node];
	bool page = h->flags & WIRE_F_PAGE, placed = h->flags & WIRE_F_PLACED;
	struct xp_frame f = {.body = body,
			     .body_len = (uint16_t)(h->length - (page ? WIRE_PAGE_LEN : 0)),
			     .type = h->type,
			     .placed = placed};

	if (h->seq != l->seq_in + 1 || (placed && !v->region))
		return -EPROTO;
	l->seq_in = h->seq;
	l->ack_due = true;
	if (h->type == WIRE_TYPE_BYE) {
		p->bye = true;
		xp_dial_down(&v->dial, p, 0);
		return 0;
	}
	if (h->type >= WIRE_TYPE_HELLO)
		return -EPROTO;
	f.page = page ? body + f.body_len : NULL;
	l->counters.frames_in++;
	int err = v->dial.handler->frame(v->dial.ctx, p->node, &f);

	return err < 0 ? err : 1;
}

/* 1: a frame was delivered, 0, or the error that ends the link. */
static int on_message(struct verbs *v, struct xp_peer *p, const uint8_t *data, size_t len)
{
	struct link *l = &v->link[p->node];
	struct wire_header h;
	uint64_t ack;

	if (len < PREFIX_LEN || wire_header_get(data, &h) || h.flags & WIRE_F_ENCRYPTED ||
	    len != (size_t)PREFIX_LEN + h.length)
		return -EPROTO;
	memcpy(&ack, data + WIRE_HEADER_LEN, sizeof(ack));
	int err = acknowledged(l, le64toh(ack));

	if (err)
		return err;
	p->last_in_ns = v->dial.now_ns;
	l->counters.bytes_in += len + (h.flags & WIRE_F_PLACED ? WIRE_PAGE_LEN : 0u);
	if (h.seq)
		return deliver(v, p, &h, data + PREFIX_LEN);
	return (h.type == WIRE_TYPE_ACK || h.type == WIRE_TYPE_PING) && !h.length ? 0 : -EPROTO;
}

static void link_up(struct verbs *v, struct xp_conn *c)
{
	v->link[c->peer->node].live = true;
	xp_dial_up(&v->dial, c);
}

static unsigned on_event(struct verbs *v, const struct xp_rdma_event *e)
{
	struct xp_peer *p = &v->dial.peer[e->node];
	struct xp_conn *c = p->conn;

	if (!c || c->state < CONN_SETUP)
		return 0;
	if (e->type == XP_RDMA_BROKEN) {
		xp_dial_lost(&v->dial, c);
		return 0;
	}
	/* Its READY may still be on the way while its first frame is here. */
	if (!v->link[e->node].live)
		link_up(v, c);
	int n = on_message(v, p, e->data, e->len);

	if (n < 0)
		xp_dial_down(&v->dial, p, n);
	else
		xp_rdma_give_back(v->rdma, e->node, e->slot);
	return n > 0;
}

static unsigned drain(struct verbs *v)
{
	struct xp_rdma_event ev[EVENTS_MAX];
	unsigned count = 0, n = EVENTS_MAX;

	v->draining = true;
	for (unsigned seen = 0; n == EVENTS_MAX && seen < DRAIN_MAX; seen += n) {
		n = xp_rdma_poll(v->rdma, ev, EVENTS_MAX);
		for (unsigned i = 0; i < n && !v->dial.stopped; i++)
			count += on_event(v, &ev[i]);
	}
	v->draining = false;
	return count;
}

/* ---- what the connections ask ---- */

static uint64_t on_received(void *ctx, uint8_t node)
{
	return ((struct verbs *)ctx)->link[node].seq_in;
}

/* Only who has the key can make it, and only for this connection. */
static void end_hash(const struct verbs *v, const struct xp_conn *c, bool by_connector,
		     const uint8_t *end, uint8_t out[32])
{
	crypto_generichash_state st;

	crypto_generichash_init(&st, v->dial.key, XP_KEY_LEN, 32);
	crypto_generichash_update(
		&st, (const uint8_t *)(by_connector ? "rdma connect" : "rdma accept."), 12);
	crypto_generichash_update(&st, c->connector ? c->own_hello : c->peer_hello, XP_HELLO_LEN);
	crypto_generichash_update(&st, c->connector ? c->peer_hello : c->own_hello, XP_HELLO_LEN);
	crypto_generichash_update(&st, end, END_LEN);
	crypto_generichash_final(&st, out, 32);
}

static int control_send(struct xp_conn *c, uint8_t type, const void *body, uint16_t len)
{
	uint8_t out[WIRE_HEADER_LEN + WIRE_BODY_MAX];

	wire_header_put(out, &(struct wire_header){.version = 1, .type = type, .length = len});
	memcpy(out + WIRE_HEADER_LEN, body, len);
	ssize_t n = send(c->fd, out, WIRE_HEADER_LEN + (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT);

	return n == WIRE_HEADER_LEN + len ? 0 : -EIO;
}

static int end_send(const struct verbs *v, struct xp_conn *c, const struct xp_rdma_end *e,
		    uint64_t received)
{
	uint8_t body[END_LEN + 32] = {0};
	struct base_wbuf b;

	base_wbuf_init(&b, END_LEN);
	base_wbuf_u32(&b, e->qpn);
	base_wbuf_u32(&b, e->psn);
	base_wbuf_bytes(&b, e->gid, sizeof(e->gid));
	base_wbuf_u32(&b, e->mtu);
	base_wbuf_u32(&b, e->region_key);
	base_wbuf_u64(&b, e->region_at);
	base_wbuf_u64(&b, e->region_len);
	base_wbuf_u64(&b, received);
	if (b.error) {
		base_wbuf_fini(&b);
		return -ENOMEM;
	}
	memcpy(body, b.data, b.len);
	base_wbuf_fini(&b);
	end_hash(v, c, c->connector, body, body + END_LEN);
	return control_send(c, WIRE_TYPE_END, body, sizeof(body));
}

static int end_get(const struct verbs *v, const struct xp_conn *c, const uint8_t *body, size_t len,
		   struct xp_rdma_end *out, uint64_t *received)
{
	uint8_t want[32];
	struct base_rbuf b;
	struct xp_rdma_end e = {0};

	if (len != END_LEN + sizeof(want))
		return -EPROTO;
	end_hash(v, c, !c->connector, body, want);
	if (sodium_memcmp(want, body + END_LEN, sizeof(want)))
		return -EACCES;
	base_rbuf_init(&b, body, END_LEN);
	e.qpn = base_rbuf_u32(&b);
	e.psn = base_rbuf_u32(&b);
	base_rbuf_bytes(&b, e.gid, sizeof(e.gid));
	e.mtu = (uint8_t)base_rbuf_u32(&b);
	e.region_key = base_rbuf_u32(&b);
	e.region_at = base_rbuf_u64(&b);
	e.region_len = base_rbuf_u64(&b);
	*received = base_rbuf_u64(&b);
	*out = e;
	return 0;
}

/* The link goes on where the peer has lost it. */
static int rewind_to(struct link *l, uint64_t received)
{
	int err = acknowledged(l, received);

	if (err)
		return err;
	l->counters.replayed += l->posted - l->acked;
	l->posted = l->acked;
	return 0;
}

static int on_ready(void *ctx, struct xp_conn *c, const struct xp_dial_link *link)
{
	struct verbs *v = ctx;
	struct xp_rdma_end own;
	struct link *l = &v->link[c->peer->node];
	int err = xp_rdma_new(v->rdma, c->peer->node, &own);

	l->connected = l->live = false;
	if (err) {
		log_error("no RDMA connection can be made: %s", strerror(-err));
		return err;
	}
	if (end_send(v, c, &own, l->seq_in))
		xp_dial_lost(&v->dial, c);
	return 0;
}

static int on_end(struct verbs *v, struct xp_conn *c, const uint8_t *body, size_t len)
{
	struct link *l = &v->link[c->peer->node];
	struct xp_rdma_end peer;
	uint64_t received;
	int err = end_get(v, c, body, len, &peer, &received);

	if (!err)
		err = rewind_to(l, received);
	if (!err)
		err = xp_rdma_connect(v->rdma, c->peer->node, &peer);
	if (err)
		return err;
	l->connected = true;
	l->peer_region_len = peer.region_len;
	if (control_send(c, WIRE_TYPE_READY, "", 0))
		xp_dial_lost(&v->dial, c);
	return 0;
}

static int on_control(struct verbs *v, struct xp_conn *c, uint8_t type, const uint8_t *body,
		      size_t len)
{
	struct link *l = &v->link[c->peer->node];

	if (type == WIRE_TYPE_END && !l->connected)
		return on_end(v, c, body, len);
	if (type != WIRE_TYPE_READY || !l->connected || len)
		return -EPROTO;
	if (!l->live)
		link_up(v, c);
	return 0;
}

static ssize_t on_bytes(void *ctx, struct xp_conn *c, const uint8_t *data, size_t len,
			unsigned *count)
{
	struct wire_header h;

	if (len < WIRE_HEADER_LEN)
		return 0;
	if (wire_header_get(data, &h) || h.seq || h.flags)
		return -EPROTO;
	if (len < (size_t)WIRE_HEADER_LEN + h.length)
		return 0;
	int err = on_control(ctx, c, h.type, data + WIRE_HEADER_LEN, h.length);

	return err ? err : WIRE_HEADER_LEN + h.length;
}

static void on_writable(void *ctx, struct xp_conn *c)
{
	/* The few control messages fit into the socket at once. */
}

/* What the device has taken in is the peer's last word: its goodbye may be there. */
static void on_lost(void *ctx, struct xp_conn *c)
{
	struct verbs *v = ctx;
	struct link *l = &v->link[c->peer->node];

	if (c->peer->conn != c)
		return;
	if (l->live && !v->draining && !v->dial.stopped) {
		c->state = CONN_UP; /* so that its frames count */
		drain(v);
		c->state = CONN_FREE;
	}
	l->live = false;
	xp_rdma_close(v->rdma, c->peer->node);
}

static int on_tick(void *ctx, struct xp_conn *c)
{
	struct verbs *v = ctx;
	int64_t quiet = v->dial.dead_ms * BASE_NS_PER_MS;
	int err = send_ack(v, c, true);

	if (!err && v->dial.now_ns - c->peer->last_out_ns > quiet / 4) {
		c->peer->last_out_ns = v->dial.now_ns;
		err = push_own(v, c->peer->node, WIRE_TYPE_PING);
	}
	if (err)
		xp_dial_lost(&v->dial, c);
	return 0;
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

static void verbs_flush(struct xp *xp)
{
	struct verbs *v = of(xp);

	v->all_up = true;
	for (uint8_t n = 0; n < XP_NODE_MAX; n++) {
		struct xp_conn *c = xp_dial_conn(&v->dial, n);

		if (!c) {
			v->all_up &= !(v->dial.peers & 1u << n);
			continue;
		}
		if (v->link[n].posted < v->link[n].seq_out)
			send_out(v, c);
		if (c->state == CONN_UP && send_ack(v, c, false))
			xp_dial_lost(&v->dial, c);
	}
}

static unsigned verbs_poll(struct xp *xp, int64_t now_ns)
{
	struct verbs *v = of(xp);

	if (v->dial.stopped)
		return 0;
	xp_dial_time(&v->dial, now_ns);
	unsigned count = drain(v);

	if (!count) {
		xp_rdma_arm(v->rdma);
		count = drain(v);
	}
	if (v->polls++ % POLL_EVERY == 0 || !v->all_up)
		count += xp_dial_poll(&v->dial);
	if (!v->dial.stopped)
		verbs_flush(xp);
	return count;
}

static int verbs_send(struct xp *xp, uint8_t peer, const struct xp_out *o)
{
	struct verbs *v = of(xp);
	struct xp_peer *p = &v->dial.peer[peer];

	if (v->dial.stopped || p->down || !p->up)
		return -ENOTCONN;
	return queue_put(v, &v->link[peer], o);
}

static int verbs_fd(const struct xp *xp)
{
	return of(xp)->dial.epoll_fd;
}

static int64_t verbs_next_ns(const struct xp *xp)
{
	return of(xp)->dial.next_ns;
}

static void verbs_counters(const struct xp *xp, uint8_t peer, struct xp_counters *out)
{
	*out = of(xp)->link[peer].counters;
	out->reconnects = of(xp)->dial.peer[peer].reconnects;
}

static void verbs_break(struct xp *xp, uint8_t peer)
{
	struct xp_conn *c = xp_dial_conn(&of(xp)->dial, peer);

	if (c)
		xp_dial_lost(&of(xp)->dial, c);
}

static int verbs_admit(struct xp *xp, uint8_t node, const char *address, uint64_t group)
{
	struct verbs *v = of(xp);
	int err = v->room & 1u << node ? xp_dial_admit(&v->dial, node, address, group) : -EINVAL;

	if (err)
		return err;
	xp_rdma_close(v->rdma, node);
	link_fini(&v->link[node]);
	v->link[node] = (struct link){0};
	v->all_up = false;
	return 0;
}

static void verbs_drop(struct xp *xp, uint8_t peer)
{
	struct verbs *v = of(xp);

	v->link[peer].live = false; /* nothing of it is looked at any more */
	xp_dial_drop(&v->dial, peer);
	xp_rdma_close(v->rdma, peer);
}

/* Until the peers' devices have what we sent, or for a short while. */
static void wait_sent(struct verbs *v)
{
	int64_t end = base_clock_ns() + GOODBYE_NS;
	unsigned waiting = 1;

	while (waiting && base_clock_ns() < end) {
		waiting = 0;
		for (uint8_t n = 0; n < XP_NODE_MAX; n++)
			if (xp_dial_conn(&v->dial, n))
				waiting += xp_rdma_unconfirmed(v->rdma, n);
		if (waiting)
			(void)poll(NULL, 0, 1);
	}
}

static void verbs_stop(struct xp *xp)
{
	struct verbs *v = of(xp);
	static const struct xp_out bye = {.type = WIRE_TYPE_BYE, .body = ""};

	if (v->dial.stopped)
		return;
	v->draining = true; /* nothing is delivered any more */
	for (uint8_t n = 0; n < XP_NODE_MAX; n++) {
		struct xp_conn *c = xp_dial_conn(&v->dial, n);

		if (c && !queue_put(v, &v->link[n], &bye))
			send_out(v, c);
	}
	wait_sent(v);
	xp_dial_stop(&v->dial);
}

static void verbs_fini(struct xp *xp)
{
	struct verbs *v = of(xp);

	verbs_stop(xp);
	xp_dial_fini(&v->dial);
	xp_rdma_free(v->rdma);
	for (unsigned n = 0; n < XP_NODE_MAX; n++)
		link_fini(&v->link[n]);
	free(v);
}

static int open_rdma(struct verbs *v, const struct xp_config *c)
{
	struct sockaddr_storage own;
	socklen_t len;
	int err = xp_address_parse(c->address[c->self], &own, &len);

	if (!err)
		err = xp_rdma_open(&own, c->region, c->region_len, v->room, &v->rdma);
	if (err == -ENODEV)
		log_error("no RDMA device has the address %s (rdma link; for soft-RoCE: rdma link "
			  "add r0 type rxe netdev INTERFACE)",
			  c->address[c->self]);
	if (err)
		return err;
	v->region = xp_rdma_places(v->rdma) ? c->region : NULL;
	v->region_len = c->region_len;
	return 0;
}

static int verbs_open(const struct xp_config *c, struct xp **out)
{
	struct verbs *v = calloc(1, sizeof(*v));

	if (!v)
		return -ENOMEM;
	v->xp.ops = &xp_verbs;
	v->room = (uint16_t)(c->peers | c->room);
	int err = open_rdma(v, c);

	if (!err)
		err = xp_dial_open(&v->dial, c, &dial_ops, v);
	if (err) {
		xp_rdma_free(v->rdma);
		free(v);
		return err;
	}
	err = xp_dial_watch_fd(&v->dial, xp_rdma_fd(v->rdma));
	if (err) {
		verbs_fini(&v->xp);
		return err;
	}
	*out = &v->xp;
	return 0;
}

bool xp_keeps_user(const struct xp *xp)
{
	return xp->ops == &xp_verbs && xp_rdma_is_soft(of(xp)->rdma);
}

int xp_verbs_address(char *out, size_t cap)
{
	return xp_rdma_address(out, cap);
}

const struct xp_ops xp_verbs = {
	.name = "verbs",
	.caps = XP_CAP_PLACES | XP_CAP_REMOTE,
	.open = verbs_open,
	.send = verbs_send,
	.flush = verbs_flush,
	.poll = verbs_poll,
	.fd = verbs_fd,
	.next_ns = verbs_next_ns,
	.counters = verbs_counters,
	.break_link = verbs_break,
	.admit = verbs_admit,
	.drop = verbs_drop,
	.stop = verbs_stop,
	.fini = verbs_fini,
};
