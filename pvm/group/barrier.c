/*
 * The barrier of a static group among its members, without the server: in step s each tells the one 2^s
 * places behind it and hears from the one 2^s before it, so after log2(n) steps all have come. Each step
 * has a partner of its own and messages of one keep their order, so a round needs no number.
 *
 * Who leaves tells all others how many rounds it was in: rounds up to there still end well, later ones
 * are PvmNoGroup. Who dies is noticed by those that hear from it; where its word is missing they end the
 * round and tell all others the same way.
 */
#include <limits.h>
#include <stdlib.h>
#include <sys/time.h>

#include "pvm/group/group.h"

enum { STEP_BITS = 5, STEP_LEFT = (1 << STEP_BITS) - 1, TAG_BASE = 1 << 30 };

/* What is waited for. */
static struct {
	int from, tag, left_tag;
} want;

/* Of this group alone: the server gives each change of a group a number of its own. */
static int tag_of(const struct gs_members *m, int step)
{
	return TAG_BASE | ((m->generation << STEP_BITS | step) & (TAG_BASE - 1));
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
	int v[2] = {m->tids[me], m->rounds};

	if (pvm_initsend(PvmDataDefault) < 0)
		return;
	pvm_pkint(v, 2, 1);
	for (int i = 0; i < m->slots; i++)
		if (i != me && m->tids[i] > 0)
			pvm_send(m->tids[i], tag_of(m, STEP_LEFT));
}

/* Somebody has left after `rounds`, or (no number) has died. */
static void take_end(struct gs_members *m)
{
	int tid = 0, rounds = 0, inst, report;

	if (pvm_upkint(&tid, 1, 1))
		return;
	report = pvm_setopt(PvmAutoErr, 0);
	if (pvm_upkint(&rounds, 1, 1)) {
		inst = gs_members_inst(m, tid);
		if (inst >= 0)
			m->gone[inst] = true;
		/* It may have been in this one. */
		rounds = m->rounds + 1;
	}
	pvm_setopt(PvmAutoErr, report);
	m->last_round = BASE_MIN(m->last_round, rounds);
}

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
		pvm_freebuf(mid);
		if (rc || (src == want.from && tag == want.tag))
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
		m->gone = calloc((size_t)n, sizeof(*m->gone));
		m->last_round = INT_MAX;
	}
	if (!m->gone)
		return PvmNoMem;
	return m->watching ? PvmOk : watch(m, me, n);
}

static int round_run(struct gs_members *m, int me, int n)
{
	int step = 0, rc = rounds_begin(m, me, n);

	for (int d = 1; d < n && !rc; d <<= 1, step++) {
		rc = pvm_initsend(PvmDataRaw);
		if (rc >= 0)
			rc = pvm_send(m->tids[(me + d) % n], tag_of(m, step));
		if (!rc)
			rc = hear(m, step, (me - d + n) % n);
	}
	return rc;
}

int gs_barrier_static(struct gs_members *m, int me)
{
	struct gs_aside aside;
	int (*old)(int, int, int), rc;

	if (m->broken)
		return PvmNoGroup;
	gs_aside_begin(&aside, GS_ROUND_CTX);
	old = pvm_recvf(match);
	rc = round_run(m, me, m->slots);
	pvm_recvf(old);
	if (!rc) {
		m->rounds++;
	} else {
		m->broken = true;
		tell_all(m, me);
	}
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
	while ((mid = pvm_nrecv(-1, tag_of(m, STEP_LEFT))) > 0)
		pvm_freebuf(mid);
	gs_aside_end(&aside);
}
