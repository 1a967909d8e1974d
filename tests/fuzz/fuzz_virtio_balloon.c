/*
 * A hostile driver of virtio-balloon.
 * libs: pg_devices
 */
#include "tests/fuzz/virtio_fuzz.h"

#include "node/devices/virtio_balloon.h"

static struct vmm_device *make(struct drv *d)
{
	struct virtio_balloon_options o = {0};
	struct vmm_device *dev;

	drv_must(virtio_balloon_new(&d->env, d->slot, &o, &dev), "balloon");
	return dev;
}

static void poke(struct drv *d, uint8_t what, const uint8_t *data, size_t len)
{
	if (what & 1)
		virtio_balloon_refresh(d->dev);
	if (what & 2)
		virtio_balloon_set_target(d->dev, (uint64_t)what << 16);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct fuzz_device f = {.make = make, .poke = poke};

	return fuzz_run(&f, data, size);
}
