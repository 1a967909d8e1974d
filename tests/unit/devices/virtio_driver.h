/*
 * A small virtio-mmio driver for tests: a machine of real memory, buses and a loop that the test
 * steps, rings in guest memory, and interrupts as a counter. Header only, one program each.
 */
#ifndef TESTS_VIRTIO_DRIVER_H
#define TESTS_VIRTIO_DRIVER_H

#include <assert.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/vmm/device.h"

enum { DRV_QUEUES_MAX = 8, DRV_RING_SIZE = 64, DRV_BUFS_MAX = 64 };

#define DRV_MEM_BYTES (UINT64_C(64) << 20)
#define DRV_HEAP      (UINT64_C(1) << 20)
#define DRV_TIMEOUT_S 20

struct drv_queue {
	uint16_t size;
	uint64_t desc_gpa, avail_gpa, used_gpa;
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	uint16_t next_desc, last_used;
};

struct drv {
	struct vmm_env env;
	struct vmm_virtio_slot slot;
	struct vmm_device *dev;
	uint64_t heap;
	uint64_t features;
	struct drv_queue q[DRV_QUEUES_MAX];
};

struct drv_buf {
	uint64_t gpa;
	uint32_t len;
	bool in;
};

struct vmm_irqchip {
	int fd;
	atomic_uint pulses[VMM_GSI_COUNT];
};

static struct vmm_irqchip drv_chip = {.fd = -1};

void vmm_irq_pulse(struct vmm_irqchip *chip, unsigned gsi)
{
	uint64_t one = 1;

	atomic_fetch_add(&chip->pulses[gsi], 1);
	if (write(chip->fd, &one, sizeof(one)) < 0)
		abort();
}

static inline void drv_must(int rc, const char *what)
{
	if (rc) {
		fprintf(stderr, "%s: %s\n", what, strerror(-rc));
		abort();
	}
}

/* A machine without a device. */
static inline void drv_machine(struct drv *d)
{
	memset(d, 0, sizeof(*d));
	if (drv_chip.fd < 0)
		drv_chip.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	drv_must(vmm_mem_new(DRV_MEM_BYTES, &d->env.mem), "memory");
	drv_must(vmm_bus_new(&d->env.pio), "bus");
	drv_must(vmm_bus_new(&d->env.mmio), "bus");
	drv_must(base_loop_new(&d->env.loop), "loop");
	d->env.irq = &drv_chip;
	d->slot = vmm_virtio_slot_at(0);
	d->heap = DRV_HEAP;
}

static inline void drv_unplug(struct drv *d)
{
	d->dev->ops->pause(d->dev);
	d->dev->ops->fini(d->dev);
	d->dev = NULL;
}

static inline void drv_free(struct drv *d)
{
	if (d->dev)
		drv_unplug(d);
	base_loop_free(d->env.loop);
	vmm_bus_free(d->env.mmio);
	vmm_bus_free(d->env.pio);
	vmm_mem_free(d->env.mem);
}

static inline uint64_t drv_alloc(struct drv *d, uint64_t len)
{
	uint64_t gpa = (d->heap + 63) & ~UINT64_C(63);

	d->heap = gpa + len;
	assert(d->heap <= DRV_MEM_BYTES);
	return gpa;
}

static inline void *drv_ptr(struct drv *d, uint64_t gpa, uint64_t len)
{
	void *p = vmm_mem_ptr(d->env.mem, gpa, len);

	assert(p);
	return p;
}

static inline uint32_t drv_read(struct drv *d, uint32_t reg)
{
	uint32_t v = 0;

	vmm_bus_read(d->env.mmio, d->slot.base + reg, 4, (uint8_t *)&v);
	return v;
}

static inline void drv_write(struct drv *d, uint32_t reg, uint32_t v)
{
	vmm_bus_write(d->env.mmio, d->slot.base + reg, 4, (const uint8_t *)&v);
}

static inline void drv_config(struct drv *d, uint32_t offset, void *out, unsigned len)
{
	for (unsigned i = 0; i < len; i++)
		vmm_bus_read(d->env.mmio, d->slot.base + VIRTIO_MMIO_CONFIG + offset + i, 1,
			     (uint8_t *)out + i);
}

