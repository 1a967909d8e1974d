/* The data channels of the source: each sends the pages of its groups, round by round. */
#include "migrate/source.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"

static void source_set_error(struct mig_source *s, int rc)
{
	pthread_mutex_lock(&s->lock);
	if (!s->error)
		s->error = rc;
	pthread_cond_broadcast(&s->cond);
	pthread_mutex_unlock(&s->lock);
}

/*
 * Waits until `bytes` more fit the bandwidth; -ECANCELED when the migration ends meanwhile. In post-copy
 * only 0 bytes wait: a page that a worker has taken is not given out on request any more, so it goes at
 * once, and is paid for afterwards.
 */
static int source_wait_budget(struct mig_source *s, uint64_t bytes)
{
	int rc = 0;

	if (!s->p.bandwidth)
		return 0;
	pthread_mutex_lock(&s->lock);
	s->budget_bytes += bytes;
	for (;;) {
		int64_t due = s->budget_start_ns +
			      (int64_t)((double)s->budget_bytes * 1e9 / (double)s->p.bandwidth);
		struct timespec t = base_clock_timespec(due);

		/* Once the guest is paused, every byte is downtime: no limit then. */
		if (due <= base_clock_ns() || (s->pushing && bytes) ||
		    (s->progress.state != MIG_SRC_PRECOPY && !s->pushing))
			break;
		if (s->cancelled || s->quit || s->error) {
			rc = -ECANCELED;
			break;
		}
		pthread_cond_timedwait(&s->cond, &s->lock, &t);
	}
	pthread_mutex_unlock(&s->lock);
	return rc;
}

static int worker_send_chunk(struct worker *w)
{
	uint32_t meta_len = w->entry_count * sizeof(w->entries[0]);
	int rc;

	if (!w->entry_count)
		return 0;
	rc = source_wait_budget(w->s, meta_len + (uint64_t)w->data_count * MIG_PAGE_SIZE);
	if (!rc)
		rc = mig_chan_send(&w->chan, MIG_FRAME_PAGES, w->entries, meta_len, w->iov,
				   w->iov_count);
	w->frames++;
	w->entry_count = w->data_count = w->iov_count = 0;
	return rc;
}

static void worker_set_hash(struct worker *w, uint64_t index, uint64_t hash)
{
	uint64_t *slot = &w->s->sent_hash[index];

	w->digest ^= mig_page_digest(index, *slot) ^ mig_page_digest(index, hash);
	*slot = hash;
}

static void worker_add_zero(struct worker *w, uint64_t index)
{
	struct mig_page_entry *last = w->entry_count ? &w->entries[w->entry_count - 1] : NULL;

	w->pages_zero++;
	worker_set_hash(w, index, MIG_HASH_ZERO_PAGE);
	if (last && (le64toh(last->index) & MIG_ENTRY_ZERO) && index % MIG_GROUP_PAGES &&
	    (le64toh(last->index) & ~MIG_ENTRY_ZERO) + le64toh(last->hash) == index) {
		last->hash = htole64(le64toh(last->hash) + 1);
		return;
	}
	w->entries[w->entry_count++] =
		(struct mig_page_entry){htole64(index | MIG_ENTRY_ZERO), htole64(1)};
}

static void worker_add_data(struct worker *w, uint64_t index, uint8_t *page, uint64_t hash)
{
	struct iovec *last = w->iov_count ? &w->iov[w->iov_count - 1] : NULL;

	w->pages_sent++;
	worker_set_hash(w, index, hash);
	w->entries[w->entry_count++] = (struct mig_page_entry){htole64(index), htole64(hash)};
	w->data_count++;
	if (last && (uint8_t *)last->iov_base + last->iov_len == page)
		last->iov_len += MIG_PAGE_SIZE;
	else
		w->iov[w->iov_count++] = (struct iovec){page, MIG_PAGE_SIZE};
}

/*
 * The page may be written by the guest while it is hashed and sent. Then what is sent does not match
 * its hash, the destination marks it as bad, and it comes again: the log has it.
 */
