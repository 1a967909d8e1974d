/*
 * A reduce of a few bytes in a group whose members share memory. Each puts its numbers into a place of its
 * own and goes on; the root, woken by who comes last, adds them up in the order of the instances. Calls are
 * numbered (all members make the same ones) and share GS_TURNS turns; a turn is open for one call until the
 * root of that is done.
 *
 * Who is so far ahead that the turn is not open for its call sends its numbers as a message, and says first
 * that there are such: from then on everybody who comes tells the root, which then takes what it finds, places
 * before messages.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "pvm/group/group.h"

/* One call; `number` counts from 1. */
struct call {
	struct gs_members *m;
	struct gs_turn *turn;
	uint64_t number;
	int tag, type, count, root;
	size_t bytes;
};

static struct gs_place *place_of(const struct call *c, int inst)
{
	struct gs_members *m = c->m;
	size_t i = c->number % GS_TURNS * (size_t)m->slots + (size_t)inst;

	return (struct gs_place *)(void *)((char *)m->shared + gs_shared_places_at(m->slots)) + i;
}

static bool is_full(const struct call *c, int inst)
{
	return atomic_load_explicit(&place_of(c, inst)->number, memory_order_acquire) == c->number;
}

size_t gs_shared_places_at(int slots)
{
	size_t at =
		sizeof(struct gs_shared) + (size_t)slots * sizeof(((struct gs_shared *)0)->at[0]);

	return (at + _Alignof(struct gs_place) - 1) & ~(_Alignof(struct gs_place) - 1);
}

/* Characters travel as bytes: they have no length in front. */
static int message_type(const struct call *c)
{
	return c->type == PVM_STR ? PVM_BYTE : c->type;
}

static int send_message(const struct call *c, const void *data)
{
	struct gs_aside aside;
	int rc;

	gs_aside_begin(&aside, GS_DATA_CTX);
	rc = pvm_psend(c->m->tids[c->root], c->tag, (void *)(uintptr_t)data, c->count,
		       message_type(c));
	gs_aside_end(&aside);
	return rc;
}

/* Calls of a turn are GS_TURNS apart; it was made of zeros. */
static bool is_open(const struct call *c)
{
	return atomic_load(&c->turn->over) == (c->number - 1) / GS_TURNS;
}

static int put(const struct call *c, const void *data)
{
	struct gs_members *m = c->m;
	struct gs_place *p = place_of(c, m->me);
	uint32_t came;

	if (!is_open(c)) {
		atomic_store(&m->shared->by_message, 1);
		return send_message(c, data);
	}
	memcpy(p->data, data, c->bytes);
	p->bytes = (uint32_t)c->bytes;
	atomic_store_explicit(&p->number, c->number, memory_order_release);
	came = atomic_fetch_add(&c->turn->came, 1) + 1;
	if (came != (uint32_t)m->slots - 1 && !atomic_load(&m->shared->by_message))
		return PvmOk;
	/* Twice the same value is no harm: who told it first had come before. */
	if (mp_shared_tell(&c->turn->told, atomic_load(&c->turn->told.value) + 1))
		gs_barrier_wake(m, c->root);
	return PvmOk;
}

/* What the root has, by instance: nothing, the place, or a message. */
struct sum {
	const struct call *c;
	gs_reduce_fn fn;
	int missing, error;
	bool *had; /* by a message */
	_Alignas(64) char data[GS_PLACE_MAX];
};

static bool is_missing(const struct sum *s, int inst)
{
	return inst != s->c->root && !s->had[inst] && !is_full(s->c, inst);
}

static int add(struct sum *s, void *incoming)
{
	int type = s->c->type, count = s->c->count, info = 0;

	s->fn(&type, s->data, incoming, &count, &info);
	return BASE_MIN(info, 0);
}

/* One message of who has no full place: its place was taken when it came here. */
static int add_message(struct sum *s, int inst)
{
	const struct call *c = s->c;
	_Alignas(64) char incoming[GS_PLACE_MAX];
	int len = 0, rc;

	rc = pvm_probe(c->m->tids[inst], c->tag);
	/* It may have come by its place first, and be for a later call. */
	if (rc <= 0 || is_full(c, inst))
		return BASE_MIN(rc, 0);
	rc = pvm_precv(c->m->tids[inst], c->tag, incoming, c->count, message_type(c), NULL, NULL,
		       &len);
	if (rc)
		return rc;
	rc = (size_t)len == c->bytes ? add(s, incoming) : PvmMismatch;
	/* The others are waited for nevertheless: the turn is to be clean for the next call. */
	s->error = s->error ? s->error : rc;
	s->had[inst] = true;
	s->missing--;
	return PvmOk;
}

