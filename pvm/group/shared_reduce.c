/*
 * Reductions of a group whose members share memory. They are numbered (all members make the same ones), and
 * agreed upon first: shared_agree.c.
 *
 * Of a few bytes: each puts its numbers into a place of its own and goes on; the root, woken by who comes
 * last, adds them up in the order of the instances. Calls share GS_TURNS turns; a turn is open for one call
 * until the root of that is done. Who is so far ahead that the turn is not open for its call sends its numbers
 * as a message, and says first that there are such: from then on everybody who comes tells the root, which
 * then takes what it finds, places before messages. The same is said where a call fails, after which it is
 * not known who still comes to it.
 *
 * Of more: by messages, as a tree.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/list.h"
#include "pvm/group/group.h"

static struct gs_place *place_of(const struct gs_call *c, int inst)
{
	struct gs_members *m = c->m;
	size_t i = c->number % GS_TURNS * (size_t)m->slots + (size_t)inst;

	return (struct gs_place *)(void *)((char *)m->shared + gs_shared_places_at(m->slots)) + i;
}

bool gs_place_is_full(const struct gs_call *c, int inst)
{
	return atomic_load_explicit(&place_of(c, inst)->number, memory_order_acquire) == c->number;
}

size_t gs_shared_places_at(int slots)
{
	size_t at =
		sizeof(struct gs_shared) + (size_t)slots * sizeof(((struct gs_shared *)0)->at[0]);

	return (at + _Alignof(struct gs_place) - 1) & ~(_Alignof(struct gs_place) - 1);
}

/* Calls of a turn are GS_TURNS apart; it was made of zeros. */
static bool is_open(const struct gs_call *c)
{
	return atomic_load(&c->turn->over) == (c->number - 1) / GS_TURNS;
}

static int put(const struct gs_call *c, const void *data)
{
	struct gs_members *m = c->m;
	struct gs_place *p = place_of(c, m->me);
	uint32_t came;

	if (!is_open(c)) {
		atomic_store(&m->shared->by_message, 1);
		return gs_part_send(c, c->root, data, 0);
	}
	memcpy(p->data, data, c->bytes);
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
	const struct gs_call *c;
	int missing;
	bool *had; /* by a message */
	_Alignas(64) char data[GS_PLACE_MAX];
};

static bool is_missing(const struct sum *s, int inst)
{
	return inst != s->c->root && !s->had[inst] && !gs_place_is_full(s->c, inst);
}

static int add(const struct gs_call *c, void *to, void *incoming)
{
	int type = c->type, count = c->count, info = 0;

	c->fn(&type, to, incoming, &count, &info);
	return BASE_MIN(info, 0);
}

static int add_messages(struct sum *s)
{
	const struct gs_call *c = s->c;
	_Alignas(64) char incoming[GS_PLACE_MAX];

	for (int i = 0; i < c->m->slots; i++) {
		int rc = is_missing(s, i) ? gs_part_poll(c, i, incoming) : 0;

		if (rc > 0) {
			s->had[i] = true;
			s->missing--;
			rc = add(c, s->data, incoming);
		}
		if (rc < 0)
			return rc;
	}
	return PvmOk;
}

/* Members have ended. Those that have put something did so before; others never will. */
static int look_for_ended(const struct sum *s)
{
	const struct gs_members *m = s->c->m;

	for (int i = 0; i < m->slots; i++)
		if ((m->gone[i] || m->left[i]) && is_missing(s, i))
			return PvmNoGroup;
	return PvmOk;
}

static int news(struct sum *s)
{
	struct gs_members *m = s->c->m;
	int rc = 0;

	gs_barrier_news(m);
	if (atomic_load(&m->shared->by_message))
		rc = add_messages(s);
	if (!rc && m->last_round != INT64_MAX)
		rc = look_for_ended(s);
	return rc;
}

static bool all_here(const struct sum *s)
{
	const struct gs_call *c = s->c;

	/* The count is cheaper to look at. */
	if (!atomic_load(&c->m->shared->by_message) &&
	    !(is_open(c) && atomic_load(&c->turn->came) >= (uint32_t)s->missing))
		return false;
	for (int i = 0; i < c->m->slots; i++)
		if (is_missing(s, i))
			return false;
	return true;
}

