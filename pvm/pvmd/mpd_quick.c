/* Small calls of tasks by the shared memory; see wire/mp_seg.h. */
#include <pvm3.h>
#include <string.h>

#include "pvm/pvmd/mpd.h"

void mpd_quick_call(struct mpd_task *t)
{
	struct mpd_from from = {.tid = t->tid, .serial = t->serial, .quick = true};
	struct mp_quick *q = t->seg ? &t->seg->quick : NULL;
	uint32_t len, asked = MP_QUICK_ASKED;
	uint8_t call[MP_QUICK_MAX];
	struct base_rbuf b;
	uint16_t op;

	/* Once, however often we are told of it. */
	if (!q || !atomic_compare_exchange_strong(&q->state, &asked, MP_QUICK_TAKEN))
		return;
	from.req = q->req;
	len = *(volatile uint32_t *)&q->len;
	if (len > sizeof(call))
		return;
	/* A copy: it could change under our hands. */
	memcpy(call, q->data, len);
	base_rbuf_init(&b, call, len);
	op = base_rbuf_u16(&b);
	t->pd->calls_served++;
	if (mp_op_is_quick(op))
		mpd_call_serve(t->pd, &from, op, &b);
	else
		mpd_call_reply(t->pd, &from, PvmBadParam, NULL, -1);
}

/* NULL: it is gone, or has no socket. */
static struct mpd_task *task_still(const struct mpd *pd, int32_t tid, uint64_t serial)
{
	struct mpd_task *t = mpd_task_get(pd, tid);

	return t && t->serial == serial && t->conn ? t : NULL;
}

static void serve(struct mpd *pd, int32_t tid)
{
	struct mpd_task *t = mpd_task_get(pd, tid);
	uint64_t serial = t ? t->serial : 0;

	t = task_still(pd, tid, serial);
	/* What it said before by its socket comes first. */
	while (t && !t->conn->paused && mpd_conn_read_rest(t->conn))
		t = task_still(pd, tid, serial);
	t = task_still(pd, tid, serial);
	if (t)
		mpd_quick_call(t);
}

void mpd_quick_serve(struct mpd *pd)
{
	struct mp_host_page *page = pd->page;
	uint32_t groups = atomic_load(&page->asked_any) ? atomic_exchange(&page->asked_any, 0) : 0;

	while (groups) {
		uint32_t g = (uint32_t)__builtin_ctz(groups);

		groups &= groups - 1;
		for (uint32_t i = g * MP_QUICK_GROUP; i < (g + 1) * MP_QUICK_GROUP; i++)
			if (atomic_load(&page->asked[i]))
				serve(pd, atomic_exchange(&page->asked[i], 0));
	}
}

bool mpd_quick_news(const struct mpd *pd)
{
	return atomic_load_explicit(&pd->page->asked_any, memory_order_acquire) != 0;
}

bool mpd_quick_answer(struct mpd_task *t, uint32_t req, const struct base_wbuf *b)
{
	struct mp_quick *q;

	if (!t->seg || b->len > MP_QUICK_MAX)
		return false;
	q = &t->seg->quick;
	if (atomic_load(&q->state) != MP_QUICK_TAKEN || q->req != req)
		return false;
	memcpy(q->data, b->data, b->len);
	q->len = (uint32_t)b->len;
	atomic_store(&q->state, MP_QUICK_ANSWERED);
	mp_seg_ring_bell(t->seg);
	/* The bell does not wake one that waits for connections as well. */
	if (atomic_load(&t->seg->asleep) == 2)
		mpd_task_ctl(t, MP_C_POKE, NULL, 0, -1);
	return true;
}
