#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "dsm/engine_impl.h"

#define MARKER_WEIGHT 16
#define TAKE_AROUND   2 /* times `around` */
#define REWRITES_MAX  3
#define PROBE_ONE_IN  8

/* ---- making ---- */

/* Zero pages that cost nothing until they are touched. */
static void *table(uint64_t count, size_t size)
{
	void *p = mmap(NULL, count * size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void table_clear(void *p, uint64_t count, size_t size)
{
	size_t len = count * size;

	/* Gives the memory back, too, where it can. */
	if (madvise(p, len, MADV_DONTNEED) < 0)
		memset(p, 0, len);
}

static void table_free(void *p, uint64_t count, size_t size)
{
	if (p)
		munmap(p, count * size);
}

int dsm_engine_new(const struct dsm_engine_config *config, struct dsm_engine **out)
{
	int err = dsm_engine_homes_check(config->homes, config->home_count, config->page_count);

	if (err || config->self >= DSM_NODE_MAX || config->rewrites > REWRITES_MAX)
		return -EINVAL;
	struct dsm_engine *e = calloc(1, sizeof(*e));

	if (!e)
		return -ENOMEM;
	e->cfg = *config;
	memcpy(e->homes, config->homes, config->home_count * sizeof(e->homes[0]));
	e->cfg.homes = e->homes;
	e->pages = table(config->page_count, sizeof(*e->pages));
	e->dirs = table(config->page_count, sizeof(*e->dirs));
	e->slots = table(config->page_count, sizeof(*e->slots));
	if (!e->pages || !e->dirs || !e->slots) {
		dsm_engine_free(e);
		return -ENOMEM;
	}
	base_rng_seed(&e->rng, config->seed);
	dsm_prefetch_init(&e->ahead, config->prefetch_max);
	*out = e;
	return 0;
}

int dsm_engine_reset(struct dsm_engine *e)
{
	if (e->open_requests || !dsm_batch_empty(&e->batch))
		return -EBUSY;
	table_clear(e->pages, e->cfg.page_count, sizeof(*e->pages));
	table_clear(e->dirs, e->cfg.page_count, sizeof(*e->dirs));
	table_clear(e->slots, e->cfg.page_count, sizeof(*e->slots));
	e->timer_count = 0;
	dsm_prefetch_init(&e->ahead, e->cfg.prefetch_max);
	return 0;
}

void dsm_engine_free(struct dsm_engine *e)
{
	if (!e)
		return;
	table_free(e->pages, e->cfg.page_count, sizeof(*e->pages));
	table_free(e->dirs, e->cfg.page_count, sizeof(*e->dirs));
	table_free(e->slots, e->cfg.page_count, sizeof(*e->slots));
	free(e->timers);
	free(e);
}

/* ---- timers ---- */

static void heap_swap(struct timer *a, struct timer *b)
{
	struct timer t = *a;

	*a = *b;
	*b = t;
}

static int timer_add(struct dsm_engine *e, int64_t at_ns, uint64_t gfn)
{
	if (e->timer_count == e->timer_cap) {
		size_t cap = e->timer_cap ? e->timer_cap * 2 : 64;
		struct timer *t = reallocarray(e->timers, cap, sizeof(*t));

		if (!t)
			return -ENOMEM;
		e->timers = t;
		e->timer_cap = cap;
	}
	size_t i = e->timer_count++;

	e->timers[i] = (struct timer){.at_ns = at_ns, .gfn = gfn};
	for (; i && e->timers[i].at_ns < e->timers[(i - 1) / 2].at_ns; i = (i - 1) / 2)
		heap_swap(&e->timers[i], &e->timers[(i - 1) / 2]);
	return 0;
}

static uint64_t timer_take(struct dsm_engine *e)
{
	uint64_t gfn = e->timers[0].gfn;
	size_t i = 0;

	e->timers[0] = e->timers[--e->timer_count];
	for (;;) {
		size_t child = 2 * i + 1;

		if (child >= e->timer_count)
			return gfn;
		if (child + 1 < e->timer_count &&
		    e->timers[child + 1].at_ns < e->timers[child].at_ns)
			child++;
		if (e->timers[i].at_ns <= e->timers[child].at_ns)
			return gfn;
		heap_swap(&e->timers[i], &e->timers[child]);
		i = child;
	}
}

int64_t dsm_engine_next_ns(const struct dsm_engine *e)
{
	return e->timer_count ? e->timers[0].at_ns : INT64_MAX;
}

/* ---- executing ---- */

static int send_now(struct dsm_engine *e, uint8_t to, const struct dsm_msg *m)
{
	bool page = m->type == DSM_MSG_DATA && m->kind == DSM_DATA_PAGE;

	return e->cfg.ops->send(e->cfg.ctx, to, m, page);
}

static int flush_revokes(struct dsm_engine *e)
{
	struct dsm_batch *b = &e->batch;
	int err = 0;

	for (unsigned i = 0; i < b->revoke_count; i++) {
		const struct dsm_run *r = &b->revoke[i];

		for (uint64_t g = r->first; g < r->first + r->count; g++)
			e->slots[g].in_revoke = false;
		if (!err && r->type == DSM_ACT_PROTECT) {
			err = e->cfg.ops->protect(e->cfg.ctx, r->first, r->count);
			e->stats.protects++;
		} else if (!err) {
			err = e->cfg.ops->unmap(e->cfg.ctx, r->first, r->count);
			e->stats.unmaps++;
		}
	}
	b->revoke_count = 0;
	return err;
}

static int flush_maps(struct dsm_engine *e)
{
	struct dsm_batch *b = &e->batch;
	int err = 0;

	for (unsigned i = 0; i < b->map_count; i++) {
		const struct dsm_run *r = &b->map[i];

		for (uint64_t g = r->first; g < r->first + r->count; g++)
			e->slots[g].in_map = false;
		if (!err)
			err = e->cfg.ops->map(e->cfg.ctx, r->first, r->count, r->access, r->had);
		e->stats.maps++;
	}
	b->map_count = 0;
	return err;
}

int dsm_engine_flush(struct dsm_engine *e)
{
	struct dsm_batch *b = &e->batch;
	int err = flush_revokes(e);

	for (unsigned i = 0; i < b->send_count && !err; i++)
		err = send_now(e, b->send[i].to, &b->send[i].msg);
	b->send_count = 0;
	int map_err = flush_maps(e);

	return err ? err : map_err;
}

static int do_send(struct dsm_engine *e, const struct dsm_act *a)
{
	struct dsm_batch *b = &e->batch;

	if (a->msg.type == DSM_MSG_DATA && a->msg.kind == DSM_DATA_PAGE)
		e->stats.peer[a->to].pages_out++;
	if (!b->revoke_count && !b->send_count)
		return send_now(e, a->to, &a->msg);
	if (b->send_count == DSM_BATCH_SENDS) {
		int err = dsm_engine_flush(e);

		return err ? err : send_now(e, a->to, &a->msg);
	}
	b->send[b->send_count++] = (struct dsm_send){.msg = a->msg, .to = a->to};
	return 0;
}

/* The page is there that a thread waits for. */
static void count_end(struct dsm_engine *e, const struct slot *s)
{
	struct dsm_class_stats *c = &e->stats.page_class[s->page_class];
	int64_t waited_ns = e->now_ns - s->fault_ns;

	dsm_histogram_add(&e->stats.latency[s->kind], waited_ns);
	if (s->kind == DSM_FAULT_LOCAL)
		return;
	c->faults++;
	c->wait_ns += (uint64_t)BASE_MAX(waited_ns, INT64_C(0));
}

static int do_map(struct dsm_engine *e, uint64_t gfn, uint8_t access)
{
	struct slot *s = &e->slots[gfn];
	struct dsm_run run = {
		.first = gfn, .count = 1, .type = DSM_ACT_MAP, .access = access, .had = s->mapped};

	if (s->marker && !s->waiting)
		return 0;
	s->marker = false;
	if (s->in_revoke || s->in_map || !dsm_run_add(e->batch.map, &e->batch.map_count, run)) {
		int err = dsm_engine_flush(e);

		if (err)
			return err;
		(void)dsm_run_add(e->batch.map, &e->batch.map_count, run);
	}
	s->in_map = true;
	s->mapped = access;
	if (s->waiting)
		count_end(e, s);
	s->waiting = false;
	return 0;
}

static int do_revoke(struct dsm_engine *e, uint64_t gfn, uint8_t type)
{
	struct slot *s = &e->slots[gfn];
	uint8_t left = type == DSM_ACT_PROTECT ? DSM_S : DSM_I;
	struct dsm_run run = {.first = gfn, .count = 1, .type = type};

	dsm_stats_hot(&e->stats, gfn);
	if (type == DSM_ACT_UNMAP && s->only_read) {
		s->only_read = false;
		s->rewrites = 0;
	}
	if (s->marker) {
		s->marker = false;
		e->stats.prefetch_lost++;
		dsm_prefetch_bad(&e->ahead, MARKER_WEIGHT, e->now_ns);
	}
	if (s->mapped <= left)
		return 0;
	if (s->in_revoke || s->in_map ||
	    !dsm_run_add(e->batch.revoke, &e->batch.revoke_count, run)) {
		int err = dsm_engine_flush(e);

		if (err)
			return err;
		(void)dsm_run_add(e->batch.revoke, &e->batch.revoke_count, run);
	}
	s->in_revoke = true;
	s->mapped = left;
	return 0;
}

static int do_fill(struct dsm_engine *e, uint64_t gfn, const void *bytes)
{
	if (e->slots[gfn].in_revoke) {
		int err = dsm_engine_flush(e);

		if (err)
			return err;
	}
	return bytes ? e->cfg.ops->store(e->cfg.ctx, gfn, bytes)
		     : e->cfg.ops->zero(e->cfg.ctx, gfn);
}

static int do_act(struct dsm_engine *e, uint64_t gfn, const struct dsm_act *a, const void *bytes)
{
	switch (a->type) {
	case DSM_ACT_SEND: return do_send(e, a);
	case DSM_ACT_MAP: return do_map(e, gfn, a->access);
	case DSM_ACT_PROTECT:
	case DSM_ACT_UNMAP: return do_revoke(e, gfn, a->type);
	case DSM_ACT_STORE: return bytes ? do_fill(e, gfn, bytes) : -EPROTO;
	case DSM_ACT_ZERO: return do_fill(e, gfn, NULL);
	case DSM_ACT_TIMER: e->stats.deferred++; return timer_add(e, a->until_ns, gfn);
	default: assert(!"action"); return -EINVAL;
	}
}

static int step(struct dsm_engine *e, uint64_t gfn, struct dsm_in *in, const void *bytes)
{
	struct dsm_env env = {.self = e->cfg.self,
			      .home = dsm_engine_home(e, gfn),
			      .hold_ns = e->cfg.hold_ns,
			      .hold_level_max = e->cfg.hold_level_max};
	struct dsm_page *p = &e->pages[gfn];
	bool before = p->want;

	in->msg.gfn.v = gfn;
	in->now_ns = e->now_ns;
	in->random = (uint32_t)base_rng_next(&e->rng);
	int err = dsm_page_step(&env, p, env.self == env.home ? &e->dirs[gfn] : NULL, in, &e->out);

	for (unsigned i = 0; i < e->out.count && !err; i++)
		err = do_act(e, gfn, &e->out.act[i], bytes);
	e->open_requests += (unsigned)(!!p->want - before);
	return err;
}

int dsm_engine_local(struct dsm_engine *e, uint64_t gfn, uint8_t type)
{
	struct dsm_in in = {.type = type};

	return step(e, gfn, &in, NULL);
}

/* ---- inputs ---- */

int dsm_engine_populate(struct dsm_engine *e, uint64_t gfn, uint64_t count)
{
	if (gfn >= e->cfg.page_count || count > e->cfg.page_count - gfn)
		return -EINVAL;
	for (uint64_t g = gfn; g < gfn + count; g++) {
		if (dsm_engine_home(e, g) != e->cfg.self)
			return -EINVAL;
		int err = dsm_engine_local(e, g, DSM_IN_POPULATE);

		if (err)
			return err;
	}
	return 0;
}

/* Nobody else is concerned: the page is ours alone, or nobody has touched it and we are its home. */
static bool is_ours(const struct dsm_engine *e, uint64_t gfn, bool *untouched)
{
	const struct dsm_page *p = &e->pages[gfn];

	*untouched = !e->dirs[gfn].touched && dsm_engine_home(e, gfn) == e->cfg.self;
	return *untouched || (p->state == DSM_X && e->slots[gfn].mapped == DSM_I);
}

static int fault_around(struct dsm_engine *e, uint64_t gfn)
{
	uint64_t span = e->cfg.around ? e->cfg.around : 1, first = gfn & ~(span - 1);
	uint64_t end = BASE_MIN(first + span, e->cfg.page_count);

	for (uint64_t g = first; g < end; g++) {
		bool untouched;

		if (!is_ours(e, g, &untouched))
			continue;
		int err = untouched ? dsm_engine_local(e, g, DSM_IN_POPULATE) : 0;

		if (!err && untouched)
			err = do_fill(e, g, NULL);
		if (!err)
			err = do_map(e, g, DSM_X);
		if (err)
			return err;
	}
	return 0;
}

static enum dsm_fault_kind kind_of(const struct dsm_page *p, bool write)
{
	if (p->state == DSM_I)
		return write ? DSM_FAULT_WRITE : DSM_FAULT_READ;
	return p->state == DSM_S && write ? DSM_FAULT_UPGRADE : DSM_FAULT_LOCAL;
}

static enum dsm_page_class class_of(const struct dsm_page *p, int64_t now_ns)
{
	if (!p->lost_ns)
		return DSM_PAGE_NEW;
	return now_ns - p->lost_ns < DSM_CONTENDED_MS * BASE_NS_PER_MS ? DSM_PAGE_CONTENDED
								       : DSM_PAGE_BACK;
}

static int read_ahead(struct dsm_engine *e, uint64_t gfn)
{
	struct dsm_range r = dsm_prefetch_touch(&e->ahead, gfn, e->cfg.page_count, e->now_ns);

	for (uint64_t g = r.first; g < r.first + r.count; g++) {
		if (e->pages[g].state != DSM_I || e->pages[g].want ||
		    dsm_engine_home(e, g) == DSM_NODE_NONE)
			continue;
		e->slots[g].marker = g == r.marker;
		e->stats.prefetch_issued++;
		int err = dsm_engine_local(e, g, DSM_IN_PREFETCH);

		if (err)
			return err;
	}
	return 0;
}

/*
 * A lock, a list or a counter is read and then written: two round trips, of which the first gets a copy
 * and the second takes it from the others. Where that was so before, a read asks for both at once. Whether
 * it still is so shows only where it does not, now and then.
 */
static bool read_to_write(struct dsm_engine *e, struct slot *s, enum dsm_fault_kind kind)
{
	if (kind == DSM_FAULT_UPGRADE && s->only_read && s->rewrites < REWRITES_MAX)
		s->rewrites++;
	s->only_read = false;
	if (kind != DSM_FAULT_READ)
		return false;
	if (e->cfg.rewrites && s->rewrites >= e->cfg.rewrites &&
	    base_rng_next(&e->rng) % PROBE_ONE_IN) {
		e->stats.rewrites++;
		return true;
	}
	s->only_read = true;
	return false;
}

int dsm_engine_fault(struct dsm_engine *e, uint64_t gfn, bool write, int64_t now_ns)
{
	bool untouched;

	if (gfn >= e->cfg.page_count)
		return -EINVAL;
	e->now_ns = now_ns;
	struct slot *s = &e->slots[gfn];
	bool ours = is_ours(e, gfn, &untouched), marker = s->marker;
	enum dsm_fault_kind kind = ours ? DSM_FAULT_LOCAL : kind_of(&e->pages[gfn], write);

	if (!s->waiting) {
		s->waiting = true;
		s->fault_ns = now_ns;
		s->kind = (uint8_t)kind;
		s->page_class = (uint8_t)class_of(&e->pages[gfn], now_ns) & 3;
	}
	e->stats.faults[kind]++;
	if (ours)
		return fault_around(e, gfn);
	/* Its statistics stay those of a read. */
	write |= read_to_write(e, s, kind);
	int err = dsm_engine_local(e, gfn, write ? DSM_IN_WRITE : DSM_IN_READ);

	e->stats.prefetch_used += marker;
	if (!err && !write && (marker || kind == DSM_FAULT_READ))
		err = read_ahead(e, gfn);
	return err;
}

static void count_message(struct dsm_engine *e, uint8_t from, const struct dsm_msg *m)
{
	struct dsm_peer_stats *p = &e->stats.peer[from];

	switch (m->type) {
	case DSM_MSG_GET_S:
	case DSM_MSG_GET_X: p->requests++; break;
	case DSM_MSG_INV: p->invalidations++; break;
	case DSM_MSG_DATA:
		if (m->kind == DSM_DATA_DENIED && e->pages[m->gfn.v].want == DSM_X)
			e->stats.take_denied++;
		p->pages_in += m->kind == DSM_DATA_PAGE;
		e->stats.without_data += m->kind == DSM_DATA_NONE || m->kind == DSM_DATA_ZERO;
		e->stats.prefetch_denied += m->kind == DSM_DATA_DENIED;
		break;
	default: break;
	}
}

/* Every other grant for writing makes a new version. */
static bool is_dormant_grant(const struct dsm_msg *m)
{
	return m->kind == DSM_DATA_ZERO && m->access == DSM_X && m->version == 1;
}

/*
 * Whoever touches a page first mostly touches its neighbours first too: one round trip for all of
 * them. It happens once in each such block, because then none of it is dormant any more.
 */
static int take_around(struct dsm_engine *e, uint64_t gfn)
{
	uint64_t span = e->cfg.around ? TAKE_AROUND * (uint64_t)e->cfg.around : 1;
	uint64_t first = gfn & ~(span - 1), end = BASE_MIN(first + span, e->cfg.page_count);
	uint8_t home = dsm_engine_home(e, gfn);

	for (uint64_t g = first; g < end; g++) {
		const struct dsm_page *p = &e->pages[g];

		if (p->state != DSM_I || p->want || p->version || dsm_engine_home(e, g) != home)
			continue;
		e->stats.taken++;
		int err = dsm_engine_local(e, g, DSM_IN_TAKE);

		if (err)
			return err;
	}
	return 0;
}

int dsm_engine_msg(struct dsm_engine *e, uint8_t from, const struct dsm_msg *msg, const void *bytes,
		   int64_t now_ns)
{
	uint64_t gfn = msg->gfn.v;
	struct dsm_in in = {.type = DSM_IN_MSG, .from = from, .msg = *msg};

	if (gfn >= e->cfg.page_count || from >= DSM_NODE_MAX || from == e->cfg.self)
		return -EPROTO;
	bool waited = e->slots[gfn].waiting, taking = e->pages[gfn].want == DSM_X;

	e->now_ns = now_ns;
	count_message(e, from, msg);
	if (waited && msg->type == DSM_MSG_DATA && is_dormant_grant(msg))
		e->slots[gfn].page_class = DSM_PAGE_UNTOUCHED;
	int err = step(e, gfn, &in, bytes);

	if (err || msg->type != DSM_MSG_DATA)
		return err;
	if (msg->kind == DSM_DATA_DENIED && !taking) {
		e->slots[gfn].marker = false;
		dsm_prefetch_bad(&e->ahead, 1, now_ns);
	}
	return waited && is_dormant_grant(msg) ? take_around(e, gfn) : 0;
}

int dsm_engine_time(struct dsm_engine *e, int64_t now_ns)
{
	e->now_ns = now_ns;
	while (e->timer_count && e->timers[0].at_ns <= now_ns) {
		int err = dsm_engine_local(e, timer_take(e), DSM_IN_TIMER);

		if (err)
			return err;
	}
	return 0;
}

int dsm_engine_prefetch(struct dsm_engine *e, uint64_t gfn, uint64_t count, int64_t now_ns)
{
	if (gfn >= e->cfg.page_count || count > e->cfg.page_count - gfn)
		return -EINVAL;
	e->now_ns = now_ns;
	for (uint64_t g = gfn; g < gfn + count; g++) {
		int err = dsm_engine_local(e, g, DSM_IN_PREFETCH);

		if (err)
			return err;
	}
	return 0;
}

int dsm_engine_drop(struct dsm_engine *e, uint64_t gfn, int64_t now_ns)
{
	if (gfn >= e->cfg.page_count)
		return -EINVAL;
	e->now_ns = now_ns;
	return dsm_engine_local(e, gfn, DSM_IN_DROP);
}

/* ---- looking ---- */

uint8_t dsm_engine_mapped(const struct dsm_engine *e, uint64_t gfn)
{
	return e->slots[gfn].mapped;
}

const struct dsm_page *dsm_engine_page(const struct dsm_engine *e, uint64_t gfn)
{
	return &e->pages[gfn];
}

const struct dsm_dir *dsm_engine_dir(const struct dsm_engine *e, uint64_t gfn)
{
	return &e->dirs[gfn];
}

uint64_t dsm_engine_page_count(const struct dsm_engine *e)
{
	return e->cfg.page_count;
}

unsigned dsm_engine_open_requests(const struct dsm_engine *e)
{
	return e->open_requests;
}

struct dsm_stats *dsm_engine_stats(struct dsm_engine *e)
{
	return &e->stats;
}

const char *dsm_engine_check(const struct dsm_engine *e, uint64_t *gfn)
{
	for (uint64_t g = 0; g < e->cfg.page_count; g++) {
		struct dsm_env env = {.self = e->cfg.self, .home = dsm_engine_home(e, g)};
		const struct dsm_dir *d = env.self == env.home ? &e->dirs[g] : NULL;
		const char *why = dsm_page_check(&env, &e->pages[g], d);

		if (!why && e->slots[g].mapped > e->pages[g].state)
			why = "mapped beyond the state";
		if (why) {
			*gfn = g;
			return why;
		}
	}
	return NULL;
}
