/*
 * The memory balloon: takes pages from the guest and gives them back, hears the guest's memory
 * statistics, and drops pages that the guest reports as free. Dropped memory reads as zeroes.
 */
#ifndef VIRTIO_BALLOON_H
#define VIRTIO_BALLOON_H

#include "node/vmm/device.h"

struct virtio_balloon_options {
	/*
	 * Gives the memory of [gpa, gpa+len) back to the host, whole pages of RAM in one region.
	 * NULL: punches a hole into the memory's file. On the thread of env->loop.
	 */
	int (*discard)(void *opaque, uint64_t gpa, uint64_t len);
	void *opaque;
};

BASE_MUST_CHECK int virtio_balloon_new(struct vmm_env *env, struct vmm_virtio_slot slot,
				       const struct virtio_balloon_options *opts,
				       struct vmm_device **out);

/* How much the guest is asked to hand over; it does so by and by. Any thread. */
void virtio_balloon_set_target(struct vmm_device *dev, uint64_t bytes);
/* What the guest has handed over. Any thread. */
uint64_t virtio_balloon_actual(struct vmm_device *dev);
/* Asks the guest for new statistics; they show up in stats ("guest_..."). Any thread. */
void virtio_balloon_refresh(struct vmm_device *dev);

#endif
