#include "node/devices/virtio_console.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>
#include <string.h>

#include "base/log.h"
#include "node/devices/virtio.h"

enum { CONSOLE_RX = 0, CONSOLE_TX = 1, CONSOLE_QUEUES = 2, CONSOLE_QUEUE_SIZE = 64 };

struct virtio_console {
	struct virtio_device vd;
	struct virtio_console_options opts;
	size_t tx_done;	 /* bytes of the first waiting chain that were taken already */
	bool rx_starved; /* input was refused: tell when there is room */
	uint64_t rx_bytes, tx_bytes;
	struct virtio_chain chain;
};

static struct virtio_console *console_of(struct virtio_device *vd)
{
	return base_container_of(vd, struct virtio_console, vd);
}

struct virtio_console *virtio_console_of(struct vmm_device *dev)
{
	return console_of(base_container_of(dev, struct virtio_device, dev));
}

/* Offers what is left of a chain; false when the other side is full. */
static bool console_output(struct virtio_device *vd, struct virtio_queue *q, struct virtio_chain *c)
{
	struct virtio_console *con = console_of(vd);

	while (con->tx_done < c->out_bytes) {
		struct iovec part[VIRTIO_CHAIN_MAX];
		size_t took;

		virtio_iov_slice(c->iov, c->out_count, con->tx_done, c->out_bytes, part);
		took = con->opts.output(con->opts.opaque, part[0].iov_base, part[0].iov_len);
		con->tx_done += took;
		con->tx_bytes += took;
		if (took < part[0].iov_len)
			return false;
	}
	con->tx_done = 0;
	virtio_queue_put(q, c, 0);
	return true;
}

static void console_kick(struct virtio_device *vd, struct virtio_queue *q)
{
	struct virtio_console *con = console_of(vd);

	if (q->index == CONSOLE_TX) {
		virtio_queue_serve(q, &con->chain, console_output);
	} else if (con->rx_starved && virtio_queue_pending(q)) {
		con->rx_starved = false;
		/* The answer may be more input, which takes the lock. */
		pthread_mutex_unlock(&q->lock);
		con->opts.input_ready(con->opts.opaque);
		pthread_mutex_lock(&q->lock);
	}
}

/* Under the queue's lock, which runs. */
static size_t console_fill(struct virtio_console *con, struct virtio_queue *q, const uint8_t *data,
			   size_t len)
{
	size_t done = 0;

	while (done < len) {
		int rc = virtio_queue_take(q, &con->chain);
		size_t n;

		if (rc < 0)
			virtio_device_fail(&con->vd, "malformed virtqueue");
		/* Told of new room by a notification, unless it came this very moment. */
		if (rc <= 0 && (rc < 0 || !virtio_queue_notify_on(q)))
			break;
		if (rc == 0)
			continue;
		if (con->chain.in_bytes == 0) {
			virtio_device_fail(&con->vd, "input buffer without room");
			break;
		}
		n = virtio_iov_write(virtio_chain_in(&con->chain), con->chain.in_count, 0,
				     data + done, len - done);
		virtio_queue_put(q, &con->chain, n);
		done += n;
	}
	virtio_queue_publish(q);
	return done;
}

bool virtio_console_listens(struct virtio_console *con)
{
	struct virtio_queue *q = &con->vd.queues[CONSOLE_RX];
	bool running;

	pthread_mutex_lock(&q->lock);
	running = q->running;
	pthread_mutex_unlock(&q->lock);
	return running;
}

size_t virtio_console_input(struct virtio_console *con, const void *data, size_t len)
{
	struct virtio_queue *q = &con->vd.queues[CONSOLE_RX];
	size_t done = 0;

	pthread_mutex_lock(&q->lock);
	if (q->running)
		done = console_fill(con, q, data, len);
	con->rx_bytes += done;
	con->rx_starved = done < len;
	pthread_mutex_unlock(&q->lock);
	return done;
}

void virtio_console_output_ready(struct virtio_console *con)
{
	virtio_queue_kick(&con->vd.queues[CONSOLE_TX]);
}

