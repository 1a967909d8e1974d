/* See mp_shared.h. */
#include "pvm/mp_shared.h"

#include <string.h>

#include "pvm/include/pvm3.h"
#include "pvm/mp_chan.h"
#include "pvm/mp_globals.h"
#include "pvm/mp_rt.h"
#include "pvm/mp_task.h"

enum { LOOKS = 100 };

int mp_shared_new(size_t bytes)
{
	int mid = mp_api_mkbuf(PvmDataRaw), rc;
	struct mp_block *b;
	struct mp_msg *m;

	if (mid < 0)
		return mid;
	m = mp_mid_get(mid);
	b = mp_block_new(BASE_MAX(bytes, (size_t)MP_CHAN_WHOLE_MAX + 1));
	rc = b ? 0 : PvmNoMem;
	if (!rc) {
		memset(b->data, 0, b->cap);
		rc = mp_msg_append_block(m, b, 0, b->cap);
	}
	if (!rc)
		return mid;
	if (b)
		mp_block_unref(b);
	mp_mid_free(mid);
	return rc;
}

int mp_shared_send(int mid, int tid, int tag)
{
	struct mp_peer *p = mp_chan.open ? mp_peer_get(tid) : NULL;
	struct mp_msg *m = mp_mid_get(mid);
	int rc;

	if (!m)
		return PvmNoSuchBuf;
	if (p) {
		/* The first message to somebody goes by the daemon, which makes a copy. */
		p->by_daemon = BASE_MAX(p->by_daemon, 1u);
		p->by_ref = true;
		p->refs++;
	}
	rc = mp_rt_send(tid, m, tag);
	if (p) {
		p->by_ref = false;
		mp_peer_unref(p);
	}
	return rc;
}

void *mp_shared_keep(int mid, size_t bytes, struct mp_msg **keep)
{
	struct mp_msg *m = mp_mid_get(mid);
	uint64_t off;

	if (!m || m->seg_count != 1 || !m->segs[0].block || m->segs[0].len < bytes)
		return NULL;
	/* What has come in pieces may lie in our own segment, too. */
	if (m->head.src == pvmmytid ? !mp_heap_offset(m->segs[0].data, m->segs[0].len, &off)
				    : !mp_chan_is_foreign(m->segs[0].block))
		return NULL;
	mp_msg_ref(m);
	*keep = m;
	return m->segs[0].data;
}

void mp_shared_drop(struct mp_msg *keep)
{
	mp_msg_unref(keep);
}

unsigned mp_shared_arrivals(void)
{
	return mp_rt.arrivals;
}

static bool changed(const struct mp_shared_word *w, uint32_t seen)
{
	return atomic_load_explicit(&w->value, memory_order_acquire) != seen;
}

static int await(struct mp_shared_word *w, uint32_t seen)
{
	unsigned before = mp_rt.arrivals;

	for (;;) {
		uint32_t bell = mp_chan_bell();
		int rc = mp_rt_pump(0);

		if (rc || changed(w, seen) || mp_rt.arrivals != before)
			return rc;
		/* A message handler must not see it. */
		mp_chan.word = (struct mp_chan_word){w, seen};
		mp_chan_sleep(bell, -1);
		mp_chan.word.at = NULL;
	}
}

int mp_shared_await(struct mp_shared_word *w, uint32_t seen)
{
	for (int i = 0; !mp_chan_crowded() && i < LOOKS; i++) {
		if (changed(w, seen))
			return 0;
		__builtin_ia32_pause();
	}
	return await(w, seen);
}

bool mp_shared_tell(struct mp_shared_word *w, uint32_t value)
{
	atomic_store(&w->value, value);
	if (atomic_load(&w->asleep))
		mp_futex_wake(&w->value);
	return atomic_load(&w->by_message) > 0;
}

unsigned mp_shared_cores(void)
{
	return mp_chan.open && mp_chan.page ? BASE_MAX(mp_chan.page->cores, 1u) : 1;
}
