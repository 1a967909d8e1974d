#include "proto/xp_dial.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/tcp.h"

#define RETRY_NS (20 * BASE_NS_PER_MS)
#define VAIN_MAX 3
#define TICK_NS	 (20 * BASE_NS_PER_MS)
#define STALL_NS (500 * BASE_NS_PER_MS)
#define SETUP_NS (2 * BASE_NS_PER_SEC)

/* ---- connections ---- */

static void conn_close(struct xp_dial *d, struct xp_conn *c)
{
	bool was_ready = c->state >= CONN_SETUP;

	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	c->state = CONN_FREE;
	c->rx_len = 0;
	if (was_ready)
		d->ops->lost(d->ops_ctx, c);
}

void xp_dial_down(struct xp_dial *d, struct xp_peer *p, int err)
{
	if (p->down || d->stopped)
		return;
	p->down = true;
	if (p->conn)
		conn_close(d, p->conn);
	p->conn = NULL;
	d->handler->down(d->ctx, p->node, err);
}

void xp_dial_lost(struct xp_dial *d, struct xp_conn *c)
{
	struct xp_peer *p = c->peer;
	bool was_up = c->state == CONN_UP;

	conn_close(d, c);
	if (!p || p->conn != c)
		return;
	p->conn = NULL;
	if (p->bye) {
		xp_dial_down(d, p, 0);
		return;
	}
	p->vain = !was_up ? p->vain : p->last_in_ns > p->up_ns ? 0 : p->vain + 1;
	p->retry_ns = d->now_ns + (was_up && !p->vain ? 0 : RETRY_NS);
	if (!was_up)
		return;
	/* What comes up again and again and carries nothing must not keep the window open for ever. */
	if (p->vain > VAIN_MAX) {
		p->window_end_ns = p->window_before_ns;
		return;
	}
	log_info("link to node %u broke; %u ms to reconnect", p->node, d->window_ms);
	p->window_end_ns = d->now_ns + d->window_ms * BASE_NS_PER_MS;
}

int xp_conn_watch(struct xp_dial *d, struct xp_conn *c, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = c};

	if (c->events == events)
		return 0;
	int op = c->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;

	if (epoll_ctl(d->epoll_fd, op, c->fd, &ev) < 0)
		return -errno;
	c->events = events;
	return 0;
}

static struct xp_conn *conn_new(struct xp_dial *d, int fd, enum xp_conn_state state)
{
	for (unsigned i = 0; i < BASE_ARRAY_LEN(d->conns); i++) {
		struct xp_conn *c = &d->conns[i];

		if (c->state != CONN_FREE)
			continue;
		uint8_t *rx = c->rx ? c->rx : malloc(XP_CONN_RX_BYTES);

		if (!rx)
			return NULL;
		*c = (struct xp_conn){
			.fd = fd, .state = state, .rx = rx, .deadline_ns = d->now_ns + SETUP_NS};
		return c;
	}
	return NULL;
}

static void tune(int fd)
{
	int one = 1, buf = 4 << 20;

	/* Worth a try each; a socket without them works, only slower. */
	base_tcp_no_delay(fd);
	(void)setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &one, sizeof(one));
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buf, sizeof(buf));
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buf, sizeof(buf));
}

/* ---- handshake ---- */

