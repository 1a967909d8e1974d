/*
 * What followers have of a saved machine, and back. The guest stands still on all slices, but for LOOK.
 *
 *   lead                         each follower
 *     |---SAVE---------------------->|
 *     |<--FLUSH 0 (all to all)------>|  what was on its way has come: interrupts, places of vCPUs
 *     |<--FLUSH 1 (all to all)------>|  and what had gone to where a vCPU was before
 *     |<--PART...--------------------|  its vCPUs, and the pages that its homes know
 *
 *     |---LOOK---------------------->|  while the guest runs
 *     |<--PART...--------------------|  the pages that its homes know, and no vCPU
 *
 *     |---PART...------------------->|  a vCPU to load
 *     |<--LOADED---------------------|  or why not
 *
 * All of them have the number of the save, or of the vCPU's load; an older one is not listened to. A
 * PART is {u32 count, count times {u32 APIC id, blob of vmm_vcpu_pack()}, bitmap of guest pages}; that
 * of a load has one vCPU and no pages. Memory itself goes through the DSM: the lead reads and writes it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/vmm/span_internal.h"

enum { OWNERS_AT_ONCE = 4096, ROUNDS = 2, PART_HEAD = 64 };

static uint64_t page_count(const struct vmm_span *s)
{
	return vmm_mem_size(s->config.mem) / DSM_PAGE_SIZE;
}

static uint16_t others(const struct vmm_span *s)
{
	return (uint16_t)(((1u << s->slices.count) - 1) & ~(1u << s->self) &
			  ~(unsigned)atomic_load(&s->gone));
}

/* The most that a peer may send us. */
static uint64_t part_max(const struct vmm_span *s)
{
	uint64_t one = VMM_VCPU_PACK_MAX + PART_HEAD;

	return span_leads(s) ? VMM_VCPU_MAX * one + page_count(s) / 8 + PART_HEAD : one;
}

/* Under the lock: what follows is about this number. False: an older one. */
static bool take_number(struct vmm_span *s, uint32_t number)
{
	int32_t ahead = (int32_t)(number - s->save_number);

	if (ahead > 0) {
		s->save_number = number;
		s->flushed[0] = s->flushed[1] = s->parts = 0;
		s->part_loaded = false;
		for (unsigned i = 0; i < VMM_SLICE_MAX; i++)
			s->part[i].len = s->part[i].total = 0;
	}
	return ahead >= 0;
}

static uint32_t next_number(struct vmm_span *s)
{
	uint32_t number;

	pthread_mutex_lock(&s->lock);
	number = s->save_number + 1;
	take_number(s, number);
	pthread_mutex_unlock(&s->lock);
	return number;
}

/* Under the lock: -ETIMEDOUT when nothing more comes for a while. */
static int wait_more(struct vmm_span *s, uint64_t *seen, int64_t *until_ns)
{
	struct timespec until;

	if (s->lost)
		return -ECANCELED;
	if (*seen != s->save_news || !*until_ns)
		*until_ns = base_clock_ns() + VMM_SPAN_HALT_MS * BASE_NS_PER_MS;
	*seen = s->save_news;
	until = base_clock_timespec(*until_ns);
	return -pthread_cond_timedwait(&s->changed, &s->lock, &until);
}

static int wait_bits(struct vmm_span *s, const uint16_t *bits)
{
	uint64_t seen = 0;
	int64_t until_ns = 0;
	int err = 0;

	pthread_mutex_lock(&s->lock);
	while (*bits != others(s) && !err)
		err = wait_more(s, &seen, &until_ns);
	if (*bits == others(s) && !s->lost)
		err = 0;
	pthread_mutex_unlock(&s->lock);
	return err;
}

static int flush(struct vmm_span *s, uint32_t number)
{
	struct span_msg m = {.type = SPAN_FLUSH, .number = number};
	int err = 0;

	for (m.round = 0; m.round < ROUNDS && !err; m.round++) {
		if (m.round)
			vmm_vcpus_pass_on(s->config.vcpus);
		span_send_all(s, &m);
		err = wait_bits(s, &s->flushed[m.round]);
	}
	return err;
}

static void send_part(struct vmm_span *s, unsigned to, uint32_t number, const struct base_wbuf *b)
{
	struct span_msg m = {
		.type = SPAN_PART, .number = number, .state = {.total = (uint32_t)b->len}};

	for (size_t at = 0; at < b->len; at += m.state.len) {
		m.state.offset = (uint32_t)at;
		m.state.len = (uint8_t)BASE_MIN(b->len - at, (size_t)SPAN_STATE_MAX);
		memcpy(m.state.data, b->data + at, m.state.len);
		span_send(s, to, &m);
	}
}

