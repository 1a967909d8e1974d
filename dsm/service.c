/*
 * The service thread of a slice. One round: the transport's frames into the engine, the faults into
 * the engine, posts and timers, then what the engine has batched, then the transport's output. A
 * page that arrives is installed, and its waiter woken, in the round that received it. The thread
 * polls while there is work and for a while after, then sleeps in poll(2).
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/sched.h"
#include "dsm/dsm_impl.h"

#define FAULTS_AT_ONCE	 64
#define SLEEP_MAX_NS	 (100 * BASE_NS_PER_MS)
#define CROWDED_NS	 (100 * BASE_NS_PER_US)
#define CROWDED_FIRST_NS (2 * BASE_NS_PER_MS)
#define CROWDED_LAST_NS	 (200 * BASE_NS_PER_MS)
#define CROWDED_SPIN_NS	 (20 * BASE_NS_PER_US)
#define CALM_YIELDS	 100
#define YIELD_EVERY	 8
#define SPIN_GROWTH	 4
#define FAULTS_EVERY	 4
#define SERVING_NS	 (200 * BASE_NS_PER_US)
#define PACE_NS		 (2 * BASE_NS_PER_MS) /* of an eviction with a rate */

/* ---- what the engine asks for ---- */

static bool all_zero(const uint8_t *page)
{
	const uint64_t *w = (const uint64_t *)(const void *)page;

	/* Most pages differ at once. */
	for (unsigned i = 0; i < DSM_PAGE_SIZE / 8; i += 8)
		if (w[i] | w[i + 1] | w[i + 2] | w[i + 3] | w[i + 4] | w[i + 5] | w[i + 6] |
		    w[i + 7])
			return false;
	return true;
}

static int op_send(void *ctx, uint8_t to, const struct dsm_msg *msg, bool with_page)
{
	struct dsm *d = ctx;
	struct dsm_msg m = *msg;
	const uint8_t *page = NULL;
	uint8_t body[DSM_MSG_LEN];

	if (with_page) {
		page = dsm_uffd_alias(d->uffd) + msg->gfn.v * DSM_PAGE_SIZE;
		if (all_zero(page)) {
			page = NULL;
			m.kind = DSM_DATA_ZERO;
			dsm_engine_stats(d->engine)->peer[to].zero_out++;
		}
	}
	dsm_msg_put(body, &m);
	return xp_send(d->xp, to,
		       &(struct xp_out){.type = m.type,
					.body = body,
					.body_len = sizeof(body),
					.page = page,
					.page_offset = msg->gfn.v * DSM_PAGE_SIZE});
}

static int op_map(void *ctx, uint64_t gfn, uint64_t count, uint8_t access, uint8_t had)
{
	return dsm_uffd_map(((struct dsm *)ctx)->uffd, gfn, count, access, had);
}

static int op_protect(void *ctx, uint64_t gfn, uint64_t count)
{
	return dsm_uffd_protect(((struct dsm *)ctx)->uffd, gfn, count);
}

static int op_unmap(void *ctx, uint64_t gfn, uint64_t count)
{
	struct dsm *d = ctx;
	int err;

	dsm_track_lost(d, gfn, count);
	err = dsm_uffd_unmap(d->uffd, gfn, count);
	if (!err && d->callbacks && d->callbacks->lost)
		d->callbacks->lost(d->ctx, gfn, count,
				   dsm_uffd_alias(d->uffd) + gfn * DSM_PAGE_SIZE);
	return err;
}

static int op_store(void *ctx, uint64_t gfn, const void *bytes)
{
	return dsm_uffd_store(((struct dsm *)ctx)->uffd, gfn, bytes);
}

static int op_zero(void *ctx, uint64_t gfn)
{
	return dsm_uffd_zero(((struct dsm *)ctx)->uffd, gfn);
}

