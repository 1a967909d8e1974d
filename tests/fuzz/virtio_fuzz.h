/*
 * What the fuzz targets of the virtio devices share: the input is a program for a hostile driver,
 * which sets registers, rings and memory and notifies, pauses, saves and loads at any moment.
 */
#ifndef TESTS_VIRTIO_FUZZ_H
#define TESTS_VIRTIO_FUZZ_H

#include <errno.h>

#include "tests/unit/devices/virtio_driver.h"

enum { FUZZ_WINDOW = 1 << 16 }; /* guest memory that the program writes, at DRV_HEAP */

/* A new device; and what only this kind can do (an arbitrary byte and some data). */
struct fuzz_device {
	struct vmm_device *(*make)(struct drv *d);
	void (*poke)(struct drv *d, uint8_t what, const uint8_t *data, size_t len);
};

static inline void fuzz_memory(struct drv *d, struct base_rbuf *in)
{
	uint32_t at = base_rbuf_u16(in);
	size_t len = base_rbuf_u8(in);
	const void *p;

	len = BASE_MIN(len, base_rbuf_left(in));
	p = base_rbuf_take(in, len);
	if (p)
		memcpy(drv_ptr(d, DRV_HEAP + at, len), p, len);
}

static inline void fuzz_desc(struct drv *d, struct base_rbuf *in)
{
	struct drv_queue *q = &d->q[base_rbuf_u8(in) % DRV_QUEUES_MAX];
	uint8_t index = base_rbuf_u8(in), flags = base_rbuf_u8(in), next = base_rbuf_u8(in);
	uint16_t at = base_rbuf_u16(in), len = base_rbuf_u16(in);

	if (!q->desc || in->error)
		return;
	q->desc[index % q->size] = (struct vring_desc){
		/* Bit 7: an address that is not in memory. */
		.addr = DRV_HEAP + at + (flags & 0x80 ? DRV_MEM_BYTES : 0),
		.len = len,
		.flags = flags & 7,
		.next = next,
	};
}

static inline void fuzz_offer(struct drv *d, struct base_rbuf *in)
{
	unsigned index = base_rbuf_u8(in) % DRV_QUEUES_MAX;
	uint8_t head = base_rbuf_u8(in);

	if (!d->q[index].desc || in->error)
		return;
	drv_avail(&d->q[index], head % d->q[index].size);
	drv_kick(d, index);
	drv_step(d);
}

/* Saves and loads into the same device; one byte of the state is changed when `flip` is not 0. */
static inline void fuzz_move(struct drv *d, uint16_t at, uint8_t flip, const struct fuzz_device *f)
{
	struct base_wbuf out;
	struct base_rbuf in;

	d->dev->ops->pause(d->dev);
	base_wbuf_init(&out, 1 << 20);
	d->dev->ops->save(d->dev, &out);
	drv_must(out.error, "save");
	d->dev->ops->fini(d->dev);
	d->dev = f->make(d);
	out.data[at % out.len] ^= flip;
	base_rbuf_init(&in, out.data, out.len);
	if (d->dev->ops->load(d->dev, &in, d->dev->ops->version)) {
		/* Good for fini only. What was saved unchanged must load. */
		if (!flip)
			abort();
		d->dev->ops->fini(d->dev);
		d->dev = f->make(d);
	}
	base_wbuf_fini(&out);
	d->dev->ops->resume(d->dev);
	drv_step(d);
}

static inline void fuzz_access(struct drv *d, struct base_rbuf *in, bool write)
{
	uint64_t addr = d->slot.base + base_rbuf_u16(in) % VMM_VIRTIO_LEN;
	unsigned len = 1u << (base_rbuf_u8(in) & 3);
	uint8_t data[8] = {0};

	if (write)
		base_rbuf_bytes(in, data, len);
	if (write)
		vmm_bus_write(d->env.mmio, addr, len, data);
	else
		vmm_bus_read(d->env.mmio, addr, len, data);
}

static inline void fuzz_step(struct drv *d, struct base_rbuf *in, const struct fuzz_device *f)
{
	uint32_t reg;
	uint64_t features;
	uint16_t at;
	uint8_t b;

	switch (base_rbuf_u8(in) % 11) {
	case 0:
		reg = base_rbuf_u8(in) * 4u;
		drv_write(d, reg, base_rbuf_u32(in));
		break;
	case 1: fuzz_access(d, in, false); break;
	case 2: fuzz_access(d, in, true); break;
	case 3: fuzz_memory(d, in); break;
	case 4:
		features = base_rbuf_u64(in);
		d->heap = DRV_HEAP + FUZZ_WINDOW;
		drv_start(d, features | DRV_PLAIN);
		break;
	case 5: fuzz_desc(d, in); break;
	case 6: fuzz_offer(d, in); break;
	case 7:
		drv_kick(d, base_rbuf_u8(in));
		drv_step(d);
		break;
	case 8:
		d->dev->ops->pause(d->dev);
		d->dev->ops->resume(d->dev);
		drv_step(d);
		break;
	case 9:
		at = base_rbuf_u16(in);
		b = base_rbuf_u8(in);
		fuzz_move(d, at, b, f);
		break;
	default:
		b = base_rbuf_u8(in);
		at = base_rbuf_u16(in) % 2048;
		at = BASE_MIN(at, base_rbuf_left(in));
		if (f->poke)
			f->poke(d, b, base_rbuf_take(in, at), at);
		drv_step(d);
	}
}

static inline int fuzz_run(const struct fuzz_device *f, const uint8_t *data, size_t size)
{
	static struct drv d;
	struct base_rbuf in;

	if (!d.env.mem) {
		base_log_set_level(BASE_LOG_ERROR);
		drv_machine(&d);
	}
	memset(drv_ptr(&d, DRV_HEAP, 2 * FUZZ_WINDOW), 0, 2 * FUZZ_WINDOW);
	memset(d.q, 0, sizeof(d.q));
	d.heap = DRV_HEAP + FUZZ_WINDOW;
	d.dev = f->make(&d);
	d.dev->ops->resume(d.dev);
	drv_start(&d, DRV_ALL_FEATURES);
	base_rbuf_init(&in, data, size);
	while (base_rbuf_left(&in) && !in.error)
		fuzz_step(&d, &in, f);
	/* Whatever it did: a reset brings the device back. */
	d.heap = DRV_HEAP + FUZZ_WINDOW;
	drv_start(&d, DRV_ALL_FEATURES);
	if (drv_broken(&d))
		abort();
	drv_unplug(&d);
	drv_step(&d);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
