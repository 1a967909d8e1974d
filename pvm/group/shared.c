/* A round of a group whose members share memory; see barrier.c for how they come by it. */
#include "pvm/group/group.h"

int64_t gs_shared_rounds(const struct gs_members *m, int inst)
{
	return atomic_load(&m->shared->at[inst].rounds);
}

int gs_shared_cores(const struct gs_members *m)
{
	return (int)BASE_MIN(BASE_MAX(atomic_load(&m->shared->cores), 1u), (uint32_t)m->slots);
}

static bool is_over(const struct gs_members *m, uint32_t round)
{
	return atomic_load_explicit(&m->shared->done.value, memory_order_acquire) == round;
}

static int await_all(struct gs_members *m, uint32_t round)
{
	while (!is_over(m, round)) {
		int rc;

		gs_barrier_news(m);
		/* Somebody who was not in this round never will be; who was may still end it. */
		if (m->rounds >= m->last_round)
			return is_over(m, round) ? PvmOk : PvmNoGroup;
		rc = mp_shared_await(&m->shared->done, round - 1);
		if (rc)
			return rc;
	}
	return PvmOk;
}

int gs_shared_round(struct gs_members *m)
{
	struct gs_shared *s = m->shared;
	int64_t round = m->rounds + 1;
	/* The first round went by messages. */
	uint64_t all = (uint64_t)m->slots * (uint64_t)m->rounds, came;

	if (m->rounds >= m->last_round)
		return PvmNoGroup;
	/* In this order: one that dies between the two was not in the round. */
	came = atomic_fetch_add(&s->came, 1) + 1;
	atomic_store(&s->at[m->me].rounds, round);
	if (came != all)
		return await_all(m, (uint32_t)round);
	if (mp_shared_tell(&s->done, (uint32_t)round))
		gs_barrier_go(m);
	return PvmOk;
}
