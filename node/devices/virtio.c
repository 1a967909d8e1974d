#include "node/devices/virtio.h"

#include <assert.h>
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/log.h"
#include "node/devices/virtio_mmio.h"

enum {
	COMPLAINTS_MAX = 8,
	STATUS_ALL = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
		     VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FEATURES_OK |
		     VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED,
	ISR_ALL = VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG,
};

void virtio_interrupt_queue(struct virtio_device *vd)
{
	atomic_fetch_or(&vd->isr, VIRTIO_MMIO_INT_VRING);
	vmm_irq_pulse(vd->env->irq, vd->slot.gsi);
}

static void interrupt_config(struct virtio_device *vd)
{
	atomic_fetch_or(&vd->isr, VIRTIO_MMIO_INT_CONFIG);
	vmm_irq_pulse(vd->env->irq, vd->slot.gsi);
}

void virtio_device_fail(struct virtio_device *vd, const char *why)
{
	uint32_t old = atomic_fetch_or(&vd->status, VIRTIO_CONFIG_S_NEEDS_RESET);

	if (old & VIRTIO_CONFIG_S_NEEDS_RESET)
		return;
	/* A guest that fails in a loop must not fill the log. */
	if (atomic_fetch_add(&vd->complaints, 1) < COMPLAINTS_MAX)
		log_warn("%s %u: %s: stopped until the guest resets it", vd->ops->device.name,
			 vd->dev.instance, why);
	if (old & VIRTIO_CONFIG_S_DRIVER_OK)
		interrupt_config(vd);
}

void virtio_config_set(struct virtio_device *vd, unsigned offset, const void *data, unsigned len)
{
	assert(offset + len <= vd->config_len);
	pthread_mutex_lock(&vd->config_lock);
	memcpy(vd->config + offset, data, len);
	vd->generation++;
	pthread_mutex_unlock(&vd->config_lock);
	if (atomic_load(&vd->status) & VIRTIO_CONFIG_S_DRIVER_OK)
		interrupt_config(vd);
}

bool virtio_device_runs(struct virtio_device *vd)
{
	uint32_t status = atomic_load(&vd->status);

	return (status & VIRTIO_CONFIG_S_DRIVER_OK) && !(status & VIRTIO_CONFIG_S_NEEDS_RESET);
}

static void queue_notified(struct base_watch *w, uint32_t events)
{
	struct virtio_queue *q = base_container_of(w, struct virtio_queue, kick);
	uint64_t n;

	if (read(w->fd, &n, sizeof(n)) < 0)
		return;
	pthread_mutex_lock(&q->lock);
	q->kicks++;
	if (q->running && virtio_device_runs(q->dev))
		q->dev->ops->kick(q->dev, q);
	pthread_mutex_unlock(&q->lock);
}

void virtio_queue_serve(struct virtio_queue *q, struct virtio_chain *chain,
			bool (*handle)(struct virtio_device *vd, struct virtio_queue *q,
				       struct virtio_chain *c))
{
	/* A guest that fills the ring as fast as it is emptied must not keep the thread for ever.
	 */
	unsigned budget = 2u * q->size;
	bool more = true;
	int rc = 0;

	while (more && budget) {
		virtio_queue_notify_off(q);
		while (budget && (rc = virtio_queue_take(q, chain)) > 0) {
			budget--;
			if (!handle(q->dev, q, chain)) {
				virtio_queue_untake(q, 1);
				virtio_queue_publish(q);
				return;
			}
		}
		if (rc < 0) {
			virtio_device_fail(q->dev, "malformed virtqueue");
			return;
		}
		virtio_queue_publish(q);
		more = virtio_queue_notify_on(q);
	}
	if (more)
		virtio_queue_kick(q);
}

static int device_add_queues(struct virtio_device *vd, const uint16_t *queue_max, unsigned count)
{
	int rc;

	vd->queues = calloc(count, sizeof(*vd->queues));
	if (!vd->queues)
		return -ENOMEM;
	for (unsigned i = 0; i < count; i++) {
		assert(queue_max[i] <= VIRTIO_QUEUE_SIZE_MAX);
		rc = virtio_queue_init(&vd->queues[i], vd, vd->env->mem, i, queue_max[i]);
		if (rc)
			return rc;
		vd->queue_count++;
		vd->queues[i].kick.ready = queue_notified;
		rc = virtio_queue_serve_on(&vd->queues[i], vd->env->loop);
		if (rc)
			return rc;
	}
	return 0;
}

int virtio_device_init(struct virtio_device *vd, const struct virtio_ops *ops, struct vmm_env *env,
		       struct vmm_virtio_slot slot, const uint16_t *queue_max, unsigned queue_count)
{
	int rc;

