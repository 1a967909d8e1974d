#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/sched.h"
#include "migrate/dest.h"

enum { RESEND_MAX = MIG_META_MAX / 8 };

void mig_dest_fail(struct mig_dest *d, const char *fmt, ...)
{
	va_list ap;

	pthread_mutex_lock(&d->lock);
	if (!d->why[0]) {
		va_start(ap, fmt);
		vsnprintf(d->why, sizeof(d->why), fmt, ap);
		va_end(ap);
	}
	pthread_mutex_unlock(&d->lock);
}

/* ---- pages ---- */

void mig_dest_set_page(struct receiver *r, uint64_t index, uint64_t hash, bool bad)
{
	struct mig_dest *d = r->d;

	r->digest ^= mig_page_digest(index, d->hash[index]) ^ mig_page_digest(index, hash);
	d->hash[index] = hash;
	/* Most tables of these stay as they were made, and take no memory. */
	if (d->bad[index] != bad) {
		r->bad += bad - d->bad[index];
		d->bad[index] = bad;
	}
}

static bool receiver_owns(const struct receiver *r, uint64_t index, uint64_t count)
{
	const struct mig_dest *d = r->d;

	return count && count <= MIG_GROUP_PAGES && index < d->page_count &&
	       count <= d->page_count - index &&
	       mig_page_channel(index, d->p.channels) == r->index &&
	       index / MIG_GROUP_PAGES == (index + count - 1) / MIG_GROUP_PAGES;
}

int mig_dest_bounce(struct receiver *r)
{
	if (!r->bounce)
		r->bounce = aligned_alloc(MIG_PAGE_SIZE, (size_t)MIG_CHUNK_PAGES * MIG_PAGE_SIZE);
	return r->bounce ? 0 : -ENOMEM;
}

static int receiver_write_blocks(struct receiver *r, uint64_t index, unsigned count,
				 const void *pages)
{
	struct mig_dest *d = r->d;
	int rc = d->ops->blocks_write(d->guest, index, count, pages);

	if (rc)
		mig_dest_fail(d, "a disk cannot be written: %s", strerror(-rc));
	return rc;
}

/* Memory that nobody wrote is zero already: touching it would only allocate it. */
static int receiver_zero(struct receiver *r, uint64_t index, uint64_t count)
{
	if (!receiver_owns(r, index, count))
		return -EBADMSG;
	for (; count; index++, count--) {
		uint64_t had = r->d->hash[index];
		uint8_t *page = mig_page_host(&r->d->memory, index);
		int rc = 0;

		if (had && had != MIG_HASH_ZERO_PAGE && !page)
			rc = receiver_write_blocks(r, index, 1, NULL);
		else if (had && had != MIG_HASH_ZERO_PAGE)
			memset(page, 0, MIG_PAGE_SIZE);
		if (rc)
			return rc;
		mig_dest_set_page(r, index, MIG_HASH_ZERO_PAGE, false);
	}
	return 0;
}

struct mig_page_entry mig_dest_entry(const struct receiver *r, uint32_t i)
{
	struct mig_page_entry e;

	memcpy(&e, r->chan.meta + i * sizeof(e), sizeof(e));
	e.index = le64toh(e.index);
	e.hash = le64toh(e.hash);
	return e;
}

/* Where the bytes of the chunk's page `n` go. */
static uint8_t *receiver_place(struct receiver *r, uint64_t index, unsigned n)
{
	uint8_t *page = mig_page_host(&r->d->memory, index);

	if (page)
		return page;
	return mig_dest_bounce(r) ? NULL : r->bounce + (size_t)n * MIG_PAGE_SIZE;
}

/* Neighbours become one piece. */
static int iov_add_page(struct iovec *iov, int count, uint8_t *page)
{
	if (count && (uint8_t *)iov[count - 1].iov_base + iov[count - 1].iov_len == page) {
		iov[count - 1].iov_len += MIG_PAGE_SIZE;
		return count;
	}
	iov[count] = (struct iovec){page, MIG_PAGE_SIZE};
	return count + 1;
}

