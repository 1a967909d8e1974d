/*
 * A hostile driver of virtio-console.
 * libs: pg_devices
 */
#include "tests/fuzz/virtio_fuzz.h"

#include "node/devices/virtio_console.h"

static size_t room;
static volatile uint8_t sink; /* the sanitizers see that all of it is readable */

static size_t output(void *opaque, const void *data, size_t len)
{
	const uint8_t *p = data;

	len = BASE_MIN(len, room);
	for (size_t i = 0; i < len; i++)
		sink = p[i];
	room -= len;
	return len;
}

static void input_ready(void *opaque)
{
}

static struct vmm_device *make(struct drv *d)
{
	struct virtio_console_options o = {.output = output, .input_ready = input_ready};
	struct vmm_device *dev;

	drv_must(virtio_console_new(&d->env, d->slot, &o, &dev), "console");
	return dev;
}

static void poke(struct drv *d, uint8_t what, const uint8_t *data, size_t len)
{
	struct virtio_console *c = virtio_console_of(d->dev);

	room = what;
	virtio_console_output_ready(c);
	if (what & 1)
		virtio_console_input(c, data, len);
	if (what & 2)
		virtio_console_resize(c, what, len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct fuzz_device f = {.make = make, .poke = poke};

	room = 100;
	return fuzz_run(&f, data, size);
}
