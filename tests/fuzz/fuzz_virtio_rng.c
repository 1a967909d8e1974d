/*
 * A hostile driver of virtio-rng.
 * libs: pg_devices
 */
#include "tests/fuzz/virtio_fuzz.h"

#include "node/devices/virtio_rng.h"

static struct vmm_device *make(struct drv *d)
{
	struct virtio_rng_options o = {0};
	struct vmm_device *dev;

	drv_must(virtio_rng_new(&d->env, d->slot, &o, &dev), "rng");
	return dev;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct fuzz_device f = {.make = make};

	return fuzz_run(&f, data, size);
}