void virtio_console_resize(struct virtio_console *con, uint16_t cols, uint16_t rows)
{
	const uint16_t size[2] = {htole16(cols), htole16(rows)};

	virtio_config_set(&con->vd, 0, size, sizeof(size));
}

/*
 * Linux reads the size when it is told of a change, never by itself: one from before its driver is news to
 * it. What was loaded had its interrupt.
 */
static void console_activate(struct virtio_device *vd)
{
	uint8_t size[2 * sizeof(uint16_t)];

	if (vd->paused)
		return;
	pthread_mutex_lock(&vd->config_lock);
	memcpy(size, vd->config, sizeof(size));
	pthread_mutex_unlock(&vd->config_lock);
	if (size[0] | size[1] | size[2] | size[3])
		virtio_config_set(vd, 0, size, sizeof(size));
}

static void console_config_write(struct virtio_device *vd, unsigned offset, unsigned len,
				 const uint8_t *data)
{
	struct virtio_console *con = console_of(vd);

	if (offset == offsetof(struct virtio_console_config, emerg_wr) && len == 4)
		(void)con->opts.output(con->opts.opaque, data, 1);
}

static void console_reset(struct virtio_device *vd)
{
	console_of(vd)->tx_done = 0;
}

static void console_save(struct virtio_device *vd, struct base_wbuf *out)
{
	base_wbuf_u64(out, console_of(vd)->tx_done);
}

static int console_load(struct virtio_device *vd, struct base_rbuf *in, uint32_t version)
{
	struct virtio_console *con = console_of(vd);

	con->tx_done = base_rbuf_u64(in);
	/* Whoever has input to give may ask again. */
	con->rx_starved = true;
	return in->error;
}

static void console_stats(struct virtio_device *vd,
			  void (*put)(void *arg, const char *name, uint64_t value), void *arg)
{
	struct virtio_console *con = console_of(vd);
	uint64_t rx, tx;

	pthread_mutex_lock(&vd->queues[CONSOLE_RX].lock);
	rx = con->rx_bytes;
	pthread_mutex_unlock(&vd->queues[CONSOLE_RX].lock);
	pthread_mutex_lock(&vd->queues[CONSOLE_TX].lock);
	tx = con->tx_bytes;
	pthread_mutex_unlock(&vd->queues[CONSOLE_TX].lock);
	put(arg, "rx_bytes", rx);
	put(arg, "tx_bytes", tx);
}

static void console_fini(struct virtio_device *vd)
{
	virtio_device_fini(vd);
	free(console_of(vd));
}

static const struct virtio_ops console_ops = {
	.device = VIRTIO_DEVICE_OPS("virtio-console", 1),
	.id = VIRTIO_ID_CONSOLE,
	.kick = console_kick,
	.activate = console_activate,
	.reset = console_reset,
	.config_write = console_config_write,
	.save = console_save,
	.load = console_load,
	.stats = console_stats,
	.fini = console_fini,
};

int virtio_console_new(struct vmm_env *env, struct vmm_virtio_slot slot,
		       const struct virtio_console_options *opts, struct vmm_device **out)
{
	const uint16_t queue_max[CONSOLE_QUEUES] = {CONSOLE_QUEUE_SIZE, CONSOLE_QUEUE_SIZE};
	const uint16_t size[2] = {htole16(opts->cols), htole16(opts->rows)};
	struct virtio_console *con = calloc(1, sizeof(*con));
	int rc;

	if (!con)
		return -ENOMEM;
	con->opts = *opts;
	rc = virtio_device_init(&con->vd, &console_ops, env, slot, queue_max, CONSOLE_QUEUES);
	if (rc) {
		free(con);
		return rc;
	}
	con->vd.features |=
		VIRTIO_BIT(VIRTIO_CONSOLE_F_SIZE) | VIRTIO_BIT(VIRTIO_CONSOLE_F_EMERG_WRITE);
	con->vd.config_len = sizeof(struct virtio_console_config);
	memcpy(con->vd.config, size, sizeof(size));
	*out = &con->vd.dev;
	return 0;
}
