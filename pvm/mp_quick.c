/* Small calls to a daemon that is awake, by the shared memory; see wire/mp_seg.h. */
#include <string.h>

#include "pvm/mp_chan.h"
#include "pvm/mp_globals.h"
#include "pvm/mp_rt.h"

static struct mp_quick *mine(void)
{
	return &mp_chan_self()->quick;
}

static bool enter(struct mp_host_page *page)
{
	uint32_t i = (uint32_t)pvmmytid % MP_QUICK_ASKERS;
	int32_t nobody = 0;

	if (!atomic_compare_exchange_strong(&page->asked[i], &nobody, pvmmytid))
		return false;
	atomic_fetch_or(&page->asked_any, 1u << i / MP_QUICK_GROUP);
	return true;
}

bool mp_quick_ask(uint16_t op, uint32_t req, const struct base_wbuf *args)
{
	struct mp_host_page *page = mp_chan.open ? mp_chan.page : NULL;
	struct mp_quick *q;

	if (!page || mp_chan.asked || args->len > MP_QUICK_MAX - sizeof(op) ||
	    !atomic_load(&page->looking))
		return false;
	q = mine();
	memcpy(q->data, &op, sizeof(op));
	memcpy(q->data + sizeof(op), args->data, args->len);
	q->req = req;
	q->len = (uint32_t)(sizeof(op) + args->len);
	atomic_store(&q->state, MP_QUICK_ASKED);
	if (!enter(page)) {
		atomic_store(&q->state, MP_QUICK_FREE);
		return false;
	}
	mp_chan.asked = true;
	return true;
}

bool mp_quick_unseen(void)
{
	return mp_chan.asked && mp_chan.page && !atomic_load(&mp_chan.page->looking) &&
	       atomic_load(&mine()->state) == MP_QUICK_ASKED;
}

bool mp_quick_answer(uint32_t *req, struct base_rbuf *out)
{
	struct mp_quick *q;
	uint32_t len;

	if (!mp_chan.asked)
		return false;
	q = mine();
	if (atomic_load(&q->state) != MP_QUICK_ANSWERED)
		return false;
	len = q->len;
	*req = q->req;
	base_rbuf_init(out, q->data, BASE_MIN(len, (uint32_t)MP_QUICK_MAX));
	return true;
}

void mp_quick_end(void)
{
	if (mp_chan.asked)
		atomic_store(&mine()->state, MP_QUICK_FREE);
	mp_chan.asked = false;
}
