/*
 * What every virtio device must do, whatever it is: the transport's rules, reset, pause, save and
 * load at any moment, garbage in its rings.
 * libs: pg_devices
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "base/rng.h"
#include "node/devices/virtio_balloon.h"
#include "node/devices/virtio_blk.h"
#include "node/devices/virtio_console.h"
#include "node/devices/virtio_net.h"
#include "node/devices/virtio_rng.h"
#include "tests/unit/devices/virtio_driver.h"

/* ---- the devices ---- */

static size_t console_output(void *opaque, const void *data, size_t len)
{
	return len;
}

static void console_input_ready(void *opaque)
{
}

static int make_rng(struct drv *d, struct vmm_device **dev)
{
	struct virtio_rng_options o = {0};

	return virtio_rng_new(&d->env, d->slot, &o, dev);
}

static int make_console(struct drv *d, struct vmm_device **dev)
{
	struct virtio_console_options o = {.output = console_output,
					   .input_ready = console_input_ready};

	return virtio_console_new(&d->env, d->slot, &o, dev);
}

static int make_blk(struct drv *d, struct vmm_device **dev)
{
	static char path[64];
	struct virtio_blk_options o = {.path = path, .format = VIRTIO_BLK_RAW, .queues = 2};

	if (!path[0]) {
		int fd = memfd_create("disk", 0);

		if (fd < 0 || ftruncate(fd, 1 << 20))
			return -errno;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	}
	return virtio_blk_new(&d->env, d->slot, &o, dev);
}

static int make_net(struct drv *d, struct vmm_device **dev)
{
	static int far_end = -1;
	struct virtio_net_options o = {.pairs = 1};
	int fds[2];

	if (far_end >= 0)
		close(far_end);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds))
		return -errno;
	far_end = fds[0];
	o.fds[0] = fds[1];
	return virtio_net_new(&d->env, d->slot, &o, dev);
}

static int make_balloon(struct drv *d, struct vmm_device **dev)
{
	struct virtio_balloon_options o = {0};

	return virtio_balloon_new(&d->env, d->slot, &o, dev);
}

/*
 * `served` is a queue whose chains come back by themselves, and chain a chain that it takes: `out`
 * bytes to the device (zeroes but for the type of the request), `in` bytes from it.
 */
static const struct kind {
	const char *name;
	uint32_t id;
	int (*make)(struct drv *d, struct vmm_device **dev);
	unsigned served;
	uint32_t out, in;
} kinds[] = {
	{"rng", 4, make_rng, 0, 0, 64},	       {"console", 3, make_console, 1, 64, 0},
	{"blk", 2, make_blk, 1, 16, 513},      {"net", 1, make_net, 1, 12 + 60, 0},
	{"balloon", 5, make_balloon, 0, 4, 0},
};

#define FOR_EACH_KIND(k) for (const struct kind *k = kinds; k < kinds + BASE_ARRAY_LEN(kinds); k++)

static void plug(struct drv *d, const struct kind *k)
{
	drv_machine(d);
	drv_must(k->make(d, &d->dev), k->name);
	d->dev->ops->resume(d->dev);
}

/* Offers one good chain; it takes up to two descriptors. */
static void offer(struct drv *d, const struct kind *k)
{
	struct drv_buf b[2];
	unsigned n = 0;

	if (k->out)
		b[n++] = (struct drv_buf){drv_alloc(d, k->out), k->out, false};
	if (k->in)
		b[n++] = (struct drv_buf){drv_alloc(d, k->in), k->in, true};
	drv_add(d, k->served, b, n);
	drv_kick(d, k->served);
}

static uint16_t used(struct drv *d, const struct kind *k)
{
	return drv_used_idx(&d->q[k->served]);
}

/* ---- the rules ---- */

static void it_says_what_it_is(void **state)
{
	FOR_EACH_KIND (k) {
		struct drv d;

		plug(&d, k);
		assert_int_equal(drv_read(&d, VIRTIO_MMIO_MAGIC_VALUE), 0x74726976);
		assert_int_equal(drv_read(&d, VIRTIO_MMIO_DEVICE_ID), k->id);
		assert_int_equal(drv_read(&d, VIRTIO_MMIO_STATUS), 0);
		assert_true(drv_offered(&d) >> VIRTIO_F_VERSION_1 & 1);
		assert_true(drv_offered(&d) >> VIRTIO_RING_F_EVENT_IDX & 1);
		drv_free(&d);
	}
}