/* Checks all entries and applies the zero runs; the data pages' places go to iov. */
static int receiver_entries(struct receiver *r, const struct mig_head *h, struct iovec *iov,
			    int *iov_count, struct mig_page_entry *data, unsigned *data_count)
{
	int pieces = 0;
	unsigned n = 0;

	if (h->meta_len % sizeof(struct mig_page_entry))
		return -EBADMSG;
	for (uint32_t i = 0; i < h->meta_len / sizeof(struct mig_page_entry); i++) {
		struct mig_page_entry e = mig_dest_entry(r, i);
		uint8_t *page;

		if ((e.index & ~MIG_ENTRY_ZERO) < r->d->page_count)
			mig_touch(&r->d->touch, e.index & ~MIG_ENTRY_ZERO);
		if (e.index & MIG_ENTRY_ZERO) {
			int rc = receiver_zero(r, e.index & ~MIG_ENTRY_ZERO, e.hash);

			if (rc)
				return rc;
			continue;
		}
		if (n == MIG_CHUNK_PAGES || !receiver_owns(r, e.index, 1) ||
		    e.hash <= MIG_HASH_ZERO_PAGE)
			return -EBADMSG;
		page = receiver_place(r, e.index, n);
		if (!page)
			return -ENOMEM;
		pieces = iov_add_page(iov, pieces, page);
		data[n++] = e;
	}
	*iov_count = pieces;
	*data_count = n;
	return h->data_len == n * MIG_PAGE_SIZE ? 0 : -EBADMSG;
}

/* Runs of blocks that came whole go to their disk. */
static int receiver_blocks(struct receiver *r, const struct mig_page_entry *data, unsigned n)
{
	struct mig_dest *d = r->d;
	unsigned run = 0;
	int rc = 0;

	for (unsigned i = 0; i <= n && !rc; i++) {
		bool block = i < n && !mig_page_host(&d->memory, data[i].index) &&
			     !d->bad[data[i].index];

		if (run && (!block || data[i].index != data[i - 1].index + 1)) {
			rc = receiver_write_blocks(r, data[i - run].index, run,
						   r->bounce + (size_t)(i - run) * MIG_PAGE_SIZE);
			run = 0;
		}
		run += block;
	}
	return rc;
}

/* The bytes are read straight into guest memory and checked there; the guest does not run yet. */
static int receiver_pages(struct receiver *r, const struct mig_head *h)
{
	struct mig_page_entry data[MIG_CHUNK_PAGES];
	struct iovec iov[MIG_CHUNK_PAGES];
	unsigned n = 0;
	int pieces = 0;
	int rc = receiver_entries(r, h, iov, &pieces, data, &n);

	if (!rc && n)
		rc = mig_chan_recv_data(&r->chan, iov, pieces);
	if (rc)
		return rc;
	r->frames++;
	for (unsigned i = 0; i < n; i++) {
		uint8_t *page = mig_page_host(&r->d->memory, data[i].index);
		uint64_t hash = mig_page_hash(page ? page : r->bounce + (size_t)i * MIG_PAGE_SIZE);

		mig_dest_set_page(r, data[i].index, hash, hash != data[i].hash);
	}
	return mig_first_block(&r->d->memory) < r->d->page_count ? receiver_blocks(r, data, n) : 0;
}

static int receiver_flush(struct receiver *r, const struct mig_head *h)
{
	uint64_t frames;

	if (h->meta_len != sizeof(frames) || h->data_len)
		return -EBADMSG;
	memcpy(&frames, r->chan.meta, sizeof(frames));
	if (le64toh(frames) != r->frames)
		return -EBADMSG;
	pthread_mutex_lock(&r->d->lock);
	r->flushes++;
	pthread_cond_broadcast(&r->d->cond);
	pthread_mutex_unlock(&r->d->lock);
	return 0;
}

