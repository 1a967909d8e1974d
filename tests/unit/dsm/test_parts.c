/* The small parts: messages on the wire (golden bytes), histogram, hot pages, prefetch. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/clock.h"
#include "dsm/msg.h"
#include "dsm/prefetch.h"
#include "dsm/stats.h"

static void test_golden_message(void **state)
{
	static const uint8_t golden[DSM_MSG_LEN] = {8,	7,  6,	5, 4, 3, 2, 1,
						    12, 11, 10, 9, 3, 2, 1, 0x12};
	struct dsm_msg m = {.gfn.v = UINT64_C(0x0102030405060708),
			    .version = 0x090a0b0c,
			    .type = DSM_MSG_DATA,
			    .node = 3,
			    .acks = 2,
			    .kind = DSM_DATA_NONE,
			    .access = DSM_X,
			    .flags = DSM_MSG_F_PREFETCH};
	struct dsm_msg back;
	uint8_t out[DSM_MSG_LEN];

	dsm_msg_put(out, &m);
	assert_memory_equal(out, golden, sizeof(out));
	assert_int_equal(dsm_msg_get(DSM_MSG_DATA, golden, sizeof(golden), &back), 0);
	assert_int_equal(back.type, m.type);
	assert_int_equal(back.gfn.v, m.gfn.v);
	memset(out, 0, sizeof(out));
	dsm_msg_put(out, &back);
	assert_memory_equal(out, golden, sizeof(out));
	assert_int_equal(dsm_msg_get(DSM_MSG_DATA, golden, 15, &back), -EPROTO);
	assert_int_equal(dsm_msg_get(0, golden, 16, &back), -EPROTO);
	assert_int_equal(dsm_msg_get(DSM_MSG_END, golden, 16, &back), -EPROTO);
}

static void test_quantiles_are_within_a_quarter(void **state)
{
	struct dsm_histogram h = {0};

	assert_int_equal(dsm_histogram_quantile(&h, 0.5), 0);
	for (int64_t us = 1; us <= 1000; us++)
		dsm_histogram_add(&h, us * 1000);
	int64_t p50 = dsm_histogram_quantile(&h, 0.5), p99 = dsm_histogram_quantile(&h, 0.99);

	assert_in_range(p50, 500000, 640000);
	assert_in_range(p99, 990000, 1240000);
	assert_int_equal(h.max_ns, 1000000);
	dsm_histogram_add(&h, INT64_MAX);
	dsm_histogram_add(&h, -1);
	assert_int_equal(h.count, 1002);
}

static void test_hottest_pages_stay(void **state)
{
	static struct dsm_stats s;

	for (unsigned i = 0; i < 10000; i++) {
		dsm_stats_hot(&s, 7);
		dsm_stats_hot(&s, 1000 + i % 20);
	}
	uint64_t best = 0, gfn = 0;

	for (unsigned i = 0; i < DSM_HOT_PAGES; i++) {
		if (s.hot[i].count > best) {
			best = s.hot[i].count;
			gfn = s.hot[i].gfn;
		}
	}
	assert_int_equal(gfn, 7);
	assert_int_equal(best, 10000);
}

static void test_prefetch_follows_a_sequence_only(void **state)
{
	struct dsm_prefetch p;

	dsm_prefetch_init(&p, 64);
	for (uint64_t i = 0; i < 100; i++)
		assert_int_equal(dsm_prefetch_touch(&p, i * 977 % 4096, 4096, 0).count, 0);
	dsm_prefetch_init(&p, 64);
	assert_int_equal(dsm_prefetch_touch(&p, 10, 4096, 0).count, 0);
	assert_int_equal(dsm_prefetch_touch(&p, 11, 4096, 0).count, 0);
	struct dsm_range r = dsm_prefetch_touch(&p, 12, 4096, 0);

	assert_int_equal(r.first, 13);
	assert_int_equal(r.count, 8);
	/* The touch of the marker asks for the next window, which is larger and joins the last. */
	struct dsm_range next = dsm_prefetch_touch(&p, r.marker, 4096, 0);

	assert_int_equal(next.first, r.first + r.count);
	assert_true(next.first + next.count == r.marker + 1 + 16);
	/* Never beyond the end of memory. */
	dsm_prefetch_init(&p, 64);
	for (uint64_t g = 4090; g < 4096; g++) {
		r = dsm_prefetch_touch(&p, g, 4096, 0);
		assert_true(r.count == 0 || r.first + r.count <= 4096);
	}
}

static void test_prefetch_switches_itself_off_and_on(void **state)
{
	struct dsm_prefetch p;

	dsm_prefetch_init(&p, 64);
	for (unsigned i = 0; i < 64; i++)
		dsm_prefetch_bad(&p, 1, 1000);
	for (uint64_t g = 0; g < 10; g++)
		assert_int_equal(dsm_prefetch_touch(&p, g, 4096, 2000).count, 0);
	int64_t later = p.off_until_ns + 1;
	uint64_t fetched = 0;

	for (uint64_t g = 20; g < 30; g++)
		fetched += dsm_prefetch_touch(&p, g, 4096, later).count;
	assert_true(fetched > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_golden_message),
		cmocka_unit_test(test_quantiles_are_within_a_quarter),
		cmocka_unit_test(test_hottest_pages_stay),
		cmocka_unit_test(test_prefetch_follows_a_sequence_only),
		cmocka_unit_test(test_prefetch_switches_itself_off_and_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
