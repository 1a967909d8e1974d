/* Disks that move along with a guest. */
#include "guest.h"

static void add_disk(void)
{
	memset(disk.dst, 0, sizeof(disk.dst));
	memset(disk.written, 0, sizeof(disk.written));
	for (unsigned i = 0; i < BLOCKS; i++)
		memset(disk.src[i], i < BLOCKS - 100 ? (int)i : 0, MIG_PAGE_SIZE);
	disk.there = true;
	disk.reads = disk.zeroed = disk.read_error_at = disk.write_error_at = 0;
	src.memory.regions[src.memory.region_count++] = (struct mig_region){.page_count = BLOCKS};
	dst.memory.regions[dst.memory.region_count++] = (struct mig_region){.page_count = BLOCKS};
}

static int teardown_disk(void **state)
{
	disk.there = false;
	return teardown(state);
}

static void disk_moves_along(void **state)
{
	struct result r;

	add_disk();
	start_writer(20);
	r = migrate();
	check_moved(&r);
	assert_memory_equal(disk.src, disk.dst, sizeof(disk.src));
	assert_true(disk.zeroed > 0);
	print_message("%u blocks read in %u rounds\n", disk.reads, r.progress.round);
	assert_true(disk.reads > BLOCKS - 100);
}

static void disk_encrypted(void **state)
{
	struct result r;

	add_disk();
	params.encrypt = true;
	r = migrate();
	check_moved(&r);
	assert_memory_equal(disk.src, disk.dst, sizeof(disk.src));
}

static void disk_without_room(void **state)
{
	struct result r;

	add_disk();
	disk.write_error_at = 700;
	r = migrate();
	check_stayed(&r, 0);
	assert_non_null(strstr(r.progress.error, "a disk cannot be written: No space left"));
}

static void disk_that_cannot_be_read(void **state)
{
	struct result r;

	add_disk();
	disk.read_error_at = 700;
	r = migrate();
	check_stayed(&r, 0);
	assert_non_null(strstr(r.progress.error, "a disk cannot be read: Input/output error"));
}

static void disk_in_postcopy(void **state)
{
	struct result r;

	add_disk();
	dst.fills = true;
	params.mode = MIG_MODE_POSTCOPY;
	r = migrate();
	check_stayed(&r, 0);
	assert_non_null(strstr(r.progress.error, "--mode precopy"));
}

int main(void)
{
#define D(f) cmocka_unit_test_setup_teardown(f, setup, teardown_disk)
	const struct CMUnitTest tests[] = {
		D(disk_moves_along),	     D(disk_encrypted),	  D(disk_without_room),
		D(disk_that_cannot_be_read), D(disk_in_postcopy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