static int add_messages(struct sum *s)
{
	const struct gs_members *m = s->c->m;
	int (*old)(int, int, int), rc = 0;
	struct gs_aside aside;

	gs_aside_begin(&aside, GS_DATA_CTX);
	old = pvm_recvf(NULL);
	for (int i = 0; i < m->slots && !rc; i++)
		if (is_missing(s, i))
			rc = add_message(s, i);
	pvm_recvf(old);
	gs_aside_end(&aside);
	return rc;
}

/* Members have ended. Those that have put something did so before; others never will. */
static int look_for_ended(const struct sum *s, bool *all)
{
	const struct gs_members *m = s->c->m;

	*all = true;
	for (int i = 0; i < m->slots; i++) {
		if (!is_missing(s, i))
			continue;
		if (m->gone[i] || m->left[i])
			return PvmNoGroup;
		*all = false;
	}
	return PvmOk;
}

static int news(struct sum *s, bool *all)
{
	struct gs_members *m = s->c->m;
	int rc = 0;

	gs_barrier_news(m);
	if (atomic_load(&m->shared->by_message))
		rc = add_messages(s);
	if (!rc && m->last_round != INT64_MAX)
		rc = look_for_ended(s, all);
	return rc;
}

/* Until what is missing is in its place. */
static int await_all(struct sum *s)
{
	const struct call *c = s->c;
	bool first = true, all = false;

	for (;;) {
		uint32_t seen = atomic_load(&c->turn->told.value);
		unsigned arrivals = mp_shared_arrivals();
		int rc;

		if (all || (is_open(c) && atomic_load(&c->turn->came) >= (uint32_t)s->missing))
			return PvmOk;
		if (first || arrivals != c->m->reduce_arrivals) {
			first = false;
			c->m->reduce_arrivals = arrivals;
			rc = news(s, &all);
		} else {
			rc = mp_shared_await(&c->turn->told, seen);
		}
		if (rc)
			return rc;
	}
}

static int add_places(struct sum *s)
{
	const struct call *c = s->c;
	int rc = 0;

	for (int i = 0; i < c->m->slots && !rc; i++) {
		struct gs_place *p = place_of(c, i);

		if (i == c->root || s->had[i])
			continue;
		/* The count was wrong: one died while it came, or it was written by another. */
		if (!is_full(c, i))
			return PvmNoGroup;
		rc = p->bytes == c->bytes ? add(s, p->data) : PvmMismatch;
	}
	return rc;
}

static void open_turn(const struct call *c)
{
	atomic_store(&c->turn->came, 0);
	atomic_store(&c->turn->over, (c->number - 1) / GS_TURNS + 1);
}

static int take(const struct call *c, gs_reduce_fn fn, void *data)
{
	struct sum s = {.c = c, .fn = fn, .missing = c->m->slots - 1};
	int rc;

	s.had = calloc((size_t)c->m->slots, sizeof(*s.had));
	if (!s.had)
		return PvmNoMem;
	memcpy(s.data, data, c->bytes);
	rc = await_all(&s);
	rc = rc ? rc : s.error;
	if (!rc)
		rc = add_places(&s);
	open_turn(c);
	free(s.had);
	/* Only when all is well, and only the root's data change. */
	if (!rc)
		memcpy(data, s.data, c->bytes);
	return rc;
}

bool gs_shared_can_reduce(const struct gs_members *m, size_t bytes)
{
	return m->shared && bytes <= GS_PLACE_MAX && m->slots > 1 && m->tids[m->me] == pvm_mytid();
}

int gs_shared_reduce(struct gs_members *m, gs_reduce_fn fn, void *data, size_t bytes, int count,
		     int type, int tag, int root)
{
	struct call c = {.m = m,
			 .number = ++m->reductions,
			 .tag = tag,
			 .type = type,
			 .count = count,
			 .root = root,
			 .bytes = bytes};

	c.turn = &m->shared->turns[c.number % GS_TURNS];
	return m->me == root ? take(&c, fn, data) : put(&c, data);
}