/* Until what is missing is in its place. */
static int await_all(struct sum *s)
{
	const struct gs_call *c = s->c;
	bool first = true;

	for (;;) {
		uint32_t seen = atomic_load(&c->turn->told.value);
		unsigned arrivals = mp_shared_arrivals();
		int rc;

		if (all_here(s))
			return PvmOk;
		if (gs_call_refused(c))
			return PvmBadParam;
		if (first || arrivals != c->m->reduce_arrivals) {
			first = false;
			c->m->reduce_arrivals = arrivals;
			rc = gs_barrier_watch_all(c->m);
			rc = rc ? rc : news(s);
		} else {
			rc = mp_shared_await(&c->turn->told, seen);
		}
		if (rc)
			return rc;
	}
}

static int add_places(struct sum *s)
{
	const struct gs_call *c = s->c;
	int rc = 0;

	for (int i = 0; i < c->m->slots && !rc; i++)
		if (i != c->root && !s->had[i])
			rc = add(c, s->data, place_of(c, i)->data);
	return rc;
}

static void open_turn(const struct gs_call *c)
{
	atomic_store(&c->turn->came, 0);
	atomic_store(&c->turn->over, (c->number - 1) / GS_TURNS + 1);
}

static int take(const struct gs_call *c, void *data)
{
	struct sum s = {.c = c, .missing = c->m->slots - 1};
	int rc;

	s.had = calloc((size_t)c->m->slots, sizeof(*s.had));
	memcpy(s.data, data, c->bytes);
	rc = s.had ? await_all(&s) : PvmNoMem;
	if (!rc)
		rc = add_places(&s);
	if (rc)
		atomic_store(&c->m->shared->by_message, 1);
	open_turn(c);
	free(s.had);
	/* Only when all is well, and only the root's data change. */
	if (!rc)
		memcpy(data, s.data, c->bytes);
	return rc;
}

/* A reduce of many bytes. */
struct large {
	struct gs_tree tree;
	const struct gs_call *c;
	char *data, *incoming;
};

static int inst_of(const struct large *l, int rank)
{
	return (rank + l->c->root) % l->c->m->slots;
}

static int large_send(struct gs_tree *t, int rank, int error)
{
	struct large *l = base_container_of(t, struct large, tree);

	return gs_part_send(l->c, inst_of(l, rank), l->data, error);
}

static int large_take(struct gs_tree *t, int rank, int error)
{
	struct large *l = base_container_of(t, struct large, tree);
	/* What comes after an error is dropped at the next call. */
	int rc = error ? error : gs_part_await(l->c, inst_of(l, rank), l->incoming);

	return rc < 0 ? rc : add(l->c, l->data, l->incoming);
}

static int by_tree(const struct gs_call *c, void *data, char *room)
{
	struct gs_members *m = c->m;
	int cores = gs_shared_cores(m), rc;
	struct large l = {.tree = {.n = m->slots,
				   .rank = (m->me - c->root + m->slots) % m->slots,
				   .width = (m->slots + cores - 1) / cores,
				   .send = large_send,
				   .take = large_take},
			  .c = c,
			  .data = room,
			  .incoming = room + c->bytes};

	memcpy(l.data, data, c->bytes);
	rc = gs_tree_run(&l.tree);
	if (!rc && m->me == c->root)
		memcpy(data, l.data, c->bytes);
	return rc;
}

bool gs_shared_can_reduce(const struct gs_members *m)
{
	return m->shared && m->slots > 1 && m->tids[m->me] == pvm_mytid();
}

static int check(const struct gs_call *c, const void *data)
{
	if (!c->fn || !data || !c->bytes || c->count < 1 || c->tag < 0)
		return PvmBadParam;
	return c->root < 0 || c->root >= c->m->slots ? PvmNoInst : PvmOk;
}

/* What all must do alike is known when they have agreed. */
static int reduce(const struct gs_call *c, void *data, int error)
{
	bool small = c->bytes <= GS_PLACE_MAX;
	char *room = small || error ? NULL : malloc(2 * c->bytes);
	int rc;

	if (!error && !small && !room)
		error = PvmNoMem;
	rc = gs_call_agree(c, error);
	if (!rc && !small)
		rc = by_tree(c, data, room);
	else if (!rc)
		rc = c->m->me == c->root ? take(c, data) : put(c, data);
	free(room);
	return rc;
}

int gs_shared_reduce(struct gs_members *m, struct gs_call *c, void *data)
{
	int rc;

	c->m = m;
	c->number = ++m->reductions;
	c->turn = &m->shared->turns[c->number % GS_TURNS];
	c->bytes = c->count < 1 ? 0 : gs_type_size(c->type) * (size_t)c->count;
	rc = reduce(c, data, check(c, data));
	gs_call_end(c);
	return rc;
}
