/*
 * Explores every interleaving of the two real state machines with messages in flight, a link that
 * breaks at any moment, and processes and hosts that die at any moment; checks the invariants of
 * migrate/fsm.h in each state that can be reached.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "base/cleanup.h"
#include "migrate/fsm.h"

enum { QUEUE = 3, STATES_MAX = 1 << 20 };
enum journal { J_NONE, J_COMMITTING, J_COMMITTED, J_ABORTED, J_COMPLETE };

/* All bytes, compared by memcmp. */
struct world {
	uint8_t src, dst; /* states */
	uint8_t to_dst[QUEUE], to_src[QUEUE];
	uint8_t link; /* 1: up; messages still arrive after it broke only if queued */
	uint8_t src_alive, dst_alive; /* the processes with the copies */
	uint8_t src_journal, dst_journal;
	uint8_t src_asks, dst_asks;
	uint8_t dst_host_lost; /* its journal went with it */
	uint8_t src_post, dst_post;
	uint8_t src_freed; /* its memory */
};

static struct world *seen;
static int *parent_runs; /* 1: from here a state with one running copy can be reached */
static size_t seen_count;

static size_t hash_slots[STATES_MAX * 2];

static size_t world_hash(const struct world *w)
{
	const uint8_t *p = (const uint8_t *)w;
	size_t h = 1469598103u;

	for (size_t i = 0; i < sizeof(*w); i++)
		h = (h ^ p[i]) * 1099511628211u;
	return h ^ (h >> 31);
}

/* Index of the world; adds it when it is new. */
static size_t world_index(const struct world *w)
{
	size_t at = world_hash(w) % BASE_ARRAY_LEN(hash_slots);

	while (hash_slots[at]) {
		if (!memcmp(&seen[hash_slots[at] - 1], w, sizeof(*w)))
			return hash_slots[at] - 1;
		at = (at + 1) % BASE_ARRAY_LEN(hash_slots);
	}
	assert_true(seen_count < STATES_MAX);
	seen[seen_count] = *w;
	hash_slots[at] = ++seen_count;
	return seen_count - 1;
}

static void queue_put(uint8_t *q, uint8_t ev)
{
	int i = 0;

	while (i < QUEUE && q[i])
		i++;
	assert_true(i < QUEUE);
	q[i] = ev;
}

static void send_message(struct world *w, uint8_t *q, uint8_t ev)
{
	if (w->link)
		queue_put(q, ev);
}

static void src_apply(struct world *w, uint32_t act)
{
	if (act & MIG_ACT_JOURNAL_COMMITTING)
		w->src_journal = J_COMMITTING;
	if (act & MIG_ACT_SEND_PREPARE)
		send_message(w, w->to_dst,
			     w->src_post ? MIG_EV_RX_PREPARE_POSTCOPY : MIG_EV_RX_PREPARE);
	if (act & MIG_ACT_SEND_COMMIT)
		send_message(w, w->to_dst, MIG_EV_RX_COMMIT);
	if (act & MIG_ACT_SEND_ABORT)
		send_message(w, w->to_dst, MIG_EV_RX_ABORT);
	if (act & MIG_ACT_ASK_VERDICT)
		w->src_asks = 1;
	if (act & MIG_ACT_DESTROY)
		w->src_freed = 1;
}

static void dst_apply(struct world *w, uint32_t act)
{
	if (act & MIG_ACT_JOURNAL_COMMITTED)
		w->dst_journal = J_COMMITTED;
	if (act & MIG_ACT_JOURNAL_ABORTED)
		w->dst_journal = J_ABORTED;
	if (act & MIG_ACT_JOURNAL_COMPLETE)
		w->dst_journal = J_COMPLETE;
	if (act & MIG_ACT_SEND_READY)
		send_message(w, w->to_src, MIG_EV_RX_READY);
	if (act & MIG_ACT_SEND_RUNNING)
		send_message(w, w->to_src, MIG_EV_RX_RUNNING);
	if (act & MIG_ACT_SEND_COMPLETE)
		send_message(w, w->to_src, MIG_EV_RX_COMPLETE);
	if (act & MIG_ACT_SEND_ABORT)
		send_message(w, w->to_src, MIG_EV_RX_ABORT);
	if (act & MIG_ACT_ASK_VERDICT)
		w->dst_asks = 1;
}

static int src_event(struct world *w, enum mig_event ev)
{
	struct mig_src_fsm f = {w->src, w->src_post};
	uint32_t act;

	if (!w->src_alive)
		return 0;
	act = mig_src_step(&f, ev);
	w->src = f.state;
	w->src_post = f.postcopy;
	src_apply(w, act);
	return 1;
}

static int dst_event(struct world *w, enum mig_event ev)
{
	struct mig_dst_fsm f = {w->dst, w->dst_post};

	if (!w->dst_alive)
		return 0;
	dst_apply(w, mig_dst_step(&f, ev));
	w->dst = f.state;
	w->dst_post = f.postcopy;
	return 1;
}

