/*
 * Transport over TCP. Of two nodes the one with the higher number connects. A connection that breaks
 * is made again within the window; xp_link.c replays what the peer has not received.
 *
 * Threads: one. Descriptors: an epoll that holds the listener and all connections.
 */
#include "proto/xp_tcp_impl.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "base/log.h"

#define DIRECT_PEERS  3 /* up to so many connections are tried without asking epoll */
#define EPOLL_EVERY   64
#define RETRY_NS      (20 * BASE_NS_PER_MS)
#define ACK_DELAY_NS  (20 * BASE_NS_PER_MS)
#define QUEUE_LIMIT   (256u << 20)
#define SCRATCH_BYTES (256u << 10)

static struct tcp *of(const struct xp *xp)
{
	return (struct tcp *)xp;
}

/* ---- connections ---- */

static void conn_close(struct tcp *t, struct conn *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	c->state = CONN_FREE;
	c->rx_len = 0;
}

static void peer_down(struct tcp *t, struct peer *p, int err)
{
	if (p->down || t->stopped)
		return;
	p->down = true;
	if (p->conn)
		conn_close(t, p->conn);
	p->conn = NULL;
	t->handler->down(t->ctx, p->node, err);
}

/* The connection is gone; the link waits for the next one. */
static void conn_lost(struct tcp *t, struct conn *c)
{
	struct peer *p = c->peer;
	bool was_up = c->state == CONN_UP;

	conn_close(t, c);
	if (!p || p->conn != c)
		return;
	p->conn = NULL;
	if (p->bye) {
		peer_down(t, p, 0);
		return;
	}
	p->retry_ns = t->now_ns + (was_up ? 0 : RETRY_NS);
	if (!was_up)
		return;
	log_info("link to node %u broke; %u ms to reconnect", p->node, t->window_ms);
	p->window_end_ns = t->now_ns + t->window_ms * BASE_NS_PER_MS;
}

static int conn_watch(struct tcp *t, struct conn *c, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = c};

	if (c->events == events)
		return 0;
	int op = c->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;

	if (epoll_ctl(t->epoll_fd, op, c->fd, &ev) < 0)
		return -errno;
	c->events = events;
	return 0;
}

static struct conn *conn_new(struct tcp *t, int fd, enum conn_state state)
{
	for (unsigned i = 0; i < BASE_ARRAY_LEN(t->conns); i++) {
		struct conn *c = &t->conns[i];

		if (c->state != CONN_FREE)
			continue;
		uint8_t *rx = c->rx ? c->rx : malloc(TCP_RX_BYTES);

		if (!rx)
			return NULL;
		*c = (struct conn){.fd = fd,
				   .state = state,
				   .rx = rx,
				   .deadline_ns = t->now_ns + 2 * BASE_NS_PER_SEC};
		return c;
	}
	return NULL;
}