static int worker_page(struct worker *w, uint64_t index)
{
	struct mig_source *s = w->s;
	uint8_t *page = mig_page_host(&s->memory, index);
	uint64_t hash;

	if (!page) {
		int rc;

		page = w->blocks + (size_t)w->data_count * MIG_PAGE_SIZE;
		rc = s->ops->block_read(s->guest, index, page);
		if (rc) {
			mig_source_fail(s, "a disk cannot be read: %s", strerror(-rc));
			return rc;
		}
	}
	if (mig_page_is_zero(page)) {
		if (s->sent_hash[index] == MIG_HASH_ZERO_PAGE && !s->force)
			w->pages_unchanged++;
		else
			worker_add_zero(w, index);
	} else {
		hash = mig_page_hash(page);
		if (hash == s->sent_hash[index] && !s->force)
			w->pages_unchanged++;
		else
			worker_add_data(w, index, page, hash);
	}
	if (w->entry_count == META_ENTRIES || w->data_count == w->s->chunk_pages)
		return worker_send_chunk(w);
	return 0;
}

static bool source_ending(struct mig_source *s)
{
	bool end;

	pthread_mutex_lock(&s->lock);
	end = s->quit || s->cancelled || s->error;
	pthread_mutex_unlock(&s->lock);
	return end;
}

static int worker_group(struct worker *w, const uint64_t *bitmap, uint64_t group)
{
	int rc = source_ending(w->s) ? -ECANCELED : 0;

	mig_touch(&w->s->touch, group * MIG_GROUP_PAGES);
	for (size_t i = 0; i < MIG_GROUP_PAGES / 64 && !rc; i++) {
		size_t at = group * (MIG_GROUP_PAGES / 64) + i;
		uint64_t bits = at < w->s->words ? bitmap[at] : 0;

		for (; bits && !rc; bits &= bits - 1)
			rc = worker_page(w, at * 64 + __builtin_ctzll(bits));
	}
	return rc;
}

/* Disks first: memory is written faster, so what is sent of it late stays right longer. */
static int worker_round(struct worker *w, const uint64_t *bitmap)
{
	struct mig_source *s = w->s;
	uint64_t frames, groups = (s->page_count + MIG_GROUP_PAGES - 1) / MIG_GROUP_PAGES;
	uint64_t first = s->first_block / MIG_GROUP_PAGES;
	int rc = 0;

	w->pages_sent = w->pages_zero = w->pages_unchanged = 0;
	for (uint64_t n = 0; n < groups && !rc; n++) {
		uint64_t g = (first + n) % groups;

		if (g % s->p.channels == w->index)
			rc = worker_group(w, bitmap, g);
	}
	if (!rc)
		rc = worker_send_chunk(w);
	frames = htole64(w->frames);
	if (!rc)
		rc = mig_chan_send(&w->chan, MIG_FRAME_FLUSH, &frames, sizeof(frames), NULL, 0);
	return rc;
}

/* What was sent before is waited for before the first page of a chunk is taken. */
static int worker_take_page(struct worker *w, size_t at, uint64_t bit)
{
	int rc = w->entry_count ? 0 : source_wait_budget(w->s, 0);

	if (rc || !(atomic_fetch_and(&w->s->missing[at], ~bit) & bit))
		return rc;
	return worker_page(w, at * 64 + (uint64_t)__builtin_ctzll(bit));
}

/* The pages of a group that nobody else has taken to send. */
static int worker_push_group(struct worker *w, uint64_t group)
{
	struct mig_source *s = w->s;
	int rc = 0;

	for (size_t i = 0; i < MIG_GROUP_PAGES / 64 && !rc; i++) {
		size_t at = group * (MIG_GROUP_PAGES / 64) + i;

		while (at < s->words && !rc) {
			uint64_t bits = atomic_load(&s->missing[at]), bit = bits & -bits;

			if (!bits)
				break;
			rc = worker_take_page(w, at, bit);
		}
	}
	return rc;
}