static void unknown_features_are_refused(void **state)
{
	FOR_EACH_KIND (k) {
		struct drv d;

		plug(&d, k);
		for (unsigned bit = 0; bit < 64; bit++)
			if (!(drv_offered(&d) >> bit & 1))
				assert_false(drv_negotiate(&d, DRV_PLAIN | UINT64_C(1) << bit));
		assert_true(drv_negotiate(&d, DRV_PLAIN));
		drv_free(&d);
	}
}

static void it_serves_with_and_without_features(void **state)
{
	const uint64_t features[] = {DRV_PLAIN, DRV_ALL_FEATURES};

	FOR_EACH_KIND (k)
		for (unsigned i = 0; i < 2; i++) {
			struct drv d;

			plug(&d, k);
			drv_start(&d, features[i]);
			for (unsigned n = 0; n < 100; n++) {
				offer(&d, k);
				drv_wait(&d, k->served, NULL);
			}
			assert_false(drv_broken(&d));
			drv_free(&d);
		}
}

static void reset_forgets_everything(void **state)
{
	FOR_EACH_KIND (k) {
		struct drv d;

		plug(&d, k);
		for (unsigned round = 0; round < 8; round++) {
			drv_start(&d, DRV_ALL_FEATURES);
			for (unsigned n = 0; n < 16; n++)
				offer(&d, k);
			/* In the midst of it, by the guest or by the machine. */
			if (round & 1)
				drv_write(&d, VIRTIO_MMIO_STATUS, 0);
			else
				d.dev->ops->reset(d.dev);
			assert_int_equal(drv_read(&d, VIRTIO_MMIO_STATUS), 0);
			assert_int_equal(drv_read(&d, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
			drv_write(&d, VIRTIO_MMIO_QUEUE_SEL, k->served);
			assert_int_equal(drv_read(&d, VIRTIO_MMIO_QUEUE_READY), 0);
		}
		drv_free(&d);
	}
}

/* After pause returns nothing of guest memory changes, whoever kicks. */
static void pause_is_silence(void **state)
{
	FOR_EACH_KIND (k) {
		struct drv d;
		uint16_t at;
		unsigned pulses;

		plug(&d, k);
		drv_start(&d, DRV_ALL_FEATURES);
		for (unsigned n = 0; n < 20; n++)
			offer(&d, k);
		d.dev->ops->pause(d.dev);
		at = used(&d, k);
		pulses = drv_pulses(&d);
		for (unsigned n = 0; n < 10; n++) {
			offer(&d, k);
			drv_step(&d);
		}
		assert_int_equal(used(&d, k), at);
		assert_int_equal(drv_pulses(&d), pulses);
		d.dev->ops->resume(d.dev);
		for (unsigned n = 0; n < 30; n++)
			drv_wait(&d, k->served, NULL);
		assert_int_equal(used(&d, k), 30);
		drv_free(&d);
	}
}

static void move(struct drv *d, const struct kind *k)
{
	struct base_wbuf out;
	struct base_rbuf in;
	uint32_t version = d->dev->ops->version;

	d->dev->ops->pause(d->dev);
	base_wbuf_init(&out, 1 << 20);
	d->dev->ops->save(d->dev, &out);
	drv_must(out.error, "save");
	d->dev->ops->fini(d->dev);
	drv_must(k->make(d, &d->dev), k->name);
	base_rbuf_init(&in, out.data, out.len);
	drv_must(d->dev->ops->load(d->dev, &in, version), "load");
	drv_must(base_rbuf_end(&in), "load");
	base_wbuf_fini(&out);
	d->dev->ops->resume(d->dev);
}

/* Each chain is served once, over a device that moves at random moments. */
static void state_moves_at_any_moment(void **state)
{
	FOR_EACH_KIND (k) {
		struct base_rng rng;
		struct drv d;
		unsigned offered = 0, taken = 0;

		base_rng_seed(&rng, 42);
		plug(&d, k);
		move(&d, k); /* before any driver */
		drv_negotiate(&d, DRV_PLAIN);
		move(&d, k); /* half way through */
		assert_int_equal(drv_read(&d, VIRTIO_MMIO_STATUS), 11);
		drv_start(&d, DRV_ALL_FEATURES);
		while (offered < 300) {
			switch (base_rng_below(&rng, 4)) {
			case 0: move(&d, k); break;
			case 1: drv_step(&d); break;
			default:
				if (offered - taken == 24) {
					drv_wait(&d, k->served, NULL);
					taken++;
				}
				offer(&d, k);
				offered++;
			}
		}
		for (; taken < offered; taken++)
			drv_wait(&d, k->served, NULL);
		move(&d, k);
		drv_step(&d);
		assert_int_equal(used(&d, k), offered);
		assert_false(drv_broken(&d));
		drv_free(&d);
	}
}

static void another_version_is_refused(void **state)
{
	FOR_EACH_KIND (k) {
		struct drv d;
		struct base_wbuf out;
		struct base_rbuf in;

		plug(&d, k);
		d.dev->ops->pause(d.dev);
		base_wbuf_init(&out, 1 << 20);
		d.dev->ops->save(d.dev, &out);
		base_rbuf_init(&in, out.data, out.len);
		assert_int_equal(d.dev->ops->load(d.dev, &in, d.dev->ops->version + 1), -EPROTO);
		base_rbuf_init(&in, out.data, out.len - 1);
		assert_int_equal(d.dev->ops->load(d.dev, &in, d.dev->ops->version), -EBADMSG);
		base_wbuf_fini(&out);
		drv_free(&d);
	}
}

/* A ring of random bytes on each queue: the device serves it, ignores it or stops; then resets. */
static void garbage_is_survived(void **state)
{
	FOR_EACH_KIND (k) {
		struct base_rng rng;
		struct drv d;

		base_rng_seed(&rng, 7);
		plug(&d, k);
		for (unsigned round = 0; round < 200; round++) {
			d.heap = DRV_HEAP;
			drv_start(&d, DRV_ALL_FEATURES);
			for (unsigned i = 0; i < DRV_QUEUES_MAX && d.q[i].desc; i++) {
				struct drv_queue *q = &d.q[i];
				uint8_t *p = (uint8_t *)q->desc;

				for (unsigned n = 0; n < 16 * q->size; n++)
					p[n] = base_rng_next(&rng);
				drv_avail(q, base_rng_below(&rng, 2 * q->size));
				drv_kick(&d, i);
				drv_step(&d);
			}
			d.dev->ops->pause(d.dev);
			d.dev->ops->resume(d.dev);
			drv_step(&d);
		}
		drv_start(&d, DRV_ALL_FEATURES);
		/* First the descriptor, then its announcement: a worker may be looking already. */
		d.q[k->served].desc[0].addr = DRV_MEM_BYTES;
		d.q[k->served].desc[0].len = 1;
		drv_avail(&d.q[k->served], 0);
		drv_kick(&d, k->served);
		drv_until(&d, drv_broken(&d));
		assert_int_equal(drv_read(&d, VIRTIO_MMIO_INTERRUPT_STATUS) & 2, 2);
		drv_start(&d, DRV_ALL_FEATURES);
		offer(&d, k);
		drv_wait(&d, k->served, NULL);
		drv_free(&d);
	}
}

static void count_stat(void *arg, const char *name, uint64_t value)
{
	unsigned *n = arg;

	assert_non_null(name);
	(*n)++;
}

static void it_has_statistics(void **state)
{
	FOR_EACH_KIND (k) {
		struct drv d;
		unsigned n = 0;

		plug(&d, k);
		d.dev->ops->stats(d.dev, count_stat, &n);
		assert_true(n >= 3);
		drv_free(&d);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_says_what_it_is),
		cmocka_unit_test(unknown_features_are_refused),
		cmocka_unit_test(it_serves_with_and_without_features),
		cmocka_unit_test(reset_forgets_everything),
		cmocka_unit_test(pause_is_silence),
		cmocka_unit_test(state_moves_at_any_moment),
		cmocka_unit_test(another_version_is_refused),
		cmocka_unit_test(garbage_is_survived),
		cmocka_unit_test(it_has_statistics),
	};

	base_log_set_level(BASE_LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