static int deliver(struct world *w, uint8_t *q, int (*to)(struct world *, enum mig_event))
{
	uint8_t ev = q[0];

	if (!ev)
		return 0;
	memmove(q, q + 1, QUEUE - 1);
	q[QUEUE - 1] = 0;
	to(w, ev);
	return 1;
}

/* What the destination's agent answers: from its journal, which outlives the process. */
static int answer_source(struct world *w)
{
	if (!w->src_asks)
		return 0;
	if (w->dst_host_lost)
		return src_event(w, MIG_EV_VERDICT_UNKNOWN);
	if (w->dst_journal == J_COMPLETE)
		return src_event(w, MIG_EV_VERDICT_COMPLETE);
	if (w->dst_journal == J_COMMITTED)
		return src_event(w, w->dst_post && !w->dst_alive ? MIG_EV_VERDICT_GONE
								 : MIG_EV_VERDICT_COMMITTED);
	if (w->dst_journal == J_ABORTED)
		return src_event(w, MIG_EV_VERDICT_ABORTED);
	/* No entry and no process: the agent writes "aborted" for it before it answers. */
	if (!w->dst_alive) {
		w->dst_journal = J_ABORTED;
		return src_event(w, MIG_EV_VERDICT_ABORTED);
	}
	return src_event(w, MIG_EV_VERDICT_UNKNOWN);
}

static int answer_destination(struct world *w)
{
	if (!w->dst_asks)
		return 0;
	if (!w->src_alive)
		return dst_event(w, MIG_EV_VERDICT_GONE);
	if (w->src == MIG_SRC_FAILED)
		return dst_event(w, MIG_EV_VERDICT_ABORTED);
	if (w->src == MIG_SRC_COMMIT || w->src == MIG_SRC_DOUBT)
		return dst_event(w, MIG_EV_VERDICT_COMMITTING);
	return dst_event(w, MIG_EV_VERDICT_UNKNOWN);
}

/* Both sides have waited for it. */
static int new_link(struct world *w)
{
	if (w->link || !w->src_alive || !w->dst_alive || w->src != MIG_SRC_CUT ||
	    w->dst != MIG_DST_BROKEN)
		return 0;
	w->link = 1;
	memset(w->to_dst, 0, QUEUE);
	memset(w->to_src, 0, QUEUE);
	return 1;
}

/* The last page is given out while the source has both the memory and the link. */
static int last_page(struct world *w)
{
	return w->link && w->src_alive && w->dst == MIG_DST_FILL &&
	       (w->src == MIG_SRC_COMMIT || w->src == MIG_SRC_SERVE) &&
	       dst_event(w, MIG_EV_ALL_HERE);
}

enum { MOVE_COUNT = 22 };

/* Makes move `m`; 0 where it cannot happen now. */
static int world_move(struct world *w, int m)
{
	switch (m) {
	case 0: return src_event(w, MIG_EV_SWITCH);
	case 1: return src_event(w, MIG_EV_FINAL_SENT);
	case 2: return src_event(w, MIG_EV_CANCEL);
	case 3: return dst_event(w, MIG_EV_CANCEL);
	case 4: return deliver(w, w->to_dst, dst_event);
	case 5: return deliver(w, w->to_src, src_event);
	case 6: /* the link breaks; what was in flight may be lost or still arrive */
		w->link = 0;
		return 1;
	case 7: return !w->link && src_event(w, MIG_EV_LINK_LOST);
	case 8: return !w->link && dst_event(w, MIG_EV_LINK_LOST);
	case 9: /* lost in flight */
		if (w->link)
			return 0;
		memset(w->to_dst, 0, QUEUE);
		return 1;
	case 10:
		if (w->link)
			return 0;
		memset(w->to_src, 0, QUEUE);
		return 1;
	case 11: /* a process dies, its connection with it */
		w->src_alive = w->link = 0;
		memset(w->to_src, 0, QUEUE);
		return 1;
	case 12:
		w->dst_alive = w->link = 0;
		memset(w->to_dst, 0, QUEUE);
		return 1;
	case 13:
		w->dst_alive = w->link = 0;
		w->dst_host_lost = 1;
		memset(w->to_dst, 0, QUEUE);
		return 1;
	case 14: return answer_source(w);
	case 15: return answer_destination(w);
	case 16: /* the operator, who knows that the destination's host is dead */
		return w->dst_host_lost && src_event(w, MIG_EV_FORCE);
	case 17: return src_event(w, MIG_EV_SWITCH_POSTCOPY);
	case 18: return last_page(w);
	case 19: return new_link(w);
	case 20: return w->link && src_event(w, MIG_EV_LINK_BACK);
	case 21: return w->link && dst_event(w, MIG_EV_LINK_BACK);
	default: return 0;
	}
}

static int runs(const struct world *w)
{
	struct mig_src_fsm s = {w->src, w->src_post};
	struct mig_dst_fsm d = {w->dst, w->dst_post};

	return (w->src_alive && mig_src_runs(&s)) + (w->dst_alive && mig_dst_runs(&d));
}

