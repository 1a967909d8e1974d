/*
 * Post-copy at the source. Pages that are still to come have a bit in `missing`; whoever clears the
 * bit sends the page: a data channel's worker in its order, or this thread, on the control
 * connection, because the destination waits for it.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "base/clock.h"
#include "migrate/source.h"

enum {
	ALIVE_INTERVAL_MS = 200,
	/* The guest's first pages come by request, and nothing else takes the processors and the link. */
	HEAD_START_MS = 3,
	MISSING_WORDS = MIG_META_MAX / 8
};

/* ---- telling what will come later ---- */

/* Until now they counted as sent. */
static void forget_pages(struct mig_source *s, uint64_t at, uint64_t bits)
{
	for (; bits; bits &= bits - 1) {
		uint64_t index = at + (uint64_t)__builtin_ctzll(bits);
		struct worker *w = &s->workers[mig_page_channel(index, s->p.channels)];

		if (!s->sent_hash[index])
			continue;
		w->digest ^= mig_page_digest(index, s->sent_hash[index]);
		s->sent_hash[index] = 0;
	}
}

static int announce_words(struct mig_source *s, uint64_t first, const uint64_t *words,
			  uint64_t count)
{
	uint64_t meta[2] = {htole64(s->work_number), 0};
	struct iovec iov;

	while (count && !words[count - 1])
		count--;
	for (; count && !words[0]; count--) {
		words++;
		first++;
	}
	if (!count)
		return 0;
	meta[1] = htole64(first);
	iov = (struct iovec){(void *)(uintptr_t)words, count * 8};
	return mig_chan_send(&s->control, MIG_FRAME_MISSING, meta, sizeof(meta), &iov, 1);
}

int mig_serve_announce(struct mig_source *s, const uint64_t *bitmap)
{
	BASE_AUTO_FREE uint64_t *fresh = malloc(MISSING_WORDS * sizeof(*fresh));
	int rc = fresh ? 0 : -ENOMEM;

	for (uint64_t at = 0; at < s->words && !rc; at += MISSING_WORDS) {
		uint64_t count = BASE_MIN((uint64_t)MISSING_WORDS, s->words - at);

		for (uint64_t i = 0; i < count; i++) {
			uint64_t bits = bitmap[at + i] & ~atomic_load(&s->missing[at + i]);

			forget_pages(s, (at + i) * 64, bits);
			atomic_fetch_or(&s->missing[at + i], bits);
			fresh[i] = htole64(bits);
		}
		rc = announce_words(s, at, fresh, count);
	}
	return rc;
}

uint64_t mig_serve_fresh(const struct mig_source *s, const uint64_t *bitmap)
{
	uint64_t n = 0;

	for (size_t i = 0; i < s->words; i++)
		n += (uint64_t)__builtin_popcountll(bitmap[i] & ~atomic_load(&s->missing[i]));
	return n;
}

int mig_serve_sync(struct mig_source *s)
{
	struct mig_head h;
	int rc = mig_chan_send(&s->control, MIG_FRAME_MISSING_END, NULL, 0, NULL, 0);

	if (!rc)
		rc = mig_source_recv(s, &h);
	return !rc && h.type != MIG_FRAME_MISSING_OK ? -EBADMSG : rc;
}

/* ---- giving out ---- */

struct answer {
	struct mig_page_entry entries[MIG_CHUNK_PAGES_OLD];
	struct iovec iov[MIG_CHUNK_PAGES_OLD];
	unsigned entry_count, data_count;
};

static void answer_add(struct mig_source *s, struct answer *a, uint64_t index)
{
	uint8_t *page = mig_page_host(&s->memory, index);
	struct mig_page_entry *e = &a->entries[a->entry_count++];

	if (mig_page_is_zero(page)) {
		*e = (struct mig_page_entry){htole64(index | MIG_ENTRY_ZERO), htole64(1)};
		return;
	}
	*e = (struct mig_page_entry){htole64(index), htole64(mig_page_hash(page))};
	a->iov[a->data_count++] = (struct iovec){page, MIG_PAGE_SIZE};
}

static int answer_send(struct mig_source *s, struct answer *a)
{
	int rc = 0;

	if (a->entry_count)
		rc = mig_chan_send(&s->control, MIG_FRAME_PAGES, a->entries,
				   a->entry_count * (uint32_t)sizeof(a->entries[0]), a->iov,
				   (int)a->data_count);
	a->entry_count = a->data_count = 0;
	return rc;
}

/* What a worker has taken already is on its way. */
static bool take_page(struct mig_source *s, uint64_t index)
{
	uint64_t bit = UINT64_C(1) << (index % 64);

	return atomic_fetch_and(&s->missing[index / 64], ~bit) & bit;
}

