#include "pvm/mp_net.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/list.h"
#include "pvm/include/pvm3.h"
#include "pvm/mp_globals.h"
#include "pvm/mp_rt.h"

enum {
	BUCKETS = 256,
	CONNS_MAX =
		400, /* with more the rest goes through the daemons: programs need descriptors */
	FIRST_MIN = 65536, /* a first message of this size is worth a connection at once */
	STAGE = 65536,
	LAND_MIN = 16384,
	READ_TURNS = 64,
	SEND_IOV = 64,
	GONE_WAIT_MS = 2000,
	EVENTS = 32,
};

struct conn {
	struct base_list link;
	int tid, fd;
	bool reading; /* in the epoll set */
	bool busy;    /* a send is using it: not to be freed */
	union {
		struct mp_net_head head;
		uint8_t bytes[sizeof(struct mp_net_head)];
	} in;
	size_t head_got;
	struct mp_msg *msg; /* NULL with `left`: dropped, no memory */
	uint8_t *data;
	uint64_t left; /* of the body */
	bool body;
};

/* Another task elsewhere. */
struct peer {
	struct base_list link;
	int tid;
	struct conn *tx;
	bool refused;
	unsigned by_daemon;
};

static struct {
	bool init;
	int ep, bell, shout; /* -1; bell: others of this host wake us; shout: we wake them */
	struct base_list buckets[BUCKETS];
	struct base_list conns;
	unsigned count;
	uint8_t *stage;
	char bell_path[108];
	/* What the last look or sleep saw, not handled yet. */
	struct epoll_event seen[EVENTS];
	int seen_count;
	bool daemon;
} net = {.ep = -1, .bell = -1, .shout = -1};

struct mp_landing mp_landing;

static char bell_mark, daemon_mark;

bool mp_net_active(void)
{
	return net.count > 0;
}

int mp_net_fd(void)
{
	return net.ep;
}

/* Setting up */

static void bell_address(int tid, struct sockaddr_un *a)
{
	char dir[80];

	*a = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (mp_path_dir(dir, sizeof(dir)))
		return;
	snprintf(a->sun_path, sizeof(a->sun_path), "%s/bell.%x", dir, (unsigned)tid);
}

/* Without it this task looks itself from time to time (MP_CHAN_SLEEP_MAX_MS). */
static void bell_open(void)
{
	struct epoll_event e = {.events = EPOLLIN, .data.ptr = &bell_mark};
	struct sockaddr_un a;

	bell_address(pvmmytid, &a);
	net.bell = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (net.bell < 0 || !a.sun_path[0])
		return;
	unlink(a.sun_path);
	if (bind(net.bell, (struct sockaddr *)&a, sizeof(a)) ||
	    epoll_ctl(net.ep, EPOLL_CTL_ADD, net.bell, &e)) {
		close(net.bell);
		net.bell = -1;
		return;
	}
	memcpy(net.bell_path, a.sun_path, sizeof(net.bell_path));
}

static void lists_init(void)
{
	if (net.init)
		return;
	for (int i = 0; i < BUCKETS; i++)
		base_list_init(&net.buckets[i]);
	base_list_init(&net.conns);
	net.init = true;
}

static bool net_open(void)
{
	struct epoll_event e = {.events = EPOLLIN, .data.ptr = &daemon_mark};

	lists_init();
	if (net.ep >= 0)
		return true;
	if (!net.stage)
		net.stage = malloc(STAGE);
	net.ep = net.stage ? epoll_create1(EPOLL_CLOEXEC) : -1;
	if (net.ep < 0)
		return false;
	if (epoll_ctl(net.ep, EPOLL_CTL_ADD, mp_rt.fd, &e)) {
		close(net.ep);
		net.ep = -1;
		return false;
	}
	bell_open();
	return true;
}

bool mp_net_watch(void)
{
	return net_open();
}