static inline uint64_t drv_offered(struct drv *d)
{
	uint64_t f;

	drv_write(d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
	f = (uint64_t)drv_read(d, VIRTIO_MMIO_DEVICE_FEATURES) << 32;
	drv_write(d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
	return f | drv_read(d, VIRTIO_MMIO_DEVICE_FEATURES);
}

static inline void drv_choose(struct drv *d, uint64_t features)
{
	drv_write(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	drv_write(d, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)features);
	drv_write(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	drv_write(d, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> 32));
	d->features = features;
}

static inline void drv_place(struct drv *d, unsigned index, struct drv_queue *q)
{
	drv_write(d, VIRTIO_MMIO_QUEUE_SEL, index);
	drv_write(d, VIRTIO_MMIO_QUEUE_NUM, q->size);
	drv_write(d, VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)q->desc_gpa);
	drv_write(d, VIRTIO_MMIO_QUEUE_DESC_HIGH, (uint32_t)(q->desc_gpa >> 32));
	drv_write(d, VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)q->avail_gpa);
	drv_write(d, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, (uint32_t)(q->avail_gpa >> 32));
	drv_write(d, VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)q->used_gpa);
	drv_write(d, VIRTIO_MMIO_QUEUE_USED_HIGH, (uint32_t)(q->used_gpa >> 32));
	drv_write(d, VIRTIO_MMIO_QUEUE_READY, 1);
}

static inline void drv_queue_setup(struct drv *d, unsigned index)
{
	struct drv_queue *q = &d->q[index];

	memset(q, 0, sizeof(*q));
	drv_write(d, VIRTIO_MMIO_QUEUE_SEL, index);
	q->size = BASE_MIN(drv_read(d, VIRTIO_MMIO_QUEUE_NUM_MAX), (uint32_t)DRV_RING_SIZE);
	q->desc_gpa = drv_alloc(d, q->size * sizeof(*q->desc));
	q->avail_gpa = drv_alloc(d, 6 + 2 * q->size);
	q->used_gpa = drv_alloc(d, 6 + 8 * q->size);
	q->desc = drv_ptr(d, q->desc_gpa, q->size * sizeof(*q->desc));
	q->avail = drv_ptr(d, q->avail_gpa, 6 + 2 * q->size);
	q->used = drv_ptr(d, q->used_gpa, 6 + 8 * q->size);
	memset(q->avail, 0, 6 + 2 * q->size);
	memset(q->used, 0, 6 + 8 * q->size);
	drv_place(d, index, q);
}

