/* Receiving by shared memory; how it works is in mp_chan.c. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "pvm/include/pvm3.h"
#include "pvm/mp_chan.h"
#include "pvm/mp_copy.h"
#include "pvm/mp_globals.h"
#include "pvm/mp_rt.h"
#include "pvm/mp_task.h"

/* A body in another task's segment. It may still be on its way: the sender copies it in steps and
 * says how far it is; mp_chan_filled() waits for that. */
struct foreign {
	struct mp_peer *peer;
	uint32_t lease;
	uint64_t total;
	unsigned generation; /* of forks: in a child the parent's leases are not ours to return */
};

static unsigned generation;

void mp_chan_forked(void)
{
	generation++;
	if (mp_chan.page)
		munmap(mp_chan.page, MP_SEG_HEAD);
	mp_chan.page = NULL;
}

static void lease_return(struct mp_peer *p, uint32_t lease)
{
	struct mp_seg_head *h = (struct mp_seg_head *)p->seg;

	atomic_store_explicit(&mp_seg_lease(p->seg, lease)->held, 0, memory_order_release);
	atomic_fetch_add_explicit(&h->returned, 1, memory_order_release);
}

static void foreign_free(struct mp_block *b)
{
	struct foreign *f = b->owner;

	if (f->generation == generation)
		lease_return(f->peer, f->lease);
	mp_peer_unref(f->peer);
	free(f);
	free(b);
}

bool mp_chan_is_foreign(const struct mp_block *b)
{
	return b->free_fn == foreign_free;
}

static struct mp_block *foreign_new(struct mp_peer *p, const struct mp_ref *r, uint64_t total)
{
	struct mp_block *b = malloc(sizeof(*b));
	struct foreign *f = malloc(sizeof(*f));

	if (!b || !f) {
		free(b);
		free(f);
		return NULL;
	}
	*f = (struct foreign){p, r->lease, total, generation};
	*b = (struct mp_block){.refs = 1,
			       .data = p->seg + r->off,
			       .cap = (size_t)total,
			       .free_fn = foreign_free,
			       .owner = f};
	p->refs++;
	return b;
}

static bool alive(const struct mp_peer *p)
{
	const struct mp_seg_head *h = (const struct mp_seg_head *)p->seg;
	int pid = (int)h->pid;

	return !p->gone && pid > 0 && (!kill(pid, 0) || errno != ESRCH);
}

/* Until `n` bytes are there; false when the sender died before. */
static bool await_filled(const struct foreign *f, uint64_t n)
{
	struct mp_lease *l = mp_seg_lease(f->peer->seg, f->lease);
	unsigned turns = 0;

	while (atomic_load_explicit(&l->filled, memory_order_acquire) < n) {
		if (++turns % 4096 == 0) {
			if (!alive(f->peer))
				return false;
			sched_yield();
		}
		__builtin_ia32_pause();
	}
	return true;
}

bool mp_chan_filled(const struct mp_msg *m)
{
	for (unsigned i = 0; i < m->seg_count; i++) {
		const struct mp_block *b = m->segs[i].block;

		if (b && b->free_fn == foreign_free &&
		    !await_filled(b->owner, ((struct foreign *)b->owner)->total))
			return false;
	}
	return true;
}

bool mp_chan_copy_out(const struct mp_msg *m, void *dst, size_t len)
{
	uint8_t *to = dst;

	for (unsigned i = 0; i < m->seg_count && len; i++) {
		const struct mp_seg *s = &m->segs[i];
		bool foreign = s->block && s->block->free_fn == foreign_free;

		for (size_t at = 0; at < s->len && len;) {
			size_t part = BASE_MIN(s->len - at, len);

			if (foreign)
				part = BASE_MIN(part, (size_t)MP_CHAN_COPY_STEP);
			if (foreign && !await_filled(s->block->owner, at + part))
				return false;
			/* pvm_precv: it came to its place at once. */
			if (to != s->data + at)
				mp_copy(to, s->data + at, part);
			to += part;
			at += part;
			len -= part;
		}
	}
	return true;
}