static struct peer *peer_find(int tid)
{
	if (net.init)
		base_list_foreach (p, &net.buckets[(unsigned)tid % BUCKETS], struct peer, link)
			if (p->tid == tid)
				return p;
	return NULL;
}

static struct peer *peer_get(int tid)
{
	struct peer *p = peer_find(tid);

	if (p)
		return p;
	lists_init();
	p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	p->tid = tid;
	base_list_add(&net.buckets[(unsigned)tid % BUCKETS], &p->link);
	return p;
}

static void conn_unread(struct conn *c)
{
	if (c->msg && c->msg == mp_landing.msg)
		mp_landing.msg = NULL;
	mp_msg_unref(c->msg);
	c->msg = NULL;
}

static void conn_close(struct conn *c)
{
	struct peer *p = peer_find(c->tid);

	if (c->fd < 0)
		return;
	if (p && p->tx == c)
		p->tx = NULL;
	/* The daemon has a duplicate, so closing alone would leave it in the set. */
	epoll_ctl(net.ep, EPOLL_CTL_DEL, c->fd, NULL);
	close(c->fd);
	c->fd = -1;
	conn_unread(c);
	base_list_del(&c->link);
	net.count--;
	for (int i = 0; i < net.seen_count; i++)
		if (net.seen[i].data.ptr == c)
			net.seen[i].data.ptr = NULL;
	if (!c->busy)
		free(c);
}

/* Takes the descriptor. */
static struct conn *conn_new(int tid, int fd)
{
	struct conn *c = net_open() && net.count < CONNS_MAX ? calloc(1, sizeof(*c)) : NULL;

	if (!c) {
		close(fd);
		return NULL;
	}
	c->tid = tid;
	c->fd = fd;
	base_list_add_tail(&net.conns, &c->link);
	net.count++;
	return c;
}

static void conn_reading(struct conn *c)
{
	struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};

	if (!c->reading && epoll_ctl(net.ep, EPOLL_CTL_ADD, c->fd, &e))
		pvmlogprintf("t%x: no memory for its connection\n", (unsigned)c->tid);
	c->reading = true;
}

void mp_net_close(void)
{
	if (!net.init)
		return;
	/* First: in a child of fork the set is the parent's as well and must stay as it is. */
	if (net.ep >= 0)
		close(net.ep);
	base_list_foreach_safe (c, &net.conns, struct conn, link) {
		close(c->fd);
		c->fd = -1;
		conn_unread(c);
		base_list_del(&c->link);
		if (!c->busy)
			free(c);
	}
	for (int i = 0; i < BUCKETS; i++)
		base_list_foreach_safe (p, &net.buckets[i], struct peer, link) {
			base_list_del(&p->link);
			free(p);
		}
	if (net.bell >= 0)
		close(net.bell);
	if (net.bell >= 0 && getpid() == pvmmyupid)
		unlink(net.bell_path);
	net.ep = net.bell = -1;
	net.count = 0;
	net.seen_count = 0;
	mp_landing = (struct mp_landing){.on = false};
}

/* Receiving */

static bool wanted(int tid, int tag, int ctx)
{
	const struct mp_landing *l = &mp_landing;

	return ctx == pvmmyctx && tag >= 0 && (l->tid == -1 || l->tid == tid) &&
	       (l->tag == -1 || l->tag == tag);
}

/* Straight to where pvm_precv wants it, if no other message is there for it. */
static bool land(struct conn *c, const struct mp_net_head *h)
{
	struct mp_landing *l = &mp_landing;

	if (!l->on || l->msg || h->total < LAND_MIN || h->total > l->cap || mp_rt.match ||
	    !wanted(c->tid, h->tag, h->ctx) || !base_list_empty(&mp_rt.handlers))
		return false;
	base_list_foreach (it, &mp_rt.queue, struct mp_item, link)
		if (wanted(it->msg->head.src, it->msg->head.tag, it->msg->head.ctx))
			return false;
	if (mp_msg_append_place(c->msg, l->buf, (size_t)h->total))
		return false;
	c->data = l->buf;
	l->msg = c->msg;
	return true;
}

