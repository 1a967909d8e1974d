/*
 * Simulator of the DSM: up to 16 engines in one process under virtual time, with the page state
 * machine and the engine of production. Between each pair of nodes messages keep their order and
 * take any time; connections break and come back, or do not; nodes crash; one leaves, and another joins in its
 * place. Reference: one memory, to
 * which every access of every simulated thread is compared as it happens, so any stale read or lost
 * write shows. A failing run prints its seed.
 *
 *   sim_dsm [--seed N] [--seeds COUNT] [--minutes M] [-v]
 */
#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/rng.h"
#include "dsm/engine.h"

enum { THREADS_MAX = 3, PAGES_MAX = 96, EVENTS_MAX = 1 << 16, ACCESSES = 300 };

#define WINDOW_NS (300 * BASE_NS_PER_MS)	    /* to reconnect */
#define STOP_NS	  (WINDOW_NS + 2 * BASE_NS_PER_SEC) /* within which all have stopped */

enum event_type {
	EV_MSG,
	EV_THREAD,
	EV_TIMER,
	EV_FAULT,
	EV_BREAK,
	EV_CRASH,
	EV_DOWN,
	EV_FAIL,
	EV_MOVE
};

struct event {
	int64_t at_ns;
	uint64_t order; /* of making: ties are served in order */
	enum event_type type;
	uint8_t node, from, thread;
	struct dsm_msg msg;
	uint64_t value; /* of the page that comes along */
	uint64_t gfn;
	bool write;
};

enum thread_state { RUNNING, WAITING, DONE };

/* What becomes of the node that leaves and joins, in this order. */
enum phase { MEMBER, PARKING, HOMES_LEAVE, EMPTYING, GONE, HOMES_COME, MEMBER_AGAIN };

/* One simulated instruction touches up to 2 pages and needs both at once. */
struct thread {
	enum thread_state state;
	unsigned left;
	unsigned page_count;
	uint64_t page[2];
	bool write;
	uint64_t waits_for;
	bool waits_to_write;
	int64_t since_ns;
};

struct node {
	struct dsm_engine *e;
	struct dsm_evict evict;
	uint8_t view[PAGES_MAX];   /* what the guest's view really allows */
	uint64_t bytes[PAGES_MAX]; /* the memory file: one value stands for a page */
	struct thread thread[THREADS_MAX];
	int64_t timer_ns;
	bool crashed, stopped;
	int64_t stopped_ns;
	uint8_t id;
};

static struct sim {
	uint64_t seed;
	struct base_rng rng;
	int64_t now_ns;
	uint64_t order;
	unsigned node_count, thread_count, page_count;
	struct node node[DSM_NODE_MAX];
	int64_t channel_ns[DSM_NODE_MAX][DSM_NODE_MAX]; /* arrival of the last message */
	int64_t broken_until_ns[DSM_NODE_MAX][DSM_NODE_MAX];
	struct event *heap;
	unsigned heap_count;
	uint64_t truth[PAGES_MAX], next_value;
	uint64_t accesses, messages;
	int64_t fault_ns; /* when the guest was lost; 0: it lives */
	enum phase phase; /* of node `mover` */
	uint8_t mover;
	bool standing; /* all threads */
	struct dsm_engine_config config;
	struct dsm_home homes[DSM_NODE_MAX];
	unsigned joins;
	uint16_t rehomed; /* nodes that have moved their homes, of all */
	int64_t max_wait_ns;
	bool verbose;
} s;

static void die(const char *what, uint64_t gfn)
{
	printf("FAILED: %s (page %" PRIu64 ", %u nodes, t=%" PRId64 " ns)\n", what, gfn,
	       s.node_count, s.now_ns);
	printf("seed %" PRIu64 ": repeat with --seed %" PRIu64 "\n", s.seed, s.seed);
	exit(1);
}

static uint64_t below(uint64_t bound)
{
	return base_rng_below(&s.rng, bound);
}

/* ---- events ---- */

