#include "migrate/source.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"

enum {
	ALIVE_INTERVAL_MS = 200,
	THROTTLE_STEP = 20,
	ANNOUNCES_MAX = 16,
	ANNOUNCE_REST_PAGES = 64,    /* so few are forgotten while the guest stands still */
	RATE_SAMPLE_BYTES = 1 << 20, /* a smaller round says nothing of the rate */
	CHEAP_PART = 10,	     /* of the downtime target */
};

void mig_params_default(struct mig_params *p)
{
	*p = (struct mig_params){
		.channels = 4,
		.max_downtime_ms = 50,
		.stall_ms = 30000,
		.max_rounds = 30,
		.auto_converge = true,
		.postcopy_rounds = 3,
	};
}

void mig_source_fail(struct mig_source *s, const char *fmt, ...)
{
	va_list ap;

	pthread_mutex_lock(&s->lock);
	if (!s->progress.error[0]) {
		va_start(ap, fmt);
		vsnprintf(s->progress.error, sizeof(s->progress.error), fmt, ap);
		va_end(ap);
	}
	pthread_mutex_unlock(&s->lock);
}

/* Text of a peer: printable and bounded before anyone sees it. */
static void source_fail_peer(struct mig_source *s, const struct mig_head *h)
{
	char text[MIG_TEXT_MAX];
	size_t len = BASE_MIN((size_t)h->meta_len, sizeof(text) - 1);

	for (size_t i = 0; i < len; i++)
		text[i] = s->control.meta[i] >= ' ' && s->control.meta[i] < 127
				  ? (char)s->control.meta[i]
				  : '?';
	text[len] = 0;
	mig_source_fail(s, "the destination refused: %s", text);
}

int mig_source_recv(struct mig_source *s, struct mig_head *h)
{
	int rc = mig_chan_recv(&s->control, h);

	if (!rc && h->type == MIG_FRAME_ABORT) {
		source_fail_peer(s, h);
		return -ECONNABORTED;
	}
	if (!rc && h->data_len)
		return -EBADMSG;
	return rc;
}

/* An ABORT that came while pages were sent. */
static int source_look_at_control(struct mig_source *s)
{
	struct pollfd p = {.fd = s->control.fd, .events = POLLIN};
	struct mig_head h;
	int rc;

	if (poll(&p, 1, 0) <= 0)
		return 0;
	rc = mig_source_recv(s, &h);
	return rc ? rc : -EBADMSG;
}

static int source_wait_round(struct mig_source *s)
{
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	while (s->busy && !rc) {
		struct timespec t =
			base_clock_timespec(base_clock_ns() + ALIVE_INTERVAL_MS * BASE_NS_PER_MS);

		if (pthread_cond_timedwait(&s->cond, &s->lock, &t) != ETIMEDOUT)
			continue;
		pthread_mutex_unlock(&s->lock);
		rc = source_look_at_control(s);
		if (!rc)
			rc = mig_chan_send(&s->control, MIG_FRAME_ALIVE, NULL, 0, NULL, 0);
		pthread_mutex_lock(&s->lock);
	}
	if (!rc)
		rc = s->error;
	if (!rc && s->cancelled)
		rc = -ECANCELED;
	pthread_mutex_unlock(&s->lock);
	return rc;
}

uint64_t mig_source_bytes(struct mig_source *s)
{
	uint64_t n = atomic_load_explicit(&s->control.bytes, memory_order_relaxed);

	for (unsigned i = 0; i < s->p.channels; i++)
		n += atomic_load_explicit(&s->workers[i].chan.bytes, memory_order_relaxed);
	return n;
}

static uint64_t bitmap_count(const uint64_t *bitmap, size_t words)
{
	uint64_t n = 0;

	for (size_t i = 0; i < words; i++)
		n += __builtin_popcountll(bitmap[i]);
	return n;
}

