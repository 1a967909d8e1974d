#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "node/vmm/gather.h"
#include "node/vmm/mem.h"
#include "node/vmm/populate.h"

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

static struct vmm_mem *make(uint64_t size)
{
	struct vmm_mem *mem;

	assert_int_equal(vmm_mem_new(size, &mem), 0);
	return mem;
}

static void refuses_bad_sizes(void **state)
{
	struct vmm_mem *mem = NULL;

	assert_int_equal(vmm_mem_new(0, &mem), -EINVAL);
	assert_int_equal(vmm_mem_new(63 * MIB, &mem), -EINVAL);
	assert_int_equal(vmm_mem_new(64 * MIB + 1, &mem), -EINVAL);
	assert_int_equal(vmm_mem_new(UINT64_MAX & ~4095ull, &mem), -EINVAL);
	assert_null(mem);
}

static void small_memory_is_one_region(void **state)
{
	struct vmm_mem *mem = make(64 * MIB);

	assert_int_equal(vmm_mem_region_count(mem), 1);
	assert_non_null(vmm_mem_ptr(mem, 0, 64 * MIB));
	assert_null(vmm_mem_ptr(mem, 0, 64 * MIB + 1));
	assert_null(vmm_mem_ptr(mem, 64 * MIB, 1));
	assert_null(vmm_mem_ptr(mem, UINT64_MAX, 2));
	vmm_mem_free(mem);
}

static void memory_goes_on_above_the_hole(void **state)
{
	struct vmm_mem *mem = make(5 * GIB);
	const struct vmm_mem_region *high;

	assert_int_equal(vmm_mem_region_count(mem), 2);
	high = vmm_mem_region_at(mem, 1);
	assert_int_equal(high->gpa, VMM_MEM_HOLE_END);
	assert_int_equal(high->len, 2 * GIB);
	assert_int_equal(high->fd_offset, 3 * GIB);
	assert_null(vmm_mem_ptr(mem, VMM_MEM_HOLE_START - 1, 2));
	assert_null(vmm_mem_ptr(mem, VMM_MEM_HOLE_START, 1));
	assert_non_null(vmm_mem_ptr(mem, 6 * GIB - 1, 1));
	assert_null(vmm_mem_ptr(mem, 6 * GIB - 1, 2));
	vmm_mem_free(mem);
}

static void copies_all_or_nothing(void **state)
{
	struct vmm_mem *mem = make(5 * GIB);
	uint8_t buf[8] = {1, 2, 3, 4, 5, 6, 7, 8}, got[8] = {0};

	assert_int_equal(vmm_mem_write(mem, VMM_MEM_HOLE_START - 8, buf, 8), 0);
	assert_int_equal(vmm_mem_read(mem, VMM_MEM_HOLE_START - 8, got, 8), 0);
	assert_memory_equal(buf, got, 8);
	memset(buf, 0xee, 8);
	assert_int_equal(vmm_mem_write(mem, VMM_MEM_HOLE_START - 4, buf, 8), -EFAULT);
	assert_int_equal(vmm_mem_read(mem, VMM_MEM_HOLE_START - 8, got, 8), 0);
	assert_int_equal(got[7], 8);
	vmm_mem_free(mem);
}

static void dirty_log_names_the_written_pages(void **state)
{
	struct vmm_mem *mem = make(64 * MIB);
	static uint64_t bits[64 * MIB / 4096 / 64];
	uint8_t b = 1;

	vmm_mem_dirty(mem, 0, 4096); /* no log: nothing happens */
	assert_int_equal(vmm_mem_dirty_start(mem), 0);
	vmm_mem_dirty(mem, 4095, 2);
	assert_int_equal(vmm_mem_write(mem, 64 * MIB - 1, &b, 1), 0);
	vmm_mem_dirty_fetch_and_clear(mem, bits);
	assert_int_equal(bits[0], 3);
	assert_true(bits[255] == UINT64_C(1) << 63);
	vmm_mem_dirty_fetch_and_clear(mem, bits);
	assert_int_equal(bits[0] | bits[255], 0);
	vmm_mem_dirty(mem, 0, 1);
	vmm_mem_dirty_stop(mem);
	assert_int_equal(vmm_mem_dirty_start(mem), 0);
	vmm_mem_dirty_fetch_and_clear(mem, bits);
	assert_int_equal(bits[0], 0);
	vmm_mem_free(mem);
}