static void *receiver_main(void *arg)
{
	struct receiver *r = arg;
	struct mig_dest *d = r->d;
	int rc = mig_chan_open(&r->chan, d->fds[1 + r->index], &d->p, 1 + r->index, false);

	while (!rc) {
		struct pollfd idle = {.fd = r->chan.fd, .events = POLLIN};
		struct mig_head h;

		/* Between frames the channel may be silent: the control connection tells a stall. */
		while (poll(&idle, 1, -1) < 0 && errno == EINTR)
			;
		rc = mig_chan_recv(&r->chan, &h);
		if (!rc && h.type == MIG_FRAME_PAGES)
			rc = atomic_load(&d->filling) ? mig_fill_pages(r, &h)
						      : receiver_pages(r, &h);
		else if (!rc && h.type == MIG_FRAME_FLUSH)
			rc = receiver_flush(r, &h);
		else if (!rc)
			rc = -EBADMSG;
	}
	pthread_mutex_lock(&d->lock);
	if (!d->error)
		d->error = rc;
	pthread_cond_broadcast(&d->cond);
	pthread_mutex_unlock(&d->lock);
	return NULL;
}

/* ---- the control side ---- */

int mig_dest_send(struct mig_dest *d, uint8_t type, const void *meta, uint32_t len)
{
	int rc;

	pthread_mutex_lock(&d->tx_lock);
	rc = mig_chan_send(&d->control, type, meta, len, NULL, 0);
	pthread_mutex_unlock(&d->tx_lock);
	return rc;
}

static int dest_journals(struct mig_dest *d, uint32_t act)
{
	int rc = 0;

	/* "filling" is a commit whose memory is still at the source. */
	if (act & MIG_ACT_JOURNAL_COMMITTED)
		rc = d->ops->journal(d->guest, d->fsm.postcopy ? "filling" : "committed");
	if (act & MIG_ACT_JOURNAL_ABORTED)
		rc = d->ops->journal(d->guest, "aborted");
	if (act & MIG_ACT_JOURNAL_COMPLETE)
		rc = d->ops->journal(d->guest, "complete");
	return rc;
}

static int dest_act(struct mig_dest *d, uint32_t act)
{
	int rc;

	if (act & MIG_ACT_JOURNAL_COMMITTED) {
		pthread_mutex_lock(&d->lock);
		d->committed = true;
		d->cancelled = false;
		pthread_mutex_unlock(&d->lock);
	}
	rc = dest_journals(d, act);

	if (!rc && (act & MIG_ACT_SEND_READY))
		rc = mig_dest_send(d, MIG_FRAME_READY, NULL, 0);
	if (act & MIG_ACT_PAUSE)
		rc = d->ops->pause(d->guest);
	if (!rc && (act & MIG_ACT_RUN))
		rc = d->ops->run(d->guest);
	/* If one of these is lost the source asks for the verdict. */
	if (!rc && (act & MIG_ACT_SEND_RUNNING))
		(void)!mig_dest_send(d, MIG_FRAME_RUNNING, NULL, 0);
	if (!rc && (act & MIG_ACT_SEND_COMPLETE))
		(void)!mig_dest_send(d, MIG_FRAME_COMPLETE, NULL, 0);
	if (act & MIG_ACT_SEND_ABORT)
		(void)!mig_dest_send(d, MIG_FRAME_ABORT, d->why, (uint32_t)strlen(d->why));
	return rc;
}

int mig_dest_event(struct mig_dest *d, enum mig_event ev)
{
	return dest_act(d, mig_dst_step(&d->fsm, ev));
}