/* ---- saving ---- */

/* A bit for each page that somebody has had, as the homes here know. */
static void mark_pages(struct vmm_span *s, uint8_t *bitmap)
{
	uint64_t pages = page_count(s);
	uint8_t owner[OWNERS_AT_ONCE];

	for (uint64_t at = 0; at < pages; at += OWNERS_AT_ONCE) {
		uint64_t n = BASE_MIN(pages - at, (uint64_t)OWNERS_AT_ONCE);

		dsm_owners(s->dsm, at, n, owner);
		for (uint64_t i = 0; i < n; i++)
			if (owner[i] != DSM_NODE_NONE)
				bitmap[(at + i) / 8] |= (uint8_t)(1u << ((at + i) % 8));
	}
}

static void put_vcpu(struct base_wbuf *b, struct vmm_vcpu *v)
{
	struct base_wbuf pack;

	base_wbuf_init(&pack, VMM_VCPU_PACK_MAX);
	vmm_vcpu_pack(v, &pack);
	base_wbuf_u32(b, vmm_vcpu_apic_id(v));
	base_wbuf_blob(b, pack.data, (uint32_t)pack.len);
	if (pack.error && !b->error)
		b->error = pack.error;
	base_wbuf_fini(&pack);
}

static unsigned here(const struct vmm_vcpus *all)
{
	unsigned n = 0;

	for (unsigned i = 0; i < all->count; i++)
		n += vmm_vcpu_is_here(all->vcpu[i]);
	return n;
}

/* vcpus: NULL for none. */
static int send_own_part(struct vmm_span *s, uint32_t number, const struct vmm_vcpus *vcpus)
{
	struct base_wbuf b;
	uint8_t *bitmap;
	int err;

	base_wbuf_init(&b, VMM_VCPU_MAX * (VMM_VCPU_PACK_MAX + PART_HEAD) + page_count(s));
	base_wbuf_u32(&b, vcpus ? here(vcpus) : 0);
	for (unsigned i = 0; vcpus && i < vcpus->count; i++)
		if (vmm_vcpu_is_here(vcpus->vcpu[i]))
			put_vcpu(&b, vcpus->vcpu[i]);
	bitmap = base_wbuf_reserve(&b, (page_count(s) + 7) / 8);
	if (bitmap)
		mark_pages(s, bitmap);
	err = b.error;
	if (!err)
		send_part(s, SPAN_LEAD, number, &b);
	base_wbuf_fini(&b);
	return err;
}

/* Each is answered once, and not any more when the lead has given up and asks anew. */
static bool take_asked(struct vmm_span *s, enum span_type type, uint32_t *number)
{
	bool asked;

	pthread_mutex_lock(&s->lock);
	asked = s->save_asked == type;
	if (asked)
		s->save_asked = 0;
	*number = s->save_number;
	pthread_mutex_unlock(&s->lock);
	return asked;
}

int vmm_span_save_part(struct vmm_span *s)
{
	uint32_t number;
	int err;

	if (!take_asked(s, SPAN_SAVE, &number))
		return 0;
	err = flush(s, number);
	return err ? err : send_own_part(s, number, s->config.vcpus);
}

int vmm_span_look_part(struct vmm_span *s)
{
	uint32_t number;

	return take_asked(s, SPAN_LOOK, &number) ? send_own_part(s, number, NULL) : 0;
}

/* One vCPU of a part. */
static int next_vcpu(struct base_rbuf *in, uint32_t *id, struct base_rbuf *pack)
{
	size_t len = 0;
	const void *data;

	*id = base_rbuf_u32(in);
	data = base_rbuf_blob(in, VMM_VCPU_PACK_MAX, &len);
	if (in->error)
		return -EPROTO;
	base_rbuf_init(pack, data, len);
	return 0;
}

static int walk_part(struct vmm_span *s, unsigned slice, vmm_span_vcpu *fn, void *arg,
		     uint64_t *pages)
{
	uint64_t bytes = (page_count(s) + 7) / 8;
	struct base_rbuf in, pack;
	uint8_t bitmap[512];
	uint32_t count, id;
	int err = 0;

	base_rbuf_init(&in, s->part[slice].data, s->part[slice].total);
	count = base_rbuf_u32(&in);
	for (uint32_t i = 0; i < count && !err; i++) {
		err = next_vcpu(&in, &id, &pack);
		if (!err && (id >= VMM_VCPU_MAX || span_where(s, id) != slice))
			err = -EPROTO;
		if (!err && fn)
			err = fn(arg, id, &pack);
	}
	if (!err && base_rbuf_left(&in) != bytes)
		err = -EPROTO;
	for (uint64_t at = 0; pages && !err && at < bytes; at += sizeof(bitmap)) {
		size_t n = BASE_MIN(bytes - at, (uint64_t)sizeof(bitmap));

		base_rbuf_bytes(&in, bitmap, n);
		for (size_t i = 0; i < n; i++)
			pages[(at + i) / 8] |= (uint64_t)bitmap[i] << (8 * ((at + i) % 8));
	}
	return err;
}

