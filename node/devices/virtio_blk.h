/*
 * The block device. A raw image or a block device goes through io_uring (preadv/pwritev where the
 * kernel has none), a qcow2 image through a qemu-nbd that the constructor starts and that ends with
 * the device. Each queue has a thread.
 *
 * Saved state: the queues. The image is that of the process that loads; it must be as large.
 */
#ifndef VIRTIO_BLK_H
#define VIRTIO_BLK_H

#include "node/devices/blk_copy.h"
#include "node/vmm/device.h"

enum { VIRTIO_BLK_QUEUES_MAX = 16, VIRTIO_BLK_SERIAL_MAX = 20 };

enum virtio_blk_format { VIRTIO_BLK_RAW = 1, VIRTIO_BLK_QCOW2 };

struct virtio_blk_options {
	const char *path;
	enum virtio_blk_format format;
	bool read_only;
	bool later;	    /* another one has it until virtio_blk_acquire() */
	bool direct;	    /* raw: O_DIRECT, past the page cache of the host */
	bool no_uring;	    /* raw: system calls on the queue's thread */
	unsigned queues;    /* 0: 1. qcow2 has one */
	const char *serial; /* at most VIRTIO_BLK_SERIAL_MAX bytes count; NULL: none */
};

/* -errno of open(2), -ENOEXEC where qemu-nbd cannot serve the image, -EINVAL for an empty one. */
BASE_MUST_CHECK int virtio_blk_new(struct vmm_env *env, struct vmm_virtio_slot slot,
				   const struct virtio_blk_options *opts, struct vmm_device **out);

/* For a disk that moves with its guest; NULL: it is read-only. */
struct blk_copy *virtio_blk_copy(struct vmm_device *dev);

/*
 * The main thread, while the guest stands: lets the image go, so that another host can use it, and takes it
 * again; nothing where it is so already. 0 or -errno; -ENOEXEC: it cannot be opened, as when another one has
 * it. Any thread, while the guest runs: what makes it quick to let it go.
 */
void virtio_blk_release_soon(struct vmm_device *dev);
BASE_MUST_CHECK int virtio_blk_release(struct vmm_device *dev);
BASE_MUST_CHECK int virtio_blk_acquire(struct vmm_device *dev);

#endif