static void worker_wait_until(struct mig_source *s, int64_t ns)
{
	struct timespec t = base_clock_timespec(ns);

	pthread_mutex_lock(&s->lock);
	while (!s->quit && !s->cancelled && !s->error && base_clock_ns() < ns)
		pthread_cond_timedwait(&s->cond, &s->lock, &t);
	pthread_mutex_unlock(&s->lock);
}

/* All that is missing; first what lies where the guest has just asked. */
static int worker_push(struct worker *w)
{
	struct mig_source *s = w->s;
	uint64_t groups = (s->page_count + MIG_GROUP_PAGES - 1) / MIG_GROUP_PAGES, g = w->index;
	uint64_t left = groups / s->p.channels + 1;
	uint64_t frames;
	int rc = 0;

	mig_chan_keep_short(w->chan.fd, true);
	worker_wait_until(s, s->push_ns);
	w->pages_sent = w->pages_zero = w->pages_unchanged = 0;
	for (; left && !rc; left--) {
		uint64_t hint = atomic_exchange(&s->hint[w->index], 0);

		if (hint) {
			g = hint - 1;
			left = groups / s->p.channels + 1;
		}
		if (g >= groups)
			g = w->index;
		rc = source_ending(s) ? -ECANCELED : 0;
		if (!rc && g < groups)
			rc = worker_push_group(w, g);
		g += s->p.channels;
	}
	if (!rc)
		rc = worker_send_chunk(w);
	frames = htole64(w->frames);
	return rc ? rc : mig_chan_send(&w->chan, MIG_FRAME_FLUSH, &frames, sizeof(frames), NULL, 0);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct mig_source *s = w->s;
	int rc = mig_chan_open(&w->chan, s->fds[1 + w->index], &s->p, 1 + w->index, true);

	if (rc)
		source_set_error(s, rc);
	pthread_mutex_lock(&s->lock);
	for (;;) {
		const uint64_t *work;
		bool failed, push;

		while (!s->quit && s->work_number == w->done)
			pthread_cond_wait(&s->cond, &s->lock);
		if (s->quit)
			break;
		w->done = s->work_number;
		push = s->pushing;
		work = s->work;
		failed = s->error != 0;
		pthread_mutex_unlock(&s->lock);
		rc = failed ? -ECANCELED : push ? worker_push(w) : worker_round(w, work);
		if (rc && rc != -ECANCELED)
			source_set_error(s, rc);
		pthread_mutex_lock(&s->lock);
		s->progress.pages_sent += w->pages_sent;
		s->progress.pages_zero += w->pages_zero;
		s->progress.pages_unchanged += w->pages_unchanged;
		s->busy--;
		pthread_cond_broadcast(&s->cond);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

int mig_source_start_workers(struct mig_source *s)
{
	for (; s->started < s->p.channels; s->started++) {
		struct worker *w = &s->workers[s->started];

		w->s = s;
		w->index = s->started;
		w->done = s->work_number;
		w->frames = 0;
		w->entry_count = w->data_count = w->iov_count = 0;
		w->chan.fd = -1;
		if (!w->blocks && s->first_block < s->page_count)
			w->blocks = aligned_alloc(MIG_PAGE_SIZE,
						  (size_t)MIG_CHUNK_PAGES * MIG_PAGE_SIZE);
		if (!w->blocks && s->first_block < s->page_count)
			return -ENOMEM;
		if (pthread_create(&w->thread, NULL, worker_main, w))
			return -EAGAIN;
	}
	return 0;
}

void mig_source_stop_workers(struct mig_source *s, bool lost)
{
	pthread_mutex_lock(&s->lock);
	s->quit = true;
	pthread_cond_broadcast(&s->cond);
	pthread_mutex_unlock(&s->lock);
	for (unsigned i = 0; i < s->started; i++) {
		if (lost)
			shutdown(s->fds[1 + i], SHUT_RDWR);
		pthread_join(s->workers[i].thread, NULL);
	}
	s->started = 0;
}
