/*
 * The barrier of a static group among its members, without the server: in step s each tells the one 2^s
 * places behind it and hears from the one 2^s before it, so after log2(n) steps all have come. Each step
 * has a partner of its own and messages of one keep their order, so a round needs no number.
 *
 * Who leaves tells all others how many rounds it was in: rounds up to there still end well, later ones
 * are PvmNoGroup. Who dies is noticed by those that hear from it; where its word is missing they end the
 * round and tell all others the same way.
 *
 * Members that are all on one host do it by memory that they share (shared.c): at the freeze instance 0
 * sends it to all, and a first round, in which all say whether they have it, decides. Ends are told as
 * above.
 */
#include <stdint.h>
#include <stdlib.h>
#include <sys/time.h>

#include "pvm/group/group.h"

enum {
	STEP_BITS = 5,
	STEP_LEFT = (1 << STEP_BITS) - 1,
	STEP_GO = STEP_LEFT - 1,
	STEP_SHARED = STEP_LEFT - 2,
	STEP_SUM = STEP_LEFT - 3,
	TAG_BASE = 1 << 30,
};

/* What is waited for. */
static struct {
	int from, tag, left_tag;
} want;

/* Of this group alone: the server gives each change of a group a number of its own. */
static int tag_of(const struct gs_members *m, int step)
{
	return TAG_BASE | ((m->generation << STEP_BITS | step) & (TAG_BASE - 1));
}

int gs_sum_tag(const struct gs_members *m)
{
	return tag_of(m, STEP_SUM);
}

/* The partner's word before any news of an end. */
static int match(int mid, int tid, int tag)
{
	int its_tag = 0, src = 0;

	if (pvm_bufinfo(mid, NULL, &its_tag, &src))
		return 0;
	/* A message handler that receives meanwhile. */
	if (pvm_getcontext() != GS_ROUND_CTX)
		return (tid == -1 || tid == src) && (tag == -1 || tag == its_tag);
	if (its_tag == want.tag && src == want.from)
		return 1;
	return its_tag == want.left_tag ? 2 : 0;
}

static void tell_all(const struct gs_members *m, int me)
{
	int v[3] = {m->tids[me], (int)(m->rounds >> 32), (int)(uint32_t)m->rounds};

	if (pvm_initsend(PvmDataDefault) < 0)
		return;
	pvm_pkint(v, 3, 1);
	for (int i = 0; i < m->slots; i++)
		if (i != me && m->tids[i] > 0)
			pvm_send(m->tids[i], tag_of(m, STEP_LEFT));
}

/* Somebody has left after `rounds`, or (no number) has died. */
static void take_end(struct gs_members *m)
{
	int tid = 0, v[2], inst, report;
	int64_t rounds;

	if (pvm_upkint(&tid, 1, 1))
		return;
	report = pvm_setopt(PvmAutoErr, 0);
	inst = gs_members_inst(m, tid);
	if (!pvm_upkint(v, 2, 1)) {
		rounds = (int64_t)((uint64_t)(uint32_t)v[0] << 32 | (uint32_t)v[1]);
		if (inst >= 0)
			m->left[inst] = true;
	} else {
		if (inst >= 0)
			m->gone[inst] = true;
		/* It may have been in this one. */
		rounds = m->shared && inst >= 0 ? gs_shared_rounds(m, inst) : m->rounds + 1;
	}
	pvm_setopt(PvmAutoErr, report);
	m->last_round = BASE_MIN(m->last_round, rounds);
}

/* Its message, or a code. */
static int hear(struct gs_members *m, int step, int from)
{
	want.from = m->tids[from];
	want.tag = tag_of(m, step);
	want.left_tag = tag_of(m, STEP_LEFT);
	while (m->rounds < m->last_round) {
		/* The last words of a dead one on another host may come behind the news. */
		struct timeval soon = {1, 0};
		int mid = pvm_trecv(-1, -1, m->gone[from] ? &soon : NULL);
		int tag = 0, src = 0, rc;

		if (mid <= 0)
			return mid ? mid : PvmNoGroup;
		rc = pvm_bufinfo(mid, NULL, &tag, &src);
		if (!rc && tag == want.left_tag)
			take_end(m);
		if (!rc && src == want.from && tag == want.tag)
			return mid;
		pvm_freebuf(mid);
		if (rc)
			return rc;
	}
	return PvmNoGroup;
}