	assert(!ops->save == !ops->load);
	vd->dev.ops = &ops->device;
	vd->dev.instance = (slot.base - VMM_VIRTIO_BASE) / VMM_VIRTIO_LEN;
	base_list_init(&vd->dev.link);
	vd->ops = ops;
	vd->env = env;
	vd->slot = slot;
	vd->paused = true;
	vd->features = VIRTIO_BIT(VIRTIO_F_VERSION_1) | VIRTIO_BIT(VIRTIO_RING_F_INDIRECT_DESC) |
		       VIRTIO_BIT(VIRTIO_RING_F_EVENT_IDX);
	pthread_mutex_init(&vd->lock, NULL);
	pthread_mutex_init(&vd->config_lock, NULL);
	rc = device_add_queues(vd, queue_max, queue_count);
	if (!rc)
		rc = virtio_mmio_add(vd);
	if (rc) {
		for (unsigned i = 0; i < vd->queue_count; i++)
			virtio_queue_fini(&vd->queues[i]);
		free(vd->queues);
		pthread_mutex_destroy(&vd->config_lock);
		pthread_mutex_destroy(&vd->lock);
	}
	return rc;
}

void virtio_device_fini(struct virtio_device *vd)
{
	virtio_mmio_remove(vd);
	for (unsigned i = 0; i < vd->queue_count; i++)
		virtio_queue_fini(&vd->queues[i]);
	free(vd->queues);
	pthread_mutex_destroy(&vd->config_lock);
	pthread_mutex_destroy(&vd->lock);
}

int virtio_queue_serve_on(struct virtio_queue *q, struct base_loop *loop)
{
	base_loop_remove(&q->kick);
	q->loop = loop;
	return base_loop_add(loop, &q->kick);
}

/* Lets a queue run if nothing speaks against it. Under the device's lock. */
static void queue_start(struct virtio_device *vd, struct virtio_queue *q)
{
	pthread_mutex_lock(&q->lock);
	q->running = q->enabled && !vd->paused && virtio_device_runs(vd);
	pthread_mutex_unlock(&q->lock);
	/* What the driver notified of while the queue stood still is in the ring. */
	if (q->running)
		virtio_queue_kick(q);
}

static void device_start(struct virtio_device *vd)
{
	for (unsigned i = 0; i < vd->queue_count; i++)
		queue_start(vd, &vd->queues[i]);
}

static void device_stop(struct virtio_device *vd)
{
	for (unsigned i = 0; i < vd->queue_count; i++)
		virtio_queue_drain(&vd->queues[i]);
}

void virtio_device_clear(struct virtio_device *vd)
{
	device_stop(vd);
	for (unsigned i = 0; i < vd->queue_count; i++) {
		struct virtio_queue *q = &vd->queues[i];

		pthread_mutex_lock(&q->lock);
		virtio_queue_reset(q);
		pthread_mutex_unlock(&q->lock);
	}
	vd->agreed = 0;
	vd->features_sel = vd->agreed_sel = vd->queue_sel = 0;
	atomic_store(&vd->isr, 0);
	if (vd->ops->reset)
		vd->ops->reset(vd);
	atomic_store(&vd->status, 0);
}

void virtio_device_activate(struct virtio_device *vd)
{
	if (vd->ops->activate)
		vd->ops->activate(vd);
	device_start(vd);
}

int virtio_device_enable_queue(struct virtio_device *vd, struct virtio_queue *q)
{
	int rc;

	pthread_mutex_lock(&q->lock);
	rc = virtio_queue_enable(q, virtio_has(vd, VIRTIO_RING_F_EVENT_IDX),
				 virtio_has(vd, VIRTIO_RING_F_INDIRECT_DESC));
	pthread_mutex_unlock(&q->lock);
	if (!rc)
		queue_start(vd, q);
	return rc;
}

void virtio_device_disable_queue(struct virtio_device *vd, struct virtio_queue *q)
{
	virtio_queue_drain(q);
	pthread_mutex_lock(&q->lock);
	virtio_queue_reset(q);
	pthread_mutex_unlock(&q->lock);
}

void virtio_device_reset(struct vmm_device *dev)
{
	struct virtio_device *vd = base_container_of(dev, struct virtio_device, dev);

	pthread_mutex_lock(&vd->lock);
	virtio_device_clear(vd);
	pthread_mutex_unlock(&vd->lock);
}

void virtio_device_pause(struct vmm_device *dev)
{
	struct virtio_device *vd = base_container_of(dev, struct virtio_device, dev);

	pthread_mutex_lock(&vd->lock);
	vd->paused = true;
	device_stop(vd);
	pthread_mutex_unlock(&vd->lock);
}

