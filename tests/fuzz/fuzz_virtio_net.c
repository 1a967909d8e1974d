/*
 * A hostile driver of virtio-net, and arbitrary frames from its link; queues are served by a thread.
 * libs: pg_devices
 */
#include "tests/fuzz/virtio_fuzz.h"

#include <sys/socket.h>

#include "node/devices/virtio_net.h"

static int far_end = -1;

static struct vmm_device *make(struct drv *d)
{
	struct virtio_net_options o = {.pairs = 1, .mtu = 1500};
	struct vmm_device *dev;
	int fds[2];

	if (far_end >= 0)
		close(far_end);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, fds))
		abort();
	far_end = fds[0];
	o.fds[0] = fds[1];
	drv_must(virtio_net_new(&d->env, d->slot, &o, &dev), "net");
	return dev;
}

static void poke(struct drv *d, uint8_t what, const uint8_t *data, size_t len)
{
	uint8_t in[4096];

	if (what & 1)
		(void)!send(far_end, data, len, MSG_NOSIGNAL);
	if (what & 2)
		(void)!recv(far_end, in, sizeof(in), 0);
	if ((what & 0x7c) == 0x7c)
		shutdown(far_end, SHUT_RDWR);
	if (what & 0x80)
		virtio_net_announce(d->dev);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct fuzz_device f = {.make = make, .poke = poke};

	return fuzz_run(&f, data, size);
}
