/*
 * A hostile driver of virtio-blk; the queues are served by threads.
 * libs: pg_devices
 */
#include "tests/fuzz/virtio_fuzz.h"

#include <fcntl.h>
#include <sys/mman.h>

#include "node/devices/virtio_blk.h"

enum { DISK_BYTES = 1 << 20 };

static struct vmm_device *make(struct drv *d)
{
	static char path[64];
	static unsigned runs;
	struct virtio_blk_options o = {.path = path, .format = VIRTIO_BLK_RAW, .queues = 2};
	struct vmm_device *dev;

	if (!path[0]) {
		int fd = memfd_create("disk", 0);

		if (fd < 0 || ftruncate(fd, DISK_BYTES))
			abort();
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	}
	/* Both engines, by turns. */
	o.no_uring = runs++ & 1;
	drv_must(virtio_blk_new(&d->env, d->slot, &o, &dev), "blk");
	return dev;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct fuzz_device f = {.make = make};

	return fuzz_run(&f, data, size);
}
