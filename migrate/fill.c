/*
 * Post-copy at the destination. Pages that are still at the source read as nothing; who touches one
 * waits. The filler thread asks for such pages and takes the answers, both on the control connection,
 * so that a fault costs two messages and no change of thread; all other pages come on the data
 * connections meanwhile.
 */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/sched.h"
#include "migrate/dest.h"

enum {
	FAULTS_MAX = 64,
	ALIVE_INTERVAL_MS = 200,
	DAMAGED_MAX = 64, /* pages that are asked for again before the link is given up */
	MAIL_COMMIT = 1,
	MAIL_ABORT = 2,
};

bool mig_fill_possible(const struct mig_dest *d)
{
	return mig_first_block(&d->memory) == d->page_count && d->ops->can_fill &&
	       d->ops->can_fill(d->guest);
}

static size_t fill_words(const struct mig_dest *d)
{
	return (d->page_count + 63) / 64;
}

static int fill_alloc(struct mig_dest *d)
{
	if (!d->missing)
		d->missing = calloc(fill_words(d), sizeof(*d->missing));
	if (!d->asked)
		d->asked = calloc(fill_words(d), sizeof(*d->asked));
	/* Touched before the guest waits for what comes into it. */
	if (!d->filler.bounce && !mig_dest_bounce(&d->filler))
		memset(d->filler.bounce, 0, (size_t)MIG_CHUNK_PAGES_OLD * MIG_PAGE_SIZE);
	return d->missing && d->asked && d->filler.bounce ? 0 : -ENOMEM;
}

static bool is_missing(const struct mig_dest *d, uint64_t index)
{
	return atomic_load(&d->missing[index / 64]) >> (index % 64) & 1;
}

/* ---- what is missing ---- */

/* Each run of set bits becomes one discard. */
static int discard_runs(struct mig_dest *d, uint64_t first, const uint64_t *words, size_t count)
{
	uint64_t start = 0, len = 0;
	int rc = 0;

	for (uint64_t i = 0; i < count * 64 && !rc; i++) {
		bool set;

		if (!len && !words[i / 64]) {
			i += 63;
			continue;
		}
		set = words[i / 64] >> (i % 64) & 1;
		if (set && !len++)
			start = first + i;
		if (!set && len) {
			rc = d->ops->discard(d->guest, start, len);
			len = 0;
		}
	}
	return !rc && len ? d->ops->discard(d->guest, start, len) : rc;
}

/* What came of them so far counts no more. */
static int forget_pages(struct mig_dest *d, uint64_t at, uint64_t bits)
{
	for (; bits; bits &= bits - 1) {
		uint64_t index = at + (uint64_t)__builtin_ctzll(bits);

		if (index >= d->page_count)
			return -EBADMSG;
		if (d->hash[index])
			mig_dest_set_page(&d->receivers[mig_page_channel(index, d->p.channels)],
					  index, 0, false);
	}
	return 0;
}

static int add_missing(struct mig_dest *d, uint64_t first, uint64_t *words, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		uint64_t fresh = le64toh(words[i]) & ~atomic_load(&d->missing[first + i]);
		int rc = forget_pages(d, (first + i) * 64, fresh);

		if (rc)
			return rc;
		atomic_fetch_or(&d->missing[first + i], fresh);
		atomic_fetch_add(&d->left, (uint64_t)__builtin_popcountll(fresh));
		words[i] = fresh;
	}
	return discard_runs(d, first * 64, words, count);
}

int mig_fill_missing(struct mig_dest *d, const struct mig_head *h)
{
	BASE_AUTO_FREE uint64_t *words = NULL;
	uint64_t meta[2], count = h->data_len / 8;
	struct iovec iov;
	int rc;

	if (h->meta_len != sizeof(meta) || h->data_len % 8 || h->data_len > MIG_META_MAX ||
	    !mig_fill_possible(d))
		return -EBADMSG;
	memcpy(meta, d->control.meta, sizeof(meta));
	meta[1] = le64toh(meta[1]);
	if (count > fill_words(d) || meta[1] > fill_words(d) - count)
		return -EBADMSG;
	words = malloc(h->data_len + 1);
	rc = words ? fill_alloc(d) : -ENOMEM;
	if (rc)
		return rc;
	iov = (struct iovec){words, h->data_len};
	rc = mig_chan_recv_data(&d->control, &iov, 1);
	/* The receivers must be done with what they have. */
	if (!rc)
		rc = mig_dest_wait_flushed(d, le64toh(meta[0]));
	return rc ? rc : add_missing(d, meta[1], words, count);
}