const struct dsm_engine_ops dsm_service_ops = {
	.send = op_send,
	.map = op_map,
	.protect = op_protect,
	.unmap = op_unmap,
	.store = op_store,
	.zero = op_zero,
};

/* ---- failure ---- */

static void tell_peers(struct dsm *d, int err, uint8_t node)
{
	uint8_t body[5] = {(uint8_t)-err, 0, 0, 0, node};

	for (uint8_t n = 0; n < DSM_NODE_MAX; n++)
		if (d->peers & 1u << n && xp_send(d->xp, n,
						  &(struct xp_out){.type = DSM_FRAME_FAIL,
								   .body = body,
								   .body_len = sizeof(body)}))
			log_debug("node %u cannot be told", n);
	xp_flush(d->xp);
}

void dsm_fail(struct dsm *d, int err, uint8_t node, const char *why)
{
	if (d->failing)
		return;
	d->failing = true;
	base_log_write(err == -ECONNRESET ? BASE_LOG_INFO : BASE_LOG_ERROR, "dsm: %s (node %d): %s",
		       why, node == DSM_NODE_NONE ? d->self : node, strerror(-err));
	tell_peers(d, err, node == DSM_NODE_NONE ? d->self : node);
	pthread_mutex_lock(&d->lock);
	d->error = err ? err : -ECONNRESET;
	pthread_cond_broadcast(&d->changed);
	pthread_mutex_unlock(&d->lock);
	if (d->callbacks && d->callbacks->failed)
		d->callbacks->failed(d->ctx, err, node, why);
}

/* ---- the transport's callbacks ---- */

static int on_fail_frame(struct dsm *d, uint8_t peer, const struct xp_frame *f)
{
	const uint8_t *b = f->body;

	if (f->body_len != 5 || !b[0] || b[4] >= DSM_NODE_MAX)
		return -EPROTO;
	if (d->leaving & 1u << peer)
		return -ECONNRESET; /* nobody needs it */
	dsm_fail(d, -b[0], b[4], "a peer gave up");
	return 0;
}

static int on_frame(void *ctx, uint8_t peer, const struct xp_frame *f)
{
	struct dsm *d = ctx;
	struct dsm_msg m;

	if (d->failing)
		return 0;
	if (f->type == DSM_FRAME_FAIL)
		return on_fail_frame(d, peer, f);
	if (f->type == DSM_FRAME_USER) {
		if (!d->callbacks || !d->callbacks->message)
			return -EPROTO;
		d->callbacks->message(d->ctx, peer, f->body, f->body_len);
		return 0;
	}
	if (f->type == DSM_FRAME_DIR || f->type == DSM_FRAME_DIR_END)
		return dsm_rehome_frame(d, peer, f);
	int err = dsm_msg_get(f->type, f->body, f->body_len, &m);

	if (err)
		return err;
	/* A page goes with the one message that has room for it. */
	bool wants_page = m.type == DSM_MSG_DATA && m.kind == DSM_DATA_PAGE;

	if (wants_page != (f->page || f->placed))
		return -EPROTO;
	const void *page = f->page;

	if (f->placed)
		page = dsm_uffd_alias(d->uffd) + m.gfn.v * DSM_PAGE_SIZE;
	err = dsm_engine_msg(d->engine, peer, &m, page, d->now_ns);
	if (err && err != -EPROTO) {
		d->step_error = err; /* ours, not the peer's */
		return 0;
	}
	return err;
}

static void on_up(void *ctx, uint8_t peer)
{
	struct dsm *d = ctx;

	if (d->admitted & 1u << peer) {
		dsm_admitted_up(d, peer);
		return;
	}
	d->up |= (uint16_t)(1u << peer);
	if (d->up != d->peers)
		return;
	pthread_mutex_lock(&d->lock);
	d->all_up = true;
	pthread_cond_broadcast(&d->changed);
	pthread_mutex_unlock(&d->lock);
}