/* The hint changes no byte, whatever its range. */
static void huge_pages_keep_the_bytes(void **state)
{
	struct vmm_mem *mem = make(64 * MIB);
	uint8_t *p = vmm_mem_ptr(mem, 0, 64 * MIB);

	unsigned char resident[2 * MIB / 4096];

	assert_int_equal((uintptr_t)p % (2 * MIB), 0);
	p[3 * MIB] = 7;
	vmm_mem_populate_huge(mem, 3 * MIB + 5, 1);
	/* Where this kernel can do it, the pages around are there now. */
	p[8 * MIB] = 1;
	if (madvise(p + 8 * MIB, 2 * MIB, 25 /* MADV_COLLAPSE */) == 0) {
		assert_int_equal(mincore(p + 2 * MIB, 2 * MIB, resident), 0);
		for (size_t i = 0; i < sizeof(resident); i++)
			assert_int_equal(resident[i] & 1, 1);
	}
	vmm_mem_populate_huge(mem, 63 * MIB, 100 * MIB);
	vmm_mem_populate_huge(mem, 64 * MIB, 1);
	vmm_mem_populate_huge(mem, UINT64_MAX, 2);
	vmm_mem_populate_huge(mem, 0, 0);
	assert_int_equal(p[3 * MIB], 7);
	assert_int_equal(p[64 * MIB - 1], 0);
	vmm_mem_free(mem);
}

static void a_plan_is_done_in_steps(void **state)
{
	struct vmm_mem *mem = make(64 * MIB);
	struct vmm_huge_plan plan = {.range = {{4 * MIB, 6 * MIB}, {62 * MIB, 2 * MIB}}},
			     none = {0};
	uint8_t *p = vmm_mem_ptr(mem, 0, 64 * MIB);
	uint64_t done[3] = {0};

	p[9 * MIB] = 7;
	for (unsigned i = 0; i < 3; i++) {
		assert_true(vmm_huge_step(mem, &plan));
		done[i] = plan.range[plan.next].gpa + plan.at;
	}
	assert_false(vmm_huge_step(mem, &plan));
	assert_false(vmm_huge_step(mem, &plan));
	assert_true(done[0] > 4 * MIB && done[0] < 10 * MIB);
	assert_int_equal(done[1], 10 * MIB);
	assert_int_equal(done[2], 64 * MIB);
	assert_int_equal(p[9 * MIB], 7);
	assert_false(vmm_huge_step(mem, &none));
	vmm_mem_free(mem);
}

static size_t pages_there(const uint8_t *p, size_t len)
{
	unsigned char there[64 * MIB / 4096];
	size_t n = 0;

	assert_int_equal(mincore((void *)p, len, there), 0);
	for (size_t i = 0; i < len / 4096; i++)
		n += there[i] & 1;
	return n;
}

/* Passes until a piece is due; what the last one did. */
static int passes(struct vmm_gather *g)
{
	for (int i = 1; i < VMM_GATHER_AGE; i++)
		assert_int_equal(vmm_gather_pass(g), 0);
	return vmm_gather_pass(g);
}

/* Only what is all in use for some passes is exchanged, once, and nothing more becomes used by it. */
static void what_is_in_use_gets_huge_pages(void **state)
{
	struct vmm_mem *mem = make(64 * MIB);
	uint8_t *p = vmm_mem_ptr(mem, 0, 64 * MIB);
	const size_t used = 4 * MIB / 4096 + 511;
	struct vmm_gather *g;
	int rc;

	assert_int_equal(vmm_gather_new(mem, &g), 0);
	assert_int_equal(passes(g), 0);
	for (size_t i = 0; i < used; i++)
		p[i * 4096] = (uint8_t)(i % 255 + 1);
	rc = passes(g);
	if (rc < 0) {
		print_message("no huge pages of shared memory here: %s\n", strerror(-rc));
		vmm_gather_free(g);
		vmm_mem_free(mem);
		skip();
	}
	assert_int_equal(rc, 2);
	assert_int_equal(vmm_gather_bytes(g), 4 * MIB);
	assert_int_equal(vmm_gather_pass(g), 0);
	assert_int_equal(pages_there(p, 64 * MIB), used);
	for (size_t i = 0; i < used; i++)
		assert_int_equal(p[i * 4096], i % 255 + 1);
	/* The last page comes; and a page of a huge one goes, and comes back. */
	p[6 * MIB - 4096] = 1;
	assert_int_equal(madvise(p + 4096, 4096, MADV_REMOVE), 0);
	assert_int_equal(passes(g), 1);
	p[4096] = 9;
	assert_int_equal(passes(g), 1);
	assert_int_equal(p[0], 1);
	assert_int_equal(p[4096], 9);
	vmm_gather_free(g);
	vmm_mem_free(mem);
}

static void the_thread_ends_at_any_time(void **state)
{
	struct vmm_mem *mem = make(64 * MIB);
	struct vmm_gather *g;

	assert_int_equal(vmm_gather_new(mem, &g), 0);
	assert_int_equal(vmm_gather_start(g), 0);
	vmm_gather_free(g);
	vmm_gather_free(NULL);
	assert_int_equal(vmm_gather_bytes(NULL), 0);
	vmm_mem_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(huge_pages_keep_the_bytes),
		cmocka_unit_test(a_plan_is_done_in_steps),
		cmocka_unit_test(what_is_in_use_gets_huge_pages),
		cmocka_unit_test(the_thread_ends_at_any_time),
		cmocka_unit_test(refuses_bad_sizes),
		cmocka_unit_test(small_memory_is_one_region),
		cmocka_unit_test(memory_goes_on_above_the_hole),
		cmocka_unit_test(copies_all_or_nothing),
		cmocka_unit_test(dirty_log_names_the_written_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