/* After a new link: all that is missing, in frames of MISSING. */
static int tell_missing(struct mig_dest *d)
{
	static const uint64_t step = MIG_META_MAX / 8;
	BASE_AUTO_FREE uint64_t *words = malloc(MIG_META_MAX);
	int rc = words ? 0 : -ENOMEM;

	for (uint64_t at = 0; at < fill_words(d) && !rc; at += step) {
		uint64_t count = BASE_MIN(step, fill_words(d) - at);
		uint64_t meta[2] = {0, htole64(at)};
		struct iovec iov = {words, count * 8};

		for (uint64_t i = 0; i < count; i++)
			words[i] = htole64(atomic_load(&d->missing[at + i]));
		rc = mig_chan_send(&d->control, MIG_FRAME_MISSING, meta, sizeof(meta), &iov, 1);
	}
	return rc ? rc : mig_dest_send(d, MIG_FRAME_MISSING_END, NULL, 0);
}

/* Pages that were asked for over the old link, and that someone still waits for. */
static int ask_again(struct mig_dest *d)
{
	BASE_AUTO_FREE uint64_t *list = malloc(MIG_META_MAX);
	uint32_t n = 0;
	int rc = list ? 0 : -ENOMEM;

	for (uint64_t i = 0; i < fill_words(d) && !rc; i++) {
		uint64_t bits = d->asked[i] & atomic_load(&d->missing[i]);

		for (; bits && !rc; bits &= bits - 1) {
			list[n++] = htole64(i * 64 + (uint64_t)__builtin_ctzll(bits));
			if (n < MIG_META_MAX / 8)
				continue;
			rc = mig_dest_send(d, MIG_FRAME_REQUEST, list, n * 8);
			n = 0;
		}
	}
	return rc || !n ? rc : mig_dest_send(d, MIG_FRAME_REQUEST, list, n * 8);
}

/* ---- pages ---- */

static void page_is_here(struct mig_dest *d, uint64_t index)
{
	uint64_t bit = UINT64_C(1) << (index % 64);

	if (!(atomic_fetch_and(&d->missing[index / 64], ~bit) & bit))
		return;
	if (atomic_fetch_sub(&d->left, 1) > 1)
		return;
	pthread_mutex_lock(&d->lock);
	pthread_cond_broadcast(&d->cond);
	pthread_mutex_unlock(&d->lock);
}

/* The bit goes last: a fault that finds it gone finds the page as well. */
static int fill_page(struct mig_dest *d, uint64_t index, const void *page)
{
	int rc;

	if (!is_missing(d, index))
		return 0;
	rc = d->ops->fill(d->guest, index, page);
	if (!rc)
		page_is_here(d, index);
	return rc;
}

static int fill_zeros(struct mig_dest *d, uint64_t index, uint64_t count)
{
	int rc = 0;

	if (!count || index >= d->page_count || count > d->page_count - index)
		return -EBADMSG;
	for (; count && !rc; index++, count--)
		rc = fill_page(d, index, NULL);
	return rc;
}

/* ---- what the guest waits ---- */

static void wait_begins(struct mig_dest *d, uint64_t index)
{
	struct mig_waits *w = &d->waits;
	int64_t now = base_clock_ns();

	if (!w->first_ns)
		w->first_ns = now;
	w->count++;
	if (w->open_count == MIG_WAITS_MAX)
		return;
	w->open[w->open_count].index = index;
	w->open[w->open_count++].since_ns = now;
}

static void wait_ended(struct mig_waits *w, int64_t since_ns)
{
	int64_t took = base_clock_ns() - since_ns;

	w->answered++;
	w->sum_ns += took;
	w->max_ns = BASE_MAX(w->max_ns, took);
	if (since_ns - w->first_ns < MIG_EARLY_MS * BASE_NS_PER_MS)
		w->early_ns += took;
}

/* `answer` came because it was asked for. When others came, that were on their way, nobody knows. */
static void waits_end(struct mig_dest *d, uint64_t answer)
{
	struct mig_waits *w = &d->waits;

	for (unsigned i = 0; i < w->open_count;) {
		if (is_missing(d, w->open[i].index)) {
			i++;
			continue;
		}
		if (w->open[i].index == answer)
			wait_ended(w, w->open[i].since_ns);
		w->open[i] = w->open[--w->open_count];
	}
}

static void waits_log(const struct mig_waits *w)
{
	if (w->count)
		log_info("migration: the guest waited for %llu pages, of which %llu came on "
			 "request, after %.0f us and %.1f ms at most; %.1f ms in the first %d",
			 (unsigned long long)w->count, (unsigned long long)w->answered,
			 w->answered ? (double)w->sum_ns / 1e3 / (double)w->answered : 0.0,
			 (double)w->max_ns / 1e6, (double)w->early_ns / 1e6, MIG_EARLY_MS);
}

/* ---- pages of a frame ---- */