/* Until there is something to read. */
static int source_await(struct mig_source *s)
{
	int64_t deadline = base_clock_ns() + s->p.stall_ms * BASE_NS_PER_MS;
	struct pollfd p = {.fd = s->control.fd, .events = POLLIN};
	bool cancelled = false;

	while (!cancelled && poll(&p, 1, ALIVE_INTERVAL_MS) <= 0) {
		if (base_clock_ns() > deadline)
			return -ETIMEDOUT;
		pthread_mutex_lock(&s->lock);
		cancelled = s->cancelled;
		pthread_mutex_unlock(&s->lock);
	}
	return cancelled ? -ECANCELED : 0;
}

/*
 * What the sockets took is still under way, and megabytes of it on a slow link: until the destination has
 * it in place it is neither sent nor says how fast the link is, and the last pages would wait behind it
 * while the guest stands still. For those PREPARE waits.
 */
static int source_sync(struct mig_source *s)
{
	uint64_t flushes = htole64(s->work_number);
	struct mig_head h;
	int rc;

	if (!(s->can & MIG_CAN_SYNC) || s->fsm.state != MIG_SRC_PRECOPY)
		return 0;
	rc = mig_chan_send(&s->control, MIG_FRAME_SYNC, &flushes, sizeof(flushes), NULL, 0);
	do {
		if (!rc)
			rc = source_await(s);
		if (!rc)
			rc = mig_source_recv(s, &h);
	} while (!rc && h.type == MIG_FRAME_ALIVE);
	return !rc && h.type != MIG_FRAME_SYNCED ? -EBADMSG : rc;
}

int mig_source_send_pages(struct mig_source *s, const uint64_t *bitmap, bool force)
{
	uint64_t bytes = mig_source_bytes(s);
	int64_t start = base_clock_ns(), took;
	int rc;

	pthread_mutex_lock(&s->lock);
	s->work = bitmap;
	s->force = force;
	s->work_number++;
	s->busy = s->p.channels;
	s->progress.pages_left = bitmap_count(bitmap, s->words);
	s->budget_start_ns = start;
	s->budget_bytes = 0;
	pthread_cond_broadcast(&s->cond);
	pthread_mutex_unlock(&s->lock);
	rc = source_wait_round(s);
	if (!rc)
		rc = source_sync(s);
	bytes = mig_source_bytes(s) - bytes;
	took = base_clock_ns() - start;
	pthread_mutex_lock(&s->lock);
	if (bytes >= RATE_SAMPLE_BYTES || !s->progress.rate)
		s->progress.rate = (uint64_t)((double)bytes * 1e9 / (double)BASE_MAX(took, 1));
	s->progress.bytes_sent += bytes;
	pthread_mutex_unlock(&s->lock);
	return rc;
}

static void source_enter(struct mig_source *s)
{
	pthread_mutex_lock(&s->lock);
	s->progress.state = s->fsm.state;
	pthread_cond_broadcast(&s->cond);
	pthread_mutex_unlock(&s->lock);
}

/* Sends COMMIT only after the journal has it; carries out the rest in the order of the actions. */
static int source_act(struct mig_source *s, uint32_t act)
{
	const char *why = s->progress.error;
	int rc = 0;

	source_enter(s);
	if (act & MIG_ACT_JOURNAL_COMMITTING)
		rc = s->ops->journal(s->guest, "committing");
	if (!rc && (act & MIG_ACT_SEND_COMMIT))
		rc = mig_chan_send(&s->control, MIG_FRAME_COMMIT, NULL, 0, NULL, 0);
	if (act & MIG_ACT_SEND_ABORT)
		/* Best effort: the other side also notices the closed connection. */
		(void)!mig_chan_send(&s->control, MIG_FRAME_ABORT, why, (uint32_t)strlen(why), NULL,
				     0);
	if (act & MIG_ACT_RUN && s->ops->resume(s->guest))
		log_error("migration: the guest could not be resumed");
	return rc;
}

int mig_source_event(struct mig_source *s, enum mig_event ev)
{
	return source_act(s, mig_src_step(&s->fsm, ev));
}