static void on_down(void *ctx, uint8_t peer, int err)
{
	struct dsm *d = ctx;
	const char *why = err == 0	      ? "a peer left"
			  : err == -ETIMEDOUT ? "a peer is unreachable"
			  : err == -EPROTO    ? "a peer broke the protocol"
			  : err == -EACCES    ? "a peer is not authentic"
					      : "the link to a peer failed";

	if (d->admitted & 1u << peer) {
		log_info("dsm: node %u does not join: %s", peer, why);
		dsm_admitted_down(d, peer, err);
		return;
	}
	if (d->leaving & 1u << peer) {
		log_debug("dsm: node %u has left", peer);
		dsm_peer_gone(d, peer);
		return;
	}
	if (!atomic_load(&d->stopping))
		dsm_fail(d, err ? err : -ECONNRESET, peer, why);
}

const struct xp_handler dsm_service_handler = {.frame = on_frame, .up = on_up, .down = on_down};

/* ---- the thread ---- */

static int flush(struct dsm *d)
{
	int err = dsm_engine_flush(d->engine);

	xp_flush(d->xp);
	return err;
}

static int take_faults(struct dsm *d, unsigned *work)
{
	struct dsm_uffd_fault f[FAULTS_AT_ONCE];
	int n = dsm_uffd_read(d->uffd, f, FAULTS_AT_ONCE), err = 0;

	if (n <= 0)
		return n;
	*work += (unsigned)n;
	d->fault_ns = d->now_ns = base_clock_ns();
	for (int i = 0; i < n && !err; i++)
		err = dsm_engine_fault(d->engine, f[i].gfn, f[i].write, d->now_ns);
	return err ? err : flush(d);
}

static void check_quiet(struct dsm *d)
{
	if (!atomic_load_explicit(&d->want_quiet, memory_order_relaxed) ||
	    dsm_engine_open_requests(d->engine))
		return;
	pthread_mutex_lock(&d->lock);
	d->quiet = true;
	pthread_cond_broadcast(&d->changed);
	pthread_mutex_unlock(&d->lock);
}

static int take_frames(struct dsm *d, unsigned *work)
{
	unsigned n = xp_poll(d->xp, d->now_ns);

	*work += n;
	d->serving = n || (d->serving && d->now_ns - d->fault_ns > SERVING_NS);
	if (d->failing)
		return 0;
	if (d->step_error)
		return d->step_error;
	return n ? flush(d) : 0;
}

static int take_posts_and_time(struct dsm *d, unsigned *work)
{
	bool posted = atomic_load_explicit(&d->posted, memory_order_relaxed);
	bool due = dsm_engine_next_ns(d->engine) <= d->now_ns;
	int err = posted ? dsm_posts_handle(d, d->now_ns) : 0;

	if (!err && due)
		err = dsm_engine_time(d->engine, d->now_ns);
	*work += posted + due;
	return err || !(posted || due) ? err : flush(d);
}

/* 0 or an error that ends the guest; *work counts what was done. */
static int round_once(struct dsm *d, unsigned *work)
{
	d->step_error = 0;
	int err = take_frames(d, work);

	if (err || d->failing)
		return err;
	/* While an answer is awaited the next news is most likely on the network. */
	if (d->up == d->peers && !d->released &&
	    (d->rounds++ % FAULTS_EVERY == 0 || !d->awaiting || *work))
		err = take_faults(d, work);
	if (!err)
		err = take_posts_and_time(d, work);
	if (!err && d->rehome_waits)
		err = dsm_rehome_begin(d);
	if (!err && d->is_last)
		err = dsm_release(d);
	if (!err && d->evict.nodes)
		err = dsm_evict_some(d, work);
	d->awaiting = dsm_engine_open_requests(d->engine) || d->serving;
	check_quiet(d);
	return err;
}