static bool before(const struct event *a, const struct event *b)
{
	return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

static void push(struct event e)
{
	unsigned i = s.heap_count++;

	if (s.heap_count > EVENTS_MAX)
		die("too many events", 0);
	e.order = s.order++;
	for (; i && before(&e, &s.heap[(i - 1) / 2]); i = (i - 1) / 2)
		s.heap[i] = s.heap[(i - 1) / 2];
	s.heap[i] = e;
}

static struct event pop(void)
{
	struct event top = s.heap[0], last = s.heap[--s.heap_count];
	unsigned i = 0;

	for (;;) {
		unsigned c = 2 * i + 1;

		if (c >= s.heap_count)
			break;
		if (c + 1 < s.heap_count && before(&s.heap[c + 1], &s.heap[c]))
			c++;
		if (!before(&s.heap[c], &last))
			break;
		s.heap[i] = s.heap[c];
		i = c;
	}
	s.heap[i] = last;
	return top;
}

/* ---- what the engine asks for ---- */

static int64_t delay_ns(void)
{
	/* Mostly quick, sometimes very slow. */
	return (int64_t)(2000 + below(below(20) ? 20000 : 2000000));
}

static int op_send(void *ctx, uint8_t to, const struct dsm_msg *msg, bool with_page)
{
	struct node *n = ctx;
	int64_t at = s.now_ns + delay_ns();

	s.messages++;
	if (at < s.broken_until_ns[n->id][to])
		at = s.broken_until_ns[n->id][to];
	if (at <= s.channel_ns[n->id][to])
		at = s.channel_ns[n->id][to] + 1;
	s.channel_ns[n->id][to] = at;
	if (with_page && n->view[msg->gfn.v] == DSM_X)
		die("bytes sent while a thread can write them", msg->gfn.v);
	push((struct event){.at_ns = at,
			    .type = EV_MSG,
			    .node = to,
			    .from = n->id,
			    .msg = *msg,
			    .value = n->bytes[msg->gfn.v]});
	return 0;
}

static int op_map(void *ctx, uint64_t gfn, uint64_t count, uint8_t access, uint8_t had)
{
	struct node *n = ctx;

	for (uint64_t g = gfn; g < gfn + count; g++) {
		if (n->view[g] != had)
			die("mapped from a wrong idea of the view", g);
		n->view[g] = access;
		for (uint8_t t = 0; t < s.thread_count; t++) {
			struct thread *th = &n->thread[t];

			if (th->state != WAITING || th->waits_for != g)
				continue;
			th->state = RUNNING; /* and it tries again when it has woken up */
			if (s.now_ns - th->since_ns > s.max_wait_ns)
				s.max_wait_ns = s.now_ns - th->since_ns;
			push((struct event){.at_ns = s.now_ns + 1000 + (int64_t)below(60000),
					    .type = EV_THREAD,
					    .node = n->id,
					    .thread = t});
		}
	}
	return 0;
}

static int op_protect(void *ctx, uint64_t gfn, uint64_t count)
{
	struct node *n = ctx;

	for (uint64_t g = gfn; g < gfn + count; g++) {
		if (n->view[g] != DSM_X)
			die("protects what is not writable", g);
		n->view[g] = DSM_S;
	}
	return 0;
}

static int op_unmap(void *ctx, uint64_t gfn, uint64_t count)
{
	for (uint64_t g = gfn; g < gfn + count; g++)
		((struct node *)ctx)->view[g] = DSM_I;
	return 0;
}

static int op_store(void *ctx, uint64_t gfn, const void *bytes)
{
	struct node *n = ctx;

	if (n->view[gfn] != DSM_I)
		die("bytes stored under the guest's eyes", gfn);
	memcpy(&n->bytes[gfn], bytes, sizeof(n->bytes[gfn]));
	return 0;
}

static int op_zero(void *ctx, uint64_t gfn)
{
	uint64_t zero = 0;

	return op_store(ctx, gfn, &zero);
}

static const struct dsm_engine_ops ops = {.send = op_send,
					  .map = op_map,
					  .protect = op_protect,
					  .unmap = op_unmap,
					  .store = op_store,
					  .zero = op_zero};

/* ---- the guest's threads ---- */

static void choose_access(struct thread *t)
{
	/* A few pages are fought for, the others are used now and then, or in order. */
	t->page_count = below(8) ? 1 : 2;
	t->page[0] = below(3) ? below(BASE_MIN(4u, s.page_count)) : below(s.page_count);
	if (below(6) == 0)
		t->page[0] = (t->page[1] + 1) % s.page_count;
	t->page[1] = (t->page[0] + 1) % s.page_count;
	t->write = below(3) == 0;
}

static void do_access(struct node *n, struct thread *t)
{
	for (unsigned i = 0; i < t->page_count; i++) {
		uint64_t g = t->page[i];

		if (n->bytes[g] != s.truth[g])
			die("stale or lost value", g);
		if (t->write)
			n->bytes[g] = s.truth[g] = ++s.next_value;
	}
	s.accesses++;
}

static void run_thread(struct node *n, uint8_t index)
{
	struct thread *t = &n->thread[index];

	if (t->state != RUNNING)
		return;
	if (s.standing || (n->id == s.mover && s.phase > MEMBER && s.phase < MEMBER_AGAIN)) {
		push((struct event){.at_ns = s.now_ns + 20000 + (int64_t)below(20000),
				    .type = EV_THREAD,
				    .node = n->id,
				    .thread = index});
		return;
	}
	for (unsigned i = 0; i < t->page_count; i++) {
		if (n->view[t->page[i]] >= (t->write ? DSM_X : DSM_S))
			continue;
		t->state = WAITING;
		t->waits_for = t->page[i];
		t->since_ns = s.now_ns;
		/* The service thread reads the fault a little later. */
		push((struct event){.at_ns = s.now_ns + (int64_t)below(5000),
				    .type = EV_FAULT,
				    .node = n->id,
				    .gfn = t->page[i],
				    .write = t->write});
		return;
	}
	do_access(n, t);
	if (--t->left == 0) {
		t->state = DONE;
		return;
	}
	choose_access(t);
	push((struct event){.at_ns = s.now_ns + 100 + (int64_t)below(30000),
			    .type = EV_THREAD,
			    .node = n->id,
			    .thread = index});
}

/* ---- failure ---- */

static void stop_node(struct node *n)
{
	if (n->stopped || n->crashed)
		return;
	n->stopped = true;
	n->stopped_ns = s.now_ns;
	for (uint8_t k = 0; k < s.node_count; k++)
		if (k != n->id)
			push((struct event){.at_ns = s.now_ns + delay_ns(),
					    .type = EV_FAIL,
					    .node = k,
					    .from = n->id});
}

static void crash(struct node *n)
{
	n->crashed = true;
	s.fault_ns = s.now_ns;
	for (uint8_t k = 0; k < s.node_count; k++)
		if (k != n->id)
			push((struct event){.at_ns = s.now_ns + WINDOW_NS + (int64_t)below(1000000),
					    .type = EV_DOWN,
					    .node = k,
					    .from = n->id});
}

/* A short break delays what is under way; a long one ends the guest. */
static void break_link(uint8_t a, uint8_t b)
{
	bool for_good = below(40) == 0;
	int64_t end = s.now_ns + (for_good ? INT64_C(1) << 60 : (int64_t)below(WINDOW_NS));

	for (unsigned i = 0; i < 2; i++, a ^= b, b ^= a, a ^= b) {
		s.broken_until_ns[a][b] = end;
		if (for_good)
			push((struct event){.at_ns = s.now_ns + WINDOW_NS,
					    .type = EV_DOWN,
					    .node = a,
					    .from = b});
	}
	if (for_good && !s.fault_ns)
		s.fault_ns = s.now_ns;
}

/* ---- the run ---- */

static void settle(struct node *n, int err)
{
	if (!err)
		err = dsm_engine_flush(n->e);
	if (err)
		die("an engine refused its peer or failed", 0);
	int64_t next = dsm_engine_next_ns(n->e);

	if (next != INT64_MAX && (next < n->timer_ns || n->timer_ns <= s.now_ns)) {
		n->timer_ns = next;
		push((struct event){
			.at_ns = next + (int64_t)below(3000), .type = EV_TIMER, .node = n->id});
	}
}

/* ---- a node leaves, and one joins in its place ---- */

static int entry_moved(void *ctx, uint8_t to, uint64_t gfn, uint64_t count,
		       const struct dsm_dir *dir)
{
	return dsm_engine_dir_put(s.node[to].e, gfn, count, dir);
}

static bool is_quiet(void)
{
	for (unsigned k = 0; k < s.node_count; k++)
		if (dsm_engine_open_requests(s.node[k].e))
			return false;
	return true;
}

/* All stand, and who was not quiet before is asked again. */
static bool move_homes(uint8_t to)
{
	s.standing = true;
	if (!is_quiet())
		return false;
	s.homes[s.mover].node = to;
	for (unsigned k = 0; k < s.node_count; k++) {
		int err = s.rehomed & 1u << k ? 0
					      : dsm_engine_rehome(s.node[k].e, s.homes,
								  s.node_count, entry_moved);

		if (err && err != -EBUSY)
			die("homes do not move", k);
		s.rehomed |= err ? 0 : (uint16_t)(1u << k);
	}
	if (s.rehomed != (1u << s.node_count) - 1)
		return false;
	s.rehomed = 0;
	s.standing = false;
	return true;
}

/* As evict.c does it. */
static bool is_empty(void)
{
	bool empty = true;

	for (unsigned k = 0; k < s.node_count; k++) {
		struct node *n = &s.node[k];
		struct dsm_evict *v = &n->evict;

		if (k == s.mover || !v->nodes)
			continue;
		empty = false;
		settle(n, dsm_engine_evict(n->e, v, 4, s.now_ns));
		if (v->next < s.page_count)
			continue;
		if (v->drains)
			v->nodes = 0;
		v->drains = !v->found;
		v->found = v->next = 0;
		v->seen = UINT16_MAX;
	}
	return empty;
}

static void begin_emptying(void)
{
	for (unsigned k = 0; k < s.node_count; k++)
		s.node[k].evict = (struct dsm_evict){.nodes = (uint16_t)(1u << s.mover)};
}

/* Nobody may wait for it; the next of its number knows nothing. */
static void replace(struct node *n)
{
	for (unsigned i = 0; i < s.heap_count; i++)
		if (s.heap[i].type == EV_MSG &&
		    (s.heap[i].node == s.mover || s.heap[i].from == s.mover))
			die("it leaves while somebody waits for its word", s.heap[i].msg.gfn.v);
	dsm_engine_free(n->e);
	memset(n->view, 0, sizeof(n->view));
	memset(n->bytes, 0xff, sizeof(n->bytes));
	n->timer_ns = 0;
	s.config.self = s.mover;
	s.config.ctx = n;
	s.config.homes = s.homes;
	if (dsm_engine_new(&s.config, &n->e))
		die("no engine", 0);
}

static bool threads_stand(const struct node *n)
{
	for (unsigned t = 0; t < s.thread_count; t++)
		if (n->thread[t].state == WAITING)
			return false;
	return true;
}

static void mover_goes_on(struct node *n)
{
	bool over = false;

	switch (s.phase) {
	case MEMBER: over = true; break;
	case PARKING: over = threads_stand(n); break;
	case HOMES_LEAVE:
		over = move_homes((uint8_t)((s.mover + 1) % s.node_count));
		if (over)
			begin_emptying();
		break;
	case EMPTYING:
		over = is_empty();
		if (over)
			replace(n);
		break;
	case GONE: over = true; break;
	case HOMES_COME: over = move_homes(s.mover); break;
	case MEMBER_AGAIN: s.joins++; return;
	}
	s.phase += over;
	push((struct event){.at_ns = s.now_ns + 50000 +
				     (int64_t)below(s.phase == GONE ? 5000000 : 50000),
			    .type = EV_MOVE,
			    .node = s.mover});
}

static void handle(const struct event *ev)
{
	struct node *n = &s.node[ev->node];

	if (n->crashed || (n->stopped && ev->type != EV_FAIL))
		return;
	switch (ev->type) {
	case EV_MSG:
		settle(n, dsm_engine_msg(n->e, ev->from, &ev->msg, &ev->value, s.now_ns));
		break;
	case EV_THREAD: run_thread(n, ev->thread); break;
	case EV_TIMER: settle(n, dsm_engine_time(n->e, s.now_ns)); break;
	case EV_FAULT: settle(n, dsm_engine_fault(n->e, ev->gfn, ev->write, s.now_ns)); break;
	case EV_BREAK: break_link(ev->node, ev->from); break;
	case EV_CRASH: crash(n); break;
	case EV_MOVE:
		if (!s.fault_ns)
			mover_goes_on(n);
		break;
	case EV_DOWN:
	case EV_FAIL: stop_node(n); break;
	}
}

static void check_globally(void)
{
	for (uint64_t g = 0; g < s.page_count; g++) {
		unsigned writers = 0, holders = 0;

		for (unsigned k = 0; k < s.node_count; k++) {
			writers += s.node[k].view[g] == DSM_X;
			holders += s.node[k].view[g] != DSM_I;
		}
		if (writers > 1 || (writers && holders > 1))
			die("a writer is not alone", g);
	}
}

static void check_locally(void)
{
	for (unsigned k = 0; k < s.node_count; k++) {
		uint64_t gfn = 0;
		const char *why = s.node[k].crashed ? NULL : dsm_engine_check(s.node[k].e, &gfn);

		if (why)
			die(why, gfn);
	}
}

static void check_end(void)
{
	for (unsigned k = 0; k < s.node_count; k++) {
		struct node *n = &s.node[k];

		if (s.fault_ns && !n->crashed && !n->stopped)
			die("a node goes on after the guest was lost", k);
		if (s.fault_ns && !n->crashed && n->stopped_ns - s.fault_ns > STOP_NS)
			die("a node stopped too late", k);
		for (unsigned t = 0; t < s.thread_count && !s.fault_ns; t++)
			if (n->thread[t].state != DONE)
				die("a thread waits for ever", n->thread[t].waits_for);
		if (!s.fault_ns && dsm_engine_open_requests(n->e))
			die("a request is left open", 0);
	}
}

static void make_nodes(void)
{
	struct dsm_home *homes = s.homes;

	for (uint8_t k = 0; k < s.node_count; k++)
		homes[k] = (struct dsm_home){.first = k * (s.page_count / s.node_count),
					     .count = s.page_count / s.node_count,
					     .node = k};
	uint32_t hold_ns = below(5) ? 20000 : 5000, prefetch = (uint32_t)(below(2) ? 16 : 0);
	uint32_t around = below(2) ? 4 : 1;
	uint8_t rewrites = (uint8_t)below(4);

	for (uint8_t k = 0; k < s.node_count; k++) {
		struct dsm_engine_config c = {.page_count = s.page_count,
					      .self = k,
					      .homes = homes,
					      .home_count = s.node_count,
					      .ops = &ops,
					      .ctx = &s.node[k],
					      .hold_ns = hold_ns,
					      .hold_level_max = 6,
					      .prefetch_max = prefetch,
					      .around = around,
					      .rewrites = rewrites,
					      .seed = s.seed * 16 + k};

		s.node[k].id = k;
		s.config = c;
		if (dsm_engine_new(&c, &s.node[k].e))
			die("no engine", 0);
		for (uint64_t g = homes[k].first; g < homes[k].first + homes[k].count; g++) {
			if (below(2))
				continue;
			if (dsm_engine_populate(s.node[k].e, g, 1))
				die("populate", g);
			s.node[k].bytes[g] = s.truth[g] = ++s.next_value;
		}
	}
}

static void make_threads(void)
{
	for (uint8_t k = 0; k < s.node_count; k++) {
		for (uint8_t t = 0; t < s.thread_count; t++) {
			struct thread *th = &s.node[k].thread[t];

			*th = (struct thread){.left = ACCESSES};
			choose_access(th);
			push((struct event){.at_ns = (int64_t)below(100000),
					    .type = EV_THREAD,
					    .node = k,
					    .thread = t});
		}
	}
}

static void make_faults(void)
{
	for (unsigned i = 0, count = (unsigned)below(6); i < count; i++) {
		uint8_t a = (uint8_t)below(s.node_count), b = (uint8_t)below(s.node_count);

		if (a != b)
			push((struct event){.at_ns = (int64_t)below(40 * BASE_NS_PER_MS),
					    .type = EV_BREAK,
					    .node = a,
					    .from = b});
	}
	if (below(10) == 0)
		push((struct event){.at_ns = (int64_t)below(40 * BASE_NS_PER_MS),
				    .type = EV_CRASH,
				    .node = (uint8_t)below(s.node_count)});
}

/* Node 0 never does: it has the devices. */
static void make_mover(void)
{
	s.mover = (uint8_t)(1 + below(s.node_count - 1));
	if (below(3) == 0)
		push((struct event){.at_ns = (int64_t)below(10 * BASE_NS_PER_MS),
				    .type = EV_MOVE,
				    .node = s.mover});
}

static void run_seed(uint64_t seed)
{
	struct event *heap = s.heap;
	bool verbose = s.verbose;

	s = (struct sim){.seed = seed, .heap = heap, .verbose = verbose};
	base_rng_seed(&s.rng, seed);
	s.node_count = (unsigned)(2 + below(15));
	s.thread_count = (unsigned)(1 + below(THREADS_MAX));
	s.page_count = s.node_count * (unsigned)(1 + below(PAGES_MAX / s.node_count));
	make_nodes();
	make_threads();
	make_faults();
	make_mover();
	for (uint64_t steps = 0; s.heap_count; steps++) {
		struct event ev = pop();

		s.now_ns = ev.at_ns;
		handle(&ev);
		if (steps % 64 == 0)
			check_globally();
		if (steps % 1024 == 0)
			check_locally();
		if (s.now_ns > 600 * BASE_NS_PER_SEC && !s.fault_ns)
			die("no end: livelock", 0);
		if (s.fault_ns && s.now_ns > s.fault_ns + 2 * STOP_NS)
			break;
	}
	check_globally();
	check_locally();
	check_end();
	if (s.verbose)
		printf("seed %" PRIu64 ": %u nodes, %u pages, %" PRIu64 " accesses, %" PRIu64
		       " messages, longest wait %.1f ms%s%s\n",
		       seed, s.node_count, s.page_count, s.accesses, s.messages,
		       (double)s.max_wait_ns / 1e6, s.fault_ns ? ", guest lost" : "",
		       s.joins ? ", one left and one joined" : "");
	for (unsigned k = 0; k < s.node_count; k++)
		dsm_engine_free(s.node[k].e);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"seed", 1, NULL, 's'},
						{"seeds", 1, NULL, 'n'},
						{"minutes", 1, NULL, 'm'},
						{"verbose", 0, NULL, 'v'},
						{0}};
	uint64_t first = 1, count = 60, accesses = 0, runs = 0, joins = 0;
	double minutes = 0;
	int64_t start = base_clock_ns();

	for (int o; (o = getopt_long(argc, argv, "v", options, NULL)) != -1;) {
		switch (o) {
		case 's':
			first = strtoull(optarg, NULL, 10);
			count = 1;
			break;
		case 'n': count = strtoull(optarg, NULL, 10); break;
		case 'm':
			minutes = strtod(optarg, NULL);
			first = (uint64_t)start;
			break;
		case 'v': s.verbose = true; break;
		default: return 2;
		}
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	s.heap = calloc(EVENTS_MAX, sizeof(*s.heap));
	if (!s.heap)
		return 1;
	for (uint64_t i = 0;
	     minutes > 0 ? (double)(base_clock_ns() - start) / 60e9 < minutes : i < count; i++) {
		run_seed(first + i);
		accesses += s.accesses;
		joins += s.joins;
		runs++;
	}
	printf("%" PRIu64 " runs from seed %" PRIu64 ", %" PRIu64
	       " accesses checked, no wrong byte; %" PRIu64 " left and joined\n",
	       runs, first, accesses, joins);
	free(s.heap);
	return 0;
}
