/*
 * The members of a group that shares memory agree on each reduction before they do anything for it: they must
 * all mean the same one, or some would wait for what others never send. Who comes first writes down what it
 * means; who means another thing marks the call as refused, which wakes all that wait, and who comes later
 * finds the mark. So all are told PvmBadParam but those who had nothing to wait for and were through before.
 * (The original tells its root PvmNoData where a member has sent less, adds up what is of another type and the
 * same size, and else often waits for ever.)
 *
 * There is room for GS_CALLS calls. Who is further ahead than that of one that is not yet through does not ask.
 */
#include "base/rng.h"
#include "pvm/group/group.h"

enum { REFUSED = 0 }; /* no call's mark */

/* Types that old programs mix without harm count as the same. */
static int kind_of(int type)
{
	switch (type) {
	case PVM_STR: return PVM_BYTE;
	case PVM_USHORT: return PVM_SHORT;
	case PVM_UINT: return PVM_INT;
	case PVM_ULONG: return PVM_LONG;
	default: return type;
	}
}

/* Two that differ look alike once in 2^32 times. */
static uint32_t mark_of(const struct gs_call *c)
{
	struct base_rng r = {(uint64_t)(uint32_t)c->count << 32 | (uint32_t)c->tag};
	uint32_t mark;

	r.state = base_rng_next(&r) ^
		  ((uint64_t)(uint32_t)c->root << 32 | (uint32_t)kind_of(c->type));
	mark = (uint32_t)(base_rng_next(&r) >> 32);
	return mark == REFUSED ? 1 : mark;
}

static _Atomic uint64_t *entry_of(const struct gs_call *c)
{
	return &c->m->shared->calls[c->number % GS_CALLS];
}

static uint64_t entry(const struct gs_call *c, uint32_t mark)
{
	return c->number << 32 | mark;
}

static bool all_through(struct gs_members *m, uint64_t number)
{
	if (m->calls_through >= number)
		return true;
	m->calls_through = UINT64_MAX;
	for (int i = 0; i < m->slots; i++) {
		uint64_t its = atomic_load(&m->shared->at[i].calls);

		m->calls_through = BASE_MIN(m->calls_through, its);
	}
	return m->calls_through >= number;
}

/* What is meant by who came first, which may be this one; `mark` when there is no room to say it. */
static uint32_t mark_first(const struct gs_call *c, uint32_t mark)
{
	uint64_t v = atomic_load(entry_of(c));

	while (v >> 32 != (uint32_t)c->number) {
		if (c->number > GS_CALLS && !all_through(c->m, c->number - GS_CALLS))
			return mark;
		if (atomic_compare_exchange_weak(entry_of(c), &v, entry(c, mark)))
			return mark;
	}
	return (uint32_t)v;
}

bool gs_call_refused(const struct gs_call *c)
{
	return atomic_load(entry_of(c)) == entry(c, REFUSED);
}

/* Somebody may wait already. */
static void refuse(const struct gs_call *c)
{
	atomic_store(entry_of(c), entry(c, REFUSED));
	/* The root of a small one waits for this, the others for messages. */
	(void)mp_shared_tell(&c->turn->told, atomic_load(&c->turn->told.value) + 1);
	gs_barrier_go(c->m);
}

int gs_call_agree(const struct gs_call *c, int error)
{
	uint32_t mine = error ? REFUSED : mark_of(c), first = mark_first(c, mine);

	if (first == mine)
		return error;
	if (first != REFUSED)
		refuse(c);
	return error ? error : PvmBadParam;
}

void gs_call_end(const struct gs_call *c)
{
	atomic_store_explicit(&c->m->shared->at[c->m->me].calls, c->number, memory_order_release);
}