/*
 * The guest is not lost: some process that has, or may get, the right to run is alive. A copy that
 * dies after it was committed is the crash of a guest that has moved, and not the hand-over's.
 */
static int could_live(const struct world *w)
{
	/* Each side has what the other lacks. */
	if (w->dst_post && w->dst_journal == J_COMMITTED)
		return w->src_alive && w->dst_alive;
	if ((w->dst_journal == J_COMMITTED || w->dst_journal == J_COMPLETE) && !w->dst_host_lost)
		return w->dst_alive;
	if (w->src_alive && w->src != MIG_SRC_DONE && w->src != MIG_SRC_SERVE &&
	    w->src != MIG_SRC_CUT && w->src != MIG_SRC_LOST)
		return 1;
	return w->dst_alive && !w->dst_post &&
	       (w->dst == MIG_DST_PREPARED || w->dst == MIG_DST_HELD ||
		w->dst == MIG_DST_COMMITTED);
}

/* Memory that the destination still needs is not let go while that could run with it (I6). */
static int freed_too_early(const struct world *w)
{
	return w->src_freed && w->src_alive && w->dst_alive && w->dst_post &&
	       (w->dst == MIG_DST_FILL || w->dst == MIG_DST_BROKEN || w->dst == MIG_DST_HELD ||
		w->dst == MIG_DST_PREPARED);
}

static void explore(void)
{
	struct world start = {.src = MIG_SRC_PRECOPY,
			      .dst = MIG_DST_RECEIVE,
			      .link = 1,
			      .src_alive = 1,
			      .dst_alive = 1};

	world_index(&start);
	for (size_t i = 0; i < seen_count; i++) {
		for (int m = 0; m < MOVE_COUNT; m++) {
			struct world w = seen[i];

			if (!world_move(&w, m))
				continue;
			if (runs(&w) > 1)
				fail_msg("two copies run: source %s, destination %s after move %d",
					 mig_src_state_name(w.src), mig_dst_state_name(w.dst), m);
			if (freed_too_early(&w))
				fail_msg("memory is gone: source %s, destination %s after move %d",
					 mig_src_state_name(w.src), mig_dst_state_name(w.dst), m);
			world_index(&w);
		}
	}
}

/* Moves 0..5, 7, 8 and 14 up are what the system does by itself or by one command; no new faults. */
static int heals(int m)
{
	return m <= 1 || (m >= 4 && m <= 5) || m == 7 || m == 8 || m >= 14;
}

static void mark_healing(void)
{
	int changed = 1;

	for (size_t i = 0; i < seen_count; i++)
		parent_runs[i] = runs(&seen[i]) == 1;
	while (changed) {
		changed = 0;
		for (size_t i = 0; i < seen_count; i++) {
			for (int m = 0; m < MOVE_COUNT && !parent_runs[i]; m++) {
				struct world w = seen[i];

				if (heals(m) && world_move(&w, m) && parent_runs[world_index(&w)])
					parent_runs[i] = changed = 1;
			}
		}
	}
}

static void never_two_never_none(void **state)
{
	size_t stuck = 0;

	seen = calloc(STATES_MAX, sizeof(*seen));
	parent_runs = calloc(STATES_MAX, sizeof(*parent_runs));
	assert_non_null(seen);
	assert_non_null(parent_runs);
	explore();
	mark_healing();
	for (size_t i = 0; i < seen_count; i++) {
		const struct world *w = &seen[i];

		if (!could_live(w) || parent_runs[i])
			continue;
		stuck++;
		print_message("stuck: source %s%s, destination %s%s, link %d\n",
			      mig_src_state_name(w->src), w->src_alive ? "" : " (dead)",
			      mig_dst_state_name(w->dst), w->dst_alive ? "" : " (dead)", w->link);
	}
	print_message("%zu states\n", seen_count);
	assert_int_equal(stuck, 0);
	free(seen);
	free(parent_runs);
}

/* Late and repeated events change nothing. */
static void final_states_are_final(void **state)
{
	struct mig_src_fsm s;
	struct mig_dst_fsm d;

	for (int ev = 1; ev < MIG_EV_COUNT; ev++) {
		s = (struct mig_src_fsm){MIG_SRC_DONE, true};
		assert_int_equal(mig_src_step(&s, ev), 0);
		s.state = MIG_SRC_FAILED;
		assert_int_equal(mig_src_step(&s, ev), 0);
		s.state = MIG_SRC_LOST;
		assert_int_equal(mig_src_step(&s, ev), 0);
		d = (struct mig_dst_fsm){MIG_DST_COMMITTED, true};
		assert_int_equal(mig_dst_step(&d, ev), 0);
		d.state = MIG_DST_LOST;
		assert_int_equal(mig_dst_step(&d, ev), 0);
		d.state = MIG_DST_ABORTED;
		assert_int_equal(mig_dst_step(&d, ev), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(never_two_never_none),
		cmocka_unit_test(final_states_are_final),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