static int dest_config(struct mig_dest *d)
{
	BASE_AUTO_FREE uint8_t *config = NULL;
	struct mig_head h;
	struct iovec iov;
	uint64_t pages, can;
	int rc = mig_chan_recv(&d->control, &h);

	if (rc)
		return rc;
	if (h.type != MIG_FRAME_CONFIG || h.meta_len != sizeof(pages))
		return -EBADMSG;
	memcpy(&pages, d->control.meta, sizeof(pages));
	config = malloc(h.data_len + 1);
	if (!config)
		return -ENOMEM;
	iov = (struct iovec){config, h.data_len};
	rc = mig_chan_recv_data(&d->control, &iov, 1);
	if (rc)
		return rc;
	if (le64toh(pages) != d->page_count) {
		mig_dest_fail(d, "the guest has %llu MiB of memory at the source and %llu here",
			      (unsigned long long)le64toh(pages) / 256,
			      (unsigned long long)d->page_count / 256);
		return -EINVAL;
	}
	if (d->ops->check) {
		char why[MIG_TEXT_MAX] = "";

		rc = d->ops->check(d->guest, config, h.data_len, why);
		if (rc) {
			mig_dest_fail(d, "%s", why[0] ? why : "the machine does not fit");
			return rc;
		}
	}
	can = htole64(MIG_CAN_CHUNK | MIG_CAN_SYNC | (mig_fill_possible(d) ? MIG_CAN_POSTCOPY : 0));
	return mig_dest_send(d, MIG_FRAME_CONFIG_OK, &can, sizeof(can));
}

static int dest_wait_flushed(struct mig_dest *d, uint64_t want, int64_t timeout_ms)
{
	int64_t deadline = base_clock_ns() + timeout_ms * BASE_NS_PER_MS;
	struct timespec t = base_clock_timespec(deadline);
	int rc = 0;

	pthread_mutex_lock(&d->lock);
	for (unsigned i = 0; i < d->p.channels && !rc;) {
		if (d->receivers[i].flushes >= want)
			i++;
		else if (d->error || d->cancelled)
			rc = d->error ? d->error : -ECANCELED;
		else if (pthread_cond_timedwait(&d->cond, &d->lock, &t) == ETIMEDOUT)
			rc = -ETIMEDOUT;
	}
	pthread_mutex_unlock(&d->lock);
	return rc;
}

/* Waits until every channel has delivered what was sent before its flush number `want`. */
int mig_dest_wait_flushed(struct mig_dest *d, uint64_t want)
{
	return dest_wait_flushed(d, want, d->p.stall_ms);
}

static int dest_ask_again(struct mig_dest *d)
{
	uint64_t list[RESEND_MAX];
	uint32_t n = 0;

	for (uint64_t i = 0; i < d->page_count && n < RESEND_MAX; i++)
		if (d->bad[i])
			list[n++] = htole64(i);
	return mig_dest_send(d, MIG_FRAME_RESEND, list, n * sizeof(list[0]));
}

/* 0: all memory is here and right; -EAGAIN: damaged pages were asked for again. */
static int dest_check_memory(struct mig_dest *d, uint64_t digest)
{
	uint64_t have = 0, bad = 0;
	int rc;

	for (unsigned i = 0; i < d->p.channels; i++) {
		have ^= d->receivers[i].digest;
		bad += d->receivers[i].bad;
	}
	if (bad) {
		rc = dest_ask_again(d);
		return rc ? rc : -EAGAIN;
	}
	if (have != digest) {
		mig_dest_fail(d, "memory differs from the source's: pages were lost on the way");
		return -EIO;
	}
	return 0;
}

static int dest_load(struct mig_dest *d, const void *state, size_t len)
{
	int rc;

	rc = d->ops->load(d->guest, state, len);
	atomic_store(&d->loading, false);
	if (rc)
		mig_dest_fail(d, "the machine's state cannot be loaded: %s", strerror(-rc));
	/* What was loaded from memory that never came is not worth having. */
	pthread_mutex_lock(&d->lock);
	rc = rc ? rc : d->error;
	pthread_mutex_unlock(&d->lock);
	return rc;
}

