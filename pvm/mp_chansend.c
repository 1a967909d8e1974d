/* Sending by shared memory; the other half, and how it works, is mp_chan.c. */
#include <stddef.h>
#include <string.h>

#include "pvm/include/pvm3.h"
#include "pvm/mp_chan.h"
#include "pvm/mp_copy.h"
#include "pvm/mp_globals.h"
#include "pvm/mp_rt.h"
#include "pvm/mp_task.h"

/* 1: there is a channel; 0: by the daemon. */
static int connect_peer(struct mp_peer *p)
{
	struct base_wbuf args, body;
	struct base_rbuf b;
	struct mp_ring *g;
	int tid = p->tid, fd = -1, rc;

	base_wbuf_init(&args, 64);
	base_wbuf_init(&body, 64);
	base_wbuf_u32(&args, (uint32_t)tid);
	rc = mp_rt_call(MP_OP_CONNECT, &args, &body, &fd);
	base_rbuf_init(&b, body.data, body.len);
	p = mp_chan.open ? mp_peer_find(tid) : NULL;
	if (rc < 0 || !p || p->gone || !mp_peer_map(p, fd)) {
		if (p && rc == PvmNoData)
			p->by_daemon = 0; /* not there yet */
		else if (p && rc != PvmSysErr)
			p->refused = true;
		rc = 0;
	} else if (p->slot >= 0) {
		/* A handler sent to it meanwhile: its channel is the one. */
		rc = 1;
	} else {
		p->slot = (int)(base_rbuf_u32(&b) % MP_SLOTS);
		g = mp_seg_ring(p->seg, (uint32_t)p->slot);
		p->key = ((struct mp_seg_head *)p->seg)->key;
		p->head = p->tail_seen = atomic_load(&g->tail) & ~(uint64_t)(MP_CHAN_LINE - 1);
		p->sent_ref = atomic_load(&g->taken);
		rc = 1;
	}
	base_wbuf_fini(&args);
	base_wbuf_fini(&body);
	return rc;
}

/* Records that come soon: their lines are fetched before they are written. Not of one who waits for an answer now. */
static void prefetch_ahead(struct mp_ring *g, uint64_t head)
{
#ifdef __x86_64__
	__asm__ volatile("prefetchw %0" : : "m"(g->data[(head + MP_CHAN_AHEAD) % MP_RING_DATA]));
#else
	__builtin_prefetch(&g->data[(head + MP_CHAN_AHEAD) % MP_RING_DATA], 1);
#endif
}

/* The record at `p->head` is complete but for its stamp. */
static void stamp(struct mp_peer *p, struct mp_ring *g, size_t bytes)
{
	uint64_t at = p->head;

	p->head += bytes;
	atomic_store_explicit(&g->head, p->head, memory_order_release);
	/* Sequential: what publish() looks at comes after it. */
	atomic_store(mp_ring_stamp_at(g, at), p->key + at);
}

static void publish(struct mp_peer *p, size_t bytes)
{
	struct mp_seg_head *h = (struct mp_seg_head *)p->seg;
	struct mp_ring *g = mp_seg_ring(p->seg, (uint32_t)p->slot);
	uint32_t w = (uint32_t)p->slot / 32, bit = 1u << p->slot % 32;

	stamp(p, g, bytes);
	if (mp_chan.sent - mp_chan.sent_at_take > 1)
		prefetch_ahead(g, p->head);
	/* Set already: the receiver has still to clear it, and will look at the ring after that. */
	if (!(atomic_load(&h->dirty[w]) & bit)) {
		atomic_fetch_or(&h->dirty[w], bit);
		if (!(atomic_load(&h->summary) & 1u << w))
			atomic_fetch_or(&h->summary, 1u << w);
	}
	if (atomic_load(&h->asleep))
		mp_peer_ring(p);
	if (atomic_load_explicit(&h->want_poke, memory_order_relaxed) == 1) {
		uint32_t one = 1;
		int32_t tid = p->tid;

		if (atomic_compare_exchange_strong(&h->want_poke, &one, 2) &&
		    mp_rt_notice(MP_C_POKE_TASK, &tid, sizeof(tid)))
			return;
	}
}