/* Those that we hear from. */
static int watch(struct gs_members *m, int me, int n)
{
	for (int d = 1; d < n; d <<= 1) {
		int rc = pvm_notify(PvmTaskExit, tag_of(m, STEP_LEFT), 1,
				    &m->tids[(me - d + n) % n]);

		if (rc < 0)
			return rc;
	}
	m->watching = true;
	return PvmOk;
}

static int rounds_begin(struct gs_members *m, int me, int n)
{
	if (!m->gone) {
		m->gone = calloc(2 * (size_t)n, sizeof(*m->gone));
		m->left = m->gone + n;
		m->last_round = INT64_MAX;
	}
	if (!m->gone)
		return PvmNoMem;
	return m->watching ? PvmOk : watch(m, me, n);
}

/* *all: whether it was so with every one. */
static int round_run(struct gs_members *m, int me, int n, int *all)
{
	int step = 0, rc = rounds_begin(m, me, n);

	for (int d = 1; d < n && !rc; d <<= 1, step++) {
		int mid, its = 0;

		rc = pvm_initsend(PvmDataRaw);
		if (rc >= 0)
			rc = pvm_pkint(all, 1, 1);
		if (!rc)
			rc = pvm_send(m->tids[(me + d) % n], tag_of(m, step));
		mid = rc ? rc : hear(m, step, (me - d + n) % n);
		rc = mid < 0 ? mid : pvm_upkint(&its, 1, 1);
		if (mid > 0)
			pvm_freebuf(mid);
		*all = *all && its;
	}
	return rc;
}

static bool one_host(const struct gs_members *m)
{
	for (int i = 1; i < m->slots; i++)
		if (pvm_tidtohost(m->tids[i]) != pvm_tidtohost(m->tids[0]))
			return false;
	return true;
}

static size_t shared_bytes(const struct gs_members *m)
{
	return gs_shared_places_at(m->slots) +
	       GS_TURNS * (size_t)m->slots * sizeof(struct gs_place);
}

/*
 * Instance 0: makes it and sends it, and an empty message after it, which comes also where that does not.
 * NULL: there is no such memory, or *rc.
 */
static struct gs_shared *shared_give(const struct gs_members *m, struct mp_msg **keep, int *rc)
{
	int mid = mp_shared_new(shared_bytes(m));
	struct gs_shared *s = mid < 0 ? NULL : mp_shared_keep(mid, shared_bytes(m), keep);
	if (s) {
		/* The round in which they agree is the first one. */
		mp_shared_tell(&s->done, 1);
		s->cores = mp_shared_cores();
	}
	*rc = BASE_MIN(pvm_initsend(PvmDataRaw), 0);
	for (int i = 1; i < m->slots && !*rc; i++) {
		if (s)
			*rc = mp_shared_send(mid, m->tids[i], tag_of(m, STEP_SHARED));
		if (!*rc)
			*rc = pvm_send(m->tids[i], tag_of(m, STEP_SHARED));
	}
	if (mid > 0)
		pvm_freebuf(mid);
	return s;
}

/* The same for the others. */
static struct gs_shared *shared_take(struct gs_members *m, struct mp_msg **keep, int *rc)
{
	struct gs_shared *s = NULL;
	int mid, len;

	do {
		len = 0;
		mid = hear(m, STEP_SHARED, 0);
		if (mid > 0 && !pvm_bufinfo(mid, &len, NULL, NULL) && len)
			s = mp_shared_keep(mid, shared_bytes(m), keep);
		if (mid > 0)
			pvm_freebuf(mid);
	} while (mid > 0 && len && !s);
	/* The empty one. */
	if (s && (mid = hear(m, STEP_SHARED, 0)) > 0)
		pvm_freebuf(mid);
	*rc = mid < 0 ? mid : 0;
	return s;
}