static int serve_request(struct mig_source *s, const struct mig_head *h, bool again)
{
	struct answer a = {.entry_count = 0};
	int rc = h->meta_len % 8 ? -EBADMSG : 0;

	for (uint32_t i = 0; i < h->meta_len / 8 && !rc; i++) {
		uint64_t index;

		memcpy(&index, s->control.meta + (size_t)i * 8, 8);
		index = le64toh(index);
		if (index >= s->page_count)
			return -EBADMSG;
		/* What comes next in memory is likely to be wanted next. */
		atomic_store(&s->hint[mig_page_channel(index, s->p.channels)],
			     index / MIG_GROUP_PAGES + 1);
		if (again || take_page(s, index))
			answer_add(s, &a, index);
		if (a.entry_count == MIG_CHUNK_PAGES_OLD)
			rc = answer_send(s, &a);
	}
	return rc ? rc : answer_send(s, &a);
}

/* A connection that takes nothing more may still have something to read: COMPLETE. */
static void serve_alive(struct mig_source *s)
{
	(void)!mig_chan_send(&s->control, MIG_FRAME_ALIVE, NULL, 0, NULL, 0);
}

/* One control frame that is not for serving: 0; -EAGAIN: nothing to say. */
static int serve_step(struct mig_source *s, struct mig_head *h, int64_t *heard)
{
	struct pollfd p = {.fd = s->control.fd, .events = POLLIN};
	int n = poll(&p, 1, ALIVE_INTERVAL_MS), rc;

	if (n < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	if (!n) {
		serve_alive(s);
		return base_clock_ns() - *heard > s->p.stall_ms * BASE_NS_PER_MS ? -ETIMEDOUT
										 : -EAGAIN;
	}
	rc = mig_source_recv(s, h);
	*heard = base_clock_ns();
	if (rc)
		return rc;
	switch (h->type) {
	case MIG_FRAME_ALIVE: serve_alive(s); return -EAGAIN;
	case MIG_FRAME_REQUEST: rc = serve_request(s, h, false); break;
	case MIG_FRAME_RESEND:
		/* Before READY it is pre-copy's, which waits for it. */
		if (s->fsm.state != MIG_SRC_SERVE)
			return 0;
		rc = serve_request(s, h, true);
		break;
	default: return 0;
	}
	return rc ? rc : -EAGAIN;
}

int mig_serve_hot(struct mig_source *s)
{
	uint64_t index[MIG_HOT_MAX];
	unsigned n = s->ops->hot ? s->ops->hot(s->guest, index, MIG_HOT_MAX) : 0;
	struct answer a = {.entry_count = 0};
	int rc = 0;

	for (unsigned i = 0; i < n && !rc; i++) {
		if (index[i] < s->page_count && take_page(s, index[i]))
			answer_add(s, &a, index[i]);
		if (a.entry_count == MIG_CHUNK_PAGES_OLD)
			rc = answer_send(s, &a);
	}
	return rc ? rc : answer_send(s, &a);
}

int mig_serve_recv(struct mig_source *s, struct mig_head *h)
{
	int64_t heard = base_clock_ns();
	int rc;

	if (!s->missing)
		return mig_source_recv(s, h);
	do
		rc = serve_step(s, h, &heard);
	while (rc == -EAGAIN);
	return rc;
}

static void serve_start_push(struct mig_source *s)
{
	pthread_mutex_lock(&s->lock);
	s->cancelled = false; /* too late */
	s->pushing = s->force = true;
	s->push_ns = base_clock_ns() + HEAD_START_MS * BASE_NS_PER_MS;
	s->chunk_pages = MIG_CHUNK_PAGES_PUSH;
	s->work = NULL;
	s->work_number++;
	s->busy = s->p.channels;
	s->budget_start_ns = base_clock_ns();
	s->budget_bytes = 0;
	pthread_cond_broadcast(&s->cond);
	pthread_mutex_unlock(&s->lock);
}

static int serve_progress(struct mig_source *s, uint64_t before)
{
	uint64_t left = 0;
	int rc;

	for (size_t i = 0; i < s->words; i++)
		left += (uint64_t)__builtin_popcountll(atomic_load(&s->missing[i]));
	pthread_mutex_lock(&s->lock);
	s->progress.pages_left = left;
	s->progress.bytes_sent = before + mig_source_bytes(s);
	rc = s->error;
	pthread_mutex_unlock(&s->lock);
	return rc;
}

int mig_serve_run(struct mig_source *s)
{
	uint64_t before =
		s->progress.bytes_sent - BASE_MIN(s->progress.bytes_sent, mig_source_bytes(s));
	int64_t heard = base_clock_ns(), shown = 0;
	struct mig_head h;
	int rc;

	serve_start_push(s);
	for (;;) {
		rc = serve_step(s, &h, &heard);
		if (!rc && h.type == MIG_FRAME_COMPLETE) {
			(void)!serve_progress(s, before);
			return mig_source_event(s, MIG_EV_RX_COMPLETE);
		}
		if (!rc)
			rc = -EBADMSG;
		if (rc == -EAGAIN)
			rc = 0;
		if (!rc && base_clock_ns() - shown > ALIVE_INTERVAL_MS * BASE_NS_PER_MS) {
			rc = serve_progress(s, before);
			shown = base_clock_ns();
		}
		if (rc)
			break;
	}
	mig_source_fail(s, "the link broke during post-copy: %s", strerror(-rc));
	(void)!mig_source_event(s, MIG_EV_LINK_LOST);
	return -ENOLINK;
}