/* The program looks at its descriptor again: arm the poke before looking at the rings. */
void mp_chan_poked(void)
{
	uint32_t two = 2;

	if (mp_chan.open)
		atomic_compare_exchange_strong(&mp_chan_self()->want_poke, &two, 1);
}

static bool has_room(struct mp_peer *p, size_t bytes)
{
	struct mp_ring *g = mp_seg_ring(p->seg, (uint32_t)p->slot);
	size_t at = p->head % MP_RING_DATA, to_end = MP_RING_DATA - at;
	size_t need = bytes <= to_end ? bytes : to_end + bytes;

	if (p->head + need - p->tail_seen <= MP_RING_DATA)
		return true;
	p->tail_seen = atomic_load(&g->tail);
	return p->head + need - p->tail_seen <= MP_RING_DATA;
}

static bool may_send(struct mp_peer *p, size_t bytes, uint64_t ref)
{
	struct mp_ring *g = mp_seg_ring(p->seg, (uint32_t)p->slot);

	if (!has_room(p, bytes))
		return false;
	return !ref || p->sent_ref - atomic_load(&g->taken) <= MP_CHAN_WINDOW;
}

/*
 * Waits until the receiver has made room. Takes in what arrives for us, so that two that send to
 * each other both go on. 0, 1 when the receiver is dead, or PvmSysErr.
 */
static int await_room(struct mp_peer *p, size_t bytes, uint64_t ref)
{
	struct mp_ring *g = mp_seg_ring(p->seg, (uint32_t)p->slot);
	int rc = 0;

	if (may_send(p, bytes, ref))
		return 0;
	p->refs++;
	while (!rc && !p->gone && !may_send(p, bytes, ref)) {
		uint32_t bell = mp_chan_bell();

		atomic_store(&g->want, 1);
		if (may_send(p, bytes, ref))
			break;
		rc = mp_rt_take();
		if (!rc && mp_chan.open && !p->gone && !may_send(p, bytes, ref))
			mp_chan_sleep(bell, -1);
	}
	rc = rc ? rc : p->gone;
	mp_peer_unref(p);
	return rc;
}

/* All but the stamp, for which nothing must be there yet. Where the body goes. */
static uint8_t *record_put(struct mp_ring *g, uint64_t at, const struct mp_record *r)
{
	uint8_t *to = g->data + at % MP_RING_DATA;

	memcpy(to + sizeof(r->stamp), &r->bytes, sizeof(*r) - offsetof(struct mp_record, bytes));
	return to + sizeof(*r);
}

/* Puts the head of the next record; room is there. Where the body goes. */
static uint8_t *record_begin(struct mp_peer *p, const struct mp_record *r)
{
	struct mp_ring *g = mp_seg_ring(p->seg, (uint32_t)p->slot);
	size_t to_end = MP_RING_DATA - p->head % MP_RING_DATA;

	if (r->bytes > to_end) {
		struct mp_record skip = {.kind = K_SKIP, .bytes = (uint32_t)to_end};

		record_put(g, p->head, &skip);
		stamp(p, g, to_end);
	}
	return record_put(g, p->head, r);
}

static size_t record_bytes(size_t len)
{
	return (sizeof(struct mp_record) + len + MP_CHAN_LINE - 1) & ~(size_t)(MP_CHAN_LINE - 1);
}

static struct mp_record record_of(const struct mp_msghdr *h, enum mp_record_kind kind, size_t len)
{
	return (struct mp_record){.bytes = (uint32_t)record_bytes(len),
				  .kind = (uint16_t)kind,
				  .tag = h->tag,
				  .ctx = h->ctx,
				  .enc = h->enc,
				  .wid = h->wid,
				  .crc = h->crc,
				  .len = (uint32_t)len,
				  .total = h->total};
}

/* One record with the body's bytes [off, off + len). */
static int put_bytes(struct mp_peer *p, const struct mp_msg *m, const struct mp_msghdr *h,
		     enum mp_record_kind kind, size_t off, size_t len)
{
	struct mp_record r = record_of(h, kind, len);
	int rc = await_room(p, r.bytes, 0);
	uint8_t *at;

	if (rc)
		return rc;
	at = record_begin(p, &r);
	if (len)
		mp_msg_copy_out(m, off, at, len);
	publish(p, r.bytes);
	return 0;
}

