// libs: pg_vmm
/* Which pages may be page tables: none that is may be missed; shadow.h says why. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "node/vmm/shadow.h"

#define LIMIT (UINT64_C(6) << 30)

static uint64_t page[VMM_PAGE_SIZE / 8];

static void test_empty_is_none(void **state)
{
	memset(page, 0, sizeof(page));
	assert_false(vmm_shadow_is_table(page, LIMIT));
}

/* Present, but the processor has never gone that way: KVM has nothing of it. */
static void test_unused_is_none(void **state)
{
	for (unsigned i = 0; i < VMM_PAGE_SIZE / 8; i++)
		page[i] = (uint64_t)i << 12 | 0x47;
	assert_false(vmm_shadow_is_table(page, LIMIT));
}

static void test_one_entry_anywhere(void **state)
{
	static const uint64_t entries[] = {
		0x1063,		    /* of a table of tables */
		0x80000000000001e3, /* all memory from address 0 on */
		0x8000000000000163 | (LIMIT - VMM_PAGE_SIZE),
		0x7ff00000000001e7 | UINT64_C(1) << 30, /* the kernel's own bits */
		0xfee00000 | 0x173,
	};

	for (unsigned e = 0; e < BASE_ARRAY_LEN(entries); e++)
		for (unsigned i = 0; i < VMM_PAGE_SIZE / 8; i++) {
			memset(page, 0, sizeof(page));
			page[i] = entries[e];
			assert_true(vmm_shadow_is_table(page, LIMIT));
		}
}

/* Nothing is there: KVM reports a fault instead of mapping it. */
static void test_beyond_memory_is_none(void **state)
{
	memset(page, 0, sizeof(page));
	page[7] = LIMIT | 0x67;
	page[8] = UINT64_C(0x000ffffffffff000) | 0x67;
	assert_false(vmm_shadow_is_table(page, LIMIT));
	page[9] = 0x1067;
	assert_false(vmm_shadow_is_table(page, LIMIT));
}

static void test_data_is_none(void **state)
{
	static const char text[] = "Everything in a page of text is far too high an address. ";

	for (size_t i = 0; i < sizeof(page); i++)
		((char *)page)[i] = text[i % (sizeof(text) - 1)];
	assert_false(vmm_shadow_is_table(page, LIMIT));
	/* Pointers of a kernel. */
	for (unsigned i = 0; i < VMM_PAGE_SIZE / 8; i++)
		page[i] = 0xffff888012345600 + i;
	assert_false(vmm_shadow_is_table(page, LIMIT));
}

/* All of the first 4 GiB one to one, one part of it in smaller pages. */
static void test_identity(void **state)
{
	for (unsigned i = 0; i < VMM_PAGE_SIZE / 8; i++)
		page[i] = (UINT64_C(1) << 30) + ((uint64_t)i << 21) + 0xc7;
	page[100] = 0x5067;
	assert_true(vmm_shadow_is_table(page, UINT64_C(64) << 20));
	page[200] |= UINT64_C(1) << 14;
	assert_false(vmm_shadow_is_table(page, UINT64_C(64) << 20));
}

static void test_small_numbers_are_none(void **state)
{
	for (unsigned i = 0; i < VMM_PAGE_SIZE / 8; i++)
		page[i] = i;
	assert_false(vmm_shadow_is_table(page, LIMIT));
	page[0] = 0x63;
	assert_true(vmm_shadow_is_table(page, LIMIT));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_empty_is_none),
		cmocka_unit_test(test_unused_is_none),
		cmocka_unit_test(test_one_entry_anywhere),
		cmocka_unit_test(test_beyond_memory_is_none),
		cmocka_unit_test(test_data_is_none),
		cmocka_unit_test(test_identity),
		cmocka_unit_test(test_small_numbers_are_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