/* ---- pre-copy ---- */

struct plan {
	uint64_t *now, *next; /* bitmaps */
	uint64_t left, previous;
};

static int64_t source_estimate_ns(const struct mig_source *s, uint64_t pages)
{
	return (int64_t)((double)pages * MIG_PAGE_SIZE * 1e9 /
			 (double)BASE_MAX(s->progress.rate, UINT64_C(1)));
}

/*
 * Whether to stop the guest now. Within the target while another round would still halve what is left, go
 * on: the downtime shrinks with it. Not for a small part of the target: a round takes its time, too.
 */
static bool source_should_switch(const struct mig_source *s, const struct plan *plan)
{
	int64_t limit = s->p.max_downtime_ms * BASE_NS_PER_MS;
	int64_t now = source_estimate_ns(s, plan->left);

	if (now > limit)
		return false;
	return now <= limit / CHEAP_PART || plan->left >= plan->previous / 2;
}

static void source_converge(struct mig_source *s, const struct plan *plan)
{
	unsigned t = s->progress.throttle;

	if (!s->p.auto_converge || !s->ops->throttle || s->progress.round < 2 ||
	    plan->left < plan->previous * 7 / 10 ||
	    source_estimate_ns(s, plan->left) <= s->p.max_downtime_ms * BASE_NS_PER_MS)
		return;
	t = BASE_MIN(t + THROTTLE_STEP, 99u);
	s->ops->throttle(s->guest, t);
	pthread_mutex_lock(&s->lock);
	s->progress.throttle = t;
	pthread_mutex_unlock(&s->lock);
}

static int source_fetch(struct mig_source *s, struct plan *plan, int64_t since_ns)
{
	int rc;

	memset(plan->next, 0, s->words * sizeof(uint64_t));
	rc = s->ops->dirty_fetch(s->guest, plan->next);
	if (rc)
		return rc;
	plan->previous = plan->left;
	plan->left = bitmap_count(plan->next, s->words);
	pthread_mutex_lock(&s->lock);
	s->progress.dirty_rate = (uint64_t)((double)plan->left * MIG_PAGE_SIZE * 1e9 /
					    (double)BASE_MAX(base_clock_ns() - since_ns, 1));
	pthread_mutex_unlock(&s->lock);
	return 0;
}

/*
 * The destination has to forget what it has of the pages that will come later. That is done for
 * nearly all while the guest still runs; what is left in plan->now is told at the switch.
 */
static int source_announce(struct mig_source *s, struct plan *plan)
{
	int rc = 0;

	s->missing = calloc(s->words, sizeof(*s->missing));
	if (!s->missing)
		return -ENOMEM;
	for (int i = 0; i < ANNOUNCES_MAX && !rc; i++) {
		rc = mig_serve_announce(s, plan->now);
		if (!rc)
			rc = mig_serve_sync(s);
		memset(plan->now, 0, s->words * sizeof(uint64_t));
		if (!rc)
			rc = s->ops->dirty_fetch(s->guest, plan->now);
		if (!rc && mig_serve_fresh(s, plan->now) <= ANNOUNCE_REST_PAGES)
			break;
		pthread_mutex_lock(&s->lock);
		if (!rc && s->cancelled)
			rc = -ECANCELED;
		pthread_mutex_unlock(&s->lock);
	}
	return rc;
}

