/*
 * Messages between tasks of one host by shared memory. A sender gets a slot in the receiver's
 * segment (by its daemon): a ring of 64 KiB that only these two use, so that the death of either
 * harms nobody else. Small bodies go through the ring; larger ones stay in the sender's heap and
 * are read there (see mp_heap.h).
 *
 * News: the sender sets the dirty bit of its slot, then looks whether the receiver sleeps; the
 * receiver says that it sleeps, then looks at the bits. Both with sequential consistency, so one
 * of them always sees the other.
 *
 * What is read from a ring or from another's segment is checked: a task that writes nonsense there
 * loses its messages, nothing else.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "pvm/include/pvm3.h"
#include "pvm/mp_globals.h"
#include "pvm/mp_chan.h"
#include "pvm/mp_net.h"
#include "pvm/mp_rt.h"
#include "pvm/mp_task.h"

struct mp_chan mp_chan;

enum {
	LOOK = 100, /* looks before the clock is read: a few microseconds */
	LOOK_NET = 4,
	TAKEN_NS = 50000, /* others had the processor: */
	CALM_MIN = 64,	  /* for so many waits nobody spins */
	CALM_MAX = 4096,
};

struct mp_seg_head *mp_chan_self(void)
{
	return mp_heap_seg();
}

static struct base_list *bucket(int tid)
{
	return &mp_chan.buckets[(unsigned)tid % MP_CHAN_PEER_BUCKETS];
}

struct mp_peer *mp_peer_find(int tid)
{
	base_list_foreach (p, bucket(tid), struct mp_peer, link)
		if (p->tid == tid)
			return p;
	return NULL;
}

struct mp_peer *mp_peer_get(int tid)
{
	struct mp_peer *p = mp_peer_find(tid);

	if (p)
		return p;
	p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	p->tid = tid;
	p->refs = 1;
	p->slot = p->in_slot = -1;
	base_list_add(bucket(tid), &p->link);
	return p;
}

void mp_peer_unref(struct mp_peer *p)
{
	if (--p->refs)
		return;
	if (p->seg)
		munmap(p->seg, MP_SEG_BYTES);
	free(p);
}

static void mp_peer_drop(struct mp_peer *p)
{
	mp_msg_unref(p->partial);
	p->partial = NULL;
	base_list_del(&p->link);
	p->gone = true;
	mp_peer_unref(p);
}