static void body_begin(struct conn *c)
{
	const struct mp_net_head *h = &c->in.head;
	struct mp_block *b = NULL;

	c->body = true;
	c->left = h->total;
	c->data = NULL;
	c->msg = mp_msg_new(h->enc);
	if (c->msg && h->total && !land(c, h)) {
		b = mp_block_new((size_t)h->total);
		if (b)
			c->data = b->data;
		if (!b || mp_msg_append_block(c->msg, b, 0, (size_t)h->total)) {
			mp_block_unref(b);
			mp_msg_unref(c->msg);
			c->msg = NULL;
		}
	}
	if (!c->msg) {
		c->data = NULL;
		pvmlogprintf("no memory for a message of %llu bytes from t%x: lost\n",
			     (unsigned long long)h->total, (unsigned)c->tid);
		return;
	}
	c->msg->head = (struct mp_head){.enc = h->enc,
					.tag = h->tag,
					.ctx = h->ctx,
					.src = c->tid,
					.dst = pvmmytid,
					.wid = h->wid,
					.crc = h->crc};
}

static int body_end(struct conn *c)
{
	struct mp_msg *m = c->msg;

	c->body = false;
	c->head_got = 0;
	c->msg = NULL;
	if (!m)
		return 0;
	mp_rt_arrived(m);
	return 1;
}

/* Bytes from the stage; how many messages are whole, or -EPROTO. */
static int conn_feed(struct conn *c, const uint8_t *p, size_t n)
{
	int done = 0;

	for (;;) {
		size_t part;

		if (c->body && !c->left)
			done += body_end(c);
		if (!n)
			return done;
		if (c->body) {
			part = (size_t)BASE_MIN((uint64_t)n, c->left);
			if (c->data)
				memcpy(c->data, p, part);
			c->data = c->data ? c->data + part : NULL;
			c->left -= part;
		} else {
			part = BASE_MIN(n, sizeof(c->in) - c->head_got);
			memcpy(c->in.bytes + c->head_got, p, part);
			c->head_got += part;
			if (c->head_got == sizeof(c->in)) {
				if (c->in.head.magic != MP_NET_MAGIC ||
				    c->in.head.total > SIZE_MAX / 2)
					return -EPROTO;
				body_begin(c);
			}
		}
		p += part;
		n -= part;
	}
}

/* One read; the messages that became whole, *more when there may be more; -errno. */
static int conn_read_once(struct conn *c, bool *more)
{
	struct iovec iov[2] = {{NULL, 0}, {net.stage, STAGE}};
	struct msghdr m = {.msg_iov = iov + 1, .msg_iovlen = 1};
	size_t direct = 0, want = STAGE;
	ssize_t n;

	/* A large body goes straight to its place, with what follows behind it. */
	if (c->body && c->data && c->left > STAGE / 4) {
		direct = (size_t)c->left;
		iov[0] = (struct iovec){c->data, direct};
		m.msg_iov = iov;
		m.msg_iovlen = 2;
		want += direct;
	}
	n = recvmsg(c->fd, &m, MSG_DONTWAIT);
	*more = n > 0 && (size_t)n == want;
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n == 0)
		return -ECONNRESET;
	direct = BASE_MIN((size_t)n, direct);
	c->data = c->data ? c->data + direct : NULL;
	c->left -= direct;
	return conn_feed(c, net.stage, (size_t)n - direct);
}

/* What is there; messages, or -1: the connection is closed and gone. */
static int conn_read(struct conn *c)
{
	bool more = true;
	int total = 0;

	for (int i = 0; more && i < READ_TURNS; i++) {
		int n = conn_read_once(c, &more);

		if (n == -EPROTO)
			pvmlogprintf("t%x sent garbage: its connection is closed\n",
				     (unsigned)c->tid);
		if (n < 0) {
			conn_close(c);
			return total ? total : -1;
		}
		total += n;
	}
	return total;
}