static void tune(int fd)
{
	int one = 1, buf = 4 << 20;

	/* Worth a try each; a socket without them works, only slower. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &one, sizeof(one));
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buf, sizeof(buf));
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buf, sizeof(buf));
}

static void write_out(struct tcp *t, struct peer *p)
{
	struct conn *c = p->conn;
	struct iovec iov[2];
	int count;

	while (c && c->state == CONN_UP && (count = xp_link_pending(&p->link, iov)) > 0) {
		struct msghdr m = {.msg_iov = iov, .msg_iovlen = (size_t)count};
		ssize_t n = sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n > 0) {
			xp_link_sent(&p->link, (size_t)n);
			p->last_out_ns = t->now_ns;
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN && !conn_watch(t, c, EPOLLIN | EPOLLOUT))
			return;
		conn_lost(t, c);
		return;
	}
	if (c && c->state == CONN_UP && c->events != EPOLLIN && conn_watch(t, c, EPOLLIN))
		conn_lost(t, c);
}

/* ---- handshake ---- */

static int raw_send(struct conn *c, uint8_t type, const void *body, uint16_t len)
{
	uint8_t out[WIRE_HEADER_LEN + WIRE_BODY_MAX];

	wire_header_put(out, &(struct wire_header){.version = 1, .type = type, .length = len});
	memcpy(out + WIRE_HEADER_LEN, body, len);
	ssize_t n = send(c->fd, out, WIRE_HEADER_LEN + (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT);

	/* An empty socket takes these few bytes whole. */
	return n == WIRE_HEADER_LEN + len ? 0 : -EIO;
}

static int hello_send(struct tcp *t, struct conn *c, struct peer *p)
{
	struct xp_hello h = {.version_min = WIRE_VERSION_MIN,
			     .version_max = WIRE_VERSION_MAX,
			     .node = t->self,
			     .encrypt = t->encrypt,
			     .aes = crypto_aead_aes256gcm_is_available(),
			     .group = t->group,
			     .session = p->session,
			     .received = p->link.seq_in};

	crypto_kx_keypair(c->eph_public, c->eph_secret);
	memcpy(h.ephemeral, c->eph_public, sizeof(h.ephemeral));
	randombytes_buf(h.nonce, sizeof(h.nonce));
	xp_hello_put(c->own_hello, &h);
	return raw_send(c, WIRE_TYPE_HELLO, c->own_hello, XP_HELLO_LEN);
}

static int proof_send(struct tcp *t, struct conn *c)
{
	uint8_t proof[XP_PROOF_LEN];

	xp_hello_proof(proof, t->key, c->connector, c->connector ? c->own_hello : c->peer_hello,
		       c->connector ? c->peer_hello : c->own_hello);
	return raw_send(c, WIRE_TYPE_PROOF, proof, sizeof(proof));
}

static int hello_check(struct tcp *t, const struct xp_hello *h)
{
	if (h->version_min > WIRE_VERSION_MAX || h->version_max < WIRE_VERSION_MIN) {
		log_error("node %u speaks data-plane versions %u to %u, we speak %u to %u", h->node,
			  h->version_min, h->version_max, WIRE_VERSION_MIN, WIRE_VERSION_MAX);
		return -EPROTO;
	}
	if (h->group != t->group || h->node == t->self || !(t->peers & 1u << h->node))
		return -EACCES;
	if (h->encrypt != t->encrypt) {
		log_error("node %u and we disagree on encryption", h->node);
		return -EACCES;
	}
	return 0;
}

static int on_hello(struct tcp *t, struct conn *c, const uint8_t *body, size_t len)
{
	struct xp_hello h;

	if (len != XP_HELLO_LEN)
		return -EPROTO;
	int err = xp_hello_get(body, &h);

	if (!err)
		err = hello_check(t, &h);
	if (err)
		return err;
	struct peer *p = &t->peer[h.node];

	if (p->down || (c->connector ? c->peer != p : h.node < t->self))
		return -EACCES;
	memcpy(c->peer_hello, body, XP_HELLO_LEN);
	c->peer = p;
	c->state = CONN_PROOF;
	if (!c->connector)
		return hello_send(t, c, p);
	return proof_send(t, c);
}

/* The peer is who it says. */
static int link_begin(struct tcp *t, struct conn *c, const struct xp_hello *h)
{
	struct peer *p = c->peer;

	if (p->session != h->session) {
		/* It started anew, or lost its link: its memory of the guest is gone. */
		log_error("node %u does not know the link that we have with it", p->node);
		return -EPROTO;
	}
	if (p->session)
		return xp_link_rewind(&p->link, h->received);
	uint8_t tx[32], rx[32];
	int err = xp_hello_keys(c->connector, t->key, c->eph_public, c->eph_secret, h->ephemeral,
				tx, rx, &p->session);

	if (!err && t->encrypt)
		err = xp_link_keys(&p->link, tx, rx,
				   h->aes && crypto_aead_aes256gcm_is_available());
	sodium_memzero(tx, sizeof(tx));
	sodium_memzero(rx, sizeof(rx));
	return err;
}

static int on_proof(struct tcp *t, struct conn *c, const uint8_t *body, size_t len)
{
	uint8_t want[XP_PROOF_LEN];
	struct xp_hello h;
	struct peer *p = c->peer;

	xp_hello_proof(want, t->key, !c->connector, c->connector ? c->own_hello : c->peer_hello,
		       c->connector ? c->peer_hello : c->own_hello);
	if (len != sizeof(want) || sodium_memcmp(want, body, sizeof(want))) {
		if (!p->complained)
			log_error("node %u does not have the key of the guest", p->node);
		p->complained = true;
		return -EACCES;
	}
	int err = xp_hello_get(c->peer_hello, &h);

	if (!err && !c->connector)
		err = proof_send(t, c);
	if (p->conn && p->conn != c)
		conn_close(t, p->conn); /* the old one is dead, only we have not noticed */
	p->conn = c;
	if (!err)
		err = link_begin(t, c, &h);
	if (err)
		return err;
	c->state = CONN_UP;
	p->last_in_ns = t->now_ns;
	p->window_end_ns = INT64_MAX;
	if (p->up)
		p->link.counters.reconnects++;
	else
		t->handler->up(t->ctx, p->node);
	p->up = true;
	return 0;
}

/* ---- receiving ---- */

/* One frame of the handshake; the bytes consumed, 0: not complete, or -errno. */
static ssize_t take_raw(struct tcp *t, struct conn *c, const uint8_t *data, size_t len)
{
	struct wire_header h;

	if (len < WIRE_HEADER_LEN)
		return 0;
	int err = wire_header_get(data, &h);

	if (err || h.seq || h.flags)
		return -EPROTO;
	if (len < (size_t)WIRE_HEADER_LEN + h.length)
		return 0;
	if (h.type == WIRE_TYPE_HELLO && c->state == CONN_HELLO)
		err = on_hello(t, c, data + WIRE_HEADER_LEN, h.length);
	else if (h.type == WIRE_TYPE_PROOF && c->state == CONN_PROOF)
		err = on_proof(t, c, data + WIRE_HEADER_LEN, h.length);
	else
		err = -EPROTO;
	return err ? err : WIRE_HEADER_LEN + h.length;
}

static ssize_t take_frame(struct tcp *t, struct conn *c, const uint8_t *data, size_t len,
			  unsigned *count)
{
	uint8_t plain[WIRE_LENGTH_MAX];
	struct peer *p = c->peer;
	struct xp_frame f = {0};
	ssize_t n = xp_link_take(&p->link, data, len, plain, &f, &p->bye);

	if (n <= 0 || !f.type)
		return n;
	(*count)++;
	int err = t->handler->frame(t->ctx, p->node, &f);

	return err < 0 ? err : n;
}

/* 0, or the error that ends the connection (a link that is up goes down with it for good). */
static int parse(struct tcp *t, struct conn *c, unsigned *count)
{
	size_t at = 0;
	ssize_t n = 1;

	while (n > 0 && c->state != CONN_FREE && !t->stopped) {
		if (c->state == CONN_UP)
			n = take_frame(t, c, c->rx + at, c->rx_len - at, count);
		else
			n = take_raw(t, c, c->rx + at, c->rx_len - at);
		if (n > 0)
			at += (size_t)n;
	}
	if (c->state == CONN_FREE)
		return 0;
	memmove(c->rx, c->rx + at, c->rx_len - at);
	c->rx_len -= at;
	return n < 0 ? (int)n : 0;
}

static void conn_failed(struct tcp *t, struct conn *c, int err)
{
	struct peer *p = c->peer;

	/* What an unknown caller sends harms nobody; what the peer sends ends the link. */
	if (p && p->conn == c)
		peer_down(t, p, err);
	else
		conn_lost(t, c);
}

static unsigned conn_receive(struct tcp *t, struct conn *c)
{
	unsigned count = 0;

	for (unsigned round = 0; round < 8 && c->state != CONN_FREE && !t->stopped; round++) {
		size_t room = TCP_RX_BYTES - c->rx_len;
		ssize_t n = recv(c->fd, c->rx + c->rx_len, room, MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (n <= 0) {
			conn_lost(t, c);
			break;
		}
		c->rx_len += (size_t)n;
		if (c->state == CONN_UP)
			c->peer->last_in_ns = t->now_ns;
		int err = parse(t, c, &count);

		if (err) {
			conn_failed(t, c, err);
			break;
		}
		if ((size_t)n < room)
			break;
	}
	return count;
}

/* ---- connecting ---- */

static void peer_connect(struct tcp *t, struct peer *p)
{
	p->retry_ns = t->now_ns + RETRY_NS;
	int fd = socket(p->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return;
	tune(fd);
	if (connect(fd, (struct sockaddr *)&p->addr, p->addr_len) < 0 && errno != EINPROGRESS) {
		close(fd);
		return;
	}
	struct conn *c = conn_new(t, fd, CONN_CONNECTING);

	if (!c) {
		close(fd);
		return;
	}
	c->connector = true;
	c->peer = p;
	p->conn = c;
	if (conn_watch(t, c, EPOLLOUT))
		conn_lost(t, c);
}

static void connected(struct tcp *t, struct conn *c)
{
	struct peer *p = c->peer;
	int err = 0;
	socklen_t len = sizeof(err);

	if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0 || err ||
	    conn_watch(t, c, EPOLLIN)) {
		conn_lost(t, c);
		return;
	}
	c->state = CONN_HELLO;
	if (hello_send(t, c, p))
		conn_lost(t, c);
}

static void accept_all(struct tcp *t)
{
	for (;;) {
		int fd = accept4(t->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0)
			return;
		tune(fd);
		struct conn *c = conn_new(t, fd, CONN_HELLO);

		if (!c) {
			close(fd);
			continue;
		}
		if (conn_watch(t, c, EPOLLIN))
			conn_close(t, c);
	}
}

/* ---- time ---- */

static void peer_time(struct tcp *t, struct peer *p)
{
	struct conn *c = p->conn;
	int64_t quiet = t->dead_ms * BASE_NS_PER_MS;

	if (t->now_ns >= p->window_end_ns) {
		peer_down(t, p, -ETIMEDOUT);
		return;
	}
	if (!c && p->node < t->self && t->now_ns >= p->retry_ns)
		peer_connect(t, p);
	if (!c || c->state != CONN_UP)
		return;
	if (t->now_ns - p->last_in_ns > quiet) {
		conn_lost(t, c);
		return;
	}
	int err = xp_link_ack(&p->link, true);

	if (!err && t->now_ns - p->last_out_ns > quiet / 4)
		err = xp_link_put(&p->link, &(struct xp_out){.type = WIRE_TYPE_PING, .body = ""});
	if (err)
		peer_down(t, p, err);
	else
		write_out(t, p);
}

static void on_time(struct tcp *t)
{
	for (unsigned i = 0; i < BASE_ARRAY_LEN(t->conns); i++) {
		struct conn *c = &t->conns[i];

		if (c->state != CONN_FREE && c->state != CONN_UP && t->now_ns >= c->deadline_ns)
			conn_lost(t, c);
	}
	for (unsigned n = 0; n < XP_NODE_MAX; n++)
		if (t->peers & 1u << n && !t->peer[n].down)
			peer_time(t, &t->peer[n]);
	t->next_ns = t->now_ns + ACK_DELAY_NS;
}

/* ---- the interface ---- */

static unsigned poll_epoll(struct tcp *t)
{
	struct epoll_event ev[XP_NODE_MAX];
	int n = epoll_wait(t->epoll_fd, ev, XP_NODE_MAX, 0);
	unsigned count = 0;

	for (int i = 0; i < n && !t->stopped; i++) {
		struct conn *c = ev[i].data.ptr;

		if (!c) {
			accept_all(t);
			continue;
		}
		if (c->state == CONN_CONNECTING)
			connected(t, c);
		else if (c->state != CONN_FREE && ev[i].events & ~(uint32_t)EPOLLOUT)
			count += conn_receive(t, c);
		if (c->state == CONN_UP && ev[i].events & EPOLLOUT)
			write_out(t, c->peer);
	}
	return count;
}

static unsigned poll_direct(struct tcp *t)
{
	unsigned count = 0;

	for (unsigned n = 0; n < XP_NODE_MAX && !t->stopped; n++) {
		struct peer *p = &t->peer[n];

		if (p->conn && p->conn->state == CONN_UP)
			count += conn_receive(t, p->conn);
	}
	return count;
}

static void tcp_flush(struct xp *xp)
{
	struct tcp *t = of(xp);

	for (unsigned n = 0; n < XP_NODE_MAX; n++) {
		struct peer *p = &t->peer[n];

		if (!(t->peers & 1u << n) || p->down)
			continue;
		if (xp_link_ack(&p->link, false))
			peer_down(t, p, -ENOBUFS);
		else if (p->conn && p->link.head != p->link.sent && p->conn->events == EPOLLIN)
			write_out(t, p);
	}
}

static unsigned tcp_poll(struct xp *xp, int64_t now_ns)
{
	struct tcp *t = of(xp);
	unsigned count = 0;

	if (t->stopped)
		return 0;
	t->now_ns = now_ns;
	if (now_ns >= t->next_ns)
		on_time(t);
	bool all = t->polls++ % EPOLL_EVERY == 0 || __builtin_popcount(t->peers) > DIRECT_PEERS;

	if (!all)
		count = poll_direct(t);
	if (all)
		count += poll_epoll(t);
	tcp_flush(xp);
	return count;
}

static int tcp_send(struct xp *xp, uint8_t peer, const struct xp_out *o)
{
	struct tcp *t = of(xp);
	struct peer *p = &t->peer[peer];

	if (t->stopped || p->down || !p->up)
		return -ENOTCONN;
	int err = xp_link_put(&p->link, o);

	if (!err && p->link.head - p->link.sent >= SCRATCH_BYTES && p->conn &&
	    p->conn->events == EPOLLIN)
		write_out(t, p);
	return err;
}

static int tcp_fd(const struct xp *xp)
{
	return of(xp)->epoll_fd;
}

static int64_t tcp_next_ns(const struct xp *xp)
{
	return of(xp)->next_ns;
}

static void tcp_counters(const struct xp *xp, uint8_t peer, struct xp_counters *out)
{
	*out = of(xp)->peer[peer].link.counters;
}

static void tcp_break(struct xp *xp, uint8_t peer)
{
	struct tcp *t = of(xp);

	if (t->peer[peer].conn && t->peer[peer].conn->state == CONN_UP)
		conn_lost(t, t->peer[peer].conn);
}

static void tcp_stop(struct xp *xp)
{
	struct tcp *t = of(xp);

	if (t->stopped)
		return;
	for (unsigned n = 0; n < XP_NODE_MAX; n++) {
		struct peer *p = &t->peer[n];

		if (p->conn && p->conn->state == CONN_UP && !p->down &&
		    !xp_link_put(&p->link, &(struct xp_out){.type = WIRE_TYPE_BYE, .body = ""}))
			write_out(t, p);
	}
	t->stopped = true;
	for (unsigned i = 0; i < BASE_ARRAY_LEN(t->conns); i++)
		if (t->conns[i].state != CONN_FREE)
			conn_close(t, &t->conns[i]);
}

static void tcp_fini(struct xp *xp)
{
	struct tcp *t = of(xp);

	tcp_stop(xp);
	for (unsigned i = 0; i < BASE_ARRAY_LEN(t->conns); i++)
		free(t->conns[i].rx);
	for (unsigned n = 0; n < XP_NODE_MAX; n++)
		xp_link_fini(&t->peer[n].link);
	if (t->listen_fd >= 0)
		close(t->listen_fd);
	if (t->epoll_fd >= 0)
		close(t->epoll_fd);
	sodium_memzero(t->key, sizeof(t->key));
	free(t);
}

static void set_up(struct tcp *t, const struct xp_config *c)
{
	*t = (struct tcp){.xp = {&xp_tcp},
			  .handler = c->handler,
			  .ctx = c->ctx,
			  .self = c->self,
			  .peers = c->peers,
			  .group = c->group,
			  .encrypt = c->encrypt,
			  .window_ms = c->window_ms ? c->window_ms : 3000,
			  .dead_ms = c->dead_ms ? c->dead_ms : 1000,
			  .epoll_fd = -1,
			  .listen_fd = c->listen_fd,
			  .now_ns = base_clock_ns()};
	memcpy(t->key, c->key, sizeof(t->key));
	for (unsigned i = 0; i < BASE_ARRAY_LEN(t->conns); i++)
		t->conns[i].fd = -1;
	for (uint8_t n = 0; n < XP_NODE_MAX; n++) {
		t->peer[n].node = n;
		t->peer[n].window_end_ns = t->now_ns + t->window_ms * BASE_NS_PER_MS;
		xp_link_init(&t->peer[n].link, QUEUE_LIMIT);
	}
}

static int addresses(struct tcp *t, const struct xp_config *c)
{
	for (unsigned n = 0; n < c->self; n++) {
		if (!(c->peers & 1u << n))
			continue;
		int err = xp_address_parse(c->address[n], &t->peer[n].addr, &t->peer[n].addr_len);

		if (err)
			return err;
	}
	return t->listen_fd >= 0 ? 0 : xp_address_listen(c->address[c->self], &t->listen_fd);
}

static int tcp_open(const struct xp_config *c, struct xp **out)
{
	if (sodium_init() < 0)
		return -EIO;
	struct tcp *t = malloc(sizeof(*t));

	if (!t)
		return -ENOMEM;
	set_up(t, c);
	struct epoll_event ev = {.events = EPOLLIN};
	int err = addresses(t, c);

	if (!err) {
		t->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
		if (t->epoll_fd < 0 || epoll_ctl(t->epoll_fd, EPOLL_CTL_ADD, t->listen_fd, &ev) < 0)
			err = -errno;
	}
	if (err) {
		if (t->listen_fd == c->listen_fd)
			t->listen_fd = -1; /* still the caller's */
		tcp_fini(&t->xp);
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
	.stop = tcp_stop,
	.fini = tcp_fini,
};
