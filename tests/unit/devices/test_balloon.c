/* virtio-balloon: pages go and come back, statistics, free page reports, state. */
#include <errno.h>
#include <linux/virtio_balloon.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "node/devices/virtio_balloon.h"
#include "tests/unit/devices/virtio_driver.h"

enum { INFLATE, DEFLATE, STATS, REPORT };

#define VICTIM (UINT64_C(16) << 20)

static void plug(struct drv *d)
{
	struct virtio_balloon_options o = {0};

	drv_machine(d);
	drv_must(virtio_balloon_new(&d->env, d->slot, &o, &d->dev), "balloon");
	d->dev->ops->resume(d->dev);
	drv_start(d, DRV_ALL_FEATURES);
}

static uint64_t resident(struct drv *d)
{
	struct stat st;

	assert_int_equal(fstat(vmm_mem_fd(d->env.mem), &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void send_pfns(struct drv *d, unsigned queue, const uint32_t *pfns, unsigned count)
{
	struct drv_buf b = {drv_alloc(d, 4 * count), 4 * count, false};

	memcpy(drv_ptr(d, b.gpa, b.len), pfns, b.len);
	drv_add(d, queue, &b, 1);
	drv_kick(d, queue);
}

static uint64_t wanted;

static void stat_put(void *name, const char *stat, uint64_t value)
{
	if (!strcmp(name, stat))
		wanted = value;
}

static uint64_t stat_of(struct drv *d, const char *name)
{
	wanted = UINT64_MAX;
	d->dev->ops->stats(d->dev, stat_put, (void *)(uintptr_t)name);
	return wanted;
}

static void pages_are_given_up(void **state)
{
	struct drv d;
	uint32_t pfns[256];
	uint64_t before;
	uint8_t *p;

	plug(&d);
	p = drv_ptr(&d, VICTIM, 4 << 20);
	memset(p, 0xaa, 4 << 20);
	before = resident(&d);
	/* A run, and single pages in falling order as Linux sends them. */
	for (unsigned i = 0; i < 256; i++)
		pfns[i] = VICTIM / 4096 + (i < 128 ? i : 600 - i);
	send_pfns(&d, INFLATE, pfns, 256);
	drv_wait(&d, INFLATE, NULL);
	assert_int_equal(before - resident(&d), 256 * 4096);
	assert_int_equal(p[0], 0);
	assert_int_equal(p[128 * 4096], 0xaa);
	assert_int_equal(stat_of(&d, "inflated_pages"), 256);
	send_pfns(&d, DEFLATE, pfns, 256);
	drv_wait(&d, DEFLATE, NULL);
	assert_int_equal(stat_of(&d, "deflated_pages"), 256);
	assert_false(drv_broken(&d));
	drv_free(&d);
}

static void dropped_pages_are_dirty(void **state)
{
	static uint64_t bits[DRV_MEM_BYTES / 4096 / 64];
	struct drv d;
	uint32_t pfn = VICTIM / 4096;

	plug(&d);
	drv_must(vmm_mem_dirty_start(d.env.mem), "log");
	send_pfns(&d, INFLATE, &pfn, 1);
	drv_wait(&d, INFLATE, NULL);
	vmm_mem_dirty_fetch_and_clear(d.env.mem, bits);
	assert_true(bits[pfn / 64] >> pfn % 64 & 1);
	drv_free(&d);
}

static void pages_that_are_no_memory_need_reset(void **state)
{
	const uint32_t bad[] = {DRV_MEM_BYTES / 4096, UINT32_MAX, 0xd0000};
	struct drv d;

	plug(&d);
	for (unsigned i = 0; i < BASE_ARRAY_LEN(bad); i++) {
		send_pfns(&d, INFLATE, &bad[i], 1);
		drv_step(&d);
		assert_true(drv_broken(&d));
		drv_start(&d, DRV_ALL_FEATURES);
	}
	drv_free(&d);
}

static void the_target_is_told(void **state)
{
	struct drv d;
	uint32_t pages;

	plug(&d);
	virtio_balloon_set_target(d.dev, 8 << 20);
	assert_int_equal(drv_read(&d, VIRTIO_MMIO_INTERRUPT_STATUS), 2);
	drv_config(&d, 0, &pages, 4);
	assert_int_equal(pages, 2048);
	/* Never more than there is. */
	virtio_balloon_set_target(d.dev, UINT64_MAX);
	drv_config(&d, 0, &pages, 4);
	assert_int_equal(pages, DRV_MEM_BYTES / 4096);
	drv_write(&d, VIRTIO_MMIO_CONFIG + 4, 1000);
	assert_int_equal(virtio_balloon_actual(d.dev), 1000 * 4096);
	/* The target is not the driver's. */
	drv_write(&d, VIRTIO_MMIO_CONFIG, 7);
	drv_config(&d, 0, &pages, 4);
	assert_int_equal(pages, DRV_MEM_BYTES / 4096);
	drv_free(&d);
}

static void statistics_are_asked_for(void **state)
{
	struct drv d;
	struct virtio_balloon_options o = {0};
	struct virtio_balloon_stat *s;
	struct drv_buf b;
	struct base_wbuf out;
	struct base_rbuf in;

	plug(&d);
	b = (struct drv_buf){drv_alloc(&d, 2 * sizeof(*s)), 2 * sizeof(*s), false};
	s = drv_ptr(&d, b.gpa, b.len);
	s[0] = (struct virtio_balloon_stat){VIRTIO_BALLOON_S_MEMFREE, 1234};
	s[1] = (struct virtio_balloon_stat){999, 1};
	drv_add(&d, STATS, &b, 1);
	drv_kick(&d, STATS);
	drv_step(&d);
	assert_int_equal(drv_used_idx(&d.q[STATS]), 0);
	assert_int_equal(stat_of(&d, "guest_free_bytes"), 1234);
	/* The buffer that we keep is kept across a move. */
	d.dev->ops->pause(d.dev);
	base_wbuf_init(&out, 4096);
	d.dev->ops->save(d.dev, &out);
	d.dev->ops->fini(d.dev);
	drv_must(virtio_balloon_new(&d.env, d.slot, &o, &d.dev), "balloon");
	base_rbuf_init(&in, out.data, out.len);
	drv_must(d.dev->ops->load(d.dev, &in, 1), "load");
	base_wbuf_fini(&out);
	d.dev->ops->resume(d.dev);
	virtio_balloon_refresh(d.dev);
	assert_int_equal(drv_wait(&d, STATS, NULL), 0);
	s[0].val = 77;
	drv_add(&d, STATS, &b, 1);
	drv_kick(&d, STATS);
	drv_step(&d);
	assert_int_equal(stat_of(&d, "guest_free_bytes"), 77);
	drv_add(&d, STATS, &b, 1);
	drv_kick(&d, STATS);
	drv_step(&d);
	assert_true(drv_broken(&d));
	drv_free(&d);
}

static void free_pages_are_dropped(void **state)
{
	struct drv d;
	struct drv_buf b[2] = {{VICTIM, 2 << 20, true}, {VICTIM + (3 << 20) + 100, 8192, true}};
	uint64_t before;

	plug(&d);
	memset(drv_ptr(&d, VICTIM, 4 << 20), 0xaa, 4 << 20);
	before = resident(&d);
	drv_add(&d, REPORT, b, 2);
	drv_kick(&d, REPORT);
	drv_wait(&d, REPORT, NULL);
	/* Of the second only the page that is whole. */
	assert_int_equal(before - resident(&d), (2 << 20) + 4096);
	assert_int_equal(stat_of(&d, "reported_bytes"), (2 << 20) + 4096);
	drv_free(&d);
}

/* Without statistics the reporting queue is the third. */
static void queues_move_up(void **state)
{
	struct drv d;
	struct drv_buf b = {VICTIM, 2 << 20, true};

	plug(&d);
	drv_start(&d, DRV_PLAIN | UINT64_C(1) << VIRTIO_BALLOON_F_REPORTING);
	drv_add(&d, 2, &b, 1);
	drv_kick(&d, 2);
	drv_wait(&d, 2, NULL);
	assert_int_equal(stat_of(&d, "reported_bytes"), 2 << 20);
	drv_free(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pages_are_given_up),
		cmocka_unit_test(dropped_pages_are_dirty),
		cmocka_unit_test(pages_that_are_no_memory_need_reset),
		cmocka_unit_test(the_target_is_told),
		cmocka_unit_test(statistics_are_asked_for),
		cmocka_unit_test(free_pages_are_dropped),
		cmocka_unit_test(queues_move_up),
	};

	base_log_set_level(BASE_LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