static void bell_drain(void)
{
	char waste[64];

	while (recv(net.bell, waste, sizeof(waste), MSG_DONTWAIT) > 0)
		continue;
}

int mp_net_poll(void)
{
	int total = 0;

	if (!net.count) {
		net.seen_count = 0;
		return 0;
	}
	if (!net.seen_count)
		net.seen_count = BASE_MAX(epoll_wait(net.ep, net.seen, EVENTS, 0), 0);
	while (net.seen_count) {
		void *what = net.seen[--net.seen_count].data.ptr;
		int k = 0;

		if (what == &bell_mark)
			bell_drain();
		else if (what == &daemon_mark)
			net.daemon = true;
		else if (what)
			k = conn_read(what);
		total += BASE_MAX(k, 0);
	}
	return total;
}

bool mp_net_daemon(void)
{
	bool is = net.daemon || !net.count;

	net.daemon = false;
	return is;
}

bool mp_net_ready(void)
{
	if (!net.seen_count)
		net.seen_count = BASE_MAX(epoll_wait(net.ep, net.seen, EVENTS, 0), 0);
	return net.seen_count > 0;
}

void mp_net_block(int64_t ns, int out_fd)
{
	struct pollfd p[2] = {{.fd = net.ep, .events = POLLIN}, {.fd = out_fd, .events = POLLOUT}};
	struct timespec ts = base_clock_timespec(BASE_MAX(ns, 0));

	if (net.seen_count)
		return;
	if (out_fd < 0)
		net.seen_count = BASE_MAX(epoll_pwait2(net.ep, net.seen, EVENTS, &ts, NULL), 0);
	else
		ppoll(p, 2, &ts, NULL);
}

void mp_net_ring(int tid)
{
	struct sockaddr_un a;

	if (net.shout < 0)
		net.shout = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (net.shout < 0)
		return;
	bell_address(tid, &a);
	/* Full: it has been woken. Not there: it looks itself. */
	(void)!sendto(net.shout, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&a,
		      sizeof(a));
}

void mp_net_peer(int tid, int fd)
{
	struct conn *c;

	if (fd < 0)
		return;
	c = peer_get(tid) ? conn_new(tid, fd) : (close(fd), NULL);
	if (c)
		conn_reading(c);
	else
		pvmlogprintf("no room for a connection with t%x: its messages are lost\n",
			     (unsigned)tid);
}

void mp_net_peer_open(int tid)
{
	base_list_foreach (c, &net.conns, struct conn, link)
		if (c->tid == tid)
			conn_reading(c);
}

/* Until its end: the other daemon has shut it. */
static void conn_drain(struct conn *c)
{
	int64_t end = base_clock_ns() + GONE_WAIT_MS * BASE_NS_PER_MS;

	for (;;) {
		struct pollfd p = {.fd = c->fd, .events = POLLIN};
		int n;

		if (poll(&p, 1, (int)BASE_MAX((end - base_clock_ns()) / BASE_NS_PER_MS, 0)) <= 0)
			return;
		n = conn_read(c);
		if (n < 0)
			return;
		if (n > 0)
			end = base_clock_ns() + GONE_WAIT_MS * BASE_NS_PER_MS;
	}
}

void mp_net_peer_gone(int tid, bool drain)
{
	struct peer *p = peer_find(tid);

	if (!p)
		return;
	p->refused = true;
	base_list_foreach_safe (c, &net.conns, struct conn, link) {
		bool was = c->busy;

		if (c->tid != tid)
			continue;
		c->busy = true;
		if (c->reading && drain)
			conn_drain(c);
		else if (c->reading)
			conn_read(c);
		conn_close(c);
		c->busy = was;
		if (!was)
			free(c);
	}
}

/* Sending */

