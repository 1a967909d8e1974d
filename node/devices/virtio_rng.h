/* The entropy device: bytes of getrandom(2), at a bounded rate. Features: none. One queue. */
#ifndef VIRTIO_RNG_H
#define VIRTIO_RNG_H

#include "node/vmm/device.h"

struct virtio_rng_options {
	uint64_t bytes_per_s; /* 0: no bound */
};

/* -errno; the device belongs to the caller, who calls ops->resume, ops->fini. */
BASE_MUST_CHECK int virtio_rng_new(struct vmm_env *env, struct vmm_virtio_slot slot,
				   const struct virtio_rng_options *cfg, struct vmm_device **out);

#endif