static int source_precopy(struct mig_source *s, struct plan *plan)
{
	int rc = s->ops->dirty_start(s->guest);

	if (rc)
		return rc;
	s->logging = true;
	rc = s->ops->touched(s->guest, plan->now);
	plan->left = bitmap_count(plan->now, s->words);
	if (!rc && s->p.mode == MIG_MODE_POSTCOPY)
		return source_announce(s, plan);
	while (!rc) {
		uint64_t *sent = plan->now;
		int64_t start = base_clock_ns();

		pthread_mutex_lock(&s->lock);
		s->progress.round++;
		pthread_mutex_unlock(&s->lock);
		rc = mig_source_send_pages(s, plan->now, false);
		if (!rc)
			rc = source_fetch(s, plan, start);
		if (rc)
			return rc;
		plan->now = plan->next;
		plan->next = sent;
		if (source_should_switch(s, plan))
			return 0;
		if (s->p.mode == MIG_MODE_AUTO && s->progress.round >= s->p.postcopy_rounds)
			return source_announce(s, plan);
		if (s->progress.round >= s->p.max_rounds) {
			mig_source_fail(
				s,
				"no end after %u rounds: the guest writes %llu MB/s, the link "
				"carries %llu MB/s; allow more downtime",
				s->progress.round,
				(unsigned long long)s->progress.dirty_rate / 1000000,
				(unsigned long long)s->progress.rate / 1000000);
			return -EBUSY;
		}
		if (s->p.mode == MIG_MODE_PRECOPY)
			source_converge(s, plan);
	}
	return rc;
}

static int source_check_mode(struct mig_source *s)
{
	if (s->p.mode != MIG_MODE_PRECOPY && s->first_block < s->page_count) {
		mig_source_fail(s, "a disk that moves along is copied before the guest stops: "
				   "migrate with --mode precopy");
		return -EOPNOTSUPP;
	}
	if (s->p.mode == MIG_MODE_PRECOPY || s->can & MIG_CAN_POSTCOPY)
		return 0;
	if (s->p.mode == MIG_MODE_POSTCOPY) {
		mig_source_fail(s, "the destination cannot do post-copy: its process may not use "
				   "userfaultfd; see 'pangaea node doctor', or migrate with "
				   "--mode precopy");
		return -EOPNOTSUPP;
	}
	log_warn("migration: the destination cannot do post-copy; pre-copy alone");
	s->p.mode = MIG_MODE_PRECOPY;
	return 0;
}

static int source_connect(struct mig_source *s)
{
	struct iovec config = {(void *)s->config, s->config_len};
	struct mig_head h;
	uint64_t meta = htole64(s->page_count);
	int rc = mig_chan_open(&s->control, s->fds[0], &s->p, 0, true);

	if (rc == -EACCES)
		mig_source_fail(s, "the destination does not know the key of this migration");
	if (!rc)
		rc = mig_chan_send(&s->control, MIG_FRAME_CONFIG, &meta, sizeof(meta), &config, 1);
	if (!rc)
		rc = mig_source_recv(s, &h);
	if (!rc && h.type != MIG_FRAME_CONFIG_OK)
		rc = -EBADMSG;
	if (!rc && h.meta_len == sizeof(meta)) {
		memcpy(&meta, s->control.meta, sizeof(meta));
		s->can = le64toh(meta);
	}
	/* With a limit a frame waits until all of it may go: small ones flow more evenly. */
	if (s->can & MIG_CAN_CHUNK && !s->p.bandwidth)
		s->chunk_pages = MIG_CHUNK_PAGES;
	return rc ? rc : source_check_mode(s);
}

static enum mig_event source_event_of(int rc)
{
	switch (rc) {
	case -ECONNABORTED: return MIG_EV_RX_ABORT;
	case -ECONNRESET:
	case -EPIPE:
	case -ETIMEDOUT:
	case -EBADMSG: return MIG_EV_LINK_LOST;
	default: return MIG_EV_CANCEL;
	}
}

/* Past the commit, or failed: run() has nothing more to decide. */
static bool source_decided(const struct mig_source *s)
{
	enum mig_src_state st = s->fsm.state;

	return st == MIG_SRC_DOUBT || st == MIG_SRC_FAILED || st == MIG_SRC_SERVE ||
	       st == MIG_SRC_CUT;
}