/* A connection to send on, or why not: 0 by the daemon, below 0 an error. */
static int connect_peer(struct peer *p)
{
	struct base_wbuf args;
	int tid = p->tid, fd = -1, rc;

	base_wbuf_init(&args, 16);
	base_wbuf_u32(&args, (uint32_t)tid);
	rc = mp_rt_call(MP_OP_CONNECT, &args, NULL, &fd);
	base_wbuf_fini(&args);
	/* Handlers may have sent meanwhile, and the daemon may be gone. */
	p = peer_find(tid);
	if (!p || p->tx || rc < 0) {
		if (p && rc == PvmNoData)
			p->by_daemon = 0; /* not there yet */
		else if (p && rc < 0)
			p->refused = true;
		if (fd >= 0)
			close(fd);
	} else if (rc == 1) {
		base_list_foreach (c, &net.conns, struct conn, link)
			if (c->tid == tid && c->reading && !p->tx)
				p->tx = c;
	} else if (fd >= 0) {
		p->tx = conn_new(tid, fd);
	}
	return p && p->tx;
}

/* The whole vector; meanwhile takes in what comes. False: the connection is gone. */
static bool conn_write(struct conn *c, struct iovec *iov, int n)
{
	while (n) {
		struct msghdr m = {.msg_iov = iov, .msg_iovlen = (size_t)n};
		ssize_t k = c->fd < 0 ? -1 : sendmsg(c->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (k < 0 && (c->fd < 0 || (errno != EAGAIN && errno != EINTR)))
			return false;
		for (size_t left = (size_t)BASE_MAX(k, 0); n && left >= iov->iov_len; iov++, n--)
			left -= iov->iov_len, k -= (ssize_t)iov->iov_len;
		if (n && k > 0) {
			iov->iov_base = (uint8_t *)iov->iov_base + k;
			iov->iov_len -= (size_t)k;
		}
		if (n && (mp_rt_take() || c->fd < 0))
			return false;
		if (n)
			mp_chan_sleep_out(c->fd);
	}
	return true;
}

static bool conn_send(struct conn *c, const struct mp_msg *m, const struct mp_msghdr *h)
{
	struct mp_net_head head = {.magic = MP_NET_MAGIC,
				   .tag = h->tag,
				   .ctx = h->ctx,
				   .enc = h->enc,
				   .wid = h->wid,
				   .crc = h->crc,
				   .total = h->total};
	struct iovec iov[1 + SEND_IOV] = {{&head, sizeof(head)}};
	size_t off = 0;
	int first = 1;

	do {
		int n = mp_msg_iov(m, off, SIZE_MAX / 2, iov + first, SEND_IOV);

		for (int i = first; i < first + n; i++)
			off += iov[i].iov_len;
		if (!conn_write(c, iov, first + n))
			return false;
		first = 0;
	} while (off < m->len);
	return true;
}

int mp_net_send(int dst, const struct mp_msg *m, const struct mp_msghdr *h)
{
	struct peer *p;
	struct conn *c;
	bool ok;
	int rc;

	if (mp_tid_host(dst) == mp_tid_host(pvmmytid) || !mp_tid_is_task(dst))
		return 0;
	p = peer_get(dst);
	if (!p)
		return 0;
	if (!p->tx) {
		if (p->refused || pvmrouteopt == PvmDontRoute ||
		    (p->by_daemon++ == 0 && h->total < FIRST_MIN))
			return 0;
		rc = connect_peer(p);
		p = peer_find(dst);
		if (rc <= 0 || !p || !p->tx)
			return rc;
	}
	c = p->tx;
	if (c->busy)
		return 0;
	c->busy = true;
	ok = conn_send(c, m, h);
	c->busy = false;
	if (c->fd < 0) {
		/* The receiver is dead, which is no error, or the daemon is. */
		free(c);
		return mp_rt.fd < 0 ? PvmSysErr : 1;
	}
	if (!ok) {
		pvmlogprintf("the connection to t%x broke: by the daemons from now on\n",
			     (unsigned)dst);
		conn_close(c);
	}
	return ok;
}
