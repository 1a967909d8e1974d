/* A page that is read and then written, by one node and by another, soon costs one round trip a turn;
 * and what is counted of faults. */
/* libs: pg_dsm */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "dsm/engine.h"

enum { NODES = 2, PAGES = 4, PAGE = 1, QUEUE = 64, TURNS = 400 };

struct letter {
	uint8_t from, to;
	struct dsm_msg msg;
	bool page;
};

static struct node {
	uint8_t id;
	struct dsm_engine *e;
} node[NODES];
static struct letter queue[QUEUE];
static unsigned head, tail;
static int64_t now_ns;

static int op_send(void *ctx, uint8_t to, const struct dsm_msg *msg, bool with_page)
{
	assert_true(tail - head < QUEUE);
	queue[tail++ % QUEUE] = (struct letter){((struct node *)ctx)->id, to, *msg, with_page};
	return 0;
}

static int op_map(void *ctx, uint64_t gfn, uint64_t count, uint8_t access, uint8_t had)
{
	return 0;
}

static int op_revoke(void *ctx, uint64_t gfn, uint64_t count)
{
	return 0;
}

static int op_store(void *ctx, uint64_t gfn, const void *bytes)
{
	return 0;
}

static int op_zero(void *ctx, uint64_t gfn)
{
	return 0;
}

static const struct dsm_engine_ops ops = {.send = op_send,
					  .map = op_map,
					  .protect = op_revoke,
					  .unmap = op_revoke,
					  .store = op_store,
					  .zero = op_zero};

static void open_nodes(uint8_t rewrites)
{
	static const struct dsm_home homes[] = {{0, PAGES / 2, 0}, {PAGES / 2, PAGES / 2, 1}};

	for (uint8_t k = 0; k < NODES; k++) {
		struct dsm_engine_config c = {.page_count = PAGES,
					      .self = k,
					      .homes = homes,
					      .home_count = NODES,
					      .ops = &ops,
					      .ctx = &node[k],
					      .rewrites = rewrites,
					      .seed = 7u + k};

		node[k].id = k;
		assert_int_equal(dsm_engine_new(&c, &node[k].e), 0);
	}
	head = tail = 0;
}

static void close_nodes(void)
{
	for (unsigned k = 0; k < NODES; k++)
		dsm_engine_free(node[k].e);
}

static void deliver(void)
{
	static const uint8_t bytes[4096];

	do {
		for (unsigned k = 0; k < NODES; k++)
			assert_int_equal(dsm_engine_flush(node[k].e), 0);
		while (head != tail) {
			struct letter l = queue[head++ % QUEUE];

			assert_int_equal(dsm_engine_msg(node[l.to].e, l.from, &l.msg,
							l.page ? bytes : NULL, ++now_ns),
					 0);
		}
		for (unsigned k = 0; k < NODES; k++)
			assert_int_equal(dsm_engine_flush(node[k].e), 0);
	} while (head != tail);
}

/* As a thread does: a fault where the view has too little. */
static void touch(unsigned k, bool write)
{
	uint8_t needs = write ? DSM_X : DSM_S;

	if (dsm_engine_mapped(node[k].e, PAGE) >= needs)
		return;
	assert_int_equal(dsm_engine_fault(node[k].e, PAGE, write, ++now_ns), 0);
	deliver();
	assert_true(dsm_engine_mapped(node[k].e, PAGE) >= needs);
}

static void rewrite_in_turns(unsigned turns)
{
	for (unsigned i = 0; i < turns; i++) {
		touch(i % NODES, false);
		touch(i % NODES, true);
	}
}

static uint64_t upgrades(unsigned k)
{
	return dsm_engine_stats(node[k].e)->faults[DSM_FAULT_UPGRADE];
}

static void test_one_round_trip_a_turn(void **state)
{
	open_nodes(0);
	rewrite_in_turns(TURNS);
	assert_true(upgrades(0) + upgrades(1) >= TURNS - 2);
	close_nodes();
	open_nodes(2);
	rewrite_in_turns(TURNS);
	assert_true(upgrades(0) + upgrades(1) < TURNS / 4);
	for (unsigned k = 0; k < NODES; k++)
		assert_true(dsm_engine_stats(node[k].e)->rewrites > TURNS / NODES / 2);
	close_nodes();
}

/* One that is only read from then on is on both nodes before long, and stays. */
static void test_readers_share_again(void **state)
{
	uint64_t before;

	open_nodes(2);
	rewrite_in_turns(TURNS);
	for (unsigned i = 0; i < TURNS; i++)
		touch(i % NODES, false);
	before = dsm_engine_stats(node[0].e)->faults[DSM_FAULT_READ];
	for (unsigned i = 0; i < TURNS; i++)
		touch(i % NODES, false);
	assert_int_equal(dsm_engine_stats(node[0].e)->faults[DSM_FAULT_READ], before);
	for (unsigned k = 0; k < NODES; k++)
		assert_int_equal(dsm_engine_mapped(node[k].e, PAGE), DSM_S);
	close_nodes();
}

/* One writes, the other reads: nobody asks for more than that. */
static void test_a_reader_stays_a_reader(void **state)
{
	open_nodes(2);
	for (unsigned i = 0; i < TURNS; i++) {
		touch(0, true);
		touch(1, false);
	}
	for (unsigned k = 0; k < NODES; k++)
		assert_int_equal(dsm_engine_stats(node[k].e)->rewrites, 0);
	close_nodes();
}

static uint64_t faults_on(unsigned k, enum dsm_page_class class)
{
	return dsm_engine_stats(node[k].e)->page_class[class].faults;
}

static void test_faults_by_class_of_page(void **state)
{
	const int64_t ms = 1000000;

	open_nodes(0);
	touch(1, true); /* at home with 0, which has not touched it either */
	assert_int_equal(faults_on(1, DSM_PAGE_UNTOUCHED), 1);
	touch(0, true);
	assert_int_equal(faults_on(0, DSM_PAGE_NEW), 1);
	now_ns += (DSM_CONTENDED_MS - 1) * ms;
	touch(1, true);
	assert_int_equal(faults_on(1, DSM_PAGE_CONTENDED), 1);
	now_ns += (DSM_CONTENDED_MS + 1) * ms;
	touch(0, false);
	assert_int_equal(faults_on(0, DSM_PAGE_BACK), 1);
	for (unsigned k = 0; k < NODES; k++) {
		const struct dsm_stats *s = dsm_engine_stats(node[k].e);
		uint64_t all = 0, waited = 0;

		for (int c = 0; c < DSM_PAGE_CLASSES; c++) {
			all += s->page_class[c].faults;
			waited += s->page_class[c].wait_ns;
		}
		assert_int_equal(all, 2);
		assert_int_equal(waited, s->latency[DSM_FAULT_READ].sum_ns +
						 s->latency[DSM_FAULT_WRITE].sum_ns +
						 s->latency[DSM_FAULT_UPGRADE].sum_ns);
		assert_true(waited > 0);
	}
	close_nodes();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_faults_by_class_of_page),
		cmocka_unit_test(test_one_round_trip_a_turn),
		cmocka_unit_test(test_readers_share_again),
		cmocka_unit_test(test_a_reader_stays_a_reader),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