static int dest_prepare(struct mig_dest *d, const struct mig_head *h)
{
	BASE_AUTO_FREE uint8_t *state = malloc(h->data_len + 1);
	struct iovec iov = {state, h->data_len};
	uint64_t meta[4] = {0};
	int64_t start = base_clock_ns(), flushed = start, checked = start, loaded;
	bool post;
	int rc;

	if (!state)
		return -ENOMEM;
	if (h->meta_len != sizeof(meta) && h->meta_len != sizeof(meta) - 8)
		return -EBADMSG;
	memcpy(meta, d->control.meta, h->meta_len);
	post = le64toh(meta[3]) == 1;
	if (post && !mig_fill_possible(d))
		return -EBADMSG;
	rc = mig_chan_recv_data(&d->control, &iov, 1);
	if (!rc && mig_block_hash(state, h->data_len) != le64toh(meta[1]))
		rc = -EBADMSG;
	if (!rc)
		rc = mig_dest_wait_flushed(d, le64toh(meta[2]));
	flushed = base_clock_ns();
	if (!rc)
		rc = dest_check_memory(d, le64toh(meta[0]));
	checked = base_clock_ns();
	atomic_store(&d->loading, post);
	if (!rc && post)
		rc = mig_fill_start(d);
	if (!rc)
		rc = dest_load(d, state, h->data_len);
	loaded = base_clock_ns();
	if (!rc)
		rc = mig_dest_event(d, post ? MIG_EV_RX_PREPARE_POSTCOPY : MIG_EV_RX_PREPARE);
	if (!rc)
		log_info("migration: the last pages were waited for %.1f ms, the memory was "
			 "checked in %.1f, the state loaded in %.1f",
			 (double)(flushed - start) / 1e6, (double)(checked - flushed) / 1e6,
			 (double)(loaded - checked) / 1e6);
	return rc;
}

static uint64_t dest_frames(struct mig_dest *d)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < d->p.channels; i++)
		n += atomic_load(&d->receivers[i].frames);
	return n;
}

/* On a slow link that takes its time; as long as pages come the source hears that they do. */
static int dest_sync(struct mig_dest *d, const struct mig_head *h)
{
	int64_t step_ms = BASE_MAX(d->p.stall_ms / 4, 1u);
	unsigned still = 0;
	uint64_t flushes;
	int rc;

	if (h->meta_len != sizeof(flushes) || h->data_len || d->fsm.state != MIG_DST_RECEIVE)
		return -EBADMSG;
	memcpy(&flushes, d->control.meta, sizeof(flushes));
	for (;;) {
		uint64_t frames = dest_frames(d);

		rc = dest_wait_flushed(d, le64toh(flushes), step_ms);
		if (rc != -ETIMEDOUT)
			break;
		still = dest_frames(d) == frames ? still + 1 : 0;
		if (still < 4)
			rc = still ? 0 : mig_dest_send(d, MIG_FRAME_ALIVE, NULL, 0);
		if (rc)
			break;
	}
	return rc ? rc : mig_dest_send(d, MIG_FRAME_SYNCED, NULL, 0);
}

/* What ended a receiver, so that the source hears of it at its next sign of life; a lost connection
 * is seen on this one as well. */
static int dest_failure(struct mig_dest *d)
{
	int rc;

	pthread_mutex_lock(&d->lock);
	rc = d->error == -ECONNRESET ? 0 : d->error;
	pthread_mutex_unlock(&d->lock);
	return rc;
}