/* Takes the descriptor. */
bool mp_peer_map(struct mp_peer *p, int fd)
{
	struct stat st;
	void *m;

	if (fd < 0 || p->seg) {
		if (fd >= 0)
			close(fd);
		return p->seg != NULL;
	}
	if (fstat(fd, &st) || (uint64_t)st.st_size < MP_SEG_BYTES) {
		close(fd);
		return false;
	}
	m = mmap(NULL, MP_SEG_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	close(fd);
	if (m == MAP_FAILED)
		return false;
	madvise(m, MP_SEG_BYTES, MADV_DONTDUMP);
	p->seg = m;
	return true;
}

int mp_chan_open(void)
{
	const char *off = getenv("PVM_NOSHM");

	return off && *off ? -1 : mp_heap_open();
}

void mp_chan_enrolled(int tid, int page_fd, bool accepted)
{
	const char *us = getenv("PVM_SPIN_US");
	void *p;

	if (!accepted) {
		if (page_fd >= 0)
			close(page_fd);
		mp_heap_close();
		return;
	}
	for (int i = 0; i < MP_CHAN_PEER_BUCKETS; i++)
		base_list_init(&mp_chan.buckets[i]);
	if (page_fd >= 0) {
		p = mmap(NULL, MP_SEG_HEAD, PROT_READ | PROT_WRITE, MAP_SHARED, page_fd, 0);
		mp_chan.page = p == MAP_FAILED ? NULL : p;
		close(page_fd);
	}
	if (!mp_rt.poll_type) {
		mp_rt.poll_type = PvmPollSleep;
		mp_rt.poll_us = us && *us ? (int)strtol(us, NULL, 10) : MP_CHAN_SPIN_US;
	}
	mp_chan_self()->tid = tid;
	if (mp_chan.page)
		atomic_fetch_add(&mp_chan.page->awake, 1);
	mp_chan.open = true;
}

void mp_chan_close(void)
{
	if (mp_chan.open) {
		for (int i = 0; i < MP_CHAN_PEER_BUCKETS; i++)
			base_list_foreach_safe (p, &mp_chan.buckets[i], struct mp_peer, link)
				mp_peer_drop(p);
		if (mp_chan.page) {
			atomic_fetch_sub(&mp_chan.page->awake, 1);
			munmap(mp_chan.page, MP_SEG_HEAD);
		}
		memset(&mp_chan, 0, sizeof(mp_chan));
	}
	mp_heap_close();
}

/* Sleeping */

bool mp_chan_active(void)
{
	return mp_chan.open;
}

uint32_t mp_chan_bell(void)
{
	return mp_chan.open ? atomic_load_explicit(&mp_chan_self()->bell, memory_order_acquire) : 0;
}

static bool news(uint32_t bell)
{
	if (!mp_chan.open)
		return false;
	return atomic_load_explicit(&mp_chan_self()->summary, memory_order_acquire) ||
	       atomic_load_explicit(&mp_chan_self()->bell, memory_order_acquire) != bell;
}

/* With more runnable tasks than cores, or where it was in vain lately, nobody spins for long. */
static int64_t spin_ns(void)
{
	if (mp_rt.poll_type == PvmPollConstant)
		return INT64_MAX / 4;
	if (mp_chan.page && atomic_load_explicit(&mp_chan.page->awake, memory_order_relaxed) >
				    (int32_t)mp_chan.page->cores)
		return 0;
	return (int64_t)mp_rt.poll_us * BASE_NS_PER_US >> BASE_MIN(mp_chan.spin_fails / 4, 3u);
}

static bool look(uint32_t bell, bool net)
{
	for (int i = 0; i < (net ? LOOK_NET : LOOK); i++) {
		if (news(bell))
			return true;
		__builtin_ia32_pause();
	}
	return net && mp_net_ready();
}

/*
 * Between looks the processor is offered to others: the one that we wait for may be on it. Where
 * they keep it for long it is not ours to burn.
 */
static bool spin(uint32_t bell, int64_t deadline_ns)
{
	int64_t window = spin_ns(), now, end;
	bool net = mp_net_active();
	bool taken = false;

	if (news(bell))
		return true;
	if (!window)
		return false;
	if (mp_chan.calm) {
		mp_chan.calm--;
		return false;
	}
	now = base_clock_ns();
	end = now + window;
	if (deadline_ns >= 0)
		end = BASE_MIN(end, deadline_ns);
	do {
		int64_t before = now;

		if (look(bell, net)) {
			mp_chan.spin_fails = 0;
			mp_chan.calm_last -= mp_chan.calm_last > 0;
			return true;
		}
		sched_yield();
		now = base_clock_ns();
		taken = now - before > TAKEN_NS;
	} while (now < end && !taken);
	if (taken) {
		/* Who sleeps gets the processor at once when he is woken, who yields last. */
		mp_chan.calm = BASE_MIN(BASE_MAX(mp_chan.calm_last * 2, CALM_MIN), CALM_MAX);
		mp_chan.calm_last = mp_chan.calm;
	}
	mp_chan.spin_fails++;
	return news(bell);
}

static void awake_add(int n)
{
	if (mp_chan.page)
		atomic_fetch_add_explicit(&mp_chan.page->awake, n, memory_order_relaxed);
}

/* `asleep` says how to wake us: 1 the futex, 2 the bell of mp_net.c. */
static void block(uint32_t bell, int64_t ns, int out_fd)
{
	struct mp_seg_head *h = mp_chan_self();
	struct timespec ts = base_clock_timespec(ns);
	bool net = mp_net_active() || out_fd >= 0;

	awake_add(-1);
	atomic_store(&h->asleep, net ? 2 : 1);
	if (net && !news(bell))
		mp_net_block(ns, out_fd);
	else if (!net && !atomic_load(&h->summary))
		mp_futex_wait(&h->bell, bell, &ts);
	atomic_store(&h->asleep, 0);
	awake_add(1);
}

bool mp_chan_sleep(uint32_t bell, int64_t deadline_ns)
{
	int64_t now, left = MP_CHAN_SLEEP_MAX_MS * BASE_NS_PER_MS, begun = base_clock_ns();

	if (spin(bell, deadline_ns))
		return true;
	now = base_clock_ns();
	if (deadline_ns >= 0) {
		if (now >= deadline_ns)
			return false;
		left = BASE_MIN(left, deadline_ns - now);
	}
	if (mp_chan.open)
		block(bell, left, -1);
	else
		mp_net_block(left, -1);
	/* A full window would have been enough: try that again. */
	if (base_clock_ns() - begun < (int64_t)mp_rt.poll_us * BASE_NS_PER_US)
		mp_chan.spin_fails = 0;
	return true;
}

void mp_chan_sleep_out(int out_fd)
{
	int64_t left = MP_CHAN_SLEEP_MAX_MS * BASE_NS_PER_MS;

	if (mp_chan.open)
		block(mp_chan_bell(), left, out_fd);
	else
		mp_net_block(left, out_fd);
}

void mp_peer_ring(struct mp_peer *p)
{
	struct mp_seg_head *h = (struct mp_seg_head *)p->seg;

	if (atomic_load(&h->asleep) == 2) {
		atomic_fetch_add(&h->bell, 1);
		mp_net_ring(p->tid);
	} else {
		mp_seg_ring_bell(h);
	}
}

void mp_chan_want_poke(void)
{
	if (mp_chan.open)
		atomic_store(&mp_chan_self()->want_poke, 1);
}

/* Receiving */

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

static struct mp_block *foreign_new(struct mp_peer *p, const struct mp_record *r)
{
	struct mp_block *b = malloc(sizeof(*b));
	struct foreign *f = malloc(sizeof(*f));

	if (!b || !f) {
		free(b);
		free(f);
		return NULL;
	}
	*f = (struct foreign){p, r->lease, r->total, generation};
	*b = (struct mp_block){.refs = 1,
			       .data = p->seg + r->off,
			       .cap = (size_t)r->total,
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
				memcpy(to, s->data + at, part);
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

static void take_ref(struct mp_peer *p, const struct mp_record *r)
{
	struct mp_block *b;

	if (!p->seg || r->lease >= MP_LEASES || r->off < MP_HEAP_AT || r->off >= MP_SEG_BYTES ||
	    r->total > MP_SEG_BYTES - r->off)
		return;
	if (!p->partial || r->total > p->partial_left) {
		lease_return(p, r->lease);
		if (p->partial)
			partial_fail(p);
		return;
	}
	b = foreign_new(p, r);
	if (!b || mp_msg_append_block(p->partial, b, 0, (size_t)r->total)) {
		if (b)
			mp_block_unref(b);
		else
			lease_return(p, r->lease);
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
	case K_REF: take_ref(p, r); break;
	default: break;
	}
}

/* A copy first: the sender could change it under our hands. */
static bool record_read(const struct mp_ring *g, uint64_t tail, uint64_t head, struct mp_record *r)
{
	size_t at = tail % MP_RING_DATA;

	if (head - tail < MP_CHAN_RECORD_ALIGN || head - tail > MP_RING_DATA)
		return false;
	if (MP_RING_DATA - at < sizeof(*r)) {
		*r = (struct mp_record){.kind = K_SKIP, .bytes = (uint32_t)(MP_RING_DATA - at)};
		return head - tail >= r->bytes;
	}
	memcpy(r, g->data + at, sizeof(*r));
	if (r->kind == K_SKIP)
		return r->bytes == MP_RING_DATA - at && head - tail >= r->bytes;
	return r->bytes >= sizeof(*r) && r->bytes % MP_CHAN_RECORD_ALIGN == 0 &&
	       r->bytes <= MP_RING_DATA - at && r->bytes <= head - tail &&
	       r->len <= r->bytes - sizeof(*r);
}

static void ring_wake_sender(struct mp_peer *p, struct mp_ring *g)
{
	if (atomic_load(&g->want) && atomic_exchange(&g->want, 0) && p->seg)
		mp_peer_ring(p);
}

static int ring_take(struct mp_peer *p, uint32_t slot)
{
	struct mp_ring *g = mp_seg_ring(mp_heap_seg(), slot);
	uint64_t head = atomic_load_explicit(&g->head, memory_order_acquire);
	uint64_t tail = atomic_load_explicit(&g->tail, memory_order_relaxed);
	int n = 0;

	while (tail != head) {
		struct mp_record r;

		if (!record_read(g, tail, head, &r)) {
			pvmlogprintf("t%x wrote nonsense: its channel is emptied\n",
				     (unsigned)p->tid);
			tail = head;
			break;
		}
		take_record(p, &r, g->data + tail % MP_RING_DATA + sizeof(r));
		tail += r.bytes;
		n++;
		/* Room soon, but not a store for each small message. */
		if (n % 32 == 0 || r.kind == K_REF)
			atomic_store_explicit(&g->tail, tail, memory_order_release);
		if (r.kind == K_REF)
			atomic_fetch_add_explicit(&g->taken, r.total, memory_order_release);
	}
	atomic_store(&g->tail, tail);
	ring_wake_sender(p, g);
	return n;
}

static int poll_word(uint32_t w)
{
	uint32_t bits = atomic_exchange(&mp_chan_self()->dirty[w], 0), later = 0;
	int n = 0;

	while (bits) {
		uint32_t i = (uint32_t)__builtin_ctz(bits), slot = w * 32 + i;

		bits &= bits - 1;
		/* The news of who that is may still be in the socket. */
		if (!mp_chan.by_slot[slot])
			later |= 1u << i;
		else
			n += ring_take(mp_chan.by_slot[slot], slot);
	}
	if (later)
		atomic_fetch_or(&mp_chan_self()->dirty[w], later);
	return n;
}

int mp_chan_poll(void)
{
	uint32_t words;
	int n = 0;

	if (!mp_chan.open || mp_chan.in_poll || !atomic_load(&mp_chan_self()->summary))
		return 0;
	mp_chan.in_poll = true;
	words = atomic_exchange(&mp_chan_self()->summary, 0);
	while (words) {
		uint32_t w = (uint32_t)__builtin_ctz(words);

		words &= words - 1;
		n += poll_word(w);
		if (atomic_load(&mp_chan_self()->dirty[w]))
			mp_chan.stale |= 1u << w;
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

	if (!p) {
		if (fd >= 0)
			close(fd);
		return;
	}
	/* Without room for its segment bodies come through the ring: slow, not lost. */
	atomic_store(&mp_seg_ring(mp_heap_seg(), slot)->ready, mp_peer_map(p, fd));
	p->in_slot = (int)slot;
	mp_chan.by_slot[slot] = p;
	poll_stale();
	atomic_fetch_or(&mp_chan_self()->dirty[slot / 32], 1u << slot % 32);
	atomic_fetch_or(&mp_chan_self()->summary, 1u << slot / 32);
}

void mp_chan_peer_gone(int tid, int slot)
{
	struct mp_peer *p = mp_chan.open ? mp_peer_find(tid) : NULL;

	if (!p)
		return;
	/* What it sent before its end still counts. */
	if (slot >= 0 && slot < MP_SLOTS && mp_chan.by_slot[slot] == p) {
		ring_take(p, (uint32_t)slot);
		atomic_store(&mp_seg_ring(mp_heap_seg(), (uint32_t)slot)->ready, 0);
		mp_chan.by_slot[slot] = NULL;
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