static void head_of(struct mp_msg *m, const struct mp_peer *p, const struct mp_record *r)
{
	m->head = (struct mp_head){.enc = r->enc,
				   .tag = r->tag,
				   .ctx = r->ctx,
				   .src = p->tid,
				   .dst = pvmmytid,
				   .wid = r->wid,
				   .crc = r->crc};
}

static void take_whole(struct mp_peer *p, const struct mp_record *r, const uint8_t *body)
{
	struct mp_msg *m = mp_msg_new(r->enc);

	if (!m || mp_msg_append(m, body, r->len)) {
		pvmlogprintf("no memory: a message from t%x is lost\n", (unsigned)p->tid);
		mp_msg_unref(m);
		return;
	}
	head_of(m, p, r);
	mp_rt_arrived(m);
}

static void part_done(struct mp_peer *p, uint64_t n)
{
	p->partial_left -= n;
	if (p->partial_left)
		return;
	mp_rt_arrived(p->partial);
	p->partial = NULL;
}

static void partial_fail(struct mp_peer *p)
{
	pvmlogprintf("a message from t%x is lost: no memory, or it is not valid\n",
		     (unsigned)p->tid);
	mp_msg_unref(p->partial);
	p->partial = NULL;
}

static void take_ref(struct mp_peer *p, const struct mp_record *r, const uint8_t *body)
{
	struct mp_ref ref;
	struct mp_block *b;

	if (r->len != sizeof(ref))
		return;
	memcpy(&ref, body, sizeof(ref));
	if (!p->seg || ref.lease >= MP_LEASES || ref.off < MP_HEAP_AT || ref.off >= MP_SEG_BYTES ||
	    r->total > MP_SEG_BYTES - ref.off)
		return;
	if (!p->partial || r->total > p->partial_left) {
		lease_return(p, ref.lease);
		if (p->partial)
			partial_fail(p);
		return;
	}
	b = foreign_new(p, &ref, r->total);
	if (!b || mp_msg_append_block(p->partial, b, 0, (size_t)r->total)) {
		if (b)
			mp_block_unref(b);
		else
			lease_return(p, ref.lease);
		partial_fail(p);
		return;
	}
	part_done(p, r->total);
}

static void take_record(struct mp_peer *p, const struct mp_record *r, const uint8_t *body)
{
	switch (r->kind) {
	case K_WHOLE: take_whole(p, r, body); break;
	case K_HEAD:
		mp_msg_unref(p->partial);
		p->partial = r->total ? mp_msg_new(r->enc) : NULL;
		p->partial_left = r->total;
		if (p->partial)
			head_of(p->partial, p, r);
		break;
	case K_INLINE:
		if (!p->partial)
			break;
		if (r->len > p->partial_left || mp_msg_append(p->partial, body, r->len))
			partial_fail(p);
		else
			part_done(p, r->len);
		break;
	case K_REF: take_ref(p, r, body); break;
	default: break;
	}
}

/* A copy: the sender could change it under our hands. False: it makes no sense. */
static bool record_read(const uint8_t *at, size_t to_end, struct mp_record *r)
{
	memcpy(&r->bytes, at + sizeof(r->stamp), sizeof(*r) - offsetof(struct mp_record, bytes));
	return r->bytes >= sizeof(*r) && r->bytes % MP_CHAN_LINE == 0 && r->bytes <= to_end &&
	       r->len <= r->bytes - sizeof(*r);
}

/* What it says next may make sense again. */
static void ring_skip(struct mp_peer *p, const struct mp_ring *g)
{
	uint64_t head = atomic_load(&g->head);

	pvmlogprintf("t%x wrote nonsense: its channel is emptied\n", (unsigned)p->tid);
	p->lost = head % MP_CHAN_LINE || head - p->tail - 1 >= MP_RING_DATA;
	if (!p->lost)
		p->tail = head;
}

static bool ring_news(struct mp_ring *g, const struct mp_peer *p)
{
	return atomic_load_explicit(mp_ring_stamp_at(g, p->tail), memory_order_acquire) ==
		       mp_chan.key + p->tail &&
	       !p->lost;
}