/* Up to FEATURES_OK; true when the device took the features. */
static inline bool drv_negotiate(struct drv *d, uint64_t features)
{
	drv_write(d, VIRTIO_MMIO_STATUS, 0);
	drv_write(d, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	drv_write(d, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	drv_choose(d, features);
	drv_write(d, VIRTIO_MMIO_STATUS,
		  VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
			  VIRTIO_CONFIG_S_FEATURES_OK);
	return drv_read(d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK;
}

static inline void drv_ok(struct drv *d)
{
	drv_write(d, VIRTIO_MMIO_STATUS,
		  drv_read(d, VIRTIO_MMIO_STATUS) | VIRTIO_CONFIG_S_DRIVER_OK);
}

/* The whole way; `features` beyond what is offered are left out. */
static inline void drv_start(struct drv *d, uint64_t features)
{
	bool ok = drv_negotiate(d, features & drv_offered(d));

	assert(ok);
	for (unsigned i = 0; i < DRV_QUEUES_MAX; i++) {
		drv_write(d, VIRTIO_MMIO_QUEUE_SEL, i);
		if (drv_read(d, VIRTIO_MMIO_QUEUE_NUM_MAX))
			drv_queue_setup(d, i);
	}
	drv_ok(d);
}

static inline bool drv_has(const struct drv *d, unsigned bit)
{
	return d->features >> bit & 1;
}

static inline void drv_fill(struct vring_desc *t, unsigned first, unsigned mask,
			    const struct drv_buf *bufs, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		struct vring_desc *desc = &t[(first + i) & mask];

		desc->addr = bufs[i].gpa;
		desc->len = bufs[i].len;
		desc->flags = (bufs[i].in ? VRING_DESC_F_WRITE : 0) |
			      (i + 1 < count ? VRING_DESC_F_NEXT : 0);
		desc->next = (first + i + 1) & mask;
	}
}

static inline void drv_avail(struct drv_queue *q, uint16_t head)
{
	uint16_t idx = q->avail->idx;

	__atomic_store_n(&q->avail->ring[idx & (q->size - 1)], head, __ATOMIC_RELAXED);
	__atomic_store_n(&q->avail->idx, (uint16_t)(idx + 1), __ATOMIC_SEQ_CST);
}

/* Adds a chain (descriptors go round: the test never has more than a ring of them). Its head. */
static inline uint16_t drv_add(struct drv *d, unsigned index, const struct drv_buf *bufs,
			       unsigned count)
{
	struct drv_queue *q = &d->q[index];
	uint16_t head = q->next_desc;

	drv_fill(q->desc, head, q->size - 1, bufs, count);
	q->next_desc = (head + count) & (q->size - 1);
	drv_avail(q, head);
	return head;
}

static inline uint16_t drv_add_indirect(struct drv *d, unsigned index, const struct drv_buf *bufs,
					unsigned count)
{
	struct drv_queue *q = &d->q[index];
	uint16_t head = q->next_desc;
	uint64_t table = drv_alloc(d, count * sizeof(struct vring_desc));

	drv_fill(drv_ptr(d, table, count * sizeof(struct vring_desc)), 0, 0xffff, bufs, count);
	q->desc[head] = (struct vring_desc){.addr = table,
					    .len = count * sizeof(struct vring_desc),
					    .flags = VRING_DESC_F_INDIRECT};
	q->next_desc = (head + 1) & (q->size - 1);
	drv_avail(q, head);
	return head;
}

static inline void drv_kick(struct drv *d, unsigned index)
{
	drv_write(d, VIRTIO_MMIO_QUEUE_NOTIFY, index);
}

static inline uint16_t drv_used_idx(struct drv_queue *q)
{
	return __atomic_load_n(&q->used->idx, __ATOMIC_SEQ_CST);
}

/* Handles what the loop has, without waiting. */
static inline void drv_step(struct drv *d)
{
	struct pollfd p = {.fd = base_loop_fd(d->env.loop), .events = POLLIN};

	while (poll(&p, 1, 0) > 0)
		drv_must(base_loop_step(d->env.loop, 0), "loop");
}

/* Waits for the loop or an interrupt, at most until the deadline; aborts there. */
static inline void drv_turn(struct drv *d, int64_t deadline_ns, const char *what)
{
	struct pollfd p[] = {{.fd = base_loop_fd(d->env.loop), .events = POLLIN},
			     {.fd = drv_chip.fd, .events = POLLIN}};
	uint64_t n;

	/* 10 ms: timers of the loop do not make its descriptor readable. */
	if (poll(p, 2, 10) < 0)
		abort();
	if (read(drv_chip.fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
		abort();
	drv_must(base_loop_step(d->env.loop, 0), "loop");
	if (base_clock_ns() > deadline_ns) {
		fprintf(stderr, "not within %d s: %s\n", DRV_TIMEOUT_S, what);
		abort();
	}
}

#define drv_until(d, cond)                                                                         \
	do {                                                                                       \
		int64_t deadline_ = base_clock_ns() + DRV_TIMEOUT_S * BASE_NS_PER_SEC;             \
		while (!(cond))                                                                    \
			drv_turn((d), deadline_, #cond);                                           \
	} while (0)

/* The next used entry: its id; *len when wanted. Waits for it. */
static inline uint32_t drv_wait(struct drv *d, unsigned index, uint32_t *len)
{
	struct drv_queue *q = &d->q[index];
	struct vring_used_elem *e;

	drv_until(d, drv_used_idx(q) != q->last_used);
	e = &q->used->ring[q->last_used++ & (q->size - 1)];
	if (len)
		*len = __atomic_load_n(&e->len, __ATOMIC_RELAXED);
	return __atomic_load_n(&e->id, __ATOMIC_RELAXED);
}

static inline bool drv_broken(struct drv *d)
{
	return drv_read(d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

static inline unsigned drv_pulses(struct drv *d)
{
	return atomic_load(&drv_chip.pulses[d->slot.gsi]);
}

/* Saves the device, loads the bytes into `to` (same kind, same machine memory); the result of load.
 */
static inline int drv_move(struct vmm_device *from, struct vmm_device *to)
{
	struct base_wbuf out;
	struct base_rbuf in;
	int rc;

	base_wbuf_init(&out, 1 << 20);
	from->ops->save(from, &out);
	drv_must(out.error, "save");
	base_rbuf_init(&in, out.data, out.len);
	rc = to->ops->load(to, &in, from->ops->version);
	if (!rc)
		rc = base_rbuf_end(&in);
	base_wbuf_fini(&out);
	return rc;
}

#define DRV_ALL_FEATURES UINT64_MAX
#define DRV_PLAIN	 (UINT64_C(1) << VIRTIO_F_VERSION_1)

#endif