static int walk_parts(struct vmm_span *s, vmm_span_vcpu *fn, void *arg, uint64_t *pages)
{
	int err = 0;

	for (unsigned i = 0; i < s->slices.count && !err; i++)
		if (i != s->self && !vmm_span_is_gone(s, i))
			err = walk_part(s, i, fn, arg, pages);
	return err;
}

static void quiet_io(struct vmm_span *s)
{
	pthread_mutex_lock(&s->lock);
	while ((s->work_head != s->work_tail || s->io_working) && !s->lost)
		pthread_cond_wait(&s->changed, &s->lock);
	pthread_mutex_unlock(&s->lock);
}

/* The parts of all have come, or will. */
static int take_pages(struct vmm_span *s, uint64_t *pages)
{
	uint64_t count = page_count(s);
	int err = wait_bits(s, &s->parts);

	if (err)
		return err;
	mark_pages(s, (uint8_t *)pages);
	err = walk_parts(s, NULL, NULL, pages);
	/* No page behind the last one. */
	if (!err && count % 64)
		pages[count / 64] &= (UINT64_C(1) << (count % 64)) - 1;
	return err;
}

int vmm_span_collect(struct vmm_span *s, uint64_t *pages)
{
	struct span_msg m = {.type = SPAN_SAVE};
	int err;

	/* What a device did last may have raised an interrupt: it goes before the order. */
	quiet_io(s);
	m.number = next_number(s);
	span_send_all(s, &m);
	err = flush(s, m.number);
	return err ? err : take_pages(s, pages);
}

int vmm_span_look(struct vmm_span *s, uint64_t *pages)
{
	struct span_msg m = {.type = SPAN_LOOK, .number = next_number(s)};

	span_send_all(s, &m);
	return take_pages(s, pages);
}

int vmm_span_track_start(struct vmm_span *s)
{
	return dsm_track_start(s->dsm);
}

void vmm_span_track_take(struct vmm_span *s, uint64_t *pages)
{
	dsm_track_take(s->dsm, pages);
}

void vmm_span_track_stop(struct vmm_span *s)
{
	dsm_track_stop(s->dsm);
}

int vmm_span_each_vcpu(struct vmm_span *s, vmm_span_vcpu *fn, void *arg)
{
	return walk_parts(s, fn, arg, NULL);
}

/* ---- loading ---- */

int vmm_span_load_vcpu(struct vmm_span *s, uint32_t apic_id, const struct base_wbuf *pack,
		       char *why)
{
	uint64_t seen = 0;
	int64_t until_ns = 0;
	struct base_wbuf b;
	uint32_t number;
	int err;

	base_wbuf_init(&b, VMM_VCPU_PACK_MAX + PART_HEAD);
	base_wbuf_u32(&b, 1);
	base_wbuf_u32(&b, apic_id);
	base_wbuf_blob(&b, pack->data, (uint32_t)pack->len);
	err = pack->error ? pack->error : b.error;
	number = err ? 0 : next_number(s);
	if (!err)
		send_part(s, span_where(s, apic_id), number, &b);
	base_wbuf_fini(&b);
	pthread_mutex_lock(&s->lock);
	while (!s->part_loaded && !err)
		err = wait_more(s, &seen, &until_ns);
	if (!err && s->part_why[0]) {
		snprintf(why, VMM_WHY_MAX, "%s", s->part_why);
		err = -EINVAL;
	}
	pthread_mutex_unlock(&s->lock);
	return err;
}

static int load_part(struct vmm_span *s, uint32_t *number)
{
	BASE_AUTO_FREE uint8_t *data = NULL;
	struct base_rbuf in, pack;
	struct vmm_vcpu *v;
	uint32_t count, id = 0;
	int err;

	/* Ours: the lead could send another at any time. */
	pthread_mutex_lock(&s->lock);
	*number = s->save_number;
	data = s->part[SPAN_LEAD].data;
	base_rbuf_init(&in, data, s->part[SPAN_LEAD].len);
	s->part[SPAN_LEAD] = (struct span_part){0};
	pthread_mutex_unlock(&s->lock);
	count = base_rbuf_u32(&in);
	err = count == 1 ? next_vcpu(&in, &id, &pack) : -EPROTO;
	if (!err)
		err = base_rbuf_end(&in);
	v = err ? NULL : vmm_vcpus_find(s->config.vcpus, id);
	if (!err && (!v || !vmm_vcpu_is_here(v)))
		err = -EPROTO;
	return err ? err : vmm_vcpu_unpack(v, &pack, true);
}