static int raw_send(struct xp_conn *c, uint8_t type, const void *body, uint16_t len)
{
	uint8_t out[WIRE_HEADER_LEN + WIRE_BODY_MAX];

	wire_header_put(out, &(struct wire_header){.version = 1, .type = type, .length = len});
	memcpy(out + WIRE_HEADER_LEN, body, len);
	ssize_t n = send(c->fd, out, WIRE_HEADER_LEN + (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT);

	/* An empty socket takes these few bytes whole. */
	return n == WIRE_HEADER_LEN + len ? 0 : -EIO;
}

static int hello_send(struct xp_dial *d, struct xp_conn *c, struct xp_peer *p)
{
	struct xp_hello h = {.version_min = WIRE_VERSION_MIN,
			     .version_max = WIRE_VERSION_MAX,
			     .node = d->self,
			     .encrypt = d->encrypt,
			     .aes = crypto_aead_aes256gcm_is_available(),
			     .group = p->group,
			     .session = p->session,
			     .received = d->ops->received(d->ops_ctx, p->node)};

	memcpy(h.ephemeral, p->eph_public, sizeof(h.ephemeral));
	randombytes_buf(h.nonce, sizeof(h.nonce));
	xp_hello_put(c->own_hello, &h);
	return raw_send(c, WIRE_TYPE_HELLO, c->own_hello, XP_HELLO_LEN);
}

static int proof_send(struct xp_dial *d, struct xp_conn *c)
{
	uint8_t proof[XP_PROOF_LEN];

	xp_hello_proof(proof, d->key, c->connector, c->connector ? c->own_hello : c->peer_hello,
		       c->connector ? c->peer_hello : c->own_hello);
	return raw_send(c, WIRE_TYPE_PROOF, proof, sizeof(proof));
}

static int hello_check(struct xp_dial *d, const struct xp_hello *h)
{
	if (h->version_min > WIRE_VERSION_MAX || h->version_max < WIRE_VERSION_MIN) {
		log_error("node %u speaks data-plane versions %u to %u, we speak %u to %u", h->node,
			  h->version_min, h->version_max, WIRE_VERSION_MIN, WIRE_VERSION_MAX);
		return -EPROTO;
	}
	if (h->node == d->self || !(d->peers & 1u << h->node) || h->group != d->peer[h->node].group)
		return -EACCES;
	if (h->encrypt != d->encrypt) {
		log_error("node %u and we disagree on encryption", h->node);
		return -EACCES;
	}
	return 0;
}

static int on_hello(struct xp_dial *d, struct xp_conn *c, const uint8_t *body, size_t len)
{
	struct xp_hello h;

	if (len != XP_HELLO_LEN)
		return -EPROTO;
	int err = xp_hello_get(body, &h);

	if (!err)
		err = hello_check(d, &h);
	if (err)
		return err;
	struct xp_peer *p = &d->peer[h.node];

	if (p->down || (c->connector ? c->peer != p : h.node < d->self))
		return -EACCES;
	memcpy(c->peer_hello, body, XP_HELLO_LEN);
	c->peer = p;
	c->state = CONN_PROOF;
	if (!c->connector)
		return hello_send(d, c, p);
	return proof_send(d, c);
}

static int not_the_link(const struct xp_peer *p)
{
	/* It started anew, or lost its link: its memory of the guest is gone. */
	log_error("node %u does not know the link that we have with it", p->node);
	return -EPROTO;
}

/* The peer is who it says. */
static int link_begin(struct xp_dial *d, struct xp_conn *c, const struct xp_hello *h)
{
	struct xp_peer *p = c->peer;
	uint8_t tx[32], rx[32];
	struct xp_dial_link link = {.resumed = p->session, .received = h->received};
	uint64_t session = p->session;
	int err = 0;

	if (!p->session || !h->session)
		err = xp_hello_keys(c->connector, d->key, p->eph_public, p->eph_secret,
				    h->ephemeral, tx, rx, &session);
	/* One end may have begun it on a connection that broke before the other end could. */
	if (!err &&
	    ((p->session && p->session != session) || (h->session && h->session != session)))
		err = not_the_link(p);
	if (err)
		return err;
	if (!link.resumed) {
		link.aes = h->aes && crypto_aead_aes256gcm_is_available();
		link.tx = tx;
		link.rx = rx;
	}
	p->session = session;
	c->state = CONN_SETUP;
	err = d->ops->ready(d->ops_ctx, c, &link);
	sodium_memzero(tx, sizeof(tx));
	sodium_memzero(rx, sizeof(rx));
	return err;
}

static int on_proof(struct xp_dial *d, struct xp_conn *c, const uint8_t *body, size_t len)
{
	uint8_t want[XP_PROOF_LEN];
	struct xp_hello h;
	struct xp_peer *p = c->peer;

	xp_hello_proof(want, d->key, !c->connector, c->connector ? c->own_hello : c->peer_hello,
		       c->connector ? c->peer_hello : c->own_hello);
	if (len != sizeof(want) || sodium_memcmp(want, body, sizeof(want))) {
		if (!p->complained)
			log_error("node %u does not have the key of the guest", p->node);
		p->complained = true;
		return -EACCES;
	}
	int err = xp_hello_get(c->peer_hello, &h);

	if (!err && !c->connector)
		err = proof_send(d, c);
	if (p->conn && p->conn != c)
		conn_close(d, p->conn); /* the old one is dead, only we have not noticed */
	p->conn = c;
	return err ? err : link_begin(d, c, &h);
}

void xp_dial_up(struct xp_dial *d, struct xp_conn *c)
{
	struct xp_peer *p = c->peer;
	bool again = p->up;

	c->state = CONN_UP;
	p->last_in_ns = p->last_out_ns = p->up_ns = d->now_ns;
	p->window_before_ns = p->window_end_ns;
	p->window_end_ns = INT64_MAX;
	p->up = true;
	if (again)
		p->reconnects++;
	else
		d->handler->up(d->ctx, p->node);
}

/* ---- receiving ---- */

/* One frame of the handshake; the bytes consumed, 0: not complete, or -errno. */
static ssize_t take_raw(struct xp_dial *d, struct xp_conn *c, const uint8_t *data, size_t len)
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
		err = on_hello(d, c, data + WIRE_HEADER_LEN, h.length);
	else if (h.type == WIRE_TYPE_PROOF && c->state == CONN_PROOF)
		err = on_proof(d, c, data + WIRE_HEADER_LEN, h.length);
	else
		err = -EPROTO;
	return err ? err : WIRE_HEADER_LEN + h.length;
}