/* The sender may wait for room. */
static void tell_tail(struct mp_peer *p, struct mp_ring *g)
{
	p->tail_told = p->tail;
	atomic_store(&g->tail, p->tail);
	if (atomic_load(&g->want) && atomic_exchange(&g->want, 0) && p->seg)
		mp_peer_ring(p);
}

static void announce(uint32_t slot)
{
	atomic_fetch_or(&mp_chan_self()->dirty[slot / 32], 1u << slot % 32);
	atomic_fetch_or(&mp_chan_self()->summary, 1u << slot / 32);
}

/* `p` is the hot one. */
static void hot_at(const struct mp_peer *p, struct mp_ring *g)
{
	mp_chan.hot_at = mp_ring_stamp_at(g, p->tail);
	mp_chan.hot_stamp = mp_chan.key + p->tail;
}

/* At most `max` records, then the slot is announced again. */
static int ring_take(struct mp_peer *p, uint32_t slot, int max)
{
	struct mp_ring *g = mp_seg_ring(mp_heap_seg(), slot);
	bool tell = false;
	int n = 0;

	for (; n < max && ring_news(g, p); n++) {
		size_t at = p->tail % MP_RING_DATA;
		struct mp_record r;

		if (!record_read(g->data + at, MP_RING_DATA - at, &r)) {
			ring_skip(p, g);
			tell = true;
			continue;
		}
		/* The sender goes on in it soon, so here it may be the last look. */
		__builtin_prefetch(g->data + (at + r.bytes) % MP_RING_DATA);
		take_record(p, &r, g->data + at + sizeof(r));
		p->tail += r.bytes;
		if (p->tail - p->tail_told >= MP_CHAN_TAIL_LATE) {
			atomic_store_explicit(&g->tail, p->tail, memory_order_release);
			p->tail_told = p->tail;
			tell = true;
		}
		if (r.kind == K_REF) {
			atomic_fetch_add_explicit(&g->taken, r.total, memory_order_release);
			tell = true;
		}
	}
	if (tell)
		tell_tail(p, g);
	mp_chan.sent_at_take = mp_chan.sent;
	if (mp_chan.hot == (int)slot)
		hot_at(p, g);
	else if (n == max)
		announce(slot);
	return n;
}

bool mp_chan_cool(void)
{
	int slot = mp_chan.hot;

	mp_chan.warm = -1;
	if (slot < 0)
		return false;
	mp_chan.hot = -1;
	atomic_fetch_and(&mp_chan_self()->dirty[slot / 32], ~(1u << slot % 32));
	/* What its sender announced by the stamp alone. */
	if (atomic_load(mp_chan.hot_at) != mp_chan.hot_stamp)
		return false;
	announce((uint32_t)slot);
	return true;
}

/* The slot was just taken. */
static void warm_up(uint32_t slot)
{
	struct mp_peer *p = mp_chan_by_slot[slot];

	if (mp_chan.warm != (int)slot || p->lost) {
		mp_chan.warm = (int)slot;
		return;
	}
	mp_chan_cool();
	hot_at(p, mp_seg_ring(mp_heap_seg(), slot));
	mp_chan.hot = (int)slot;
	atomic_fetch_or(&mp_chan_self()->dirty[slot / 32], 1u << slot % 32);
}

static int poll_word(uint32_t w, int max)
{
	uint32_t stay = mp_chan.hot / 32 == (int)w && mp_chan.hot >= 0 ? 1u << mp_chan.hot % 32 : 0;
	uint32_t bits = atomic_fetch_and(&mp_chan_self()->dirty[w], stay) & ~stay, later = 0;
	int n = 0;

	while (bits) {
		uint32_t i = (uint32_t)__builtin_ctz(bits), slot = w * 32 + i;

		bits &= bits - 1;
		/* The news of who that is may still be in the socket. */
		if (!mp_chan_by_slot[slot]) {
			later |= 1u << i;
			continue;
		}
		n += ring_take(mp_chan_by_slot[slot], slot, max);
		if (mp_chan_by_slot[slot])
			warm_up(slot);
	}
	if (later) {
		atomic_fetch_or(&mp_chan_self()->dirty[w], later);
		mp_chan.stale |= 1u << w;
	}
	return n;
}