static int setup(struct gs_members *m, int me)
{
	struct mp_msg *keep = NULL;
	struct gs_shared *s;
	int rc = rounds_begin(m, me, m->slots), all;

	if (rc)
		return rc;
	s = me ? shared_take(m, &keep, &rc) : shared_give(m, &keep, &rc);
	all = s != NULL;
	if (!rc)
		rc = round_run(m, me, m->slots, &all);
	if (rc || !all) {
		mp_shared_drop(keep);
		return rc;
	}
	m->shared = s;
	m->shared_keep = keep;
	m->me = me;
	return PvmOk;
}

static void begin(struct gs_aside *aside, int (**old)(int, int, int), int (*with)(int, int, int))
{
	gs_aside_begin(aside, GS_ROUND_CTX);
	*old = pvm_recvf(with);
}

static void end(const struct gs_aside *aside, int (*old)(int, int, int))
{
	pvm_recvf(old);
	gs_aside_end(aside);
}

/* How a round went. */
static void count_round(struct gs_members *m, int me, int rc)
{
	if (!rc) {
		m->rounds++;
	} else {
		m->broken = true;
		tell_all(m, me);
	}
}

void gs_barrier_setup(struct gs_members *m, int me)
{
	struct gs_aside aside;
	int (*old)(int, int, int);

	if (!one_host(m))
		return;
	begin(&aside, &old, match);
	count_round(m, me, setup(m, me));
	end(&aside, old);
}

int gs_barrier_watch_all(struct gs_members *m)
{
	struct gs_aside aside;
	int rc;

	if (m->watching_all)
		return PvmOk;
	gs_aside_begin(&aside, GS_ROUND_CTX);
	rc = pvm_notify(PvmTaskExit, tag_of(m, STEP_LEFT), m->slots, m->tids);
	gs_aside_end(&aside);
	m->watching_all = rc >= 0;
	return BASE_MIN(rc, 0);
}

void gs_barrier_news(struct gs_members *m)
{
	struct gs_aside aside;
	int (*old)(int, int, int), mid;

	if (m->arrivals == mp_shared_arrivals())
		return;
	m->arrivals = mp_shared_arrivals();
	begin(&aside, &old, NULL);
	while ((mid = pvm_nrecv(-1, tag_of(m, STEP_LEFT))) > 0) {
		take_end(m);
		pvm_freebuf(mid);
	}
	while ((mid = pvm_nrecv(-1, tag_of(m, STEP_GO))) > 0)
		pvm_freebuf(mid);
	end(&aside, old);
}

void gs_barrier_go(struct gs_members *m)
{
	struct gs_aside aside;

	gs_aside_begin(&aside, GS_ROUND_CTX);
	if (pvm_initsend(PvmDataRaw) > 0)
		pvm_mcast(m->tids, m->slots, tag_of(m, STEP_GO));
	gs_aside_end(&aside);
}

void gs_barrier_wake(struct gs_members *m, int inst)
{
	struct gs_aside aside;

	gs_aside_begin(&aside, GS_ROUND_CTX);
	if (pvm_initsend(PvmDataRaw) > 0)
		pvm_send(m->tids[inst], tag_of(m, STEP_GO));
	gs_aside_end(&aside);
}

static int round_by_messages(struct gs_members *m, int me)
{
	struct gs_aside aside;
	int (*old)(int, int, int), rc, all = 1;

	begin(&aside, &old, match);
	rc = round_run(m, me, m->slots, &all);
	end(&aside, old);
	return rc;
}

int gs_barrier_static(struct gs_members *m, int me)
{
	struct gs_aside aside;
	int rc;

	if (m->broken)
		return PvmNoGroup;
	rc = m->shared ? gs_shared_round(m) : round_by_messages(m, me);
	if (!rc) {
		m->rounds++;
		return rc;
	}
	m->broken = true;
	gs_aside_begin(&aside, GS_ROUND_CTX);
	tell_all(m, me);
	gs_aside_end(&aside);
	return rc;
}

void gs_barrier_leave(struct gs_members *m, int me)
{
	struct gs_aside aside;
	int mid;

	gs_aside_begin(&aside, GS_ROUND_CTX);
	if (!m->broken)
		tell_all(m, me);
	for (int step = STEP_SUM; step <= STEP_LEFT; step++)
		while ((mid = pvm_nrecv(-1, tag_of(m, step))) > 0)
			pvm_freebuf(mid);
	gs_aside_end(&aside);
}