/* One control frame; 0 while it goes on, 1 at the end. */
static int dest_frame(struct mig_dest *d)
{
	struct mig_head h;
	int rc = mig_chan_recv(&d->control, &h);

	if (!rc && d->fsm.state == MIG_DST_RECEIVE)
		rc = dest_failure(d);
	if (rc)
		return rc;
	switch (h.type) {
	case MIG_FRAME_ALIVE: return h.data_len ? -EBADMSG : 0;
	case MIG_FRAME_MISSING:
		return d->fsm.state == MIG_DST_RECEIVE ? mig_fill_missing(d, &h) : -EBADMSG;
	case MIG_FRAME_SYNC: return dest_sync(d, &h);
	case MIG_FRAME_MISSING_END: return mig_dest_send(d, MIG_FRAME_MISSING_OK, NULL, 0);
	case MIG_FRAME_PREPARE:
		if (d->fsm.state != MIG_DST_RECEIVE)
			return -EBADMSG;
		rc = dest_prepare(d, &h);
		return rc == -EAGAIN ? 0 : rc;
	case MIG_FRAME_COMMIT:
		if (d->fsm.state != MIG_DST_PREPARED)
			return -EBADMSG;
		rc = mig_dest_event(d, MIG_EV_RX_COMMIT);
		return rc ? rc : 1;
	case MIG_FRAME_ABORT: mig_dest_fail(d, "the source gave up"); return -ECONNABORTED;
	default: return -EBADMSG;
	}
}

int mig_dest_start_receivers(struct mig_dest *d)
{
	for (; d->started < d->p.channels; d->started++) {
		struct receiver *r = &d->receivers[d->started];

		r->d = d;
		r->index = d->started;
		r->frames = 0;
		r->chan.fd = -1;
		if (pthread_create(&r->thread, NULL, receiver_main, r))
			return -EAGAIN;
	}
	return 0;
}

void mig_dest_stop_receivers(struct mig_dest *d)
{
	for (unsigned i = 0; i < d->started; i++) {
		shutdown(d->fds[1 + i], SHUT_RDWR);
		pthread_join(d->receivers[i].thread, NULL);
	}
	d->started = 0;
}

static bool link_error(int rc)
{
	return rc == -ECONNRESET || rc == -EPIPE || rc == -ETIMEDOUT || rc == -EBADMSG;
}

static int dest_end(struct mig_dest *d, int rc)
{
	enum mig_event ev = rc == -ECONNABORTED ? MIG_EV_RX_ABORT
			    : link_error(rc)	? MIG_EV_LINK_LOST
						: MIG_EV_CANCEL;

	mig_dest_fail(d, "%s", rc == -EBADMSG ? "the stream is damaged or foreign" : strerror(-rc));
	(void)!mig_dest_event(d, ev);
	return d->fsm.state == MIG_DST_HELD ? -EINPROGRESS : rc;
}

/* How it stands when run(), relink() or a verdict returns. */
static int dest_outcome(const struct mig_dest *d, int rc)
{
	switch (d->fsm.state) {
	case MIG_DST_COMMITTED: return 0;
	case MIG_DST_BROKEN: return -ENOLINK;
	case MIG_DST_HELD: return -EINPROGRESS;
	case MIG_DST_LOST: return -ESTALE;
	default: return rc;
	}
}

int mig_dest_run(struct mig_dest *d)
{
	int rc = mig_chan_open(&d->control, d->fds[0], &d->p, 0, false);

	base_sched_wake_soon();
	if (!rc)
		rc = dest_config(d);
	if (!rc)
		rc = mig_dest_start_receivers(d);
	while (!rc && !d->filler_started)
		rc = dest_frame(d);
	if (!rc)
		rc = mig_fill_run(d);
	/* A guest that could not be started after the commit is this side's failure alone. */
	if (d->fsm.state == MIG_DST_COMMITTED)
		rc = rc == 1 ? 0 : rc;
	else if (d->fsm.state != MIG_DST_BROKEN && d->fsm.state != MIG_DST_FILL)
		rc = dest_end(d, rc);
	if (d->fsm.state == MIG_DST_ABORTED)
		mig_fill_release(d);
	mig_fill_stop(d);
	mig_dest_stop_receivers(d);
	return rc;
}