int mp_chan_poll(bool all)
{
	/* A sender that goes on meanwhile is not followed for ever. */
	int max = all ? MP_RING_DATA / MP_CHAN_LINE : MP_CHAN_HANDFUL, n = 0;
	uint32_t words;

	if (!mp_chan.open || mp_chan.in_poll)
		return 0;
	mp_chan.in_poll = true;
	if (mp_chan_hot_news()) {
		n = ring_take(mp_chan_by_slot[mp_chan.hot], (uint32_t)mp_chan.hot, max);
		mp_chan.warm = -1;
	}
	words = atomic_load(&mp_chan_self()->summary) ? atomic_exchange(&mp_chan_self()->summary, 0)
						      : 0;
	while (words) {
		uint32_t w = (uint32_t)__builtin_ctz(words);

		words &= words - 1;
		n += poll_word(w, max);
	}
	mp_chan.in_poll = false;
	return n;
}

/* Slots whose owner was not known at the last poll: looked at again once more is known. */
static void poll_stale(void)
{
	if (!mp_chan.stale)
		return;
	atomic_fetch_or(&mp_chan_self()->summary, mp_chan.stale);
	mp_chan.stale = 0;
}

void mp_chan_peer(uint32_t slot, int tid, int fd)
{
	struct mp_peer *p = mp_chan.open && slot < MP_SLOTS ? mp_peer_get(tid) : NULL;
	struct mp_ring *g;

	if (!p) {
		if (fd >= 0)
			close(fd);
		return;
	}
	g = mp_seg_ring(mp_heap_seg(), slot);
	/* Without room for its segment bodies come through the ring: slow, not lost. */
	atomic_store(&g->ready, mp_peer_map(p, fd));
	if (p->in_slot >= 0)
		mp_chan_by_slot[p->in_slot] = NULL;
	p->in_slot = (int)slot;
	p->lost = false;
	p->tail = p->tail_told = atomic_load(&g->tail) & ~(uint64_t)(MP_CHAN_LINE - 1);
	mp_chan_by_slot[slot] = p;
	poll_stale();
	announce(slot);
}

void mp_chan_peer_gone(int tid, int slot)
{
	struct mp_peer *p = mp_chan.open ? mp_peer_find(tid) : NULL;
	struct mp_ring *g;

	if (!p)
		return;
	/* What it sent before its end still counts. */
	if (slot >= 0 && slot < MP_SLOTS && mp_chan_by_slot[slot] == p) {
		if (mp_chan.hot == slot)
			mp_chan_cool();
		ring_take(p, (uint32_t)slot, MP_RING_DATA / MP_CHAN_LINE);
		g = mp_seg_ring(mp_heap_seg(), (uint32_t)slot);
		/* The next one there goes on where this one ended. */
		tell_tail(p, g);
		atomic_store(&g->ready, 0);
		mp_chan_by_slot[slot] = NULL;
		mp_chan.slot_free[slot / 32] |= 1u << slot % 32;
		mp_chan.slot_free_any = true;
		p->in_slot = -1;
	}
	mp_heap_peer_gone(tid);
	p->gone = true;
	if (p->in_slot < 0)
		mp_peer_drop(p);
}

void mp_chan_tidy(void)
{
	if (!mp_chan.open || !mp_chan.slot_free_any)
		return;
	mp_chan.slot_free_any = false;
	for (uint32_t s = 0; s < MP_SLOTS; s++)
		if (mp_chan.slot_free[s / 32] & 1u << s % 32) {
			mp_chan.slot_free[s / 32] &= ~(1u << s % 32);
			if (mp_rt_notice(MP_C_SLOT_FREE, &s, sizeof(s)))
				return;
		}
}
