// libs: pg_proto
/* Golden bytes of the data plane's frame header: they may never change. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/rng.h"
#include "proto/wire_frame.h"

static const uint8_t golden_v1[WIRE_HEADER_LEN] = {'P',	 'G',  1,    7,	   1,	 0,    0x10, 0x10,
						   0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11};

static void test_golden_bytes_of_version_1(void **state)
{
	struct wire_header h = {.version = 1,
				.type = 7,
				.flags = WIRE_F_PAGE,
				.length = 4096 + 16,
				.seq = UINT64_C(0x1122334455667788)};
	struct wire_header back;
	uint8_t out[WIRE_HEADER_LEN];

	wire_header_put(out, &h);
	assert_memory_equal(out, golden_v1, sizeof(out));
	assert_int_equal(wire_header_get(golden_v1, &back), 0);
	assert_int_equal(back.version, h.version);
	assert_int_equal(back.type, h.type);
	assert_int_equal(back.flags, h.flags);
	assert_int_equal(back.length, h.length);
	assert_true(back.seq == h.seq);
}

static void test_everything_wrong_is_refused(void **state)
{
	static const struct {
		uint8_t at, value;
	} wrong[] = {{0, 'X'}, {1, 'X'}, {2, 0}, {2, 2},    {3, 0},
		     {4, 8},   {4, 5},	 {5, 1}, {7, 0x0f}, {7, 0x12}};

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct wire_header h;
		uint8_t in[WIRE_HEADER_LEN];

		memcpy(in, golden_v1, sizeof(in));
		in[wrong[i].at] = wrong[i].value;
		assert_int_equal(wire_header_get(in, &h), -EPROTO);
	}
}

static void test_random_bytes_keep_to_the_bounds(void **state)
{
	struct base_rng rng;

	base_rng_seed(&rng, 1);
	for (int i = 0; i < 100000; i++) {
		uint64_t words[2] = {base_rng_next(&rng), base_rng_next(&rng)};
		struct wire_header h;
		uint8_t in[WIRE_HEADER_LEN];

		memcpy(in, words, sizeof(in));
		memcpy(in, golden_v1, 3);
		in[5] = 0;
		if (!wire_header_get(in, &h))
			assert_true(h.length <= WIRE_LENGTH_MAX);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_golden_bytes_of_version_1),
		cmocka_unit_test(test_everything_wrong_is_refused),
		cmocka_unit_test(test_random_bytes_keep_to_the_bounds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