static int fill_checked(struct receiver *r, const struct mig_page_entry *e, const uint8_t *page)
{
	uint64_t index = htole64(e->index);

	if (mig_page_hash(page) == e->hash) {
		int rc = fill_page(r->d, e->index, page);

		if (r == &r->d->filler)
			waits_end(r->d, e->index);
		return rc;
	}
	/* The source's guest stands still, so these bytes were damaged on the way. */
	if (++r->bad > DAMAGED_MAX)
		return -EBADMSG;
	return mig_dest_send(r->d, MIG_FRAME_RESEND, &index, sizeof(index));
}

static int fill_entries(struct receiver *r, const struct mig_head *h, const struct mig_chan *c,
			struct mig_page_entry *data, unsigned *data_count)
{
	unsigned n = 0;

	if (h->meta_len % sizeof(*data))
		return -EBADMSG;
	for (uint32_t i = 0; i < h->meta_len / sizeof(*data); i++) {
		struct mig_page_entry e;
		int rc = 0;

		memcpy(&e, c->meta + i * sizeof(e), sizeof(e));
		e.index = le64toh(e.index);
		e.hash = le64toh(e.hash);
		if (e.index & MIG_ENTRY_ZERO)
			rc = fill_zeros(r->d, e.index & ~MIG_ENTRY_ZERO, e.hash);
		else if (n == MIG_CHUNK_PAGES || e.index >= r->d->page_count ||
			 e.hash <= MIG_HASH_ZERO_PAGE)
			rc = -EBADMSG;
		else
			data[n++] = e;
		if (rc)
			return rc;
	}
	*data_count = n;
	return h->data_len == n * MIG_PAGE_SIZE ? 0 : -EBADMSG;
}

int mig_fill_pages(struct receiver *r, const struct mig_head *h)
{
	struct mig_chan *c = r == &r->d->filler ? &r->d->control : &r->chan;
	struct mig_page_entry data[MIG_CHUNK_PAGES];
	unsigned n = 0;
	struct iovec iov;
	int rc;

	if (mig_dest_bounce(r))
		return -ENOMEM;
	rc = fill_entries(r, h, c, data, &n);
	iov = (struct iovec){r->bounce, h->data_len};
	if (!rc && n)
		rc = mig_chan_recv_data(c, &iov, 1);
	r->frames++;
	for (unsigned i = 0; i < n && !rc; i++)
		rc = fill_checked(r, &data[i], r->bounce + (size_t)i * MIG_PAGE_SIZE);
	return rc;
}

/* ---- the filler ---- */

/* A page that the source never had is zeros, and needs no question. */
static int filler_faults(struct mig_dest *d)
{
	uint64_t index[FAULTS_MAX], ask[FAULTS_MAX];
	int n = d->ops->faults(d->guest, index, FAULTS_MAX), rc = 0;
	uint32_t count = 0;

	for (int i = 0; i < n && !rc; i++) {
		uint64_t bit = UINT64_C(1) << (index[i] % 64), at = index[i] / 64;

		if (index[i] >= d->page_count)
			return -EINVAL;
		if (!is_missing(d, index[i]))
			rc = d->ops->fill(d->guest, index[i], NULL);
		else if (!(d->asked[at] & bit)) {
			ask[count++] = htole64(index[i]);
			wait_begins(d, index[i]);
		}
		d->asked[at] |= bit;
	}
	if (n < 0)
		return n;
	if (!rc && count)
		rc = mig_dest_send(d, MIG_FRAME_REQUEST, ask, count * sizeof(ask[0]));
	return rc;
}

static void filler_mail(struct mig_dest *d, unsigned what)
{
	pthread_mutex_lock(&d->lock);
	d->mail |= what;
	pthread_cond_broadcast(&d->cond);
	pthread_mutex_unlock(&d->lock);
}

static int filler_frame(struct mig_dest *d)
{
	struct mig_head h;
	int rc = mig_chan_recv(&d->control, &h);

	if (rc)
		return rc;
	if (h.type == MIG_FRAME_PAGES)
		return mig_fill_pages(&d->filler, &h);
	if (h.data_len)
		return -EBADMSG;
	switch (h.type) {
	case MIG_FRAME_ALIVE: return 0;
	case MIG_FRAME_COMMIT: filler_mail(d, MAIL_COMMIT); return 0;
	case MIG_FRAME_ABORT: filler_mail(d, MAIL_ABORT); return 0;
	default: return -EBADMSG;
	}
}

