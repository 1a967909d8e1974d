/* A page has the same hash whatever the processors of the two hosts can do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "migrate/pages.h"

static void fill(uint8_t *page, unsigned seed)
{
	for (unsigned i = 0; i < MIG_PAGE_SIZE; i++)
		page[i] = (uint8_t)((seed = seed * 1103515245 + 12345) >> 16);
}

static void hash_of_each_processor(void **state)
{
	static _Alignas(64) uint8_t page[MIG_PAGE_SIZE];

	(void)state;
	for (unsigned seed = 0; seed < 100; seed++) {
		uint64_t plain;

		fill(page, seed);
		plain = mig_hash_plain(page);
		if (__builtin_cpu_supports("avx2"))
			assert_true(mig_hash_avx2(page) == plain);
		if (__builtin_cpu_supports("avx512f"))
			assert_true(mig_hash_avx512(page) == plain);
		assert_true(mig_page_hash(page) == plain);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(hash_of_each_processor)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
