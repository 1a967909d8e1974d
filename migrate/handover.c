/*
 * The hand-over at the source: from the pause of the guest to the destination's word that it runs there. The
 * steps and their one commit point stand in fsm.h; all of it is downtime.
 */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/sched.h"
#include "migrate/source.h"

enum { RESENDS_MAX = 8 /* times that damaged pages are sent again before giving up */ };

static uint64_t handover_digest(const struct mig_source *s)
{
	uint64_t d = 0;

	for (unsigned i = 0; i < s->p.channels; i++)
		d ^= s->workers[i].digest;
	return d;
}

static int handover_send_prepare(struct mig_source *s, const struct base_wbuf *state)
{
	struct iovec data = {state->data, state->len};
	uint64_t meta[4] = {htole64(handover_digest(s)),
			    htole64(mig_block_hash(state->data, state->len)),
			    htole64(s->work_number), htole64(1)};

	return mig_chan_send(&s->control, MIG_FRAME_PREPARE, meta,
			     s->missing ? sizeof(meta) : sizeof(meta) - 8, &data, 1);
}

/* The destination found pages whose bytes did not match: sends them again. */
static int handover_resend(struct mig_source *s, const struct mig_head *h, uint64_t *bitmap)
{
	const uint8_t *list = s->control.meta;

	memset(bitmap, 0, s->words * sizeof(uint64_t));
	for (uint32_t i = 0; i < h->meta_len / 8; i++) {
		uint64_t index;

		memcpy(&index, list + i * 8, 8);
		index = le64toh(index);
		if (index >= s->page_count)
			return -EBADMSG;
		bitmap[index / 64] |= UINT64_C(1) << (index % 64);
	}
	pthread_mutex_lock(&s->lock);
	s->progress.pages_resent += h->meta_len / 8;
	pthread_mutex_unlock(&s->lock);
	return mig_source_send_pages(s, bitmap, true);
}

static int handover_wait_ready(struct mig_source *s, uint64_t *bitmap,
			       const struct base_wbuf *state)
{
	for (int tries = 0; tries <= RESENDS_MAX; tries++) {
		struct mig_head h;
		int rc = handover_send_prepare(s, state);

		if (!rc)
			rc = mig_serve_recv(s, &h);
		if (rc)
			return rc;
		if (h.type == MIG_FRAME_READY)
			return 0;
		if (h.type != MIG_FRAME_RESEND)
			return -EBADMSG;
		rc = handover_resend(s, &h, bitmap);
		if (rc)
			return rc;
	}
	mig_source_fail(s, "the connection damages data: pages still differ after %d tries",
			RESENDS_MAX);
	return -EIO;
}

/* Where the downtime goes. */
enum stand { STAND_PAUSE, STAND_DIRTY, STAND_PAGES, STAND_SAVE, STAND_LOAD, STAND_COMMIT, STANDS };

struct stood {
	int64_t last_ns, ns[STANDS];
};

static void stood_for(struct stood *t, enum stand what)
{
	int64_t now = base_clock_ns();

	t->ns[what] = now - t->last_ns;
	t->last_ns = now;
}

static void stood_log(const struct stood *t)
{
	log_info(
		"migration: the guest stood %.1f ms for the pause, %.1f for the dirty log, %.1f for "
		"the last pages, %.1f for its state, %.1f until that was loaded, %.1f until it ran",
		(double)t->ns[STAND_PAUSE] / 1e6, (double)t->ns[STAND_DIRTY] / 1e6,
		(double)t->ns[STAND_PAGES] / 1e6, (double)t->ns[STAND_SAVE] / 1e6,
		(double)t->ns[STAND_LOAD] / 1e6, (double)t->ns[STAND_COMMIT] / 1e6);
}

static int handover_final(struct mig_source *s, uint64_t *bitmap, struct base_wbuf *state,
			  struct stood *t)
{
	int rc = s->ops->dirty_last ? s->ops->dirty_last(s->guest, bitmap)
				    : s->ops->dirty_fetch(s->guest, bitmap);

	stood_for(t, STAND_DIRTY);
	if (!rc)
		rc = s->missing ? mig_serve_announce(s, bitmap)
				: mig_source_send_pages(s, bitmap, false);
	stood_for(t, STAND_PAGES);
	if (!rc)
		rc = s->ops->save(s->guest, state);
	if (!rc)
		rc = state->error;
	stood_for(t, STAND_SAVE);
	return rc;
}

/* From COMMIT on; the guest is paused and only the destination's word counts. */
static int handover_commit(struct mig_source *s)
{
	struct mig_head h;
	int rc = mig_source_event(s, MIG_EV_RX_READY);

	if (!rc && s->missing)
		rc = mig_serve_hot(s);
	if (!rc)
		rc = mig_serve_recv(s, &h);
	if (!rc && h.type != MIG_FRAME_RUNNING)
		rc = -EBADMSG;
	if (!rc)
		return mig_source_event(s, MIG_EV_RX_RUNNING);
	/* Whatever it was, COMMIT may have arrived. */
	mig_source_fail(s, "the connection broke while the guest was handed over (%s)",
			strerror(-rc));
	(void)!mig_source_event(s, rc == -ECONNABORTED ? MIG_EV_RX_ABORT : MIG_EV_LINK_LOST);
	return s->fsm.state == MIG_SRC_DOUBT ? -EINPROGRESS : rc;
}

int mig_handover_run(struct mig_source *s, uint64_t *bitmap)
{
	struct base_wbuf state;
	int64_t paused_ns = base_clock_ns();
	struct stood t = {.last_ns = paused_ns};
	int rc;

	/* From here on a guest waits for this thread. */
	base_sched_wake_soon();
	rc = s->ops->pause(s->guest);

	stood_for(&t, STAND_PAUSE);
	base_wbuf_init(&state, MIG_STATE_MAX);
	if (!rc)
		rc = mig_source_event(s, s->missing ? MIG_EV_SWITCH_POSTCOPY : MIG_EV_SWITCH);
	if (!rc)
		rc = handover_final(s, bitmap, &state, &t);
	if (!rc)
		rc = mig_source_event(s, MIG_EV_FINAL_SENT);
	if (!rc)
		rc = handover_wait_ready(s, bitmap, &state);
	stood_for(&t, STAND_LOAD);
	if (!rc)
		rc = handover_commit(s);
	stood_for(&t, STAND_COMMIT);
	if (!rc)
		stood_log(&t);
	base_wbuf_fini(&state);
	pthread_mutex_lock(&s->lock);
	s->progress.downtime_ns = base_clock_ns() - paused_ns;
	pthread_mutex_unlock(&s->lock);
	return rc;
}