/* 0, or the error that ends the connection (a link that is up goes down with it for good). */
static int parse(struct xp_dial *d, struct xp_conn *c, unsigned *count)
{
	size_t at = 0;
	ssize_t n = 1;

	while (n > 0 && c->state != CONN_FREE && !d->stopped) {
		if (c->state >= CONN_SETUP)
			n = d->ops->take(d->ops_ctx, c, c->rx + at, c->rx_len - at, count);
		else
			n = take_raw(d, c, c->rx + at, c->rx_len - at);
		if (n > 0)
			at += (size_t)n;
	}
	if (c->state == CONN_FREE)
		return 0;
	memmove(c->rx, c->rx + at, c->rx_len - at);
	c->rx_len -= at;
	return n < 0 ? (int)n : 0;
}

static void conn_failed(struct xp_dial *d, struct xp_conn *c, int err)
{
	struct xp_peer *p = c->peer;

	/* What an unknown caller sends harms nobody; what the peer sends ends the link. */
	if (p && p->conn == c)
		xp_dial_down(d, p, err);
	else
		xp_dial_lost(d, c);
}

unsigned xp_dial_receive(struct xp_dial *d, struct xp_conn *c)
{
	unsigned count = 0;

	for (unsigned round = 0; round < 8 && c->state != CONN_FREE && !d->stopped; round++) {
		size_t room = XP_CONN_RX_BYTES - c->rx_len;
		ssize_t n = recv(c->fd, c->rx + c->rx_len, room, MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (n <= 0) {
			xp_dial_lost(d, c);
			break;
		}
		c->rx_len += (size_t)n;
		if (c->state == CONN_UP)
			c->peer->last_in_ns = d->now_ns;
		int err = parse(d, c, &count);

		if (err) {
			conn_failed(d, c, err);
			break;
		}
		if ((size_t)n < room)
			break;
	}
	return count;
}

/* ---- connecting ---- */

static void peer_connect(struct xp_dial *d, struct xp_peer *p)
{
	p->retry_ns = d->now_ns + RETRY_NS;
	int fd = socket(p->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return;
	tune(fd);
	if (connect(fd, (struct sockaddr *)&p->addr, p->addr_len) < 0 && errno != EINPROGRESS) {
		close(fd);
		return;
	}
	struct xp_conn *c = conn_new(d, fd, CONN_CONNECTING);

	if (!c) {
		close(fd);
		return;
	}
	c->connector = true;
	c->peer = p;
	p->conn = c;
	if (xp_conn_watch(d, c, EPOLLOUT))
		xp_dial_lost(d, c);
}

static void connected(struct xp_dial *d, struct xp_conn *c)
{
	int err = 0;
	socklen_t len = sizeof(err);

	if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0 || err ||
	    xp_conn_watch(d, c, EPOLLIN)) {
		xp_dial_lost(d, c);
		return;
	}
	c->state = CONN_HELLO;
	if (hello_send(d, c, c->peer))
		xp_dial_lost(d, c);
}

static void accept_all(struct xp_dial *d)
{
	for (;;) {
		int fd = accept4(d->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0)
			return;
		tune(fd);
		struct xp_conn *c = conn_new(d, fd, CONN_HELLO);

		if (!c) {
			close(fd);
			continue;
		}
		if (xp_conn_watch(d, c, EPOLLIN))
			conn_close(d, c);
	}
}

/* ---- time ---- */

static void peer_time(struct xp_dial *d, struct xp_peer *p)
{
	struct xp_conn *c = p->conn;

	if (d->now_ns >= p->window_end_ns) {
		xp_dial_down(d, p, -ETIMEDOUT);
		return;
	}
	if (!c && p->node < d->self && d->now_ns >= p->retry_ns)
		peer_connect(d, p);
	if (!c || c->state != CONN_UP)
		return;
	if (d->now_ns - p->last_in_ns > d->dead_ms * BASE_NS_PER_MS) {
		xp_dial_lost(d, c);
		return;
	}
	int err = d->ops->tick(d->ops_ctx, c);

	if (err)
		xp_dial_down(d, p, err);
}

/* Nobody looked for so long: what came meanwhile waits in the sockets, and nobody was silent. */
static void stalled(struct xp_dial *d, int64_t gap_ns)
{
	if (gap_ns < STALL_NS)
		return;
	for (unsigned n = 0; n < XP_NODE_MAX; n++)
		d->peer[n].last_in_ns += gap_ns;
	for (unsigned i = 0; i < BASE_ARRAY_LEN(d->conns); i++)
		d->conns[i].deadline_ns += gap_ns;
}

void xp_dial_time(struct xp_dial *d, int64_t now_ns)
{
	stalled(d, now_ns - d->now_ns);
	d->now_ns = now_ns;
	if (now_ns < d->next_ns)
		return;
	for (unsigned i = 0; i < BASE_ARRAY_LEN(d->conns); i++) {
		struct xp_conn *c = &d->conns[i];

		if (c->state != CONN_FREE && c->state != CONN_UP && now_ns >= c->deadline_ns)
			xp_dial_lost(d, c);
	}
	for (unsigned n = 0; n < XP_NODE_MAX; n++)
		if (d->peers & 1u << n && !d->peer[n].down)
			peer_time(d, &d->peer[n]);
	d->next_ns = now_ns + TICK_NS;
}

unsigned xp_dial_poll(struct xp_dial *d)
{
	struct epoll_event ev[XP_NODE_MAX];
	int n = epoll_wait(d->epoll_fd, ev, XP_NODE_MAX, 0);
	unsigned count = 0;

	for (int i = 0; i < n && !d->stopped; i++) {
		struct xp_conn *c = ev[i].data.ptr;

		if (!c) {
			accept_all(d);
			continue;
		}
		if (ev[i].data.ptr == d)
			continue; /* the user looks at it anyway */
		if (c->state == CONN_CONNECTING)
			connected(d, c);
		else if (c->state != CONN_FREE && ev[i].events & ~(uint32_t)EPOLLOUT)
			count += xp_dial_receive(d, c);
		if (c->state == CONN_UP && ev[i].events & EPOLLOUT)
			d->ops->writable(d->ops_ctx, c);
	}
	return count;
}

struct xp_conn *xp_dial_conn(struct xp_dial *d, uint8_t node)
{
	struct xp_conn *c = d->peer[node].conn;

	return c && c->state == CONN_UP ? c : NULL;
}

/* ---- making ---- */

static void peer_init(struct xp_dial *d, uint8_t node, uint64_t group)
{
	struct xp_peer *p = &d->peer[node];

	*p = (struct xp_peer){.node = node,
			      .group = group,
			      .window_end_ns = d->now_ns + d->window_ms * BASE_NS_PER_MS};
	crypto_kx_keypair(p->eph_public, p->eph_secret);
}

static void set_up(struct xp_dial *d, const struct xp_config *c)
{
	*d = (struct xp_dial){.handler = c->handler,
			      .ctx = c->ctx,
			      .self = c->self,
			      .peers = c->peers,
			      .encrypt = c->encrypt,
			      .window_ms = c->window_ms ? c->window_ms : 3000,
			      .dead_ms = c->dead_ms ? c->dead_ms : 1000,
			      .epoll_fd = -1,
			      .listen_fd = c->listen_fd,
			      .now_ns = base_clock_ns()};
	memcpy(d->key, c->key, sizeof(d->key));
	for (unsigned i = 0; i < BASE_ARRAY_LEN(d->conns); i++)
		d->conns[i].fd = -1;
	for (uint8_t n = 0; n < XP_NODE_MAX; n++)
		peer_init(d, n, c->group);
}

static int addresses(struct xp_dial *d, const struct xp_config *c)
{
	for (unsigned n = 0; n < c->self; n++) {
		if (!(c->peers & 1u << n))
			continue;
		int err = xp_address_parse(c->address[n], &d->peer[n].addr, &d->peer[n].addr_len);

		if (err)
			return err;
	}
	return d->listen_fd >= 0 ? 0 : xp_address_listen(c->address[c->self], &d->listen_fd);
}

int xp_dial_open(struct xp_dial *d, const struct xp_config *c, const struct xp_dial_ops *ops,
		 void *ops_ctx)
{
	struct epoll_event ev = {.events = EPOLLIN};

	if (sodium_init() < 0)
		return -EIO;
	set_up(d, c);
	d->ops = ops;
	d->ops_ctx = ops_ctx;
	int err = addresses(d, c);

	if (!err) {
		d->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
		if (d->epoll_fd < 0 || epoll_ctl(d->epoll_fd, EPOLL_CTL_ADD, d->listen_fd, &ev) < 0)
			err = -errno;
	}
	if (err) {
		if (d->listen_fd == c->listen_fd)
			d->listen_fd = -1; /* still the caller's */
		xp_dial_fini(d);
	}
	return err;
}

/* Connections that are not its link's any more, or not yet. */
static void close_others(struct xp_dial *d, const struct xp_peer *p)
{
	for (unsigned i = 0; i < BASE_ARRAY_LEN(d->conns); i++)
		if (d->conns[i].state != CONN_FREE && d->conns[i].peer == p)
			conn_close(d, &d->conns[i]);
}

int xp_dial_admit(struct xp_dial *d, uint8_t node, const char *address, uint64_t group)
{
	struct xp_peer *p = &d->peer[node];
	struct sockaddr_storage addr = {0};
	socklen_t len = 0;
	int err = 0;

	if (node == d->self || d->stopped)
		return -EINVAL;
	if (d->peers & 1u << node && !p->down)
		return -EBUSY;
	if (node < d->self)
		err = address ? xp_address_parse(address, &addr, &len) : -EINVAL;
	if (err)
		return err;
	close_others(d, p);
	peer_init(d, node, group);
	p->addr = addr;
	p->addr_len = len;
	d->peers |= (uint16_t)(1u << node);
	d->next_ns = d->now_ns; /* to connect now */
	return 0;
}

void xp_dial_drop(struct xp_dial *d, uint8_t node)
{
	d->peer[node].down = true;
	close_others(d, &d->peer[node]);
	d->peer[node].conn = NULL;
}

int xp_dial_watch_fd(struct xp_dial *d, int fd)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = d};

	return epoll_ctl(d->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

void xp_dial_stop(struct xp_dial *d)
{
	d->stopped = true;
	for (unsigned i = 0; i < BASE_ARRAY_LEN(d->conns); i++)
		if (d->conns[i].state != CONN_FREE)
			conn_close(d, &d->conns[i]);
}

void xp_dial_fini(struct xp_dial *d)
{
	for (unsigned i = 0; i < BASE_ARRAY_LEN(d->conns); i++)
		free(d->conns[i].rx);
	if (d->listen_fd >= 0)
		close(d->listen_fd);
	if (d->epoll_fd >= 0)
		close(d->epoll_fd);
	sodium_memzero(d->key, sizeof(d->key));
	sodium_memzero(d->peer, sizeof(d->peer));
}