static void source_tidy(struct mig_source *s, int rc)
{
	mig_source_stop_workers(s, rc != 0);
	/* What has moved is about to end: to have its memory as it was again would only take time. */
	if (s->logging && rc)
		s->ops->dirty_stop(s->guest);
	s->logging = false;
	if (s->progress.throttle)
		s->ops->throttle(s->guest, 0);
	pthread_mutex_lock(&s->lock);
	s->progress.total_ns = base_clock_ns() - s->progress.start_ns;
	pthread_mutex_unlock(&s->lock);
}

int mig_source_run(struct mig_source *s)
{
	struct plan plan = {calloc(s->words, 8), calloc(s->words, 8), 0, 0};
	int rc = plan.now && plan.next ? 0 : -ENOMEM;

	s->progress.start_ns = base_clock_ns();
	if (!rc)
		rc = source_connect(s);
	if (!rc)
		rc = mig_source_start_workers(s);
	if (!rc)
		rc = source_precopy(s, &plan);
	if (!rc)
		rc = mig_handover_run(s, plan.now);
	if (!rc && s->fsm.state == MIG_SRC_SERVE)
		rc = mig_serve_run(s);
	if (rc && !source_decided(s)) {
		/* Who gives up says why before it closes the connections. */
		if ((rc == -EPIPE || rc == -ECONNRESET) &&
		    source_look_at_control(s) == -ECONNABORTED)
			rc = -ECONNABORTED;
		mig_source_fail(s, "%s", rc == -ECANCELED ? "cancelled" : strerror(-rc));
		(void)!mig_source_event(s, source_event_of(rc));
	}
	source_tidy(s, rc);
	free(plan.now);
	free(plan.next);
	return rc;
}

/* What the destination lacks, by its own word. */
static int source_take_missing(struct mig_source *s)
{
	for (size_t i = 0; i < s->words; i++)
		atomic_store(&s->missing[i], 0);
	for (;;) {
		BASE_AUTO_FREE uint64_t *words = NULL;
		uint64_t meta[2], count;
		struct mig_head h;
		struct iovec iov;
		int rc = mig_chan_recv(&s->control, &h);

		if (rc || h.type == MIG_FRAME_MISSING_END)
			return rc;
		count = h.data_len / 8;
		if (h.type != MIG_FRAME_MISSING || h.meta_len != sizeof(meta) || h.data_len % 8 ||
		    h.data_len > MIG_META_MAX)
			return -EBADMSG;
		memcpy(meta, s->control.meta, sizeof(meta));
		meta[1] = le64toh(meta[1]);
		if (count > s->words || meta[1] > s->words - count)
			return -EBADMSG;
		words = malloc(h.data_len + 1);
		iov = (struct iovec){words, h.data_len};
		rc = words ? mig_chan_recv_data(&s->control, &iov, 1) : -ENOMEM;
		if (rc)
			return rc;
		for (uint64_t i = 0; i < count; i++)
			atomic_store(&s->missing[meta[1] + i], le64toh(words[i]));
		/* Bits beyond the last page are nobody's. */
		if (s->page_count % 64)
			atomic_fetch_and(&s->missing[s->words - 1],
					 (UINT64_C(1) << (s->page_count % 64)) - 1);
	}
}

int mig_source_relink(struct mig_source *s, const int *fds)
{
	int rc;

	if (s->fsm.state != MIG_SRC_CUT)
		return -EINVAL;
	mig_chan_close(&s->control);
	for (unsigned i = 0; i < s->p.channels; i++)
		mig_chan_close(&s->workers[i].chan);
	for (unsigned i = 0; i <= s->p.channels; i++) {
		close(s->fds[i]);
		s->fds[i] = fds[i];
	}
	s->error = 0;
	s->quit = false;
	s->progress.error[0] = 0;
	rc = mig_chan_open(&s->control, s->fds[0], &s->p, 0, true);
	if (!rc)
		rc = source_take_missing(s);
	if (!rc)
		rc = mig_source_start_workers(s);
	if (!rc)
		rc = mig_source_event(s, MIG_EV_LINK_BACK);
	if (!rc)
		rc = mig_serve_run(s);
	if (rc)
		mig_source_fail(s, "no new link: %s", strerror(-rc));
	source_tidy(s, rc);
	return s->fsm.state == MIG_SRC_DONE ? 0 : -ENOLINK;
}

