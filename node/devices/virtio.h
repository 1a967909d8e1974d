/*
 * A virtio device and its version 2 MMIO transport (VIRTIO 1.2, 4.2). Concrete devices embed struct
 * virtio_device, fill a const struct virtio_ops and call virtio_device_init().
 *
 * Threads: vCPUs call the register handlers, which take `lock`. Each queue is served by the thread
 * of its loop (the machine's, or a worker's of the device's own) under the queue's lock. Lock
 * order: device, then queue. Resetting a device waits on the vCPU's thread for what is in flight,
 * so a queue's thread never waits for a vCPU.
 */
#ifndef VIRTIO_H
#define VIRTIO_H

#include <stdatomic.h>

#include "node/devices/virtio_queue.h"
#include "node/vmm/device.h"

enum { VIRTIO_CONFIG_MAX = 64 };

#define VIRTIO_BIT(n) (UINT64_C(1) << (n))

/*
 * kick:     the driver notified, or the queue starts or goes on: on the queue's thread, locked.
 * activate: the driver is ready, or was when the state was saved; `agreed` is final. Optional.
 * Under the device's lock; no queue runs yet. reset:    back to power-up state; no queue runs,
 * nothing is in flight. Optional. config_write: the driver wrote config space; under the device's
 * lock. Optional. save, load: what is beyond transport and queues. The device is paused. Optional,
 * both or none. stats:    as in vmm_device_ops. Optional. fini:     frees the device itself,
 * virtio_device_fini() included.
 */
struct virtio_ops {
	struct vmm_device_ops device; /* VIRTIO_DEVICE_OPS() */
	uint32_t id;
	void (*kick)(struct virtio_device *vd, struct virtio_queue *q);
	void (*activate)(struct virtio_device *vd);
	int (*start)(struct virtio_device *vd);
	void (*reset)(struct virtio_device *vd);
	void (*config_write)(struct virtio_device *vd, unsigned offset, unsigned len,
			     const uint8_t *data);
	void (*save)(struct virtio_device *vd, struct base_wbuf *out);
	int (*load)(struct virtio_device *vd, struct base_rbuf *in, uint32_t version);
	void (*stats)(struct virtio_device *vd,
		      void (*put)(void *arg, const char *name, uint64_t value), void *arg);
	void (*fini)(struct virtio_device *vd);
};

#define VIRTIO_DEVICE_OPS(name_, version_)                                                         \
	{                                                                                          \
		.name = (name_), .version = (version_), .reset = virtio_device_reset,              \
		.pause = virtio_device_pause, .resume = virtio_device_resume,                      \
		.save = virtio_device_save, .load = virtio_device_load,                            \
		.fini = virtio_device_free, .stats = virtio_device_stats,                          \
	}

struct virtio_device {
	struct vmm_device dev;
	const struct virtio_ops *ops;
	struct vmm_env *env;
	struct vmm_virtio_slot slot;

	pthread_mutex_t lock;	   /* guards the fields down to `paused` */
	uint64_t features, agreed; /* offered; chosen by the driver, final with FEATURES_OK */
	uint32_t features_sel, agreed_sel, queue_sel;
	bool started, paused;

	pthread_mutex_t config_lock; /* innermost; guards the fields down to `config_len` */
	uint32_t generation;
	uint8_t config[VIRTIO_CONFIG_MAX];
	unsigned config_len;

	_Atomic(uint32_t) status, isr;
	atomic_uint complaints; /* log lines about this guest's errors; bounded */
	unsigned queue_count;
	struct virtio_queue *queues;
};

/*
 * Sets up transport and queues (queue_max[i] entries each) and adds the registers to the MMIO bus.
 * The caller then adds config space and features, which include VERSION_1, INDIRECT_DESC and
 * EVENT_IDX already. Queues are served by env->loop unless the caller names another with
 * virtio_queue_serve_on(). -errno; nothing is left behind then.
 */
BASE_MUST_CHECK int virtio_device_init(struct virtio_device *vd, const struct virtio_ops *ops,
				       struct vmm_env *env, struct vmm_virtio_slot slot,
				       const uint16_t *queue_max, unsigned queue_count);
/* Undoes init. The loops of the queues do not run, or run on this thread. */
void virtio_device_fini(struct virtio_device *vd);
/* While `loop` does not run yet, once for each queue. -errno of epoll_ctl(2). */
BASE_MUST_CHECK int virtio_queue_serve_on(struct virtio_queue *q, struct base_loop *loop);

/* The slots of struct vmm_device_ops. */
void virtio_device_reset(struct vmm_device *dev);
void virtio_device_pause(struct vmm_device *dev);
void virtio_device_resume(struct vmm_device *dev);
void virtio_device_save(struct vmm_device *dev, struct base_wbuf *out);
BASE_MUST_CHECK int virtio_device_load(struct vmm_device *dev, struct base_rbuf *in,
				       uint32_t version);
void virtio_device_free(struct vmm_device *dev);
void virtio_device_stats(struct vmm_device *dev,
			 void (*put)(void *arg, const char *name, uint64_t value), void *arg);

static inline bool virtio_has(const struct virtio_device *vd, unsigned feature)
{
	return vd->agreed & VIRTIO_BIT(feature);
}

/* Any thread. Interrupts unless the ring says no were sorted out by virtio_queue_publish(). */
void virtio_interrupt_queue(struct virtio_device *vd);
/* The driver is ready and nothing is broken. Any thread. */
bool virtio_device_runs(struct virtio_device *vd);
/*
 * The driver broke the rules, or the device cannot go on: DEVICE_NEEDS_RESET, and no queue is
 * served until the driver resets. Any thread.
 */
void virtio_device_fail(struct virtio_device *vd, const char *why);
/* Changes config space and tells the driver. Any thread. */
void virtio_config_set(struct virtio_device *vd, unsigned offset, const void *data, unsigned len);

/*
 * Serves a queue from its kick: calls handle() for each chain until none is left, with
 * notifications off meanwhile, and publishes. handle() puts the chain (or has begun to work on it)
 * and returns true; false leaves the chain in the ring and stops. `chain` is scratch memory.
 */
void virtio_queue_serve(struct virtio_queue *q, struct virtio_chain *chain,
			bool (*handle)(struct virtio_device *vd, struct virtio_queue *q,
				       struct virtio_chain *c));

#endif