int mig_dest_relink(struct mig_dest *d, const int *fds)
{
	int rc;

	if (d->fsm.state != MIG_DST_BROKEN)
		return -EINVAL;
	mig_chan_close(&d->control);
	for (unsigned i = 0; i < d->p.channels; i++)
		mig_chan_close(&d->receivers[i].chan);
	for (unsigned i = 0; i <= d->p.channels; i++) {
		close(d->fds[i]);
		d->fds[i] = fds[i];
	}
	d->error = 0;
	d->why[0] = 0;
	rc = mig_chan_open(&d->control, d->fds[0], &d->p, 0, false);
	if (!rc)
		rc = mig_dest_start_receivers(d);
	if (!rc)
		rc = mig_fill_start(d);
	if (!rc)
		rc = mig_fill_run(d);
	mig_fill_stop(d);
	mig_dest_stop_receivers(d);
	return dest_outcome(d, rc);
}

uint64_t mig_dest_missing(const struct mig_dest *d)
{
	return atomic_load(&d->left);
}

int mig_dest_verdict(struct mig_dest *d, enum mig_event verdict)
{
	int rc = mig_dest_event(d, verdict);

	if (d->fsm.state == MIG_DST_ABORTED)
		mig_fill_release(d);
	return rc ? rc : dest_outcome(d, -ECANCELED);
}

void mig_dest_cancel(struct mig_dest *d)
{
	bool late;

	pthread_mutex_lock(&d->lock);
	late = d->committed;
	d->cancelled = !late;
	pthread_cond_broadcast(&d->cond);
	pthread_mutex_unlock(&d->lock);
	if (!late)
		shutdown(d->fds[0], SHUT_RDWR);
}

const char *mig_dest_error(const struct mig_dest *d)
{
	return d->why;
}

int mig_dest_new(const struct mig_params *params, const struct mig_memory *memory,
		 const struct mig_dest_ops *ops, void *guest, const int *fds, struct mig_dest **out)
{
	uint64_t pages = mig_memory_pages(memory);
	pthread_condattr_t attr;
	struct mig_dest *d;

	if (!params->channels || params->channels > MIG_CHANNELS_MAX || !pages ||
	    pages > MIG_PAGES_MAX)
		return -EINVAL;
	d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	d->p = *params;
	d->memory = *memory;
	d->ops = ops;
	d->guest = guest;
	d->page_count = pages;
	d->fsm.state = MIG_DST_RECEIVE;
	d->control.fd = d->fault_fd = -1;
	d->filler.d = d;
	d->receivers = calloc(params->channels, sizeof(*d->receivers));
	d->hash = mig_table_new(pages, sizeof(*d->hash));
	d->bad = mig_table_new(pages, sizeof(*d->bad));
	if (!d->receivers || !d->hash || !d->bad ||
	    mig_touch_init(&d->touch, d->hash, pages, sizeof(*d->hash))) {
		free(d->receivers);
		mig_table_free(d->hash, pages, sizeof(*d->hash));
		mig_table_free(d->bad, pages, sizeof(*d->bad));
		free(d);
		return -ENOMEM;
	}
	memcpy(d->fds, fds, (1 + params->channels) * sizeof(int));
	pthread_mutex_init(&d->lock, NULL);
	pthread_mutex_init(&d->tx_lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&d->cond, &attr);
	pthread_condattr_destroy(&attr);
	*out = d;
	return 0;
}

void mig_dest_free(struct mig_dest *d)
{
	if (!d)
		return;
	mig_fill_stop(d);
	mig_dest_stop_receivers(d);
	mig_chan_close(&d->control);
	for (unsigned i = 0; i < d->p.channels; i++) {
		if (d->receivers[i].d)
			mig_chan_close(&d->receivers[i].chan);
		free(d->receivers[i].bounce);
	}
	free(d->filler.bounce);
	for (unsigned i = 0; i <= d->p.channels; i++)
		close(d->fds[i]);
	pthread_cond_destroy(&d->cond);
	pthread_mutex_destroy(&d->lock);
	pthread_mutex_destroy(&d->tx_lock);
	free(d->missing);
	free(d->asked);
	free(d->receivers);
	mig_touch_fini(&d->touch);
	mig_table_free(d->hash, d->page_count, sizeof(*d->hash));
	mig_table_free(d->bad, d->page_count, sizeof(*d->bad));
	free(d);
}