int mig_source_verdict(struct mig_source *s, enum mig_event verdict)
{
	int rc = mig_source_event(s, verdict);

	if (rc)
		return rc;
	switch (s->fsm.state) {
	case MIG_SRC_DONE: return 0;
	case MIG_SRC_FAILED: return -ECANCELED;
	case MIG_SRC_CUT: return -ENOLINK;
	case MIG_SRC_LOST: return -ESTALE;
	default: return -EINPROGRESS;
	}
}

void mig_source_cancel(struct mig_source *s)
{
	pthread_mutex_lock(&s->lock);
	s->cancelled = !s->pushing;
	pthread_cond_broadcast(&s->cond);
	pthread_mutex_unlock(&s->lock);
}

void mig_source_cut(struct mig_source *s)
{
	mig_source_cancel(s);
	for (unsigned i = 0; i <= s->p.channels; i++)
		shutdown(s->fds[i], SHUT_RDWR);
}

void mig_source_progress(struct mig_source *s, struct mig_progress *out)
{
	pthread_mutex_lock(&s->lock);
	*out = s->progress;
	pthread_mutex_unlock(&s->lock);
}

int mig_source_new(const struct mig_params *params, const struct mig_memory *memory,
		   const struct mig_source_ops *ops, void *guest, const void *config,
		   size_t config_len, const int *fds, struct mig_source **out)
{
	uint64_t pages = mig_memory_pages(memory);
	struct mig_source *s;
	pthread_condattr_t attr;

	if (!params->channels || params->channels > MIG_CHANNELS_MAX || !pages ||
	    pages > MIG_PAGES_MAX || config_len > MIG_STATE_MAX)
		return -EINVAL;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->p = *params;
	s->memory = *memory;
	s->ops = ops;
	s->guest = guest;
	s->config = config;
	s->config_len = config_len;
	s->page_count = pages;
	s->chunk_pages = MIG_CHUNK_PAGES_OLD;
	s->words = (pages + 63) / 64;
	s->first_block = mig_first_block(memory);
	s->fsm.state = s->progress.state = MIG_SRC_PRECOPY;
	s->progress.pages_total = pages;
	s->control.fd = -1;
	s->workers = calloc(params->channels, sizeof(*s->workers));
	s->sent_hash = mig_table_new(pages, sizeof(*s->sent_hash));
	if (!s->workers || !s->sent_hash ||
	    mig_touch_init(&s->touch, s->sent_hash, pages, sizeof(*s->sent_hash))) {
		free(s->workers);
		mig_table_free(s->sent_hash, pages, sizeof(*s->sent_hash));
		free(s);
		return -ENOMEM;
	}
	memcpy(s->fds, fds, (1 + params->channels) * sizeof(int));
	pthread_mutex_init(&s->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&s->cond, &attr);
	pthread_condattr_destroy(&attr);
	*out = s;
	return 0;
}

void mig_source_free(struct mig_source *s)
{
	if (!s)
		return;
	mig_source_stop_workers(s, true);
	mig_chan_close(&s->control);
	for (unsigned i = 0; i < s->p.channels; i++)
		if (s->workers[i].s)
			mig_chan_close(&s->workers[i].chan);
	for (unsigned i = 0; i <= s->p.channels; i++)
		close(s->fds[i]);
	for (unsigned i = 0; i < s->p.channels; i++)
		free(s->workers[i].blocks);
	pthread_cond_destroy(&s->cond);
	pthread_mutex_destroy(&s->lock);
	free(s->missing);
	free(s->workers);
	mig_touch_fini(&s->touch);
	mig_table_free(s->sent_hash, s->page_count, sizeof(*s->sent_hash));
	free(s);
}