static void sleep_until_work(struct dsm *d)
{
	struct pollfd p[] = {{.fd = xp_fd(d->xp), .events = POLLIN},
			     {.fd = d->wake_fd, .events = POLLIN},
			     {.fd = dsm_uffd_fd(d->uffd), .events = POLLIN}};
	int64_t until = BASE_MIN(xp_next_ns(d->xp), dsm_engine_next_ns(d->engine));
	int64_t wait = BASE_MIN(until - d->now_ns, d->evict.nodes ? PACE_NS : SLEEP_MAX_NS);
	struct timespec ts = base_clock_timespec(BASE_MAX(wait, 0));
	uint64_t v;

	atomic_store(&d->asleep, true);
	/* Until all are up, and after a failure, faults wait. */
	if (!atomic_load(&d->posted) && !atomic_load(&d->stopping))
		(void)ppoll(p, d->failing || d->up != d->peers ? 2 : 3, &ts, NULL);
	atomic_store(&d->asleep, false);
	if (p[1].revents)
		(void)!read(d->wake_fd, &v, sizeof(v));
}

/*
 * Polling must not keep the thread that was just woken from the processor, so it yields. To a thread
 * that computes that may be a whole tick, and a thread that has yielded is not woken by news; one that
 * sleeps is, and preempts. So where yielding took long it is not done for a while, the longer the
 * more often that was so.
 */
static bool yield_is_cheap(struct dsm *d)
{
	int64_t start = base_clock_ns();

	sched_yield();
	int64_t end = base_clock_ns();

	if (end - start <= CROWDED_NS) {
		if (++d->cheap_yields >= CALM_YIELDS)
			d->crowded_for_ns = CROWDED_FIRST_NS;
		return true;
	}
	d->cheap_yields = 0;
	d->crowded_until_ns = end + d->crowded_for_ns;
	d->crowded_for_ns = BASE_MIN(d->crowded_for_ns * 2, CROWDED_LAST_NS);
	return false;
}

/* After the idle-th round in a row without work: is another one better than sleeping? */
static bool poll_on(struct dsm *d, unsigned idle)
{
	if (idle == 1)
		d->idle_ns = d->now_ns;
	int64_t idle_ns = d->now_ns - d->idle_ns;

	if (d->failing || idle_ns > d->spin_now_ns)
		return false;
	if (d->now_ns < d->crowded_until_ns)
		return idle_ns < CROWDED_SPIN_NS && dsm_engine_open_requests(d->engine);
	return (idle - 1) % YIELD_EVERY || yield_is_cheap(d);
}

/* A sleep that was over soon should have been polling. */
static void sleep_and_learn(struct dsm *d)
{
	int64_t start = base_clock_ns();

	sleep_until_work(d);
	if (base_clock_ns() - start < SPIN_GROWTH * d->spin_ns)
		d->spin_now_ns = BASE_MIN(d->spin_now_ns * 2, SPIN_GROWTH * d->spin_ns);
	else
		d->spin_now_ns = d->spin_ns;
}

void *dsm_service_main(void *arg)
{
	struct dsm *d = arg;
	unsigned idle = 0;

	prctl(PR_SET_NAME, "dsm", 0, 0, 0);
	prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
	/* Whoever waits for a page waits for this thread. */
	base_sched_wake_soon();
	d->spin_now_ns = d->spin_ns;
	d->crowded_for_ns = CROWDED_FIRST_NS;
	while (!atomic_load_explicit(&d->stopping, memory_order_relaxed)) {
		unsigned work = 0;

		d->now_ns = base_clock_ns();
		int err = round_once(d, &work);

		if (err)
			dsm_fail(d, err, DSM_NODE_NONE, "the fault service cannot go on");
		idle = work ? 0 : idle + 1;
		if (idle && !poll_on(d, idle))
			sleep_and_learn(d);
	}
	/* What was said before the end goes before the goodbye. */
	if (!d->failing && !dsm_posts_handle(d, base_clock_ns()) && flush(d))
		log_debug("the last words are not sent");
	xp_stop(d->xp);
	return NULL;
}
