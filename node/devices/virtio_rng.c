#include "node/devices/virtio_rng.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_rng.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "node/devices/virtio.h"

/* A request gets at most CHUNK bytes; the driver asks again. A bounded rate is kept by windows. */
enum { RNG_CHUNK = 4096, RNG_QUEUE_SIZE = 64 };
#define RNG_WINDOW_NS (100 * BASE_NS_PER_MS)

struct rng {
	struct virtio_device vd;
	uint64_t bytes_per_window; /* 0: no bound */
	uint64_t left;		   /* in this window */
	int64_t window_end_ns;
	struct base_timer timer; /* goes on when the window ends */
	uint64_t bytes;
	struct virtio_chain chain;
};

static bool rng_has_quota(struct rng *r)
{
	int64_t now = base_clock_ns();

	if (!r->bytes_per_window)
		return true;
	if (now >= r->window_end_ns) {
		r->window_end_ns = now + RNG_WINDOW_NS;
		r->left = r->bytes_per_window;
	}
	if (r->left)
		return true;
	base_loop_timer(r->vd.env->loop, &r->timer, r->window_end_ns);
	return false;
}

static bool rng_fill(struct virtio_device *vd, struct virtio_queue *q, struct virtio_chain *c)
{
	struct rng *r = base_container_of(vd, struct rng, vd);
	uint8_t buf[RNG_CHUNK];
	size_t len = BASE_MIN(c->in_bytes, sizeof(buf));

	if (!rng_has_quota(r))
		return false;
	if (r->bytes_per_window) {
		len = BASE_MIN(len, r->left);
		r->left -= len;
	}
	/* Up to 256 bytes never fail; more may be cut short by a signal. */
	for (size_t done = 0; done < len;) {
		ssize_t n = getrandom(buf + done, len - done, 0);

		if (n < 0 && errno != EINTR) {
			len = done;
			break;
		}
		done += BASE_MAX(n, 0);
	}
	len = virtio_iov_write(virtio_chain_in(c), c->in_count, 0, buf, len);
	explicit_bzero(buf, sizeof(buf));
	r->bytes += len;
	virtio_queue_put(q, c, len);
	return true;
}

static void rng_kick(struct virtio_device *vd, struct virtio_queue *q)
{
	struct rng *r = base_container_of(vd, struct rng, vd);

	virtio_queue_serve(q, &r->chain, rng_fill);
}

static void rng_window_over(struct base_timer *t)
{
	struct rng *r = base_container_of(t, struct rng, timer);

	virtio_queue_kick(&r->vd.queues[0]);
}

static void rng_stats(struct virtio_device *vd,
		      void (*put)(void *arg, const char *name, uint64_t value), void *arg)
{
	struct rng *r = base_container_of(vd, struct rng, vd);
	uint64_t bytes;

	pthread_mutex_lock(&vd->queues[0].lock);
	bytes = r->bytes;
	pthread_mutex_unlock(&vd->queues[0].lock);
	put(arg, "bytes", bytes);
}

static void rng_fini(struct virtio_device *vd)
{
	struct rng *r = base_container_of(vd, struct rng, vd);

	base_loop_timer_cancel(&r->timer);
	virtio_device_fini(vd);
	free(r);
}

static const struct virtio_ops rng_ops = {
	.device = VIRTIO_DEVICE_OPS("virtio-rng", 1),
	.id = VIRTIO_ID_RNG,
	.kick = rng_kick,
	.stats = rng_stats,
	.fini = rng_fini,
};

int virtio_rng_new(struct vmm_env *env, struct vmm_virtio_slot slot,
		   const struct virtio_rng_options *cfg, struct vmm_device **out)
{
	const uint16_t queue_max[] = {RNG_QUEUE_SIZE};
	struct rng *r = calloc(1, sizeof(*r));
	int rc;

	if (!r)
		return -ENOMEM;
	if (cfg->bytes_per_s)
		r->bytes_per_window =
			BASE_MAX(cfg->bytes_per_s / (BASE_NS_PER_SEC / RNG_WINDOW_NS), 1u);
	r->timer.fire = rng_window_over;
	rc = virtio_device_init(&r->vd, &rng_ops, env, slot, queue_max, 1);
	if (rc) {
		free(r);
		return rc;
	}
	*out = &r->vd.dev;
	return 0;
}
