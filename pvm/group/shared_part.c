/*
 * Sums that go by messages in a group whose members share memory. Each has the number of its call in front:
 * what is left of a call that has failed is known by it and dropped.
 */
#include <stdint.h>

#include "pvm/group/group.h"

/* One host: as it lies in memory. */
struct part_head {
	uint64_t number;
	int32_t error, spare;
};

static int pack(struct part_head *head, const void *data, size_t bytes)
{
	int rc = pvm_initsend(PvmDataInPlace);

	if (rc >= 0)
		rc = pvm_pkbyte((char *)head, sizeof(*head), 1);
	/* Long ones in pieces that an int can count. */
	for (size_t at = 0; rc >= 0 && at < bytes && !head->error;) {
		size_t part = BASE_MIN(bytes - at, (size_t)1 << 30);

		rc = pvm_pkbyte((char *)(uintptr_t)data + at, (int)part, 1);
		at += part;
	}
	return BASE_MIN(rc, 0);
}

int gs_part_send(const struct gs_call *c, int inst, const void *data, int error)
{
	struct part_head head = {.number = c->number, .error = error};
	struct gs_aside aside;
	int rc;

	gs_aside_begin(&aside, GS_ROUND_CTX);
	rc = pack(&head, data, c->bytes);
	if (!rc)
		rc = pvm_send(c->m->tids[inst], gs_sum_tag(c->m));
	gs_aside_end(&aside);
	return rc;
}

/* 1, 0 when it is of an earlier call, or an error. */
static int unpack(const struct gs_call *c, void *data)
{
	struct part_head head;
	int rc = pvm_upkbyte((char *)&head, sizeof(head), 1);

	if (rc || head.number < c->number)
		return rc;
	if (head.number > c->number)
		return PvmBadParam;
	if (head.error)
		return BASE_MIN(head.error, -1);
	for (size_t at = 0; !rc && at < c->bytes;) {
		size_t part = BASE_MIN(c->bytes - at, (size_t)1 << 30);

		rc = pvm_upkbyte((char *)data + at, (int)part, 1);
		at += part;
	}
	return rc ? rc : 1;
}

static int poll_in_context(const struct gs_call *c, int inst, void *data)
{
	int tid = c->m->tids[inst], tag = gs_sum_tag(c->m);

	for (;;) {
		int mid = pvm_probe(tid, tag), rc;

		/* It may be of a later call: then this one has been refused, or its part is in its place. */
		if (mid > 0 && gs_call_refused(c))
			return PvmBadParam;
		if (mid <= 0 || gs_place_is_full(c, inst))
			return BASE_MIN(mid, 0);
		mid = pvm_nrecv(tid, tag);
		if (mid <= 0)
			return mid;
		rc = unpack(c, data);
		pvm_freebuf(mid);
		if (rc)
			return rc;
	}
}

int gs_part_poll(const struct gs_call *c, int inst, void *data)
{
	int (*old)(int, int, int), rc;
	struct gs_aside aside;

	gs_aside_begin(&aside, GS_ROUND_CTX);
	old = pvm_recvf(NULL);
	rc = poll_in_context(c, inst, data);
	pvm_recvf(old);
	gs_aside_end(&aside);
	return rc;
}

int gs_part_await(const struct gs_call *c, int inst, void *data)
{
	struct gs_members *m = c->m;
	int rc = gs_barrier_watch_all(m);

	while (!rc) {
		uint32_t seen = atomic_load(&c->turn->told.value);
		unsigned arrivals = mp_shared_arrivals();

		/* In this order: who has ended has sent before. */
		gs_barrier_news(m);
		rc = gs_part_poll(c, inst, data);
		if (!rc && gs_call_refused(c))
			rc = PvmBadParam;
		if (!rc && (m->gone[inst] || m->left[inst]))
			rc = PvmNoGroup;
		if (!rc && arrivals == mp_shared_arrivals())
			rc = mp_shared_await(&c->turn->told, seen);
	}
	return rc;
}