static int put_ref(struct mp_peer *p, const struct mp_msghdr *h, uint64_t off, uint64_t len,
		   uint32_t lease)
{
	struct mp_ref ref = {.off = off, .lease = lease};
	struct mp_record r = record_of(h, K_REF, sizeof(ref));

	r.total = len;
	memcpy(record_begin(p, &r), &ref, sizeof(ref));
	p->sent_ref += len;
	publish(p, r.bytes);
	return 0;
}

static int put_inline(struct mp_peer *p, const struct mp_msg *m, const struct mp_msghdr *h,
		      size_t off, size_t len)
{
	int rc = 0;

	while (!rc && len) {
		size_t part = BASE_MIN(len, (size_t)MP_CHAN_PART_MAX);

		rc = put_bytes(p, m, h, K_INLINE, off, part);
		off += part;
		len -= part;
	}
	return rc;
}

/* Memory of the program: copied to the heap while the receiver already reads. */
static int put_copied(struct mp_peer *p, const struct mp_msg *m, const struct mp_msghdr *h,
		      const uint8_t *data, size_t at, size_t len)
{
	int rc = await_room(p, record_bytes(sizeof(struct mp_ref)), len), lease;
	uint8_t *b;
	uint64_t off;

	if (rc)
		return rc;
	b = mp_block_alloc(len);
	if (!b || !mp_heap_offset(b, len, &off) || (lease = mp_heap_lease(off, p->tid, 0)) < 0) {
		mp_block_free(b);
		return put_inline(p, m, h, at, len);
	}
	rc = put_ref(p, h, off, len, (uint32_t)lease);
	for (size_t n = 0; n < len;) {
		size_t part = BASE_MIN(len - n, (size_t)MP_CHAN_COPY_STEP);

		mp_copy_shared(b + n, data + n, part);
		n += part;
		atomic_store_explicit(&mp_seg_lease(mp_heap_seg(), (uint32_t)lease)->filled, n,
				      memory_order_release);
	}
	mp_block_free(b);
	return rc;
}

static int put_segment(struct mp_peer *p, const struct mp_msg *m, const struct mp_msghdr *h,
		       const struct mp_seg *s, size_t at)
{
	uint64_t off;
	int lease, rc;

	if (s->len < MP_SHM_MIN ||
	    !(p->by_ref || atomic_load(&mp_seg_ring(p->seg, (uint32_t)p->slot)->ready)))
		return put_inline(p, m, h, at, s->len);
	if (!s->block || !mp_heap_offset(s->data, s->len, &off))
		return put_copied(p, m, h, s->data, at, s->len);
	rc = await_room(p, record_bytes(sizeof(struct mp_ref)), s->len);
	if (rc)
		return rc;
	lease = mp_heap_lease(off, p->tid, s->len);
	if (lease < 0)
		return put_inline(p, m, h, at, s->len);
	return put_ref(p, h, off, s->len, (uint32_t)lease);
}

static int send_parts(struct mp_peer *p, const struct mp_msg *m, const struct mp_msghdr *h)
{
	int rc = put_bytes(p, m, h, K_HEAD, 0, 0);
	size_t at = 0;

	for (unsigned i = 0; !rc && i < m->seg_count; i++) {
		rc = put_segment(p, m, h, &m->segs[i], at);
		at += m->segs[i].len;
	}
	return rc;
}

int mp_chan_send(int dst, const struct mp_msg *m, const struct mp_msghdr *h)
{
	struct mp_peer *p;
	int rc;

	if (!mp_chan.open || mp_tid_host(dst) != mp_tid_host(pvmmytid) || !mp_tid_is_task(dst))
		return 0;
	p = mp_peer_get(dst);
	if (!p)
		return 0;
	if (p->slot < 0) {
		if (p->refused || (p->by_daemon++ == 0 && h->total < MP_CHAN_DIRECT_MIN))
			return 0;
		rc = connect_peer(p);
		if (rc <= 0)
			return rc;
		p = mp_peer_find(dst);
		if (!p)
			return 0;
	}
	mp_chan.sent++;
	p->refs++;
	rc = h->total <= MP_CHAN_WHOLE_MAX ? put_bytes(p, m, h, K_WHOLE, 0, (size_t)h->total)
					   : send_parts(p, m, h);
	mp_peer_unref(p);
	/* A dead receiver is no error, as in the original. */
	return rc < 0 ? rc : 1;
}