void virtio_device_resume(struct vmm_device *dev)
{
	struct virtio_device *vd = base_container_of(dev, struct virtio_device, dev);

	int rc = 0;

	pthread_mutex_lock(&vd->lock);
	if (!vd->started && vd->ops->start)
		rc = vd->ops->start(vd);
	vd->started = !rc;
	if (rc) {
		log_error("%s %u: cannot start its threads: %s", vd->ops->device.name,
			  vd->dev.instance, strerror(-rc));
		virtio_device_fail(vd, "no thread");
	}
	vd->paused = false;
	device_start(vd);
	pthread_mutex_unlock(&vd->lock);
}

void virtio_device_free(struct vmm_device *dev)
{
	struct virtio_device *vd = base_container_of(dev, struct virtio_device, dev);

	vd->ops->fini(vd);
}

void virtio_device_stats(struct vmm_device *dev,
			 void (*put)(void *arg, const char *name, uint64_t value), void *arg)
{
	struct virtio_device *vd = base_container_of(dev, struct virtio_device, dev);
	uint64_t kicks = 0, interrupts = 0;

	for (unsigned i = 0; i < vd->queue_count; i++) {
		struct virtio_queue *q = &vd->queues[i];

		pthread_mutex_lock(&q->lock);
		kicks += q->kicks;
		interrupts += q->interrupts;
		pthread_mutex_unlock(&q->lock);
	}
	put(arg, "kicks", kicks);
	put(arg, "interrupts", interrupts);
	if (vd->ops->stats)
		vd->ops->stats(vd, put, arg);
}

void virtio_device_save(struct vmm_device *dev, struct base_wbuf *out)
{
	struct virtio_device *vd = base_container_of(dev, struct virtio_device, dev);

	base_wbuf_u64(out, vd->agreed);
	base_wbuf_u32(out, vd->features_sel);
	base_wbuf_u32(out, vd->agreed_sel);
	base_wbuf_u32(out, vd->queue_sel);
	base_wbuf_u32(out, vd->generation);
	base_wbuf_u32(out, atomic_load(&vd->status));
	base_wbuf_u32(out, atomic_load(&vd->isr));
	base_wbuf_u16(out, vd->queue_count);
	for (unsigned i = 0; i < vd->queue_count; i++)
		virtio_queue_save(&vd->queues[i], out);
	if (vd->ops->save)
		vd->ops->save(vd, out);
}

static int load_queues(struct virtio_device *vd, struct base_rbuf *in, bool may_enable)
{
	if (base_rbuf_u16(in) != vd->queue_count)
		return in->error ? in->error : -EPROTO;
	for (unsigned i = 0; i < vd->queue_count; i++) {
		struct virtio_queue *q = &vd->queues[i];
		int rc = virtio_queue_load(q, in);

		if (!rc && q->enabled && !may_enable)
			rc = -EPROTO;
		if (!rc && q->enabled)
			rc = virtio_queue_enable(q, virtio_has(vd, VIRTIO_RING_F_EVENT_IDX),
						 virtio_has(vd, VIRTIO_RING_F_INDIRECT_DESC));
		/* Rings that do not lie in this guest's memory. */
		if (rc)
			return rc == -EBADMSG ? rc : -EPROTO;
	}
	return 0;
}

int virtio_device_load(struct vmm_device *dev, struct base_rbuf *in, uint32_t version)
{
	struct virtio_device *vd = base_container_of(dev, struct virtio_device, dev);
	uint32_t status, isr;
	int rc;

	if (version == 0 || version > vd->ops->device.version)
		return -EPROTO;
	vd->agreed = base_rbuf_u64(in);
	vd->features_sel = base_rbuf_u32(in);
	vd->agreed_sel = base_rbuf_u32(in);
	vd->queue_sel = base_rbuf_u32(in);
	vd->generation = base_rbuf_u32(in);
	status = base_rbuf_u32(in);
	isr = base_rbuf_u32(in);
	if (in->error)
		return in->error;
	if ((status & ~(uint32_t)STATUS_ALL) || (isr & ~(uint32_t)ISR_ALL))
		return -EPROTO;
	/* The guest drives a device that this one is not. */
	if ((vd->agreed & ~vd->features) && (status & VIRTIO_CONFIG_S_FEATURES_OK))
		return -EPROTO;
	rc = load_queues(vd, in, status & VIRTIO_CONFIG_S_FEATURES_OK);
	if (!rc && vd->ops->load)
		rc = vd->ops->load(vd, in, version);
	if (!rc)
		rc = in->error;
	if (rc)
		return rc;
	atomic_store(&vd->isr, isr);
	atomic_store(&vd->status, status);
	if ((status & VIRTIO_CONFIG_S_DRIVER_OK) && vd->ops->activate)
		vd->ops->activate(vd);
	return 0;
}