static int filler_step(struct mig_dest *d, int64_t *heard, int64_t *said)
{
	struct pollfd p[2] = {{.fd = d->control.fd, .events = POLLIN},
			      {.fd = d->fault_fd, .events = POLLIN}};
	int n = poll(p, 2, ALIVE_INTERVAL_MS), rc = 0;
	int64_t now = base_clock_ns();

	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	if (p[1].revents)
		rc = filler_faults(d);
	if (!rc && p[0].revents) {
		rc = filler_frame(d);
		*heard = now;
	}
	if (!rc && now - *said > ALIVE_INTERVAL_MS * BASE_NS_PER_MS) {
		rc = mig_dest_send(d, MIG_FRAME_ALIVE, NULL, 0);
		*said = now;
	}
	return !rc && now - *heard > d->p.stall_ms * BASE_NS_PER_MS ? -ETIMEDOUT : rc;
}

static void *filler_main(void *arg)
{
	struct mig_dest *d = arg;
	int64_t heard = base_clock_ns(), said = heard;
	int rc = 0;

	base_sched_wake_soon();
	while (!rc && !atomic_load(&d->filler_quit))
		rc = filler_step(d, &heard, &said);
	pthread_mutex_lock(&d->lock);
	if (!d->error)
		d->error = rc;
	pthread_cond_broadcast(&d->cond);
	pthread_mutex_unlock(&d->lock);
	/* Whoever loads the machine would wait for ever; what it loads is thrown away. */
	if (rc && atomic_load(&d->loading))
		mig_fill_release(d);
	return NULL;
}

int mig_fill_start(struct mig_dest *d)
{
	int rc = fill_alloc(d);

	if (!rc && !atomic_load(&d->fill_started)) {
		rc = d->ops->fill_start(d->guest, &d->fault_fd);
		if (rc) {
			mig_dest_fail(d, "post-copy is not possible here: %s", strerror(-rc));
			return rc;
		}
		atomic_store(&d->fill_started, true);
	}
	if (rc)
		return rc;
	for (unsigned i = 0; i < d->p.channels; i++)
		mig_chan_keep_short(d->fds[1 + i], false);
	d->mail = 0;
	d->filler.bad = 0;
	atomic_store(&d->filler_quit, false);
	if (d->fsm.state == MIG_DST_BROKEN)
		rc = tell_missing(d);
	if (!rc && d->fsm.state == MIG_DST_BROKEN)
		rc = ask_again(d);
	atomic_store(&d->filling, true);
	if (!rc && pthread_create(&d->filler.thread, NULL, filler_main, d))
		rc = -EAGAIN;
	d->filler_started = !rc;
	return rc;
}

void mig_fill_release(struct mig_dest *d)
{
	if (atomic_exchange(&d->fill_started, false))
		d->ops->fill_stop(d->guest);
}

/* The other side still reads what was sent. */
void mig_fill_stop(struct mig_dest *d)
{
	if (!d->filler_started)
		return;
	atomic_store(&d->filler_quit, true);
	shutdown(d->fds[0], SHUT_RD);
	pthread_join(d->filler.thread, NULL);
	d->filler_started = false;
	waits_log(&d->waits);
}

/* ---- run()'s thread ---- */

/* Until one of these messages, or all pages, have come: 0; else the error. */
static int fill_wait(struct mig_dest *d, unsigned mail, unsigned *got)
{
	int rc;

	pthread_mutex_lock(&d->lock);
	while (mail ? !(d->mail & mail) : atomic_load(&d->left) > 0) {
		if (d->error || d->cancelled)
			break;
		pthread_cond_wait(&d->cond, &d->lock);
	}
	if (mail ? (d->mail & mail) != 0 : atomic_load(&d->left) == 0)
		rc = 0;
	else
		rc = d->error ? d->error : -ECANCELED;
	*got = d->mail;
	pthread_mutex_unlock(&d->lock);
	return rc;
}

static int fill_commit(struct mig_dest *d)
{
	unsigned mail;
	int rc = fill_wait(d, MAIL_COMMIT | MAIL_ABORT, &mail);

	if (rc)
		return rc;
	if (mail & MAIL_ABORT) {
		mig_dest_fail(d, "the source gave up");
		return -ECONNABORTED;
	}
	return mig_dest_event(d, MIG_EV_RX_COMMIT);
}

int mig_fill_run(struct mig_dest *d)
{
	int rc = d->fsm.state == MIG_DST_BROKEN ? mig_dest_event(d, MIG_EV_LINK_BACK)
						: fill_commit(d);
	unsigned mail;

	if (rc)
		return rc;
	rc = fill_wait(d, 0, &mail);
	if (!rc) {
		mig_fill_release(d);
		return mig_dest_event(d, MIG_EV_ALL_HERE);
	}
	mig_dest_fail(d, "the link broke while %llu pages were still at the source (%s)",
		      (unsigned long long)atomic_load(&d->left), strerror(-rc));
	(void)!mig_dest_event(d, MIG_EV_LINK_LOST);
	return -ENOLINK;
}
