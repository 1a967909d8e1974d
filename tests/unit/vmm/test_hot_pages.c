// libs: pg_vmm
/* What a guest that stands still will touch first, from page tables that it made itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "node/vmm/hot_pages.h"

enum { MAX = 64 };

static const uint64_t MIB = 1 << 20, PG = UINT64_C(1) << 31, LMA = UINT64_C(1) << 10;

static struct vmm_mem *mem;
static uint64_t index_of[MAX];
static struct kvm_regs regs;
static struct kvm_sregs sregs;

static int set_up(void **state)
{
	memset(&regs, 0, sizeof(regs));
	memset(&sregs, 0, sizeof(sregs));
	return vmm_mem_new(64 * MIB, &mem);
}

static int tear_down(void **state)
{
	vmm_mem_free(mem);
	return 0;
}

static void entry(uint64_t table, unsigned slot, uint64_t value)
{
	assert_int_equal(vmm_mem_write(mem, table + slot * sizeof(value), &value, sizeof(value)),
			 0);
}

static unsigned hot(unsigned max)
{
	return vmm_hot_pages_of(mem, &regs, &sregs, index_of, 0, max);
}

static bool has(unsigned n, uint64_t gpa)
{
	for (unsigned i = 0; i < n; i++)
		if (index_of[i] == gpa / VMM_PAGE_SIZE)
			return true;
	return false;
}

static void long_mode(uint64_t cr3)
{
	sregs.cr0 = PG;
	sregs.efer = LMA;
	sregs.cr3 = cr3;
}

/* The stack in a 4 KiB page, the program in one of 2 MiB; what no table maps is left out. */
static void tables_and_pages_are_named(void **state)
{
	unsigned n;

	long_mode(0x1000 | 0x18);
	entry(0x1000, 511, 0x2003);
	entry(0x2000, 510, 0x3003);
	entry(0x3000, 1, 0x400083);
	entry(0x3000, 2, 0x4003);
	entry(0x4000, 5, 0x123003);
	regs.rip = 0xffffffff80200000 + 0x7008;
	regs.rsp = 0xffffffff80400000 + 0x5010;
	n = hot(MAX);
	assert_int_equal(n, 6);
	assert_true(has(n, 0x1000) && has(n, 0x2000) && has(n, 0x3000) && has(n, 0x4000));
	assert_true(has(n, 0x400000 + 0x7000) && has(n, 0x123000));
}

/* Behind a task's state are the ports that its program may use; the limit may be anything. */
static void the_whole_task_is_named(void **state)
{
	sregs.tr.base = 0x10000;
	sregs.tr.limit = 0x67;
	assert_int_equal(hot(MAX), 2); /* with page 0 */
	sregs.tr.limit = 0x206a;
	assert_int_equal(hot(MAX), 4);
	assert_true(has(4, 0x10000) && has(4, 0x11000) && has(4, 0x12000));
	sregs.tr.limit = UINT32_MAX;
	assert_int_equal(hot(MAX), 6);
}

static void tables_may_be_anything(void **state)
{
	unsigned n;

	/* Each entry names its own table, and one is far beyond the memory. */
	long_mode(0x1000);
	for (unsigned i = 0; i < 512; i++)
		entry(0x1000, i, 0x1003);
	entry(0x1000, 3, 0x000ffffffffff003);
	regs.rip = UINT64_MAX;
	regs.rsp = UINT64_C(3) << 39;
	n = hot(MAX);
	assert_int_equal(n, 1);
	assert_true(has(n, 0x1000));
	sregs.cr3 = UINT64_MAX;
	assert_int_equal(hot(MAX), 0);
	sregs.cr4 = UINT64_C(1) << 12;
	sregs.cr3 = 0x1000;
	assert_int_equal(hot(MAX), 1);
}

static void without_tables_an_address_is_a_page(void **state)
{
	unsigned n;

	regs.rip = 0x5000;
	regs.rsp = 0x9000;
	regs.rdi = 65 * MIB;
	n = hot(MAX);
	assert_int_equal(n, 4);
	assert_true(has(n, 0) && has(n, 0x5000) && has(n, 0x9000) && has(n, 0x8ff8));
	assert_int_equal(hot(2), 2);
	/* 32-bit page tables are not looked through. */
	sregs.cr0 = PG;
	assert_int_equal(hot(MAX), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(tables_and_pages_are_named, set_up, tear_down),
		cmocka_unit_test_setup_teardown(the_whole_task_is_named, set_up, tear_down),
		cmocka_unit_test_setup_teardown(tables_may_be_anything, set_up, tear_down),
		cmocka_unit_test_setup_teardown(without_tables_an_address_is_a_page, set_up,
						tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