void vmm_span_load_part(struct vmm_span *s)
{
	struct span_msg m = {.type = SPAN_LOADED};
	int err = load_part(s, &m.number);

	m.end.failed = err;
	if (err)
		snprintf(m.end.text, sizeof(m.end.text), "slice %u (%.60s): a vCPU: %s", s->self,
			 s->slices.peer[s->self],
			 err == -ENOTSUP   ? "its CPU lacks features of the saved one"
			 : err == -EBADMSG ? "damaged or cut off"
					   : strerror(-err));
	span_send(s, SPAN_LEAD, &m);
}

/* ---- what comes: the service thread ---- */

/* Under the lock. 1: it is complete. */
static int add_part(struct vmm_span *s, uint8_t peer, const struct span_msg *m)
{
	struct span_part *p = &s->part[peer];

	if (m->state.total > part_max(s) || m->state.offset != p->len ||
	    (p->len && m->state.total != p->total))
		return -EPROTO;
	if (!p->len) {
		uint8_t *data = realloc(p->data, m->state.total);

		if (!data)
			return -ENOMEM;
		p->data = data;
		p->total = m->state.total;
	}
	memcpy(p->data + p->len, m->state.data, m->state.len);
	p->len += m->state.len;
	return p->len == p->total;
}

static int on_part(struct vmm_span *s, uint8_t peer, const struct span_msg *m)
{
	int rc = 0;

	if (!span_leads(s) && peer != SPAN_LEAD)
		return -EPROTO;
	pthread_mutex_lock(&s->lock);
	/* A lead alone gives numbers. */
	if (span_leads(s) ? m->number == s->save_number : take_number(s, m->number))
		rc = s->parts >> peer & 1 ? -EPROTO : add_part(s, peer, m);
	if (rc == 1)
		s->parts |= (uint16_t)(1u << peer);
	s->save_news++;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	if (rc == 1 && !span_leads(s))
		span_tell(s, VMM_SPAN_LOAD, NULL);
	return BASE_MIN(rc, 0);
}

static int on_save(struct vmm_span *s, uint8_t peer, const struct span_msg *m)
{
	bool fresh;

	if (span_leads(s) || peer != SPAN_LEAD)
		return -EPROTO;
	pthread_mutex_lock(&s->lock);
	fresh = take_number(s, m->number);
	if (fresh)
		s->save_asked = m->type;
	pthread_mutex_unlock(&s->lock);
	if (fresh)
		span_tell(s, m->type == SPAN_SAVE ? VMM_SPAN_SAVE : VMM_SPAN_LOOK, NULL);
	return 0;
}

static int on_flush(struct vmm_span *s, uint8_t peer, const struct span_msg *m)
{
	if (m->round >= ROUNDS)
		return -EPROTO;
	pthread_mutex_lock(&s->lock);
	/* It may come before the order, which took another link. */
	if (span_leads(s) ? m->number == s->save_number : take_number(s, m->number))
		s->flushed[m->round] |= (uint16_t)(1u << peer);
	s->save_news++;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	return 0;
}

static int on_loaded(struct vmm_span *s, const struct span_msg *m)
{
	if (!span_leads(s))
		return -EPROTO;
	pthread_mutex_lock(&s->lock);
	if (m->number == s->save_number) {
		memcpy(s->part_why, m->end.text, sizeof(s->part_why));
		s->part_loaded = true;
		pthread_cond_broadcast(&s->changed);
	}
	pthread_mutex_unlock(&s->lock);
	return 0;
}

int span_save_handle(struct vmm_span *s, uint8_t peer, const struct span_msg *m)
{
	switch (m->type) {
	case SPAN_SAVE:
	case SPAN_LOOK: return on_save(s, peer, m);
	case SPAN_FLUSH: return on_flush(s, peer, m);
	case SPAN_PART: return on_part(s, peer, m);
	case SPAN_LOADED: return on_loaded(s, m);
	default: return -EPROTO;
	}
}

void span_save_free(struct vmm_span *s)
{
	for (unsigned i = 0; i < VMM_SLICE_MAX; i++)
		free(s->part[i].data);
}
