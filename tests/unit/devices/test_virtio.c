/* The split ring and the MMIO transport, driven through the simplest device (rng). */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "node/devices/virtio_rng.h"
#include "tests/unit/devices/virtio_driver.h"

static void plug(struct drv *d)
{
	struct virtio_rng_options cfg = {0};

	drv_must(virtio_rng_new(&d->env, d->slot, &cfg, &d->dev), "rng");
	d->dev->ops->resume(d->dev);
}

static void machine(struct drv *d)
{
	drv_machine(d);
	plug(d);
}

static bool all_zero(struct drv *d, uint64_t gpa, uint32_t len)
{
	const uint8_t *p = drv_ptr(d, gpa, len);

	for (uint32_t i = 0; i < len; i++)
		if (p[i])
			return false;
	return true;
}

static void registers_name_the_device(void **state)
{
	struct drv d;

	machine(&d);
	assert_int_equal(drv_read(&d, VIRTIO_MMIO_MAGIC_VALUE), 0x74726976);
	assert_int_equal(drv_read(&d, VIRTIO_MMIO_VERSION), 2);
	assert_int_equal(drv_read(&d, VIRTIO_MMIO_DEVICE_ID), 4);
	drv_write(&d, VIRTIO_MMIO_QUEUE_SEL, 0);
	assert_int_equal(drv_read(&d, VIRTIO_MMIO_QUEUE_NUM_MAX), 64);
	drv_write(&d, VIRTIO_MMIO_QUEUE_SEL, 1);
	assert_int_equal(drv_read(&d, VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
	drv_write(&d, VIRTIO_MMIO_QUEUE_SEL, UINT32_MAX);
	assert_int_equal(drv_read(&d, VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
	drv_free(&d);
}

static void features_beyond_the_offer_are_refused(void **state)
{
	struct drv d;

	machine(&d);
	assert_false(drv_negotiate(&d, drv_offered(&d) | 1));
	assert_false(drv_negotiate(&d, 0)); /* no VERSION_1 */
	assert_true(drv_negotiate(&d, drv_offered(&d)));
	/* Final now. */
	drv_choose(&d, 0);
	drv_write(&d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 7);
	drv_write(&d, VIRTIO_MMIO_DRIVER_FEATURES, 7);
	drv_ok(&d);
	assert_false(drv_broken(&d));
	drv_free(&d);
}

static void starting_without_features_needs_reset(void **state)
{
	struct drv d;

	machine(&d);
	drv_write(&d, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_DRIVER_OK);
	assert_true(drv_broken(&d));
	drv_write(&d, VIRTIO_MMIO_STATUS, 0);
	assert_int_equal(drv_read(&d, VIRTIO_MMIO_STATUS), 0);
	drv_free(&d);
}

static void a_chain_is_filled_and_announced(void **state)
{
	const uint64_t features[] = {DRV_PLAIN, DRV_ALL_FEATURES};

	for (unsigned i = 0; i < 2; i++) {
		struct drv d;
		struct drv_buf bufs[] = {{0, 100, true}, {0, 28, true}};
		unsigned before;
		uint32_t len;

		machine(&d);
		drv_start(&d, features[i]);
		bufs[0].gpa = drv_alloc(&d, 100);
		bufs[1].gpa = drv_alloc(&d, 28);
		before = drv_pulses(&d);
		drv_add(&d, 0, bufs, 2);
		drv_kick(&d, 0);
		assert_int_equal(drv_wait(&d, 0, &len), 0);
		assert_int_equal(len, 128);
		assert_false(all_zero(&d, bufs[0].gpa, 100));
		assert_false(all_zero(&d, bufs[1].gpa, 28));
		assert_int_equal(drv_pulses(&d), before + 1);
		assert_int_equal(drv_read(&d, VIRTIO_MMIO_INTERRUPT_STATUS), 1);
		drv_write(&d, VIRTIO_MMIO_INTERRUPT_ACK, 1);
		assert_int_equal(drv_read(&d, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
		drv_free(&d);
	}
}

static void indirect_chains_work(void **state)
{
	struct drv d;
	struct drv_buf bufs[16];
	uint32_t len;

	machine(&d);
	drv_start(&d, DRV_ALL_FEATURES);
	for (unsigned i = 0; i < 16; i++)
		bufs[i] = (struct drv_buf){drv_alloc(&d, 16), 16, true};
	for (unsigned round = 0; round < 3 * DRV_RING_SIZE; round++) {
		drv_add_indirect(&d, 0, bufs, 16);
		drv_kick(&d, 0);
		assert_int_equal(drv_wait(&d, 0, &len), round % DRV_RING_SIZE);
		assert_int_equal(len, 256);
	}
	drv_free(&d);
}

static void the_driver_can_ask_for_silence(void **state)
{
	struct drv d;
	struct drv_buf b = {0, 8, true};
	unsigned before;

	machine(&d);
	b.gpa = drv_alloc(&d, 8);
	drv_start(&d, DRV_PLAIN);
	d.q[0].avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
	before = drv_pulses(&d);
	drv_add(&d, 0, &b, 1);
	drv_kick(&d, 0);
	drv_wait(&d, 0, NULL);
	assert_int_equal(drv_pulses(&d), before);

	/* Event index: only when entry 5 is used. */
	drv_start(&d, DRV_ALL_FEATURES);
	drv_add(&d, 0, &b, 1);
	drv_kick(&d, 0);
	drv_wait(&d, 0, NULL);
	d.q[0].avail->ring[d.q[0].size] = 5;
	before = drv_pulses(&d);
	for (unsigned i = 1; i <= 6; i++) {
		drv_add(&d, 0, &b, 1);
		drv_kick(&d, 0);
		drv_wait(&d, 0, NULL);
		assert_int_equal(drv_pulses(&d), before + (i >= 5));
	}
	/* The device asks to be told of the next chain. */
	assert_int_equal(*(uint16_t *)&d.q[0].used->ring[d.q[0].size], 7);
	drv_free(&d);
}

static void written_pages_are_in_the_dirty_log(void **state)
{
	static uint64_t bits[DRV_MEM_BYTES / 4096 / 64];
	struct drv d;
	struct drv_buf b = {5 << 20, 4096, true};
	uint64_t page;

	machine(&d);
	drv_start(&d, DRV_ALL_FEATURES);
	drv_must(vmm_mem_dirty_start(d.env.mem), "log");
	drv_add(&d, 0, &b, 1);
	drv_kick(&d, 0);
	drv_wait(&d, 0, NULL);
	vmm_mem_dirty_fetch_and_clear(d.env.mem, bits);
	page = b.gpa / 4096;
	assert_true(bits[page / 64] >> page % 64 & 1);
	page = d.q[0].used_gpa / 4096;
	assert_true(bits[page / 64] >> page % 64 & 1);
	drv_free(&d);
}

/* Each breaks the ring in one way; the device must stop, say so, and work again after a reset. */
static void break_address(struct drv *d)
{
	d->q[0].desc[0] = (struct vring_desc){.addr = DRV_MEM_BYTES - 4, .len = 8, .flags = 2};
}

static void break_wrap(struct drv *d)
{
	d->q[0].desc[0] = (struct vring_desc){.addr = UINT64_MAX - 3, .len = 8, .flags = 2};
}

static void break_loop(struct drv *d)
{
	d->q[0].desc[0] = (struct vring_desc){.addr = DRV_HEAP, .len = 8, .flags = 3, .next = 0};
}

static void break_next(struct drv *d)
{
	d->q[0].desc[0] =
		(struct vring_desc){.addr = DRV_HEAP, .len = 8, .flags = 3, .next = 0xffff};
}

static void break_order(struct drv *d)
{
	d->q[0].desc[0] = (struct vring_desc){.addr = DRV_HEAP, .len = 8, .flags = 3, .next = 1};
	d->q[0].desc[1] = (struct vring_desc){.addr = DRV_HEAP, .len = 8};
}

static void break_head(struct drv *d)
{
	d->q[0].avail->ring[0] = 64;
}

static void break_index(struct drv *d)
{
	d->q[0].avail->idx = 100;
}

static void break_indirect_length(struct drv *d)
{
	d->q[0].desc[0] = (struct vring_desc){.addr = DRV_HEAP, .len = 17, .flags = 4};
}

static void break_indirect_address(struct drv *d)
{
	d->q[0].desc[0] = (struct vring_desc){.addr = DRV_MEM_BYTES, .len = 16, .flags = 4};
}

static void break_indirect_twice(struct drv *d)
{
	struct vring_desc *t = drv_ptr(d, DRV_HEAP + (1 << 20), sizeof(*t));

	*t = (struct vring_desc){.addr = DRV_HEAP, .len = 16, .flags = 4};
	d->q[0].desc[0] = (struct vring_desc){.addr = DRV_HEAP + (1 << 20), .len = 16, .flags = 4};
}

static void break_indirect_next(struct drv *d)
{
	d->q[0].desc[0] = (struct vring_desc){.addr = DRV_HEAP, .len = 16, .flags = 5};
}

static void garbage_needs_reset(void **state)
{
	void (*const breaks[])(struct drv *) = {
		break_address,
		break_wrap,
		break_loop,
		break_next,
		break_order,
		break_head,
		break_index,
		break_indirect_length,
		break_indirect_address,
		break_indirect_twice,
		break_indirect_next,
	};
	struct drv d;

	machine(&d);
	for (unsigned i = 0; i < BASE_ARRAY_LEN(breaks); i++) {
		struct drv_buf b = {drv_alloc(&d, 64), 64, true};

		drv_start(&d, DRV_ALL_FEATURES);
		drv_avail(&d.q[0], 0);
		breaks[i](&d);
		drv_kick(&d, 0);
		drv_step(&d);
		assert_true(drv_broken(&d));
		assert_int_equal(drv_read(&d, VIRTIO_MMIO_INTERRUPT_STATUS), 2);
		assert_int_equal(d.q[0].used->idx, 0);
		/* Deaf until reset. */
		drv_kick(&d, 0);
		drv_step(&d);
		assert_int_equal(d.q[0].used->idx, 0);
		drv_start(&d, DRV_ALL_FEATURES);
		assert_false(drv_broken(&d));
		drv_add(&d, 0, &b, 1);
		drv_kick(&d, 0);
		drv_wait(&d, 0, NULL);
	}
	drv_free(&d);
}

static void bad_queue_places_are_refused(void **state)
{
	const struct drv_queue bad[] = {
		{.size = 0, .desc_gpa = 0x1000, .avail_gpa = 0x2000, .used_gpa = 0x3000},
		{.size = 48, .desc_gpa = 0x1000, .avail_gpa = 0x2000, .used_gpa = 0x3000},
		{.size = 128, .desc_gpa = 0x1000, .avail_gpa = 0x2000, .used_gpa = 0x3000},
		{.size = 64, .desc_gpa = 0x1008, .avail_gpa = 0x2000, .used_gpa = 0x3000},
		{.size = 64, .desc_gpa = 0x1000, .avail_gpa = 0x2001, .used_gpa = 0x3000},
		{.size = 64, .desc_gpa = 0x1000, .avail_gpa = 0x2000, .used_gpa = 0x3002},
		{.size = 64, .desc_gpa = DRV_MEM_BYTES - 16, .avail_gpa = 0x2000, .used_gpa = 0},
		{.size = 64, .desc_gpa = 0x1000, .avail_gpa = DRV_MEM_BYTES - 4, .used_gpa = 0},
		{.size = 64, .desc_gpa = 0x1000, .avail_gpa = 0x2000, .used_gpa = ~UINT64_C(3)},
	};
	struct drv d;

	machine(&d);
	for (unsigned i = 0; i < BASE_ARRAY_LEN(bad); i++) {
		struct drv_queue q = bad[i];

		assert_true(drv_negotiate(&d, DRV_PLAIN));
		drv_place(&d, 0, &q);
		assert_int_equal(drv_read(&d, VIRTIO_MMIO_QUEUE_READY), 0);
		assert_true(drv_broken(&d));
	}
	drv_free(&d);
}

static void odd_accesses_do_nothing(void **state)
{
	struct drv d;
	uint8_t data[8] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

	machine(&d);
	drv_start(&d, DRV_ALL_FEATURES);
	for (unsigned len = 1; len <= 8; len *= 2)
		for (unsigned reg = 0; reg + len <= VMM_VIRTIO_LEN; reg++) {
			uint8_t got[8];

			vmm_bus_read(d.env.mmio, d.slot.base + reg, len, got);
			if (len != 4 || reg % 4)
				vmm_bus_write(d.env.mmio, d.slot.base + reg, len, data);
		}
	drv_kick(&d, 17);
	drv_step(&d);
	assert_int_equal(drv_read(&d, VIRTIO_MMIO_STATUS), 15);
	drv_free(&d);
}

static void pause_stops_and_resume_catches_up(void **state)
{
	struct drv d;
	struct drv_buf b = {0, 64, true};

	machine(&d);
	b.gpa = drv_alloc(&d, 64);
	drv_start(&d, DRV_ALL_FEATURES);
	d.dev->ops->pause(d.dev);
	drv_add(&d, 0, &b, 1);
	drv_kick(&d, 0);
	drv_step(&d);
	assert_int_equal(drv_used_idx(&d.q[0]), 0);
	d.dev->ops->resume(d.dev);
	drv_wait(&d, 0, NULL);
	drv_free(&d);
}

static void state_moves_to_a_new_device(void **state)
{
	struct drv d;
	struct drv_buf b = {0, 64, true};
	struct virtio_rng_options cfg = {0};
	struct vmm_device *to;

	machine(&d);
	b.gpa = drv_alloc(&d, 64);
	drv_start(&d, DRV_ALL_FEATURES);
	for (unsigned i = 0; i < 70; i++) {
		drv_add(&d, 0, &b, 1);
		drv_kick(&d, 0);
		drv_wait(&d, 0, NULL);
	}
	drv_add(&d, 0, &b, 1); /* waits in the ring across the move */
	d.dev->ops->pause(d.dev);
	/* The new one lives in another machine with the same memory: here another bus. */
	vmm_bus_free(d.env.pio);
	d.env.pio = d.env.mmio;
	drv_must(vmm_bus_new(&d.env.mmio), "bus");
	drv_must(virtio_rng_new(&d.env, d.slot, &cfg, &to), "rng");
	drv_must(drv_move(d.dev, to), "move");
	assert_int_equal(drv_read(&d, VIRTIO_MMIO_STATUS), 15);
	assert_int_equal(drv_read(&d, VIRTIO_MMIO_INTERRUPT_STATUS), 1);
	to->ops->resume(to);
	assert_int_equal(drv_wait(&d, 0, NULL), 70 % DRV_RING_SIZE);
	to->ops->pause(to);
	to->ops->fini(to);
	vmm_bus_free(d.env.mmio);
	d.env.mmio = d.env.pio;
	drv_must(vmm_bus_new(&d.env.pio), "bus");
	drv_free(&d);
}

/* What a driver wrote of a queue that it did not enable yet may be nonsense, and is state. */
static void a_half_made_queue_moves(void **state)
{
	struct drv d;
	struct base_wbuf out;
	struct base_rbuf in;

	machine(&d);
	drv_write(&d, VIRTIO_MMIO_QUEUE_SEL, 0);
	drv_write(&d, VIRTIO_MMIO_QUEUE_NUM, 0xffff);
	drv_write(&d, VIRTIO_MMIO_QUEUE_DESC_LOW, 3);
	d.dev->ops->pause(d.dev);
	base_wbuf_init(&out, 4096);
	d.dev->ops->save(d.dev, &out);
	base_rbuf_init(&in, out.data, out.len);
	assert_int_equal(d.dev->ops->load(d.dev, &in, 1), 0);
	base_wbuf_fini(&out);
	drv_free(&d);
}

static void hostile_state_is_refused(void **state)
{
	struct drv d;
	struct base_wbuf out;

	machine(&d);
	drv_start(&d, DRV_ALL_FEATURES);
	d.dev->ops->pause(d.dev);
	base_wbuf_init(&out, 4096);
	d.dev->ops->save(d.dev, &out);
	assert_int_equal(out.error, 0);
	for (size_t len = 0; len < out.len; len++) {
		struct base_rbuf in;

		base_rbuf_init(&in, out.data, len);
		assert_int_not_equal(d.dev->ops->load(d.dev, &in, 1), 0);
	}
	for (size_t i = 0; i < out.len; i++)
		for (unsigned bit = 0; bit < 8; bit++) {
			struct base_rbuf in;

			out.data[i] ^= 1u << bit;
			base_rbuf_init(&in, out.data, out.len);
			if (!d.dev->ops->load(d.dev, &in, 1)) {
				d.dev->ops->resume(d.dev);
				drv_step(&d);
				d.dev->ops->pause(d.dev);
			}
			out.data[i] ^= 1u << bit;
		}
	base_wbuf_fini(&out);
	drv_free(&d);
}

static void the_rate_is_bounded(void **state)
{
	struct virtio_rng_options cfg = {.bytes_per_s = 1000};
	struct drv d;
	struct drv_buf b = {0, 4096, true};
	uint32_t len;
	int64_t start = base_clock_ns();

	drv_machine(&d);
	drv_must(virtio_rng_new(&d.env, d.slot, &cfg, &d.dev), "rng");
	d.dev->ops->resume(d.dev);
	drv_start(&d, DRV_ALL_FEATURES);
	b.gpa = drv_alloc(&d, 4096);
	for (unsigned i = 0; i < 2; i++) {
		drv_add(&d, 0, &b, 1);
		drv_kick(&d, 0);
		drv_wait(&d, 0, &len);
		assert_int_equal(len, 100);
	}
	/* The second window began no earlier than 100 ms after the first. */
	assert_true(base_clock_ns() - start >= 100 * BASE_NS_PER_MS);
	drv_free(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(registers_name_the_device),
		cmocka_unit_test(features_beyond_the_offer_are_refused),
		cmocka_unit_test(starting_without_features_needs_reset),
		cmocka_unit_test(a_chain_is_filled_and_announced),
		cmocka_unit_test(indirect_chains_work),
		cmocka_unit_test(the_driver_can_ask_for_silence),
		cmocka_unit_test(written_pages_are_in_the_dirty_log),
		cmocka_unit_test(garbage_needs_reset),
		cmocka_unit_test(bad_queue_places_are_refused),
		cmocka_unit_test(odd_accesses_do_nothing),
		cmocka_unit_test(pause_stops_and_resume_catches_up),
		cmocka_unit_test(state_moves_to_a_new_device),
		cmocka_unit_test(a_half_made_queue_moves),
		cmocka_unit_test(hostile_state_is_refused),
		cmocka_unit_test(the_rate_is_bounded),
	};

	base_log_set_level(BASE_LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
