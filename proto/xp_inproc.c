/*
 * Transport between threads of one process: per ordered pair one byte queue under a spinning lock.
 * The receiver takes the whole queue in one exchange and parses it outside the lock.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "proto/xp.h"

#define QUEUE_MAX (64u << 20)

struct queue {
	pthread_spinlock_t lock;
	uint8_t *data;
	size_t len, cap;
	bool closed;
	_Atomic(bool) ready; /* len or closed: read without the lock */
};

struct network {
	pthread_mutex_t lock;
	bool present[XP_NODE_MAX];
	int wake_fd[XP_NODE_MAX];
	struct queue q[XP_NODE_MAX][XP_NODE_MAX]; /* [from][to] */
};

struct inproc {
	struct xp xp;
	struct network *net;
	const struct xp_handler *handler;
	void *ctx;
	uint8_t self;
	uint16_t peers, up, down;
	bool stopped;
	uint16_t to_wake;
	uint8_t *spare[XP_NODE_MAX];
	size_t spare_cap[XP_NODE_MAX];
	struct xp_counters counters[XP_NODE_MAX];
};

int xp_inproc_network_new(void **out)
{
	struct network *net = calloc(1, sizeof(*net));

	if (!net)
		return -ENOMEM;
	pthread_mutex_init(&net->lock, NULL);
	for (int i = 0; i < XP_NODE_MAX; i++) {
		net->wake_fd[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		for (int j = 0; j < XP_NODE_MAX; j++)
			pthread_spin_init(&net->q[i][j].lock, PTHREAD_PROCESS_PRIVATE);
	}
	*out = net;
	return 0;
}

void xp_inproc_network_free(void *network)
{
	struct network *net = network;

	if (!net)
		return;
	for (int i = 0; i < XP_NODE_MAX; i++) {
		close(net->wake_fd[i]);
		for (int j = 0; j < XP_NODE_MAX; j++) {
			pthread_spin_destroy(&net->q[i][j].lock);
			free(net->q[i][j].data);
		}
	}
	pthread_mutex_destroy(&net->lock);
	free(net);
}

static struct inproc *of(const struct xp *xp)
{
	return (struct inproc *)xp;
}

static void wake(struct inproc *x, unsigned node)
{
	uint64_t one = 1;

	if (write(x->net->wake_fd[node], &one, sizeof(one)) < 0 && errno != EAGAIN)
		log_error("inproc: eventfd: %s", strerror(errno));
}

/* What a node of this number has left behind. */
static void queue_clear(struct queue *q)
{
	pthread_spin_lock(&q->lock);
	q->len = 0;
	q->closed = false;
	atomic_store_explicit(&q->ready, false, memory_order_release);
	pthread_spin_unlock(&q->lock);
}

static int inproc_open(const struct xp_config *c, struct xp **out)
{
	struct network *net = c->network;

	if (!net)
		return -EINVAL;
	struct inproc *x = calloc(1, sizeof(*x));

	if (!x)
		return -ENOMEM;
	*x = (struct inproc){.xp = {&xp_inproc},
			     .net = net,
			     .handler = c->handler,
			     .ctx = c->ctx,
			     .self = c->self,
			     .peers = c->peers};
	for (unsigned n = 0; n < XP_NODE_MAX; n++) {
		queue_clear(&net->q[c->self][n]);
		queue_clear(&net->q[n][c->self]);
	}
	pthread_mutex_lock(&net->lock);
	net->present[c->self] = true;
	pthread_mutex_unlock(&net->lock);
	for (unsigned n = 0; n < XP_NODE_MAX; n++)
		if (c->peers & 1u << n)
			wake(x, n);
	wake(x, x->self);
	*out = &x->xp;
	return 0;
}

static int queue_room(struct queue *q, size_t need)
{
	size_t cap = q->cap ? q->cap : 64u << 10;

	if (q->len + need > QUEUE_MAX)
		return -ENOBUFS;
	while (cap < q->len + need)
		cap *= 2;
	if (cap == q->cap)
		return 0;
	uint8_t *p = realloc(q->data, cap);

	if (!p)
		return -ENOMEM;
	q->data = p;
	q->cap = cap;
	return 0;
}

static int inproc_send(struct xp *xp, uint8_t peer, const struct xp_out *o)
{
	struct inproc *x = of(xp);
	struct queue *q = &x->net->q[x->self][peer];
	unsigned page = o->page ? WIRE_PAGE_LEN : 0;
	struct wire_header h = {.version = 1,
				.type = o->type,
				.flags = page ? WIRE_F_PAGE : 0,
				.length = (uint16_t)(o->body_len + page)};

	if (x->stopped || x->down & 1u << peer || !(x->peers & 1u << peer))
		return -ENOTCONN;
	pthread_spin_lock(&q->lock);
	int err = queue_room(q, WIRE_HEADER_LEN + h.length);

	if (!err) {
		uint8_t *p = q->data + q->len;

		wire_header_put(p, &h);
		memcpy(p + WIRE_HEADER_LEN, o->body, o->body_len);
		if (page)
			memcpy(p + WIRE_HEADER_LEN + o->body_len, o->page, page);
		q->len += WIRE_HEADER_LEN + h.length;
		atomic_store_explicit(&q->ready, true, memory_order_release);
	}
	pthread_spin_unlock(&q->lock);
	if (err)
		return err;
	x->to_wake |= (uint16_t)(1u << peer);
	x->counters[peer].frames_out++;
	x->counters[peer].bytes_out += WIRE_HEADER_LEN + h.length;
	return 0;
}

static void inproc_flush(struct xp *xp)
{
	struct inproc *x = of(xp);

	while (x->to_wake) {
		unsigned n = (unsigned)__builtin_ctz(x->to_wake);

		x->to_wake &= (uint16_t) ~(1u << n);
		wake(x, n);
	}
}

static void link_down(struct inproc *x, uint8_t peer, int err)
{
	if (x->down & 1u << peer)
		return;
	x->down |= (uint16_t)(1u << peer);
	x->handler->down(x->ctx, peer, err);
}

static unsigned deliver(struct inproc *x, uint8_t peer, const uint8_t *data, size_t len)
{
	unsigned count = 0;

	for (size_t at = 0; at < len && !(x->down & 1u << peer) && !x->stopped; count++) {
		struct wire_header h;
		int err = wire_header_get(data + at, &h);

		if (err) {
			link_down(x, peer, err);
			break;
		}
		const uint8_t *body = data + at + WIRE_HEADER_LEN;
		bool page = h.flags & WIRE_F_PAGE;
		struct xp_frame f = {.type = h.type,
				     .body = body,
				     .body_len = (uint16_t)(h.length - (page ? WIRE_PAGE_LEN : 0))};

		f.page = page ? body + f.body_len : NULL;
		x->counters[peer].frames_in++;
		x->counters[peer].bytes_in += WIRE_HEADER_LEN + h.length;
		at += WIRE_HEADER_LEN + h.length;
		err = x->handler->frame(x->ctx, peer, &f);
		if (err < 0)
			link_down(x, peer, err);
	}
	return count;
}

static unsigned receive(struct inproc *x, uint8_t peer)
{
	struct queue *q = &x->net->q[peer][x->self];

	if (!atomic_load_explicit(&q->ready, memory_order_acquire))
		return 0;
	pthread_spin_lock(&q->lock);
	uint8_t *data = q->data;
	size_t len = q->len, cap = q->cap;
	bool closed = q->closed;

	q->data = x->spare[peer];
	q->cap = x->spare_cap[peer];
	q->len = 0;
	atomic_store_explicit(&q->ready, closed, memory_order_relaxed);
	pthread_spin_unlock(&q->lock);
	x->spare[peer] = data;
	x->spare_cap[peer] = cap;
	unsigned count = deliver(x, peer, data, len);

	if (closed)
		link_down(x, peer, 0);
	return count;
}

static void look_for_peers(struct inproc *x)
{
	uint16_t found = 0;

	pthread_mutex_lock(&x->net->lock);
	for (unsigned n = 0; n < XP_NODE_MAX; n++)
		if (x->net->present[n])
			found |= (uint16_t)(1u << n);
	pthread_mutex_unlock(&x->net->lock);
	found &= x->peers & (uint16_t)~x->up;
	x->up |= found;
	for (uint8_t n = 0; n < XP_NODE_MAX; n++)
		if (found & 1u << n)
			x->handler->up(x->ctx, n);
}

static unsigned inproc_poll(struct xp *xp, int64_t now_ns)
{
	struct inproc *x = of(xp);
	unsigned count = 0;

	if (x->stopped)
		return 0;
	if (x->up != x->peers)
		look_for_peers(x);
	for (uint8_t n = 0; n < XP_NODE_MAX; n++)
		if (x->up & 1u << n && !(x->down & 1u << n))
			count += receive(x, n);
	if (count == 0) { /* a wake-up may be left from frames taken before */
		uint64_t v;

		if (read(x->net->wake_fd[x->self], &v, sizeof(v)) > 0)
			for (uint8_t n = 0; n < XP_NODE_MAX; n++)
				if (x->up & 1u << n && !(x->down & 1u << n))
					count += receive(x, n);
	}
	return count;
}

static int inproc_fd(const struct xp *xp)
{
	return of(xp)->net->wake_fd[of(xp)->self];
}

static int64_t inproc_next_ns(const struct xp *xp)
{
	return INT64_MAX;
}

static void inproc_counters(const struct xp *xp, uint8_t peer, struct xp_counters *out)
{
	*out = of(xp)->counters[peer];
}

static void inproc_break(struct xp *xp, uint8_t peer)
{
	/* Nothing between two threads can break. */
}

static int inproc_admit(struct xp *xp, uint8_t node, const char *address, uint64_t group)
{
	struct inproc *x = of(xp);
	uint16_t bit = (uint16_t)(1u << node);

	if (x->stopped || node == x->self)
		return -EINVAL;
	if (x->peers & bit && !(x->down & bit))
		return -EBUSY;
	x->peers |= bit;
	x->up &= (uint16_t)~bit;
	x->down &= (uint16_t)~bit;
	return 0;
}

static void inproc_drop(struct xp *xp, uint8_t peer)
{
	of(xp)->down |= (uint16_t)(1u << peer);
}

static void inproc_stop(struct xp *xp)
{
	struct inproc *x = of(xp);

	if (x->stopped)
		return;
	x->stopped = true;
	pthread_mutex_lock(&x->net->lock);
	x->net->present[x->self] = false;
	pthread_mutex_unlock(&x->net->lock);
	for (unsigned n = 0; n < XP_NODE_MAX; n++) {
		struct queue *q = &x->net->q[x->self][n];

		if (!(x->peers & 1u << n))
			continue;
		pthread_spin_lock(&q->lock);
		q->closed = true;
		atomic_store_explicit(&q->ready, true, memory_order_release);
		pthread_spin_unlock(&q->lock);
		wake(x, n);
	}
}

static void inproc_fini(struct xp *xp)
{
	struct inproc *x = of(xp);

	inproc_stop(xp);
	for (unsigned n = 0; n < XP_NODE_MAX; n++)
		free(x->spare[n]);
	free(x);
}

const struct xp_ops xp_inproc = {
	.name = "inproc",
	.caps = 0,
	.open = inproc_open,
	.send = inproc_send,
	.flush = inproc_flush,
	.poll = inproc_poll,
	.fd = inproc_fd,
	.next_ns = inproc_next_ns,
	.counters = inproc_counters,
	.break_link = inproc_break,
	.admit = inproc_admit,
	.drop = inproc_drop,
	.stop = inproc_stop,
	.fini = inproc_fini,
};
