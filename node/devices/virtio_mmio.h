/* The registers of the MMIO transport; used by virtio.c only, which gives it what it acts on. */
#ifndef VIRTIO_MMIO_H
#define VIRTIO_MMIO_H

#include "node/devices/virtio.h"

/* The bus range, and an ioeventfd for each queue where there are such. -errno of vmm_bus_add(). */
BASE_MUST_CHECK int virtio_mmio_add(struct virtio_device *vd);
void virtio_mmio_remove(struct virtio_device *vd);

/* Under the device's lock. */
void virtio_device_clear(struct virtio_device *vd);
void virtio_device_activate(struct virtio_device *vd);
BASE_MUST_CHECK int virtio_device_enable_queue(struct virtio_device *vd, struct virtio_queue *q);
void virtio_device_disable_queue(struct virtio_device *vd, struct virtio_queue *q);

#endif
